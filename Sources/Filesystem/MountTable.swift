import Fuse
import Glibc
package import Logging
package import Storage
import struct Synchronization.Atomic
import Threads

/// Every mount of this daemon: made, changed, ended, and what an earlier run left behind.
///
/// Safe from any thread; mounting and unmounting block for as long as the kernel likes, so never call it on a FUSE worker. One stuck
/// mount delays no other.
package final class MountTable: Sendable {
    /// One mount and everything that serves it.
    final class Entry: Sendable {
        struct State {
            var access: Access
            var state = Mount.State.mounted
            /// The kernel's own read-only bit could not be set yet: a file was open for writing.
            var owesRemount = false
            var isReleased = false
            /// What was agreed with the kernel, once it was greeted.
            var handshake: FuseConnection.Handshake?
        }
        let id: MountID
        let store: StoreID
        let directory: String
        let options: MountOptions
        let created: Timestamp
        let memories: MemoryStore
        /// Whose mount it is; nil: nobody's but the process's that asked for it.
        let owner: Mount.Owner?
        let origin: Origin
        let filesystem: MemoryFilesystem
        let mountpoint: FuseMountpoint
        /// What a successor is told of the mount; nil where none would go on with it.
        let memory: FuseHoldMemory?
        /// `KeptMount.attempts`.
        let attempts: Int
        let state: Mutex<State>

        init(
            id: MountID, store: StoreID, directory: String, options: MountOptions, created: Timestamp, memories: MemoryStore,
            owner: Mount.Owner?, origin: Origin, filesystem: MemoryFilesystem, mountpoint: FuseMountpoint, memory: FuseHoldMemory?,
            attempts: Int
        ) {
            self.attempts = attempts
            self.id = id
            self.store = store
            self.directory = directory
            self.options = options
            self.created = created
            self.memories = memories
            self.owner = owner
            self.origin = origin
            self.filesystem = filesystem
            self.mountpoint = mountpoint
            self.memory = memory
            state = Mutex(State(access: options.access))
        }

        var mount: Mount {
            let (access, state) = state.withLock { ($0.access, $0.state) }
            var options = options
            options.access = access
            return Mount(
                id: id, store: store, session: owner?.session, directory: directory, access: access, options: options, state: state,
                created: created)
        }
    }

    struct State {
        var entries: [MountID: Entry] = [:]
        var locks: [StoreID: LockTable] = [:]
        /// Requests of mounts that have ended, so that counters never fall.
        var past: [PastKey: (count: UInt64, seconds: Double)] = [:]
        var isStopping = false
    }
    struct PastKey: Hashable {
        let operation: String
        let errno: Int32
    }

    let stores: StorePool
    let logger: Logger
    let workers: FuseWorkers
    let notifier: Notifier
    let closes: CloseWatcher?
    private let commands = CommandNames()
    let holder: HolderLink?
    let state = Mutex(State())
    let entryRemoved = Condition()
    /// What may wait for the kernel and nobody waits for: remounts, the end of a mount that someone else unmounted.
    let chores = WorkerPool(count: 1, named: "remfs-mounts")

    /// What a thread calls before it waits: pass this to `StorePool`.
    package static let willBlock: @Sendable () -> Void = { FuseWorkers.willBlock() }

    /// Starts the threads that serve mounts, goes on with what a predecessor has served, and clears dead mounts of this state
    /// directory's stores.
    ///
    /// - Parameters:
    ///   - holder: keeps mounts for a successor; nil: they end with this process.
    ///   - usesResend: false: the kernel is not asked to send anything again, as if it could not.
    package init(stores: StorePool, holder: HolderLink? = nil, usesResend: Bool = true, logger: Logger) throws(RemfsError) {
        self.stores = stores
        self.holder = holder
        self.logger = logger
        workers = FuseWorkers(inbox: holder?.inbox) { stall in
            switch stall.kind {
            case .baton(let operation):
                logger.error("a request held the baton too long", metadata: ["operation": "\(operation)", "seconds": "\(stall.seconds)"])
            case .request(let operation):
                logger.warning("a request takes long", metadata: ["operation": "\(operation)", "seconds": "\(stall.seconds)"])
            case .notification(let abort):
                logger.error("a connection hung and was aborted", metadata: ["seconds": "\(stall.seconds)", "errno": "\(abort)"])
            }
        }
        // Four: mounts whose kernel may keep one of them waiting at the same time.
        notifier = Notifier(count: 4)
        closes = CloseWatcher(logger: logger)
        if closes == nil { logger.notice("no close events without root: a save is sealed after two seconds of quiet") }
        if let closes { holder?.keep(closeEvents: closes.group) }
        takeOver(usesResend: usesResend)
        try clearDeadMounts()
        stores.observe { [weak self] store in self?.accessDidChange(of: store) }
    }

    // MARK: Mounting

    /// libfuse takes one of a process's 1,024 keys of thread-specific data for each session (PTHREAD_KEYS_MAX). The rest are for other
    /// libraries, in a successor as well, which must be able to have as many sessions as its predecessor.
    package static let mostMounts = 1_000

    /// Mounts a store on an empty directory that belongs to `uid` (root may use any). Returns when the mount is live.
    ///
    /// - Parameter owner: the session whose mount it is, and whose changes are made in it.
    ///
    /// Throws `notFound` (store, directory), `notADirectory`, `notEmpty`, `notPermitted`, `busy`, `unavailable` (no /dev/fuse).
    package func mount(
        _ id: StoreID, at directory: String, _ options: MountOptions, requestedBy uid: UInt32, for owner: Mount.Owner? = nil
    ) throws(RemfsError) -> Mount {
        try mount(id, at: directory, options, requestedBy: uid, for: owner, attempts: 0)
    }

    /// - Parameter attempts: `KeptMount.attempts`.
    func mount(
        _ id: StoreID, at directory: String, _ options: MountOptions, requestedBy uid: UInt32, for owner: Mount.Owner?, attempts: Int
    ) throws(RemfsError) -> Mount {
        let place = try MountTarget.open(directory, owner: uid)
        defer { close(place) }
        guard state.withLock({ $0.entries.count }) < Self.mostMounts else {
            throw RemfsError(
                .unavailable,
                """
                the daemon has \(Self.mostMounts) mounts, as many as one can have: end some, or start another daemon with a state directory \
                of its own
                """)
        }
        try DescriptorLimit.requireRoomForMount()
        let memories = try stores.retain(id)
        var isMounted = false
        defer { if !isMounted { stores.release(id) } }
        let (number, locks) = state.withLock { state in
            let locks = state.locks[id] ?? LockTable()
            state.locks[id] = locks
            // Not counted: the ledgers of stores know requests by it, also those of mounts that are long gone.
            return (Int.random(in: 1...1 << 47), locks)
        }
        if state.withLock({ $0.isStopping }) { throw RemfsError(.unavailable, "the daemon is stopping") }
        try requireFree(directory)
        let (mountpoint, device) = try attachToKernel(id, directory, place, options)
        let memory = holder == nil ? nil : FuseHoldMemory()
        let entry = makeEntry(
            MountID.random(), id, directory, options, memories, number, locks, mountpoint, memory, nil, owner, attempts: attempts)
        do throws(RemfsError) {
            try memories.attach(entry.origin)
            state.withLock { $0.entries[entry.id] = entry }
            keep(entry, device)
            try serve(entry, device)
        } catch {
            state.withLock { $0.entries[entry.id] = nil }
            holder?.drop(entry.id.description)
            // Unless its connection has ended by itself meanwhile.
            let isFirst = entry.state.withLock { state in
                defer { state.isReleased = true }
                return !state.isReleased
            }
            if isFirst, let memory = entry.memory { close(memory.descriptor) }
            tryUnmounting(entry)
            throw error
        }
        isMounted = true
        prepare(entry)
        accessDidChange(of: id)
        logger.notice("mounted", metadata: ["store": "\(id)", "directory": "\(directory)", "access": "\(options.access.rawValue)"])
        return entry.mount
    }

    /// Someone else may have unmounted what was there a moment ago: its saves are sealed first.
    private func requireFree(_ directory: String) throws(RemfsError) {
        func earlier(_ state: State) -> Entry? { state.entries.values.first { $0.directory == directory } }
        guard let entry = state.withLock({ earlier($0) }) else { return }
        guard !entry.mountpoint.isMounted else { throw RemfsError(.busy, "\(directory) is a mountpoint already") }
        let isFree = state.wait(on: entryRemoved, atMost: .seconds(60), until: { earlier($0) == nil }) { _, isFree in isFree }
        guard isFree else { throw RemfsError(.busy, "\(directory) is unmounted, but its saves are still being sealed") }
    }

    private func attachToKernel(
        _ id: StoreID, _ directory: String, _ place: Int32, _ options: MountOptions
    ) throws(RemfsError) -> (FuseMountpoint, device: Int32) {
        var kernel = FuseMountpoint.Options()
        kernel.source = Array(id.description.utf8)
        kernel.isReadOnly = options.access == .readOnly
        kernel.forbidsExecution = !options.exec
        // nil: as root all the same.
        kernel.allowsOthers = options.allowsOthers == true ? true : nil
        do {
            return try FuseMountpoint.mount(at: MountTarget.plain(directory), directory: place, kernel)
        } catch {
            let why = error.detail.isEmpty ? unsafe String(cString: strerror(error.errno)) : error.detail
            let code: RemfsError.Code =
                switch error.errno {
                case EBUSY: .busy
                case EPERM, EACCES: .notPermitted
                case ENOENT: error.call.contains("/dev/fuse") ? .unavailable : .notFound
                default: .unavailable
                }
            throw RemfsError(code, "cannot mount on \(directory): \(error.call): \(why)", cause: "errno \(error.errno)")
        }
    }

    /// - Parameter created: nil: now.
    func makeEntry(
        _ mountID: MountID, _ id: StoreID, _ directory: String, _ options: MountOptions, _ memories: MemoryStore, _ number: Int,
        _ locks: LockTable, _ mountpoint: FuseMountpoint, _ memory: FuseHoldMemory?, _ created: Timestamp?,
        _ owner: Mount.Owner?, attempts: Int = 0
    ) -> Entry {
        let inodes = InodeTable()
        let queue = InvalidationQueue(notifier, memory)
        // Where OPEN is answered RELEASE tells of closes; where there are no close events, quiet does.
        var takeClosed: (@Sendable () -> [InodeNumber])?
        if options.coherence == .strict {
            takeClosed = { [] }
        } else if let closes, let number = mountpoint.number {
            takeClosed = { closes.takeClosed(mount: number) }
        }
        let origin = Origin(
            number: number, isReadOnly: options.access == .readOnly, refusesStaleWrites: options.onStaleWrite == .refuse,
            trust: owner?.trust, actor: { uid in owner.map { .session($0.session.description) } ?? .user(uid: uid) },
            process: { [commands] in commands.process(of: $0) },
            takeClosed: takeClosed,
            post: { queue.post(options.concerned(by: $0)) }, holds: { inodes.holds(NodeID($0)) }, drain: { queue.drain($0) },
            isBehind: { queue.isBehind }, time: options.at)
        let filesystem = MemoryFilesystem(
            store: memories, origin: origin, inodes: inodes, invalidations: queue, options: options, locks: locks,
            virtual: virtualFiles(mountID, memories, inodes, options),
            isProtected: holder != nil, logger: logger,
            onStart: { [weak self] in self?.connectionStarted(mountID, $0) }, onEnd: { [weak self] in self?.connectionEnded(mountID) })
        return Entry(
            id: mountID, store: id, directory: directory, options: options, created: created ?? memories.now(), memories: memories,
            owner: owner, origin: origin, filesystem: filesystem, mountpoint: mountpoint, memory: memory, attempts: attempts)
    }

    private func serve(_ entry: Entry, _ device: Int32) throws(RemfsError) {
        do {
            let connection = try FuseConnection(
                filesystem: entry.filesystem, device: device, number: entry.mountpoint.number, identity: UInt64(entry.origin.number))
            guard workers.add(connection) else { throw FuseConnection.Failure.session }
        } catch {
            throw RemfsError(.unavailable, "cannot serve \(entry.directory)", cause: "\(error)")
        }
    }

    /// What needs a mount that answers: close events, and the one OPEN after which the kernel asks for none.
    private func prepare(_ entry: Entry) {
        watchCloses(entry)
        if entry.options.history, entry.options.coherence != .strict {
            let file = unsafe open(entry.directory + "/.remfs/status", O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC)
            if file >= 0 { close(file) }
        }
    }

    /// Hears of closes from now on, where the kernel tells of them.
    func watchCloses(_ entry: Entry) {
        if entry.options.coherence != .strict, let closes, let number = entry.mountpoint.number {
            let memories = entry.memories
            let code = closes.watch(entry.directory, mount: number) { [logger, origin = entry.origin, weak self] in
                do throws(RemfsError) {
                    try memories.takeInCloses(through: origin)
                } catch {
                    logger.error("cannot take in closes", metadata: ["store": "\(memories.id)", "error": "\(error)"])
                }
                self?.remountIfOwed(entry)
            }
            if code != 0 {
                logger.warning("no close events for a mount", metadata: ["directory": "\(entry.directory)", "errno": "\(code)"])
            }
        }
    }

    private func tryUnmounting(_ entry: Entry) {
        do {
            try entry.memories.detach(entry.origin)
            try entry.mountpoint.unmount(lazily: true)
        } catch {
            logger.error("cannot unmount what failed to start", metadata: ["directory": "\(entry.directory)", "error": "\(error)"])
        }
    }

    // MARK: Looking

    package func mounts() -> [Mount] {
        state.withLock { Array($0.entries.values) }.map(\.mount).sorted { ($0.created, $0.directory) < ($1.created, $1.directory) }
    }

    package func mounts(of session: SessionID) -> [Mount] {
        state.withLock { $0.entries.values.filter { $0.owner?.session == session } }.map(\.mount)
    }

    package func mount(_ id: MountID) throws(RemfsError) -> Mount { try entry(id).mount }

    func entry(_ id: MountID) throws(RemfsError) -> Entry {
        guard let entry = state.withLock({ $0.entries[id] }) else { throw RemfsError(.notFound, "mount \(id) not found") }
        return entry
    }

    /// Requests that the kernel has sent on one mount, by operation.
    package func requestCounts(_ id: MountID) throws(RemfsError) -> [String: UInt64] { try entry(id).filesystem.counters.totals }

    /// Requests on all mounts since the daemon started, by operation and errno.
    package func operationCounts() -> [OperationCounters.Row] {
        let (entries, past) = state.withLock { (Array($0.entries.values), $0.past) }
        var sums = past
        for entry in entries { Self.add(entry.filesystem.counters.rows, to: &sums) }
        return sums.map {
            OperationCounters.Row(operation: $0.key.operation, errno: $0.key.errno, count: $0.value.count, seconds: $0.value.seconds)
        }
        .sorted { ($0.operation, $0.errno) < ($1.operation, $1.errno) }
    }

    static func add(_ rows: [OperationCounters.Row], to sums: inout [PastKey: (count: UInt64, seconds: Double)]) {
        for row in rows {
            let old = sums[PastKey(operation: row.operation, errno: row.errno)] ?? (0, 0)
            sums[PastKey(operation: row.operation, errno: row.errno)] = (old.count + row.count, old.seconds + row.seconds)
        }
    }

    /// What `.remfs/status` says.
    func status(of id: MountID) -> String {
        guard let entry = state.withLock({ $0.entries[id] }), let store = try? stores.catalog.store(entry.store) else { return "" }  // gone
        let space = entry.memories.space()
        let mount = entry.mount
        let access = entry.origin.isReadOnly.load(ordering: .acquiring) || entry.memories.access == .readOnly ? "read_only" : "read_write"
        return """
            store: \(store.name)
            store_id: \(store.id)
            mount_id: \(mount.id)
            session_id: \(mount.session?.description ?? "none")
            directory: \(mount.directory)
            access: \(access)
            coherence: \(mount.options.coherence.rawValue)
            on_stale_write: \(mount.options.onStaleWrite.rawValue)
            bytes: \(space.usedBytes)
            inodes: \(space.files)
            inodes_known_to_kernel: \(entry.filesystem.inodes.count)

            """
    }

    // MARK: Read-only

    /// Switches a live mount. When this returns, no later write of it is acknowledged (or, the other way, any may be).
    package func setAccess(_ id: MountID, _ access: Access) throws(RemfsError) -> Mount {
        let entry = try entry(id)
        try entry.requireSwitch(to: access)
        entry.state.withLock { $0.access = access }
        entry.origin.isReadOnly.store(access == .readOnly, ordering: .sequentiallyConsistent)
        // Whoever was let through before holds the store's lock, or has been answered.
        _ = entry.memories.access
        // A successor goes on with what holds now.
        save(entry)
        remount(entry)
        logger.notice("access changed", metadata: ["directory": "\(entry.directory)", "access": "\(access.rawValue)"])
        return entry.mount
    }

    /// A store's own rules changed: its mounts' superblocks follow.
    private func accessDidChange(of store: StoreID) {
        for entry in state.withLock({ $0.entries.values.filter { $0.store == store } }) { remount(entry) }
    }

    private func remountIfOwed(_ entry: Entry) {
        guard entry.state.withLock({ $0.owesRemount }) else { return }
        chores.submit { self.remount(entry) }
    }

    /// Has the kernel's own read-only bit follow, so that `open` says EROFS already. Without root, or while a file is open for writing,
    /// writes are refused all the same.
    private func remount(_ entry: Entry) {
        guard geteuid() == 0 else { return }
        let isReadOnly = entry.origin.isReadOnly.load(ordering: .acquiring) || entry.memories.access == .readOnly
        do {
            try entry.mountpoint.remount(readOnly: isReadOnly)
            entry.state.withLock { $0.owesRemount = false }
        } catch {
            let isBusy = error.errno == EBUSY
            entry.state.withLock { $0.owesRemount = isBusy && isReadOnly }
            if !isBusy, entry.state.withLock({ $0.state }) == .mounted {
                logger.warning("cannot remount", metadata: ["directory": "\(entry.directory)", "errno": "\(error.errno)"])
            }
        }
    }
}
