import Fuse
import Storage
import Threads

/// What one kernel still has to forget, each thing once: whoever waits for it to be told of a change is told of all that came since as well,
/// and a burst of changes to a few files takes the time, and the room, of a few.
final class InvalidationQueue: Sendable {
    private struct Entry {
        var invalidation: Invalidation
        /// Where in the log it was noted first: all before that is said once all entries before this one are sent.
        let mark: Int
    }

    private struct State {
        var waiting: [Entry] = []
        /// Where in `waiting` it stands, by `key`.
        var places: [Invalidation: Int] = [:]
        /// Calls of `post`, and how many of them have reached the kernel.
        var posted: UInt64 = 0
        var done: UInt64 = 0
        /// There is a connection to send it over. Until then it waits, and nobody waits for it.
        var isOpen = false
        /// A notifier thread is at it, or about to be.
        var isClaimed = false
        var isClosed = false
        /// What a successor finds of it: all that has not reached the kernel for certain.
        var log: FuseHoldLog?
        /// A predecessor's are in the log, and not yet in `waiting`.
        var hasInherited = false
        /// A place in the log: all before it has reached the kernel. Notifier threads have no descriptors, so others shorten it.
        var sent = 0

        mutating func add(_ invalidation: Invalidation, mark: Int? = nil) {
            let key = invalidation.key
            if let place = places[key] {
                guard let both = waiting[place].invalidation.covering(invalidation) else { return }
                waiting[place].invalidation = both
                if mark == nil { record(both) }
            } else {
                places[key] = waiting.count
                waiting.append(Entry(invalidation: invalidation, mark: mark ?? log?.end ?? 0))
                if mark == nil { record(invalidation) }
            }
        }

        /// What there is no room for, after tens of thousands, is lost with this process; it reaches the kernel all the same.
        private mutating func record(_ invalidation: Invalidation) {
            guard let record = invalidation.record else { return }
            _ = log?.append(record)
        }

        mutating func take() -> [Entry] {
            defer { (waiting, places) = ([], [:]) }
            return waiting
        }

        /// What predecessors have left, before what was posted since.
        mutating func takeIn(_ inherited: [Invalidation], from first: Int) {
            let newer = take()
            for (place, invalidation) in inherited.enumerated() { add(invalidation, mark: first + place) }
            for entry in newer { add(entry.invalidation, mark: entry.mark) }
            hasInherited = false
        }

        mutating func didSend(before next: Entry?) { sent = next?.mark ?? waiting.first?.mark ?? log?.end ?? 0 }

        /// Not at each change. What stays, and where removing fails, a successor says once more.
        mutating func shortenLog() {
            guard let first = log?.first, sent - first >= 64 else { return }
            _ = log?.removeFirst(upTo: sent)
        }
    }
    private let state: Mutex<State>
    private let progress = Condition()
    private let notifier: Notifier
    private let connection = Mutex<FuseConnection?>(nil)

    /// - Parameter memory: where a predecessor may have left some, and this one leaves them. They are read once there is a connection, by a
    ///   thread of their own, since there may be thousands, and the mount's callers wait meanwhile.
    init(_ notifier: Notifier, _ memory: FuseHoldMemory? = nil) {
        self.notifier = notifier
        var state = State()
        state.log = memory.map { FuseHoldLog($0, .invalidations) }
        state.hasInherited = state.log.map { $0.count > 0 } ?? false
        state.posted = state.hasInherited ? 1 : 0
        self.state = Mutex(state)
    }

    func open(_ connection: FuseConnection) {
        self.connection.withLock { $0 = connection }
        let (claims, hasInherited) = state.withLock { state in
            guard !state.isClosed else { return (false, false) }
            state.isOpen = true
            guard !state.isClaimed, state.hasInherited || !state.waiting.isEmpty else { return (false, false) }
            state.isClaimed = true
            return (true, state.hasInherited)
        }
        guard claims else { return }
        guard hasInherited else { return notifier.submit(self) }
        _ = Thread("remfs-inherit") { [self] in
            takeInInherited()
            notifier.submit(self)
        }
    }

    /// Nothing is sent from now on; nobody waits.
    func close() {
        connection.withLock { $0 = nil }
        state.withLock { state in
            (state.isOpen, state.isClosed) = (false, true)
            state.log = nil
            _ = state.take()
            state.done = state.posted
        }
        progress.broadcast()
    }

    /// Never waits: called with the store's lock held.
    func post(_ invalidations: [Invalidation]) {
        let claims = state.withLock { state in
            guard !state.isClosed else { return false }
            state.shortenLog()
            for invalidation in invalidations { state.add(invalidation) }
            state.posted += 1
            guard state.isOpen, !state.isClaimed else { return false }
            state.isClaimed = true
            return true
        }
        if claims { notifier.submit(self) }
    }

    var isBehind: Bool { state.withLock { $0.isOpen && $0.done < $0.posted } }

    /// Waits until what was posted before this call has reached the kernel; false: not within `timeout`.
    func drain(_ timeout: Duration) -> Bool {
        let target = state.withLock { $0.posted }
        return state.wait(on: progress, atMost: timeout, until: { !$0.isOpen || $0.done >= target }) { _, done in done }
    }

    /// How many are sent before the log says so.
    private static let piece = 256

    /// Sends what waits. On a notifier thread, without any lock held while the kernel may wait for one of our replies.
    func work() {
        while true {
            let (batch, posted) = state.withLock { state in
                if state.waiting.isEmpty { state.isClaimed = false }
                return (state.take(), state.posted)
            }
            if batch.isEmpty { return }
            for start in stride(from: 0, to: batch.count, by: Self.piece) {
                let end = min(start + Self.piece, batch.count)
                if let connection = connection.withLock({ $0 }) {
                    // False: the mount has ended, and its kernel has forgotten everything.
                    _ = connection.notifying { send(batch[start..<end], over: connection) }
                }
                state.withLock { $0.didSend(before: end < batch.count ? batch[end] : nil) }
            }
            state.withLock { $0.done = max($0.done, posted) }
            progress.broadcast()
        }
    }

    /// What predecessors have left. Nobody shortens the log meanwhile, as nothing is sent.
    func takeInInherited() {
        guard let log = state.withLock({ $0.hasInherited ? $0.log : nil }) else { return }
        let inherited = log.read().compactMap(Invalidation.init(record:))
        state.withLock { $0.takeIn(inherited, from: log.first) }
    }

    /// ENOENT, the usual outcome, says that this kernel does not know the inode or name; any other error that the mount has ended.
    private func send(_ entries: ArraySlice<Entry>, over connection: FuseConnection) {
        // Their listings and times, once for all names that changed in them.
        var directories: Set<InodeNumber> = []
        for entry in entries {
            switch entry.invalidation {
            case .bytes(let inode, let offset, let length):
                _ = connection.invalidate(NodeID(inode), offset: offset, length: length)
            case .attributes(let inode):
                _ = connection.invalidate(NodeID(inode), length: -1)
            case .name(let name, let parent):
                _ = unsafe name.withUnsafeBytes { unsafe connection.invalidateName($0, in: NodeID(parent)) }
                directories.insert(parent)
            case .removal(let name, let parent, let inode):
                _ = unsafe name.withUnsafeBytes { unsafe connection.notifyDelete($0, in: NodeID(parent), child: NodeID(inode)) }
                directories.insert(parent)
            }
        }
        for directory in directories { _ = connection.invalidate(NodeID(directory), offset: 0, length: 0) }
    }
}

extension Invalidation {
    /// Of two with the same key one does what both do.
    fileprivate var key: Invalidation {
        guard case .bytes(let inode, _, _) = self else { return self }
        return .bytes(inode, offset: 0, length: 0)
    }

    /// What does what this and another of the same key do; nil: this one does.
    fileprivate func covering(_ other: Invalidation) -> Invalidation? {
        guard case .bytes(let inode, let offset, let length) = self, case .bytes(_, let otherOffset, let otherLength) = other else {
            return nil
        }
        // Length 0: to the end.
        let isCovered = length == 0 || otherLength > 0 && otherOffset + otherLength <= offset + length
        return otherOffset >= offset && isCovered ? nil : .bytes(inode, offset: min(offset, otherOffset), length: 0)
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
