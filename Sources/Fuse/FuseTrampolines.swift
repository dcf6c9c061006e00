internal import CFuse
internal import Glibc

/// libfuse's callbacks: each converts its arguments, calls the file system, replies and reports.
///
/// A reply frees the request, so nothing may touch it afterwards. Nothing of ours is locked while the file system runs.
enum FuseTrampolines {
    /// The callbacks that a connection with `options` has. Where one is missing libfuse answers ENOSYS.
    static func operations(for options: FuseConnectionOptions) -> fuse_lowlevel_ops {
        var operations = fuse_lowlevel_ops()
        unsafe operations.`init` = { link, offer in
            unsafe Unmanaged<FuseConnection>.fromOpaque(link!)._withUnsafeGuaranteedRef { unsafe $0.negotiate(&offer!.pointee) }
        }
        addNames(to: &operations)
        addInodes(to: &operations)
        addContent(to: &operations)
        addOpening(to: &operations, options)
        addExtendedAttributes(to: &operations, options)
        if options.answersLocks { addLocks(to: &operations) }
        return operations
    }

    // MARK: - Names

    private static func addNames(to operations: inout fuse_lowlevel_ops) {
        unsafe operations.lookup = { request, parent, name in
            unsafe FuseTrampolines.entry(request!, .lookup) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.lookup(FuseName(name!), in: parent, context)
            }
        }
        unsafe operations.forget = { request, node, count in
            unsafe FuseTrampolines.run(request!, .forget) { filesystem, _ throws(FuseErrno) in
                filesystem.forget(node, count: count)
                unsafe fuse_reply_none(request)
                return 0
            }
        }
        unsafe operations.forget_multi = { request, count, forgets in
            unsafe FuseTrampolines.run(request!, .forget) { filesystem, _ throws(FuseErrno) in
                for index in 0..<count {
                    unsafe filesystem.forget(forgets![index].ino, count: forgets![index].nlookup)
                }
                unsafe fuse_reply_none(request)
                return 0
            }
        }
        unsafe operations.mknod = { request, parent, name, mode, rdev in
            unsafe FuseTrampolines.entry(request!, .mknod, umask: FuseTrampolines.umask(request!)) {
                filesystem, context throws(FuseErrno) in
                unsafe try filesystem.makeNode(FuseName(name!), in: parent, mode: mode, rdev: numericCast(rdev), context)
            }
        }
        unsafe operations.mkdir = { request, parent, name, mode in
            unsafe FuseTrampolines.entry(request!, .mkdir, umask: FuseTrampolines.umask(request!)) {
                filesystem, context throws(FuseErrno) in
                unsafe try filesystem.makeDirectory(FuseName(name!), in: parent, mode: mode, context)
            }
        }
        unsafe operations.unlink = { request, parent, name in
            unsafe FuseTrampolines.confirm(request!, .unlink) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.unlink(FuseName(name!), in: parent, context)
            }
        }
        unsafe operations.rmdir = { request, parent, name in
            unsafe FuseTrampolines.confirm(request!, .rmdir) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.removeDirectory(FuseName(name!), in: parent, context)
            }
        }
        unsafe operations.symlink = { request, target, parent, name in
            unsafe FuseTrampolines.entry(request!, .symlink) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.symbolicLink(FuseName(name!), in: parent, target: FuseName(target!), context)
            }
        }
        unsafe operations.rename = { request, parent, name, newParent, newName, flags in
            unsafe FuseTrampolines.confirm(request!, .rename) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.rename(
                    FuseName(name!), in: parent, to: FuseName(newName!), in: newParent, FuseRenameFlags(rawValue: flags), context)
            }
        }
        unsafe operations.link = { request, node, newParent, newName in
            unsafe FuseTrampolines.entry(request!, .link) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.link(node, as: FuseName(newName!), in: newParent, context)
            }
        }
        unsafe operations.create = { request, parent, name, mode, info in
            unsafe FuseTrampolines.run(request!, .create, umask: FuseTrampolines.umask(request!)) { filesystem, context throws(FuseErrno) in
                let flags = unsafe info!.pointee.flags
                let entry = unsafe try filesystem.create(FuseName(name!), in: parent, mode: mode, flags: flags, context)
                var parameters = fuse_entry_param(entry)
                unsafe info!.pointee.keep_cache = 1
                unsafe fuse_reply_create(request, &parameters, info)
                return 0
            }
        }
        unsafe operations.readdir = { request, node, size, offset, _ in
            unsafe FuseTrampolines.list(request!, .readdir, node, size, offset, wantsAttributes: false)
        }
        unsafe operations.readdirplus = { request, node, size, offset, _ in
            unsafe FuseTrampolines.list(request!, .readdirplus, node, size, offset, wantsAttributes: true)
        }
        unsafe operations.fsyncdir = { request, node, _, _ in
            unsafe FuseTrampolines.deferrable(request!, .fsyncdir) { filesystem, context, reply in
                filesystem.synchronizeDirectory(node, context, reply)
            }
        }
    }

    // MARK: - Inodes

    private static func addInodes(to operations: inout fuse_lowlevel_ops) {
        unsafe operations.getattr = { request, node, _ in
            unsafe FuseTrampolines.attributes(request!, .getattr) { filesystem, context throws(FuseErrno) in
                try filesystem.attributes(of: node, context)
            }
        }
        unsafe operations.setattr = { request, node, attributes, valid, _ in
            unsafe FuseTrampolines.attributes(request!, .setattr) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.setAttributes(FuseAttributeChange(attributes!.pointee, valid: valid), of: node, context)
            }
        }
        unsafe operations.readlink = { request, node in
            unsafe FuseTrampolines.run(request!, .readlink) { filesystem, context throws(FuseErrno) in
                unsafe FuseTrampolines.send(try filesystem.readLink(node, context), to: request!)
                return 0
            }
        }
        unsafe operations.statfs = { request, node in
            unsafe FuseTrampolines.run(request!, .statfs) { filesystem, context throws(FuseErrno) in
                let statistics = try filesystem.statistics(node, context)
                var reply = statvfs()
                reply.f_bsize = numericCast(statistics.blockSize)
                reply.f_frsize = numericCast(statistics.blockSize)
                reply.f_blocks = numericCast(statistics.blocks)
                reply.f_bfree = numericCast(statistics.freeBlocks)
                reply.f_bavail = numericCast(statistics.freeBlocks)
                reply.f_files = numericCast(statistics.files)
                reply.f_ffree = numericCast(statistics.freeFiles)
                reply.f_namemax = numericCast(statistics.maximumNameLength)
                unsafe fuse_reply_statfs(request, &reply)
                return 0
            }
        }
    }

    // MARK: - Content

    private static func addContent(to operations: inout fuse_lowlevel_ops) {
        unsafe operations.read = { request, node, size, offset, _ in
            unsafe FuseTrampolines.deferrable(request!, .read) { filesystem, context, reply in
                filesystem.read(node, offset: Int64(offset), count: size, context, reply)
            }
        }
        unsafe operations.write = { request, node, bytes, size, offset, info in
            unsafe FuseTrampolines.run(request!, .write) { filesystem, context throws(FuseErrno) in
                var flags = FuseWriteFlags()
                flags.append = unsafe info!.pointee.flags & O_APPEND != 0
                flags.fromPageCache = unsafe info!.pointee.writepage != 0
                let bytes = unsafe UnsafeRawBufferPointer(start: bytes, count: size)
                unsafe fuse_reply_write(request, try filesystem.write(bytes, to: node, offset: Int64(offset), flags, context))
                return 0
            }
        }
        unsafe operations.fsync = { request, node, dataOnly, _ in
            unsafe FuseTrampolines.deferrable(request!, .fsync) { filesystem, context, reply in
                filesystem.synchronize(node, dataOnly: dataOnly != 0, context, reply)
            }
        }
        unsafe operations.fallocate = { request, node, mode, offset, length, _ in
            unsafe FuseTrampolines.confirm(request!, .fallocate) { filesystem, context throws(FuseErrno) in
                try filesystem.allocate(node, mode: mode, offset: Int64(offset), length: Int64(length), context)
            }
        }
        unsafe operations.lseek = { request, node, offset, whence, _ in
            unsafe FuseTrampolines.run(request!, .lseek) { filesystem, context throws(FuseErrno) in
                let found = try filesystem.seek(node, offset: Int64(offset), whence: whence, context)
                unsafe fuse_reply_lseek(request, off_t(found))
                return 0
            }
        }
        unsafe operations.copy_file_range = { request, source, offset, _, destination, destinationOffset, _, length, _ in
            unsafe FuseTrampolines.run(request!, .copyFileRange) { filesystem, context throws(FuseErrno) in
                // The kernel asks for what the caller asked; the reply has 32 bits for it, and a short copy is allowed.
                let length = min(Int64(clamping: length), Int64(Int32.max) & ~4095)
                let count = try filesystem.copyRange(
                    from: source, offset: Int64(offset), to: destination, offset: Int64(destinationOffset), length: length, context)
                unsafe fuse_reply_write(request, count)
                return 0
            }
        }
    }

    // MARK: - Opening

    private static func addOpening(to operations: inout fuse_lowlevel_ops, _ options: FuseConnectionOptions) {
        // The kernel keeps listings of directories that it opens by itself, whatever is done about files.
        unsafe operations.opendir = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .opendir) }
        // Modes are the kernel's to check (default_permissions).
        unsafe operations.access = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .other) }
        guard options.answersOpen else {
            unsafe operations.open = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .open) }
            unsafe operations.flush = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .flush) }
            // Files that were created before the first ENOSYS to OPEN are still released; the kernel waits for no answer.
            unsafe operations.release = { request, _, _ in
                unsafe FuseTrampolines.confirm(request!, .release) { _, _ throws(FuseErrno) in }
            }
            return
        }
        unsafe operations.open = { request, node, info in
            unsafe FuseTrampolines.run(request!, .open) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.open(node, flags: info!.pointee.flags, context)
                unsafe info!.pointee.keep_cache = 1
                unsafe fuse_reply_open(request, info)
                return 0
            }
        }
        unsafe operations.flush = { request, node, info in
            let owner = unsafe info!.pointee.lock_owner
            unsafe FuseTrampolines.deferrable(request!, .flush) { filesystem, context, reply in
                filesystem.flush(node, owner: owner, context, reply)
            }
        }
        unsafe operations.release = { request, node, info in
            let flags = unsafe info!.pointee.flags
            let flockOwner = unsafe info!.pointee.flock_release != 0 ? info!.pointee.lock_owner : nil
            unsafe FuseTrampolines.deferrable(request!, .release) { filesystem, context, reply in
                filesystem.release(node, flags: flags, flockOwner: flockOwner, context, reply)
            }
        }
    }

    // MARK: - Extended attributes

    private static func addExtendedAttributes(to operations: inout fuse_lowlevel_ops, _ options: FuseConnectionOptions) {
        guard options.answersExtendedAttributes else {
            unsafe operations.setxattr = { request, _, _, _, _, _ in unsafe FuseTrampolines.refuse(request!, .setxattr) }
            unsafe operations.getxattr = { request, _, _, _ in unsafe FuseTrampolines.refuse(request!, .getxattr) }
            unsafe operations.listxattr = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .listxattr) }
            unsafe operations.removexattr = { request, _, _ in unsafe FuseTrampolines.refuse(request!, .removexattr) }
            return
        }
        unsafe operations.setxattr = { request, node, name, value, size, flags in
            unsafe FuseTrampolines.confirm(request!, .setxattr) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.setExtendedAttribute(
                    FuseName(name!), of: node, to: UnsafeRawBufferPointer(start: value, count: size), flags: flags, context)
            }
        }
        unsafe operations.getxattr = { request, node, name, size in
            unsafe FuseTrampolines.run(request!, .getxattr) { filesystem, context throws(FuseErrno) in
                unsafe try FuseTrampolines.send(filesystem.extendedAttribute(FuseName(name!), of: node, context), to: request!, room: size)
            }
        }
        unsafe operations.listxattr = { request, node, size in
            unsafe FuseTrampolines.run(request!, .listxattr) { filesystem, context throws(FuseErrno) in
                unsafe try FuseTrampolines.send(filesystem.extendedAttributes(of: node, context), to: request!, room: size)
            }
        }
        unsafe operations.removexattr = { request, node, name in
            unsafe FuseTrampolines.confirm(request!, .removexattr) { filesystem, context throws(FuseErrno) in
                unsafe try filesystem.removeExtendedAttribute(FuseName(name!), of: node, context)
            }
        }
    }

    // MARK: - Locks

    private static func addLocks(to operations: inout fuse_lowlevel_ops) {
        unsafe operations.getlk = { request, node, info, lock in
            unsafe FuseTrampolines.run(request!, .getlk) { filesystem, context throws(FuseErrno) in
                let owner = unsafe info!.pointee.lock_owner
                var found = unsafe flock(try filesystem.lockConflicting(with: FuseLock(lock!.pointee), on: node, owner: owner, context))
                unsafe fuse_reply_lock(request, &found)
                return 0
            }
        }
        unsafe operations.setlk = { request, node, info, lock, waits in
            let owner = unsafe info!.pointee.lock_owner
            let lock = unsafe FuseLock(lock!.pointee)
            unsafe FuseTrampolines.deferrable(request!, .setlk) { filesystem, context, reply in
                filesystem.lock(lock, on: node, owner: owner, waits: waits != 0, context, reply)
            }
        }
        unsafe operations.flock = { request, node, info, operation in
            let owner = unsafe info!.pointee.lock_owner
            let kind: FuseLock.Kind =
                switch operation & ~LOCK_NB {
                case LOCK_SH: .read
                case LOCK_EX: .write
                default: .unlock
                }
            unsafe FuseTrampolines.deferrable(request!, .flock) { filesystem, context, reply in
                filesystem.lockWhole(kind, on: node, owner: owner, waits: operation & LOCK_NB == 0, context, reply)
            }
        }
    }
}

// MARK: - Shapes of answers

extension FuseTrampolines {
    @inline(__always)
    private static func withConnection(_ request: fuse_req_t, _ body: (FuseConnection) -> Void) {
        unsafe Unmanaged<FuseConnection>.fromOpaque(fuse_req_userdata(request)!)._withUnsafeGuaranteedRef(body)
    }

    /// Runs an operation whose `body` replies by itself and returns the errno that it replied, 0 for success; what it throws is replied here.
    @inline(__always)
    private static func run(
        _ request: fuse_req_t, _ operation: FuseOperation, umask: UInt32 = 0,
        _ body: (any FuseFilesystem, FuseContext) throws(FuseErrno) -> Int32
    ) {
        unsafe withConnection(request) { connection in
            FuseReceiver.withCurrent { receiver in
                let started = unsafe receiver.started
                let filesystem = connection.filesystem
                let errno: Int32
                do throws(FuseErrno) {
                    errno = try body(filesystem, receiver.context(umask: umask))
                } catch {
                    unsafe fuse_reply_err(request, error.code)
                    errno = error.code
                }
                filesystem.answered(operation, errno: errno, seconds: Monotonic.seconds(since: started))
            }
        }
    }

    /// An operation whose success is an inode with a name.
    @inline(__always)
    private static func entry(
        _ request: fuse_req_t, _ operation: FuseOperation, umask: UInt32 = 0,
        _ body: (any FuseFilesystem, FuseContext) throws(FuseErrno) -> FuseEntry
    ) {
        unsafe run(request, operation, umask: umask) { filesystem, context throws(FuseErrno) in
            let entry = try body(filesystem, context)
            var parameters = fuse_entry_param(entry)
            unsafe fuse_reply_entry(request, &parameters)
            // A name cached as missing is what the caller sees as ENOENT.
            return entry.attributes.node == 0 ? ENOENT : 0
        }
    }

    /// An operation whose success is an inode's attributes.
    @inline(__always)
    private static func attributes(
        _ request: fuse_req_t, _ operation: FuseOperation, _ body: (any FuseFilesystem, FuseContext) throws(FuseErrno) -> FuseEntry
    ) {
        unsafe run(request, operation) { filesystem, context throws(FuseErrno) in
            let entry = try body(filesystem, context)
            var attributes = stat(entry.attributes)
            unsafe fuse_reply_attr(request, &attributes, entry.attributesLifetime.seconds)
            return 0
        }
    }

    /// An operation whose success says nothing more.
    @inline(__always)
    private static func confirm(
        _ request: fuse_req_t, _ operation: FuseOperation, _ body: (any FuseFilesystem, FuseContext) throws(FuseErrno) -> Void
    ) {
        unsafe run(request, operation) { filesystem, context throws(FuseErrno) in
            try body(filesystem, context)
            unsafe fuse_reply_err(request, 0)
            return 0
        }
    }

    /// An operation that the kernel is not to send again.
    private static func refuse(_ request: fuse_req_t, _ operation: FuseOperation) {
        unsafe run(request, operation) { _, _ throws(FuseErrno) in throw FuseErrno(ENOSYS) }
    }

    /// An operation that may be answered later.
    @inline(__always)
    private static func deferrable(
        _ request: fuse_req_t, _ operation: FuseOperation, _ body: (any FuseFilesystem, FuseContext, FuseReply) -> Void
    ) {
        unsafe withConnection(request) { connection in
            FuseReceiver.withCurrent { receiver in
                unsafe body(connection.filesystem, receiver.context(), receiver.reply(request, connection, operation))
            }
        }
    }

    private static func list(
        _ request: fuse_req_t, _ operation: FuseOperation, _ node: NodeID, _ size: Int, _ offset: off_t, wantsAttributes: Bool
    ) {
        unsafe run(request, operation) { filesystem, context throws(FuseErrno) in
            let receiver = FuseReceiver.withCurrent { $0 }
            var listing = unsafe receiver.listing(request, size: size, wantsAttributes: wantsAttributes)
            try filesystem.readDirectory(node, after: UInt64(bitPattern: Int64(offset)), into: &listing, context)
            listing.send()
            return 0
        }
    }

    private static func umask(_ request: fuse_req_t) -> UInt32 { unsafe fuse_req_ctx(request).pointee.umask }

    @inline(__always)
    private static func send(_ bytes: [UInt8], to request: fuse_req_t) {
        _ = unsafe bytes.withUnsafeBytes { unsafe fuse_reply_buf(request, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count) }
    }

    /// Sends an extended attribute's value or list, or only its size where the caller has no `room` yet.
    private static func send(_ bytes: [UInt8], to request: fuse_req_t, room: Int) throws(FuseErrno) -> Int32 {
        if room == 0 {
            unsafe fuse_reply_xattr(request, bytes.count)
        } else {
            guard bytes.count <= room else { throw FuseErrno(ERANGE) }
            unsafe send(bytes, to: request)
        }
        return 0
    }
}

// MARK: - Conversions

extension FuseName {
    /// From a C string.
    @inline(__always)
    fileprivate init(_ name: UnsafePointer<CChar>) {
        unsafe self.init(UnsafeRawBufferPointer(start: name, count: strlen(name)))
    }
}

extension timespec {
    /// From nanoseconds since 1970, rounding seconds down, so that the rest is never negative.
    init(nanoseconds: Int64) {
        var seconds = nanoseconds / 1_000_000_000
        var rest = nanoseconds % 1_000_000_000
        if rest < 0 {
            seconds -= 1
            rest += 1_000_000_000
        }
        self.init(tv_sec: numericCast(seconds), tv_nsec: numericCast(rest))
    }

    /// Nanoseconds since 1970; times that do not fit (before 1678, after 2262) become the nearest that does.
    var nanoseconds: Int64 {
        let (product, overflow) = Int64(tv_sec).multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflowToo) = product.addingReportingOverflow(Int64(tv_nsec))
        return overflow || overflowToo ? (tv_sec < 0 ? .min : .max) : sum
    }
}

extension stat {
    init(_ attributes: FuseAttributes) {
        self.init()
        st_ino = numericCast(attributes.node)
        st_mode = attributes.mode
        st_nlink = numericCast(attributes.links)
        st_uid = attributes.uid
        st_gid = attributes.gid
        st_rdev = numericCast(attributes.rdev)
        st_size = numericCast(attributes.sizeInBytes)
        st_blocks = numericCast(attributes.blocks)
        st_atim = timespec(nanoseconds: attributes.accessed)
        st_mtim = timespec(nanoseconds: attributes.modified)
        st_ctim = timespec(nanoseconds: attributes.changed)
    }
}

extension fuse_entry_param {
    init(_ entry: FuseEntry) {
        self.init()
        ino = entry.attributes.node
        attr = stat(entry.attributes)
        attr_timeout = entry.attributesLifetime.seconds
        entry_timeout = entry.nameLifetime.seconds
    }
}

extension FuseAttributeChange {
    init(_ attributes: stat, valid: Int32) {
        self.init()
        if valid & FUSE_SET_ATTR_MODE != 0 { mode = attributes.st_mode & 0o7777 }
        if valid & FUSE_SET_ATTR_UID != 0 { uid = attributes.st_uid }
        if valid & FUSE_SET_ATTR_GID != 0 { gid = attributes.st_gid }
        if valid & FUSE_SET_ATTR_SIZE != 0 { sizeInBytes = Int64(attributes.st_size) }
        if valid & FUSE_SET_ATTR_ATIME_NOW != 0 {
            accessed = .now
        } else if valid & FUSE_SET_ATTR_ATIME != 0 {
            accessed = .at(attributes.st_atim.nanoseconds)
        }
        if valid & FUSE_SET_ATTR_MTIME_NOW != 0 {
            modified = .now
        } else if valid & FUSE_SET_ATTR_MTIME != 0 {
            modified = .at(attributes.st_mtim.nanoseconds)
        }
        // Sent only where HANDLE_KILLPRIV_V2 was agreed; elsewhere the kernel sends the mode without the bits.
        clearsPrivileges = valid & (FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID | FUSE_SET_ATTR_KILL_PRIV) != 0
    }
}

extension FuseLock {
    init(_ lock: flock) {
        let kind: Kind =
            switch Int32(lock.l_type) {
            case F_RDLCK: .read
            case F_WRLCK: .write
            default: .unlock
            }
        let start = Int64(lock.l_start)
        self.init(kind: kind, start: start, end: lock.l_len == 0 ? .max : start + Int64(lock.l_len) - 1, pid: lock.l_pid)
    }
}

extension flock {
    init(_ lock: FuseLock) {
        self.init()
        let kind =
            switch lock.kind {
            case .read: F_RDLCK
            case .write: F_WRLCK
            case .unlock: F_UNLCK
            }
        l_type = Int16(kind)
        l_whence = Int16(SEEK_SET)
        l_start = off_t(lock.start)
        l_len = lock.end == .max ? 0 : off_t(lock.end - lock.start + 1)
        l_pid = lock.pid
    }
}

extension FuseOperation {
    /// By the number in a request's header.
    init(opcode: UInt32) {
        self =
            switch fuse_opcode(opcode) {
            case FUSE_LOOKUP: .lookup
            case FUSE_FORGET, FUSE_BATCH_FORGET: .forget
            case FUSE_GETATTR: .getattr
            case FUSE_SETATTR: .setattr
            case FUSE_READLINK: .readlink
            case FUSE_MKNOD: .mknod
            case FUSE_MKDIR: .mkdir
            case FUSE_UNLINK: .unlink
            case FUSE_RMDIR: .rmdir
            case FUSE_SYMLINK: .symlink
            case FUSE_RENAME, FUSE_RENAME2: .rename
            case FUSE_LINK: .link
            case FUSE_OPEN: .open
            case FUSE_READ: .read
            case FUSE_WRITE: .write
            case FUSE_STATFS: .statfs
            case FUSE_RELEASE: .release
            case FUSE_FSYNC: .fsync
            case FUSE_SETXATTR: .setxattr
            case FUSE_GETXATTR: .getxattr
            case FUSE_LISTXATTR: .listxattr
            case FUSE_REMOVEXATTR: .removexattr
            case FUSE_FLUSH: .flush
            case FUSE_INIT: .initialize
            case FUSE_OPENDIR: .opendir
            case FUSE_READDIR: .readdir
            case FUSE_READDIRPLUS: .readdirplus
            case FUSE_RELEASEDIR: .releasedir
            case FUSE_FSYNCDIR: .fsyncdir
            case FUSE_GETLK: .getlk
            case FUSE_SETLK, FUSE_SETLKW: .setlk
            case FUSE_CREATE: .create
            case FUSE_INTERRUPT: .interrupt
            case FUSE_FALLOCATE: .fallocate
            case FUSE_LSEEK: .lseek
            case FUSE_COPY_FILE_RANGE: .copyFileRange
            default: .other
            }
    }
}
