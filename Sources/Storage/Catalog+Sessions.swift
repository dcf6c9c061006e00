import SQLite
import Threads

/// Sessions, their attachments and their threads, as rows. Events: `Catalog+Events`.
extension Catalog {
    /// Which way a list goes.
    package enum Order: String, Sendable, CaseIterable {
        case ascending = "asc"
        case descending = "desc"

        package var reversed: Order { self == .ascending ? .descending : .ascending }
    }

    /// What a row keeps of a session besides its columns.
    private struct SessionBody: Codable {
        var system: String?
        var model: String?
        var environment: String
        var vaults: [String]
        var trust: Session.Trust?
        var owner: UInt32?
    }

    private struct AttachmentBody: Codable {
        var name: String
        var description: String
        var instructions: String?
        var options: String?
    }

    private struct ThreadBody: Codable {
        var agent: Session.Agent
    }

    /// Tells of what happens in sessions: called under the catalog's lock right after a commit, so in the order of the commits; it must
    /// not ask the catalog. There is one.
    package func observeSessions(_ observer: @escaping @Sendable (SessionChange) -> Void) {
        sessionObserver.withLock { $0 = observer }
    }

    func tell(_ change: SessionChange) { sessionObserver.withLock { $0 }?(change) }

    /// Runs SQL in a transaction of the catalog.
    static func sql<Answer>(_ body: () throws(SQLiteError) -> Answer) throws(RemfsError) -> Answer {
        try RemfsError.mapping(label, body)
    }

    // MARK: Making and changing

    /// Makes a session with its attachments, its primary thread and its first events: all or nothing.
    package func createSession(_ request: SessionRequest) throws(RemfsError) -> Session {
        let checked = try checked(request)
        return try transaction { (connection) throws(RemfsError) in try createSession(checked, connection) }
    }

    /// A request that may be met, with the stores that it names.
    struct CheckedRequest {
        fileprivate let request: SessionRequest
        fileprivate let attachments: [(SessionRequest.Resource, Store)]
    }

    /// Not within a transaction: it reads stores.
    func checked(_ request: SessionRequest) throws(RemfsError) -> CheckedRequest {
        try request.check()
        var attachments: [(SessionRequest.Resource, Store)] = []
        for (place, resource) in request.resources.enumerated() {
            guard let id = StoreID(resource.store) else {
                throw RemfsError(.notFound, "resources[\(place)]: memory store \(resource.store.shortened) not found")
            }
            let store = try store(id)
            guard store.archived == nil else { throw RemfsError(.readOnly, "resources[\(place)]: \(store.label) is archived") }
            attachments.append((resource, store))
        }
        return CheckedRequest(request: request, attachments: attachments)
    }

    /// Within a transaction.
    func createSession(_ checked: CheckedRequest, _ connection: Connection) throws(RemfsError) -> Session {
        let request = checked.request
        let (id, thread) = (SessionID.random(), ThreadID.random())
        let agent = request.agent
        let body = try Self.json(
            SessionBody(
                system: agent.system, model: agent.model, environment: request.environment, vaults: request.vaults, trust: request.trust,
                owner: request.owner))
        let metadata = Self.text(of: request.metadata)
        let threadBody = try Self.json(ThreadBody(agent: agent))
        let time = now().microseconds
        let session = try Self.sql { () throws(SQLiteError) in
            let row = try connection.prepare(
                """
                INSERT INTO session (id, status, agent, agent_version, title, metadata, body, created, updated)
                VALUES (?1, 'idle', ?2, ?3, ?4, ?5, ?6, ?7, ?7) RETURNING sequence
                """)
            defer { row.reset() }
            row.bind(id.description, at: 1)
            row.bind(agent.id, at: 2)
            row.bind(agent.version, at: 3)
            row.bind(request.title, at: 4)
            row.bind(metadata, at: 5)
            row.bind(body, at: 6)
            row.bind(time, at: 7)
            var sequence: Int64 = 0
            while try row.step() { sequence = row.integer(0) }
            return sequence
        }
        try Self.insert(checked.attachments, of: session, connection)
        let primary = try Self.sql { () throws(SQLiteError) in
            let row = try connection.prepare(
                """
                INSERT INTO thread (id, session, status, body, created, updated) VALUES (?1, ?2, 'idle', ?3, ?4, ?4)
                RETURNING sequence
                """)
            defer { row.reset() }
            row.bind(thread.description, at: 1)
            row.bind(session, at: 2)
            row.bind(threadBody, at: 3)
            row.bind(time, at: 4)
            var sequence: Int64 = 0
            while try row.step() { sequence = row.integer(0) }
            return sequence
        }
        _ = try append(request.events, to: .init(session: session, thread: primary, isShown: true), connection)
        return try Self.session(id, connection)
    }

    private static func insert(
        _ attachments: [(SessionRequest.Resource, Store)], of session: Int64, _ connection: Connection
    ) throws(RemfsError) {
        var slugs: Set<String> = []
        for (place, (resource, store)) in attachments.enumerated() {
            let slug = Slug.unused(Slug.of(store.name, resource.store), among: slugs)
            slugs.insert(slug)
            let body = try json(
                AttachmentBody(
                    name: store.name, description: store.description, instructions: resource.instructions, options: resource.options))
            try sql { () throws(SQLiteError) in
                let row = try connection.prepare(
                    "INSERT INTO attachment (session, place, store, access, slug, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
                row.bind(session, at: 1)
                row.bind(Int64(place + 1), at: 2)
                row.bind(resource.store, at: 3)
                row.bind(resource.access.rawValue, at: 4)
                row.bind(slug, at: 5)
                row.bind(body, at: 6)
                try row.run()
            }
        }
    }

    /// nil stays; `metadata` is a patch in which nil removes a key. At most 16 keys may be left.
    package func updateSession(_ id: SessionID, title: String?, metadata: [ExactString: String?]?) throws(RemfsError) -> Session {
        if let title { try SessionRequest.check(title: title) }
        try StoreLimits.check(name: nil, description: nil, metadata: metadata ?? [:])
        return try transaction { (connection) throws(RemfsError) in
            let session = try Self.session(id, connection)
            var merged = session.metadata
            for (key, value) in metadata ?? [:] { merged[key] = value }
            try StoreLimits.check(pairsOf: merged)
            let newTitle = title ?? session.title
            // In bytes: text that Unicode holds equal is another text to who sent it.
            let keepsTitle = (newTitle ?? "").utf8.elementsEqual((session.title ?? "").utf8) && (newTitle == nil) == (session.title == nil)
            let keepsMetadata =
                merged.count == session.metadata.count
                && merged.allSatisfy { session.metadata[$0.key]?.utf8.elementsEqual($0.value.utf8) == true }
            if keepsTitle, keepsMetadata { return session }
            let text = Self.text(of: merged)
            let time = now().microseconds
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare("UPDATE session SET title = ?2, metadata = ?3, updated = ?4 WHERE sequence = ?1")
                row.bind(session.sequence, at: 1)
                row.bind(newTitle, at: 2)
                row.bind(text, at: 3)
                row.bind(time, at: 4)
                try row.run()
            }
            return try Self.session(id, connection)
        }
    }

    /// Ends a session and keeps its history. Again: unchanged. Refused while it runs.
    package func archiveSession(_ id: SessionID) throws(RemfsError) -> Session {
        try transaction { (connection) throws(RemfsError) in try archiveSession(id, connection) }
    }

    /// Within a transaction.
    func archiveSession(_ id: SessionID, _ connection: Connection) throws(RemfsError) -> Session {
        let session = try Self.session(id, connection)
        guard session.archived == nil else { return session }
        try Self.refuseRunning(session, "archived")
        let time = now().microseconds
        try Self.sql { () throws(SQLiteError) in
            for (table, key) in [("session", "sequence"), ("thread", "session")] {
                let isSession = table == "session"
                let row = try connection.prepare(
                    """
                    UPDATE \(table) SET status = 'terminated', updated = ?2\(isSession ? ", archived = ?2" : "") WHERE \(key) = ?1
                    \(isSession ? "" : "AND status <> 'terminated'")
                    """)
                row.bind(session.sequence, at: 1)
                row.bind(time, at: 2)
                try row.run()
            }
        }
        return try Self.session(id, connection)
    }

    /// Removes a session with its events, threads and attachments. Its stores stay. Refused while it runs.
    package func deleteSession(_ id: SessionID) throws(RemfsError) {
        _ = try transaction { (connection) throws(RemfsError) in
            let session = try Self.session(id, connection)
            try Self.refuseRunning(session, "deleted")
            let threads = try Self.threads(connection, "WHERE session.sequence = ?1") { $0.bind(session.sequence, at: 1) }
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare("DELETE FROM session WHERE sequence = ?1")
                row.bind(session.sequence, at: 1)
                try row.run()
            }
            return SessionChange.deleted(id, threads: threads.map(\.id), at: now())
        } after: {
            tell($0)
        }
    }

    private static func refuseRunning(_ session: Session, _ what: String) throws(RemfsError) {
        guard session.status != .running, session.status != .rescheduling else {
            throw RemfsError(.invalidArgument, "\(session.label) is running: it cannot be \(what)")
        }
    }

    /// Changes how a session may use a store. Not once it is archived, since it has no mounts then.
    package func setAccess(_ access: Access, of store: String, in id: SessionID) throws(RemfsError) -> Attachment {
        try transaction { (connection) throws(RemfsError) in
            let session = try Self.session(id, connection)
            let attachment = try session.attachment(of: store)
            guard session.archived == nil else { throw RemfsError(.readOnly, "\(session.label) is archived") }
            guard attachment.access != access else { return attachment }
            let time = now().microseconds
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare("UPDATE attachment SET access = ?3 WHERE session = ?1 AND place = ?2")
                row.bind(session.sequence, at: 1)
                row.bind(attachment.place, at: 2)
                row.bind(access.rawValue, at: 3)
                try row.run()
                let touched = try connection.prepare("UPDATE session SET updated = ?2 WHERE sequence = ?1")
                touched.bind(session.sequence, at: 1)
                touched.bind(time, at: 2)
                try touched.run()
            }
            return try Self.session(id, connection).attachment(of: store)
        }
    }

    // MARK: Reading

    package func session(_ id: SessionID) throws(RemfsError) -> Session {
        try read { (connection) throws(RemfsError) in try Self.session(id, connection) }
    }

    static func session(_ id: SessionID, _ connection: Connection) throws(RemfsError) -> Session {
        guard let session = try sessions(connection, "WHERE id = ?1", { $0.bind(id.description, at: 1) }).first else {
            throw RemfsError(.notFound, "session \(id) not found")
        }
        return session
    }

    /// Those behind the one with these keys, by time.
    package func sessions(
        _ filter: SessionFilter, _ order: Order, after: (created: Timestamp, sequence: Int64)?, limit: Int
    ) throws(RemfsError) -> [Session] {
        let isAscending = order == .ascending
        let direction = isAscending ? "ASC" : "DESC"
        let statuses = try filter.statuses.isEmpty ? nil : Self.json(filter.statuses.map(\.rawValue))
        return try read { (connection) throws(RemfsError) in
            try Self.sessions(
                connection,
                """
                WHERE (?1 OR archived IS NULL) AND created >= ?2 AND created <= ?3
                    AND (?4 IS NULL OR sequence IN (SELECT session FROM attachment WHERE store = ?4))
                    AND (?5 IS NULL OR (agent = ?5 AND (?6 IS NULL OR agent_version = ?6)))
                    AND (?7 IS NULL OR status IN (SELECT value FROM json_each(?7)))
                    AND (created, sequence) \(isAscending ? ">" : "<") (?8, ?9)
                ORDER BY created \(direction), sequence \(direction) LIMIT ?10
                """
            ) {
                $0.bind(filter.includeArchived ? 1 : 0 as Int64, at: 1)
                $0.bind(filter.from?.microseconds ?? .min, at: 2)
                $0.bind(filter.to?.microseconds ?? .max, at: 3)
                $0.bind(filter.store, at: 4)
                $0.bind(filter.agent, at: 5)
                $0.bind(filter.agentVersion, at: 6)
                $0.bind(statuses, at: 7)
                $0.bind(after?.created.microseconds ?? (isAscending ? .min : .max), at: 8)
                $0.bind(after?.sequence ?? (isAscending ? .min : .max), at: 9)
                $0.bind(Int64(limit), at: 10)
            }
        }
    }

    /// Those that have not ended and have stores, the newest first, at most so many.
    package func liveSessions(atMost limit: Int) throws(RemfsError) -> [Session] {
        try read { (connection) throws(RemfsError) in
            try Self.sessions(
                connection,
                """
                WHERE archived IS NULL AND sequence IN (SELECT session FROM attachment) ORDER BY created DESC, sequence DESC LIMIT ?1
                """
            ) { $0.bind(Int64(limit), at: 1) }
        }
    }

    static func sessions(
        _ connection: Connection, _ condition: String, _ bind: (Statement) -> Void
    ) throws(RemfsError) -> [Session] {
        struct Row {
            let sequence: Int64, id: String, status: String, agent: String, agentVersion: Int64, title: String?
            let metadata: String, body: String, created: Int64, updated: Int64, archived: Int64?, lastEvent: Int64?
        }
        let rows = try sql { () throws(SQLiteError) in
            let row = try connection.prepare(
                """
                SELECT sequence, id, status, agent, agent_version, title, metadata, body, created, updated, archived,
                    (SELECT processed FROM event WHERE event.session = session.sequence AND shown ORDER BY event.sequence DESC LIMIT 1)
                FROM session \(condition)
                """)
            defer { row.reset() }
            bind(row)
            var rows: [Row] = []
            while try row.step() {
                rows.append(
                    Row(
                        sequence: row.integer(0), id: row.text(1) ?? "", status: row.text(2) ?? "", agent: row.text(3) ?? "",
                        agentVersion: row.integer(4), title: row.text(5), metadata: row.text(6) ?? "", body: row.text(7) ?? "",
                        created: row.integer(8), updated: row.integer(9), archived: row.integerOrNil(10), lastEvent: row.integerOrNil(11)))
            }
            return rows
        }
        var sessions: [Session] = []
        for row in rows {
            guard let id = SessionID(row.id), let status = Session.Status(rawValue: row.status) else {
                throw RemfsError(.corrupted, "the catalog has a session \(row.id) with the status \(row.status)")
            }
            let body: SessionBody = try decoded(row.body)
            sessions.append(
                Session(
                    id: id, sequence: row.sequence, status: status, title: row.title, metadata: try metadata(row.metadata),
                    agent: Session.Agent(id: row.agent, version: row.agentVersion, system: body.system, model: body.model),
                    environment: body.environment, vaults: body.vaults, trust: body.trust, owner: body.owner,
                    attachments: try attachments(of: row.sequence, connection), created: Timestamp(microseconds: row.created),
                    updated: Timestamp(microseconds: row.updated), archived: row.archived.map { Timestamp(microseconds: $0) },
                    lastEvent: row.lastEvent.map { Timestamp(microseconds: $0) }))
        }
        return sessions
    }

    private static func attachments(of session: Int64, _ connection: Connection) throws(RemfsError) -> [Attachment] {
        let rows = try sql { () throws(SQLiteError) in
            let row = try connection.prepare("SELECT place, store, access, slug, body FROM attachment WHERE session = ?1 ORDER BY place")
            defer { row.reset() }
            row.bind(session, at: 1)
            var rows: [(Int64, String, String, String, String)] = []
            while try row.step() {
                rows.append((row.integer(0), row.text(1) ?? "", row.text(2) ?? "", row.text(3) ?? "", row.text(4) ?? ""))
            }
            return rows
        }
        var attachments: [Attachment] = []
        for (place, store, access, slug, text) in rows {
            let body: AttachmentBody = try decoded(text)
            guard let access = Access(rawValue: access) else {
                throw RemfsError(.corrupted, "the catalog has an attachment with the access \(access)")
            }
            attachments.append(
                Attachment(
                    place: place, store: store, access: access, slug: slug, name: body.name, description: body.description,
                    instructions: body.instructions, options: body.options))
        }
        return attachments
    }

    // MARK: Threads

    /// A thread of this session; another session's is not found.
    package func thread(_ id: ThreadID, of session: SessionID) throws(RemfsError) -> SessionThread {
        try read { (connection) throws(RemfsError) in try Self.thread(id, of: session, connection) }
    }

    static func thread(_ id: ThreadID, of session: SessionID, _ connection: Connection) throws(RemfsError) -> SessionThread {
        _ = try Self.session(session, connection)
        let found = try threads(connection, "WHERE thread.id = ?1 AND session.id = ?2") {
            $0.bind(id.description, at: 1)
            $0.bind(session.description, at: 2)
        }
        guard let thread = found.first else { throw RemfsError(.notFound, "session thread \(id) not found") }
        return thread
    }

    /// Oldest first, behind the one with this sequence.
    ///
    /// - Parameter statuses: empty: all.
    package func threads(
        of session: SessionID, statuses: [Session.Status], after: Int64, limit: Int
    ) throws(RemfsError) -> [SessionThread] {
        let wanted = try statuses.isEmpty ? nil : Self.json(statuses.map(\.rawValue))
        return try read { (connection) throws(RemfsError) in
            _ = try Self.session(session, connection)
            return try Self.threads(
                connection,
                """
                WHERE session.id = ?1 AND thread.sequence > ?2
                    AND (?3 IS NULL OR thread.status IN (SELECT value FROM json_each(?3)))
                ORDER BY thread.sequence LIMIT ?4
                """
            ) {
                $0.bind(session.description, at: 1)
                $0.bind(after, at: 2)
                $0.bind(wanted, at: 3)
                $0.bind(Int64(limit), at: 4)
            }
        }
    }

    /// Ends a thread that is idle. Again: unchanged.
    package func archiveThread(_ id: ThreadID, of session: SessionID) throws(RemfsError) -> SessionThread {
        try transaction { (connection) throws(RemfsError) in
            let thread = try Self.thread(id, of: session, connection)
            guard thread.archived == nil else { return thread }
            guard thread.status == .idle else {
                throw RemfsError(.invalidArgument, "session thread \(id) is \(thread.status.rawValue): only an idle one can be archived")
            }
            let time = now().microseconds
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare(
                    "UPDATE thread SET status = 'terminated', updated = ?2, archived = ?2 WHERE sequence = ?1")
                row.bind(thread.sequence, at: 1)
                row.bind(time, at: 2)
                try row.run()
            }
            return try Self.thread(id, of: session, connection)
        }
    }

    private static func threads(
        _ connection: Connection, _ condition: String, _ bind: (Statement) -> Void
    ) throws(RemfsError) -> [SessionThread] {
        struct Row {
            let id: String, sequence: Int64, session: String, parent: String?, status: String, body: String
            let created: Int64, updated: Int64, archived: Int64?
        }
        let rows = try sql { () throws(SQLiteError) in
            let row = try connection.prepare(
                """
                SELECT thread.id, thread.sequence, session.id, parent.id, thread.status, thread.body, thread.created, thread.updated,
                    thread.archived
                FROM thread JOIN session ON session.sequence = thread.session LEFT JOIN thread AS parent ON parent.sequence = thread.parent
                \(condition)
                """)
            defer { row.reset() }
            bind(row)
            var rows: [Row] = []
            while try row.step() {
                rows.append(
                    Row(
                        id: row.text(0) ?? "", sequence: row.integer(1), session: row.text(2) ?? "", parent: row.text(3),
                        status: row.text(4) ?? "", body: row.text(5) ?? "", created: row.integer(6), updated: row.integer(7),
                        archived: row.integerOrNil(8)))
            }
            return rows
        }
        var threads: [SessionThread] = []
        for row in rows {
            guard let id = ThreadID(row.id), let session = SessionID(row.session), let status = Session.Status(rawValue: row.status) else {
                throw RemfsError(.corrupted, "the catalog has a thread \(row.id) with the status \(row.status)")
            }
            let body: ThreadBody = try decoded(row.body)
            threads.append(
                SessionThread(
                    id: id, sequence: row.sequence, session: session, parent: row.parent.flatMap { ThreadID($0) }, status: status,
                    agent: body.agent, created: Timestamp(microseconds: row.created), updated: Timestamp(microseconds: row.updated),
                    archived: row.archived.map { Timestamp(microseconds: $0) }))
        }
        return threads
    }
}
