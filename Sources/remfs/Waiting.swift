import Threads
import UnixSignals

/// Runs `body` until it ends or SIGINT or SIGTERM asks to stop; then it is cancelled and waited for. True when it was stopped.
func untilInterrupted(_ body: @escaping @Sendable () async throws -> Void) async throws -> Bool {
    let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
    return try await withThrowingTaskGroup(of: Bool.self) { group in
        group.addTask {
            for await _ in signals { break }
            return !Task.isCancelled
        }
        group.addTask {
            try await body()
            return false
        }
        // What a body that was stopped throws is of no interest: it was told to.
        defer { group.cancelAll() }
        return try await group.next() ?? false
    }
}

/// Runs on a thread of its own what blocks for as long as the kernel, a disk or another process likes.
func onThread<Result: Sendable>(_ name: String, _ body: @escaping @Sendable () -> Result) async -> Result {
    await withCheckedContinuation { done in
        _ = Thread(name) { done.resume(returning: body()) }
    }
}
