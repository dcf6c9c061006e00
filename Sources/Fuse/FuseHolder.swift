internal import CFuse
internal import Glibc
internal import Threads

/// The process that starts a daemon, keeps the descriptors of its mounts, and starts a successor when it dies: callers who wait in a
/// mount then wait some milliseconds more. It opens nothing and answers nobody, so there is nothing it could die of.
///
/// Used on one thread, which `run` occupies.
package final class FuseHolder {
    /// What happened, for the log.
    package enum Event: Sendable, Equatable {
        /// The daemon ended by a signal, or with an exit code, or has given up its socket and does not die.
        case died(signal: Int32), exited(code: Int32), stuck
        case startedAgain(mounts: Int)
        /// A daemon has begun to serve; all is about to be stopped.
        case ready, stopping
        /// No successor came up, so everybody who waits in the mounts is told that they are gone, unless a service manager keeps them.
        case gaveUp(mounts: Int)
        /// Everything is in the service manager's store, and this process ends so that the manager starts the next.
        case left(mounts: Int)
        /// The service manager's store does not hold all that it would have to, or could not be reached.
        case storeTooSmall(needed: Int, room: Int), notStored(errno: Int32)
        /// There was no descriptor left for what the daemon wanted kept: a mount, or else the control socket.
        case notKept(mount: String)
        /// This process is the program that is installed now.
        case renewed
        /// The program that is installed now could not be started, so this process remains the old one.
        case notRenewed(errno: Int32)
        /// The program that is installed now does not understand what this one left it, so this process is the old one again.
        case refused
    }

    /// The variable in which a daemon is told the number of its end of the socket.
    package static let socketVariable = "REMFS_HOLDER"
    /// The variable in which a holder that becomes a newer program finds the memory in which it has left its state.
    package static let stateVariable = "REMFS_RESUME"
    /// Of a holder that has left everything to the service manager, which is to start the next: `RestartForceExitStatus=` in the unit.
    package static let leftStatus: Int32 = 128 + SIGHUP

    struct Daemon {
        let process: Int32
        /// Readable when it has ended.
        let watch: Int32
        let isChild: Bool
        let socket: FuseHoldSocket
        var isReady = false
        var handsOver = false
        var isSilent = false
    }

    private let program: Program
    private let store: FuseDescriptorStore?
    private let onEvent: (Event) -> Void
    private var holds: [String: FuseHold] = [:]
    private var listener: FuseHeldListener?
    /// The descriptor of a `FuseInbox`.
    private var inbox: Int32?
    /// The group of a daemon's `FuseCloseEvents`. No successor wants it, but to close its last descriptor takes the kernel 6 to 13 ms, in
    /// which a dead daemon would not have ended yet.
    private var closeEvents: Int32?
    private var daemon: Daemon
    private var standby: FuseStandby?
    /// The last one ended by itself: the next waits until a daemon has shown that it can be started.
    private var standbyFailed = false
    private let signals: Int32
    private var isStopping = false
    /// When the daemon has handed over, the service manager is to start everything anew.
    private var isLeaving = false
    /// Successors that did not come up, one after the other.
    private var failures = 0
    /// Predecessors that have yet to be waited for.
    private var remains: [(process: Int32, watch: Int32)] = []

    /// A daemon that gave up its socket has this long to be waited for, in ms. After that one of its threads waits in the kernel, perhaps
    /// for its successor.
    private static let patience: Int32 = 50
    private static let mostFailures = 10

    /// Starts the daemon. nil with errno where that is not possible.
    ///
    /// - Parameters:
    ///   - store: where everything is kept a second time, for when this process ends as well.
    ///   - passed: what was in it.
    package init?(
        _ program: Program, store: FuseDescriptorStore? = nil, passed: FuseDescriptorStore.Passed = .init(),
        onEvent: @escaping (Event) -> Void
    ) {
        guard let signals = Self.catchSignals(), let daemon = Self.start(program) else { return nil }
        self.program = program
        self.store = store
        self.onEvent = onEvent
        self.signals = signals
        self.daemon = daemon
        listener = passed.listener
        inbox = passed.inbox
        for hold in passed.holds { holds.updateValue(hold, forKey: hold.name)?.close() }
        for name in passed.strange { note(store?.remove(name)) }
        removeEnded()
        guard sendHolds(to: daemon) else { return nil }
    }

    /// Becomes the holder of a daemon that runs and has lost its own.
    package init?(
        _ program: Program, of process: Int32, socket: FuseHoldSocket, store: FuseDescriptorStore? = nil,
        onEvent: @escaping (Event) -> Void
    ) {
        let watch = cfuse_watch_process(process)
        guard let signals = Self.catchSignals(), watch >= 0 else { return nil }
        self.program = program
        self.store = store
        self.onEvent = onEvent
        self.signals = signals
        daemon = Daemon(process: process, watch: watch, isChild: false, socket: socket, isReady: true)
    }

    private static func catchSignals() -> Int32? {
        let numbers = [SIGTERM, SIGINT, SIGHUP, SIGUSR1]
        let descriptor = unsafe cfuse_catch_signals(numbers, Int32(numbers.count))
        return descriptor >= 0 ? descriptor : nil
    }

    // MARK: - Becoming a newer program

    /// Goes on where an older program left off in this very process, and has the daemon hand over to one of the newer program as well. Where
    /// this program does not understand what it was left, this process becomes the older one again.
    ///
    /// - Parameter state: what `stateVariable` said: the number of the memory, that of the older program's file, and whether another program
    ///   has gone back to this one.
    package init?(_ program: Program, resuming state: String, store: FuseDescriptorStore? = nil, onEvent: @escaping (Event) -> Void) {
        let words = state.split(separator: " ")
        guard let number = words.first.flatMap({ Int32($0) }), let bytes = FuseHoldMemory(number).read() else { return nil }
        let older = words.count > 1 ? Int32(words[1]) : nil
        let isBack = words.count > 2
        let left: FuseHolderState
        do throws(FuseHolderState.Failure) {
            if FaultPoint.happens(.resumed) { throw .malformed }
            left = try FuseHolderState(bytes)
        } catch {
            if let older { onEvent(.notRenewed(errno: Self.goBack(program, number, older))) }
            return nil
        }
        close(number)
        if let older { close(older) }
        let watch = cfuse_watch_process(left.daemon.process)
        guard watch >= 0, let signals = Self.catchSignals() else { return nil }
        self.program = program
        self.store = store
        self.onEvent = onEvent
        self.signals = signals
        daemon = Daemon(
            process: left.daemon.process, watch: watch, isChild: left.daemon.isChild,
            socket: FuseHoldSocket(inherited: left.daemon.socket), isReady: left.daemon.isReady, handsOver: left.daemon.handsOver)
        holds = Dictionary(left.holds.map { ($0.name, $0) }, uniquingKeysWith: { $1 })
        listener = left.listener
        inbox = left.inbox
        for process in left.remains {
            let watch = cfuse_watch_process(process)
            if watch >= 0 { remains.append((process, watch)) }
        }
        for descriptor in left.inherited { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }  // they are there: their numbers came with them
        Self.block(false)
        onEvent(isBack ? .refused : .renewed)
        // What the older program did not get to: a stop that came meanwhile.
        var byte: UInt8 = 0
        var isAsked = false
        if let earlier = left.signals {
            while unsafe read(earlier, &byte, 1) == 1 { if [SIGTERM, SIGINT].contains(Int32(byte)) { isAsked = true } }
            close(earlier)
        }
        if isAsked { handle(SIGTERM) } else if !isBack { kill(daemon.process, SIGHUP) }
    }

    private static func block(_ isBlocked: Bool) {
        var all = sigset_t()
        unsafe sigemptyset(&all)
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] { unsafe sigaddset(&all, signal) }
        _ = unsafe pthread_sigmask(isBlocked ? SIG_BLOCK : SIG_UNBLOCK, &all, nil)  // fails for a wrong argument only
    }

    /// Has this process become the program that is installed now, with the same number and the same descriptors, and the daemon hand over
    /// to one of it. Mounts are served meanwhile.
    private func renew() {
        let code = replaceProgram()
        onEvent(.notRenewed(errno: code))
        // At least the daemon.
        kill(daemon.process, SIGHUP)
    }

    /// Returns only with an errno.
    private func replaceProgram() -> Int32 {
        // It would be of the older program.
        dropStandby()
        guard let memory = FuseHoldMemory() else { return EMFILE }
        defer { close(memory.descriptor) }
        // The file of this program, which may be nowhere else any more.
        let own = unsafe open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        guard own >= 0 else { return errno }
        defer { close(own) }
        var state = FuseHolderState(
            daemon: .init(
                process: daemon.process, socket: daemon.socket.descriptor, isChild: daemon.isChild, isReady: daemon.isReady,
                handsOver: daemon.handsOver))
        state.holds = Array(holds.values)
        state.listener = listener
        state.inbox = inbox
        state.remains = remains.map(\.process)
        state.signals = signals
        let code = memory.write(state.bytes)
        guard code == 0 else { return code }
        // From here on a signal waits for the next program, or stands in the pipe.
        Self.block(true)
        defer { Self.block(false) }
        let descriptors = state.inherited + [memory.descriptor, own, signals]
        for descriptor in descriptors { _ = fcntl(descriptor, F_SETFD, 0) }  // they are open, so this cannot fail
        defer { for descriptor in descriptors { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) } }
        return Self.execute(program.path, program, "\(memory.descriptor) \(own)")
    }

    /// Becomes the program again that has left its state in `memory`, whose descriptors are all as it left them. Returns only with an errno.
    private static func goBack(_ program: Program, _ memory: Int32, _ older: Int32) -> Int32 {
        execute("/proc/self/fd/\(older)", program, "\(memory) \(older) refused")
    }

    private static func execute(_ path: String, _ program: Program, _ state: String) -> Int32 {
        let environment = program.environment + ["\(stateVariable)=\(state)"]
        return unsafe FuseSpawn.withCStrings(program.arguments.map { Array($0.utf8) }) { arguments in
            unsafe FuseSpawn.withCStrings(environment.map { Array($0.utf8) }) { environment in
                unsafe execve(path, arguments, environment)
                return errno
            }
        }
    }

    // MARK: - A standby

    private func prepareStandby() {
        if standby?.hasEnded ?? false {
            dropStandby()
            standbyFailed = true
        }
        guard standby == nil, !standbyFailed, daemon.isReady, !daemon.handsOver, !isStopping, !isLeaving else { return }
        standby = FuseStandby(program)
        // Then there is none, and a successor is started when it is needed.
        standbyFailed = standby == nil
    }

    private func takeStandby() -> Daemon? {
        guard let standby else { return nil }
        guard standby.isGood(for: program) else {
            dropStandby()
            return nil
        }
        self.standby = nil
        return standby.daemon
    }

    private func dropStandby() {
        standby?.end()
        standby = nil
    }

    // MARK: - Keeping

    /// Serves the daemon until it stops by itself, or no successor comes up; answers the exit code for this process.
    package func run() -> Int32 {
        while true {
            prepareStandby()
            let (message, signal, hasEnded) = wait()
            if let signal { handle(signal) }
            if message { takeMessages() }
            if hasEnded || daemon.isSilent {
                if let code = daemonEnded() { return code }
            }
        }
    }

    /// Waits until something happens.
    private func wait() -> (message: Bool, signal: Int32?, hasEnded: Bool) {
        // Not while anybody waits for a successor.
        if daemon.isReady {
            remains.removeAll { predecessor in
                guard waitpid(predecessor.process, nil, WNOHANG) != 0 else { return false }
                close(predecessor.watch)
                return true
            }
        }
        var waiting = [
            pollfd(fd: daemon.isSilent ? -1 : daemon.socket.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
            pollfd(fd: daemon.watch, events: Int16(POLLIN), revents: 0),
        ]
        waiting.append(pollfd(fd: standby?.daemon.watch ?? -1, events: Int16(POLLIN), revents: 0))
        for predecessor in remains where daemon.isReady {
            waiting.append(pollfd(fd: predecessor.watch, events: Int16(POLLIN), revents: 0))
        }
        while unsafe poll(&waiting, nfds_t(waiting.count), daemon.isSilent ? Self.patience : -1) < 0, errno == EINTR {}
        var number: UInt8 = 0
        var hasSignal = false
        if waiting[1].revents != 0 { hasSignal = unsafe read(signals, &number, 1) == 1 }
        return (waiting[0].revents != 0, hasSignal ? Int32(number) : nil, waiting[2].revents != 0)
    }

    private func takeMessages() {
        repeat {
            switch daemon.socket.receive() {
            case .keep(let hold):
                holds.updateValue(hold, forKey: hold.name)?.close()
                note(store?.keep(hold))
                noteRoom()
            case .drop(let name):
                holds.removeValue(forKey: name)?.close()
                note(store?.drop(name))
            case .listen(let new):
                if let listener { close(listener.descriptor) }
                // By its name only one is kept.
                if listener?.isGiven == false { note(store?.dropListener()) }
                listener = new
                note(store?.keep(new))
            case .inbox(let new):
                // As for the listener.
                if let inbox {
                    close(inbox)
                    note(store?.dropInbox())
                }
                inbox = new
                note(store?.keep(inbox: new))
                noteRoom()
            case .closeEvents(let new):
                if let closeEvents { Self.closeAside(closeEvents) }
                closeEvents = new
            case .ready:
                if !daemon.isReady { onEvent(.ready) }
                daemon.isReady = true
                failures = 0
                standbyFailed = false
            case .handOver: daemon.handsOver = true
            case .lost(let mount): onEvent(.notKept(mount: mount ?? "control socket"))
            case .end: break
            case nil: daemon.isSilent = true
            }
        } while !daemon.isSilent && hasMessage()
    }

    /// On a thread that nobody waits for: what is closed here may have to wait until a daemon has written something.
    private static func closeAside(_ descriptor: Int32) {
        _ = Thread("remfs-closer") { close(descriptor) }
    }

    private func hasMessage() -> Bool {
        var socket = pollfd(fd: daemon.socket.descriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&socket, 1, 0) == 1
    }

    /// What the service manager's store has to hold.
    private var stored: Int { 2 * holds.count + (listener?.isGiven == false ? 1 : 0) + (inbox == nil ? 0 : 1) }

    private func note(_ code: Int32?) {
        if let code, code != 0 { onEvent(.notStored(errno: code)) }
    }

    private func noteRoom() {
        // Once, when it begins to matter.
        if let store, (store.room + 1...store.room + 2).contains(stored) { onEvent(.storeTooSmall(needed: stored, room: store.room)) }
    }

    private func handle(_ signal: Int32) {
        if signal == SIGTERM || signal == SIGINT {
            if !isStopping { onEvent(.stopping) }
            isStopping = true
            kill(daemon.process, SIGTERM)
            return
        }
        guard !isStopping, !isLeaving else { return }
        // To hand over. On SIGHUP, where a service manager keeps everything, to the next start of all: it may want to start something
        // else, and waits for this process to end. Otherwise to what is installed now, in this process.
        if signal == SIGHUP, let store {
            if stored <= store.room {
                isLeaving = true
                kill(daemon.process, SIGHUP)
                return
            }
            onEvent(.storeTooSmall(needed: stored, room: store.room))
        }
        renew()
    }

    // MARK: - When it ends

    private enum Outcome { case exited(Int32), killed(Int32), stuck }

    /// What became of a daemon that has ended, or closed its socket, which the kernel does for the dead.
    private func outcome() -> Outcome {
        var watch = pollfd(fd: daemon.watch, events: Int16(POLLIN), revents: 0)
        while unsafe poll(&watch, 1, Self.patience) < 0, errno == EINTR {}
        guard watch.revents != 0 else { return .stuck }
        // It is taken away later: where somebody has looked at its threads in /proc that takes milliseconds, and clients wait.
        let status = cfuse_peek_exit(daemon.process)
        // One that was there before us is another's child: how it ended is not ours to know.
        guard status >= 0 else { return .killed(SIGKILL) }
        let signal = status & 0x7f
        return signal == 0 ? .exited((status >> 8) & 0xff) : .killed(signal)
    }

    /// nil: a successor serves.
    private func daemonEnded() -> Int32? {
        // What it said last.
        if !daemon.isSilent, hasMessage() { takeMessages() }
        let outcome = outcome()
        if case .stuck = outcome, !isZombie(daemon.process) {
            // Alive without its holder's socket: nothing we know of does that. Two daemons on one mount would do everything twice.
            kill(daemon.process, SIGKILL)
            return nil
        }
        switch outcome {
        case .exited(let code):
            if !daemon.handsOver {
                // It has stopped, as it was told to, or could not start.
                if code == 0 || isStopping || (holds.isEmpty && !daemon.isReady) { return finish(code) }
                onEvent(.exited(code: code))
            }
        case .killed(let signal):
            onEvent(.died(signal: signal))
            if isStopping { return finish(128 + signal) }
        case .stuck: onEvent(.stuck)
        }
        remains.append((daemon.process, daemon.watch))
        daemon.socket.close()
        if isStopping { return finish(70) }
        if isLeaving {
            onEvent(.left(mounts: holds.count))
            return finish(Self.leftStatus, keepsStored: true)
        }
        if !daemon.isReady, !daemon.handsOver { failures += 1 }
        return startSuccessor()
    }

    private func startSuccessor() -> Int32? {
        removeEnded()
        while failures <= Self.mostFailures {
            // 0, 10, 20, 40 ... ms, and at most 5 s.
            if failures > 0 { usleep(UInt32(min(5_000_000, 10_000 << min(failures - 1, 9)))) }
            if let next = takeStandby() ?? Self.start(program), sendHolds(to: next) {
                daemon = next
                onEvent(.startedAgain(mounts: holds.count))
                return nil
            }
            failures += 1
        }
        onEvent(.gaveUp(mounts: holds.count))
        // A service manager that keeps them may have more luck, and lets go of them when it gives up too.
        return finish(70, keepsStored: true)
    }

    /// What has been unmounted meanwhile is of no use to anybody.
    private func removeEnded() {
        for (name, hold) in holds where Self.hasEnded(hold.device) {
            hold.close()
            holds[name] = nil
            note(store?.drop(name))
        }
    }

    private func sendHolds(to next: Daemon) -> Bool {
        if let listener, next.socket.send(.listen(listener)) != 0 { return false }
        if let inbox, next.socket.send(.inbox(inbox)) != 0 { return false }
        return holds.values.allSatisfy { next.socket.send(.keep($0)) == 0 } && next.socket.send(.end) == 0
    }

    /// Closing the descriptors tells those who still wait, if nobody else has them: with ECONNABORTED.
    private func finish(_ code: Int32, keepsStored: Bool = false) -> Int32 {
        dropStandby()
        // The dead go with this process anyway, but a moment later.
        for process in remains.map(\.process) + [daemon.process] { _ = waitpid(process, nil, WNOHANG) }
        if !keepsStored {
            for name in holds.keys { note(store?.drop(name)) }
            if listener?.isGiven == false { note(store?.dropListener()) }
            if inbox != nil { note(store?.dropInbox()) }
        }
        for hold in holds.values { hold.close() }
        holds = [:]
        return code
    }

    private static func hasEnded(_ device: Int32) -> Bool {
        var state = pollfd(fd: device, events: 0, revents: 0)
        return unsafe poll(&state, 1, 0) == 1 && state.revents & Int16(POLLERR) != 0
    }

    /// Whether its leader is dead, and with it all of its code that is not in the kernel.
    private func isZombie(_ process: Int32) -> Bool {
        guard let text = FuseControl.read("/proc/\(process)/stat"), let end = text.lastIndex(of: UInt8(ascii: ")")) else { return true }
        return text.dropFirst(end + 2).first == UInt8(ascii: "Z")
    }
}
