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
struct ControlListener: Service {
    /// Becomes the listener's.
    let descriptor: Int32
    let responder: RouterResponder<ControlContext>
    let idleTimeout: Duration
    let logger: Logger
    /// Called once requests are taken.
    let onRunning: @Sendable () async -> Void

    func run() async throws {
        let (responder, logger) = (responder, logger)
        let http = HTTP1Channel(
            responder: { request, writer, channel in
                let context = ControlContext(source: .init(channel: channel, logger: logger))
                var response = try await responder.respond(to: request, context: context)
                response.headers[.date] = Self.date()
                do {
                    try await writer.write(response: response.head, body: response.body)
                } catch is HTTPParserError {
                    // A part of the answer is out, so what is wrong with the request's end cannot be answered any more.
                    throw CancellationError()
                }
            },
            configuration: .init(additionalChannelHandlers: [HTTPMannersInstaller()], idleTimeout: TimeAmount(idleTimeout)))
        let connections = Connections()
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(ChannelOptions.allowRemoteHalfClosure, value: true)
            .bind(descriptor) { channel in
                connections.add(channel)
                return http.setup(channel: channel, logger: logger)
            }
        await withGracefulShutdownHandler {
            await onRunning()
            await withDiscardingTaskGroup { group in
                do {
                    try await server.executeThenClose { inbound in
                        for try await channel in inbound { group.addTask { await http.handle(value: channel, logger: logger) } }
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

    /// As in RFC 9110, 5.6.7.
    private static func date() -> String {
        var now = time(nil)
        var parts = unsafe tm()
        var text = [CChar](repeating: 0, count: 40)
        unsafe gmtime_r(&now, &parts)
        let count = unsafe strftime(&text, text.count, "%a, %d %b %Y %H:%M:%S GMT", &parts)
        return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The open ones, which are told of a stop: those that wait for a request end at once, others after their answer.
    private final class Connections: Sendable {
        private let state = Mutex((open: [ObjectIdentifier: any Channel](), isQuiescing: false))

        func add(_ channel: any Channel) {
            let key = ObjectIdentifier(channel)
            let isQuiescing = state.withLock { state in
                state.open[key] = channel
                return state.isQuiescing
            }
            channel.closeFuture.whenComplete { [self] _ in state.withLock { _ = $0.open.removeValue(forKey: key) } }
            if isQuiescing { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
        }

        func quiesce() {
            let open = state.withLock { state in
                state.isQuiescing = true
                return Array(state.open.values)
            }
            for channel in open { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
        }
    }
}
