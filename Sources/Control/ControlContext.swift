package import Foundation
import HTTPTypes
package import Hummingbird
package import NIOCore
package import Storage

/// What belongs to one request: its ID, its connection, and the process at the other end.
package struct ControlContext: RequestContext {
    /// Memory and dream routes (`api.md` 1.5); the largest body that fits a memory of 102,400 bytes is 614 kB of `\u0000`.
    package static let maximumBody = 4 << 20
    /// Session routes: a transcript comes in with its documents and images.
    package static let maximumSessionBody = 32 << 20

    package static func maximumBody(of path: some StringProtocol) -> Int {
        path.hasPrefix("/v1/sessions") ? maximumSessionBody : maximumBody
    }

    package var coreContext: CoreRequestContextStorage
    package let channel: any Channel
    package let requestID: Storage.RequestID
    /// Set by `PeerMiddleware`, so present in every route.
    package var caller: Peer?

    package init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        channel = source.channel
        requestID = Storage.RequestID.random()
    }

    package var maxUploadSize: Int { Self.maximumBody }

    package var responseEncoder: JSONEncoder {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return encoder
    }

    /// Who a version made by this request names.
    package var author: Author {
        Author(.local, writer: caller.map { Writer(uid: $0.uid, pid: $0.pid, command: $0.command) } ?? Writer())
    }

    /// The ID in the path, or the 404 that an ID gives which no store, memory or version of ours can have.
    func id<ID: Identifier>(_ name: String, of thing: String, as type: ID.Type = ID.self) throws(RemfsError) -> ID {
        let text = parameters.get(name) ?? ""
        guard let id = ID(text) else {
            throw RemfsError(.notFound, "\(thing) \(text.unicodeScalars.count > 80 ? "" : "\(text) ")not found")
        }
        return id
    }

    var storeID: StoreID { get throws(RemfsError) { try id("store", of: "memory store") } }
    var memoryID: MemoryID { get throws(RemfsError) { try id("memory", of: "memory") } }
    var versionID: VersionID { get throws(RemfsError) { try id("version", of: "memory version") } }
    var sessionID: SessionID { get throws(RemfsError) { try id("session", of: "session") } }
    var threadID: ThreadID { get throws(RemfsError) { try id("thread", of: "session thread") } }
    var mountID: MountID { get throws(RemfsError) { try id("mount", of: "mount") } }
}

extension Request {
    var query: Query { get throws(RemfsError) { try Query(parsing: uri.query) } }

    /// The body, read to its end and parsed. A result, since the contract wants to know first whether what the path names exists.
    func collectFields() async throws -> Result<Body, RemfsError> {
        let bytes = try await collectBytes()
        do throws(RemfsError) {
            return .success(try Body(parsing: bytes.readableBytesView))
        } catch {
            return .failure(error)
        }
    }

    /// As `collectFields`, where a body may be left out: nil then.
    func collectOptionalFields() async throws -> Result<Body?, RemfsError> {
        let bytes = try await collectBytes()
        guard bytes.readableBytes > 0 else { return .success(nil) }
        do throws(RemfsError) {
            return .success(try Body(parsing: bytes.readableBytesView))
        } catch {
            return .failure(error)
        }
    }

    /// What goes wrong here is the client's doing: it sends too much, or no HTTP, or has gone.
    private func collectBytes() async throws -> ByteBuffer {
        let maximum = ControlContext.maximumBody(of: uri.path)
        let tooLarge = RemfsError(.bodyTooLarge, "request body is over \(maximum) bytes")
        // A client that waits for leave to send gets its refusal instead. (Others are sending, and some hear nothing until they have.)
        if headers[.expect] != nil, let length = headers[.contentLength].flatMap({ Int($0) }), length > maximum {
            throw tooLarge
        }
        do {
            return try await body.collect(upTo: maximum)
        } catch is NIOTooManyBytesError {
            throw tooLarge
        } catch let error as CancellationError {
            throw error
        } catch {
            throw RemfsError(.invalidArgument, "request body is cut off or malformed", cause: String(describing: error))
        }
    }
}
