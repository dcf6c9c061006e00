import HTTPTypes
import Hummingbird
import Logging
import Storage

/// `/v1/sessions` and the resources of a session (`api.md` 7).
struct SessionRoutes: Sendable {
    let stores: StorePool
    let mounts: SessionMounts
    let logger: Logger

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/sessions", needs: .all(.read), use: list)
        routes.on(.post, "/v1/sessions", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody, use: create)
        routes.on(.get, "/v1/sessions/:session", needs: .all(.read), use: get)
        routes.on(.post, "/v1/sessions/:session", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody, use: update)
        routes.on(.delete, "/v1/sessions/:session", needs: .all(.write), use: delete)
        routes.on(.post, "/v1/sessions/:session/archive", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody, use: archive)
        routes.on(.get, "/v1/sessions/:session/mounts", needs: .all(.read), use: liveMounts)
        routes.on(.post, "/v1/sessions/:session/mounts", needs: .all(.write), use: mount)
        routes.on(.get, "/v1/sessions/:session/prompt", needs: .all(.read), use: prompt)
        routes.on(.get, "/v1/sessions/:session/resources", needs: .all(.read), use: resources)
        routes.on(
            .post, "/v1/sessions/:session/resources", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody, use: addResource)
        routes.on(.get, "/v1/sessions/:session/resources/:resource", needs: .all(.read), use: resource)
        routes.on(
            .post, "/v1/sessions/:session/resources/:resource", needs: .all(.write), bodyLimit: ControlContext.maximumSessionBody,
            use: updateResource)
        routes.on(.delete, "/v1/sessions/:session/resources/:resource", needs: .all(.write), use: deleteResource)
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Session {
        let body = try await request.collectFields(on: stores).get()
        let session = try await stores.run { () throws(RemfsError) in
            var asked = try SessionRequest(body)
            asked.owner = context.caller?.uid
            return try stores.catalog.createSession(asked)
        }
        if !session.attachments.isEmpty, mounts.isOffered {
            // The session is there, and its transcript and its stores over the socket need no mount: whoever needs one asks for it, and is
            // told then why there is none.
            do { _ = try await stores.run { () throws(RemfsError) in try mounts.mount(session.id) } } catch {
                logger.error("a session's stores are not mounted", metadata: ["session": "\(session.id)", "error": "\(error)"])
            }
        }
        return Wire.Session(session)
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Session {
        let id = try context.sessionID
        return Wire.Session(try await stores.run { () throws(RemfsError) in try stores.catalog.session(id) })
    }

    func update(_ request: Request, _ context: ControlContext) async throws -> Wire.Session {
        let id = try context.sessionID
        let parsed = try await request.collectFields()
        let session = try await stores.run { () throws(RemfsError) in
            _ = try stores.catalog.session(id)
            let body = try parsed.get()
            try body.allow("title", "metadata", "agent", "budget", "vault_ids")
            for key in ["agent", "budget"] where body.has(key) { throw body.refusal(key, "cannot be changed: remfs runs no agents") }
            guard try body.strings("vault_ids")?.isEmpty != false else { throw body.refusal("vault_ids", "cannot be changed") }
            return try stores.catalog.updateSession(
                id, title: try body.string("title"), metadata: try body.metadata("metadata", removing: true))
        }
        return Wire.Session(session)
    }

    func delete(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let id = try context.sessionID
        try await stores.run { () throws(RemfsError) in
            do throws(RemfsError) { try stores.catalog.deleteSession(id) } catch {
                // It may be gone, and its mounts not: an earlier call failed at that.
                if error.code == .notFound { try mounts.end(id) }
                throw error
            }
            try mounts.end(id)
        }
        return Wire.Deleted(id: id.description, type: "session_deleted")
    }

    func archive(_ request: Request, _ context: ControlContext) async throws -> Wire.Session {
        let id = try context.sessionID
        return Wire.Session(
            try await stores.run { () throws(RemfsError) in
                let session = try stores.catalog.archiveSession(id)
                try mounts.end(id)
                return session
            })
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.SessionPage {
        let query = try SessionQuery(try request.query)
        guard query.matchesAnything else { return Wire.SessionPage(data: [], nextPage: nil, previousPage: nil) }
        return try await stores.run { () throws(RemfsError) in try query.page(of: stores.catalog) }
    }

    // MARK: Mounts

    func liveMounts(_ request: Request, _ context: ControlContext) async throws -> Wire.SessionMounts {
        let id = try context.sessionID
        return try await stores.run { () throws(RemfsError) in
            Wire.SessionMounts(id, try mounts.directory(of: id), mounts.live(try stores.catalog.session(id)))
        }
    }

    /// Mounts what is not mounted, and says where.
    func mount(_ request: Request, _ context: ControlContext) async throws -> Wire.SessionMounts {
        let id = try context.sessionID
        try await request.collectFields().get().allow()
        return try await stores.run { () throws(RemfsError) in
            Wire.SessionMounts(id, try mounts.directory(of: id), try mounts.mount(id))
        }
    }

    /// What an agent has to be told of its stores.
    func prompt(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.sessionID
        let text = try await stores.run { () throws(RemfsError) in
            try MemoryPrompt(try stores.catalog.session(id), stores.catalog).text
        }
        return Response(
            status: .ok, headers: [.contentType: "text/markdown; charset=utf-8"], body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }

    // MARK: Resources

    func resources(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Resource> {
        let id = try context.sessionID
        let parsed = Result { () throws(RemfsError) in try PageRequest(try request.query, default: 1_000, maximum: 1_000) }
        let session = try await stores.run { () throws(RemfsError) in try stores.catalog.session(id) }
        let page = try parsed.get()
        let after: Int64
        switch page.cursor {
        case nil: after = 0
        case .resources(session.sequence, let place): after = place
        default: throw PageRequest.unreadable
        }
        let found = session.attachments.filter { $0.place > after }
        let shown = found.prefix(page.limit)
        return Wire.Page(
            data: shown.map { Wire.Resource($0) },
            nextPage: found.count > shown.count
                ? shown.last.map { Cursor.resources(of: session.sequence, after: $0.place).text } : nil)
    }

    func addResource(_ request: Request, _ context: ControlContext) async throws -> Wire.Resource {
        let id = try context.sessionID
        let parsed = try await request.collectFields()
        _ = try await stores.run { () throws(RemfsError) in try stores.catalog.session(id) }
        let type = try parsed.get().string("type") ?? "none"
        throw RemfsError(
            .unsupported, "a resource of type \(Body.quoted(type)) cannot be added: stores are attached when a session is made")
    }

    func resource(_ request: Request, _ context: ControlContext) async throws -> Wire.Resource {
        let (id, resource) = (try context.sessionID, context.parameters.get("resource") ?? "")
        return Wire.Resource(try await stores.run { () throws(RemfsError) in try stores.catalog.session(id).attachment(of: resource) })
    }

    /// Changes a store's access. An addition of ours: the contract has this route for repositories only.
    func updateResource(_ request: Request, _ context: ControlContext) async throws -> Wire.Resource {
        let (id, resource) = (try context.sessionID, context.parameters.get("resource") ?? "")
        let parsed = try await request.collectFields()
        let attachment = try await stores.run { () throws(RemfsError) in
            _ = try stores.catalog.session(id)
            let body = try parsed.get()
            try body.allow("access")
            guard let access = try body.choice("access", of: [Access.readWrite, .readOnly]) else {
                throw RemfsError(.invalidArgument, "access is required")
            }
            return try mounts.setAccess(access, of: resource, in: id)
        }
        return Wire.Resource(attachment)
    }

    func deleteResource(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let (id, resource) = (try context.sessionID, context.parameters.get("resource") ?? "")
        let attachment = try await stores.run { () throws(RemfsError) in try stores.catalog.session(id).attachment(of: resource) }
        throw RemfsError(.unsupported, "memory store \(attachment.store) stays with its session: it cannot be detached")
    }
}

/// The query of the list of sessions.
private struct SessionQuery: Sendable {
    var filter = SessionFilter()
    /// False for a filter that no session of ours can meet.
    let matchesAnything: Bool
    let order: Catalog.Order
    let limit: Int
    let after: (created: Timestamp, sequence: Int64)?
    /// The page ends before `after`.
    let isBackward: Bool

    init(_ query: Query) throws(RemfsError) {
        order = try query.choice("order", of: Catalog.Order.allCases) ?? .descending
        let page = try PageRequest(query)
        limit = page.limit
        switch page.cursor {
        case nil: (after, isBackward) = (nil, false)
        case .sessions(order, let created, let sequence, let isBackward):
            after = (created, sequence)
            self.isBackward = isBackward
        default: throw PageRequest.unreadable
        }
        filter.includeArchived = try query.boolean("include_archived")
        (filter.from, filter.to) = try query.times("created_at")
        filter.statuses = try query.choices("statuses", of: Session.Status.allCases)
        filter.store = query.string("memory_store_id")
        filter.agent = query.string("agent_id")
        filter.agentVersion = try query.integer("agent_version", in: 0...Int.max).map { Int64($0) }
        matchesAnything = query.string("deployment_id") == nil
    }

    func page(of catalog: Catalog) throws(RemfsError) -> Wire.SessionPage {
        var found = try catalog.sessions(filter, isBackward ? order.reversed : order, after: after, limit: limit + 1)
        let hasMore = found.count > limit
        if hasMore { found.removeLast() }
        if isBackward { found.reverse() }
        guard let first = found.first, let last = found.last else {
            return try emptyPage(of: catalog)
        }
        let hasNext = try isBackward ? follows(last, order, catalog) : hasMore
        let isFirstPage = after == nil
        let hasPrevious = try isBackward ? hasMore : isFirstPage ? false : follows(first, order.reversed, catalog)
        return Wire.SessionPage(
            data: found.map { Wire.Session($0) }, nextPage: hasNext ? cursor(last, isBackward: false) : nil,
            previousPage: hasPrevious ? cursor(first, isBackward: true) : nil)
    }

    /// Where nothing is left on this side of the cursor: what it stands on, if that is there, belongs to the other side.
    private func emptyPage(of catalog: Catalog) throws(RemfsError) -> Wire.SessionPage {
        var page = Wire.SessionPage(data: [], nextPage: nil, previousPage: nil)
        guard let after else { return page }
        let way = isBackward ? order : order.reversed
        let sequence = after.sequence + (way == .ascending ? -1 : 1)
        guard try !catalog.sessions(filter, way, after: (after.created, sequence), limit: 1).isEmpty else { return page }
        let cursor = Cursor.sessions(order, created: after.created, sequence: sequence, isBackward: !isBackward).text
        if isBackward { page.nextPage = cursor } else { page.previousPage = cursor }
        return page
    }

    private func follows(_ session: Session, _ order: Catalog.Order, _ catalog: Catalog) throws(RemfsError) -> Bool {
        try !catalog.sessions(filter, order, after: (session.created, session.sequence), limit: 1).isEmpty
    }

    private func cursor(_ session: Session, isBackward: Bool) -> String {
        Cursor.sessions(order, created: session.created, sequence: session.sequence, isBackward: isBackward).text
    }
}

extension SessionRequest {
    /// Keys that are not known are passed over, as the contract has it for this body alone.
    init(_ body: Body) throws(RemfsError) {
        self.init(agent: try Session.Agent(body), environment: try body.requiredString("environment_id"))
        title = try body.string("title")
        metadata = try (body.metadata("metadata", removing: false) ?? [:]).compactMapValues { $0 }
        vaults = try body.strings("vault_ids") ?? []
        if body.has("budget") { throw body.refusal("budget", "is not offered: remfs spends nothing") }
        for resource in try body.objects("resources") ?? [] { resources.append(try Resource(resource)) }
        for event in try body.objects("initial_events") ?? [] {
            guard try event.requiredString("type") == "user.message" else {
                throw event.refusal("type", "must be \"user.message\" in initial events")
            }
            events.append(try SessionEvent.Draft(event))
        }
        if let options = try body.object("remfs") {
            try options.allow("trust")
            trust = try options.choice("trust", of: Session.Trust.allCases)
        }
    }
}

extension SessionRequest.Resource {
    fileprivate init(_ body: Body) throws(RemfsError) {
        guard try body.requiredString("type") == "memory_store" else {
            throw body.refusal("type", "must be \"memory_store\": files and repositories are not offered")
        }
        self.init(
            store: try body.requiredString("memory_store_id"),
            access: try body.choice("access", of: [Access.readWrite, .readOnly]) ?? .readWrite,
            instructions: try body.string("instructions"))
        guard let given = try body.object("remfs") else { return }
        try given.checkMountOptions()
        options = given.json(without: [])
    }
}

extension Session.Agent {
    fileprivate init(_ body: Body) throws(RemfsError) {
        switch body.value("agent") {
        case .string(let id): self.init(id: id)
        case .object:
            guard let agent = try body.object("agent") else { throw body.refusal("agent", "is required") }
            let type = try agent.requiredString("type")
            guard ["agent", "agent_with_overrides"].contains(type) else {
                throw agent.refusal("type", "must be \"agent\" or \"agent_with_overrides\"")
            }
            self.init(id: try agent.requiredString("id"), version: try agent.integer("version", in: 1...Int64.max) ?? 1)
            guard type == "agent_with_overrides" else { return }
            system = try agent.string("system")
            switch agent.value("model") {
            case .null: break
            case .string(let name): model = name
            default: model = try agent.object("model")?.requiredString("id")
            }
        case .null: throw body.refusal("agent", "is required")
        default: throw body.refusal("agent", "must be a string or an object")
        }
    }
}

extension Wire.Session: ResponseEncodable {}
extension Wire.SessionPage: ResponseEncodable {}
extension Wire.SessionMounts: ResponseEncodable {}
extension Wire.Resource: ResponseEncodable {}
extension Wire.Thread: ResponseEncodable {}
