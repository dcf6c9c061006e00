import SQLite

/// `.remfs/versions`: below each path that a memory has or had, its versions as files. Where memories lie or lay below it, those are listed as
/// directories; a path that was both in turn shows both.
extension MemoryStore {
    /// nil: neither a version of what is or was at the path, nor a path below it.
    package func versionsEntry(_ name: UnsafeRawBufferPointer, in parent: PathNumber) throws(RemfsError) -> PastEntry? {
        guard let text = unsafe String(validating: name, as: UTF8.self) else { return nil }
        try settleForReading()
        let parentPath = try pastPath(parent)
        let path = parentPath + "/" + text
        let number = VersionName.version(text)?.number(in: id)
        return try readPast(at: nil) { (reader) throws(SQLiteError) -> (version: VersionName?, isPath: Bool) in
            if let number, let version = try reader.versions(of: parentPath, in: self.id, only: number).first,
                version.text.utf8.elementsEqual(text.utf8)
            {
                return (version, false)
            }
            return (nil, try reader.hasMemories(at: path))
        } _: { (state, found) throws(RemfsError) in
            if let version = found.version { return state.shown(version) }
            return found.isPath ? try state.versionsDirectory(text, path) : nil
        }
    }

    /// As `listPast`. Versions come after paths, oldest first.
    package func listVersions(_ number: PathNumber, after cookie: UInt64, _ take: (PastEntry) -> Bool) throws(RemfsError) {
        let node = PastNode.versions(number)
        // The first part is what is there now, and the others go on with it.
        let known = cookie < 3 ? nil : try look { (state) throws(RemfsError) in state.past.listing(node) }
        let entries: [PastEntry]
        if let known {
            entries = known
        } else {
            environment.willBlock()
            try settleForReading()
            let path = try pastPath(number)
            entries = try readPast(at: nil) { (reader) throws(SQLiteError) in
                (try reader.versions(of: path, in: self.id), try reader.names(below: path + "/"))
            } _: { (state, found: (versions: [VersionName], names: [String])) throws(RemfsError) in
                var entries: [PastEntry] = []
                for name in found.names { entries.append(try state.versionsDirectory(name, path + "/" + name)) }
                for version in found.versions { entries.append(state.shown(version)) }
                entries.sort { $0.cookie < $1.cookie }
                state.past.keep(entries, of: node)
                return entries
            }
        }
        for entry in entries where entry.cookie > cookie { guard take(entry) else { return } }
    }

    /// When what `.remfs/versions` shows changed last, in us: a kernel lists anew what it has listed before.
    package func historyChanged() throws(RemfsError) -> Int64 {
        try settleForReading()
        return try look { (state) throws(RemfsError) in max(state.lastVersionTime, state.past.lastLoss) }
    }
}

/// A version's name in a listing: its time first, so that names sort by it.
private struct VersionName {
    let file: PastFile
    let text: String

    /// `20261122T162000.123456Z-memver_...-user_0`, with `-deleted` at the end of a deletion, which is an empty file.
    init(_ file: PastFile, actor: String, in store: StoreID) {
        self.file = file
        let time = Timestamp(microseconds: file.began).rfc3339.filter { $0 != "-" && $0 != ":" }
        // An actor's name is a client's to choose.
        let author = String(
            decoding: actor.utf8.prefix(150).map { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "/") ? $0 : UInt8(ascii: "_") },
            as: UTF8.self)
        text = "\(time)-\(VersionID(store: store, number: file.number))-\(author)\(file.operation == .deleted ? "-deleted" : "")"
    }

    /// The version that a name is of, if it looks like one.
    static func version(_ text: String) -> VersionID? {
        let parts = text.utf8.split(separator: UInt8(ascii: "-"), maxSplits: 2)
        return parts.count == 3 ? VersionID(String(Substring(parts[1]))) : nil
    }
}

extension StoreState {
    fileprivate func shown(_ version: VersionName) -> PastEntry {
        expose(version.file)
        return version.file.entry(Array(version.text.utf8))
    }

    fileprivate func versionsDirectory(_ name: String, _ path: String) throws(RemfsError) -> PastEntry {
        let number = try note(path)
        return PastEntry(
            name: Array(name.utf8), directory: .versions(number), number, modified: max(lastVersionTime, past.lastLoss))
    }
}

extension Reader {
    /// Of the memory that is at a path, or was the last one there, all of them, wherever it was; of others that were there, those.
    ///
    /// - Parameter only: no other than this.
    fileprivate func versions(of path: String, in store: StoreID, only: Int64? = nil) throws(SQLiteError) -> [VersionName] {
        let row = try cached(
            """
            WITH here AS (SELECT number, memory FROM version WHERE directory = ?1 AND name = ?2)
            SELECT \(PastFile.columns), actor FROM version
            WHERE name IS NOT NULL AND number IN (
                SELECT number FROM here
                UNION SELECT number FROM version WHERE memory = (SELECT memory FROM here ORDER BY number DESC LIMIT 1))
                AND (?3 IS NULL OR number = ?3)
            ORDER BY number
            """)
        let (directory, name) = StoreState.split(path)
        row.bind(directory, at: 1)
        row.bind(name, at: 2)
        row.bind(only, at: 3)
        defer { row.reset() }
        var versions: [VersionName] = []
        while try row.step() { versions.append(VersionName(PastFile(row), actor: row.text(5) ?? "", in: store)) }
        return versions
    }

    /// Whether a memory was ever at a path or below.
    fileprivate func hasMemories(at path: String) throws(SQLiteError) -> Bool {
        let row = try cached(
            """
            SELECT EXISTS (SELECT 1 FROM version WHERE directory = ?1 AND name = ?2)
                OR EXISTS (SELECT 1 FROM version WHERE directory >= ?3 AND directory < ?4)
            """)
        let (directory, name) = StoreState.split(path)
        row.bind(directory, at: 1)
        row.bind(name, at: 2)
        row.bind(path + "/", at: 3)
        row.bind(path + "0", at: 4)
        defer { row.reset() }
        return try row.step() && row.integer(0) == 1
    }

    /// Names in a directory, of memories and of directories, that there are or were.
    fileprivate func names(below directory: String) throws(SQLiteError) -> [String] {
        var names = Set(try directories(in: directory, where: "true", time: 0).map { ExactString($0) })
        let row = try cached("SELECT DISTINCT name FROM version WHERE directory = ?1")
        row.bind(directory, at: 1)
        defer { row.reset() }
        while try row.step() { names.insert(ExactString(row.text(0) ?? "")) }
        return names.map(\.text)
    }
}
