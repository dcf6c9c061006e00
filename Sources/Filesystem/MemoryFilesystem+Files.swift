import Fuse
import Glibc
import Logging
import Storage
import struct Synchronization.Atomic
import Threads

extension MemoryFilesystem {
    // MARK: Opening, where it is answered (`coherence: strict`)

    func open(_ node: NodeID, flags: Int32, _ context: FuseContext) throws(FuseErrno) {
        guard flags & O_ACCMODE != O_RDONLY else { return }
        try requireStored(node)
        if origin.isReadOnly.load(ordering: .acquiring) { throw FuseErrno(EROFS) }
        try answer { () throws(RemfsError) in try store.closed(number(node), through: origin, if: { writers.open(node) }) }
    }

    /// One descriptor was closed: when this is answered, every mount sees the bytes.
    func flush(_ node: NodeID, owner: UInt64, _ context: FuseContext, _ reply: FuseReply) {
        writers.flush(node)
        locks.releasePOSIX(on: number(node), owner: LockOwner(mount: origin.number, owner: owner))
        // The thread that takes over must not wait: it answers all others too, and one of those may be what the kernel waits for.
        guard context.worker != nil else {
            _ = Thread("remfs-flush") { [store] in
                store.drainInvalidations()
                reply.success()
            }
            return
        }
        FuseWorkers.willBlock()
        // A kernel that does not answer within a second is the watchdog's to judge.
        store.drainInvalidations()
        reply.success()
    }

    func release(_ node: NodeID, flags: Int32, flockOwner: UInt64?, _ context: FuseContext, _ reply: FuseReply) {
        if let flockOwner { locks.releaseWhole(on: number(node), owner: LockOwner(mount: origin.number, owner: flockOwner)) }
        if flags & O_ACCMODE != O_RDONLY {
            do throws(RemfsError) {
                try store.closed(number(node), through: origin, if: { writers.release(node) })
            } catch {
                logger.error("cannot seal", metadata: ["store": "\(store.id)", "inode": "\(node)", "error": "\(error)"])
            }
        }
        reply.success()
    }

    // MARK: Bytes

    func read(_ node: NodeID, offset: Int64, count: Int, _ context: FuseContext, _ reply: FuseReply) {
        do throws(RemfsError) {
            if virtual.isVirtual(node) { return try virtual.read(node, offset: offset, count: count, reply) }
            unsafe try store.read(number(node), offset: offset, count: count, by: origin) { bytes, _ in unsafe reply.data(bytes) }
        } catch {
            reply.error(errno(error))
        }
    }

    func write(
        _ bytes: UnsafeRawBufferPointer, to node: NodeID, offset: Int64, _ flags: FuseWriteFlags, _ context: FuseContext
    ) throws(FuseErrno) -> Int {
        try requireStored(node)
        // Through the page cache uid and pid are of whoever flushed it: the writer has no name.
        var context = context
        if flags.fromPageCache { context.pid = 0 }
        do throws(FuseErrno) {
            // Where the bytes of a write that is repeated went is not known any more: nowhere the kernel need have believed them to be.
            let start = try change(context, touching: [.bytes(number(node), offset: 0, length: 0)]) { _ -> Int64? in
                nil
            } _: { (caller) throws(RemfsError) in
                unsafe try store.write(
                    bytes, to: number(node), at: offset, append: flags.append && !flags.fromPageCache, seen: .irrelevant, by: caller)
            }
            if mountOptions.coherence == .strict { writers.changed(node) }
            // The kernel put the bytes where it believed the end to be.
            if start != offset { invalidations.post([.bytes(number(node), offset: min(start ?? 0, offset), length: 0)]) }
            return bytes.count
        } catch {
            // Otherwise other readers would see bytes that exist nowhere.
            if flags.fromPageCache { invalidations.post([.bytes(number(node), offset: 0, length: 0)]) }
            throw error
        }
    }

    func synchronize(_ node: NodeID, dataOnly: Bool, _ context: FuseContext, _ reply: FuseReply) {
        let store = store
        store.synchronize { [logger] error in
            if let error {
                logger.error("cannot sync", metadata: ["store": "\(store.id)", "error": "\(error)"])
                reply.error(FuseErrno(EIO))
            } else {
                // What is read elsewhere after this has returned is never older. Other syncs do not wait for that.
                guard store.othersAreBehind else { return reply.success() }
                _ = Thread("remfs-flush") {
                    store.drainInvalidations()
                    reply.success()
                }
            }
        }
    }

    func synchronizeDirectory(_ node: NodeID, _ context: FuseContext, _ reply: FuseReply) {
        synchronize(node, dataOnly: false, context, reply)
    }

    // MARK: Space

    func allocate(_ node: NodeID, mode: Int32, offset: Int64, length: Int64, _ context: FuseContext) throws(FuseErrno) {
        try requireStored(node)
        // linux/falloc.h
        let keepSize: Int32 = 0x01
        let punchHole: Int32 = 0x02
        let zeroRange: Int32 = 0x10
        guard mode & ~(keepSize | punchHole | zeroRange) == 0 else { throw FuseErrno(EOPNOTSUPP) }
        let makesHole = mode & (punchHole | zeroRange) != 0
        try changing(context, touching: [.bytes(number(node), offset: 0, length: 0)]) { (caller) throws(RemfsError) in
            try store.allocate(
                number(node), offset: offset, length: length, keepsSize: mode & (keepSize | punchHole) != 0, makesHole: makesHole,
                by: caller)
        }
    }

    func seek(_ node: NodeID, offset: Int64, whence: Int32, _ context: FuseContext) throws(FuseErrno) -> Int64 {
        // SEEK_DATA 3, SEEK_HOLE 4 (unistd.h, behind _GNU_SOURCE)
        guard whence == 3 || whence == 4 else { throw FuseErrno(EINVAL) }
        if virtual.isVirtual(node) {
            let size = try answer { () throws(RemfsError) in try virtual.attributes(of: node).attributes.sizeInBytes }
            guard (0..<size).contains(offset) else { throw FuseErrno(ENXIO) }
            return whence == 3 ? offset : size
        }
        let place = try answer { () throws(RemfsError) in try store.seek(number(node), from: offset, toHole: whence == 4) }
        guard let place else { throw FuseErrno(ENXIO) }
        return place
    }

    func copyRange(
        from source: NodeID, offset: Int64, to destination: NodeID, offset destinationOffset: Int64, length: Int64, _ context: FuseContext
    ) throws(FuseErrno) -> Int {
        try requireStored(destination)
        // The kernel then reads and writes instead.
        if virtual.isVirtual(source) { throw FuseErrno(EXDEV) }
        // A mebibyte at a time, as a write: callers go on where a short answer ends.
        let count = Int(min(length, 1 << 20))
        return try change(context, touching: [.bytes(number(destination), offset: 0, length: 0)]) {
            Int($0)
        } _: { (caller) throws(RemfsError) in
            let bytes = unsafe try store.read(number(source), offset: offset, count: count, by: origin) { bytes, _ in
                unsafe Array(bytes)
            }
            guard !bytes.isEmpty else { return 0 }
            let result: Result<Int64, RemfsError> = unsafe bytes.withUnsafeBytes { buffer in
                do throws(RemfsError) {
                    return .success(
                        unsafe try store.write(
                            buffer, to: number(destination), at: destinationOffset, append: false, seen: .irrelevant, by: caller))
                } catch {
                    return .failure(error)
                }
            }
            _ = try result.get()
            return bytes.count
        }
    }

    // MARK: Locks, where they are answered (`coherence: strict`)

    func lockConflicting(with lock: FuseLock, on node: NodeID, owner: UInt64, _ context: FuseContext) throws(FuseErrno) -> FuseLock {
        locks.conflict(with: lock, on: number(node), owner: LockOwner(mount: origin.number, owner: owner))
            ?? FuseLock(kind: .unlock, start: lock.start, end: lock.end, pid: 0)
    }

    func lock(_ lock: FuseLock, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply) {
        let ticket = locks.set(lock, on: number(node), owner: LockOwner(mount: origin.number, owner: owner), waits: waits) { error in
            if let error { reply.error(error) } else { reply.success() }
        }
        if let ticket { reply.onInterrupt { [locks] in locks.cancel(ticket) } }
    }

    func lockWhole(_ kind: FuseLock.Kind, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply) {
        let ticket = locks.setWhole(kind, on: number(node), owner: LockOwner(mount: origin.number, owner: owner), waits: waits) { error in
            if let error { reply.error(error) } else { reply.success() }
        }
        if let ticket { reply.onInterrupt { [locks] in locks.cancel(ticket) } }
    }

    private func errno(_ error: RemfsError) -> FuseErrno {
        do throws(FuseErrno) { return try answer { () throws(RemfsError) -> FuseErrno in throw error } } catch { return error }
    }
}
