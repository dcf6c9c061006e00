import Fuse
import Glibc
import Storage

extension MemoryFilesystem {
    func lookup(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try answer { () throws(RemfsError) in
            if let entry = try unsafe virtual.lookup(name, in: parent) { return entry }
            guard let inode = try unsafe store.lookup(name.bytes, in: number(parent), by: origin) else {
                // Over 255 bytes only what the API made can be found.
                if unsafe name.bytes.count > 255 { throw RemfsError(.nameTooLong, "a name is too long") }
                return .missing
            }
            return entry(inode)
        }
    }

    private func named(_ name: FuseName, in parent: NodeID) -> [Invalidation] { unsafe [.name(bytes(name), in: number(parent))] }

    /// Nothing changes below `.remfs`.
    func requireStored(_ nodes: NodeID...) throws(FuseErrno) { if nodes.contains(where: virtual.isVirtual) { throw FuseErrno(EROFS) } }

    /// Nor does it go.
    private func requireStored(_ name: FuseName, in parent: NodeID) throws(FuseErrno) {
        if unsafe virtual.isDirectory(name, in: parent) { throw FuseErrno(EROFS) }
    }

    func forget(_ node: NodeID, count: UInt64) { inodes.forget(node, count) }

    func makeNode(
        _ name: FuseName, in parent: NodeID, mode: UInt32, rdev: UInt64, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry {
        try requireStored(parent)
        return unsafe try making(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
            try store.create(NewInode(mode: mode, rdev: rdev), named: unsafe bytes(name), in: number(parent), by: caller)
        }
    }

    func makeDirectory(_ name: FuseName, in parent: NodeID, mode: UInt32, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try requireStored(parent)
        return unsafe try making(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
            try store.create(
                NewInode(mode: UInt32(S_IFDIR) | (mode & 0o7777)), named: unsafe bytes(name), in: number(parent), by: caller)
        }
    }

    func symbolicLink(_ name: FuseName, in parent: NodeID, target: FuseName, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try requireStored(parent)
        return unsafe try making(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
            try store.create(
                NewInode(mode: UInt32(S_IFLNK) | 0o777, target: unsafe bytes(target)), named: unsafe bytes(name), in: number(parent),
                by: caller)
        }
    }

    func create(_ name: FuseName, in parent: NodeID, mode: UInt32, flags: Int32, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try requireStored(parent)
        // Opened for reading only, no close event will come for it.
        let isOpen = flags & O_ACCMODE != O_RDONLY
        let entry: FuseEntry
        do {
            entry = unsafe try making(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
                try store.create(
                    NewInode(mode: UInt32(S_IFREG) | (mode & 0o7777), isOpen: isOpen), named: unsafe bytes(name), in: number(parent),
                    by: caller)
            }
        } catch {
            // Made on another side a moment ago: on ESTALE the kernel looks the name up again, once, and opens what is there by its own rules
            // (`do_filp_open`).
            throw error.code == EEXIST && flags & O_EXCL == 0 ? FuseErrno(ESTALE) : error
        }
        // It has no save that could end.
        if isOpen, mountOptions.coherence == .strict { _ = writers.open(entry.attributes.node) }
        return entry
    }

    func link(_ node: NodeID, as name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try requireStored(node, parent)
        return unsafe try making(context, touching: named(name, in: parent) + [.attributes(number(node))]) { (caller) throws(RemfsError) in
            try store.link(number(node), as: unsafe bytes(name), in: number(parent), by: caller)
        }
    }

    func unlink(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) {
        try requireStored(parent)
        unsafe try changing(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
            try store.unlink(unsafe bytes(name), in: number(parent), by: caller)
        }
    }

    func removeDirectory(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) {
        try requireStored(parent)
        try unsafe requireStored(name, in: parent)
        unsafe try changing(context, touching: named(name, in: parent)) { (caller) throws(RemfsError) in
            try store.removeDirectory(unsafe bytes(name), in: number(parent), by: caller)
        }
    }

    func rename(
        _ name: FuseName, in parent: NodeID, to newName: FuseName, in newParent: NodeID, _ flags: FuseRenameFlags, _ context: FuseContext
    ) throws(FuseErrno) {
        // A whiteout is what overlay file systems leave behind: a device node, which this one does not make by itself.
        guard !flags.contains(.whiteout), !(flags.contains(.noReplace) && flags.contains(.exchange)) else { throw FuseErrno(EINVAL) }
        try requireStored(parent, newParent)
        try unsafe requireStored(name, in: parent)
        let rule: RenameRule = flags.contains(.noReplace) ? .noReplace : flags.contains(.exchange) ? .exchange : .replace
        unsafe try changing(context, touching: named(name, in: parent) + named(newName, in: newParent)) { (caller) throws(RemfsError) in
            try store.rename(
                unsafe bytes(name), in: number(parent), to: unsafe bytes(newName), in: number(newParent), rule,
                seen: { _ in .version(nil) }, by: caller)
        }
    }

    func readLink(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        // No link has a past.
        if virtual.isVirtual(node) { throw FuseErrno(EINVAL) }
        return try answer { () throws(RemfsError) in try store.readLink(number(node)) }
    }

    /// Cookies 1 and 2 are `.` and `..`; the store's own begin above.
    func readDirectory(
        _ node: NodeID, after cookie: UInt64, into listing: inout FuseListing, _ context: FuseContext
    ) throws(FuseErrno) {
        if virtual.isVirtual(node) {
            return try answer { () throws(RemfsError) in try virtual.list(node, after: cookie, into: &listing) }
        }
        let dots: [(name: [UInt8], cookie: UInt64)] = [([0x2e], 1), ([0x2e, 0x2e], 2)]
        for dot in dots where cookie < dot.cookie {
            let parent = try answer { () throws(RemfsError) in dot.cookie == 1 ? number(node) : try store.parent(of: number(node)) }
            let attributes = try answer { () throws(RemfsError) in shown(try store.attributes(of: parent)) }
            let isTaken = unsafe dot.name.withUnsafeBytes { unsafe listing.add($0, FuseEntry(attributes), cookie: dot.cookie) }
            guard isTaken else { return }
        }
        let wantsAttributes = listing.wantsAttributes
        var counted: [NodeID] = []
        try answer { () throws(RemfsError) in
            try store.list(number(node), after: max(2, Int64(bitPattern: cookie)), by: origin) { name, cookie, inode in
                let isTaken = unsafe name.withUnsafeBytes {
                    unsafe listing.add($0, FuseEntry(shown(inode)), cookie: UInt64(bitPattern: cookie))
                }
                if isTaken, wantsAttributes { counted.append(NodeID(inode.number)) }
                return isTaken
            }
        }
        for node in counted { inodes.counted(node) }
    }
}
