import SQLite

/// The tree: each file in a directory that is there, under a name of its own.
extension StoreChecker {
    /// As SQL has them, of `stat`.
    static let kind = "mode & 61440"
    static let directory: Int64 = 16_384
    static let regular: Int64 = 32_768
    private static let kinds = "4096, 8192, 16384, 24576, 32768, 40960, 49152"

    func checkTree() throws(SQLiteError) {
        try checkRoot()
        try each("SELECT number, name, mode FROM inode WHERE \(Self.kind) NOT IN (\(Self.kinds))") { (row) throws(SQLiteError) in
            let number = row.integer(0)
            report(.typeUnknown, "\(Self.label(number, row.text(1))) is of no known type (mode \(String(row.integer(2), radix: 8)))") {
                (repairer) throws(SQLiteError) in
                try repairer.run("UPDATE inode SET mode = 33152 WHERE number = ?1", number)
                return "made it a regular file that only its owner may read"
            }
        }
        try checkDirectories()
        // What is no directory, and second names.
        let isLost = """
            below.parent <> 1 AND NOT EXISTS (SELECT 1 FROM inode AS above WHERE above.number = below.parent AND above.mode & 61440 = 16384
                AND (above.number = 1 OR above.parent IS NOT NULL))
            """
        try each(
            "SELECT number, name, parent FROM inode AS below WHERE parent IS NOT NULL AND \(Self.kind) <> 16384 AND \(isLost)"
        ) { (row) throws(SQLiteError) in reportLost(row.integer(0), row.text(1), in: row.integer(2)) }
        try each("SELECT cookie, name, parent, inode FROM dentry AS below WHERE \(isLost)") { (row) throws(SQLiteError) in
            let (cookie, name) = (row.integer(0), row.bytes(1))
            let label = Self.label(row.integer(3), row.text(1))
            report(.directoryMissing, "\(label) has a name in directory \(row.integer(2)), which does not exist") {
                (repairer) throws(SQLiteError) in
                let (parent, name) = try repairer.placeInLostAndFound(name, cookie)
                try repairer.run("UPDATE dentry SET parent = ?2, name = ?3 WHERE cookie = ?1", cookie, parent, text: name)
                return "moved that name to /lost+found/\(String(decoding: name, as: UTF8.self))"
            }
        }
    }

    static func label(_ number: Int64, _ name: String?) -> String { "inode \(number) (\"\(name ?? "")\")" }

    private func checkRoot() throws(SQLiteError) {
        let root = try connection.prepare("SELECT parent IS NULL AND mode & 61440 = 16384 FROM inode WHERE number = 1")
        defer { root.reset() }
        guard try root.step() else {
            return report(.rootMissing, "the store has no root directory") { (repairer) throws(SQLiteError) in
                try repairer.makeDirectory(1, parent: nil, name: [], cookie: 0)
                return "made it anew; what was in it is where it was"
            }
        }
        if root.integer(0) == 0 {
            report(.rootMissing, "inode 1 is not the root directory that it has to be") { (repairer) throws(SQLiteError) in
                try repairer.run("UPDATE inode SET parent = NULL, name = '', mode = (mode & 4095) | 16384 WHERE number = 1")
                return "made it the root again"
            }
        }
    }

    private func reportLost(_ number: Int64, _ name: String?, in parent: Int64) {
        let bytes = Array((name ?? "").utf8)
        report(.directoryMissing, "\(Self.label(number, name)) is in directory \(parent), which does not exist") {
            (repairer) throws(SQLiteError) in "moved it to \(try repairer.moveToLostAndFound(number, named: bytes))"
        }
    }

    private func checkDirectories() throws(SQLiteError) {
        // Those that have a name: their parents. Unlinked ones hold nothing.
        var parents: [Int64: Int64] = [1: 0]
        try each("SELECT number, parent FROM inode WHERE \(Self.kind) = \(Self.directory) AND parent IS NOT NULL AND number <> 1") {
            (row) throws(SQLiteError) in parents[row.integer(0)] = row.integer(1)
        }
        // Leads to the root, or to one that is reported for itself.
        var isSettled: Set<Int64> = [1]
        for start in parents.keys.sorted() {
            var way: [Int64] = []
            var onWay: Set<Int64> = []
            var place = start
            while !isSettled.contains(place), onWay.insert(place).inserted {
                way.append(place)
                guard let above = parents[place], parents[above] != nil else {
                    reportLost(place, try name(of: place), in: parents[place] ?? 0)
                    isSettled.insert(place)
                    break
                }
                place = above
            }
            if !isSettled.contains(place) {
                // Back where it has been: one of the circle, always the same, is taken out.
                let circle = way[(way.firstIndex(of: place) ?? 0)...]
                let number = circle.min() ?? place
                let name = try name(of: number)
                report(.directoryCycle, "directory \(Self.label(number, name)) is below itself") { (repairer) throws(SQLiteError) in
                    "moved it to \(try repairer.moveToLostAndFound(number, named: Array((name ?? "").utf8)))"
                }
            }
            isSettled.formUnion(way)
        }
    }

    private func name(of number: Int64) throws(SQLiteError) -> String? {
        let row = try connection.prepare("SELECT name FROM inode WHERE number = ?1")
        row.bind(number, at: 1)
        defer { row.reset() }
        return try row.step() ? row.text(0) : nil
    }

    // MARK: Names

    /// Every name of every file: where it is, and the row that says so.
    private static let names = """
        (SELECT parent, name, cookie, number, 0 AS second FROM inode WHERE parent IS NOT NULL AND number <> 1
        UNION ALL SELECT parent, name, cookie, inode, 1 FROM dentry)
        """

    func checkNames() throws(SQLiteError) {
        try checkSecondNames()
        try each("SELECT parent, name, cookie, number, second FROM \(Self.names) WHERE \(Self.isInvalid)") { (row) throws(SQLiteError) in
            let (parent, cookie, number, isSecond) = (row.integer(0), row.integer(2), row.integer(3), row.integer(4) == 1)
            report(.nameInvalid, "\(Self.label(number, row.text(1))) has a name that no file can have") { (repairer) throws(SQLiteError) in
                let name = try repairer.freeName(Array("inode-\(number)".utf8), cookie, in: parent)
                try repairer.rename(number, cookie, isSecond: isSecond, to: name)
                return "renamed it to \(String(decoding: name, as: UTF8.self))"
            }
        }
        try each(
            """
            SELECT parent, name, cookie, number, second FROM (SELECT *, row_number() OVER (PARTITION BY parent, name ORDER BY cookie, second)
                AS place FROM \(Self.names)) WHERE place > 1
            """
        ) { (row) throws(SQLiteError) in
            let (parent, old, cookie, number, isSecond) = (
                row.integer(0), row.bytes(1), row.integer(2), row.integer(3), row.integer(4) == 1
            )
            report(.nameTwice, "directory \(parent) has two files \"\(row.text(1) ?? "")\": the younger is inode \(number)") {
                (repairer) throws(SQLiteError) in
                let name = try repairer.freeName(old, cookie, in: parent)
                try repairer.rename(number, cookie, isSecond: isSecond, to: name)
                return "renamed the younger to \(String(decoding: name, as: UTF8.self))"
            }
        }
        try each(
            """
            SELECT parent, name, cookie, number, second FROM (SELECT *, row_number() OVER (PARTITION BY parent, cookie ORDER BY second, number)
                AS place FROM \(Self.names)) WHERE place > 1
            """
        ) { (row) throws(SQLiteError) in
            let (cookie, number, isSecond) = (row.integer(2), row.integer(3), row.integer(4) == 1)
            report(.cookieTwice, "directory \(row.integer(0)) has two names at the same place: the second is \"\(row.text(1) ?? "")\"") {
                (repairer) throws(SQLiteError) in
                let new = try repairer.takeNumber()
                if isSecond {
                    try repairer.run("UPDATE dentry SET cookie = ?2 WHERE cookie = ?1", cookie, new)
                } else {
                    try repairer.run("UPDATE inode SET cookie = ?2 WHERE number = ?1", number, new)
                }
                return "put it at the end of the directory's listing"
            }
        }
    }

    private static let isInvalid =
        "name IN ('', '.', '..') OR instr(name, '/') > 0 OR instr(name, char(0)) > 0 OR length(CAST(name AS BLOB)) > 1023"

    private func checkSecondNames() throws(SQLiteError) {
        try each(
            """
            SELECT cookie, dentry.name, inode, number, parentOfInode, kind FROM (SELECT dentry.cookie, dentry.name, dentry.inode, inode.number,
                inode.parent AS parentOfInode, inode.mode & 61440 AS kind FROM dentry LEFT JOIN inode ON inode.number = dentry.inode) AS dentry
            WHERE number IS NULL OR parentOfInode IS NULL OR kind = 16384
            """
        ) { (row) throws(SQLiteError) in
            let (cookie, number) = (row.integer(0), row.integer(2))
            let label = Self.label(number, row.text(1))
            guard !row.isNull(3), row.integer(5) != Self.directory else {
                let why = row.isNull(3) ? "does not exist" : "is a directory and has another"
                return report(.nameOfNothing, "a name leads to \(label), which \(why)") { (repairer) throws(SQLiteError) in
                    try repairer.run("DELETE FROM dentry WHERE cookie = ?1", cookie)
                    return "dropped the name"
                }
            }
            report(.nameOfUnlinked, "\(label) has a name, but its own row says that it was unlinked") { (repairer) throws(SQLiteError) in
                guard
                    try repairer.run(
                        """
                        UPDATE inode SET (parent, name, cookie) = (SELECT parent, name, cookie FROM dentry WHERE cookie = ?2), author = ?3
                        WHERE number = ?1 AND parent IS NULL
                        """, number, cookie, text: repairer.author) > 0
                else { return "it was done with its other name" }
                try repairer.run("DELETE FROM dentry WHERE cookie = ?1", cookie)
                return "took the name as its oldest"
            }
        }
    }
}
