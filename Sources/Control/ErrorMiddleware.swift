import Foundation
import HTTPTypes
import Hummingbird
import Logging
import Metrics
import NIOCore
import Storage

extension HTTPField.Name {
    static let requestID = Self("request-id")!
    static let shouldRetry = Self("x-should-retry")!
    /// `RemfsError.Code` of a failure, which the contract's envelope has no place for. An addition of ours, read by `ControlClient`.
    static let remfsError = Self("remfs-error")!
}

/// How a failure is told that comes before any route, or after it.
enum FailureForm: Sendable {
    /// In the contract's envelope.
    case contract
    /// As container engines read it.
    case plugin
}

/// The outermost middleware: gives every response its `request-id`, turns errors into the contract's envelope, counts and logs.
struct ErrorMiddleware: RouterMiddleware {
    typealias Context = ControlContext

    func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws -> Response {
        let start = ContinuousClock.now
        var response: Response
        do {
            response = try await next(request, context)
        } catch {
            let failure = Failure(error, request)
            if failure.status.code >= 500 {
                context.logger.error("request failed", metadata: Self.metadata(request, context, failure))
            } else {
                context.logger.debug("request refused", metadata: Self.metadata(request, context, failure))
            }
            response = try failure.response(context)
        }
        response.headers[.requestID] = context.requestID.description
        let status = String(response.status.code)
        Counter(label: "remfs_http_requests_total", dimensions: [("method", request.method.rawValue), ("status", status)]).increment()
        Metrics.Timer(label: "remfs_http_request_seconds", dimensions: [("method", request.method.rawValue)])
            .recordNanoseconds(Int64((ContinuousClock.now - start) / .nanoseconds(1)))
        return request.method == .head ? response.createHeadResponse() : response
    }

    /// The answer to a request that failed outside of the routes.
    static func refusal(_ error: RemfsError, _ form: FailureForm, _ context: ControlContext) throws -> Response {
        var response = form == .plugin ? try VolumeMiddleware.refusal(error) : try Failure(error).response(context)
        response.headers[.requestID] = context.requestID.description
        return response
    }

    private static func metadata(_ request: Request, _ context: Context, _ failure: Failure) -> Logger.Metadata {
        var metadata: Logger.Metadata = [
            "request": "\(context.requestID)", "method": "\(request.method)", "path": "\(request.uri.path)",
            "status": "\(failure.status.code)",
        ]
        if let code = failure.code { metadata["code"] = "\(code.rawValue)" }
        if let cause = failure.cause { metadata["cause"] = "\(cause)" }
        return metadata
    }
}

/// An error as an HTTP client sees it.
private struct Failure {
    let status: HTTPResponse.Status
    let type: String
    let message: String
    var headers = HTTPFields()
    /// For the log only.
    var code: RemfsError.Code?
    var cause: String?
    var conflict: RemfsError.Conflict?

    init(_ error: any Error, _ request: Request) {
        switch error {
        case let error as RemfsError:
            self.init(error)
        case let error as HTTPError where error.status == .notFound:
            self.init(RemfsError(.notFound, "no route \(request.method.rawValue) \(request.uri.path.prefix(200))"))
        case let error as HTTPError:
            self.init(error)
        case is CancellationError:
            self.init(RemfsError(.unavailable, "the daemon is stopping"))
        default:
            self.init(RemfsError(.internal, "internal error", cause: String(describing: error)))
        }
    }

    /// The framework's own refusals, and our 405.
    private init(_ error: HTTPError) {
        let code: RemfsError.Code =
            error.status == .methodNotAllowed ? .unsupported : error.status.kind == .clientError ? .invalidArgument : .internal
        status = error.status
        type = code.seenAs.type
        message = error.body ?? error.status.reasonPhrase
        self.code = code
        headers = error.headers
        headers[.remfsError] = code.rawValue
    }

    init(_ error: RemfsError) {
        let seen = error.code.seenAs
        status = HTTPResponse.Status(code: seen.status)
        type = seen.type
        message = error.message
        code = error.code
        cause = error.cause
        conflict = error.conflict
        headers[.remfsError] = error.code.rawValue
        // The SDK retries every 409 twice unless told otherwise, and none of ours can succeed on a retry.
        if seen.status == 409 { headers[.shouldRetry] = "false" }
        if seen.status == 503 { headers[.retryAfter] = "1" }
        if seen.status == 401 { headers[.wwwAuthenticate] = "Bearer" }
    }

    func response(_ context: ControlContext) throws -> Response {
        let envelope = Wire.Failure(
            error: .init(
                type: type, message: message, conflictingMemoryID: conflict?.memory.description, conflictingPath: conflict?.path),
            requestID: context.requestID.description)
        var headers = headers
        headers[.contentType] = "application/json"
        return Response(
            status: status, headers: headers, body: .init(byteBuffer: ByteBuffer(bytes: try context.responseEncoder.encode(envelope))))
    }
}
