import Glibc
import SQLite
import Threads

/// Rows of the table of inodes, as they stand in the file and without an object for each: what one thread may read while another makes
/// inodes of what it has read itself.
struct InodeRows: Sendable {
    struct Row: Sendable {
        let number: InodeNumber
        let parent: InodeNumber
        /// Where its name ends in `names`; it begins where the one before it ends.
        let nameEnd: Int
        let cookie: Int64
        let mode: UInt32
        let uid: UInt32
        let gid: UInt32
        let rdev: UInt64
        let flags: Int64
        let size: Int64
        let accessed: Int64
        let modified: Int64
        let changed: Int64
        let content: Content
        let digest: Digest?
        /// A memory's; nil: it has no version yet, or is none.
        let head: MemoryHead?
        /// Where the store keeps who changed it last: rare, since versions say it.
        let author: Author?
        let target: [UInt8]?
        let request: LedgerEntry?
    }
    private(set) var rows: [Row] = []
    private(set) var names: [UInt8] = []

    /// - Parameter count: about how many there will be.
    init(of connection: Connection, from first: InodeNumber, below end: InodeNumber, count: Int) throws(SQLiteError) {
        rows.reserveCapacity(count)
        names.reserveCapacity(count * 16)
        let row = try connection.prepare(
            """
            SELECT inode.number, parent, inode.name, cookie, mode, inode.uid, gid, rdev, flags, inode.size, accessed, modified, changed,
                inode.content, inode.digest, inode.memory, inode.version, memory_created, version_created, author, mount, request,
                head.content, head.size, head.digest, head.began
            FROM inode
            -- Content that no version tells of yet is not the head's: the version has that.
            LEFT JOIN version AS head ON head.number = CASE WHEN author IS NOT NULL THEN inode.version END
            WHERE inode.number >= ?1 AND inode.number < ?2 ORDER BY inode.number
            """)
        row.bind(first, at: 1)
        row.bind(end, at: 2)
        var authors = AuthorRows()
        while try row.step() {
            let mode = UInt32(truncatingIfNeeded: row.integer(4))
            let (isRegular, isLink) = (mode & UInt32(S_IFMT) == UInt32(S_IFREG), mode & UInt32(S_IFMT) == UInt32(S_IFLNK))
            let size = row.integer(9)
            unsafe row.withBytes(2) { unsafe names.append(contentsOf: $0) }
            let content = isRegular ? Content(row, column: 13, size: size) : .empty
            let digest: Digest? = !isRegular ? nil : size == 0 ? .ofNothing : unsafe row.withBytes(14) { unsafe Digest(bytes: $0) }
            let author = authors.author(row.text(19))
            rows.append(
                Row(
                    number: row.integer(0), parent: row.integerOrNil(1) ?? 0, nameEnd: names.count, cookie: row.integer(3), mode: mode,
                    uid: UInt32(truncatingIfNeeded: row.integer(5)), gid: UInt32(truncatingIfNeeded: row.integer(6)),
                    rdev: UInt64(bitPattern: row.integer(7)), flags: row.integer(8), size: size, accessed: row.integer(10),
                    modified: row.integer(11), changed: row.integer(12), content: content, digest: digest,
                    head: isRegular ? Self.head(row, size, digest, content, isSealed: author == nil) : nil, author: author,
                    target: isLink ? row.bytes(13) : nil,
                    request: LedgerEntry(row, column: 20, answer: row.integer(0))))
        }
    }

    private static func head(_ row: Statement, _ size: Int64, _ digest: Digest?, _ content: Content, isSealed: Bool) -> MemoryHead? {
        guard let memory = row.integerOrNil(15), let version = row.integerOrNil(16) else { return nil }
        let created = row.integer(17)
        guard !isSealed else {
            return MemoryHead(
                memory: memory, version: version, created: created, updated: row.integer(18), size: size, digest: digest, content: content)
        }
        return row.isNull(25) ? nil : MemoryHead(memory: memory, version: version, created: created, row, column: 22)
    }

    /// All rows of a store, by number, in one or two parts. A large table is read by two threads, since clients may wait meanwhile: making
    /// inodes costs about as much as reading the rows, so the second thread gets more than half of these.
    ///
    /// - Parameter take: called with each part, on the calling thread.
    static func readAll(of writer: Connection, _ take: (InodeRows) throws(SQLiteError) -> Void) throws(SQLiteError) {
        let count = Int(try writer.integer("SELECT count(*) FROM inode") ?? 0)
        guard count > worthAThread,
            let middle = try writer.integer("SELECT number FROM inode ORDER BY number LIMIT 1 OFFSET \(count * 2 / 5)")
        else { return try take(try InodeRows(of: writer, from: .min, below: .max, count: count)) }
        let path = writer.path
        let second = Mutex<Result<InodeRows, SQLiteError>?>(nil)
        let thread = Thread("remfs-load") {
            let read = Result { () throws(SQLiteError) in
                let connection = try Connection(path: path, mode: .readWrite)
                try connection.execute("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0;")
                return try InodeRows(of: connection, from: middle, below: .max, count: count - count * 2 / 5)
            }
            second.withLock { $0 = read }
        }
        // Whatever happens here, the other thread has ended before the store is closed.
        let first = Result { () throws(SQLiteError) in
            try take(try InodeRows(of: writer, from: .min, below: middle, count: count * 2 / 5))
        }
        thread.join()
        try first.get()
        if let rest = second.withLock({ $0 }) { try take(try rest.get()) }
    }

    /// Rows: below it, to start a thread and to open the file again costs more than it saves.
    private static let worthAThread = 2_000
}

extension MemoryHead {
    /// Of a version's row: content, size, digest and when it began, from `column` on.
    init(memory: Int64, version: Int64, created: Int64, _ row: Statement, column: Int32) {
        let size = row.integer(column + 1)
        self.init(
            memory: memory, version: version, created: created, updated: row.integer(column + 3), size: size,
            digest: size == 0 ? .ofNothing : unsafe row.withBytes(column + 2) { unsafe Digest(bytes: $0) },
            content: Content(row, column: column, size: size))
    }
}
