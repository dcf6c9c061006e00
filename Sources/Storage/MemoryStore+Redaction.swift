import Glibc
import Logging
import Threads

/// Redaction: a version's row stays, its bytes go, out of the store's file and its journal as well.
extension MemoryStore {
    /// How long a redaction waits for those who read from the journal (a backup, a check) before it says that it is not finished.
    package static let patienceWithReaders: Int64 = 10_000_000_000

    /// Blanks versions and returns once no trace of their bytes is left in the store's files. Those that are redacted already stay as they are.
    /// Answers the files that were removed because they held the bytes, or may have.
    ///
    /// Archived stores allow it.
    ///
    /// - Parameter patience: ns; for those who read from the journal.
    /// - Throws: `notFound`; `invalidArgument` for the head of a live memory; `unavailable` where the versions are blank but their bytes are
    ///   still in the journal, since somebody reads from it, or in the file, since there is no room to write that anew: upkeep tries again,
    ///   and so does the same call.
    @discardableResult
    package func redact(
        _ versions: [VersionID], by author: Author, patience: Int64 = patienceWithReaders
    ) throws(RemfsError) -> [String] {
        var numbers: [Int64] = []
        for version in versions {
            guard let number = version.number(in: id) else { throw RemfsError(.notFound, "version \(version) not found") }
            numbers.append(number)
        }
        try settle()
        try loadPast()
        var oldest = Int64.max
        for number in numbers {
            let written = try change { (state) throws(RemfsError) in try state.redact(number, by: author.actor) }
            oldest = min(oldest, written ?? 0)
            if written != nil {
                let version = VersionID(store: id, number: number)
                environment.logger.notice("version redacted", metadata: ["store": "\(id)", "version": "\(version)"])
            }
        }
        var removed = try removeKeptCopies(holding: numbers, writtenSince: oldest)
        if state.withLock({ $0.scrub.isNeeded }) {
            do throws(RemfsError) {
                removed += try finishRedactions(patience: patience)
            } catch {
                environment.schedule(id, true)
                throw RemfsError(
                    .unavailable, "\(versions[0]) is redacted, but its bytes are not gone yet: \(error.message). Ask again",
                    cause: error.cause)
            }
        }
        drainInvalidations()
        return removed
    }

    /// As above, for one version, which it answers.
    package func redact(
        _ version: VersionID, by author: Author, patience: Int64 = patienceWithReaders
    ) throws(RemfsError) -> MemoryVersion {
        try redact([version], by: author, patience: patience)
        return try self.version(version)
    }
}
