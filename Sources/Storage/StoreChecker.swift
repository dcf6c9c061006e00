import Glibc
import SQLite

/// Looks through one store's file and says what is wrong with it. `Schema.md` has the rules.
///
/// It reads through a connection of its own, in one read transaction for each part: writers go on meanwhile. What it holds in memory does
/// not grow with the store, but for a few words for each directory. Used by one thread.
final class StoreChecker {
    /// The parts of a check, in the order in which they are repaired: each relies on those before it.
    enum Part: CaseIterable { case file, numbers, tree, names, attributes, history, contents, drafts, hashes }

    let connection: Connection
    let id: StoreID
    private(set) var troubles: [Trouble] = []
    /// How many were found beyond those in `troubles`.
    private(set) var omitted = 0
    /// Chunks that are asked for and have no row: their bytes may be there, and are no draft.
    var missingChunks: Set<Int64> = []
    /// What to do about damage that only a backup helps against.
    let advice: String

    /// As many as one round of repairs takes; the next round finds the rest.
    static let most = 5_000

    /// - Parameter path: of the store's file, for what people are told to do.
    init(_ connection: Connection, id: StoreID, path: String) {
        self.connection = connection
        self.id = id
        advice = Self.restoring(path)
    }

    /// How a backup is put back in place of a store's file (`Operations.md`).
    static func restoring(_ path: String) -> String {
        let stores = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
        let orphans = stores.hasSuffix("/stores") ? stores.dropLast(6) + "orphans/" : "/some/other/place/"
        return "stop the daemon and restore a backup: mv \(path)* \(orphans) && cp BACKUP \(path)"
    }

    /// Opens a connection that a check reads through, or repairs are made through.
    static func open(_ path: String, forWriting: Bool) throws(SQLiteError) -> Connection {
        let connection = try Connection(path: path, mode: .readWrite)
        try connection.execute("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -8192;")
        if !forWriting { try connection.execute("PRAGMA query_only = ON;") }
        return connection
    }

    func report(_ trouble: Trouble) {
        if troubles.count < Self.most { troubles.append(trouble) } else { omitted += 1 }
    }

    func report(
        _ kind: Finding.Kind, _ message: String, advice: String? = nil,
        remedy: ((StoreRepairer) throws(SQLiteError) -> String)? = nil
    ) {
        report(Trouble(kind, message, advice: advice ?? self.advice, remedy: remedy))
    }

    /// Takes what was found so far.
    func takeTroubles() -> [Trouble] {
        defer {
            troubles = []
            omitted = 0
        }
        return troubles
    }

    /// Looks through one part. What SQLite cannot read is a finding as well.
    func check(_ part: Part) throws(RemfsError) {
        do throws(SQLiteError) {
            switch part {
            case .file: try inSnapshot { () throws(SQLiteError) in try checkFile() }
            case .numbers: try inSnapshot { () throws(SQLiteError) in try checkNumbers() }
            case .tree: try inSnapshot { () throws(SQLiteError) in try checkTree() }
            case .names: try inSnapshot { () throws(SQLiteError) in try checkNames() }
            case .attributes: try inSnapshot { () throws(SQLiteError) in try checkAttributes() }
            case .history: try inSnapshot { () throws(SQLiteError) in try checkHistory() }
            case .contents: try inSnapshot { () throws(SQLiteError) in try checkContents() }
            case .drafts: try inSnapshot { () throws(SQLiteError) in try checkDrafts() }
            case .hashes: try checkHashes()
            }
        } catch {
            guard error.kind == .corrupted || error.kind == .notADatabase else { throw RemfsError(error, in: "store \(id)") }
            // The check of the file has said so already.
            guard !troubles.contains(where: { $0.finding.kind == .databaseDamaged }) else { return }
            report(.databaseDamaged, "SQLite cannot read all of the file: \(error.message)")
        }
    }

    func inSnapshot(_ body: () throws(SQLiteError) -> Void) throws(SQLiteError) {
        // Repairs are checked within the writer's own transactions.
        guard !connection.isInTransaction else { return try body() }
        try connection.execute("BEGIN")
        do throws(SQLiteError) {
            try body()
        } catch {
            if connection.isInTransaction { try connection.execute("ROLLBACK") }
            throw error
        }
        try connection.execute("COMMIT")
    }

    /// Goes through the rows of a query.
    func each(_ sql: String, _ body: (Statement) throws(SQLiteError) -> Void) throws(SQLiteError) {
        let row = try connection.prepare(sql)
        defer { row.reset() }
        while try row.step() { try body(row) }
    }

    // MARK: The file

    private func checkFile() throws(SQLiteError) {
        var isIndex = false
        try each("PRAGMA integrity_check(100)") { (row) throws(SQLiteError) in
            let line = row.text(0) ?? ""
            guard line != "ok" else { return }
            guard line.contains("missing from index") || line.contains("wrong # of entries in index") || line.contains("non-unique entry")
            else { return report(.databaseDamaged, "SQLite's own check says: \(line)") }
            // One REINDEX puts all of them right.
            guard !isIndex else { return }
            isIndex = true
            report(.indexWrong, "SQLite's own check says: \(line)") { (repairer) throws(SQLiteError) in
                try repairer.run("REINDEX")
                return "made all indexes anew"
            }
        }
        let owner = try connection.prepare("SELECT value FROM property WHERE name = 'store'")
        defer { owner.reset() }
        guard try owner.step(), let text = owner.text(0) else {
            let id = id.description
            return report(.ownerMissing, "the file does not say which store it is") { (repairer) throws(SQLiteError) in
                try repairer.setProperty("store", text: id)
                return "wrote the ID of its name into it"
            }
        }
        if text != id.description {
            report(
                .foreignFile, "the file holds another store, \(text)",
                advice: "put the store's own file back, or a backup of it; this one belongs to \(text).sqlite")
        }
    }

    /// The largest number that anything in the file has.
    static let highestNumber = """
        SELECT max(n) FROM (SELECT max(number) AS n FROM inode UNION ALL SELECT max(cookie) FROM inode
            UNION ALL SELECT max(cookie) FROM dentry UNION ALL SELECT max(number) FROM version
            UNION ALL SELECT max(memory) FROM version UNION ALL SELECT max(memory) FROM inode
            UNION ALL SELECT max(number) >> 20 FROM extent UNION ALL SELECT max(number) >> 20 FROM chunk)
        """

    private func checkNumbers() throws(SQLiteError) {
        let highest = try connection.integer(Self.highestNumber) ?? 1
        let next = try connection.integer("SELECT value FROM property WHERE name = 'next' AND typeof(value) = 'integer'")
        if next ?? 0 <= highest {
            report(
                .numberWrong,
                next.map { "the file promises that numbers from \($0) on are free, and \(highest) is used" }
                    ?? "the file does not say which numbers are free"
            ) { (repairer) throws(SQLiteError) in
                try repairer.setProperty("next", integer: highest + 1)
                return "numbers go on from \(highest + 1)"
            }
        }
        let isThere = try connection.integer("SELECT count(*) FROM property WHERE name = 'open_from' AND typeof(value) <> 'integer'")
        if isThere ?? 0 > 0 {
            report(.numberWrong, "the file does not say from which save on there are drafts") { (repairer) throws(SQLiteError) in
                try repairer.setProperty("open_from", integer: 0)
                return "all saves are looked through for drafts"
            }
        }
    }

    private func checkAttributes() throws(SQLiteError) {
        try each(
            "SELECT inode, count(*) FROM xattr WHERE NOT EXISTS (SELECT 1 FROM inode WHERE number = xattr.inode) GROUP BY inode"
        ) { (row) throws(SQLiteError) in
            let number = row.integer(0)
            report(.attributeOfNothing, "\(row.integer(1)) extended attributes are of inode \(number), which does not exist") {
                (repairer) throws(SQLiteError) in
                try repairer.run("DELETE FROM xattr WHERE inode = ?1", number)
                return "dropped them"
            }
        }
    }
}
