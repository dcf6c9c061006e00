import Foundation
import Glibc
import TestSupport
import Testing

/// Event streams over the real socket.
extension ServeTests {
    @Suite(.serialized) struct SessionStreamTests {
        /// A connection that reads a stream, piece by piece.
        private final class Stream {
            let descriptor: Int32
            private var bytes: [UInt8] = []
            private(set) var hasEnded = false

            init(_ daemon: DaemonProcess, _ path: String) throws {
                descriptor = try UnixSocket.connect(daemon.socket)
                // What comes too late is a failure, and no test waits for ever.
                var patience = timeval(tv_sec: 40, tv_usec: 0)
                setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
                try UnixSocket.write(descriptor, "GET \(path) HTTP/1.1\r\nHost: x\r\n\r\n")
            }

            deinit { close(descriptor) }

            /// Reads on until `text` is there, and gives all up to its end.
            func read(through text: String) throws -> String {
                let wanted = Array(text.utf8)
                var searched = 0
                while true {
                    if let place = bytes[searched...].firstRange(of: wanted) {
                        defer { bytes.removeFirst(place.upperBound) }
                        return String(decoding: bytes[..<place.upperBound], as: UTF8.self)
                    }
                    searched = max(0, bytes.count - wanted.count)
                    try #require(try readMore(), "the stream ended before \(text)")
                }
            }

            /// The rest, to the end of the connection.
            func rest() throws -> String {
                while try readMore() {}
                defer { bytes = [] }
                return String(decoding: bytes, as: UTF8.self)
            }

            private func readMore() throws -> Bool {
                var buffer = [UInt8](repeating: 0, count: 65_536)
                let count = Glibc.read(descriptor, &buffer, buffer.count)
                if count < 0 { try #require(errno == ECONNRESET, "nothing came for 40 s") }
                bytes += buffer.prefix(max(0, count))
                return count > 0
            }
        }

        private static func session(_ daemon: DaemonProcess) throws -> String {
            "/v1/sessions/\(try SessionTests.id(SessionTests.session(daemon)))"
        }

        private static func send(_ daemon: DaemonProcess, _ session: String, _ texts: [String]) throws -> [[String: Any]] {
            let answer = try SessionTests.call(daemon, "POST", "\(session)/events", ["events": texts.map { SessionTests.message($0) }])
            return try #require(answer["data"] as? [[String: Any]])
        }

        private static func event(_ frame: String) throws -> [String: Any] {
            let data = try #require(frame.split(separator: "\n").first { $0.hasPrefix("data: ") }).dropFirst(6)
            return try #require(try JSONSerialization.jsonObject(with: Data(data.utf8)) as? [String: Any])
        }

        @Test func theHeadComesAtOnceAndThenWhatHappens() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                _ = try Self.send(daemon, session, ["before"])
                let thread = try SessionTests.id(try #require(try daemon.http("GET", "\(session)/threads").data().first))
                let streams = [
                    try Stream(daemon, "\(session)/events/stream?event_deltas[]=agent.message"),
                    try Stream(daemon, "\(session)/threads/\(thread)/stream"),
                ]
                for stream in streams {
                    let head = try stream.read(through: "\r\n\r\n").lowercased()
                    #expect(head.hasPrefix("http/1.1 200") && head.contains("content-type: text/event-stream"))
                    #expect(head.contains("request-id: req_01"))
                }
                var sent: [[String: Any]] = []
                for number in 0..<20 { sent += try Self.send(daemon, session, ["\(number) a", "\(number) b"]) }
                for stream in streams {
                    var seen: [[String: Any]] = []
                    for _ in sent {
                        let frame = try stream.read(through: "\n\n")
                        #expect(frame.contains("event: user.message\ndata: {"))
                        seen.append(try Self.event(frame))
                    }
                    #expect(seen as NSArray == sent as NSArray)
                }
                let listed = try daemon.http("GET", "\(session)/events").data()
                #expect(Array(listed.dropFirst()) as NSArray == sent as NSArray)
            }
        }

        @Test func aDeletedSessionEndsItsStreams() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let stream = try Stream(daemon, "\(session)/events/stream")
                _ = try stream.read(through: "\r\n\r\n")
                try SessionTests.call(daemon, "DELETE", session)
                let frame = try stream.read(through: "\n\n")
                #expect(frame.contains("event: session.deleted\n"))
                let event = try Self.event(frame)
                #expect(Set(event.keys) == ["id", "type", "processed_at"] && event["type"] as? String == "session.deleted")
                _ = try stream.read(through: "0\r\n\r\n")
                let after = try daemon.http("GET", "\(session)/events/stream")
                #expect(after.status == 404)
                #expect(try after.errorType() == "not_found_error")
            }
        }

        @Test func aStreamDoesNotHoldUpAStop() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let stream = try Stream(daemon, "\(session)/events/stream")
                _ = try stream.read(through: "\r\n\r\n")
                // One that is being read, and one that nobody reads, with more in it than any socket takes.
                let stuck = try Stream(daemon, "\(session)/events/stream")
                _ = try Self.send(daemon, session, [String(repeating: "x", count: 3 << 20)])
                _ = try stream.read(through: "\n\n")
                let start = ContinuousClock.now
                #expect(try daemon.stop().status == 0)
                // Below the grace period of three seconds, which neither needs.
                #expect(ContinuousClock.now - start < .seconds(2.5))
                #expect(try stream.rest().hasSuffix("0\r\n\r\n"))
                withExtendedLifetime(stuck) {}
            }
        }

        /// A client that never reads has the daemon keep a bounded amount for it, and costs nobody else anything.
        @Test func whoNeverReadsIsCutOff() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let (stuck, quick) = (try Stream(daemon, "\(session)/events/stream"), try Stream(daemon, "\(session)/events/stream"))
                _ = try stuck.read(through: "\r\n\r\n")
                _ = try quick.read(through: "\r\n\r\n")
                // Three times what may wait for one reader.
                let text = String(repeating: "x", count: 1 << 20)
                for _ in 0..<24 {
                    _ = try Self.send(daemon, session, [text])
                    _ = try quick.read(through: "\n\n")
                }
                // All that is there for it now is what was under way, and why there is no more.
                let cut = try stuck.read(through: "0\r\n\r\n")
                #expect(cut.contains("event: error\n") && cut.contains("overloaded_error"))
                #expect(cut.utf8.count < 4 << 20)
                _ = try Self.send(daemon, session, ["last"])
                // Where all of this takes long, a ping may come first.
                var last = try quick.read(through: "\n\n")
                while last.contains("event: ping") { last = try quick.read(through: "\n\n") }
                #expect(last.contains("last"))
            }
        }

        @Test func streamsThatAreLeftAreForgotten() throws {
            try DaemonProcess.with { daemon in
                let session = try Self.session(daemon)
                let pid = try daemon.servingProcess()
                func descriptors() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").count }
                let before = try descriptors()
                do {
                    let streams = try (0..<50).map { _ in try Stream(daemon, "\(session)/events/stream") }
                    for stream in streams { _ = try stream.read(through: "\r\n\r\n") }
                    #expect(try descriptors() >= before + 50)
                }
                // Without waiting for the next ping.
                let deadline = ContinuousClock.now + .seconds(10)
                while try descriptors() > before + 5, ContinuousClock.now < deadline { usleep(20_000) }
                #expect(try descriptors() <= before + 5)
                #expect(try daemon.http("HEAD", "\(session)/events/stream").status == 200)
            }
        }
    }
}
