import Glibc
package import Logging
import struct Synchronization.Atomic
import Threads

/// Every store of a state directory: opened on first use, closed when idle, kept up by threads of its own. Owns the catalog.
///
/// One process at a time: the directory's `lock` file is held while the pool lives. Safe from any thread.
package final class StorePool: Sendable {
    package let catalog: Catalog
    let directory: String
    let logger: Logger
    private let lockFile: Int32
    private let ballast: Ballast
    private let entries = Mutex<[StoreID: Entry]>([:])
    private let upkeep: Upkeep
    private let syncer: Syncer
    let pools = Pools()
    private let willBlock: @Sendable () -> Void
    private let hooks: FaultHooks
    /// Mounts of a predecessor are being taken over: what they have open is not known yet.
    private let isTakingOver = Atomic<Bool>(false)
    /// Stores whose file or row comes first: they are being made or deleted.
    private let unfinished = Mutex<Set<StoreID>>([])
    private let refusals = Refusals()
    /// Told after a store's access may have changed, or the store went: mounts follow.
    private let observers = Mutex<[@Sendable (StoreID) -> Void]>([])

    /// A store that is open, being opened, or wanted by someone. Its own lock, so that opening one delays no other.
    private final class Entry: Sendable {
        struct State {
            var store: MemoryStore?
            /// Monotonic, ns.
            var lastUse: Int64 = 0
            /// Mounts, and calls under way: it is not closed while there are any.
            var users = 0
            var isDeleted = false
        }
        let state = Mutex(State())
    }

    /// How long a store stays open after its last use.
    private static let idleTime: Int64 = 60_000_000_000

    /// Opens the state directory, or makes it.
    ///
    /// - Parameter willBlock: called by a thread that is about to wait for a lock or the disk (`FuseWorkers.willBlock`).
    /// - Throws: `readOnly`, `notPermitted`, `noSpace`, `busy` (another daemon has it), `unsupported` (a newer catalog).
    package init(
        stateDirectory: String, logger: Logger, hooks: FaultHooks = FaultHooks(), willBlock: @escaping @Sendable () -> Void = {}
    ) throws(RemfsError) {
        directory = stateDirectory
        self.logger = logger
        self.willBlock = willBlock
        self.hooks = hooks
        for path in [stateDirectory, stateDirectory + "/stores", stateDirectory + "/orphans"] { try Self.makeDirectory(path) }
        let lockFile = try Self.lock(stateDirectory)
        do throws(RemfsError) {
            catalog = try Self.openCatalog(in: stateDirectory)
            try Self.moveOrphans(in: stateDirectory, notIn: catalog, logger)
            try Self.clearSpool(in: stateDirectory)
        } catch {
            Glibc.close(lockFile)
            throw error
        }
        self.lockFile = lockFile
        ballast = Ballast(path: stateDirectory + "/ballast")
        upkeep = Upkeep(logger: logger)
        syncer = Syncer()
        upkeep.start(self)
    }

    private static func openCatalog(in directory: String) throws(RemfsError) -> Catalog {
        let path = directory + "/catalog.sqlite"
        let isNew = try isMissingOrEmpty(path)
        // A new catalog knows no store, and what is in no catalog is moved aside: that is not to happen to all of them.
        if isNew, case let count = try names(in: directory + "/stores").count(where: { $0.hasSuffix(".sqlite") }), count > 0 {
            throw RemfsError(
                .corrupted,
                """
                the catalog \(path) is missing or empty, but \(directory)/stores holds \(count) stores: run remfs doctor --repair, \
                which restores it from \(Catalog.copy(of: path)), or move the stores away to begin anew
                """)
        }
        return try Catalog(path: path, isNew: isNew)
    }

    /// Empty: a daemon was killed at its first start, before the catalog had a page.
    static func isMissingOrEmpty(_ path: String) throws(RemfsError) -> Bool {
        var status = stat()
        if unsafe stat(path, &status) == 0 { return status.st_size == 0 }
        guard errno == ENOENT else { throw RemfsError.ofSystem("cannot look at the catalog \(path)") }
        return true
    }

    private static func makeDirectory(_ path: String) throws(RemfsError) {
        var part = ""
        for segment in path.utf8.split(separator: UInt8(ascii: "/")) {
            part += "/" + Substring(segment)
            if unsafe mkdir(part, 0o750) != 0, errno != EEXIST { throw RemfsError.ofSystem("cannot make the state directory \(part)") }
        }
        guard unsafe access(path, W_OK) == 0 else { throw RemfsError.ofSystem("cannot write to the state directory \(path)") }
    }

    /// Answers a descriptor that holds the directory until it is closed.
    static func lock(_ directory: String) throws(RemfsError) -> Int32 {
        let file = unsafe open(directory + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw RemfsError.ofSystem("cannot make \(directory)/lock") }
        // One that was killed a moment ago may take a while to be gone.
        for _ in 0..<300 {
            if flock(file, LOCK_EX | LOCK_NB) == 0 { return file }
            usleep(10_000)
        }
        Glibc.close(file)
        throw RemfsError(.busy, "the state directory \(directory) is in use by another remfs daemon")
    }

    /// Files without a row: a store that was being made or deleted when the daemon died. Kept aside, never deleted.
    private static func moveOrphans(in directory: String, notIn catalog: Catalog, _ logger: Logger) throws(RemfsError) {
        let known = try catalog.names()
        for name in try names(in: directory + "/stores") where name.hasSuffix(".sqlite") && !known.contains(String(name.dropLast(7))) {
            for suffix in ["", "-wal"] {
                let from = directory + "/stores/" + name + suffix
                if unsafe access(from, F_OK) == 0, unsafe rename(from, directory + "/orphans/" + name + suffix) != 0 {
                    throw RemfsError.ofSystem("cannot move \(from) to orphans/")
                }
            }
            logger.notice("store file without a row moved aside", metadata: ["file": "\(name)"])
        }
    }

    static func names(in directory: String) throws(RemfsError) -> [String] {
        guard let handle = unsafe opendir(directory) else { throw RemfsError.ofSystem("cannot list \(directory)") }
        defer { unsafe closedir(handle) }
        var names: [String] = []
        while let entry = unsafe readdir(handle) {
            names.append(
                unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe String(cString: $0.bindMemory(to: CChar.self).baseAddress!) })
        }
        return names
    }

    static func allocatedBytes(of path: String) -> Int64 {
        var status = stat()
        return unsafe stat(path, &status) == 0 ? Int64(status.st_blocks) * 512 : 0
    }

    func path(of id: StoreID) -> String { "\(directory)/stores/\(id).sqlite" }

    // MARK: Stores

    package func createStore(name: String, description: String, metadata: Metadata) throws(RemfsError) -> Store {
        try addStore(NewStore(name: name, description: description, metadata: metadata)) { (id) throws(RemfsError) in
            try self.openFile(of: id, name: name, policy: Policy(), isNew: true)
        }
    }

    /// What a new store's row says.
    package struct NewStore: Sendable {
        package var name: String
        package var description: String
        package var metadata: Metadata
        var policy = Policy()

        package init(name: String, description: String = "", metadata: Metadata = [:]) {
            self.name = name
            self.description = description
            self.metadata = metadata
        }
    }

    /// Opens the file of a store that is not in use, or makes it.
    func openFile(of id: StoreID, name: String, policy: Policy, isNew: Bool) throws(RemfsError) -> MemoryStore {
        try MemoryStore(
            id: id, name: name, path: path(of: id), policy: policy, isArchived: false, isNew: isNew, environment: environment)
    }

    /// Makes a store: first its file, which `make` does and opens, last its row, so that a row always has a file. What fails leaves nothing.
    func addStore(_ new: NewStore, _ make: (StoreID) throws(RemfsError) -> MemoryStore) throws(RemfsError) -> Store {
        let (name, description, metadata) = (new.name, new.description, new.metadata)
        try StoreLimits.check(name: name, description: description, metadata: metadata)
        try StoreLimits.check(pairsOf: metadata)
        let id = StoreID.random()
        unfinished.withLock { _ = $0.insert(id) }
        defer { unfinished.withLock { _ = $0.remove(id) } }
        do throws(RemfsError) {
            let store = try make(id)
            try store.synchronizeNow()
            try Self.synchronizeDirectory(directory + "/stores")
            let entry = Entry()
            entry.state.withLock {
                $0.store = store
                $0.lastUse = StoreState.monotonic()
            }
            // Before the row: whoever finds that finds the store open, and opens no second one on the same file.
            entries.withLock { $0[id] = entry }
            return try catalog.createStore(id, name: name, description: description, metadata: metadata, policy: new.policy)
        } catch {
            entries.withLock { $0[id] = nil }
            removeFiles(of: id)
            // A row that was written and could not be read back; usually there is none.
            try? catalog.deleteStore(id)
            throw error
        }
    }

    static func synchronizeDirectory(_ path: String) throws(RemfsError) {
        let handle = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard handle >= 0 else { throw RemfsError.ofSystem("cannot open \(path)") }
        defer { Glibc.close(handle) }
        guard fsync(handle) == 0 else { throw RemfsError.ofSystem("cannot sync \(path)") }
    }

    /// Archives a store: it can be read, its memories can be deleted, nothing else. Live mounts become read-only.
    package func archiveStore(_ id: StoreID) throws(RemfsError) -> Store {
        let row = try catalog.archiveStore(id)
        try applyRules(row)
        return row
    }

    package func setPolicy(_ id: StoreID, _ policy: Policy) throws(RemfsError) -> Store {
        guard policy.maxBytesPerMemory <= StoreState.maximumFile else {
            throw RemfsError(.invalidArgument, "max_bytes_per_memory can be \(StoreState.maximumFile) (16 GiB) at most")
        }
        try catalog.setPolicy(id, policy)
        let row = try catalog.store(id)
        try applyRules(row)
        return row
    }

    private func applyRules(_ row: Store) throws(RemfsError) {
        let open = entries.withLock { $0[row.id] }?.state.withLock { $0.store }
        try open?.setRules(row.policy, isArchived: row.archived != nil, name: row.name)
        for observer in observers.withLock({ $0 }) { observer(row.id) }
    }

    /// Removes a store for good: first its row, then its file. Mounts of it answer `stale` from now on.
    package func deleteStore(_ id: StoreID) throws(RemfsError) {
        _ = try catalog.store(id)
        unfinished.withLock { _ = $0.insert(id) }
        defer { unfinished.withLock { _ = $0.remove(id) } }
        do throws(RemfsError) {
            try catalog.deleteStore(id)
        } catch {
            guard error.code == .noSpace else { throw error }
            ballast.release()
            try catalog.deleteStore(id)
        }
        let entry = entries.withLock { $0.removeValue(forKey: id) }
        entry?.state.withLock { state in
            state.isDeleted = true
            state.store?.markDeleted()
        }
        removeFiles(of: id)
        for observer in observers.withLock({ $0 }) { observer(id) }
    }

    private func removeFiles(of id: StoreID) {
        for suffix in ["", "-wal", "-shm"] where unsafe unlink(path(of: id) + suffix) != 0 && errno != ENOENT {
            logger.error("cannot delete store file", metadata: ["store": "\(id)", "errno": "\(errno)"])
        }
    }

    /// Tells of changes of access and deletions. The closure is called on the changing thread and must not wait for it.
    package func observe(_ observer: @escaping @Sendable (StoreID) -> Void) { observers.withLock { $0.append(observer) } }

    /// Tells of changes that a store's rules did not let happen. The closure is called on the thread that was refused and must not wait.
    package func observeRefusals(_ observer: @escaping @Sendable (StoreID, RemfsError) -> Void) { refusals.observe(observer) }

    // MARK: Using one

    /// Lends a store, opening it first if need be. Blocks. Throws `notFound`, or why its file cannot be opened.
    package func withStore<Answer>(_ id: StoreID, _ body: (MemoryStore) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        let store = try retain(id)
        defer { release(id) }
        return try body(store)
    }

    /// As `withStore`, until `release`: what a mount does.
    package func retain(_ id: StoreID) throws(RemfsError) -> MemoryStore {
        if let store = retainIfOpen(id) { return store }
        let row = try catalog.store(id)
        let entry = entries.withLock { entries in
            if let entry = entries[id] { return entry }
            let entry = Entry()
            entries[id] = entry
            return entry
        }
        return try entry.state.withLock(whenContended: willBlock) { (state) throws(RemfsError) in
            if state.isDeleted { throw RemfsError(.notFound, "memory store \(id) not found") }
            if state.store == nil {
                let path = path(of: id)
                guard unsafe access(path, F_OK) == 0 else {
                    throw RemfsError(.corrupted, "the file of \(row.label) is missing: run remfs doctor, or restore \(path) from a backup")
                }
                state.store = try MemoryStore(
                    id: id, name: row.name, path: path, policy: row.policy, isArchived: row.archived != nil, isNew: false,
                    environment: environment)
            }
            state.users += 1
            state.lastUse = StoreState.monotonic()
            return state.store!
        }
    }

    /// A store that is open and not deleted: it has its row, so the catalog need not be asked.
    func retainIfOpen(_ id: StoreID) -> MemoryStore? {
        entries.withLock { $0[id] }?.state.withLock(whenContended: willBlock) { state in
            guard let store = state.store, !state.isDeleted else { return nil }
            state.users += 1
            state.lastUse = StoreState.monotonic()
            return store
        }
    }

    package func release(_ id: StoreID) {
        entries.withLock { $0[id] }?.state.withLock { state in
            state.users -= 1
            state.lastUse = StoreState.monotonic()
        }
    }

    /// Whether a store is being made or deleted: its row and its file do not go together yet.
    func isUnfinished(_ id: StoreID) -> Bool { unfinished.withLock { $0.contains(id) } }

    /// Runs a repair of a store's file: of the open store, or of the file while nobody can open it.
    func withStoreOrFile<Answer>(
        _ id: StoreID, open: (MemoryStore) throws(RemfsError) -> Answer, closed: () throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        let entry = entries.withLock { entries in
            if let entry = entries[id] { return entry }
            let entry = Entry()
            entries[id] = entry
            return entry
        }
        let store: MemoryStore?
        let answer: Answer?
        (store, answer) = try entry.state.withLock { (state) throws(RemfsError) in
            if state.isDeleted { throw RemfsError(.notFound, "memory store \(id) not found") }
            guard let store = state.store else { return (nil, try closed()) }
            state.users += 1
            return (store, nil)
        }
        if let answer { return answer }
        defer { release(id) }
        return try open(store!)
    }

    /// - Parameter among: the stores that are counted; nil: all.
    package func statistics(among: Set<StoreID>? = nil) throws(RemfsError) -> (stores: Int, open: Int) {
        let entries = entries.withLock { $0.filter { among?.contains($0.key) ?? true }.values }
        return (try catalog.count(among: among), entries.count { $0.state.withLock { $0.store != nil } })
    }

    private var environment: StoreEnvironment {
        StoreEnvironment(
            willBlock: willBlock, schedule: { [upkeep] in upkeep.schedule($0, needsCheckpoint: $1) },
            synchronize: { [syncer] store, done in syncer.synchronize(store, done) },
            keepsOrphans: { [weak self] in self?.isTakingOver.load(ordering: .acquiring) ?? false }, logger: logger,
            refused: { [refusals] in refusals.tell(of: $1, in: $0) }, stateDirectory: directory, hooks: hooks)
    }

    /// From now on stores are opened for mounts that a predecessor has served, and nothing that their callers may have open is deleted,
    /// until `false` says that those mounts can be asked.
    package func takeOver(_ isUnderWay: Bool) { isTakingOver.store(isUnderWay, ordering: .releasing) }

    // MARK: Upkeep

    /// The store, if it is open.
    func openStore(_ id: StoreID) -> MemoryStore? { entries.withLock { $0[id] }?.state.withLock { $0.store } }

    /// Puts aside again what a full disk has taken.
    func renewBallast() { ballast.renew() }

    /// Closes stores that nobody has used for a minute.
    func closeIdle() {
        let time = StoreState.monotonic()
        let all = entries.withLock { $0 }
        for (id, entry) in all {
            entry.state.withLock { state in
                guard let store = state.store, state.users == 0, time - state.lastUse > Self.idleTime else { return }
                do {
                    try store.close()
                    state.store = nil
                } catch {
                    logger.error("cannot close idle store", metadata: ["store": "\(id)", "error": "\(error)"])
                }
            }
        }
    }

    /// Renews the catalog's copy if it changed; answers whether that was tried.
    @discardableResult
    func copyCatalog(isStopping: Bool = false) -> Bool {
        do {
            return try catalog.copyIfChanged(isStopping: isStopping)
        } catch {
            logger.error("cannot copy the catalog", metadata: ["error": "\(error)"])
            return true
        }
    }

    /// How many stores are closed at the same time: each waits for the disk.
    private static let closers = 8

    /// Ends upkeep and closes every store. Nothing is used afterwards.
    package func close() {
        upkeep.stop()
        pools.stop()
        syncer.stop()
        let all = entries.withLock { $0.map { ($0.key, $0.value) } }
        Thread.forEach(all, threads: Self.closers, named: "remfs-close") { [logger] id, entry in
            entry.state.withLock { state in
                do {
                    try state.store?.close()
                } catch {
                    logger.error("cannot close store", metadata: ["store": "\(id)", "error": "\(error)"])
                }
                state.store = nil
            }
        }
        copyCatalog(isStopping: true)
        do {
            try catalog.close()
        } catch {
            logger.error("cannot close the catalog", metadata: ["error": "\(error)"])
        }
        Glibc.close(lockFile)
    }
}

extension RemfsError {
    /// An errno, by default the one that a system call has just left, with what was tried.
    package static func ofSystem(_ message: String, _ code: Int32 = errno) -> RemfsError {
        let why = unsafe String(cString: strerror(code))
        switch code {
        case ENOENT: return RemfsError(.notFound, "\(message): \(why)", cause: "errno \(code)")
        case EROFS: return RemfsError(.readOnly, "\(message): \(why)", cause: "errno \(code)")
        case EACCES, EPERM: return RemfsError(.notPermitted, "\(message): \(why)", cause: "errno \(code)")
        case ENOSPC, EDQUOT: return RemfsError(.noSpace, "\(message): \(why)", cause: "errno \(code)")
        case EBUSY: return RemfsError(.busy, "\(message): \(why)", cause: "errno \(code)")
        case ENAMETOOLONG: return RemfsError(.nameTooLong, "\(message): \(why)", cause: "errno \(code)")
        case EISDIR: return RemfsError(.isADirectory, "\(message): \(why)", cause: "errno \(code)")
        case EINVAL, ELOOP: return RemfsError(.invalidArgument, "\(message): \(why)", cause: "errno \(code)")
        case EMFILE, ENFILE: return RemfsError(.unavailable, "\(message): \(why); \(moreDescriptors)", cause: "errno \(code)")
        case ENOTDIR: return RemfsError(.notADirectory, "\(message): \(why)", cause: "errno \(code)")
        default: return RemfsError(.unavailable, "\(message): \(why)", cause: "errno \(code)")
        }
    }
}
