package import struct Synchronization.Atomic

/// One mount as a store sees it: where a change comes from, and who is told of the changes of others.
///
/// Its closures are called with the store's lock held: they must not call the store, wait, or take a lock that is held around a
/// call of the store (`post` appends to a queue, `takeClosed` reads events that wait).
package final class Origin: Sendable {
    /// Above 0 and never that of another mount, also of one that ended long ago: the ledgers of stores know requests by it.
    package let number: Int
    /// Which actor a user's writes through this mount are.
    let actor: @Sendable (UInt32) -> MemoryActor
    /// The process that a waiting thread belongs to, and its command name.
    let process: @Sendable (Int32) -> (pid: Int32, command: String?)
    /// The inodes whose writers have closed since the last call. nil: this mount hears of no closes, so quiet seals.
    let takeClosed: (@Sendable () -> [InodeNumber])?
    /// Takes note of what the kernel behind this mount must forget.
    let post: @Sendable ([Invalidation]) -> Void
    /// Whether the kernel behind this mount still knows an inode. Called without the store's lock.
    let holds: @Sendable (InodeNumber) -> Bool
    /// Waits until what was posted so far has reached the kernel, at most for the duration. Called without the store's lock.
    let drain: @Sendable (Duration) -> Bool
    /// Whether something that was posted has not reached the kernel yet.
    let isBehind: @Sendable () -> Bool
    /// Whether the mount takes changes; asked for each of them with the store's lock held, so that none slips through a switch.
    package let isReadOnly: Atomic<Bool>
    /// Asks for a write over something this mount has not seen to be refused (`on_stale_write: refuse`).
    let refusesStaleWrites: Bool
    /// Of the session that the mount belongs to: what is written through it carries it.
    let trust: Session.Trust?
    /// us: the mount shows the store as of then; nil: as it is.
    let time: Int64?

    package init(
        number: Int, isReadOnly: Bool, refusesStaleWrites: Bool, trust: Session.Trust? = nil,
        actor: @escaping @Sendable (UInt32) -> MemoryActor,
        process: @escaping @Sendable (Int32) -> (pid: Int32, command: String?), takeClosed: (@Sendable () -> [InodeNumber])?,
        post: @escaping @Sendable ([Invalidation]) -> Void, holds: @escaping @Sendable (InodeNumber) -> Bool,
        drain: @escaping @Sendable (Duration) -> Bool, isBehind: @escaping @Sendable () -> Bool, time: Int64? = nil
    ) {
        self.number = number
        self.isReadOnly = Atomic(isReadOnly)
        self.refusesStaleWrites = refusesStaleWrites
        self.trust = trust
        self.actor = actor
        self.process = process
        self.takeClosed = takeClosed
        self.post = post
        self.holds = holds
        self.drain = drain
        self.isBehind = isBehind
        self.time = time
    }
}

/// Who asks for a change through a mount.
package struct Caller: Sendable {
    package let origin: Origin
    /// Who is to own what the caller makes.
    package let uid: UInt32
    package let gid: UInt32
    /// Who the caller is, where a mount shows every file as another's.
    let writer: UInt32
    /// 0: the kernel names no process.
    package let pid: Int32
    /// What is noted in the ledger with the change; nil where nobody would ask again.
    package let request: LedgerRequest?

    package init(origin: Origin, uid: UInt32, gid: UInt32, pid: Int32, writer: UInt32? = nil, request: LedgerRequest? = nil) {
        self.origin = origin
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.writer = writer ?? uid
        self.request = request
    }

    /// Asks /proc, so only where a version begins.
    func author() -> Author {
        guard pid > 0 else { return Author(origin.actor(writer), trust: origin.trust) }
        let (process, command) = origin.process(pid)
        return Author(origin.actor(writer), writer: Writer(uid: writer, pid: process, command: command), trust: origin.trust)
    }
}

/// What a kernel that cached it must forget.
package enum Invalidation: Sendable, Hashable {
    /// Pages of a file from `offset`, and its attributes.
    case bytes(InodeNumber, offset: Int64, length: Int64)
    case attributes(InodeNumber)
    /// A name that appeared, went or leads elsewhere; and with it the directory's listing and times.
    case name([UInt8], in: InodeNumber)
    /// A name whose inode went with it.
    case removal([UInt8], in: InodeNumber, of: InodeNumber)
}

/// What `stat` shows.
package struct InodeAttributes: Sendable, Equatable {
    package var number: InodeNumber
    package var mode: UInt32
    package var links: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var rdev: UInt64
    package var sizeInBytes: Int64
    /// Of a file: what is stored of it, holes not counted.
    package var storedBytes: Int64
    package var accessed: Int64
    package var modified: Int64
    package var changed: Int64
}

extension Inode {
    var attributes: InodeAttributes {
        let size = isDirectory ? Int64(directory!.count) : target.map { Int64($0.count) } ?? size
        return InodeAttributes(
            number: number, mode: mode, links: links, uid: uid, gid: gid, rdev: rdev, sizeInBytes: size,
            storedBytes: isRegular ? storedBytes : size, accessed: accessed, modified: modified, changed: changed)
    }
}

/// Authors as one text column: actor, uid, pid, command; empty where unknown. Behind the actor and a space stands its trust, if it has one.
extension Author {
    var row: String {
        let uid = writer.uid.map(String.init) ?? ""
        let pid = writer.pid.map(String.init) ?? ""
        let trust = trust.map { " \($0.rawValue)" } ?? ""
        return "\(actor.id)\(trust)\u{1f}\(uid)\u{1f}\(pid)\u{1f}\(writer.command ?? "")"
    }

    init?(row: String) {
        let fields = row.utf8.split(separator: 0x1f, maxSplits: 3, omittingEmptySubsequences: false).map { String(Substring($0)) }
        guard fields.count == 4 else { return nil }
        let who = fields[0].split(separator: " ", maxSplits: 1).map(String.init)
        guard let id = who.first, let actor = MemoryActor(id: id) else { return nil }
        self.init(
            actor, writer: Writer(uid: UInt32(fields[1]), pid: Int32(fields[2]), command: fields[3].isEmpty ? nil : fields[3]),
            trust: who.count > 1 ? Session.Trust(rawValue: who[1]) : nil)
    }
}

/// Authors as rows have them, while many rows are read: most are by few.
struct AuthorRows {
    private var known: [String: Author] = [:]
    /// A store may have many writers, and each of them few rows.
    private static let most = 256

    mutating func author(_ row: String?) -> Author? {
        guard let row else { return nil }
        if let author = known[row] { return author }
        guard let author = Author(row: row) else { return nil }
        if known.count >= Self.most { known = [:] }
        known[row] = author
        return author
    }
}
