/// What a redaction has come to: what went, and where the same bytes are still known to be.
package struct Redaction: Sendable {
    package var version: MemoryVersion
    /// Other versions that held the same bytes and were redacted with it.
    package var derived: [MemoryVersion] = []
    /// Files that held the bytes, or may have, and are gone.
    package var removed: [String] = []
    /// What a redaction does not reach, as far as it is known.
    package var remaining: [Remainder] = []
    /// How many more there are than are listed.
    package var omitted = 0
    /// In stores that the caller may not read.
    package var hidden = 0

    /// What one answer lists.
    static let longestList = 1_000

    mutating func add(_ remainder: Remainder) {
        if remaining.count < Self.longestList { remaining.append(remainder) } else { omitted += 1 }
    }
}

/// A place where redacted bytes still are, or may be.
package enum Remainder: Sendable {
    /// A version with the same bytes, perhaps of another store.
    case version(HeldVersion)
    /// What somebody was given, and the store it was taken from.
    case copy(StoreCopy, of: StoreID)
    /// A file of the state directory.
    case file(String)
}

/// A version that holds the bytes that were looked for.
package struct HeldVersion: Sendable {
    package let store: StoreID
    package let id: VersionID
    package let memory: MemoryID
    package let path: String
    /// What a memory holds now is not redacted.
    package let isHead: Bool
    let interval: Interval
}

/// The time in which a version was the head.
struct Interval: Sendable, Equatable {
    /// us
    let began: Int64
    /// us; nil: it is the head, or a deletion, which is none.
    let ended: Int64?
    let isDeletion: Bool
}

/// Something that was made of a store's content, and who has it.
package struct StoreCopy: Sendable {
    package enum Kind: String, Sendable, CaseIterable { case export, backup, fork, `import`, dream }

    package let kind: Kind
    /// It holds what was a head at some time from `since` to `until` (us); with all of the history `since` is 0.
    let since: Int64
    let until: Int64
    package let made: Timestamp
    package let actor: MemoryActor?
    /// The store that was made of it.
    package let store: StoreID?

    var keepsHistory: Bool { since == 0 }

    func mayHold(_ version: Interval) -> Bool {
        guard version.began <= until else { return false }
        if version.isDeletion { return keepsHistory }
        return version.ended.map { $0 > since } ?? true
    }
}

/// Bytes by their hashes, to be found wherever they are kept.
struct ContentTrace: Sendable, Equatable {
    let size: Int64
    /// Of each chunk; empty: a hole.
    let digests: [[UInt8]]
}
