import HTTPTypes
package import Hummingbird
package import NIOCore
package import Storage

/// What belongs to one request: its ID, its connection, and the process at the other end.
package struct ControlContext: RequestContext {
    /// Memory and dream routes (`api.md` 1.5); the largest body that fits a memory of 102,400 bytes is 614 kB of `\u0000`.
    package static let maximumBody = 4 << 20
    /// Session routes: a transcript comes in with its documents and images.
    package static let maximumSessionBody = 32 << 20

    package var coreContext: CoreRequestContextStorage
    package let channel: any Channel
    package let requestID: Storage.RequestID
    /// The process at the other end; nil: it came over TCP.
    package var caller: Peer?
    /// The key that came with the request.
    package var key: APIKey?
    /// What the request may do; nothing, until `CallerMiddleware` says it.
    package var scopes = Scopes(.read, stores: [])

    /// Of the route that is asked, in bytes, where it is not the usual one.
    @TaskLocal static var bodyLimit = maximumBody

    /// Where its connection came in.
    let door: Door

    package init(source: ApplicationRequestContextSource) { self.init(source: source, door: .network(HostNames())) }

    init(source: ApplicationRequestContextSource, door: Door) {
        coreContext = .init(source: source)
        channel = source.channel
        requestID = Storage.RequestID.random()
        self.door = door
    }

    package var maxUploadSize: Int { Self.maximumBody }

    package var responseEncoder: JSONWriter { JSONWriter() }

    /// Who a version made by this request names.
    package var author: Author {
        Author(
            key.map { .api(keyID: $0.id.description) } ?? .local,
            writer: caller.map { Writer(uid: $0.uid, pid: $0.pid, command: $0.command) } ?? Writer())
    }

    /// Refuses what the caller may not do to a store.
    package func require(_ permission: Scopes.Permission, on store: StoreID) throws(RemfsError) {
        guard scopes.allows(permission, on: store) else { throw outOfScope(permission, store.description) }
    }

    /// Refuses what belongs to no store, or to all.
    func requireEverywhere(_ permission: Scopes.Permission) throws(RemfsError) {
        guard scopes.allowsEverywhere(permission) else { throw outOfScope(permission) }
    }

    /// The same for a store that exists or not: whose key is for others does not learn it.
    func outOfScope(_ permission: Scopes.Permission, _ what: String? = nil) -> RemfsError {
        let who = key.map { "key \($0.id)" } ?? "this caller"
        return RemfsError(.notPermitted, "\(who) does not allow to \(permission.rawValue)\(what.map { " memory store \($0)" } ?? " this")")
    }

    /// The ID in the path, or the 404 that an ID gives which no store, memory or version of ours can have.
    func id<ID: Identifier>(_ name: String, of thing: String, as type: ID.Type = ID.self) throws(RemfsError) -> ID {
        let text = parameters.get(name) ?? ""
        guard let id = ID(text) else {
            throw RemfsError(.notFound, "\(thing) \(text.unicodeScalars.count > 80 ? "" : "\(text) ")not found")
        }
        return id
    }

    var storeID: StoreID { get throws(RemfsError) { try id("store", of: "memory store") } }
    var memoryID: MemoryID { get throws(RemfsError) { try id("memory", of: "memory") } }
    var versionID: VersionID { get throws(RemfsError) { try id("version", of: "memory version") } }
    var sessionID: SessionID { get throws(RemfsError) { try id("session", of: "session") } }
    var threadID: ThreadID { get throws(RemfsError) { try id("thread", of: "session thread") } }
    var eventID: EventID { get throws(RemfsError) { try id("event", of: "event") } }
    var mountID: MountID { get throws(RemfsError) { try id("mount", of: "mount") } }
    var keyID: APIKeyID { get throws(RemfsError) { try id("key", of: "key") } }
}

extension Request {
    var query: Query { get throws(RemfsError) { try Query(parsing: uri.query) } }

    /// The body, read to its end and parsed. A result, since the contract wants to know first whether what the path names exists.
    func collectFields() async throws -> Result<Body, RemfsError> {
        let bytes = try await collectBytes()
        do throws(RemfsError) {
            return .success(try Body(parsing: bytes.readableBytesView))
        } catch {
            return .failure(error)
        }
    }

    /// As `collectFields`, where a body may be left out: nil then.
    func collectOptionalFields() async throws -> Result<Body?, RemfsError> {
        let bytes = try await collectBytes()
        guard bytes.readableBytes > 0 else { return .success(nil) }
        do throws(RemfsError) {
            return .success(try Body(parsing: bytes.readableBytesView))
        } catch {
            return .failure(error)
        }
    }

    /// As `collectFields`; a large body is parsed by the pool, since the threads that serve requests are few, and parsing 32 MiB takes long.
    func collectFields(on stores: StorePool) async throws -> Result<Body, RemfsError> {
        let bytes = try await collectBytes()
        do throws(RemfsError) {
            guard bytes.readableBytes > 64 << 10 else { return .success(try Body(parsing: bytes.readableBytesView)) }
            return .success(try await stores.run { () throws(RemfsError) in try Body(parsing: bytes.readableBytesView) })
        } catch {
            return .failure(error)
        }
    }

    /// What goes wrong here is the client's doing: it sends too much, or no HTTP, or has gone.
    private func collectBytes() async throws -> ByteBuffer {
        let limit = ControlContext.bodyLimit
        let tooLarge = RemfsError(.bodyTooLarge, "request body is over \(limit) bytes")
        // A client that waits for leave to send gets its refusal instead. (Others are sending, and some hear nothing until they have.)
        if headers[.expect] != nil, let length = headers[.contentLength].flatMap({ Int($0) }), length > limit {
            throw tooLarge
        }
        var held = HeldBytes()
        do {
            var all = ByteBuffer()
            for try await piece in body {
                guard all.readableBytes + piece.readableBytes <= limit else { throw tooLarge }
                guard held.add(piece.readableBytes) else { throw HeldBytes.tooMany }
                all.writeImmutableBuffer(piece)
            }
            return all
        } catch let error as RemfsError {
            throw error
        } catch let error as CancellationError {
            throw error
        } catch {
            throw RemfsError(.invalidArgument, "request body is cut off or malformed", cause: String(describing: error))
        }
    }
}
