/// What a file system answers to the kernel: one method for each operation.
///
/// Called on the worker threads of `FuseWorkers`, several at a time when one of them has passed the baton on. Arguments that point
/// into the receive buffer (`FuseName`, raw buffers) are valid during the call only. A method that throws is answered with the
/// errno; one that returns is answered with what it returned, after every lock of the file system's own has been given up.
/// Methods with a `FuseReply` answer through it, once, on any thread, then or later.
package protocol FuseFilesystem: AnyObject, Sendable {
    /// What the connection negotiates and which operations it answers with ENOSYS once and for all.
    var options: FuseConnectionOptions { get }

    /// The connection is usable: INIT was answered.
    func connectionDidStart(_ connection: FuseConnection)
    /// The kernel has ended the connection (unmounted, aborted). Nothing will be called after this.
    func connectionDidEnd(_ connection: FuseConnection)

    func lookup(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry
    /// The kernel gives back `count` lookups of `node`. Never answered.
    func forget(_ node: NodeID, count: UInt64)
    func attributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry
    func setAttributes(_ change: FuseAttributeChange, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry
    /// The target's bytes, without a NUL.
    func readLink(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8]
    func makeNode(
        _ name: FuseName, in parent: NodeID, mode: UInt32, rdev: UInt64, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry
    func makeDirectory(_ name: FuseName, in parent: NodeID, mode: UInt32, _ context: FuseContext) throws(FuseErrno) -> FuseEntry
    func unlink(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno)
    func removeDirectory(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno)
    func symbolicLink(
        _ name: FuseName, in parent: NodeID, target: FuseName, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry
    func rename(
        _ name: FuseName, in parent: NodeID, to newName: FuseName, in newParent: NodeID, _ flags: FuseRenameFlags,
        _ context: FuseContext
    ) throws(FuseErrno)
    func link(_ node: NodeID, as name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry
    /// O_CREAT of a name that the kernel believes missing. `flags` are those of open(2).
    func create(
        _ name: FuseName, in parent: NodeID, mode: UInt32, flags: Int32, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry

    /// Only where `options.answersOpen`. O_TRUNC comes as a `setAttributes`, never here.
    func open(_ node: NodeID, flags: Int32, _ context: FuseContext) throws(FuseErrno)
    /// Only where `options.answersOpen`: one descriptor was closed. `owner` names the process whose POSIX locks go with it.
    func flush(_ node: NodeID, owner: UInt64, _ context: FuseContext, _ reply: FuseReply)
    /// Only where `options.answersOpen`: the last descriptor of an open file is gone. `flags` are those of its open.
    func release(_ node: NodeID, flags: Int32, flockOwner: UInt64?, _ context: FuseContext, _ reply: FuseReply)

    /// Answers with `reply.data`: fewer bytes than asked for mean the end of the file.
    func read(_ node: NodeID, offset: Int64, count: Int, _ context: FuseContext, _ reply: FuseReply)
    /// Returns the count written. `bytes` stand in the receive buffer.
    func write(
        _ bytes: UnsafeRawBufferPointer, to node: NodeID, offset: Int64, _ flags: FuseWriteFlags, _ context: FuseContext
    ) throws(FuseErrno) -> Int
    func synchronize(_ node: NodeID, dataOnly: Bool, _ context: FuseContext, _ reply: FuseReply)
    /// fsync of a directory.
    func synchronizeDirectory(_ node: NodeID, _ context: FuseContext, _ reply: FuseReply)

    /// Lists a directory from the entry after `cookie` (0: from the start) until `listing` is full. Each entry that `listing` takes
    /// counts as a lookup of its inode when `listing.wantsAttributes`, except `.` and `..`.
    func readDirectory(_ node: NodeID, after cookie: UInt64, into listing: inout FuseListing, _ context: FuseContext) throws(FuseErrno)
    func statistics(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseStatistics

    // Only where `options.answersExtendedAttributes`.
    func setExtendedAttribute(
        _ name: FuseName, of node: NodeID, to value: UnsafeRawBufferPointer, flags: Int32, _ context: FuseContext
    ) throws(FuseErrno)
    func extendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8]
    /// The names, each ended by a NUL.
    func extendedAttributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8]
    func removeExtendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno)

    // Only where `options.answersLocks`; elsewhere the kernel keeps locks itself.
    func lockConflicting(with lock: FuseLock, on node: NodeID, owner: UInt64, _ context: FuseContext) throws(FuseErrno) -> FuseLock
    /// Answers now, or when the lock is free (`waits`), or with EINTR once `reply.onInterrupt` has fired.
    func lock(_ lock: FuseLock, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply)
    /// flock(2): whole file, `owner` is the open file.
    func lockWhole(_ kind: FuseLock.Kind, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply)

    /// `mode` is fallocate(2)'s.
    func allocate(_ node: NodeID, mode: Int32, offset: Int64, length: Int64, _ context: FuseContext) throws(FuseErrno)
    /// SEEK_DATA or SEEK_HOLE.
    func seek(_ node: NodeID, offset: Int64, whence: Int32, _ context: FuseContext) throws(FuseErrno) -> Int64
    func copyRange(
        from source: NodeID, offset: Int64, to destination: NodeID, offset destinationOffset: Int64, length: Int64, _ context: FuseContext
    ) throws(FuseErrno) -> Int

    /// Told after each answer, on the answering thread: what metrics and request budgets count. `errno` 0 is success; a
    /// lookup answered with `FuseEntry.missing` is ENOENT. A caller may go on before this is called.
    func answered(_ operation: FuseOperation, errno: Int32, seconds: Double)
}

/// What one connection negotiates, fixed at its INIT.
package struct FuseConnectionOptions: Sendable {
    /// OPEN, FLUSH and RELEASE reach the file system. Otherwise OPEN, OPENDIR and FLUSH are answered with ENOSYS, after which the
    /// kernel opens and closes without asking and keeps pages and listings.
    package var answersOpen = false
    package var answersExtendedAttributes = false
    /// POSIX and flock locks reach the file system. Needs `answersOpen`.
    package var answersLocks = false
    /// In bytes; the kernel's most is 1 MiB.
    package var maximumWrite = 1 << 20

    package init() {}
}
