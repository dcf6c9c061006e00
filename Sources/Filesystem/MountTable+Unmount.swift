import Fuse
import Glibc
import Logging
package import Storage
import Threads

/// How mounts end.
extension MountTable {
    /// Ends a mount: what was written is sealed, the directory is free. Throws `busy` while files are open or a shell stands in it,
    /// unless `lazily`: then it goes out of sight at once, and ends with its last user.
    package func unmount(_ id: MountID, lazily: Bool = false) throws(RemfsError) {
        let entry = try entry(id)
        entry.state.withLock { $0.state = .stopping }
        do throws(RemfsError) {
            try entry.memories.takeInCloses(through: entry.origin)
            try detachFromKernel(entry, lazily: lazily)
        } catch {
            entry.state.withLock { $0.state = .mounted }
            throw error
        }
        if !lazily { try waitUntilGone(entry) }
    }

    /// Ends a mount for everybody, also for those who have it in another place, as a container has: they are answered ENOTCONN from now on.
    /// What they had written is kept and sealed.
    package func end(_ id: MountID) throws(RemfsError) {
        let entry = try entry(id)
        entry.state.withLock { $0.state = .stopping }
        do throws(RemfsError) { try end(entry) } catch {
            entry.state.withLock { $0.state = .mounted }
            throw error
        }
    }

    private func end(_ entry: Entry) throws(RemfsError) {
        // What was changed through a mapping is in the kernel alone until somebody asks for it.
        let lost = entry.mountpoint.isMounted ? entry.mountpoint.writeBack() : 0
        if lost != 0 {
            logger.error("last changes through mappings are lost", metadata: ["directory": "\(entry.directory)", "errno": "\(lost)"])
        }
        try entry.memories.takeInCloses(through: entry.origin)
        // Before it is unmounted: after that its number may be another mount's.
        // As long as it has not ended the number is its own, wherever it is by now.
        let code = entry.filesystem.waitUntilEnded(atMost: .zero) ? 0 : entry.mountpoint.abort()
        try detachFromKernel(entry, lazily: true)
        // Its last user ends it then.
        if code != 0, !entry.filesystem.waitUntilEnded(atMost: .milliseconds(100)) {
            throw RemfsError(
                .unavailable, "\(entry.directory) is unmounted, but lives on where it is bound: its connection cannot be ended",
                cause: "errno \(code)")
        }
        try waitUntilGone(entry)
    }

    private func waitUntilGone(_ entry: Entry) throws(RemfsError) {
        guard entry.filesystem.waitUntilEnded(atMost: .seconds(10)) else {
            throw RemfsError(.unavailable, "\(entry.directory) is unmounted, but its connection has not ended")
        }
        connectionEnded(entry.id)
        // Another thread may have been first to hear of the end, and still be sealing.
        let isGone = state.wait(on: entryRemoved, atMost: .seconds(60), until: { $0.entries[entry.id] == nil }) { _, isGone in isGone }
        guard isGone else {
            throw RemfsError(.unavailable, "\(entry.directory) is unmounted, but its saves are still being sealed")
        }
    }

    /// What is not where it was mounted somebody else has unmounted, or moved.
    private func requireUnmounted(_ entry: Entry) throws(RemfsError) {
        let left: [UInt8]?
        do { left = try FuseMountpoint.existing().first { $0.number == entry.mountpoint.number }?.path } catch {
            throw RemfsError(.unavailable, "cannot list what is mounted", cause: "\(error)")
        }
        guard let left else { return }
        let path = String(decoding: left, as: UTF8.self)
        throw RemfsError(
            .unavailable, "what was mounted on \(entry.directory) is now on \(path), where somebody moved it: unmount it there")
    }

    /// A close event that waits to be read holds the mount for a moment: busy is believed only when it lasts.
    private func detachFromKernel(_ entry: Entry, lazily: Bool) throws(RemfsError) {
        for attempt in 0... {
            do {
                try entry.mountpoint.unmount(lazily: lazily)
                return
            } catch {
                if error.errno == EINVAL { return try requireUnmounted(entry) }
                guard error.errno == EBUSY || error.call == "fusermount3" else {
                    throw RemfsError(.unavailable, "cannot unmount \(entry.directory)", cause: "\(error)")
                }
                guard attempt < 20 else {
                    throw RemfsError(
                        .busy, "\(entry.directory) is in use: close its files and leave it, or unmount with --lazy", cause: "\(error)")
                }
                try entry.memories.takeInCloses(through: entry.origin)
                usleep(5_000)
            }
        }
    }

    /// The kernel has ended a connection: by our unmount, someone else's, or an abort.
    func connectionEnded(_ id: MountID) {
        guard let entry = state.withLock({ $0.entries[id] }) else { return }
        let isFirst = entry.state.withLock { state in
            defer { state.isReleased = true }
            return !state.isReleased
        }
        guard isFirst else { return }
        if let memory = entry.memory {
            holder?.drop(entry.id.description)
            close(memory.descriptor)
        }
        if let number = entry.mountpoint.number { closes?.forget(mount: number) }
        do {
            try entry.memories.detach(entry.origin)
        } catch {
            logger.error("cannot seal at the end of a mount", metadata: ["store": "\(entry.store)", "error": "\(error)"])
        }
        state.withLock { state in
            state.entries[id] = nil
            Self.add(entry.filesystem.counters.rows, to: &state.past)
        }
        entryRemoved.broadcast()
        stores.release(entry.store)
        logger.notice("unmounted", metadata: ["store": "\(entry.store)", "directory": "\(entry.directory)"])
    }

    /// How many mounts are ended at the same time: the kernel has each unmount wait until no core is inside of the mount, some milliseconds.
    private static let enders = 16

    /// Unmounts everything (lazily what is in use, so that nothing stays mounted) and ends the threads. Call it once.
    package func stop() {
        state.withLock { $0.isStopping = true }
        Thread.forEach(mounts(), threads: Self.enders, named: "remfs-unmount") { self.endAtStop($0) }
        workers.stop()
        for mount in mounts() { connectionEnded(mount.id) }
        chores.stop()
        closes?.stop()
        notifier.stop()
    }

    private func endAtStop(_ mount: Mount) {
        do throws(RemfsError) {
            try unmount(mount.id)
        } catch {
            // Not its message, which advises what is done here.
            logger.warning(
                "mount in use at stop, hidden until its last user leaves",
                metadata: ["directory": "\(mount.directory)", "code": "\(error.code.rawValue)", "cause": "\(error.cause ?? "")"])
            do throws(RemfsError) {
                try unmount(mount.id, lazily: true)
            } catch {
                logger.error("cannot unmount", metadata: ["directory": "\(mount.directory)", "error": "\(error)"])
            }
        }
    }
}
