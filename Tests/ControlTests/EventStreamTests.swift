import Foundation
import NIOCore
import Storage
import Testing

@testable import Control

/// The queue of one reader and the hub of many, without a connection.
@Suite struct EventStreamTests {
    private static func frame(_ number: Int) -> EventFrame { EventFrame(type: "x", json: "\(number)".utf8) }

    private static func text(_ buffers: [ByteBuffer]) -> String { buffers.map { String(buffer: $0) }.joined() }

    /// All that a reader is sent until its stream ends.
    private static func read(_ reader: EventReader) async throws -> String {
        var pieces: [ByteBuffer] = []
        try await reader.send { pieces.append($0) }
        return text(pieces)
    }

    @Test func aFrameIsThreeLines() throws {
        #expect(Self.text([EventFrame(type: "user.message", json: #"{"a":1}"#.utf8).bytes]) == "event: user.message\ndata: {\"a\":1}\n\n")
        let encoded = try EventFrame(type: "x", ["text": "two\nlines\r\u{2028}\u{85}"])
        #expect(Self.text([encoded.bytes]) == "event: x\ndata: {\"text\":\"two\\nlines\\r\u{2028}\u{85}\"}\n\n")
        let failure = EventFrame(failure: RemfsError(.notFound, "gone"), Storage.RequestID(bits: 1))
        let lines = Self.text([failure.bytes]).split(separator: "\n")
        #expect(lines[0] == "event: error")
        let envelope = try JSONDecoder().decode(Wire.Failure.self, from: Data(lines[1].dropFirst(6).utf8))
        #expect(envelope.error.type == "not_found_error" && envelope.error.message == "gone")
        #expect(envelope.requestID == Storage.RequestID(bits: 1).description)
    }

    @Test func aReaderHasWhatCameAfterItAndNothingElse() async throws {
        let hub = EventHub<String>()
        hub.publish([Self.frame(1)], to: "a")
        let reader = hub.subscribe(to: "a", .random())
        hub.publish([Self.frame(2), Self.frame(3)], to: "a")
        hub.publish([Self.frame(4)], to: "b")
        hub.publish([Self.frame(5)], to: "a", ends: true)
        hub.publish([Self.frame(6)], to: "a")
        #expect(try await Self.read(reader) == [2, 3, 5].map { "event: x\ndata: \($0)\n\n" }.joined())
    }

    @Test func aReaderThatHasGoneIsForgotten() {
        let hub = EventHub<String>()
        do {
            let reader = hub.subscribe(to: "a", .random())
            #expect(hub.hasReaders(of: "a") && !hub.hasReaders(of: "b"))
            withExtendedLifetime(reader) {}
        }
        #expect(!hub.hasReaders(of: "a"))
    }

    /// Readers that come and go while several publish: each sees one stretch of the one order, without a hole.
    @Test func allReadersSeeOneOrder() async throws {
        let hub = EventHub<Int>()
        let (publishers, each) = (4, 200)
        let readers = (0..<5).map { _ in hub.subscribe(to: 0, .random()) }
        let texts = try await withThrowingTaskGroup(of: String?.self) { group in
            for reader in readers { group.addTask { try await Self.read(reader) } }
            await withTaskGroup(of: Void.self) { senders in
                for publisher in 0..<publishers {
                    senders.addTask { for number in 0..<each { hub.publish([Self.frame(publisher * each + number)], to: 0) } }
                }
            }
            hub.publish([], to: 0, ends: true)
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(Set(texts).count == 1)
        #expect(texts[0]?.split(separator: "\n\n").count == publishers * each)
    }

    @Test func whoDoesNotReadIsCutOffAndToldSo() async throws {
        var limits = EventReader.Limits()
        limits.bytes = 100
        let hub = EventHub<String>()
        let (slow, quick) = (hub.subscribe(to: "a", .random(), limits: limits), hub.subscribe(to: "a", .random()))
        for number in 0..<50 { hub.publish([Self.frame(number)], to: "a") }
        hub.publish([], to: "a", ends: true)
        let lines = try await Self.read(slow).split(separator: "\n")
        #expect(lines.count == 2 && lines[0] == "event: error")
        #expect(lines[1].contains("overloaded_error") && lines[1].contains("read too slowly"))
        #expect(try await Self.read(quick).split(separator: "\n\n").count == 50)
    }

    @Test func oneLargeRequestCutsOffNobodyWhoKeptUp() async throws {
        var limits = EventReader.Limits()
        limits.bytes = 100
        let reader = EventHub<String>().subscribe(to: "a", .random(), limits: limits)
        reader.post((0..<50).map { Self.frame($0) }, ends: true)
        #expect(try await Self.read(reader).split(separator: "\n\n").count == 50)
    }

    @Test func aLargeFrameGoesOutInPieces() async throws {
        let reader = EventHub<String>().subscribe(to: "a", .random())
        let json = String(repeating: "x", count: 300_000)
        reader.post([EventFrame(type: "x", json: json.utf8)], ends: true)
        var pieces: [ByteBuffer] = []
        try await reader.send { pieces.append($0) }
        #expect(pieces.count == 5 && pieces.allSatisfy { $0.readableBytes <= 64 << 10 })
        #expect(Self.text(pieces) == "event: x\ndata: \(json)\n\n")
    }

    @Test func aQuietReaderIsPinged() async throws {
        let reader = EventHub<String>().subscribe(to: "a", .random())
        reader.ping()
        reader.ping()
        reader.post([Self.frame(1)])
        reader.ping()
        reader.end()
        #expect(try await Self.read(reader) == "event: ping\ndata: {\"type\":\"ping\"}\n\nevent: x\ndata: 1\n\n")
    }

    @Test func aCancelledReaderStopsWaiting() async {
        let reader = EventHub<String>().subscribe(to: "a", .random())
        let task = Task { try await Self.read(reader) }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
    }
}
