import SQLite

/// What kernels have to forget of the past when a version is redacted.
extension StoreState {
    /// Where a version is shown.
    struct PastPlaces {
        let number: Int64
        /// nil: it has none any more.
        let path: String?
        let began: Int64
        let ended: Int64?
        /// All that its memory had.
        let paths: Set<ExactString>
    }

    func pastPlaces(ofVersion number: Int64) throws(SQLiteError) -> PastPlaces? {
        guard !origins.isEmpty else { return nil }
        let row = try statements.cached("SELECT directory || name, began, ended, memory FROM version WHERE number = ?1")
        row.bind(number, at: 1)
        defer { row.reset() }
        guard try row.step() else { return nil }
        let others = try statements.cached("SELECT DISTINCT directory || name FROM version WHERE memory = ?1 AND name IS NOT NULL")
        others.bind(row.integer(3), at: 1)
        defer { others.reset() }
        var paths: Set<ExactString> = []
        while try others.step() { paths.insert(ExactString(others.text(0) ?? "")) }
        return PastPlaces(number: number, path: row.text(0), began: row.integer(1), ended: row.integerOrNil(2), paths: paths)
    }

    /// After the redaction: its pages, its name in each moment of which it was, and the directories that it alone implied.
    func forgetPast(_ places: PastPlaces) throws(RemfsError) {
        past.lose(at: now() / 1_000)
        invalidate(.bytes(PastNode.version(places.number).inode, offset: 0, length: 0))
        for path in places.paths {
            for above in Self.above(path.text) + [path.text] {
                invalidate(.bytes(PastNode.versions(PathNumber(above)).inode, offset: 0, length: 0))
            }
        }
        guard let path = places.path else { return }
        let moments = (past.kept ?? [:]).map { ($0.key, $0.value.moment.time) } + origins.values.compactMap(\.time).map { (0, $0) }
        for (moment, time) in moments where places.began <= time && places.ended ?? .max > time {
            try forgetPast(path, at: moment, time)
        }
    }

    private func forgetPast(_ path: String, at moment: Int, _ time: Int64) throws(RemfsError) {
        var path = path
        while !path.isEmpty {
            let (directory, name) = Self.split(path)
            let parent = String(Substring(directory.utf8.dropLast()))
            invalidate(.name(Array(name.utf8), in: PastNode.directory(PathNumber(parent), at: moment).inode))
            let isLeft = try query { () throws(SQLiteError) in
                let row = try statements.cached(
                    """
                    SELECT 1 FROM version WHERE directory >= ?1 AND directory < ?2 AND began <= ?3 AND (ended IS NULL OR ended > ?3)
                        AND operation <> 2 LIMIT 1
                    """)
                row.bind(parent + "/", at: 1)
                row.bind(parent + "0", at: 2)
                row.bind(time, at: 3)
                defer { row.reset() }
                return try row.step()
            }
            if isLeft { return }
            path = parent
        }
    }

    /// The directories that a path leads through, the root first.
    private static func above(_ path: String) -> [String] {
        var found: [String] = []
        for (place, byte) in zip(path.utf8.indices, path.utf8) where byte == UInt8(ascii: "/") {
            found.append(String(Substring(path.utf8[..<place])))
        }
        return found
    }
}
