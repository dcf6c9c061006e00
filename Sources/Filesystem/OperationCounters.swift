import Fuse
import struct Synchronization.Atomic
import Threads

/// Requests by operation and outcome: what `/metrics` shows and request budgets are tested with. Counting is two atomic additions.
package final class OperationCounters: Sendable {
    private final class Counter: Sendable {
        let requests = Atomic<UInt64>(0)
        let nanoseconds = Atomic<UInt64>(0)
    }
    private let counters: [Counter] = FuseOperation.allCases.map { _ in Counter() }
    /// Outcomes other than success, which are few.
    private let failures = Mutex<[Failure: UInt64]>([:])

    private struct Failure: Hashable {
        let operation: Int
        let errno: Int32
    }

    func count(_ operation: FuseOperation, errno: Int32, seconds: Double) {
        let place = operation.rawValue
        counters[place].requests.wrappingAdd(1, ordering: .relaxed)
        counters[place].nanoseconds.wrappingAdd(UInt64(max(0, seconds) * 1e9), ordering: .relaxed)
        if errno != 0 { failures.withLock { $0[Failure(operation: place, errno: errno), default: 0] += 1 } }
    }

    /// One row for each operation and outcome that has occurred. Seconds are the operation's total, told with its successes.
    package struct Row: Sendable {
        package let operation: String
        package let errno: Int32
        package let count: UInt64
        package let seconds: Double
    }

    package var rows: [Row] {
        let failures = failures.withLock { $0 }
        var rows: [Row] = []
        for (place, operation) in FuseOperation.allCases.enumerated() {
            let total = counters[place].requests.load(ordering: .relaxed)
            guard total > 0 else { continue }
            var failed: UInt64 = 0
            for (failure, count) in failures where failure.operation == place {
                failed += count
                rows.append(Row(operation: operation.name, errno: failure.errno, count: count, seconds: 0))
            }
            rows.append(
                Row(
                    operation: operation.name, errno: 0, count: total - min(total, failed),
                    seconds: Double(counters[place].nanoseconds.load(ordering: .relaxed)) / 1e9))
        }
        return rows
    }

    /// Requests by operation, whatever their outcome.
    package var totals: [String: UInt64] {
        var totals: [String: UInt64] = [:]
        for (place, operation) in FuseOperation.allCases.enumerated() {
            let total = counters[place].requests.load(ordering: .relaxed)
            if total > 0 { totals[operation.name] = total }
        }
        return totals
    }
}
