import Foundation
import Glibc
import TestSupport
import Testing

/// What is on the wire, as the hosted API's clients expect it. (That they work on it is checked with the SDK itself.)
extension ServeTests {
    @Suite(.serialized) struct ContractTests {
        private static func create(_ daemon: DaemonProcess, _ body: String = #"{"name": "notes"}"#) throws -> String {
            let response = try daemon.http("POST", "/v1/memory_stores", body)
            try #require(response.status == 200, "\(String(decoding: response.body, as: UTF8.self))")
            return "/v1/memory_stores/" + (try #require(try response.json()["id"] as? String))
        }

        private static func memory(_ daemon: DaemonProcess, _ store: String, _ path: String, _ content: String) throws -> [String: Any] {
            let body = String(decoding: try JSONSerialization.data(withJSONObject: ["path": path, "content": content]), as: UTF8.self)
            let response = try daemon.http("POST", "\(store)/memories", body)
            try #require(response.status == 200, "\(String(decoding: response.body, as: UTF8.self))")
            return try response.json()
        }

        @Test func aStoreHasTheseFields() throws {
            try DaemonProcess.with { daemon in
                let response = try daemon.http("POST", "/v1/memory_stores", #"{"name": "notes", "description": null, "metadata": null}"#)
                #expect(response.status == 200)
                #expect(response.headers["content-type"]?.hasPrefix("application/json") == true)
                let store = try response.json()
                #expect(Set(store.keys) == ["id", "type", "name", "description", "metadata", "created_at", "updated_at", "archived_at"])
                #expect(store["type"] as? String == "memory_store")
                #expect(store["description"] as? String == "")
                #expect(store["metadata"] as? [String: String] == [:])
                #expect(store["archived_at"] is NSNull)
                #expect(
                    (store["created_at"] as? String)?.wholeMatch(of: /[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z/)
                        != nil)
            }
        }

        @Test func aMemoryAndAVersionHaveTheseFields() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let memory = try Self.memory(daemon, store, "/a.md", "one")
                #expect(
                    Set(memory.keys) == [
                        "id", "type", "memory_store_id", "memory_version_id", "path", "content", "content_sha256", "content_size_bytes",
                        "created_at", "updated_at",
                    ])
                #expect(memory["content"] is NSNull)
                #expect(memory["content_size_bytes"] as? Int == 3)
                #expect(memory["content_sha256"] as? String == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed")
                #expect(memory["created_at"] as? String == memory["updated_at"] as? String)
                let version = try daemon.http("GET", "\(store)/memory_versions/\(memory["memory_version_id"] as? String ?? "")").json()
                #expect(
                    Set(version.keys) == [
                        "id", "type", "memory_id", "memory_store_id", "operation", "path", "content", "content_sha256",
                        "content_size_bytes",
                        "created_at", "created_by", "redacted_at", "redacted_by", "base_version_id", "stale", "pinned", "writer",
                        "trust",
                    ])
                #expect(version["content"] as? String == "one")
                #expect(version["operation"] as? String == "created")
                #expect(version["stale"] as? Bool == false)
                #expect(version["created_by"] as? [String: String] == ["type": "api_actor", "api_key_id": "apikey_local"])
                let writer = try #require(version["writer"] as? [String: Any])
                #expect(writer["uid"] as? Int == Int(geteuid()) && writer["pid"] as? Int == Int(getpid()))
                #expect((writer["command"] as? String)?.isEmpty == false)
            }
        }

        @Test func everyRefusalHasTheEnvelope() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let memory = try Self.memory(daemon, store, "/a", "one")
                let id = memory["id"] as? String ?? ""
                let cases: [(String, String, String?, Int, String)] = [
                    ("GET", "/v1/nowhere", nil, 404, "not_found_error"),
                    ("GET", "/v1/memory_stores/memstore_nope", nil, 404, "not_found_error"),
                    ("GET", "\(store)/memories/mem_nope", nil, 404, "not_found_error"),
                    ("GET", "\(store)/memory_versions/memver_nope", nil, 404, "not_found_error"),
                    ("GET", "/v1/mounts/mnt_nope", nil, 404, "not_found_error"),
                    ("PUT", store, "{}", 405, "invalid_request_error"),
                    ("PATCH", "\(store)/memories/\(id)", "{}", 405, "invalid_request_error"),
                    ("DELETE", "/v1/memory_stores", nil, 405, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", "{", 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", "[]", 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": "x", "name": "y"}"#, 400, "invalid_request_error"),
                    ("PROPFIND", store, nil, 405, "invalid_request_error"),
                    ("TRACE", "/v1/status", nil, 405, "invalid_request_error"),
                    ("CONNECT", "/v1/status", nil, 405, "invalid_request_error"),
                    ("POST", "\(store)/policy", #"{"max_memories": 0}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", "{}", 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": 7}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": ""}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": "x", "colour": "red"}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": "x", "metadata": {"k": 1}}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/memory_stores", #"{"name": "x", "metadata": {"k": null}}"#, 400, "invalid_request_error"),
                    ("GET", "/v1/memory_stores?limit=0", nil, 400, "invalid_request_error"),
                    ("GET", "/v1/memory_stores?limit=101", nil, 400, "invalid_request_error"),
                    ("GET", "/v1/memory_stores?page=page_nonsense", nil, 400, "invalid_request_error"),
                    ("GET", "/v1/memory_stores?created_at%5Bgte%5D=yesterday", nil, 400, "invalid_request_error"),
                    ("GET", "\(store)/memories?path_prefix=/a", nil, 400, "invalid_request_error"),
                    ("GET", "\(store)/memories?depth=2", nil, 400, "invalid_request_error"),
                    ("GET", "\(store)/memories?view=half", nil, 400, "invalid_request_error"),
                    ("POST", "\(store)/memories", #"{"path": "/b"}"#, 400, "invalid_request_error"),
                    ("POST", "\(store)/memories", #"{"path": "/b", "content": null}"#, 400, "invalid_request_error"),
                    ("POST", "\(store)/memories", #"{"path": "b", "content": ""}"#, 400, "invalid_request_error"),
                    ("POST", "\(store)/memories", #"{"path": "/.remfs/x", "content": ""}"#, 400, "invalid_request_error"),
                    ("POST", "\(store)/memories", #"{"path": "/a", "content": "one"}"#, 409, "memory_path_conflict_error"),
                    ("POST", "\(store)/memories/\(id)", "{}", 400, "invalid_request_error"),
                    ("POST", "\(store)/memories/\(id)?view=half", #"{"content": "x"}"#, 400, "invalid_request_error"),
                    (
                        "DELETE", "\(store)/memories/\(id)?expected_content_sha256=\(String(repeating: "0", count: 64))", nil, 409,
                        "memory_precondition_failed_error"
                    ),
                    ("DELETE", "\(store)/memories/\(id)?expected_content_sha256=zero", nil, 400, "invalid_request_error"),
                    ("GET", "\(store)/memory_versions?operation=exploded", nil, 400, "invalid_request_error"),
                    ("GET", "\(store)/memory_versions?after=nonsense", nil, 400, "invalid_request_error"),
                    ("POST", "\(store)/policy", #"{"access": "none"}"#, 400, "invalid_request_error"),
                    ("POST", "/v1/mounts", #"{"memory_store_id": "memstore_nope", "directory": "/tmp"}"#, 404, "not_found_error"),
                    ("POST", "/v1/mounts", #"{"memory_store_id": "memstore_nope"}"#, 404, "not_found_error"),
                    // What the path names comes first, then the body.
                    ("POST", "/v1/memory_stores/memstore_nope", "{", 404, "not_found_error"),
                    ("POST", "/v1/memory_stores/memstore_nope/memories", "{", 404, "not_found_error"),
                    ("POST", "\(store)/memories/mem_nope", #"{"colour": 1}"#, 404, "not_found_error"),
                ]
                for (method, target, body, status, type) in cases {
                    let response = try daemon.http(method, target, body)
                    #expect(response.status == status, "\(method) \(target) \(body ?? "")")
                    #expect(try response.errorType() == type, "\(method) \(target) \(body ?? "")")
                    #expect((response.headers["x-should-retry"] == "false") == (status == 409))
                }
                #expect(try daemon.http("GET", "\(store)/memories").data().count == 1, "none of these changed anything")
            }
        }

        @Test func pagesNeitherSkipNorRepeat() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                for number in 0..<7 { _ = try Self.memory(daemon, store, "/\(number)", "x") }
                var seen: [String] = []
                var page: String?
                repeat {
                    let cursor = page.map { "&page=\($0)" } ?? ""
                    let response = try daemon.http("GET", "\(store)/memories?limit=3&beta=true\(cursor)")
                    seen += try response.data().compactMap { $0["path"] as? String }
                    page = try response.json()["next_page"] as? String
                    // The item at the boundary goes, and one before it comes.
                    if seen.count == 3 {
                        let last = try daemon.http("GET", "\(store)/memories?path=/2").data()[0]["id"] as? String ?? ""
                        #expect(try daemon.http("DELETE", "\(store)/memories/\(last)").status == 200)
                        _ = try Self.memory(daemon, store, "/1a", "x")
                    }
                } while page != nil
                #expect(seen == ["/0", "/1", "/2", "/3", "/4", "/5", "/6"])

                let full = try daemon.http("GET", "\(store)/memory_versions?limit=9").json()
                #expect(full["next_page"] is NSNull, "no phantom page")
                let cursor = try #require(try daemon.http("GET", "\(store)/memory_versions?limit=1").json()["next_page"] as? String)
                #expect(cursor.hasPrefix("page_"))
                #expect(try daemon.http("GET", "\(store)/memories?page=\(cursor)").status == 400, "a cursor belongs to its list")
            }
        }

        @Test func aFullViewIsCappedAtTwenty() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                for number in 0..<22 { _ = try Self.memory(daemon, store, "/\(number)", "text \(number)") }
                let full = try daemon.http("GET", "\(store)/memories?view=full&limit=100").data()
                #expect(full.count == 20)
                #expect(full.allSatisfy { ($0["content"] as? String)?.hasPrefix("text ") == true })
                #expect(try daemon.http("GET", "\(store)/memory_versions?view=full&limit=100").data().count == 20)
                #expect(try daemon.http("GET", "\(store)/memories?limit=100").data().count == 22)
            }
        }

        @Test func aRangeOfTheRawContentIsServed() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let id = try Self.memory(daemon, store, "/a", "0123456789")["id"] as? String ?? ""
                let whole = try daemon.http("GET", "\(store)/memories/\(id)/content")
                #expect(whole.status == 200 && String(decoding: whole.body, as: UTF8.self) == "0123456789")
                let part = try daemon.http("GET", "\(store)/memories/\(id)/content", headers: ["Range: bytes=2-4"])
                #expect(part.status == 206 && String(decoding: part.body, as: UTF8.self) == "234")
                #expect(part.headers["content-range"] == "bytes 2-4/10")
                #expect(try daemon.http("GET", "\(store)/memories/\(id)/content", headers: ["Range: bytes=10-"]).status == 416)
            }
        }

        @Test func aBodyOverFourMebibytesIs413() throws {
            try DaemonProcess.with { daemon in
                let body = #"{"name": ""# + String(repeating: "x", count: 4 << 20) + #""}"#
                let response = try daemon.http("POST", "/v1/memory_stores", body)
                #expect(response.status == 413)
                #expect(try response.errorType() == "request_too_large")
            }
        }

        @Test func aWaitingRequestIsAnsweredByTheNextVersion() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let first = try Self.memory(daemon, store, "/a", "1")["memory_version_id"] as? String ?? ""
                #expect(try daemon.http("GET", "\(store)/memory_versions?after=start").data().count == 1)
                #expect(try daemon.http("GET", "\(store)/memory_versions?after=\(first)").data().isEmpty)
                let waiting = try UnixSocket.connect(daemon.socket)
                defer { close(waiting) }
                try UnixSocket.write(
                    waiting, "GET \(store)/memory_versions?after=\(first)&wait=60 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                _ = try Self.memory(daemon, store, "/b", "2")
                let answer = try DaemonProcess.parse(try UnixSocket.readToEnd(waiting)).data()
                #expect(answer.map { $0["path"] as? String } == ["/b"])
            }
        }

        @Test func aWaitingRequestDoesNotHoldUpAStop() throws {
            try DaemonProcess.with { daemon in
                let store = try Self.create(daemon)
                let waiting = try UnixSocket.connect(daemon.socket)
                defer { close(waiting) }
                try UnixSocket.write(waiting, "GET \(store)/memory_versions?after=start&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
                #expect(try daemon.http("GET", "/v1/status").status == 200)
                let start = ContinuousClock.now
                #expect(try daemon.stop().status == 0)
                // A tenth of the wait, and twice the grace period.
                #expect(ContinuousClock.now - start < .seconds(6))
            }
        }

        /// What a client that sends exactly these bytes, and then no more, is answered.
        private static func answer(_ daemon: DaemonProcess, _ text: String, ends: Bool = true) throws -> [UInt8] {
            let descriptor = try UnixSocket.connect(daemon.socket)
            defer { close(descriptor) }
            try UnixSocket.write(descriptor, text)
            if ends { shutdown(descriptor, Int32(SHUT_WR)) }
            return try UnixSocket.readToEnd(descriptor)
        }

        @Test func whatIsNoHTTPIsRefusedInTheEnvelope() throws {
            try DaemonProcess.with { daemon in
                let get = "GET /v1/status HTTP/1.1\r\nHost: x\r\n"
                for text in [
                    "\u{16}\u{3}\u{1}nonsense\r\n\r\n", "MAKE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/status HTTP/9.7\r\n\r\n",
                    get + "X: " + String(repeating: "x", count: 100_000) + "\r\n\r\n", get + "Content-Length: many\r\n\r\n",
                ] {
                    let response = try DaemonProcess.parse(try Self.answer(daemon, text, ends: false))
                    #expect(response.status == 400)
                    #expect(response.headers["remfs-error"] == "invalid_argument" && response.headers["connection"] == "close")
                    #expect(try response.errorType() == "invalid_request_error")
                    #expect(try (response.json()["error"] as? [String: Any])?["message"] as? String != nil)
                }
                // After a request that is answered.
                let both = String(decoding: try Self.answer(daemon, get + "\r\nnonsense nonsense\r\n\r\n", ends: false), as: UTF8.self)
                #expect(both.contains("HTTP/1.1 200 OK") && both.contains("HTTP/1.1 400 Bad Request") && both.contains(#""type":"error""#))
            }
        }

        @Test func aBrokenBodyIsTheClientsFault() throws {
            try DaemonProcess.prepared { daemon in
                try daemon.start(["--log-level", "notice"])
                let post = "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\n"
                for text in [
                    post + "Content-Length: 50\r\n\r\n{\"name\":", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
                    post + "Transfer-Encoding: chunked\r\n\r\n50\r\n{}",
                ] {
                    let response = try DaemonProcess.parse(try Self.answer(daemon, text))
                    #expect(response.status == 400)
                    #expect(response.headers["remfs-error"] == "invalid_argument")
                    #expect(try response.errorType() == "invalid_request_error")
                }
                // And one that does not wait to hear it.
                let gone = try UnixSocket.connect(daemon.socket)
                try UnixSocket.write(gone, post + "Content-Length: 50\r\n\r\n{\"name\":")
                close(gone)
                #expect(try daemon.http("GET", "/v1/memory_stores").data().isEmpty)
                let log = try daemon.stop().errors
                #expect(!log.contains("request failed") && !log.contains("request refused"), "\(log)")
            }
        }

        @Test func whoAsksForLeaveToSendGetsIt() throws {
            try DaemonProcess.with { daemon in
                let body = #"{"name": "asked"}"#
                let head = "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
                let descriptor = try UnixSocket.connect(daemon.socket)
                defer { close(descriptor) }
                try UnixSocket.write(descriptor, head + "Content-Length: \(body.utf8.count)\r\n\r\n")
                var buffer = [UInt8](repeating: 0, count: 1_024)
                let count = read(descriptor, &buffer, buffer.count)
                #expect(String(decoding: buffer.prefix(max(0, count)), as: UTF8.self) == "HTTP/1.1 100 Continue\r\n\r\n")
                try UnixSocket.write(descriptor, body)
                let response = try DaemonProcess.parse(try UnixSocket.readToEnd(descriptor))
                #expect(response.status == 200)
                #expect(try response.json()["name"] as? String == "asked")
                // No leave for what would be refused: the refusal itself.
                let refused = try DaemonProcess.parse(try Self.answer(daemon, head + "Content-Length: 4194305\r\n\r\n"))
                #expect(refused.status == 413)
                #expect(try refused.errorType() == "request_too_large")
            }
        }

        @Test func metricsAreThere() throws {
            try DaemonProcess.with { daemon in
                _ = try Self.create(daemon)
                let response = try daemon.http("GET", "/metrics")
                #expect(response.headers["content-type"]?.hasPrefix("text/plain; version=0.0.4") == true)
                let text = String(decoding: response.body, as: UTF8.self)
                #expect(text.contains("\nremfs_stores 1\n") || text.hasPrefix("# TYPE remfs_stores gauge\nremfs_stores 1\n"))
                #expect(text.contains("remfs_http_requests_total{method=\"POST\",status=\"200\"} 1\n"))
            }
        }
    }
}
