package import Filesystem
import HTTPTypes
import Hummingbird
package import Logging
import NIOCore
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

        package init(socket: ControlSocket, stateDirectory: String, version: String, idleTimeout: Duration = .seconds(60)) {
            self.socket = socket
            self.stateDirectory = stateDirectory
            self.version = version
            self.idleTimeout = idleTimeout
        }
    }

    /// How long requests that are being answered may hold up a stop. Writes take milliseconds; what is left then is a client that stalls.
    private static let gracePeriod: Duration = .seconds(3)

    private let configuration: Configuration
    private let responder: RouterResponder<ControlContext>
    private let onReady: @Sendable () async -> Void
    private let logger: Logger

    /// - Parameter onReady: called once the socket takes requests.
    package init(
        _ configuration: Configuration, stores: StorePool, mounts: MountTable, metrics: PrometheusMetrics, logger: Logger,
        onReady: @escaping @Sendable () async -> Void = {}
    ) {
        self.configuration = configuration
        self.onReady = onReady
        self.logger = logger
        var routes = Routes([ErrorMiddleware(), PeerMiddleware(group: configuration.socket.group, stores: stores)])
        StatusRoutes(stores: stores, mounts: mounts, metrics: metrics, configuration: configuration).add(to: &routes)
        StoreRoutes(stores: stores, stateDirectory: configuration.stateDirectory).add(to: &routes)
        MemoryRoutes(stores: stores).add(to: &routes)
        VersionRoutes(stores: stores, watch: VersionWatch(stores)).add(to: &routes)
        MountRoutes(stores: stores, mounts: mounts).add(to: &routes)
        DoctorRoutes(stores: stores).add(to: &routes)
        responder = routes.responder()
    }

    package func run() async throws {
        let socket = configuration.socket
        try socket.prepare()
        let (failures, failed) = AsyncStream<RemfsError>.makeStream()
        let (onReady, path) = (onReady, socket.path)
        let application = Application(
            responder: responder,
            server: .http1(
                configuration: .init(
                    additionalChannelHandlers: [HTTPMannersInstaller()], idleTimeout: TimeAmount(configuration.idleTimeout))),
            configuration: .init(address: .unixDomainSocket(path: path)),
            onServerRunning: { _ in
                do throws(RemfsError) {
                    try socket.open()
                    await onReady()
                } catch {
                    failed.yield(error)
                }
            },
            logger: Self.quiet(logger))
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                do {
                    try await application.run()
                } catch let error as IOError {
                    throw RemfsError.ofSystem("socket \(path) cannot be bound", error.errnoCode)
                }
            }
            group.addTask {
                for await error in failures { throw error }
            }
            group.addTask {
                try await gracefulShutdown()
                try await Task.sleep(for: Self.gracePeriod)
            }
            // The first to end is the server, having stopped; or what failed; or the grace period.
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
