internal import CFuse
internal import Glibc
internal import Threads

/// What the kernel is told without having asked.
///
/// Each call returns an errno: 0, or ENOENT when the kernel does not know the inode or name (any more), which is normal, or ENOTCONN
/// when the connection is over. Each may wait in the kernel for a page or a directory that a request of this connection holds until it
/// is answered. So call them with no lock held that a `FuseFilesystem` method takes, and on a thread that is no worker. They take no lock
/// of ours.
extension FuseConnection {
    /// The descriptor of `/dev/fuse`. Whoever else holds it open keeps the connection alive when this process has ended.
    package var descriptor: Int32 { device }

    /// Makes the calling thread one that only notifies: it has none of the process's descriptors any more, but those that `notifying`
    /// lends it. If the process is killed while the kernel keeps this thread waiting, everything else that was open is closed at once:
    /// locks of files as well, which a successor needs.
    ///
    /// - Returns: an errno.
    package static func beNotifier() -> Int32 { cfuse_leave_descriptors() }

    /// Runs `body`, which notifies this connection, on a thread that is a notifier. False, and nothing was run, if the connection is over.
    package func notifying(_ body: () -> Void) -> Bool {
        guard enter() else { return false }
        defer { leave() }
        let descriptor = cfuse_fetch_descriptor(device)
        guard descriptor >= 0 else { return false }
        unsafe cfuse_set_own_descriptor(unsafe Unmanaged.passUnretained(self).toOpaque(), descriptor)
        body()
        cfuse_set_own_descriptor(nil, -1)
        // Kept, it would have the kernel believe that someone still serves.
        Glibc.close(descriptor)
        return true
    }

    /// Drops the attributes of `node`, and of its content `length` bytes from `offset`; for a directory its cached listing.
    ///
    /// - Parameter length: 0 is up to the end; below 0 drops the attributes only.
    package func invalidate(_ node: NodeID, offset: Int64 = 0, length: Int64 = 0) -> Int32 {
        let body = fuse_notify_inval_inode_out(ino: node, off: length < 0 ? -1 : offset, len: max(length, 0))
        return unsafe notify(FUSE_NOTIFY_INVAL_INODE, body)
    }

    /// Drops what the kernel knows under `name` in `parent`: an inode, or that there is none.
    package func invalidateName(_ name: UnsafeRawBufferPointer, in parent: NodeID) -> Int32 {
        let body = fuse_notify_inval_entry_out(parent: parent, namelen: UInt32(name.count), flags: 0)
        return unsafe notify(FUSE_NOTIFY_INVAL_ENTRY, body, name: name)
    }

    /// Says that `name` in `parent`, which was `child`, is deleted: as `invalidateName`, and watchers (inotify) hear of it. Where another
    /// inode has the name by now nobody hears of it and ENOENT is returned; for a directory that the kernel believes full ENOTEMPTY.
    package func notifyDelete(_ name: UnsafeRawBufferPointer, in parent: NodeID, child: NodeID) -> Int32 {
        let body = fuse_notify_delete_out(parent: parent, child: child, namelen: UInt32(name.count), padding: 0)
        return unsafe notify(FUSE_NOTIFY_DELETE, body, name: name)
    }

    /// Puts `bytes` into the page cache of `node`. Beyond the end of the file as the kernel knows it they make it longer.
    package func store(_ bytes: UnsafeRawBufferPointer, in node: NodeID, offset: UInt64) -> Int32 {
        let body = fuse_notify_store_out(nodeid: node, offset: offset, size: UInt32(bytes.count), padding: 0)
        return unsafe notify(FUSE_NOTIFY_STORE, body, data: bytes)
    }

    /// Ends the connection from this side: whoever waits for an answer gets ECONNABORTED, later callers ENOTCONN. The workers notice, so
    /// `connectionDidEnd` follows. The mount remains, dead, until it is unmounted.
    ///
    /// - Returns: an errno; ENOTCONN if it is over already, ENOENT if it has no number, EACCES without the right.
    package func abort() -> Int32 {
        guard let number else { return ENOENT }
        guard enterUnlessOver() else { return ENOTCONN }
        defer { leave() }
        // The number of what is unmounted may by now be another mount's.
        var state = pollfd(fd: device, events: 0, revents: 0)
        guard unsafe poll(&state, 1, 0) == 0 else { return ENOTCONN }
        return FuseControl.abort(number)
    }

    // MARK: - Raw messages

    /// Which notifications are in the kernel, by when they began. For the watchdog.
    struct Notifications {
        var begun: [UInt64] = []
    }

    private func notify<Body: BitwiseCopyable>(
        _ code: fuse_notify_code, _ body: Body, name: UnsafeRawBufferPointer? = nil, data: UnsafeRawBufferPointer? = nil
    ) -> Int32 {
        guard enter() else { return ENOTCONN }
        defer { leave() }
        let begun = Monotonic.now()
        notifications.withLock { $0.begun.append(begun) }
        defer {
            notifications.withLock { notifications in
                if let index = notifications.begun.firstIndex(of: begun) { notifications.begun.remove(at: index) }
            }
        }
        // Written by hand and not through libfuse, which prints to stderr what the kernel refuses.
        var length = MemoryLayout<fuse_out_header>.size + MemoryLayout<Body>.size
        if let name = unsafe name { length += name.count + 1 }
        if let data = unsafe data { length += data.count }
        let device = unsafe cfuse_own_descriptor(unsafe Unmanaged.passUnretained(self).toOpaque(), device)
        var header = fuse_out_header(len: UInt32(length), error: Int32(bitPattern: code.rawValue), unique: 0)
        var body = body
        var end: UInt8 = 0
        return unsafe withUnsafeMutableBytes(of: &header) { header in
            unsafe withUnsafeMutableBytes(of: &body) { body in
                unsafe withUnsafeMutableBytes(of: &end) { end in
                    var parts = unsafe [
                        iovec(iov_base: header.baseAddress, iov_len: header.count), iovec(iov_base: body.baseAddress, iov_len: body.count),
                    ]
                    if let name = unsafe name {
                        unsafe parts.append(iovec(iov_base: UnsafeMutableRawPointer(mutating: name.baseAddress), iov_len: name.count))
                        unsafe parts.append(iovec(iov_base: end.baseAddress, iov_len: 1))
                    }
                    if let data = unsafe data {
                        unsafe parts.append(iovec(iov_base: UnsafeMutableRawPointer(mutating: data.baseAddress), iov_len: data.count))
                    }
                    return unsafe writev(device, parts, Int32(parts.count)) < 0 ? errno : 0
                }
            }
        }
    }
}
