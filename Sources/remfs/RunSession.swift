import ArgumentParser
import Control
import Foundation
import Fuse
import Glibc
import Storage
import Threads
import UnixSignals

struct RunSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a command in a sandbox with stores at /mnt/memory, and record it as a session",
        discussion: """
            The command sees the machine's programs, its stores, and nothing else: no network, no home, no other session. It runs as you, or, \
            called by root, as whoever called sudo, or nobody. Its output is shown and recorded (up to 1 MiB); the exit code is its own. \
            Needs bubblewrap.

              remfs session run --store notes --store rules:ro -- bash -c 'grep -r deploy .'
            """)

    @OptionGroup var session: SessionOptions
    @Flag(help: "Let the command use the network") var network = false
    @Option(help: ArgumentHelp("A directory that the command may write to, in its own place; may be repeated", valueName: "dir"))
    var bind: [String] = []
    @Option(help: ArgumentHelp("A directory that the command may read, in its own place; may be repeated", valueName: "dir"))
    var roBind: [String] = []
    @Option(help: ArgumentHelp("Where the command starts", valueName: "dir")) var chdir = Attachment.root
    @Flag(help: "Leave the session, and its mounts, when the command has ended") var keep = false
    @OptionGroup var daemon: DaemonOptions
    @Argument(parsing: .postTerminator, help: "The command and its arguments, after --") var command: [String]

    func validate() throws {
        if command.isEmpty { throw ValidationError("Name a command after --.") }
    }

    struct Outcome: Encodable {
        let sessionID: String
        let exitCode: Int32
        let output: String

        private enum CodingKeys: String, CodingKey {
            case output
            case sessionID = "session_id"
            case exitCode = "exit_code"
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        let environment = ProcessInfo.processInfo.environment
        var sandbox = Sandbox(user: session.user ?? Sandbox.usualUser(environment), memory: "")
        sandbox.hasNetwork = network
        let settings = try await Settings.load()
        sandbox.ours = [settings.stateDirectory, settings.runtimeDirectory].map(Settings.plain)
        sandbox.writable = bind.map { Settings.plain(Settings.absolute($0)) }
        sandbox.readable = roBind.map { Settings.plain(Settings.absolute($0)) }
        sandbox.directory = chdir
        let made = try await session.create(with: client, for: sandbox.user)
        let outcome: Outcome
        do {
            outcome = try await run(made.id, sandbox, client, environment)
        } catch {
            // Whatever went wrong, the session is not to go on without anybody in it.
            if !keep { let _: Wire.Session = try await client.call(.post, "\(sessionPath(made.id))/archive") }
            throw error
        }
        if !keep { let _: Wire.Session = try await client.call(.post, "\(sessionPath(made.id))/archive") }
        if daemon.json { try Output.json(outcome) } else { Output.talk("session \(made.id)") }
        guard outcome.exitCode == 0 else { throw ExitCode(outcome.exitCode) }
    }

    private func run(
        _ id: String, _ sandbox: Sandbox, _ client: ControlClient, _ environment: [String: String]
    ) async throws(RemfsError) -> Outcome {
        let mounts: Wire.SessionMounts = try await client.call(.post, "\(sessionPath(id))/mounts", body: [String: String]())
        guard mounts.data.allSatisfy({ Self.isMount($0.directory) }) else {
            throw RemfsError(.unavailable, "the session's stores are mounted at \(mounts.directory), which this process does not see")
        }
        var sandbox = sandbox
        sandbox.memory = mounts.directory
        var recorder = CommandRecorder(client, session: id)
        try await recorder.begin(command)
        let words = try sandbox.command(command)
        let child = SandboxedCommand(words, sandbox.environment(environment, session: id), isShown: !daemon.json)
        let (code, output) = try await child.run()
        try await recorder.end(code, output)
        return Outcome(sessionID: id, exitCode: code, output: output.text)
    }
}

extension RunSession {
    /// A directory where nothing is mounted would take what the agent writes, and lose it.
    private static func isMount(_ path: String) -> Bool {
        // `try?`: what cannot be looked at is none that the command could use.
        func device(_ path: String) -> Int? { (try? FileManager.default.attributesOfItem(atPath: path))?[.systemNumber] as? Int }
        guard let own = device(path) else { return false }
        return own != device(path + "/..")
    }
}

/// What a command has printed, its two outputs as they came.
struct CommandOutput: Sendable {
    /// What an event keeps of it.
    static let most = 1 << 20

    private var kept: [UInt8] = []
    private(set) var length = 0

    mutating func append(_ bytes: some Collection<UInt8>) {
        length += bytes.count
        kept += bytes.prefix(Self.most - kept.count)
    }

    var text: String { String(decoding: kept, as: UTF8.self) }
    /// In bytes.
    var omitted: Int { length - kept.count }
}

/// The transcript of one command: what was asked, what was run, and how it ended.
private struct CommandRecorder {
    private let client: ControlClient
    private let path: String
    /// The event that a result refers to.
    private var use: String?

    init(_ client: ControlClient, session: String) {
        self.client = client
        path = "/v1/sessions/\(session)/events"
    }

    mutating func begin(_ command: [String]) async throws(RemfsError) {
        let line = command.map(Self.quoted).joined(separator: " ")
        let events = try await send([
            .object(["type": .string("user.message"), "content": Self.text(line)]),
            .object([
                "type": .string("agent.tool_use"), "name": .string("run"),
                "input": .object(["command": .array(command.map { .string($0) })]),
            ]),
        ])
        guard case .object(let fields)? = events.last, case .string(let id)? = fields["id"] else {
            throw RemfsError(.internal, "the daemon does not say under which ID it keeps an event")
        }
        use = id
    }

    func end(_ code: Int32, _ output: CommandOutput) async throws(RemfsError) {
        guard let use else { return }
        var text = "exit code: \(code)\n\(output.text)"
        if output.omitted > 0 { text += "\n[\(output.omitted) bytes left out]" }
        _ = try await send([
            .object([
                "type": .string("agent.tool_result"), "tool_use_id": .string(use), "content": Self.text(text),
                "is_error": .boolean(code != 0),
            ])
        ])
    }

    private static func text(_ text: String) -> JSONValue { .array([.object(["type": .string("text"), "text": .string(text)])]) }

    private func send(_ events: [JSONValue]) async throws(RemfsError) -> [Wire.Event] {
        let body = JSONValue.object(["events": .array(events)]).text
        return try await client.call(.post, path, json: body, as: Sent.self).data
    }

    private struct Sent: Decodable { let data: [Wire.Event] }

    /// As a shell would take it.
    private static func quoted(_ word: String) -> String {
        let plain =
            !word.isEmpty
            && word.utf8.allSatisfy { byte in
                (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || "_-./:=@%+,".utf8.contains(byte)
            }
        return plain ? word : "'" + word.replacing("'", with: "'\\''") + "'"
    }
}

/// A process whose output is shown and kept.
private struct SandboxedCommand: Sendable {
    private let words: [String]
    private let environment: [String: String]
    private let isShown: Bool

    init(_ words: [String], _ environment: [String: String], isShown: Bool) {
        self.words = words
        self.environment = environment
        self.isShown = isShown
    }

    /// Runs it to its end. Who interrupts us interrupts it; how it ended is recorded all the same.
    func run() async throws(RemfsError) -> (code: Int32, output: CommandOutput) {
        let (output, errors) = (try Self.pipe(), try Self.pipe())
        let (started, hasStarted) = AsyncStream<Result<pid_t, FuseSpawn.Failure>>.makeStream()
        // The sandbox ends with the thread that started it (PR_SET_PDEATHSIG), and those of Swift's pool end when they have nothing to do.
        async let ended = onThread("run-command") {
            let result = FuseSpawn.start(
                words[0], words.map { Array($0.utf8) }, environment: environment.map { Array("\($0)=\($1)".utf8) },
                standardOutput: output.write, standardError: errors.write)
            close(output.write)
            close(errors.write)
            hasStarted.yield(result)
            hasStarted.finish()
            guard case .success(let process) = result else { return Int32(127) }
            return FuseSpawn.wait(for: process)
        }
        var process: pid_t = 0
        for await result in started {
            switch result {
            case .failure(let failure):
                close(output.read)
                close(errors.read)
                throw RemfsError.ofSystem("\(words[0]) cannot be started: is bubblewrap installed?", failure.errno)
            case .success(let started): process = started
            }
        }
        let interrupts = Task { [process] in
            for await signal in await UnixSignalsSequence(trapping: .sigint, .sigterm, .sighup) { kill(process, signal.rawValue) }
        }
        defer { interrupts.cancel() }
        let kept = Mutex(CommandOutput())
        async let first: Void = onThread("run-output") { Self.relay(output.read, to: isShown ? STDOUT_FILENO : nil, kept) }
        async let second: Void = onThread("run-errors") { Self.relay(errors.read, to: isShown ? STDERR_FILENO : nil, kept) }
        _ = await (first, second)
        return (await ended, kept.withLock { $0 })
    }

    private static func pipe() throws(RemfsError) -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard unsafe Glibc.pipe(&ends) == 0 else { throw RemfsError.ofSystem("no pipe can be made") }
        // The child keeps what it is given by name alone.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    /// Until everybody has closed the other end. Where nobody takes what is shown any more, it is still kept.
    private static func relay(_ source: Int32, to target: Int32?, _ kept: borrowing Mutex<CommandOutput>) {
        defer { close(source) }
        var target = target
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe read(source, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            kept.withLock { $0.append(buffer[..<count]) }
            var rest = buffer[..<count]
            while let open = target, !rest.isEmpty {
                let written = unsafe rest.withUnsafeBytes { unsafe write(open, $0.baseAddress, $0.count) }
                if written < 0, errno == EINTR { continue }
                if written < 0 { target = nil } else { rest = rest.dropFirst(written) }
            }
        }
    }
}
