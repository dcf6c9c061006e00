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

    private func save(_ entry: Entry, seen: [Int64: Int64] = [:]) {
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

    /// Goes on with every mount that the holder has kept: what callers wait for is answered first, then all are served as ever.
    func takeOver(usesResend: Bool) throws(RemfsError) {
        guard let holder, !holder.inherited.isEmpty else { return }
        stores.takeOver(true)
        var taken: [(entry: Entry, connection: FuseConnection)] = []
        var ungreeted: [KeptMount] = []
        for hold in holder.inherited {
            do throws(RemfsError) {
                let kept = try KeptMount(FuseHoldMemory(hold.memory))
                if let handshake = kept.fuseHandshake {
                    if let mount = try adopt(kept, hold, handshake) { taken.append(mount) }
                } else {
                    // Its kernel was never greeted, so nobody has anything open in it, and what waits in it may as well ask anew.
                    abandon(hold)
                    ungreeted.append(kept)
                }
            } catch {
                logger.error("cannot go on with a mount", metadata: ["mount": "\(hold.name)", "error": "\(error)"])
                abandon(hold)
            }
        }
        // One after the other, on this thread, and before any new request is read: what was committed is known from the ledger alone.
        let answered: Int
        if resend(usesResend, taken) {
            // It comes from the kernel.
            holder.inbox?.clear()
            answered = answerResent(taken)
        } else {
            answered = answerLeft(taken)
        }
        stores.takeOver(false)
        for (entry, _) in taken {
            do throws(RemfsError) { try entry.memories.forgetAnswers() } catch {
                // Nobody asks for them any more. They go with the next take-over, or one of its mount's end.
                logger.warning("answers to earlier requests remain in a store", metadata: ["store": "\(entry.store)", "error": "\(error)"])
            }
        }
        for (entry, connection) in taken {
            guard workers.add(connection) else { continue }
            prepare(entry)
        }
        // Only now: a worker that begins would write over what the ledger says of requests that are not answered.
        for kept in ungreeted { mountAnew(kept) }
        logger.notice("mounts taken over", metadata: ["mounts": "\(taken.count)", "answered": "\(answered)"])
    }

    /// Has the kernel send again what was read and not answered: false where it cannot.
    private func resend(_ usesResend: Bool, _ taken: [(entry: Entry, connection: FuseConnection)]) -> Bool {
        guard usesResend else { return false }
        for (entry, connection) in taken {
            let code = connection.requestResend()
            if code == EINVAL { return false }
            // Unmounted meanwhile.
            if code != 0 { logger.notice("a mount has ended", metadata: ["directory": "\(entry.directory)", "errno": "\(code)"]) }
        }
        return true
    }

    private func answerResent(_ taken: [(entry: Entry, connection: FuseConnection)]) -> Int {
        var answered = 0
        for (entry, connection) in taken {
            answered += connection.answerResent(holder?.inbox) { unique in
                attempt(entry, unique)
            } survived: { unique in
                entry.memory?.forgetAttempts(at: unique)
            }
        }
        return answered
    }

    private func answerLeft(_ taken: [(entry: Entry, connection: FuseConnection)]) -> Int {
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
            Timestamp(microseconds: kept.created))
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
            _ = try mount(kept.store, at: kept.directory, kept.options, requestedBy: geteuid(), attempts: attempts + 1)
        } catch {
            logger.error("cannot mount again", metadata: ["directory": "\(kept.directory)", "error": "\(error)"])
        }
    }

    private func abandon(_ hold: FuseHold) {
        holder?.drop(hold.name)
        hold.close()
    }
}
