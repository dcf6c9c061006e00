import Filesystem
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle
import Storage
import Threads

/// HTTP on a socket that listens already, as a service manager or a predecessor leaves it. (Hummingbird's own server makes its socket, and
/// so cannot take one over.)
struct ControlListener: Sendable {
    let responder: RouterResponder<ControlContext>
    let limits: ConnectionLimits
    let bodyLimits: BodyLimits
    /// nil: a Unix socket.
    let names: HostNames?
    var form = FailureForm.contract
    let logger: Logger

    /// Serves until a graceful shutdown.
    ///
    /// - Parameters:
    ///   - descriptor: becomes the listener's.
    ///   - onRunning: called once requests are taken.
    func run(_ descriptor: Int32, onRunning: @Sendable () async -> Void = {}) async throws {
        let (responder, logger, names, form) = (responder, logger, names, form)
        let connections = Connections(most: limits.most)
        let http = HTTP1Channel(
            responder: { asked, writer, channel in
                let request = asked.normalized
                let door = names.map { Door.network($0) } ?? .socket(connections.peer(of: channel))
                let context = ControlContext(source: .init(channel: channel, logger: logger), door: door)
                var response = try await responder.respond(to: request, context: context)
                response.headers[.date] = HTTPDate.now()
                try await Self.send(response, writer, form, context)
            },
            configuration: .init(
                additionalChannelHandlers: [HTTPMannersInstaller(limits: limits, bodyLimits: bodyLimits, form: form)],
                idleTimeout: TimeAmount(limits.idleTimeout)))
        let server = try await ServerBootstrap(group: ConnectionLoops.group)
            .childChannelOption(ChannelOptions.allowRemoteHalfClosure, value: true)
            .bind(descriptor) { channel in
                guard connections.hasRoom else {
                    return Refusal.install(channel, connections, form).flatMap { http.setup(channel: channel, logger: logger) }
                }
                guard names == nil else {
                    connections.add(channel, nil)
                    return http.setup(channel: channel, logger: logger)
                }
                return Peer.of(channel).flatMap { peer in
                    connections.add(channel, peer)
                    return http.setup(channel: channel, logger: logger)
                }
            }
        await withGracefulShutdownHandler {
            await onRunning()
            await withDiscardingTaskGroup { group in
                do {
                    try await server.executeThenClose { inbound in
                        for try await channel in inbound {
                            group.addTask(executorPreference: ConnectionLoops.executor(of: channel.channel.eventLoop)) {
                                await http.handle(value: channel, logger: logger)
                            }
                        }
                    }
                } catch {
                    logger.error("no more connections are taken", metadata: ["error": "\(error)"])
                }
            }
        } onGracefulShutdown: {
            server.channel.close(promise: nil)
            connections.quiesce()
        }
    }

    /// A long answer goes out in pieces, each when its client has taken those before.
    private static func send(
        _ response: Response, _ writer: consuming ResponseWriter, _ form: FailureForm, _ context: ControlContext
    ) async throws {
        do {
            guard let length = response.body.contentLength, length > ConnectionLimits.piece else {
                return try await writer.write(response: response.head, body: response.body)
            }
            guard let turn = LongAnswers.turn(for: length) else {
                let refusal = try ErrorMiddleware.refusal(RemfsError(.unavailable, "too many long answers are being sent"), form, context)
                return try await writer.write(response: refusal.head, body: refusal.body)
            }
            defer { withExtendedLifetime(turn) {} }
            try await response.body.write(Pieces(base: try await writer.writeHead(response.head)))
        } catch is HTTPParserError {
            // A part of the answer is out, so what is wrong with the request's end cannot be answered any more.
            throw CancellationError()
        }
    }
}

/// Hands on what is written in pieces.
private struct Pieces<Base: ResponseBodyWriter>: ResponseBodyWriter {
    var base: Base

    mutating func write(_ buffer: ByteBuffer) async throws {
        var rest = buffer
        while let piece = rest.readSlice(length: min(rest.readableBytes, ConnectionLimits.piece)), piece.readableBytes > 0 {
            try await base.write(piece)
        }
    }

    consuming func finish(_ trailingHeaders: HTTPFields?) async throws { try await base.finish(trailingHeaders) }
}

/// The `Date` of an answer, as in RFC 9110, 5.6.7.
enum HTTPDate {
    private static let last = Mutex((second: time_t(0), text: ""))

    static func now() -> String {
        let now = time(nil)
        return last.withLock { last in
            if last.second != now { last = (now, text(now)) }
            return last.text
        }
    }

    private static func text(_ time: time_t) -> String {
        var time = time
        var parts = unsafe tm()
        var text = [CChar](repeating: 0, count: 40)
        unsafe gmtime_r(&time, &parts)
        let count = unsafe strftime(&text, text.count, "%a, %d %b %Y %H:%M:%S GMT", &parts)
        return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// The open connections of a listener: who is at the other end, and whom a stop is told.
final class Connections: Sendable {
    private struct State {
        var open: [ObjectIdentifier: (channel: any Channel, peer: Peer?)] = [:]
        /// Those that are only told that there is no room.
        var refused = 0
        var isQuiescing = false
    }
    private let state = Mutex(State())
    private let most: Int

    init(most: Int) { self.most = most }

    /// Whether one more may be served: there are not too many of them, and descriptors enough for everything else.
    var hasRoom: Bool {
        let count = state.withLock { $0.open.count }
        return count < most && (count < ConnectionLimits.few || DescriptorLimit.hasRoomForConnection)
    }

    func add(_ channel: any Channel, _ peer: Peer?) {
        let key = ObjectIdentifier(channel)
        let isQuiescing = state.withLock { state in
            state.open[key] = (channel, peer)
            return state.isQuiescing
        }
        channel.closeFuture.whenComplete { [self] _ in state.withLock { _ = $0.open.removeValue(forKey: key) } }
        if isQuiescing { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
    }

    func peer(of channel: any Channel) -> Peer? { state.withLock { $0.open[ObjectIdentifier(channel)]?.peer } }

    /// Counts one that is turned away; false: there are so many of these that it gets no answer.
    func addRefused(_ channel: any Channel) -> Bool {
        let isAnswered = state.withLock { state in
            state.refused += 1
            return state.refused <= ConnectionLimits.mostRefusals
        }
        channel.closeFuture.whenComplete { [self] _ in state.withLock { $0.refused -= 1 } }
        return isAnswered
    }

    /// Those that wait for a request end at once, others after their answer.
    func quiesce() {
        let open = state.withLock { state in
            state.isQuiescing = true
            return state.open.values.map(\.channel)
        }
        for channel in open { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
    }
}
