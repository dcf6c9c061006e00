import SQLite
import Threads

/// Undoing what a session did, as new versions: nothing is lost by it, and it can be undone like any change.
extension MemoryStore {
    /// Makes each memory that the session was the last to change what it was before the session's last changes in a row: content and path.
    /// What others have changed since stays, and so does what cannot be put back; the answer lists it. One transaction: all of it or nothing,
    /// also after a crash.
    ///
    /// Saves of the session that are open, and those of memories that it changed, are sealed first.
    ///
    /// - Parameters:
    ///   - session: any; the catalog need not know it any more.
    ///   - since: what the session changed before stays. nil: all of it is put back.
    ///   - isDryRun: changes nothing, and says what would be done to what is sealed so far.
    package func revert(
        _ session: SessionID, since: Timestamp? = nil, isDryRun: Bool = false, by author: Author
    ) throws(RemfsError) -> RevertOutcome {
        try settleForReading()
        let session = MemoryActor.session(session.description)
        // To look through all versions takes a while: others go on meanwhile.
        let (known, newest) = try readers.snapshot { (reader) throws(SQLiteError) in
            (
                try SessionUndo.memories(of: session, since: since, above: 0, reader.connection),
                try reader.connection.integer("SELECT max(number) FROM version") ?? 0
            )
        }
        if isDryRun {
            return try look { (state) throws(RemfsError) in
                RevertOutcome(try state.plan(known, by: session, since: since), in: state, undo: nil, made: [:])
            }
        }
        let outcome = try changeTogether { (state) throws(RemfsError) in
            try state.sealSaves(of: session, known)
            let memories = try state.query { () throws(SQLiteError) in
                known.union(try SessionUndo.memories(of: session, since: since, above: newest, state.writer))
            }
            let plan = try state.plan(memories, by: session, since: since)
            let differences = plan.undos.compactMap(\.difference)
            guard !differences.isEmpty else { return RevertOutcome(plan, in: state, undo: nil, made: [:]) }
            let undo = try state.newestVersion()
            try state.putBack(differences, by: author)
            return RevertOutcome(plan, in: state, undo: undo, made: try state.newestVersions(of: differences))
        }
        try synchronizeNow()
        drainInvalidations()
        return outcome
    }
}

/// What is to be done, memory by memory.
private struct RevertPlan {
    /// Those that are put back.
    var undos: [SessionUndo] = []
    var left: [RevertOutcome.Left] = []
    var unchanged = 0
}

extension StoreState {
    /// Seals what a session is writing, and what is being written to memories that it changed: else it would be of no version, or be cut in two.
    fileprivate func sealSaves(of session: MemoryActor, _ memories: Set<Int64>) throws(RemfsError) {
        for inode in Array(inodes.values) where inode.isMemory && inode.links > 0 && (inode.drafts != nil || inode.changedBy != nil) {
            let isTheirs = inode.changedBy?.actor == session || inode.drafts?.saves.contains { $0.author.actor == session } ?? false
            if isTheirs || inode.head.map({ memories.contains($0.memory) }) ?? false { try settleForAPI(inode) }
        }
    }

    fileprivate func plan(_ memories: Set<Int64>, by session: MemoryActor, since: Timestamp?) throws(RemfsError) -> RevertPlan {
        var plan = RevertPlan()
        let found = try query { () throws(SQLiteError) in
            let history = try SessionUndo.history(writer)
            var found: [SessionUndo] = []
            for memory in memories {
                if let undo = try SessionUndo(of: memory, by: session, since: since, in: id, history) { found.append(undo) }
            }
            return found
        }
        var wanted: [(undo: SessionUndo, difference: MemoryDifference, side: MemoryState)] = []
        for undo in found.sorted(by: { $0.start > $1.start }) {
            if let difference = undo.difference, let side = difference.old ?? difference.new {
                wanted.append((undo, difference, side))
                continue
            }
            if let left = undo.left { plan.left.append(left) }
            if undo.left == nil || undo.left?.reason == .changedBetween { plan.unchanged += 1 }
        }
        let conflicts = RevertPlaces(wanted.map(\.difference), in: self).conflicts
        for (index, one) in wanted.enumerated() {
            guard let conflict = conflicts[index] else {
                plan.undos.append(one.undo)
                if let left = one.undo.left { plan.left.append(left) }
                continue
            }
            plan.left.append(
                RevertOutcome.Left(reason: .pathTaken, memory: one.side.memory, path: one.side.path, conflict: conflict))
        }
        return plan
    }

    fileprivate func newestVersion() throws(RemfsError) -> VersionID? {
        try query { () throws(SQLiteError) in try writer.integer("SELECT max(number) FROM version") }
            .map { VersionID(store: id, number: $0) }
    }

    /// By the number of the memory.
    fileprivate func newestVersions(of differences: [MemoryDifference]) throws(RemfsError) -> [Int64: VersionID] {
        try query { () throws(SQLiteError) in
            let row = try writer.prepare("SELECT max(number) FROM version WHERE memory = ?1")
            var versions: [Int64: VersionID] = [:]
            for difference in differences {
                guard let memory = (difference.new ?? difference.old)?.memoryNumber else { continue }
                row.bind(memory, at: 1)
                if try row.step() { versions[memory] = VersionID(store: id, number: row.integer(0)) }
                row.reset()
            }
            return versions
        }
    }
}

extension RevertOutcome {
    fileprivate init(_ plan: RevertPlan, in state: StoreState, undo: VersionID?, made: [Int64: VersionID]) {
        var changes: [Change] = []
        var counts: [Change.Kind: Int] = [:]
        for one in plan.undos {
            guard let difference = one.difference, let side = difference.new ?? difference.old else { continue }
            let kind: Change.Kind =
                switch difference.change {
                case .created: .recreated
                case .modified: .restored
                case .renamed: .moved
                case .deleted: .deleted
                }
            counts[kind, default: 0] += 1
            changes.append(
                Change(
                    kind: kind, memory: side.memory, path: side.path, oldPath: kind == .moved ? difference.old?.path : nil,
                    from: VersionID(store: state.id, number: one.from), to: difference.new?.version, made: made[side.memoryNumber]))
        }
        let longest = RestoreOutcome.longestList
        self.changes = Array(changes.sorted { Self.precedes($0.path, $1.path) }.prefix(longest))
        self.counts = counts
        left = Array(plan.left.sorted { Self.precedes($0.path ?? "", $1.path ?? "") }.prefix(longest))
        leftCount = plan.left.count
        unchanged = plan.unchanged
        self.undo = undo
    }

    private static func precedes(_ one: String, _ other: String) -> Bool { one.utf8.lexicographicallyPrecedes(other.utf8) }
}
