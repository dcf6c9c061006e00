package import CoreMetrics
import Threads

/// Keeps what swift-metrics is told and writes it in Prometheus's text format.
///
/// Ours, because the packages that do this are either unkept or bring a server along. Counters, gauges and timers; a timer is a summary
/// of seconds without quantiles.
package final class PrometheusMetrics: MetricsFactory, Sendable {
    fileprivate struct Series: Hashable {
        let name: String
        let labels: [String]  // name, value, name, value: tuples are not Hashable
    }

    private struct State {
        var counters: [Series: Number] = [:]
        var gauges: [Series: Number] = [:]
        var timers: [Series: Number] = [:]
    }

    private let state = Mutex(State())

    package init() {}

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        find(\.counters, label, dimensions)
    }

    package func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        aggregate ? find(\.timers, label, dimensions) : find(\.gauges, label, dimensions)
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        find(\.gauges, label, dimensions)
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        find(\.timers, label, dimensions)
    }

    // A series lives as long as the process: handlers are made anew at each use, and their numbers must not be forgotten between.
    package func destroyCounter(_ handler: any CounterHandler) {}
    package func destroyRecorder(_ handler: any RecorderHandler) {}
    package func destroyMeter(_ handler: any MeterHandler) {}
    package func destroyTimer(_ handler: any TimerHandler) {}

    private func find(_ kind: any WritableKeyPath<State, [Series: Number]> & Sendable, _ label: String, _ dimensions: [(String, String)])
        -> Number
    {
        let series = Series(name: label, labels: dimensions.flatMap { [$0.0, $0.1] })
        return state.withLock { state in
            if let found = state[keyPath: kind][series] { return found }
            let made = Number()
            state[keyPath: kind][series] = made
            return made
        }
    }

    /// Adds all series, sorted by name and labels.
    package func write(to text: inout PrometheusText) {
        let (counters, gauges, timers) = state.withLock { ($0.counters, $0.gauges, $0.timers) }
        for (name, rows) in Self.byName(counters) { text.add(name, .counter, rows.map { ($0, $1.sum) }) }
        for (name, rows) in Self.byName(gauges) { text.add(name, .gauge, rows.map { ($0, $1.sum) }) }
        for (name, rows) in Self.byName(timers) { text.add(name, .summary, rows.map { ($0, .init(count: $1.count, sum: $1.sum)) }) }
    }

    private static func byName(
        _ series: [Series: Number]
    ) -> [(name: String, rows: [(labels: [(String, String)], value: (count: UInt64, sum: Double))])] {
        Dictionary(grouping: series, by: \.key.name).sorted { $0.key < $1.key }.map { name, entries in
            (
                name,
                entries.sorted { $0.key.labels.lexicographicallyPrecedes($1.key.labels) }.map { series, number in
                    let pairs = stride(from: 0, to: series.labels.count, by: 2).map { (series.labels[$0], series.labels[$0 + 1]) }
                    return (pairs, number.value)
                }
            )
        }
    }
}

/// One series: a count of recordings and their sum; a counter and a gauge use the sum alone.
private final class Number: CounterHandler, RecorderHandler, MeterHandler, TimerHandler, Sendable {
    private let state = Mutex((count: UInt64(0), sum: 0.0))

    var value: (count: UInt64, sum: Double) { state.withLock { $0 } }

    func increment(by amount: Int64) { add(Double(amount)) }
    func reset() { state.withLock { $0 = (0, 0) } }
    func record(_ value: Int64) { add(Double(value)) }
    func record(_ value: Double) { add(value) }
    func recordNanoseconds(_ duration: Int64) { add(Double(duration) / 1e9) }
    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { state.withLock { $0 = (1, value) } }
    func increment(by amount: Double) { add(amount) }
    func decrement(by amount: Double) { add(-amount) }

    private func add(_ value: Double) {
        state.withLock {
            $0.count += 1
            $0.sum += value
        }
    }
}

/// The text format of Prometheus, version 0.0.4.
package struct PrometheusText: Sendable {
    package enum Single: String { case counter, gauge }
    package enum Several { case summary }
    package struct Summary: Sendable {
        let count: UInt64
        let sum: Double

        package init(count: UInt64, sum: Double) {
            self.count = count
            self.sum = sum
        }
    }

    package private(set) var text = ""

    package init() {}

    package mutating func add(_ name: String, _ kind: Single, _ rows: [(labels: [(String, String)], value: Double)]) {
        text += "# TYPE \(name) \(kind.rawValue)\n"
        for row in rows { line(name, row.labels, row.value) }
    }

    package mutating func add(_ name: String, _ kind: Several, _ rows: [(labels: [(String, String)], value: Summary)]) {
        text += "# TYPE \(name) summary\n"
        for row in rows {
            line(name + "_sum", row.labels, row.value.sum)
            line(name + "_count", row.labels, Double(row.value.count))
        }
    }

    private mutating func line(_ name: String, _ labels: [(String, String)], _ value: Double) {
        let shown = labels.map { "\($0)=\"\(Self.escaped($1))\"" }.joined(separator: ",")
        let number = value == value.rounded() && abs(value) < 1e15 ? String(Int64(value)) : String(value)
        text += "\(name)\(shown.isEmpty ? "" : "{\(shown)}") \(number)\n"
    }

    private static func escaped(_ value: String) -> String {
        var result = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }
}
