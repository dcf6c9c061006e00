import Foundation
import Glibc
import TestSupport
import Testing

/// The command line against a real daemon.
extension ServeTests {
    @Suite(.serialized) struct CommandTests {
        @Test func aStoreLivesAndDies() throws {
            try DaemonProcess.with { daemon in
                let id = try daemon.output("store", "create", "notes", "--description", "for all", "--metadata", "team=docs")
                #expect(id.hasPrefix("memstore_01") && id.hasSuffix("\n") && id.split(separator: "\n").count == 1)
                let plain = id.trimmingCharacters(in: .newlines)
                #expect(try daemon.output("store", "list").contains("notes"))
                let shown = try daemon.remfs("store", "show", "notes", "--json").json()
                #expect(shown["id"] as? String == plain)
                #expect(shown["metadata"] as? [String: String] == ["team": "docs"])
                #expect((shown["policy"] as? [String: Any])?["max_memories"] as? Int == 10_000)

                try daemon.output(
                    "store", "set", plain, "--name", "renamed", "--metadata", "team=", "--metadata", "a=b", "--max-memories", "3",
                    "--access", "read_only")
                let set = try daemon.remfs("store", "show", "renamed", "--json").json()
                #expect(set["metadata"] as? [String: String] == ["a": "b"])
                #expect((set["policy"] as? [String: Any])?["max_memories"] as? Int == 3)
                #expect((set["policy"] as? [String: Any])?["access"] as? String == "read_only")
                #expect(try daemon.remfs("memory", "write", "renamed", "/a", input: "x").status == 77)
                #expect(try daemon.remfs("store", "set", "renamed").status == 64)
                #expect(try daemon.remfs("store", "set", "renamed", "--access", "none").status == 65)

                try daemon.output("store", "archive", "renamed")
                #expect(try !daemon.output("store", "list").contains(plain))
                #expect(try daemon.output("store", "list", "--archived").contains(plain))
                #expect(try daemon.output("store", "show", plain).contains("archived"))
                // Its name is still its own, until a store that is open takes it.
                #expect(try daemon.remfs("store", "show", "renamed", "--json").json()["id"] as? String == plain)
                try daemon.output("store", "archive", "renamed")
                let other = try daemon.output("store", "create", "renamed").trimmingCharacters(in: .newlines)
                #expect(try daemon.remfs("store", "show", "renamed", "--json").json()["id"] as? String == other)
                try daemon.output("store", "archive", "renamed")
                let ambiguous = try daemon.remfs("store", "delete", "renamed")
                #expect(ambiguous.status == 65 && ambiguous.errors.contains(plain) && ambiguous.errors.contains(other))
                try daemon.output("store", "delete", other)
                try daemon.output("store", "delete", "renamed")
                let gone = try daemon.remfs("store", "show", plain)
                #expect(gone.status == 66)
                #expect(gone.errors == "remfs: not_found: memory store \(plain) not found\n")
            }
        }

        @Test func aNameMustBelongToOneStore() throws {
            try DaemonProcess.with { daemon in
                let one = try daemon.output("store", "create", "twin").trimmingCharacters(in: .newlines)
                let two = try daemon.output("store", "create", "twin").trimmingCharacters(in: .newlines)
                let result = try daemon.remfs("store", "show", "twin")
                #expect(result.status == 65)
                #expect(result.errors.contains(one) && result.errors.contains(two))
                #expect(try daemon.remfs("store", "show", one).status == 0)
                let missing = try daemon.remfs("store", "show", "nobody")
                #expect(missing.status == 66)
                #expect(missing.errors == "remfs: not_found: store \"nobody\"\n")
                #expect(missing.output == "")
            }
        }

        @Test func memoriesAreWrittenReadMovedAndRemoved() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                #expect(try daemon.output("memory", "write", "notes", "plans/q3.md", input: "one\n") == "")
                try daemon.output("memory", "write", "notes", "/plans/q3.md", input: "two\n")
                try daemon.output("memory", "write", "notes", "/readme", input: "")
                #expect(try daemon.output("memory", "cat", "notes", "/plans/q3.md") == "two\n")
                #expect(
                    try daemon.output("memory", "ls", "notes").split(separator: "\n").map { String($0.split(separator: " ").last!) } == [
                        "PATH", "/plans/", "/readme",
                    ])
                #expect(try daemon.output("memory", "ls", "notes", "plans").contains("/plans/q3.md"))
                let listing = try #require(try daemon.remfs("memory", "ls", "notes", "-r", "--json").json()["data"] as? [[String: Any]])
                #expect(listing.map { $0["path"] as? String } == ["/plans/q3.md", "/readme"])

                #expect(try daemon.remfs("memory", "write", "notes", "/readme", "--new", input: "x").status == 73)
                #expect(try daemon.remfs("memory", "write", "notes", "/readme/below", input: "x").status == 73)
                let zeros = String(repeating: "0", count: 64)
                #expect(try daemon.remfs("memory", "write", "notes", "/readme", "--if-sha256", zeros, input: "x").status == 75)
                #expect(try daemon.remfs("memory", "write", "notes", "/none", "--if-sha256", zeros, input: "x").status == 75)
                #expect(try daemon.remfs("memory", "write", "notes", "/big", input: String(repeating: "x", count: 102_401)).status == 65)
                #expect(try daemon.remfs("memory", "write", "notes", "/a//b", input: "x").status == 65)

                try daemon.output("memory", "mv", "notes", "/plans/q3.md", "/done/q3.md")
                #expect(try daemon.output("memory", "cat", "notes", "/done/q3.md") == "two\n")
                #expect(try daemon.remfs("memory", "cat", "notes", "/plans/q3.md").status == 66)
                #expect(try daemon.remfs("memory", "mv", "notes", "/done/q3.md", "/readme").status == 73)
                #expect(try daemon.remfs("memory", "rm", "notes", "/done").status == 66)
                try daemon.output("memory", "rm", "notes", "/done", "--recursive")
                try daemon.output("memory", "rm", "notes", "/readme")
                #expect(try daemon.output("memory", "ls", "notes", "-r") == "")
            }
        }

        @Test func anEditorSavesOnlyOverWhatItSaw() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                func edit(_ editor: String) throws -> Binary.Result {
                    try daemon.remfs("memory", "edit", "notes", "/a.md", environment: ["EDITOR": editor])
                }
                // New, changed, unchanged.
                #expect(try edit("sh -c 'echo first > \"$0\"'").status == 0)
                #expect(try edit("sed -i s/first/second/").status == 0)
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "second\n")
                let unchanged = try edit("true")
                #expect(unchanged.status == 0 && unchanged.errors.contains("unchanged"))
                #expect(try daemon.output("log", "notes", "/a.md").split(separator: "\n").count == 3)
                #expect(try edit("false").status == 69)
                // A path mistyped, and left as it came.
                let mistyped = try daemon.remfs("memory", "edit", "notes", "/b.md", environment: ["EDITOR": "true"])
                #expect(mistyped.status == 0)
                #expect(mistyped.errors == "remfs: /b.md does not exist, and nothing was written\n")
                #expect(try daemon.remfs("memory", "cat", "notes", "/b.md").status == 66)
                // An empty variable counts as none.
                let bin = "\(daemon.directory)/bin"
                try FileManager.default.createDirectory(atPath: bin, withIntermediateDirectories: false)
                try Data("#!/bin/sh\necho vi >> \"$1\"\n".utf8).write(to: URL(fileURLWithPath: "\(bin)/vi"))
                try #require(chmod("\(bin)/vi", 0o755) == 0)
                let path = "\(bin):\(daemon.environment["PATH"] ?? "")"
                for (visual, editor, expected) in [
                    ("", "", "vi\n"), ("", "sed -i s/vi/editor/", "editor\n"), ("sed -i s/or//", "false", "edit\n"),
                ] {
                    let result = try daemon.remfs(
                        "memory", "edit", "notes", "/c.md", environment: ["VISUAL": visual, "EDITOR": editor, "PATH": path])
                    #expect(result.status == 0, "\(result.errors)")
                    #expect(try daemon.output("memory", "cat", "notes", "/c.md") == expected)
                }

                // Somebody else saves while the editor is open.
                let other = "\(Binary.path) memory write notes /a.md --file"
                try Data("theirs\n".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/theirs"))
                let raced = try edit("sh -c 'echo mine > \"$0\"; \(other) \(daemon.directory)/theirs'")
                #expect(raced.status == 75)
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "theirs\n")
                let kept = try #require(raced.errors.split(separator: "\n").first { $0.contains("your text is kept in") })
                let file = String(try #require(kept.split(separator: " ").last))
                #expect(try String(contentsOfFile: file, encoding: .utf8) == "mine\n")
                try FileManager.default.removeItem(at: URL(fileURLWithPath: file).deletingLastPathComponent())
            }
        }

        /// `é` as one scalar and as two: equal to Unicode and to Swift, and not the same.
        @Test func whatDiffersInBytesDiffers() throws {
            try DaemonProcess.with { daemon in
                let (one, two) = ("\u{e9}", "e\u{301}")
                let id = try daemon.output("store", "create", "notes", "--metadata", "\(one)=1", "--metadata", "\(two)=2")
                    .trimmingCharacters(in: .newlines)
                func metadata(_ text: String) throws -> Bool {
                    Data(try daemon.http("GET", "/v1/memory_stores/\(id)").body).range(of: Data(text.utf8)) != nil
                }
                #expect(try metadata("\"\(one)\":\"1\"") && metadata("\"\(two)\":\"2\""))
                try daemon.output("store", "set", "notes", "--metadata", "\(one)=")
                #expect(try !metadata("\"\(one)\":") && metadata("\"\(two)\":\"2\""))
                // An editor that changes nothing but the form.
                try daemon.output("memory", "write", "notes", "/a", input: one)
                let edited = try daemon.remfs("memory", "edit", "notes", "/a", environment: ["EDITOR": "sh -c 'printf \(two) > \"$0\"'"])
                #expect(edited.status == 0 && edited.errors.isEmpty, "\(edited.errors)")
                #expect(try daemon.output("memory", "cat", "notes", "/a").utf8.elementsEqual(two.utf8))
            }
        }

        @Test func historyIsListedComparedAndRestored() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                for text in ["a\nb\nc\n", "a\nB\nc\n", "a\nB\nc\nd\n"] {
                    try daemon.output("memory", "write", "notes", "/x.md", input: text)
                }
                try daemon.output("memory", "write", "notes", "/y.md", input: "y")
                let log = try daemon.remfs("log", "notes", "/x.md", "--json").json()["data"] as? [[String: Any]] ?? []
                #expect(log.map { $0["operation"] as? String } == ["modified", "modified", "created"])
                #expect(log.allSatisfy { ($0["writer"] as? [String: Any])?["command"] as? String == "remfs" })
                #expect(log.allSatisfy { ($0["writer"] as? [String: Any])?["uid"] as? Int == Int(geteuid()) })
                #expect(try daemon.output("log", "notes", "-n", "2").split(separator: "\n").count == 3)
                #expect(try daemon.output("log", "notes", "--stale") == "")
                let ids = log.compactMap { $0["id"] as? String }
                try #require(ids.count == 3)

                #expect(try daemon.output("diff", "notes", "/x.md").hasSuffix("@@ -1,3 +1,4 @@\n a\n B\n c\n+d\n"))
                #expect(try daemon.output("diff", "notes", "/x.md", ids[2]).hasSuffix("@@ -1,3 +1,4 @@\n a\n-b\n+B\n c\n+d\n"))
                #expect(try daemon.output("diff", "notes", "/x.md", ids[2], ids[1]).hasSuffix("@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"))
                #expect(try daemon.output("diff", "notes", "/x.md", ids[1], ids[1]) == "")
                #expect(try daemon.output("diff", "notes", "/y.md").hasSuffix("@@ -0,0 +1 @@\n+y\n\\ No newline at end of file\n"))
                #expect(try daemon.output("memory", "cat", "notes", "/x.md", ids[2]) == "a\nb\nc\n")

                let restored = try daemon.output("restore", "notes", ids[2])
                #expect(restored.hasPrefix("memver_01"))
                #expect(try daemon.output("memory", "cat", "notes", "/x.md") == "a\nb\nc\n")
                try daemon.output("memory", "rm", "notes", "/x.md")
                #expect(try daemon.output("log", "notes", "/x.md").contains("deleted"))
                try daemon.output("restore", "notes", ids[1])
                #expect(try daemon.output("memory", "cat", "notes", "/x.md") == "a\nB\nc\n")
                #expect(try daemon.remfs("restore", "notes", "memver_nonsense").status == 66)
            }
        }

        @Test func theLogIsFollowedUntilInterrupted() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/before", input: "x")
                let follower = try Binary.start(["log", "notes", "--follow", "--json"], environment: daemon.environment)
                // It has started to follow once the daemon counts a request that waits; before that it would list nothing new.
                var written = 0
                while follower.output.split(separator: "\n").count < 2 {
                    written += 1
                    try daemon.output("memory", "write", "notes", "/after", input: "\(written)")
                    try #require(written < 200, "nothing is followed: \(follower.errors)")
                }
                follower.signal(SIGINT)
                let result = try follower.wait()
                #expect(result.status == 0, "\(result.errors)")
                #expect(!result.output.contains("/before"))
                #expect(result.output.split(separator: "\n").allSatisfy { $0.contains("\"path\":\"/after\"") })
            }
        }

        @Test func aBackupIsAWholeStore() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/a.md", input: "kept")
                let file = "\(daemon.directory)/notes.sqlite"
                try daemon.output("store", "backup", "notes", file)
                let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
                #expect(bytes.starts(with: Array("SQLite format 3\0".utf8)))
                #expect(bytes.count % 4_096 == 0)
                let again = try daemon.remfs("store", "backup", "notes", file)
                #expect(again.status == 73)
                #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == bytes)
                #expect(try FileManager.default.contentsOfDirectory(atPath: daemon.state).allSatisfy { !$0.hasPrefix("spool-") })
                #expect(try daemon.remfs("store", "backup", "nobody", "\(daemon.directory)/no").status == 66)
                #expect(!FileManager.default.fileExists(atPath: "\(daemon.directory)/no"))
            }
        }

        @Test func aReaderThatHasEnoughEndsACommandWithoutAWord() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/long", input: String(repeating: "x", count: 100_000))
                func piped(_ script: String) throws -> Program.Outcome {
                    try Program.start(
                        ["bash", "-c", "remfs() { '\(Binary.path)' \"$@\"; }; \(script)"], in: "/", scratch: daemon.directory,
                        environment: daemon.environment
                    ).wait()
                }
                for command in ["status", "memory cat notes /long", "log notes", "--help"] {
                    // `true` has gone before anything is written.
                    let result = try piped("{ sleep 0.5; remfs \(command); echo $? >&2; } | true")
                    #expect(result.errors == (command == "--help" ? "0\n" : "141\n"), "\(command)")
                }
                let full = try piped("remfs memory cat notes /long > /dev/full")
                #expect(full.status == 74)
                #expect(full.errors == "remfs: no_space: stdout cannot be written: No space left on device\n")
                let closed = try piped("remfs status >&-")
                #expect(closed.status == 69)
                #expect(closed.errors == "remfs: unavailable: stdout cannot be written: Bad file descriptor\n")
            }
        }

        @Test func whatACommandStartsIsEndedByABrokenPipe() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let shown = "\(daemon.directory)/signals"
                let result = try daemon.remfs(
                    "memory", "edit", "notes", "/a", environment: ["EDITOR": "sh -c 'grep SigIgn /proc/self/status > \(shown)'"])
                #expect(result.status == 0, "\(result.errors)")
                let mask = try #require(Files.text(shown)?.split(separator: "\t").last.flatMap { UInt64($0.dropLast(), radix: 16) })
                #expect(mask & (1 << (UInt64(SIGPIPE) - 1)) == 0)
            }
        }

        @Test func withoutADaemonItSaysSo() throws {
            try DaemonProcess.prepared { daemon in
                for arguments in [["status"], ["store", "list"], ["log", "x"], ["mount", "x", "/tmp"], ["unmount", "/tmp"]] {
                    let result = try Binary.run(arguments, environment: daemon.environment)
                    #expect(result.status == 69)
                    #expect(result.errors.hasPrefix("remfs: unavailable: no daemon answers at \(daemon.socket)"), "\(result.errors)")
                    #expect(result.output == "")
                }
                let elsewhere = try daemon.remfs("status", "--socket", "/nowhere/at/all.sock")
                #expect(elsewhere.errors.contains("/nowhere/at/all.sock"))
            }
        }

        static let commands: [[String]] = [
            [], ["serve"], ["demo"], ["status"], ["doctor"], ["store"], ["store", "create"], ["store", "list"], ["store", "show"],
            ["store", "set"],
            ["store", "archive"], ["store", "delete"], ["store", "backup"], ["store", "fork"], ["store", "watch"], ["export"], ["import"],
            ["memory"],
            ["memory", "ls"], ["memory", "cat"],
            ["memory", "write"], ["memory", "edit"], ["memory", "rm"], ["memory", "mv"], ["log"], ["diff"], ["restore"], ["revert"],
            ["merge"], ["mount"],
            ["unmount"], ["session"], ["session", "events"], ["session", "redact"], ["search"], ["redact"], ["pin"], ["unpin"], ["key"],
            ["key", "create"], ["key", "list"], ["key", "revoke"], ["store", "gc"],
        ]

        @Test(arguments: commands) func everyCommandHasHelp(_ command: [String]) throws {
            let result = try Binary.run(command + ["--help"], environment: DaemonProcess.environment("/nowhere"))
            #expect(result.status == 0)
            let overview = try #require(result.output.split(separator: "\n\n").first).replacingOccurrences(of: "\n", with: " ")
            #expect(overview.hasPrefix("OVERVIEW: "))
            #expect(!overview.hasSuffix("."), "an imperative line without a full stop: \(overview)")
        }

        @Test func badUsageIs64() throws {
            let environment = DaemonProcess.environment("/nowhere")
            for arguments in [
                ["nonsense"], ["store", "create"], ["log", "x", "-n", "0"], ["mount", "x"], ["mount", "x", "y", "--umask", "9"],
                ["store", "list", "--loud"],
                ["memory", "write", "x", "/a", "--new", "--if-sha256", "0"], ["mount", "x", "y", "--coherence", "loose"],
            ] {
                let result = try Binary.run(arguments, environment: environment)
                #expect(result.status == 64, "\(arguments)")
                #expect(result.output == "" && !result.errors.isEmpty)
            }
            #expect(try Binary.run(["--version"], environment: environment).output.split(separator: ".").count == 3)
        }

        @Test(arguments: ["bash", "zsh", "fish"]) func shellsAreToldWhatThereIs(_ shell: String) throws {
            let result = try Binary.run(["--generate-completion-script", shell], environment: DaemonProcess.environment("/nowhere"))
            #expect(result.status == 0)
            #expect(result.output.contains("backup") && result.output.contains("unmount") && result.output.contains("doctor"))
        }
    }
}
