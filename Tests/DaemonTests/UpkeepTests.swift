import Foundation
import Glibc
import TestSupport
import Testing

/// Redaction, retention and search, over the socket and by the commands.
extension ServeTests {
    @Suite(.serialized) struct UpkeepTests {
        private static let secret = "qzxjvkwpfq-zzyyxxwwqq"

        private static func post(_ daemon: DaemonProcess, _ target: String, _ body: [String: Any]? = nil) throws -> RawResponse {
            let text = try body.map { String(decoding: try JSONSerialization.data(withJSONObject: $0), as: UTF8.self) }
            return try daemon.http("POST", target, text)
        }

        private static func create(_ daemon: DaemonProcess) throws -> String {
            "/v1/memory_stores/" + (try #require(try post(daemon, "/v1/memory_stores", ["name": "notes"]).json()["id"] as? String))
        }

        /// A memory and, for each text, the version that held it.
        private static func memory(
            _ daemon: DaemonProcess, _ store: String, _ path: String, _ texts: String...
        ) throws -> (id: String, versions: [String]) {
            let created = try post(daemon, "\(store)/memories", ["path": path, "content": texts[0]]).json()
            let id = try #require(created["id"] as? String)
            var versions = [try #require(created["memory_version_id"] as? String)]
            for text in texts.dropFirst() {
                let updated = try post(daemon, "\(store)/memories/\(id)", ["content": text]).json()
                versions.append(try #require(updated["memory_version_id"] as? String))
            }
            return (id, versions)
        }

        private static func traces(_ daemon: DaemonProcess) throws -> [String] {
            let root = try #require(daemon.environment["REMFS_STATE_DIR"])
            let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []
            return names.filter { name in
                guard let data = FileManager.default.contents(atPath: "\(root)/\(name)") else { return false }
                return data.range(of: Data(secret.utf8)) != nil
            }
        }

        @Test func aRedactedVersionKeepsItsRow() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let (id, versions) = try Self.memory(daemon, store, "/\(Self.secret).md", "a \(Self.secret)", "clean")
                _ = try Self.post(daemon, "\(store)/memories/\(id)", ["path": "/b.md"])
                let before = try daemon.http("GET", "\(store)/memory_versions/\(versions[0])").json()
                let response = try daemon.http("POST", "\(store)/memory_versions/\(versions[0])/redact")
                #expect(response.status == 200)
                let redacted = try response.json()
                #expect(Set(redacted.keys) == Set(before.keys))
                for key in ["content", "path", "content_sha256", "content_size_bytes"] { #expect(redacted[key] is NSNull, "\(key)") }
                for key in ["id", "memory_id", "memory_store_id", "operation", "created_at"] {
                    #expect(redacted[key] as? String == before[key] as? String, "\(key)")
                }
                #expect(redacted["created_by"] as? [String: String] == ["type": "api_actor", "api_key_id": "apikey_local"])
                #expect(redacted["redacted_by"] as? [String: String] == ["type": "api_actor", "api_key_id": "apikey_local"])
                #expect(redacted["redacted_at"] is String)
                let again = try daemon.http("POST", "\(store)/memory_versions/\(versions[0])/redact").json()
                #expect(again["redacted_at"] as? String == redacted["redacted_at"] as? String)
                #expect(try daemon.http("GET", "\(store)/memory_versions/\(versions[0])/content").status == 404)
                #expect(try daemon.http("POST", "\(store)/memory_versions/\(versions[0])/restore").status == 400)

                let list = try daemon.http("GET", "\(store)/memory_versions?memory_id=\(id)&view=full").data()
                #expect(list.count == 3 && list.last?["content"] is NSNull && list.first?["content"] as? String == "clean")
                let head = try daemon.http("POST", "\(store)/memory_versions/\(list[0]["id"] as? String ?? "")/redact")
                #expect(head.status == 400)
                #expect(try head.errorType() == "invalid_request_error")
                #expect(try daemon.http("POST", "\(store)/memory_versions/memver_nope/redact").status == 404)
                #expect(try daemon.http("GET", "\(store)/memory_versions/\(versions[0])/redact").status == 405)

                // The path was that of the second version as well; closed stores and deletions allow it.
                #expect(try !Self.traces(daemon).isEmpty)
                _ = try daemon.http("DELETE", "\(store)/memories/\(id)")
                _ = try daemon.http("POST", "\(store)/archive")
                for version in try daemon.http("GET", "\(store)/memory_versions?memory_id=\(id)").data() {
                    #expect(try daemon.http("POST", "\(store)/memory_versions/\(version["id"] as? String ?? "")/redact").status == 200)
                }
                #expect(try Self.traces(daemon) == [])
                #expect(try daemon.remfs("doctor", "notes").status == 0)
                _ = try daemon.stop()
                #expect(try Self.traces(daemon) == [])
            }
        }

        /// Killed between any two of its statements, it is as if it had not been asked, or the next start finishes it.
        @Test func aKilledRedactionIsFinishedByTheNextStart() throws {
            try DaemonProcess.prepared { daemon in
                let place = "\(daemon.directory)/kill"
                try daemon.start(environment: ["REMFS_DEBUG_KILL_AT_STATEMENT": place])
                let store = try Self.create(daemon)
                let filler = String(repeating: "nothing to hide here. ", count: 4_000)
                for place in 0..<20 { _ = try Self.memory(daemon, store, "/filler/\(place).md", "\(place) \(filler)") }
                var outcomes = (killed: 0, finished: 0, untouched: 0)
                for statement in stride(from: 1, through: 25, by: 2) {
                    let (_, versions) = try Self.memory(
                        daemon, store, "/\(statement).md", "\(statement) \(Self.secret)", "clean \(statement)")
                    let target = "\(store)/memory_versions/\(versions[0])"
                    try Data("\(statement) \(statement)\n".utf8).write(to: URL(fileURLWithPath: place))
                    // It broke off, or has ended before as many statements.
                    _ = try daemon.remfs("redact", "notes", versions[0])
                    let wasKilled = unlink(place) != 0
                    // The holder starts another one; whoever asks waits for it.
                    var answer: [String: Any]?
                    for _ in 0..<500 where answer == nil {
                        answer = try? daemon.http("GET", target).json()
                        if answer == nil { usleep(20_000) }
                    }
                    let version = try #require(answer)
                    outcomes.killed += wasKilled ? 1 : 0
                    if version["redacted_at"] is NSNull {
                        outcomes.untouched += 1
                        #expect(wasKilled && version["content"] as? String == "\(statement) \(Self.secret)", "statement \(statement)")
                        #expect(try daemon.http("POST", "\(target)/redact").status == 200)
                    } else if wasKilled {
                        outcomes.finished += 1
                    }
                    #expect(try Self.traces(daemon) == [], "statement \(statement)")
                    #expect(try daemon.remfs("doctor", "notes").status == 0, "statement \(statement)")
                }
                #expect(outcomes.killed >= 5 && outcomes.finished >= 1 && outcomes.untouched >= 1, "\(outcomes)")
            }
        }

        @Test func commandsRedactPinAndLog() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let (_, versions) = try Self.memory(daemon, store, "/a.md", "one \(Self.secret)", "two \(Self.secret)", "three")
                #expect(try daemon.output("redact", "notes", versions[0], versions[1]) == "\(versions[0])\n\(versions[1])\n")
                #expect(try daemon.output("log", "notes").split(separator: "\n").count { $0.contains("redacted") } == 2)
                #expect(try Self.traces(daemon) == [])
                let refused = try daemon.remfs("redact", "notes", versions[2])
                #expect(refused.status == 65 && refused.errors.contains("/a.md"))
                #expect(try daemon.remfs("redact", "notes", "memver_nope").status == 66)
                let pinned = try daemon.remfs("pin", "notes", versions[2], "--json").json()
                #expect(pinned["pinned"] as? Bool == true)
                try daemon.output("unpin", "notes", versions[2])
                #expect(try daemon.http("GET", "\(store)/memory_versions/\(versions[2])").json()["pinned"] as? Bool == false)
            }
        }

        /// What is known of the same bytes elsewhere is told, and taken along where it is asked for.
        @Test func aRedactionSaysWhatIsLeft() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let (_, versions) = try Self.memory(daemon, store, "/a.md", Self.secret, "clean")
                let (_, others) = try Self.memory(daemon, store, "/b.md", Self.secret)
                try daemon.output("store", "backup", "notes", "\(daemon.directory)/backup.sqlite")
                try daemon.output("export", "notes", "-o", "\(daemon.directory)/notes.tar")
                try daemon.output("store", "fork", "notes", "fork", "--history")
                let kept = try #require(store.split(separator: "/").last) + ".sqlite"
                try Data(Self.secret.utf8).write(to: URL(fileURLWithPath: "\(daemon.state)/stores/\(kept).schema-1"))
                let told = try daemon.remfs("redact", "notes", versions[0])
                #expect(told.status == 0 && told.output == "\(versions[0])\n", "\(told.errors)")
                let lines = told.errors.split(separator: "\n").map(String.init)
                #expect(lines.count { $0.contains("holds it now") } == 2, "\(told.errors)")
                #expect(lines.contains { $0.contains(others[0]) && $0.contains("/b.md") })
                #expect(lines.count { $0.contains("backup of") } == 1, "\(told.errors)")
                // It was the head of /b.md when that was exported, and of /a.md no longer.
                #expect(lines.count { $0.contains("export of") } == 1, "\(told.errors)")

                for name in ["notes", "fork"] { try daemon.output("memory", "rm", name, "b.md") }
                let answer = try daemon.remfs("redact", "notes", others[0], "--derived", "--json").json()
                let redaction = try #require((answer["data"] as? [[String: Any]])?.first)
                #expect(
                    Set(redaction.keys) == ["type", "version", "derived", "removed", "remaining", "omitted", "hidden"]
                        && redaction["type"] as? String == "memory_redaction")
                #expect((redaction["derived"] as? [[String: Any]])?.count == 2)
                let kinds = try #require(redaction["remaining"] as? [[String: Any]]).compactMap { $0["kind"] as? String }
                #expect(kinds.sorted() == ["backup", "export"], "\(kinds)")
                #expect(try Self.traces(daemon) == [])
                let target = "\(store)/memory_versions/\(others[0])/redact"
                #expect(try daemon.http("POST", target, "{}").json()["type"] as? String == "memory_version")
                #expect(try daemon.http("POST", target, #"{"derived": 1}"#).status == 400)
                #expect(try daemon.http("POST", target, #"{"all": true}"#).status == 400)
                #expect(try daemon.http("POST", target, "[").status == 400)
            }
        }

        @Test func retentionMakesTheFileSmaller() throws {
            try DaemonProcess.prepared { daemon in
                let clock = try #require(daemon.environment["HOME"]) + "/clock"
                try Data("0\n".utf8).write(to: URL(fileURLWithPath: clock))
                try daemon.start(environment: ["REMFS_DEBUG_CLOCK": clock])
                let store = try Self.create(daemon)
                var random = SystemRandomNumberGenerator()
                func text() -> String { (0..<1_500).map { _ in String(random.next(), radix: 36) }.joined(separator: " ") }
                let (id, versions) = try Self.memory(daemon, store, "/a.md", text())
                for _ in 0..<30 { _ = try Self.post(daemon, "\(store)/memories/\(id)", ["content": text()]) }
                #expect(try daemon.http("POST", "\(store)/memory_versions/\(versions[0])/pin").status == 200)
                let kept = try daemon.http("POST", "\(store)/gc").json()
                #expect(kept["versions"] as? Int == 0 && kept["retention_days"] is NSNull)
                try daemon.output("store", "set", "notes", "--retention-days", "7")
                try Data("\(8 * 86_400)\n".utf8).write(to: URL(fileURLWithPath: clock))

                let plan = try Self.post(daemon, "\(store)/gc", ["dry_run": true]).json()
                #expect(plan["type"] as? String == "memory_store_gc" && plan["dry_run"] as? Bool == true)
                #expect(plan["versions"] as? Int == 20 && plan["retention_days"] as? Int == 7 && plan["memories"] as? Int == 0)
                let text = try daemon.output("store", "gc", "notes", "--dry-run")
                #expect(text.hasPrefix("versions to give up: 20 (older than 7 days)\n"))
                let state = try #require(daemon.environment["REMFS_STATE_DIR"])
                let file = "\(state)/stores/\(store.split(separator: "/").last!).sqlite"
                // As the file is without its journal, which the first call has emptied.
                func size() throws -> Int { try #require(try FileManager.default.attributesOfItem(atPath: file)[.size] as? Int) }
                let before = try size()
                let done = try daemon.remfs("store", "gc", "notes", "--json").json()
                #expect(done["versions"] as? Int == 20)
                let after = try size()
                #expect(after < before - (plan["content_bytes"] as? Int ?? 0) * 9 / 10, "\(before) to \(after)")
                #expect(done["file_bytes_after"] as? Int ?? .max < done["file_bytes_before"] as? Int ?? 0)
                #expect(try daemon.http("GET", "\(store)/memory_versions?limit=100").data().count == 11)
                #expect(try daemon.remfs("doctor", "notes").status == 0)
                #expect(try Self.post(daemon, "\(store)/gc", ["dry": true]).status == 400)
                #expect(try Self.post(daemon, "\(store)/gc", ["dry_run": 1]).status == 400)
                #expect(try Self.post(daemon, "/v1/memory_stores/memstore_nope/gc").status == 404)
            }
        }

        @Test func searchFindsWhatIsThere() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                _ = try Self.memory(daemon, store, "/plans/q3.md", "We ship on Monday.", "We ship on Friday, unless it rains.\n")
                for place in 0..<5 { _ = try Self.memory(daemon, store, "/notes/\(place).md", "friday is day \(place)") }
                let found = try daemon.http("GET", "\(store)/search?q=ship%20fri*").json()
                #expect(Set(found.keys) == ["data", "next_page"] && found["next_page"] is NSNull)
                let result = try #require((found["data"] as? [[String: Any]])?.first)
                #expect(Set(result.keys) == ["type", "memory", "snippet", "highlights", "score"])
                #expect(result["type"] as? String == "memory_search_result")
                #expect((result["memory"] as? [String: Any])?["path"] as? String == "/plans/q3.md")
                #expect(result["snippet"] as? String == "We ship on Friday, unless it rains.\n")
                #expect(result["highlights"] as? [[Int]] == [[3, 7], [11, 17]])
                #expect(result["score"] as? Double ?? 0 > 0)
                #expect(try daemon.http("GET", "\(store)/search?q=monday").data().isEmpty)
                #expect(try daemon.http("GET", "\(store)/search?q=friday&path_prefix=/plans/").data().count == 1)

                var paths: Set<String> = []
                var page: String?
                var pages = 0
                repeat {
                    let target = "\(store)/search?q=friday&limit=4" + (page.map { "&page=\($0)" } ?? "")
                    let part = try daemon.http("GET", target).json()
                    for item in part["data"] as? [[String: Any]] ?? [] {
                        paths.insert((item["memory"] as? [String: Any])?["path"] as? String ?? "")
                    }
                    page = part["next_page"] as? String
                    pages += 1
                } while page != nil && pages < 9
                #expect(paths.count == 6 && pages == 2)

                for query in ["", "?q=", "?q=%20", "?q=%22open", "?q=...", "?q=a&path_prefix=a/", "?q=a&limit=0", "?q=a&page=page_x"] {
                    let response = try daemon.http("GET", "\(store)/search\(query)")
                    #expect(response.status == 400, "\(query)")
                    #expect(try response.errorType() == "invalid_request_error")
                }
                let listed = try daemon.http("GET", "\(store)/memory_versions?limit=1").json()["next_page"] as? String ?? ""
                #expect(try daemon.http("GET", "\(store)/search?q=a&page=\(listed)").status == 400)
                #expect(try daemon.http("GET", "/v1/memory_stores/memstore_nope/search?q=").status == 404)

                #expect(try daemon.output("search", "notes", "ship", "friday") == "/plans/q3.md\n    We ship on Friday, unless it rains.\n")
                #expect(try daemon.output("search", "notes", "friday", "--under", "notes", "-n", "2").split(separator: "\n").count == 4)
                #expect(try daemon.remfs("search", "notes", "friday", "--json").json()["data"] as? [[String: Any]] != nil)
                #expect(try daemon.remfs("search", "notes", "\"open").status == 65)
                #expect(try daemon.output("search", "notes", "nothing") == "")
            }
        }
    }
}
