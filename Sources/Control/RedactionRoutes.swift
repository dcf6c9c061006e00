import Hummingbird
import Storage

/// What becomes of a version after it was written: redacted (`api.md` 5.3), or pinned against retention.
struct RedactionRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/redact", use: redact)
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/pin", use: pin)
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/unpin", use: unpin)
    }

    func redact(_ request: Request, _ context: ControlContext) async throws -> Wire.Version {
        let (id, version) = (try context.storeID, try context.versionID)
        return try await stores.perform(id) { (store) throws(RemfsError) in
            try Wire.Version(try store.redact(version, by: context.author), in: store, .full)
        }
    }

    func pin(_ request: Request, _ context: ControlContext) async throws -> Wire.Version { try await set(context, isPinned: true) }

    func unpin(_ request: Request, _ context: ControlContext) async throws -> Wire.Version { try await set(context, isPinned: false) }

    private func set(_ context: ControlContext, isPinned: Bool) async throws -> Wire.Version {
        let (id, version) = (try context.storeID, try context.versionID)
        return try await stores.perform(id) { (store) throws(RemfsError) in
            try Wire.Version(try store.pin(version, isPinned), in: store, .basic)
        }
    }
}
