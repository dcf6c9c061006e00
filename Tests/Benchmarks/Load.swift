import ArgumentParser
import Glibc
import Synchronization

/// `benchmarks load`: what the control socket answers in a second, and how long a caller waits while others write and mounts are in use.
struct Load: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Load the control socket: reads alone, then lists, reads and updates beside two busy mounts",
        discussion: """
            Three parts, one after the other: one client reads; all clients read; all clients list, read and update, while in two mounts \
            of the same store `grep -r` runs and lines are appended. Ends with 1 if an answer was an error or an update or a line is lost. \
            --remfs, --json and --scratch are as for the other measurements. Needs what a mount needs.
            """)

    @Option(help: ArgumentHelp("Connections, each kept alive", valueName: "n")) var connections = 64
    @Option(help: ArgumentHelp("Seconds of reads, by one client and by all", valueName: "s")) var readSeconds = 10.0
    @Option(help: ArgumentHelp("Seconds of lists, reads and updates beside the mounts", valueName: "s")) var seconds = 30.0
    @Option(help: ArgumentHelp("Memories of the store, besides those that are updated", valueName: "n")) var memories = 500
    @ParentCommand var common: Benchmarks
    @Flag(help: "Leave the mounts out") var noMounts = false

    func validate() throws {
        guard connections >= 1, memories >= 20, seconds >= 0, readSeconds >= 0 else {
            throw ValidationError("at least one connection and 20 memories, or there is nothing to measure")
        }
    }

    func run() throws {
        let report: LoadReport
        do {
            report = try measure()
            Cleanup.shared.run()
        } catch {
            Cleanup.shared.run()
            throw error
        }
        report.print()
        if let json = common.json { try Report.write(report, to: json) }
        guard report.isSound else { throw ExitCode(1) }
    }

    private func measure() throws -> LoadReport {
        Cleanup.shared.catchSignals()
        Scratch.clearLeftovers(in: common.scratch)
        let scratch = try Scratch(in: common.scratch)
        let daemon = try Daemon(binary: try common.remfs ?? Machine.builtRemfs(), scratch: scratch, arguments: [], settle: 0.5)
        let store = try LoadStore(daemon, memories: memories)
        var report = LoadReport(connections: connections, memories: memories)
        daemon.settle()
        report.alone = try phase(daemon, connections: 1, seconds: readSeconds) { try store.reads($0, $1, until: $2, into: &$3) }
        daemon.settle()
        report.reads = try phase(daemon, connections: connections, seconds: readSeconds) { try store.reads($0, $1, until: $2, into: &$3) }
        daemon.settle()
        guard seconds > 0 else { return report }
        let mounts = try noMounts ? [] : (1...2).map { try BusyMount(number: $0, store: store.id, daemon: daemon, scratch: scratch) }
        mounts.forEach { $0.begin() }
        report.mixed = try phase(daemon, connections: connections, seconds: seconds) { try store.mix($0, $1, until: $2, into: &$3) }
        for mount in mounts { report.mounts.append(try mount.end()) }
        report.lostUpdates = try store.lostUpdates(daemon)
        report.lostLines = try mounts.reduce(0) { try $0 + $1.lostLines(daemon) }
        for mount in mounts { daemon.unmount(mount.directory) }
        return report
    }

    private func phase(
        _ daemon: Daemon, connections: Int, seconds: Double,
        _ body: (LoadClients, Int, UInt64, inout LoadReport.Phase) throws -> Void
    ) throws -> LoadReport.Phase {
        var phase = LoadReport.Phase()
        guard seconds > 0 else { return phase }
        let clients = try LoadClients(socket: daemon.socket, count: connections)
        let own = nanoseconds(CLOCK_PROCESS_CPUTIME_ID)
        let before = daemon.processorTime()
        let start = nanoseconds()
        try body(clients, connections, start + UInt64(seconds * 1e9), &phase)
        phase.seconds = Double(nanoseconds() - start) / 1e9
        phase.daemonCores = Double(daemon.processorTime(since: before)) / 1e9 / phase.seconds
        phase.generatorCores = Double(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - own) / 1e9 / phase.seconds
        return phase
    }
}

/// The store under load: memories that are read, and a few that count how often they were updated.
final class LoadStore {
    let id: String
    private let route: String
    private var readable: [[UInt8]] = []
    private var counters: [(id: String, get: [UInt8])] = []
    private var updates = 0
    private var written = 0
    private static let counterCount = 16

    init(_ daemon: Daemon, memories: Int) throws {
        id = try daemon.createStore("load", memories: memories)
        route = "/v1/memory_stores/\(id)/memories"
        let filling = String(repeating: "A line of a memory, as long as lines are when people write them.\\n", count: 30)
        for number in 0..<memories {
            let memory = try Self.create(daemon, route, "/d\(number % 20)/memory-\(number).md", "memory \(number)\\n\(filling)")
            readable.append(LoadClients.request("GET", "\(route)/\(memory)"))
        }
        for number in 0..<Self.counterCount {
            let memory = try Self.create(daemon, route, "/counters/\(number)", "0")
            counters.append((memory, LoadClients.request("GET", "\(route)/\(memory)")))
        }
    }

    private static func create(_ daemon: Daemon, _ route: String, _ path: String, _ content: String) throws -> String {
        let answer = try daemon.control.request("POST", route, body: #"{"path": "\#(path)", "content": "\#(content)"}"#)
        guard answer.status == 200, let id = LoadClients.field("id", in: answer.body[...]) else {
            throw Failure("a memory is not made: \(answer.status) \(answer.text.prefix(300))")
        }
        return id
    }

    /// Each client reads one memory after the other.
    func reads(_ clients: LoadClients, _ count: Int, until end: UInt64, into phase: inout LoadReport.Phase) throws {
        var turns = (0..<count).map { $0 * 7 }
        try clients.run { number, answer in
            if let answer { phase.note(.get, answer) }
            guard nanoseconds() < end else { return nil }
            turns[number] += 1
            return readable[turns[number] % readable.count]
        }
    }

    /// Each client lists, reads a counter, and writes the next number under the precondition that nobody has written meanwhile.
    func mix(_ clients: LoadClients, _ count: Int, until end: UInt64, into phase: inout LoadReport.Phase) throws {
        let lists = (0..<20).map { LoadClients.request("GET", "\(route)?path_prefix=/d\($0)/&limit=20") }
        var random = SeededRandom(seed: 7)
        var steps = [LoadReport.Operation](repeating: .list, count: count)
        var chosen = [Int](repeating: 0, count: count)
        try clients.run { number, answer in
            if let answer { phase.note(steps[number], answer) }
            let previous = answer == nil ? LoadReport.Operation.update : steps[number]
            if previous == .update, answer?.status == 200 { updates += 1 }
            guard nanoseconds() < end else { return nil }
            switch previous {
            case .update:
                steps[number] = .list
                return lists[Int(random.next() % 20)]
            case .list:
                steps[number] = .get
                chosen[number] = Int(random.next() % UInt64(counters.count))
                return counters[chosen[number]].get
            case .get:
                guard let answer,
                    let count = LoadClients.field("content", in: answer.body)?.split(separator: " ").first.flatMap({ Int($0) }),
                    let hash = LoadClients.field("content_sha256", in: answer.body)
                else { throw Failure("a counter cannot be read") }
                steps[number] = .update
                written += 1
                // No two write the same: an update to what is there already succeeds whatever its precondition.
                let body = """
                    {"content": "\(count + 1) \(written)", "precondition": {"type": "content_sha256", "content_sha256": "\(hash)"}}
                    """
                return LoadClients.request("POST", "\(route)/\(counters[chosen[number]].id)", body)
            }
        }
    }

    /// Updates that were answered with success and are not counted, or the other way round.
    func lostUpdates(_ daemon: Daemon) throws -> Int {
        struct Counter: Decodable { let content: String }
        let sum = try counters.reduce(0) { sum, counter in
            sum
                + (try daemon.control.get("\(route)/\(counter.id)", as: Counter.self).content.split(separator: " ").first.flatMap {
                    Int($0)
                } ?? 0)
        }
        return abs(updates - sum)
    }
}

/// A mount of the store in which `grep -r` runs and lines are appended, one after the other.
final class BusyMount: Sendable {
    let directory: String
    private let name: String
    private let store: String
    private let state = Mutex((isOver: false, lines: 0, greps: 0, failure: String?.none))
    private let threads = Mutex<[pthread_t]>([])

    init(number: Int, store: String, daemon: Daemon, scratch: Scratch) throws {
        directory = try scratch.directory("load-mount-\(number)")
        name = "log-\(number)"
        self.store = store
        try daemon.mount(store, at: directory)
    }

    func begin() {
        start { [self] in
            var isOver = false
            while !isOver {
                do {
                    // Found in each memory, so that each is read; the counters hold a number only.
                    let found = try ChildProcess.output(of: ["grep", "-rl", "--include=*.md", "A line of a memory", directory])
                    isOver = state.withLock {
                        $0.greps += 1
                        if found.isEmpty { $0.failure = "grep found nothing" }
                        return $0.isOver
                    }
                } catch {
                    isOver = true
                    state.withLock { $0.failure = "\(error)" }
                }
            }
        }
        start { [self] in
            while !state.withLock({ $0.isOver }) {
                let line = Array("line \(state.withLock { $0.lines })\n".utf8)
                do {
                    try line.withUnsafeBytes { try Loops.append($0, to: "\(directory)/\(name)", times: 1) }
                    state.withLock { $0.lines += 1 }
                } catch {
                    return state.withLock { $0.failure = "\(error)" }
                }
                sleep(milliseconds: 5)
            }
        }
    }

    func end() throws -> LoadReport.Mount {
        state.withLock { $0.isOver = true }
        for thread in threads.withLock({ $0 }) { pthread_join(thread, nil) }
        let state = state.withLock { $0 }
        if let failure = state.failure { throw Failure("in mount \(name): \(failure)") }
        return LoadReport.Mount(greps: state.greps, lines: state.lines)
    }

    /// Lines that were appended and are not there, through the API.
    func lostLines(_ daemon: Daemon) throws -> Int {
        let wanted = state.withLock { $0.lines }
        let text = try daemon.command(["memory", "cat", store, "/\(name)"])
        let lines = text.split(separator: "\n")
        let right = zip(lines, 0...).count { $0 == "line \($1)" }
        return abs(lines.count - wanted) + (lines.count - right)
    }

    private func start(_ body: @escaping @Sendable () -> Void) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var thread = pthread_t()
        let argument = Unmanaged.passRetained(Box(body)).toOpaque()
        let code = pthread_create(
            &thread, nil,
            {
                Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
                return nil
            }, argument)
        precondition(code == 0, "no thread: \(code)")
        threads.withLock { $0.append(thread) }
    }
}
