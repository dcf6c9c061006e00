import Glibc
import HeapModule
import SQLite

/// Memories as the API sees them: found by ID, listed by path, changed one at a time.
extension StoreState {
    // MARK: Reading

    func memory(_ inode: Inode) -> Memory? {
        guard inode.isMemory, inode.links > 0, let head = inode.head else { return nil }
        // Whoever was told of a file knows it: from now on it is not a temporary one.
        inode.unsettledIn = 0
        return Memory(
            id: MemoryID(store: id, number: head.memory), store: id, version: VersionID(store: id, number: head.version),
            path: path(of: inode), contentSHA256: head.digest?.hex ?? "", sizeInBytes: head.size,
            created: Timestamp(microseconds: head.created), updated: Timestamp(microseconds: head.updated))
    }

    func memoryInode(_ memory: MemoryID) throws(RemfsError) -> Inode {
        guard let number = memory.number(in: id), let place = memoryInodes[number], let inode = inodes[place], inode.head != nil,
            inode.links > 0
        else { throw RemfsError(.notFound, "memory \(memory) not found") }
        return inode
    }

    /// The inode at an absolute path; nil where nothing is.
    func find(_ path: String) -> Inode? {
        var inode = root
        for segment in path.utf8.split(separator: UInt8(ascii: "/")) {
            guard let next = inode.directory?.find(Array(segment)) else { return nil }
            inode = next
        }
        return inode
    }

    /// A page of memories below `prefix` (with a trailing `/`), in byte order of their paths.
    func memories(under prefix: String, depth: Int, after: String?, limit: Int) -> [Inode.Listed] {
        var found: [Inode.Listed] = []
        guard let start = prefix == "/" ? root : find(prefix), start.isDirectory else { return [] }
        var cursor: ArraySlice<UInt8>?
        if let after = after.map({ Array($0.utf8) }) {
            if after.starts(with: prefix.utf8) {
                cursor = after[prefix.utf8.count...]
            } else if prefix.utf8.lexicographicallyPrecedes(after) {
                return []
            }
        }
        // The directories above the present place, with what of each is still to come.
        var levels = [listed(in: start, after: cursor)]
        while found.count < limit, !levels.isEmpty {
            guard let item = levels[levels.count - 1].popMin() else {
                levels.removeLast()
                continue
            }
            guard item.inode.isDirectory else {
                found.append(.memory(item.inode))
                continue
            }
            if depth != 1 {
                levels.append(listed(in: item.inode, after: item.cursor))
            } else if item.cursor?.isEmpty != true, firstMemory(below: item.inode) != nil {
                found.append(.prefix(prefix + String(decoding: item.key, as: UTF8.self)))
            }
        }
        return found
    }

    /// A name in a directory, on the way to a listing.
    private struct Candidate: Comparable {
        /// A directory sorts as its name with a trailing slash: that is how its memories' paths go on.
        let key: [UInt8]
        let inode: Inode
        /// What is left of the cursor below a directory that it names; nil: all of it follows the cursor.
        let cursor: ArraySlice<UInt8>?

        static func < (one: Candidate, other: Candidate) -> Bool { one.key.lexicographicallyPrecedes(other.key) }
        static func == (one: Candidate, other: Candidate) -> Bool { one.key == other.key }
    }

    /// The memories and directories in a directory that may come after the cursor: of thousands a page takes the first few, so they are not
    /// sorted.
    private func listed(in directory: Inode, after cursor: ArraySlice<UInt8>?) -> Heap<Candidate> {
        var items: [Candidate] = []
        for entry in directory.directory!.entries {
            guard let inode = entry.inode else { continue }
            if inode.isDirectory {
                let key = entry.name + [UInt8(ascii: "/")]
                let rest = cursor.flatMap { $0.starts(with: key) ? $0.dropFirst(key.count) : nil }
                if rest == nil, let cursor, !cursor.lexicographicallyPrecedes(key) { continue }
                items.append(Candidate(key: key, inode: inode, cursor: rest))
            } else if inode.isMemory, inode.head != nil, inode.isOldestName(entry.name, in: directory.number) {
                if let cursor, !cursor.lexicographicallyPrecedes(entry.name) { continue }
                items.append(Candidate(key: entry.name, inode: inode, cursor: nil))
            }
        }
        return Heap(items)
    }

    func firstMemory(below directory: Inode) -> Inode? {
        TreeWalk(below: directory).first { $0.inode.isMemory && $0.inode.head != nil }?.inode
    }

    // MARK: Occupancy

    /// Where a memory may be put: its directory so far, the directories to be implied, its name.
    struct Vacancy {
        let directory: Inode
        let implied: [[UInt8]]
        let name: [UInt8]
        /// An empty directory that the memory replaces.
        let replaced: Inode?
    }

    func conflict(_ inode: Inode) -> RemfsError {
        let path = path(of: inode)
        guard let head = inode.head else { return RemfsError(.pathConflict, "\(path) is taken by something that is no memory") }
        let memory = MemoryID(store: id, number: head.memory)
        inode.unsettledIn = 0
        return RemfsError(.pathConflict, "\(path) is occupied by \(memory)", conflict: .init(memory: memory, path: path))
    }

    /// The place for a memory at `path`, if nothing sits at it, above it or below it. `moving` is not in its own way.
    func vacancy(_ path: MemoryPath, moving: Inode?) throws(RemfsError) -> Vacancy {
        try vacancy(path.text.utf8.dropFirst().split(separator: UInt8(ascii: "/")).map { Array($0) }, moving: moving)
    }

    /// As above, for what may be no path of the API's: names from the root down, one at least.
    func vacancy(_ segments: [[UInt8]], moving: Inode?) throws(RemfsError) -> Vacancy {
        var directory = root
        for (place, segment) in segments.dropLast().enumerated() {
            guard let next = directory.directory!.find(segment) else {
                return Vacancy(
                    directory: directory, implied: Array(segments[place..<(segments.count - 1)]), name: segments.last!, replaced: nil)
            }
            if !next.isDirectory {
                guard next === moving, place <= segments.count - 2 else { throw conflict(next) }
                // Moving /x to /x/y: the file's own name becomes a directory.
                return Vacancy(
                    directory: directory, implied: Array(segments[place..<(segments.count - 1)]), name: segments.last!, replaced: nil)
            }
            directory = next
        }
        guard let taken = directory.directory!.find(segments.last!) else {
            return Vacancy(directory: directory, implied: [], name: segments.last!, replaced: nil)
        }
        guard taken.isDirectory else { throw conflict(taken) }
        if let below = firstMemory(below: taken), below !== moving { throw conflict(below) }
        guard isEmptyTree(taken, except: moving) else { throw conflict(taken) }
        return Vacancy(directory: directory, implied: [], name: segments.last!, replaced: taken)
    }

    private func isEmptyTree(_ directory: Inode, except moving: Inode?) -> Bool {
        TreeWalk(below: directory).allSatisfy { $0.inode.isDirectory || $0.inode === moving }
    }

    // MARK: Changing

    /// Everything an API change needs to be true of a file before it: no writer's save is cut in two by it.
    func settleForAPI(_ inode: Inode) throws(RemfsError) {
        closeSave(of: inode)
        try sealAll(inode)
        guard inode.drafts == nil else { throw RemfsError(.corrupted, "\(path(of: inode)) is damaged: its last save cannot be sealed") }
    }

    func create(
        _ path: MemoryPath, _ content: [UInt8], by author: Author, memory: Int64? = nil, previous: Int64? = nil
    ) throws(RemfsError) -> Inode {
        try requireWritable()
        try requireContractSize(content, at: path.text)
        let secrets = try secrets(in: content, over: nil, at: path.text)
        if let taken = find(path.text), taken.isRegular { try settleForAPI(taken) }
        // What was removed at this path a moment ago stays removed.
        try sealRemovals(all: true) { path.isSame(as: $0.path) }
        let vacancy = try vacancy(path, moving: nil)
        try checkRoomForMemory()
        if let quota = policy.maxBytes, usedBytes + Int64(content.count) > quota {
            throw RemfsError(.quota, "\(label) would exceed its \(quota) bytes")
        }
        try reserveNumbers(Int64(vacancy.implied.count) * 2 + 8)
        let time = now()
        let directories = newDirectories(vacancy, at: time)
        let inode = Inode(
            number: takeNumber(), mode: UInt32(S_IFREG) | 0o644, uid: geteuid(), gid: getegid(), rdev: 0, flags: [],
            parent: directories.last?.number ?? vacancy.directory.number, name: vacancy.name, cookie: next, accessed: time, modified: time,
            changed: time)
        inode.cookie = takeNumber()
        inode.size = Int64(content.count)
        inode.sealedSize = inode.size
        var outcome = SealOutcome(
            plan: SealPlan(inode: inode, steps: [], movedBy: nil), content: .empty, size: inode.size, digest: nil, head: nil,
            ownsContent: false)
        let chunks = newChunks(content, previous: [])
        let memory = memory ?? takeNumber()
        let number = takeNumber()
        let began = versionTime()
        let digest = Digest(of: content)
        let replaced = vacancy.replaced.map { emptyTree($0) } ?? []
        var version: VersionRow?
        try commit { () throws(SQLiteError) in
            for directory in replaced { try dropDirectory(directory, at: time) }
            for directory in directories { try insert(directory, memory: nil, author: nil) }
            outcome.content = try storeAll(chunks, for: inode, size: inode.size)
            outcome.digest = digest
            let row = VersionRow(
                number: number, memory: memory, operation: previous == nil ? .created : .modified, path: path.text, size: inode.size,
                digest: digest, content: outcome.content, began: began, author: author, base: nil, isStale: false, previous: previous,
                secrets: secrets)
            try insert(row)
            version = row
            inode.content = outcome.content
            inode.secrets = secrets
            inode.digest = digest
            inode.head = MemoryHead(
                memory: memory, version: number, created: began, updated: began, size: inode.size, digest: digest, content: outcome.content)
            try insert(inode, memory: memory, author: nil)
        }
        for directory in replaced { didDropDirectory(directory, at: time) }
        var parent = vacancy.directory
        for directory in directories {
            attach(directory, to: parent, at: time)
            parent = directory
        }
        attach(inode, to: parent, at: time)
        memoryFiles += 1
        usedBytes += inode.size
        memoryInodes[memory] = inode.number
        if let version { lastVersion = max(lastVersion, version.number) }
        return inode
    }

    /// What the API takes, whatever a mount may write.
    func requireContractSize(_ content: [UInt8], at path: String) throws(RemfsError) {
        guard content.count <= Self.contractBytes else {
            throw RemfsError(.tooLarge, "\(path) would have \(content.count) bytes: the API takes at most \(Self.contractBytes)")
        }
    }

    func newDirectories(_ vacancy: Vacancy, at time: Int64) -> [Inode] {
        var directories: [Inode] = []
        for name in vacancy.implied {
            let directory = Inode(
                number: takeNumber(), mode: UInt32(S_IFDIR) | 0o755, uid: geteuid(), gid: getegid(), rdev: 0, flags: .implicit,
                parent: directories.last?.number ?? vacancy.directory.number, name: name, cookie: next, accessed: time, modified: time,
                changed: time)
            directory.cookie = takeNumber()
            directories.append(directory)
        }
        return directories
    }

    /// The directories of a tree that gives way to a memory, the deepest first.
    func emptyTree(_ directory: Inode) -> [Inode] {
        TreeWalk(below: directory).map(\.inode).filter(\.isDirectory).reversed() + [directory]
    }

    func dropDirectory(_ directory: Inode, at time: Int64) throws(SQLiteError) {
        guard let parent = inodes[directory.parent] else { return }
        try dropName(directory.name, of: directory, in: parent, by: nil, keepsMemory: false, at: time)
    }

    func didDropDirectory(_ directory: Inode, at time: Int64) {
        guard let parent = inodes[directory.parent] else { return }
        didDropName(directory.name, of: directory, in: parent, by: nil, keepsMemory: false, origin: 0, at: time)
    }

    /// Content in pieces of a chunk each, with numbers of their own.
    private func newChunks(_ content: [UInt8], previous: [Int64]) -> [NewChunk] {
        let group = takeNumber()
        var chunks: [NewChunk] = []
        var place = 0
        while place < content.count {
            let end = min(place + Int(Content.chunkSize), content.count)
            let bytes = Array(content[place..<end])
            let before = chunks.count < previous.count && previous[chunks.count] != 0 ? previous[chunks.count] : nil
            chunks.append(
                NewChunk(
                    number: group << 20 | Int64(chunks.count), digest: Digest(of: bytes), size: bytes.count, bytes: bytes, previous: before,
                    delta: nil, sequence: 1))
            place = end
        }
        return chunks
    }

    private func storeAll(_ chunks: [NewChunk], for inode: Inode, size: Int64) throws(SQLiteError) -> Content {
        var list: [Int64] = []
        for var chunk in chunks {
            if let previous = chunk.previous { chunk.sequence = (try chunkRow(previous)?.sequence ?? 0) + 1 }
            let number = try store(chunk, for: inode.number)
            list.append(number)
            if number == chunk.number, !DeltaChain.steps(endingAt: chunk.sequence).isEmpty { deltaCandidates.append(number) }
        }
        return Content(list, size: size)
    }

    /// An API update: content, path or both, as one version; nil where nothing would change.
    func update(_ inode: Inode, content: [UInt8]?, path: MemoryPath?, by author: Author) throws(RemfsError) {
        try requireWritable()
        guard let head = inode.head else { throw RemfsError(.notFound, "the memory is gone") }
        let oldPath = self.path(of: inode)
        let newPath = path.flatMap { $0.isSame(as: oldPath) ? nil : $0 }
        // Of another path alone nothing changes.
        var secrets = inode.secrets
        if let content {
            try requireContractSize(content, at: oldPath)
            secrets = try self.secrets(in: content, over: inode, at: oldPath)
            if let quota = policy.maxBytes, usedBytes + Int64(content.count) - inode.size > max(quota, usedBytes) {
                throw RemfsError(.quota, "\(label) would exceed its \(quota) bytes")
            }
        }
        let vacancy = if let newPath { try self.vacancy(newPath, moving: inode) } else { nil as Vacancy? }
        if let newPath { try sealRemovals(all: true) { newPath.isSame(as: $0.path) } }
        try reserveNumbers(Int64(vacancy?.implied.count ?? 0) * 2 + 8)
        let time = now()
        let oldParent = inodes[inode.parent]!
        let oldName = inode.name
        let replaced = vacancy?.replaced.map { emptyTree($0) } ?? []
        let directories = vacancy.map { newDirectories($0, at: time) } ?? []
        let cookie = takeNumber()
        let chunks = content.map { newChunks($0, previous: head.content.chunks) }
        let number = takeNumber()
        let began = versionTime()
        let size = content.map { Int64($0.count) } ?? head.size
        let digest = content.map { Digest(of: $0) } ?? head.digest
        var newHead = head
        try commit { () throws(SQLiteError) in
            for directory in replaced { try dropDirectory(directory, at: time) }
            for directory in directories { try insert(directory, memory: nil, author: nil) }
            var stored = head.content
            if let chunks {
                stored = try storeAll(chunks, for: inode, size: size)
            } else {
                for chunk in stored.chunks where chunk != 0 {
                    statements.addReference.bind(chunk, at: 1)
                    try statements.addReference.run()
                }
            }
            let version = VersionRow(
                number: number, memory: head.memory, operation: .modified, path: newPath?.text ?? oldPath, size: size, digest: digest,
                content: stored, began: began, author: author, base: nil, isStale: false, previous: head.version, secrets: secrets,
                sameAs: content == nil ? head.version : nil)
            try insert(version)
            newHead = MemoryHead(
                memory: head.memory, version: number, created: head.created, updated: began, size: size, digest: digest, content: stored)
            if let vacancy {
                try move(
                    inode, to: directories.last?.number ?? vacancy.directory.number, named: vacancy.name, cookie: cookie, at: time,
                    head: newHead)
            }
            let outcome = SealOutcome(
                plan: SealPlan(inode: inode, steps: [], movedBy: nil), content: stored, size: size, digest: digest, head: newHead,
                ownsContent: false)
            try writeInode(inode, outcome, author: nil)
        }
        lastVersion = max(lastVersion, number)
        if content != nil {
            usedBytes += size - inode.size
            invalidate(.bytes(inode.number, offset: 0, length: 0))
            inode.modified = time
        }
        inode.content = newHead.content
        inode.secrets = secrets
        inode.size = size
        inode.sealedSize = size
        inode.digest = digest
        inode.head = newHead
        inode.ownsContent = false
        inode.changed = time
        inode.unsettledIn = 0
        guard let vacancy else { return }
        oldParent.directory!.remove(oldName)
        touch(oldParent, at: time)
        invalidate(.name(oldName, in: oldParent.number))
        for directory in replaced { didDropDirectory(directory, at: time) }
        var parent = vacancy.directory
        for directory in directories {
            attach(directory, to: parent, at: time)
            parent = directory
        }
        inode.parent = parent.number
        inode.name = vacancy.name
        inode.cookie = cookie
        parent.directory!.add(inode.name, cookie: cookie, inode)
        touch(parent, at: time)
        invalidate(.name(inode.name, in: parent.number))
        invalidate(.attributes(inode.number))
        removeImplicitDirectories(from: oldParent)
    }

    /// Deletes a memory for the API: its version says so at once.
    func delete(_ inode: Inode, by author: Author) throws(RemfsError) {
        // Archived stores still let memories go.
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        if policy.access == .readOnly, !isArchived { throw RemfsError(.readOnly, "\(label) is read-only") }
        removeImplicitDirectories(from: try giveUp(inode, by: author))
    }

    /// Takes a memory's name away, with a version that says so at once. Answers the directory that it was in.
    func giveUp(_ inode: Inode, by author: Author) throws(RemfsError) -> Inode {
        guard let head = inode.head, let parent = inodes[inode.parent] else { throw RemfsError(.notFound, "the memory is gone") }
        try reserveNumbers(4)
        let time = now()
        let name = inode.name
        let version = VersionRow(
            number: takeNumber(), memory: head.memory, operation: .deleted, path: path(of: inode), size: nil, digest: nil, content: .empty,
            began: versionTime(), author: author, base: nil, isStale: false, previous: head.version)
        try commit { () throws(SQLiteError) in
            try insert(version)
            try dropName(name, of: inode, in: parent, by: author, keepsMemory: false, at: time)
        }
        memoryInodes[head.memory] = nil
        inode.head = nil
        lastVersion = max(lastVersion, version.number)
        didDropName(name, of: inode, in: parent, by: author, keepsMemory: false, origin: 0, at: time)
        return parent
    }
}

extension Inode {
    /// One row of a listing, before it is shown.
    enum Listed {
        case memory(Inode)
        case prefix(String)
    }
}
