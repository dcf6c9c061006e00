import SQLite

/// What there is to put back of one memory that a session changed, by its versions.
struct SessionUndo {
    /// From what it is to what it was; nil: there is nothing to put back, or that cannot be.
    let difference: MemoryDifference?
    /// The first of the session's versions that are put back: what was changed last goes back first.
    let start: Int64
    /// What stays, and why; nil: nothing.
    let left: RevertOutcome.Left?
    /// The session's version that is the head now.
    let from: Int64

    /// The rows of the versions that decide it.
    private struct Row {
        let number: Int64
        let operation: MemoryVersion.Operation
        let path: String?
        let began: Int64
        let actor: MemoryActor?
        let redacted: (time: Int64, by: String?)?
        /// Versions right before it were given up.
        let isAfterGap: Bool
        /// What the memory was; nil: deleted, or redacted.
        let state: MemoryState?

        init(_ row: Statement, in store: StoreID) {
            number = row.integer(0)
            path = row.text(2)
            began = row.integer(6)
            operation = MemoryVersion.Operation(row: row.integer(7))
            actor = row.text(8).flatMap { MemoryActor(id: $0) }
            redacted = row.integerOrNil(9).map { (time: $0, by: row.text(10)) }
            isAfterGap = row.integer(11) > 0
            state = operation == .deleted ? nil : MemoryState(row, column: 0, in: store)
        }
    }

    private static let columns = MemoryState.columns(of: "version") + ", operation, actor, redacted, redacted_by, pruned"

    /// The memories of which a session has versions above `number`. Looks through all of these.
    static func memories(
        of session: MemoryActor, since: Timestamp?, above number: Int64, _ connection: Connection
    ) throws(SQLiteError) -> Set<Int64> {
        let row = try connection.prepare("SELECT DISTINCT memory FROM version WHERE number > ?1 AND actor = ?2 AND began >= ?3")
        row.bind(number, at: 1)
        row.bind(session.id, at: 2)
        row.bind(since?.microseconds ?? .min, at: 3)
        var memories: Set<Int64> = []
        while try row.step() { memories.insert(row.integer(0)) }
        return memories
    }

    /// Reads a memory's versions, from the newest on, as far back as they matter. nil: none of them is the session's.
    ///
    /// - Parameter row: the statement of `history`.
    init?(
        of memory: Int64, by session: MemoryActor, since: Timestamp?, in store: StoreID, _ row: Statement
    ) throws(SQLiteError) {
        row.bind(memory, at: 1)
        defer { row.reset() }
        let earliest = since?.microseconds ?? .min
        var head: Row?
        // The session's versions in a row: the newest and the oldest of them, and what came right before.
        var last: Row?
        var first: Row?
        var before: Row?
        var isInterleaved = false
        while try row.step() {
            // Version by version back in time.
            if row.integer(6) < earliest, first == nil || before != nil { break }
            let isOurs = row.text(8) == session.id && row.integer(6) >= earliest
            if before != nil {
                isInterleaved = isOurs
                if isInterleaved { break }
                continue
            }
            let one = Row(row, in: store)
            if head == nil { head = one }
            if isOurs {
                if last == nil { last = one }
                first = one
            } else if first != nil {
                before = one
            }
            // What came before is not known.
            if isOurs, one.isAfterGap { break }
        }
        guard let head, let last, let first else { return nil }
        self.init(head, last, first, before, isInterleaved, memory, in: store)
    }

    static func history(_ connection: Connection) throws(SQLiteError) -> Statement {
        try connection.prepare("SELECT \(columns) FROM version WHERE memory = ?1 ORDER BY number DESC")
    }

    private init(
        _ head: Row, _ last: Row, _ first: Row, _ before: Row?, _ isInterleaved: Bool, _ memory: Int64, in store: StoreID
    ) {
        func left(_ reason: RevertOutcome.Left.Reason, _ row: Row? = nil) -> RevertOutcome.Left {
            RevertOutcome.Left(
                reason: reason, memory: MemoryID(store: store, number: memory), path: head.path ?? last.path ?? before?.path,
                version: row.map { VersionID(store: store, number: $0.number) },
                time: (row?.redacted?.time ?? row?.began).map { Timestamp(microseconds: $0) },
                actor: row?.redacted.map { $0.by.flatMap { MemoryActor(id: $0) } } ?? row?.actor)
        }
        start = first.number
        from = head.number
        // Of a memory whose first versions are gone the oldest that is left is no `created` one.
        let isKnown = !first.isAfterGap && (before != nil || first.operation == .created)
        let isRedacted = before.map { $0.operation != .deleted && $0.redacted != nil } ?? false
        let was = before?.state
        let isSame =
            if let now = head.state, let was { now.path.utf8.elementsEqual(was.path.utf8) && now.hasContent(of: was) } else {
                head.state == nil && was == nil
            }
        var difference: MemoryDifference?
        var stays: RevertOutcome.Left?
        if isKnown, !isRedacted, isSame {
            // Put back already, by whomever.
        } else if head.number != last.number {
            stays = left(.changedSince, head)
        } else if !isKnown {
            stays = left(.pruned)
        } else if isRedacted {
            stays = left(.redacted, before)
        } else {
            difference = MemoryDifference(old: head.state, new: was)
        }
        if stays == nil, isInterleaved { stays = left(.changedBetween, before) }
        self.difference = difference
        self.left = stays
    }
}
