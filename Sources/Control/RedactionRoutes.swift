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

    /// Without a body it answers the version, as the contract has it; with `derived` what became of its bytes elsewhere as well.
    func redact(_ request: Request, _ context: ControlContext) async throws -> Response {
        let (id, version) = (try context.storeID, try context.versionID)
        let parsed = try await request.collectOptionalFields()
        let stores = stores
        // What is unknown is 404 whatever the body says.
        try await stores.perform(id) { (store) throws(RemfsError) in _ = try store.version(version) }
        let body = try parsed.get()
        try body?.allow("derived")
        if let derived = try body?.boolean("derived") {
            let redaction = try await stores.run { () throws(RemfsError) in
                try Wire.Redaction(
                    try stores.redact(version, in: id, derived: derived, scopes: context.scopes, by: context.author), of: id, stores)
            }
            return try context.responseEncoder.encode(redaction, from: request, context: context)
        }
        let answer = try await stores.perform(id) { (store) throws(RemfsError) in
            try Wire.Version(try store.redact(version, by: context.author), in: store, .full)
        }
        return try context.responseEncoder.encode(answer, from: request, context: context)
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
