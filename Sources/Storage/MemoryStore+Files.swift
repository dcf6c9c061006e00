import Glibc
import SQLite
import Threads

/// The store as a file system asks for it: one method for each thing the kernel may want.
///
/// All of them block at most for SQLite and the store's lock. Inode numbers that are not known (any more) answer `stale`.
extension MemoryStore {
    package func attributes(of number: InodeNumber) throws(RemfsError) -> InodeAttributes {
        try look { (state) throws(RemfsError) in try state.inode(number).attributes }
    }

    /// nil: no such name. A lookup from another mount settles a file that was born a moment ago.
    package func lookup(
        _ name: UnsafeRawBufferPointer, in parent: InodeNumber, by origin: Origin
    ) throws(RemfsError) -> InodeAttributes? {
        try look { (state) throws(RemfsError) in
            guard let inode = unsafe try state.directory(parent).directory!.find(name) else { return nil }
            if inode.unsettledIn != origin.number { inode.unsettledIn = 0 }
            return inode.attributes
        }
    }

    package func readLink(_ number: InodeNumber) throws(RemfsError) -> [UInt8] {
        try look { (state) throws(RemfsError) in
            guard let target = try state.inode(number).target else {
                throw RemfsError(.invalidArgument, "inode \(number) is no symbolic link")
            }
            return target
        }
    }

    package func create(
        _ new: NewInode, named name: [UInt8], in parent: InodeNumber, by caller: Caller
    ) throws(RemfsError) -> InodeAttributes {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.create(new, named: name, in: parent, by: caller).attributes
        }
    }

    package func link(
        _ number: InodeNumber, as name: [UInt8], in parent: InodeNumber, by caller: Caller
    ) throws(RemfsError) -> InodeAttributes {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.link(number, as: name, in: parent, by: caller).attributes
        }
    }

    package func unlink(_ name: [UInt8], in parent: InodeNumber, by caller: Caller) throws(RemfsError) {
        try sealLarge(name, in: parent, by: caller)
        try change(by: caller.origin.number) { (state) throws(RemfsError) in try state.unlink(name, in: parent, by: caller) }
    }

    /// What a file is sealed for before its name goes, where that takes long: without the lock.
    ///
    /// Answers whether it is to be looked through for secrets before it takes another's place, and that takes long as well.
    @discardableResult
    private func sealLarge(_ name: [UInt8], in parent: InodeNumber, by caller: Caller) throws(RemfsError) -> Bool {
        let (number, isJudged) = try look { (state) throws(RemfsError) -> (InodeNumber?, Bool) in
            guard let inode = state.inodes[parent]?.directory?.find(name) else { return (nil, false) }
            let isJudged = state.policy.secrets == .refuse && inode.isRegular && inode.storedBytes > StoreState.bytesPerSeal
            guard inode.isMemory, let save = inode.drafts?.saves.first,
                save.size > StoreState.bytesPerSeal || inode.size > StoreState.bytesPerSeal
                    || save.extents.count > StoreState.extentsPerSeal
            else { return (nil, isJudged) }
            // Not for somebody who may not take it away.
            try state.requireWritable(by: caller)
            try state.takeInCloses(of: caller.origin)
            return (inode.number, isJudged)
        }
        if let number { try sealLarge(of: number) }
        return isJudged
    }

    package func removeDirectory(_ name: [UInt8], in parent: InodeNumber, by caller: Caller) throws(RemfsError) {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in try state.removeDirectory(name, in: parent, by: caller) }
    }

    package func rename(
        _ name: [UInt8], in parent: InodeNumber, to newName: [UInt8], in newParent: InodeNumber, _ rule: RenameRule,
        seen: (InodeNumber) -> Seen,
        by caller: Caller
    ) throws(RemfsError) {
        try sealLarge(newName, in: newParent, by: caller)
        let isJudged = try sealLarge(name, in: parent, by: caller)
        let scanned = isJudged ? try scanLarge(name, in: parent) : nil
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.rename(name, in: parent, to: newName, in: newParent, rule, seen: seen, scanned, by: caller)
        }
    }

    /// Looks for secrets in a large file that may take a memory's place, without the lock.
    private func scanLarge(_ name: [UInt8], in parent: InodeNumber) throws(RemfsError) -> ScannedFile? {
        let file = try look { (state) throws(RemfsError) -> (number: InodeNumber, changed: Int64, size: Int64)? in
            guard let inode = state.inodes[parent]?.directory?.find(name), inode.isRegular else { return nil }
            return (inode.number, inode.changed, inode.size)
        }
        guard let file else { return nil }
        environment.willBlock()
        var scan = SecretScan()
        for offset in stride(from: 0, to: file.size, by: 1 << 20) {
            unsafe try read(file.number, offset: offset, count: 1 << 20) { bytes, _ in unsafe scan.take(bytes) }
        }
        return ScannedFile(number: file.number, changed: file.changed, size: file.size, found: scan.finish())
    }

    package func setAttributes(
        _ change: AttributeChange, of number: InodeNumber, seen: Seen, by caller: Caller
    ) throws(RemfsError) -> InodeAttributes {
        try self.change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.setAttributes(change, of: number, seen: seen, by: caller).attributes
        }
    }

    /// Answers where the bytes went: with `append` at the end, whatever `offset` says.
    package func write(
        _ bytes: UnsafeRawBufferPointer, to number: InodeNumber, at offset: Int64, append: Bool, seen: Seen, by caller: Caller
    ) throws(RemfsError) -> Int64 {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            unsafe try state.write(bytes, to: number, at: offset, append: append, seen: seen, by: caller)
        }
    }

    package func allocate(
        _ number: InodeNumber, offset: Int64, length: Int64, keepsSize: Bool, makesHole: Bool, by caller: Caller
    ) throws(RemfsError) {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.allocate(number, offset: offset, length: length, keepsSize: keepsSize, makesHole: makesHole, by: caller)
        }
    }

    /// A directory's entries after a cookie, in order, until `take` says that it is full. `.` and `..` are not among them.
    package func list(
        _ number: InodeNumber, after cookie: Int64, by origin: Origin, _ take: (_ name: [UInt8], _ cookie: Int64, InodeAttributes) -> Bool
    ) throws(RemfsError) {
        try look { (state) throws(RemfsError) in
            let directory = try state.directory(number).directory!
            for place in directory.place(after: cookie)..<directory.entries.count {
                let entry = directory.entries[place]
                guard let inode = entry.inode else { continue }
                if inode.unsettledIn != origin.number { inode.unsettledIn = 0 }
                guard take(entry.name, entry.cookie, inode.attributes) else { return }
            }
        }
    }

    /// The parent of a directory, for `..`; the root's is itself.
    package func parent(of number: InodeNumber) throws(RemfsError) -> InodeNumber {
        try look { (state) throws(RemfsError) in max(1, try state.directory(number).parent) }
    }

    // MARK: Bytes

    private enum Snapshot {
        case bytes([UInt8])
        case head(Int64, Digest)
        case sealed(Content, Int64)
    }

    /// Up to `count` bytes from `offset`, in memory that is valid inside `body` only. `body` also learns the head's version number.
    ///
    /// - Parameter origin: the mount that has seen them then.
    package func read<Answer>(
        _ number: InodeNumber, offset: Int64, count: Int, by origin: Origin? = nil, _ body: (UnsafeRawBufferPointer, Int64?) -> Answer
    ) throws(RemfsError) -> Answer {
        // A seal may move what a snapshot names before it is read: then the next snapshot names where it is.
        for _ in 0..<8 {
            let (snapshot, version) = try look { (state) throws(RemfsError) -> (Snapshot, Int64?) in
                let inode = try state.inode(number)
                guard inode.isRegular else { throw RemfsError(.isADirectory, "inode \(number) is no regular file") }
                let version = inode.head?.version
                if let origin, offset < inode.size { state.noteSeen(inode, in: origin.number) }
                guard inode.drafts == nil else {
                    return (.bytes(try state.query { () throws(SQLiteError) in try state.draftedBytes(inode, offset, count) }), version)
                }
                if case .whole(let chunk) = inode.content, let digest = inode.digest { return (.head(chunk, digest), version) }
                return (.sealed(inode.content, inode.size), version)
            }
            switch snapshot {
            case .bytes(let bytes): return unsafe bytes.withUnsafeBytes { unsafe body($0, version) }
            case .head(let chunk, let digest):
                let answer = try readers.read { (reader) throws(SQLiteError) in
                    unsafe try reader.withHead(chunk, digest: digest) { bytes in
                        let start = min(Int(offset), bytes.count)
                        return unsafe body(UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + count, bytes.count)]), version)
                    }
                }
                if let answer { return answer }
            case .sealed(let content, let size):
                let bytes = try readers.snapshot { (reader) throws(SQLiteError) in try reader.range(of: content, size: size, offset, count)
                }
                if let bytes { return unsafe bytes.withUnsafeBytes { unsafe body($0, version) } }
            }
        }
        throw RemfsError(.corrupted, "inode \(number) of \(id) names bytes that are not there: run remfs doctor")
    }

    /// SEEK_DATA or SEEK_HOLE, by blocks of 64 KiB for sealed bytes; nil: nothing of the kind (ENXIO).
    package func seek(_ number: InodeNumber, from offset: Int64, toHole: Bool) throws(RemfsError) -> Int64? {
        try look { (state) throws(RemfsError) in
            let inode = try state.inode(number)
            guard offset >= 0, offset < inode.size else { return nil }
            return state.seek(inode, from: offset, toHole: toHole)
        }
    }

    // MARK: Space

    package struct Space: Sendable {
        package var usedBytes: Int64
        package var maximumBytes: Int64?
        package var files: Int64
        package var maximumFiles: Int64
    }

    package func space() -> Space {
        state.withLock { state in
            Space(
                usedBytes: state.usedBytes, maximumBytes: state.policy.maxBytes, files: Int64(state.inodes.count),
                maximumFiles: state.policy.maxMemories)
        }
    }

    /// The state directory's file system has this much room.
    package func freeDisk() throws(RemfsError) -> (blockSize: UInt64, free: UInt64, total: UInt64) {
        var answer = statvfs()
        guard unsafe statvfs(path, &answer) == 0 else {
            throw RemfsError(.unavailable, "cannot ask for free space", cause: "errno \(errno)")
        }
        return (UInt64(answer.f_frsize), UInt64(answer.f_bavail), UInt64(answer.f_blocks))
    }

    // MARK: Extended attributes

    package enum AttributeRule: Sendable { case set, create, replace }

    package func setExtendedAttribute(
        _ name: String, of number: InodeNumber, to value: [UInt8], _ rule: AttributeRule, by caller: Caller
    ) throws(RemfsError) {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.requireWritable(by: caller)
            let inode = try state.inode(number)
            let exists = try state.extendedAttribute(name, of: inode) != nil
            if rule == .create, exists { throw RemfsError(.pathConflict, "attribute \(name) exists") }
            if rule == .replace, !exists { throw RemfsError(.notFound, "attribute \(name) does not exist") }
            let time = state.now()
            try state.commit(answering: caller) { () throws(SQLiteError) in
                let row = try state.writer.prepare(
                    "INSERT INTO xattr (inode, name, value) VALUES (?1, ?2, ?3) ON CONFLICT (inode, name) DO UPDATE SET value = ?3")
                row.bind(number, at: 1)
                row.bind(name, at: 2)
                row.bind(value, at: 3)
                try row.run()
                try state.updateAttributes(of: inode, changed: time)
            }
            state.hasExtendedAttributes = true
            inode.changed = time
            state.invalidate(.attributes(number))
        }
    }

    /// nil: no such attribute.
    package func extendedAttribute(_ name: String, of number: InodeNumber) throws(RemfsError) -> [UInt8]? {
        try look { (state) throws(RemfsError) in try state.extendedAttribute(name, of: try state.inode(number)) }
    }

    package func extendedAttributes(of number: InodeNumber) throws(RemfsError) -> [String] {
        try look { (state) throws(RemfsError) in
            _ = try state.inode(number)
            return try state.query { () throws(SQLiteError) in
                var names: [String] = []
                let row = try state.writer.prepare("SELECT name FROM xattr WHERE inode = ?1 ORDER BY name")
                row.bind(number, at: 1)
                while try row.step() { names.append(row.text(0) ?? "") }
                return names
            }
        }
    }

    /// What `user.remfs.*` says of a memory's head; empty for what is no memory or has no version yet.
    package func toldAttributes(of number: InodeNumber) throws(RemfsError) -> [String: String] {
        try settleForReading()
        let head = try look { (state) throws(RemfsError) -> (memory: Int64, version: Int64, digest: Digest?)? in
            try state.inode(number).head.map { ($0.memory, $0.version, $0.digest) }
        }
        guard let head else { return [:] }
        let version = try self.version(VersionID(store: id, number: head.version))
        return [
            "user.remfs.version": version.id.description, "user.remfs.memory_id": MemoryID(store: id, number: head.memory).description,
            "user.remfs.sha256": version.contentSHA256 ?? "", "user.remfs.actor": version.author.actor.id,
        ]
    }

    package func removeExtendedAttribute(_ name: String, of number: InodeNumber, by caller: Caller) throws(RemfsError) {
        try change(by: caller.origin.number) { (state) throws(RemfsError) in
            try state.requireWritable(by: caller)
            let inode = try state.inode(number)
            guard try state.extendedAttribute(name, of: inode) != nil else {
                throw RemfsError(.notFound, "attribute \(name) does not exist")
            }
            let time = state.now()
            try state.commit(answering: caller) { () throws(SQLiteError) in
                let row = try state.writer.prepare("DELETE FROM xattr WHERE inode = ?1 AND name = ?2")
                row.bind(number, at: 1)
                row.bind(name, at: 2)
                try row.run()
                try state.updateAttributes(of: inode, changed: time)
            }
            inode.changed = time
            state.invalidate(.attributes(number))
        }
    }
}

extension StoreState {
    fileprivate func extendedAttribute(_ name: String, of inode: Inode) throws(RemfsError) -> [UInt8]? {
        try query { () throws(SQLiteError) in
            let row = try writer.prepare("SELECT value FROM xattr WHERE inode = ?1 AND name = ?2")
            row.bind(inode.number, at: 1)
            row.bind(name, at: 2)
            return try row.step() ? row.bytes(0) : nil
        }
    }

    /// What a reader sees of a file with unsealed saves: drafts over sealed bytes over zeros.
    func draftedBytes(_ inode: Inode, _ offset: Int64, _ count: Int) throws(SQLiteError) -> [UInt8] {
        guard offset < inode.size else { return [] }
        let end = min(offset + Int64(count), inode.size)
        var bytes = [UInt8](repeating: 0, count: Int(end - offset))
        let sealedEnd = min(end, inode.drafts?.sealedLimit ?? inode.sealedSize)
        if offset < sealedEnd {
            var place = offset
            while place < sealedEnd {
                let block = place / Content.chunkSize
                let next = min(sealedEnd, (block + 1) * Content.chunkSize)
                let chunk = inode.content.chunks[Int(block)]
                if chunk != 0 {
                    let sealed = try self.bytes(of: chunk)
                    let from = Int(place - block * Content.chunkSize)
                    let to = min(Int(next - block * Content.chunkSize), sealed.count)
                    if from < to { bytes.overwrite(at: Int(place - offset), with: sealed[from..<to]) }
                }
                place = next
            }
        }
        if let drafts = inode.drafts { try lay(drafts.map.segments(from: offset, to: end), over: &bytes, from: offset) }
        return bytes
    }

    fileprivate func seek(_ inode: Inode, from offset: Int64, toHole: Bool) -> Int64? {
        var place = offset
        while place < inode.size {
            let block = place / Content.chunkSize
            var end = min(inode.size, (block + 1) * Content.chunkSize)
            var isData = Int(block) < inode.content.chunks.count && inode.content.chunks[Int(block)] != 0
            if let drafts = inode.drafts {
                if place >= drafts.sealedLimit { isData = false } else { end = min(end, max(drafts.sealedLimit, place + 1)) }
                if let segment = drafts.map.segment(endingAfter: place) {
                    if segment.offset <= place {
                        isData = segment.extent.kind == .bytes
                        end = min(inode.size, segment.end)
                    } else {
                        end = min(end, segment.offset)
                    }
                }
            }
            if isData != toHole { return place }
            place = end
        }
        return toHole ? inode.size : nil
    }
}

extension Reader {
    /// Part of a content; nil where a chunk has gone since.
    func range(of content: Content, size: Int64, _ offset: Int64, _ count: Int) throws(SQLiteError) -> [UInt8]? {
        guard offset < size else { return [] }
        let end = min(offset + Int64(count), size)
        var bytes = [UInt8](repeating: 0, count: Int(end - offset))
        var place = offset
        let chunks = content.chunks
        while place < end {
            let block = place / Content.chunkSize
            let next = min(end, (block + 1) * Content.chunkSize)
            let chunk = Int(block) < chunks.count ? chunks[Int(block)] : 0
            if chunk != 0 {
                guard try exists(chunk) else { return nil }
                let sealed = try self.bytes(of: chunk)
                let from = Int(place - block * Content.chunkSize)
                let to = min(Int(next - block * Content.chunkSize), sealed.count)
                if from < to { bytes.overwrite(at: Int(place - offset), with: sealed[from..<to]) }
            }
            place = next
        }
        return bytes
    }
}
