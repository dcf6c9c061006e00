internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// The threads that serve all connections, as leader and followers: the one that holds the baton waits in epoll, reads a request and
/// answers it inline; the others sleep. So a single client is always served by the same hot thread, at half the cost of several threads in
/// one epoll, and work that may wait hands the baton on first (`willBlock`).
///
/// `stop` must be called before the last reference goes.
package final class FuseWorkers: Sendable {
    /// What the watchdog saw.
    package struct Stall: Sendable {
        package enum Kind: Sendable, Equatable {
            /// A request was answered with the baton in hand for longer than it may: someone forgot `willBlock`. The baton was passed on.
            case baton(FuseOperation)
            /// A request occupies a worker: a slow disk, or a deadlock.
            case request(FuseOperation)
            /// A notification waits in the kernel. Nothing but an abort frees it, so the connection was aborted: 0, or the errno of that.
            case notification(abort: Int32)
        }
        package let kind: Kind
        package let seconds: Double
        /// Nil if it has ended meanwhile.
        package let connection: FuseConnection?
    }

    private struct Connections {
        /// What epoll reports, by the number in its events.
        var served: [UInt64: FuseConnection] = [:]
        /// Those that are served, and those whose last answers are awaited.
        var unfinished: [UInt64: FuseConnection] = [:]
        var numbers: [ObjectIdentifier: UInt64] = [:]
        var next: UInt64 = 1
        var isStopping = false
    }
    private struct Chores {
        /// Connections that nobody is inside of any more, to be closed.
        var ended: [FuseConnection] = []
        var isStopping = false
    }

    private let poll: Int32
    /// Readable from `stop` on, so that each leader wakes and leaves.
    private let wake: Int32
    private let progress: [FuseProgress]
    private let connections = Mutex(Connections())
    private let chores = Mutex(Chores())
    private let choresChanged = Condition()
    private let isStopping = Atomic<Bool>(false)
    private let threads = Mutex<[Thread]>([])
    private let inbox: FuseInbox?
    private let stallLimit: Duration
    private let hangLimit: Duration
    private let onStall: @Sendable (Stall) -> Void

    package static let usualCount = 4

    /// Up to how many requests of one connection are served before the others are looked at.
    private static let burst = 32

    /// Starts the threads: `count` workers, one that ends connections and a watchdog.
    ///
    /// - Parameters:
    ///   - inbox: where a successor finds what they have read; it must suffice for them.
    ///   - stallLimit: how long a worker may hold the baton in one request, seen half of it later at most. Then `onStall` is told and the baton passed on.
    ///   - hangLimit: how long a request or a notification may take at all. Then `onStall` is told; of a notification the connection
    ///     is aborted, of a request it is not, since a disk may be slow.
    ///   - onStall: called on the watchdog's thread, once for each incident. It should not block.
    package init(
        count: Int = FuseWorkers.usualCount, inbox: FuseInbox? = nil, stallLimit: Duration = .seconds(1),
        hangLimit: Duration = .seconds(30),
        onStall: @escaping @Sendable (Stall) -> Void
    ) {
        poll = epoll_create1(Int32(EPOLL_CLOEXEC))
        wake = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        // Without descriptors for itself a process serves nothing.
        precondition(poll >= 0 && wake >= 0, "no descriptors for the FUSE workers")
        let baton = FuseBaton()
        progress = (0..<max(count, 1)).map { _ in FuseProgress(baton) }
        self.inbox = inbox
        self.stallLimit = stallLimit
        self.hangLimit = hangLimit
        self.onStall = onStall
        var event = unsafe epoll_event(events: EPOLLIN.rawValue, data: epoll_data(u64: 0))
        unsafe epoll_ctl(poll, EPOLL_CTL_ADD, wake, &event)
        var started: [Thread] = []
        for (index, progress) in progress.enumerated() {
            started.append(Thread("fuse-worker-\(index)") { self.work(progress, index) })
        }
        started.append(Thread("fuse-keeper") { self.finishConnections() })
        started.append(Thread("fuse-watchdog") { self.watch() })
        threads.withLock { $0 = started }
    }

    /// Serves `connection` from now on. False if it is served already, has ended, or the workers are stopping.
    package func add(_ connection: FuseConnection) -> Bool {
        let added = connection.beServed(by: self) {
            connections.withLock { connections in
                guard !connections.isStopping else { return false }
                let number = connections.next
                var event = unsafe epoll_event(events: EPOLLIN.rawValue, data: epoll_data(u64: number))
                guard unsafe epoll_ctl(poll, EPOLL_CTL_ADD, connection.device, &event) == 0 else { return false }
                connections.next += 1
                connections.served[number] = connection
                connections.unfinished[number] = connection
                connections.numbers[ObjectIdentifier(connection)] = number
                connection.serviceNumber.store(number, ordering: .relaxed)
                return true
            }
        }
        return added
    }

    /// Ends every connection (`FuseConnection.end`: unmount before), then all threads, and waits for both. Call it once, on none of them.
    package func stop() {
        let remaining = connections.withLock { connections in
            connections.isStopping = true
            return Array(connections.unfinished.values)
        }
        for connection in remaining { connection.end() }
        isStopping.store(true, ordering: .releasing)
        var one: UInt64 = 1
        // The counter stands at 0, so one write cannot fail.
        _ = unsafe write(wake, &one, MemoryLayout<UInt64>.size)
        chores.withLock { $0.isStopping = true }
        choresChanged.broadcast()
        for thread in threads.withLock({ $0 }) { thread.join() }
        threads.withLock { $0 = [] }
        close(wake)
        close(poll)
    }

    /// Reads nothing more from any connection, and waits until the workers have answered what they are at. The connections stay as they
    /// are. What is to be answered later is not waited for.
    package func leave() {
        isStopping.store(true, ordering: .releasing)
        var one: UInt64 = 1
        // The counter stands at 0, so one write cannot fail.
        _ = unsafe write(wake, &one, MemoryLayout<UInt64>.size)
        let workers = threads.withLock { threads in
            defer { threads.removeFirst(progress.count) }
            return threads.prefix(progress.count)
        }
        for worker in workers { worker.join() }
    }

    /// Says that the request which the calling thread serves may have to wait (a disk, a lock): another worker then takes over the
    /// receiving. Cheap, and does nothing on other threads or when said before.
    @inline(__always)
    package static func willBlock() {
        guard let worker = unsafe cfuse_worker() else { return }
        unsafe Unmanaged<FuseProgress>.fromOpaque(worker)._withUnsafeGuaranteedRef { $0.passBaton() }
    }

    // MARK: - Connections

    /// Reads nothing more from `connection`. A worker that has just heard of it finds its gate closed.
    func forget(_ connection: FuseConnection) {
        connections.withLock { connections in
            guard let number = connections.numbers.removeValue(forKey: ObjectIdentifier(connection)) else { return }
            connections.served[number] = nil
            // Explicit, since a descriptor that someone else holds as well is not removed by being closed.
            var event = unsafe epoll_event()
            unsafe epoll_ctl(poll, EPOLL_CTL_DEL, connection.device, &event)
        }
    }

    /// Has `connection`, which nobody is inside of any more, ended by a thread that may block and has the process's descriptors.
    func finish(_ connection: FuseConnection) {
        chores.withLock { $0.ended.append(connection) }
        choresChanged.broadcast()
    }

    private func finishConnections() {
        while true {
            let (ended, isOver) = chores.wait(on: choresChanged, until: { !$0.ended.isEmpty || $0.isStopping }) { chores in
                defer { chores.ended = [] }
                return (chores.ended, chores.isStopping)
            }
            for connection in ended {
                connections.withLock { $0.unfinished[connection.serviceNumber.load(ordering: .relaxed)] = nil }
                connection.finish(notifying: true)
            }
            if isOver && ended.isEmpty { return }
        }
    }

    // MARK: - Workers

    private func work(_ progress: FuseProgress, _ index: Int) {
        let receiver = FuseReceiver(worker: index, inbox: inbox)
        unsafe cfuse_set_worker(Unmanaged.passUnretained(progress).toOpaque())
        defer { cfuse_set_worker(nil) }
        while true {
            progress.takeBaton()
            guard !isStopping.load(ordering: .acquiring) else { break }
            var event = unsafe epoll_event()
            // One at a time: the kernel hands out ready connections in turn.
            guard unsafe epoll_wait(poll, &event, 1, -1) == 1, let connection = unsafe served(event.data.u64) else { continue }
            for _ in 0..<Self.burst {
                guard case .processed = serve(connection, receiver, progress), progress.holdsBaton else { break }
            }
        }
        progress.passBaton()
    }

    private func serve(_ connection: FuseConnection, _ receiver: FuseReceiver, _ progress: FuseProgress) -> FuseReceiver.Outcome {
        let outcome = receiver.receive(from: connection, progress)
        if case .ended(let errno) = outcome {
            connection.endCause.store(errno, ordering: .relaxed)
            connection.close()
        }
        return outcome
    }

    private func served(_ number: UInt64) -> FuseConnection? {
        connections.withLock { $0.served[number] }
    }

    // MARK: - Watchdog

    private func watch() {
        let pause = max(min(stallLimit, hangLimit) / 2, .milliseconds(10))
        // When the requests and notifications began that were reported already, by worker and by connection.
        var stalled = [UInt64](repeating: 0, count: progress.count)
        var hanging = stalled
        var notifying: [UInt64: UInt64] = [:]
        var looked = Monotonic.now()
        // When this process went on after it had been stopped (SIGSTOP, a frozen container): what waited meanwhile waited for us.
        var resumed: UInt64 = 0
        while true {
            let isOver = chores.wait(on: choresChanged, atMost: pause, until: { $0.isStopping }) { _, isStopping in isStopping }
            if isOver { return }
            let now = Monotonic.now()
            if Self.age(looked, now) > pause + Self.stopLimit { resumed = now }
            looked = now
            let connections = connections.withLock { $0.unfinished }
            for (index, progress) in progress.enumerated() {
                guard let request = progress.current() else { continue }
                let age = Self.age(max(request.began, resumed), now)
                let operation = FuseOperation(opcode: request.opcode)
                let connection = connections[request.connection]
                if age >= stallLimit, progress.holdsBaton, stalled[index] != request.began {
                    stalled[index] = request.began
                    progress.passBaton()
                    onStall(Stall(kind: .baton(operation), seconds: age / .seconds(1), connection: connection))
                }
                if age >= hangLimit, hanging[index] != request.began {
                    hanging[index] = request.began
                    onStall(Stall(kind: .request(operation), seconds: age / .seconds(1), connection: connection))
                }
            }
            notifying = notifying.filter { connections[$0.key] != nil }
            for (number, connection) in connections {
                guard let began = connection.notifications.withLock({ $0.begun.min() }) else { continue }
                let age = Self.age(max(began, resumed), now)
                guard age >= hangLimit, notifying[number] != began else { continue }
                notifying[number] = began
                let code = connection.abort()
                onStall(Stall(kind: .notification(abort: code), seconds: age / .seconds(1), connection: connection))
            }
        }
    }

    /// How much later than asked for a thread wakes on a busy machine; later than that, the whole process was stopped.
    private static let stopLimit = Duration.seconds(1)

    private static func age(_ began: UInt64, _ now: UInt64) -> Duration {
        // Another core's clock may be ahead by a little.
        .nanoseconds(now > began ? now - began : 0)
    }
}

/// The right to wait for requests: a semaphore, so that the watchdog can pass it on in the name of a worker that forgot.
@safe final class FuseBaton: @unchecked Sendable {
    // @unchecked: semaphores are made to be shared; the handle never moves.
    private let handle: UnsafeMutablePointer<sem_t>

    init() {
        unsafe handle = .allocate(capacity: 1)
        unsafe sem_init(handle, 0, 1)
    }

    deinit {
        unsafe sem_destroy(handle)
        unsafe handle.deallocate()
    }

    func take() {
        while unsafe sem_wait(handle) != 0 {}  // EINTR
    }

    func pass() {
        unsafe sem_post(handle)
    }
}

/// What one worker is doing, as the watchdog sees it. Written without locks by the worker; `passBaton` may be called by both.
final class FuseProgress: Sendable {
    private let baton: FuseBaton
    private let hasBaton = Atomic<Bool>(false)
    /// When the request began, on the monotonic clock; 0 while there is none.
    private let began = Atomic<UInt64>(0)
    private let opcode = Atomic<UInt32>(0)
    private let connection = Atomic<UInt64>(0)

    init(_ baton: FuseBaton) { self.baton = baton }

    @inline(__always)
    var holdsBaton: Bool { hasBaton.load(ordering: .relaxed) }

    /// Takes the baton, waiting for it, unless it is in hand. For the worker only.
    @inline(__always)
    func takeBaton() {
        guard !holdsBaton else { return }
        baton.take()
        hasBaton.store(true, ordering: .relaxed)
    }

    /// Passes the baton on, if it is in hand.
    @inline(__always)
    func passBaton() {
        guard holdsBaton, hasBaton.exchange(false, ordering: .acquiringAndReleasing) else { return }
        baton.pass()
    }

    @inline(__always)
    func begin(_ opcode: UInt32, _ connection: FuseConnection, at time: UInt64) {
        self.opcode.store(opcode, ordering: .relaxed)
        self.connection.store(connection.serviceNumber.load(ordering: .relaxed), ordering: .relaxed)
        began.store(time, ordering: .releasing)
    }

    @inline(__always)
    func end() {
        began.store(0, ordering: .releasing)
    }

    /// The request being answered. What belongs to two requests because the worker went on meanwhile is not returned.
    func current() -> (began: UInt64, opcode: UInt32, connection: UInt64)? {
        let time = began.load(ordering: .acquiring)
        guard time != 0 else { return nil }
        let opcode = opcode.load(ordering: .acquiring)
        let connection = connection.load(ordering: .acquiring)
        return began.load(ordering: .relaxed) == time ? (time, opcode, connection) : nil
    }
}
