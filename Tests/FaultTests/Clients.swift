import Threads

/// Threads of a test's client, each of which works until it fails or is told to stop, and what they come to.
final class Clients<Answer: Sendable>: Sendable {
    private struct State {
        var isStopped = false
        var answers: [String: Answer] = [:]
        var steps: [String: Int] = [:]
    }
    private let state = Mutex(State())
    private let threads = Mutex<[Thread]>([])

    /// Starts one. `body` calls the function that it is given after each step that is done, which answers whether to go on.
    func start(_ name: String, _ body: @escaping @Sendable (() -> Bool) -> Answer) {
        state.withLock { $0.steps[name] = 0 }
        let thread = Thread(name, stackSize: 2 << 20) { [self] in
            let answer = body {
                state.withLock { state in
                    state.steps[name, default: 0] += 1
                    return !state.isStopped
                }
            }
            state.withLock { $0.answers[name] = answer }
        }
        threads.withLock { $0.append(thread) }
    }

    /// Of the one that has done the fewest.
    var fewestSteps: Int { state.withLock { $0.steps.values.min() ?? 0 } }
    var haveEnded: Bool { state.withLock { $0.answers.count == $0.steps.count } }

    /// Of those that have ended what they came to: before they are told to stop, they failed.
    var answers: [String: Answer] { state.withLock { $0.answers } }

    /// Tells all to stop, waits for them, and gives what they came to.
    func stop() -> [String: Answer] {
        state.withLock { $0.isStopped = true }
        for thread in threads.withLock({ $0 }) { thread.join() }
        return state.withLock { $0.answers }
    }
}
