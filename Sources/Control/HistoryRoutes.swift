import HTTPTypes
import Hummingbird
import NIOCore
import Storage

/// What was, and going back to it: differences, restores, forks.
struct HistoryRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/diff", needs: .store(.read), use: diff)
        routes.on(.post, "/v1/memory_stores/:store/restore", needs: .store(.write), use: restore)
        routes.on(.post, "/v1/memory_stores/:store/revert", needs: .store(.write), use: revert)
        routes.on(.post, "/v1/memory_stores/:store/fork", needs: .all(.admin), use: fork)
    }

    func diff(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.storeID
        let query = Result { () throws(RemfsError) in try DiffQuery(try request.query, accepting: request.headers[.accept]) }
        // `try?`: what is wrong with the query is told below, once the store is known to exist.
        if let other = (try? query.get())?.other { try context.require(.read, on: other) }
        let comparison = try await stores.run { () throws(RemfsError) in try stores.compare(id, query) }
        // `try?`: a query that is wrong was refused above.
        guard let query = try? query.get(), query.isUnified else {
            let page = try await stores.run { () throws(RemfsError) in try comparison.page(try query.get()) }
            return try context.responseEncoder.encode(page, from: request, context: context)
        }
        return Response(
            status: .ok, headers: [.contentType: "text/x-diff; charset=utf-8"],
            body: .init { writer in
                var next = query.after
                repeat {
                    let (bytes, following) = try await stores.run { [next] () throws(RemfsError) in
                        try comparison.lent { (comparison) throws(RemfsError) in
                            let page = try comparison.page(after: next, limit: 20)
                            var bytes: [UInt8] = []
                            for difference in page.items {
                                bytes += try comparison.patch(of: difference) { "\($0.path)\t\($0.created.rfc3339)\t\($0.version)" }
                            }
                            return (bytes, page.next)
                        }
                    }
                    next = following
                    if !bytes.isEmpty { try await writer.write(ByteBuffer(bytes: bytes)) }
                } while next != nil
                try await writer.finish(nil)
            })
    }

    func restore(_ request: Request, _ context: ControlContext) async throws -> Wire.Restore {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let body = try parsed.get()
            try body.allow("to", "path_prefix", "path", "memory_id", "dry_run")
            guard let point = StorePoint(try body.requiredString("to"), time: { Timestamp(rfc3339: $0) }) else {
                throw RemfsError(.invalidArgument, "to must be an RFC 3339 time or a memory version")
            }
            let scope = try StoreScope(
                prefix: try body.string("path_prefix"), path: try body.string("path"), memory: try body.string("memory_id"))
            let isDryRun = try body.boolean("dry_run") ?? false
            let outcome = try store.restore(to: point, scope, isDryRun: isDryRun, by: context.author)
            // Of two moments that are behind us: only hashes are asked of it.
            let comparison = try StoreComparison(store, at: .now, with: store, at: .now, .prefix("/"))
            var data: [Wire.Difference] = []
            for difference in outcome.changes { data.append(try Wire.Difference(difference, in: comparison, .basic)) }
            return Wire.Restore(outcome, isDryRun: isDryRun, in: id, data)
        }
    }

    func revert(_ request: Request, _ context: ControlContext) async throws -> Wire.Revert {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let body = try parsed.get()
            try body.allow("session_id", "since", "dry_run")
            // Sessions that the catalog does not know any more have versions all the same.
            guard let session = SessionID(try body.requiredString("session_id")) else {
                throw RemfsError(.invalidArgument, "session_id must be the ID of a session")
            }
            let since = try body.string("since").map { (text) throws(RemfsError) in
                guard let time = Timestamp(rfc3339: text) else { throw RemfsError(.invalidArgument, "since must be an RFC 3339 time") }
                return time
            }
            let isDryRun = try body.boolean("dry_run") ?? false
            let outcome = try store.revert(session, since: since, isDryRun: isDryRun, by: context.author)
            return Wire.Revert(outcome, of: session, since: since, isDryRun: isDryRun, in: id)
        }
    }

    func fork(_ request: Request, _ context: ControlContext) async throws -> Wire.Store {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        let store = try await stores.run { () throws(RemfsError) in
            let source = try stores.catalog.store(id)
            let body = try parsed.get()
            try body.allow("name", "description", "metadata", "at", "history")
            let new = StorePool.NewStore(
                name: try body.requiredString("name"), description: try body.string("description") ?? source.description,
                metadata: try body.metadata("metadata", removing: false)?.compactMapValues { $0 } ?? source.metadata)
            let point = try body.string("at").map { (text) throws(RemfsError) in
                guard let point = StorePoint(text, time: { Timestamp(rfc3339: $0) }) else {
                    throw RemfsError(.invalidArgument, "at must be an RFC 3339 time or a memory version")
                }
                return point
            }
            return try stores.fork(
                id, at: point ?? .now, as: new, keepsHistory: try body.boolean("history") ?? false, by: context.author)
        }
        return Wire.Store(store)
    }
}

/// The query of a diff.
private struct DiffQuery: Sendable {
    let from: StorePoint?
    let to: StorePoint
    let other: StoreID?
    let scope: StoreScope
    let view: View
    let limit: Int
    let after: DifferenceKey?
    let isUnified: Bool

    enum Format: String, CaseIterable { case json, unified }

    init(_ query: Query, accepting accept: String?) throws(RemfsError) {
        func point(_ name: String) throws(RemfsError) -> StorePoint? {
            guard let text = query.string(name) else { return nil }
            guard let point = StorePoint(text, time: { Timestamp(rfc3339: $0) }) else {
                throw RemfsError(.invalidArgument, "query parameter \(name) must be an RFC 3339 time, a memory version, or now")
            }
            return point
        }
        to = try point("to") ?? .now
        scope = try StoreScope(prefix: query.string("path_prefix"), path: query.string("path"), memory: query.string("memory_id"))
        other = try query.string("other").map { (text) throws(RemfsError) in
            guard let id = StoreID(text) else { throw RemfsError(.notFound, "memory store \(text.prefix(80)) not found") }
            return id
        }
        if other != nil, case .memory = scope {
            throw RemfsError(.invalidArgument, "query parameters other and memory_id exclude each other: no memory is in two stores")
        }
        // Of two stores, what both are now.
        from = try point("from") ?? (other == nil ? nil : .now)
        view = try query.choice("view", of: View.allCases) ?? .basic
        let page = try PageRequest(query)
        limit = view == .full ? min(page.limit, 20) : page.limit
        switch page.cursor {
        case nil: after = nil
        case .differences(let key): after = key
        default: throw PageRequest.unreadable
        }
        let format = try query.choice("format", of: Format.allCases)
        isUnified = format == .unified || (format == nil && accept?.hasPrefix("text/x-diff") == true)
    }
}

extension StoreScope {
    fileprivate init(prefix: String?, path: String?, memory: String?) throws(RemfsError) {
        guard [prefix, path, memory].count(where: { $0 != nil }) <= 1 else {
            throw RemfsError(.invalidArgument, "path_prefix, path and memory_id exclude each other")
        }
        if let memory {
            guard let id = MemoryID(memory) else { throw RemfsError(.notFound, "memory \(memory.prefix(80)) not found") }
            self = .memory(id)
        } else if let path {
            guard path.utf8.first == UInt8(ascii: "/") else { throw RemfsError(.invalidArgument, "path must start with /") }
            self = .path(path)
        } else {
            let prefix = prefix ?? "/"
            guard prefix.utf8.first == UInt8(ascii: "/"), prefix.utf8.last == UInt8(ascii: "/") else {
                throw RemfsError(.invalidArgument, "path_prefix must start and end with /")
            }
            self = .prefix(prefix)
        }
    }
}

/// A comparison whose stores are held open as long as it lives.
private final class HeldComparison: Sendable {
    private let comparison: StoreComparison
    private let stores: StorePool
    private let held: [StoreID]

    init(_ comparison: StoreComparison, _ stores: StorePool, _ held: [StoreID]) {
        self.comparison = comparison
        self.stores = stores
        self.held = held
    }

    deinit { for id in held { stores.release(id) } }

    func lent<Answer>(_ body: (StoreComparison) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer { try body(comparison) }

    /// A page, which ends early where there is much to compare.
    func page(_ query: DiffQuery) throws(RemfsError) -> Wire.Page<Wire.Difference> {
        let page = try comparison.page(after: query.after, limit: query.limit)
        var items: [Wire.Difference] = []
        var next = page.next
        var cost: Int64 = 0
        for difference in page.items {
            if query.view == .full, !items.isEmpty {
                cost += StoreComparison.cost(of: difference)
                guard cost <= StoreComparison.bytesPerPage else { break }
            }
            items.append(try Wire.Difference(difference, in: comparison, query.view))
        }
        if items.count < page.items.count { next = page.items[items.count - 1].key }
        return Wire.Page(data: items, nextPage: next.map { Cursor.differences(after: $0).text })
    }
}

extension StorePool {
    fileprivate func compare(_ id: StoreID, _ query: Result<DiffQuery, RemfsError>) throws(RemfsError) -> HeldComparison {
        let store = try retain(id)
        var held = [id]
        do throws(RemfsError) {
            let query = try query.get()
            var other = store
            if let id = query.other {
                other = try retain(id)
                held.append(id)
            }
            return HeldComparison(try StoreComparison(store, at: query.from, with: other, at: query.to, query.scope), self, held)
        } catch {
            for id in held { release(id) }
            throw error
        }
    }
}
