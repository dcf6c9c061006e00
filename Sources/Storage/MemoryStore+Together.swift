import SQLite
import Threads

/// Several changes as one: a restore, an import.
extension MemoryStore {
    /// Runs several changes as one transaction under the store's lock: after a failure or a crash none of them has happened.
    ///
    /// What waits to be sealed is sealed first. Where the body throws, the tree is taken out of the file again, as after a crash: saves that
    /// were open end there. Everyone else who works in the store waits as long as it takes.
    func changeTogether<Answer>(_ body: (StoreState) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        let (answer, newest): (Answer, Int64)
        do throws(RemfsError) {
            (answer, newest) = try changedTogether(body)
        } catch {
            environment.refused(id, error)
            throw error
        }
        announce(newest)
        environment.schedule(id, true)
        return answer
    }

    private func changedTogether<Answer>(
        _ body: (StoreState) throws(RemfsError) -> Answer
    ) throws(RemfsError) -> (Answer, newest: Int64) {
        // What is large is made ready without the lock.
        try settle()
        // The locks in their order. A save that is being made ready speaks of the tree as it was.
        return try preparing.withLock { _ throws(RemfsError) in
            try state.withLock(whenContended: environment.willBlock) { (state) throws(RemfsError) in
                try state.requireWritable()
                state.lastActivity = StoreState.monotonic()
                try state.settle()
                try state.sealRemovals(all: true)
                state.postInvalidations(except: 0)
                let answer: Answer
                do throws(RemfsError) {
                    answer = try state.together { () throws(RemfsError) in try body(state) }
                } catch {
                    state.dropInvalidations()
                    try Self.takeBack(&state)
                    throw error
                }
                state.removeEmptiedDirectories()
                state.postInvalidations(except: 0)
                return (answer, state.lastVersion)
            }
        }
    }

    private static func takeBack(_ state: inout StoreState) throws(RemfsError) {
        do throws(RemfsError) {
            state = try state.takenOutAgain()
        } catch {
            // What is in memory speaks of changes that did not happen: nobody may go on with that.
            state.isDeleted = true
            state.label += ", which cannot be read after a change that failed,"
            throw error
        }
    }
}

extension StoreState {
    /// Runs `body` between BEGIN and COMMIT; every `commit` within is part of it. Where it throws, the file is as it was, and the tree is not.
    fileprivate func together<Answer>(_ body: () throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        try query { () throws(SQLiteError) in try statements.begin.run() }
        isTogether = true
        defer { isTogether = false }
        do throws(RemfsError) {
            let answer = try body()
            // Where SQLite has rolled back by itself, what came after that was no part of it: nothing may pass over an error.
            guard writer.isInTransaction else { throw RemfsError(.internal, "a transaction on \(label) ended before its time") }
            try query { () throws(SQLiteError) in try statements.commit.run() }
            // Long as it was, the journal is to be moved soon.
            uncheckpointed += Self.checkpointInterval + 1
            return answer
        } catch {
            if writer.isInTransaction { try query { () throws(SQLiteError) in try statements.rollback.run() } }
            throw error
        }
    }
}
