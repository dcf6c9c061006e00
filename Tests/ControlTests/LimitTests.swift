import Foundation
import Glibc
import Storage
import TestSupport
import Testing

@testable import Control

/// Clients that are slow, silent, greedy or many: what they can hold is bounded, and others are served meanwhile.
@Suite(.serialized, .timeLimit(.minutes(2))) struct LimitTests {
    /// Short, so that the tests are; long beside what a request takes on a busy machine.
    private static let quick = ConnectionLimits(idleTimeout: .milliseconds(400))

    /// Waits until the daemon closes a connection, and answers for how long; what it sent is thrown away.
    private static func secondsUntilClosed(_ descriptor: Int32, sending: String? = nil, every pause: UInt32 = 20_000) throws -> Double {
        let start = ContinuousClock.now
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while ContinuousClock.now - start < .seconds(20) {
            if let sending, send(descriptor, sending, sending.utf8.count, Int32(MSG_NOSIGNAL)) < 0 { break }
            let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
            if count == 0 || (count < 0 && errno != EAGAIN) { break }
            usleep(pause)
        }
        return (ContinuousClock.now - start) / .seconds(1)
    }

    private static func threads() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count }

    @Test func whoSaysNothingIsSentAway() async throws {
        try await ServedControl.with(limits: Self.quick) { control in
            let connections = try (0..<50).map { _ in try UnixSocket.connect(control.socket) }
            defer { for connection in connections { close(connection) } }
            #expect(try control.local("GET", "/v1/status").status == 200)
            for connection in connections { #expect(try Self.secondsUntilClosed(connection) < 10) }
        }
    }

    @Test(arguments: [
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: ", "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{",
    ])
    func whoSendsAByteAtATimeIsSentAway(_ beginning: String) async throws {
        try await ServedControl.with(limits: Self.quick) { control in
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(connection, beginning)
            let seconds = try Self.secondsUntilClosed(connection, sending: "x")
            // Not at once, since it does send; and not never.
            #expect(seconds > 0.3 && seconds < 10)
            #expect(try control.local("GET", "/v1/memory_stores").data().isEmpty)
        }
    }

    /// A long body that comes steadily, if not fast, is not cut off, however long the whole of it takes.
    @Test func whoSendsSteadilyMayTakeLong() async throws {
        let slowdown = Sanitizer.slowdown
        try await ServedControl.with(limits: ConnectionLimits(idleTimeout: .milliseconds(400 * slowdown))) { control in
            let store = try control.makeStore("a")
            let body = #"{"path": "/a", "content": "\#(String(repeating: "x", count: 100_000))"}"# + String(repeating: " ", count: 2 << 20)
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(
                connection,
                "POST /v1/memory_stores/\(store)/memories HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
            )
            var rest = Array(body.utf8)[...]
            let start = ContinuousClock.now
            while !rest.isEmpty {
                try UnixSocket.write(connection, String(decoding: rest.prefix(100_000), as: UTF8.self))
                rest = rest.dropFirst(100_000)
                usleep(60_000 * UInt32(slowdown))
            }
            try #require(ContinuousClock.now - start > .milliseconds(800 * slowdown))
            #expect(try DaemonProcess.parse(try UnixSocket.readToEnd(connection)).status == 200)
        }
    }

    @Test func aBodyWithoutEndIsRefusedAndThenCutOff() async throws {
        try await ServedControl.with { control in
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(connection, "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            let chunk = "10000\r\n\(String(repeating: "x", count: 65_536))\r\n"
            var sent = 0
            do { while sent < 64 << 20 { (try UnixSocket.write(connection, chunk), sent += 65_536).1 } } catch is UnixSocket.Failure {}
            #expect(sent >= ControlContext.maximumBody && sent < 32 << 20)
            // Which it is told: the answer came before the end.
            var buffer = [UInt8](repeating: 0, count: 65_536)
            let count = recv(connection, &buffer, buffer.count, 0)
            #expect(count > 0 && String(decoding: buffer.prefix(max(count, 0)), as: UTF8.self).hasPrefix("HTTP/1.1 413 "))
            #expect(try control.local("GET", "/v1/memory_stores").data().isEmpty)
        }
    }

    @Test func fiveMebibytesAre413AndChangeNothing() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("a")
            let body = #"{"path": "/a", "content": "\#(String(repeating: "x", count: 5 << 20))"}"#
            let answer = try control.local("POST", "/v1/memory_stores/\(store)/memories", body)
            #expect(answer.status == 413)
            #expect(try answer.errorType() == "request_too_large")
            #expect(try control.local("GET", "/v1/memory_stores/\(store)/memories").data().isEmpty)
        }
    }

    @Test func aRequestThatIsCutOffChangesNothing() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("a")
            let body = #"{"path": "/a", "content": "whole"}"#
            let whole =
                "POST /v1/memory_stores/\(store)/memories HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
            for length in stride(from: 1, to: whole.utf8.count, by: 7) {
                let connection = try UnixSocket.connect(control.socket)
                try UnixSocket.write(connection, String(whole.prefix(length)))
                close(connection)
            }
            // The same in chunks, of which the last never comes.
            let connection = try UnixSocket.connect(control.socket)
            try UnixSocket.write(
                connection,
                "POST /v1/memory_stores/\(store)/memories HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + String(body.utf8.count, radix: 16) + "\r\n\(body)\r\n")
            close(connection)
            #expect(try control.local("GET", "/v1/memory_stores/\(store)/memories").data().isEmpty)
            #expect(try control.local("GET", "/v1/memory_stores/\(store)/memory_versions").data().isEmpty)
        }
    }

    @Test func headersWithoutEndAreRefused() async throws {
        try await ServedControl.with { control in
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(connection, "GET /v1/status HTTP/1.1\r\nHost: x\r\n")
            var sent = 0
            let line = "X-Header: \(String(repeating: "x", count: 1_000))\r\n"
            do { while sent < 4 << 20 { (try UnixSocket.write(connection, line), sent += line.utf8.count).1 } } catch is UnixSocket.Failure
            {}
            #expect(sent < 2 << 20)
            #expect(try control.local("GET", "/v1/status").status == 200)
        }
    }

    @Test func whoNeverReadsIsSentAway() async throws {
        try await ServedControl.with(limits: Self.quick) { control in
            let store = try control.makeStore("a")
            let body = #"{"path": "/a", "content": "\#(String(repeating: "x", count: 100_000))"}"#
            let made = try control.local("POST", "/v1/memory_stores/\(store)/memories", body)
            let memory = try #require(made.json()["id"] as? String)
            let request = "GET /v1/memory_stores/\(store)/memories/\(memory) HTTP/1.1\r\nHost: x\r\n\r\n"
            let threads = try Self.threads()
            let connections = try (0..<20).map { _ in try UnixSocket.connect(control.socket) }
            defer { for connection in connections { close(connection) } }
            // More answers than a socket has room for, and none of them is read.
            for connection in connections { try UnixSocket.write(connection, String(repeating: request, count: 50)) }
            #expect(try control.local("GET", "/v1/status").status == 200)
            #expect(try Self.threads() <= threads + 4)
            for connection in connections {
                // POLLHUP is told unasked.
                var state = pollfd(fd: connection, events: 0, revents: 0)
                #expect(poll(&state, 1, 10_000) == 1, "still open")
            }
        }
    }

    /// What waits for a client that takes it slowly is not cut off.
    @Test func whoReadsSlowlyGetsItAll() async throws {
        try await ServedControl.with(limits: Self.quick) { control in
            let store = try control.makeStore("a")
            for number in 0..<20 {
                let body = #"{"path": "/\#(number)", "content": "\#(String(repeating: "x", count: 100_000))"}"#
                #expect(try control.local("POST", "/v1/memory_stores/\(store)/memories", body).status == 200)
            }
            let connection = try UnixSocket.connect(control.socket)
            defer { close(connection) }
            try UnixSocket.write(
                connection,
                "GET /v1/memory_stores/\(store)/memories?view=full HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            var bytes: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 100_000)
            let start = ContinuousClock.now
            while case let count = recv(connection, &buffer, buffer.count, 0), count > 0 {
                bytes += buffer.prefix(count)
                usleep(40_000)
            }
            #expect(ContinuousClock.now - start > .milliseconds(600))
            #expect(try DaemonProcess.parse(bytes).data().count == 20)
        }
    }

    @Test func moreConnectionsThanThereIsRoomForAreToldSo() async throws {
        try await ServedControl.with(limits: ConnectionLimits(most: 8)) { control in
            let key = try control.makeKey("read").secret
            var connections = try (0..<8).map { _ in try UnixSocket.connect(control.socket) }
            defer { for connection in connections { close(connection) } }
            // The kernel connects before the daemon has seen it.
            for connection in connections {
                try UnixSocket.write(connection, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
                var byte: UInt8 = 0
                #expect(recv(connection, &byte, 1, 0) == 1)
            }
            for _ in 0..<3 {
                let refused = try control.local("GET", "/v1/status")
                #expect(refused.status == 503)
                #expect(try refused.errorType() == "overloaded_error")
                #expect(refused.headers["retry-after"] == "1")
            }
            // One that says nothing hears it as well.
            let silent = try UnixSocket.connect(control.socket)
            defer { close(silent) }
            #expect(try DaemonProcess.parse(try UnixSocket.readToEnd(silent)).status == 503)
            // Whoever comes over TCP has a room of its own.
            #expect(try control.remote("GET", "/v1/status", key: key).status == 200)
            close(connections.removeLast())
            let deadline = ContinuousClock.now + .seconds(10)
            var status = 503
            while status == 503, ContinuousClock.now < deadline { status = try control.local("GET", "/v1/status").status }
            #expect(status == 200)
        }
    }

    @Test func aCrowdOfSilentOnesCostsNoThread() async throws {
        try await ServedControl.with { control in
            #expect(try control.local("GET", "/v1/status").status == 200)
            let before = try Self.threads()
            let connections = try (0..<300).map { _ in try UnixSocket.connect(control.socket) }
            defer { for connection in connections { close(connection) } }
            for connection in connections { try UnixSocket.write(connection, "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\nContent-Le") }
            for _ in 0..<20 { #expect(try control.local("GET", "/v1/status").status == 200) }
            #expect(try Self.threads() <= before + 4)
        }
    }
}
