import struct Synchronization.Atomic
import DequeModule
import Glibc
import SQLite

/// A memory whose path was given up a moment ago. A file born there in the same mount within two seconds continues it.
struct Removal {
    let memory: Int64
    let head: MemoryHead?
    let path: String
    let parent: InodeNumber
    let name: [UInt8]
    let author: Author
    let origin: Int
    /// Monotonic, ns: when it is sealed as deleted.
    let due: Int64
    /// The unlinked inode that carries it in the database; 0: a row of `removal`.
    let inode: InodeNumber

    static let patience: Int64 = 2_000_000_000
}

/// An open store: its tree in memory and the connection that writes it. All of it is guarded by the lock of `MemoryStore`.
///
/// Each change goes the same way: check against the tree and the policy, one transaction, then the tree. A transaction that fails
/// leaves the tree as it was.
final class StoreState {
    let id: StoreID
    let writer: Connection
    let statements: Statements
    /// For messages: `store "team-notes"`.
    var label: String
    var policy: Policy
    var isArchived: Bool
    var isDeleted = false
    var unversionedNames: UnversionedNames
    /// Called before work that takes long, though it waits for nobody: as before waiting, a FUSE worker passes its baton on.
    var willBlock: () -> Void = {}

    var inodes: [InodeNumber: Inode] = [:]
    var root: Inode
    /// Unlinked inodes that some kernel may still have open.
    var orphans: Set<InodeNumber> = []
    var removals: [Int64: Removal] = [:]
    var removalAt: [Place: Int64] = [:]
    /// Removals in the order in which they are due; those that were continued meanwhile are skipped.
    var removalQueue: Deque<(due: Int64, memory: Int64)> = []
    /// Those that are due at once.
    var endedMemories: [Int64] = []
    /// The memory after which removals from before this process are still to be taken up (`recoverLeftRemovals`); nil: none are left.
    var leftRemovals: Int64?
    /// Memories and their inodes, for what is asked for by ID.
    var memoryInodes: [Int64: InodeNumber] = [:]
    /// Content bytes of all regular files that have a name, drafts included.
    var usedBytes: Int64 = 0
    /// Regular files that are memories, sealed or not, and have a name.
    var memoryFiles = 0

    struct Place: Hashable {
        let parent: InodeNumber
        let name: [UInt8]
    }

    /// Rises by one for each inode, cookie, save, memory and version; `reserved` is what the file promises to be above all of them.
    private(set) var next: Int64
    private(set) var reserved: Int64
    /// Groups of saves that are not sealed.
    var openGroups = OpenGroups()
    var lastVersionTime: Int64
    /// The newest version's number, for those who follow the log.
    var lastVersion: Int64
    private var clock: Int64 = 0
    /// How far the wall clock is off, in ns; for fault tests only.
    var clockOffset: (@Sendable () -> Int64)?

    var origins: [Int: Origin] = [:]
    /// By mount and `seenKey`: the newest version that the mount was given a byte of or wrote, or its save while that is not sealed.
    var seen: [Int: [Int64: Int64]] = [:]
    /// What files without a name were the head of, while somebody may still have them open.
    var formerHeads: [InodeNumber: (memory: Int64, version: Int64)] = [:]
    /// Invalidations of the change that is being made, posted once it is committed.
    private var pendingInvalidations: [Invalidation] = []

    /// Inodes with closed saves or a change of name that no version tells yet, in order.
    var sealQueue: Deque<InodeNumber> = []
    var queued: Set<InodeNumber> = []
    /// Inodes with a save that is still open.
    var openSaves: Set<InodeNumber> = []
    /// Directories whose times changed in memory only.
    var touchedDirectories: Set<InodeNumber> = []
    /// Implied directories that lost their last name.
    var emptiedDirectories: Set<InodeNumber> = []
    /// Transactions and bytes since the last checkpoint: when the next one is due.
    var uncheckpointed = 0
    /// Frames of the journal that the last checkpoint saw.
    var checkpointedFrames = 0
    /// Chunks that could become deltas now that a newer one exists: found while sealing, encoded in quiet times.
    var deltaCandidates: [Int64] = []
    /// Monotonic, ns: when open saves are to be looked through for those that ended without a word.
    var quietDue: Int64 = 0
    /// Monotonic, ns: when orphans were last looked through.
    var orphansSeen: Int64 = 0
    /// Whether any inode may have extended attributes: most stores never see one.
    var hasExtendedAttributes = false
    /// What the daemon before this one committed; empty once no request can come a second time.
    var ledger = Ledger()
    var noted = NotedRequests()
    /// Redactions of which the file is still to be cleaned.
    var scrub = Scrub()
    /// What kernels ask for below `.remfs`.
    var past = Past()
    /// The newest version that the search index has seen; nil: there is no index.
    var searchedUpTo: Int64?
    /// Monotonic, ns: the last request that changed something.
    var lastActivity: Int64 = 0
    /// A transaction of several changes is under way (`MemoryStore.changeTogether`).
    var isTogether = false
    /// Monotonic, ns: since when a seal waits for quiet; 0: none does.
    var sealWaitsSince: Int64 = 0

    init(id: StoreID, label: String, policy: Policy, isArchived: Bool, writer: Connection) throws(RemfsError) {
        self.id = id
        self.label = label
        self.policy = policy
        self.isArchived = isArchived
        self.writer = writer
        unversionedNames = UnversionedNames(policy.unversioned)
        root = Inode(
            number: 1, mode: UInt32(S_IFDIR) | 0o755, uid: 0, gid: 0, rdev: 0, flags: [], parent: 0, name: [], cookie: 0, accessed: 0,
            modified: 0, changed: 0)
        do {
            statements = try Statements(writer)
            next = try writer.integer("SELECT value FROM property WHERE name = 'next'") ?? 2
            lastVersionTime = try writer.integer("SELECT max(began) FROM version WHERE number = (SELECT max(number) FROM version)") ?? 0
            lastVersion = try writer.integer("SELECT max(number) FROM version") ?? 0
        } catch {
            throw RemfsError(error, in: label)
        }
        reserved = next
    }

    /// Each directory lets go of what is in it while `inodes` still holds that: otherwise a deep tree would be freed level within level.
    deinit { for inode in inodes.values { inode.directory = nil } }

    // MARK: Time and numbers

    /// Wall-clock time in ns that never runs backwards within the process.
    func now() -> Int64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        clock = max(clock, Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec) + (clockOffset?() ?? 0))
        return clock
    }

    static func monotonic() -> Int64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    /// The time of a new version in us: the later of now and the last version's plus one.
    func versionTime() -> Int64 {
        lastVersionTime = max(now() / 1_000, lastVersionTime + 1)
        return lastVersionTime
    }

    /// How many numbers are promised in the file at a time: one more dirty page in a thousand changes.
    private static let block: Int64 = 4_096

    /// Makes sure that the next `count` numbers are promised. Called before a transaction, never within.
    func reserveNumbers(_ count: Int64) throws(RemfsError) {
        guard next + count > reserved else { return }
        try promiseNumbers(upTo: next + max(count, Self.block))
    }

    func promiseNumbers(upTo promise: Int64) throws(RemfsError) {
        try commit { () throws(SQLiteError) in
            statements.setProperty.bind("next", at: 1)
            statements.setProperty.bind(promise, at: 2)
            try statements.setProperty.run()
        }
        reserved = promise
    }

    func takeNumber() -> Int64 {
        defer { next += 1 }
        return next
    }

    // MARK: Transactions

    /// Runs SQL as one transaction: all of it is in the WAL when this returns, or none. Within `MemoryStore.changeTogether` it is part of
    /// that one's.
    func commit(_ body: () throws(SQLiteError) -> Void) throws(RemfsError) {
        if isTogether { return try query(body) }
        do throws(SQLiteError) {
            try statements.begin.run()
            do throws(SQLiteError) {
                try body()
                try statements.commit.run()
                uncheckpointed += 1
            } catch {
                // SQLite has rolled back by itself where it had to (disk full, I/O error).
                if writer.isInTransaction { try statements.rollback.run() }
                throw error
            }
        } catch {
            throw RemfsError(error, in: label)
        }
    }

    /// Runs SQL that only reads.
    func query<Result>(_ body: () throws(SQLiteError) -> Result) throws(RemfsError) -> Result {
        do throws(SQLiteError) { return try body() } catch { throw RemfsError(error, in: label) }
    }

    // MARK: Finding

    func inode(_ number: InodeNumber) throws(RemfsError) -> Inode {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        guard let inode = inodes[number] else { throw RemfsError(.gone, "\(label) has no inode \(number)") }
        return inode
    }

    func directory(_ number: InodeNumber) throws(RemfsError) -> Inode {
        let inode = try inode(number)
        guard inode.isDirectory else { throw RemfsError(.notADirectory, "\(path(of: inode)) is not a directory") }
        return inode
    }

    /// The path of a directory, ending with `/`.
    func directoryPath(_ number: InodeNumber) -> [UInt8] {
        var names: [[UInt8]] = []
        var number = number
        while number != 1, let inode = inodes[number] {
            names.append(inode.name)
            number = inode.parent
        }
        var path = [UInt8(ascii: "/")]
        for name in names.reversed() {
            path += name
            path.append(UInt8(ascii: "/"))
        }
        return path
    }

    /// The path by which a memory is known: of its oldest name; for an unlinked inode the one it had.
    func path(of inode: Inode) -> String {
        if inode.number == 1 { return "/" }
        if inode.parent == 0 { return String(decoding: inode.name, as: UTF8.self) }
        return String(decoding: directoryPath(inode.parent) + inode.name, as: UTF8.self)
    }

    func path(_ name: [UInt8], in parent: Inode) -> String {
        String(decoding: directoryPath(parent.number) + name, as: UTF8.self)
    }

    // MARK: Telling the mounts

    func invalidate(_ invalidation: Invalidation) {
        // One mount and no other: nobody to tell, unless the API makes the change.
        if !origins.isEmpty { pendingInvalidations.append(invalidation) }
    }

    /// Posts what was noted to every mount but the one that made the change itself (`except`; 0: all).
    func postInvalidations(except number: Int) {
        guard !pendingInvalidations.isEmpty else { return }
        for (other, origin) in origins where other != number { origin.post(pendingInvalidations) }
        pendingInvalidations.removeAll(keepingCapacity: true)
    }

    func dropInvalidations() { pendingInvalidations.removeAll(keepingCapacity: true) }

    // MARK: Rules

    /// Whether the store may be changed at all. Mounts and attachments add their own.
    func requireWritable(by caller: Caller) throws(RemfsError) {
        if caller.origin.isReadOnly.load(ordering: .acquiring) { throw RemfsError(.readOnly, "this mount of \(label) is read-only") }
        try requireWritable()
    }

    func requireWritable() throws(RemfsError) {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        if isArchived { throw RemfsError(.readOnly, "\(label) is archived") }
        if policy.access == .readOnly { throw RemfsError(.readOnly, "\(label) is read-only") }
    }
}

/// The statements of the write path, prepared once for each store. SQL that runs seldom stands where it is used.
final class Statements {
    private let writer: Connection
    private var others: [String: Statement] = [:]

    /// A statement that is prepared at its first use. Whoever steps through its rows resets it.
    func cached(_ sql: String) throws(SQLiteError) -> Statement {
        if let statement = others[sql] { return statement }
        let statement = try writer.prepare(sql)
        others[sql] = statement
        return statement
    }

    let begin, commit, rollback: Statement
    let setProperty, noteAnswer: Statement
    let insertInode, updateAttributes, moveInode, moveHead, unlinkInode, settleInode, deleteInode: Statement
    let insertExtent, deleteExtent, deleteSave, extentBytes, replaceExtent: Statement
    let findChunk, insertChunk, addReference, dropReference, chunk, recodeChunk, deleteChunk, dependents: Statement
    let insertVersion, endVersion, versionContent: Statement

    init(_ writer: Connection) throws(SQLiteError) {
        self.writer = writer
        begin = try writer.prepare("BEGIN IMMEDIATE")
        commit = try writer.prepare("COMMIT")
        rollback = try writer.prepare("ROLLBACK")
        setProperty = try writer.prepare("INSERT INTO property (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")
        noteAnswer = try writer.prepare(
            """
            INSERT INTO ledger (slot, mount, request, answer) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (slot) DO UPDATE SET mount = ?2, request = ?3, answer = ?4
            """)
        insertInode = try writer.prepare(
            """
            INSERT INTO inode (number, parent, name, cookie, mode, uid, gid, rdev, flags, size, accessed, modified, changed, content,
                digest, memory, version, memory_created, version_created, author, mount, request)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)
            """)
        updateAttributes = try writer.prepare(
            "UPDATE inode SET mode = ?2, uid = ?3, gid = ?4, accessed = ?5, modified = ?6, changed = ?7 WHERE number = ?1")
        moveInode = try writer.prepare(
            """
            UPDATE inode SET parent = ?2, name = ?3, cookie = ?4, changed = ?5, flags = ?6, author = ?7, memory = ?8, version = ?9,
                memory_created = ?10, version_created = ?11, mount = ifnull(?12, mount), request = ifnull(?13, request) WHERE number = ?1
            """)
        moveHead = try writer.prepare("UPDATE inode SET version = ?2, version_created = ?3 WHERE number = ?1")
        unlinkInode = try writer.prepare(
            "UPDATE inode SET parent = NULL, name = ?2, changed = ?3, author = ?4, memory = ?5 WHERE number = ?1")
        settleInode = try writer.prepare(
            """
            UPDATE inode SET size = ?2, modified = ?3, changed = ?4, content = ?5, digest = ?6, memory = ?7, version = ?8,
                memory_created = ?9, version_created = ?10, author = ?11, accessed = ?12, flags = ?13 WHERE number = ?1
            """)
        deleteInode = try writer.prepare("DELETE FROM inode WHERE number = ?1")
        insertExtent = try writer.prepare(
            """
            INSERT INTO extent (number, inode, kind, start, length, modified, author, bytes, mount, request)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
            """)
        deleteExtent = try writer.prepare("DELETE FROM extent WHERE number = ?1")
        deleteSave = try writer.prepare(
            "DELETE FROM extent WHERE number >= ?1 AND number < ?2 AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.number = extent.number)")
        extentBytes = try writer.prepare("SELECT bytes FROM extent WHERE number = ?1")
        replaceExtent = try writer.prepare("UPDATE extent SET bytes = ?2 WHERE number = ?1")
        findChunk = try writer.prepare("SELECT number, encoding FROM chunk WHERE key = ?1 AND digest = ?2 AND size = ?3")
        insertChunk = try writer.prepare(
            """
            INSERT INTO chunk (number, key, digest, size, encoding, base, refs, sequence, previous)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8)
            """)
        addReference = try writer.prepare("UPDATE chunk SET refs = refs + 1 WHERE number = ?1")
        dropReference = try writer.prepare("UPDATE chunk SET refs = refs - 1 WHERE number = ?1 RETURNING refs")
        chunk = try writer.prepare("SELECT digest, size, encoding, base, refs, sequence, previous FROM chunk WHERE number = ?1")
        recodeChunk = try writer.prepare("UPDATE chunk SET encoding = ?2, base = ?3 WHERE number = ?1")
        deleteChunk = try writer.prepare("DELETE FROM chunk WHERE number = ?1")
        dependents = try writer.prepare("SELECT number FROM chunk WHERE base = ?1")
        insertVersion = try writer.prepare(
            """
            INSERT INTO version (number, memory, operation, directory, name, size, digest, content, began, actor, uid, pid, command,
                base, stale, trust, secrets)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                ifnull(?17, (SELECT secrets FROM version WHERE number = ?18)))
            """)
        endVersion = try writer.prepare("UPDATE version SET ended = ?2 WHERE number = ?1")
        versionContent = try writer.prepare("SELECT content, size FROM version WHERE number = ?1")
    }
}
