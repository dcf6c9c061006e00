import Fuse
import Glibc
import Logging
import Storage
import Threads

/// A store as one kernel sees it: the answers to its requests.
///
/// Every operation passes through `answer`, where errors become errnos. Nothing here waits for an invalidation but `synchronize` and
/// `flush`, and those on other threads than the kernel's answers come from.
final class MemoryFilesystem: FuseFilesystem {
    let store: MemoryStore
    let origin: Origin
    let inodes: InodeTable
    let invalidations: InvalidationQueue
    let mountOptions: MountOptions
    let counters = OperationCounters()
    let locks: LockTable
    let logger: Logger
    let virtual: VirtualFiles
    /// Somebody keeps the connection if this process dies: changes go into the ledger.
    let isProtected: Bool
    /// Kept where opens are answered (`coherence: strict`).
    let writers = OpenWriters()
    private let ended = Mutex(false)
    private let endedCondition = Condition()
    private let onStart: @Sendable (FuseConnection) -> Void
    private let onEnd: @Sendable () -> Void

    init(
        store: MemoryStore, origin: Origin, inodes: InodeTable, invalidations: InvalidationQueue, options: MountOptions, locks: LockTable,
        virtual: VirtualFiles, isProtected: Bool, logger: Logger, onStart: @escaping @Sendable (FuseConnection) -> Void,
        onEnd: @escaping @Sendable () -> Void
    ) {
        self.store = store
        self.origin = origin
        self.inodes = inodes
        self.invalidations = invalidations
        self.mountOptions = options
        self.locks = locks
        self.virtual = virtual
        self.isProtected = isProtected
        self.logger = logger
        self.onStart = onStart
        self.onEnd = onEnd
    }

    var options: FuseConnectionOptions {
        var options = FuseConnectionOptions()
        let isStrict = mountOptions.coherence == .strict
        options.answersOpen = isStrict
        options.answersLocks = isStrict
        options.answersExtendedAttributes = mountOptions.xattr
        return options
    }

    func connectionDidStart(_ connection: FuseConnection) {
        invalidations.open(connection)
        onStart(connection)
    }

    func connectionDidEnd(_ connection: FuseConnection) {
        invalidations.close()
        inodes.forgetKernel()
        locks.releaseAll(mount: origin.number)
        ended.withLock { $0 = true }
        endedCondition.broadcast()
        onEnd()
    }

    /// Waits until the kernel has ended the connection.
    func waitUntilEnded(atMost timeout: Duration) -> Bool {
        ended.wait(on: endedCondition, atMost: timeout, until: { $0 }) { _, ended in ended }
    }

    func answered(_ operation: FuseOperation, errno: Int32, seconds: Double) {
        counters.count(operation, errno: errno, seconds: seconds)
    }

    // MARK: The funnel

    /// Where errors of the store become errnos. What should not have happened is logged; what a caller may provoke is not.
    func answer<Answer>(_ body: () throws(RemfsError) -> Answer) throws(FuseErrno) -> Answer {
        do throws(RemfsError) {
            return try body()
        } catch {
            switch error.code {
            case .corrupted, .internal, .noSpace:
                logger.error("operation failed", metadata: ["store": "\(store.id)", "code": "\(error.code.rawValue)", "error": "\(error)"])
            default: break
            }
            throw FuseErrno(error.code.seenAs.errno)
        }
    }

    func caller(_ context: FuseContext) -> Caller {
        let request =
            isProtected
            ? LedgerRequest(mount: origin.number, unique: context.unique, slot: context.worker ?? LedgerRequest.anyFreeSlot) : nil
        return Caller(
            origin: origin, uid: mountOptions.uid == nil ? context.uid : geteuid(), gid: mountOptions.gid == nil ? context.gid : getegid(),
            pid: context.pid, writer: context.uid, request: request)
    }

    /// Makes a change that a request asks for, unless a predecessor of this process has made it and could not say so: then what it noted
    /// is answered, and what other mounts must forget is said again.
    func change<Answer>(
        _ context: FuseContext, touching: @autoclosure () -> [Invalidation], repeating: (Int64) throws(RemfsError) -> Answer,
        _ body: (Caller) throws(RemfsError) -> Answer
    ) throws(FuseErrno) -> Answer {
        try answer { () throws(RemfsError) in
            let caller = caller(context)
            if context.isResent, let request = caller.request, let noted = try store.answer(to: request) {
                try store.tellOthers(touching(), than: origin)
                return try repeating(noted)
            }
            FaultPoint.pass(.beforeTransaction)
            return try body(caller)
        }
    }

    /// A change that is answered with an inode.
    func making(
        _ context: FuseContext, touching: @autoclosure () -> [Invalidation], _ body: (Caller) throws(RemfsError) -> InodeAttributes
    ) throws(FuseErrno) -> FuseEntry {
        try change(context, touching: touching()) { (number) throws(RemfsError) in
            entry(try store.attributes(of: number))
        } _: { (caller) throws(RemfsError) in
            entry(try body(caller))
        }
    }

    /// A change that is answered with success.
    func changing(
        _ context: FuseContext, touching: @autoclosure () -> [Invalidation], _ body: (Caller) throws(RemfsError) -> Void
    ) throws(FuseErrno) {
        try change(context, touching: touching(), repeating: { _ in }, body)
    }

    func shown(_ inode: InodeAttributes) -> FuseAttributes {
        FuseAttributes(
            node: NodeID(inode.number), mode: mountOptions.umask.map { inode.mode & ~($0 & 0o777) } ?? inode.mode, links: inode.links,
            uid: mountOptions.uid ?? inode.uid, gid: mountOptions.gid ?? inode.gid, rdev: inode.rdev, sizeInBytes: inode.sizeInBytes,
            blocks: (inode.storedBytes + 511) / 512, accessed: inode.accessed, modified: inode.modified, changed: inode.changed)
    }

    /// The reply that makes the kernel know an inode: each is a lookup to be forgotten.
    func entry(_ inode: InodeAttributes) -> FuseEntry {
        inodes.counted(NodeID(inode.number))
        return FuseEntry(shown(inode))
    }

    func number(_ node: NodeID) -> InodeNumber { InodeNumber(bitPattern: node) }

    func bytes(_ name: FuseName) -> [UInt8] { unsafe Array(name.bytes) }
}
