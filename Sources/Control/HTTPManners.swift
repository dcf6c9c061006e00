import Foundation
import NIOCore
import NIOHTTP1
import Storage

/// Puts `HTTPManners` where it belongs, beside the parser: Hummingbird adds handlers behind its own, which know no parser's errors.
final class HTTPMannersInstaller: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = NIOAny

    func handlerAdded(context: ChannelHandlerContext) {
        let pipeline = context.pipeline.syncOperations
        // `try?`: without them requests are answered all the same.
        try? pipeline.addHandler(HTTPManners(), position: .after(pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self)))
    }
}

/// Two answers that come before any route: what is no HTTP is refused in the contract's envelope, and who asks for leave to send a body
/// (`Expect: 100-continue`, curl over 1 MB) gets it.
private final class HTTPManners: ChannelDuplexHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart

    /// Requests that have come and are not answered to their end.
    private var open = 0
    private var fault: HTTPParserError?

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .head(let head) = unwrapInboundIn(data) {
            open += 1
            // While an earlier one is being answered, leave would stand in the middle of that answer; its client may send without.
            if open == 1, Self.deservesLeave(head) {
                context.writeAndFlush(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .continue))), promise: nil)
            }
        }
        context.fireChannelRead(data)
    }

    /// Not for a body that will be refused for its length.
    private static func deservesLeave(_ head: HTTPRequestHead) -> Bool {
        guard head.version == .http1_1, head.headers[canonicalForm: "expect"].contains(where: { $0.lowercased() == "100-continue" }) else {
            return false
        }
        let length = head.headers.first(name: "content-length").flatMap { Int($0) }
        return length ?? 0 <= ControlContext.maximumBody(of: head.uri)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? HTTPParserError { fault = error }
        context.fireErrorCaught(error)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        // The server's own answer to what it cannot parse; one of ours would have its ID.
        case .head(let head) where !head.headers.contains(name: "request-id"):
            guard let fault, let envelope = Self.envelope(fault) else { return context.write(data, promise: promise) }
            var head = head
            head.headers = envelope.headers
            context.write(wrapOutboundOut(.head(head)), promise: nil)
            context.write(wrapOutboundOut(.body(.byteBuffer(envelope.body))), promise: promise)
        case .end:
            open = max(0, open - 1)
            context.write(data, promise: promise)
        default:
            context.write(data, promise: promise)
        }
    }

    private static func envelope(_ fault: HTTPParserError) -> (headers: HTTPHeaders, body: ByteBuffer)? {
        let code = RemfsError.Code.invalidArgument
        let id = RequestID.random().description
        let failure = Wire.Failure(error: .init(type: code.seenAs.type, message: "request is not HTTP/1.1: \(fault)"), requestID: id)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // `try?`: without an envelope the server's own answer has to do.
        guard let body = try? encoder.encode(failure) else { return nil }
        let headers: HTTPHeaders = [
            "connection": "close", "content-length": "\(body.count)", "content-type": "application/json", "remfs-error": code.rawValue,
            "request-id": id,
        ]
        return (headers, ByteBuffer(bytes: body))
    }
}
