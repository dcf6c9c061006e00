import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// `remfs session run`: commands in sandboxes, with real stores.
extension ServeTests {
    static let hasSandbox =
        hasFuse && ["/usr/bin/bwrap", "/usr/bin/python3", "/usr/bin/setpriv"].allSatisfy { (path: String) in access(path, X_OK) == 0 }

    @Suite(.serialized, .enabled(if: ServeTests.hasSandbox, "needs /dev/fuse, bubblewrap and python3")) struct SandboxTests {
        /// Starts `session run` with these stores and a script for bash.
        private static func start(_ daemon: DaemonProcess, _ stores: [String], _ script: String, _ options: [String] = []) throws
            -> Binary.Running
        {
            try Binary.start(
                ["session", "run"] + stores.flatMap { ["--store", $0] } + options + ["--", "bash", "-c", script],
                environment: daemon.environment)
        }

        private static func run(_ daemon: DaemonProcess, _ stores: [String], _ script: String, _ options: [String] = []) throws
            -> Binary.Result
        {
            try start(daemon, stores, script, options).wait()
        }

        /// A daemon whose directories a user who is not root can pass through.
        private static func with(_ body: (DaemonProcess) throws -> Void) throws {
            try DaemonProcess.with { daemon in
                try check(chmod(daemon.directory, 0o755))
                try body(daemon)
            }
        }

        private static func lastSession(_ daemon: DaemonProcess) throws -> String {
            let listed = try #require(try daemon.remfs("session", "list", "--archived", "--json").json()["data"] as? [[String: Any]])
            return try #require(listed.first?["id"] as? String)
        }

        private static func versions(_ daemon: DaemonProcess, _ store: String, _ path: String) throws -> [[String: Any]] {
            try #require(try daemon.remfs("log", store, path, "-n", "100000", "--json").json()["data"] as? [[String: Any]])
        }

        private static func author(_ version: [String: Any]) -> String {
            (version["created_by"] as? [String: Any])?["session_id"] as? String ?? ""
        }

        @Test func aCommandIsShownAndRecorded() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let result = try Self.run(
                    daemon, ["notes"], "id -u; grep CapEff /proc/self/status; echo kept > notes/a; echo \"it's\" >&2; pwd; exit 3")
                #expect(result.status == 3)
                #expect(result.output == "\(geteuid() == 0 ? 65_534 : geteuid())\nCapEff:\t0000000000000000\n/mnt/memory\n")
                #expect(result.errors.hasPrefix("it's\n"))
                let id = try Self.lastSession(daemon)
                let events = try #require(try daemon.remfs("session", "events", id, "--json").json()["data"] as? [[String: Any]])
                #expect(events.map { $0["type"] as? String } == ["user.message", "agent.tool_use", "agent.tool_result"])
                func text(_ event: [String: Any]) -> String {
                    ((event["content"] as? [[String: Any]])?.first?["text"] as? String) ?? ""
                }
                #expect(text(events[0]).hasPrefix("bash -c 'id -u;") && text(events[0]).contains("\"it'\\''s\""))
                #expect(((events[1]["input"] as? [String: Any])?["command"] as? [String])?.first == "bash")
                #expect(events[2]["tool_use_id"] as? String == events[1]["id"] as? String && events[2]["is_error"] as? Bool == true)
                #expect(text(events[2]).hasPrefix("exit code: 3\n") && text(events[2]).contains("it's\n"))
                // It is over, and what it wrote is its own.
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(Self.author(try Self.versions(daemon, "notes", "/a")[0]) == id)
            }
        }

        @Test func longOutputIsShownWholeAndKeptInPart() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let result = try Self.run(daemon, ["notes"], "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377'; kill -9 $$")
                #expect(result.status == 128 + SIGKILL)
                #expect(result.output.utf8.count == 3_000_003)
                let id = try Self.lastSession(daemon)
                let events = try #require(try daemon.remfs("session", "events", id, "--json").json()["data"] as? [[String: Any]])
                let text = try #require((events.last?["content"] as? [[String: Any]])?.first?["text"] as? String)
                #expect(text.hasPrefix("exit code: 137\nxxx") && text.hasSuffix("x\n[1951425 bytes left out]"))
                #expect(text.utf8.count < (1 << 20) + 100)
            }
        }

        /// The thread that starts a sandbox is the one that it ends with, and idle threads of a pool end after five seconds.
        @Test func aCommandMayTakeItsTime() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let result = try Self.run(daemon, ["notes"], "sleep 8; echo late")
                #expect(result.status == 0 && result.output == "late\n", "\(result.status) \(result.errors)")
            }
        }

        @Test func whatCannotBeRunEndsItsSession() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let result = try daemon.remfs("session", "run", "--store", "notes", "--", "/no/such/program")
                #expect(result.status == 1 && result.errors.contains("/no/such/program"), "\(result.status) \(result.errors)")
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(try daemon.remfs("session", "run", "--store", "none", "--", "true").status == 66)
                #expect(try daemon.remfs("session", "run", "--store", "notes").status == 64)
            }
        }

        /// The workshop: what one agent learns another one knows, and whoever may only read cannot write.
        @Test func whatOneAgentLearnsAnotherKnows() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("store", "create", "other")
                // Without a store in common nothing is shared.
                try #require(try Self.run(daemon, ["other"], "echo 'deploy on friday' > other/a.md").status == 0)
                let alone = try Self.run(daemon, ["notes"], "grep -r deploy . || echo nothing")
                #expect(alone.output == "nothing\n")
                let writer = try Self.run(daemon, ["notes"], "mkdir notes/how && echo 'Deploy: make ship' > notes/how/deploy.md")
                #expect(writer.status == 0, "\(writer.errors)")
                let first = try Self.lastSession(daemon)
                let reader = try Self.run(daemon, ["notes:ro"], "grep -rh Deploy . && echo mine > notes/x")
                #expect(reader.output == "Deploy: make ship\n" && reader.errors.contains("Read-only file system"))
                #expect(try daemon.output("log", "notes").contains(first))
                // A person corrects it by hand, and the next agent sees that.
                let editor = "\(daemon.directory)/editor"
                try Data("#!/bin/sh\nsed -i 's/make ship/make release/' \"$1\"\n".utf8).write(to: URL(fileURLWithPath: editor))
                try check(chmod(editor, 0o755))
                #expect(try daemon.remfs("memory", "edit", "notes", "/how/deploy.md", environment: ["EDITOR": editor]).status == 0)
                #expect(try Self.run(daemon, ["notes"], "cat notes/how/deploy.md").output == "Deploy: make release\n")
            }
        }

        /// In a terminal the editor has to be in the foreground, or it is stopped as soon as it reads.
        @Test(.enabled(if: access("/usr/bin/script", X_OK) == 0, "needs script")) func anEditorHasTheTerminal() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/a", input: "before\n")
                let editor = "\(daemon.directory)/editor"
                try Data("#!/bin/sh\nhead -1 > \"$1\"\n".utf8).write(to: URL(fileURLWithPath: editor))
                try check(chmod(editor, 0o755))
                let typed = try Binary.run(
                    [], environment: daemon.environment.merging(["EDITOR": editor, "SHELL": "/bin/sh"]) { $1 },
                    launcher: [
                        "/bin/sh", "-c",
                        "(sleep 1; echo typed; sleep 1) | timeout 20 script -qec '\(Binary.path) memory edit notes /a' /dev/null",
                    ])
                #expect(typed.status == 0, "\(typed.output) \(typed.errors)")
                #expect(try daemon.output("memory", "cat", "notes", "/a") == "typed\n")
            }
        }

        /// Of what one agent overwrites without having seen it nothing is lost, and all of it is listed.
        @Test func fourAgentsAtOnceLoseNothing() throws {
            let rounds = ProcessInfo.processInfo.environment["REMFS_TEST_SAVES"].flatMap { Int($0) } ?? 60
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/state", input: "a 0\nb 0\nc 0\nd 0\n")
                // There before: who makes a file that another writes to first has made an empty version of it, and then writes a second.
                try daemon.output("memory", "write", "notes", "/log", input: "")
                let running = try ["a", "b", "c", "d"].map { name in
                    try Self.start(
                        daemon, ["notes"],
                        """
                        cd notes
                        for i in $(seq \(rounds)); do
                            echo "\(name) $i" >> log || exit 1
                            sed -i "s/^\(name) .*/\(name) $i/" state || exit 2
                        done
                        """)
                }
                for one in running {
                    let result = try one.wait()
                    #expect(result.status == 0, "\(result.errors)")
                }
                let lines = try daemon.output("memory", "cat", "notes", "/log").split(separator: "\n").map(String.init)
                #expect(Set(lines) == Set(["a", "b", "c", "d"].flatMap { name in (1...rounds).map { "\(name) \($0)" } }))
                #expect(lines.count == 4 * rounds)
                for path in ["/log", "/state"] {
                    let versions = try Self.versions(daemon, "notes", path).filter { !Self.author($0).isEmpty }
                    let counts = Dictionary(grouping: versions, by: Self.author).mapValues(\.count)
                    #expect(counts.count == 4 && counts.values.allSatisfy { $0 == rounds }, "\(path): \(counts)")
                }
                try Self.checkLosers(daemon)
            }
        }

        /// A version that does not have what the one before it had written was made by somebody who had not seen that.
        private static func checkLosers(_ daemon: DaemonProcess) throws {
            let store = try #require(try daemon.remfs("store", "show", "notes", "--json").json()["id"] as? String)
            let log = try versions(daemon, "notes", "/state").reversed()
            let stale = Set(
                try #require(try daemon.remfs("log", "notes", "--stale", "-n", "100000", "--json").json()["data"] as? [[String: Any]])
                    .compactMap { $0["id"] as? String })
            var before: [String: Int]?
            var lost = 0
            for version in log {
                let id = try #require(version["id"] as? String)
                let full = try daemon.http("GET", "/v1/memory_stores/\(store)/memory_versions/\(id)?view=full").json()
                let content = try #require(full["content"] as? String)
                var values: [String: Int] = [:]
                for line in content.split(separator: "\n") {
                    let words = line.split(separator: " ")
                    values[String(words[0])] = Int(words[1])
                }
                #expect(values.count == 4, "\(content)")
                if let before, before.contains(where: { (values[$0.key] ?? 0) < $0.value }) {
                    lost += 1
                    #expect(stale.contains(id), "\(id) took something away and does not say so")
                }
                before = values
            }
            print("four sandboxes: \(log.count) saves of one file, \(lost) over something unseen, \(stale.count) marked stale")
        }

        @Test func nothingLeadsOutOfASandbox() throws {
            try Self.with { daemon in
                for name in ["one", "two", "secret"] { try daemon.output("store", "create", name) }
                try daemon.output("memory", "write", "secret", "/key", input: "of another session")
                let other = try daemon.output("session", "create", "--store", "secret").trimmingCharacters(in: .newlines)
                let otherPath = try daemon.output("session", "path", other).trimmingCharacters(in: .newlines)
                // What root has put into a store.
                let direct = "\(daemon.directory)/direct"
                try check(mkdir(direct, 0o755))
                try daemon.output("mount", "one", direct)
                try check(mknod("\(direct)/zero", mode_t(S_IFCHR) | 0o666, UInt(1 << 8 | 5)))
                try FileManager.default.copyItem(atPath: "/usr/bin/id", toPath: "\(direct)/id")
                try check(chmod("\(direct)/id", 0o4755))
                try check(symlink("/etc/shadow", "\(direct)/shadow"))
                try check(symlink(otherPath, "\(direct)/others"))
                let host = "\(daemon.directory)/host"
                try check(mkdir(host, 0o777))
                try check(chmod(host, 0o777))
                try Data("untouched".utf8).write(to: URL(fileURLWithPath: "\(host)/file"))
                try check(chmod("\(host)/file", 0o666))
                func digest() throws -> String {
                    try Binary.run(
                        [], environment: ["PATH": "/usr/bin:/bin"],
                        launcher: ["/bin/sh", "-c", "cd \(host) && find . -printf '%p %m %s %T@\\n' -type f -exec sha256sum {} + | sort"]
                    ).output
                }
                let before = try digest()
                let port = try Port.free()
                let script = """
                    import ctypes, errno, os, socket
                    libc = ctypes.CDLL(None, use_errno=True)
                    def tried(name, body):
                        try: result = body()
                        except OSError as error: result = errno.errorcode[error.errno]
                        print(name, result)
                    def called(result):
                        if result != 0: raise OSError(ctypes.get_errno(), '')
                        return 'done'
                    os.chdir('/mnt/memory/one')
                    tried('link', lambda: open('shadow').read())
                    os.symlink('\(host)/file', 'away')
                    tried('own link', lambda: open('away', 'w').write('x'))
                    tried('dots', lambda: open('../../../..\(host)/file', 'w').write('x'))
                    tried('hard link', lambda: os.link('zero', '/mnt/memory/two/zero'))
                    tried('hard link out', lambda: os.link('/etc/passwd', 'passwd'))
                    tried('root of 1', lambda: open('/proc/1/root\(host)/file', 'w').write('x'))
                    tried('roots', lambda: [p for p in os.listdir('/proc') if p.isdigit() and os.path.exists('/proc/' + p + '/root\(host)')])
                    tried('device', lambda: open('zero', 'rb').read(1))
                    tried('own device', lambda: os.mknod('sda', 0o20666, os.makedev(1, 5)))
                    tried('setuid', lambda: os.execv('./id', ['id']))
                    tried('mount', lambda: called(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)))
                    tried('bind', lambda: called(libc.mount(b'/', b'/tmp', None, 4096, None)))
                    tried('fuse', lambda: os.open('/dev/fuse', os.O_RDWR))
                    tried('unmount', lambda: called(libc.umount2(b'/mnt/memory/one', 2)))
                    tried('session', lambda: os.listdir('others'))
                    tried('sessions', lambda: os.listdir('\(otherPath)/secret'))
                    tried('state', lambda: os.listdir('\(daemon.state)'))
                    tried('socket', lambda: socket.socket(socket.AF_UNIX).connect('\(daemon.socket)'))
                    tried('network', lambda: socket.create_connection(('127.0.0.1', \(port)), 1))
                    tried('usr', lambda: open('/usr/bin/own', 'w'))
                    tried('chroot', lambda: os.chroot('/proc/1/root'))
                    """
                let result = try daemon.remfs(
                    "session", "run", "--store", "one", "--store", "two", "--", "python3", "-c", script)
                #expect(result.status == 0, "\(result.errors)")
                let answers = Dictionary(
                    uniqueKeysWithValues: result.output.split(separator: "\n").map { line in
                        let end = line.lastIndex(of: " ")!
                        return (String(line[..<end]), String(line[line.index(after: end)...]))
                    })
                let expected: [String: Set<String>] = [
                    "link": ["EACCES"], "own link": ["ENOENT"], "dots": ["ENOENT"], "hard link": ["EXDEV"], "hard link out": ["EXDEV"],
                    "root of 1": ["ENOENT", "EACCES"], "roots": ["[]"], "device": ["EACCES"], "own device": ["EPERM"], "setuid": ["EACCES"],
                    "mount": ["EPERM"], "bind": ["EPERM"], "fuse": ["ENOENT"], "unmount": ["EPERM"], "session": ["ENOENT"],
                    "sessions": ["ENOENT"], "state": ["ENOENT"], "socket": ["ENOENT"], "network": ["ECONNREFUSED", "ENETUNREACH"],
                    "usr": ["EROFS", "EACCES"], "chroot": ["EPERM", "EACCES"],
                ]
                for (name, allowed) in expected {
                    #expect(allowed.contains(answers[name] ?? "nothing"), "\(name): \(answers[name] ?? "nothing")")
                }
                #expect(answers.count == expected.count, "\(result.output)")
                #expect(try digest() == before)
                // Where programs may run, a setuid one has no more rights than who runs it.
                let executed = try daemon.remfs("session", "run", "--store", "one", "--exec", "--", "./one/id", "-u")
                #expect(executed.output == "\(geteuid() == 0 ? 65_534 : geteuid())\n", "\(executed.errors)")
                #expect(try daemon.output("memory", "cat", "secret", "/key") == "of another session")
            }
        }

        @Test func whatWasAskedForIsThere() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let (own, shown) = ("\(daemon.directory)/own", "\(daemon.directory)/shown")
                for path in [own, shown] {
                    try check(mkdir(path, 0o777))
                    try check(chmod(path, 0o777))
                }
                let result = try Self.run(
                    daemon, ["notes"],
                    "pwd; echo a > b && cat b; echo x > \(shown)/y; echo x > /mnt/memory/y; echo $HOME $REMFS_SESSION $REMFS_STATE_DIR; touch $HOME/f",
                    ["--bind", own, "--ro-bind", shown, "--chdir", own])
                let id = try Self.lastSession(daemon)
                #expect(result.output == "\(own)\na\n/home/agent \(id)\n", "\(result.errors)")
                #expect(result.errors.components(separatedBy: "Read-only file system").count == 3, "\(result.errors)")
                #expect(Files.text("\(own)/b") == "a\n")
            }
        }
    }
}
