import Foundation
import Glibc
import TestSupport
import Testing

/// `remfs session import` and `watch`: what agents have left in files becomes sessions, once.
extension ServeTests {
    @Suite(.serialized) struct TranscriptImportTests {
        private static func claude(_ text: String, _ number: Int, _ session: String = "5f0c1c2e") -> String {
            #"{"type":"user","isSidechain":false,"cwd":"/shop","sessionId":"\#(session)","version":"2.1","message":{"role":"user","content":"\#(text)"},"uuid":"u\#(number)","timestamp":"2026-03-01T09:00:0\#(number).000Z"}"#
                + "\n"
        }

        private static let toolUse =
            #"{"type":"assistant","sessionId":"5f0c1c2e","message":{"model":"m","role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"Read","input":{"path":"a"}}]},"uuid":"a1","timestamp":"2026-03-01T09:00:03.000Z"}"#
            + "\n"
        private static let toolResult =
            #"{"type":"user","sessionId":"5f0c1c2e","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"text of a"}]},"uuid":"a2","timestamp":"2026-03-01T09:00:04.000Z"}"#
            + "\n"

        private static func save(_ text: String, to path: String) throws { try Data(text.utf8).write(to: URL(fileURLWithPath: path)) }

        private static func append(_ text: String, to path: String) throws {
            let file = try #require(FileHandle(forWritingAtPath: path))
            try file.seekToEnd()
            try file.write(contentsOf: Data(text.utf8))
            try file.close()
        }

        private static func events(_ daemon: DaemonProcess, _ session: String) throws -> [[String: Any]] {
            try daemon.http("GET", "/v1/sessions/\(session)/events?limit=1000").data()
        }

        private static func texts(_ daemon: DaemonProcess, _ session: String) throws -> [String] {
            try events(daemon, session).map { event in
                let blocks = event["content"] as? [[String: Any]] ?? []
                return (event["type"] as? String ?? "") + blocks.map { " " + ($0["text"] as? String ?? "") }.joined()
            }
        }

        /// Tool calls keep their results, times are kept, and a second import adds what is new: also between a call and its result.
        @Test func aFileThatHasGrownAddsWhatIsNew() throws {
            try DaemonProcess.with { daemon in
                let file = daemon.directory + "/session.jsonl"
                try daemon.output("store", "create", "notes")
                try Self.save(Self.claude("first", 1) + Self.toolUse, to: file)
                let session = try daemon.output("session", "import", "--store", "notes:ro", file).trimmingCharacters(in: .newlines)
                #expect(session.hasPrefix("sesn_"))
                let before = try Self.events(daemon, session)
                #expect(before.map { $0["type"] as? String } == ["user.message", "agent.tool_use"])
                #expect((before[0]["remfs"] as? [String: String])?["time"] == "2026-03-01T09:00:01.000000Z")

                try Self.append(Self.toolResult + Self.claude("last", 5), to: file)
                #expect(try daemon.output("session", "import", file).trimmingCharacters(in: .newlines) == session)
                let after = try Self.events(daemon, session)
                #expect(after.map { $0["type"] as? String } == ["user.message", "agent.tool_use", "agent.tool_result", "user.message"])
                #expect(after[2]["tool_use_id"] as? String == after[1]["id"] as? String)
                // Nothing is new.
                let again =
                    try JSONSerialization.jsonObject(
                        with: Data(try daemon.output("session", "import", "--json", file).utf8)) as? [String: [[String: Any]]]
                #expect(again?["data"]?.first?["added"] as? Int == 0 && again?["data"]?.first?["present"] as? Int == 4)

                let shown = try daemon.http("GET", "/v1/sessions/\(session)").json()
                #expect((shown["metadata"] as? [String: String])?["transcript_session"] == "5f0c1c2e")
                #expect((shown["resources"] as? [[String: Any]])?.first?["access"] as? String == "read_only")
                // Another one's is another session.
                try Self.save(Self.claude("other", 1, "other"), to: file)
                #expect(try daemon.output("session", "import", file).trimmingCharacters(in: .newlines) != session)
            }
        }

        /// Nothing is half imported: lines that cannot be read are all named, and only who says so goes on without them.
        @Test func badLinesAreNamed() throws {
            try DaemonProcess.with { daemon in
                let file = daemon.directory + "/session.jsonl"
                try Self.save(Self.claude("first", 1) + "{\"type\": \n" + Self.claude("second", 2) + "[]\n", to: file)
                let refused = try daemon.remfs("session", "import", file)
                #expect(refused.status == 65 && refused.output.isEmpty)
                #expect(refused.errors.contains("line 2 ") && refused.errors.contains("line 4 ") && refused.errors.contains("--lenient"))
                #expect(try daemon.http("GET", "/v1/sessions").data().isEmpty)

                let session = try daemon.output("session", "import", "--lenient", file).trimmingCharacters(in: .newlines)
                #expect(try Self.texts(daemon, session) == ["user.message first", "user.message second"])
                for (name, text) in [("picture", "\u{1}\u{2}\u{3}"), ("empty", "")] {
                    try Self.save(text, to: "\(daemon.directory)/\(name)")
                    #expect(try daemon.remfs("session", "import", "--lenient", "\(daemon.directory)/\(name)").status == 65, "\(name)")
                }
                #expect(try daemon.remfs("session", "import", daemon.directory + "/missing").status == 66)
                #expect(try daemon.remfs("session", "import", daemon.directory).status == 65)
            }
        }

        @Test func standardInputAndAChosenSessionDo() throws {
            try DaemonProcess.with { daemon in
                let chat = """
                    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
                     {"role": "assistant", "content": "Fair."}]
                    """
                let session = try daemon.output("session", "import", input: chat).trimmingCharacters(in: .newlines)
                #expect(try Self.texts(daemon, session) == ["user.message Weather?", "agent.message Fair."])
                let shown = try daemon.http("GET", "/v1/sessions/\(session)").json()
                #expect((shown["agent"] as? [String: Any])?["system"] as? String == "Be brief.")

                // Nobody could say what is new in a session that does not hold what the file begins with.
                let file = daemon.directory + "/chat.json"
                try Self.save(#"[{"role": "assistant", "content": "Fair."}, {"role": "user", "content": "Thanks."}]"#, to: file)
                let other = try daemon.remfs("session", "import", "--session", session, file)
                #expect(other.status != 0 && other.errors.contains("does not hold"), "\(other.errors)")
                #expect(try Self.texts(daemon, session).count == 2)
                // A file without a session's ID is known by its place.
                let own = try daemon.output("session", "import", file)
                #expect(try daemon.output("session", "import", file) == own)
                let id = own.trimmingCharacters(in: .newlines)
                _ = try daemon.http("POST", "/v1/sessions/\(id)/archive")
                try Self.save(
                    #"[{"role": "assistant", "content": "Fair."}, {"role": "user", "content": "Thanks."}, {"role": "user", "content": "Bye."}]"#,
                    to: file)
                let late = try daemon.remfs("session", "import", file)
                #expect(late.status != 0 && late.errors.contains("archived"), "\(late.errors)")
            }
        }

        /// Files that come and grow, one that is written as a whole each time, and a line that is not finished yet.
        @Test func aDirectoryIsFollowed() throws {
            try DaemonProcess.with { daemon in
                let root = daemon.directory + "/projects"
                try check(mkdir(root, 0o755))
                try check(mkdir(root + "/shop", 0o755))
                let (lines, chat) = (root + "/shop/session.jsonl", root + "/chat.json")
                try Self.save(Self.claude("first", 1), to: lines)
                let watch = try Program.start(
                    [Binary.path, "session", "watch", root], in: "/", scratch: daemon.directory,
                    environment: daemon.environment.merging(["REMFS_SOCKET": daemon.socket]) { $1 })
                func wait(_ what: String, _ condition: () throws -> Bool) throws {
                    let deadline = ContinuousClock.now + .seconds(20 * Sanitizer.slowdown)
                    while try !condition() {
                        try #require(ContinuousClock.now < deadline && watch.isRunning, "\(what): \(watch.output)\(watch.errors)")
                        usleep(20_000)
                    }
                }
                func session(_ agent: String) throws -> String? {
                    try daemon.http("GET", "/v1/sessions?agent_id=\(agent)").data().first?["id"] as? String
                }
                try wait("a file") { try session("claude_code") != nil }
                let one = try #require(try session("claude_code"))
                let second = Self.claude("second", 2)
                try Self.append(Self.toolUse + String(second.prefix(30)), to: lines)
                try wait("more lines") { try Self.events(daemon, one).count == 2 }
                try Self.append(String(second.dropFirst(30)) + Self.toolResult, to: lines)
                try wait("the rest of a line") { try Self.events(daemon, one).count == 4 }
                #expect(
                    try Self.events(daemon, one).map { $0["type"] as? String }
                        == ["user.message", "agent.tool_use", "user.message", "agent.tool_result"])

                try Self.save(#"[{"role": "user", "content": "one"}"#, to: chat)
                usleep(1_500_000)
                try Self.save(#"[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]"#, to: chat)
                try wait("a document") { try session("chat") != nil }
                let two = try #require(try session("chat"))
                try Self.save(
                    #"[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]"#,
                    to: chat)
                try wait("a longer document") { try Self.events(daemon, two).count == 3 }
                try Self.save("no transcript\n", to: root + "/x.json")
                try wait("what is wrong") { watch.errors.contains("x.json: ") }
                watch.signal(SIGINT)
                #expect(try watch.wait().status == 0)
                #expect(try Self.events(daemon, one).count == 4)
            }
        }
    }
}
