import Foundation
import Glibc
import Storage
import TestSupport
import Testing

@testable import Control

/// Raw content of any length: sent a piece at a time, and of one version whatever happens meanwhile.
@Suite(.serialized, .timeLimit(.minutes(2))) struct ContentTests {
    private static let text = TarArchive.text(ofBytes: 9_000_001)

    /// A store with one long memory.
    private static func serving(_ body: @escaping @Sendable (ServedControl, _ store: String, _ memory: String) throws -> Void) async throws
    {
        try await ServedControl.with { control in
            let made = try control.local("POST", "/v1/memory_stores/import?name=long", TarArchive.of([("long", text)]))
            try #require(made.status == 200, "\(String(decoding: made.body, as: UTF8.self))")
            let store = "/v1/memory_stores/" + (try #require((try made.json()["memory_store"] as? [String: Any])?["id"] as? String))
            let memory = try #require(try control.local("GET", "\(store)/memories").data().first?["id"] as? String)
            try body(control, store, memory)
        }
    }

    /// Begins to take the content, takes a little of it, and then the rest after `meanwhile`.
    private static func download(_ control: ServedControl, _ target: String, meanwhile: () throws -> Void) throws -> RawResponse {
        let connection = try UnixSocket.connect(control.socket)
        defer { close(connection) }
        try UnixSocket.write(connection, "GET \(target) HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        var bytes = [UInt8](repeating: 0, count: 1_000)
        let count = recv(connection, &bytes, bytes.count, 0)
        try #require(count > 0)
        try meanwhile()
        return try DaemonProcess.parse(Array(bytes.prefix(count)) + (try UnixSocket.readToEnd(connection)))
    }

    @Test func everyRangeIsWhatItSays() async throws {
        try await Self.serving { control, store, memory in
            let target = "\(store)/memories/\(memory)/content"
            let bytes = Array(Self.text.utf8)
            let whole = try control.local("GET", target)
            #expect(whole.status == 200 && whole.body == bytes)
            #expect(whole.headers["content-length"] == "\(bytes.count)" && whole.headers["transfer-encoding"] == nil)
            let head = try control.local("HEAD", target)
            #expect(head.status == 200 && head.body.isEmpty && head.headers["content-length"] == "\(bytes.count)")
            let piece = 256 << 10
            for range in [
                0..<1, 65_535..<65_537, piece - 1..<piece + 1, 5..<piece + 5, 5..<piece + 6, 3 * piece..<5 * piece, 1..<bytes.count,
                bytes.count - 1..<bytes.count, 100_000..<bytes.count, 0..<bytes.count,
            ] {
                let part = try control.local("GET", target, headers: ["Range: bytes=\(range.lowerBound)-\(range.upperBound - 1)"])
                #expect(part.status == 206 && part.body == Array(bytes[range]), "\(range)")
                #expect(part.headers["content-length"] == "\(range.count)")
                #expect(part.headers["content-range"] == "bytes \(range.lowerBound)-\(range.upperBound - 1)/\(bytes.count)")
            }
            #expect(try control.local("GET", target, headers: ["Range: bytes=-300000"]).body == Array(bytes.suffix(300_000)))
            #expect(try control.local("GET", target, headers: ["Range: bytes=\(bytes.count)-"]).status == 416)
            let version = try #require(try control.local("GET", "\(store)/memories/\(memory)").json()["memory_version_id"] as? String)
            #expect(try control.local("GET", "\(store)/memory_versions/\(version)/content").body == bytes)
        }
    }

    @Test func aDownloadIsOfOneVersion() async throws {
        try await Self.serving { control, store, memory in
            func changeEverything() throws {
                for number in 0..<20 {
                    #expect(try control.local("POST", "\(store)/memories/\(memory)", #"{"content": "\#(number)"}"#).status == 200)
                }
                #expect(try control.local("DELETE", "\(store)/memories/\(memory)").status == 200)
                #expect(try control.local("POST", "\(store)/gc").status == 200)
                #expect(try control.local("POST", "\(store)/archive").status == 200)
            }
            let whole = try Self.download(control, "\(store)/memories/\(memory)/content", meanwhile: changeEverything)
            #expect(whole.status == 200 && whole.body == Array(Self.text.utf8))
        }
    }

    /// What is to be nowhere any more goes to nobody: the connection ends in the middle.
    @Test(arguments: ["redacted", "deleted"]) func aDownloadOfWhatIsGoneEnds(_ how: String) async throws {
        try await Self.serving { control, store, memory in
            let version = try #require(try control.local("GET", "\(store)/memories/\(memory)").json()["memory_version_id"] as? String)
            func remove() throws {
                if how == "redacted" {
                    #expect(try control.local("POST", "\(store)/memories/\(memory)", #"{"content": "clean"}"#).status == 200)
                    #expect(try control.local("POST", "\(store)/memory_versions/\(version)/redact").status == 200)
                } else {
                    #expect(try control.local("DELETE", store).status == 200)
                }
            }
            let cut = try Self.download(control, "\(store)/memories/\(memory)/content", meanwhile: remove)
            let bytes = Array(Self.text.utf8)
            #expect(cut.headers["content-length"] == "\(bytes.count)")
            #expect(cut.body.count < bytes.count && bytes.starts(with: cut.body), "\(cut.body.count) bytes")
            #expect(try control.local("GET", "/v1/status").status == 200)
        }
    }

    /// A client that takes nothing, and many of them, keep nobody from anything. (What they hold is measured with the daemon.)
    @Test func whoTakesNothingIsNotCounted() async throws {
        try await Self.serving { control, store, memory in
            let target = "\(store)/memories/\(memory)/content"
            let connections = try (0..<40).map { _ in try UnixSocket.connect(control.socket) }
            defer { for connection in connections { close(connection) } }
            for connection in connections {
                try UnixSocket.write(connection, "GET \(target) HTTP/1.1\r\nHost: x\r\n\r\n")
                var byte: UInt8 = 0
                #expect(recv(connection, &byte, 1, 0) == 1)
            }
            #expect(try control.local("GET", target).body.count == Self.text.utf8.count)
        }
    }
}
