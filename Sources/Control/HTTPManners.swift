import NIOCore
import NIOHTTP1
import Storage

/// Puts `ConnectionWatch` and `HTTPManners` where they belong, on both sides of the parser: Hummingbird adds handlers behind its own, which
/// know no parser's errors.
final class HTTPMannersInstaller: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = NIOAny

    private let limits: ConnectionLimits
    private let bodyLimits: BodyLimits
    private let form: FailureForm

    init(limits: ConnectionLimits, bodyLimits: BodyLimits, form: FailureForm) {
        self.limits = limits
        self.bodyLimits = bodyLimits
        self.form = form
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let pipeline = context.pipeline.syncOperations
        do {
            let parser = try pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self)
            let watch = ConnectionWatch(span: TimeAmount(limits.idleTimeout))
            try pipeline.addHandler(HTTPManners(watch, bodyLimits, form), position: .after(parser))
            try pipeline.addHandler(watch, position: .before(parser))
        } catch {
            // Nobody is served without them.
            context.close(promise: nil)
        }
    }
}

/// Two answers that come before any route: what is no HTTP is refused in the contract's envelope, and who asks for leave to send a body
/// (`Expect: 100-continue`, curl over 1 MB) gets it. And who goes on sending one long after it has its answer is cut off.
final class HTTPManners: ChannelDuplexHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart

    /// Requests that have come and are not answered to their end.
    private var open = 0
    private var fault: HTTPParserError?
    private let watch: ConnectionWatch
    private let bodyLimits: BodyLimits
    private let form: FailureForm
    /// Of the request that is coming in, in bytes, since it was answered, or since it could not be parsed.
    private var unwanted = 0
    /// The newest request is to be the last of its connection: once it is answered, nobody behind us takes what is left of its body.
    private var isLast = false

    init(_ watch: ConnectionWatch, _ bodyLimits: BodyLimits, _ form: FailureForm) {
        self.watch = watch
        self.bodyLimits = bodyLimits
        self.form = form
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            open += 1
            unwanted = 0
            // As the server behind us decides it.
            isLast = head.headers["connection"] == ["close"]
            watch.requestBegan()
            // While an earlier one is being answered, leave would stand in the middle of that answer; its client may send without.
            if open == 1, deservesLeave(head) {
                context.writeAndFlush(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .continue))), promise: nil)
            }
        case .body(let bytes):
            if open == 0 { unwanted += bytes.readableBytes }
            if unwanted > ConnectionLimits.mostAfterAnswer { return context.close(promise: nil) }
            if isClosing { return }
        case .end: watch.requestEnded()
        }
        context.fireChannelRead(data)
    }

    /// The answer is out and so is our end of the connection. Who sends all before it reads is heard out, or the answer would be lost on it.
    private var isClosing: Bool { isLast && open == 0 }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.fireChannelReadComplete()
        // The server behind us reads no more.
        if isClosing { context.read() }
    }

    /// Not for a body that will be refused for its length.
    private func deservesLeave(_ head: HTTPRequestHead) -> Bool {
        guard head.version == .http1_1, head.headers[canonicalForm: "expect"].contains(where: { $0.lowercased() == "100-continue" }) else {
            return false
        }
        let length = head.headers.first(name: "content-length").flatMap { Int($0) }
        return length ?? 0 <= bodyLimits.limit(for: RequestTarget.normalized(head.uri))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case let error as HTTPParserError:
            fault = error
            unwanted = 0
            // It is answered, and who goes on sending is not waited for.
            let loop = NIOLoopBound(context, eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: .seconds(1)) { loop.value.close(promise: nil) }
        case ByteToMessageDecoderError.dataReceivedInErrorState(_, let bytes):
            unwanted += bytes.readableBytes
            if unwanted > ConnectionLimits.mostAfterFault { context.close(promise: nil) }
        default: break
        }
        context.fireErrorCaught(error)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        // The server's own answer to what it cannot parse; one of ours would have its ID.
        case .head(let head) where !head.headers.contains(name: "request-id"):
            guard let fault, let envelope = Self.envelope(fault, form) else { return context.write(data, promise: promise) }
            var head = head
            head.headers = envelope.headers
            context.write(wrapOutboundOut(.head(head)), promise: nil)
            context.write(wrapOutboundOut(.body(.byteBuffer(envelope.body))), promise: promise)
        case .end:
            open = max(0, open - 1)
            context.write(data, promise: promise)
            if isClosing { context.read() }
        default:
            context.write(data, promise: promise)
        }
    }

    private static func envelope(_ fault: HTTPParserError, _ form: FailureForm) -> (headers: HTTPHeaders, body: ByteBuffer)? {
        envelope(RemfsError(.invalidArgument, "request is not HTTP/1.1: \(fault)"), form)
    }

    /// An answer that ends its connection. nil: there is none, and then the server's own has to do.
    static func envelope(_ error: RemfsError, _ form: FailureForm) -> (headers: HTTPHeaders, body: ByteBuffer)? {
        let id = RequestID.random().description
        let body: [UInt8]
        switch form {
        case .contract:
            let failure = Wire.Failure(error: .init(type: error.code.seenAs.type, message: error.message), requestID: id)
            // `try?`: as said.
            guard let text = try? JSONWriter().encode(failure) else { return nil }
            body = text
        case .plugin:
            // `try?`: the same.
            guard let text = try? JSONWriter().encode(PluginAnswer.Failure(error.message)) else { return nil }
            body = text
        }
        let headers: HTTPHeaders = [
            "connection": "close", "content-length": "\(body.count)",
            "content-type": form == .plugin ? PluginAnswer.contentType : "application/json",
            "remfs-error": error.code.rawValue, "request-id": id,
        ]
        return (headers, ByteBuffer(bytes: body))
    }
}
