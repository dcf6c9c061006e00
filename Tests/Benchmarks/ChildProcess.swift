import Glibc
import Synchronization

/// A program we started: the daemon, a client, or one of the tools whose speed is measured.
final class ChildProcess: Sendable {
    let pid: pid_t
    private let status = Mutex<Int32?>(nil)
    private let cleanup = Mutex<Int?>(nil)

    /// What a sanitizer was told: a daemon that was built with one hears it as well.
    private static let sanitizers = Dictionary(
        uniqueKeysWithValues: ["ASAN_OPTIONS", "TSAN_OPTIONS"].compactMap { (name: String) in
            getenv(name).map { (name, String(cString: $0)) }
        })

    /// Starts `arguments[0]` from PATH. Unless told otherwise it reads and writes /dev/null and has an environment of its own, so that no
    /// locale, colour or configuration of whoever runs the benchmark changes what is measured.
    static func start(
        _ arguments: [String], input: Int32? = nil, output: Int32? = nil, error: Int32? = STDERR_FILENO,
        environment: [String: String] = [:],
        ownGroup: Bool = false
    ) throws -> ChildProcess {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (descriptor, given) in [(STDIN_FILENO, input), (STDOUT_FILENO, output), (STDERR_FILENO, error)] {
            if let given {
                posix_spawn_file_actions_adddup2(&actions, given, descriptor)
            } else {
                posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
            }
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var flags = Int32(POSIX_SPAWN_SETSIGMASK) | Int32(POSIX_SPAWN_SETSIGDEF)
        // A process group of its own keeps Ctrl-C from the daemon: we stop it, after its mounts.
        if ownGroup { flags |= Int32(POSIX_SPAWN_SETPGROUP) }
        posix_spawnattr_setflags(&attributes, Int16(flags))
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGPIPE] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)

        let settings = ["PATH": path, "LC_ALL": "C", "HOME": "/nonexistent"].merging(sanitizers) { $1 }.merging(environment) { $1 }
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var envp: [UnsafeMutablePointer<CChar>?] = settings.map { strdup("\($0)=\($1)") } + [nil]
        defer { for pointer in argv + envp { free(pointer) } }
        var pid = pid_t()
        let code = posix_spawnp(&pid, argv[0]!, &actions, &attributes, &argv, &envp)
        guard code == 0 else { throw Failure("\(arguments[0]): \(String(cString: strerror(code)))") }
        return ChildProcess(pid: pid)
    }

    private static let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"

    /// For a program that is not measured and needs what its caller has.
    static func ownEnvironment() -> [String: String] {
        (Files.text("/proc/self/environ") ?? "").split(separator: "\0").reduce(into: [:]) { settings, entry in
            let parts = entry.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { settings[String(parts[0])] = String(parts[1]) }
        }
    }

    private init(pid: pid_t) { self.pid = pid }

    /// Kills the program if the run ends before `wait` has returned.
    func killAtEnd() {
        let pid = pid
        let step = Cleanup.shared.add { kill(pid, SIGKILL) }
        cleanup.withLock { $0 = step }
    }

    /// The exit code, or 128 and the signal.
    func wait() -> Int32 {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        return ended(status)
    }

    /// The same, or nothing if it still runs after that long.
    func wait(milliseconds: Int) -> Int32? {
        if let status = status.withLock({ $0 }) { return status }
        for _ in 0...(milliseconds / 10) {
            var status: Int32 = 0
            let result = waitpid(pid, &status, WNOHANG)
            if result == pid { return ended(status) }
            if result < 0, errno == ECHILD { return ended(0) }
            sleep(milliseconds: 10)
        }
        return nil
    }

    private func ended(_ status: Int32) -> Int32 {
        if let step = cleanup.withLock({ $0 }) { Cleanup.shared.remove(step) }
        let code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
        self.status.withLock { $0 = code }
        return code
    }

    /// Asks, waits, and at last insists.
    func stop(with signal: Int32 = SIGTERM, patience: Int = 20_000) -> Bool {
        if status.withLock({ $0 }) != nil { return true }
        kill(pid, signal)
        if wait(milliseconds: patience) != nil { return true }
        kill(pid, SIGKILL)
        _ = wait(milliseconds: 5000)
        return false
    }

    /// Runs a program to its end, which must be a good one.
    static func run(_ arguments: [String], output: Int32? = nil, environment: [String: String] = [:]) throws {
        let child = try start(arguments, output: output, environment: environment)
        let code = child.wait()
        guard code == 0 else { throw Failure("\(arguments.prefix(4).joined(separator: " ")) ended with \(code)") }
    }

    /// Runs a program and gives back what it printed.
    static func output(of arguments: [String], environment: [String: String] = [:]) throws -> [UInt8] {
        let ends = try pipe()
        defer { close(ends.read) }
        let child: ChildProcess
        do {
            defer { close(ends.write) }
            child = try start(arguments, output: ends.write, environment: environment)
        }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(ends.read, &buffer, buffer.count)
            if count <= 0 { break }
            bytes.append(contentsOf: buffer[..<count])
        }
        let code = child.wait()
        guard code == 0 else { throw Failure("\(arguments.prefix(4).joined(separator: " ")) ended with \(code)") }
        return bytes
    }

    static func pipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { throw Failure.system("pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }
}
