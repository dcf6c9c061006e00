import Foundation
import HTTPTypes
package import Hummingbird
import NIOCore
import ServiceLifecycle
package import Storage
import Threads

/// One event as it stands in a stream: `event:`, `data:` with JSON on one line, a blank line. Encoded once, for all its readers.
package struct EventFrame: Sendable {
    let bytes: ByteBuffer

    /// - Parameters:
    ///   - type: the event's name, without a line break.
    ///   - json: one JSON document without a line break. Strings hold theirs escaped.
    package init(type: String, json: some Sequence<UInt8>) {
        var bytes = ByteBuffer()
        bytes.writeString("event: \(type)\ndata: ")
        bytes.writeBytes(json)
        bytes.writeString("\n\n")
        self.bytes = bytes
    }

    package init(type: String, _ event: some Encodable) throws(RemfsError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            self.init(type: type, json: try encoder.encode(event))
        } catch {
            throw RemfsError(.internal, "event \(type) makes no JSON", cause: String(describing: error))
        }
    }

    /// The contract's envelope: the SDK raises on it, with the type and the message.
    package init(failure error: RemfsError, _ request: Storage.RequestID) {
        let envelope = Wire.Failure(
            error: .init(
                type: error.code.seenAs.type, message: error.message, conflictingMemoryID: error.conflict?.memory.description,
                conflictingPath: error.conflict?.path),
            requestID: request.description)
        do {
            self = try EventFrame(type: "error", envelope)
        } catch {
            // Strings always make JSON.
            preconditionFailure("an envelope cannot be encoded: \(error)")
        }
    }

    /// Keeps a quiet connection from being taken for a dead one; clients ignore it.
    static let ping = EventFrame(type: "ping", json: #"{"type":"ping"}"#.utf8)

    var count: Int { bytes.readableBytes }
}

/// Sends events to all who read of a topic, in one order for all.
///
/// Order: who publishes under the lock under which it commits gives readers the order of the commits. Losing nothing: who subscribes
/// before it looks whether the topic exists has all that happens from then on, however late the response is sent. Safe from any thread;
/// publishing never waits for a reader.
package final class EventHub<Topic: Hashable & Sendable>: Sendable {
    private struct Place {
        weak var reader: EventReader?
    }
    private let places = Mutex<[Topic: [UInt64: Place]]>([:])
    private let last = Mutex<UInt64>(0)
    /// Held while events are handed out; `places` is taken inside, never the other way round.
    private let order = Mutex(())

    package init() {}

    /// A reader of what is published from now on, for as long as it lives.
    package func subscribe(to topic: Topic, _ request: Storage.RequestID, limits: EventReader.Limits = .init()) -> EventReader {
        let number = last.withLock { last in
            last += 1
            return last
        }
        let reader = EventReader(request, limits) { [weak self] in self?.remove(number, from: topic) }
        places.withLock { $0[topic, default: [:]][number] = Place(reader: reader) }
        return reader
    }

    /// Whether anybody reads: else there is nothing to encode.
    package func hasReaders(of topic: Topic) -> Bool { places.withLock { $0[topic] != nil } }

    /// - Parameter ends: the streams end after these events.
    package func publish(_ frames: [EventFrame], to topic: Topic, ends: Bool = false) {
        order.withLock { _ in
            // Outside of the inner lock: a reader that goes away here asks for it.
            let readers = places.withLock { $0[topic]?.values.compactMap(\.reader) ?? [] }
            for reader in readers { reader.post(frames, ends: ends) }
        }
    }

    private func remove(_ number: UInt64, from topic: Topic) {
        places.withLock { places in
            places[topic]?[number] = nil
            if places[topic]?.isEmpty == true { places[topic] = nil }
        }
    }
}

/// What one reader has still to be sent. Bounded: who does not keep up is cut off, and holds up nobody.
package final class EventReader: Sendable {
    package struct Limits: Sendable {
        /// Bytes that may wait while others are being sent. What is published at once is taken whole, so that one large request does not
        /// cut off a reader that has kept up.
        package var bytes = 8 << 20
        /// How long the connection may take nothing of what is being sent.
        package var patience: Duration = .seconds(30)
        package var pingInterval: Duration = .seconds(15)

        package init() {}
    }

    private struct State {
        var frames: [EventFrame] = []
        /// Of `frames`, which are those that wait.
        var bytes = 0
        /// Nothing is added any more; what is there is still sent.
        var hasEnded = false
        /// When the write began that is under way.
        var writing: ContinuousClock.Instant?
    }

    let limits: Limits
    private let request: Storage.RequestID
    private let state = Mutex(State())
    private let changes: AsyncStream<Void>
    private let wake: AsyncStream<Void>.Continuation
    private let onEnd: @Sendable () -> Void

    init(_ request: Storage.RequestID, _ limits: Limits, onEnd: @escaping @Sendable () -> Void) {
        self.request = request
        self.limits = limits
        self.onEnd = onEnd
        (changes, wake) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    deinit { onEnd() }

    /// Adds frames. Too many: those that wait are dropped for an `event: error` that says so, and the stream ends.
    package func post(_ frames: [EventFrame], ends: Bool = false) {
        state.withLock { state in
            guard !state.hasEnded else { return }
            if state.bytes > limits.bytes {
                let error = RemfsError(
                    .unavailable, "the stream was read too slowly, and \(state.bytes) bytes waited: open a new one, and list what it missed"
                )
                state.frames = []
                append(EventFrame(failure: error, request), to: &state)
                state.hasEnded = true
                return
            }
            for frame in frames { append(frame, to: &state) }
            state.hasEnded = ends
        }
        wake.yield()
    }

    /// Ends the stream after what waits; with an error, after that.
    package func end(_ error: RemfsError? = nil) { post(error.map { [EventFrame(failure: $0, request)] } ?? [], ends: true) }

    private func append(_ frame: EventFrame, to state: inout State) {
        state.frames.append(frame)
        state.bytes += frame.count
    }

    /// Adds a ping if there is nothing else to send.
    func ping() {
        let isQuiet = state.withLock { state in
            guard !state.hasEnded, state.frames.isEmpty, state.writing == nil else { return false }
            append(.ping, to: &state)
            return true
        }
        if isQuiet { wake.yield() }
    }

    /// Whether one write has lasted for longer than this.
    fileprivate func isStalled(for time: Duration) -> Bool {
        state.withLock { state in state.writing.map { ContinuousClock.now - $0 > time } ?? false }
    }

    /// Hands each frame to `write`, in pieces of which the connection must take each in time, until the stream has ended or `write` throws.
    func send(_ write: (ByteBuffer) async throws -> Void) async throws {
        var changes = changes.makeAsyncIterator()
        while true {
            let (frames, hasEnded) = state.withLock { state in
                defer { (state.frames, state.bytes) = ([], 0) }
                return (state.frames, state.hasEnded)
            }
            for frame in frames {
                var rest = frame.bytes
                while rest.readableBytes > 0, let piece = rest.readSlice(length: min(rest.readableBytes, Self.pieceSize)) {
                    state.withLock { $0.writing = .now }
                    defer { state.withLock { $0.writing = nil } }
                    try await write(piece)
                }
            }
            if hasEnded { return }
            // nil: the task was cancelled.
            guard frames.isEmpty else { continue }
            guard await changes.next() != nil else { throw CancellationError() }
        }
    }

    /// As much as NIO buffers for a connection before it makes the writer wait.
    private static let pieceSize = 64 << 10
}

/// The response that a reader's events go out in (`api.md` 7.6): the head at once, a ping when nothing else was sent for a while, an end when
/// the topic or the daemon ends.
package enum EventStream {
    package static func response(_ reader: EventReader, _ context: ControlContext) -> Response {
        let channel = context.channel
        return Response(
            status: .ok, headers: [.contentType: "text/event-stream", .cacheControl: "no-cache"],
            body: .init { writer in
                // Else a reader that has gone would be noticed at the next ping.
                channel.closeFuture.whenComplete { [weak reader] _ in reader?.end() }
                try await withGracefulShutdownHandler {
                    try await send(reader, channel, to: &writer)
                } onGracefulShutdown: {
                    reader.end()
                    // Whoever has not taken the rest by then would hold up the stop.
                    channel.eventLoop.scheduleTask(in: .milliseconds(250)) { [weak reader] in
                        if reader != nil { channel.close(promise: nil) }
                    }
                }
            })
    }

    private static func send(_ reader: EventReader, _ channel: any Channel, to writer: inout any ResponseBodyWriter) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await watch(reader, channel) }
            defer { group.cancelAll() }
            try await reader.send { try await writer.write($0) }
        }
        try await writer.finish(nil)
    }

    /// Pings, and closes the connection of a reader that takes nothing, which ends its write.
    private static func watch(_ reader: EventReader, _ channel: any Channel) async throws {
        let step = min(reader.limits.pingInterval, reader.limits.patience)
        while true {
            try await Task.sleep(for: step)
            if reader.isStalled(for: reader.limits.patience) { channel.close(promise: nil) }
            reader.ping()
        }
    }
}
