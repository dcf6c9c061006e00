import Glibc
import SQLite

/// What repairs of a store's file are made with. Its caller has the writer's connection, and a transaction open.
final class StoreRepairer {
    private let connection: Connection
    private let decoder: ChunkDecoder
    /// Who changed the names that repairs change: the next version says so.
    let author = Author(.local, writer: Writer(uid: geteuid(), pid: getpid(), command: "remfs doctor")).row
    private var next: Int64
    private var lostAndFound: Int64?
    private let time: Int64

    init(_ connection: Connection) throws(SQLiteError) {
        self.connection = connection
        decoder = try ChunkDecoder(connection)
        let highest = try connection.integer(StoreChecker.highestNumber) ?? 1
        next = max(try connection.integer("SELECT value FROM property WHERE name = 'next'") ?? 0, highest + 1)
        var now = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &now)
        time = Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
    }

    // MARK: SQL

    /// Runs a statement with its parameters: numbers first, then one text. Answers how many rows it changed.
    @discardableResult
    func run(_ sql: String, _ numbers: Int64?..., text: String? = nil) throws(SQLiteError) -> Int {
        try run(sql, numbers, text: text.map { Array($0.utf8) })
    }

    @discardableResult
    func run(_ sql: String, _ numbers: Int64?..., text: [UInt8]) throws(SQLiteError) -> Int {
        try run(sql, numbers, text: text)
    }

    private func run(_ sql: String, _ numbers: [Int64?], text: [UInt8]?) throws(SQLiteError) -> Int {
        let row = try connection.prepare(sql)
        for (place, number) in numbers.enumerated() { row.bind(number, at: Int32(place + 1)) }
        if let text { row.bind(text: text, at: Int32(numbers.count + 1)) }
        try row.run()
        return connection.changes
    }

    func setProperty(_ name: String, integer: Int64) throws(SQLiteError) {
        try run(
            "INSERT INTO property (name, value) VALUES (?2, ?1) ON CONFLICT (name) DO UPDATE SET value = ?1", integer, text: name)
    }

    func setProperty(_ name: String, text: String) throws(SQLiteError) {
        try run("DELETE FROM property WHERE name = '\(name)'")
        try run("INSERT INTO property (name, value) VALUES ('\(name)', ?1)", text: text)
    }

    /// A number that nothing has had.
    func takeNumber() throws(SQLiteError) -> Int64 {
        defer { next += 1 }
        try setProperty("next", integer: next + 1)
        return next
    }

    private func exists(_ sql: String, _ number: Int64, text: [UInt8]) throws(SQLiteError) -> Bool {
        let row = try connection.prepare(sql)
        row.bind(number, at: 1)
        row.bind(text: text, at: 2)
        defer { row.reset() }
        return try row.step()
    }

    // MARK: Names

    /// `name`, or with `number` and more behind it, so that nothing in `parent` has it.
    func freeName(_ name: [UInt8], _ number: Int64, in parent: Int64) throws(SQLiteError) -> [UInt8] {
        // Room for what comes behind, and no character cut in two.
        let stem = Array(String(decoding: name.prefix(200), as: UTF8.self).utf8.filter { $0 != UInt8(ascii: "/") && $0 >= 0x20 })
        var candidate = stem
        var tries = 0
        while try isTaken(candidate, in: parent) {
            candidate = stem + Array(tries == 0 ? ".\(number)".utf8 : ".\(number)-\(tries)".utf8)
            tries += 1
        }
        return candidate
    }

    private func isTaken(_ name: [UInt8], in parent: Int64) throws(SQLiteError) -> Bool {
        if name.isEmpty || name == [0x2e] || name == [0x2e, 0x2e] || parent == 1 && name == Array(".remfs".utf8) { return true }
        if try exists("SELECT 1 FROM inode WHERE parent = ?1 AND name = ?2", parent, text: name) { return true }
        return try exists("SELECT 1 FROM dentry WHERE parent = ?1 AND name = ?2", parent, text: name)
    }

    /// - Parameter cookie: of the name that changes.
    func rename(_ number: Int64, _ cookie: Int64, isSecond: Bool, to name: [UInt8]) throws(SQLiteError) {
        guard !isSecond else {
            try run("UPDATE dentry SET name = ?2 WHERE cookie = ?1", cookie, text: name)
            return
        }
        try run("UPDATE inode SET name = ?2 WHERE number = ?1", number, text: name)
        try noteMove(number)
    }

    /// A memory's next version tells its new name.
    private func noteMove(_ number: Int64) throws(SQLiteError) {
        try run(
            "UPDATE inode SET author = ?2 WHERE number = ?1 AND mode & 61440 = 32768 AND flags & 2 = 0 AND author IS NULL", number,
            text: author)
    }

    func makeDirectory(_ number: Int64, parent: Int64?, name: [UInt8], cookie: Int64) throws(SQLiteError) {
        try run(
            """
            INSERT INTO inode (number, parent, cookie, mode, uid, gid, rdev, flags, size, accessed, modified, changed, name)
            VALUES (?1, ?2, ?3, 16877, ?4, ?5, 0, 0, 0, ?6, ?6, ?6, ?7)
            """, number, parent, cookie, Int64(geteuid()), Int64(getegid()), time, text: name)
    }

    /// The directory for what has no other place, made if it is not there.
    private func findLostAndFound() throws(SQLiteError) -> Int64 {
        if let lostAndFound { return lostAndFound }
        let name = Array("lost+found".utf8)
        let row = try connection.prepare("SELECT number FROM inode WHERE parent = 1 AND name = 'lost+found' AND mode & 61440 = 16384")
        defer { row.reset() }
        if try row.step() {
            lostAndFound = row.integer(0)
            return row.integer(0)
        }
        let number = try takeNumber()
        try makeDirectory(number, parent: 1, name: try freeName(name, number, in: 1), cookie: try takeNumber())
        lostAndFound = number
        return number
    }

    func placeInLostAndFound(_ name: [UInt8], _ number: Int64) throws(SQLiteError) -> (parent: Int64, name: [UInt8]) {
        let parent = try findLostAndFound()
        return (parent, try freeName(name, number, in: parent))
    }

    /// Moves a file or directory there; answers its path.
    func moveToLostAndFound(_ number: Int64, named old: [UInt8]) throws(SQLiteError) -> String {
        let (parent, name) = try placeInLostAndFound(old, number)
        try run(
            "UPDATE inode SET parent = ?2, cookie = ?3, name = ?4 WHERE number = ?1", number, parent, try takeNumber(), text: name)
        try noteMove(number)
        return "/lost+found/\(String(decoding: name, as: UTF8.self))"
    }

    // MARK: Files

    /// An empty regular file in lost+found: its path and its number.
    func makeFile(named wanted: [UInt8], number: Int64? = nil) throws(SQLiteError) -> (path: String, number: Int64) {
        let new = if let number { number } else { try takeNumber() }
        let (parent, name) = try placeInLostAndFound(wanted, new)
        try run(
            """
            INSERT INTO inode (number, parent, cookie, mode, uid, gid, rdev, flags, size, accessed, modified, changed, name)
            VALUES (?1, ?2, ?3, 33188, ?4, ?5, 0, 0, 0, ?6, ?6, ?6, ?7)
            """, new, parent, try takeNumber(), Int64(geteuid()), Int64(getegid()), time, text: name)
        try noteMove(new)
        return ("/lost+found/\(String(decoding: name, as: UTF8.self))", new)
    }

    /// The file that drafts speak of, which gets its number back; answers its path.
    func makeFile(ofDraftsOf inode: Int64) throws(SQLiteError) -> String {
        next = max(next, inode + 1)
        return try makeFile(named: Array("inode-\(inode)".utf8), number: inode).path
    }

    /// The file of a memory that has versions only; answers its path.
    func makeFile(of memory: Int64, version: Int64) throws(SQLiteError) -> String {
        let row = try connection.prepare(
            "SELECT name, began, (SELECT min(began) FROM version WHERE memory = ?2) FROM version WHERE number = ?1")
        row.bind(version, at: 1)
        row.bind(memory, at: 2)
        defer { row.reset() }
        guard try row.step() else { return "its version has gone" }
        let (path, number) = try makeFile(named: row.bytes(0).isEmpty ? Array("memory-\(memory)".utf8) : row.bytes(0))
        try run(
            """
            UPDATE inode SET memory = ?2, version = ?3, memory_created = ?5, version_created = ?4, (size, digest, content) =
                (SELECT size, digest, content FROM version WHERE version.number = ?3) WHERE number = ?1
            """, number, memory, version, row.integer(1), row.integer(2))
        return path
    }

    /// A named file that is no memory that it could be: it gets a new one when the store is opened, with the content that it has.
    func becomeNewMemory(_ number: Int64) throws(SQLiteError) {
        try run(
            """
            UPDATE inode SET memory = NULL, version = NULL, memory_created = NULL, version_created = NULL,
                flags = CASE WHEN mode & 61440 = 32768 THEN flags | 4 ELSE flags & ~4 END,
                author = CASE WHEN mode & 61440 = 32768 AND flags & 2 = 0 THEN ?2 END WHERE number = ?1
            """, number, text: author)
    }

    /// What a file holds is told by its next version, and is its own until then.
    func keepAsChanged(_ number: Int64) throws(SQLiteError) {
        try run("UPDATE inode SET flags = flags | 4, author = ?2 WHERE number = ?1", number, text: author)
    }

    /// A file and its version hold not the same: what of the two can be read, and has the hash that both say, is what they are.
    func reconcile(_ number: Int64, with version: Int64) throws(SQLiteError) -> String {
        let row = try connection.prepare(
            """
            SELECT inode.size IS version.size AND (inode.digest IS version.digest OR inode.content IS version.content) FROM inode, version
            WHERE inode.number = ?1 AND version.number = ?2
            """)
        row.bind(number, at: 1)
        row.bind(version, at: 2)
        defer { row.reset() }
        let agree = try row.step() && row.integer(0) == 1
        if try isReadable(number, in: "inode") {
            guard agree else {
                try keepAsChanged(number)
                return "made what it holds its next version"
            }
            try run(
                "UPDATE version SET (content, digest) = (SELECT content, digest FROM inode WHERE inode.number = ?1) WHERE number = ?2",
                number, version)
            return "gave the version the file's content, whose hash is right"
        }
        guard try isReadable(version, in: "version") else {
            throw SQLiteError(code: 11, message: "neither inode \(number) nor version \(version) can be read")
        }
        try run(
            """
            UPDATE inode SET (content, size, digest) = (SELECT content, size, digest FROM version WHERE version.number = ?2)
            WHERE number = ?1
            """, number, version)
        return "gave it that, since what it held cannot be read"
    }

    /// Whether a row of `inode` or `version` leads to content that can be read and fits its size and hash.
    private func isReadable(_ number: Int64, in table: String) throws(SQLiteError) -> Bool {
        let row = try connection.prepare("SELECT size, content, digest, typeof(content) FROM \(table) WHERE number = ?1")
        row.bind(number, at: 1)
        defer { row.reset() }
        guard try row.step() else { return false }
        let size = row.integer(0)
        if size == 0 { return row.isNull(1) }
        let chunks = (size + Content.chunkSize - 1) / Content.chunkSize
        let isList = row.text(3) == "blob"
        guard isList ? row.bytes(1).count == chunks * 8 : row.text(3) == "integer" && chunks == 1 else { return false }
        let content = Content(row, column: 1, size: size)
        for (place, chunk) in content.chunks.enumerated() where chunk != 0 {
            guard case .bytes(let bytes, _) = try decoder.decode(chunk) else { return false }
            // A hole may follow; a file of one chunk is as long as that.
            let length = min(Content.chunkSize, size - Int64(place) * Content.chunkSize)
            guard isList ? bytes.count <= Int(Content.chunkSize) : bytes.count == length else { return false }
        }
        guard let expected = unsafe row.withBytes(2, { unsafe Digest(bytes: $0) }) else { return true }
        return try decoder.digest(of: content, size: size) == expected
    }

    // MARK: Chunks

    func insertChunk(_ number: Int64, _ digest: Digest, size: Int64) throws(SQLiteError) {
        let row = try connection.prepare(
            "INSERT INTO chunk (number, key, digest, size, encoding, refs, sequence) VALUES (?1, ?2, ?3, ?4, 0, 0, 1)")
        row.bind(number, at: 1)
        row.bind(digest.key, at: 2)
        row.bind(digest.bytes, at: 3)
        row.bind(size, at: 4)
        try row.run()
    }

    /// Writes a chunk's bytes in place of its delta. One that cannot be decoded stays as it is.
    func makeWhole(_ number: Int64) throws(SQLiteError) {
        guard case .bytes(let bytes, let depth) = try decoder.decode(number) else {
            throw SQLiteError(code: 11, message: "chunk \(number) cannot be decoded")
        }
        guard depth > 0 else { return }
        let row = try connection.prepare("UPDATE extent SET bytes = ?2 WHERE number = ?1")
        row.bind(number, at: 1)
        row.bind(bytes, at: 2)
        try row.run()
        try run("UPDATE chunk SET encoding = 0, base = NULL WHERE number = ?1", number)
    }

    /// Drops a chunk that nothing uses, once what is a delta of it is whole.
    func dropChunk(_ number: Int64) throws(SQLiteError) {
        let row = try connection.prepare("SELECT number FROM chunk WHERE base = ?1")
        row.bind(number, at: 1)
        var dependents: [Int64] = []
        while try row.step() { dependents.append(row.integer(0)) }
        row.reset()
        for dependent in dependents { try makeWhole(dependent) }
        try run("DELETE FROM chunk WHERE number = ?1", number)
        try run("DELETE FROM extent WHERE number = ?1", number)
    }
}
