internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// The answer that the kernel waits for, to be given once, on any thread, then or later.
///
/// Answering twice is a defect and stops the process. When every copy is gone without an answer, which is a defect too, the caller
/// gets EIO. Give up the file system's locks before answering. A connection ends only once all of its replies are answered.
package struct FuseReply: Sendable {
    private let call: FuseCall
    private let generation: UInt64

    init(_ call: FuseCall, generation: UInt64) {
        self.call = call
        self.generation = generation
    }

    package func success() {
        unsafe call.answer(generation, errno: 0) { unsafe fuse_reply_err($0, 0) }
    }

    package func error(_ errno: FuseErrno) {
        unsafe call.answer(generation, errno: errno.code) { unsafe fuse_reply_err($0, errno.code) }
    }

    /// Answers a read. `bytes` are copied by the kernel before this returns.
    package func data(_ bytes: UnsafeRawBufferPointer) {
        unsafe call.answer(generation, errno: 0) { request in
            unsafe fuse_reply_buf(request, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
    }

    /// Has `closure` called when the caller is interrupted (a signal), or the connection ends, before the answer: at once, on this
    /// thread, if that has happened already; else on a worker, or on the thread that ends the connection. Set it once.
    ///
    /// It may run while another thread is about to answer: what both look at, under a lock of the file system, must decide who does.
    package func onInterrupt(_ closure: @escaping @Sendable () -> Void) {
        call.onInterrupt(generation, closure)
    }
}

/// One request, from its arrival to its answer. A receiver uses the same one again and again, unless an answer is deferred: then the
/// call lives on with the copies of its `FuseReply`, and the receiver goes on with a new one.
@safe final class FuseCall: @unchecked Sendable {
    // @unchecked: the plain fields are written in `begin` and `rest` only, by the receiver's thread and while it holds the one reference.
    @exclusivity(unchecked) private var request: fuse_req_t?
    @exclusivity(unchecked) private var connection: FuseConnection?
    @exclusivity(unchecked) private var operation = FuseOperation.other
    @exclusivity(unchecked) private var unique: UInt64 = 0
    @exclusivity(unchecked) private var started: UInt64 = 0
    /// How many requests this call has been.
    @exclusivity(unchecked) private var count: UInt64 = 0
    /// The count of the request that still wants its answer; 0 if there is none.
    private let open = Atomic<UInt64>(0)
    private let mayBeInterrupted = Atomic<Bool>(false)
    /// The count of the last request whose answer is done with the plain fields. The reference count puts that before what comes next as
    /// well, but where no sanitizer sees it.
    private let done = Atomic<UInt64>(0)

    private let inbox: FuseInbox?
    /// Where in the inbox the request stands while it waits for its answer, counted from 1; 0: it does not; -1: it is answered.
    private let waiting = Atomic<Int>(0)

    init(_ inbox: FuseInbox?) { self.inbox = inbox }

    deinit { answerIfDropped() }

    /// The receiver goes on with other requests: a successor must find this one elsewhere. Once in the life of a call.
    func wait(_ request: UnsafeRawBufferPointer, from connection: UInt64) {
        guard let inbox, let place = unsafe inbox.wait(request, from: connection) else { return }
        let isFirst = waiting.compareExchange(expected: 0, desired: place + 1, ordering: .acquiringAndReleasing).exchanged
        // Another thread has answered it meanwhile.
        if !isFirst { inbox.answered(place) }
    }

    /// Makes this call stand for `request`, and keeps `connection` from ending until it is answered.
    func begin(_ request: fuse_req_t, _ connection: FuseConnection, _ operation: FuseOperation, unique: UInt64, started: UInt64)
        -> FuseReply
    {
        connection.hold()
        unsafe self.request = unsafe request
        unsafe self.connection = connection
        unsafe self.operation = operation
        unsafe self.unique = unique
        unsafe self.started = started
        unsafe count += 1
        mayBeInterrupted.store(false, ordering: .relaxed)
        waiting.store(0, ordering: .relaxed)
        unsafe open.store(count, ordering: .releasing)
        return unsafe FuseReply(self, generation: count)
    }

    /// Ends the use of a call that nobody else refers to any more. Otherwise an idle worker would keep the connection alive.
    func rest() {
        answerIfDropped()
        unsafe request = nil
        unsafe connection = nil
    }

    @inline(__always)
    func answer(_ generation: UInt64, errno: Int32, _ send: (fuse_req_t) -> Int32) {
        let claimed = open.compareExchange(expected: generation, desired: 0, ordering: .sequentiallyConsistent).exchanged
        // A defect and no input: the second answer would be sent for a request that libfuse has already freed.
        precondition(claimed, "a FUSE request was answered twice")
        let connection = unsafe connection!
        if mayBeInterrupted.load(ordering: .sequentiallyConsistent) { unsafe connection.interrupts.forget(unique) }
        // Fails if the caller was killed meanwhile or the connection was aborted: nobody is left to hear of it.
        _ = unsafe send(request!)
        if let inbox {
            let place = waiting.exchange(-1, ordering: .acquiringAndReleasing)
            if place > 0 { inbox.answered(place - 1) }
        }
        unsafe connection.filesystem.answered(operation, errno: errno, seconds: Monotonic.seconds(since: started))
        done.store(generation, ordering: .releasing)
        connection.leave()
    }

    func onInterrupt(_ generation: UInt64, _ closure: @escaping @Sendable () -> Void) {
        // The other half is in `answer`: it sees the flag, or `register` sees that the call is answered (Dekker).
        mayBeInterrupted.store(true, ordering: .sequentiallyConsistent)
        unsafe connection!.interrupts.register(
            unique, unless: { self.open.load(ordering: .sequentiallyConsistent) != generation }, closure)
    }

    /// The file system let go of its reply without giving it: a caller must not hang for that.
    private func answerIfDropped() {
        _ = done.load(ordering: .acquiring)
        let generation = open.load(ordering: .acquiring)
        if generation != 0 { unsafe answer(generation, errno: EIO) { unsafe fuse_reply_err($0, EIO) } }
    }
}

/// Requests that can be interrupted, by their unique number.
final class FuseInterrupts: Sendable {
    private struct State {
        var closures: [UInt64: @Sendable () -> Void] = [:]
        /// Interrupts of requests that had no closure when they came: not yet, or never, or answered already. The oldest go, since
        /// the kernel's uniques never repeat and what still matters is at most one for each worker.
        var early: [UInt64] = []
        var ended = false
    }
    private let state = Mutex(State())
    private static let earlyMost = 64

    func register(_ unique: UInt64, unless isAnswered: () -> Bool, _ closure: @escaping @Sendable () -> Void) {
        let now = state.withLock { state in
            if isAnswered() { return false }
            if state.ended { return true }
            if let index = state.early.firstIndex(of: unique) {
                state.early.remove(at: index)
                return true
            }
            state.closures[unique] = closure
            return false
        }
        if now { closure() }
    }

    func forget(_ unique: UInt64) {
        state.withLock { _ = $0.closures.removeValue(forKey: unique) }
    }

    func interrupt(_ unique: UInt64) {
        let closure = state.withLock { state -> (@Sendable () -> Void)? in
            if let closure = state.closures.removeValue(forKey: unique) { return closure }
            if state.early.count == Self.earlyMost { state.early.removeFirst() }
            state.early.append(unique)
            return nil
        }
        closure?()
    }

    /// Interrupts whatever waits, now and later: the connection ends, and nobody will read INTERRUPT requests.
    func interruptAll() {
        let closures = state.withLock { state in
            state.ended = true
            defer { state.closures = [:] }
            return Array(state.closures.values)
        }
        for closure in closures { closure() }
    }
}
