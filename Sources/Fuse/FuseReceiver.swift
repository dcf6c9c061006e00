internal import CFuse
internal import Glibc
internal import Threads

/// What one thread receives requests with: a buffer that is resident before the first of them, so that a process killed while the
/// kernel copies a request into it does not turn that request into an EIO for its caller.
///
/// Used by the thread that made it and by no other.
@safe final class FuseReceiver {
    enum Outcome {
        case processed
        /// Nothing to read: another thread took it, or the caller gave up.
        case nothing
        /// The connection is over: what reading said, which is ENODEV once it was unmounted or aborted.
        case ended(errno: Int32)
    }

    /// The largest request (1 MiB of data) and its header, and room for the replies that are built here.
    static let bufferSize = (1 << 20) + (128 << 10)
    /// Where replies are built, behind a request without data. 4 KiB: the largest of those is two names of 1 KiB and a header.
    private static let replyOffset = 4096

    private let buffer: UnsafeMutableRawBufferPointer
    /// Where a successor finds what this one has read; nil: the buffer is this process's own.
    private let slot: FuseInbox.Slot?
    private let inbox: FuseInbox?
    /// Whether the request in the buffer was read by a predecessor.
    @exclusivity(unchecked) private var isRepeating = false
    private let name: UnsafeMutableRawBufferPointer
    @exclusivity(unchecked) private var call: FuseCall
    @exclusivity(unchecked) private var callWasUsed = false
    /// When the request in the buffer arrived, on the monotonic clock.
    @exclusivity(unchecked) private(set) var started: UInt64 = 0
    /// Whether one of our operations answers the request; otherwise libfuse did, with ENOSYS.
    @exclusivity(unchecked) private var reachedOperation = false
    /// `FuseContext.worker`.
    private let worker: Int?
    /// What the kernel adds to the number of a request that it sends again (`FUSE_UNIQUE_RESEND`, Linux 6.9).
    static let resent: UInt64 = 1 << 63

    /// - Parameter slot: another's than the worker's own, to answer what is in it.
    init(worker: Int?, inbox: FuseInbox?, slot: FuseInbox.Slot? = nil) {
        self.worker = worker
        self.inbox = inbox
        self.slot = slot ?? inbox?.slot(worker)
        unsafe call = FuseCall(inbox)
        if let slot = self.slot {
            unsafe buffer = slot.buffer
        } else {
            let address = unsafe mmap(
                nil, Self.bufferSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | Int32(MAP_ANONYMOUS) | Int32(MAP_POPULATE), -1, 0)
            // Without memory for one buffer nothing can be served.
            unsafe precondition(address != MAP_FAILED, "no memory for a receive buffer")
            unsafe buffer = unsafe UnsafeMutableRawBufferPointer(start: address, count: Self.bufferSize)
            // Beyond RLIMIT_MEMLOCK this fails; the pages are there all the same, until the machine is short of memory.
            _ = unsafe mlock(address!, Self.bufferSize)
        }
        unsafe name = .allocate(byteCount: FuseListing.longestName + 1, alignment: 1)
        unsafe cfuse_set_receiver(Unmanaged.passUnretained(self).toOpaque())
    }

    deinit {
        cfuse_set_receiver(nil)
        if slot == nil { unsafe munmap(buffer.baseAddress!, buffer.count) }
        unsafe name.deallocate()
    }

    /// The receiver of the calling thread, inside an operation.
    @inline(__always)
    static func withCurrent<Result>(_ body: (FuseReceiver) -> Result) -> Result {
        unsafe Unmanaged<FuseReceiver>.fromOpaque(cfuse_receiver()!)._withUnsafeGuaranteedRef(body)
    }

    /// Whether the request in the buffer came for the first time and was one that its caller waits for in turn: those of other kinds
    /// overtake what is sent again.
    var wasNew: Bool {
        let opcode = header.opcode
        return header.unique & Self.resent == 0 && opcode != FUSE_FORGET.rawValue && opcode != FUSE_BATCH_FORGET.rawValue
            && opcode != FUSE_INTERRUPT.rawValue
    }

    /// Reads one request and processes it, if there is one. Never waits for one.
    ///
    /// - Parameter isWanted: false: it is not to be processed.
    @inline(__always)
    func receive(
        from connection: FuseConnection, _ progress: FuseProgress, if isWanted: (fuse_in_header) -> Bool = { _ in true }
    ) -> Outcome {
        guard connection.enter() else { return .nothing }
        defer { connection.leave() }
        slot?.prepare(for: connection.identity)
        let count = unsafe read(connection.device, buffer.baseAddress!, buffer.count)
        guard count >= MemoryLayout<fuse_in_header>.size else {
            let code = count < 0 ? errno : EIO
            switch code {
            // ENOENT: the caller was interrupted before its request was read. What is still there will be reported again.
            case EAGAIN, EINTR, ENOENT: return .nothing
            // Anything but ENODEV is unheard of. It would come for ever, so it ends the connection as well.
            default: return .ended(errno: code)
            }
        }
        unsafe started = Monotonic.now()
        guard isWanted(header) else {
            slot?.clear()
            return .processed
        }
        unsafe progress.begin(header.opcode, connection, at: started)
        process(count, connection)
        slot?.clear()
        progress.end()
        return .processed
    }

    /// For tests: the place after the answer to a change.
    static func didSend() {
        guard let current = unsafe cfuse_receiver() else { return }
        let opcode = unsafe Unmanaged<FuseReceiver>.fromOpaque(current)._withUnsafeGuaranteedRef { $0.header.opcode }
        // SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, CREATE, RENAME2
        if [4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 45].contains(opcode) { FaultPoint.pass(.afterReply) }
    }

    /// Puts a request into the buffer that a predecessor has read.
    func fill(_ request: [UInt8]) { unsafe request.withUnsafeBytes { unsafe buffer.copyMemory(from: $0) } }

    /// Processes a request that a predecessor has read into the slot: `count` bytes of it.
    func processLeft(_ count: Int, from connection: FuseConnection) {
        guard connection.enter() else { return }
        defer { connection.leave() }
        unsafe started = Monotonic.now()
        unsafe isRepeating = true
        process(count, connection)
        unsafe isRepeating = false
        slot?.clear()
    }

    /// Every reply that the calling thread is about to send passes here.
    @inline(__always)
    static func willSend(_ parts: UnsafeMutablePointer<iovec>, _ count: Int32, to connection: FuseConnection) {
        guard let current = unsafe cfuse_receiver() else { return }
        unsafe Unmanaged<FuseReceiver>.fromOpaque(current)._withUnsafeGuaranteedRef { receiver in
            // It may be another's, for whom this request made room.
            guard let slot = receiver.slot, slot.isOf(connection.identity),
                unsafe parts[0].iov_base.load(as: fuse_out_header.self).unique == receiver.header.unique
            else { return }
            unsafe slot.note(parts, count)
        }
    }

    /// The header of the request in the buffer.
    var header: fuse_in_header {
        @inline(__always) get { unsafe buffer.baseAddress!.assumingMemoryBound(to: fuse_in_header.self).pointee }
    }

    /// Who asks. `umask` comes with few requests and elsewhere than in the header.
    @inline(__always)
    func context(umask: UInt32 = 0) -> FuseContext {
        unsafe reachedOperation = true
        let header = unsafe buffer.baseAddress!.assumingMemoryBound(to: fuse_in_header.self)
        return unsafe FuseContext(
            unique: header.pointee.unique & ~Self.resent, isResent: isRepeating || header.pointee.unique & Self.resent != 0, worker: worker,
            uid: header.pointee.uid, gid: header.pointee.gid, pid: Int32(bitPattern: header.pointee.pid), umask: umask)
    }

    /// The handle for an answer that may come later and elsewhere.
    func reply(_ request: fuse_req_t, _ connection: FuseConnection, _ operation: FuseOperation) -> FuseReply {
        unsafe callWasUsed = true
        return unsafe call.begin(request, connection, operation, unique: header.unique, started: started)
    }

    /// A listing of at most `size` bytes, built in the part of the buffer that the request does not fill.
    func listing(_ request: fuse_req_t, size: Int, wantsAttributes: Bool) -> FuseListing {
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[Self.replyOffset...].prefix(size))
        return unsafe FuseListing(request, wantsAttributes: wantsAttributes, buffer: room, name: name)
    }

    private func process(_ count: Int, _ connection: FuseConnection) {
        let opcode = header.opcode
        FaultPoint.pass(.request(opcode: opcode))
        if opcode == FUSE_INTERRUPT.rawValue {
            // libfuse would call back with a lock of its own held, in which an answer cannot be given safely. Ours is not.
            let interrupt = unsafe buffer.load(fromByteOffset: MemoryLayout<fuse_in_header>.size, as: fuse_interrupt_in.self)
            connection.interrupts.interrupt(interrupt.unique)
            unsafe connection.filesystem.answered(.interrupt, errno: 0, seconds: Monotonic.seconds(since: started))
            return
        }
        if opcode == FUSE_INIT.rawValue { unsafe connection.willInitialize(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
        unsafe reachedOperation = false
        var input = unsafe fuse_buf(size: count, flags: fuse_buf_flags(0), mem: buffer.baseAddress, fd: -1, pos: 0)
        unsafe fuse_session_process_buf(connection.session, &input)
        if unsafe callWasUsed {
            unsafe callWasUsed = false
            // Someone else still has the reply: deferred, or answered a moment ago on a thread that is not done with it.
            if unsafe isKnownUniquelyReferenced(&call) {
                unsafe call.rest()
            } else {
                unsafe call.wait(UnsafeRawBufferPointer(rebasing: buffer[..<count]), from: connection.identity)
                unsafe call = FuseCall(inbox)
            }
        } else if opcode == FUSE_INIT.rawValue {
            connection.didInitialize()
            unsafe connection.filesystem.answered(.initialize, errno: 0, seconds: Monotonic.seconds(since: started))
        } else if unsafe !reachedOperation {
            unsafe connection.filesystem.answered(.other, errno: ENOSYS, seconds: Monotonic.seconds(since: started))
        }
    }
}

/// The monotonic clock in nanoseconds.
enum Monotonic {
    @inline(__always)
    static func now() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
    }

    @inline(__always)
    static func seconds(since start: UInt64) -> Double { Double(now() &- start) * 1e-9 }
}
