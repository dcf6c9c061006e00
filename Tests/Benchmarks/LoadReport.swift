/// What `benchmarks load` found.
struct LoadReport: Encodable {
    enum Operation: String, CaseIterable { case list, get, update }

    /// One client reads; all read; all list, read and update.
    var alone = Phase()
    var reads = Phase()
    var mixed = Phase()
    var mounts: [Mount] = []
    var lostUpdates = 0
    var lostLines = 0
    let connections: Int
    let memories: Int
    let cores = Machine.cores()
    let kernel = Machine.kernel()

    /// What went on in one mount meanwhile.
    struct Mount: Encodable {
        let greps: Int
        let lines: Int
    }

    init(connections: Int, memories: Int) {
        self.connections = connections
        self.memories = memories
    }

    private var phases: [(name: String, phase: Phase)] { [("one reads", alone), ("all read", reads), ("all, and mounts", mixed)] }

    /// Nothing failed and nothing is lost.
    var isSound: Bool { phases.allSatisfy { $0.phase.errors == 0 } && lostUpdates == 0 && lostLines == 0 }

    func print() {
        Swift.print("\(connections) connections, \(memories) memories of 2 kB; kernel \(kernel), \(cores) cores\n")
        var table = [["phase", "request", "n", "per second", "p50 ms", "p99 ms", "longest ms", "daemon cores", "clients' cores"]]
        for (name, phase) in phases {
            for (operation, summary) in phase.summaries {
                table.append([
                    name, operation.rawValue, "\(summary.count)", Report.number(Double(summary.count) / phase.seconds),
                    Report.number(summary.p50), Report.number(summary.p99), Report.number(summary.longest),
                    Report.number(phase.daemonCores), Report.number(phase.generatorCores),
                ])
            }
        }
        Report.print(table)
        for (number, mount) in mounts.enumerated() {
            Swift.print("mount \(number + 1): \(mount.greps) grep -r, \(mount.lines) lines appended")
        }
        Swift.print("updates that came too late: \(mixed.conflicts); lost: \(lostUpdates) updates, \(lostLines) lines")
        for (name, phase) in phases where phase.errors > 0 {
            Swift.print("\(name): \(phase.errors) errors, the first: \(phase.firstError ?? "")")
        }
    }

    /// All clients at the same thing for a while.
    struct Phase: Encodable {
        var seconds = 0.0
        /// Processor time over time: of all processes of the daemon, and of this one.
        var daemonCores = 0.0
        var generatorCores = 0.0
        /// Updates whose precondition did not hold any more: no errors.
        private(set) var conflicts = 0
        private(set) var errors = 0
        private(set) var firstError: String?
        private var latencies: [Operation: [UInt64]] = [:]

        struct Summary: Encodable {
            let count: Int
            let p50: Double
            let p99: Double
            let longest: Double
        }

        mutating func note(_ operation: Operation, _ answer: LoadClients.Answer) {
            latencies[operation, default: []].append(answer.nanoseconds)
            if operation == .update, answer.status == 409 {
                conflicts += 1
            } else if answer.status != 200 {
                errors += 1
                if firstError == nil { firstError = "\(answer.status) \(String(decoding: answer.body.prefix(300), as: UTF8.self))" }
            }
        }

        /// In milliseconds.
        var summaries: [(Operation, Summary)] {
            Operation.allCases.compactMap { operation in
                guard let sorted = latencies[operation]?.sorted() else { return nil }
                func percentile(_ percent: Int) -> Double { Double(sorted[min(sorted.count - 1, sorted.count * percent / 100)]) / 1e6 }
                return (operation, Summary(count: sorted.count, p50: percentile(50), p99: percentile(99), longest: percentile(100)))
            }
        }

        private enum CodingKeys: String, CodingKey {
            case seconds, requests, conflicts, errors
            case daemonCores = "daemon_cores"
            case generatorCores = "generator_cores"
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(seconds, forKey: .seconds)
            try container.encode(Dictionary(uniqueKeysWithValues: summaries.map { ($0.rawValue, $1) }), forKey: .requests)
            try container.encode(conflicts, forKey: .conflicts)
            try container.encode(errors, forKey: .errors)
            try container.encode(daemonCores, forKey: .daemonCores)
            try container.encode(generatorCores, forKey: .generatorCores)
        }
    }

    private enum CodingKeys: String, CodingKey {
        case alone, reads, mixed, mounts, connections, memories, cores, kernel
        case lostUpdates = "lost_updates"
        case lostLines = "lost_lines"
    }
}
