package import Storage

extension Wire {
    /// An object of strings, in byte order of its keys; in a patch null stands for a key that goes.
    package struct Metadata: Codable, Sendable, Equatable {
        package var pairs: [ExactString: String?]

        package init(_ pairs: [ExactString: String?]) { self.pairs = pairs }

        /// By Foundation's decoder, which holds keys equal that Unicode does, so of two such one is left: for those who show it.
        package init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: AnyKey.self)
            pairs = [:]
            for key in container.allKeys {
                pairs.updateValue(try container.decode(String?.self, forKey: key), forKey: ExactString(key.stringValue))
            }
        }

        package func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: AnyKey.self)
            for (key, value) in sorted { try container.encode(value, forKey: AnyKey(key)) }
        }

        package var sorted: [(key: String, value: String?)] { pairs.sorted { $0.key < $1.key }.map { ($0.key.text, $0.value) } }

        package subscript(key: ExactString) -> String? { pairs[key] ?? nil }

        package var count: Int { pairs.count }
    }
}
