internal import CFuse
internal import Glibc
internal import Threads

/// Close events of mounts whose OPEN is answered with ENOSYS: who has a file open for writing closes it, and the kernel tells, before
/// `close` returns, through fanotify. One group for all mounts of a process (the kernel allows 128 groups for each user).
///
/// `read` may be called on any thread, one at a time. It asks no file system anything, and waits for none: the events' own descriptors are
/// closed by a thread that nobody waits for. Closing the last one of an unlinked file waits until its dirty pages are written, which is
/// our own server's to do; the thread that serves would wait for itself.
package final class FuseCloseEvents: Sendable {
    /// A file that a writer has closed: its node, and the mount's device number (`FuseMountpoint.number`).
    package struct Close: Sendable, Equatable {
        package let node: NodeID
        package let mount: UInt32
    }

    /// For the holder. It is closed with this object.
    package let group: Int32
    /// Readable from `wake` on.
    private let bell: Int32

    private struct Closing {
        var descriptors: [Int32] = []
        /// The closer waits to be signalled. Otherwise it looks by itself in a moment: in a burst nobody who serves pays for waking it.
        var isAsleep = false
        var isStopping = false
    }
    private let closing = Mutex(Closing())
    private let closingChanged = Condition()

    /// nil where the process may not: it needs CAP_SYS_ADMIN.
    package init?() {
        let group = cfuse_close_events()
        guard group >= 0 else { return nil }
        let bell = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard bell >= 0 else {
            close(group)
            return nil
        }
        self.group = group
        self.bell = bell
        let (closing, changed) = (closing, closingChanged)
        // Ends by itself once the last events are closed after `deinit`.
        _ = Thread("remfs-closer") { Self.closeDescriptors(closing, changed) }
    }

    deinit {
        closing.withLock { $0.isStopping = true }
        closingChanged.signal()
        close(group)
        close(bell)
    }

    private static func closeDescriptors(_ closing: Mutex<Closing>, _ changed: Condition) {
        func take(_ closing: inout Closing) -> [Int32] {
            defer { closing.descriptors = [] }
            closing.isAsleep = false
            return closing.descriptors
        }
        var last = ContinuousClock.now
        var streak = 0
        while true {
            var descriptors = closing.withLock { closing in
                closing.isAsleep = closing.descriptors.isEmpty
                return closing.descriptors.isEmpty ? [] : take(&closing)
            }
            if descriptors.isEmpty {
                descriptors = closing.wait(on: changed, until: { $0.isStopping || !$0.descriptors.isEmpty }, take)
            }
            if descriptors.isEmpty { return }
            for descriptor in descriptors { close(descriptor) }
            streak = ContinuousClock.now - last < .microseconds(500) ? streak + 1 : 0
            if streak > 3 { usleep(burstPause) }
            last = .now
        }
    }

    /// In us: how long a descriptor may stay open in a burst of closes. While one is open, `umount` finds the mount busy.
    private static let burstPause: UInt32 = 500

    /// Hears of closes on the file system at `path`, which must be served already. 0 or an errno. Ends with the mount.
    package func watch(_ path: [UInt8]) -> Int32 {
        unsafe (path + [0]).withUnsafeBytes { unsafe -cfuse_watch_closes(group, $0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
    }

    /// The events that wait. `true`: the kernel had to drop some (only out of memory; the queue has no limit).
    package func read() -> (closes: [Close], dropped: Bool) {
        var closes: [Close] = []
        var dropped = false
        var count: Int32 = 0
        repeat {
            count = unsafe withUnsafeTemporaryAllocation(of: cfuse_close.self, capacity: 64) { buffer -> Int32 in
                let count = unsafe cfuse_read_closes(group, buffer.baseAddress!, 64, &dropped)
                guard count > 0 else { return count }
                let wakes = closing.withLock { closing in
                    for place in 0..<Int(count) { unsafe closing.descriptors.append(buffer[place].descriptor) }
                    defer { closing.isAsleep = false }
                    return closing.isAsleep
                }
                if wakes { closingChanged.signal() }
                for place in 0..<Int(count) where unsafe buffer[place].inode != 0 {
                    unsafe closes.append(Close(node: buffer[place].inode, mount: buffer[place].device_minor))
                }
                return count
            }
        } while count == 64
        return (closes, dropped)
    }

    /// Grows with each event that comes, until `read`: what tells a burst that goes on from one that is over. 0 where the kernel does not say.
    package var waiting: Int { max(0, Int(cfuse_waiting_closes(group))) }

    /// Blocks until an event waits, or `wake` was called; answers whether it was an event.
    package func wait() -> Bool {
        var descriptors = [pollfd(fd: group, events: Int16(POLLIN), revents: 0), pollfd(fd: bell, events: Int16(POLLIN), revents: 0)]
        while unsafe poll(&descriptors, 2, -1) < 0, errno == EINTR {}
        return descriptors[0].revents & Int16(POLLIN) != 0
    }

    /// Ends every wait, from now on.
    package func wake() {
        var one: UInt64 = 1
        // The counter is never read, so it overflows after 2^64 calls.
        _ = unsafe Glibc.write(bell, &one, MemoryLayout<UInt64>.size)
    }
}
