import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// Keys and TCP, with the built binary.
extension ServeTests {
    @Suite(.serialized) struct KeyTests {
        private static func listening(_ body: (DaemonProcess, UInt16) throws -> Void) throws {
            try DaemonProcess.prepared { daemon in
                let port = try Port.free()
                try daemon.start(["--listen", "127.0.0.1:\(port)"])
                try body(daemon, port)
            }
        }

        private static func keyFile(_ daemon: DaemonProcess, _ arguments: [String], mode: mode_t = 0o600) throws -> String {
            let made = try Binary.run(["key", "create", "test"] + arguments, environment: daemon.environment)
            try #require(made.status == 0, "\(made.errors)")
            let path = "\(daemon.directory)/key-\(UInt32.random(in: 0 ... .max))"
            try Data(made.output.utf8).write(to: URL(fileURLWithPath: path))
            try check(chmod(path, mode))
            return path
        }

        @Test func everyCommandWorksOverTCP() throws {
            try Self.listening { daemon, port in
                let file = try Self.keyFile(daemon, ["--admin"])
                let remote = ["--url", "http://127.0.0.1:\(port)", "--key-file", file]
                func run(_ arguments: String..., input: String = "") throws -> String {
                    let result = try Binary.run(arguments + remote, environment: daemon.environment, input: input)
                    try #require(result.status == 0, "\(arguments): \(result.errors)")
                    #expect(result.errors.isEmpty || arguments[0] == "key", "\(arguments): \(result.errors)")
                    return result.output
                }
                let store = try run("store", "create", "notes").trimmingCharacters(in: .newlines)
                _ = try run("memory", "write", "notes", "/a", input: "one\n")
                _ = try run("memory", "write", "notes", "/a", input: "two\n")
                #expect(try run("memory", "cat", "notes", "/a") == "two\n")
                #expect(try run("memory", "ls", "notes").contains("/a"))
                #expect(try run("log", "notes", "/a").contains("modified"))
                #expect(try run("diff", "notes", "/a").contains("-one"))
                #expect(try run("store", "list").contains(store))
                #expect(try run("store", "show", "notes").contains("notes"))
                _ = try run("store", "set", "notes", "--max-memories", "20")
                _ = try run("store", "backup", "notes", "\(daemon.directory)/backup.sqlite")
                _ = try run("memory", "mv", "notes", "/a", "/b")
                _ = try run("memory", "rm", "notes", "/b")
                #expect(try run("status").contains("1 stores"))
                #expect(try run("doctor").contains("sound"))
                #expect(try run("key", "list").contains("test"))
                #expect(try run("key", "create", "more", "--read", "--store", "notes").hasPrefix("remfs_"))
                _ = try run("store", "archive", "notes")
                // A mount is a process's of this machine.
                let mount = try Binary.run(["mount", "notes", daemon.directory] + remote, environment: daemon.environment)
                #expect(mount.status == 77 && mount.errors.contains("the daemon's own socket"), "\(mount.errors)")
                // By the environment, in which a flag that names a socket wins.
                let variables = [
                    "REMFS_URL": "http://127.0.0.1:\(port)/", "REMFS_API_KEY": try String(contentsOfFile: file, encoding: .utf8),
                ]
                #expect(try daemon.remfs("store", "list", "--archived", environment: variables).output.contains(store))
                let elsewhere = ["REMFS_URL": "http://127.0.0.1:1"]
                #expect(try daemon.remfs("store", "list", environment: elsewhere).status == 69)
                #expect(try daemon.remfs("store", "list", "--socket", daemon.socket, environment: elsewhere).status == 0)
            }
        }

        @Test func aKeyOpensWhatItsScopesSay() throws {
            try Self.listening { daemon, port in
                try daemon.output("store", "create", "mine")
                try daemon.output("store", "create", "other")
                try daemon.output("memory", "write", "mine", "/a", input: "text")
                let file = try Self.keyFile(daemon, ["--read", "--store", "mine"])
                for way in [["--url", "http://127.0.0.1:\(port)"], []] {
                    func run(_ arguments: String...) throws -> Binary.Result {
                        try Binary.run(arguments + way + ["--key-file", file], environment: daemon.environment)
                    }
                    #expect(try run("memory", "cat", "mine", "/a").output == "text")
                    #expect(try run("memory", "cat", "other", "/a").status == 66, "it does not see the other's name")
                    #expect(try run("memory", "rm", "mine", "/a").status == 77)
                    #expect(try run("key", "list").status == 77)
                    #expect(try !run("store", "list").output.contains("other"))
                }
                let without = try daemon.remfs("status", "--url", "http://127.0.0.1:\(port)")
                #expect(without.status == 77 && without.errors.hasPrefix("remfs: unauthenticated: a key is required"))

                let id = try #require(try daemon.output("key", "list").split(separator: "\n").last?.split(separator: " ").first)
                try daemon.output("key", "revoke", String(id))
                for way in [["--url", "http://127.0.0.1:\(port)"], []] {
                    let result = try Binary.run(["status", "--key-file", file] + way, environment: daemon.environment)
                    #expect(result.status == 77 && result.errors.contains("is revoked"))
                }
            }
        }

        @Test func aKeyIsInNoLogAndNoArgument() throws {
            try DaemonProcess.prepared { daemon in
                let port = try Port.free()
                try daemon.start(["--listen", "127.0.0.1:\(port)", "--log-level", "trace"])
                let made = try daemon.remfs("key", "create", "ci", "--admin")
                let secret = made.output.trimmingCharacters(in: .newlines)
                #expect(!made.errors.contains(secret) && made.errors.contains("is not shown again"))
                let open = "\(daemon.directory)/open.key"
                try Data(secret.utf8).write(to: URL(fileURLWithPath: open))
                try check(chmod(open, 0o644))
                let remote = ["--url", "http://127.0.0.1:\(port)", "--key-file", open]
                let warned = try Binary.run(["status"] + remote, environment: daemon.environment)
                #expect(warned.status == 0)
                #expect(warned.errors.contains("open to others") && !warned.errors.contains(secret))
                // One that waits, while ps is asked.
                try daemon.output("store", "create", "notes")
                let waiting = try Binary.start(["log", "notes", "--follow"] + remote, environment: daemon.environment)
                defer { waiting.signal(SIGTERM) }
                usleep(300_000)
                for process in [waiting.pid] {
                    #expect(Files.text("/proc/\(process)/cmdline")?.contains(secret) == false)
                }
                _ = try daemon.remfs("store", "show", "nothing", "--url", "http://127.0.0.1:\(port)", "--key-file", open)
                try daemon.output("key", "list")
                let log = try daemon.stop()
                #expect(!log.errors.contains(secret) && !log.errors.contains(secret.dropFirst(6)))
                for text in ["", "a b", String(repeating: "x", count: 600)] {
                    try Data(text.utf8).write(to: URL(fileURLWithPath: open))
                    let refused = try Binary.run(["status"] + remote, environment: daemon.environment)
                    #expect(refused.status == 65 && refused.errors.contains("does not hold one key"))
                }
            }
        }

        @Test func listensToOthersOnlyWhenToldTwice() throws {
            try DaemonProcess.prepared { daemon in
                let port = try Port.free()
                let once = try daemon.remfs("serve", "--listen", "0.0.0.0:\(port)")
                #expect(once.status == 65 && once.errors.contains("listen_hosts"))
                #expect(try daemon.remfs("serve", "--listen", "\(port)").status == 65)
                #expect(try daemon.remfs("serve", "--listen", "example.org:\(port)").status == 65)
                try Data("listen: 0.0.0.0:\(port)\nlisten_hosts: memory.example, 10.1.2.3\n".utf8)
                    .write(to: URL(fileURLWithPath: "\(daemon.directory)/remfs.yaml"))
                try daemon.start(["--config", "\(daemon.directory)/remfs.yaml"])
                #expect(try Port.http(port, "GET", "/v1/status", host: "memory.example:\(port)").status == 401)
                #expect(try Port.http(port, "GET", "/v1/status", host: "10.1.2.3").status == 401)
                #expect(try Port.http(port, "GET", "/v1/status", host: "evil.example").status == 403)
                // A port that somebody has is no port for a second one, and nothing is left of that.
                let second = try daemon.remfs(
                    "serve", "--listen", "127.0.0.1:\(port)", "--state-dir", "\(daemon.directory)/other", "--runtime-dir",
                    "\(daemon.directory)/other-run")
                #expect(second.status == 75 && second.errors.contains("is in use by another process"), "\(second.errors)")
                #expect(access("\(daemon.directory)/other-run/control.sock", F_OK) != 0)
            }
        }

        /// A group may be granted some stores, and less than everything on these; a key narrows that further.
        @Test(.enabled(if: geteuid() == 0, "needs root, to be somebody else")) func aGroupMayUseWhatItWasGranted() throws {
            try DaemonProcess.prepared { daemon in
                try check(chmod(daemon.directory, 0o755))
                try daemon.start()
                let mine = try daemon.output("store", "create", "mine").trimmingCharacters(in: .newlines)
                let other = try daemon.output("store", "create", "other").trimmingCharacters(in: .newlines)
                let reader = try daemon.output("key", "create", "r", "--read").trimmingCharacters(in: .newlines)
                #expect(try daemon.stop().status == 0)
                try daemon.start(
                    ["--socket-group", "65533", "--socket-group-stores", mine, "--socket-group-permission", "write"])
                try check(chmod("\(daemon.directory)/run", 0o755))
                func status(_ method: String, _ path: String, _ key: String? = nil) throws -> String {
                    let headers = key.map { ["-H", "x-api-key: \($0)"] } ?? []
                    return try Binary.run(
                        ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "--unix-socket", daemon.socket] + headers
                            + ["-d", "{}", "http://localhost\(path)"],
                        environment: ["PATH": "/usr/bin:/bin"],
                        launcher: ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", "curl"]
                    ).output
                }
                #expect(try status("GET", "/v1/memory_stores/\(mine)") == "200")
                #expect(try status("GET", "/v1/memory_stores/\(other)") == "403")
                #expect(try status("POST", "/v1/memory_stores/\(mine)/memories") == "400", "let in, and then not understood")
                #expect(try status("POST", "/v1/memory_stores/\(mine)/memories", reader) == "403")
                #expect(try status("GET", "/v1/memory_stores/\(other)", reader) == "403", "a key gives nobody more")
                #expect(try status("POST", "/v1/memory_stores/\(mine)/policy") == "403")
                #expect(try status("POST", "/v1/memory_stores") == "403")
                #expect(try status("GET", "/v1/keys") == "403")
                #expect(try daemon.stop().status == 0)
                #expect(try daemon.remfs("serve", "--socket-group-stores", "mine").status == 65)
                #expect(try daemon.remfs("serve", "--socket-group-permission", "root").status == 65)
            }
        }

        /// Whoever goes on with the mounts goes on with the port as well.
        @Test(arguments: [SIGKILL, SIGHUP]) func thePortSurvivesTheDaemon(_ signal: Int32) throws {
            try Self.listening { daemon, port in
                let file = try Self.keyFile(daemon, ["--read"])
                let key = try String(contentsOfFile: file, encoding: .utf8).trimmingCharacters(in: .newlines)
                // Left open on purpose: what a dead daemon leaves must not keep the port.
                let open = try (0..<5).map { _ in try Port.connect(port) }
                defer { for connection in open { close(connection) } }
                for connection in open { try UnixSocket.write(connection, "GET /v1/status HTTP/1.1\r\n") }
                for _ in 0..<3 {
                    let process = try daemon.servingProcess()
                    try check(kill(process, signal))
                    #expect(daemon.notification() == "READY=1")
                    let deadline = ContinuousClock.now + .seconds(10 * Sanitizer.slowdown)
                    var status = 0
                    while status != 200, ContinuousClock.now < deadline {
                        do { status = try Port.http(port, "GET", "/v1/status", key: key).status } catch is UnixSocket.Failure {
                            usleep(2_000)
                        }
                    }
                    #expect(status == 200)
                    #expect(try daemon.servingProcess() != process)
                }
                #expect(try daemon.stop().status == 0)
                #expect(throws: UnixSocket.Failure.self) { try Port.connect(port) }
            }
        }
    }
}
