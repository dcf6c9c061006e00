import FoundationEssentials
import Glibc

/// All rounds, and the table made of them.
struct Report: Codable {
    struct Round: Codable {
        let operations: Int
        let seconds: Double
        /// Of single operations, in microseconds.
        let p50: Double?
        let p99: Double?
        let daemonMicrosecondsPerOperation: Double?
        let requestsPerOperation: [String: Double]?
    }

    struct Row: Codable {
        let phase: Phase
        let label: Label
        var rounds: [Round] = []

        private func median(_ value: (Round) -> Double?) -> Double? {
            let values = rounds.compactMap(value).sorted()
            guard !values.isEmpty else { return nil }
            let middle = values.count / 2
            return values.count % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2
        }

        var seconds: Double { median(\.seconds) ?? 0 }
        var best: Double { rounds.map(\.seconds).min() ?? 0 }
        var worst: Double { rounds.map(\.seconds).max() ?? 0 }
        var p50: Double? { median(\.p50) }
        var p99: Double? { median(\.p99) }
        var daemon: Double? { median(\.daemonMicrosecondsPerOperation) }
        /// Those that somebody waits for: a forget or a release has no answer that a program could miss.
        var requests: Double? {
            median { round in
                round.requestsPerOperation.map { $0.filter { !Row.unwaited.contains($0.key) }.values.reduce(0, +) }
            }
        }
        private static let unwaited: Set = ["forget", "forget_multi", "batch_forget", "release", "releasedir"]
    }

    let kernel = Machine.kernel()
    let cores = Machine.cores()
    let loadBefore = Machine.loadAverage()
    private(set) var loadAfter = ""
    let files: Int
    let rounds: Int
    let pinned: Bool
    let labels: [Label]
    private(set) var rows: [Row] = []

    init(files: Int, rounds: Int, pinned: Bool, labels: [Label]) {
        self.files = files
        self.rounds = rounds
        self.pinned = pinned
        self.labels = labels
    }

    private enum CodingKeys: String, CodingKey {
        case kernel, cores, loadBefore, loadAfter, files, rounds, pinned, labels, rows
    }

    mutating func add(_ round: Round, phase: Phase, label: Label) {
        if let index = rows.firstIndex(where: { $0.phase == phase && $0.label == label }) {
            rows[index].rounds.append(round)
        } else {
            rows.append(Row(phase: phase, label: label, rounds: [round]))
        }
    }

    mutating func finish() { loadAfter = Machine.loadAverage() }

    func print() {
        Swift.print(
            "\(files) files, \(rounds) rounds, \(pinned ? "pinned" : "not pinned"); kernel \(kernel), \(cores) cores, "
                + "load \(loadBefore) before, \(loadAfter) after")
        Swift.print(
            "ratio: time over ext4's, of the medians and (of the best rounds); daemon: its CPU time; "
                + "requests: those that somebody waits for\n")
        var table = [["phase", "label", "n", "median", "best", "worst", "ratio", "", "p50 us", "p99 us", "daemon us/op", "requests/op"]]
        for phase in Phase.allCases {
            for label in labels {
                guard let row = rows.first(where: { $0.phase == phase && $0.label == label }) else { continue }
                let base = rows.first { $0.phase == phase && $0.label == .ext4 }
                table.append([
                    label == labels[0] ? phase.rawValue : "", label.rawValue, "\(row.rounds[0].operations)", Report.time(row.seconds),
                    Report.time(row.best), Report.time(row.worst), base.map { Report.number(row.seconds / $0.seconds) } ?? "",
                    base.map { "(\(Report.number(row.best / $0.best)))" } ?? "", Report.number(row.p50), Report.number(row.p99),
                    Report.number(row.daemon), Report.number(row.requests),
                ])
            }
        }
        Report.print(table)
    }

    func write(to path: String) throws { try Report.write(self, to: path) }

    // MARK: - Formatting

    /// Columns as wide as they must be: words to the left, numbers to the right.
    static func print(_ table: [[String]], words: Int = 2) {
        let widths = table[0].indices.map { column in table.map { $0[column].count }.max() ?? 0 }
        for row in table {
            let cells = row.indices.map { column in
                let space = String(repeating: " ", count: widths[column] - row[column].count)
                return column < words ? row[column] + space : space + row[column]
            }
            let line = cells.joined(separator: "  ")
            Swift.print(String(line.reversed().drop { $0 == " " }.reversed()))
        }
    }

    static func write(_ value: some Encodable, to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try Files.write(String(decoding: try encoder.encode(value), as: UTF8.self) + "\n", to: path)
    }

    static func time(_ seconds: Double) -> String {
        seconds < 1 ? "\(number(seconds * 1000)) ms" : "\(number(seconds)) s"
    }

    static func bytes(_ bytes: Double) -> String {
        if abs(bytes) < 10_000 { return "\(Int(bytes.rounded())) B" }
        return abs(bytes) < 10_000_000 ? "\(number(bytes / 1000)) kB" : "\(number(bytes / 1_000_000)) MB"
    }

    /// Three digits, which is more than the measurement is worth.
    static func number(_ value: Double?) -> String {
        guard let value, value.isFinite else { return "" }
        let decimals = value.magnitude >= 100 ? 0 : value.magnitude >= 10 ? 1 : 2
        let scale = [1.0, 10, 100][decimals]
        let rounded = (value * scale).rounded()
        guard decimals > 0 else { return "\(Int(rounded))" }
        let digits = String(abs(Int(rounded)) % Int(scale))
        let sign = rounded < 0 ? "-" : ""
        return "\(sign)\(abs(Int(rounded)) / Int(scale)).\(String(repeating: "0", count: decimals - digits.count))\(digits)"
    }
}
