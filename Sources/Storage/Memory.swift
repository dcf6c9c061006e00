/// A point in time as the contract keeps it: microseconds since 1970.
package struct Timestamp: Hashable, Comparable, Sendable {
    package let microseconds: Int64
    package init(microseconds: Int64) { self.microseconds = microseconds }
    package static func < (one: Timestamp, other: Timestamp) -> Bool { one.microseconds < other.microseconds }
}

/// A regular file in a store, found by path, with a lasting ID; as of its last sealed version.
package struct Memory: Sendable {
    package let id: MemoryID
    package let store: StoreID
    /// The head: the version that holds this state.
    package let version: VersionID
    /// As the API shows it: absolute. May be a path that the API could not have created.
    package let path: String
    /// Lower-case hex of the content's SHA-256.
    package let contentSHA256: String
    package let sizeInBytes: Int64
    package let created: Timestamp
    package let updated: Timestamp

    package init(
        id: MemoryID, store: StoreID, version: VersionID, path: String, contentSHA256: String, sizeInBytes: Int64, created: Timestamp,
        updated: Timestamp
    ) {
        self.id = id
        self.store = store
        self.version = version
        self.path = path
        self.contentSHA256 = contentSHA256
        self.sizeInBytes = sizeInBytes
        self.created = created
        self.updated = updated
    }
}

/// One row of a listing with a depth: a memory, or a directory that holds deeper ones.
package enum MemoryListing: Sendable {
    case memory(Memory)
    /// With a trailing `/`.
    case prefix(String)
}

/// What a memory became, when, by whom. Immutable but for redaction.
package struct MemoryVersion: Sendable {
    package enum Operation: String, Sendable, CaseIterable { case created, modified, deleted }

    package let id: VersionID
    /// The row number: rises with time within a store, so it is the sort key and the cursor.
    package let number: Int64
    package let memory: MemoryID
    package let store: StoreID
    package let operation: Operation
    /// The path after the change; nil when redacted.
    package let path: String?
    /// nil on `deleted` and when redacted.
    package let contentSHA256: String?
    package let sizeInBytes: Int64?
    package let created: Timestamp
    package let author: Author
    /// The head that the author's mount had seen, where that differs from the one it wrote over.
    package let base: VersionID?
    /// A write over a version that its author never saw.
    package let isStale: Bool
    package let redacted: Timestamp?
    package let redactedBy: MemoryActor?
    /// Kept whatever the store's retention says.
    package let isPinned: Bool
    /// Kinds of secrets that were found in it (`SecretScanner.Rule`); nil: nobody looked.
    package let secrets: [String]?

    package init(
        id: VersionID, number: Int64, memory: MemoryID, store: StoreID, operation: Operation, path: String?, contentSHA256: String?,
        sizeInBytes: Int64?, created: Timestamp, author: Author, base: VersionID?, isStale: Bool, redacted: Timestamp?,
        redactedBy: MemoryActor?, isPinned: Bool = false, secrets: [String]? = nil
    ) {
        self.id = id
        self.number = number
        self.memory = memory
        self.store = store
        self.operation = operation
        self.path = path
        self.contentSHA256 = contentSHA256
        self.sizeInBytes = sizeInBytes
        self.created = created
        self.author = author
        self.base = base
        self.isStale = isStale
        self.redacted = redacted
        self.redactedBy = redactedBy
        self.isPinned = isPinned
        self.secrets = secrets
    }
}

/// What a caller of the API asks to become of a memory. Mounts change memories through files (`MemoryStore+Files`).
package enum MemoryChange: Sendable {
    case create(path: MemoryPath, content: [UInt8])
    /// At least one of the two is set.
    case update(MemoryID, content: [UInt8]?, path: MemoryPath?)
    case delete(MemoryID)
}

/// What must still be true for a change to apply.
package enum Precondition: Sendable, Equatable {
    /// Lower-case hex.
    case contentSHA256(String)
}

/// Which versions a listing shows; conditions combine with AND.
package struct VersionFilter: Sendable {
    package var memory: MemoryID?
    /// Versions whose path after the change was this one.
    package var path: String?
    package var operation: MemoryVersion.Operation?
    /// `MemoryActor.id`.
    package var actor: String?
    /// Inclusive.
    package var from: Timestamp?
    /// Inclusive.
    package var to: Timestamp?
    package var staleOnly = false

    package init() {}
}
