import AsyncHTTPClient
package import Foundation
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
package import Storage

/// A caller of the daemon, over its socket or over TCP. All commands go through it.
package struct ControlClient: Sendable {
    package enum Method: Sendable { case get, post, delete }

    enum Place: Sendable {
        case socket(String)
        /// Without a slash at its end.
        case url(String)

        var name: String {
            switch self {
            case .socket(let path): path
            case .url(let url): url
            }
        }
    }

    let place: Place
    /// Sent with each request; no message ever holds it.
    private let key: String?

    /// One for the process, never shut down: it ends with it.
    static let http: HTTPClient = {
        var configuration = HTTPClient.Configuration()
        // A socket that nobody answers is an answer: whoever asks decides whether to try again.
        configuration.connectionPool.retryConnectionEstablishment = false
        configuration.timeout.connect = .seconds(10)
        configuration.redirectConfiguration = .disallow
        return HTTPClient(eventLoopGroupProvider: .shared(group), configuration: configuration)
    }()
    private static let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private static let loop = LoopExecutor(group.next())

    /// Answers are taken on the thread that receives them. It uses its buffers again, and what says that a buffer is free is a reference
    /// count, which ThreadSanitizer cannot see; nor does a piece wait for another thread.
    static func onLoop<Result>(_ body: () async throws -> Result) async throws -> Result {
        try await withTaskExecutorPreference(loop, operation: body)
    }

    package init(socket: String, key: String? = nil) {
        place = .socket(socket)
        self.key = key
    }

    /// - Parameter url: `http://127.0.0.1:7447`, or the `https` of what stands before the daemon.
    /// - Throws: `invalidArgument` for what is no such URL.
    package init(url: String, key: String?) throws(RemfsError) {
        guard let parts = URLComponents(string: url), let scheme = parts.scheme?.lowercased(), ["http", "https"].contains(scheme),
            let host = parts.host, !host.isEmpty, parts.user == nil, parts.password == nil, parts.query == nil, parts.fragment == nil
        else {
            throw RemfsError(.invalidArgument, "a daemon's URL is such as http://127.0.0.1:7447, without a name, a query or a fragment")
        }
        place = .url(String(url.reversed().drop { $0 == "/" }.reversed()))
        self.key = key
    }

    /// Sends a request and decodes the answer. Failures come as the daemon's own `RemfsError`.
    package func call<Answer: Decodable>(
        _ method: Method, _ path: String, query: [(String, String?)] = [], body: (any Encodable & Sendable)? = nil,
        as type: Answer.Type = Answer.self
    ) async throws(RemfsError) -> Answer {
        try Self.decoded(try await bytes(method, path, query: query, body: body), path)
    }

    /// As `call`, with a body that is JSON already.
    package func call<Answer: Decodable>(
        _ method: Method, _ path: String, json: String, as type: Answer.Type = Answer.self
    ) async throws(RemfsError) -> Answer {
        var collected = Data()
        try await stream(method, path, [], ByteBuffer(string: json)) { collected.append($0) }
        return try Self.decoded(collected, path)
    }

    private static func decoded<Answer: Decodable>(_ bytes: Data, _ path: String) throws(RemfsError) -> Answer {
        do {
            return try JSONDecoder().decode(Answer.self, from: bytes)
        } catch {
            throw RemfsError(.internal, "the daemon's answer to \(path) is not understood", cause: String(describing: error))
        }
    }

    /// Sends a request and gives the answer's bytes.
    package func bytes(
        _ method: Method, _ path: String, query: [(String, String?)] = [], body: (any Encodable & Sendable)? = nil
    ) async throws(RemfsError) -> Data {
        var collected = Data()
        try await stream(method, path, query: query, body: body) { collected.append($0) }
        return collected
    }

    /// Sends a request and hands on the answer's bytes as they arrive.
    package func stream(
        _ method: Method, _ path: String, query: [(String, String?)] = [], body: (any Encodable & Sendable)? = nil,
        to sink: (Data) throws(RemfsError) -> Void
    ) async throws(RemfsError) {
        let bytes: ByteBuffer?
        do { bytes = try body.map { ByteBuffer(bytes: try JSONWriter().encode($0)) } } catch {
            throw RemfsError(.internal, "a request to \(path) makes no JSON", cause: String(describing: error))
        }
        try await stream(method, path, query, bytes, to: sink)
    }

    private func stream(
        _ method: Method, _ path: String, _ query: [(String, String?)], _ body: ByteBuffer?, to sink: (Data) throws(RemfsError) -> Void
    ) async throws(RemfsError) {
        try checkPlace()
        do {
            let response = try await Self.http.execute(try request(method, path, query, body), deadline: .distantFuture)
            guard (200..<300).contains(response.status.code) else {
                throw Self.failure(response, try await Self.whole(response))
            }
            var pieces = response.body.makeAsyncIterator()
            while let piece = try await Self.onLoop({ try await pieces.next().map { Data($0.readableBytesView) } }) { try sink(piece) }
        } catch let error as RemfsError {
            throw error
        } catch is CancellationError {
            throw RemfsError(.unavailable, "interrupted")
        } catch {
            throw Self.unanswered(error, place.name)
        }
    }

    /// A short answer's body: one of more than 1 MiB is an error.
    static func whole(_ response: HTTPClientResponse) async throws -> Data {
        try await onLoop { Data(try await response.body.collect(upTo: 1 << 20).readableBytesView) }
    }

    func checkPlace() throws(RemfsError) {
        if case .socket(let path) = place { try ControlSocket(path: path).checkLength() }
    }

    /// Why there was no answer, or no whole one.
    ///
    /// - Parameter socket: its path, or the URL.
    static func unanswered(_ error: any Error, _ socket: String) -> RemfsError {
        let cause = String(describing: error)
        switch (error as? IOError)?.errnoCode {
        case ENOENT, ENOTDIR, ECONNREFUSED:
            return RemfsError(.unavailable, "no daemon answers at \(socket); start one with `remfs serve`", cause: cause)
        case EACCES, EPERM:
            return RemfsError(
                .notPermitted,
                "user \(geteuid()) may not use the socket \(socket), only root, the daemon's user and members of its socket_group",
                cause: cause)
        case ECONNRESET, EPIPE, nil:
            return (error as? HTTPClientError) == .connectTimeout
                ? RemfsError(.unavailable, "the daemon at \(socket) does not answer", cause: cause)
                : RemfsError(.unavailable, "the daemon at \(socket) broke off before it had answered", cause: cause)
        case let code?: return RemfsError.ofSystem("the daemon at \(socket) cannot be reached", code)
        }
    }

    func request(
        _ method: Method, _ path: String, _ query: [(String, String?)], _ body: ByteBuffer?
    ) throws -> HTTPClientRequest {
        var allowed = CharacterSet.alphanumerics
        allowed.insert(charactersIn: "-._~")
        let pairs = query.compactMap { name, value in
            value.map {
                (name.addingPercentEncoding(withAllowedCharacters: allowed) ?? "") + "="
                    + ($0.addingPercentEncoding(withAllowedCharacters: allowed) ?? "")
            }
        }
        let uri = pairs.isEmpty ? path : path + "?" + pairs.joined(separator: "&")
        var request = HTTPClientRequest(url: try url(of: uri))
        switch method {
        case .get: request.method = .GET
        case .post: request.method = .POST
        case .delete: request.method = .DELETE
        }
        if let key { request.headers.add(name: "authorization", value: "Bearer \(key)") }
        if let body {
            request.headers.add(name: "content-type", value: "application/json")
            request.body = .bytes(body)
        }
        return request
    }

    private func url(of uri: String) throws(RemfsError) -> String {
        switch place {
        case .socket(let path):
            guard let url = URL(httpURLWithSocketPath: path, uri: uri) else {
                throw RemfsError(.invalidArgument, "socket \(path) makes no URL")
            }
            return url.absoluteString
        case .url(let url): return url + uri
        }
    }

    /// The daemon's failure: our own code from its header, the message from its envelope.
    static func failure(_ response: HTTPClientResponse, _ body: Data) -> RemfsError {
        // `try?`: another server may answer without an envelope, and then the status has to do.
        let envelope = try? JSONDecoder().decode(Wire.Failure.self, from: body)
        let code = response.headers.first(name: "remfs-error").flatMap { RemfsError.Code(rawValue: $0) }
        return RemfsError(
            code ?? (response.status.code < 500 ? .invalidArgument : .internal),
            envelope?.error.message ?? "the daemon answered \(response.status.code)")
    }
}
