internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// One mounted file system's conversation with the kernel: a FUSE descriptor, the libfuse session that decodes it and the
/// `FuseFilesystem` that answers.
///
/// It is served once `FuseWorkers.add` has it, and ends when the kernel unmounts or aborts it or when `end` is called.
@safe package final class FuseConnection: @unchecked Sendable {
    // @unchecked: `session` is written in `init` and used between `enter` and `leave` only; the last one out destroys it.

    /// A failure to set up a connection. The descriptor is closed then.
    package enum Failure: Error, Equatable {
        /// libfuse did not make a session, or did not accept the descriptor: out of memory, or a descriptor that is none.
        case session
        /// The saved handshake is not one that this libfuse would have had: the connection cannot be taken over.
        case handshake
    }

    package let filesystem: any FuseFilesystem
    /// The number under which `/sys/fs/fuse/connections` knows it; nil if it was not found out.
    package let number: UInt32?
    let device: Int32
    /// Under which a successor knows it.
    package let identity: UInt64
    /// What `FuseWorkers` calls it; 0 before `add`.
    let serviceNumber = Atomic<UInt64>(0)
    let endCause = Atomic<Int32>(0)
    let interrupts = FuseInterrupts()
    let notifications = Mutex(Notifications())
    @exclusivity(unchecked) private(set) var session: OpaquePointer!

    /// How many threads and unanswered requests are inside, and whether nobody else may come in.
    private let gate = Atomic<UInt64>(0)
    private static let closing: UInt64 = 1 << 63

    private enum Life {
        case idle
        case served(by: FuseWorkers)
        /// Nothing is read any more; what is inside comes to its end.
        case closing(FuseWorkers?)
        case ended
    }
    private let life = Mutex(Life.idle)
    private let lifeChanged = Condition()
    /// Guards what INIT left behind.
    let agreement = Mutex(Agreement())
    /// Set while INIT is being answered; tells the fast path of replies from the slow one.
    let isInitializing = Atomic<Bool>(false)

    /// Serves `filesystem` on a connection that was just mounted, or, with `adopting`, on one whose INIT a predecessor answered.
    ///
    /// - Parameters:
    ///   - device: an open `/dev/fuse`, owned by the connection from here on (also when this throws) and made non-blocking.
    ///   - number: the minor number of the mount's device, for `abort`.
    ///   - identity: tells it from others of a holder, also for a successor; needed where there is a `FuseInbox`.
    ///   - handshake: what `handshake` was in the predecessor. The file system then hears `connectionDidStart` in here.
    package init(
        filesystem: any FuseFilesystem, device: Int32, number: UInt32?, identity: UInt64 = 0, adopting handshake: Handshake? = nil
    ) throws(Failure) {
        self.filesystem = filesystem
        self.device = device
        self.identity = identity
        self.number = number
        let flags = fcntl(device, F_GETFL)
        guard flags >= 0, fcntl(device, F_SETFL, flags | O_NONBLOCK) == 0 else {
            Glibc.close(device)
            throw .session
        }
        guard let session = unsafe Self.makeSession(for: self) else {
            Glibc.close(device)
            throw .session
        }
        unsafe self.session = unsafe session
        if let handshake {
            guard adopt(handshake) else {
                finish(notifying: false)
                throw .handshake
            }
            filesystem.connectionDidStart(self)
        }
    }

    deinit {
        // Never served: the descriptor is still ours to close.
        if unsafe session != nil { unsafe fuse_session_destroy(session) }
    }

    /// Why the kernel has ended the connection: ENODEV when it was unmounted or aborted, another errno of read(2) for what should not
    /// happen, 0 if `end` did it.
    package var cause: Int32 { endCause.load(ordering: .relaxed) }

    /// Stops serving and waits until all that is being answered is answered; waiting requests are interrupted. The descriptor is then
    /// closed, which aborts the connection unless someone else holds it: unmount first. After the kernel has ended the connection
    /// this only waits for the rest. Not to be called from a `FuseFilesystem` method.
    package func end() {
        close()
        life.wait(
            on: lifeChanged,
            until: { life in
                if case .ended = life { true } else { false }
            }
        ) { _ in }
    }

    // MARK: - The gate

    /// Comes in, unless the connection is closing. Whoever comes in must `leave`.
    @inline(__always)
    func enter() -> Bool {
        var seen = gate.load(ordering: .relaxed)
        while seen & Self.closing == 0 {
            let (exchanged, original) = gate.weakCompareExchange(expected: seen, desired: seen + 1, ordering: .acquiring)
            if exchanged { return true }
            seen = original
        }
        return false
    }

    /// Comes in as long as anyone is inside, even while closing.
    func enterUnlessOver() -> Bool {
        var seen = gate.load(ordering: .relaxed)
        while seen != Self.closing {
            let (exchanged, original) = gate.weakCompareExchange(expected: seen, desired: seen + 1, ordering: .acquiring)
            if exchanged { return true }
            seen = original
        }
        return false
    }

    /// Comes in once more, for someone who is inside already.
    @inline(__always)
    func hold() {
        gate.add(1, ordering: .relaxed)
    }

    @inline(__always)
    func leave() {
        if gate.subtract(1, ordering: .acquiringAndReleasing).newValue == Self.closing { lastLeft() }
    }

    // MARK: - Life

    /// Called by `FuseWorkers.add`. False if the connection is served already, or over.
    func beServed(by workers: FuseWorkers, _ register: () -> Bool) -> Bool {
        life.withLock { life in
            guard case .idle = life, register() else { return false }
            life = .served(by: workers)
            return true
        }
    }

    /// Lets nobody in any more. The first call counts.
    func close() {
        let (first, workers) = life.withLock { life -> (Bool, FuseWorkers?) in
            switch life {
            case .idle:
                life = .closing(nil)
                return (true, nil)
            case .served(let workers):
                life = .closing(workers)
                return (true, workers)
            case .closing, .ended: return (false, nil)
            }
        }
        guard first else { return }
        workers?.forget(self)
        // Held over the rest, so that there is one way out for all.
        hold()
        gate.bitwiseOr(Self.closing, ordering: .acquiringAndReleasing)
        interrupts.interruptAll()
        leave()
    }

    /// Nobody is inside and nobody can come in. Runs once.
    private func lastLeft() {
        let workers = life.withLock { life -> FuseWorkers? in
            if case .closing(let workers) = life { return workers }
            return nil
        }
        // The calling thread may have a descriptor table of its own (a notifier), or no time: it is not the one to close.
        if let workers { workers.finish(self) } else { finish(notifying: true) }
    }

    /// Closes the descriptor and says goodbye.
    func finish(notifying: Bool) {
        unsafe fuse_session_destroy(session)
        unsafe session = nil
        if notifying { filesystem.connectionDidEnd(self) }
        life.withLock { $0 = .ended }
        lifeChanged.broadcast()
    }
}
