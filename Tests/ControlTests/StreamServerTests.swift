import Foundation
import Glibc
import Storage
import Testing

@testable import Control

/// What a stream's connection sees as time goes by, with times that a test can wait for.
@Suite struct StreamServerTests {
    private static func session(_ stores: StorePool) async throws -> SessionID {
        try await stores.run { () throws(RemfsError) in
            try stores.catalog.createSession(SessionRequest(agent: Session.Agent(id: "a"), environment: "e")).id
        }
    }

    @Test func aQuietStreamIsPingedAgainAndAgain() async throws {
        var limits = EventReader.Limits()
        limits.pingInterval = .milliseconds(30)
        try await ServerTests.servingSocket(streams: limits) { socket, stores in
            let id = try await Self.session(stores)
            var text = ""
            do {
                try await ControlClient(socket: socket).stream(.get, "/v1/sessions/\(id)/events/stream") { (piece) throws(RemfsError) in
                    text += String(decoding: piece, as: UTF8.self)
                    if text.components(separatedBy: "event: ping\n").count > 3 { throw RemfsError(.unavailable, "enough") }
                }
                Issue.record("the stream ended by itself: \(text)")
            } catch let error as RemfsError {
                #expect(error.message == "enough")
            }
            #expect(text.hasPrefix("event: ping\ndata: {\"type\":\"ping\"}\n\n"))
        }
    }

    /// A connection that takes nothing is closed after its time, with what it was being sent unsent.
    @Test func aConnectionThatTakesNothingIsClosed() async throws {
        var limits = EventReader.Limits()
        limits.patience = .milliseconds(100)
        try await ServerTests.servingSocket(streams: limits) { socket, stores in
            let id = try await Self.session(stores)
            let descriptor = try #require(Self.connect(socket))
            defer { close(descriptor) }
            let request = "GET /v1/sessions/\(id)/events/stream HTTP/1.1\r\nHost: x\r\n\r\n"
            #expect(write(descriptor, request, request.utf8.count) == request.utf8.count)
            // The head says that it reads from now on. (What blocks does so on the pool's threads: the server needs the others.)
            let began = try await stores.run { () throws(RemfsError) in
                var byte: UInt8 = 0
                return read(descriptor, &byte, 1) == 1
            }
            #expect(began)
            let text = String(repeating: "x", count: 8 << 20)
            _ = try await stores.run { () throws(RemfsError) in
                try stores.catalog.send([.init(type: "user.message", body: #"{"content":[{"text":"\#(text)","type":"text"}]}"#)], to: id)
            }
            let total: Int? = try await stores.run { () throws(RemfsError) in
                var hangUp = pollfd(fd: descriptor, events: 0, revents: 0)
                guard poll(&hangUp, 1, 20_000) == 1, hangUp.revents & Int16(POLLHUP) != 0 else { return nil }
                var (buffer, total) = ([UInt8](repeating: 0, count: 65_536), 0)
                while case let count = read(descriptor, &buffer, buffer.count), count > 0 { total += count }
                return total
            }
            #expect(try #require(total, "it was not closed") < 2 << 20)
        }
    }

    private static func connect(_ path: String) -> Int32? {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let outcome = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        return outcome == 0 ? descriptor : nil
    }
}
