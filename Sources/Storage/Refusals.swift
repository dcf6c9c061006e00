import Threads

/// Tells of changes that a store's rules did not let happen: for its change stream.
///
/// The kernel asks twice for some of them, and a program may ask a thousand times: what is the same as the last one within a second is told
/// once. Safe from any thread.
final class Refusals: Sendable {
    private struct State {
        var observers: [@Sendable (StoreID, RemfsError) -> Void] = []
        /// By store: the message, and when it was told (monotonic, ns).
        var last: [StoreID: (message: String, time: Int64)] = [:]
    }
    private let state = Mutex(State())

    /// The closure is called on the thread that was refused, without a lock of the store's, and must not wait.
    func observe(_ observer: @escaping @Sendable (StoreID, RemfsError) -> Void) { state.withLock { $0.observers.append(observer) } }

    /// Whether an error is a rule's word, and not a caller's mistake or the disk's.
    private static func isRefusal(_ error: RemfsError) -> Bool {
        switch error.code {
        case .tooLarge, .holdsSecret, .quota, .storeFull, .readOnly, .notPermitted, .stale: true
        default: false
        }
    }

    func tell(of error: RemfsError, in store: StoreID) {
        guard Self.isRefusal(error) else { return }
        let observers = state.withLock { state -> [@Sendable (StoreID, RemfsError) -> Void] in
            guard !state.observers.isEmpty else { return [] }
            let time = StoreState.monotonic()
            if let last = state.last[store], last.message == error.message, time - last.time < 1_000_000_000 { return [] }
            state.last[store] = (error.message, time)
            return state.observers
        }
        for observer in observers { observer(store, error) }
    }
}
