import Glibc
import Logging
import SQLite
import Threads

/// Cleaning a store's file of what redactions left in free space, while others work in it.
///
/// The bytes that a redaction gave up are still in free pages, in free room of others, in the journal, and in pages that the writer keeps in
/// memory and would write again. So: the journal is moved into the file, once nobody reads from before the redaction. While no checkpoint
/// runs, all free space of the file is overwritten; writers go on, into the journal. What they wrote meanwhile is moved after it and its
/// pages overwritten as well. Only the rest of that, of a few milliseconds, is done with the lock held, by when the writer's pages are
/// forgotten too.
extension MemoryStore {
    /// How often it is begun anew where a writer starts the journal over at the wrong moment.
    private static let tries = 5

    /// Answers the spool files that went: those of exports that were under way.
    @discardableResult
    func finishRedactions(patience: Int64 = patienceWithReaders) throws(RemfsError) -> [String] {
        environment.willBlock()
        // One after the other: whoever comes second finds it done.
        return try scrubbing.withLock { _ throws(RemfsError) in
            guard let goal = state.withLock({ $0.scrub.isNeeded ? $0.scrub.wanted : nil }) else { return [] }
            let deadline = StoreState.monotonic() + patience
            try emptyJournal(patience: patience)
            if try !scrubInPlace(until: deadline) {
                try state.withLock { (state) throws(RemfsError) in
                    try state.query { () throws(SQLiteError) in try state.writer.execute("VACUUM") }
                }
                try emptyJournal(patience: patience)
            }
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
                state.scrub.done = max(state.scrub.done, goal)
            }
            try synchronizeNow()
            return cut
        }
    }

    /// Answers false where the file has to be written anew: it is not as our files are.
    private func scrubInPlace(until deadline: Int64) throws(RemfsError) -> Bool {
        // What a failed sync may have dropped is not to be copied.
        if journal.hasFailed { try synchronizeNow() }
        // Under the lock: whoever checkpoints with it held has ended, and none begins.
        state.withLock { $0.scrub.isRunning = true }
        defer { state.withLock { $0.scrub.isRunning = false } }
        return try checkpointer.withLock { (connection) throws(RemfsError) in
            do throws(PageScrubber.Failure) {
                for _ in 0..<Self.tries { if try scrub(connection, until: deadline) { return true } }
                throw .unfit("the journal was started over again and again")
            } catch {
                switch error {
                case .unfit(let why):
                    environment.logger.warning("the file is written anew", metadata: ["store": "\(id)", "reason": "\(why)"])
                    return false
                case .file(let error): throw RemfsError(error, in: "store \(id)")
                case .store(let error): throw error
                }
            }
        }
    }

    /// Frames of the journal that are moved without the lock first: fewer are moved faster than that is worth.
    private static let worthMoving = 64

    /// One round. Answers false where it is not known which pages were written meanwhile.
    private func scrub(_ connection: Connection, until deadline: Int64) throws(PageScrubber.Failure) -> Bool {
        func file<Answer>(_ body: () throws(SQLiteError) -> Answer) throws(PageScrubber.Failure) -> Answer {
            do throws(SQLiteError) { return try body() } catch { throw .file(error) }
        }
        var scrubber = PageScrubber(connection)
        _ = try file { () throws(SQLiteError) in try connection.checkpoint(.passive) }
        try scrubber.scrubAll()
        // What an earlier turn has moved into the file and not looked at yet.
        var pending: Set<Int> = []
        while true {
            guard var before = journal.pages() else { throw .unfit("the journal cannot be read") }
            before.pages.formUnion(pending)
            var (frames, isMoved) = (0, before.pages.isEmpty)
            if before.count > Self.worthMoving {
                let outcome = try file { () throws(SQLiteError) in try connection.checkpoint(.passive) }
                (frames, isMoved) = (outcome.frames, outcome.moved >= before.count)
                if isMoved { try scrubber.scrub(before.pages) }
            }
            try file { () throws(SQLiteError) in try connection.synchronizeFile() }
            switch try finish(&scrubber, after: before, frames: frames, isMoved: isMoved) {
            case .done:
                try file { () throws(SQLiteError) in try connection.synchronizeFile() }
                return true
            case .lost: return false
            case .inUse(let pages):
                pending = pages
                guard StoreState.monotonic() < deadline else {
                    throw .store(
                        RemfsError(.busy, "somebody still reads from the journal of store \(id), as a backup or a check does"))
                }
                usleep(10_000)
            }
        }
    }

    private enum Outcome {
        case done
        /// Somebody reads from the journal. These pages may be in the file by now.
        case inUse(Set<Int>)
        /// It is not known which pages were written.
        case lost
    }

    /// With the lock held: what came since `before`.
    private func finish(
        _ scrubber: inout PageScrubber, after before: JournalFile.Pages, frames: Int, isMoved: Bool
    ) throws(PageScrubber.Failure) -> Outcome {
        let outcome = state.withLock { state -> Result<Outcome, PageScrubber.Failure> in
            guard let after = journal.pages(after: before) else { return .success(.lost) }
            // A writer has started the journal over, and some of what the last checkpoint moved was not looked at.
            if after.salt != before.salt, frames > before.count { return .success(.lost) }
            let isEmpty: Bool
            do throws(SQLiteError) {
                isEmpty = try state.writer.checkpoint(.truncate).frames == 0
            } catch {
                return .failure(.file(error))
            }
            guard isEmpty else { return .success(.inUse(after.pages.union(before.pages))) }
            state.didCheckpoint(0)
            // They are of before, and would be written again with what was in them.
            state.writer.forgetPages()
            do throws(PageScrubber.Failure) {
                try scrubber.scrub(isMoved ? after.pages : after.pages.union(before.pages))
            } catch {
                return .failure(error)
            }
            return .success(.done)
        }
        return try outcome.get()
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
                if state.scrub.isRunning { return false }
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
