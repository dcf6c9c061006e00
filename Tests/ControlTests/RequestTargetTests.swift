import Foundation
import Glibc
import Storage
import TestSupport
import Testing

@testable import Control

/// What a path is called.
@Suite struct RequestTargetTests {
    @Test(arguments: [
        ("/v1/memory%5Fstores", "/v1/memory_stores"), ("/%76%31/a%2Db%2Ec%7e", "/v1/a-b.c~"), ("/a%2Fb", "/a%2Fb"), ("/a%zz%4", "/a%zz%4"),
        ("/%25%5f", "/%25_"), ("/a?b=%5F", "/a?b=%5F"), ("/%5F?%5F", "/_?%5F"), ("%5", "%5"), ("", ""), ("/%5", "/%5"),
        ("/%e2%82%ac", "/%e2%82%ac"),
        ("/a%5F", "/a_"), ("/%5F%5", "/_%5"),
    ]) func isNormalized(_ target: String, _ normalized: String) {
        #expect(RequestTarget.normalized(target) == normalized)
        #expect(RequestTarget.normalized(normalized) == normalized)
    }

    @Test func idsMayBePercentEncoded() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("a")
            func encoded(_ text: String) -> String { text.utf8.map { "%" + String($0, radix: 16) }.joined() }
            #expect(try control.local("GET", "/v1/memory%5fstores/\(store.replacingOccurrences(of: "_", with: "%5F"))").status == 200)
            #expect(try control.local("GET", "/v1/memory_stores/\(encoded(store))").json()["id"] as? String == store)
            #expect(try control.local("GET", "/v1/memory_stores%2F\(store)").status == 404)
            #expect(try control.local("PUT", "/v1/memory%5Fstores").status == 405)
            let body = #"{"path": "/a", "content": "\#(String(repeating: "x", count: 100_000))"}"#
            let made = try control.local("POST", "/v1/memory_stores/\(encoded(store))/memories", body)
            let memory = try #require(made.json()["id"] as? String)
            #expect(try control.local("GET", "/v1/memory_stores/\(store)/memories/\(encoded(memory))/content").body.count == 100_000)
            // A longer body is allowed for these routes, however they are spelt.
            let long = #"{"agent": "a", "environment_id": "e", "title": ""}"# + String(repeating: " ", count: 5 << 20)
            #expect(try control.local("POST", "/v1/%73essions", long).status == 200)
            let asking = try UnixSocket.connect(control.socket)
            defer { close(asking) }
            try UnixSocket.write(
                asking, "POST /v1/%73essions HTTP/1.1\r\nHost: x\r\nContent-Length: \(long.utf8.count)\r\nExpect: 100-continue\r\n\r\n")
            var leave = [UInt8](repeating: 0, count: 25)
            #expect(recv(asking, &leave, leave.count, 0) > 0)
            #expect(String(decoding: leave, as: UTF8.self).hasPrefix("HTTP/1.1 100 "))
        }
    }
}
