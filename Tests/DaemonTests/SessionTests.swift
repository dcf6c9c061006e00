import Foundation
import Glibc
import TestSupport
import Testing

/// The session routes on the wire (`api.md` 7), and the dream routes as far as there are any.
extension ServeTests {
    @Suite(.serialized) struct SessionTests {
        private static func json(_ value: Any) throws -> String {
            String(decoding: try JSONSerialization.data(withJSONObject: value), as: UTF8.self)
        }

        /// A call that has to succeed.
        @discardableResult
        static func call(_ daemon: DaemonProcess, _ method: String, _ path: String, _ body: Any? = nil) throws -> [String: Any] {
            let response = try daemon.http(method, path, try body.map { try json($0) })
            try #require(response.status == 200, "\(method) \(path): \(String(decoding: response.body, as: UTF8.self))")
            return try response.json()
        }

        static func id(_ object: [String: Any]) throws -> String { try #require(object["id"] as? String) }

        static func store(_ daemon: DaemonProcess, _ name: String) throws -> String {
            try id(call(daemon, "POST", "/v1/memory_stores", ["name": name]))
        }

        static func session(_ daemon: DaemonProcess, _ more: [String: Any] = [:]) throws -> [String: Any] {
            try call(daemon, "POST", "/v1/sessions", ["agent": "a", "environment_id": "e"].merging(more) { $1 })
        }

        static func message(_ text: String) -> [String: Any] { ["type": "user.message", "content": [["type": "text", "text": text]]] }

        @Test func aSessionHasTheseFields() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.store(daemon, "Team handbook")
                let made = try Self.session(
                    daemon,
                    [
                        "resources": [["type": "memory_store", "memory_store_id": store, "access": "read_only"]], "unheard_of": true,
                        "title": NSNull(), "initial_events": [Self.message("hi")],
                    ])
                #expect(
                    Set(made.keys) == [
                        "id", "type", "status", "agent", "environment_id", "vault_ids", "title", "metadata", "resources",
                        "outcome_evaluations", "budget", "deployment_id", "stats", "usage", "created_at", "updated_at", "archived_at",
                    ])
                #expect(made["type"] as? String == "session" && made["status"] as? String == "idle")
                #expect((made["id"] as? String)?.hasPrefix("sesn_01") == true)
                for key in ["title", "budget", "deployment_id", "archived_at"] { #expect(made[key] is NSNull, "\(key)") }
                let agent = try #require(made["agent"] as? [String: Any])
                #expect(
                    Set(agent.keys) == [
                        "id", "type", "version", "name", "description", "system", "model", "tools", "skills", "mcp_servers", "multiagent",
                        "execution_identity",
                    ])
                #expect(agent["version"] as? Int == 1 && agent["name"] as? String == "a" && agent["multiagent"] is NSNull)
                #expect(agent["execution_identity"] as? [String: String] == ["type": "service_account"])
                #expect((made["usage"] as? [String: Any])?["input_tokens"] as? Int == 0)
                #expect((made["stats"] as? [String: Any])?["active_seconds"] as? Double == 0)
                let resource = try #require((made["resources"] as? [[String: Any]])?.first)
                #expect(
                    Set(resource.keys) == [
                        "type", "memory_store_id", "access", "instructions", "name", "description", "mount_path",
                    ])
                #expect(resource["mount_path"] as? String == "/mnt/memory/team-handbook" && resource["instructions"] is NSNull)
                let path = "/v1/sessions/\(try Self.id(made))"
                #expect(try Self.call(daemon, "GET", path) as NSDictionary == made as NSDictionary)
                let events = try daemon.http("GET", "\(path)/events").data()
                #expect(events.map { $0["type"] as? String } == ["user.message"])
                let threads = try daemon.http("GET", "\(path)/threads").data()
                let thread = try #require(threads.first)
                #expect(
                    Set(thread.keys) == [
                        "id", "type", "session_id", "parent_thread_id", "agent", "status", "stats", "usage", "workflow_run_id",
                        "created_at", "updated_at", "archived_at",
                    ])
                #expect(threads.count == 1 && thread["parent_thread_id"] is NSNull && thread["status"] as? String == "idle")
                #expect((thread["agent"] as? [String: Any])?["multiagent"] == nil)
                #expect(try daemon.http("GET", "\(path)/threads/\(try Self.id(thread))/events").data().count == 1)
            }
        }

        @Test func whatRemfsAddsIsEchoed() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.store(daemon, "n")
                let options: [String: Any] = ["uid": 1000, "history": false, "coherence": "strict"]
                let made = try Self.session(
                    daemon,
                    [
                        "resources": [["type": "memory_store", "memory_store_id": store, "remfs": options]],
                        "remfs": ["trust": "untrusted"],
                    ])
                #expect(made["remfs"] as? [String: String] == ["trust": "untrusted"])
                let resource = try #require((made["resources"] as? [[String: Any]])?.first)
                #expect(resource["remfs"] as? NSDictionary == options as NSDictionary)
                let path = "/v1/sessions/\(try Self.id(made))"
                let changed = try Self.call(daemon, "POST", "\(path)/resources/\(store)", ["access": "read_only"])
                #expect(changed["access"] as? String == "read_only" && changed["remfs"] as? NSDictionary == options as NSDictionary)
                #expect(try Self.call(daemon, "GET", "\(path)/resources/\(store)")["access"] as? String == "read_only")
                // A store that is gone stays in the sessions that had it.
                try Self.call(daemon, "DELETE", "/v1/memory_stores/\(store)")
                #expect(try daemon.http("GET", "\(path)/resources").data().first?["name"] as? String == "n")
            }
        }

        @Test func everyRefusalHasTheEnvelope() throws {
            try DaemonProcess.with { daemon in
                let (store, archived) = (try Self.store(daemon, "n"), try Self.store(daemon, "old"))
                try Self.call(daemon, "POST", "/v1/memory_stores/\(archived)/archive")
                let other = "/v1/sessions/\(try Self.id(Self.session(daemon)))"
                let session =
                    "/v1/sessions/\(try Self.id(Self.session(daemon, ["resources": [["type": "memory_store", "memory_store_id": store]]])))"
                let thread = try Self.id(try #require(try daemon.http("GET", "\(session)/threads").data().first))
                let ended = "/v1/sessions/\(try Self.id(Self.session(daemon)))"
                try Self.call(daemon, "POST", "\(ended)/archive")
                func new(_ more: String) -> String { #"{"agent": "a", "environment_id": "e", \#(more)}"# }
                let attached = #"{"type": "memory_store", "memory_store_id": "\#(store)"}"#
                let ok = try Self.json(["events": [Self.message("x")]])
                let cases: [(String, String, String?, Int)] = [
                    ("GET", "/v1/sessions/sesn_nope", nil, 404), ("POST", "/v1/sessions/sesn_nope", "{}", 404),
                    ("DELETE", "/v1/sessions/sesn_nope", nil, 404), ("POST", "/v1/sessions/sesn_nope/archive", nil, 404),
                    ("GET", "/v1/sessions/sesn_nope/events", nil, 404), ("POST", "/v1/sessions/sesn_nope/events", ok, 404),
                    ("POST", "/v1/sessions/sesn_nope/events", "{", 404),
                    ("GET", "/v1/sessions/sesn_nope/events/stream", nil, 404), ("GET", "/v1/sessions/sesn_nope/resources", nil, 404),
                    ("GET", "/v1/sessions/sesn_nope/threads", nil, 404), ("POST", "/v1/sessions/sesn_nope/resources", "{}", 404),
                    ("PUT", session, "{}", 405), ("DELETE", "\(session)/events", nil, 405),
                    ("POST", "/v1/sessions", "{", 400), ("POST", "/v1/sessions", #"{"agent": "a"}"#, 400),
                    ("POST", "/v1/sessions", new(#""resources": [\#(attached), \#(attached)]"#), 400),
                    ("POST", "/v1/sessions", new(#""resources": [{"type": "memory_store", "memory_store_id": "\#(archived)"}]"#), 400),
                    ("POST", "/v1/sessions", new(#""resources": [{"type": "memory_store", "memory_store_id": "memstore_nope"}]"#), 404),
                    ("POST", "/v1/sessions", new(#""resources": [{"type": "file", "file_id": "f"}]"#), 400),
                    ("POST", "/v1/sessions", new(#""budget": {}"#), 400),
                    ("POST", session, #"{"agent": "b"}"#, 400), ("POST", session, #"{"budget": {}}"#, 400),
                    ("POST", session, #"{"vault_ids": ["v"]}"#, 400), ("POST", session, #"{"colour": 1}"#, 400),
                    ("POST", session, #"{"metadata": {"\#(String(repeating: "k", count: 65))": "v"}}"#, 400),
                    ("POST", "\(session)/events", #"{"events": []}"#, 400), ("POST", "\(session)/events", "[]", 400),
                    ("POST", "\(session)/events", #"{"events": [{"type": "user.define_outcome"}]}"#, 400),
                    ("POST", "\(ended)/events", ok, 400),
                    ("GET", "\(session)/events?order=up", nil, 400), ("GET", "\(session)/events?limit=1001", nil, 400),
                    ("GET", "\(session)/events?page=page_x", nil, 400), ("GET", "\(session)/events?created_at[gt]=now", nil, 400),
                    ("GET", "\(session)/events/stream?event_deltas[]=user.message", nil, 400),
                    (
                        "GET",
                        "\(session)/events/stream?" + Array(repeating: "event_deltas[]=agent.message", count: 101).joined(separator: "&"),
                        nil, 400
                    ),
                    ("GET", "/v1/sessions?limit=0", nil, 400), ("GET", "/v1/sessions?limit=101", nil, 400),
                    ("GET", "/v1/sessions?order=up", nil, 400), ("GET", "/v1/sessions?statuses[]=asleep", nil, 400),
                    ("GET", "/v1/sessions?page=x", nil, 400), ("GET", "/v1/sessions?include_archived=maybe", nil, 400),
                    ("GET", "\(session)/resources/sesrsc_x", nil, 404), ("GET", "\(session)/resources?limit=1001", nil, 400),
                    ("GET", "\(other)/resources/\(store)", nil, 404),
                    ("POST", "\(session)/resources", #"{"type": "file", "file_id": "f"}"#, 400),
                    ("POST", "\(session)/resources", attached, 400),
                    ("POST", "\(session)/resources/\(store)", #"{"authorization_token": "t"}"#, 400),
                    ("POST", "\(session)/resources/sesrsc_x", #"{"authorization_token": "t"}"#, 400),
                    ("POST", "\(session)/resources/\(store)", #"{"access": "write_only"}"#, 400),
                    ("POST", "\(other)/resources/\(store)", #"{"access": "read_only"}"#, 404),
                    ("DELETE", "\(session)/resources/\(store)", nil, 400), ("DELETE", "\(session)/resources/sesrsc_x", nil, 404),
                    ("GET", "\(session)/threads/sthr_nope", nil, 404), ("GET", "\(other)/threads/\(thread)", nil, 404),
                    ("GET", "\(other)/threads/\(thread)/events", nil, 404), ("GET", "\(other)/threads/\(thread)/stream", nil, 404),
                    ("POST", "\(other)/threads/\(thread)/archive", nil, 404), ("GET", "\(session)/threads?statuses[]=asleep", nil, 400),
                    ("GET", "\(session)/threads?limit=1001", nil, 400),
                ]
                for (method, path, body, status) in cases {
                    let response = try daemon.http(method, path, body)
                    #expect(response.status == status, "\(method) \(path) \(body ?? ""): \(String(decoding: response.body, as: UTF8.self))")
                    let type = status == 404 ? "not_found_error" : "invalid_request_error"
                    #expect(try response.errorType() == type, "\(method) \(path)")
                    #expect(response.headers["content-type"]?.hasPrefix("application/json") == true)
                }
                // And none of it has left anything.
                #expect(try daemon.http("GET", "/v1/sessions?include_archived=true").data().count == 3)
                #expect(try daemon.http("GET", "\(session)/events").data().isEmpty)
            }
        }

        @Test func sessionsArePagedForwardAndBack() throws {
            try DaemonProcess.with { daemon in
                let ids = try (0..<7).map { _ in try Self.id(Self.session(daemon)) }
                func page(_ query: String) throws -> (ids: [String], next: String?, previous: String?) {
                    let answer = try Self.call(daemon, "GET", "/v1/sessions?\(query)")
                    let data = try #require(answer["data"] as? [[String: Any]])
                    return (try data.map { try Self.id($0) }, answer["next_page"] as? String, answer["prev_page"] as? String)
                }
                for (order, wanted) in [("desc", Array(ids.reversed())), ("asc", ids)] {
                    let query = "order=\(order)&limit=3"
                    let first = try page(query)
                    #expect(first.ids == Array(wanted[0..<3]) && first.previous == nil)
                    let second = try page("\(query)&page=\(try #require(first.next))")
                    #expect(second.ids == Array(wanted[3..<6]))
                    let third = try page("\(query)&page=\(try #require(second.next))")
                    #expect(third.ids == Array(wanted[6...]) && third.next == nil)
                    let back = try page("\(query)&page=\(try #require(third.previous))")
                    #expect(back.ids == second.ids && back.next == second.next)
                    let start = try page("\(query)&page=\(try #require(back.previous))")
                    #expect(start.ids == first.ids && start.previous == nil && start.next == first.next)
                    // Bound to its order.
                    let turned = try daemon.http("GET", "/v1/sessions?order=\(order == "asc" ? "desc" : "asc")&page=\(first.next ?? "")")
                    #expect(turned.status == 400)
                }
                // The boundary may go between pages.
                let first = try page("limit=3")
                try Self.call(daemon, "DELETE", "/v1/sessions/\(ids[4])")
                let second = try page("limit=3&page=\(try #require(first.next))")
                #expect(second.ids == [ids[3], ids[2], ids[1]])
                // Neither encoding of a repeated name is foreign, and no page is a phantom.
                #expect(try page("statuses[]=idle&statuses=running&limit=6").next == nil)
                #expect(try page("statuses%5B%5D=running").ids.isEmpty)
                #expect(try page("deployment_id=x").ids.isEmpty)
            }
        }

        @Test func eventsComeBackWithIDsInTheirOrder() throws {
            try DaemonProcess.with { daemon in
                let path = "/v1/sessions/\(try Self.id(Self.session(daemon)))"
                let sent: [[String: Any]] = [
                    Self.message(String(repeating: "é\u{2028}\"\\\n", count: 50_000)),
                    ["type": "agent.tool_use", "id": "toolu_1", "name": "bash", "input": ["command": "ls", "n": 1.5]],
                    ["type": "agent.tool_result", "tool_use_id": "toolu_1", "is_error": false],
                    ["type": "agent.message", "content": [["type": "text", "text": "done"]]],
                ]
                let answer = try Self.call(daemon, "POST", "\(path)/events", ["events": sent])
                #expect(Array(answer.keys) == ["data"])
                let data = try #require(answer["data"] as? [[String: Any]])
                #expect(data.map { $0["type"] as? String } == sent.map { $0["type"] as? String })
                #expect(data.allSatisfy { ($0["id"] as? String)?.hasPrefix("sevt_01") == true && $0["processed_at"] is String })
                #expect(data[0]["content"] as? NSArray == sent[0]["content"] as? NSArray)
                #expect(data[2]["tool_use_id"] as? String == data[1]["id"] as? String)
                #expect(data[1]["input"] as? NSDictionary == sent[1]["input"] as? NSDictionary)
                let listed = try daemon.http("GET", "\(path)/events").data()
                #expect(listed as NSArray == data as NSArray)
                let types = try daemon.http("GET", "\(path)/events?types[]=agent.message&types[]=agent.tool_use&order=desc").data()
                #expect(types.map { $0["id"] as? String } == [data[3]["id"] as? String, data[1]["id"] as? String])
                let time = try #require(data[1]["processed_at"] as? String)
                #expect(try daemon.http("GET", "\(path)/events?created_at[gt]=\(time)").data().count == 2)
                #expect(try daemon.http("GET", "\(path)/events?created_at%5Bgte%5D=\(time.dropLast())%2B00:00").data().count == 3)
                let page = try Self.call(daemon, "GET", "\(path)/events?limit=3")
                let cursor = try #require(page["next_page"] as? String)
                #expect(try daemon.http("GET", "\(path)/events?limit=3&page=\(cursor)").data().count == 1)
                #expect(try daemon.http("GET", "\(path)/events?order=desc&page=\(cursor)").status == 400)
                let other = "/v1/sessions/\(try Self.id(Self.session(daemon)))"
                #expect(try daemon.http("GET", "\(other)/events?page=\(cursor)").status == 400)
                // All or nothing.
                let wrong = try Self.json(["events": [Self.message("x"), ["type": "agent.tool_result", "tool_use_id": "sevt_nope"]]])
                #expect(try daemon.http("POST", "\(path)/events", wrong).status == 404)
                #expect(try daemon.http("GET", "\(path)/events").data().count == 4)
            }
        }

        @Test func aSessionEnds() throws {
            try DaemonProcess.with { daemon in
                let path = "/v1/sessions/\(try Self.id(Self.session(daemon, ["title": "t", "metadata": ["a": "1", "b": "2"]])))"
                let updated = try Self.call(
                    daemon, "POST", path, ["metadata": ["a": NSNull(), "c": "3"], "vault_ids": [], "budget": NSNull()])
                #expect(updated["metadata"] as? [String: String] == ["b": "2", "c": "3"] && updated["title"] as? String == "t")
                let archived = try Self.call(daemon, "POST", "\(path)/archive")
                #expect(archived["status"] as? String == "terminated" && archived["archived_at"] is String)
                #expect(try Self.call(daemon, "POST", "\(path)/archive") as NSDictionary == archived as NSDictionary)
                #expect(try daemon.http("GET", "/v1/sessions").data().isEmpty)
                #expect(try daemon.http("GET", "/v1/sessions?include_archived=true&statuses[]=terminated").data().count == 1)
                let deleted = try Self.call(daemon, "DELETE", path)
                #expect(deleted as? [String: String] == ["id": try Self.id(archived), "type": "session_deleted"])
                #expect(try daemon.http("DELETE", path).status == 404)
            }
        }

        @Test func sessionBodiesMayBeLargerThanOthers() throws {
            try DaemonProcess.with { daemon in
                let path = "/v1/sessions/\(try Self.id(Self.session(daemon)))"
                let large = try Self.json(["events": [Self.message(String(repeating: "x", count: 5 << 20))]])
                #expect(try daemon.http("POST", "\(path)/events", large).status == 200)
                let head = "POST \(path)/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
                let descriptor = try UnixSocket.connect(daemon.socket)
                defer { close(descriptor) }
                try UnixSocket.write(descriptor, head + "Content-Length: \((32 << 20) + 1)\r\n\r\n")
                let refused = try DaemonProcess.parse(try UnixSocket.readToEnd(descriptor))
                #expect(refused.status == 413)
                #expect(try refused.errorType() == "request_too_large")
                // The limit of the memory and dream routes stays what it was.
                let dream = #"{"inputs": ""# + String(repeating: "x", count: 4 << 20) + #""}"#
                #expect(try daemon.http("POST", "/v1/dreams", dream).status == 413)
            }
        }

        @Test func dreamsAreRefusedForTheReasonThatComesFirst() throws {
            try DaemonProcess.with { daemon in
                let (store, archived) = (try Self.store(daemon, "n"), try Self.store(daemon, "old"))
                try Self.call(daemon, "POST", "/v1/memory_stores/\(archived)/archive")
                let session = try Self.id(Self.session(daemon))
                func dream(_ store: String, _ sessions: [String], _ more: [String: Any] = [:]) throws -> String {
                    try Self.json(
                        [
                            "inputs": [
                                ["type": "memory_store", "memory_store_id": store], ["type": "sessions", "session_ids": sessions],
                            ], "model": "house-model",
                        ].merging(more) { $1 })
                }
                let cases: [(String, Int, String)] = [
                    ("{", 400, "JSON"), ("{}", 400, "inputs is required"), (try dream(store, []), 400, "1 to 100"),
                    (try dream(store, [session, session]), 400, "twice"), (try dream(store, ["sesn_nope"]), 404, "session"),
                    (try dream("memstore_nope", [session]), 404, "memory store"), (try dream(archived, [session]), 400, "archived"),
                    (try dream(store, [session], ["inputs": []]), 400, "one entry"),
                    (try dream(store, [session], ["inputs": [["type": "files"]]]), 400, "inputs[0].type"),
                    (try dream(store, [session], ["model": NSNull()]), 400, "model is required"),
                    (try dream(store, [session], ["model": ["id": "m", "speed": "fast"]]), 400, "speed"),
                    (try dream(store, [session], ["model": String(repeating: "m", count: 257)]), 400, "256"),
                    (try dream(store, [session], ["model": ["id": "m", "speed": "standard"]]), 400, "known models: none"),
                    (try dream(store, [session], ["colour": 1]), 400, "colour"), (try dream(store, [session]), 400, "house-model"),
                ]
                for (body, status, words) in cases {
                    let response = try daemon.http("POST", "/v1/dreams", body)
                    #expect(response.status == status, "\(body)")
                    #expect(try response.errorType() == (status == 404 ? "not_found_error" : "invalid_request_error"))
                    let text = String(decoding: response.body, as: UTF8.self)
                    #expect(text.contains(words), "\(text)")
                }
                let list = try Self.call(daemon, "GET", "/v1/dreams?statuses[]=pending&created_at[gt]=2026-01-01T00:00:00Z&limit=100")
                #expect((list["data"] as? [Any])?.isEmpty == true && list["next_page"] is NSNull)
                for query in ["statuses[]=asleep", "limit=101", "page=page_x", "created_at[lt]=now"] {
                    #expect(try daemon.http("GET", "/v1/dreams?\(query)").status == 400, "\(query)")
                }
                for (method, path) in [("GET", ""), ("POST", "/cancel"), ("POST", "/archive")] {
                    for id in ["drm_nope", "drm_0111111111111111111111"] {
                        #expect(try daemon.http(method, "/v1/dreams/\(id)\(path)").errorType() == "not_found_error")
                    }
                }
            }
        }

        @Test func theCommandLineMakesListsAndEndsSessions() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("store", "create", "shared")
                let id = try daemon.output(
                    "session", "create", "--store", "notes", "--store", "shared:ro", "--title", "a run", "--metadata", "team=docs",
                    "--trust",
                    "untrusted"
                ).trimmingCharacters(in: .newlines)
                #expect(id.hasPrefix("sesn_01"))
                let shown = try daemon.remfs("session", "show", id, "--json").json()
                let resources = try #require(shown["resources"] as? [[String: Any]])
                #expect(resources.map { $0["access"] as? String } == ["read_write", "read_only"])
                #expect(try daemon.output("session", "show", id).contains("/mnt/memory/shared  read_only"))
                #expect(try daemon.output("session", "list", "--store", "notes").contains("notes,shared"))
                try Self.call(
                    daemon, "POST", "/v1/sessions/\(id)/events", ["events": [Self.message("line\none"), ["type": "user.interrupt"]]])
                let text = try daemon.output("session", "events", id)
                #expect(text.contains("user.message") && text.contains("line one") && text.contains("user.interrupt"))
                let events = try daemon.remfs("session", "events", id, "--type", "user.interrupt", "--json").json()
                #expect((events["data"] as? [Any])?.count == 1)
                try daemon.output("session", "archive", id)
                #expect(try daemon.output("session", "list") == "")
                #expect(try daemon.output("session", "list", "--archived").contains("terminated"))
                try daemon.output("session", "delete", id)
                let gone = try daemon.remfs("session", "show", id)
                #expect(gone.status == 66 && gone.errors == "remfs: not_found: session \(id) not found\n")
                #expect(try daemon.remfs("session", "show", "../status").status == 66)
                #expect(try daemon.remfs("session", "create", "--store", "nobody").status == 66)
                #expect(try daemon.remfs("session", "create", "--trust", "blind").status == 65)
            }
        }
    }
}
