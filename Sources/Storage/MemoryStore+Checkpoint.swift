import SQLite
import Threads

/// Moving the journal into the database: when it is due, and how.
extension MemoryStore {
    /// Moves the WAL into the database, on the calling thread, while writers go on.
    ///
    /// - Parameter empties: cuts the journal's file to nothing. One that is kept is written over from its start: at half the cost of
    ///   appending, and an fsync then has no new size to write.
    /// - Returns: whether the journal's file was cut to nothing. With `empties` it stays where somebody reads from it.
    @discardableResult
    func checkpoint(empties: Bool = false) throws(RemfsError) -> Bool {
        // What a failed sync may have dropped is not to be copied.
        if journal.hasFailed { try synchronizeNow() }
        // The file is being cleaned, which may take a while: it does its own.
        if state.withLock({ $0.scrub.isRunning }) { return false }
        let label = state.withLock { $0.label }
        // The second pass has only what was written during the first, so that a third, under the lock, has next to nothing.
        for _ in 0..<2 {
            let frames = try checkpointer.withLock { (connection) throws(RemfsError) in
                try RemfsError.mapping(label) { () throws(SQLiteError) in try connection.checkpoint(.passive).frames }
            }
            guard empties || frames > Self.longJournal else {
                state.withLock { $0.didCheckpoint(frames) }
                return false
            }
        }
        return try state.withLock { (state) throws(RemfsError) in
            if state.scrub.isRunning { return false }
            let frames = try state.query { () throws(SQLiteError) in try state.writer.checkpoint(empties ? .truncate : .passive).frames }
            state.didCheckpoint(frames)
            return empties && frames == 0
        }
    }

    /// In frames, 20 MB: a journal from which nobody writes on from the start, as writers never pause, is moved under their lock. A successor
    /// has to read all of it while they wait (2 us for each frame).
    private static let longJournal = 5_000
}

extension StoreState {
    /// Transactions between checkpoints: about 4,000 frames, before a longer WAL makes each commit dearer.
    static let checkpointInterval = 1_300
    /// The same in frames: of those that a daemon before this one has left, nobody counted the transactions.
    private static let checkpointFrames = 4_500

    /// The journal has grown since it was last moved into the database.
    var needsCheckpoint: Bool {
        let frames = writer.committedFrames
        // It was started over.
        if frames < checkpointedFrames { checkpointedFrames = 0 }
        return uncheckpointed > Self.checkpointInterval || frames - checkpointedFrames > Self.checkpointFrames
    }

    /// - Parameter frames: what the journal held at the end of it.
    func didCheckpoint(_ frames: Int) {
        uncheckpointed = 0
        checkpointedFrames = frames
    }
}
