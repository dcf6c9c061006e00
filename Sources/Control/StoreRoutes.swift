import Foundation
import HTTPTypes
import Hummingbird
package import Storage

/// `/v1/memory_stores`: stores and their policies (`api.md` 3 and 13).
struct StoreRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores", needs: .some(.read), use: list)
        routes.on(.post, "/v1/memory_stores", needs: .all(.admin), use: create)
        routes.on(.get, "/v1/memory_stores/:store", needs: .store(.read), use: get)
        routes.on(.post, "/v1/memory_stores/:store", needs: .store(.admin), use: update)
        routes.on(.delete, "/v1/memory_stores/:store", needs: .store(.admin), use: delete)
        routes.on(.post, "/v1/memory_stores/:store/archive", needs: .store(.admin), use: archive)
        routes.on(.get, "/v1/memory_stores/:store/policy", needs: .store(.read), use: policy)
        routes.on(.post, "/v1/memory_stores/:store/policy", needs: .store(.admin), use: setPolicy)
        routes.on(.get, "/v1/memory_stores/:store/statistics", needs: .store(.read), use: statistics)
        routes.on(.get, "/v1/memory_stores/:store/backup", needs: .store(.read), use: backup)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Store> {
        let query = try request.query
        let page = try PageRequest(query)
        // An addition of ours: the stores of one name, for `remfs`'s "an ID, or a name that only one store has".
        if let name = query.string("name") {
            let archived = try query.boolean("include_archived")
            let named = try await stores.run { () throws(RemfsError) in
                try stores.catalog.stores(named: name, includeArchived: archived)
            }
            return Wire.Page(data: named.filter { context.scopes.allows(.read, on: $0.id) }.map { Wire.Store($0) }, nextPage: nil)
        }
        var filter = StoreFilter()
        filter.includeArchived = try query.boolean("include_archived")
        filter.from = try query.time("created_at[gte]")
        filter.to = try query.time("created_at[lte]")
        filter.among = context.scopes.stores
        var before: (created: Timestamp, sequence: Int64)?
        switch page.cursor {
        case nil: break
        case .stores(let created, let sequence): before = (created, sequence)
        default: throw PageRequest.unreadable
        }
        let found = try await stores.run { [filter, before] () throws(RemfsError) in
            try stores.catalog.stores(filter, before: before, limit: page.limit + 1)
        }
        let shown = found.prefix(page.limit)
        return Wire.Page(
            data: shown.map { Wire.Store($0) },
            nextPage: found.count > shown.count
                ? shown.last.map { Cursor.stores(created: $0.created, sequence: $0.sequence).text } : nil)
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Store {
        let body = try await request.collectFields().get()
        try body.allow("name", "description", "metadata")
        let name = try body.requiredString("name")
        let description = try body.string("description") ?? ""
        let metadata = try body.metadata("metadata", removing: false) ?? [:]
        let store = try await stores.run { () throws(RemfsError) in
            try stores.createStore(name: name, description: description, metadata: metadata.compactMapValues { $0 })
        }
        return Wire.Store(store)
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Store {
        let id = try context.storeID
        return Wire.Store(try stores.catalog.store(id))
    }

    func update(_ request: Request, _ context: ControlContext) async throws -> Wire.Store {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        let store = try await stores.run { () throws(RemfsError) in
            _ = try stores.catalog.store(id)
            let body = try parsed.get()
            try body.allow("name", "description", "metadata")
            let (name, description) = (try body.string("name"), try body.string("description"))
            let metadata = try body.metadata("metadata", removing: true)
            return try stores.catalog.updateStore(id, name: name, description: description, metadata: metadata)
        }
        return Wire.Store(store)
    }

    func delete(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let id = try context.storeID
        try await stores.run { () throws(RemfsError) in try stores.deleteStore(id) }
        return Wire.Deleted(id: id.description, type: "memory_store_deleted")
    }

    func archive(_ request: Request, _ context: ControlContext) async throws -> Wire.Store {
        let id = try context.storeID
        return Wire.Store(try await stores.run { () throws(RemfsError) in try stores.archiveStore(id) })
    }

    func policy(_ request: Request, _ context: ControlContext) async throws -> Wire.Policy {
        let id = try context.storeID
        return Wire.Policy(try await stores.run { () throws(RemfsError) in try stores.catalog.store(id) }.policy, of: id)
    }

    func setPolicy(_ request: Request, _ context: ControlContext) async throws -> Wire.Policy {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        let store = try await stores.run { () throws(RemfsError) in
            var policy = try stores.catalog.store(id).policy
            try policy.apply(try parsed.get())
            return try stores.setPolicy(id, policy)
        }
        return Wire.Policy(store.policy, of: id)
    }

    func statistics(_ request: Request, _ context: ControlContext) async throws -> Wire.StoreStatistics {
        let id = try context.storeID
        let numbers = try await stores.perform(id) { (store) throws(RemfsError) in try store.statistics() }
        return Wire.StoreStatistics(
            memoryStoreID: id.description, memories: numbers.memories, versions: numbers.versions, files: numbers.files,
            contentSizeBytes: numbers.bytes, diskSizeBytes: numbers.fileBytes)
    }

    /// One SQLite file, copied while the store goes on.
    func backup(_ request: Request, _ context: ControlContext) async throws -> Response {
        try await SpoolFile.backup(of: try context.storeID, stores, context)
    }
}

extension Policy {
    /// Applies a patch: what is absent or null stays. Zero takes the limit off `max_bytes` and `retention_days`; the other two have to be
    /// there, and with zero nothing could be written.
    package mutating func apply(_ body: Body) throws(RemfsError) {
        try body.allow(
            "access", "contract", "max_bytes_per_memory", "max_memories", "max_bytes", "unversioned", "secrets", "retention_days")
        if let value = try body.choice("access", of: [Access.readWrite, .readOnly]) { access = value }
        if let value = try body.boolean("contract") { contract = value }
        if let value = try body.integer("max_bytes_per_memory", in: 1...Int64.max) { maxBytesPerMemory = value }
        if let value = try body.integer("max_memories", in: 1...Int64.max) { maxMemories = value }
        if let value = try body.integer("max_bytes", in: 0...Int64.max) { maxBytes = value == 0 ? nil : value }
        if let value = try body.strings("unversioned") {
            guard value.count <= 100, value.allSatisfy({ !$0.isEmpty && $0.utf8.count <= 1_024 && !$0.utf8.contains(0) }) else {
                throw RemfsError(.invalidArgument, "unversioned must be at most 100 patterns of 1 to 1,024 bytes")
            }
            unversioned = value
        }
        if let value = try body.choice("secrets", of: [Secrets.allow, .warn, .refuse]) { secrets = value }
        if let value = try body.integer("retention_days", in: 0...36_500) { retentionDays = value == 0 ? nil : Int(value) }
    }
}
