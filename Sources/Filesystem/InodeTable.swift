import Fuse
import Storage
import Threads

/// What one kernel knows of a store's inodes, and what it has seen of their content.
package final class InodeTable: Sendable {
    private struct State {
        /// How many lookups the kernel still owes us. Invariant: every count is above zero.
        var lookups: [NodeID: UInt64] = [:]
        /// The newest version of which this mount was given any byte.
        var seen: [NodeID: Int64] = [:]
    }
    private let state = Mutex(State())  // taken before the store's lock, never within it

    func counted(_ node: NodeID, _ count: UInt64 = 1) {
        state.withLock { $0.lookups[node, default: 0] += count }
    }

    func forget(_ node: NodeID, _ count: UInt64) {
        state.withLock { state in
            guard let left = state.lookups[node] else { return }
            if left > count {
                state.lookups[node] = left - count
            } else {
                state.lookups[node] = nil
                state.seen[node] = nil
            }
        }
    }

    func holds(_ node: NodeID) -> Bool { state.withLock { $0.lookups[node] != nil } }

    func saw(_ node: NodeID, _ version: Int64) {
        state.withLock { state in
            if state.seen[node, default: 0] < version { state.seen[node] = version }
        }
    }

    func seen(_ node: NodeID) -> Int64? { state.withLock { $0.seen[node] } }

    var count: Int { state.withLock { $0.lookups.count } }
}
