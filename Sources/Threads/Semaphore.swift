import Glibc

/// How many pieces of work wait, for threads that wait for one each.
///
/// `post` never waits. pthread_cond_signal may: until threads that were woken earlier have had a core (glibc before 2.41,
/// `__condvar_quiesce_and_switch_g1`), which on busy cores was 2 to 6 ms for a thread that has others' answers to send.
@safe package final class Semaphore: @unchecked Sendable {
    // @unchecked: POSIX semaphores are made to be shared; the handle never moves.
    private let handle: UnsafeMutablePointer<sem_t>

    package init() {
        unsafe handle = .allocate(capacity: 1)
        unsafe handle.initialize(to: sem_t())
        unsafe sem_init(handle, 0, 0)
    }

    deinit {
        unsafe sem_destroy(handle)
        unsafe handle.deallocate()
    }

    /// One piece of work more: wakes a thread that waits, or lets the next one through.
    package func post() {
        let code = unsafe sem_post(handle)
        // More than SEM_VALUE_MAX (2^31): memory for so much work would have ended long before.
        precondition(code == 0, "sem_post: errno \(errno)")
    }

    /// Blocks until there is one, and takes it.
    package func wait() {
        while unsafe sem_wait(handle) != 0 { precondition(errno == EINTR, "sem_wait: errno \(errno)") }
    }
}
