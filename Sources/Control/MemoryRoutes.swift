import HTTPTypes
import Hummingbird
import NIOCore
package import Storage

/// `/v1/memory_stores/{store}/memories` (`api.md` 4).
struct MemoryRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/memories", needs: .store(.read), use: list)
        routes.on(.post, "/v1/memory_stores/:store/memories", needs: .store(.write), use: create)
        routes.on(.get, "/v1/memory_stores/:store/memories/:memory", needs: .store(.read), use: get)
        routes.on(.post, "/v1/memory_stores/:store/memories/:memory", needs: .store(.write), use: update)
        routes.on(.delete, "/v1/memory_stores/:store/memories/:memory", needs: .store(.write), use: delete)
        routes.on(.get, "/v1/memory_stores/:store/memories/:memory/content", needs: .store(.read), use: content)
        routes.on(.post, "/v1/memory_stores/:store/merge", needs: .store(.write), use: merge)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> JSONText {
        let id = try context.storeID
        let query = Result { () throws(RemfsError) in try MemoryQuery(try request.query) }
        return try await stores.list(id) { (store) throws(RemfsError) in
            let query = try query.get()
            // A page is long: it is made into text here, since short answers wait on its connection's thread.
            if let path = query.path { return try JSONText(try only(path, in: store, query.view)) }
            let found = try store.memories(under: query.prefix, depth: query.depth, after: query.after, limit: query.limit + 1)
            let shown = found.prefix(query.limit)
            var items: [Wire.Listing] = []
            for item in shown {
                switch item {
                case .memory(let memory): items.append(.memory(try Wire.Memory(memory, in: store, query.view)))
                case .prefix(let path): items.append(.prefix(path))
                }
            }
            return try JSONText(
                Wire.Page(data: items, nextPage: found.count > shown.count ? shown.last.map { Cursor.memories(after: $0.key).text } : nil))
        }
    }

    /// An addition of ours: the memory at one path, as a page of one or none.
    private func only(_ path: String, in store: MemoryStore, _ view: View) throws(RemfsError) -> Wire.Page<Wire.Listing> {
        do throws(RemfsError) {
            return Wire.Page(data: [.memory(try Wire.Memory(try store.memory(at: path), in: store, view))], nextPage: nil)
        } catch {
            guard error.code == .notFound else { throw error }
            return Wire.Page(data: [], nextPage: nil)
        }
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Memory {
        let id = try context.storeID
        let view = Result { () throws(RemfsError) in try request.query.choice("view", of: View.allCases) ?? .basic }
        let parsed = try await request.collectFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let body = try parsed.get()
            try body.allow("path", "content")
            let path = try MemoryPath(try body.requiredString("path"))
            let content = Array(try body.requiredString("content").utf8)
            let view = try view.get()
            guard let memory = try store.commit(.create(path: path, content: content), by: context.author) else {
                throw RemfsError(.internal, "\(path) was not created")
            }
            return Wire.Memory(memory, content: view == .full ? content : nil)
        }
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Memory {
        let (id, memory) = (try context.storeID, try context.memoryID)
        let view = Result { () throws(RemfsError) in try request.query.choice("view", of: View.allCases) ?? .full }
        return try await stores.look(at: id) { (store) throws(RemfsError) in
            try Wire.Memory(try store.memory(memory), in: store, try view.get())
        }
    }

    func update(_ request: Request, _ context: ControlContext) async throws -> Wire.Memory {
        let (id, memory) = (try context.storeID, try context.memoryID)
        let view = Result { () throws(RemfsError) in try request.query.choice("view", of: View.allCases) ?? .basic }
        let parsed = try await request.collectFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            _ = try store.memory(memory)
            let body = try parsed.get()
            try body.allow("content", "path", "precondition")
            let content = try body.string("content").map { Array($0.utf8) }
            let path = try body.string("path").map { (text) throws(RemfsError) in try MemoryPath(text) }
            guard content != nil || path != nil else { throw RemfsError(.invalidArgument, "one of content and path is required") }
            let precondition = try Precondition(body)
            let view = try view.get()
            guard let changed = try store.commit(.update(memory, content: content, path: path), by: context.author, if: precondition) else {
                throw RemfsError(.internal, "\(memory) was not updated")
            }
            return try Wire.Memory(changed, in: store, view)
        }
    }

    func delete(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let (id, memory) = (try context.storeID, try context.memoryID)
        let expected = Result { () throws(RemfsError) in
            try request.query.string("expected_content_sha256").map { (text) throws(RemfsError) in
                try Precondition(hash: text, in: "query parameter expected_content_sha256")
            }
        }
        try await stores.perform(id) { (store) throws(RemfsError) in
            _ = try store.memory(memory)
            try store.commit(.delete(memory), by: context.author, if: try expected.get())
        }
        return Wire.Deleted(id: memory.description, type: "memory_deleted")
    }

    /// The bytes as they are, whole or one range of them (RFC 9110, 14).
    func content(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (id, memory) = (try context.storeID, try context.memoryID)
        let range = request.headers[.range]
        let content = try await stores.read(id) { (store) throws(RemfsError) in
            let memory = try store.memory(memory)
            return try RawContent(try store.versionContent(of: memory), hash: memory.contentSHA256, range: range, in: store)
        }
        return content.response(context, stores)
    }

    func merge(_ request: Request, _ context: ControlContext) async throws -> Wire.Merge {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let body = try parsed.get()
            try body.allow("path")
            let result = try store.merge(at: try body.requiredString("path"), by: context.author)
            return Wire.Merge(memory: Wire.Memory(result.memory, content: nil), conflicts: result.conflicts)
        }
    }
}

/// The query of the list of memories.
private struct MemoryQuery: Sendable {
    let prefix: String
    let depth: Int
    let view: View
    let limit: Int
    let after: String?
    let path: String?

    init(_ query: Query) throws(RemfsError) {
        prefix = query.string("path_prefix") ?? "/"
        guard prefix.utf8.first == UInt8(ascii: "/"), prefix.utf8.last == UInt8(ascii: "/") else {
            throw RemfsError(.invalidArgument, "query parameter path_prefix must start and end with /")
        }
        depth = try query.integer("depth", in: 0...1) ?? 0
        view = try query.choice("view", of: View.allCases) ?? .basic
        let page = try PageRequest(query)
        // With content a page is capped at 20, without a word: the contract says so.
        limit = view == .full ? min(page.limit, 20) : page.limit
        switch page.cursor {
        case nil: after = nil
        case .memories(let key): after = key
        default: throw PageRequest.unreadable
        }
        path = query.string("path")
    }
}

extension MemoryListing {
    /// The sort key, from which a cursor goes on.
    fileprivate var key: String {
        switch self {
        case .memory(let memory): memory.path
        case .prefix(let path): path
        }
    }
}

extension Precondition {
    /// The field `precondition` of an update.
    package init?(_ body: Body) throws(RemfsError) {
        guard let fields = try body.object("precondition") else { return nil }
        try fields.allow("type", "content_sha256")
        guard try fields.requiredString("type") == "content_sha256" else {
            throw RemfsError(.invalidArgument, "precondition.type must be \"content_sha256\"")
        }
        try self.init(hash: try fields.requiredString("content_sha256"), in: "precondition.content_sha256")
    }

    package init(hash: String, in field: String) throws(RemfsError) {
        guard hash.utf8.count == 64, hash.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }) else {
            throw RemfsError(.invalidArgument, "\(field) must be 64 lower-case hexadecimal digits")
        }
        self = .contentSHA256(hash)
    }
}
