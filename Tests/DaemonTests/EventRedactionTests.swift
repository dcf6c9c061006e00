import Foundation
import Glibc
import TestSupport
import Testing

/// What was said in a session and is redacted is nowhere any more.
extension ServeTests {
    @Suite(.serialized) struct EventRedactionTests {
        private static let secret = "qzxjvkwpfq-zzyyxxwwqq"

        private static func traces(_ daemon: DaemonProcess) throws -> [String] {
            let root = try #require(daemon.environment["REMFS_STATE_DIR"])
            let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []
            return names.filter { FileManager.default.contents(atPath: "\(root)/\($0)")?.range(of: Data(secret.utf8)) != nil }
        }

        private static func session(_ daemon: DaemonProcess) throws -> String {
            let made = try daemon.http("POST", "/v1/sessions", #"{"agent": "a", "environment_id": "e"}"#)
            return "/v1/sessions/" + (try #require(try made.json()["id"] as? String))
        }

        /// Answers the IDs.
        @discardableResult
        private static func send(_ daemon: DaemonProcess, _ session: String, _ events: [String]) throws -> [String] {
            let sent = try daemon.http("POST", "\(session)/events", #"{"events": [\#(events.joined(separator: ", "))]}"#)
            try #require(sent.status == 200, "\(String(decoding: sent.body, as: UTF8.self))")
            return try sent.data().compactMap { $0["id"] as? String }
        }

        private static func message(_ text: String) -> String {
            #"{"type": "user.message", "content": [{"type": "text", "text": "\#(text)"}]}"#
        }

        @Test func noByteIsLeft() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let long = String(repeating: "\(Self.secret) and more. ", count: 12_000)
                let ids = try Self.send(
                    daemon, session,
                    [
                        Self.message("before"), Self.message("my key is \(Self.secret)"), Self.message(long),
                        #"{"type": "agent.message", "content": [{"type": "text", "text": "\#(Self.secret)"}]}"#,
                        #"{"type": "agent.tool_use", "id": "t", "name": "bash", "input": {"command": "echo \#(Self.secret)"}}"#,
                        #"{"type": "agent.tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "\#(Self.secret)"}], "is_error": true}"#,
                        #"{"type": "user.tool_confirmation", "tool_use_id": "t", "result": "deny", "deny_message": "\#(Self.secret)"}"#,
                        Self.message("after"),
                    ])
                // Others that come and go, so that pages are shared, split and freed.
                let other = try Self.session(daemon)
                for round in 0..<20 { try Self.send(daemon, other, [Self.message(String(repeating: "x", count: round * 500))]) }
                try Self.send(daemon, other, [Self.message(long)])
                #expect(try daemon.http("DELETE", other).status == 200)
                // What an upgrade of the schema leaves.
                let state = try #require(daemon.environment["REMFS_STATE_DIR"])
                try Data(Self.secret.utf8).write(to: URL(fileURLWithPath: "\(state)/catalog.sqlite.schema-1"))
                #expect(try !Self.traces(daemon).isEmpty)

                let before = try daemon.http("GET", "\(session)/events").data()
                for id in ids[1...6] {
                    let redacted = try daemon.http("POST", "\(session)/events/\(id)/redact")
                    #expect(redacted.status == 200, "\(String(decoding: redacted.body, as: UTF8.self))")
                    let event = try redacted.json()
                    #expect(event["id"] as? String == id)
                    #expect(event["redacted_by"] as? [String: String] == ["type": "api_actor", "api_key_id": "apikey_local"])
                    let again = try daemon.http("POST", "\(session)/events/\(id)/redact").json()
                    #expect(again["redacted_at"] as? String == event["redacted_at"] as? String && event["redacted_at"] is String)
                }
                #expect(try Self.traces(daemon) == [])
                let after = try daemon.http("GET", "\(session)/events").data()
                for key in ["id", "type", "processed_at", "tool_use_id", "name", "is_error", "result"] {
                    #expect(after.map { "\($0[key] ?? "none")" } == before.map { "\($0[key] ?? "none")" }, "\(key)")
                }
                for place in [0, 7] { #expect(NSDictionary(dictionary: after[place]) == NSDictionary(dictionary: before[place])) }
                for place in 1...3 { #expect(after[place]["content"] as? [[String: String]] == [["type": "redacted"]]) }
                #expect((after[4]["input"] as? [String: Any])?.isEmpty == true)
                #expect((after[5]["content"] as? [Any])?.isEmpty == true && after[6]["deny_message"] == nil)

                // It stays so, and the transcript goes on.
                #expect(try daemon.stop().status == 0)
                try daemon.start()
                #expect(try Self.traces(daemon) == [])
                #expect(try daemon.http("GET", "\(session)/events").data().count == 8)
                try Self.send(
                    daemon, session, [Self.message("on"), #"{"type": "agent.tool_result", "tool_use_id": "\#(ids[4])", "content": []}"#])
                #expect(try daemon.output("doctor").contains("sound"))
            }
        }

        @Test func whoMayAndWhatThereIs() throws {
            try DaemonProcess.prepared { daemon in
                let port = try Port.free()
                try daemon.start(["--listen", "127.0.0.1:\(port)"])
                let session = try Self.session(daemon)
                let other = try Self.session(daemon)
                let id = try Self.send(daemon, session, [Self.message(Self.secret)])[0]
                func status(_ session: String, _ event: String) throws -> Int {
                    try daemon.http("POST", "\(session)/events/\(event)/redact").status
                }
                #expect(try status(other, id) == 404)
                #expect(try status(session, "sevt_nope") == 404)
                #expect(try status("/v1/sessions/sesn_nope", id) == 404)
                #expect(try daemon.http("GET", "\(session)/events/\(id)/redact").status == 405)
                for (permission, expected) in [("--read", 403), ("--write", 403), ("--admin", 200)] {
                    let key = try daemon.output("key", "create", "k", permission).trimmingCharacters(in: .newlines)
                    if permission == "--admin" { #expect(try daemon.http("POST", "\(session)/archive").status == 200) }
                    #expect(try Port.http(port, "POST", "\(session)/events/\(id)/redact", key: key).status == expected, "\(permission)")
                }
                let event = try #require(try daemon.http("GET", "\(session)/events").data().first)
                #expect((event["redacted_by"] as? [String: String])?["api_key_id"]?.hasPrefix("apikey_01") == true)
            }
        }

        @Test func aCommandDoesIt() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let ids = try Self.send(
                    daemon, session, [Self.message(Self.secret), Self.message("other \(Self.secret)"), Self.message("stays")])
                let name = String(session.split(separator: "/")[2])
                #expect(try daemon.output("session", "redact", name, ids[0], ids[1]) == "\(ids[0])\n\(ids[1])\n")
                #expect(try Self.traces(daemon) == [])
                let shown = try daemon.output("session", "events", name)
                #expect(shown.contains("[redacted]") && shown.contains("stays") && !shown.contains(Self.secret))
                let json = try daemon.remfs("session", "redact", name, ids[0], "--json").json()["data"] as? [[String: Any]]
                #expect(json?.first?["redacted_at"] is String)
                #expect(try daemon.remfs("session", "redact", name, "sevt_nope").status == 66)
            }
        }

        /// Killed in the middle: the next one finishes, in its first seconds.
        @Test func aKillLeavesItToTheNextOne() throws {
            try DaemonProcess.with { daemon in
                try Self.send(daemon, try Self.session(daemon), [Self.message("stays")])
                #expect(try daemon.stop().status == 0)
                let root = try #require(daemon.environment["REMFS_STATE_DIR"])
                // As a redaction leaves the files that has blanked its event and no more. (This SQLite may be one that clears what it frees.)
                let left =
                    "CREATE TABLE x (t TEXT); INSERT INTO x VALUES (replace(hex(zeroblob(5000)), '00', '\(Self.secret)')); DROP TABLE x;"
                for file in ["catalog.sqlite", "catalog.sqlite.backup"] {
                    try Program.start(
                        ["sqlite3", "\(root)/\(file)", "PRAGMA secure_delete = OFF; \(left) PRAGMA wal_checkpoint(TRUNCATE);"], in: "/",
                        scratch: daemon.directory
                    ).success()
                }
                #expect(
                    try Set(Self.traces(daemon)).isSuperset(of: ["catalog.sqlite", "catalog.sqlite.backup"]), "in pages that nobody uses")
                try Data().write(to: URL(fileURLWithPath: "\(root)/catalog.sqlite.redaction"))
                try daemon.start()
                let deadline = ContinuousClock.now + .seconds(20 * Sanitizer.slowdown)
                while access("\(root)/catalog.sqlite.redaction", F_OK) == 0, ContinuousClock.now < deadline { usleep(20_000) }
                #expect(access("\(root)/catalog.sqlite.redaction", F_OK) != 0)
                #expect(try Self.traces(daemon) == [])
            }
        }
    }
}
