import AsyncHTTPClient
package import Foundation
import NIOCore
import NIOHTTP1
package import Storage

extension ControlClient {
    /// Sends what `next` answers, piece by piece until nil, as a request's body, and decodes the answer. Nothing is held but one piece.
    package func upload<Answer: Decodable>(
        _ path: String, query: [(String, String?)], _ next: @escaping @Sendable () async throws(RemfsError) -> Data?,
        as type: Answer.Type = Answer.self
    ) async throws(RemfsError) -> Answer {
        try checkPlace()
        do {
            var request = try request(.post, path, query, nil)
            request.headers.add(name: "content-type", value: "application/octet-stream")
            request.body = .stream(Pieces(next: next), length: .unknown)
            let response = try await Self.http.execute(request, deadline: .distantFuture)
            let body = try await Self.whole(response)
            guard (200..<300).contains(response.status.code) else { throw Self.failure(response, body) }
            return try JSONDecoder().decode(Answer.self, from: body)
        } catch let error as RemfsError {
            throw error
        } catch let error as DecodingError {
            throw RemfsError(.internal, "the daemon's answer to \(path) is not understood", cause: String(describing: error))
        } catch is CancellationError {
            throw RemfsError(.unavailable, "interrupted")
        } catch {
            throw Self.unanswered(error, place.name)
        }
    }
}

private struct Pieces: AsyncSequence, AsyncIteratorProtocol, Sendable {
    let next: @Sendable () async throws(RemfsError) -> Data?

    func makeAsyncIterator() -> Pieces { self }

    mutating func next() async throws -> ByteBuffer? { try await next().map { ByteBuffer(bytes: $0) } }
}
