/// Which versions a store's policy gives up.
///
/// Older than so many days go, but of a memory that is there the newest ten stay, and so do pinned ones. Of a memory that was deleted, the
/// `deleted` version goes last.
enum Retention {
    /// Of a memory that is there, however old (`api.md` 2).
    static let newestKept = 10

    struct Row {
        let number: Int64
        /// us
        let began: Int64
        let isPinned: Bool
        let isDeletion: Bool
    }

    /// Those of one memory's versions, oldest first, that go.
    ///
    /// - Parameters:
    ///   - cutoff: us; what began before it is too old.
    ///   - newest: the store's newest version, which stays: the next one's time follows from it.
    static func doomed(_ versions: [Row], before cutoff: Int64, newest: Int64) -> [Int64] {
        guard let last = versions.last else { return [] }
        let isLive = !last.isDeletion
        let candidates = isLive ? versions.dropLast(newestKept) : versions[...]
        let doomed = candidates.filter { $0.began < cutoff && !$0.isPinned && $0.number != newest }.map(\.number)
        // As long as anything of it is left, the last version says what became of the memory.
        return doomed.count < versions.count && doomed.last == last.number ? doomed.dropLast() : doomed
    }
}

/// What giving up old versions comes to, or would.
package struct GarbageCollection: Sendable {
    /// Versions that are too old.
    package var versions: Int64 = 0
    /// Deleted memories of which nothing is left.
    package var memories: Int64 = 0
    /// What their content takes in the file, as far as nothing else shares it.
    package var bytes: Int64 = 0
    /// The store's file and its journal, before and after; after a dry run the same.
    package var fileBytesBefore: Int64 = 0
    package var fileBytesAfter: Int64 = 0
}
