import Foundation
import Glibc
import TestSupport
import Testing

/// What answers that nobody takes cost the daemon in memory.
extension ServeTests {
    @Suite(.serialized) struct LongAnswerTests {
        /// What is the process's own, in bytes: neither files nor what others share.
        private static func memory(of process: pid_t) throws -> Int {
            let status = try #require(Files.text("/proc/\(process)/status"))
            let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") })
            return try #require(Int(line.split(separator: " ").dropFirst().first ?? "")) << 10
        }

        /// Content of 48 MiB, asked for by twelve clients that stop reading: each holds a piece, and all together less than one content.
        @Test(arguments: ["content", "content, in part", "export", "backup"]) func cost(_ what: String) throws {
            try DaemonProcess.with { daemon in
                let size = 48 << 20
                let made = try daemon.http(
                    "POST", "/v1/memory_stores/import?name=long", TarArchive.of([("long", TarArchive.text(ofBytes: size))]))
                try #require(made.status == 200, "\(String(decoding: made.body, as: UTF8.self))")
                let store = "/v1/memory_stores/" + (try #require((try made.json()["memory_store"] as? [String: Any])?["id"] as? String))
                let memory = try #require(try daemon.http("GET", "\(store)/memories").data().first?["id"] as? String)
                let (target, range) =
                    switch what {
                    case "content": ("\(store)/memories/\(memory)/content", "")
                    case "content, in part": ("\(store)/memories/\(memory)/content", "Range: bytes=100-\r\n")
                    default: ("\(store)/\(what)", "")
                    }
                let process = try daemon.servingProcess()
                // Once to its end, so that what the first one costs for good is there.
                #expect(try daemon.http("GET", target, headers: range.isEmpty ? [] : ["Range: bytes=100-"]).body.count >= size - 100)
                let before = try Self.memory(of: process)
                let connections = try (0..<12).map { _ in try UnixSocket.connect(daemon.socket) }
                defer { for connection in connections { close(connection) } }
                for connection in connections {
                    try UnixSocket.write(connection, "GET \(target) HTTP/1.1\r\nHost: x\r\n\(range)\r\n")
                    var head = [UInt8](repeating: 0, count: 400)
                    try #require(recv(connection, &head, head.count, 0) > 0)
                    #expect(String(decoding: head, as: UTF8.self).hasPrefix("HTTP/1.1 20"))
                }
                usleep(300_000)
                let held = try Self.memory(of: process) - before
                // AddressSanitizer keeps what is freed for a while, at most 256 MiB of it.
                #expect(held < (Sanitizer.isActive ? 280 << 20 : 24 << 20), "\(held >> 20) MiB are held for \(connections.count) clients")
                #expect(try daemon.http("GET", "/v1/status").status == 200)
            }
        }
    }
}
