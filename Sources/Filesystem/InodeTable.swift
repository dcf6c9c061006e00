import Fuse
import Storage
import Threads

/// What one kernel knows of a store's inodes.
package final class InodeTable: Sendable {
    private struct State {
        /// How many lookups the kernel still owes us. Invariant: every count is above zero.
        var lookups: [NodeID: UInt64] = [:]
        /// Set where a predecessor of this process has served the mount: what it has counted is not known here.
        var kernel: FuseConnection?
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
            }
        }
    }

    /// Has the kernel itself asked for what is not counted here, until `forgetKernel`.
    func ask(_ kernel: FuseConnection) { state.withLock { $0.kernel = kernel } }

    func forgetKernel() { state.withLock { $0.kernel = nil } }

    func holds(_ node: NodeID) -> Bool {
        let (isCounted, kernel) = state.withLock { ($0.lookups[node] != nil, $0.kernel) }
        return isCounted || kernel?.kernelKnows(node) ?? false
    }

    var count: Int { state.withLock { $0.lookups.count } }
}
