import SQLite
import Threads

/// What the control socket asks of a store: memories by ID and path, versions, and the one way to change a memory from outside.
extension MemoryStore {
    // MARK: Memories

    package func memory(_ memory: MemoryID) throws(RemfsError) -> Memory {
        // What others have saved meanwhile is sealed in its time, and not by whoever reads this one.
        if let quick = try settled(memory) { return try complete(quick) }
        try settleForReading()
        return try complete(try look { (state) throws(RemfsError) in try self.shown(state.memoryInode(memory), state) })
    }

    /// A memory of which no save waits to be sealed, in one turn under the lock; nil: one does, or there is no such memory yet.
    private func settled(_ memory: MemoryID) throws(RemfsError) -> Memory? {
        guard let number = memory.number(in: id) else { return nil }
        return try change { (state) throws(RemfsError) in
            // Which saves have ended; nothing is written.
            for origin in state.origins.values { try state.takeInCloses(of: origin) }
            guard let place = state.memoryInodes[number], let inode = state.inodes[place], inode.changedBy == nil,
                inode.drafts?.saves.contains(where: \.isClosed) != true
            else { return nil }
            return state.memory(inode)
        }
    }

    /// By an absolute path, as the store shows it.
    package func memory(at path: String) throws(RemfsError) -> Memory {
        try settleForReading()
        return try complete(
            try look { (state) throws(RemfsError) in
                guard let inode = state.find(path), let memory = state.memory(inode) else {
                    throw RemfsError(.notFound, "\(path) not found in \(state.label)")
                }
                return memory
            })
    }

    private func shown(_ inode: Inode, _ state: StoreState) throws(RemfsError) -> Memory {
        guard let memory = state.memory(inode) else { throw RemfsError(.notFound, "the memory is gone") }
        return memory
    }

    /// Content over 128 KiB is hashed when someone first asks, without the store's lock; the answer stays with the head.
    func complete(_ memory: Memory) throws(RemfsError) -> Memory {
        guard memory.contentSHA256.isEmpty else { return memory }
        let found = try look { (state) throws(RemfsError) in try state.memoryInode(memory.id).head }
        guard let head = found else { throw RemfsError(.notFound, "memory \(memory.id) not found") }
        let digest = try readers.snapshot { (reader) throws(SQLiteError) in try reader.digest(of: head.content, size: head.size) }
        return try look { (state) throws(RemfsError) in
            let inode = try state.memoryInode(memory.id)
            if inode.head?.version == head.version {
                inode.head = MemoryHead(
                    memory: head.memory, version: head.version, created: head.created, updated: head.updated, size: head.size,
                    digest: digest,
                    content: head.content, origin: head.origin)
            }
            guard let complete = state.memory(inode) else { throw RemfsError(.notFound, "memory \(memory.id) not found") }
            return complete
        }
    }

    /// The bytes of the version that `memory` names as its head, checked against their hashes. Throws `corrupted` where they do not match.
    package func content(of memory: Memory) throws(RemfsError) -> [UInt8] {
        let bytes = try readers.snapshot { (reader) throws(SQLiteError) in
            try self.content(ofVersion: memory.version.number(in: self.id) ?? 0, reader)
        }
        guard let bytes else { throw RemfsError(.notFound, "version \(memory.version) not found") }
        return bytes
    }

    func content(ofVersion number: Int64, _ reader: Reader) throws(SQLiteError) -> [UInt8]? {
        let row = reader.versionContent
        defer { row.reset() }
        row.bind(number, at: 1)
        guard try row.step(), let size = row.integerOrNil(1) else { return nil }
        return try reader.bytes(of: Content(row, column: 0, size: size), size: size)
    }

    /// A page of memories below `prefix` (`/` or `/a/b/`), in byte order of their paths. With `depth` 1 deeper ones are shown as
    /// one prefix for each directory. `after` is the path, or prefix, of the last item of the page before.
    package func memories(under prefix: String, depth: Int, after: String?, limit: Int) throws(RemfsError) -> [MemoryListing] {
        try settleForReading()
        let rows = try look { (state) throws(RemfsError) in
            var rows: [MemoryListing] = []
            for item in state.memories(under: prefix, depth: depth, after: after, limit: limit) {
                switch item {
                case .prefix(let prefix): rows.append(.prefix(prefix))
                case .memory(let inode): rows.append(.memory(try self.shown(inode, state)))
                }
            }
            return rows
        }
        var complete: [MemoryListing] = []
        for row in rows {
            if case .memory(let memory) = row { complete.append(.memory(try self.complete(memory))) } else { complete.append(row) }
        }
        return complete
    }

    // MARK: Changing

    /// Applies one change for the API, as one transaction and, unless nothing changes, one version; nil after a deletion.
    ///
    /// When this has returned the change is on the disk and every mount's kernel has been told. Throws what `api.md` 4 names:
    /// `notFound`, `readOnly`, `tooLarge`, `storeFull`, `preconditionFailed`, `pathConflict` (with the memory in the way).
    @discardableResult
    package func commit(_ change: MemoryChange, by author: Author, if precondition: Precondition? = nil) throws(RemfsError) -> Memory? {
        // What is large is made ready without the lock.
        try settle()
        let memory = try self.change { (state) throws(RemfsError) -> Memory? in
            try state.settle()
            switch change {
            case .create(let path, let content):
                return try self.shown(try state.create(path, content, by: author), state)
            case .update(let id, let content, let path):
                let inode = try state.memoryInode(id)
                try state.requireWritable()
                if let content { try state.requireContractSize(content, at: state.path(of: inode)) }
                try state.settleForAPI(inode)
                let changesContent = content.map { inode.head!.size != $0.count || inode.head!.digest != Digest(of: $0) } ?? false
                let changesPath = path.map { !$0.isSame(as: state.path(of: inode)) } ?? false
                // A retry of a write that landed succeeds, whatever its precondition says by now.
                guard changesContent || changesPath else { return try self.shown(inode, state) }
                try self.require(precondition, inode, state)
                try state.update(inode, content: changesContent ? content : nil, path: path, by: author)
                return try self.shown(inode, state)
            case .delete(let id):
                let inode = try state.memoryInode(id)
                try state.settleForAPI(inode)
                try self.require(precondition, inode, state)
                try state.delete(inode, by: author)
                return nil
            }
        }
        try synchronizeNow()
        drainInvalidations()
        if let memory { return try complete(memory) }
        return nil
    }

    private func require(_ precondition: Precondition?, _ inode: Inode, _ state: StoreState) throws(RemfsError) {
        guard case .contentSHA256(let expected) = precondition else { return }
        let digest = if let known = inode.head?.digest { known } else { try state.digest(of: inode) }
        guard digest.hex == expected else {
            throw RemfsError(.preconditionFailed, "\(state.path(of: inode)) has content_sha256 \(digest.hex), not \(expected)")
        }
    }

    // MARK: Versions

    private static let columns =
        """
        number, memory, operation, directory || name, size, digest, began, actor, uid, pid, command, base, stale, redacted, redacted_by, \
        content, pinned, trust, secrets
        """

    /// Newest first, below `number` (nil: from the newest).
    package func versions(_ filter: VersionFilter, before number: Int64?, limit: Int) throws(RemfsError) -> [MemoryVersion] {
        try settleForReading()
        let versions = try list(filter, "number < ?1", number ?? .max, "DESC", limit)
        try expose(versions)
        return versions
    }

    /// Oldest first, above `number`: for those who follow the log. What may still turn out to be a temporary file waits a second.
    package func versions(_ filter: VersionFilter, after number: Int64, limit: Int) throws(RemfsError) -> [MemoryVersion] {
        try settleForReading()
        let versions = try list(filter, "number > ?1", number, "ASC", limit)
        let told = try look { (state) throws(RemfsError) in
            let youngest = StoreState.monotonic() - 1_000_000_000
            return versions.prefix { version in
                guard let memory = version.memory.number(in: self.id), let place = state.memoryInodes[memory],
                    let inode = state.inodes[place]
                else { return true }
                return inode.unsettledIn == 0 || inode.born < youngest
            }
        }
        try expose(Array(told))
        return Array(told)
    }

    /// Whoever is named in an answer is no temporary file any more.
    private func expose(_ versions: [MemoryVersion]) throws(RemfsError) {
        try look { (state) throws(RemfsError) in
            for version in versions {
                guard let memory = version.memory.number(in: self.id), let place = state.memoryInodes[memory] else { continue }
                state.inodes[place]?.unsettledIn = 0
            }
        }
    }

    private func list(
        _ filter: VersionFilter, _ bound: String, _ number: Int64, _ order: String, _ limit: Int
    ) throws(RemfsError) -> [MemoryVersion] {
        var conditions = [bound]
        if filter.memory != nil { conditions.append("memory = ?2") }
        if filter.operation != nil { conditions.append("operation = ?3") }
        if filter.actor != nil { conditions.append("actor = ?4") }
        if filter.from != nil { conditions.append("began >= ?5") }
        if filter.to != nil { conditions.append("began <= ?6") }
        if filter.path != nil { conditions.append("directory = ?7 AND name = ?8") }
        if filter.staleOnly { conditions.append("stale = 1") }
        let sql = "SELECT \(Self.columns) FROM version WHERE \(conditions.joined(separator: " AND ")) ORDER BY number \(order) LIMIT ?9"
        // An ID of another store matches nothing.
        let memory = filter.memory.map { $0.number(in: id) ?? 0 }
        return try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare(sql)
            row.bind(number, at: 1)
            row.bind(memory, at: 2)
            row.bind(filter.operation?.row, at: 3)
            row.bind(filter.actor, at: 4)
            row.bind(filter.from?.microseconds, at: 5)
            row.bind(filter.to?.microseconds, at: 6)
            row.bind(filter.path.map { StoreState.split($0).directory }, at: 7)
            row.bind(filter.path.map { StoreState.split($0).name }, at: 8)
            row.bind(Int64(limit), at: 9)
            var versions: [MemoryVersion] = []
            while try row.step() { versions.append(try self.version(row, reader)) }
            return versions
        }
    }

    private func version(_ row: Statement, _ reader: Reader) throws(SQLiteError) -> MemoryVersion {
        let size = row.integerOrNil(4)
        var digest = unsafe row.isNull(5) ? nil : row.withBytes(5) { unsafe Digest(bytes: $0) }
        if digest == nil, let size {
            // Over 128 KiB: hashed when asked for.
            let content = Content(row, column: 15, size: size)
            digest = try reader.digest(of: content, size: size)
        }
        return MemoryVersion(
            id: VersionID(store: id, number: row.integer(0)), number: row.integer(0), memory: MemoryID(store: id, number: row.integer(1)),
            store: id, operation: MemoryVersion.Operation(row: row.integer(2)), path: row.text(3), contentSHA256: digest?.hex,
            sizeInBytes: size, created: Timestamp(microseconds: row.integer(6)),
            author: Author(
                MemoryActor(id: row.text(7) ?? "") ?? .local,
                writer: Writer(
                    uid: row.integerOrNil(8).map { UInt32(truncatingIfNeeded: $0) },
                    pid: row.integerOrNil(9).map { Int32(truncatingIfNeeded: $0) }, command: row.text(10)),
                trust: row.integerOrNil(17).map { Session.Trust(row: $0) }),
            base: row.integerOrNil(11).map { VersionID(store: id, number: $0) }, isStale: row.integer(12) == 1,
            redacted: row.integerOrNil(13).map { Timestamp(microseconds: $0) }, redactedBy: row.text(14).flatMap { MemoryActor(id: $0) },
            isPinned: !row.isNull(16), secrets: row.text(18)?.split(separator: " ").map(String.init))
    }

    package func version(_ version: VersionID) throws(RemfsError) -> MemoryVersion {
        try settleForReading()
        let missing = RemfsError(.notFound, "version \(version) not found")
        guard let number = version.number(in: id) else { throw missing }
        let found = try readers.snapshot { (reader) throws(SQLiteError) -> MemoryVersion? in
            let row = try reader.connection.prepare("SELECT \(Self.columns) FROM version WHERE number = ?1")
            row.bind(number, at: 1)
            return try row.step() ? try self.version(row, reader) : nil
        }
        guard let found else { throw missing }
        try expose([found])
        return found
    }

    /// A version's bytes; nil for a deletion and what was redacted.
    package func content(of version: MemoryVersion) throws(RemfsError) -> [UInt8]? {
        try readers.snapshot { (reader) throws(SQLiteError) in try self.content(ofVersion: version.number, reader) }
    }

    // MARK: Numbers

    package struct Statistics: Sendable {
        package var memories: Int64
        package var versions: Int64
        /// Inodes of all kinds.
        package var files: Int64
        /// Content bytes of all regular files.
        package var bytes: Int64
        /// What the store's file and its journal take on the disk.
        package var fileBytes: Int64
        /// Number of the newest version, where `log --follow` starts.
        package var newestVersion: Int64
    }

    package func statistics() throws(RemfsError) -> Statistics {
        try settleForReading()
        let versions = try readers.read { (reader) throws(SQLiteError) in try reader.connection.integer("SELECT count(*) FROM version") ?? 0
        }
        let fileBytes = [path, path + "-wal"].reduce(Int64(0)) { $0 + StorePool.allocatedBytes(of: $1) }
        return try look { (state) throws(RemfsError) in
            Statistics(
                memories: Int64(state.memoryInodes.count), versions: versions, files: Int64(state.inodes.count), bytes: state.usedBytes,
                fileBytes: fileBytes, newestVersion: state.lastVersion)
        }
    }
}
