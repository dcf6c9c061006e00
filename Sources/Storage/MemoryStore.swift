import Glibc
import Logging
import SQLite
import Threads

/// One store: a POSIX tree and its history in one SQLite file. Whoever changes a memory, a mount, a request or a dream, ends here.
///
/// All of it is synchronous and may block; call it from threads that may (`StorePool.perform`, FUSE workers). Safe from any thread:
/// changes take the store's lock, reads of content take a reading connection without it.
package final class MemoryStore: Sendable {
    package let id: StoreID
    let path: String
    let state: Mutex<StoreState>
    let readers: ReaderPool
    let environment: StoreEnvironment
    /// The WAL: what `fsync` on a file waits for.
    let journal: JournalFile
    /// Versions that were sealed, for those who wait for the next.
    private let newest: Mutex<Int64>
    private let versionAdded = Condition()
    let checkpointer: Mutex<Connection>
    /// Held while a large save is made ready to be sealed; taken before the store's lock.
    let preparing = Mutex(())
    /// Held while the file is cleaned after redactions; taken before the locks of checkpoints and of the store.
    let scrubbing = Mutex(())
    /// Held while the search index takes in versions; taken before the store's lock.
    let indexing = Mutex(())

    /// Opens a store's file, or makes it. Throws `corrupted`, `unsupported` (a newer schema), `noSpace` and the like with a message
    /// that says which store, what is wrong and what to do.
    init(
        id: StoreID, name: String, path: String, policy: Policy, isArchived: Bool, isNew: Bool, environment: StoreEnvironment
    ) throws(RemfsError) {
        self.id = id
        self.path = path
        self.environment = environment
        let label = "store \"\(name)\" (\(id))"
        let writer = try RemfsError.mapping(label) { () throws(SQLiteError) in
            try Connection(path: path, mode: isNew ? .create : .readWrite)
        }
        try Schema.migrate(writer, named: label, application: Schema.storeApplicationID, migrations: Schema.store, isNew: isNew)
        // Checkpoints run on a thread of their own. Between them the journal keeps its size, since writing over what is there costs half of
        // appending; above the limit it shrinks when it starts over, and an idle store's is emptied (`tidy`).
        let pragmas = "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 33554432; PRAGMA cache_size = -16384;"
        try RemfsError.mapping(label) { () throws(SQLiteError) in try writer.execute(pragmas) }
        let state = try StoreState(id: id, label: label, policy: policy, isArchived: isArchived, writer: writer)
        state.willBlock = environment.willBlock
        state.clockOffset = environment.hooks.clockOffset
        if isNew { try Self.makeRoot(state) }
        try state.load(keepingOrphans: environment.keepsOrphans())
        checkpointer = Mutex(
            try RemfsError.mapping(label) { () throws(SQLiteError) in
                let connection = try Connection(path: path, mode: .readWrite)
                try connection.execute(pragmas)
                return connection
            })
        // After the last pragma: that of checkpoints would take its hook away.
        writer.countFrames()
        guard let journal = JournalFile(path: path + "-wal", sync: environment.syncFile) else {
            throw RemfsError.ofSystem("cannot open the journal of \(label)")
        }
        self.journal = journal
        writer.fault = environment.hooks.beforeStatement
        newest = Mutex(state.lastVersion)
        self.state = Mutex(state)
        readers = ReaderPool(path: path, label: label)
        finishAtOpening()
    }

    /// What a redaction was killed in the middle of is finished before anyone reads. Where that cannot be, as on a full disk, upkeep goes on
    /// with it, and all else goes on as well.
    private func finishAtOpening() {
        guard state.withLock({ $0.scrub.isNeeded }) else { return }
        do throws(RemfsError) {
            // When it was written nobody knows any more.
            let versions = try state.withLock { (state) throws(RemfsError) in try state.redactionsUnderWay() }
            _ = try removeKeptCopies(holding: versions, writtenSince: 0)
            try finishRedactions()
        } catch {
            environment.logger.error("cannot finish a redaction", metadata: ["store": "\(id)", "error": "\(error)"])
            environment.schedule(id, false)
        }
    }

    static func makeRoot(_ state: StoreState) throws(RemfsError) {
        let time = state.now()
        state.root.uid = geteuid()
        state.root.gid = getegid()
        state.root.accessed = time
        state.root.modified = time
        state.root.changed = time
        try state.commit { () throws(SQLiteError) in
            state.statements.setProperty.bind("next", at: 1)
            state.statements.setProperty.bind(2 as Int64, at: 2)
            try state.statements.setProperty.run()
            state.statements.setProperty.bind("store", at: 1)
            state.statements.setProperty.bind(state.id.description, at: 2)
            try state.statements.setProperty.run()
            try state.insert(state.root, memory: nil, author: nil)
        }
    }

    // MARK: The lock

    /// Runs a change under the store's lock and posts what other mounts must forget, before anyone else can change more.
    func change<Answer>(
        by origin: Int = 0, _ body: (StoreState) throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        let (answer, newest, hasWork, isFull): (Answer, Int64, Bool, Bool)
        do throws(RemfsError) {
            (answer, newest, hasWork, isFull) = try state.withLock(whenContended: environment.willBlock) { (state) throws(RemfsError) in
                state.lastActivity = StoreState.monotonic()
                defer { state.postInvalidations(except: origin) }
                let answer = try body(state)
                return (answer, state.lastVersion, state.hasWork, state.needsCheckpoint)
            }
        } catch {
            environment.refused(id, error)
            throw error
        }
        announce(newest)
        if hasWork { environment.schedule(id, isFull) }
        return answer
    }

    /// Runs something that only reads the tree under the store's lock.
    func look<Answer>(_ body: (StoreState) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        try state.withLock(whenContended: environment.willBlock) { (state) throws(RemfsError) in try body(state) }
    }

    func announce(_ version: Int64) {
        let isNewer = newest.withLock { newest in
            defer { newest = max(newest, version) }
            return version > newest
        }
        if isNewer { versionAdded.broadcast() }
    }

    /// Blocks until a version above `number` exists, at most for `timeout`; answers whether one does.
    package func waitForVersion(after number: Int64, timeout: Duration) -> Bool {
        newest.wait(on: versionAdded, atMost: timeout, until: { $0 > number }) { _, held in held }
    }

    // MARK: Mounts

    /// - Parameter seen: what `seen(through:)` answered in a predecessor of this process.
    package func attach(_ origin: Origin, seen: [Int64: Int64] = [:]) throws(RemfsError) {
        try look { (state) throws(RemfsError) in
            state.origins[origin.number] = origin
            if !seen.isEmpty { state.seen[origin.number] = seen }
        }
    }

    /// What a mount was given or wrote, of memories that it could overwrite: by memory, the newest version. What is closed is sealed first.
    package func seen(through origin: Origin) throws(RemfsError) -> [Int64: Int64] {
        try settle()
        return state.withLock { state in (state.seen[origin.number] ?? [:]).filter { $0.key > 0 && $0.value > 0 } }
    }

    /// Ends what a mount left open, and forgets the mount.
    package func detach(_ origin: Origin) throws(RemfsError) {
        try change { (state) throws(RemfsError) in
            state.origins[origin.number] = nil
            state.seen[origin.number] = nil
            for number in state.openSaves {
                if let inode = state.inodes[number], inode.drafts?.saves.last?.origin == origin.number { state.closeSave(of: inode) }
            }
            try state.sealQueued()
        }
    }

    /// The time as versions have it.
    package func now() -> Timestamp { Timestamp(microseconds: state.withLock { $0.now() } / 1_000) }

    /// Takes in the close events of one mount that wait, so that their saves are sealed soon.
    package func takeInCloses(through origin: Origin) throws(RemfsError) {
        try change(by: origin.number) { (state) throws(RemfsError) in try state.takeInCloses(of: origin) }
    }

    /// The last descriptor of a writer was closed, where the mount hears of that in another way than close events.
    ///
    /// - Parameter endsSave: asked with the store's lock held, so that no byte of the next save comes between its answer and the end of
    ///   this one.
    package func closed(_ number: InodeNumber, through origin: Origin, if endsSave: () -> Bool = { true }) throws(RemfsError) {
        try change(by: origin.number) { (state) throws(RemfsError) in
            guard endsSave(), let inode = state.inodes[number], inode.drafts?.saves.last?.origin == origin.number else { return }
            state.closeSave(of: inode)
        }
    }

    /// Takes in the close events that wait and seals what is closed, so that a reader of versions sees every finished save.
    package func settle() throws(RemfsError) {
        // Most of the time there is nothing large, and the lock is taken once.
        while true {
            let isSettled = try change { (state) throws(RemfsError) in
                for origin in state.origins.values { try state.takeInCloses(of: origin) }
                while !state.sealQueue.isEmpty {
                    let waiting = state.sealQueue.count
                    try state.sealBatch(leavesLarge: true)
                    if state.sealQueue.count == waiting { return false }
                }
                return true
            }
            if isSettled { return }
            try sealLarge()
        }
    }

    /// As `settle`. Where there is no room to seal in, a reader sees what is sealed so far: the error is for those who write.
    func settleForReading() throws(RemfsError) {
        do throws(RemfsError) { try settle() } catch { guard error.isOfFullDisk else { throw error } }
    }

    /// Waits until every mount's kernel has forgotten what changed so far, at most a second; false: one is late.
    @discardableResult
    package func drainInvalidations() -> Bool {
        let deadline = ContinuousClock.now + .seconds(1)
        let origins = state.withLock { Array($0.origins.values) }
        // All of them are told meanwhile, also where one makes us wait.
        return origins.reduce(true) { $1.drain(max(.zero, deadline - .now)) && $0 }
    }

    /// Whether a kernel has still to forget something, where there is more than one to speak of.
    package var othersAreBehind: Bool {
        let origins = state.withLock { Array($0.origins.values) }
        return origins.count > 1 && origins.contains { $0.isBehind() }
    }

    // MARK: Durability

    /// Blocks until everything committed so far is on the disk: the WAL is synced, and what was moved out of it was synced before.
    ///
    /// Once this has failed it fails until all of the journal was written again and synced (`JournalFile`). Not to be called with the
    /// store's lock held.
    func synchronizeNow() throws(RemfsError) {
        let failure = journal.synchronize {
            // Neither a commit nor a checkpoint moves the journal's frames meanwhile.
            checkpointer.withLock { _ in state.withLock { journal.rewrite(upTo: $0.writer.committedFrames) } }
        }
        guard failure == 0 else {
            let label = state.withLock { $0.label }
            throw RemfsError(
                .corrupted,
                """
                the disk did not take what was written to \(label): it may be lost when the machine stops. Look for the disk's errors \
                in the kernel's log, make room, and sync again
                """, cause: "the journal of \(path): errno \(failure)")
        }
    }

    /// Calls `done` once everything committed so far is on the disk. Calls that arrive while a sync runs share the next one.
    package func synchronize(_ done: @escaping @Sendable (RemfsError?) -> Void) {
        environment.synchronize(self, done)
    }

    // MARK: Rules

    func setRules(_ policy: Policy, isArchived: Bool, name: String) throws(RemfsError) {
        try look { (state) throws(RemfsError) in
            state.policy = policy
            state.isArchived = isArchived
            state.unversionedNames = UnversionedNames(policy.unversioned)
            state.label = "store \"\(name)\" (\(self.id))"
        }
    }

    /// Whether the store itself takes changes (policy, archive).
    package var access: Access {
        state.withLock { $0.isArchived || $0.isDeleted || $0.policy.access == .readOnly ? .readOnly : .readWrite }
    }

    /// From now on everything answers `gone`: the store was deleted.
    func markDeleted() {
        state.withLock { state in
            state.isDeleted = true
            for origin in state.origins.values { origin.post([.attributes(1)]) }
        }
    }

    // MARK: Upkeep

    /// Has the upkeep threads look at the store in a moment.
    package func maintainSoon() { environment.schedule(id, false) }

    /// What the upkeep threads do: seals, removals, deltas, orphans. Answers when to come again (monotonic, ns), or nil if nothing
    /// waits. Called by one thread at a time.
    func maintain() throws(RemfsError) -> Int64? {
        // For a moment only: where somebody always waits, seals still have their turn.
        for _ in 0..<50 where state.isAwaited { usleep(20) }
        try sealLarge()
        let time = StoreState.monotonic()
        // A seal waits for 3 ms of quiet, so that it does not stand in the way of a burst, but at most for 2 s, and not while memory fills.
        // Then it goes on bit by bit between the others' changes until nothing waits.
        let next = try state.withLock { (state) throws(RemfsError) -> Int64? in
            defer { state.postInvalidations(except: 0) }
            let isQuiet = time - state.lastActivity > 3_000_000
            if !isQuiet, !state.sealQueue.isEmpty {
                if state.sealWaitsSince == 0 { state.sealWaitsSince = time }
                guard time - state.sealWaitsSince > 2_000_000_000 || state.openGroups.count > StoreState.mostWaiting else {
                    return state.lastActivity + 3_000_000 + 1
                }
                try state.sealBatch(atMost: 16, leavesLarge: true)
                if !state.sealQueue.isEmpty { return time + 1_000_000 }
            }
            state.sealWaitsSince = 0
            state.closeQuietSaves(at: time)
            try state.sealBatch(leavesLarge: true)
            if !state.sealQueue.isEmpty { return time }
            try state.sealRemovals(all: false)
            state.removeEmptiedDirectories()
            return state.nextDue(after: time)
        }
        announce(state.withLock { $0.lastVersion })
        try removeOrphans()
        try trimPast()
        return next
    }

    private func removeOrphans() throws(RemfsError) {
        let time = StoreState.monotonic()
        let (orphans, origins) = state.withLock { state -> (Set<InodeNumber>, [Origin]) in
            // Looking through thousands of them is not for every seal.
            guard time - state.orphansSeen > 500_000_000 else { return ([], []) }
            state.orphansSeen = time
            return (state.orphans, Array(state.origins.values))
        }
        guard !orphans.isEmpty, !environment.keepsOrphans() else { return }
        // Asked without the store's lock: the mounts have locks of their own.
        let held = orphans.filter { number in origins.contains { $0.holds(number) } }
        try state.withLock { (state) throws(RemfsError) in
            // Only those that were asked for: one unlinked meanwhile waits for the next round.
            try state.deleteOrphans { held.contains($0) || !orphans.contains($0) }
        }
    }

    /// What can wait for a quiet second: deltas, directory times, free pages, the WAL. Answers whether more is left.
    ///
    /// - Parameter isIdle: nothing has changed for long: the WAL's file is emptied as well, which holds others up for 10 ms.
    func tidy(isIdle: Bool) throws(RemfsError) -> Bool {
        let began = StoreState.monotonic()
        // Bit by bit, and no further once somebody works here again.
        func goesOn() -> Bool {
            !state.isAwaited && state.withLock { $0.lastActivity } < began && StoreState.monotonic() - began < 200_000_000
        }
        var hasMore = true
        while hasMore {
            guard goesOn() else { return true }
            hasMore = try state.withLock { (state) throws(RemfsError) in try state.encodeDeltas(atMost: 4) }
        }
        try state.withLock { (state) throws(RemfsError) in try state.writeDirectoryTimes() }
        guard try goOnWithRedactions() else { return true }
        guard try catchUpIndex(goesOn: goesOn) else { return true }
        while try state.withLock({ (state) throws(RemfsError) in try state.freePages(atMost: 64) }) {
            guard goesOn() else { return true }
        }
        try checkpoint(empties: isIdle)
        try state.withLock { (state) throws(RemfsError) in try state.beginJournal() }
        return false
    }

    /// An online copy: a single SQLite file at `destination`, which must not exist.
    package func backup(to destination: String) throws(RemfsError) {
        guard unsafe Glibc.access(destination, F_OK) != 0 else { throw RemfsError(.pathConflict, "\(destination) exists") }
        try settleForReading()
        do throws(RemfsError) {
            try readers.read { (reader) throws(SQLiteError) in try reader.connection.backup(to: destination) }
        } catch {
            guard error.code == .noSpace else { throw error }
            let label = state.withLock { $0.label }
            throw RemfsError(
                .noSpace, "the disk of \(destination) has no room for a backup of \(label): nothing was kept of it", cause: error.cause)
        }
    }

    /// Seals everything and empties the WAL. The store is not used afterwards.
    func close() throws(RemfsError) {
        try state.withLock { (state) throws(RemfsError) in
            for number in state.openSaves { if let inode = state.inodes[number] { state.closeSave(of: inode) } }
            try state.sealQueued()
            try state.sealRemovals(all: true)
            state.removeEmptiedDirectories()
            try state.writeDirectoryTimes()
        }
        readers.close()
        try checkpoint(empties: true)
        // Directories and files hold each other through their names only downwards; nothing to untie.
    }
}

/// What a store needs of the process around it.
struct StoreEnvironment: Sendable {
    /// Called by a thread that is about to wait: a FUSE worker passes its baton on.
    var willBlock: @Sendable () -> Void
    /// Asks for `maintain` of a store soon, and with `true` for a checkpoint at once. Cheap when it was asked for already.
    var schedule: @Sendable (StoreID, Bool) -> Void
    var synchronize: @Sendable (MemoryStore, @escaping @Sendable (RemfsError?) -> Void) -> Void
    /// Whether unlinked files are to be kept though no mount is known to have them open.
    var keepsOrphans: @Sendable () -> Bool
    var logger: Logger
    /// Hears of each change that failed, for whatever reason.
    var refused: @Sendable (StoreID, RemfsError) -> Void = { _, _ in }
    /// Where spool files are; nil: there are none.
    var stateDirectory: String?
    var hooks = FaultHooks()
    /// fdatasync(2), or what a test has in its place.
    var syncFile: @Sendable (Int32) -> Int32 = { fdatasync($0) }
}

extension StoreState {
    var hasWork: Bool {
        !sealQueue.isEmpty || !removals.isEmpty || leftRemovals != nil || !openSaves.isEmpty || !orphans.isEmpty || uncheckpointed > 0
    }

    /// Gives free pages back to the disk. A page or two are no reason to write; an eighth of the file is. Answers whether more are left.
    func freePages(atMost most: Int64) throws(RemfsError) -> Bool {
        try query { () throws(SQLiteError) in
            let free = try writer.integer("PRAGMA freelist_count") ?? 0
            let pages = try writer.integer("PRAGMA page_count") ?? 0
            guard free > 64, free * 8 > pages else { return false }
            try writer.execute("PRAGMA incremental_vacuum(\(most))")
            return true
        }
    }

    /// Begins the journal anew: the first transaction after a checkpoint waits for the disk, and that is not to be somebody's save.
    func beginJournal() throws(RemfsError) { try promiseNumbers(upTo: reserved) }

    /// Takes in closes that wait and seals them.
    func settle() throws(RemfsError) {
        for origin in origins.values { try takeInCloses(of: origin) }
        try sealQueued()
    }

    /// Saves whose writer still has the file open: sealed after 30 s, or after 2 s of quiet where no close can be heard of.
    /// A truncation alone waits for its writer's first byte: `slow_cmd > notes.md` is one version.
    func closeQuietSaves(at time: Int64) {
        // There may be thousands of them, and this is asked every few milliseconds.
        guard time >= quietDue else { return }
        // None that is opened from now on is due before.
        quietDue = time + 2_000_000_000
        for number in openSaves {
            guard let inode = inodes[number], let save = inode.drafts?.saves.last, !save.isClosed else {
                openSaves.remove(number)
                continue
            }
            let hearsCloses = origins[save.origin]?.takeClosed != nil
            if hearsCloses, save.isTruncationOnly { continue }
            let due =
                hearsCloses
                ? save.opened + 30_000_000_000 : save.lastChange + (save.isTruncationOnly ? 30_000_000_000 : 2_000_000_000)
            if due < time { closeSave(of: inode) } else { quietDue = min(quietDue, due) }
        }
    }

    func nextDue(after time: Int64) -> Int64? {
        var due: Int64?
        func consider(_ candidate: Int64) { due = min(due ?? .max, candidate) }
        if let removal = nextRemovalDue { consider(removal) }
        if !openSaves.isEmpty { consider(quietDue) }
        if !orphans.isEmpty { consider(time + 1_000_000_000) }
        return due.map { max($0, time + 1_000_000) }
    }
}
