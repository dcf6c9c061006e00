import Threads

/// What a thread of a test is to say, once, and whether it did.
package final class Event<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let changed = Condition()

    package init() {}

    package func post(_ value: Value) {
        self.value.withLock { $0 = value }
        changed.broadcast()
    }

    /// nil: not within `timeout`.
    package func wait(_ timeout: Duration = .seconds(20)) -> Value? {
        value.wait(on: changed, atMost: timeout, until: { $0 != nil }) { value, _ in value }
    }

    package var isPosted: Bool { value.withLock { $0 != nil } }
}

extension Event where Value == Void {
    package func post() { post(()) }
}

/// Runs bodies at the same time, each on a thread of its own, and answers what each returned, in order.
package func concurrently<Answer: Sendable>(_ bodies: [@Sendable () throws -> Answer]) throws -> [Answer] {
    let events = bodies.map { _ in Event<Result<Answer, any Error>>() }
    for (event, body) in zip(events, bodies) {
        _ = Thread("test-side", stackSize: 2 << 20) { event.post(Result { try body() }) }
    }
    return try events.map { event in
        guard let result = event.wait(.seconds(60)) else { throw TimedOut() }
        return try result.get()
    }
}

package struct TimedOut: Error, CustomStringConvertible {
    package init() {}
    package var description: String { "what was waited for did not happen" }
}
