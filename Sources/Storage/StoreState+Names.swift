import Glibc
import SQLite

/// What a new inode is to be.
package struct NewInode: Sendable {
    /// Type and permission bits.
    package var mode: UInt32
    package var rdev: UInt64 = 0
    /// A symbolic link's target.
    package var target: [UInt8]?
    /// The caller holds it open: a close will end its first save.
    package var isOpen = false

    package init(mode: UInt32, rdev: UInt64 = 0, target: [UInt8]? = nil, isOpen: Bool = false) {
        self.mode = mode
        self.rdev = rdev
        self.target = target
        self.isOpen = isOpen
    }
}

/// What a rename does with a name that is taken.
package enum RenameRule: Sendable { case replace, noReplace, exchange }

/// Names: what `create`, `link`, `unlink` and `rename` do to the tree, and what that means for memories.
extension StoreState {
    // MARK: Creating

    func create(_ new: NewInode, named name: [UInt8], in parentNumber: InodeNumber, by caller: Caller) throws(RemfsError) -> Inode {
        try requireWritable(by: caller)
        let parent = try directory(parentNumber)
        try check(name, in: parent)
        if parent.parent == 0, parent.number != 1 { throw RemfsError(.notFound, "the directory was removed") }
        if parent.directory!.find(name) != nil { throw RemfsError(.pathConflict, "\(path(name, in: parent)) exists") }
        try reserveNumbers(4)

        let isRegular = new.mode & UInt32(S_IFMT) == UInt32(S_IFREG)
        let isDirectory = new.mode & UInt32(S_IFMT) == UInt32(S_IFDIR)
        var flags: Inode.Flags = []
        if isUnversioned(name, in: parent, isDirectory: isDirectory) { flags.insert(.unversioned) }
        if isRegular, !flags.contains(.unversioned) { try checkRoomForMemory() }
        let author = isRegular || isDirectory ? caller.author() : nil

        // A directory with setgid passes its group on, and to directories the bit as well (BSD groups, as ext4 has them).
        let inheritsGroup = parent.mode & UInt32(S_ISGID) != 0
        let mode = inheritsGroup && isDirectory ? new.mode | UInt32(S_ISGID) : new.mode
        let time = now()
        let inode = Inode(
            number: takeNumber(), mode: mode, uid: caller.uid, gid: inheritsGroup ? parent.gid : caller.gid, rdev: new.rdev, flags: flags,
            parent: parentNumber, name: name, cookie: next, accessed: time, modified: time, changed: time)
        inode.cookie = takeNumber()
        inode.target = new.target
        let continued = inode.isMemory ? removal(at: parentNumber, name, by: caller) : nil
        inode.head = continued?.head
        inode.changedBy = isRegular && inode.isMemory ? author : nil
        if isRegular {
            let save = Save(
                group: takeNumber(), author: author!, origin: caller.origin.number, at: Self.monotonic(), size: 0, modified: time)
            save.isClosed = !new.isOpen
            inode.drafts = Drafts(sealedSize: 0)
            inode.drafts!.saves.append(save)
            // A memory that goes on is known already.
            inode.unsettledIn = continued == nil ? caller.origin.number : 0
            inode.bornBy = author?.writer.pid ?? 0
            inode.born = Self.monotonic()
        }
        try commit(answering: caller, inode.number, inRowOf: inode.number) { (request) throws(SQLiteError) in
            if let continued { try forgetRemoval(continued) }
            try insert(inode, memory: continued?.memory, author: author, answering: request)
        }
        if let continued { removeFromMemory(continued) }
        attach(inode, to: parent, at: time)
        if isRegular {
            if inode.isMemory { memoryFiles += 1 }
            if let head = inode.head { memoryInodes[head.memory] = inode.number }
            openGroups.insert(inode.drafts!.saves[0].group)
            noteSeen(inode, in: caller.origin.number)
            if new.isOpen { openSaves.insert(inode.number) } else { enqueueSeal(inode) }
        }
        return inode
    }

    func insert(_ inode: Inode, memory: Int64?, author: Author?, answering request: LedgerRequest? = nil) throws(SQLiteError) {
        let row = statements.insertInode
        row.bind(inode.number, at: 1)
        row.bind(inode.number == 1 ? nil : inode.parent, at: 2)
        row.bind(text: inode.name, at: 3)
        row.bind(inode.cookie, at: 4)
        row.bind(Int64(inode.mode), at: 5)
        row.bind(Int64(inode.uid), at: 6)
        row.bind(Int64(inode.gid), at: 7)
        row.bind(Int64(bitPattern: inode.rdev), at: 8)
        row.bind(inode.storedFlags.rawValue, at: 9)
        row.bind(inode.sealedSize, at: 10)
        row.bind(inode.accessed, at: 11)
        row.bind(inode.modified, at: 12)
        row.bind(inode.changed, at: 13)
        if let target = inode.target { row.bind(text: target, at: 14) } else { bind(inode.content, to: row, at: 14) }
        row.bind(inode.size == 0 ? nil : inode.digest?.bytes, at: 15)
        row.bind(memory, at: 16)
        row.bind(inode.head?.version, at: 17)
        row.bind(inode.head?.created, at: 18)
        row.bind(inode.head?.updated, at: 19)
        row.bind(author?.row, at: 20)
        bind(request, to: row, at: 21)
        try row.run()
    }

    /// Puts an inode that the database has into the tree.
    func attach(_ inode: Inode, to parent: Inode, at time: Int64) {
        inodes[inode.number] = inode
        parent.directory!.add(inode.name, cookie: inode.cookie, inode)
        if inode.isDirectory { parent.links += 1 }
        touch(parent, at: time)
        invalidate(.name(inode.name, in: parent.number))
    }

    func touch(_ directory: Inode, at time: Int64) {
        directory.modified = time
        directory.changed = time
        touchedDirectories.insert(directory.number)
    }

    // MARK: Linking

    func link(_ number: InodeNumber, as name: [UInt8], in parentNumber: InodeNumber, by caller: Caller) throws(RemfsError) -> Inode {
        try requireWritable(by: caller)
        let inode = try inode(number)
        let parent = try directory(parentNumber)
        try check(name, in: parent)
        guard !inode.isDirectory else { throw RemfsError(.notPermitted, "\(path(of: inode)) is a directory: it has one name") }
        guard inode.parent != 0 else { throw RemfsError(.notFound, "the file was removed") }
        if parent.parent == 0, parent.number != 1 { throw RemfsError(.notFound, "the directory was removed") }
        if parent.directory!.find(name) != nil { throw RemfsError(.pathConflict, "\(path(name, in: parent)) exists") }
        // What ext4 allows: enough for git and rsync, few enough that a name list stays a list.
        guard inode.links < 65_000 else { throw RemfsError(.tooManyLinks, "\(path(of: inode)) has 65,000 names") }
        try reserveNumbers(2)
        let time = now()
        let cookie = takeNumber()
        try commit(answering: caller, number) { () throws(SQLiteError) in
            let row = try statements.cached("INSERT INTO dentry (cookie, parent, name, inode) VALUES (?1, ?2, ?3, ?4)")
            row.bind(cookie, at: 1)
            row.bind(parentNumber, at: 2)
            row.bind(text: name, at: 3)
            row.bind(number, at: 4)
            try row.run()
            try updateAttributes(of: inode, changed: time)
        }
        inode.otherNames.append(Inode.Name(parent: parentNumber, name: name, cookie: cookie))
        inode.links += 1
        inode.changed = time
        inode.unsettledIn = 0
        parent.directory!.add(name, cookie: cookie, inode)
        touch(parent, at: time)
        invalidate(.name(name, in: parentNumber))
        invalidate(.attributes(number))
        return inode
    }

    func updateAttributes(of inode: Inode, changed: Int64) throws(SQLiteError) {
        let row = statements.updateAttributes
        row.bind(inode.number, at: 1)
        row.bind(Int64(inode.mode), at: 2)
        row.bind(Int64(inode.uid), at: 3)
        row.bind(Int64(inode.gid), at: 4)
        row.bind(inode.accessed, at: 5)
        row.bind(inode.modified, at: 6)
        row.bind(changed, at: 7)
        try row.run()
    }

    // MARK: Removing

    func unlink(_ name: [UInt8], in parentNumber: InodeNumber, by caller: Caller) throws(RemfsError) {
        try requireWritable(by: caller)
        let parent = try directory(parentNumber)
        guard let inode = parent.directory!.find(name) else { throw RemfsError(.notFound, "\(path(name, in: parent)) does not exist") }
        guard !inode.isDirectory else { throw RemfsError(.isADirectory, "\(path(of: inode)) is a directory") }
        try takeInCloses(of: caller.origin)
        // Nobody is named where no version can tell of it.
        let author = inode.isMemory || inode.links > 1 ? caller.author() : nil
        let time = now()
        try reserveNumbers(64)
        if inode.isMemory, inode.isOldestName(name, in: parentNumber) { try sealBeforeNameGoes(inode, includingOpen: true) }
        try commit(answering: caller) { () throws(SQLiteError) in
            try dropName(name, of: inode, in: parent, by: author, keepsMemory: true, at: time)
        }
        didDropName(name, of: inode, in: parent, by: author, keepsMemory: true, origin: caller.origin.number, at: time)
        noteEmptied(parent)
    }

    /// The SQL half of taking a name from an inode.
    ///
    /// - Parameters:
    ///   - author: who takes it; nil where the inode is no memory.
    ///   - keepsMemory: its memory ends with the name (after a while). Otherwise the file that takes the name takes it over.
    func dropName(
        _ name: [UInt8], of inode: Inode, in parent: Inode, by author: Author?, keepsMemory: Bool, at time: Int64
    ) throws(SQLiteError) {
        if inode.links == 1 || inode.isDirectory {
            let row = statements.unlinkInode
            row.bind(inode.number, at: 1)
            row.bind(lastPath(of: inode), at: 2)
            row.bind(time, at: 3)
            row.bind(keepsMemory ? author?.row : nil, at: 4)
            row.bind(keepsMemory ? inode.head?.memory : nil, at: 5)
            try row.run()
        } else if inode.isOldestName(name, in: parent.number) {
            // The memory stays with the path; the other names become a new one.
            if keepsMemory, let head = inode.head, let author { try insertRemoval(head, path: path(of: inode), author: author) }
            let heir = inode.otherNames[0]
            var flags = flagsOfHeir(of: inode)
            let isUnversioned = inode.isRegular && flags.contains(.unversioned)
            if isUnversioned { try keepContent(of: inode) }
            if isUnversioned || inode.ownsContent { flags.insert(.ownsContent) }
            try deleteDentry(heir.cookie)
            let row = statements.moveInode
            row.bind(inode.number, at: 1)
            row.bind(heir.parent, at: 2)
            row.bind(text: heir.name, at: 3)
            row.bind(heir.cookie, at: 4)
            row.bind(time, at: 5)
            row.bind(flags.rawValue, at: 6)
            row.bind(isUnversioned ? nil : author?.row, at: 7)
            for place in Int32(8)...13 { row.bind(nil as Int64?, at: place) }
            try row.run()
        } else {
            let name = inode.otherNames.first { $0.parent == parent.number && $0.name == name }!
            try deleteDentry(name.cookie)
            try updateAttributes(of: inode, changed: time)
        }
    }

    /// What a file is once its next name is the oldest: versioned or not, as that name says.
    private func flagsOfHeir(of inode: Inode) -> Inode.Flags {
        let heir = inode.otherNames[0]
        guard inode.isRegular, let parent = inodes[heir.parent] else { return inode.flags }
        return isUnversioned(heir.name, in: parent, isDirectory: false)
            ? inode.flags.union(.unversioned) : inode.flags.subtracting(.unversioned)
    }

    /// The tree's half of taking a name from an inode, after its commit.
    func didDropName(
        _ name: [UInt8], of inode: Inode, in parent: Inode, by author: Author?, keepsMemory: Bool, origin: Int, at time: Int64
    ) {
        let wasOldest = inode.isOldestName(name, in: parent.number)
        parent.directory!.remove(name)
        touch(parent, at: time)
        inode.changed = time
        invalidate(.removal(name, in: parent.number, of: inode.number))
        if inode.isDirectory {
            parent.links -= 1
            inode.links = 0
            orphan(inode, path: lastPath(of: inode))
            return
        }
        inode.links -= 1
        if inode.links > 0 { invalidate(.attributes(inode.number)) }
        guard wasOldest else {
            inode.otherNames.removeAll { $0.parent == parent.number && $0.name == name }
            return
        }
        if keepsMemory, let head = inode.head, let author {
            remember(
                Removal(
                    memory: head.memory, head: head, path: path(of: inode), parent: parent.number, name: name, author: author,
                    origin: origin,
                    due: Self.monotonic() + Removal.patience, inode: inode.links == 0 ? inode.number : 0))
        }
        if inode.links == 0, let head = inode.head { formerHeads[inode.number] = (head.memory, head.version) }
        inode.head = nil
        if inode.links == 0 {
            inode.removal = (origin, Self.monotonic())
            if inode.isRegular {
                if inode.isMemory { memoryFiles -= 1 }
                usedBytes -= inode.size
            }
            orphan(inode, path: lastPath(of: inode))
        } else {
            if inode.isMemory { memoryFiles -= 1 }
            inode.flags = flagsOfHeir(of: inode)
            let heir = inode.otherNames.removeFirst()
            inode.parent = heir.parent
            inode.name = heir.name
            inode.cookie = heir.cookie
            if inode.isMemory {
                memoryFiles += 1
                inode.changedBy = author
                enqueueSeal(inode)
            } else if inode.isRegular {
                inode.changedBy = nil
                inode.ownsContent = true
            }
        }
    }

    /// What an inode without a name keeps: the path at which its memory ended. A directory has none, and to write a path for each level
    /// of a deep tree that goes would cost the square of its depth.
    private func lastPath(of inode: Inode) -> String {
        inode.isDirectory ? String(decoding: inode.name, as: UTF8.self) : path(of: inode)
    }

    private func orphan(_ inode: Inode, path: String) {
        inode.name = Array(path.utf8)
        inode.parent = 0
        orphans.insert(inode.number)
    }

    func deleteDentry(_ cookie: Int64) throws(SQLiteError) {
        let row = try statements.cached("DELETE FROM dentry WHERE cookie = ?1")
        row.bind(cookie, at: 1)
        try row.run()
    }

    func removeDirectory(_ name: [UInt8], in parentNumber: InodeNumber, by caller: Caller) throws(RemfsError) {
        try requireWritable(by: caller)
        let parent = try directory(parentNumber)
        guard let inode = parent.directory!.find(name) else { throw RemfsError(.notFound, "\(path(name, in: parent)) does not exist") }
        guard inode.isDirectory else { throw RemfsError(.notADirectory, "\(path(of: inode)) is not a directory") }
        guard inode.directory!.count == 0 else { throw RemfsError(.notEmpty, "\(path(of: inode)) is not empty") }
        try remove(emptyDirectory: inode, from: parent, by: caller)
    }

    private func remove(emptyDirectory inode: Inode, from parent: Inode, by caller: Caller?) throws(RemfsError) {
        let time = now()
        let name = inode.name
        try commit(answering: caller) { () throws(SQLiteError) in
            try dropName(name, of: inode, in: parent, by: nil, keepsMemory: true, at: time)
        }
        didDropName(name, of: inode, in: parent, by: nil, keepsMemory: true, origin: 0, at: time)
    }

    /// An editor that unlinks a file makes it anew in a moment: an implied directory goes when its last memory is sealed as deleted.
    func noteEmptied(_ directory: Inode) {
        if directory.flags.contains(.implicit), directory.directory!.count == 0 { emptiedDirectories.insert(directory.number) }
    }

    /// Removes implied directories that stayed empty and whose last memory nobody continued.
    func removeEmptiedDirectories() {
        guard !emptiedDirectories.isEmpty else { return }
        let awaited = Set(removals.values.map(\.parent))
        for number in emptiedDirectories where !awaited.contains(number) {
            emptiedDirectories.remove(number)
            if let directory = inodes[number] { removeImplicitDirectories(from: directory) }
        }
    }

    /// A directory that only API paths implied goes with its last memory.
    func removeImplicitDirectories(from directory: Inode) {
        var directory = directory
        while directory.number != 1, directory.flags.contains(.implicit), directory.directory!.count == 0, directory.parent != 0,
            let parent = inodes[directory.parent]
        {
            // An empty directory that stays behind is harmless: it is no memory and occupies no path.
            guard (try? remove(emptyDirectory: directory, from: parent, by: nil)) != nil else { return }
            directory = parent
        }
    }

    // MARK: Renaming

    func rename(
        _ name: [UInt8], in parentNumber: InodeNumber, to newName: [UInt8], in newParentNumber: InodeNumber, _ rule: RenameRule,
        seen: (InodeNumber) -> Seen, _ scanned: ScannedFile? = nil, by caller: Caller
    ) throws(RemfsError) {
        try requireWritable(by: caller)
        let parent = try directory(parentNumber)
        let newParent = try directory(newParentNumber)
        guard let inode = parent.directory!.find(name) else { throw RemfsError(.notFound, "\(path(name, in: parent)) does not exist") }
        try check(newName, in: newParent)
        if newParent.parent == 0, newParent.number != 1 { throw RemfsError(.notFound, "the directory was removed") }
        let target = newParent.directory!.find(newName)
        if rule == .noReplace, target != nil { throw RemfsError(.pathConflict, "\(path(newName, in: newParent)) exists") }
        if inode === target { return }
        if inode.isDirectory { try requireOutside(inode, newParent) }
        try takeInCloses(of: caller.origin)
        if rule == .exchange {
            guard let target else { throw RemfsError(.notFound, "\(path(newName, in: newParent)) does not exist") }
            if target.isDirectory { try requireOutside(target, parent) }
            try requireNoNewSecret(renaming: inode, to: newName, newParent, over: target, scanned, by: caller)
            try requireNoNewSecret(renaming: target, to: name, parent, over: inode, nil, by: caller)
            return try exchange(inode, name, parent, with: target, newName, newParent, by: caller)
        }
        if let target {
            if inode.isDirectory {
                guard target.isDirectory else { throw RemfsError(.notADirectory, "\(path(of: target)) is not a directory") }
                guard target.directory!.count == 0 else { throw RemfsError(.notEmpty, "\(path(of: target)) is not empty") }
            } else if target.isDirectory {
                throw RemfsError(.isADirectory, "\(path(of: target)) is a directory")
            }
        }
        try requireNoNewSecret(renaming: inode, to: newName, newParent, over: target, scanned, by: caller)
        if let target, target.isMemory, target.isOldestName(newName, in: newParent.number) {
            try sealBeforeNameGoes(target, includingOpen: true)
        }
        let stale = try target.flatMap { (target) throws(RemfsError) in try staleBase(target, seen(target.number), by: caller) }
        try move(inode, name, parent, to: newName, newParent, over: target, staleBase: stale, by: caller)
        noteEmptied(parent)
    }

    /// A directory cannot go below itself.
    private func requireOutside(_ inode: Inode, _ directory: Inode) throws(RemfsError) {
        var above: Inode? = directory
        while let current = above {
            if current === inode { throw RemfsError(.invalidArgument, "\(path(of: inode)) cannot be moved below itself") }
            above = current.parent == 0 ? nil : inodes[current.parent]
        }
    }
}
