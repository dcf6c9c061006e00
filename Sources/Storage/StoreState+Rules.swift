import Glibc
import SQLite

/// The store's rules about names and limits, for every front end.
extension StoreState {
    /// Names that may appear: valid UTF-8 without control characters, `/` or NUL, at most 255 bytes (1,023 for the API).
    func check(_ name: [UInt8], in parent: Inode, maximumBytes: Int = 255) throws(RemfsError) {
        guard !name.isEmpty else { throw RemfsError(.invalidArgument, "a name cannot be empty") }
        guard name.count <= maximumBytes else { throw RemfsError(.nameTooLong, "a name has \(name.count) bytes: at most \(maximumBytes)") }
        if name == [0x2e] || name == [0x2e, 0x2e] { throw RemfsError(.pathConflict, ". and .. exist everywhere") }
        var ascii = true
        for byte in name {
            if byte < 0x20 || byte == 0x7f || byte == UInt8(ascii: "/") {
                throw RemfsError(.invalidArgument, "a name cannot hold control characters or /")
            }
            if byte >= 0x80 { ascii = false }
        }
        if !ascii {
            guard let text = String(validating: name, as: UTF8.self) else { throw RemfsError(.nameNotUTF8, "a name is not UTF-8") }
            for scalar in text.unicodeScalars where scalar.properties.generalCategory == .control {
                throw RemfsError(.invalidArgument, "a name cannot hold control characters")
            }
        }
        if parent.number == 1, name == Array(".remfs".utf8) { throw RemfsError(.pathConflict, "/.remfs is reserved") }
        if policy.contract {
            // The contract's own rules, which also speak of the whole path.
            _ = try MemoryPath(path(name, in: parent))
        }
    }

    /// Whether what is born under this name in a mount is a working file without versions.
    func isUnversioned(_ name: [UInt8], in parent: Inode, isDirectory: Bool) -> Bool {
        if parent.flags.contains(.unversioned) { return true }
        if isDirectory { return unversionedNames.coversDirectory(name) }
        return unversionedNames.covers(name) { directoryPath(parent.number) + name }
    }

    func checkRoomForMemory(_ more: Int = 1) throws(RemfsError) {
        guard Int64(memoryFiles + more) <= policy.maxMemories else {
            throw RemfsError(.storeFull, "\(label) holds its \(policy.maxMemories) memories")
        }
    }

    /// Whether a file may have this size, and the store the bytes that it grows by.
    ///
    /// - Parameter added: how many of the bytes are about to be written; nil: the rest becomes a hole.
    func checkSize(_ size: Int64, of inode: Inode, adding added: Int64? = nil) throws(RemfsError) {
        guard size > inode.size else { return }
        if inode.isMemory, policy.contract, size > Self.contractBytes {
            throw RemfsError(.tooLarge, "\(path(of: inode)) would have \(size) bytes: the contract allows \(Self.contractBytes)")
        }
        guard size <= Self.maximumFile else {
            throw RemfsError(.tooLarge, "\(path(of: inode)) would have \(size) bytes: no file has more than \(Self.maximumFile)")
        }
        // Holes cost nothing: what counts is what is stored.
        let stored = size <= policy.maxBytesPerMemory ? size : inode.storedBytes + (added ?? 0)
        guard !inode.isMemory || stored <= policy.maxBytesPerMemory else {
            throw RemfsError(.tooLarge, "\(path(of: inode)) would hold \(stored) bytes: \(label) allows \(policy.maxBytesPerMemory)")
        }
        if let quota = policy.maxBytes, usedBytes + size - inode.size > quota {
            throw RemfsError(.quota, "\(label) would exceed its \(quota) bytes")
        }
    }

    /// "100 kB" of the contract (`api.md` 2).
    static let contractBytes: Int64 = 102_400

    /// The size of any file, holes included, and of the data of a working file, in .git: what a chunk list in memory may reasonably cost (2 MB).
    static let maximumFile: Int64 = 16 << 30
}

/// Memories whose path was given up a moment ago.
extension StoreState {
    /// The removed memory that a regular file born at this name continues.
    func removal(at parent: InodeNumber, _ name: [UInt8], by caller: Caller) -> Removal? {
        guard let memory = removalAt[Place(parent: parent, name: name)], let removal = removals[memory] else { return nil }
        guard removal.origin == caller.origin.number, removal.due > Self.monotonic() else { return nil }
        return removal
    }

    func remember(_ removal: Removal) {
        memoryInodes[removal.memory] = nil
        removals[removal.memory] = removal
        // What a predecessor has left is continued by nobody.
        if removal.due > 0 { removalAt[Place(parent: removal.parent, name: removal.name)] = removal.memory }
        enqueue(removal)
    }

    private func enqueue(_ removal: Removal) {
        if removal.due == 0 { endedMemories.append(removal.memory) } else { removalQueue.append((removal.due, removal.memory)) }
    }

    /// As many as may be sealed while the lock is held, as of files.
    private static let mostRemovals = 256

    /// Takes the removals that are due by `time` out of the queues, some at a time.
    private func takeRemovals(dueBy time: Int64) throws(RemfsError) -> [Removal] {
        if endedMemories.isEmpty { try recoverLeftRemovals(atMost: Int64(Self.mostRemovals)) }
        let ended = endedMemories.prefix(Self.mostRemovals)
        endedMemories.removeFirst(ended.count)
        var due = ended.compactMap { removals[$0] }.filter { $0.due == 0 }
        while due.count < Self.mostRemovals, let removal = nextRemoval(), removal.due <= time {
            due.append(removal)
            removalQueue.removeFirst()
        }
        return due
    }

    /// The memory whose removal is due next, of those that wait.
    private func nextRemoval() -> Removal? {
        while let next = removalQueue.first {
            if let removal = removals[next.memory], removal.due == next.due { return removal }
            removalQueue.removeFirst()
        }
        return nil
    }

    /// Monotonic, ns: when the next removal is to be sealed.
    var nextRemovalDue: Int64? { endedMemories.isEmpty && leftRemovals == nil ? nextRemoval()?.due : 0 }

    func removeFromMemory(_ removal: Removal) {
        removals[removal.memory] = nil
        let place = Place(parent: removal.parent, name: removal.name)
        if removalAt[place] == removal.memory { removalAt[place] = nil }
    }

    func insertRemoval(_ head: MemoryHead, path: String, author: Author) throws(SQLiteError) {
        let row = try statements.cached("INSERT INTO removal (memory, path, version, author) VALUES (?1, ?2, ?3, ?4)")
        row.bind(head.memory, at: 1)
        row.bind(path, at: 2)
        row.bind(head.version, at: 3)
        row.bind(author.row, at: 4)
        try row.run()
    }

    /// Takes the mark of a removal out of the database: its memory goes on, or its version says that it ended.
    func forgetRemoval(_ removal: Removal) throws(SQLiteError) {
        if removal.inode == 0 {
            let row = try statements.cached("DELETE FROM removal WHERE memory = ?1")
            row.bind(removal.memory, at: 1)
            try row.run()
        } else {
            // Its version stays in the row: it says whose the content is, should the inode outlive this process (`loadInodes`).
            let row = try statements.cached("UPDATE inode SET memory = NULL, author = NULL WHERE number = ?1")
            row.bind(removal.inode, at: 1)
            try row.run()
        }
    }

    /// Writes the `deleted` versions of removals that are due (`all`: of every one), oldest first.
    func sealRemovals(all: Bool, where condition: (Removal) -> Bool = { _ in true }) throws(RemfsError) {
        var due: [Removal] = []
        if all {
            try recoverLeftRemovals()
            due = removals.values.filter(condition).sorted { $0.due < $1.due }
        } else {
            due = try takeRemovals(dueBy: Self.monotonic())
        }
        guard !due.isEmpty else { return }
        try reserveNumbers(Int64(due.count))
        var versions: [VersionRow] = []
        for removal in due {
            // A memory that was never sealed was never there for anyone.
            guard let head = removal.head else { continue }
            versions.append(
                VersionRow(
                    number: takeNumber(), memory: removal.memory, operation: .deleted, path: removal.path, size: nil, digest: nil,
                    content: .empty, began: versionTime(), author: removal.author, base: nil, isStale: false, previous: head.version))
        }
        do throws(RemfsError) {
            try commit { () throws(SQLiteError) in
                for removal in due { try forgetRemoval(removal) }
                for version in versions { try insert(version) }
            }
        } catch {
            if !all { for removal in due { enqueue(removal) } }
            throw error
        }
        for removal in due { removeFromMemory(removal) }
        for version in versions { didInsert(version) }
    }
}

/// Names that turn versioning on or off.
extension StoreState {
    /// A file or directory that becomes versioned or unversioned because a directory above it moves.
    struct VersioningChange {
        let inode: Inode
        let flags: Inode.Flags
        /// The memory that ends with it, and its path until the move.
        let givenUp: (head: MemoryHead, path: String)?
    }

    /// What changes below a directory that comes to `path` (with a trailing `/`) and from then on is versioned or not, unlike before.
    func versioningChanges(
        below directory: Inode, isUnversioned: Bool, at path: [UInt8]
    ) throws(RemfsError) -> [VersioningChange] {
        var changes: [VersioningChange] = []
        var walk = TreeWalk(below: directory)
        while let step = walk.next() {
            let child = step.inode
            var becomesUnversioned = isUnversioned
            if child.isDirectory {
                becomesUnversioned = isUnversioned || unversionedNames.coversDirectory(step.name)
            } else if child.isRegular, child.isOldestName(step.name, in: step.parent.number) {
                becomesUnversioned = isUnversioned || unversionedNames.covers(step.name) { path + walk.path + step.name }
            } else {
                continue
            }
            // Below a directory that stays what it is nothing changes: what the API made there is a memory whatever its name.
            // So whatever is gone into becomes what the directory at the top becomes.
            guard becomesUnversioned != child.flags.contains(.unversioned) else {
                walk.skip()
                continue
            }
            if child.isMemory { try sealBeforeNameGoes(child, includingOpen: false) }
            var flags = child.flags
            if becomesUnversioned { flags.insert(.unversioned) } else { flags.remove(.unversioned) }
            changes.append(VersioningChange(inode: child, flags: flags, givenUp: child.head.map { ($0, self.path(of: child)) }))
        }
        return changes
    }

    /// The SQL half of such a change.
    func write(_ change: VersioningChange, by author: Author) throws(SQLiteError) {
        let inode = change.inode
        let isUnversioned = change.flags.contains(.unversioned)
        if let (head, path) = change.givenUp { try insertRemoval(head, path: path, author: author) }
        var flags = change.flags
        if inode.isRegular {
            if isUnversioned { try keepContent(of: inode) }
            if isUnversioned || inode.ownsContent { flags.insert(.ownsContent) }
        }
        let row = statements.moveInode
        row.bind(inode.number, at: 1)
        row.bind(inode.parent, at: 2)
        row.bind(text: inode.name, at: 3)
        row.bind(inode.cookie, at: 4)
        row.bind(inode.changed, at: 5)
        row.bind(flags.rawValue, at: 6)
        row.bind(inode.isRegular && !isUnversioned ? author.row : nil, at: 7)
        for place in Int32(8)...11 { row.bind(nil as Int64?, at: place) }
        try row.run()
    }

    /// The tree's half, after its commit.
    func apply(_ change: VersioningChange, by author: Author) {
        let inode = change.inode
        inode.flags = change.flags
        guard inode.isRegular else { return }
        if let (head, path) = change.givenUp {
            remember(
                Removal(
                    memory: head.memory, head: head, path: path, parent: inode.parent, name: inode.name, author: author, origin: 0,
                    due: 0, inode: 0))
        }
        inode.head = nil
        if inode.isMemory {
            memoryFiles += 1
            inode.changedBy = author
            enqueueSeal(inode)
        } else {
            memoryFiles -= 1
            inode.changedBy = nil
            inode.ownsContent = true
        }
    }

    /// Counts an inode's content for itself, where so far only a version holds it. The caller sets `ownsContent` once it is committed.
    func keepContent(of inode: Inode) throws(SQLiteError) {
        guard !inode.ownsContent else { return }
        for chunk in inode.content.chunks where chunk != 0 {
            statements.addReference.bind(chunk, at: 1)
            try statements.addReference.run()
        }
    }
}
