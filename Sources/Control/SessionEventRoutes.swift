import HTTPTypes
import Hummingbird
import NIOCore
import Storage

/// Events and threads of a session, listed and streamed (`api.md` 7.6 and 7.8).
struct SessionEventRoutes: Sendable {
    let stores: StorePool
    let streams: SessionStreams

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/sessions/:session/events", needs: .all(.read), use: list)
        routes.on(.post, "/v1/sessions/:session/events", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody, use: send)
        routes.on(.get, "/v1/sessions/:session/events/stream", needs: .all(.read), use: stream)
        routes.on(.get, "/v1/sessions/:session/threads", needs: .all(.read), use: threads)
        routes.on(.get, "/v1/sessions/:session/threads/:thread", needs: .all(.read), use: thread)
        routes.on(
            .post, "/v1/sessions/:session/threads/:thread/archive", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody,
            use: archiveThread)
        routes.on(.get, "/v1/sessions/:session/threads/:thread/events", needs: .all(.read), use: listThread)
        routes.on(.get, "/v1/sessions/:session/threads/:thread/stream", needs: .all(.read), use: streamThread)
    }

    // MARK: Events

    func send(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.sessionID
        let parsed = try await request.collectFields(on: stores)
        return Self.response(
            try await stores.run { () throws(RemfsError) in
                _ = try stores.catalog.session(id)
                let events = try stores.catalog.send(SessionEvent.Draft.all(in: parsed.get()), to: id)
                return Self.json(events, nextPage: nil, isPage: false)
            })
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.sessionID
        let query = Result { () throws(RemfsError) in try EventQuery(try request.query, isFiltered: true) }
        return try await page(.session(id), of: id, query) { catalog throws(RemfsError) in try catalog.session(id).sequence }
    }

    func listThread(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (id, thread) = (try context.sessionID, try context.threadID)
        let query = Result { () throws(RemfsError) in try EventQuery(try request.query, isFiltered: false) }
        return try await page(.thread(thread, of: id), of: id, query) { catalog throws(RemfsError) in
            // A thread's number and a session's may be the same; the sign tells their cursors apart.
            -(try catalog.thread(thread, of: id).sequence)
        }
    }

    /// - Parameter number: what a cursor of this list is bound to.
    private func page(
        _ transcript: Catalog.Transcript, of id: SessionID, _ query: Result<EventQuery, RemfsError>,
        _ number: @escaping @Sendable (Catalog) throws(RemfsError) -> Int64
    ) async throws -> Response {
        let body = try await stores.run { () throws(RemfsError) in
            // The session first: an unknown one is 404 whatever the query says.
            let number = try number(stores.catalog)
            let query = try query.get()
            var after: Int64?
            switch query.page.cursor {
            case nil: break
            case .events(query.order, number, let sequence): after = sequence
            default: throw PageRequest.unreadable
            }
            let page = try stores.catalog.events(transcript, query.filter, query.order, after: after, limit: query.page.limit)
            let last = page.hasMore ? page.events.last : nil
            let next = last.map { Cursor.events(query.order, of: number, after: $0.sequence).text }
            return Self.json(page.events, nextPage: next, isPage: true)
        }
        return Self.response(body)
    }

    private static func response(_ body: ByteBuffer) -> Response {
        Response(status: .ok, headers: [.contentType: "application/json; charset=utf-8"], body: .init(byteBuffer: body))
    }

    /// Events are JSON already.
    private static func json(_ events: [SessionEvent], nextPage: String?, isPage: Bool) -> ByteBuffer {
        var body = ByteBuffer()
        body.writeString(#"{"data":["#)
        for (place, event) in events.enumerated() {
            if place > 0 { body.writeString(",") }
            body.writeString(event.json)
        }
        body.writeString("]")
        if isPage { body.writeString(#","next_page":\#(nextPage.map { "\"\($0)\"" } ?? "null")"#) }
        body.writeString("}")
        return body
    }

    // MARK: Streams

    func stream(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.sessionID
        return try await stream(.session(id), request, context) { catalog throws(RemfsError) in _ = try catalog.session(id) }
    }

    func streamThread(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (id, thread) = (try context.sessionID, try context.threadID)
        return try await stream(.thread(thread), request, context) { catalog throws(RemfsError) in _ = try catalog.thread(thread, of: id) }
    }

    private func stream(
        _ topic: SessionStreams.Topic, _ request: Request, _ context: ControlContext,
        _ find: @escaping @Sendable (Catalog) throws(RemfsError) -> Void
    ) async throws -> Response {
        // Before the look whether it is there, so that nothing is lost in between, its deletion included.
        let reader = streams.subscribe(to: topic, context.requestID)
        try await stores.run { () throws(RemfsError) in try find(stores.catalog) }
        let deltas = try request.query.choices("event_deltas", of: Preview.allCases)
        guard deltas.count <= Preview.most else {
            throw RemfsError(.invalidArgument, "query parameter event_deltas has \(deltas.count) values: at most \(Preview.most)")
        }
        return EventStream.response(reader, context)
    }

    /// What a client may ask to see while it is made. We send none: previews are best effort.
    private enum Preview: String, CaseIterable {
        case message = "agent.message"
        case thinking = "agent.thinking"

        static let most = 100
    }

    // MARK: Threads

    func threads(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Thread> {
        let id = try context.sessionID
        let asked = Result { () throws(RemfsError) in
            let query = try request.query
            return (
                try PageRequest(query, default: 1_000, maximum: 1_000), try query.choices("statuses", of: Session.Status.allCases)
            )
        }
        return try await stores.run { () throws(RemfsError) in
            let session = try stores.catalog.session(id)
            let (page, statuses) = try asked.get()
            let after: Int64
            switch page.cursor {
            case nil: after = 0
            case .threads(session.sequence, let sequence): after = sequence
            default: throw PageRequest.unreadable
            }
            let found = try stores.catalog.threads(of: id, statuses: statuses, after: after, limit: page.limit + 1)
            let shown = found.prefix(page.limit)
            return Wire.Page(
                data: shown.map { Wire.Thread($0) },
                nextPage: found.count > shown.count
                    ? shown.last.map { Cursor.threads(of: session.sequence, after: $0.sequence).text } : nil)
        }
    }

    func thread(_ request: Request, _ context: ControlContext) async throws -> Wire.Thread {
        let (id, thread) = (try context.sessionID, try context.threadID)
        return Wire.Thread(try await stores.run { () throws(RemfsError) in try stores.catalog.thread(thread, of: id) })
    }

    func archiveThread(_ request: Request, _ context: ControlContext) async throws -> Wire.Thread {
        let (id, thread) = (try context.sessionID, try context.threadID)
        return Wire.Thread(try await stores.run { () throws(RemfsError) in try stores.catalog.archiveThread(thread, of: id) })
    }
}

/// The query of a list of events.
private struct EventQuery: Sendable {
    var filter = EventFilter()
    var order = Catalog.Order.ascending
    let page: PageRequest

    /// - Parameter isFiltered: a thread's list takes `limit` and `page` only.
    init(_ query: Query, isFiltered: Bool) throws(RemfsError) {
        page = try PageRequest(query, default: 100, maximum: 1_000)
        guard isFiltered else { return }
        order = try query.choice("order", of: Catalog.Order.allCases) ?? .ascending
        (filter.from, filter.to) = try query.times("created_at")
        // Not held against a list: clients know types that we never make, and those match nothing.
        filter.types = query.strings("types")
    }
}
