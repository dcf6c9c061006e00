import AsyncHTTPClient
package import Foundation
import Glibc
import NIOCore
import NIOHTTP1
package import Storage

/// A caller of the control socket. All commands go through it.
package struct ControlClient: Sendable {
    package enum Method: Sendable { case get, post, delete }

    let socket: String

    /// One for the process, never shut down: it ends with it.
    static let http: HTTPClient = {
        var configuration = HTTPClient.Configuration()
        // A socket that nobody answers is an answer: whoever asks decides whether to try again.
        configuration.connectionPool.retryConnectionEstablishment = false
        configuration.timeout.connect = .seconds(10)
        configuration.redirectConfiguration = .disallow
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }()

    package init(socket: String) { self.socket = socket }

    /// Sends a request and decodes the answer. Failures come as the daemon's own `RemfsError`.
    package func call<Answer: Decodable>(
        _ method: Method, _ path: String, query: [(String, String?)] = [], body: (any Encodable & Sendable)? = nil,
        as type: Answer.Type = Answer.self
    ) async throws(RemfsError) -> Answer {
        let bytes = try await bytes(method, path, query: query, body: body)
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
        try ControlSocket(path: socket).checkLength()
        do {
            let response = try await Self.http.execute(try request(method, path, query, body), deadline: .distantFuture)
            guard (200..<300).contains(response.status.code) else {
                let body = try await response.body.collect(upTo: 1 << 20)
                throw Self.failure(response, Data(body.readableBytesView))
            }
            for try await buffer in response.body { try sink(Data(buffer.readableBytesView)) }
        } catch let error as RemfsError {
            throw error
        } catch is CancellationError {
            throw RemfsError(.unavailable, "interrupted")
        } catch {
            throw Self.unanswered(error, socket)
        }
    }

    /// Why there was no answer, or no whole one.
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
        _ method: Method, _ path: String, _ query: [(String, String?)], _ body: (any Encodable & Sendable)?
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
        guard let url = URL(httpURLWithSocketPath: socket, uri: uri) else {
            throw RemfsError(.invalidArgument, "socket \(socket) makes no URL")
        }
        var request = HTTPClientRequest(url: url.absoluteString)
        switch method {
        case .get: request.method = .GET
        case .post: request.method = .POST
        case .delete: request.method = .DELETE
        }
        if let body {
            request.headers.add(name: "content-type", value: "application/json")
            request.body = .bytes(ByteBuffer(bytes: try JSONEncoder().encode(body)))
        }
        return request
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
