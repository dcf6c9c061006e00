/// What may be said of a store, whoever says it (`api.md` 2). Lengths are in Unicode scalars.
enum StoreLimits {
    private static let pairs = 16

    /// nil stays as it is; a metadata value of nil removes its key.
    static func check(name: String?, description: String?, metadata: [ExactString: String?]) throws(RemfsError) {
        if let name {
            guard (1...255).contains(name.unicodeScalars.count) else {
                throw RemfsError(.invalidArgument, "name must have 1 to 255 characters")
            }
            guard !name.unicodeScalars.contains(where: { $0.properties.generalCategory == .control }) else {
                throw RemfsError(.invalidArgument, "name must not have control characters")
            }
        }
        if let description, description.unicodeScalars.count > 1_024 {
            throw RemfsError(.invalidArgument, "description must have at most 1,024 characters")
        }
        for (key, value) in metadata {
            // A key to remove may be any: it is then not there.
            guard let value else { continue }
            guard (1...64).contains(key.text.unicodeScalars.count) else {
                throw RemfsError(.invalidArgument, "metadata has a key that is empty or over 64 characters")
            }
            guard value.unicodeScalars.count <= 512 else {
                throw RemfsError(.invalidArgument, "metadata.\(key.text) must have at most 512 characters")
            }
        }
    }

    static func check(pairsOf metadata: Metadata) throws(RemfsError) {
        guard metadata.count <= pairs else {
            throw RemfsError(.invalidArgument, "metadata has \(metadata.count) keys: at most \(pairs)")
        }
    }
}
