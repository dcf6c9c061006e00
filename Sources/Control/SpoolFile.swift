import Glibc
import HTTPTypes
import Hummingbird
import NIOCore
import Storage

/// A file of the state directory through which something large passes: it is written at the disk's pace and read at the client's, or the other
/// way round. Its name goes when it is closed, or at the next start.
///
/// Its methods block, and are called by one task at a time.
final class SpoolFile: Sendable {
    let path: String
    private let descriptor: Int32

    /// 64 MiB: what a client's upload leaves of the disk to the stores.
    private static let reserve: UInt64 = 64 << 20

    /// Makes an empty one. The name begins as those that a start clears away.
    ///
    /// - Parameter store: what it is made of; a redaction there takes it away.
    init(in stores: StorePool, _ request: Storage.RequestID, of store: StoreID? = nil) throws(RemfsError) {
        path = store.map { stores.spoolPath("\(request)", of: $0) } ?? stores.spoolPath("\(request)")
        descriptor = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("cannot make \(path)") }
    }

    /// Opens one that is there.
    private init(_ path: String) throws(RemfsError) {
        self.path = path
        descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("cannot read \(path)") }
    }

    deinit {
        close(descriptor)
        // It may have been moved to where it belongs.
        _ = unsafe unlink(path)
    }

    func append(_ bytes: [UInt8]) throws(RemfsError) {
        var room = statvfs()
        guard unsafe fstatvfs(descriptor, &room) == 0 else { throw RemfsError.ofSystem("cannot ask for free space") }
        guard UInt64(room.f_bavail) * UInt64(room.f_frsize) > Self.reserve + UInt64(bytes.count) else {
            throw RemfsError(.noSpace, "the disk of the state directory has no room for this")
        }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
            guard count >= 0 || errno == EINTR else { throw RemfsError.ofSystem("cannot write \(path)") }
            rest = rest.dropFirst(max(count, 0))
        }
    }

    var size: Int64 {
        get throws(RemfsError) {
            var status = stat()
            guard unsafe fstat(descriptor, &status) == 0 else { throw RemfsError.ofSystem("cannot look at \(path)") }
            return Int64(status.st_size)
        }
    }

    /// Throws `unavailable` where a redaction has taken it away.
    private func requireKept() throws(RemfsError) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw RemfsError.ofSystem("cannot look at \(path)") }
        guard status.st_nlink > 0 else { throw RemfsError(.unavailable, "something of the store was redacted meanwhile: ask again") }
    }

    /// Up to `count` bytes; none at the end.
    func read(at offset: Int64, _ count: Int) throws(RemfsError) -> [UInt8] {
        var piece = [UInt8](repeating: 0, count: count)
        while true {
            let got = unsafe piece.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, off_t(offset)) }
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else { throw RemfsError.ofSystem("cannot read \(path)") }
            piece.removeLast(piece.count - got)
            return piece
        }
    }

    // MARK: In and out

    /// 256 KiB: a piece that the socket takes in a few writes.
    private static let piece = 256 << 10

    /// Takes in a request's body, however long, at the client's pace: no thread waits for it.
    func receive(_ request: Request, _ stores: StorePool) async throws {
        var waiting: [UInt8] = []
        do {
            for try await buffer in request.body {
                waiting.append(contentsOf: buffer.readableBytesView)
                guard waiting.count >= Self.piece else { continue }
                let bytes = waiting
                waiting = []
                try await stores.run { () throws(RemfsError) in try self.append(bytes) }
            }
        } catch let error as RemfsError {
            throw error
        } catch let error as CancellationError {
            throw error
        } catch {
            throw RemfsError(.invalidArgument, "request body is cut off or malformed", cause: String(describing: error))
        }
        let bytes = waiting
        try await stores.run { () throws(RemfsError) in try self.append(bytes) }
    }

    /// The whole file as an answer, sent at the client's pace.
    func response(_ type: String, _ stores: StorePool) async throws -> Response {
        let size = try await stores.run { () throws(RemfsError) in
            try self.requireKept()
            return try self.size
        }
        return Response(
            status: .ok, headers: [.contentType: type],
            body: .init(contentLength: Int(size)) { writer in
                var offset: Int64 = 0
                while offset < size {
                    let piece = try await stores.run { [offset] () throws(RemfsError) in
                        try self.read(at: offset, Int(min(Int64(Self.piece), size - offset)))
                    }
                    guard !piece.isEmpty else { throw RemfsError(.internal, "a file that is sent is shorter than it was") }
                    offset += Int64(piece.count)
                    try await writer.write(ByteBuffer(bytes: piece))
                }
                try await writer.finish(nil)
            })
    }

    /// One SQLite file, copied while the store goes on.
    static func backup(of id: StoreID, _ stores: StorePool, _ context: ControlContext) async throws -> Response {
        let path = stores.spoolPath("\(context.requestID)", of: id)
        let file = try await stores.perform(id) { (store) throws(RemfsError) in
            try store.making(.backup, of: nil, by: context.author) { () throws(RemfsError) in
                try store.backup(to: path)
                return try SpoolFile(path)
            }
        }
        return try await file.response("application/vnd.sqlite3", stores)
    }
}
