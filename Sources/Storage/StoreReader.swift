import SQLite
import Threads

/// Connections that only read, lent to one thread at a time: a store has one writer and many readers.
final class ReaderPool: Sendable {
    private let path: String
    private let label: String
    private let idle = Mutex<[Reader]>([])

    init(path: String, label: String) {
        self.path = path
        self.label = label
    }

    func read<Result>(_ body: (Reader) throws(SQLiteError) -> Result) throws(RemfsError) -> Result {
        do throws(SQLiteError) {
            let reader = if let reader = idle.withLock({ $0.popLast() }) { reader } else { try Reader(path: path) }
            defer { idle.withLock { $0.append(reader) } }
            return try body(reader)
        } catch {
            throw RemfsError(error, in: label)
        }
    }

    /// As `read`, for what takes several statements: all of them see the store as of one moment, so that no chunk is re-encoded
    /// between the reading of its row and of its bytes.
    func snapshot<Result>(_ body: (Reader) throws(SQLiteError) -> Result) throws(RemfsError) -> Result {
        try read { (reader) throws(SQLiteError) in try reader.snapshot { () throws(SQLiteError) in try body(reader) } }
    }

    /// As `snapshot`, for what goes on with what it reads meanwhile: errors may be others than SQLite's.
    func browse<Answer>(_ body: (Reader) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        let outcome = try snapshot { (reader) throws(SQLiteError) -> Result<Answer, RemfsError> in
            do throws(RemfsError) { return .success(try body(reader)) } catch { return .failure(error) }
        }
        return try outcome.get()
    }

    func close() { idle.withLock { $0 = [] } }
}

/// One reading connection and its statements. Used by one thread at a time, as `ReaderPool` lends it.
final class Reader: @unchecked Sendable {
    // @unchecked: `ReaderPool` hands a reader to one thread and takes it back.
    let connection: Connection
    private let chunk: Statement
    private let extent: Statement
    /// Content and size of a version.
    let versionContent: Statement
    private let smallVersion: Statement
    private let begin: Statement
    private let commit: Statement
    /// Prepared at their first use.
    private var others: [String: Statement] = [:]

    init(path: String) throws(SQLiteError) {
        // Opened for writing, since WAL readers may have to write the index; it never does write.
        connection = try Connection(path: path, mode: .readWrite)
        try connection.execute("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0;")
        chunk = try connection.prepare("SELECT digest, size, encoding, base FROM chunk WHERE number = ?1")
        extent = try connection.prepare("SELECT bytes FROM extent WHERE number = ?1")
        versionContent = try connection.prepare("SELECT content, size FROM version WHERE number = ?1")
        smallVersion = try connection.prepare(
            """
            WITH RECURSIVE chain (number, base, digest) AS (
                SELECT chunk.number, chunk.base, chunk.digest FROM version CROSS JOIN chunk ON chunk.number = version.content
                WHERE version.number = ?1 AND typeof(version.content) = 'integer' AND version.name IS NOT NULL
                UNION ALL
                SELECT chunk.number, chunk.base, NULL FROM chain CROSS JOIN chunk ON chunk.number = chain.base)
            SELECT chain.number, chain.digest, chain.base, extent.bytes FROM chain CROSS JOIN extent ON extent.number = chain.number
            """)
        begin = try connection.prepare("BEGIN")
        commit = try connection.prepare("COMMIT")
    }

    fileprivate func snapshot<Result>(_ body: () throws(SQLiteError) -> Result) throws(SQLiteError) -> Result {
        try begin.run()
        let result: Result
        do throws(SQLiteError) {
            result = try body()
        } catch {
            try commit.run()
            throw error
        }
        try commit.run()
        return result
    }

    /// A statement that is prepared at its first use. Whoever steps through its rows resets it.
    func cached(_ sql: String) throws(SQLiteError) -> Statement {
        if let statement = others[sql] { return statement }
        let statement = try connection.prepare(sql)
        others[sql] = statement
        return statement
    }

    /// A chunk's bytes, decoded and checked.
    func bytes(of number: Int64) throws(SQLiteError) -> [UInt8] {
        try ChunkReader.bytes(of: number, row: chunk, extent: extent)
    }

    /// A draft's bytes; nil: there is none of this number.
    func draft(_ number: Int64) throws(SQLiteError) -> [UInt8]? {
        extent.bind(number, at: 1)
        defer { extent.reset() }
        return try extent.step() ? extent.bytes(0) : nil
    }

    func exists(_ number: Int64) throws(SQLiteError) -> Bool {
        chunk.bind(number, at: 1)
        defer { chunk.reset() }
        return try chunk.step()
    }

    /// The bytes of a head, which is always whole, checked against a hash that the caller holds; nil where they do not match: a newer
    /// head may have come since, and this chunk gone or become a delta of it.
    func withHead<Answer>(
        _ number: Int64, digest: Digest, _ body: (UnsafeRawBufferPointer) -> Answer
    ) throws(SQLiteError) -> Answer? {
        extent.bind(number, at: 1)
        defer { extent.reset() }
        guard try extent.step() else { return nil }
        return unsafe extent.withBytes(0) { bytes in unsafe Digest(of: bytes) == digest ? body(bytes) : nil }
    }

    /// The bytes of a version of one chunk, checked; nil where there is no such: it is empty, long, or gone. One statement, and so one
    /// transaction, brings all of the deltas: a search through old versions reads thousands of them.
    func withSmallVersion<Answer>(_ version: Int64, _ body: (UnsafeRawBufferPointer) -> Answer) throws(SQLiteError) -> Answer? {
        defer { smallVersion.reset() }
        smallVersion.bind(version, at: 1)
        guard try smallVersion.step() else { return nil }
        guard let digest = unsafe smallVersion.withBytes(1, { unsafe Digest(bytes: $0) }) else {
            throw ChunkReader.corrupted("a chunk of version \(version) has no hash")
        }
        if smallVersion.isNull(2) {
            let answer = unsafe smallVersion.withBytes(3) { bytes in unsafe Digest(of: bytes) == digest ? body(bytes) : nil }
            guard let answer else { throw ChunkReader.corrupted("chunk \(smallVersion.integer(0)) does not match its hash") }
            return answer
        }
        var programs: [(chunk: Int64, bytes: [UInt8])] = []
        repeat {
            guard programs.count <= DeltaChain.longestAllowed else { throw ChunkReader.corrupted("version \(version) has too many bases") }
            programs.append((smallVersion.integer(0), smallVersion.bytes(3)))
            // What no delta leads on from is whole.
            if smallVersion.isNull(2) {
                return unsafe try ChunkReader.decode(&programs, digest).withUnsafeBytes { unsafe body($0) }
            }
        } while try smallVersion.step()
        throw ChunkReader.corrupted("a base of version \(version) is missing")
    }

    /// The hash of a content, chunk by chunk, whatever its size.
    func digest(of content: Content, size: Int64) throws(SQLiteError) -> Digest {
        let zeros = [UInt8](repeating: 0, count: Int(Content.chunkSize))
        return try unsafe Digest { (take) throws(SQLiteError) in
            var left = size
            for chunk in content.chunks {
                let length = Int(min(left, Content.chunkSize))
                let part = chunk == 0 ? [] : try self.bytes(of: chunk)
                unsafe part.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<min(length, part.count)])) }
                if part.count < length {
                    unsafe zeros.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<(length - part.count)])) }
                }
                left -= Int64(length)
            }
        }
    }

    /// All bytes of a content, holes as zeros.
    func bytes(of content: Content, size: Int64) throws(SQLiteError) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(size))
        for chunk in content.chunks {
            let length = Int(min(size - Int64(bytes.count), Content.chunkSize))
            let part = chunk == 0 ? [] : try self.bytes(of: chunk)
            bytes.append(contentsOf: part.prefix(length))
            if part.count < length { bytes.append(contentsOf: repeatElement(0, count: length - part.count)) }
        }
        return bytes
    }
}
