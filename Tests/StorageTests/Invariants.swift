import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// What must hold of a store at any moment between two changes.
enum Invariants {
    /// Checks them all, and records an issue for each that is broken.
    ///
    /// - Parameter hashes: also decodes every chunk and compares it with its hash.
    static func expect(
        _ store: MemoryStore, hashes: Bool = true, _ comment: @autoclosure () -> String = "",
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let broken: [String]
        do {
            broken = try violations(store, hashes: hashes) + doctorSays(store)
        } catch {
            Issue.record("cannot check: \(error) \(comment())", sourceLocation: sourceLocation)
            return
        }
        if !broken.isEmpty {
            Issue.record("\(broken.prefix(8).joined(separator: "\n")) \(comment())", sourceLocation: sourceLocation)
        }
    }

    /// `remfs doctor` finds nothing in a store that is sound, whatever goes on in it.
    private static func doctorSays(_ store: MemoryStore) throws -> [String] {
        try store.check().findings.map { "doctor: \($0.kind) \($0.message)" }
    }

    static func violations(_ store: MemoryStore, hashes: Bool = true) throws -> [String] {
        try store.state.withLock { state in
            let checker = Checker(state: state)
            try checker.checkFile()
            try checker.checkInodes()
            try checker.checkVersions()
            try checker.checkChunks(hashes: hashes)
            try checker.checkExtents()
            try checker.checkNumbers()
            checker.checkAccounts()
            return checker.broken
        }
    }

    private final class Checker {
        let state: StoreState
        var broken: [String] = []
        /// Uses of each chunk.
        var uses: [Int64: Int64] = [:]
        var heads: Set<Int64> = []

        init(state: StoreState) { self.state = state }

        func require(_ holds: Bool, _ why: @autoclosure () -> String) { if !holds { broken.append(why()) } }

        func checkFile() throws {
            require(!state.writer.isInTransaction, "a transaction is open")
            let row = try state.writer.prepare("PRAGMA integrity_check")
            while try row.step() { require(row.text(0) == "ok", "integrity_check: \(row.text(0) ?? "?")") }
        }

        func use(_ content: Content) {
            for chunk in content.chunks where chunk != 0 { uses[chunk, default: 0] += 1 }
        }

        func checkInodes() throws {
            let row = try state.writer.prepare(
                """
                SELECT number, parent, name, cookie, mode, uid, gid, rdev, flags, size, content, digest, memory, version, memory_created,
                    version_created, author FROM inode
                """)
            var seen: Set<InodeNumber> = []
            while try row.step() {
                let number = row.integer(0)
                seen.insert(number)
                guard let inode = state.inodes[number] else {
                    broken.append("inode \(number) is in the file only")
                    continue
                }
                let label = "inode \(number) \(state.path(of: inode)):"
                require((row.integerOrNil(1) ?? 0) == inode.parent, "\(label) parent \(row.integerOrNil(1) ?? 0) is \(inode.parent)")
                require(row.bytes(2) == inode.name, "\(label) name \(text(row.bytes(2))) is \(text(inode.name))")
                require(inode.parent == 0 || row.integer(3) == inode.cookie, "\(label) cookie")
                require(row.integer(4) == Int64(inode.mode), "\(label) mode")
                require(row.integer(5) == Int64(inode.uid) && row.integer(6) == Int64(inode.gid), "\(label) owner")
                require(
                    Inode.Flags(rawValue: row.integer(8)) == inode.storedFlags, "\(label) flags \(row.integer(8)) is \(inode.storedFlags)")
                guard inode.isRegular else { continue }
                require(row.integer(9) == inode.sealedSize, "\(label) size \(row.integer(9)) is \(inode.sealedSize)")
                require(Content(row, column: 10, size: row.integer(9)) == inode.content, "\(label) content")
                if inode.sealedSize > 0, inode.sealedSize <= StoreState.hashedAtSeal {
                    require(row.withBytes(11) { Digest(bytes: $0) } == inode.digest, "\(label) digest")
                }
                if inode.links > 0 {
                    require(row.integerOrNil(12) == inode.head?.memory, "\(label) memory \(row.integerOrNil(12) ?? 0)")
                    require(row.integerOrNil(13) == inode.head?.version, "\(label) version \(row.integerOrNil(13) ?? 0)")
                    if let head = inode.head {
                        require(
                            row.integerOrNil(14) == head.created && row.integerOrNil(15) == head.updated, "\(label) times of its memory")
                        require(state.memoryInodes[head.memory] == number, "\(label) not found by its memory")
                        require(inode.isMemory, "\(label) has a head but is no memory")
                        if inode.changedBy == nil, inode.drafts == nil {
                            require(head.content == inode.content && head.size == inode.size, "\(label) settled, but not as its head says")
                        }
                    }
                    let author = row.text(16)
                    if inode.isMemory, inode.changedBy != nil {
                        require(author == inode.changedBy?.row, "\(label) author \(author ?? "none")")
                    }
                    if inode.isMemory, inode.changedBy == nil, inode.drafts == nil { require(author == nil, "\(label) author of nothing") }
                }
                if inode.ownsContent { use(inode.content) }
                heads.formUnion(inode.content.chunks)
            }
            require(seen == Set(state.inodes.keys), "inodes in memory only: \(Set(state.inodes.keys).subtracting(seen))")
            try checkNames()
        }

        func checkNames() throws {
            var found: [InodeNumber: [Inode.Name]] = [:]
            let row = try state.writer.prepare("SELECT cookie, parent, name, inode FROM dentry ORDER BY cookie")
            while try row.step() {
                found[row.integer(3), default: []].append(Inode.Name(parent: row.integer(1), name: row.bytes(2), cookie: row.integer(0)))
            }
            for (number, inode) in state.inodes {
                let label = "inode \(number) \(state.path(of: inode)):"
                require(inode.otherNames.sorted { $0.cookie < $1.cookie } == found[number] ?? [], "\(label) other names")
                let names =
                    inode.links == 0 ? [] : [Inode.Name(parent: inode.parent, name: inode.name, cookie: inode.cookie)] + inode.otherNames
                if number != 1 {
                    for name in names {
                        let entry = state.inodes[name.parent]?.directory?.find(name.name)
                        require(entry === inode, "\(label) not at \(text(name.name)) in \(name.parent)")
                    }
                }
                if let directory = inode.directory {
                    let subdirectories = directory.entries.count { $0.inode?.isDirectory ?? false }
                    if inode.links > 0 { require(inode.links == UInt32(2 + subdirectories), "\(label) \(inode.links) links") }
                    var cookie: Int64 = 0
                    var seen: Set<[UInt8]> = []
                    for entry in directory.entries {
                        require(entry.cookie > cookie, "\(label) cookies fall")
                        cookie = entry.cookie
                        guard let child = entry.inode else { continue }
                        require(seen.insert(entry.name).inserted, "\(label) two entries \(text(entry.name))")
                        require(state.inodes[child.number] === child, "\(label) entry \(text(entry.name)) of no inode")
                        let isNamed =
                            child.isOldestName(entry.name, in: number)
                            || child.otherNames.contains { $0.parent == number && $0.name == entry.name && $0.cookie == entry.cookie }
                        require(isNamed, "\(label) entry \(text(entry.name)) unknown to its inode")
                    }
                    require(directory.count == seen.count, "\(label) counts \(directory.count) entries")
                } else if inode.links > 0 {
                    require(inode.links == UInt32(names.count), "\(label) \(inode.links) links for \(names.count) names")
                }
            }
        }

        func checkVersions() throws {
            struct Row {
                var number: Int64
                var operation: Int64
                var began: Int64
                var ended: Int64?
                /// Retention gave up those right before it.
                var isPruned: Bool
            }
            var memories: [Int64: [Row]] = [:]
            var last: Int64 = 0
            let row = try state.writer.prepare(
                "SELECT number, memory, operation, began, ended, content, size, digest, redacted, pruned FROM version ORDER BY number")
            while try row.step() {
                let version = Row(
                    number: row.integer(0), operation: row.integer(2), began: row.integer(3), ended: row.integerOrNil(4),
                    isPruned: row.integer(9) > 0)
                require(version.began > last, "version \(version.number) is not later than the one before")
                last = version.began
                memories[row.integer(1), default: []].append(version)
                if version.operation != 2, row.isNull(8) {
                    let size = row.integer(6)
                    use(Content(row, column: 5, size: size))
                    require(size > StoreState.hashedAtSeal || !row.isNull(7), "version \(version.number) has no hash")
                }
            }
            require(
                state.lastVersion >= (memories.values.compactMap { $0.last?.number }.max() ?? 0), "the newest version is not the newest")
            // Removals of a predecessor are in the file alone until upkeep takes them up.
            try state.recoverLeftRemovals()
            for (memory, versions) in memories {
                require(versions[0].operation == 0 || versions[0].isPruned, "memory \(memory) begins with \(versions[0].operation)")
                for (one, next) in zip(versions, versions.dropFirst()) {
                    let follows = next.isPruned ? one.ended.map { $0 <= next.began } ?? false : one.ended == next.began
                    require(follows, "memory \(memory): version \(one.number) does not end where \(next.number) begins")
                    require(next.operation != 0, "memory \(memory) is created twice")
                    require(one.operation != 2 || next.operation == 1 || next.isPruned, "memory \(memory) is deleted twice")
                }
                require(versions.last!.ended == nil, "memory \(memory): its last version has ended")
                let isLive = state.memoryInodes[memory].flatMap { state.inodes[$0]?.head?.memory } == memory
                let isAwaited = state.removals[memory] != nil
                if !isLive, !isAwaited { require(versions.last!.operation == 2, "memory \(memory) is gone without a deleted version") }
                if isLive {
                    let head = state.inodes[state.memoryInodes[memory]!]!.head!
                    require(head.version == versions.last!.number, "memory \(memory): its head is not its last version")
                }
            }
            var awaited: Set<Int64> = []
            let removals = try state.writer.prepare(
                "SELECT memory FROM removal UNION ALL SELECT memory FROM inode WHERE parent IS NULL AND memory IS NOT NULL")
            while try removals.step() {
                require(awaited.insert(removals.integer(0)).inserted, "memory \(removals.integer(0)) is removed twice")
            }
            require(awaited == Set(state.removals.keys), "removals \(state.removals.keys.sorted()), in the file \(awaited.sorted())")
        }

        func checkChunks(hashes: Bool) throws {
            var bases: [Int64: Int64] = [:]
            var found: Set<Int64> = []
            let row = try state.writer.prepare("SELECT number, refs, base, encoding FROM chunk")
            while try row.step() {
                let number = row.integer(0)
                found.insert(number)
                require(
                    row.integer(1) == uses[number] ?? 0,
                    "chunk \(number) (group \(number >> 20)) counts \(row.integer(1)) uses of \(uses[number] ?? 0)")
                if let base = row.integerOrNil(2) { bases[number] = base }
                if heads.contains(number) { require(row.integer(3) == 0, "chunk \(number) of a head is a delta") }
            }
            for number in uses.keys where !found.contains(number) { broken.append("chunk \(number) is used but not there") }
            for number in bases.keys {
                var depth = 0
                var place = number
                while let base = bases[place], depth <= 33 {
                    depth += 1
                    require(found.contains(base), "chunk \(place) is a delta of \(base), which is not there")
                    place = base
                }
                require(depth <= 32, "chunk \(number) is over 32 deltas deep")
            }
            guard hashes, broken.isEmpty else { return }
            for number in found {
                do {
                    _ = try state.bytes(of: number)
                } catch {
                    broken.append("\(error)")
                }
            }
        }

        func checkExtents() throws {
            var drafts: Set<Int64> = []
            for inode in state.inodes.values {
                for save in inode.drafts?.saves ?? [] { drafts.formUnion(save.extents.map(\.id)) }
            }
            let row = try state.writer.prepare(
                "SELECT extent.number, chunk.number IS NOT NULL FROM extent LEFT JOIN chunk ON chunk.number = extent.number")
            while try row.step() {
                let number = row.integer(0)
                if row.integer(1) == 1 {
                    require(!drafts.contains(number), "extent \(number) is a chunk and a draft")
                } else {
                    require(drafts.remove(number) != nil, "extent \(number) is left over")
                }
            }
            require(drafts.isEmpty, "drafts without a row: \(drafts)")
            let missing = try state.writer.integer("SELECT count(*) FROM chunk WHERE number NOT IN (SELECT number FROM extent)") ?? 0
            require(missing == 0, "\(missing) chunks have no extent")
        }

        func checkNumbers() throws {
            let next = try state.writer.integer("SELECT value FROM property WHERE name = 'next'") ?? 0
            let highest =
                try state.writer.integer(
                    """
                    SELECT max(n) FROM (SELECT max(number) AS n FROM inode UNION ALL SELECT max(cookie) FROM inode
                        UNION ALL SELECT max(cookie) FROM dentry UNION ALL SELECT max(number) FROM version
                        UNION ALL SELECT max(memory) FROM version UNION ALL SELECT max(number) >> 20 FROM extent)
                    """) ?? 0
            require(highest < next, "number \(highest) is used, \(next) is promised to be free")
            require(highest < state.next, "number \(highest) is used, \(state.next) comes next")
            let open = try state.writer.integer("SELECT value FROM property WHERE name = 'open_from'") ?? 0
            for inode in state.inodes.values {
                for save in inode.drafts?.saves ?? [] { require(save.group >= open, "save \(save.group) is older than open_from \(open)") }
            }
        }

        func checkAccounts() {
            let files = state.inodes.values.filter { $0.isRegular && $0.links > 0 }
            require(
                state.usedBytes == files.reduce(0) { $0 + $1.size }, "used bytes \(state.usedBytes) of \(files.reduce(0) { $0 + $1.size })")
            let memories = files.count { $0.isMemory }
            require(state.memoryFiles == memories, "counts \(state.memoryFiles) memories of \(memories)")
            require(state.orphans == Set(state.inodes.values.filter { $0.links == 0 }.map(\.number)), "orphans \(state.orphans)")
            for number in state.memoryInodes.keys {
                require(state.memoryInodes[number].flatMap { state.inodes[$0]?.head?.memory } == number, "memory \(number) leads elsewhere")
            }
        }
    }
}
