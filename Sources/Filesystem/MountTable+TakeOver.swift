import Fuse
import Glibc
import Logging
import Storage
import Threads

/// Mounts that outlive this process: what is left for a successor, and going on with what a predecessor left.
extension MountTable {
    // MARK: For a successor

    /// Has the holder keep a mount, from before anybody can use it.
    func keep(_ entry: Entry, _ device: Int32) {
        guard let holder, let memory = entry.memory else { return }
        recordLocks(entry, memory)
        save(entry)
        holder.keep(FuseHold(name: entry.id.description, device: device, memory: memory.descriptor))
    }

    /// Where locks are ours, a successor has to know them.
    private func recordLocks(_ entry: Entry, _ memory: FuseHoldMemory) {
        guard entry.options.coherence == .strict else { return }
        entry.filesystem.locks.record(entry.origin.number, in: LockRecord(memory, logger: logger))
    }

    /// The kernel was greeted: from now on there may be something to go on with.
    func connectionStarted(_ id: MountID, _ connection: FuseConnection) {
        // While it is being taken over it is not in the table, and nothing is new.
        guard let entry = state.withLock({ $0.entries[id] }) else { return }
        entry.state.withLock { $0.handshake = connection.handshake }
        save(entry)
    }

    func save(_ entry: Entry, seen: [Int64: Int64] = [:]) {
        guard let memory = entry.memory else { return }
        do throws(RemfsError) {
            let code = memory.write(try KeptMount(entry, seen: seen).bytes)
            guard code == 0 else { throw RemfsError(.unavailable, "no memory for it", cause: "errno \(code)") }
        } catch {
            logger.error("a mount will end with this process", metadata: ["directory": "\(entry.directory)", "error": "\(error)"])
        }
    }

    /// Leaves all mounts to a successor: nothing is read from now on, and what was read is answered, or will be sent again. This process
    /// is to exit then, and to close nothing: a descriptor that is closed may end a mount.
    package func handOver() {
        state.withLock { $0.isStopping = true }
        workers.leave()
        for entry in state.withLock({ Array($0.entries.values) }) {
            do throws(RemfsError) {
                save(entry, seen: try entry.memories.seen(through: entry.origin))
            } catch {
                // Its writers are then taken for such as have seen nothing, which makes no write stale that is not.
                logger.warning(
                    "what a mount has seen is not handed over", metadata: ["directory": "\(entry.directory)", "error": "\(error)"])
            }
        }
    }

    // MARK: From a predecessor

    /// A mount that a predecessor has served.
    private struct Left: Sendable {
        let hold: FuseHold
        let kept: KeptMount
        let handshake: FuseConnection.Handshake
    }

    private typealias Taken = (entry: Entry, connection: FuseConnection)

    /// How many stores are opened at the same time: opening one waits for the disk about half of the time.
    private static let openers = 4

    /// Goes on with every mount that the holder has kept. Of one store all mounts are there, and what callers wait for in them is answered,
    /// before anything new is read; one store waits for no other, and those with nobody waiting come last.
    func takeOver(usesResend: Bool) {
        guard let holder, !holder.inherited.isEmpty else { return }
        stores.takeOver(true)
        let (left, ungreeted) = understood(holder.inherited)
        // What was read and not answered is sent again from here on: then it is seen where somebody waits.
        let isResent = usesResend && resend(left.joined())
        // It comes from the kernel.
        if isResent { holder.inbox?.clear() }
        let (taken, answered) = isResent ? takeOverMostUrgentFirst(left) : takeOverTogether(left)
        stores.takeOver(false)
        // Unlinked files that nobody has open may go now.
        for (entry, _) in taken { entry.memories.maintainSoon() }
        // Only now: a worker that begins would write over what the ledger says of requests that are not answered.
        for kept in ungreeted { mountAnew(kept) }
        logger.notice("mounts taken over", metadata: ["mounts": "\(taken.count)", "answered": "\(answered)"])
    }

    /// By store, what predecessors have served, and those whose kernel was never greeted: nobody has anything open there, and what waits in
    /// them may as well ask anew.
    private func understood(_ holds: [FuseHold]) -> (left: [[Left]], ungreeted: [KeptMount]) {
        let found = Mutex((left: [StoreID: [Left]](), ungreeted: [KeptMount]()))
        Thread.forEach(holds, threads: Self.openers, named: "remfs-take") { hold in
            do throws(RemfsError) {
                let kept = try KeptMount(FuseHoldMemory(hold.memory))
                if let handshake = kept.fuseHandshake {
                    let mount = Left(hold: hold, kept: kept, handshake: handshake)
                    found.withLock { $0.left[kept.store, default: []].append(mount) }
                } else {
                    self.abandon(hold)
                    found.withLock { $0.ungreeted.append(kept) }
                }
            } catch {
                self.logger.error("cannot go on with a mount", metadata: ["mount": "\(hold.name)", "error": "\(error)"])
                self.abandon(hold)
            }
        }
        return found.withLock { (Array($0.left.values), $0.ungreeted) }
    }

    /// Has the kernel send again what was read and not answered: false where it cannot.
    private func resend(_ left: some Sequence<Left>) -> Bool {
        for mount in left {
            let code = FuseConnection.requestResend(mount.hold.device)
            if code == EINVAL { return false }
            // Unmounted meanwhile.
            if code != 0 { logger.notice("a mount has ended", metadata: ["directory": "\(mount.kept.directory)", "errno": "\(code)"]) }
        }
        return true
    }

    private func takeOverMostUrgentFirst(_ left: [[Left]]) -> (taken: [Taken], answered: Int) {
        let remaining = Mutex(left)
        let sum = Mutex((taken: [Taken](), answered: 0))
        // Those who take over have one place in the inbox together.
        let answering = Mutex(())
        Thread.forEach(Array(left.indices), threads: Self.openers, named: "remfs-take") { _ in
            let taken = self.adopt(remaining.withLock { Self.takeMostUrgent(&$0) })
            // In their order, and before any new request is read: what was committed is known from the ledger alone.
            let answered = answering.withLock { _ in self.answerResent(taken) }
            self.serve(taken)
            sum.withLock { sum in
                sum.taken += taken
                sum.answered += answered
            }
        }
        return sum.withLock { $0 }
    }

    /// Where the kernel sends nothing again: what stands in the inbox is of all mounts.
    private func takeOverTogether(_ left: [[Left]]) -> (taken: [Taken], answered: Int) {
        let taken = left.map { adopt($0) }
        let answered = answerLeft(Array(taken.joined()))
        for mounts in taken { serve(mounts) }
        return (Array(taken.joined()), answered)
    }

    /// Takes out the mounts of one store: where somebody waits, or has begun to meanwhile, if there is any such.
    private static func takeMostUrgent(_ remaining: inout [[Left]]) -> [Left] {
        let devices = remaining.enumerated().flatMap { place, left in left.map { (place: place, device: $0.hold.device) } }
        let place = FuseConnection.firstReadable(devices.map(\.device)).map { devices[$0].place } ?? 0
        remaining.swapAt(place, remaining.count - 1)
        return remaining.removeLast()
    }

    private func adopt(_ left: [Left]) -> [Taken] {
        left.compactMap { mount -> Taken? in
            do throws(RemfsError) { return try adopt(mount.kept, mount.hold, mount.handshake) } catch {
                logger.error("cannot go on with a mount", metadata: ["directory": "\(mount.kept.directory)", "error": "\(error)"])
                abandon(mount.hold)
                return nil
            }
        }
    }

    /// From here on the mounts of one store are served as ever.
    private func serve(_ taken: [Taken]) {
        // Before anything new is noted in its place.
        if let memories = taken.first?.entry.memories {
            do throws(RemfsError) { try memories.forgetAnswers() } catch {
                // Nobody asks for them any more. They go with the next take-over, or one of its mount's end.
                logger.warning("answers to earlier requests remain in a store", metadata: ["store": "\(memories.id)", "error": "\(error)"])
            }
        }
        for (entry, connection) in taken {
            // The kernel remembers whether it may leave OPEN out, so it is not asked to find out: the answer would wait behind those who are
            // served already.
            guard workers.add(connection) else { continue }
            watchCloses(entry)
        }
    }

    private func answerResent(_ taken: [Taken]) -> Int {
        var answered = 0
        for (entry, connection) in taken where connection.isAwaited {
            answered += connection.answerResent(holder?.inbox) { unique in
                attempt(entry, unique)
            } survived: { unique in
                entry.memory?.forgetAttempts(at: unique)
            }
        }
        return answered
    }

    private func answerLeft(_ taken: [Taken]) -> Int {
        guard let holder, let inbox = holder.inbox, holder.inheritsInbox else {
            logger.error("the kernel sends nothing again, and nothing else tells what was asked: who waits in a mount waits for ever")
            return 0
        }
        let entries = Dictionary(uniqueKeysWithValues: taken.map { ($0.connection.identity, $0.entry) })
        let connections = Dictionary(uniqueKeysWithValues: taken.map { ($0.connection.identity, $0.connection) })
        return FuseConnection.answerLeft(in: inbox, connections) { connection, unique in
            entries[connection.identity].map { attempt($0, unique) } ?? .answer
        } survived: { connection, unique in
            entries[connection.identity]?.memory?.forgetAttempts(at: unique)
        }
    }

    private func attempt(_ entry: Entry, _ unique: UInt64) -> FuseConnection.Attempt {
        guard let memory = entry.memory, memory.countAttempt(at: unique) >= Self.mostAttempts else { return .answer }
        logger.error("a request that ended several daemons is answered with EIO", metadata: ["directory": "\(entry.directory)"])
        return .giveUp
    }

    /// How often a request is tried again: the first daemon that it ended did not know, and two more may.
    private static let mostAttempts = 2

    private func adopt(
        _ kept: KeptMount, _ hold: FuseHold, _ handshake: FuseConnection.Handshake
    ) throws(RemfsError) -> (Entry, FuseConnection)? {
        let memory = FuseHoldMemory(hold.memory)
        let memories = try stores.retain(kept.store)
        var isServed = false
        defer { if !isServed { stores.release(kept.store) } }
        let locks = state.withLock { state in
            let locks = state.locks[kept.store] ?? LockTable()
            state.locks[kept.store] = locks
            return locks
        }
        let entry = makeEntry(
            kept.id, kept.store, kept.directory, kept.options, memories, kept.origin, locks, kept.mountpoint, memory,
            Timestamp(microseconds: kept.created), kept.owner)
        try memories.attach(entry.origin, seen: kept.seen)
        entry.state.withLock { $0.handshake = handshake }
        // It holds until something else is written here, which no crash can take back.
        if !kept.seen.isEmpty { save(entry) }
        let connection: FuseConnection
        do {
            connection = try FuseConnection(
                filesystem: entry.filesystem, device: hold.device, number: kept.device, identity: UInt64(kept.origin), adopting: handshake)
        } catch {
            // The descriptor went with it.
            logger.error("cannot go on with a mount", metadata: ["directory": "\(kept.directory)", "error": "\(error)"])
            try memories.detach(entry.origin)
            holder?.drop(hold.name)
            close(hold.memory)
            return nil
        }
        entry.filesystem.inodes.ask(connection)
        // Before anybody is answered: whoever waits for a lock must not get what another has.
        recordLocks(entry, memory)
        state.withLock { $0.entries[entry.id] = entry }
        isServed = true
        return (entry, connection)
    }

    private func mountAnew(_ kept: KeptMount) {
        let attempts = kept.attempts ?? 0
        do throws(RemfsError) {
            do { try FuseMountpoint.unmount(Array(kept.directory.utf8), lazily: true) } catch {
                // Killed before it was mounted: nothing to take away.
                guard error.errno == EINVAL else {
                    throw RemfsError(.unavailable, "cannot unmount \(kept.directory)", cause: "\(error)")
                }
            }
            guard attempts < Self.mostAttempts else { throw RemfsError(.internal, "several daemons died of it") }
            _ = try mount(kept.store, at: kept.directory, kept.options, requestedBy: geteuid(), for: kept.owner, attempts: attempts + 1)
        } catch {
            logger.error("cannot mount again", metadata: ["directory": "\(kept.directory)", "error": "\(error)"])
        }
    }

    private func abandon(_ hold: FuseHold) {
        holder?.drop(hold.name)
        hold.close()
    }

    /// Takes away what an earlier run of this state directory's daemon left mounted and nobody serves.
    func clearDeadMounts() throws(RemfsError) {
        let existing: [FuseMountpoint.Existing]
        do {
            existing = try FuseMountpoint.existing()
        } catch {
            throw RemfsError(.unavailable, "cannot list what is mounted", cause: "\(error)")
        }
        let served = Set(state.withLock { $0.entries.values.compactMap(\.mountpoint.number) })
        for mount in existing {
            // Not those that are served already.
            guard !served.contains(mount.number) else { continue }
            // Not a store of ours is another daemon's business, and not even to be asked whether it answers: it may hang.
            guard let store = StoreID(String(decoding: mount.source, as: UTF8.self)) else { continue }
            do throws(RemfsError) {
                _ = try stores.catalog.store(store)
            } catch {
                guard error.code == .notFound else { throw error }
                continue
            }
            guard mount.isDead else { continue }
            let path = String(decoding: mount.path, as: UTF8.self)
            do {
                try FuseMountpoint.unmount(mount.path, lazily: true)
                logger.notice("dead mount of an earlier run cleared", metadata: ["directory": "\(path)", "store": "\(store)"])
            } catch {
                logger.warning("cannot clear a dead mount", metadata: ["directory": "\(path)", "error": "\(error)"])
            }
        }
    }
}
