import SQLite

/// History: each memory's versions follow each other, and what is there now is the last of them.
extension StoreChecker {
    /// Who says that a memory is there, or is about to be told as deleted.
    private struct Holder {
        /// 0: a row of `removal`.
        let inode: Int64
        let isLinked: Bool
        let version: Int64?
        let versionTime: Int64?
        let isMemory: Bool
    }

    /// What a memory's versions come to.
    private struct Story {
        let memory: Int64
        var last: Int64
        var operation: Int64
        var began: Int64
        var ended: Int64?
        var firstBegan: Int64
        var path: String
    }

    func checkHistory() throws(SQLiteError) {
        try checkTimes()
        try each(
            "SELECT number, name FROM inode WHERE parent IS NOT NULL AND number <> 1 AND version IS NOT NULL AND memory IS NULL"
        ) { (row) throws(SQLiteError) in
            reportNewMemory(row.integer(0), "\(Self.label(row.integer(0), row.text(1))) has a version and no memory")
        }
        // Two lists in the order of memories, read side by side.
        let versions = try connection.prepare(
            """
            SELECT number, memory, operation, began, ended, ifnull(directory, '') || ifnull(name, ''), pruned FROM version
            ORDER BY memory, number
            """)
        let holders = try connection.prepare(
            """
            SELECT memory, number, parent IS NOT NULL AND number <> 1 AS linked, version, version_created,
                mode & 61440 NOT IN (4096, 8192, 16384, 24576, 40960, 49152) AND flags & 2 = 0 FROM inode WHERE memory IS NOT NULL
            UNION ALL SELECT memory, 0, 0, version, NULL, 1 FROM removal ORDER BY 1, 3 DESC, 2
            """)
        defer {
            versions.reset()
            holders.reset()
        }
        var hasVersion = try versions.step()
        var hasHolder = try holders.step()
        while hasVersion || hasHolder {
            let memory = min(hasVersion ? versions.integer(1) : .max, hasHolder ? holders.integer(0) : .max)
            var story: Story?
            while hasVersion, versions.integer(1) == memory {
                follow(&story, versions)
                hasVersion = try versions.step()
            }
            if let story, let ended = story.ended {
                report(.intervalWrong, "version \(story.last) of \(story.path) is the last of its memory, and has ended at \(ended)") {
                    (repairer) throws(SQLiteError) in
                    try repairer.run("UPDATE version SET ended = NULL WHERE number = ?1", story.last)
                    return "opened its interval"
                }
            }
            var held: [Holder] = []
            while hasHolder, holders.integer(0) == memory {
                held.append(
                    Holder(
                        inode: holders.integer(1), isLinked: holders.integer(2) == 1, version: holders.integerOrNil(3),
                        versionTime: holders.integerOrNil(4), isMemory: holders.integer(5) == 1))
                hasHolder = try holders.step()
            }
            judge(memory, story, held)
        }
        try checkHeads()
        try checkPaths()
    }

    /// One more version of a memory: it begins where the one before it ends.
    private func follow(_ story: inout Story?, _ row: Statement) {
        let (number, operation, began, ended) = (row.integer(0), row.integer(2), row.integer(3), row.integerOrNil(4))
        let path = row.text(5) ?? ""
        // Retention gave up those right before it.
        let isPruned = row.integer(6) > 0
        guard let before = story else {
            if operation != 0, !isPruned {
                report(.operationWrong, "version \(number) of \(path) is the first of its memory, and is no creation") {
                    (repairer) throws(SQLiteError) in
                    // What is deleted holds nothing: its row goes on saying so.
                    guard operation == 1 else {
                        try repairer.run("DELETE FROM version WHERE number = ?1", number)
                        return "dropped it: it told the end of a memory of which nothing is left"
                    }
                    try repairer.run("UPDATE version SET operation = 0 WHERE number = ?1", number)
                    return "made it the creation: what came before is lost"
                }
            }
            story = Story(
                memory: row.integer(1), last: number, operation: operation, began: began, ended: ended, firstBegan: began, path: path)
            return
        }
        if operation == 0 || operation == 2 && before.operation == 2 && !isPruned {
            let what = operation == 0 ? "creates a memory that is there" : "deletes a memory that is gone"
            let remedy: (StoreRepairer) throws(SQLiteError) -> String = { (repairer) throws(SQLiteError) in
                try repairer.run("UPDATE version SET operation = 1 WHERE number = ?1", number)
                return "made it a modification"
            }
            report(.operationWrong, "version \(number) of \(path) \(what)", remedy: operation == 0 ? remedy : nil)
        }
        // What came between is not known any more.
        let follows = isPruned ? before.ended ?? .max <= began : before.ended == began
        if !follows {
            report(.intervalWrong, "version \(before.last) of \(before.path) does not end where version \(number) begins") {
                (repairer) throws(SQLiteError) in
                try repairer.run("UPDATE version SET ended = ?2 WHERE number = ?1", before.last, began)
                return "closed its interval there"
            }
        }
        story?.last = number
        story?.operation = operation
        story?.began = began
        story?.ended = ended
        story?.path = path
    }

    private func judge(_ memory: Int64, _ story: Story?, _ held: [Holder]) {
        let isThere = story.map { $0.operation != 2 } ?? false
        let linked = held.filter(\.isLinked)
        // The one whose version is the last, before any other.
        let keeper = linked.first { $0.version == story?.last && $0.isMemory } ?? linked.first { $0.isMemory }
        for holder in linked where holder.inode != keeper?.inode {
            guard holder.isMemory else {
                reportNewMemory(holder.inode, "inode \(holder.inode) is no memory, and its row names memory \(memory)")
                continue
            }
            reportNewMemory(
                holder.inode, "inodes \(keeper?.inode ?? 0) and \(holder.inode) are both memory \(memory)", kind: .memoryTwice)
        }
        if let keeper {
            for holder in held where !holder.isLinked {
                reportEndOfRemoval(holder, memory, "memory \(memory) is there, and a removal of it waits")
            }
            guard let story, isThere else {
                let why = story == nil ? "has no versions" : "was deleted"
                return reportNewMemory(keeper.inode, "inode \(keeper.inode) is memory \(memory), which \(why)")
            }
            guard keeper.version != story.last || keeper.versionTime != story.began else { return }
            report(.headWrong, "inode \(keeper.inode) (\(story.path)) does not name the last version of its memory, \(story.last)") {
                (repairer) throws(SQLiteError) in
                try repairer.run(
                    """
                    UPDATE inode SET version = ?2, version_created = ?3, memory_created = ifnull(memory_created, ?4) WHERE number = ?1
                    """, keeper.inode, story.last, story.began, story.firstBegan)
                return "made that its head"
            }
            return
        }
        guard let story, isThere else {
            for holder in held where !holder.isLinked {
                reportEndOfRemoval(holder, memory, "a removal of memory \(memory) waits, of which nothing is there")
            }
            return
        }
        let waiting = held.filter { !$0.isLinked }
        guard let first = waiting.first else { return reportLost(story) }
        for holder in waiting.dropFirst() { reportEndOfRemoval(holder, memory, "memory \(memory) is removed twice") }
        guard first.version != story.last else { return }
        report(.removalWrong, "the removal of memory \(memory) (\(story.path)) does not name its last version, \(story.last)") {
            (repairer) throws(SQLiteError) in
            if first.inode == 0 {
                try repairer.run("UPDATE removal SET version = ?2 WHERE memory = ?1", memory, story.last)
            } else {
                try repairer.run(
                    "UPDATE inode SET version = ?2, version_created = ?3 WHERE number = ?1", first.inode, story.last, story.began)
            }
            return "made it name that"
        }
    }

    /// A file whose row leads to no memory that could be its own becomes a new one, with the bytes that it has.
    private func reportNewMemory(_ inode: Int64, _ message: String, kind: Finding.Kind = .headWrong) {
        report(kind, message) { (repairer) throws(SQLiteError) in
            try repairer.becomeNewMemory(inode)
            return "made a new memory of inode \(inode)"
        }
    }

    private func reportEndOfRemoval(_ holder: Holder, _ memory: Int64, _ message: String) {
        report(.removalWrong, message) { (repairer) throws(SQLiteError) in
            if holder.inode == 0 {
                try repairer.run("DELETE FROM removal WHERE memory = ?1", memory)
            } else {
                try repairer.run("UPDATE inode SET memory = NULL, author = NULL WHERE number = ?1", holder.inode)
            }
            return "dropped the removal"
        }
    }

    private func reportLost(_ story: Story) {
        report(.memoryLost, "memory \(story.memory) (\(story.path)) has no file, and no version says that it was deleted") {
            (repairer) throws(SQLiteError) in
            "made its file again, from its last version: \(try repairer.makeFile(of: story.memory, version: story.last))"
        }
    }

    private func checkTimes() throws(SQLiteError) {
        var last: (number: Int64, began: Int64)?
        try each("SELECT number, began FROM version ORDER BY number") { (row) throws(SQLiteError) in
            let version = (number: row.integer(0), began: row.integer(1))
            if let last, version.began <= last.began {
                report(
                    .timeBackwards, "version \(version.number) is not later than version \(last.number) before it",
                    advice:
                        "nothing is lost: only what a time in the past shows may be wrong. Which of the two times is wrong cannot be told")
            }
            last = version
        }
    }

    // MARK: Heads

    /// What a version holds, a settled file holds as well.
    private func checkHeads() throws(SQLiteError) {
        try each(
            """
            SELECT inode.number, version.directory || version.name, version.number FROM inode JOIN version ON version.number = inode.version
            WHERE \(Self.isSettled) AND version.memory = inode.memory AND version.operation <> 2 AND version.redacted IS NULL
                AND (inode.content IS NOT version.content OR inode.size IS NOT version.size OR inode.size > 0
                    AND inode.digest IS NOT NULL AND version.digest IS NOT NULL AND inode.digest <> version.digest)
            """
        ) { (row) throws(SQLiteError) in
            let (number, path, version) = (row.integer(0), row.text(1) ?? "", row.integer(2))
            report(.headContent, "\(path) (inode \(number)) does not hold what its version \(version) says") {
                (repairer) throws(SQLiteError) in
                try repairer.reconcile(number, with: version)
            }
        }
    }

    /// A named memory whose row is what its last version says: nothing has changed since.
    private static let isSettled = """
        inode.mode & 61440 = 32768 AND inode.flags & 6 = 0 AND inode.parent IS NOT NULL AND inode.author IS NULL AND inode.memory IS NOT NULL
        """

    /// A settled memory is where its last version says.
    private func checkPaths() throws(SQLiteError) {
        var directories: [Int64: (parent: Int64, name: String)] = [:]
        try each("SELECT number, parent, name FROM inode WHERE \(Self.kind) = \(Self.directory) AND parent IS NOT NULL AND number <> 1") {
            (row) throws(SQLiteError) in directories[row.integer(0)] = (row.integer(1), row.text(2) ?? "")
        }
        // The files of one directory follow each other.
        var last: (number: Int64, path: String?) = (1, "/")
        try each(
            """
            SELECT inode.parent, inode.name, version.directory, version.name, inode.number FROM inode
                JOIN version ON version.number = inode.version
            WHERE \(Self.isSettled) AND version.operation <> 2 AND version.redacted IS NULL
            ORDER BY inode.parent
            """
        ) { (row) throws(SQLiteError) in
            if row.integer(0) != last.number { last = (row.integer(0), Self.path(of: row.integer(0), directories)) }
            // Where the directory leads nowhere, that is the finding.
            guard let directory = last.path, row.text(2) != directory || row.text(3) != row.text(1) else { return }
            let number = row.integer(4)
            let told = "\(row.text(2) ?? "")\(row.text(3) ?? "")"
            report(.pathWrong, "inode \(number) is at \(directory)\(row.text(1) ?? ""), and its last version says \(told)") {
                (repairer) throws(SQLiteError) in
                try repairer.run("UPDATE inode SET author = ?2 WHERE number = ?1", number, text: repairer.author)
                return "a new version tells where it is"
            }
        }
    }

    private static func path(of directory: Int64, _ directories: [Int64: (parent: Int64, name: String)]) -> String? {
        var names: [String] = []
        var number = directory
        while number != 1 {
            guard let found = directories[number], names.count <= directories.count else { return nil }
            names.append(found.name)
            number = found.parent
        }
        return names.reversed().reduce("/") { $0 + $1 + "/" }
    }
}
