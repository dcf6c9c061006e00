internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// The libfuse session under a connection: how it is made, what passes through it, and the INIT that begins it.
extension FuseConnection {
    /// All that a successor needs in order to go on with a connection that this process began. Bytes as the kernel saw them.
    package struct Handshake: Equatable, Sendable {
        /// The INIT request with its header.
        package var request: [UInt8]
        /// The body of the reply, without its header.
        package var reply: [UInt8]
        /// The FUSE_CAP_ flags that were asked for.
        package var wanted: UInt32

        package init(request: [UInt8], reply: [UInt8], wanted: UInt32) {
            self.request = request
            self.reply = reply
            self.wanted = wanted
        }
    }

    /// How far the agreement with the kernel has come.
    struct Agreement {
        enum Phase {
            /// INIT has not come.
            case none
            /// INIT is being answered, for real or, while adopting, against the saved reply.
            case initializing(isReplay: Bool)
            case agreed
        }
        var phase = Phase.none
        var handshake = Handshake(request: [], reply: [], wanted: 0)
    }

    /// What was agreed with the kernel; nil until INIT was answered.
    package var handshake: Handshake? {
        agreement.withLock { agreement in
            if case .agreed = agreement.phase { agreement.handshake } else { nil }
        }
    }

    /// A session whose reads and writes are ours. It refers to `connection` without keeping it alive: the connection owns it.
    static func makeSession(for connection: FuseConnection) -> OpaquePointer? {
        var operations = FuseTrampolines.operations(for: connection.filesystem.options)
        let link = unsafe Unmanaged.passUnretained(connection).toOpaque()
        guard let program = unsafe strdup("remfs") else { return nil }
        defer { unsafe free(program) }
        var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [program, nil]
        let session = unsafe arguments.withUnsafeMutableBufferPointer { buffer -> OpaquePointer? in
            var arguments = unsafe fuse_args(argc: 1, argv: buffer.baseAddress, allocated: 0)
            defer { unsafe fuse_opt_free_args(&arguments) }
            return unsafe fuse_session_new(&arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size, link)
        }
        guard let session = unsafe session else { return nil }
        var io = fuse_custom_io()
        // Never used, since receivers read into buffers of their own, but libfuse insists.
        unsafe io.read = { device, buffer, size, _ in unsafe read(device, buffer, size) }
        unsafe io.writev = { device, parts, count, link in
            unsafe Unmanaged<FuseConnection>.fromOpaque(link!)._withUnsafeGuaranteedRef { unsafe $0.send(parts!, count, to: device) }
        }
        guard unsafe fuse_session_custom_io(session, &io, connection.device) == 0 else {
            unsafe fuse_session_destroy(session)
            return nil
        }
        return unsafe session
    }

    /// Every reply on its way to the kernel passes here, on the thread that gives it: the one place to see or keep it.
    ///
    /// - Returns: as writev(2), with errno.
    private func send(_ parts: UnsafeMutablePointer<iovec>, _ count: Int32, to device: Int32) -> Int {
        // INIT is the first request of a connection and answered before any other is read, so this is the fast path.
        guard isInitializing.load(ordering: .relaxed) else {
            unsafe FuseReceiver.willSend(parts, count, to: self)
            let sent = unsafe writev(device, parts, count)
            if FaultPoint.isPossible { FuseReceiver.didSend() }
            return sent
        }
        let isReplay = agreement.withLock { agreement -> Bool in
            guard case .initializing(let isReplay) = agreement.phase else { return false }
            let header = unsafe parts[0].iov_base.load(as: fuse_out_header.self)
            guard header.error == 0 else { return isReplay }
            var body: [UInt8] = []
            for index in 1..<Int(count) {
                unsafe body.append(contentsOf: UnsafeRawBufferPointer(start: parts[index].iov_base, count: parts[index].iov_len))
            }
            agreement.handshake.reply = body
            return isReplay
        }
        if isReplay {
            return unsafe UnsafeBufferPointer(start: parts, count: Int(count)).reduce(0) { unsafe $0 + $1.iov_len }
        }
        return unsafe writev(device, parts, count)
    }

    // MARK: - INIT

    func willInitialize(_ request: UnsafeRawBufferPointer) {
        agreement.withLock { agreement in
            guard case .none = agreement.phase else { return }
            agreement.phase = .initializing(isReplay: false)
            agreement.handshake.request = unsafe Array(request)
        }
        isInitializing.store(true, ordering: .relaxed)
    }

    /// Chooses what the connection is to be, once and for all. Called by libfuse within INIT.
    func negotiate(_ offer: inout fuse_conn_info) {
        let options = filesystem.options
        agreement.withLock { agreement in
            if case .initializing(isReplay: true) = agreement.phase {
                offer.want = agreement.handshake.wanted
            } else {
                var wanted =
                    FUSE_CAP_ASYNC_READ | FUSE_CAP_READDIRPLUS | FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_NO_OPENDIR_SUPPORT
                    | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS
                if !options.answersOpen { wanted |= FUSE_CAP_NO_OPEN_SUPPORT }
                if options.answersLocks { wanted |= FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS }
                // Left out, each for its reason. SPLICE: slower for small files, and it goes past our hooks. WRITEBACK_CACHE: one
                // SETATTR more for each file. AUTO_INVAL_DATA: would outweigh EXPLICIT_INVAL_DATA. ATOMIC_O_TRUNC: without an OPEN
                // the truncation would be lost. READDIRPLUS_AUTO: guesses worse than always. HANDLE_KILLPRIV: the kernel sends a
                // SETATTR for it. DONT_MASK: the kernel applies the umask.
                offer.want = UInt32(wanted) & offer.capable
                agreement.handshake.wanted = offer.want
            }
        }
        offer.max_write = UInt32(clamping: options.maximumWrite)
    }

    func didInitialize() {
        isInitializing.store(false, ordering: .relaxed)
        let agreed = agreement.withLock { agreement -> Bool in
            guard case .initializing = agreement.phase, !agreement.handshake.reply.isEmpty else { return false }
            agreement.phase = .agreed
            return true
        }
        if agreed { filesystem.connectionDidStart(self) }
    }

    /// Brings a fresh session to where the predecessor's was, by the INIT that the predecessor had. Nothing reaches the kernel.
    ///
    /// - Returns: whether libfuse answered as it did then. It decides the sizes and flags, so a different answer means another protocol.
    func adopt(_ saved: Handshake) -> Bool {
        guard saved.request.count >= MemoryLayout<fuse_in_header>.size, saved.request.count <= 4096, !saved.reply.isEmpty else {
            return false
        }
        agreement.withLock { agreement in
            agreement.phase = .initializing(isReplay: true)
            agreement.handshake = Handshake(request: saved.request, reply: [], wanted: saved.wanted)
        }
        isInitializing.store(true, ordering: .relaxed)
        var request = saved.request
        unsafe request.withUnsafeMutableBytes { bytes in
            var input = unsafe fuse_buf(size: bytes.count, flags: fuse_buf_flags(0), mem: bytes.baseAddress, fd: -1, pos: 0)
            unsafe fuse_session_process_buf(session, &input)
        }
        isInitializing.store(false, ordering: .relaxed)
        return agreement.withLock { agreement in
            guard agreement.handshake == saved else { return false }
            agreement.phase = .agreed
            return true
        }
    }
}
