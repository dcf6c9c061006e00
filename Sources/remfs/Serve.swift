import ArgumentParser
import Control
import Filesystem
import Foundation
import Fuse
import Glibc
import Logging
import Metrics
import ServiceLifecycle
import Storage
import Threads
import UnixSignals

struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run the daemon in the foreground",
        discussion: """
            Ready when the socket answers GET /v1/status. SIGTERM and SIGINT stop it: the socket closes, mounts are drained and \
            unmounted, stores closed. SIGHUP has the installed program go on, with all mounts. Each option may also stand in the configuration file (state_dir, ...) or in the environment \
            (REMFS_STATE_DIR, ...).
            """)

    @Option(help: ArgumentHelp("Where stores live", valueName: "dir"), completion: .directory) var stateDir: String?
    @Option(help: ArgumentHelp("Where the socket and sessions' mounts live", valueName: "dir"), completion: .directory)
    var runtimeDir: String?
    @Option(help: ArgumentHelp("The socket's path", valueName: "path"), completion: .file()) var socket: String?
    @Option(help: ArgumentHelp("The socket's owner", valueName: "user")) var socketOwner: String?
    @Option(help: ArgumentHelp("The group whose members may use the socket", valueName: "group")) var socketGroup: String?
    @Option(help: ArgumentHelp("What they may do: read, write or admin", valueName: "permission")) var socketGroupPermission: String?
    @Option(help: ArgumentHelp("The stores they may use, by ID, with commas; all unless named", valueName: "stores"))
    var socketGroupStores: String?
    @Option(help: ArgumentHelp("Also answer over TCP, to those with a key, such as 127.0.0.1:7447", valueName: "address:port"))
    var listen: String?
    @Option(help: ArgumentHelp("By which names others call this machine, with commas, if not by localhost", valueName: "names"))
    var listenHosts: String?
    @Option(
        help: ArgumentHelp("Where container engines ask for volumes, such as /run/docker/plugins/remfs.sock", valueName: "path"),
        completion: .file())
    var volumeSocket: String?
    @Option(help: "trace, debug, info, notice, warning, error or critical") var logLevel: String?
    @Option(help: ArgumentHelp("The configuration file", valueName: "file"), completion: .file()) var config: String?

    func run() async throws {
        let flags: [Settings.Key: String?] = [
            .stateDirectory: stateDir, .runtimeDirectory: runtimeDir, .socket: socket, .socketOwner: socketOwner,
            .socketGroup: socketGroup, .socketGroupPermission: socketGroupPermission, .socketGroupStores: socketGroupStores,
            .listen: listen, .listenHosts: listenHosts, .volumeSocket: volumeSocket, .logLevel: logLevel,
        ]
        let environment = ProcessInfo.processInfo.environment
        let role = Holding.role(environment)
        LoggingSystem.bootstrap(StreamLogHandler.standardError)
        let settings: Settings
        var complaint: RemfsError?
        do throws(RemfsError) {
            settings = try await Settings.load(flags.compactMapValues { $0 }, file: config)
        } catch {
            // Mounts depend on whoever goes on with them, and somebody may just be writing that file.
            guard role.goesOn, let last = environment[Holding.settingsVariable].flatMap(Settings.init(text:)) else {
                throw error
            }
            settings = last
            complaint = error
        }
        let logger = Self.logger(settings.logLevel)
        if let complaint {
            logger.error("the configuration cannot be used: going on with the last that could", metadata: ["error": "\(complaint)"])
        }
        goFirst(logger)
        // What we make is ours alone, unless it is given a mode on purpose.
        umask(0o077)
        switch role {
        case .daemon(let socket):
            // Before it receives descriptors, each of which counts.
            DescriptorLimit.raise(for: 0, isFirst: false, logger)
            let holder = try Holding.link(socket, environment, settings, logger)
            defer { holder.stop() }
            guard try await serve(settings, holder, environment, logger) else { return }
            logger.notice("handing over")
            holder.handOver()
            // Nothing is closed: what this process holds open is its successor's.
            _exit(0)
        case .holder, .renewed, .replacement: Glibc.exit(try Holding.hold(role, environment, settings, logger))
        }
    }

    /// Whoever works in a mount waits for this process, above all when it takes over: it goes before what it keeps waiting. Only root may
    /// say so, and whoever started it with another priority than the usual one is followed. Holder and daemon inherit it.
    private func goFirst(_ logger: Logger) {
        let process = __priority_which_t(PRIO_PROCESS.rawValue)
        guard getpriority(process, 0) == 0, setpriority(process, 0, -10) != 0, errno != EACCES, errno != EPERM else { return }
        logger.warning("runs without priority over those who wait for it", metadata: ["errno": "\(errno)"])
    }

    /// Serves until it is told to stop (false) or to hand over (true).
    private func serve(
        _ settings: Settings, _ holder: HolderLink, _ environment: [String: String], _ logger: Logger
    ) async throws -> Bool {
        let metrics = PrometheusMetrics()
        MetricsSystem.bootstrap(metrics)
        try Directory.make(settings.stateDirectory, mode: 0o700)
        // Usually in the runtime directory, which it then makes for its group.
        let socket = ControlSocket(path: settings.socket, owner: settings.socketOwner, group: settings.socketGroup)
        let inherited = Self.usable(holder.listener, socket, logger)
        if inherited == nil { try socket.prepare() }
        try Directory.make(settings.runtimeDirectory, mode: 0o711)

        let stores = try StorePool(
            stateDirectory: settings.stateDirectory, logger: logger, hooks: FaultHooks(environment), willBlock: MountTable.willBlock)
        // `off` is for kernels whose resending is broken, and for tests.
        let mounts = try MountTable(
            stores: stores, holder: holder, usesResend: environment["REMFS_RESEND"] != "off", logger: logger)
        let sessions = SessionMounts(
            stores: stores, mounts: mounts, directory: try Directory.real(settings.runtimeDirectory) + "/sessions", logger: logger)
        try sessions.resume()
        let handsOver = HangUp()
        let server = try ControlServer(
            .init(
                socket: socket, stateDirectory: settings.stateDirectory, version: Remfs.version,
                network: settings.listen.map { ($0, HostNames(others: settings.listenHosts)) },
                volumes: settings.volumeSocket.map { ControlSocket(path: $0, mode: 0o600) },
                groupScopes: settings.groupScopes, goesOn: inherited?.isGiven == false),
            stores: stores, mounts: mounts, sessions: sessions, metrics: metrics, logger: logger,
            listen: {
                let listener: FuseHeldListener
                if let inherited {
                    listener = inherited
                } else {
                    try socket.prepare()
                    listener = FuseHeldListener(descriptor: try socket.listen(), isGiven: false)
                    holder.keep(listener)
                }
                let copy = fcntl(listener.descriptor, F_DUPFD_CLOEXEC, 0)
                guard copy >= 0 else { throw RemfsError.ofSystem("socket \(socket.path) cannot be served") }
                return copy
            },
            removesSocket: { inherited?.isGiven != true && !handsOver.isAsked }, handsOver: { handsOver.isAsked }
        ) {
            logger.notice(
                "ready", metadata: ["socket": "\(socket.path)", "state": "\(settings.stateDirectory)", "version": "\(Remfs.version)"])
            holder.ready()
        }
        // Stopped from the last to the first: the roof before the ground.
        let services: [any Service] = [
            StoresService(stores: stores, handsOver: handsOver), MountsService(mounts: mounts, sessions: sessions, handsOver: handsOver),
            handsOver,
            IdleSessions(mounts: sessions, idle: settings.sessionIdleDays.map { .seconds($0 * 86_400) }), server,
            StopNotice(logger: logger, handsOver: handsOver),
        ]
        let group = ServiceGroup(
            configuration: .init(
                services: services.map {
                    // Also what fails is stopped in that order.
                    .init(
                        service: $0, successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup)
                },
                gracefulShutdownSignals: [.sigterm, .sigint], logger: Self.quiet(logger)))
        handsOver.stop = { await group.triggerGracefulShutdown() }
        try await group.run()
        if !handsOver.isAsked { logger.notice("stopped") }
        return handsOver.isAsked
    }

    /// The socket that came from a predecessor or a service manager, if it is where others look for it.
    private static func usable(_ listener: FuseHeldListener?, _ socket: ControlSocket, _ logger: Logger) -> FuseHeldListener? {
        guard let listener else { return nil }
        let path = ControlSocket.path(of: listener.descriptor)
        if listener.isGiven {
            // Its place is the service manager's to say.
            if path != socket.path {
                logger.warning(
                    "the socket unit listens elsewhere than remfs is configured to",
                    metadata: ["socket": "\(path ?? "")", "configured": "\(socket.path)"])
            }
            return listener
        }
        if path == socket.path, socket.isThere { return listener }
        // It was configured anew.
        if let path, path != socket.path { ControlSocket(path: path).remove(logger) }
        return nil
    }

    private static func logger(_ level: Logger.Level) -> Logger {
        var logger = Logger(label: "remfs")
        logger.logLevel = level
        return logger
    }

    /// ServiceLifecycle tells of each step at `debug`; what matters of them we say ourselves.
    private static func quiet(_ logger: Logger) -> Logger {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .info)
        return quiet
    }
}

/// Closes the stores once everything above them has stopped.
private struct StoresService: Service {
    let stores: StorePool
    let handsOver: HangUp

    func run() async throws {
        try? await gracefulShutdown()  // thrown by cancellation, which ends the wait as well
        // A successor opens them as they are: whoever waits in a mount waits for that.
        if !handsOver.isAsked { await onThread("stores-close") { stores.close() } }
    }
}

/// Drains and unmounts once the socket is closed, or leaves the mounts to a successor.
private struct MountsService: Service {
    let mounts: MountTable
    let sessions: SessionMounts
    let handsOver: HangUp

    func run() async throws {
        try? await gracefulShutdown()  // thrown by cancellation, which ends the wait as well
        let isAsked = handsOver.isAsked
        await onThread("mounts-stop") {
            if isAsked { return mounts.handOver() }
            mounts.stop()
            sessions.close()
        }
    }
}

/// Unmounts the stores of sessions that nobody has used for long.
private struct IdleSessions: Service {
    let mounts: SessionMounts
    /// nil: they stay.
    let idle: Duration?

    func run() async throws {
        guard let idle else { return try await gracefulShutdown() }
        await cancelWhenGracefulShutdown {
            // Seldom enough to cost nothing, and often enough for an hour's limit to mean something.
            while (try? await Task.sleep(for: min(idle / 4, .seconds(600)))) != nil {  // cancelled by the shutdown
                await onThread("idle-sessions") { mounts.unmountIdle(for: idle) }
            }
        }
    }
}

/// Tells whoever reads the log that a stop has begun.
private struct StopNotice: Service {
    let logger: Logger
    let handsOver: HangUp

    func run() async throws {
        try? await gracefulShutdown()  // thrown by cancellation, which ends the wait as well
        guard !handsOver.isAsked else { return }
        logger.notice("stopping")
    }
}

/// SIGHUP means to hand the mounts over to a successor, which may be a newer program.
private final class HangUp: Service {
    private let state = Mutex((isAsked: false, stop: { @Sendable () async -> Void in }))

    var isAsked: Bool { state.withLock { $0.isAsked } }
    /// Begins the shutdown of everything.
    var stop: @Sendable () async -> Void {
        get { state.withLock { $0.stop } }
        set { state.withLock { $0.stop = newValue } }
    }

    func run() async throws {
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() {
            state.withLock { $0.isAsked = true }
            await stop()
        }
    }
}
