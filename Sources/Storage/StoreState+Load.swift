import Glibc
import SQLite

/// Opening: the tree out of the database, and what a daemon that died left open is sealed.
extension StoreState {
    /// - Parameter keepingOrphans: mounts of a predecessor go on. Unlinked files may still be open somewhere, and requests be sent again.
    func load(keepingOrphans: Bool) throws(RemfsError) {
        try requireOwnFile()
        try loadMarks()
        if keepingOrphans { try loadLedger() } else { try unlessFull { () throws(RemfsError) in try clearLedger() } }
        var drafted: [LedgerEntry]? = keepingOrphans ? [] : nil
        var orphaned: [(inode: Inode, head: MemoryHead?, author: Author?)] = []
        let loaded = try query { () throws(SQLiteError) in try loadInodes(&orphaned, answering: keepingOrphans) }
        try query { () throws(SQLiteError) in try loadDentries() }
        guard inodes[1]?.isDirectory ?? false else {
            throw RemfsError(.corrupted, "\(label) has no root: run remfs doctor, or restore a backup")
        }
        try buildTree(of: loaded)
        try query { () throws(SQLiteError) in try loadDrafts(&drafted) }
        // On a full disk nothing is sealed either, so the drafts still say it.
        try unlessFull { () throws(RemfsError) in try keepInLedger(drafted ?? []) }
        try recoverRemovals(orphaned)
        openSaves = []
        // Clients wait: what is closed is sealed by upkeep, and those who ask for versions seal it first. It has waited for long enough: it
        // would otherwise become more from one daemon to the next where they die often and nobody ever pauses.
        if keepingOrphans {
            sealWaitsSince = 1
            return
        }
        // Upkeep goes on with them once there is room.
        try unlessFull { () throws(RemfsError) in
            try sealQueued()
            try sealRemovals(all: true)
            try deleteOrphans { _ in false }
        }
    }

    /// What was begun and is to be gone on with.
    private func loadMarks() throws(RemfsError) {
        try query { () throws(SQLiteError) in
            if try writer.integer("SELECT count(*) FROM property WHERE name = '\(Self.redactionMark)'") ?? 0 > 0 { scrub.wanted = 1 }
            searchedUpTo = try writer.integer("SELECT value FROM property WHERE name = '\(Self.searchMark)'")
        }
    }

    /// On a full disk a store can still be read, so what is only to be tidied up at opening stays as it is.
    func unlessFull(_ body: () throws(RemfsError) -> Void) throws(RemfsError) {
        do throws(RemfsError) { try body() } catch {
            guard error.isOfFullDisk else { throw error }
        }
    }

    /// A file that was copied over another store's is not to be written to as that.
    private func requireOwnFile() throws(RemfsError) {
        let owner = try query { () throws(SQLiteError) in
            let row = try writer.prepare("SELECT value FROM property WHERE name = 'store'")
            defer { row.reset() }
            return try row.step() ? row.text(0) : nil
        }
        guard let owner, owner != id.description else { return }
        throw RemfsError(
            .corrupted, "the file of \(label) holds another store, \(owner): put its own file back, or a backup that was taken of it")
    }

    /// Answers all of them, by number.
    private func loadInodes(
        _ orphaned: inout [(inode: Inode, head: MemoryHead?, author: Author?)], answering: Bool
    ) throws(SQLiteError) -> [Inode] {
        var loaded: [Inode] = []
        try InodeRows.readAll(of: writer) { (part) throws(SQLiteError) in
            inodes.reserveCapacity(inodes.count + part.rows.count)
            loaded.reserveCapacity(inodes.capacity)
            var nameStart = 0
            for row in part.rows {
                if answering, let entry = row.request { ledger.add(entry) }
                let inode = self.inode(row, named: Array(part.names[nameStart..<row.nameEnd]))
                nameStart = row.nameEnd
                inodes[inode.number] = inode
                loaded.append(inode)
                if inode.number == 1 {
                    root = inode
                } else if inode.parent == 0 {
                    inode.links = 0
                    orphans.insert(inode.number)
                    orphaned.append((inode, inode.head, row.author))
                    inode.head = nil
                }
            }
        }
        return loaded
    }

    private func inode(_ row: InodeRows.Row, named name: [UInt8]) -> Inode {
        let flags = Inode.Flags(rawValue: row.flags)
        let inode = Inode(
            number: row.number, mode: row.mode, uid: row.uid, gid: row.gid, rdev: row.rdev, flags: flags.subtracting(.ownsContent),
            parent: row.parent, name: name, cookie: row.cookie, accessed: row.accessed, modified: row.modified, changed: row.changed)
        inode.size = row.size
        inode.sealedSize = row.size
        inode.ownsContent = flags.contains(.ownsContent)
        inode.target = row.target
        guard inode.isRegular else { return inode }
        inode.content = row.content
        inode.digest = row.digest
        inode.changedBy = inode.isMemory ? row.author : nil
        inode.head = row.head
        return inode
    }

    private func loadDentries() throws(SQLiteError) {
        let row = try writer.prepare("SELECT cookie, parent, name, inode FROM dentry ORDER BY cookie")
        while try row.step() {
            guard let inode = inodes[row.integer(3)] else { continue }
            inode.otherNames.append(Inode.Name(parent: row.integer(1), name: row.bytes(2), cookie: row.integer(0)))
            inode.links += 1
        }
    }

    private func buildTree(of loaded: [Inode]) throws(RemfsError) {
        // Sorted without the inodes themselves, which would be counted with each step; most have stood in this order in the file.
        var names: [(cookie: Int64, inode: Int, other: Int)] = []
        names.reserveCapacity(loaded.count)
        for (place, inode) in loaded.enumerated() where inode.number != 1 && inode.parent != 0 {
            names.append((inode.cookie, place, -1))
            for other in inode.otherNames.indices { names.append((inode.otherNames[other].cookie, place, other)) }
        }
        names.sort { $0.cookie < $1.cookie }
        // Files of a directory mostly follow each other: each run goes into it at once.
        var run: [Directory.Entry] = []
        var parent: Inode = root
        for (cookie, place, other) in names {
            let inode = loaded[place]
            let number = other < 0 ? inode.parent : inode.otherNames[other].parent
            if parent.number != number {
                parent.directory!.append(run)
                run.removeAll(keepingCapacity: true)
                guard let found = inodes[number], found.isDirectory else {
                    throw RemfsError(
                        .corrupted, "\(label) has a file in a directory that does not exist: run remfs doctor, or restore a backup")
                }
                parent = found
            }
            run.append(Directory.Entry(name: other < 0 ? inode.name : inode.otherNames[other].name, cookie: cookie, inode: inode))
            if inode.isDirectory { parent.links += 1 }
        }
        parent.directory!.append(run)
        memoryInodes.reserveCapacity(loaded.count)
        for inode in loaded where inode.isRegular && inode.links > 0 {
            if inode.isMemory { memoryFiles += 1 }
            usedBytes += inode.size
            if let head = inode.head { memoryInodes[head.memory] = inode.number }
            if inode.changedBy != nil { enqueueSeal(inode) }
        }
    }

    /// Drafts that were not sealed: each save as its writer left it, closed.
    ///
    /// - Parameter noted: takes up what they say of requests that were carried out; nil: nobody will ask.
    private func loadDrafts(_ noted: inout [LedgerEntry]?) throws(SQLiteError) {
        let from = try writer.integer("SELECT value FROM property WHERE name = 'open_from'") ?? 0
        let row = try writer.prepare(
            """
            SELECT number, inode, kind, start, length, modified, author, mount, request FROM extent
            WHERE number >= ?1 AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.number = extent.number) ORDER BY number
            """)
        row.bind(from << 20, at: 1)
        var authors = AuthorRows()
        while try row.step() {
            let number = row.integer(0)
            if noted != nil, let entry = LedgerEntry(row, column: 7, answer: row.integer(2) == 0 ? row.integer(4) : 0) {
                noted!.append(entry)
            }
            guard let inode = inodes[row.integer(1)], inode.isRegular else { continue }
            let group = number >> 20
            if inode.drafts == nil { inode.drafts = Drafts(sealedSize: inode.sealedSize) }
            let drafts = inode.drafts!
            if drafts.saves.last?.group != group {
                let author = authors.author(row.text(6)) ?? inode.changedBy ?? Author(.user(uid: inode.uid))
                let save = Save(group: group, author: author, origin: 0, at: 0, size: inode.size, modified: inode.modified)
                save.isClosed = true
                drafts.saves.append(save)
                openGroups.insert(group)
                if inode.links > 0 { enqueueSeal(inode) }
            }
            let save = drafts.saves.last!
            let kind: Extent.Kind = row.integer(2) == 0 ? .bytes : row.integer(2) == 1 ? .hole : .truncation
            let extent = Extent(id: number, kind: kind, offset: row.integer(3), length: row.integer(4), bytes: nil)
            save.count = (number & ((1 << 20) - 1)) + 1
            save.add(extent)
            drafts.apply(extent)
            let size = kind == .truncation ? extent.offset : max(inode.size, extent.offset + extent.length)
            if inode.links > 0 { usedBytes += size - inode.size }
            inode.size = size
            let time = row.integer(5)
            if time > inode.changed {
                inode.modified = time
                inode.changed = time
            }
            save.size = inode.size
            save.modified = inode.modified
        }
    }

    private func recoverRemovals(_ orphaned: [(inode: Inode, head: MemoryHead?, author: Author?)]) throws(RemfsError) {
        for (inode, head, author) in orphaned {
            guard let head else { continue }
            remember(
                Removal(
                    memory: head.memory, head: head, path: path(of: inode), parent: 0, name: inode.name,
                    author: author ?? Author(.user(uid: inode.uid)),
                    origin: 0, due: 0, inode: inode.number))
        }
        leftRemovals = .min
    }

    /// Takes up removals that the database has from before this process, at most so many: not while opening, since clients may wait for that.
    func recoverLeftRemovals(atMost most: Int64 = .max) throws(RemfsError) {
        guard let last = leftRemovals else { return }
        var removed: [Removal] = []
        var authors = AuthorRows()
        try query { () throws(SQLiteError) in
            let row = try statements.cached(
                """
                SELECT removal.memory, path, version, author, head.content, head.size, head.digest, head.began
                FROM removal LEFT JOIN version AS head ON head.number = version
                WHERE removal.memory > ?1 ORDER BY removal.memory LIMIT ?2
                """)
            defer { row.reset() }
            row.bind(last, at: 1)
            row.bind(most, at: 2)
            while try row.step() {
                let memory = row.integer(0)
                let head = row.isNull(7) ? nil : MemoryHead(memory: memory, version: row.integer(2), created: 0, row, column: 4)
                let author = authors.author(row.text(3)) ?? Author(.user(uid: 0))
                removed.append(
                    Removal(
                        memory: memory, head: head, path: row.text(1) ?? "", parent: 0, name: Array("\(memory)".utf8), author: author,
                        origin: 0, due: 0, inode: 0))
            }
        }
        leftRemovals = Int64(removed.count) < most ? nil : removed.last?.memory
        // Those of this process are known already.
        for removal in removed where removals[removal.memory] == nil { remember(removal) }
    }

    /// Deletes unlinked inodes that no kernel knows any more. `isHeld` answers for each.
    func deleteOrphans(unless isHeld: (InodeNumber) -> Bool) throws(RemfsError) {
        let awaited = Set(removals.values.map(\.inode))
        let gone = orphans.filter { !awaited.contains($0) && !isHeld($0) }
        guard !gone.isEmpty else { return }
        try commit { () throws(SQLiteError) in
            for number in gone {
                guard let inode = inodes[number] else { continue }
                try keepNotes(inRowsOf: number)
                if inode.isRegular, inode.ownsContent { try release(inode.content) }
                for save in inode.drafts?.saves ?? [] {
                    statements.deleteSave.bind(save.group << 20, at: 1)
                    statements.deleteSave.bind((save.group + 1) << 20, at: 2)
                    try statements.deleteSave.run()
                }
                statements.deleteInode.bind(number, at: 1)
                try statements.deleteInode.run()
                if hasExtendedAttributes { try deleteExtendedAttributes(of: number) }
            }
        }
        for number in gone {
            for save in inodes[number]?.drafts?.saves ?? [] { openGroups.remove(save.group) }
            inodes[number] = nil
            orphans.remove(number)
            formerHeads[number] = nil
            openSaves.remove(number)
        }
    }

    func deleteExtendedAttributes(of number: InodeNumber) throws(SQLiteError) {
        let row = try writer.prepare("DELETE FROM xattr WHERE inode = ?1")
        row.bind(number, at: 1)
        try row.run()
    }

    /// Directory times change in memory only; they are written when the store is quiet.
    func writeDirectoryTimes() throws(RemfsError) {
        let touched = touchedDirectories.compactMap { inodes[$0] }
        guard !touched.isEmpty else { return }
        try commit { () throws(SQLiteError) in
            for directory in touched { try updateAttributes(of: directory, changed: directory.changed) }
        }
        touchedDirectories = []
    }
}
