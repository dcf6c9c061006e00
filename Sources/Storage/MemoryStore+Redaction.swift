import Glibc
import Logging
import SQLite
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

    /// Cleans the store's file of what redactions left in free space: writes all tables anew, then empties the journal.
    ///
    /// A page that was freed, and the room in a page that a row has left, hold what was there. No statement reaches that, so the file is
    /// written anew (VACUUM), without what nothing refers to.
    /// Answers the spool files that went: those of exports that were under way.
    @discardableResult
    func finishRedactions(patience: Int64 = patienceWithReaders) throws(RemfsError) -> [String] {
        environment.willBlock()
        // One after the other: whoever comes second finds it done.
        return try scrubbing.withLock { _ throws(RemfsError) in
            let goal = try state.withLock { (state) throws(RemfsError) -> Int? in
                guard state.scrub.isNeeded else { return nil }
                if state.scrub.needsRewriting {
                    try state.query { () throws(SQLiteError) in try state.writer.execute("VACUUM") }
                    state.scrub.rewritten = state.scrub.wanted
                }
                return state.scrub.wanted
            }
            guard let goal else { return [] }
            try emptyJournal(patience: patience)
            // Nobody reads what was there before any more, so no other export comes to hold it.
            let cut = cutSpools()
            try state.withLock { (state) throws(RemfsError) in
                // Another redaction meanwhile: its mark stays.
                if state.scrub.wanted == goal {
                    try state.commit { () throws(SQLiteError) in
                        let row = try state.statements.cached("DELETE FROM property WHERE name = '\(StoreState.redactionMark)'")
                        try row.run()
                    }
                }
                state.scrub.done = max(state.scrub.done, min(goal, state.scrub.rewritten))
            }
            try synchronizeNow()
            return cut
        }
    }

    /// What upkeep does of it: without waiting for readers. Answers whether nothing is left.
    func goOnWithRedactions() throws(RemfsError) -> Bool {
        guard state.withLock({ $0.scrub.isNeeded }) else { return true }
        do throws(RemfsError) {
            try finishRedactions(patience: 0)
            return true
        } catch {
            guard error.code == .busy else { throw error }
            return false
        }
    }

    /// Moves all of the journal into the database and cuts its file to nothing.
    ///
    /// - Parameter patience: ns; how long to wait for those who still read from it.
    /// - Throws: `busy` when it is over.
    func emptyJournal(patience: Int64) throws(RemfsError) {
        let deadline = StoreState.monotonic() + patience
        while try !checkpoint(empties: true) {
            // Readers come and go: for a moment nobody writes, and then a reader that comes needs no journal.
            let isEmpty = try state.withLock { (state) throws(RemfsError) -> Bool in
                for _ in 0..<20 {
                    if try state.query({ () throws(SQLiteError) in try state.writer.checkpoint(.truncate) }).frames == 0 { return true }
                    usleep(1_000)
                }
                return false
            }
            if isEmpty { return }
            guard StoreState.monotonic() < deadline else {
                throw RemfsError(
                    .busy, "somebody still reads from the journal of \(state.withLock { $0.label }), as a backup or a check does")
            }
            usleep(10_000)
        }
    }
}
