import ArgumentParser
import Control
import Foundation
import Glibc
import Storage
import Threads

struct Demo: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the main job on real input, in a scratch directory that is removed afterwards",
        discussion:
            "Starts a daemon of its own, mounts a store, works in it with ordinary tools. Exits with 0 only if all it claims was checked.")

    func run() async throws {
        try Self.requireFuse()
        let stage = try Stage()
        let interrupted: Bool
        do {
            interrupted = try await untilInterrupted { try await play(on: stage) }
        } catch {
            await stage.clear()
            throw error
        }
        await stage.clear()
        if interrupted { throw ExitCode(130) }
    }

    private static func requireFuse() throws(RemfsError) {
        let what = "the demo mounts a store, and /dev/fuse"
        guard unsafe access("/dev/fuse", R_OK | W_OK) == 0 else {
            throw RemfsError(.unavailable, "\(what) cannot be opened here (\(String(errno: errno)))")
        }
        // `try?`: what cannot be looked at is not known to be one.
        let kind = (try? FileManager.default.attributesOfItem(atPath: "/dev/fuse"))?[.type] as? FileAttributeType
        guard kind == .typeCharacterSpecial else { throw RemfsError(.unavailable, "\(what) is no device here") }
    }

    private func play(on stage: Stage) async throws {
        try await stage.startDaemon()

        try stage.say("A store is created, and shown as a directory.")
        let id = try await stage.shell("remfs store create team-notes").output.trimmingCharacters(in: .whitespacesAndNewlines)
        try stage.check(StoreID(id) != nil, "the store's ID is printed alone")
        try await stage.shell("mkdir notes && remfs mount team-notes notes")
        let status = try await stage.shell("remfs status").output
        try stage.check(status.contains("\(stage.directory)/notes"), "the mount is live when the command returns")

        try stage.say("It takes ordinary tools. Each save is one version, with its author.")
        if !stage.hearsOfCloses {
            try stage.say("(For an ordinary user a save ends after two seconds of quiet, which the demo waits for.)")
        }
        try await stage.shell("mkdir notes/plans && echo 'Ship the release on Friday.' > notes/plans/release.md")
        try await stage.settle("/plans/release.md", versions: 1, in: id)
        try await stage.shell("printf '%s\\n' 'Ana: support' 'Ben: release' > notes/people.md")
        let found = try await stage.shell("grep -rn Friday notes").output
        try stage.check(found == "notes/plans/release.md:1:Ship the release on Friday.\n", "grep finds what was written")
        try await stage.shell("sed -i s/Friday/Monday/ notes/plans/release.md")
        try await stage.settle("/plans/release.md", versions: 2, in: id)
        try await stage.shell("echo 'Tell support first.' >> notes/plans/release.md")
        let edited = try await stage.shell("cat notes/plans/release.md").output
        try stage.check(edited == "Ship the release on Monday.\nTell support first.\n", "the edits are there")
        try await stage.settle("/plans/release.md", versions: 3, in: id)

        try stage.say("Its history is there\(stage.hearsOfCloses ? " at once" : "").")
        try await stage.shell("remfs log team-notes plans/release.md")
        let versions = try await stage.versions(of: "/plans/release.md", in: id)
        try stage.check(versions.map(\.operation) == ["modified", "modified", "created"], "three saves are three versions of one memory")
        try stage.check(Set(versions.map(\.memoryID)).count == 1, "sed's new file continues the memory")
        try stage.check(
            versions.map(\.writer.command) == ["bash", "sed", "bash"] && versions.allSatisfy { $0.writer.uid == geteuid() },
            "each version names the process and the user that wrote it")
        let diff = try await stage.shell("remfs diff team-notes plans/release.md").output
        try stage.check(diff.contains("\n+Tell support first.\n"), "the diff shows the last change")
        guard let first = versions.last else { throw RemfsError(.internal, "the demo lost its first version") }
        try await stage.shell("remfs restore team-notes \(first.id)")
        let restored = try await stage.shell("cat notes/plans/release.md").output
        try stage.check(restored == "Ship the release on Friday.\n", "the restored text shows in the mount")

        try stage.say("A second mount may read, and not write.")
        try await stage.shell("mkdir readers && remfs mount team-notes readers --read-only && cat readers/people.md")
        let refused = try await stage.shell("echo 'No release.' > readers/plans/release.md", succeeds: false)
        try stage.check(refused.output.contains("Read-only file system"), "the write is refused, and says why")
        try await stage.shell("echo 'Cem: on call' >> notes/people.md")
        let people = try await stage.shell("cat readers/people.md").output
        try stage.check(people.hasSuffix("Cem: on call\n"), "what one mount writes the other reads at once")
        try await stage.settle("/people.md", versions: 2, in: id)

        try stage.say("The same memory over the control socket.")
        let answer = try await stage.shell(
            "curl -sS --unix-socket \"$REMFS_SOCKET\" 'http://localhost/v1/memory_stores/\(id)/memories?path=/people.md&view=full'"
        ).output
        let page = try? JSONDecoder().decode(Wire.Page<Wire.Listing>.self, from: Data(answer.utf8))  // the check below says it is none
        guard case .memory(let memory)? = page?.data.first else { return try stage.check(false, "the API lists the memory") }
        try stage.check(memory.content == people, "the API gives the same content as the mount")
        try await playAPI(on: stage, id)

        try stage.say("And away.")
        try await stage.shell("remfs unmount readers && remfs unmount notes")
        try stage.check(try Stage.mounts(below: stage.directory).isEmpty, "nothing is mounted any more")
        try await stage.stopDaemon()
        try stage.say("All \(stage.checks) claims were checked.")
    }
}

extension Demo {
    /// What there is besides mounts: search, keys, sessions.
    private func playAPI(on stage: Stage, _ id: String) async throws {
        try stage.say("Words are found, whatever their case.")
        let found = try await stage.shell("remfs search team-notes friday").output
        try stage.check(found.split(separator: "\n").first == "/plans/release.md", "the search finds the memory that has the word now")

        try stage.say("Over TCP nobody comes in without a key, and with one as far as it goes.")
        let url = "http://\(stage.address)/v1/memory_stores/\(id)"
        let status = "curl -sS -o /dev/null -w '%{http_code}\\n'"
        // In a file: the arguments of a command are for all to see.
        try await stage.shell("echo \"x-api-key: $(remfs key create reader --read --store team-notes)\" > key")
        let without = try await stage.shell("\(status) \(url)").output
        try stage.check(without == "401\n", "without a key the answer is 401")
        let with = try await stage.shell("curl -sS -H @key \(url)").output
        try stage.check(with.contains("\"name\":\"team-notes\""), "with the key it is the store")
        let beyond = try await stage.shell("\(status) -X DELETE -H @key \(url)").output
        try stage.check(beyond == "403\n", "what the key does not allow is 403")
        try await playSession(on: stage, id)
    }

    /// One agent's run: its mounts, its name on what it writes, looking back, and undoing it.
    private func playSession(on stage: Stage, _ id: String) async throws {
        try stage.say("A session is one agent's run. Its stores are mounted for it, and what it writes has its name.")
        let session = try await stage.shell("remfs session create --store team-notes --title 'Release week'").output
            .trimmingCharacters(in: .whitespacesAndNewlines)
        let prompt = try await stage.shell("remfs session prompt \(session)").output
        try stage.check(prompt.contains("Path: /mnt/memory/team-notes"), "what the agent has to be told is written for it")
        try await stage.shell("ln -s $(remfs session path \(session)) agent && sed -i s/Friday/Sunday/ agent/team-notes/plans/release.md")
        try await stage.settle("/plans/release.md", versions: 5, in: id)
        let event = #"{"events": [{"type": "user.message", "content": [{"type": "text", "text": "When do we ship?"}]}]}"#
        try await stage.shell(
            "curl -sS -o /dev/null --unix-socket \"$REMFS_SOCKET\" http://localhost/v1/sessions/\(session)/events -d '\(event)'")
        let events = try await stage.shell("remfs session events \(session)").output
        try stage.check(events.contains("user.message") && events.contains("When do we ship?"), "its transcript has the event")
        let versions = try await stage.versions(of: "/plans/release.md", in: id)
        try stage.check(versions.first?.createdBy?.actor == .session(session), "the save is the session's")
        try await stage.shell("remfs session set \(session) team-notes:ro")
        let refused = try await stage.shell("echo 'No release.' > agent/team-notes/plans/release.md", succeeds: false)
        try stage.check(refused.output.contains("Read-only file system"), "its live mount can be made read-only, for root as well")

        try stage.say("Every state that was is still there, and what a session did can be taken back.")
        guard versions.count > 1 else { throw RemfsError(.internal, "the demo lost its versions") }
        let then = try await stage.shell("cat notes/.remfs/at/\(versions[1].id)/plans/release.md").output
        try stage.check(then == "Ship the release on Friday.\n", "the directory of a moment shows what was there")
        try await stage.shell("remfs revert --session \(session) --yes")
        let back = try await stage.shell("cat notes/plans/release.md").output
        try stage.check(back == then, "after the revert it is there again")
        try await stage.shell("remfs session archive \(session)")
        try stage.check(try Stage.mounts(below: "\(stage.directory)/run").isEmpty, "the end of a session ends its mounts")
    }
}

/// The scratch directory and the daemon of a demo.
private final class Stage: Sendable {
    private struct State {
        var daemon: (Process, NotificationListener)?
        var checks = 0
    }

    let directory: String
    /// Where the daemon listens, besides its socket.
    let address: String
    private let environment: [String: String]
    private let state = Mutex(State())

    var checks: Int { state.withLock(\.checks) }

    init() throws(RemfsError) {
        var template = Array("\(FileManager.default.temporaryDirectory.path)/remfs-demo-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw RemfsError.ofSystem("a scratch directory cannot be made") }
        directory = String(decoding: template.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        address = "127.0.0.1:\(try Self.freePort())"
        // A directory of its own in PATH, so that the commands read as they would be typed.
        do {
            try FileManager.default.createDirectory(atPath: "\(directory)/bin", withIntermediateDirectories: false)
            try FileManager.default.createSymbolicLink(
                atPath: "\(directory)/bin/remfs",
                withDestinationPath: try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        } catch {
            throw RemfsError(.noSpace, "the scratch directory \(directory) cannot be filled", cause: String(describing: error))
        }
        var environment = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("REMFS_") }
        environment["PATH"] = "\(directory)/bin:\(environment["PATH"] ?? "/usr/bin:/bin")"
        environment["REMFS_SOCKET"] = "\(directory)/run/control.sock"
        environment["REMFS_CONFIG"] = "/dev/null"
        environment["LC_ALL"] = "C"
        self.environment = environment
    }

    /// A port that nobody has, for as long as nobody takes it.
    private static func freePort() throws(RemfsError) -> UInt16 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("no socket can be made") }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let code = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, length) == 0 ? getsockname(descriptor, $0, &length) : -1
            }
        }
        guard code == 0 else { throw RemfsError.ofSystem("no port of this machine can be had") }
        return UInt16(bigEndian: address.sin_port)
    }

    func say(_ text: String) throws(RemfsError) { try Output.line("\n# \(text)") }

    /// A claim that was just shown; the demo ends here when it does not hold.
    func check(_ holds: Bool, _ claim: String) throws(RemfsError) {
        guard holds else { throw RemfsError(.internal, "the demo's claim does not hold: \(claim)") }
        state.withLock { $0.checks += 1 }
        try Output.line("# checked: \(claim)")
    }

    /// Runs a command in the scratch directory, as typed into bash, and prints it and what it says.
    @discardableResult
    func shell(_ command: String, succeeds: Bool = true) async throws -> (output: String, status: Int32) {
        try Output.line("$ \(command)")
        let process = process("/bin/bash", ["-c", command])
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        process.standardInput = FileHandle.nullDevice
        try process.start()
        let (data, status) = await withTaskCancellationHandler {
            await onThread("demo-shell") {
                let data = output.fileHandleForReading.readDataToEndOfFile()
                process.waitUntilExit()
                return (data, process.terminationStatus)
            }
        } onCancel: {
            process.terminate()
        }
        try Task.checkCancellation()
        let text = String(decoding: data, as: UTF8.self)
        try Output.bytes(Data((text.isEmpty || text.hasSuffix("\n") ? text : text + "\n").utf8))
        guard (status == 0) == succeeds else {
            throw RemfsError(.internal, "the demo's command \(succeeds ? "failed with \(status)" : "should have been refused"): \(command)")
        }
        return (text, status)
    }

    func versions(of path: String, in store: String) async throws(RemfsError) -> [Wire.Version] {
        let client = ControlClient(socket: environment["REMFS_SOCKET"] ?? "")
        let memory = try await client.existingMemory(at: path, in: store)
        return try await client.all("/v1/memory_stores/\(store)/memory_versions", query: [("memory_id", memory.id)])
    }

    /// Only root may hear who closes a file, which ends a save at once.
    let hearsOfCloses = geteuid() == 0

    /// Where the end of a save is not heard of, waits until a memory has that many versions.
    func settle(_ path: String, versions count: Int, in store: String) async throws {
        guard !hearsOfCloses else { return }
        // More than twice the two seconds that it takes.
        let deadline = ContinuousClock.now + .seconds(5)
        while true {
            do throws(RemfsError) {
                if try await versions(of: path, in: store).count >= count { return }
            } catch {
                // A new memory is not told of before its first save has ended.
                guard error.code == .notFound else { throw error }
            }
            guard ContinuousClock.now < deadline else { throw RemfsError(.internal, "\(path) has no \(count) versions after five seconds") }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Starts the daemon and returns when it says that it is ready.
    func startDaemon() async throws {
        try Output.line("$ remfs serve --listen \(address) &")
        let listener = try NotificationListener("\(directory)/notify")
        var settings = environment
        settings["REMFS_STATE_DIR"] = "\(directory)/state"
        settings["REMFS_RUNTIME_DIR"] = "\(directory)/run"
        settings["REMFS_LOG_LEVEL"] = "warning"
        settings["NOTIFY_SOCKET"] = listener.path
        let daemon = process("\(directory)/bin/remfs", ["serve", "--listen", address])
        daemon.environment = settings
        daemon.standardInput = FileHandle.nullDevice
        daemon.terminationHandler = { _ in ServiceManager.notify("EXITED=1", environment: ["NOTIFY_SOCKET": listener.path]) }
        try daemon.start()
        state.withLock { $0.daemon = (daemon, listener) }
        guard await onThread("demo-ready", { listener.next(within: 30) }) == "READY=1" else {
            throw RemfsError(.unavailable, "the demo's daemon did not start")
        }
    }

    /// Stops the daemon and returns when it is gone.
    func stopDaemon() async throws {
        try Output.line("$ kill %1")
        try check(await endDaemon(), "the daemon stops when asked to")
    }

    /// Whether it stopped as it was asked to, or there is none.
    private func endDaemon() async -> Bool {
        guard let (daemon, listener) = state.withLock({ $0.daemon.take() }) else { return true }
        daemon.terminate()
        return await onThread("demo-stop") {
            while let message = listener.next(within: 30), message != "EXITED=1" {}
            // Both of its processes at once: each would start another.
            if daemon.isRunning { kill(-daemon.processIdentifier, SIGKILL) }
            daemon.waitUntilExit()
            return daemon.terminationReason == .exit && daemon.terminationStatus == 0
        }
    }

    /// Removes everything that the demo made, whatever state it is in, and also when nobody reads what it says.
    func clear() async {
        do {
            if await !endDaemon() { Output.talk("the demo's daemon did not stop when asked to") }
            for mount in try Self.mounts(below: directory).reversed() {
                guard unsafe umount2(mount, Int32(MNT_DETACH)) != 0 else { continue }
                // Not root: only the setuid helper may.
                let helper = process("/usr/bin/env", ["fusermount3", "-u", "-z", mount])
                try helper.start()
                await onThread("demo-unmount") { helper.waitUntilExit() }
            }
            // With a mount still there, this would delete the memories in it.
            guard try Self.mounts(below: directory).isEmpty else {
                return Output.talk("\(directory) is left behind: something in it is still mounted")
            }
            try FileManager.default.removeItem(atPath: directory)
        } catch {
            Output.talk("\(directory) is left behind: \(error)")
        }
    }

    /// Where something is mounted, in the order of mounting.
    static func mounts(below directory: String) throws(RemfsError) -> [String] {
        let text: String
        do {
            text = try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)
        } catch {
            throw RemfsError(.internal, "the mounts of this machine cannot be read", cause: String(describing: error))
        }
        return text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            return fields.count > 4 && fields[4].hasPrefix(directory + "/") ? String(fields[4]) : nil
        }
    }

    private func process(_ executable: String, _ arguments: [String]) -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: executable)
        process.arguments = arguments
        process.environment = environment
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        return process
    }
}

/// The other side of `ServiceManager`: what systemd would listen on.
private final class NotificationListener: Sendable {
    let path: String
    private let descriptor: Int32

    init(_ path: String) throws(RemfsError) {
        self.path = path
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard descriptor >= 0, path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw RemfsError(.unavailable, "no socket can be made at \(path)")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let code = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard code == 0 else { throw RemfsError.ofSystem("no socket can be made at \(path)") }
    }

    deinit { close(descriptor) }

    /// The next message; nil when none came in time. Blocks.
    func next(within seconds: Int) -> String? {
        var timeout = timeval(tv_sec: seconds, tv_usec: 0)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? String(decoding: buffer.prefix(count), as: UTF8.self) : nil
    }
}

extension String {
    fileprivate init(errno code: Int32) { self = unsafe String(cString: strerror(code)) }
}
