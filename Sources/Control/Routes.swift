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
        // A middleware acts on what is added after it: here on nothing but the answer to what no route takes.
        router.add(middleware: KnownPaths(methods))
        return router.buildResponder()
    }
}

/// Tells a method that a path does not take from a path that is not known.
private struct KnownPaths: RouterMiddleware {
    typealias Context = ControlContext

    private let routes: [(segments: [Substring], methods: String)]

    init(_ methods: [String: Set<HTTPRequest.Method>]) {
        routes = methods.map { path, known in
            let all = known.contains(.get) ? known.union([.head]) : known
            return (path.split(separator: "/"), all.map(\.rawValue).sorted().joined(separator: ", "))
        }
    }

    func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws -> Response {
        let asked = request.uri.path.split(separator: "/")
        let route = routes.first { route in
            route.segments.count == asked.count && zip(route.segments, asked).allSatisfy { $0.first == ":" || $0 == $1 }
        }
        guard let route else { return try await next(request, context) }
        throw HTTPError(
            .methodNotAllowed, headers: [.allow: route.methods],
            message: "\(request.uri.path.prefix(200)) does not take \(request.method.rawValue), only \(route.methods)")
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
extension Wire.Restore: ResponseEncodable {}
extension Wire.Import: ResponseEncodable {}
extension Wire.Mount: ResponseEncodable {}
extension Wire.MountRequests: ResponseEncodable {}
extension Wire.Status: ResponseEncodable {}
