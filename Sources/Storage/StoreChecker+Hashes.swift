import SQLite

/// Every chunk, decoded through its chain and compared with its hash.
extension StoreChecker {
    /// In one read transaction: short enough that a checkpoint gets its turn.
    private static let chunksPerSnapshot = 512

    func checkHashes() throws(SQLiteError) {
        let decoder = try ChunkDecoder(connection)
        let next = try connection.prepare("SELECT number, size, digest FROM chunk WHERE number > ?1 ORDER BY number LIMIT ?2")
        var last = Int64.min
        var isDone = false
        while !isDone {
            try inSnapshot { () throws(SQLiteError) in
                next.bind(last, at: 1)
                next.bind(Int64(Self.chunksPerSnapshot), at: 2)
                defer { next.reset() }
                isDone = true
                while try next.step() {
                    isDone = false
                    last = next.integer(0)
                    check(try decoder.decode(last), next)
                }
            }
        }
        try checkWholeDigests(decoder)
    }

    private func check(_ outcome: ChunkDecoder.Outcome, _ row: Statement) {
        let number = row.integer(0)
        switch outcome {
        case .noChunk(let missing): reportUnread(.chainBroken, number, "is a delta of chunk \(missing), which is missing")
        case .noBytes(let missing):
            reportUnread(.bytesMissing, number, missing == number ? "has no bytes" : "is a delta of chunk \(missing), which has no bytes")
        case .circle: reportUnread(.chainBroken, number, "is a delta that leads back to itself")
        case .badDelta(let damaged): reportUnread(.hashWrong, number, "cannot be decoded: chunk \(damaged) is a damaged delta")
        case .bytes(let bytes, let depth):
            let digest = unsafe row.withBytes(2) { unsafe Digest(bytes: $0) }
            guard digest == Digest(of: bytes) else { return reportUnread(.hashWrong, number, "does not match its hash") }
            if depth > DeltaChain.longestAllowed {
                report(.chainLong, "chunk \(number) is \(depth) deltas deep, and \(DeltaChain.longestAllowed) are allowed") {
                    (repairer) throws(SQLiteError) in
                    try repairer.makeWhole(number)
                    return "made it whole"
                }
            }
            if row.integer(1) != Int64(bytes.count) {
                report(.countWrong, "chunk \(number) has \(bytes.count) bytes, and its row says \(row.integer(1))") {
                    (repairer) throws(SQLiteError) in
                    try repairer.run("UPDATE chunk SET size = ?2 WHERE number = ?1", number, Int64(bytes.count))
                    return "wrote what it has"
                }
            }
        }
    }

    /// What cannot be read stays as it is. The message says who is concerned.
    private func reportUnread(_ kind: Finding.Kind, _ chunk: Int64, _ why: String) {
        // Each look goes through all files and versions.
        guard troubles.count < Diagnosis.most else { return report(kind, "chunk \(chunk) \(why)") }
        let (heads, others) = users(of: chunk)
        var concerned = heads.isEmpty ? "no file as it is now" : heads.joined(separator: ", ")
        if others > 0 { concerned += " and \(others) older versions" }
        report(
            kind, "chunk \(chunk) \(why); it is part of \(concerned)",
            advice: heads.isEmpty
                ? "all files can be read; to have the older versions back, \(advice)"
                : "save the file anew to have a head that can be read, or \(advice)")
    }

    /// The paths of the files that a chunk is part of, three at most, and how many versions beside their heads it is part of.
    private func users(of chunk: Int64) -> (heads: [String], others: Int64) {
        // A list holds numbers as eight bytes each; a hit at another place than a multiple of eight is none.
        let holds = "(content = ?1 OR typeof(content) = 'blob' AND (instr(content, ?2) - 1) % 8 = 0 AND instr(content, ?2) > 0)"
        do {
            let bytes = unsafe withUnsafeBytes(of: chunk.littleEndian) { unsafe Array($0) }
            let files = try connection.prepare(
                """
                SELECT ifnull((SELECT directory || name FROM version WHERE version.number = inode.version), inode.name), number FROM inode
                WHERE mode & 61440 = 32768 AND parent IS NOT NULL AND \(holds) LIMIT 3
                """)
            files.bind(chunk, at: 1)
            files.bind(bytes, at: 2)
            defer { files.reset() }
            var heads: [String] = []
            while try files.step() { heads.append(files.text(0) ?? "inode \(files.integer(1))") }
            let versions = try connection.prepare("SELECT count(*) FROM version WHERE ended IS NOT NULL AND \(holds)")
            versions.bind(chunk, at: 1)
            versions.bind(bytes, at: 2)
            defer { versions.reset() }
            return (heads, try versions.step() ? versions.integer(0) : 0)
        } catch {
            // Damage elsewhere keeps nobody from hearing of this.
            return ([], 0)
        }
    }

    /// The hash of a content of several chunks, where a version has one. Its chunks were checked for themselves.
    private func checkWholeDigests(_ decoder: ChunkDecoder) throws(SQLiteError) {
        let next = try connection.prepare(
            """
            SELECT number, size, content, digest, ifnull(directory, '') || ifnull(name, '') FROM version
            WHERE number > ?1 AND typeof(content) = 'blob'
                AND length(content) = (size + 65535) / 65536 * 8 AND digest IS NOT NULL ORDER BY number LIMIT 32
            """)
        var last = Int64.min
        var isDone = false
        while !isDone {
            try inSnapshot { () throws(SQLiteError) in
                next.bind(last, at: 1)
                defer { next.reset() }
                isDone = true
                while try next.step() {
                    isDone = false
                    last = next.integer(0)
                    let size = next.integer(1)
                    let content = Content(next, column: 2, size: size)
                    guard let found = try decoder.digest(of: content, size: size) else { continue }
                    guard unsafe next.withBytes(3, { unsafe Digest(bytes: $0) }) != found else { continue }
                    report(.digestWrong, "version \(last) of \(next.text(4) ?? "") has another hash than its content")
                }
            }
        }
    }
}

/// Decodes chunks and says why one cannot be. Unlike `ChunkReader` it takes chains of any length.
final class ChunkDecoder {
    enum Outcome {
        case bytes([UInt8], depth: Int)
        case noChunk(Int64)
        case noBytes(Int64)
        case circle
        case badDelta(Int64)
    }

    private let row: Statement
    private let extent: Statement

    init(_ connection: Connection) throws(SQLiteError) {
        row = try connection.prepare("SELECT base FROM chunk WHERE number = ?1")
        extent = try connection.prepare("SELECT bytes FROM extent WHERE number = ?1 AND bytes IS NOT NULL")
    }

    /// What a chunk holds; its hash is the caller's to compare.
    func decode(_ chunk: Int64) throws(SQLiteError) -> Outcome {
        var programs: [(chunk: Int64, bytes: [UInt8])] = []
        var seen: Set<Int64> = []
        var next: Int64? = chunk
        while let number = next {
            guard seen.insert(number).inserted else { return .circle }
            row.bind(number, at: 1)
            let isThere = try row.step()
            next = isThere ? row.integerOrNil(0) : nil
            row.reset()
            guard isThere else { return .noChunk(number) }
            extent.bind(number, at: 1)
            defer { extent.reset() }
            guard try extent.step() else { return .noBytes(number) }
            programs.append((number, extent.bytes(0)))
        }
        var bytes = programs.removeLast().bytes
        let depth = programs.count
        while let (number, program) = programs.popLast() {
            guard let decoded = Delta.decode(program, against: bytes) else { return .badDelta(number) }
            bytes = decoded
        }
        return .bytes(bytes, depth: depth)
    }

    /// nil: part of it cannot be decoded.
    func digest(of content: Content, size: Int64) throws(SQLiteError) -> Digest? {
        var isWhole = true
        let zeros = [UInt8](repeating: 0, count: Int(Content.chunkSize))
        let digest = try unsafe Digest { (take) throws(SQLiteError) in
            var left = size
            for chunk in content.chunks {
                let length = Int(max(0, min(left, Content.chunkSize)))
                left -= Int64(length)
                var part: [UInt8] = []
                if chunk != 0 {
                    guard case .bytes(let bytes, _) = try decode(chunk) else {
                        isWhole = false
                        return
                    }
                    part = bytes
                }
                let shown = min(length, part.count)
                unsafe part.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<shown])) }
                unsafe zeros.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<(length - shown)])) }
            }
        }
        return isWhole ? digest : nil
    }
}
