import Foundation
import Glibc
import TestSupport
import Testing

/// remfs as a service: what a service manager keeps outlives all of its processes.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .timeLimit(.minutes(3))) struct ServiceTests {
        /// A mount, and somebody who appends lines to a file in it until told to stop.
        private static func working(_ manager: Manager, _ body: (_ directory: String) throws -> Void) throws {
            try manager.command("start")
            try manager.output("store", "create", "notes")
            let directory = "\(manager.directory)/mnt"
            try check(mkdir(directory, 0o755))
            try manager.output("mount", "notes", directory)
            let file = try check(open(directory + "/open", O_RDWR | O_CREAT | O_CLOEXEC, 0o644))
            defer { close(file) }
            try Files.write(Array("still ".utf8), to: file)
            let script = """
                n=0; while [ ! -e ../stop ]; do echo $n >> log || exit 1; [ -s log ] || exit 2; n=$((n + 1)); done; echo $n
                """
            let writer = try Program.start(["bash", "-c", script], in: directory, scratch: manager.directory)
            while access(directory + "/log", F_OK) != 0, writer.isRunning { usleep(1_000) }
            try body(directory)
            try Files.write(Array("here".utf8), to: file)
            #expect(try String(contentsOfFile: directory + "/open", encoding: .utf8) == "still here")
            let before = try String(contentsOfFile: directory + "/log", encoding: .utf8).count
            while try String(contentsOfFile: directory + "/log", encoding: .utf8).count == before, writer.isRunning { usleep(1_000) }
            try Data().write(to: URL(fileURLWithPath: manager.directory + "/stop"))
            let count = try #require(Int(try writer.success().trimmingCharacters(in: .newlines)))
            let lines = try String(contentsOfFile: directory + "/log", encoding: .utf8).split(separator: "\n").compactMap { Int($0) }
            #expect(count > 0 && lines == Array(0..<count))
        }

        @Test func whatTheManagerKeepsOutlivesBothProcesses() throws {
            try Manager.with { manager in
                try Self.working(manager) { directory in
                    let names = try manager.command("names")
                    #expect(names.count == 4 && names.contains("listener") && names.contains("inbox"))
                    for _ in 1...4 {
                        usleep(100_000)
                        try manager.command("kill")
                        // Nobody is there, and whoever connects waits.
                        try manager.command("start")
                        #expect(try manager.command("names") == names, "what came back is not stored twice")
                    }
                    #expect(DaemonProcess.mounts(below: manager.directory) == [directory])
                }
                // A mount that ends is not kept.
                try manager.output("unmount", "\(manager.directory)/mnt")
                #expect(try manager.command("names") == ["inbox", "listener"])
            }
        }

        /// As `systemctl restart` does it in our unit: everything is handed over, nothing is killed.
        @Test func aRestartKeepsTheMounts() throws {
            try Manager.with { manager in
                try Self.working(manager) { directory in
                    try manager.output("memory", "write", "notes", "/seen", input: "one")
                    #expect(try String(contentsOfFile: directory + "/seen", encoding: .utf8) == "one")
                    try manager.output("memory", "write", "notes", "/seen", input: "two")
                    for _ in 1...3 {
                        usleep(100_000)
                        #expect(try manager.command("signal \(SIGHUP)") == ["129"])
                        try manager.command("start")
                    }
                    // Handed over, and not only survived: what the mount had seen is known.
                    try Program.start(["sh", "-c", "echo mine > seen"], in: directory, scratch: manager.directory).success()
                    let versions = try #require(try manager.remfs("log", "notes", "/seen", "--json").json()["data"] as? [[String: Any]])
                    #expect(versions.map { $0["stale"] as? Bool }.first == true)
                }
            }
        }

        @Test func aStopEmptiesTheStore() throws {
            try Manager.with { manager in
                try Self.working(manager) { _ in }
                #expect(try manager.command("signal \(SIGTERM)") == ["0"])
                #expect(try manager.command("names") == [])
                #expect(DaemonProcess.mounts(below: manager.directory).isEmpty)
                #expect(access(manager.socket, F_OK) != 0)
            }
        }

        @Test func whatNobodyKeptIsClearedAndSaidSo() throws {
            try Manager.with { manager in
                try manager.command("start")
                try manager.output("store", "create", "notes")
                let directory = "\(manager.directory)/mnt"
                try check(mkdir(directory, 0o755))
                try manager.output("mount", "notes", directory)
                try Data("kept".utf8).write(to: URL(fileURLWithPath: directory + "/a"))
                try manager.command("kill")
                try manager.command("forget")
                #expect(open(directory + "/a", O_RDONLY) == -1 && errno == ENOTCONN)
                try manager.command("start")
                #expect(DaemonProcess.mounts(below: manager.directory).isEmpty)
                #expect(manager.errors.contains("dead mount of an earlier run cleared"))
                try manager.output("mount", "notes", directory)
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "kept")
            }
        }

        /// Half of something, and something of somebody else's, is let go of and said so.
        @Test func whatIsStrangeIsPutBack() throws {
            try Manager.with { manager in
                try manager.command("add device-half")
                try manager.command("add what-is-this")
                try manager.command("start")
                #expect(try manager.command("names") == ["inbox", "listener"])
                #expect(manager.errors.contains("device-half") && manager.errors.contains("what-is-this"))
            }
        }

        /// Where the store has no room for all, nothing is left to it: the holder goes on.
        @Test func aStoreThatIsTooSmallIsSaidAndNotUsed() throws {
            try Manager.with(room: 2) { manager in
                try Self.working(manager) { _ in
                    #expect(manager.errors.contains("raise FileDescriptorStoreMax"))
                    try manager.command("hang-up")
                }
                #expect(try manager.command("signal \(SIGTERM)") == ["0"])
            }
        }

        @Test func aGivenSocketIsServedAndLeft() throws {
            try Manager.with { manager in
                try check(mkdir("\(manager.directory)/run", 0o711))
                try manager.command("listen \(manager.socket)")
                let first = try UnixSocket.connect(manager.socket)
                try UnixSocket.write(first, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                try manager.command("start")
                #expect(try DaemonProcess.parse(try UnixSocket.readToEnd(first)).status == 200)
                close(first)
                #expect(try manager.command("names") == ["inbox"])
                #expect(try manager.command("signal \(SIGTERM)") == ["0"])
                // Who connects now waits for the next start.
                let waiting = try UnixSocket.connect(manager.socket)
                defer { close(waiting) }
                try UnixSocket.write(waiting, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                try manager.command("start")
                #expect(try DaemonProcess.parse(try UnixSocket.readToEnd(waiting)).status == 200)
            }
        }

        /// Both processes become the program that is installed, the first one without another number.
        @Test(arguments: [(SIGHUP, false), (SIGUSR1, false), (SIGUSR1, true)])
        func bothProcessesAreRenewed(_ signal: Int32, _ hasStore: Bool) throws {
            try Manager.with(room: hasStore ? 100 : 0) { manager in
                let installed = "\(manager.directory)/remfs"
                func install() throws {
                    try FileManager.default.copyItem(atPath: Binary.path, toPath: installed + ".new")
                    try check(rename(installed + ".new", installed))
                }
                try install()
                try manager.command("program \(installed)")
                try Self.working(manager) { _ in
                    let holder = try #require(pid_t(try manager.command("pid")[0]))
                    for _ in 1...2 {
                        let daemon = try #require(try manager.remfs("status", "--json").json()["pid"] as? Int)
                        try install()
                        func program(_ process: Int) throws -> String {
                            try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/exe")
                        }
                        #expect(try program(Int(holder)) == installed + " (deleted)")
                        try manager.command(signal == SIGHUP ? "hang-up" : "renew")
                        let next = try #require(try manager.remfs("status", "--json").json()["pid"] as? Int)
                        #expect(next != daemon)
                        #expect(try program(Int(holder)) == installed && program(next) == installed)
                        // The one that serves, and one that waits.
                        let children = try DaemonProcess.children(of: holder)
                        #expect(children.contains(pid_t(next)) && children.count <= 2)
                    }
                }
                #expect(try manager.command("signal \(SIGTERM)") == ["0"])
                #expect(DaemonProcess.mounts(below: manager.directory).isEmpty)
            }
        }

        /// A program that cannot be started replaces nothing.
        @Test func aBrokenProgramIsNotTakenOver() throws {
            try Manager.with(room: 0) { manager in
                let installed = "\(manager.directory)/remfs"
                try FileManager.default.copyItem(atPath: Binary.path, toPath: installed)
                try manager.command("program \(installed)")
                try Self.working(manager) { _ in
                    try check(rename(installed, installed + ".old"))
                    try check(kill(try #require(pid_t(try manager.command("pid")[0])), SIGUSR1))
                    while !manager.errors.contains("the holder remains the old program") { usleep(1_000) }
                    // It is put right before the holder has given up.
                    try check(rename(installed + ".old", installed))
                    try manager.command("ready")
                }
            }
        }
    }
}

/// A service manager as far as remfs sees one: sd_notify(3), the descriptor store, sd_listen_fds(3). It is a program of its own, since
/// descriptors have to be where a started program expects them.
private final class Manager {
    let directory: String
    private let program: Program
    private let commands: Int32
    private let environment: [String: String]
    private var answers = 0

    var socket: String { "\(directory)/run/control.sock" }
    /// What the service has logged.
    var errors: String { program.errors }

    static func with(room: Int = 100, _ body: (Manager) throws -> Void) throws {
        let manager = try Manager(room)
        defer { manager.clear() }
        try body(manager)
    }

    private init(_ room: Int) throws {
        directory = "/tmp/remfs-service-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        try Data(Self.script.utf8).write(to: URL(fileURLWithPath: directory + "/manager.py"))
        try check(mkfifo(directory + "/commands", 0o600))
        // Both ways, so that neither side waits for the other to open it.
        commands = try check(open(directory + "/commands", O_RDWR | O_CLOEXEC))
        environment = DaemonProcess.environment(directory)
        program = try Program.start(
            ["python3", "-u", directory + "/manager.py", Binary.path, directory, "\(room)"], in: "/", scratch: directory,
            input: directory + "/commands", environment: environment)
    }

    /// Has it do something; answers the words that it says when that is done.
    @discardableResult
    func command(_ text: String) throws -> [String] {
        try Files.write(Array((text + "\n").utf8), to: commands)
        answers += 1
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let lines = program.output.split(separator: "\n", omittingEmptySubsequences: false)
            // The last is what has not ended yet.
            if lines.count > answers {
                let words = lines[answers - 1].split(separator: " ").map(String.init)
                try #require(words.first == "ok", "\(text): \(lines[answers - 1]) \(program.errors)")
                return Array(words.dropFirst())
            }
            try #require(program.isRunning && ContinuousClock.now < deadline, "\(text): no answer: \(program.errors)")
            usleep(2_000)
        }
    }

    func remfs(_ arguments: String..., input: String = "") throws -> Binary.Result {
        try Binary.run(arguments, environment: environment, input: input)
    }

    @discardableResult
    func output(_ arguments: String..., input: String = "") throws -> String {
        let result = try Binary.run(arguments, environment: environment, input: input)
        try #require(result.status == 0, "remfs \(arguments.joined(separator: " ")): \(result.status) \(result.errors)")
        return result.output
    }

    private func clear() {
        // With all that it has started.
        program.signal(SIGKILL)
        do { _ = try program.wait() } catch { Issue.record("the manager cannot be ended: \(error)") }
        close(commands)
        for mount in DaemonProcess.mounts(below: directory).reversed() { umount2(mount, Int32(MNT_DETACH)) }
        precondition(DaemonProcess.mounts(below: directory).isEmpty, "\(directory) is still mounted")
        try! FileManager.default.removeItem(atPath: directory)
    }

    private static let script = """
        import array, fcntl, os, select, signal, socket, sys
        binary, directory, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(directory + "/notify")
        notify.settimeout(40)
        given, stored, process = [], [], 0

        def take():
            text, fds, _, _ = socket.recv_fds(notify, 4096, 8)
            lines = text.decode().split("\\n")
            names = [line[7:] for line in lines if line.startswith("FDNAME=")]
            if "FDSTOREREMOVE=1" in lines:
                for item in [item for item in stored if item[0] == names[0]]:
                    os.close(item[1])
                    stored.remove(item)
            elif "FDSTORE=1" in lines:
                assert "FDPOLL=0" in lines and len(fds) == 1
                if len(stored) < room: stored.append((names[0], fds[0]))
                else: os.close(fds[0])
            else:
                assert not fds
            return lines[0]

        def drain():
            notify.settimeout(0)
            try:
                while True: take()
            except BlockingIOError: pass
            notify.settimeout(40)

        def ready():
            while (said := take()) != "READY=1": assert said.startswith("FDSTORE"), said

        def start():
            global process
            # Ours: what was said before is of the last one.
            drain()
            process = os.fork()
            if process == 0:
                fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for _, fd in given + stored]
                os.closerange(3, 200)
                for place, fd in enumerate(fds):
                    os.dup2(fd, 3 + place, inheritable=True)
                    os.close(fd)
                environment = dict(os.environ, NOTIFY_SOCKET=directory + "/notify", LISTEN_PID=str(os.getpid()),
                    LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=":".join(name for name, _ in given + stored))
                if room: environment["FDSTORE"] = str(room)
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                os.execve(binary, ["remfs", "serve"], environment)
            ready()

        def children(parent):
            found = []
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, open(f"/proc/{parent}/task/{task}/children").read().split())
            return found

        def ended():
            global process
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            process = 0
            drain()
            return status

        for line in sys.stdin:
            words, answer = line.split(), ""
            try:
                if words[0] == "start": start()
                elif words[0] == "program": binary = words[1]
                elif words[0] == "pid": answer = process
                elif words[0] == "names":
                    drain()
                    answer = " ".join(sorted(name for name, _ in stored))
                elif words[0] == "add": stored.append((words[1], os.open("/dev/null", os.O_RDWR)))
                elif words[0] == "forget":
                    for _, fd in stored: os.close(fd)
                    stored.clear()
                elif words[0] == "listen":
                    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    listener.bind(words[1])
                    listener.listen()
                    given.append(("control", listener.fileno()))
                elif words[0] == "kill":
                    everybody = [process] + children(process)
                    for each in everybody: os.kill(each, signal.SIGSTOP)
                    watches = [os.pidfd_open(each) for each in everybody]
                    for each in everybody: os.kill(each, signal.SIGKILL)
                    ended()
                    # The others are nobody's children now; until they are gone too, who asks in a mount is told of an end, not of a dead mount.
                    for watch in watches:
                        select.select([watch], [], [])
                        os.close(watch)
                elif words[0] == "signal":
                    os.kill(process, int(words[1]))
                    answer = ended()
                elif words[0] in ("hang-up", "renew"):
                    drain()
                    os.kill(process, signal.SIGHUP if words[0] == "hang-up" else signal.SIGUSR1)
                    ready()
                elif words[0] == "ready": ready()
                else: raise ValueError(line)
                print("ok", answer)
            except Exception as error:
                print("failed", repr(error))
        """
}
