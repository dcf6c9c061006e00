import Glibc

/// `remfs serve` as a child of ours, and the remfs commands that talk to it.
final class Daemon {
    let binary: String
    let stateDirectory: String
    let control: ControlSocket
    private let runtimeDirectory: String
    let socket: String
    private let arguments: [String]
    private let settleSeconds: Double
    private let log: String
    private var process: ChildProcess?
    private var cleanup = 0

    init(binary: String, scratch: Scratch, arguments: [String], settle: Double) throws {
        guard access(binary, X_OK) == 0, let path = realpath(binary, nil) else { throw Failure.system(binary) }
        defer { free(path) }
        self.binary = String(cString: path)
        stateDirectory = try scratch.directory("remfs-state")
        runtimeDirectory = try scratch.directory("remfs-run")
        socket = "\(runtimeDirectory)/control.sock"
        control = ControlSocket(path: socket)
        self.arguments = arguments
        settleSeconds = settle
        log = "\(scratch.path)/remfs.log"
        try start()
    }

    /// Returns when the socket answers; how long that took, in seconds.
    @discardableResult func start() throws -> Double {
        let file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw Failure.system(log) }
        defer { close(file) }
        let start = nanoseconds()
        let process = try ChildProcess.start(
            [binary, "serve", "--state-dir", stateDirectory, "--runtime-dir", runtimeDirectory, "--socket", socket] + arguments,
            output: file, error: file, ownGroup: true)
        self.process = process
        cleanup = Cleanup.shared.add { _ = process.stop() }
        while nanoseconds() - start < 30_000_000_000 {
            if let response = try? control.request("GET", "/v1/status"), response.status == 200 {
                return Double(nanoseconds() - start) / 1e9
            }
            if let code = process.wait(milliseconds: 0) { throw Failure("remfs serve ended with \(code): \(lastWords)") }
            sleep(milliseconds: 2)
        }
        throw Failure("remfs serve does not answer on its socket after 30 s: \(lastWords)")
    }

    /// A clean stop, in seconds.
    @discardableResult func stop() throws -> Double {
        guard let process else { return 0 }
        control.disconnect()
        let start = nanoseconds()
        let wasClean = process.stop()
        self.process = nil
        Cleanup.shared.remove(cleanup)
        guard wasClean else { throw Failure("remfs serve did not stop at SIGTERM: \(lastWords)") }
        return Double(nanoseconds() - start) / 1e9
    }

    /// Gives back what the command printed.
    @discardableResult func command(_ arguments: [String]) throws -> String {
        do {
            let bytes = try ChildProcess.output(of: [binary] + arguments, environment: ["REMFS_SOCKET": socket])
            return String(decoding: bytes, as: UTF8.self)
        } catch {
            throw Failure("remfs \(error); the daemon said: \(lastWords)")
        }
    }

    func createStore(_ name: String, memories: Int) throws -> String {
        let store = try command(["store", "create", name]).filter { !$0.isWhitespace }
        // The default is the hosted service's 10,000.
        if memories > 9000 { try control.post("/v1/memory_stores/\(store)/policy", "{\"max_memories\": \(memories)}") }
        return store
    }

    /// How long it took until the mount was live, in seconds.
    @discardableResult func mount(_ store: String, at directory: String) throws -> Double {
        let start = nanoseconds()
        try command(["mount", store, directory])
        let seconds = Double(nanoseconds() - start) / 1e9
        guard Files.isMounted(directory) else { throw Failure("remfs mount returned and nothing is mounted on \(directory)") }
        return seconds
    }

    func unmount(_ directory: String) {
        _ = try? command(["unmount", directory])
        Files.unmount(directory)
    }

    /// Requests that the kernel sent so far, if the daemon counts them.
    func requests() -> [String: Int]? {
        guard let response = try? control.request("GET", "/metrics"), response.status == 200 else { return nil }
        var counts: [String: Int] = [:]
        for line in response.text.split(separator: "\n") where line.hasPrefix("remfs_fuse_requests_total") {
            guard let value = line.split(separator: " ").last.flatMap({ Double($0) }) else { continue }
            let labels = line.split(separator: "op=\"")
            let operation = labels.count > 1 ? String(labels[1].prefix { $0 != "\"" }) : "all"
            counts[operation, default: 0] += Int(value)
        }
        return counts.isEmpty ? nil : counts
    }

    /// The daemon's processes: our child, what it started, and whoever listens on the socket, should the daemon have stepped away from us.
    var processes: Set<pid_t> {
        guard let process else { return [] }
        var found: Set<pid_t> = []
        var waiting = [process.pid] + (control.peer.map { [$0] } ?? [])
        while let pid = waiting.popLast() {
            guard found.insert(pid).inserted else { continue }
            for task in Files.names(in: "/proc/\(pid)/task") {
                let children = Files.text("/proc/\(pid)/task/\(task)/children") ?? ""
                waiting += children.split(whereSeparator: \.isWhitespace).compactMap { pid_t($0) }
            }
        }
        return found
    }

    /// Processor time by process, in nanoseconds: what `utime` and `stime` in /proc/PID/stat add up to, without their rounding to 10 ms.
    func processorTime() -> [pid_t: UInt64] {
        var times: [pid_t: UInt64] = [:]
        for pid in processes {
            var clock = clockid_t()
            if clock_getcpuclockid(pid, &clock) == 0 { times[pid] = nanoseconds(clock) }
        }
        return times
    }

    func processorTime(since earlier: [pid_t: UInt64]) -> UInt64 {
        processorTime().reduce(0) { $0 + $1.value - min($1.value, earlier[$1.key] ?? 0) }
    }

    /// Waits until the daemon has sealed, checkpointed and done what else it does afterwards: no work for as long as asked.
    func settle(afterWriting: Bool = true) {
        let quiet = afterWriting ? UInt64(settleSeconds * 1e9) : 150_000_000
        let deadline = nanoseconds() + 60_000_000_000
        var lastWork = nanoseconds()
        var before = processorTime()
        while nanoseconds() < deadline {
            sleep(milliseconds: 50)
            // 1 ms in 50: timers and our own looking are below it.
            if processorTime(since: before) > 1_000_000 { lastWork = nanoseconds() }
            before = processorTime()
            if nanoseconds() - lastWork >= quiet { return }
        }
        note("the daemon is still busy after a minute; going on")
    }

    /// Resident memory of all its processes: everything, and the part that is its own and not files.
    func residentBytes() -> (all: Int, anonymous: Int) {
        var sum = (all: 0, anonymous: 0)
        for pid in processes {
            for line in (Files.text("/proc/\(pid)/status") ?? "").split(separator: "\n") {
                let kilobytes = Int(line.filter(\.isNumber)) ?? 0
                if line.hasPrefix("VmRSS:") { sum.all += kilobytes << 10 }
                if line.hasPrefix("RssAnon:") { sum.anonymous += kilobytes << 10 }
            }
        }
        return sum
    }

    private var lastWords: String {
        let lines = (Files.text(log) ?? "").split(separator: "\n").suffix(5)
        return lines.isEmpty ? "nothing" : lines.joined(separator: "\n")
    }
}
