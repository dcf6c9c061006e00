import Glibc
import struct Synchronization.Atomic

/// A pthread mutex and the state that it guards.
///
/// Ours and not `Synchronization.Mutex`, because ThreadSanitizer cannot see into the latter and reports races that are none.
/// Not recursive. Locking never suspends a task: hold it for microseconds, never across a reply, an `await` or an invalidation.
@safe package final class Mutex<State: ~Copyable>: @unchecked Sendable {
    // @unchecked: `state` is touched only between pthread_mutex_lock and pthread_mutex_unlock.
    private let handle: UnsafeMutablePointer<pthread_mutex_t>
    private let state: UnsafeMutablePointer<State>
    private let waiters = Atomic<Int>(0)

    package init(_ initial: consuming sending State) {
        unsafe handle = .allocate(capacity: 1)
        unsafe handle.initialize(to: pthread_mutex_t())
        unsafe pthread_mutex_init(handle, nil)
        unsafe state = .allocate(capacity: 1)
        unsafe state.initialize(to: initial)
    }

    deinit {
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
        unsafe pthread_mutex_destroy(handle)
        unsafe handle.deallocate()
    }

    /// Runs `body` with the state, holding the lock. Whatever `body` throws passes through.
    @inline(__always)
    package func withLock<Result: ~Copyable, Failure: Error>(
        _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(handle)
        defer { unsafe pthread_mutex_unlock(handle) }
        return try unsafe body(&state.pointee)
    }

    /// As `withLock`, but calls `contended` before it waits for another thread for long.
    ///
    /// The one caller of interest is a dispatch thread, which passes the baton on before it waits (`FuseWorkers.willBlock`). That wakes
    /// another thread, which costs more than most holders need: so it tries again for some 20 us first.
    @inline(__always)
    package func withLock<Result: ~Copyable, Failure: Error>(
        whenContended contended: () -> Void, _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var tries = 0
        while unsafe pthread_mutex_trylock(handle) != 0 {
            tries += 1
            guard tries < 200 else {
                contended()
                waiters.wrappingAdd(1, ordering: .relaxed)
                unsafe pthread_mutex_lock(handle)
                waiters.wrappingSubtract(1, ordering: .relaxed)
                break
            }
            for _ in 0..<16 { spinPause() }
        }
        defer { unsafe pthread_mutex_unlock(handle) }
        return try unsafe body(&state.pointee)
    }

    /// Whether somebody waits in `withLock(whenContended:_:)`. Who takes the lock again and again for work that has time steps back
    /// then: a mutex is not fair, and the one who is awake gets it before the one who has to be woken.
    package var isAwaited: Bool { waiters.load(ordering: .relaxed) > 0 }

    /// Waits on `condition`, giving the lock up meanwhile, until `ready` holds; then runs `body`. Spurious wake-ups are absorbed.
    package func wait<Result: ~Copyable, Failure: Error>(
        on condition: Condition, until ready: (inout State) -> Bool, _ body: (inout State) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(handle)
        defer { unsafe pthread_mutex_unlock(handle) }
        while unsafe !ready(&state.pointee) { unsafe condition.wait(handle) }
        return try unsafe body(&state.pointee)
    }

    /// As `wait(on:until:_:)`, but at most for `timeout`; `body` learns whether `ready` held in the end.
    package func wait<Result: ~Copyable, Failure: Error>(
        on condition: Condition, atMost timeout: Duration, until ready: (inout State) -> Bool,
        _ body: (inout State, Bool) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let deadline = Condition.deadline(after: timeout)
        unsafe pthread_mutex_lock(handle)
        defer { unsafe pthread_mutex_unlock(handle) }
        var held = unsafe ready(&state.pointee)
        while !held {
            guard unsafe condition.wait(handle, until: deadline) else {
                held = unsafe ready(&state.pointee)
                break
            }
            held = unsafe ready(&state.pointee)
        }
        return try unsafe body(&state.pointee, held)
    }
}

/// Gives the other hardware thread a moment. An opaque call, so that the loop around it stays.
@inline(never) private func spinPause() {}

/// A pthread condition variable on the monotonic clock, used with `Mutex.wait`.
@safe package final class Condition: @unchecked Sendable {
    // @unchecked: pthread condition variables are made to be shared; the handle never moves.
    private let handle: UnsafeMutablePointer<pthread_cond_t>

    package init() {
        unsafe handle = .allocate(capacity: 1)
        unsafe handle.initialize(to: pthread_cond_t())
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(handle, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(handle)
        unsafe handle.deallocate()
    }

    package func signal() { unsafe pthread_cond_signal(handle) }
    package func broadcast() { unsafe pthread_cond_broadcast(handle) }

    fileprivate func wait(_ mutex: UnsafeMutablePointer<pthread_mutex_t>) {
        unsafe pthread_cond_wait(handle, mutex)
    }

    fileprivate func wait(_ mutex: UnsafeMutablePointer<pthread_mutex_t>, until deadline: timespec) -> Bool {
        var deadline = deadline
        return unsafe pthread_cond_timedwait(handle, mutex, &deadline) != ETIMEDOUT
    }

    fileprivate static func deadline(after timeout: Duration) -> timespec {
        var now = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        let (seconds, attoseconds) = timeout.components
        let nanoseconds = now.tv_nsec + Int(attoseconds / 1_000_000_000)
        return timespec(tv_sec: now.tv_sec + Int(seconds) + nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
    }
}
