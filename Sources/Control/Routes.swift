import HTTPTypes
import Hummingbird
import Storage

/// The router. Each route says what its caller must be allowed, and how long a body it takes; both hold before its handler runs. A known
/// path under an unknown method is 405 and not 404.
struct Routes {
    struct Route: Sendable {
        let method: HTTPRequest.Method
        let path: String
        /// nil: nobody has said, so only those who may do everything come in.
        let need: Need?
        let bodyLimit: Int
    }

    private let router = Router(context: ControlContext.self, options: .autoGenerateHeadEndpoints)
    private(set) var all: [Route] = []

    init(_ middlewares: [any MiddlewareProtocol<Request, Response, ControlContext>]) {
        for middleware in middlewares { router.add(middleware: middleware) }
    }

    /// - Parameters:
    ///   - need: what the caller must be allowed.
    ///   - bodyLimit: in bytes; what is longer is 413.
    mutating func on(
        _ method: HTTPRequest.Method, _ path: String, needs need: Need? = nil, bodyLimit: Int = ControlContext.maximumBody,
        use handler: @Sendable @escaping (Request, ControlContext) async throws -> some ResponseGenerator
    ) {
        all.append(Route(method: method, path: path, need: need, bodyLimit: bodyLimit))
        let need = need ?? .all(.admin)
        let isUsual = bodyLimit == ControlContext.maximumBody
        router.on(RouterPath(path), method: method) { request, context in
            try need.check(context)
            guard !isUsual else { return try await handler(request, context) }
            return try await ControlContext.$bodyLimit.withValue(bodyLimit) { try await handler(request, context) }
        }
    }

    func responder() -> RouterResponder<ControlContext> {
        // A middleware acts on what is added after it: here on nothing but the answer to what no route takes.
        router.add(middleware: KnownPaths(Dictionary(grouping: all, by: \.path).mapValues { Set($0.map(\.method)) }))
        return router.buildResponder()
    }

    /// How long a body may be, by path, before any route is looked for.
    var bodyLimits: BodyLimits {
        BodyLimits(limits: all.filter { $0.bodyLimit != ControlContext.maximumBody }.map { (PathPattern($0.path), $0.bodyLimit) })
    }
}

/// What a route asks of its caller.
enum Need: Sendable {
    /// Nothing more than to have come in.
    case entry
    /// A permission on the store that the path names.
    case store(Scopes.Permission)
    /// A permission on whatever the handler finds to be asked for: it looks at `ControlContext.scopes` itself, and shows nothing else.
    case some(Scopes.Permission)
    /// A permission on every store: for what belongs to none.
    case all(Scopes.Permission)

    func check(_ context: ControlContext) throws(RemfsError) {
        switch self {
        case .entry: return
        case .store(let permission):
            // Who may do it everywhere hears from the route itself whether the path names a store at all.
            guard !context.scopes.allowsEverywhere(permission) else { return }
            guard let store = StoreID(context.parameters.get("store") ?? "") else { throw context.outOfScope(permission) }
            try context.require(permission, on: store)
        case .some(let permission):
            guard context.scopes.permission >= permission else { throw context.outOfScope(permission) }
        case .all(let permission):
            try context.requireEverywhere(permission)
        }
    }
}

/// The longest body of each path: of those that take more than is usual.
struct BodyLimits: Sendable {
    let limits: [(pattern: PathPattern, limit: Int)]

    func limit(for path: String) -> Int {
        guard !limits.isEmpty else { return ControlContext.maximumBody }
        let segments = path.prefix { $0 != "?" }.split(separator: "/")
        return limits.first { $0.pattern.matches(segments) }?.limit ?? ControlContext.maximumBody
    }
}

/// A path as routes are registered: `:name` stands for any one segment.
struct PathPattern: Sendable {
    private let segments: [Substring]

    init(_ path: String) { segments = path.split(separator: "/") }

    func matches(_ asked: [Substring]) -> Bool {
        segments.count == asked.count && zip(segments, asked).allSatisfy { $0.first == ":" || $0 == $1 }
    }
}

/// Tells a method that a path does not take from a path that is not known.
private struct KnownPaths: RouterMiddleware {
    typealias Context = ControlContext

    private let routes: [(pattern: PathPattern, methods: String)]

    init(_ methods: [String: Set<HTTPRequest.Method>]) {
        routes = methods.map { path, known in
            let all = known.contains(.get) ? known.union([.head]) : known
            return (PathPattern(path), all.map(\.rawValue).sorted().joined(separator: ", "))
        }
    }

    func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws -> Response {
        let asked = request.uri.path.split(separator: "/")
        guard let route = routes.first(where: { $0.pattern.matches(asked) }) else { return try await next(request, context) }
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
extension Wire.Revert: ResponseEncodable {}
extension Wire.Import: ResponseEncodable {}
extension Wire.Mount: ResponseEncodable {}
extension Wire.MountRequests: ResponseEncodable {}
extension Wire.Status: ResponseEncodable {}
extension Wire.Key: ResponseEncodable {}
