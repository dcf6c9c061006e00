import NIOCore
import NIOHTTP1
import Storage
import struct Synchronization.Atomic
import Threads

/// What clients that are slow, silent, or many can take of the daemon at most.
package struct ConnectionLimits: Sendable {
    /// For how long a connection may be without a request, a request may come and go on by less than `progress`, and an answer may wait for
    /// its client to take as much.
    package let idleTimeout: Duration
    /// Connections of one listener.
    package let most: Int

    package init(idleTimeout: Duration = .seconds(60), most: Int = 1_000) {
        self.idleTimeout = idleTimeout
        self.most = most
    }

    /// In bytes.
    static let progress = 64 << 10
    /// Of a long answer, in bytes: what is handed to the system at a time.
    static let piece = 64 << 10
    /// What is read of a body after its answer, in bytes, so that a client which sends first and reads then gets it.
    static let mostAfterAnswer = 8 << 20
    /// The same where the request could not be parsed.
    static let mostAfterFault = 1 << 20
    /// As many may come in without a look at the descriptors: `DescriptorLimit` keeps them free.
    static let few = 32
    /// How many may wait at a time to hear that there is no room.
    static let mostRefusals = 32
}

/// Bytes of bodies that are on their way, of all connections: counted while they are collected.
struct HeldBytes: ~Copyable {
    /// In bytes.
    static let most = 256 << 20
    static let tooMany = RemfsError(.unavailable, "too many long requests are on their way")
    private static let all = Atomic<Int>(0)
    private var count = 0

    /// False: there are too many.
    mutating func add(_ more: Int) -> Bool {
        count += more
        return Self.all.wrappingAdd(more, ordering: .relaxed).newValue <= Self.most
    }

    deinit { Self.all.wrappingSubtract(count, ordering: .relaxed) }
}

/// Long answers that their clients have not taken yet: each is in memory.
enum LongAnswers {
    private static let least = 1 << 20
    private static let most = 16
    private static let all = Atomic<Int>(0)

    /// Leave to send one, until it is dropped.
    final class Turn: Sendable {
        private let isCounted: Bool

        fileprivate init(isCounted: Bool) { self.isCounted = isCounted }

        deinit { if isCounted { all.wrappingSubtract(1, ordering: .relaxed) } }
    }

    /// nil: too many are being sent.
    static func turn(for length: Int) -> Turn? {
        guard length > least else { return Turn(isCounted: false) }
        let turn = Turn(isCounted: true)
        return all.wrappingAdd(1, ordering: .relaxed).newValue > most ? nil : turn
    }
}

/// Ends a connection whose client keeps it waiting: in the middle of a request, or with an answer that it does not take. Stands before the
/// parser, and looks some times in each span.
///
/// On the connection's event loop only.
final class ConnectionWatch: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = IOData
    typealias OutboundOut = IOData

    private let span: TimeAmount
    private var checks: RepeatedTask?
    /// Whether more is read when it comes; false: the daemon holds it up itself.
    private var isReading = false
    /// When the request that is coming in began, or when it had last gone on by `progress`.
    private var began: NIODeadline?
    private var received = 0
    /// Since when the client takes nothing, by the channel's own measure: 64 KiB wait, and 32 have not gone since.
    private var stuck: NIODeadline?

    init(span: TimeAmount) { self.span = span }

    func handlerAdded(context: ChannelHandlerContext) {
        let interval = TimeAmount.nanoseconds(max(span.nanoseconds / 4, 1_000_000))
        let both = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        checks = context.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in both.value.0.check(both.value.1) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { checks?.cancel() }

    func channelInactive(context: ChannelHandlerContext) {
        checks?.cancel()
        context.fireChannelInactive()
    }

    private func check(_ context: ChannelHandlerContext) {
        let now = NIODeadline.now()
        if let began, !isReading { self.began = max(began, now - span) }
        let isLate = [began, stuck].contains { $0.map { now - $0 > span } ?? false }
        if isLate { context.close(promise: nil) }
    }

    /// A request is whole.
    func requestEnded() { began = nil }

    /// The next one has come in part with the one before.
    func requestBegan() {
        guard began == nil else { return }
        began = .now()
        received = 0
    }

    func read(context: ChannelHandlerContext) {
        isReading = true
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        isReading = false
        requestBegan()
        received += unwrapInboundIn(data).readableBytes
        if received >= ConnectionLimits.progress {
            began = .now()
            received = 0
        }
        context.fireChannelRead(data)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stuck = context.channel.isWritable ? nil : .now()
        context.fireChannelWritabilityChanged()
    }
}

/// Tells a client that there is no room for it, and why.
final class Refusal: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let isAnswered: Bool
    private let form: FailureForm
    private var hasAnswered = false

    private init(isAnswered: Bool, _ form: FailureForm) {
        self.isAnswered = isAnswered
        self.form = form
    }

    static func install(_ channel: any Channel, _ connections: Connections, _ form: FailureForm) -> EventLoopFuture<Void> {
        let isAnswered = connections.addRefused(channel)
        return channel.eventLoop.submit { try channel.pipeline.syncOperations.addHandler(Refusal(isAnswered: isAnswered, form)) }
    }

    /// How long it is waited for a request, since many clients read nothing before they have sent theirs.
    private static let patience = TimeAmount.seconds(1)

    func channelActive(context: ChannelHandlerContext) {
        guard isAnswered else { return context.close(promise: nil) }
        let both = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: Self.patience) {
            both.value.0.answer(both.value.1)
            both.value.1.close(promise: nil)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { answer(context) }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event as? ChannelEvent == .inputClosed { context.close(promise: nil) }
    }

    private func answer(_ context: ChannelHandlerContext) {
        guard !hasAnswered else { return }
        hasAnswered = true
        let error = RemfsError(.unavailable, "the daemon serves as many connections as it can: close some that are idle")
        guard let (headers, body) = HTTPManners.envelope(error, form) else { return }
        let lines = headers.map { "\($0.name): \($0.value)\r\n" }.joined()
        var bytes = context.channel.allocator.buffer(string: "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\(lines)\r\n")
        bytes.writeImmutableBuffer(body)
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }
}
