import Foundation
import Glibc
import Storage
import TestSupport
import Testing

@testable import Control

/// The volumes' socket holds what the control socket does against clients that are slow or many, and tells it as container engines read it.
@Suite(.serialized, .timeLimit(.minutes(2))) struct VolumeSocketTests {
    private static func reason(_ answer: RawResponse) throws -> String {
        #expect(answer.headers["content-type"] == "application/vnd.docker.plugins.v1.1+json")
        return try #require(try answer.json()["Err"] as? String)
    }

    private static func answer(_ connection: Int32) throws -> RawResponse { try DaemonProcess.parse(try UnixSocket.readToEnd(connection)) }

    @Test func whoIsSlowIsSentAway() async throws {
        try await ServedControl.with(limits: ConnectionLimits(idleTimeout: .milliseconds(400))) { control in
            for beginning in ["", "POST /VolumeDriver.Li", "POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"] {
                let connection = try UnixSocket.connect(control.volumes)
                defer { close(connection) }
                try UnixSocket.write(connection, beginning)
                let start = ContinuousClock.now
                // Closed by the other side, with or without a word.
                _ = try UnixSocket.readToEnd(connection)
                #expect(ContinuousClock.now - start < .seconds(20))
            }
            #expect(try DaemonProcess.http(over: control.volumes, "POST", "/VolumeDriver.List").status == 200)
        }
    }

    @Test func whoIsOneTooManyHearsSo() async throws {
        try await ServedControl.with(limits: ConnectionLimits(most: 1)) { control in
            let first = try UnixSocket.connect(control.volumes)
            try UnixSocket.write(first, "POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\n\r\n")
            var bytes = [UInt8](repeating: 0, count: 4_096)
            #expect(recv(first, &bytes, bytes.count, 0) > 0)
            let second = try UnixSocket.connect(control.volumes)
            defer { close(second) }
            try UnixSocket.write(second, "POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\n\r\n")
            let refused = try Self.answer(second)
            #expect(refused.status == 503)
            #expect(try Self.reason(refused).contains("as many connections as it can"))
            // The other socket has connections of its own.
            #expect(try control.local("GET", "/v1/status").status == 200)
            close(first)
        }
    }

    @Test func aBodyThatIsTooLongIsNotWaitedFor() async throws {
        try await ServedControl.with { control in
            let connection = try UnixSocket.connect(control.volumes)
            defer { close(connection) }
            let head = [
                "POST /VolumeDriver.Create HTTP/1.1", "Host: x", "Connection: close", "Expect: 100-continue", "Content-Length: 1048577",
            ]
            try UnixSocket.write(connection, head.joined(separator: "\r\n") + "\r\n\r\n")
            let refused = try Self.answer(connection)
            #expect(refused.status == 413)
            #expect(try Self.reason(refused).contains("over 1048576 bytes"))
        }
    }

    /// Where sessions have no mounts a volume can be made and seen, and not be had.
    @Test func aVolumeWithoutMountsSaysSo() async throws {
        try await ServedControl.with { control in
            _ = try control.makeStore("notes")
            func ask(_ call: String, _ body: String) throws -> RawResponse {
                try DaemonProcess.http(over: control.volumes, "POST", "/VolumeDriver.\(call)", body)
            }
            #expect(try Self.reason(try ask("Create", #"{"Name": "notes"}"#)).isEmpty)
            #expect(try Self.reason(try ask("Path", #"{"Name": "notes"}"#)).isEmpty)
            let refused = try ask("Mount", #"{"Name": "notes", "ID": "c"}"#)
            #expect(refused.status == 500)
            #expect(try Self.reason(refused).contains("mounts no sessions' stores"))
            #expect(try Self.reason(try ask("Remove", #"{"Name": "notes"}"#)).isEmpty)
        }
    }
}
