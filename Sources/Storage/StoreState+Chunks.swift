import SQLite

/// Chunks: content under its hash, shared by all versions and counted.
extension StoreState {
    /// Content that is to be stored: where it stands now, and what it is.
    struct NewChunk {
        /// The number it gets, unless the same content is there already.
        let number: Int64
        let digest: Digest
        let size: Int
        /// nil: an extent of that number holds the bytes already.
        let bytes: [UInt8]?
        /// The chunk that held this part of the file before.
        let previous: Int64?
        /// Encoded from the start: a chunk of the same seal that this one is a delta of.
        var delta: (base: Int64, program: [UInt8])?
        var sequence: Int64
    }

    struct ChunkRow {
        let digest: Digest
        let size: Int
        let encoding: Int64
        let base: Int64?
        let references: Int64
        let sequence: Int64
        let previous: Int64?
    }

    func chunkRow(_ number: Int64) throws(SQLiteError) -> ChunkRow? {
        let row = statements.chunk
        row.bind(number, at: 1)
        defer { row.reset() }
        guard try row.step() else { return nil }
        guard let digest = unsafe row.withBytes(0, { unsafe Digest(bytes: $0) }) else { return nil }
        return ChunkRow(
            digest: digest, size: Int(row.integer(1)), encoding: row.integer(2), base: row.integerOrNil(3), references: row.integer(4),
            sequence: row.integer(5), previous: row.integerOrNil(6))
    }

    /// The number of a chunk with this content, if there is one.
    func findChunk(_ digest: Digest, size: Int) throws(SQLiteError) -> (number: Int64, isWhole: Bool)? {
        let row = statements.findChunk
        row.bind(digest.key, at: 1)
        row.bind(digest.bytes, at: 2)
        row.bind(Int64(size), at: 3)
        defer { row.reset() }
        guard try row.step() else { return nil }
        return (row.integer(0), row.integer(1) == 0)
    }

    /// Stores content, or counts one more use of what is there; answers the chunk's number.
    func store(_ chunk: NewChunk, for inode: InodeNumber) throws(SQLiteError) -> Int64 {
        if let found = try findChunk(chunk.digest, size: chunk.size) {
            // The head is always whole.
            if !found.isWhole { try makeWhole(found.number) }
            statements.addReference.bind(found.number, at: 1)
            try statements.addReference.run()
            return found.number
        }
        if let bytes = chunk.delta?.program ?? chunk.bytes {
            let row = statements.insertExtent
            row.bind(chunk.number, at: 1)
            row.bind(inode, at: 2)
            row.bind(0 as Int64, at: 3)
            row.bind(0 as Int64, at: 4)
            row.bind(Int64(chunk.size), at: 5)
            row.bind(0 as Int64, at: 6)
            row.bind(nil as String?, at: 7)
            try row.run(binding: bytes, at: 8)
        }
        let row = statements.insertChunk
        row.bind(chunk.number, at: 1)
        row.bind(chunk.digest.key, at: 2)
        row.bind(chunk.digest.bytes, at: 3)
        row.bind(Int64(chunk.size), at: 4)
        row.bind(chunk.delta == nil ? 0 : 1 as Int64, at: 5)
        row.bind(chunk.delta?.base, at: 6)
        row.bind(chunk.sequence, at: 7)
        row.bind(chunk.previous, at: 8)
        try row.run()
        return chunk.number
    }

    /// Gives up one use of each chunk of a content; what nobody uses goes.
    func release(_ content: Content) throws(SQLiteError) {
        for chunk in content.chunks where chunk != 0 {
            let row = statements.dropReference
            row.bind(chunk, at: 1)
            let left = try row.step() ? row.integer(0) : 0
            while try row.step() {}
            row.reset()
            guard left <= 0 else { continue }
            // Others may be deltas of it: they become whole before it goes.
            var dependents: [Int64] = []
            statements.dependents.bind(chunk, at: 1)
            while try statements.dependents.step() { dependents.append(statements.dependents.integer(0)) }
            statements.dependents.reset()
            for dependent in dependents { try makeWhole(dependent) }
            statements.deleteChunk.bind(chunk, at: 1)
            try statements.deleteChunk.run()
            statements.deleteExtent.bind(chunk, at: 1)
            try statements.deleteExtent.run()
        }
    }

    /// The bytes of a chunk, checked against its hash.
    func bytes(of chunk: Int64) throws(SQLiteError) -> [UInt8] {
        try ChunkReader.bytes(of: chunk, row: statements.chunk, extent: statements.extentBytes)
    }

    func makeWhole(_ number: Int64) throws(SQLiteError) {
        let bytes = try bytes(of: number)
        try replace(number, encoding: 0, base: nil, bytes)
    }

    private func replace(_ number: Int64, encoding: Int64, base: Int64?, _ bytes: [UInt8]) throws(SQLiteError) {
        statements.replaceExtent.bind(number, at: 1)
        try statements.replaceExtent.run(binding: bytes, at: 2)
        statements.recodeChunk.bind(number, at: 1)
        statements.recodeChunk.bind(encoding, at: 2)
        statements.recodeChunk.bind(base, at: 3)
        try statements.recodeChunk.run()
    }

    /// Re-encodes what newer chunks made worth it, a few at a time. Answers whether there is more to do.
    func encodeDeltas(atMost limit: Int) throws(RemfsError) -> Bool {
        var left = limit
        while left > 0, let newest = deltaCandidates.popLast() {
            left -= 1
            try commit { () throws(SQLiteError) in
                guard let head = try chunkRow(newest) else { return }
                let bases = try bases(of: head)
                guard bases.count < DeltaChain.longestChain else { return }
                var next = head.previous
                for step in DeltaChain.steps(endingAt: head.sequence) {
                    // Walk back to the chunk that is `step` older; the next step is further back.
                    var found: (number: Int64, row: ChunkRow)?
                    while let number = next, let row = try chunkRow(number), row.sequence >= head.sequence - step {
                        found = (number, row)
                        next = row.previous
                    }
                    // One that other versions share may be the head of another memory: it stays whole. So does one that came back
                    // and that the newer ones lead to.
                    guard let (number, row) = found, row.sequence == head.sequence - step, row.encoding == 0, row.references == 1,
                        number != newest, !bases.contains(number)
                    else { continue }
                    let old = try bytes(of: number)
                    let program = Delta.encode(old, against: try bytes(of: newest))
                    guard program.count * 4 < old.count * 3 else { continue }
                    try replace(number, encoding: 1, base: newest, program)
                }
            }
        }
        return !deltaCandidates.isEmpty
    }

    /// The chunks that a chunk is a delta of, the nearest first.
    private func bases(of row: ChunkRow) throws(SQLiteError) -> [Int64] {
        var bases: [Int64] = []
        var next = row.base
        while let base = next, bases.count < DeltaChain.longestChain {
            bases.append(base)
            next = try chunkRow(base)?.base
        }
        return bases
    }
}

/// Which older chunks become deltas of a new one.
///
/// Chunk `i` of a sequence is a delta of chunk `i + (the lowest bit of i)`, less than 256 on: so every chunk is at most eight
/// steps from a whole one, and one in 256 stays whole (skip deltas, as Subversion has them).
enum DeltaChain {
    static let wholeEvery: Int64 = 256
    /// As long as a chain becomes. Below what is promised (`longestAllowed`): room for chunks of other sequences that turned out to be the same.
    static let longestChain = 16
    static let longestAllowed = 32

    /// The chunk that number `sequence` of a chain is a delta of, once it exists; nil: it stays whole.
    static func base(of sequence: Int64) -> Int64? {
        let step = sequence & -sequence
        return step < wholeEvery ? sequence + step : nil
    }

    /// How much older the chunks are whose base is `sequence`.
    static func steps(endingAt sequence: Int64) -> [Int64] {
        var steps: [Int64] = []
        var step: Int64 = 1
        while step < wholeEvery, step < sequence {
            if base(of: sequence - step) == sequence { steps.append(step) }
            step *= 2
        }
        return steps
    }
}

/// Reads chunks through whichever connection lends its two statements.
enum ChunkReader {
    /// The bytes of a chunk, decoded. What they are deltas of is not checked for itself: if it is damaged, so is what comes out.
    ///
    /// A hash that does not match is answered as SQLite's own corruption, so that it takes the same way out.
    static func bytes(of chunk: Int64, row: Statement, extent: Statement) throws(SQLiteError) -> [UInt8] {
        var programs: [(chunk: Int64, bytes: [UInt8])] = []
        var digest: Digest?
        var next: Int64? = chunk
        while let number = next {
            // A chain that leads back to itself is damage as well.
            guard programs.count <= DeltaChain.longestAllowed else { throw corrupted("chunk \(chunk) has too many bases") }
            row.bind(number, at: 1)
            guard try row.step() else {
                row.reset()
                throw corrupted("chunk \(number) is missing")
            }
            if number == chunk { digest = unsafe row.withBytes(0) { unsafe Digest(bytes: $0) } }
            next = row.integer(2) == 1 ? row.integer(3) : nil
            row.reset()
            extent.bind(number, at: 1)
            guard try extent.step() else {
                extent.reset()
                throw corrupted("the bytes of chunk \(number) are missing")
            }
            programs.append((number, extent.bytes(0)))
            extent.reset()
        }
        guard let digest else { throw corrupted("chunk \(chunk) has no hash") }
        return try decode(&programs, digest)
    }

    /// - Parameter programs: deltas, each of the next; the last one is whole.
    static func decode(_ programs: inout [(chunk: Int64, bytes: [UInt8])], _ digest: Digest) throws(SQLiteError) -> [UInt8] {
        let chunk = programs[0].chunk
        var bytes = programs.removeLast().bytes
        while let (number, program) = programs.popLast() {
            guard let decoded = Delta.decode(program, against: bytes) else { throw corrupted("chunk \(number) is a damaged delta") }
            bytes = decoded
        }
        guard Digest(of: bytes) == digest else { throw corrupted("chunk \(chunk) does not match its hash") }
        return bytes
    }

    static func corrupted(_ message: String) -> SQLiteError { SQLiteError(code: 11, message: message) }
}
