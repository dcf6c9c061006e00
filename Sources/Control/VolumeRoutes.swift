import Glibc
import HTTPTypes
import Hummingbird
import Logging
import Metrics
import NIOCore
import Storage

/// The volume plugin of container engines: version 1 of Docker's protocol, which podman speaks as well. A volume is a session's stores.
struct VolumeRoutes: Sendable {
    let stores: StorePool
    let mounts: SessionMounts

    func add(to routes: inout Routes) {
        routes.on(.post, "/Plugin.Activate", needs: .entry, bodyLimit: Self.bodyLimit, use: activate)
        routes.on(.post, "/VolumeDriver.Capabilities", needs: .entry, bodyLimit: Self.bodyLimit, use: capabilities)
        routes.on(.post, "/VolumeDriver.Create", needs: .entry, bodyLimit: Self.bodyLimit, use: create)
        routes.on(.post, "/VolumeDriver.Get", needs: .entry, bodyLimit: Self.bodyLimit, use: get)
        routes.on(.post, "/VolumeDriver.List", needs: .entry, bodyLimit: Self.bodyLimit, use: list)
        routes.on(.post, "/VolumeDriver.Mount", needs: .entry, bodyLimit: Self.bodyLimit, use: mount)
        routes.on(.post, "/VolumeDriver.Path", needs: .entry, bodyLimit: Self.bodyLimit, use: path)
        routes.on(.post, "/VolumeDriver.Remove", needs: .entry, bodyLimit: Self.bodyLimit, use: remove)
        routes.on(.post, "/VolumeDriver.Unmount", needs: .entry, bodyLimit: Self.bodyLimit, use: unmount)
    }

    /// In bytes: names and a few options.
    private static let bodyLimit = 1 << 20
    private static let longestName = 255
    /// Engines send some 64 characters.
    private static let longestContainer = 1_024

    // MARK: What it is

    func activate(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Implements {
        try await passOver(request)
        return .init()
    }

    func capabilities(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Capabilities {
        try await passOver(request)
        return .init()
    }

    /// Some engines send nothing here, others an empty object: it is read to its end, and not looked at.
    private func passOver(_ request: Request) async throws { _ = try await request.collectOptionalFields() }

    // MARK: Volumes

    func create(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Failure {
        let body = try await request.collectFields().get()
        let name = try Self.name(body)
        try Self.check(name)
        let options = try (body.metadata("Opts", removing: false) ?? [:]).compactMapValues { $0 }
        let wanted = try VolumeOptions(options, of: name)
        let owner = context.caller?.uid
        try await stores.run { () throws(RemfsError) in
            _ = try stores.catalog.createVolume(name, wanted.source(stores.catalog, for: name, owner: owner), options: options)
        }
        return .none
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Found {
        let name = try Self.name(try await request.collectFields().get())
        return try await stores.run { () throws(RemfsError) in
            let volume = try stores.catalog.volume(name)
            return .init(volume: .init(volume, try mounts.places(of: [volume.session])))
        }
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.List {
        try await passOver(request)
        return try await stores.run { () throws(RemfsError) in
            let volumes = try stores.catalog.volumes()
            let places = try mounts.places(of: volumes.map(\.session))
            return .init(volumes: volumes.map { .init($0, places) })
        }
    }

    func remove(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Failure {
        let name = try Self.name(try await request.collectFields().get())
        try await stores.run { () throws(RemfsError) in
            let volume = try stores.catalog.removeVolume(name)
            if volume.ownsSession { try mounts.end(volume.session.id) }
        }
        return .none
    }

    // MARK: Their mounts

    func path(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Place {
        let name = try Self.name(try await request.collectFields().get())
        return try await stores.run { () throws(RemfsError) in
            let session = try stores.catalog.volume(name).session
            return .init(mountpoint: try mounts.places(of: [session])[session.id] ?? "")
        }
    }

    /// Mounts what is not mounted, and then notes who has it: so a daemon that dies in between has noted nobody who was never told.
    func mount(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Place {
        let body = try await request.collectFields().get()
        let (name, container) = (try Self.name(body), try Self.container(body))
        return try await stores.run { () throws(RemfsError) in
            let session = try stores.catalog.volume(name).session
            try mounts.mount(session.id)
            guard let place = try mounts.places(of: [session])[session.id] else {
                throw RemfsError(.unavailable, "volume \(name) has no store that is mounted")
            }
            try stores.catalog.addUse(of: name, by: container)
            return .init(mountpoint: place)
        }
    }

    /// The mount stays: it is the session's, which others may look at.
    func unmount(_ request: Request, _ context: ControlContext) async throws -> PluginAnswer.Failure {
        let body = try await request.collectFields().get()
        let (name, container) = (try Self.name(body), try Self.container(body))
        try await stores.run { () throws(RemfsError) in try stores.catalog.endUse(of: name, by: container) }
        return .none
    }

    // MARK: Fields

    private static func name(_ body: Body) throws(RemfsError) -> String { try body.requiredString("Name") }

    private static func container(_ body: Body) throws(RemfsError) -> String {
        let container = try body.requiredString("ID")
        guard (1...longestContainer).contains(container.utf8.count) else {
            throw body.refusal("ID", "must have 1 to \(longestContainer) bytes")
        }
        return container
    }

    /// What engines allow: others make no directory's name, and no message.
    private static func check(_ name: String) throws(RemfsError) {
        let wrong = RemfsError(
            .invalidArgument,
            "the name of a volume has 1 to \(longestName) letters, digits, dots, hyphens and underscores, the first a letter or digit")
        guard let first = name.utf8.first, name.utf8.count <= longestName else { throw wrong }
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
            default: false
            }
        }
        guard isAlphanumeric(first), name.utf8.allSatisfy({ isAlphanumeric($0) || [45, 46, 95].contains($0) }) else { throw wrong }
    }
}

/// The outermost middleware of the plugin's socket: lets engines in, and tells failures as they read them.
struct VolumeMiddleware: RouterMiddleware {
    typealias Context = ControlContext

    func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws -> Response {
        let start = ContinuousClock.now
        var response: Response
        do {
            var context = context
            context.caller = try Self.caller(context.door)
            response = try await next(request, context)
            response.headers[.contentType] = PluginAnswer.contentType
        } catch {
            let failure = Self.told(error, request)
            let level: Logger.Level = failure.code.seenAs.status >= 500 ? .error : .debug
            context.logger.log(
                level: level, "volume request failed",
                metadata: [
                    "request": "\(context.requestID)", "path": "\(request.uri.path)", "code": "\(failure.code.rawValue)",
                    "error": "\(failure)",
                ])
            response = try Self.answer(failure.message, status: (error as? HTTPError)?.status ?? Self.status(failure.code))
            if let error = error as? HTTPError, let allowed = error.headers[.allow] { response.headers[.allow] = allowed }
        }
        response.headers[.requestID] = context.requestID.description
        let status = String(response.status.code)
        Counter(label: "remfs_http_requests_total", dimensions: [("method", request.method.rawValue), ("status", status)]).increment()
        Metrics.Timer(label: "remfs_http_request_seconds", dimensions: [("method", request.method.rawValue)])
            .recordNanoseconds(Int64((ContinuousClock.now - start) / .nanoseconds(1)))
        return request.method == .head ? response.createHeadResponse() : response
    }

    /// An engine runs as root, or as the user whose daemon this is.
    private static func caller(_ door: Door) throws(RemfsError) -> Peer {
        guard case .socket(let peer) = door, let peer else { throw RemfsError(.unauthenticated, "the caller cannot be told") }
        guard peer.uid == 0 || peer.uid == geteuid() else { throw RemfsError(.notPermitted, "user \(peer.uid) may not use this socket") }
        return peer
    }

    private static func told(_ error: any Error, _ request: Request) -> RemfsError {
        switch error {
        case let error as RemfsError: error
        case let error as HTTPError where error.status == .notFound:
            RemfsError(.notFound, "no route \(request.method.rawValue) \(request.uri.path.prefix(200))")
        case let error as HTTPError: RemfsError(.invalidArgument, error.body ?? error.status.reasonPhrase)
        case is CancellationError: RemfsError(.unavailable, "the daemon is stopping")
        default: RemfsError(.internal, "internal error", cause: String(describing: error))
        }
    }

    /// The protocol knows 500 for whatever did not succeed; but what did not get as far as the protocol says so.
    private static func status(_ code: RemfsError.Code) -> HTTPResponse.Status {
        code == .bodyTooLarge || code == .notPermitted || code == .unauthenticated ? .init(code: code.seenAs.status) : .internalServerError
    }

    static func refusal(_ error: RemfsError) throws -> Response { try answer(error.message, status: status(error.code)) }

    private static func answer(_ message: String, status: HTTPResponse.Status) throws -> Response {
        let body = try JSONWriter().encode(PluginAnswer.Failure(message))
        return Response(
            status: status, headers: [.contentType: PluginAnswer.contentType], body: .init(byteBuffer: ByteBuffer(bytes: body)))
    }
}
