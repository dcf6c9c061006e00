package import Filesystem
import Glibc
import HTTPTypes
import Hummingbird
package import Logging
import ServiceLifecycle
package import Storage

/// The control socket: HTTP/JSON on a Unix socket (`api.md`), and the doors beside it: TCP, and the socket of the volume plugin.
///
/// A request costs a connection and a task until its body has arrived, never a thread; what blocks runs on the threads of `StorePool`.
package struct ControlServer: Service {
    package struct Configuration: Sendable {
        package let socket: ControlSocket
        package let stateDirectory: String
        package let version: String
        package let limits: ConnectionLimits
        /// Where requests come in over TCP as well, and the names that they may be for; nil: nowhere.
        package let network: (address: ListenAddress, names: HostNames)?
        /// Where container engines ask for volumes; nil: nowhere.
        package let volumes: ControlSocket?
        /// What members of the socket's group may do.
        package let groupScopes: Scopes
        /// The port and the volumes' socket may still be a predecessor's for a while: they are waited for.
        package let goesOn: Bool
        /// What holds for each reader of an event stream.
        package let streams: EventReader.Limits
        /// The models that dreams may name: the one list of them. Empty until the daemon can run dreams.
        package let models: [String]

        package init(
            socket: ControlSocket, stateDirectory: String, version: String, limits: ConnectionLimits = ConnectionLimits(),
            network: (address: ListenAddress, names: HostNames)? = nil, volumes: ControlSocket? = nil, groupScopes: Scopes = .everything,
            goesOn: Bool = false, streams: EventReader.Limits = .init(),
            models: [String] = []
        ) {
            self.socket = socket
            self.stateDirectory = stateDirectory
            self.version = version
            self.limits = limits
            self.network = network
            self.volumes = volumes
            self.groupScopes = groupScopes
            self.goesOn = goesOn
            self.streams = streams
            self.models = models
        }
    }

    /// How long requests that are being answered may hold up a stop. Writes take milliseconds; what is left then is a client that stalls.
    private static let gracePeriod: Duration = .seconds(3)

    private let configuration: Configuration
    private let responder: RouterResponder<ControlContext>
    private let bodyLimits: BodyLimits
    private let volumes: (responder: RouterResponder<ControlContext>, bodyLimits: BodyLimits)
    private let onReady: @Sendable () async -> Void
    private let listen: @Sendable () throws -> Int32
    private let removesSocket: @Sendable () -> Bool
    private let handsOver: @Sendable () -> Bool
    private let logger: Logger
    /// What there is, for tests.
    let routes: [Routes.Route]

    /// - Parameters:
    ///   - listen: answers a descriptor of the socket, bound and listening, which becomes the server's; nil: the server makes the socket.
    ///   - removesSocket: asked when the server stops: whether the socket's place is to be left empty.
    ///   - handsOver: asked when the server stops: whether a successor is to bind the volumes' socket anew.
    ///   - onReady: called once the socket takes requests.
    /// - Throws: where the keys cannot be read.
    package init(
        _ configuration: Configuration, stores: StorePool, mounts: MountTable, sessions: SessionMounts, metrics: PrometheusMetrics,
        logger: Logger, listen: (@Sendable () throws -> Int32)? = nil, removesSocket: @escaping @Sendable () -> Bool = { true },
        handsOver: @escaping @Sendable () -> Bool = { false },
        onReady: @escaping @Sendable () async -> Void = {}
    ) throws(RemfsError) {
        self.configuration = configuration
        self.onReady = onReady
        let socket = configuration.socket
        self.listen =
            listen ?? {
                try socket.prepare()
                return try socket.listen()
            }
        self.removesSocket = removesSocket
        self.handsOver = handsOver
        self.logger = logger
        let keys = try KeyRing(stores.catalog)
        var routes = Routes([
            ErrorMiddleware(),
            CallerMiddleware(group: configuration.socket.group, groupScopes: configuration.groupScopes, stores: stores, keys: keys),
        ])
        StatusRoutes(stores: stores, mounts: mounts, metrics: metrics, configuration: configuration).add(to: &routes)
        KeyRoutes(stores: stores, keys: keys).add(to: &routes)
        StoreRoutes(stores: stores).add(to: &routes)
        MemoryRoutes(stores: stores).add(to: &routes)
        let watch = VersionWatch(stores)
        VersionRoutes(stores: stores, watch: watch).add(to: &routes)
        ChangeRoutes(stores: stores, watch: watch).add(to: &routes)
        HistoryRoutes(stores: stores).add(to: &routes)
        ArchiveRoutes(stores: stores).add(to: &routes)
        RedactionRoutes(stores: stores).add(to: &routes)
        UpkeepRoutes(stores: stores).add(to: &routes)
        SearchRoutes(stores: stores).add(to: &routes)
        MountRoutes(stores: stores, mounts: mounts).add(to: &routes)
        DoctorRoutes(stores: stores).add(to: &routes)
        SessionRoutes(stores: stores, mounts: sessions, logger: logger).add(to: &routes)
        SessionEventRoutes(stores: stores, streams: SessionStreams(stores.catalog, configuration.streams)).add(to: &routes)
        DreamRoutes(stores: stores, models: configuration.models).add(to: &routes)
        self.routes = routes.all
        responder = routes.responder()
        bodyLimits = routes.bodyLimits
        var volumes = Routes([VolumeMiddleware()])
        VolumeRoutes(stores: stores, mounts: sessions).add(to: &volumes)
        self.volumes = (volumes.responder(), volumes.bodyLimits)
    }

    package func run() async throws {
        var sides: [(door: SideDoor, descriptor: Int32?)] = []
        let socket: Int32
        do {
            for door in sideDoors { sides.append((door, try first(door))) }
            socket = try listen()
        } catch {
            for side in sides { if let descriptor = side.descriptor { close(descriptor) } }
            throw error
        }
        defer {
            if removesSocket() { configuration.socket.remove(logger) }
            if !handsOver() { configuration.volumes?.remove(logger) }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { [sides] in
                try await withThrowingTaskGroup(of: Void.self) { doors in
                    doors.addTask { try await listener().run(socket, onRunning: onReady) }
                    for (door, descriptor) in sides {
                        doors.addTask {
                            var descriptor = descriptor
                            if descriptor == nil { descriptor = try await next(door) }
                            if let descriptor { try await door.listener.run(descriptor) }
                        }
                    }
                    try await doors.waitForAll()
                }
            }
            group.addTask {
                try await gracefulShutdown()
                try await Task.sleep(for: Self.gracePeriod)
            }
            // The first to end is the server, having stopped, or the grace period.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    /// A way in besides the control socket, which no predecessor hands over: it is bound anew.
    private struct SideDoor: Sendable {
        /// As the log has it.
        let name: String
        let place: String
        let listener: ControlListener
        /// Answers a descriptor that is bound and listening.
        let open: @Sendable () throws(RemfsError) -> Int32
    }

    private var sideDoors: [SideDoor] {
        var doors: [SideDoor] = []
        if let (address, names) = configuration.network {
            doors.append(
                SideDoor(name: "requests over TCP", place: "\(address)", listener: listener(names)) { () throws(RemfsError) in
                    try address.listen()
                })
        }
        if let socket = configuration.volumes {
            let listener = ControlListener(
                responder: volumes.responder, limits: configuration.limits, bodyLimits: volumes.bodyLimits, names: nil, form: .plugin,
                logger: Self.quiet(logger))
            doors.append(
                SideDoor(name: "requests of container engines", place: socket.path, listener: listener) { () throws(RemfsError) in
                    try socket.prepare()
                    return try socket.listen()
                })
        }
        return doors
    }

    private func listener(_ names: HostNames? = nil) -> ControlListener {
        ControlListener(
            responder: responder, limits: configuration.limits, bodyLimits: bodyLimits, names: names, logger: Self.quiet(logger))
    }

    /// A door's socket, if nobody has it. Who starts a daemon hears of one that is in use; who goes on with one waits.
    private func first(_ door: SideDoor) throws(RemfsError) -> Int32? {
        do throws(RemfsError) {
            return try door.open()
        } catch {
            guard configuration.goesOn else { throw error }
            logger.error("no \(door.name) yet", metadata: ["error": "\(error)"])
            return nil
        }
    }

    /// A door's socket, once it is free; nil: all is being stopped.
    private func next(_ door: SideDoor) async throws -> Int32? {
        while true {
            do {
                try await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(100)) }
            } catch is CancellationError {
                return nil
            }
            guard !Task.isShuttingDownGracefully else { return nil }
            // `try?`: why it is not to be had yet was said at first.
            guard let descriptor = try? door.open() else { continue }
            logger.notice("\(door.name)", metadata: ["listen": "\(door.place)"])
            return descriptor
        }
    }

    /// The server says at `info` what we say at `notice` in our own words.
    private static func quiet(_ logger: Logger) -> Logger {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .notice)
        return quiet
    }
}
