package import Filesystem
import HTTPTypes
import Hummingbird
package import Logging
import ServiceLifecycle
package import Storage

/// The control socket: HTTP/JSON on a Unix socket (`api.md`).
///
/// A request costs a connection and a task until its body has arrived, never a thread; what blocks runs on the threads of `StorePool`.
package struct ControlServer: Service {
    package struct Configuration: Sendable {
        package let socket: ControlSocket
        package let stateDirectory: String
        package let version: String
        /// A connection that is idle, or in the middle of sending a request, for longer than this is closed.
        package let idleTimeout: Duration
        /// What holds for each reader of an event stream.
        package let streams: EventReader.Limits
        /// The models that dreams may name: the one list of them. Empty until the daemon can run dreams.
        package let models: [String]

        package init(
            socket: ControlSocket, stateDirectory: String, version: String, idleTimeout: Duration = .seconds(60),
            streams: EventReader.Limits = .init(), models: [String] = []
        ) {
            self.socket = socket
            self.stateDirectory = stateDirectory
            self.version = version
            self.idleTimeout = idleTimeout
            self.streams = streams
            self.models = models
        }
    }

    /// How long requests that are being answered may hold up a stop. Writes take milliseconds; what is left then is a client that stalls.
    private static let gracePeriod: Duration = .seconds(3)

    private let configuration: Configuration
    private let responder: RouterResponder<ControlContext>
    private let onReady: @Sendable () async -> Void
    private let listen: @Sendable () throws -> Int32
    private let removesSocket: @Sendable () -> Bool
    private let logger: Logger

    /// - Parameters:
    ///   - listen: answers a descriptor of the socket, bound and listening, which becomes the server's; nil: the server makes the socket.
    ///   - removesSocket: asked when the server stops: whether the socket's place is to be left empty.
    ///   - onReady: called once the socket takes requests.
    package init(
        _ configuration: Configuration, stores: StorePool, mounts: MountTable, metrics: PrometheusMetrics, logger: Logger,
        listen: (@Sendable () throws -> Int32)? = nil, removesSocket: @escaping @Sendable () -> Bool = { true },
        onReady: @escaping @Sendable () async -> Void = {}
    ) {
        self.configuration = configuration
        self.onReady = onReady
        let socket = configuration.socket
        self.listen =
            listen ?? {
                try socket.prepare()
                return try socket.listen()
            }
        self.removesSocket = removesSocket
        self.logger = logger
        var routes = Routes([ErrorMiddleware(), PeerMiddleware(group: configuration.socket.group, stores: stores)])
        StatusRoutes(stores: stores, mounts: mounts, metrics: metrics, configuration: configuration).add(to: &routes)
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
        SessionRoutes(stores: stores).add(to: &routes)
        SessionEventRoutes(stores: stores, streams: SessionStreams(stores.catalog, configuration.streams)).add(to: &routes)
        DreamRoutes(stores: stores, models: configuration.models).add(to: &routes)
        responder = routes.responder()
    }

    package func run() async throws {
        let listener = ControlListener(
            descriptor: try listen(), responder: responder, idleTimeout: configuration.idleTimeout, logger: Self.quiet(logger),
            onRunning: onReady)
        defer { if removesSocket() { configuration.socket.remove(logger) } }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await listener.run() }
            group.addTask {
                try await gracefulShutdown()
                try await Task.sleep(for: Self.gracePeriod)
            }
            // The first to end is the server, having stopped, or the grace period.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    /// The server says at `info` what we say at `notice` in our own words.
    private static func quiet(_ logger: Logger) -> Logger {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .notice)
        return quiet
    }
}
