import Foundation
import Glibc
import Storage
import TestSupport
import Testing

/// `remfs revert`, on the socket and over TCP.
extension ServeTests {
    @Suite(.serialized) struct RevertTests {
        private static func id(_ text: String) -> String { text.trimmingCharacters(in: .newlines) }

        /// Runs `body` with a daemon on the socket and a port, and a session that has changed `notes` and `plans`. It also had `gone`, which is
        /// deleted, and `closed`, which is only read and in which it did nothing.
        private static func with(_ body: (DaemonProcess, _ session: String, _ remote: [String]) throws -> Void) throws {
            try DaemonProcess.prepared { daemon in
                try daemon.start()
                let stores = try ["notes", "plans", "gone", "closed"].map { Self.id(try daemon.output("store", "create", $0)) }
                let session = Self.id(
                    try daemon.output(
                        "session", "create", "--store", "notes", "--store", "gone", "--store", "closed:ro", "--store", "plans"))
                for path in ["changed", "moved", "gone", "contested"] {
                    try daemon.output("memory", "write", "notes", path, input: "one\n")
                }
                try daemon.output("memory", "write", "plans", "a", input: "one\n")
                try daemon.output("store", "delete", "gone")
                let closed = try daemon.http("POST", "/v1/memory_stores/\(stores[3])/policy", #"{"access": "read_only"}"#)
                try #require(closed.status == 200)
                _ = try daemon.stop()
                try Self.act(daemon, notes: stores[0], plans: stores[1], as: session)
                let port = try Port.free()
                try daemon.start(["--listen", "127.0.0.1:\(port)"])
                try daemon.output("memory", "write", "notes", "contested", input: "three\n")
                let key = "\(daemon.directory)/key"
                try Data(try daemon.output("key", "create", "test", "--write").utf8).write(to: URL(fileURLWithPath: key))
                try check(chmod(key, 0o600))
                try body(daemon, session, ["--url", "http://127.0.0.1:\(port)", "--key-file", key])
            }
        }

        /// What the session does.
        private static func act(_ daemon: DaemonProcess, notes: String, plans: String, as session: String) throws {
            let log = ErrorLog()
            let pool = try StorePool(stateDirectory: daemon.state, logger: log.logger)
            defer { pool.close() }
            let author = Author(.session(session))
            func on(_ store: String, _ body: (MemoryStore) throws -> Void) throws {
                let id = try #require(StoreID(store))
                let store = try pool.retain(id)
                defer { pool.release(id) }
                try body(store)
            }
            try on(notes) { store in
                for path in ["/changed", "/contested"] {
                    try store.commit(.update(store.memory(at: path).id, content: Array("two\n".utf8), path: nil), by: author)
                }
                try store.commit(.update(store.memory(at: "/moved").id, content: nil, path: MemoryPath("/away")), by: author)
                try store.commit(.delete(store.memory(at: "/gone").id), by: author)
                try store.commit(.create(path: MemoryPath("/new"), content: Array("new\n".utf8)), by: author)
            }
            try on(plans) { store in
                try store.commit(.update(store.memory(at: "/a").id, content: Array("two\n".utf8), path: nil), by: author)
            }
            log.expectNone()
        }

        private static func contents(_ daemon: DaemonProcess) throws -> [String: String] {
            var contents: [String: String] = [:]
            for path in ["changed", "moved", "away", "gone", "new", "contested"] {
                let result = try daemon.remfs("memory", "cat", "notes", path)
                if result.status == 0 { contents[path] = result.output.trimmingCharacters(in: .newlines) }
            }
            return contents
        }

        private static let asTheSessionLeftIt = ["changed": "two", "away": "one", "new": "new", "contested": "three"]
        private static let before = ["changed": "one", "moved": "one", "gone": "one", "contested": "three"]

        private static func words(_ text: String) -> [String] {
            text.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
        }

        @Test(arguments: ["socket", "TCP"]) func itSaysWhatItWouldDoAndDoesItWhenTold(by way: String) throws {
            try Self.with { daemon, session, remote in
                let way = way == "TCP" ? remote : ["--socket", daemon.socket]
                func revert(_ arguments: String...) throws -> Binary.Result {
                    try Binary.run(["revert", "--session", session] + arguments + way, environment: daemon.environment)
                }
                let planned = try revert()
                #expect(planned.status == 0)
                #expect(planned.errors.contains("nothing was changed: --yes does it"), "\(planned.errors)")
                #expect(planned.errors.contains("(gone) was deleted"), "\(planned.errors)")
                let lines = Self.words(planned.output)
                #expect(lines.contains { $0.hasPrefix("notes (memstore_01") && $0.hasSuffix("): 4 to put back") }, "\(lines)")
                #expect(lines.contains { $0.hasPrefix("closed (memstore_01") && $0.hasSuffix("): nothing to put back") }, "\(lines)")
                #expect(lines.contains { $0.hasPrefix("plans (memstore_01") && $0.hasSuffix("): 1 to put back") }, "\(lines)")
                for what in ["restored /changed memver_01", "moved /away -> /moved memver_01", "recreated /gone memver_01"] {
                    #expect(lines.contains { $0.hasPrefix(what) }, "\(what): \(lines)")
                }
                #expect(lines.contains { $0.hasPrefix("deleted /new memver_01") && $0.hasSuffix(" -") }, "\(lines)")
                #expect(lines.contains { $0.hasPrefix("/contested changed since: apikey_local, 2") }, "\(lines)")
                #expect(try Self.contents(daemon) == Self.asTheSessionLeftIt)

                let done = try revert("--store", "notes", "--yes")
                #expect(done.status == 0 && Self.words(done.output).first?.hasSuffix("): 4 put back") == true, "\(done.errors)")
                #expect(try Self.contents(daemon) == Self.before)
                #expect(try daemon.output("memory", "cat", "plans", "a") == "two\n")

                // The command that it says undoes it, word by word.
                let undo = try #require(done.errors.firstMatch(of: /remfs: remfs (restore .*) undoes it/)).1.split(separator: " ")
                let undone = try Binary.run(undo.map(String.init) + way, environment: daemon.environment)
                #expect(undone.status == 0, "\(undone.errors)")
                #expect(try Self.contents(daemon) == Self.asTheSessionLeftIt)
            }
        }

        @Test func allStoresOfASessionAreAskedAndOneMayFail() throws {
            try Self.with { daemon, session, remote in
                func revert(_ arguments: String...) throws -> Binary.Result {
                    try Binary.run(["revert"] + arguments + remote, environment: daemon.environment)
                }
                let plans = try #require(try daemon.remfs("store", "show", "plans", "--json").json()["id"] as? String)
                _ = try daemon.http("POST", "/v1/memory_stores/\(plans)/policy", #"{"access": "read_only"}"#)
                let failed = try revert("--session", session, "--yes", "--json")
                #expect(failed.status == 77 && failed.errors.contains("store \"plans\""), "\(failed.errors)")
                let done = try #require(try failed.json()["data"] as? [[String: Any]])
                #expect(done.map { $0["dry_run"] as? Bool } == [false, true], "notes is done, in closed there was nothing to do")
                #expect(try Self.contents(daemon) == Self.before)
                _ = try daemon.http("POST", "/v1/memory_stores/\(plans)/policy", #"{"access": "read_write"}"#)
                // Since a time that is still to come there is nothing; a deleted session's changes are still known by its ID.
                #expect(
                    try Self.words(revert("--session", session, "--since", "2999-01-01T00:00:00Z", "--yes").output).allSatisfy {
                        $0.hasSuffix("nothing to put back")
                    })
                try daemon.output("session", "delete", session)
                let unknown = try revert("--session", session, "--yes")
                #expect(unknown.status == 66 && unknown.errors.contains("--store"), "\(unknown.errors)")
                #expect(try revert("--session", session, "--store", "plans", "--yes").status == 0)
                #expect(try daemon.output("memory", "cat", "plans", "a") == "one\n")

                #expect(try revert("--session", "nonsense", "--store", "plans").status == 65)
                #expect(try revert("--session", "nonsense").status == 66)
                #expect(try revert("--session", session, "--store", "plans", "--since", "then").status == 65)
                #expect(try revert("--session", session, "--store", "nobody").status == 66)
                #expect(try revert("--store", "plans").status == 64)
            }
        }
    }
}
