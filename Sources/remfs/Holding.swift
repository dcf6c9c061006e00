import Filesystem
import Foundation
import Fuse
import Glibc
import Logging
import Storage
import Threads

/// `remfs serve` is two processes: the one that is started keeps the mounts' descriptors and starts the other, the daemon, again
/// whenever that dies.
enum Holding {
    /// In which a new holder is told of the daemon that has lost its own: PID and socket.
    private static let daemonVariable = "REMFS_HOLD"

    /// What this process is to be.
    enum Role {
        case holder
        /// The holder that this process has been as an older program.
        case renewed(state: String)
        /// Of a daemon that runs.
        case replacement(process: Int32, socket: FuseHoldSocket)
        /// With its end of the holder's socket.
        case daemon(socket: FuseHoldSocket)

        /// Whether it was started by another process of ours, and not by a person or a service manager.
        var goesOn: Bool {
            if case .holder = self { false } else { true }
        }
    }

    static func role(_ environment: [String: String]) -> Role {
        if let socket = environment[FuseHolder.socketVariable].flatMap({ Int32($0) }) {
            return .daemon(socket: FuseHoldSocket(inherited: socket))
        }
        if let state = environment[FuseHolder.stateVariable] { return .renewed(state: state) }
        let numbers = environment[daemonVariable]?.split(separator: " ").compactMap { Int32($0) } ?? []
        guard numbers.count == 2 else { return .holder }
        return .replacement(process: numbers[0], socket: FuseHoldSocket(inherited: numbers[1]))
    }

    /// glibc gives each thread a heap of its own that grows page by page, each an mprotect(2): one with every file that is made. The common
    /// heap grows in steps, and keeps what a rehearsal has made of it; what comes and goes in pieces of less than 4 MiB is not mapped
    /// anew each time. See mallopt(3); what the administrator has set stays.
    private static let heap = [
        "MALLOC_ARENA_MAX": "1", "MALLOC_TOP_PAD_": "\(1 << 20)", "MALLOC_TRIM_THRESHOLD_": "\(16 << 20)",
        "MALLOC_MMAP_THRESHOLD_": "\(4 << 20)",
    ]

    /// In which those that are started find the settings that were in force: they go on with these where the configuration is broken by then.
    static let settingsVariable = "REMFS_LAST_SETTINGS"

    /// What is said to one process and to none that it starts.
    private static let variables = FuseDescriptorStore.variables.union([
        FuseHolder.socketVariable, FuseHolder.stateVariable, daemonVariable,
    ])

    /// This command once more, with the binary that is there by then.
    private static func program(_ environment: [String: String], _ settings: Settings) throws(RemfsError) -> FuseHolder.Program {
        let shown: String
        do { shown = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") } catch {
            throw RemfsError(.unavailable, "cannot tell where this program is", cause: "\(error)")
        }
        // A binary that was replaced while it ran is shown as deleted.
        let current = shown.hasSuffix(" (deleted)") ? String(shown.dropLast(10)) : shown
        return FuseHolder.Program(
            path: current, arguments: CommandLine.arguments,
            environment: environment.filter { !variables.contains($0.key) }.merging(heap) { given, _ in given }
                .merging([settingsVariable: try settings.text]) { $1 }.map { "\($0.key)=\($0.value)" }
        )
    }

    /// Runs as the holder; answers the exit code when the daemon has stopped.
    static func hold(
        _ role: Role, _ environment: [String: String], _ settings: Settings, _ logger: Logger
    ) throws(RemfsError) -> Int32 {
        let program = try program(environment, settings)
        let store = FuseDescriptorStore(environment)
        let isFirst = if case .holder = role { true } else { false }
        let passed = isFirst ? FuseDescriptorStore.take(environment) : .init()
        DescriptorLimit.raise(for: passed.holds.count, isFirst: isFirst, logger)
        let holder: FuseHolder?
        switch role {
        case .replacement(let process, let socket):
            holder = FuseHolder(program, of: process, socket: socket, store: store) { log($0, logger) }
        case .renewed(let state): holder = FuseHolder(program, resuming: state, store: store) { log($0, logger) }
        case .holder, .daemon:
            if !passed.holds.isEmpty || !passed.strange.isEmpty {
                logger.notice(
                    "mounts came back from the service manager",
                    metadata: ["mounts": "\(passed.holds.count)", "unused": "\(passed.strange.joined(separator: " "))"])
            }
            holder = FuseHolder(program, store: store, passed: passed) { log($0, logger) }
        }
        if holder == nil, case .renewed = role {
            throw RemfsError(.unsupported, "what the earlier program left for this one is not understood: mounts end")
        }
        guard let holder else { throw RemfsError.ofSystem("cannot start the daemon") }
        return holder.run()
    }

    private static func log(_ event: FuseHolder.Event, _ logger: Logger) {
        switch event {
        case .died(let signal): logger.error("the daemon was killed", metadata: ["signal": "\(signal)"])
        case .exited(let code): logger.error("the daemon exited", metadata: ["code": "\(code)"])
        case .stuck: logger.error("the daemon was killed and waits in the kernel for its successor")
        case .startedAgain(let mounts): logger.notice("daemon started again", metadata: ["mounts": "\(mounts)"])
        case .gaveUp(let mounts): logger.critical("no daemon comes up: mounts are given up", metadata: ["mounts": "\(mounts)"])
        // Said by this process and not by the daemon, since systemd need then listen to the main process alone.
        case .ready: ServiceManager.notify("READY=1")
        case .stopping: ServiceManager.notify("STOPPING=1")
        case .left(let mounts): logger.notice("left to the service manager", metadata: ["mounts": "\(mounts)"])
        case .storeTooSmall(let needed, let room):
            logger.error(
                "the service manager keeps too few descriptors: raise FileDescriptorStoreMax",
                metadata: ["needed": "\(needed)", "room": "\(room)"])
        case .notStored(let code):
            logger.error("the service manager cannot be told what to keep", metadata: ["errno": "\(code)"])
        case .renewed: logger.notice("the holder is the installed program now")
        case .notKept(let mount):
            logger.error(
                "no file descriptors left to keep a mount: it will end with the daemon",
                metadata: ["mount": "\(mount)", "limit": "\(DescriptorLimit.current)", "advice": "\(RemfsError.moreDescriptors)"])
        case .notRenewed(let code): logger.error("the holder remains the old program", metadata: ["errno": "\(code)"])
        case .refused:
            logger.error("the installed program does not understand what the holder keeps: both remain the old program")
        }
    }

    /// The daemon's side: returns when it is its turn to serve.
    static func link(
        _ socket: FuseHoldSocket, _ environment: [String: String], _ settings: Settings, _ logger: Logger
    ) throws(RemfsError) -> HolderLink {
        let program = try program(environment, settings)
        let last = Mutex<Int32?>(nil)
        try MountTable.rehearse()
        let link = HolderLink(socket, logger: logger) {
            guard let (ours, theirs) = FuseHoldSocket.pair() else { return nil }
            defer { theirs.close() }
            let variable = "\(daemonVariable)=\(getpid()) \(FuseHolder.spawnedDescriptor)"
            let process = FuseHolder.spawn(program, [variable], inheriting: theirs.descriptor)
            // The one before was this process's child, and has ended.
            let before = last.withLock { last in
                defer { last = process }
                return last
            }
            if let before { _ = waitpid(before, nil, WNOHANG) }
            guard process != nil else {
                ours.close()
                return nil
            }
            return ours
        }
        // The holder died while this process waited for its turn, and nothing was its own yet: the daemon that serves starts another holder.
        guard let link else { Glibc.exit(0) }
        return link
    }
}
