import Glibc
import Storage
import struct Synchronization.Atomic

/// A real program that a test started.
package final class Program: Sendable {
    package struct Outcome: Sendable {
        /// What it exited with, or 128 and the signal that killed it.
        package let status: Int32
        package let output: String
        package let errors: String
    }
    package struct Failed: Error, CustomStringConvertible {
        package let arguments: [String]
        package let outcome: Outcome
        package var description: String { "\(arguments) ended with \(outcome.status): \(outcome.errors)\(outcome.output)" }
    }

    package let pid: pid_t
    private let arguments: [String]
    private let ending: Int32
    private let scratch: String

    private static let count = Atomic<Int>(0)

    /// Programs are started by a thread that shares no descriptor with the rest of the process: otherwise a child would hold our files
    /// open until its exec, and a save that a test has closed would not be closed yet.
    private static let spawner: WorkerPool = {
        let pool = WorkerPool(count: 1, named: "test-spawner")
        pool.submit {
            do { try Linux.leaveSharedFiles() } catch { fatalError("cannot leave the process's files: \(error)") }
        }
        return pool
    }()

    /// Starts `arguments[0]` from PATH with an environment of its own, so that nobody's locale or configuration matters.
    ///
    /// - Parameter scratch: a directory for what it prints and for its HOME.
    package static func start(
        _ arguments: [String], in directory: String, scratch: String, input: String = "/dev/null", environment: [String: String] = [:]
    ) throws -> Program {
        let number = count.wrappingAdd(1, ordering: .relaxed).newValue
        let out = "\(scratch)/program-\(number)"
        let started = Event<Result<pid_t, Errno>>()
        spawner.submit { started.post(spawn(arguments, directory, scratch, input, out, environment)) }
        guard let result = started.wait(.seconds(60)) else { throw TimedOut() }
        let pid = try result.get()
        return Program(pid: pid, arguments, ending: try Linux.open(process: pid), out)
    }

    private init(pid: pid_t, _ arguments: [String], ending: Int32, _ scratch: String) {
        self.pid = pid
        self.arguments = arguments
        self.ending = ending
        self.scratch = scratch
    }

    deinit {
        // A test that failed has not waited for it: a child that has ended and that nobody waits for keeps Swift Testing's own watch over its
        // children busy, on a core of its own, until the end.
        var ended = siginfo_t()
        waitid(P_PIDFD, id_t(ending), &ended, WEXITED | WNOHANG)
        close(ending)
    }

    private static func spawn(
        _ arguments: [String], _ directory: String, _ home: String, _ input: String, _ out: String, _ environment: [String: String]
    ) -> Result<pid_t, Errno> {
        guard chdir(directory) == 0 else { return .failure(Errno(errno)) }
        defer { chdir("/") }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, out + ".out", O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, out + ".err", O_WRONLY | O_CREAT | O_APPEND, 0o600)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF) | Int16(POSIX_SPAWN_SETPGROUP))
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGPIPE] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)
        let settings = [
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": home,
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.com", "PYTHONDONTWRITEBYTECODE": "1",
        ].merging(DaemonProcess.sanitizers) { $1 }.merging(environment) { $1 }
        var argv: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var envp: [UnsafeMutablePointer<CChar>?] = settings.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for pointer in argv + envp { free(pointer) } }
        var pid = pid_t()
        let code = posix_spawnp(&pid, argv[0]!, &actions, &attributes, &argv, &envp)
        return code == 0 ? .success(pid) : .failure(Errno(code))
    }

    package var isRunning: Bool {
        var poll = pollfd(fd: ending, events: Int16(POLLIN), revents: 0)
        return Glibc.poll(&poll, 1, 0) == 0
    }

    /// SIGKILL goes to all that it has started as well, at the same time.
    package func signal(_ number: Int32) { kill(number == SIGKILL ? -pid : pid, number) }

    /// What it has printed so far.
    package var output: String { Files.text(scratch + ".out") ?? "" }
    package var errors: String { Files.text(scratch + ".err") ?? "" }

    /// Waits for its end. One that does not end is killed, and `TimedOut` thrown: that tells a program that hangs, also where a sanitizer
    /// makes every request many times slower, and measures nothing.
    package func wait(atMost timeout: Duration = .seconds(240)) throws -> Outcome {
        var poll = pollfd(fd: ending, events: Int16(POLLIN), revents: 0)
        let hasEnded = Glibc.poll(&poll, 1, Int32(timeout.components.seconds) * 1000) == 1
        if !hasEnded { signal(SIGKILL) }
        var status: Int32 = 0
        try check(waitpid(pid, &status, 0))
        guard hasEnded else { throw TimedOut() }
        let signal = status & 0x7f
        return Outcome(status: signal == 0 ? (status >> 8) & 0xff : 128 + signal, output: output, errors: errors)
    }

    /// Waits for its end, which must be a success, and answers what it printed.
    @discardableResult
    package func success() throws -> String {
        let outcome = try wait()
        guard outcome.status == 0 else { throw Failed(arguments: arguments, outcome: outcome) }
        return outcome.output
    }
}
