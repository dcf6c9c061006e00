import HTTPTypes
import Hummingbird
import NIOCore
import Storage

/// What becomes of a version or an event after it was written: redacted (`api.md` 5.3 and 13), or pinned against retention.
struct RedactionRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/redact", needs: .store(.admin), use: redact)
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/pin", needs: .store(.write), use: pin)
        routes.on(.post, "/v1/memory_stores/:store/memory_versions/:version/unpin", needs: .store(.write), use: unpin)
        routes.on(.post, "/v1/sessions/:session/events/:event/redact", needs: .all(.admin), use: redactEvent)
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

    func redactEvent(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (session, event) = (try context.sessionID, try context.eventID)
        let actor = context.author.actor
        let redacted = try await stores.run { () throws(RemfsError) in
            try stores.catalog.redactEvent(event, of: session) { time in
                ["redacted_at": .string(time.rfc3339), "redacted_by": Wire.Actor(actor).json]
            }
        }
        return Response(
            status: .ok, headers: [.contentType: "application/json; charset=utf-8"],
            body: .init(byteBuffer: ByteBuffer(string: redacted.json)))
    }
}
