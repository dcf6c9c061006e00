import Hummingbird
import Storage

/// `/v1/keys`: an addition of ours. For those who may do everything.
struct KeyRoutes: Sendable {
    let stores: StorePool
    let keys: KeyRing

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/keys", needs: .all(.admin), use: list)
        routes.on(.post, "/v1/keys", needs: .all(.admin), use: create)
        routes.on(.get, "/v1/keys/:key", needs: .all(.admin), use: get)
        routes.on(.post, "/v1/keys/:key/revoke", needs: .all(.admin), use: revoke)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Key> {
        Wire.Page(data: keys.all().map { Wire.Key($0) }, nextPage: nil)
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Key {
        let body = try await request.collectFields().get()
        try body.allow("name", "permission", "memory_store_ids")
        let name = try body.requiredString("name")
        guard let permission = try body.choice("permission", of: Scopes.Permission.allCases) else {
            throw RemfsError(.invalidArgument, "permission is required")
        }
        var named: Set<StoreID>?
        if let texts = try body.strings("memory_store_ids") {
            guard (1...100).contains(texts.count) else {
                throw RemfsError(.invalidArgument, "memory_store_ids must name 1 to 100 stores, or be left out for all")
            }
            named = []
            for text in texts {
                guard let id = StoreID(text) else { throw RemfsError(.notFound, "memory store \(text.prefix(80)) not found") }
                named?.insert(id)
            }
        }
        let scopes = Scopes(permission, stores: named)
        let keys = keys
        let made = try await stores.run { () throws(RemfsError) in try keys.create(name: name, scopes) }
        return Wire.Key(made.key, secret: made.secret)
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Key { Wire.Key(try keys.key(try context.keyID)) }

    func revoke(_ request: Request, _ context: ControlContext) async throws -> Wire.Key {
        let id = try context.keyID
        let keys = keys
        return Wire.Key(try await stores.run { () throws(RemfsError) in try keys.revoke(id) })
    }
}
