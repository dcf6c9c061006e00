package import Fuse
import Glibc
package import Logging
import Storage
import Threads

/// A daemon's side of its holder: the process that keeps the descriptors of mounts, so that they outlive this one.
///
/// Safe from any thread.
package final class HolderLink: Sendable {
    private struct State {
        var socket: FuseHoldSocket?
        var holds: [String: FuseHold] = [:]
        var listener: FuseHeldListener?
        var closeEvents: Int32?
        var isReady = false
        var isStopping = false
    }
    private let state: Mutex<State>
    private let stopping = Condition()
    /// What predecessors left.
    let inherited: [FuseHold]
    /// The control socket that predecessors have served, or a service manager has made. The link never closes it.
    package let listener: FuseHeldListener?
    /// Where requests stand that are not answered; nil where there is no memory for it.
    let inbox: FuseInbox?
    /// Whether predecessors may have left some in it.
    let inheritsInbox: Bool
    private let logger: Logger
    private let startAnother: @Sendable () -> FuseHoldSocket?

    /// Takes over what the holder at the other end of `socket` has kept. nil if the holder is gone.
    ///
    /// - Parameter startAnother: called when the holder has died; answers the socket of a new one.
    package init?(_ socket: FuseHoldSocket, logger: Logger, startAnother: @escaping @Sendable () -> FuseHoldSocket?) {
        var inherited: [FuseHold] = []
        var listener: FuseHeldListener?
        var kept: Int32?
        var lost: [String] = []
        receiving: while true {
            switch socket.receive() {
            case .keep(let hold): inherited.append(hold)
            case .listen(let kept): listener = kept
            case .inbox(let descriptor): kept = descriptor
            case .lost(let mount): lost.append(mount ?? "control socket")
            case .end: break receiving
            case nil:
                for hold in inherited { hold.close() }
                listener.map { _ = close($0.descriptor) }
                kept.map { _ = close($0) }
                return nil
            default: continue
            }
        }
        if !lost.isEmpty {
            let needed = DescriptorLimit.needed(for: inherited.count + lost.count)
            logger.error(
                "no file descriptors left to go on with all mounts",
                metadata: [
                    "lost": "\(lost.count)", "limit": "\(DescriptorLimit.current)", "needed": "\(needed)",
                    "advice": "\(RemfsError.moreDescriptors)",
                ])
            // Who waits in them is told that they are gone, and waits no more.
            for mount in lost { _ = socket.send(.drop(mount)) }  // a holder that is gone has closed them
        }
        self.inherited = inherited
        self.listener = listener
        let old = kept.flatMap { FuseInbox(inherited: $0) }
        if kept != nil, old == nil {
            logger.error("what a predecessor has read and not answered is not understood: it was left by another remfs")
        }
        let isUsable = old?.suffices(for: FuseWorkers.usualCount) ?? false
        inheritsInbox = isUsable
        inbox = isUsable ? old : FuseInbox()
        self.logger = logger
        self.startAnother = startAnother
        state = Mutex(
            State(socket: socket, holds: Dictionary(uniqueKeysWithValues: inherited.map { ($0.name, $0) }), listener: listener))
        if let inbox, !inheritsInbox { _ = socket.send(.inbox(inbox.descriptor)) }  // as in `send`
        _ = Thread("remfs-holder") { [self] in watch(socket) }
    }

    /// Notices that the holder has died, and starts another: until then mounts are unprotected. One that dies as soon as it is started, or
    /// cannot be, is tried again after a while that grows.
    private func watch(_ first: FuseHoldSocket) {
        var socket = first
        var begun: ContinuousClock.Instant?
        var failures = 0
        while true {
            while socket.receive() != nil {}
            guard !letGo(of: socket) else { return }
            // The first one is no start of this process.
            failures = begun.map { ContinuousClock.now - $0 < Self.trial } ?? false ? failures + 1 : 0
            var started: FuseHoldSocket?
            while started == nil {
                // 0, 20, 40, 80 ... ms, and at most 10 s.
                let pause = failures == 0 ? 0 : min(10_000, 10 << min(failures, 10))
                if failures > 0 {
                    logger.error(
                        "no holder can be kept running: mounts would end with this process",
                        metadata: ["failures": "\(failures)", "next_in_ms": "\(pause)"])
                }
                guard !waitUnlessStopping(.milliseconds(pause)) else { return }
                begun = .now
                started = startAnother()
                if started == nil { failures += 1 }
            }
            guard let next = started else { return }
            // All at once, so that what others say meanwhile comes after it. Where this holder dies as well it is seen above.
            let count = state.withLock { state in
                state.socket = next
                if let inbox { _ = next.send(.inbox(inbox.descriptor)) }
                if let listener = state.listener { _ = next.send(.listen(listener)) }
                if let group = state.closeEvents { _ = next.send(.closeEvents(group)) }
                for hold in state.holds.values { _ = next.send(.keep(hold)) }
                if state.isReady { _ = next.send(.ready) }
                return state.holds.count
            }
            logger.warning("the holder died; another was started", metadata: ["mounts": "\(count)"])
            socket = next
        }
    }

    /// For how long a holder has to live to be counted as one.
    private static let trial: Duration = .seconds(1)

    /// Whether no other is wanted.
    private func letGo(of socket: FuseHoldSocket) -> Bool {
        // Not before nobody can send to it any more: its number may be another file's next.
        let isOver = state.withLock { state in
            state.socket = nil
            return state.isStopping
        }
        socket.close()
        return isOver
    }

    /// Whether this process is about to exit.
    private func waitUnlessStopping(_ pause: Duration) -> Bool {
        state.wait(on: stopping, atMost: pause, until: { $0.isStopping }) { _, isStopping in isStopping }
    }

    /// Has a mount kept. From when this returns it outlives this process.
    func keep(_ hold: FuseHold) { send(.keep(hold)) { $0.holds[hold.name] = hold } }

    /// The mount has ended, or is to be ended: nobody is to go on with it.
    func drop(_ name: String) { send(.drop(name)) { $0.holds[name] = nil } }

    /// Has the control socket kept, so that whoever connects while no daemon is there waits. The link keeps the descriptor.
    package func keep(_ listener: FuseHeldListener) { send(.listen(listener)) { $0.listener = listener } }

    /// Has the group of close events kept open until a successor has one, so that this process can end without waiting for the kernel.
    func keep(closeEvents group: Int32) { send(.closeEvents(group)) { $0.closeEvents = group } }

    /// Everything is served.
    package func ready() { send(.ready) { $0.isReady = true } }

    /// This process will exit, and a successor is to go on.
    package func handOver() {
        send(.handOver) { $0.isStopping = true }
        stopping.broadcast()
    }

    /// This process will exit, and that is all.
    package func stop() {
        state.withLock { $0.isStopping = true }
        stopping.broadcast()
    }

    /// Within the lock: otherwise the socket might be closed meanwhile, and its number be another's. The holder always listens.
    private func send(_ message: FuseHoldSocket.Message, _ change: (inout State) -> Void) {
        state.withLock { state in
            change(&state)
            _ = state.socket?.send(message)  // without a holder, or with one that has just died: the next one is told
        }
    }
}
