import Fuse
import Glibc
import Storage

extension MemoryFilesystem {
    func attributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        if virtual.isVirtual(node) { return try answer { () throws(RemfsError) in try virtual.attributes(of: node) } }
        return try answer { () throws(RemfsError) in FuseEntry(shown(try store.attributes(of: number(node)))) }
    }

    func setAttributes(_ change: FuseAttributeChange, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        if virtual.isVirtual(node) { throw FuseErrno(EROFS) }
        if mountOptions.uid != nil || mountOptions.gid != nil, change.uid != nil || change.gid != nil { throw FuseErrno(EPERM) }
        var stored = AttributeChange()
        stored.mode = change.mode
        stored.uid = change.uid
        stored.gid = change.gid
        stored.sizeInBytes = change.sizeInBytes
        stored.accessed = change.accessed.map { if case .at(let time) = $0 { .at(time) } else { .now } }
        stored.modified = change.modified.map { if case .at(let time) = $0 { .at(time) } else { .now } }
        // Only a truncation to nothing replaces what its author may not have seen.
        let seen: Seen = change.sizeInBytes == 0 ? .version(nil) : .irrelevant
        return try self.change(context, touching: [.bytes(number(node), offset: 0, length: 0)]) { _ throws(RemfsError) in
            FuseEntry(shown(try store.attributes(of: number(node))))
        } _: { (caller) throws(RemfsError) in
            FuseEntry(shown(try store.setAttributes(stored, of: number(node), seen: seen, by: caller)))
        }
    }

    /// The store's truth: its quota where it has one, else the disk that its file is on.
    func statistics(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseStatistics {
        try answer { () throws(RemfsError) in
            FuseWorkers.willBlock()
            let space = store.space()
            let disk = try store.freeDisk()
            let block: UInt64 = 4096
            let used = UInt64(max(0, space.usedBytes)) / block
            var free = disk.free * disk.blockSize / block
            if let most = space.maximumBytes { free = min(free, UInt64(max(0, most - space.usedBytes)) / block) }
            let files = UInt64(space.files)
            let room = UInt64(max(0, space.maximumFiles - space.files))
            return FuseStatistics(
                blockSize: UInt32(block), blocks: used + free, freeBlocks: free, files: files + room, freeFiles: room,
                maximumNameLength: 255)
        }
    }

    // MARK: Extended attributes, where they are answered (`xattr: true`)

    /// `user.*` is the callers'; `user.remfs.*` tells of the memory and cannot be set; the rest is no business of a store.
    private func checkName(_ name: FuseName) throws(FuseErrno) -> String {
        guard let text = unsafe String(validating: name.bytes, as: UTF8.self) else { throw FuseErrno(EILSEQ) }
        guard text.hasPrefix("user.") else { throw FuseErrno(EOPNOTSUPP) }
        return text
    }

    private static let told = ["user.remfs.version", "user.remfs.memory_id", "user.remfs.sha256", "user.remfs.actor"]

    func setExtendedAttribute(
        _ name: FuseName, of node: NodeID, to value: UnsafeRawBufferPointer, flags: Int32, _ context: FuseContext
    ) throws(FuseErrno) {
        let text = try unsafe checkName(name)
        try requireStored(node)
        guard !text.hasPrefix("user.remfs.") else { throw FuseErrno(EPERM) }
        let rule: MemoryStore.AttributeRule
        switch flags {
        case 0: rule = .set
        case 1: rule = .create
        case 2: rule = .replace
        default: throw FuseErrno(EINVAL)
        }
        do throws(FuseErrno) {
            try changing(context, touching: [.attributes(number(node))]) { (caller) throws(RemfsError) in
                try store.setExtendedAttribute(text, of: number(node), to: unsafe Array(value), rule, by: caller)
            }
        } catch {
            throw error.code == ENOENT ? FuseErrno(ENODATA) : error
        }
    }

    func extendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        let text = try unsafe checkName(name)
        if virtual.isVirtual(node) { throw FuseErrno(ENODATA) }
        if Self.told.contains(text) {
            guard let value = try answer({ () throws(RemfsError) in try store.toldAttributes(of: number(node))[text] }) else {
                throw FuseErrno(ENODATA)
            }
            return Array(value.utf8)
        }
        guard let value = try answer({ () throws(RemfsError) in try store.extendedAttribute(text, of: number(node)) }) else {
            throw FuseErrno(ENODATA)
        }
        return value
    }

    func extendedAttributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        if virtual.isVirtual(node) { return [] }
        let names = try answer { () throws(RemfsError) in
            // Those that only tell are not listed: `cp -a` and `rsync -X` would copy them, and fail at setting them.
            try store.extendedAttributes(of: number(node))
        }
        return names.flatMap { Array($0.utf8) + [0] }
    }

    func removeExtendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno) {
        let text = try unsafe checkName(name)
        try requireStored(node)
        guard !text.hasPrefix("user.remfs.") else { throw FuseErrno(EPERM) }
        do throws(FuseErrno) {
            try changing(context, touching: [.attributes(number(node))]) { (caller) throws(RemfsError) in
                try store.removeExtendedAttribute(text, of: number(node), by: caller)
            }
        } catch {
            throw error.code == ENOENT ? FuseErrno(ENODATA) : error
        }
    }
}
