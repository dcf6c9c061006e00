import Foundation
import Glibc
import Storage
import TestSupport
import Testing

@testable import Control

/// Requests that are answered before their body has come: the answer comes at once, whether or not the client reads while it sends.
@Suite(.serialized, .timeLimit(.minutes(2))) struct EarlyAnswerTests {
    private static let long = String(repeating: "x", count: 3 << 20)

    /// A client that sends all of its request before it reads anything, as many do.
    @Test func whoSendsAllFirstGetsItsAnswer() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("a")
            let key = try control.makeKey("read").secret
            let cases = [
                (401, "POST", "/v1/memory_stores", nil), (403, "POST", "/v1/memory_stores", key), (404, "POST", "/v1/nothing", key),
                (405, "PUT", "/v1/memory_stores", key), (403, "POST", "/v1/memory_stores/\(store)/memories", key),
            ]
            for (status, method, target, key) in cases {
                let start = ContinuousClock.now
                #expect(try control.remote(method, target, Self.long, key: key).status == status, "\(target)")
                #expect(ContinuousClock.now - start < .seconds(20), "\(status) \(target)")
            }
            let start = ContinuousClock.now
            #expect(try control.local("POST", "/v1/nothing", Self.long).status == 404)
            let tooLong = try control.local("POST", "/v1/memory_stores/\(store)/memories", Self.long + Self.long)
            #expect(tooLong.status == 413)
            #expect(try tooLong.errorType() == "request_too_large")
            #expect(ContinuousClock.now - start < .seconds(20))
        }
    }

    /// A client that waits for the answer in the middle of its request: it gets it, and the end of the connection's other direction.
    @Test(arguments: [
        (404, "POST /v1/nothing"), (413, "POST /v1/memory_stores"), (400, "GET /v1/memory_stores?limit=0"),
    ]) func whoWaitsInTheMiddleGetsItsAnswer(_ status: Int, _ request: String) async throws {
        try await ServedControl.with { control in
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            var timeout = timeval(tv_sec: 20, tv_usec: 0)
            setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
            try UnixSocket.write(
                connection, "\(request) HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7000000\r\n\r\n")
            // Over the limit of the route, and not to its end.
            if status == 413 { try UnixSocket.write(connection, Self.long + Self.long.prefix(2 << 20)) }
            #expect(try DaemonProcess.parse(try UnixSocket.readToEnd(connection)).status == status)
        }
    }

    /// What is sent after the answer is read, but not for ever.
    @Test func whoGoesOnIsCutOff() async throws {
        try await ServedControl.with { control in
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(
                connection, "POST /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99000000\r\n\r\n")
            var sent = 0
            do {
                while sent < 64 << 20 { (try UnixSocket.write(connection, Self.long), sent += Self.long.utf8.count).1 }
            } catch is UnixSocket.Failure {}
            #expect(sent < 32 << 20)
            #expect(try control.local("GET", "/v1/status").status == 200)
        }
    }

    /// The connection is gone when both sides have said so, and not when the daemon loses its patience.
    @Test func theConnectionEndsWithTheClients() async throws {
        try await ServedControl.with { control in
            func descriptors() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count }
            #expect(try control.local("GET", "/v1/status").status == 200)
            let before = try descriptors()
            for _ in 0..<20 { #expect(try control.local("POST", "/v1/nothing", Self.long).status == 404) }
            let deadline = ContinuousClock.now + .seconds(20)
            while try descriptors() > before + 4, ContinuousClock.now < deadline { usleep(20_000) }
            #expect(try descriptors() <= before + 4)
        }
    }
}
