import HTTPTypes
import Hummingbird

/// The router, which also answers a known path under an unknown method: 405 and not 404.
struct Routes {
    private let router = Router(context: ControlContext.self, options: .autoGenerateHeadEndpoints)
    private var methods: [String: Set<HTTPRequest.Method>] = [:]

    init(_ middlewares: [any MiddlewareProtocol<Request, Response, ControlContext>]) {
        for middleware in middlewares { router.add(middleware: middleware) }
    }

    mutating func on(
        _ method: HTTPRequest.Method, _ path: String,
        use handler: @Sendable @escaping (Request, ControlContext) async throws -> some ResponseGenerator
    ) {
        methods[path, default: []].insert(method)
        router.on(RouterPath(path), method: method, use: handler)
    }

    func responder() -> RouterResponder<ControlContext> {
        let all: [HTTPRequest.Method] = [.get, .post, .put, .patch, .delete, .options]
        for (path, known) in methods {
            let allowed = known.map(\.rawValue).sorted().joined(separator: ", ")
            for method in all where !known.contains(method) {
                router.on(RouterPath(path), method: method) { request, _ -> Response in
                    throw HTTPError(
                        .methodNotAllowed, headers: [.allow: allowed],
                        message: "\(request.uri.path) does not take \(request.method.rawValue), only \(allowed)")
                }
            }
        }
        return router.buildResponder()
    }
}

// Each response is one JSON document, written by `ControlContext.responseEncoder`.
extension Wire.Page: ResponseEncodable {}
extension Wire.Deleted: ResponseEncodable {}
extension Wire.Store: ResponseEncodable {}
extension Wire.Policy: ResponseEncodable {}
extension Wire.StoreStatistics: ResponseEncodable {}
extension Wire.Memory: ResponseEncodable {}
extension Wire.Version: ResponseEncodable {}
extension Wire.Merge: ResponseEncodable {}
extension Wire.Mount: ResponseEncodable {}
extension Wire.MountRequests: ResponseEncodable {}
extension Wire.Status: ResponseEncodable {}
