import Foundation
import Glibc
import TestSupport
import Testing

/// Every command that speaks to a daemon, over TCP with a key: it answers what it answers on the socket.
extension ServeTests {
    @Suite(.serialized) struct RemoteCommandTests {
        /// A daemon, and the way in which commands reach it.
        private final class Stage {
            let daemon: DaemonProcess
            let way: [String]
            private(set) var told: [(command: String, answer: String)] = []

            init(_ daemon: DaemonProcess, _ way: [String]) {
                self.daemon = daemon
                self.way = way
            }

            /// Runs a command and notes what it answers.
            @discardableResult
            func run(_ arguments: String..., input: String = "", environment: [String: String] = [:], ends status: Int32 = 0) throws
                -> String
            {
                let result = try Binary.run(
                    RemoteCommandTests.adding(way, to: arguments), environment: daemon.environment.merging(environment) { $1 }, input: input
                )
                #expect(result.status == status, "\(arguments): \(result.errors)")
                note(arguments, "\(result.status)\n\(result.output)\(result.errors)")
                return result.output
            }

            /// Runs one that goes on until it has said so many lines, and interrupts it.
            func watch(_ arguments: String..., lines: Int, whenSilent: () throws -> Void = {}) throws {
                let running = try Binary.start(arguments + way, environment: daemon.environment)
                let deadline = ContinuousClock.now + .seconds(30 * Sanitizer.slowdown)
                while running.output.split(separator: "\n").count < lines, ContinuousClock.now < deadline {
                    try whenSilent()
                    usleep(50_000)
                }
                running.signal(SIGINT)
                let result = try running.wait()
                #expect(result.status == 0, "\(arguments): \(result.errors)")
                note(arguments, result.output.split(separator: "\n").prefix(lines).joined(separator: "\n"))
            }

            func note(_ arguments: [String], _ answer: String) { told.append((arguments.joined(separator: " "), plain(answer))) }

            private var numbers: [String: Int] = [:]

            /// Without what no two daemons, and no two ways, have in common: IDs (numbered as they come), times, sizes of files, who asked.
            private func plain(_ text: String) -> String {
                var text = text.replacingOccurrences(of: daemon.directory, with: "<dir>")
                func replace(_ pattern: String, _ with: (String) -> String) {
                    while let range = text.range(of: pattern, options: .regularExpression) {
                        text.replaceSubrange(range, with: with(String(text[range])))
                    }
                }
                // Who: the key, or the process.
                replace(#" \(remfs, pid \d+, uid \d+\)"#) { _ in "" }
                replace(#""writer" ?: ?\{[^}]*\}"#) { _ in "<writer>" }
                replace(#"apikey_local"#) { _ in "<caller>" }
                if let key { replace(key) { _ in "<caller>" } }
                replace(#"\b(memstore|memver|mem|sesn|sthr|sevt|apikey|mnt)_[0-9a-zA-Z]{10,}"#) { id in
                    let number = numbers[id] ?? numbers.count
                    numbers[id] = number
                    return "<\(id.split(separator: "_")[0]) \(number)>"
                }
                replace(#"\bremfs_[0-9a-zA-Z_-]{20,}"#) { _ in "<secret>" }
                replace(#"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?"#) { _ in "<time>" }
                replace(#"("(pid|disk_size_bytes|file_bytes_before|file_bytes_after|size_in_bytes|duration_seconds)" ?: ?)[0-9.]+"#) {
                    String($0.prefix { $0 != ":" }) + " <number>"
                }
                replace(#"(file: |before, |on disk +|pid )\d+"#) { String($0.prefix { !$0.isNumber }) + "<number>" }
                // Tables are as wide as what stands in them.
                return text.replacingOccurrences(of: #" {2,}"#, with: " ", options: .regularExpression)
            }

            /// The ID of the key that there is from the start: over TCP it is who asks.
            var key: String?
        }

        /// All of them, as a user would come to use them. What needs a mount asks for it on the socket.
        private static func play(_ stage: Stage) throws {
            let directory = stage.daemon.directory
            func versions(_ path: String) throws -> [String] {
                let page = try stage.daemon.remfs("log", "notes", path, "--json").json()["data"] as? [[String: Any]] ?? []
                return page.compactMap { $0["id"] as? String }
            }
            func id(_ text: String) -> String { text.trimmingCharacters(in: .newlines) }

            for json in [["--json"], []] {
                // Both forms of what only reads; the first time there is nothing yet.
                for arguments in [["status"], ["store", "list"], ["session", "list"], ["key", "list"]] {
                    let result = try Binary.run(arguments + json + stage.way, environment: stage.daemon.environment)
                    stage.note(arguments + json, "\(result.status)\n\(result.output)\(result.errors)")
                }
            }
            try stage.run("store", "create", "notes", "--description", "for all", "--metadata", "team=docs")
            try stage.run("store", "set", "notes", "--retention-days", "30", "--max-memories", "50")
            try stage.run("memory", "write", "notes", "/plans/a.md", input: "one\ntwo\n")
            try stage.run("memory", "write", "notes", "/plans/a.md", "--json", input: "one\nzwei\n")
            try stage.run("memory", "edit", "notes", "/b.md", environment: ["EDITOR": "sh -c 'echo edited > \"$0\"'"])
            try stage.run("memory", "mv", "notes", "/b.md", "/plans/b.md")
            try stage.run("memory", "rm", "notes", "/plans/b.md")
            for json in [["--json"], []] {
                for arguments in [
                    ["status"], ["store", "list"], ["store", "show", "notes"], ["memory", "ls", "notes", "-r"],
                    ["memory", "cat", "notes", "/plans/a.md"], ["log", "notes"], ["log", "notes", "/plans/a.md"],
                    ["diff", "notes", "/plans/a.md"], ["search", "notes", "zwei"], ["doctor"], ["doctor", "notes"],
                    ["memory", "cat", "notes", "/nowhere"], ["store", "show", "nobody"],
                ] {
                    let result = try Binary.run(arguments + json + stage.way, environment: stage.daemon.environment)
                    stage.note(arguments + json, "\(result.status)\n\(result.output)\(result.errors)")
                }
            }
            let first = try #require(try versions("/plans/a.md").last)
            try stage.run("pin", "notes", first, "--json")
            try stage.run("unpin", "notes", first, "--json")
            try stage.run("restore", "notes", "--to", first, "--dry-run")
            try stage.run("restore", "notes", "--to", first, "--json")
            try stage.run("restore", "notes", try #require(try versions("/plans/a.md").first), "--json")
            try stage.run("store", "fork", "notes", "notes then", "--at", first)
            try stage.run("diff", "notes", "--with", "notes then", "--json")
            try stage.run("store", "backup", "notes", "\(directory)/backup.sqlite", "--json")
            try stage.run("export", "notes", "--output", "\(directory)/notes.tar", "--json")
            try stage.run("import", "\(directory)/notes.tar", "--name", "copy", "--json")
            try stage.run("import", "\(directory)/backup.sqlite", "--name", "whole")
            try stage.run("import", "-", "--into", "notes", "--prefix", "/in/", "--json", input: try archive(directory))
            try stage.run("memory", "cat", "copy", "/plans/a.md")
            try stage.run("memory", "write", "notes", "/plans/a.md", input: "clean\n")
            try stage.run("redact", "notes", try #require(try versions("/plans/a.md").last), "--json")
            try stage.run("store", "gc", "notes", "--dry-run")
            try stage.run("store", "gc", "notes", "--json")
            try stage.watch("store", "watch", "notes", "--after", "start", lines: 5)
            var count = 0
            // How often this writes depends on the machine, so nothing after it shows the versions of this store.
            try stage.watch("log", "copy", "/plans/a.md", "--follow", lines: 1) {
                count += 1
                try stage.daemon.output("memory", "write", "copy", "/plans/a.md", input: "\(count)\n")
            }

            // Mounts are of this machine: only its socket makes them. All else about them is the same.
            let mounts = ["one", "other"].map { "\(directory)/\($0)" }
            for mount in mounts {
                try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: false)
                try stage.daemon.output("mount", "notes", mount)
            }
            try stage.daemon.output("memory", "write", "notes", "/race", input: "a\nb\nc\n")
            for mount in mounts { #expect(try String(contentsOfFile: "\(mount)/race", encoding: .utf8) == "a\nb\nc\n") }
            try Data("A\nb\nc\n".utf8).write(to: URL(fileURLWithPath: "\(mounts[1])/race"))
            #expect(try stage.daemon.output("memory", "cat", "notes", "/race") == "A\nb\nc\n")
            try Data("a\nb\nC\n".utf8).write(to: URL(fileURLWithPath: "\(mounts[0])/race"))
            #expect(try stage.daemon.output("memory", "cat", "notes", "/race") == "a\nb\nC\n")
            try stage.run("merge", "notes", "/race")
            try stage.run("memory", "cat", "notes", "/race")
            try stage.run("merge", "notes", "/plans/a.md", ends: 65)
            try stage.run("status")
            try stage.run("unmount", mounts[1], "--json")
            try stage.run("unmount", mounts[0])
            try stage.run("unmount", mounts[0], ends: 66)

            let session = id(try stage.run("session", "create", "--store", "notes:ro", "--title", "t", "--metadata", "a=b"))
            let event = #"{"events": [{"type": "user.message", "content": [{"type": "text", "text": "hello there"}]}]}"#
            let sent = try stage.daemon.http("POST", "/v1/sessions/\(session)/events", event)
            let message = try #require(try sent.data().first?["id"] as? String)
            for json in [["--json"], []] {
                for arguments in [
                    ["session", "list"], ["session", "list", "--store", "notes"], ["session", "show", session],
                    ["session", "events", session], ["session", "path", session], ["session", "prompt", session],
                ] {
                    let result = try Binary.run(arguments + json + stage.way, environment: stage.daemon.environment)
                    #expect(result.status == 0, "\(result.errors)")
                    stage.note(arguments.map { $0 == session ? "SESSION" : $0 } + json, "\(result.output)\(result.errors)")
                }
            }
            for json in [["--json"], []] {
                for arguments in [["revert", "--session", session], ["revert", "--session", session, "--store", "notes", "--yes"]] {
                    let result = try Binary.run(arguments + json + stage.way, environment: stage.daemon.environment)
                    #expect(result.status == 0, "\(result.errors)")
                    stage.note(arguments.map { $0 == session ? "SESSION" : $0 } + json, "\(result.output)\(result.errors)")
                }
            }
            try stage.run("session", "set", session, "notes:rw")
            try stage.run("session", "set", session, "notes:ro", "--json")
            try stage.run("session", "run", "--store", "notes:ro", "--", "sh", "-c", "ls notes; echo no > notes/x", ends: 2)
            try stage.run("session", "run", "--store", "notes:ro", "--json", "--", "true")
            try stage.run("session", "redact", session, message, "--json")
            try stage.run("session", "redact", session, message)
            try FileManager.default.createDirectory(atPath: directory + "/transcripts", withIntermediateDirectories: false)
            let chat = directory + "/transcripts/chat.jsonl"
            try Data(#"{"role": "user", "content": "hi"}"#.utf8).write(to: URL(fileURLWithPath: chat))
            try stage.run("session", "import", "--store", "notes:ro", chat)
            try stage.run("session", "import", chat, "--json")
            try Data("{\"role\": \"user\", \"content\": \"hi\"}\n{\"role\": \"assistant\", \"content\": \"ho\"}\n".utf8)
                .write(to: URL(fileURLWithPath: chat))
            try stage.watch("session", "watch", directory + "/transcripts", lines: 1)
            try stage.run("session", "archive", session, "--json")
            try stage.run("session", "delete", session, "--json")
            try stage.run("session", "show", session, ends: 66)

            try stage.run("key", "create", "more", "--read", "--store", "notes", "--json")
            let key = try #require(try stage.daemon.remfs("key", "list", "--json").json()["data"] as? [[String: Any]])
            try stage.run("key", "revoke", try #require(key.first?["id"] as? String), "--json")
            try stage.run("doctor", "--repair", "--json")
            try stage.run("store", "archive", "copy", "--json")
            try stage.run("store", "delete", "copy", "--json")
        }

        /// A small archive, the same every time, as text: `tar` writes a name, a size and a content of ASCII, and zeros.
        private static func archive(_ directory: String) throws -> String {
            let made = try Program.start(
                ["bash", "-c", "mkdir -p tarred && echo text > tarred/file && tar --mtime=@0 --owner=0 --group=0 -cf - -C tarred file"],
                in: directory, scratch: directory
            ).success()
            return made
        }

        @Test(.enabled(if: ServeTests.hasSandbox, "needs /dev/fuse and bubblewrap")) func everyCommandAnswersTheSame() throws {
            try DaemonProcess.with { local in
                try DaemonProcess.prepared { remote in
                    let port = try Port.free()
                    try remote.start(["--listen", "127.0.0.1:\(port)"])
                    // Both have a key of the same kind, so that lists of keys are as long.
                    let secrets = try [local, remote].map { try $0.output("key", "create", "test", "--admin") }
                    let file = "\(remote.directory)/key"
                    try Data(secrets[1].utf8).write(to: URL(fileURLWithPath: file))
                    try check(chmod(file, 0o600))

                    let onSocket = Stage(local, ["--socket", local.socket])
                    let overTCP = Stage(remote, ["--url", "http://127.0.0.1:\(port)", "--key-file", file])
                    for stage in [onSocket, overTCP] {
                        let keys = try stage.daemon.remfs("key", "list", "--json").json()["data"] as? [[String: Any]]
                        stage.key = try #require(keys?.first?["id"] as? String)
                    }
                    try Self.play(onSocket)
                    try Self.play(overTCP)
                    try #require(onSocket.told.count == overTCP.told.count)
                    for (one, other) in zip(onSocket.told, overTCP.told) { #expect(one.answer == other.answer, "\(other.command)") }

                    // None is left out, and without a key none of them gets anywhere.
                    for verb in try Self.verbs() where !["serve", "demo"].contains(verb) {
                        if verb != "mount" { #expect(overTCP.told.contains { $0.command.hasPrefix(verb) }, "\(verb) is not tried") }
                        let arguments = verb.split(separator: " ").map(String.init) + (Self.arguments[verb] ?? [])
                        let refused = try Binary.run(
                            Self.adding(["--url", "http://127.0.0.1:\(port)"], to: arguments),
                            environment: remote.environment.merging(["EDITOR": "false"]) { $1 })
                        #expect(refused.status == 77, "\(verb): \(refused.status) \(refused.errors)")
                        #expect(refused.errors.hasPrefix("remfs: unauthenticated: a key is required"), "\(verb): \(refused.errors)")
                    }
                    let mount = try Binary.run(["mount", "notes", remote.directory] + overTCP.way, environment: remote.environment)
                    #expect(mount.status == 77 && mount.errors.contains("the daemon's own socket"), "\(mount.errors)")
                }
            }
        }

        /// Before a command that is to be run, which has words of its own.
        private static func adding(_ way: [String], to arguments: [String]) -> [String] {
            let place = arguments.firstIndex(of: "--") ?? arguments.endIndex
            return arguments[..<place] + way + arguments[place...]
        }

        /// Enough for each to be sent to a daemon.
        private static let arguments: [String: [String]] = {
            let version = "memver_01" + String(repeating: "1", count: 22)
            let session = "sesn_01" + String(repeating: "1", count: 22)
            return [
                "session watch": ["/tmp"], "session set": [session, "x:ro"], "session path": [session], "session prompt": [session],
                "session run": ["--store", "x", "--", "true"],
                "store create": ["x"], "store show": ["x"], "store set": ["x", "--name", "y"], "store archive": ["x"],
                "store delete": ["x"],
                "store backup": ["x", "/tmp/nothing"], "store fork": ["x", "y"], "store watch": ["x"], "store gc": ["x"],
                "memory ls": ["x"],
                "memory cat": ["x", "/a"], "memory write": ["x", "/a"], "memory edit": ["x", "/a"], "memory rm": ["x", "/a"],
                "memory mv": ["x", "/a", "/b"], "search": ["x", "y"], "export": ["x"], "import": ["/dev/null", "--name", "x"], "log": ["x"],
                "diff": ["x", "/a"], "restore": ["x", version], "merge": ["x", "/a"], "redact": ["x", version], "pin": ["x", version],
                "revert": ["--session", session],
                "unpin": ["x", version], "mount": ["x", "/tmp"], "unmount": ["/tmp"], "session show": [session],
                "session archive": [session],
                "session delete": [session], "session events": [session],
                "session redact": [session, "sevt_01" + String(repeating: "1", count: 22)], "key create": ["x", "--read"],
                "key revoke": ["apikey_01" + String(repeating: "1", count: 22)],
            ]
        }()

        /// What the binary itself says it has.
        private static func verbs() throws -> [String] {
            let result = try Binary.run(["--experimental-dump-help"], environment: DaemonProcess.environment("/nowhere"))
            func leaves(_ command: [String: Any], _ path: [String]) -> [String] {
                let children = (command["subcommands"] as? [[String: Any]] ?? []).filter { $0["commandName"] as? String != "help" }
                guard !children.isEmpty else { return [path.joined(separator: " ")] }
                return children.flatMap { leaves($0, path + [$0["commandName"] as? String ?? ""]) }
            }
            let verbs = leaves(try #require(try result.json()["command"] as? [String: Any]), [])
            try #require(verbs.count > 30)
            return verbs
        }
    }
}
