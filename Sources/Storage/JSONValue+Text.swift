/// Writing a value, as a client sent it, again.
extension JSONValue {
    /// One line, keys sorted.
    package var text: String {
        var bytes: [UInt8] = []
        write(to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    private func write(to bytes: inout [UInt8]) {
        switch self {
        case .null: bytes += "null".utf8
        case .boolean(let value): bytes += (value ? "true" : "false").utf8
        case .integer(let value): bytes += String(value).utf8
        // The shortest text that reads as this number again; the parser has let in none that is not finite.
        case .number(let value): bytes += String(value).utf8
        case .string(let text): Self.write(text, to: &bytes)
        case .array(let values):
            bytes.append(UInt8(ascii: "["))
            for (place, value) in values.enumerated() {
                if place > 0 { bytes.append(UInt8(ascii: ",")) }
                value.write(to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .object(let fields):
            bytes.append(UInt8(ascii: "{"))
            for (place, field) in fields.sorted(by: { $0.key < $1.key }).enumerated() {
                if place > 0 { bytes.append(UInt8(ascii: ",")) }
                Self.write(field.key.text, to: &bytes)
                bytes.append(UInt8(ascii: ":"))
                field.value.write(to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }

    private static let hexDigits = Array("0123456789abcdef".utf8)

    private static func write(_ text: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0..<0x20: bytes += "\\u00".utf8 + [hexDigits[Int(byte >> 4)], hexDigits[Int(byte & 15)]]
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}

extension JSONValue: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {  // `try?`: it is of another type, here and below
            self = .boolean(value)
        } else if let value = try? container.decode(Int64.self) {  // as above
            self = .integer(value)
        } else if let value = try? container.decode(Double.self) {  // as above
            self = .number(value)
        } else if let value = try? container.decode(String.self) {  // as above
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {  // as above
            self = .array(value)
        } else {
            // Which holds keys equal that Unicode does: whoever needs them by their bytes parses them with `init(parsing:)`.
            let fields = try container.decode([String: JSONValue].self)
            self = .object(Dictionary(uniqueKeysWithValues: fields.map { (ExactString($0.key), $0.value) }))
        }
    }

    package func encode(to encoder: any Encoder) throws {
        if case .object(let fields) = self {
            var container = encoder.container(keyedBy: AnyKey.self)
            for (key, value) in fields.sorted(by: { $0.key < $1.key }) { try container.encode(value, forKey: AnyKey(key.text)) }
            return
        }
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .boolean(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let values): try container.encode(values)
        case .object: break
        }
    }
}

/// A key of an object, whatever it is.
package struct AnyKey: CodingKey {
    package let stringValue: String
    package var intValue: Int? { nil }

    package init(_ text: String) { stringValue = text }
    package init?(stringValue: String) { self.init(stringValue) }
    package init?(intValue: Int) { nil }
}

extension Catalog {
    static func text(of metadata: Metadata) -> String { JSONValue.object(metadata.mapValues { .string($0) }).text }

    /// What `text(of:)` wrote.
    static func metadata(_ text: String) throws(RemfsError) -> Metadata {
        // `try?`: the error would speak of a request.
        guard case .object(let fields) = try? JSONValue(parsing: text.utf8) else {
            throw RemfsError(.corrupted, "cannot read a row of the catalog", cause: "metadata is no JSON object")
        }
        var metadata: Metadata = [:]
        for (key, value) in fields {
            guard case .string(let text) = value else {
                throw RemfsError(.corrupted, "cannot read a row of the catalog", cause: "metadata has a value that is no string")
            }
            metadata[key] = text
        }
        return metadata
    }
}
