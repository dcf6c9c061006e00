import HTTPTypes
import Hummingbird
import ServiceLifecycle
import Storage

/// `/v1/memory_stores/{store}/memory_versions` (`api.md` 5).
struct VersionRoutes: Sendable {
    let stores: StorePool
    let watch: VersionWatch

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/memory_versions", needs: .store(.read), use: list)
        routes.on(.get, "/v1/memory_stores/:store/memory_versions/:version", needs: .store(.read), use: get)
        routes.on(.get, "/v1/memory_stores/:store/memory_versions/:version/content", needs: .store(.read), use: content)
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/restore", needs: .store(.write), use: restore)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Version> {
        let id = try context.storeID
        let query = Result { () throws(RemfsError) in try VersionQuery(try request.query, id) }
        // The store first: an unknown one is 404 whatever the query says.
        let page = try await stores.list(id) { (store) throws(RemfsError) in try self.page(try query.get(), in: store) }
        // `try?`: a query that is wrong was refused above.
        guard page.data.isEmpty, let query = try? query.get(), let after = query.after, query.wait > .zero else { return page }
        return try await follow(query, after: after, in: id, page)
    }

    /// Answers with the versions after one, as soon as there are any that the filter lets through, at most `query.wait` from now.
    private func follow(
        _ query: VersionQuery, after number: Int64, in id: StoreID, _ empty: Wire.Page<Wire.Version>
    ) async throws -> Wire.Page<Wire.Version> {
        let deadline = ContinuousClock.now + query.wait
        return try await cancelWhenGracefulShutdown {
            var page = empty
            var seen = number
            while page.data.isEmpty, await watch.wait(for: id, after: seen, until: deadline) {
                let told: Int64?
                (page, told) = try await stores.perform(id) { [seen] (store) throws(RemfsError) in
                    // What the filter hides counts as seen, so that it does not wake us again.
                    (try self.page(query, in: store), try store.versions(VersionFilter(), after: seen, limit: 1_000).last?.number)
                }
                if let told {
                    seen = told
                } else {
                    // Still being written, or so young that it may be a temporary file: a second decides that, and nobody tells of it.
                    try await Task.sleep(until: min(deadline, .now + .seconds(1)), clock: .continuous)
                }
            }
            return page
        }
    }

    private func page(_ query: VersionQuery, in store: MemoryStore) throws(RemfsError) -> Wire.Page<Wire.Version> {
        guard query.matchesAnything else { return Wire.Page(data: [], nextPage: nil) }
        let found =
            if let after = query.after {
                try store.versions(query.filter, after: after, limit: query.limit)
            } else {
                try store.versions(query.filter, before: query.before, limit: query.limit + 1)
            }
        let shown = found.prefix(query.limit)
        var items: [Wire.Version] = []
        for version in shown { items.append(try Wire.Version(version, in: store, query.view)) }
        return Wire.Page(
            data: items, nextPage: found.count > shown.count ? shown.last.map { Cursor.versions(before: $0.number).text } : nil)
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Version {
        let (id, version) = (try context.storeID, try context.versionID)
        let view = Result { () throws(RemfsError) in try request.query.choice("view", of: View.allCases) ?? .full }
        return try await stores.look(at: id) { (store) throws(RemfsError) in
            try Wire.Version(try store.version(version), in: store, try view.get())
        }
    }

    func content(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (id, version) = (try context.storeID, try context.versionID)
        let range = request.headers[.range]
        let content = try await stores.read(id) { (store) throws(RemfsError) in
            let version = try store.version(version)
            guard let content = try store.versionContent(of: version) else {
                throw RemfsError(.notFound, "memory version \(version.id) has no content")
            }
            return try RawContent(content, hash: version.contentSHA256 ?? "", range: range, in: store)
        }
        return content.response(context, stores)
    }

    func restore(_ request: Request, _ context: ControlContext) async throws -> Wire.Memory {
        let (id, version) = (try context.storeID, try context.versionID)
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let wanted = try store.version(version)
            return Wire.Memory(try store.restore(wanted.memory, to: version, by: context.author), content: nil)
        }
    }
}

/// The query of the list of versions.
private struct VersionQuery: Sendable {
    var filter = VersionFilter()
    /// False when the filters exclude each other or name what no version can have: the list is empty then, by the contract.
    var matchesAnything = true
    let view: View
    let limit: Int
    let before: Int64?
    /// Set to list oldest first from here, and to wait for more.
    let after: Int64?
    let wait: Duration

    init(_ query: Query, _ store: StoreID) throws(RemfsError) {
        view = try query.choice("view", of: View.allCases) ?? .basic
        let page = try PageRequest(query)
        limit = view == .full ? min(page.limit, 20) : page.limit
        switch page.cursor {
        case nil: before = nil
        case .versions(let number): before = number
        default: throw PageRequest.unreadable
        }
        switch query.string("after") {
        case nil: after = nil
        case "start": after = 0
        case let text?:
            guard let number = VersionID(text)?.number(in: store) else {
                throw RemfsError(.invalidArgument, "query parameter after must be \"start\" or a memory version of this store")
            }
            after = number
        }
        wait = .seconds(try query.integer("wait", in: 0...60) ?? 0)
        guard after == nil || page.cursor == nil else {
            throw RemfsError(.invalidArgument, "query parameters after and page exclude each other")
        }

        filter.operation = try query.choice("operation", of: MemoryVersion.Operation.allCases)
        filter.from = try query.time("created_at[gte]")
        filter.to = try query.time("created_at[lte]")
        filter.path = query.string("path")
        filter.staleOnly = try query.boolean("stale")
        if let text = query.string("memory_id") {
            filter.memory = MemoryID(text)
            if filter.memory == nil { matchesAnything = false }
        }
        for (name, isRight) in Self.actors {
            guard let text = query.string(name) else { continue }
            let actor = MemoryActor(id: text)
            if actor.map(isRight) != true || (filter.actor != nil && filter.actor != text) { matchesAnything = false }
            filter.actor = text
        }
    }

    private static let actors: [(String, @Sendable (MemoryActor) -> Bool)] = [
        ("session_id", { if case .session = $0 { true } else { false } }),
        ("api_key_id", { if case .api = $0 { true } else { false } }),
        ("service_account_id", { if case .serviceAccount = $0 { true } else { false } }),
        ("user_id", { if case .user = $0 { true } else { false } }),
    ]
}
