import SQLite

/// Transcripts: events in the order of their sequence, which is that of their times.
extension Catalog {
    /// Where events go, by the numbers of the rows.
    struct EventPlace {
        let session: Int64
        let thread: Int64
        /// Whether the session's own list has them.
        let isShown: Bool
    }

    /// Which events are asked for.
    package enum Transcript: Sendable {
        /// What the session's own list has: the primary thread's, and those that tell of children.
        case session(SessionID)
        case thread(ThreadID, of: SessionID)
    }

    package struct EventPage: Sendable {
        package let events: [SessionEvent]
        package let hasMore: Bool
    }

    /// What the bodies of one page may weigh together; a single event may weigh more.
    private static let pageBytes = 32 << 20

    /// Records what a client sends to a session, on its primary thread: all or nothing. Not once it is archived.
    ///
    /// - Throws: `notFound` for a session, a thread or a tool use that is not there.
    package func send(_ drafts: [SessionEvent.Draft], to id: SessionID) throws(RemfsError) -> [SessionEvent] {
        guard !drafts.isEmpty else { throw RemfsError(.invalidArgument, "events must not be empty") }
        return try transaction { (connection) throws(RemfsError) in
            let session = try Self.session(id, connection)
            guard session.archived == nil else { throw RemfsError(.readOnly, "\(session.label) is archived") }
            let primary = try Self.primaryThread(of: session.sequence, connection)
            let place = EventPlace(session: session.sequence, thread: primary.sequence, isShown: true)
            return (primary.id, try append(drafts, to: place, connection))
        } after: { thread, events in
            tell(.events(events, session: id, thread: thread, isShown: true))
        }.1
    }

    private static func primaryThread(of session: Int64, _ connection: Connection) throws(RemfsError) -> (id: ThreadID, sequence: Int64) {
        let found = try sql { () throws(SQLiteError) in
            let row = try connection.prepare("SELECT id, sequence FROM thread WHERE session = ?1 AND parent IS NULL")
            defer { row.reset() }
            row.bind(session, at: 1)
            return try row.step() ? (row.text(0) ?? "", row.integer(1)) : nil
        }
        guard let found, let id = ThreadID(found.0) else { throw RemfsError(.corrupted, "the catalog has a session without a thread") }
        return (id, found.1)
    }

    /// In a transaction. Gives each its ID and its time, each time later than all before.
    func append(_ drafts: [SessionEvent.Draft], to place: EventPlace, _ connection: Connection) throws(RemfsError) -> [SessionEvent] {
        guard !drafts.isEmpty else { return [] }
        let insert = try Self.sql { () throws(SQLiteError) in
            try connection.prepare(
                """
                INSERT INTO event (id, session, thread, shown, type, processed, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                RETURNING sequence
                """)
        }
        defer { insert.reset() }
        var names: [ExactString: (id: EventID, type: String)] = [:]
        var events: [SessionEvent] = []
        for (number, draft) in drafts.enumerated() {
            let id = EventID.random()
            let time = now()
            if let thread = draft.thread { try Self.require(thread, in: place.session, "events[\(number)]", connection) }
            let body = try Self.resolve(draft, "events[\(number)]", names, place.session, connection)
            let sequence = try Self.sql { () throws(SQLiteError) in
                insert.reset()
                insert.bind(id.description, at: 1)
                insert.bind(place.session, at: 2)
                insert.bind(place.thread, at: 3)
                insert.bind(place.isShown ? 1 : 0 as Int64, at: 4)
                insert.bind(draft.type, at: 5)
                insert.bind(time.microseconds, at: 6)
                insert.bind(body, at: 7)
                var sequence: Int64 = 0
                while try insert.step() { sequence = insert.integer(0) }
                return sequence
            }
            if let name = draft.name { names[ExactString(name)] = (id, draft.type) }
            events.append(SessionEvent(id: id, sequence: sequence, type: draft.type, processed: time, body: body))
        }
        return events
    }

    private static func require(_ thread: String, in session: Int64, _ label: String, _ connection: Connection) throws(RemfsError) {
        let isThere = try sql { () throws(SQLiteError) in
            let row = try connection.prepare("SELECT 1 FROM thread WHERE id = ?1 AND session = ?2")
            defer { row.reset() }
            row.bind(thread, at: 1)
            row.bind(session, at: 2)
            return try row.step()
        }
        guard isThere else { throw RemfsError(.notFound, "\(label): session thread \(thread.shortened) not found") }
    }

    /// The body with its reference: the ID of a tool use of this session, or of this request where it is called so.
    private static func resolve(
        _ draft: SessionEvent.Draft, _ label: String, _ names: [ExactString: (id: EventID, type: String)], _ session: Int64,
        _ connection: Connection
    ) throws(RemfsError) -> String {
        guard let reference = draft.reference else { return draft.body }
        let type: String?
        var event = reference.event
        if let named = names[ExactString(reference.event)] {
            event = named.id.description
            type = named.type
        } else {
            type = try sql { () throws(SQLiteError) in
                let row = try connection.prepare("SELECT type FROM event WHERE id = ?1 AND session = ?2")
                defer { row.reset() }
                row.bind(reference.event, at: 1)
                row.bind(session, at: 2)
                return try row.step() ? row.text(0) : nil
            }
        }
        if reference.isRequired {
            guard let type else {
                throw RemfsError(.notFound, "\(label).\(reference.field): event \(reference.event.shortened) not found")
            }
            guard SessionEvent.toolUses.contains(type) else {
                throw RemfsError(.invalidArgument, "\(label).\(reference.field) names an event of type \(type), which is no tool use")
            }
        }
        let field = "\(try json(reference.field)):\(try json(event))"
        return draft.body == "{}" ? "{\(field)}" : "{\(field),\(draft.body.dropFirst())"
    }

    /// Those behind the one with this sequence. A page ends early where its events are large.
    package func events(
        _ transcript: Transcript, _ filter: EventFilter, _ order: Order, after: Int64?, limit: Int
    ) throws(RemfsError) -> EventPage {
        let isAscending = order == .ascending
        let types = try filter.types.isEmpty ? nil : Self.json(filter.types)
        return try read { (connection) throws(RemfsError) in
            let (place, number) = try Self.place(of: transcript, connection)
            let page = try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare(
                    """
                    SELECT id, sequence, type, processed, body FROM event
                    WHERE \(place) AND sequence \(isAscending ? ">" : "<") ?2 AND processed >= ?3 AND processed <= ?4
                        AND (?5 IS NULL OR type IN (SELECT value FROM json_each(?5)))
                    ORDER BY sequence \(isAscending ? "ASC" : "DESC") LIMIT ?6
                    """)
                defer { row.reset() }
                row.bind(number, at: 1)
                row.bind(after ?? (isAscending ? .min : .max), at: 2)
                row.bind(filter.from?.microseconds ?? .min, at: 3)
                row.bind(filter.to?.microseconds ?? .max, at: 4)
                row.bind(types, at: 5)
                row.bind(Int64(limit) + 1, at: 6)
                var rows: [(String, Int64, String, Int64, String)] = []
                var bytes = 0
                while try row.step() {
                    let body = row.text(4) ?? ""
                    bytes += body.utf8.count
                    guard rows.isEmpty || (rows.count < limit && bytes <= Self.pageBytes) else { return (rows, true) }
                    rows.append((row.text(0) ?? "", row.integer(1), row.text(2) ?? "", row.integer(3), body))
                }
                return (rows, false)
            }
            var events: [SessionEvent] = []
            for (id, sequence, type, processed, body) in page.0 {
                guard let id = EventID(id) else { throw RemfsError(.corrupted, "the catalog has an event \(id)") }
                events.append(
                    SessionEvent(id: id, sequence: sequence, type: type, processed: Timestamp(microseconds: processed), body: body))
            }
            return EventPage(events: events, hasMore: page.1)
        }
    }

    /// A condition on `event` and what to bind to its ?1.
    private static func place(of transcript: Transcript, _ connection: Connection) throws(RemfsError) -> (String, Int64) {
        switch transcript {
        case .session(let id): ("session = ?1 AND shown", try session(id, connection).sequence)
        case .thread(let thread, let session): ("thread = ?1", try Self.thread(thread, of: session, connection).sequence)
        }
    }
}
