import Glibc
import SQLite

/// Content that is stored already, with each chunk counted once for whoever is to hold it.
struct StoredContent {
    let content: Content
    let size: Int64
    /// nil: not yet asked for.
    let digest: Digest?
    /// nil: nobody looked.
    let secrets: SecretKinds?

    static let nothing = StoredContent(content: .empty, size: 0, digest: .ofNothing, secrets: SecretKinds.none)
}

/// What a restore and an import do to the tree, one file after the other.
///
/// Invariant: only within `MemoryStore.changeTogether`. So each of them writes its rows and changes the tree at once; where one throws, all of
/// the tree is taken out of the file again.
extension StoreState {
    /// What a file is besides its content.
    struct Attributes {
        var permissions: UInt32 = 0o644
        var uid: UInt32 = geteuid()
        var gid: UInt32 = getegid()
        /// ns; nil: now.
        var modified: Int64?
        var isUnversioned = false
    }

    // MARK: Content

    /// Stores a content of `size` bytes. `next` answers its bytes in pieces of a chunk each, the last one shorter.
    func storeContent(
        size: Int64, for inode: InodeNumber, after previous: Content = .empty, _ next: (Int) throws(RemfsError) -> [UInt8]
    ) throws(RemfsError) -> StoredContent {
        guard size > 0 else { return .nothing }
        try reserveNumbers(2)
        let group = takeNumber()
        let before = previous.chunks
        var list: [Int64] = []
        var scan: SecretScan? = policy.secrets == .allow ? nil : SecretScan()
        let digest = try unsafe Digest { (take) throws(RemfsError) in
            var left = size
            while left > 0 {
                let bytes = try next(Int(min(left, Content.chunkSize)))
                left -= Int64(bytes.count)
                unsafe bytes.withUnsafeBytes { unsafe take($0) }
                let place = list.count
                let isHole = size > Content.chunkSize && bytes.allSatisfy { $0 == 0 }
                try query { () throws(SQLiteError) in
                    try scan?.pass(place, looks: true) { $0 == place && !isHole ? bytes : nil }
                }
                if isHole {
                    list.append(0)
                    continue
                }
                let older = place < before.count && before[place] != 0 ? before[place] : nil
                let number = try query { () throws(SQLiteError) -> Int64 in
                    let sequence = try older.flatMap { (older) throws(SQLiteError) in try chunkRow(older)?.sequence } ?? 0
                    let chunk = NewChunk(
                        number: group << 20 | Int64(place), digest: Digest(of: bytes), size: bytes.count, bytes: bytes, previous: older,
                        delta: nil, sequence: sequence + 1)
                    let number = try store(chunk, for: inode)
                    if number == chunk.number, !DeltaChain.steps(endingAt: chunk.sequence).isEmpty { deltaCandidates.append(number) }
                    return number
                }
                list.append(number)
            }
        }
        return StoredContent(content: Content(list, size: size), size: size, digest: digest, secrets: scan?.finish())
    }

    /// A version's content, counted once more; nil for a deletion and what was redacted.
    func keptContent(ofVersion number: Int64) throws(RemfsError) -> StoredContent? {
        try query { () throws(SQLiteError) in
            let row = try statements.cached("SELECT content, size, digest, secrets FROM version WHERE number = ?1")
            row.bind(number, at: 1)
            defer { row.reset() }
            guard try row.step(), let size = row.integerOrNil(1) else { return nil }
            let content = Content(row, column: 0, size: size)
            let digest = unsafe row.isNull(2) ? nil : row.withBytes(2) { unsafe Digest(bytes: $0) }
            var secrets = row.text(3).flatMap { SecretKinds(row: $0) }
            if secrets == nil { secrets = try self.secrets(in: content) }
            for chunk in content.chunks where chunk != 0 { try keep(chunk) }
            return StoredContent(
                content: content, size: size, digest: size == 0 ? .ofNothing : digest, secrets: secrets)
        }
    }

    /// Counts one more use of a chunk. The head is always whole.
    private func keep(_ chunk: Int64) throws(SQLiteError) {
        if try chunkRow(chunk)?.encoding == 1 { try makeWhole(chunk) }
        statements.addReference.bind(chunk, at: 1)
        try statements.addReference.run()
    }

    // MARK: Files

    /// A new file at a place that is free. As a memory it has one version: `created`, or with a `previous` one that it goes on from, `modified`.
    @discardableResult
    func addFile(
        _ vacancy: Vacancy, _ attributes: Attributes, _ stored: StoredContent, number: InodeNumber,
        memory: (number: Int64, previous: Int64)? = nil, by author: Author
    ) throws(RemfsError) -> Inode {
        if !attributes.isUnversioned { try checkRoomForMemory() }
        try checkQuota(growingBy: stored.size)
        let parent = try makeRoom(vacancy)
        if !attributes.isUnversioned { try requireKnown(stored, over: nil, at: path(vacancy.name, in: parent)) }
        let inode = try newInode(
            UInt32(S_IFREG), vacancy.name, in: parent, attributes, number: number)
        inode.content = stored.content
        inode.size = stored.size
        inode.sealedSize = stored.size
        inode.digest = stored.digest
        inode.secrets = stored.secrets
        if attributes.isUnversioned {
            inode.flags.insert(.unversioned)
            inode.ownsContent = true
            try query { () throws(SQLiteError) in try insert(inode, memory: nil, author: nil) }
        } else {
            let began = versionTime()
            let version = VersionRow(
                number: takeNumber(), memory: memory?.number ?? takeNumber(), operation: memory == nil ? .created : .modified,
                path: path(vacancy.name, in: parent), size: stored.size, digest: stored.digest, content: stored.content, began: began,
                author: author, base: nil, isStale: false, previous: memory?.previous, secrets: stored.secrets)
            inode.head = MemoryHead(
                memory: version.memory, version: version.number, created: began, updated: began, size: stored.size, digest: stored.digest,
                content: stored.content)
            try query { () throws(SQLiteError) in
                try insert(version)
                try insert(inode, memory: version.memory, author: nil)
            }
            memoryFiles += 1
            memoryInodes[version.memory] = inode.number
            lastVersion = max(lastVersion, version.number)
        }
        usedBytes += stored.size
        attach(inode, to: parent, at: inode.changed)
        return inode
    }

    /// Writes the place that a version of a memory gives it, in its transaction.
    func move(
        _ inode: Inode, to parent: InodeNumber, named name: [UInt8], cookie: Int64, at time: Int64, head: MemoryHead
    ) throws(SQLiteError) {
        let row = statements.moveInode
        row.bind(inode.number, at: 1)
        row.bind(parent, at: 2)
        row.bind(text: name, at: 3)
        row.bind(cookie, at: 4)
        row.bind(time, at: 5)
        row.bind(inode.storedFlags.rawValue, at: 6)
        row.bind(nil as String?, at: 7)
        row.bind(head.memory, at: 8)
        row.bind(head.version, at: 9)
        row.bind(head.created, at: 10)
        row.bind(head.updated, at: 11)
        // No request of a mount's made it: what the statement was bound to last is somebody else's.
        row.bind(nil as Int64?, at: 12)
        row.bind(nil as Int64?, at: 13)
        try row.run()
    }

    /// Gives a memory another content, another place, or both, as one `modified` version. It has no unsealed save, and where it gets another
    /// place it was lifted from its old one (`lift`).
    func revise(
        _ inode: Inode, to stored: StoredContent?, at vacancy: Vacancy?, modified: Int64? = nil, by author: Author
    ) throws(RemfsError) {
        guard let head = inode.head else { throw RemfsError(.notFound, "the memory is gone") }
        if let stored {
            try checkQuota(growingBy: stored.size - inode.size)
            try requireKnown(stored, over: inode, at: path(of: inode))
        }
        let parent = try vacancy.map { (vacancy) throws(RemfsError) in try makeRoom(vacancy) }
        try reserveNumbers(4)
        let time = now()
        let began = versionTime()
        let cookie = takeNumber()
        let number = takeNumber()
        let content = if let stored { stored } else { try keptContent(ofVersion: head.version) ?? .nothing }
        let version = VersionRow(
            number: number, memory: head.memory, operation: .modified,
            path: parent.map { path(vacancy!.name, in: $0) } ?? path(of: inode), size: content.size, digest: content.digest,
            content: content.content, began: began, author: author, base: nil, isStale: false, previous: head.version,
            secrets: content.secrets)
        let newHead = MemoryHead(
            memory: head.memory, version: number, created: head.created, updated: began, size: content.size, digest: content.digest,
            content: content.content)
        if let parent {
            inode.parent = parent.number
            inode.name = vacancy!.name
            inode.cookie = cookie
        }
        usedBytes += content.size - inode.size
        inode.size = content.size
        inode.changed = time
        if stored != nil { inode.modified = modified ?? time }
        try query { () throws(SQLiteError) in
            if inode.ownsContent { try release(inode.content) }
            inode.ownsContent = false
            try insert(version)
            if parent != nil {
                try move(inode, to: inode.parent, named: inode.name, cookie: cookie, at: time, head: newHead)
            }
            let outcome = SealOutcome(
                plan: SealPlan(inode: inode, steps: [], movedBy: nil), content: content.content, size: content.size,
                digest: content.digest, head: newHead, ownsContent: false)
            try writeInode(inode, outcome, author: nil)
        }
        inode.content = content.content
        inode.secrets = content.secrets
        inode.sealedSize = content.size
        inode.digest = content.digest
        inode.head = newHead
        inode.unsettledIn = 0
        lastVersion = max(lastVersion, number)
        if let parent {
            parent.directory!.add(inode.name, cookie: cookie, inode)
            touch(parent, at: time)
            invalidate(.name(inode.name, in: parent.number))
        }
        if stored != nil { invalidate(.bytes(inode.number, offset: 0, length: 0)) }
        invalidate(.attributes(inode.number))
    }

    /// Takes a memory from its place in the tree, so that another may have that. `revise` puts it down again.
    func lift(_ inode: Inode) {
        guard let parent = inodes[inode.parent] else { return }
        parent.directory!.remove(inode.name)
        touch(parent, at: now())
        invalidate(.name(inode.name, in: parent.number))
        noteEmptied(parent)
    }

    /// Deletes a memory: its version says so at once.
    func remove(_ inode: Inode, by author: Author) throws(RemfsError) { noteEmptied(try giveUp(inode, by: author)) }

    // MARK: Other entries

    /// Makes a directory, or gives one that is there these attributes. Answers it: its time is set at the end, since each new name changes it.
    func placeDirectory(_ segments: [[UInt8]], _ attributes: Attributes) throws(RemfsError) -> Inode {
        var directory = root
        for (place, segment) in segments.enumerated() {
            if let found = directory.directory!.find(segment) {
                guard found.isDirectory else { throw conflict(found) }
                directory = found
                continue
            }
            let isLast = place == segments.count - 1
            directory = try newDirectory(segment, in: directory, isLast ? attributes : Attributes(permissions: 0o755), isImplied: !isLast)
        }
        guard directory.number != 1 else { return directory }
        directory.flags.remove(.implicit)
        if attributes.isUnversioned { directory.flags.insert(.unversioned) }
        directory.mode = UInt32(S_IFDIR) | attributes.permissions
        try query { () throws(SQLiteError) in
            let row = try statements.cached("UPDATE inode SET flags = ?2 WHERE number = ?1")
            row.bind(directory.number, at: 1)
            row.bind(directory.storedFlags.rawValue, at: 2)
            try row.run()
            try updateAttributes(of: directory, changed: directory.changed)
        }
        invalidate(.attributes(directory.number))
        return directory
    }

    /// A symbolic link (with a target) or a FIFO, at a place that is free.
    func addNode(_ vacancy: Vacancy, type: mode_t, target: [UInt8]?, _ attributes: Attributes) throws(RemfsError) {
        let parent = try makeRoom(vacancy)
        let inode = try newInode(UInt32(type), vacancy.name, in: parent, attributes, number: nil)
        inode.target = target
        try query { () throws(SQLiteError) in try insert(inode, memory: nil, author: nil) }
        attach(inode, to: parent, at: inode.changed)
    }

    /// Another name of a file.
    func addName(_ vacancy: Vacancy, of inode: Inode) throws(RemfsError) {
        let parent = try makeRoom(vacancy)
        guard inode.links < 65_000 else { throw RemfsError(.tooManyLinks, "\(path(of: inode)) has 65,000 names") }
        try reserveNumbers(2)
        let time = now()
        let cookie = takeNumber()
        inode.changed = time
        try query { () throws(SQLiteError) in
            let row = try statements.cached("INSERT INTO dentry (cookie, parent, name, inode) VALUES (?1, ?2, ?3, ?4)")
            row.bind(cookie, at: 1)
            row.bind(parent.number, at: 2)
            row.bind(text: vacancy.name, at: 3)
            row.bind(inode.number, at: 4)
            try row.run()
            try updateAttributes(of: inode, changed: time)
        }
        inode.otherNames.append(Inode.Name(parent: parent.number, name: vacancy.name, cookie: cookie))
        inode.links += 1
        inode.unsettledIn = 0
        parent.directory!.add(vacancy.name, cookie: cookie, inode)
        touch(parent, at: time)
        invalidate(.name(vacancy.name, in: parent.number))
        invalidate(.attributes(inode.number))
    }

    func setTime(_ modified: Int64, of directory: Inode) throws(RemfsError) {
        directory.modified = modified
        try query { () throws(SQLiteError) in try updateAttributes(of: directory, changed: directory.changed) }
        invalidate(.attributes(directory.number))
    }

    // MARK: Helpers

    /// Makes the directories that a vacancy implies, and takes away an empty one that stands in its place. Answers the parent.
    private func makeRoom(_ vacancy: Vacancy) throws(RemfsError) -> Inode {
        var parent = vacancy.directory
        if let replaced = vacancy.replaced {
            let time = now()
            for directory in emptyTree(replaced) {
                try query { () throws(SQLiteError) in try dropDirectory(directory, at: time) }
                didDropDirectory(directory, at: time)
            }
        }
        for name in vacancy.implied { parent = try newDirectory(name, in: parent, Attributes(permissions: 0o755), isImplied: true) }
        try check(vacancy.name, in: parent, maximumBytes: 1_023)
        return parent
    }

    private func newDirectory(
        _ name: [UInt8], in parent: Inode, _ attributes: Attributes, isImplied: Bool
    ) throws(RemfsError) -> Inode {
        try check(name, in: parent, maximumBytes: 1_023)
        let directory = try newInode(UInt32(S_IFDIR), name, in: parent, attributes, number: nil)
        if isImplied { directory.flags.insert(.implicit) }
        try query { () throws(SQLiteError) in try insert(directory, memory: nil, author: nil) }
        attach(directory, to: parent, at: directory.changed)
        return directory
    }

    private func newInode(
        _ type: UInt32, _ name: [UInt8], in parent: Inode, _ attributes: Attributes, number: InodeNumber?
    ) throws(RemfsError) -> Inode {
        try reserveNumbers(6)
        let time = now()
        let modified = attributes.modified ?? time
        let inode = Inode(
            number: number ?? takeNumber(), mode: type | attributes.permissions, uid: attributes.uid, gid: attributes.gid, rdev: 0,
            flags: [],
            parent: parent.number, name: name, cookie: next, accessed: modified, modified: modified, changed: time)
        inode.cookie = takeNumber()
        return inode
    }

    private func checkQuota(growingBy bytes: Int64) throws(RemfsError) {
        guard bytes > 0, let quota = policy.maxBytes, usedBytes + bytes > quota else { return }
        throw RemfsError(.quota, "\(label) would exceed its \(quota) bytes")
    }
}
