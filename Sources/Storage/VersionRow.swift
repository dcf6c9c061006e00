import SQLite

/// A version about to be written: the columns of its row, and the version that it ends.
struct VersionRow {
    let number: Int64
    let memory: Int64
    let operation: MemoryVersion.Operation
    let path: String
    let size: Int64?
    let digest: Digest?
    let content: Content
    /// us
    let began: Int64
    let author: Author
    let base: Int64?
    let isStale: Bool
    /// The head until now.
    let previous: Int64?
    /// What was found in the content; nil: nobody looked.
    var secrets: SecretKinds? = nil
    /// Where nobody looked, a version of the same content, which says what was found then.
    var sameAs: Int64? = nil
}

extension MemoryVersion.Operation {
    var row: Int64 {
        switch self {
        case .created: 0
        case .modified: 1
        case .deleted: 2
        }
    }

    init(row: Int64) { self = row == 0 ? .created : row == 1 ? .modified : .deleted }
}

extension StoreState {
    func insert(_ version: VersionRow) throws(SQLiteError) {
        let row = statements.insertVersion
        let (directory, name) = Self.split(version.path)
        row.bind(version.number, at: 1)
        row.bind(version.memory, at: 2)
        row.bind(version.operation.row, at: 3)
        row.bind(directory, at: 4)
        row.bind(name, at: 5)
        row.bind(version.size, at: 6)
        row.bind(version.digest?.bytes, at: 7)
        if version.operation == .deleted { row.bind(nil as Int64?, at: 8) } else { bind(version.content, to: row, at: 8) }
        row.bind(version.began, at: 9)
        row.bind(version.author.actor.id, at: 10)
        row.bind(version.author.writer.uid.map(Int64.init), at: 11)
        row.bind(version.author.writer.pid.map(Int64.init), at: 12)
        row.bind(version.author.writer.command, at: 13)
        row.bind(version.base, at: 14)
        row.bind(version.isStale ? 1 : 0 as Int64, at: 15)
        row.bind(version.author.trust?.row, at: 16)
        row.bind(version.secrets?.row, at: 17)
        row.bind(version.sameAs, at: 18)
        try row.run()
        if let previous = version.previous {
            statements.endVersion.bind(previous, at: 1)
            statements.endVersion.bind(version.began, at: 2)
            try statements.endVersion.run()
        }
    }

    /// A version that tells of a directory's move: the file itself has no other row to write.
    func insertMoved(_ version: VersionRow) throws(SQLiteError) {
        try insert(version)
        for chunk in version.content.chunks where chunk != 0 {
            statements.addReference.bind(chunk, at: 1)
            try statements.addReference.run()
        }
        guard let inode = memoryInodes[version.memory] else { return }
        statements.moveHead.bind(inode, at: 1)
        statements.moveHead.bind(version.number, at: 2)
        statements.moveHead.bind(version.began, at: 3)
        try statements.moveHead.run()
    }

    func didInsert(_ version: VersionRow) {
        lastVersion = max(lastVersion, version.number)
        guard let number = memoryInodes[version.memory], let inode = inodes[number], version.operation != .deleted else { return }
        inode.head = MemoryHead(
            memory: version.memory, version: version.number, created: inode.head?.created ?? version.began, updated: version.began,
            size: version.size ?? 0, digest: version.digest, content: version.content)
    }

    /// A path as its directory, with a trailing `/`, and its last name.
    static func split(_ path: String) -> (directory: String, name: String) {
        // In bytes: to a String a slash and an accent that follows it are one character.
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return ("", path) }
        let name = path.utf8.index(after: slash)
        return (String(Substring(path.utf8[..<name])), String(Substring(path.utf8[name...])))
    }

    // MARK: Content columns

    func bind(_ content: Content, to row: Statement, at place: Int32) {
        switch content {
        case .empty: row.bind(nil as Int64?, at: place)
        case .whole(let chunk): row.bind(chunk, at: place)
        case .list(let chunks): unsafe row.bind(chunks.withUnsafeBytes { unsafe Array($0) }, at: place)
        }
    }

    // MARK: Directories that move

    func countMemories(below inode: Inode) -> Int {
        inode.isDirectory ? TreeWalk(below: inode).reduce(0) { $1.inode.isDirectory ? $0 : $0 + 1 } : 0
    }

    /// A `modified` version with the new path for each memory below a directory that moves, but for those that end with the move.
    func moveVersions(
        of inode: Inode, to name: [UInt8], _ parent: Inode, except ended: [VersioningChange], by author: Author
    ) -> [VersionRow] {
        let ended = Set(ended.map(\.inode.number))
        var versions: [VersionRow] = []
        let prefix = path(name, in: parent) + "/"
        var walk = TreeWalk(below: inode)
        while let step = walk.next() {
            let file = step.inode
            guard let head = file.head, file.isMemory, file.isOldestName(step.name, in: step.parent.number), !ended.contains(file.number)
            else { continue }
            versions.append(
                VersionRow(
                    number: takeNumber(), memory: head.memory, operation: .modified,
                    path: prefix + String(decoding: walk.path + step.name, as: UTF8.self), size: head.size, digest: head.digest,
                    content: head.content, began: versionTime(), author: author, base: nil, isStale: false, previous: head.version,
                    sameAs: head.version))
        }
        return versions
    }
}

extension Content {
    init(_ row: Statement, column: Int32, size: Int64) {
        if row.isNull(column) {
            self = .empty
        } else if size <= Content.chunkSize, let chunk = row.integerIfNumber(column) {
            self = .whole(chunk)
        } else {
            self = unsafe row.withBytes(column) { bytes in
                var chunks: [Int64] = []
                chunks.reserveCapacity(bytes.count / 8)
                for place in stride(from: 0, to: bytes.count - 7, by: 8) {
                    unsafe chunks.append(bytes.loadUnaligned(fromByteOffset: place, as: Int64.self))
                }
                return .list(chunks)
            }
        }
    }
}
