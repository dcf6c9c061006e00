internal import CFuse
internal import Glibc

/// What a holder keeps of one mount: the descriptor of its connection, and memory that says what a successor has to know of it.
package struct FuseHold: Sendable, Equatable {
    /// What the daemon calls the mount: up to 200 bytes.
    package let name: String
    package let device: Int32
    package let memory: Int32

    package init(name: String, device: Int32, memory: Int32) {
        self.name = name
        self.device = device
        self.memory = memory
    }

    package func close() {
        Glibc.close(device)
        Glibc.close(memory)
    }
}

/// One end of the socket between a daemon and its holder. Messages keep their borders and their order.
package struct FuseHoldSocket: Sendable {
    package enum Message: Sendable, Equatable {
        /// To the holder: keep this. To a successor: this was kept. The descriptors become the receiver's.
        case keep(FuseHold)
        /// To the holder: the mount has ended.
        case drop(String)
        /// To the holder: keep this. To a successor: this was kept. The descriptor becomes the receiver's.
        case listen(FuseHeldListener)
        /// To the holder: keep this `FuseInbox`. To a successor: this was kept. The descriptor becomes the receiver's.
        case inbox(Int32)
        /// To the holder: a copy of the group that `FuseCloseEvents` reads, to be closed once there is another. The descriptor becomes the
        /// receiver's.
        case closeEvents(Int32)
        /// Received only: something to keep whose descriptors had no room in this process. With the mount's name, for the socket nil.
        case lost(String?)
        /// To a successor: that was all.
        case end
        /// To the holder: the daemon serves.
        case ready
        /// To the holder: the daemon will exit, and a successor is to go on.
        case handOver
    }

    package let descriptor: Int32

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// An end that this process was started with. What it starts is not to have it.
    package init(inherited descriptor: Int32) {
        self.descriptor = descriptor
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)  // of a descriptor that is none: then nothing can be received either
    }

    /// Both ends, close-on-exec; nil without descriptors for them.
    package static func pair() -> (FuseHoldSocket, FuseHoldSocket)? {
        var ends: [Int32] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else { return nil }
        return (FuseHoldSocket(ends[0]), FuseHoldSocket(ends[1]))
    }

    /// 0, or an errno: EPIPE when nobody is at the other end. Waits while the other end has much to read.
    package func send(_ message: Message) -> Int32 {
        switch message {
        case .keep(let hold): send("keep " + hold.name, [hold.device, hold.memory])
        case .drop(let name): send("drop " + name, [])
        case .listen(let listener): send(listener.isGiven ? "listen given" : "listen own", [listener.descriptor])
        case .inbox(let descriptor): send("inbox", [descriptor])
        case .closeEvents(let descriptor): send("close-events", [descriptor])
        case .lost: EINVAL
        case .end: send("end", [])
        case .ready: send("ready", [])
        case .handOver: send("hand over", [])
        }
    }

    private func send(_ text: String, _ descriptors: [Int32]) -> Int32 {
        let bytes = Array(text.utf8)
        // What is under way is counted for all of a user's processes together: of others it has arrived in a moment.
        for _ in 0..<Self.mostTries {
            let code = unsafe cfuse_send(descriptor, bytes, bytes.count, descriptors, Int32(descriptors.count))
            guard code == ETOOMANYREFS else { return code }
            usleep(1_000)
        }
        return ETOOMANYREFS
    }

    private static let mostTries = 2_000

    /// Closes what has come of a message whose descriptors have not all come.
    private static func lose(_ name: String?, _ descriptors: some Sequence<Int32>) -> Message {
        for descriptor in descriptors { Glibc.close(descriptor) }
        return .lost(name)
    }

    /// Waits for a message; nil when the other end is gone. What is no message of ours is passed over.
    package func receive() -> Message? {
        var bytes = [UInt8](repeating: 0, count: 256)
        while true {
            var descriptors: [Int32] = [-1, -1]
            var count: Int32 = 2
            let length = unsafe cfuse_receive(descriptor, &bytes, bytes.count, &descriptors, &count)
            guard length > 0 else { return nil }
            let words = String(decoding: bytes[..<length], as: UTF8.self).split(separator: " ", maxSplits: 1).map(String.init)
            switch (words.first, words.count, count) {
            case ("keep", 2, 2): return .keep(FuseHold(name: words[1], device: descriptors[0], memory: descriptors[1]))
            case ("drop", 2, 0): return .drop(words[1])
            case ("listen", 2, 1):
                return .listen(FuseHeldListener(descriptor: descriptors[0], isGiven: words[1] == "given"))
            case ("inbox", 1, 1): return .inbox(descriptors[0])
            case ("close-events", 1, 1): return .closeEvents(descriptors[0])
            case ("keep", 2, _): return Self.lose(words[1], descriptors.prefix(Int(count)))
            case ("listen", 2, 0): return Self.lose(nil, [])
            case ("inbox", 1, 0): return Self.lose("inbox", [])
            case ("end", 1, 0): return .end
            case ("ready", 1, 0): return .ready
            case ("hand", 2, 0): return .handOver
            default: for place in 0..<Int(count) { Glibc.close(descriptors[place]) }
            }
        }
    }

    package func close() { Glibc.close(descriptor) }
}

/// Memory that outlives the process that writes it, as long as a holder has its descriptor. Each content replaces the one before as a
/// whole: a process killed while it writes leaves the last one.
///
/// One thread at a time.
package struct FuseHoldMemory: Sendable {
    package let descriptor: Int32

    /// nil without a descriptor for it.
    package init?() {
        let descriptor = unsafe cfuse_memory("remfs-mount")
        guard descriptor >= 0 else { return nil }
        self.descriptor = descriptor
    }

    /// Memory that came from a holder.
    package init(_ descriptor: Int32) { self.descriptor = descriptor }

    // Two places, written in turn, each behind a header that says how long and how new it is: the newer one that is whole counts. The
    // headers follow the counts of attempts.
    private static let countsSize = 16 * 32
    private static let headersAt = 1_024
    private static let most = 64 << 20
    private static func place(_ turn: Int) -> off_t { 4_096 + off_t(turn * most) }
    /// What is behind belongs to others.
    static let end = place(2)

    private struct Header: BitwiseCopyable {
        var turn: UInt64 = 0
        var length: UInt64 = 0
        var sum: UInt64 = 0
    }

    private func header(_ turn: Int) -> Header {
        var header = Header()
        let size = MemoryLayout<Header>.size
        let count = unsafe withUnsafeMutableBytes(of: &header) {
            unsafe pread(descriptor, $0.baseAddress!, size, off_t(Self.headersAt + turn * size))
        }
        return count == size ? header : Header()
    }

    /// The content, or nil if nothing was ever written.
    package func read() -> [UInt8]? {
        for turn in [0, 1].sorted(by: { header($0).turn > header($1).turn }) {
            let header = header(turn)
            guard header.turn > 0, header.length <= UInt64(Self.most) else { continue }
            var bytes = [UInt8](repeating: 0, count: Int(header.length))
            guard unsafe pread(descriptor, &bytes, bytes.count, Self.place(turn)) == bytes.count, Self.sum(bytes) == header.sum else {
                continue
            }
            return bytes
        }
        return nil
    }

    /// Replaces the content: 0 or an errno (ENOSPC, EFBIG above 64 MiB).
    package func write(_ bytes: [UInt8]) -> Int32 {
        guard bytes.count <= Self.most else { return EFBIG }
        let headers = [header(0), header(1)]
        let turn = headers[0].turn > headers[1].turn ? 1 : 0
        guard unsafe pwrite(descriptor, bytes, bytes.count, Self.place(turn)) == bytes.count else { return errno }
        var next = Header(turn: max(headers[0].turn, headers[1].turn) + 1, length: UInt64(bytes.count), sum: Self.sum(bytes))
        let size = MemoryLayout<Header>.size
        let count = unsafe withUnsafeMutableBytes(of: &next) {
            unsafe pwrite(descriptor, $0.baseAddress!, size, off_t(Self.headersAt + turn * size))
        }
        return count == size ? 0 : errno
    }

    /// FNV-1a.
    private static func sum(_ bytes: [UInt8]) -> UInt64 {
        bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    }

    // MARK: - Attempts

    /// Counts one more attempt to answer a request that the kernel has sent again, and answers how many there were before.
    package func countAttempt(at unique: UInt64) -> Int {
        var counts = counts()
        let place = counts.firstIndex { $0.unique == unique } ?? counts.indices.min { counts[$0].unique < counts[$1].unique }!
        if counts[place].unique != unique { counts[place] = (unique, 0) }
        defer {
            counts[place].attempts += 1
            write(counts)
        }
        return Int(counts[place].attempts)
    }

    /// It was attempted, and whatever became of it, nobody died of it.
    package func forgetAttempts(at unique: UInt64) {
        var counts = counts()
        guard let place = counts.firstIndex(where: { $0.unique == unique }) else { return }
        counts[place] = (0, 0)
        write(counts)
    }

    private func counts() -> [(unique: UInt64, attempts: UInt64)] {
        var words = [UInt64](repeating: 0, count: 64)
        _ = unsafe pread(descriptor, &words, Self.countsSize, 0)  // short: none yet
        return (0..<32).map { (words[2 * $0], words[2 * $0 + 1]) }
    }

    private func write(_ counts: [(unique: UInt64, attempts: UInt64)]) {
        let words = counts.flatMap { [$0.unique, $0.attempts] }
        _ = unsafe pwrite(descriptor, words, Self.countsSize, 0)  // the first page is there since the first content was written
    }
}
