import Threads

/// Threads of our own for test bodies that block in system calls: Swift's own are few, and not to be blocked.
///
/// As a task executor it leaves the task what it is, so that Swift Testing knows which test an issue belongs to.
final class BlockingExecutor: TaskExecutor {
    private struct State {
        var jobs: [UnownedJob] = []
        var first = 0
    }
    private let state = Mutex(State())
    private let arrived = Condition()

    /// Eight: tests that wait two seconds for a removal let others run beside them.
    static let shared = BlockingExecutor(count: 8)

    private init(count: Int) {
        for number in 0..<count { _ = Thread("test-\(number)", stackSize: 8 << 20) { [self] in run() } }
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        state.withLock { $0.jobs.append(job) }
        arrived.signal()
    }

    private func run() {
        while true {
            let job = state.wait(on: arrived, until: { $0.first < $0.jobs.count }) { state in
                defer {
                    state.first += 1
                    if state.first == state.jobs.count {
                        state.jobs.removeAll(keepingCapacity: true)
                        state.first = 0
                    }
                }
                return state.jobs[state.first]
            }
            job.runSynchronously(on: asUnownedTaskExecutor())
        }
    }
}

/// Runs a body that blocks on a thread that may.
package func blocking<Result>(_ body: () throws -> Result) async throws -> Result {
    try await withTaskExecutorPreference(BlockingExecutor.shared) { try body() }
}
