import Glibc

/// Runs the phases on all labels, one phase at a time: what disturbs the machine disturbs them all.
struct Comparison {
    let contenders: [any Contender]
    let corpus: Corpus
    let phases: [Phase]
    let rounds: Int
    let scratch: Scratch
    let pinning: Pinning?

    func run() throws -> Report {
        var report = Report(files: corpus.count, rounds: rounds, pinned: pinning != nil, labels: contenders.map(\.label))
        let running = Phase.allCases.filter { phases.contains($0) || $0 == Phase.needed }
        for round in 1...rounds {
            var workloads: [Label: Workload] = [:]
            for contender in contenders {
                let root = try contender.begin(round: round)
                workloads[contender.label] = Workload(root: root, scratch: scratch, corpus: corpus)
            }
            for (step, phase) in running.enumerated() {
                note("round \(round) of \(rounds): \(phase.rawValue)")
                for turn in contenders.indices {
                    let contender = contenders[(turn + round + step) % contenders.count]
                    let result: Report.Round
                    do {
                        result = try measure(phase, contender, workloads[contender.label]!)
                    } catch {
                        throw Failure("\(contender.label.rawValue), \(phase.rawValue), round \(round): \(error)")
                    }
                    if phases.contains(phase) { report.add(result, phase: phase, label: contender.label) }
                }
            }
            for contender in contenders { contender.end() }
        }
        report.finish()
        return report
    }

    private func measure(_ phase: Phase, _ contender: any Contender, _ workload: Workload) throws -> Report.Round {
        Cleanup.shared.waitIfRunning()
        if phase.isCold {
            try contender.goCold()
            try Machine.dropCaches()
        }
        try workload.prepare(phase)
        contender.settle(afterWriting: false)
        try pinning?.apply(to: contender.processes)
        try scratch.flush()
        let requests = contender.requests()
        let processorTime = contender.processorTime()
        var measurements: [Workload.Measurement] = []
        for _ in 0..<phase.repeats { measurements.append(try workload.measure(phase)) }
        let requestsAfter = contender.requests()
        // What a phase leaves to be sealed is its own cost, and must not be the next label's noise.
        contender.settle(afterWriting: phase.changesSomething)
        let processorTimeAfter = contender.processorTime()
        try workload.check(phase)

        measurements.sort { $0.seconds < $1.seconds }
        let median = measurements[measurements.count / 2]
        let operations = workload.operations(in: phase)
        let all = Double(operations * phase.repeats)
        var spent: Double?
        if !processorTime.isEmpty {
            let nanoseconds = processorTimeAfter.reduce(0) { $0 + $1.value - min($1.value, processorTime[$1.key] ?? 0) }
            spent = Double(nanoseconds) / 1000 / all
        }
        var sent: [String: Double]?
        if let requests, let requestsAfter {
            sent = requestsAfter.reduce(into: [:]) { counts, entry in
                let difference = entry.value - (requests[entry.key] ?? 0)
                if difference > 0 { counts[entry.key] = Double(difference) / all }
            }
        }
        return Report.Round(
            operations: operations, seconds: median.seconds, p50: median.latencies?.percentile(50), p99: median.latencies?.percentile(99),
            daemonMicrosecondsPerOperation: spent, requestsPerOperation: sent)
    }
}

/// Who runs on which core. A wake-up across cores costs four times a request on one, and chance decides it unless it is pinned.
final class Pinning {
    private let dispatchThreads: [String]
    private var pinned: Set<String> = []
    private var hasWarned = false
    private let cores: (client: Int, helpers: Int)

    init(dispatchThreads: [String]) throws {
        guard Machine.program("taskset") != nil else { throw Failure("--pin needs taskset (util-linux)") }
        guard Machine.cores() > 1 else { throw Failure("--pin needs two cores") }
        self.dispatchThreads = dispatchThreads
        cores = (0, 1)
        // Every program we start from now on inherits this.
        try pin("\(getpid())", to: cores.client)
    }

    /// Threads come and go, so this is asked before each phase.
    func apply(to processes: Set<pid_t>) throws {
        for process in processes {
            var hasDispatch = false
            var helpers: [String] = []
            for task in Files.names(in: "/proc/\(process)/task") {
                let name = Files.text("/proc/\(process)/task/\(task)/comm") ?? ""
                if dispatchThreads.contains(where: { name.hasPrefix($0) }) {
                    hasDispatch = true
                    try pin(task, to: cores.client)
                } else {
                    helpers.append(task)
                }
            }
            // A daemon whose threads have no names of ours (bindfs) is all dispatch.
            for task in helpers { try pin(task, to: hasDispatch ? cores.helpers : cores.client) }
        }
    }

    private func pin(_ task: String, to core: Int) throws {
        guard pinned.insert("\(task) \(core)").inserted else { return }
        // A thread that has just ended needs no core.
        _ = try ChildProcess.start(["taskset", "-cp", "\(core)", task], error: nil).wait()
    }
}
