import Glibc
import Logging
import SQLite
import Threads

/// Redaction: a version's row stays, its bytes go, out of the store's file and its journal as well.
extension MemoryStore {
    /// How long a redaction waits for those who read from the journal (a backup, a check) before it says that it is not finished.
    package static let patienceWithReaders: Int64 = 10_000_000_000

    /// Blanks a version and returns once no trace of its bytes is left in the store's files. A version that is redacted already is answered
    /// as it is.
    ///
    /// Archived stores allow it. Writers of the store wait while its file is written anew: a second or two for each 100 MB.
    ///
    /// - Parameter patience: ns; for those who read from the journal.
    /// - Throws: `notFound`; `invalidArgument` for the head of a live memory; `unavailable` where the version is blank but its bytes are
    ///   still in the journal, since somebody reads from it, or in the file, since there is no room to write that anew: upkeep tries again,
    ///   and so does the same call.
    package func redact(
        _ version: VersionID, by author: Author, patience: Int64 = patienceWithReaders
    ) throws(RemfsError) -> MemoryVersion {
        guard let number = version.number(in: id) else { throw RemfsError(.notFound, "version \(version) not found") }
        try settle()
        try change { (state) throws(RemfsError) in try state.redact(number, by: author.actor) }
        if state.withLock({ $0.scrub.isNeeded }) {
            environment.logger.notice("version redacted", metadata: ["store": "\(id)", "version": "\(version)"])
            for copy in keptCopies() {
                environment.logger.warning("a kept copy is not redacted", metadata: ["store": "\(id)", "file": "\(copy)"])
            }
            do throws(RemfsError) {
                try finishRedactions(patience: patience)
            } catch {
                environment.schedule(id, true)
                throw RemfsError(
                    .unavailable, "version \(version) is redacted, but its bytes are not gone yet: \(error.message). Ask again",
                    cause: error.cause)
            }
        }
        drainInvalidations()
        return try self.version(version)
    }

    /// Copies of the store's file that were kept beside it, which a redaction does not reach: of before an upgrade, or a repair.
    package func keptCopies() -> [String] {
        let slash = path.lastIndex(of: "/") ?? path.startIndex
        // What cannot be listed is no reason to redact nothing.
        let names = (try? StorePool.names(in: String(path[..<slash]))) ?? []
        let name = String(path[path.index(after: slash)...])
        return names.filter { $0.hasPrefix(name + ".") }.sorted().map { path[...slash] + $0 }
    }

    /// Cleans the store's file of what redactions left in free space: writes all tables anew, then empties the journal.
    ///
    /// A page that was freed, and the room in a page that a row has left, hold what was there. No statement reaches that, so the file is
    /// written anew (VACUUM), without what nothing refers to.
    func finishRedactions(patience: Int64 = patienceWithReaders) throws(RemfsError) {
        environment.willBlock()
        // One after the other: whoever comes second finds it done.
        try scrubbing.withLock { _ throws(RemfsError) in
            let goal = try state.withLock { (state) throws(RemfsError) -> Int? in
                guard state.scrub.isNeeded else { return nil }
                if state.scrub.needsRewriting {
                    try state.query { () throws(SQLiteError) in try state.writer.execute("VACUUM") }
                    state.scrub.rewritten = state.scrub.wanted
                }
                return state.scrub.wanted
            }
            guard let goal else { return }
            try emptyJournal(patience: patience)
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
