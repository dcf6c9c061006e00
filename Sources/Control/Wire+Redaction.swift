import Storage

/// What a redaction has come to, on the wire.
extension Wire {
    package struct Redaction: Codable, Sendable {
        package var type = "memory_redaction"
        package var version: Version
        /// Redacted with it, since they held the same bytes.
        package var derived: [VersionName]
        /// Files of the daemon's state directory that held the bytes, or may have, and are gone.
        package var removed: [String]
        package var remaining: [Remainder]
        package var omitted: Int
        package var hidden: Int
    }

    package struct VersionName: Codable, Sendable {
        package var memoryStoreID: String
        package var memoryID: String
        package var memoryVersionID: String

        private enum CodingKeys: String, CodingKey {
            case memoryStoreID = "memory_store_id"
            case memoryID = "memory_id"
            case memoryVersionID = "memory_version_id"
        }
    }

    /// Where redacted bytes still are, or may be. What does not apply to its kind is null.
    package struct Remainder: Codable, Sendable {
        /// `head` (what a memory holds now), `version`, `export`, `backup`, `fork`, `import`, `dream`, `file`.
        package var kind: String
        @Nullable package var memoryStoreID: String?
        @Nullable package var memoryID: String?
        @Nullable package var memoryVersionID: String?
        @Nullable package var path: String?
        /// In the daemon's state directory.
        @Nullable package var file: String?
        @Nullable package var madeAt: String?
        @Nullable package var madeBy: Actor?

        private enum CodingKeys: String, CodingKey {
            case kind, path, file
            case memoryStoreID = "memory_store_id"
            case memoryID = "memory_id"
            case memoryVersionID = "memory_version_id"
            case madeAt = "made_at"
            case madeBy = "made_by"
        }
    }
}

extension Wire.Redaction {
    init(_ redaction: Storage.Redaction, of store: StoreID, _ stores: StorePool) throws(RemfsError) {
        let version = try stores.withStore(store) { (store) throws(RemfsError) in
            try Wire.Version(redaction.version, in: store, .full)
        }
        self.init(
            version: version,
            derived: redaction.derived.map {
                Wire.VersionName(
                    memoryStoreID: $0.store.description, memoryID: $0.memory.description, memoryVersionID: $0.id.description)
            }, removed: redaction.removed, remaining: redaction.remaining.map { Wire.Remainder($0) }, omitted: redaction.omitted,
            hidden: redaction.hidden)
    }
}

extension Wire.Remainder {
    init(_ remainder: Storage.Remainder) {
        switch remainder {
        case .version(let version):
            self.init(
                kind: version.isHead ? "head" : "version", memoryStoreID: version.store.description, memoryID: version.memory.description,
                memoryVersionID: version.id.description, path: version.path)
        case .copy(let copy, let store):
            self.init(
                kind: copy.kind.rawValue, memoryStoreID: (copy.store ?? store).description, madeAt: copy.made.rfc3339,
                madeBy: copy.actor.map { Wire.Actor($0) })
        case .file(let file): self.init(kind: "file", file: file)
        }
    }
}
