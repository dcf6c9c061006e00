import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import Storage

/// The bytes of one version as an answer: all of them, or the one range that a client asked for. What is no range of ours to understand is
/// answered whole.
///
/// What fits in a piece is read before the answer begins. What is longer is read a piece at a time, as its client takes it: should the version be
/// redacted or given up meanwhile, or a chunk be damaged, the connection ends where its bytes do.
struct RawContent: Sendable {
    private let store: StoreID
    private let stored: VersionContent
    private let hash: String
    private let range: ByteRange?
    /// All that is wanted, where it is little.
    private let bytes: ByteBuffer?

    /// 256 KiB: what an answer has in memory of it.
    private static let piece: Int64 = 256 << 10

    /// - Parameter range: the request's header.
    init(_ stored: VersionContent, hash: String, range: String?, in store: MemoryStore) throws(RemfsError) {
        self.store = store.id
        self.stored = stored
        self.hash = hash
        self.range = range.flatMap { ByteRange($0, of: Int(stored.sizeInBytes)) }
        let wanted = Self.wanted(self.range, of: stored)
        bytes = wanted.count <= Self.piece ? ByteBuffer(bytes: try store.bytes(of: stored, in: wanted)) : nil
    }

    private static func wanted(_ range: ByteRange?, of stored: VersionContent) -> Range<Int64> {
        switch range {
        case nil: 0..<stored.sizeInBytes
        case .part(let part): Int64(part.lowerBound)..<Int64(part.upperBound)
        case .beyond: 0..<0
        }
    }

    func response(_ context: ControlContext, _ stores: StorePool) -> Response {
        let wanted = Self.wanted(range, of: stored)
        var headers: HTTPFields = [.contentType: "application/octet-stream", .acceptRanges: "bytes", .eTag: "\"\(hash)\""]
        let status: HTTPResponse.Status
        switch range {
        case nil: status = .ok
        case .part:
            status = .partialContent
            headers[.contentRange] = "bytes \(wanted.lowerBound)-\(wanted.upperBound - 1)/\(stored.sizeInBytes)"
        case .beyond:
            headers[.contentRange] = "bytes */\(stored.sizeInBytes)"
            return Response(status: .rangeNotSatisfiable, headers: headers)
        }
        if let bytes { return Response(status: status, headers: headers, body: .init(byteBuffer: bytes)) }
        // Said here and not by the body, whose length would count it among the answers that are in memory (`LongAnswers`).
        headers[.contentLength] = "\(wanted.count)"
        return Response(
            status: status, headers: headers,
            body: .init { writer in
                do {
                    try await send(wanted, stores) { try await writer.write($0) }
                    try await writer.finish(nil)
                } catch let error as RemfsError {
                    context.logger.warning(
                        "answer cut off", metadata: ["store": "\(store)", "code": "\(error.code.rawValue)", "cause": "\(error)"])
                    throw error
                }
            })
    }

    private func send(_ wanted: Range<Int64>, _ stores: StorePool, _ write: (ByteBuffer) async throws -> Void) async throws {
        var offset = wanted.lowerBound
        while offset < wanted.upperBound {
            let part = offset..<min(offset + Self.piece, wanted.upperBound)
            var rest = try await stores.read(store) { (store) throws(RemfsError) in
                ByteBuffer(bytes: try store.bytes(of: stored, in: part))
            }
            offset = part.upperBound
            // In small ones, so that a client which takes some of it is seen to.
            while let some = rest.readSlice(length: min(rest.readableBytes, ConnectionLimits.piece)), some.readableBytes > 0 {
                try await write(some)
            }
        }
    }
}

/// A `Range` header with one range.
package enum ByteRange: Equatable {
    case part(Range<Int>)
    case beyond

    /// Nil for another unit, several ranges, or what is malformed: those are ignored (RFC 9110, 14.2).
    package init?(_ header: String, of count: Int) {
        guard header.hasPrefix("bytes=") else { return nil }
        let ends = header.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count == 2, ends.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } }) else { return nil }
        switch (Int(ends[0]), Int(ends[1])) {
        case (let first?, let last?):
            guard first <= last else { return nil }
            self = first < count ? .part(first..<min(last, count - 1) + 1) : .beyond
        case (let first?, nil) where ends[1].isEmpty: self = first < count ? .part(first..<count) : .beyond
        case (nil, let length?) where ends[0].isEmpty: self = length > 0 && count > 0 ? .part(max(0, count - length)..<count) : .beyond
        default: return nil
        }
    }
}
