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
    /// Kept where opens are answered (`coherence: strict`).
    let writers = OpenWriters()
    private let ended = Mutex(false)
    private let endedCondition = Condition()
    private let onEnd: @Sendable () -> Void

    init(
        store: MemoryStore, origin: Origin, inodes: InodeTable, invalidations: InvalidationQueue, options: MountOptions, locks: LockTable,
        virtual: VirtualFiles, logger: Logger, onEnd: @escaping @Sendable () -> Void
    ) {
        self.store = store
        self.origin = origin
        self.inodes = inodes
        self.invalidations = invalidations
        self.mountOptions = options
        self.locks = locks
        self.virtual = virtual
        self.logger = logger
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

    func connectionDidStart(_ connection: FuseConnection) { invalidations.open(connection) }

    func connectionDidEnd(_ connection: FuseConnection) {
        invalidations.close()
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
        Caller(
            origin: origin, uid: mountOptions.uid == nil ? context.uid : geteuid(), gid: mountOptions.gid == nil ? context.gid : getegid(),
            pid: context.pid, writer: context.uid)
    }

    func shown(_ inode: InodeAttributes) -> FuseAttributes {
        FuseAttributes(
            node: NodeID(inode.number), mode: mountOptions.umask.map { inode.mode & ~($0 & 0o777) } ?? inode.mode, links: inode.links,
            uid: mountOptions.uid ?? inode.uid, gid: mountOptions.gid ?? inode.gid, rdev: inode.rdev, sizeInBytes: inode.sizeInBytes,
            blocks: (inode.sizeInBytes + 511) / 512, accessed: inode.accessed, modified: inode.modified, changed: inode.changed)
    }

    /// The reply that makes the kernel know an inode: each is a lookup to be forgotten.
    func entry(_ inode: InodeAttributes) -> FuseEntry {
        inodes.counted(NodeID(inode.number))
        return FuseEntry(shown(inode))
    }

    func number(_ node: NodeID) -> InodeNumber { InodeNumber(bitPattern: node) }

    func bytes(_ name: FuseName) -> [UInt8] { unsafe Array(name.bytes) }
}
