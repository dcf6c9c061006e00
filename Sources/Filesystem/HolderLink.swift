package import Fuse
import Glibc
package import Logging
import Threads

/// A daemon's side of its holder: the process that keeps the descriptors of mounts, so that they outlive this one.
///
/// Safe from any thread.
package final class HolderLink: Sendable {
    private struct State {
        var socket: FuseHoldSocket?
        var holds: [String: FuseHold] = [:]
        var listener: FuseHeldListener?
        var isReady = false
        var isStopping = false
    }
    private let state: Mutex<State>
    private let ended = Condition()
    /// What predecessors left.
    let inherited: [FuseHold]
    /// The control socket that predecessors have served, or a service manager has made. The link never closes it.
    package let listener: FuseHeldListener?
    private let logger: Logger
    private let startAnother: @Sendable () -> FuseHoldSocket?

    /// Takes over what the holder at the other end of `socket` has kept. nil if the holder is gone.
    ///
    /// - Parameter startAnother: called when the holder has died; answers the socket of a new one.
    package init?(_ socket: FuseHoldSocket, logger: Logger, startAnother: @escaping @Sendable () -> FuseHoldSocket?) {
        var inherited: [FuseHold] = []
        var listener: FuseHeldListener?
        receiving: while true {
            switch socket.receive() {
            case .keep(let hold): inherited.append(hold)
            case .listen(let kept): listener = kept
            case .end: break receiving
            case nil:
                for hold in inherited { hold.close() }
                listener.map { _ = close($0.descriptor) }
                return nil
            default: continue
            }
        }
        self.inherited = inherited
        self.listener = listener
        self.logger = logger
        self.startAnother = startAnother
        state = Mutex(
            State(socket: socket, holds: Dictionary(uniqueKeysWithValues: inherited.map { ($0.name, $0) }), listener: listener))
        _ = Thread("remfs-holder") { [self] in watch(socket) }
    }

    /// Notices that the holder has died, and starts another: until then mounts are unprotected.
    private func watch(_ first: FuseHoldSocket) {
        var socket = first
        while true {
            while socket.receive() != nil {}
            let isOver = state.withLock { state in
                state.socket = nil
                return state.isStopping
            }
            socket.close()
            if isOver { return }
            guard let next = startAnother() else {
                logger.error("the holder has died and no other can be started: mounts end with this process")
                return
            }
            let (holds, listener, isReady) = state.withLock { state in
                state.socket = next
                return (Array(state.holds.values), state.listener, state.isReady)
            }
            if let listener { _ = next.send(.listen(listener)) }  // as below
            for hold in holds { _ = next.send(.keep(hold)) }  // a holder that dies as well is seen above
            if isReady { _ = next.send(.ready) }
            logger.warning("the holder died; another was started", metadata: ["mounts": "\(holds.count)"])
            socket = next
        }
    }

    /// Has a mount kept. From when this returns it outlives this process.
    func keep(_ hold: FuseHold) {
        let socket = state.withLock { state in
            state.holds[hold.name] = hold
            return state.socket
        }
        _ = socket?.send(.keep(hold))  // without a holder: the next one is told
    }

    /// The mount has ended, or is to be ended: nobody is to go on with it.
    func drop(_ name: String) {
        let socket = state.withLock { state in
            state.holds[name] = nil
            return state.socket
        }
        _ = socket?.send(.drop(name))
    }

    /// Has the control socket kept, so that whoever connects while no daemon is there waits. The link keeps the descriptor.
    package func keep(_ listener: FuseHeldListener) { send(.listen(listener)) { $0.listener = listener } }

    /// Everything is served.
    package func ready() { send(.ready) { $0.isReady = true } }

    /// This process will exit, and a successor is to go on.
    package func handOver() { send(.handOver) { $0.isStopping = true } }

    /// This process will exit, and that is all.
    package func stop() { state.withLock { $0.isStopping = true } }

    private func send(_ message: FuseHoldSocket.Message, _ change: (inout State) -> Void) {
        let socket = state.withLock { state in
            change(&state)
            return state.socket
        }
        _ = socket?.send(message)  // as for `keep`
    }
}
