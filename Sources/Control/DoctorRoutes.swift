import Hummingbird
import Storage

/// What `remfs doctor` asks of a running daemon: additions of ours.
struct DoctorRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/check", needs: .store(.admin), use: check)
        routes.on(.post, "/v1/memory_stores/:store/repair", needs: .store(.admin), use: repair)
        routes.on(.get, "/v1/remfs/check", needs: .all(.admin), use: checkState)
        routes.on(.post, "/v1/remfs/repair", needs: .all(.admin), use: repairState)
    }

    func check(_ request: Request, _ context: ControlContext) async throws -> Wire.Diagnosis {
        let id = try context.storeID
        return Wire.Diagnosis(try await stores.run { () throws(RemfsError) in try stores.check(id) })
    }

    func repair(_ request: Request, _ context: ControlContext) async throws -> Wire.Diagnosis {
        let id = try context.storeID
        let parsed = try await request.collectFields()
        return Wire.Diagnosis(
            try await stores.run { () throws(RemfsError) in
                _ = try stores.catalog.store(id)
                try parsed.get().allow()
                return try stores.repair(id)
            })
    }

    func checkState(_ request: Request, _ context: ControlContext) async throws -> Wire.Diagnosis {
        Wire.Diagnosis(try await stores.run { () throws(RemfsError) in try stores.checkState() })
    }

    func repairState(_ request: Request, _ context: ControlContext) async throws -> Wire.Diagnosis {
        let body = try await request.collectFields().get()
        try body.allow("adopt")
        let text = try body.string("adopt")
        let id = text.flatMap { StoreID($0) }
        if let text, id == nil { throw RemfsError(.invalidArgument, "adopt must be the ID of a store, not \(text.prefix(80))") }
        return Wire.Diagnosis(try await stores.run { () throws(RemfsError) in try stores.repairState(adopting: id) })
    }
}
