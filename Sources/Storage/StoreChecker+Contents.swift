import SQLite

/// Content: every chunk that is asked for is there, counted right, and what its hash says.
extension StoreChecker {
    /// The chunks of a range of numbers, and what was found to use them.
    private struct Window {
        var numbers: [Int64] = []
        var counts: [Int64] = []
        var uses: [Int64] = []
        var isDelta: [Bool] = []
        var isOfFile: [Bool] = []
        /// Exclusive and inclusive.
        var from: Int64
        var to: Int64

        func place(of number: Int64) -> Int? {
            var low = 0
            var high = numbers.count
            while low < high {
                let middle = (low + high) / 2
                if numbers[middle] < number { low = middle + 1 } else { high = middle }
            }
            return low < numbers.count && numbers[low] == number ? low : nil
        }
    }

    /// 26 MB: as many chunks as 10 GB of large files have are counted in one go.
    private static let windowSize = 1 << 20

    func checkContents() throws(SQLiteError) {
        missingChunks = []
        try checkShapes()
        var from = Int64.min
        repeat {
            var window = try readWindow(after: from)
            try count(into: &window)
            report(window)
            from = window.to
        } while from != .max
        try checkDigests()
    }

    private func readWindow(after from: Int64) throws(SQLiteError) -> Window {
        var window = Window(from: from, to: .max)
        let row = try connection.prepare("SELECT number, refs, encoding, key, digest FROM chunk WHERE number > ?1 ORDER BY number LIMIT ?2")
        row.bind(from, at: 1)
        row.bind(Int64(Self.windowSize), at: 2)
        defer { row.reset() }
        while try row.step() {
            let number = row.integer(0)
            window.numbers.append(number)
            window.counts.append(row.integer(1))
            window.isDelta.append(row.integer(2) == 1)
            let key = unsafe row.withBytes(4) { unsafe Digest(bytes: $0)?.key }
            if let key, key != row.integer(3) {
                report(.keyWrong, "chunk \(number) is not found by its hash") { (repairer) throws(SQLiteError) in
                    try repairer.run("UPDATE chunk SET key = ?2 WHERE number = ?1", number, key)
                    return "wrote its key anew"
                }
            }
        }
        if window.numbers.count == Self.windowSize { window.to = window.numbers[window.numbers.count - 1] }
        window.uses = [Int64](repeating: 0, count: window.numbers.count)
        window.isOfFile = [Bool](repeating: false, count: window.numbers.count)
        return window
    }

    private func count(into window: inout Window) throws(SQLiteError) {
        let versions = try connection.prepare(
            """
            SELECT number, size, content, ifnull(directory, '') || ifnull(name, '') FROM version
            WHERE operation <> 2 AND content IS NOT NULL AND size IS NOT NULL
            """)
        while try versions.step() {
            let content = Content(versions, column: 2, size: versions.integer(1))
            count(content, of: "version \(versions.integer(0)) of \(versions.text(3) ?? "")", isCounted: true, isFile: false, &window) {
                versions.integer(1)
            }
        }
        let files = try connection.prepare(
            "SELECT number, size, content, name, flags FROM inode WHERE \(Self.kind) = \(Self.regular) AND content IS NOT NULL")
        while try files.step() {
            let content = Content(files, column: 2, size: files.integer(1))
            count(
                content, of: Self.label(files.integer(0), files.text(3)), isCounted: files.integer(4) & 4 != 0, isFile: true, &window
            ) { files.integer(1) }
        }
    }

    private func count(
        _ content: Content, of owner: @autoclosure () -> String, isCounted: Bool, isFile: Bool, _ window: inout Window, size: () -> Int64
    ) {
        for (index, chunk) in content.chunks.enumerated() where chunk != 0 && chunk > window.from && chunk <= window.to {
            guard let place = window.place(of: chunk) else {
                guard missingChunks.count < Self.most, missingChunks.insert(chunk).inserted else { continue }
                reportMissing(chunk, of: owner(), size: min(Content.chunkSize, size() - Int64(index) * Content.chunkSize))
                continue
            }
            if isCounted { window.uses[place] += 1 }
            if isFile { window.isOfFile[place] = true }
        }
    }

    private func reportMissing(_ chunk: Int64, of owner: String, size: Int64) {
        // A chunk that is whole can be told by its length: deltas are a quarter shorter at least.
        let bytes: [UInt8]?
        do {
            let row = try connection.prepare("SELECT bytes FROM extent WHERE number = ?1 AND kind = 0 AND length(bytes) = ?2")
            row.bind(chunk, at: 1)
            row.bind(size, at: 2)
            defer { row.reset() }
            bytes = try row.step() ? row.bytes(0) : nil
        } catch {
            // What cannot be read cannot be used; the check of the file says so.
            bytes = nil
        }
        guard let digest = bytes.map({ Digest(of: $0) }) else {
            return report(.chunkMissing, "chunk \(chunk) is missing, which \(owner) needs")
        }
        report(.chunkMissing, "chunk \(chunk) is missing, which \(owner) needs; its bytes are there") { (repairer) throws(SQLiteError) in
            try repairer.insertChunk(chunk, digest, size: size)
            return "made it anew from its bytes"
        }
    }

    private func report(_ window: Window) {
        for (place, number) in window.numbers.enumerated() {
            let (uses, counted) = (window.uses[place], window.counts[place])
            if uses == 0, !window.isOfFile[place] {
                report(.chunkUnused, "nothing uses chunk \(number)") { (repairer) throws(SQLiteError) in
                    try repairer.dropChunk(number)
                    return "dropped it"
                }
                continue
            }
            if uses != counted {
                report(.countWrong, "chunk \(number) counts \(counted) uses, and has \(uses)") { (repairer) throws(SQLiteError) in
                    try repairer.run("UPDATE chunk SET refs = ?2 WHERE number = ?1", number, uses)
                    return "counts \(uses) now"
                }
            }
            if window.isDelta[place], window.isOfFile[place] {
                report(.headIsDelta, "chunk \(number) of a file is a delta") { (repairer) throws(SQLiteError) in
                    try repairer.makeWhole(number)
                    return "made it whole"
                }
            }
        }
    }

    /// A content's column fits its size.
    private func checkShapes() throws(SQLiteError) {
        let isMalformed = """
            CASE WHEN size = 0 THEN content IS NOT NULL WHEN typeof(content) = 'integer' THEN size > 65536 OR content <= 0
                ELSE typeof(content) <> 'blob' OR length(content) <> (size + 65535) / 65536 * 8 END
            """
        try each(
            """
            SELECT number, ifnull(directory, '') || ifnull(name, ''), content IS NULL FROM version
            WHERE operation <> 2 AND redacted IS NULL AND (size IS NULL OR \(isMalformed))
            """
        ) { (row) throws(SQLiteError) in
            report(.contentMalformed, "version \(row.integer(0)) of \(row.text(1) ?? "") does not say where its content is")
        }
        // A settled file's are its version's: what differs from that was found there.
        try each("SELECT number, name FROM inode WHERE \(Self.kind) = \(Self.regular) AND (\(isMalformed))") {
            (row) throws(SQLiteError) in
            report(.contentMalformed, "\(Self.label(row.integer(0), row.text(1))) does not say where its content is")
        }
    }

    /// The hash of a content of one chunk is that chunk's.
    private func checkDigests() throws(SQLiteError) {
        let isWrong = "typeof(owner.content) = 'integer' AND owner.digest IS NOT chunk.digest"
        try each(
            """
            SELECT owner.number, ifnull(directory, '') || ifnull(name, ''), owner.digest IS NULL, owner.content FROM version AS owner
                JOIN chunk ON chunk.number = owner.content WHERE \(isWrong)
            """
        ) { (row) throws(SQLiteError) in
            let (version, chunk) = (row.integer(0), row.integer(3))
            let remedy: (StoreRepairer) throws(SQLiteError) -> String = { (repairer) throws(SQLiteError) in
                try repairer.run(
                    "UPDATE version SET digest = (SELECT digest FROM chunk WHERE chunk.number = ?2) WHERE number = ?1", version, chunk)
                return "wrote that of its content"
            }
            report(
                .digestWrong, "version \(version) of \(row.text(1) ?? "") has another hash than its content",
                remedy: row.integer(2) == 1 ? remedy : nil)
        }
        // Not of memories: theirs is their version's.
        try each(
            """
            SELECT owner.number, owner.name, owner.content FROM inode AS owner JOIN chunk ON chunk.number = owner.content
            WHERE mode & 61440 = 32768 AND flags & 4 <> 0 AND \(isWrong)
            """
        ) { (row) throws(SQLiteError) in
            let (number, chunk) = (row.integer(0), row.integer(2))
            report(.digestWrong, "\(Self.label(number, row.text(1))) has another hash than its content") { (repairer) throws(SQLiteError) in
                try repairer.run(
                    "UPDATE inode SET digest = (SELECT digest FROM chunk WHERE chunk.number = ?2) WHERE number = ?1", number, chunk)
                return "wrote that of its content, which no version tells of yet"
            }
        }
    }

    // MARK: Drafts

    func checkDrafts() throws(SQLiteError) {
        let from = try connection.integer("SELECT value FROM property WHERE name = 'open_from'") ?? 0
        var hidden = Int64.max
        var strays: Set<Int64> = []
        try each(
            """
            SELECT number, inode, modified, bytes IS NULL AND kind = 0,
                (SELECT mode & 61440 FROM inode WHERE inode.number = extent.inode) FROM extent
            WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.number = extent.number)
            """
        ) { (row) throws(SQLiteError) in
            let (number, inode, isDraft) = (row.integer(0), row.integer(1), row.integer(2) != 0)
            guard !missingChunks.contains(number) else { return }
            guard isDraft else {
                return report(.bytesOfNothing, "the bytes of chunk \(number) are there, which nothing asks for") {
                    (repairer) throws(SQLiteError) in
                    try repairer.run("DELETE FROM extent WHERE number = ?1", number)
                    return "dropped them"
                }
            }
            if number >> 20 < from { hidden = min(hidden, number >> 20) }
            guard row.integer(4) != Self.regular, strays.count < Self.most, strays.insert(inode).inserted else { return }
            let isThere = !row.isNull(4)
            report(.draftOfNothing, "bytes were written to inode \(inode), which \(isThere ? "is no regular file" : "does not exist")") {
                (repairer) throws(SQLiteError) in
                guard isThere else { return "made a file of them: \(try repairer.makeFile(ofDraftsOf: inode))" }
                let (path, new) = try repairer.makeFile(named: Array("inode-\(inode)".utf8))
                try repairer.run(
                    """
                    UPDATE extent SET inode = ?2 WHERE inode = ?1 AND modified <> 0
                        AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.number = extent.number)
                    """, inode, new)
                return "made a file of them: \(path)"
            }
        }
        guard hidden != .max else { return }
        report(.draftHidden, "save \(hidden) was never sealed, and is taken for one that was") { (repairer) throws(SQLiteError) in
            try repairer.setProperty("open_from", integer: hidden)
            return "it is sealed when the store is opened"
        }
    }
}
