package import Storage
import Threads

/// Wakes the requests that follow a store's log.
///
/// The store's own wait blocks, so each followed store has one thread that waits on behalf of all its followers, and a request that waits
/// holds no thread at all. The thread ends when nobody follows any more.
package final class VersionWatch: Sendable {
    private struct State {
        /// Followers by store, each with the version it has seen and the way to wake it.
        var followers: [StoreID: [UInt64: (after: Int64, wake: AsyncStream<Void>.Continuation)]] = [:]
        var next: UInt64 = 0
    }

    private let stores: StorePool
    private let state = Mutex(State())

    package init(_ stores: StorePool) { self.stores = stores }

    /// True when the store may hold a version after `number`; false when `deadline` has passed or the task was cancelled.
    package func wait(for store: StoreID, after number: Int64, until deadline: ContinuousClock.Instant) async -> Bool {
        let (changes, wake) = AsyncStream<Void>.makeStream()
        let follower = add(store, number, wake)
        defer { remove(follower, of: store) }
        return await withTaskGroup(of: Bool.self) { group in
            group.addTask {
                for await _ in changes { return true }
                return false
            }
            group.addTask {
                // Thrown only by cancellation, which ends the wait as the deadline does.
                try? await ContinuousClock().sleep(until: deadline)
                return false
            }
            let woken = await group.next() ?? false
            group.cancelAll()
            return woken
        }
    }

    private func add(_ store: StoreID, _ number: Int64, _ wake: AsyncStream<Void>.Continuation) -> UInt64 {
        let (follower, isFirst) = state.withLock { state in
            state.next += 1
            let isFirst = state.followers[store] == nil
            state.followers[store, default: [:]][state.next] = (number, wake)
            return (state.next, isFirst)
        }
        if isFirst { _ = Thread("log-follow") { [self] in watch(store) } }
        return follower
    }

    /// Leaves the store's entry, even empty: only its thread removes that, and ends with it.
    private func remove(_ follower: UInt64, of store: StoreID) {
        state.withLock { _ = $0.followers[store]?.removeValue(forKey: follower) }
    }

    /// The body of a store's thread.
    private func watch(_ store: StoreID) {
        while let seen = oldest(store) {
            // A second bounds how long the thread outlives its last follower. A store that cannot be opened wakes them all: their next
            // question tells them why.
            let changed: Bool
            do throws(RemfsError) {
                changed = try stores.withStore(store) { (store) throws(RemfsError) in
                    store.waitForVersion(after: seen, timeout: .seconds(1))
                }
            } catch {
                changed = true
            }
            if changed {
                let woken = state.withLock { state in
                    let all = state.followers[store].map { Array($0.values) } ?? []
                    state.followers[store] = [:]
                    return all
                }
                for follower in woken { follower.wake.yield() }
            }
        }
    }

    /// The least that any follower has seen; nil, once, when there is none left and the thread has to end.
    private func oldest(_ store: StoreID) -> Int64? {
        state.withLock { state in
            guard let seen = state.followers[store]?.values.map(\.after).min() else {
                state.followers[store] = nil
                return nil
            }
            return seen
        }
    }
}
