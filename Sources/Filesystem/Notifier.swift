import Fuse
import Storage
import Threads

/// What one kernel still has to forget, in order.
final class InvalidationQueue: Sendable {
    private struct State {
        var waiting: [Invalidation] = []
        var posted: UInt64 = 0
        var done: UInt64 = 0
        /// A notifier thread is at it, or about to be.
        var isClaimed = false
        var isClosed = false
        /// What a successor finds of it: all that has not reached the kernel for certain.
        var log: FuseHoldLog?
    }
    private let state: Mutex<State>
    private let progress = Condition()
    private let notifier: Notifier
    private let connection = Mutex<FuseConnection?>(nil)

    /// - Parameter memory: where a predecessor may have left some, and this one leaves them.
    init(_ notifier: Notifier, _ memory: FuseHoldMemory? = nil) {
        self.notifier = notifier
        var state = State()
        state.log = memory.map { FuseHoldLog($0, .invalidations) }
        state.waiting = (state.log?.read() ?? []).compactMap(Invalidation.init(record:))
        state.posted = UInt64(state.waiting.count)
        self.state = Mutex(state)
    }

    func open(_ connection: FuseConnection) {
        self.connection.withLock { $0 = connection }
        let claims = state.withLock { state in
            guard !state.isClosed, !state.isClaimed, !state.waiting.isEmpty else { return false }
            state.isClaimed = true
            return true
        }
        if claims { notifier.submit(self) }
    }

    /// Nothing is sent from now on; nobody waits.
    func close() {
        connection.withLock { $0 = nil }
        state.withLock { state in
            state.isClosed = true
            state.log = nil
            state.waiting = []
            state.done = state.posted
        }
        progress.broadcast()
    }

    /// Never waits: called with the store's lock held.
    func post(_ invalidations: [Invalidation]) {
        let claims = state.withLock { state in
            guard !state.isClosed else { return false }
            state.waiting.append(contentsOf: invalidations)
            state.posted += UInt64(invalidations.count)
            // What there is no room for, after tens of thousands, is lost with this process; it reaches the kernel all the same.
            for record in invalidations.compactMap(\.record) { _ = state.log?.append(record) }
            defer { state.isClaimed = true }
            return !state.isClaimed
        }
        if claims { notifier.submit(self) }
    }

    var isBehind: Bool { state.withLock { $0.done < $0.posted } }

    /// Waits until what was posted before this call has reached the kernel; false: not within `timeout`.
    func drain(_ timeout: Duration) -> Bool {
        let target = state.withLock { $0.posted }
        return state.wait(on: progress, atMost: timeout, until: { $0.done >= target }) { _, done in done }
    }

    /// Sends what waits. On a notifier thread, without any lock held while the kernel may wait for one of our replies.
    func work() {
        while true {
            let batch = state.withLock { state -> [Invalidation]? in
                guard !state.waiting.isEmpty else {
                    state.isClaimed = false
                    _ = state.log?.removeAll()  // otherwise a successor says it once more
                    return nil
                }
                defer { state.waiting = [] }
                return state.waiting
            }
            guard let batch else { return }
            if let connection = connection.withLock({ $0 }) {
                // False: the mount has ended, and its kernel has forgotten everything.
                _ = connection.notifying { for invalidation in batch { send(invalidation, over: connection) } }
            }
            state.withLock { $0.done = min($0.posted, $0.done + UInt64(batch.count)) }
            progress.broadcast()
        }
    }

    /// ENOENT, the usual outcome, says that this kernel does not know the inode or name; any other error that the mount has ended.
    private func send(_ invalidation: Invalidation, over connection: FuseConnection) {
        switch invalidation {
        case .bytes(let inode, let offset, let length):
            _ = connection.invalidate(NodeID(inode), offset: offset, length: length)
        case .attributes(let inode):
            _ = connection.invalidate(NodeID(inode), length: -1)
        case .name(let name, let parent):
            _ = unsafe name.withUnsafeBytes { unsafe connection.invalidateName($0, in: NodeID(parent)) }
            _ = connection.invalidate(NodeID(parent), offset: 0, length: 0)
        case .removal(let name, let parent, let inode):
            _ = unsafe name.withUnsafeBytes { unsafe connection.notifyDelete($0, in: NodeID(parent), child: NodeID(inode)) }
            _ = connection.invalidate(NodeID(parent), offset: 0, length: 0)
        }
    }
}

/// The threads that tell kernels what to forget. A kernel may hold one of them for as long as a page of that mount is locked, so
/// there are several, and a mount occupies at most one. They have no descriptors of the process's (`FuseConnection.beNotifier`), so they
/// touch no store and no file.
final class Notifier: Sendable {
    private struct State {
        var queues: [InvalidationQueue] = []
        var isStopping = false
    }
    private let state = Mutex(State())
    private let arrived = Condition()
    private let threads = Mutex<[Thread]>([])

    init(count: Int) {
        let threads = (0..<count).map { number in Thread("remfs-notify-\(number)") { [self] in run() } }
        self.threads.withLock { $0 = threads }
    }

    func submit(_ queue: InvalidationQueue) {
        state.withLock { $0.queues.append(queue) }
        arrived.signal()
    }

    private func run() {
        let code = FuseConnection.beNotifier()
        // Only without memory for a table of descriptors.
        precondition(code == 0, "no descriptor table for a notifier: errno \(code)")
        while true {
            let queue = state.wait(on: arrived, until: { $0.isStopping || !$0.queues.isEmpty }) { state in
                state.queues.isEmpty ? nil : state.queues.removeFirst()
            }
            guard let queue else { return }
            queue.work()
        }
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        arrived.broadcast()
        for thread in threads.withLock({ $0 }) { thread.join() }
    }
}
