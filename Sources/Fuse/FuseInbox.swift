internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// What a daemon has read and not answered, in memory that a holder keeps: for kernels that cannot send a request again
/// (`FUSE_NOTIFY_RESEND` came with Linux 6.9). Each worker reads into a slot of it. Requests that are answered later, when the worker is at
/// others already, stand in a list of their own meanwhile: they have no data, so they are short.
///
/// Slots are written without a lock, each by the one thread that it belongs to; everything else is safe from any thread.
@safe package final class FuseInbox: @unchecked Sendable {
    // @unchecked: a slot is its worker's, a place of the list belongs to whom `free` gave it, under the lock.

    /// The memory, for the holder. It is closed with the process.
    package let descriptor: Int32
    private let memory: UnsafeMutableRawBufferPointer
    private let slotCount: Int
    private let free: Mutex<[Int]>

    /// What stands at the beginning of all.
    private struct Header: BitwiseCopyable {
        var mark: UInt64 = 0x786f_626e_6973_666d
        /// Rises with each change that an older or newer remfs would not understand.
        var format: UInt32 = 1
        var slots: UInt32
        var slotSize: UInt64 = UInt64(FuseInbox.slotSize)
        var waiting: UInt64 = UInt64(FuseInbox.waitingCount)
    }

    private static let waitingAt = 4_096
    private static let waitingCount = 4_096
    /// The longest of those that may be answered later, a lock, has 88 bytes; 8 say whose it is.
    private static let waitingSize = 128
    private static let slotsAt = waitingAt + waitingCount * waitingSize
    private static let slotSize = Slot.bufferAt + FuseReceiver.bufferSize

    /// Where one thread reads requests.
    @safe struct Slot {
        /// The request begins here, at a page of its own.
        fileprivate static let bufferAt = 4_096
        /// Answers to changes are shorter than this. Others may be asked for twice.
        private static let longestReply = 512
        private static let replyAt = 64

        private let start: UnsafeMutableRawPointer

        fileprivate init(_ start: UnsafeMutableRawPointer) { unsafe self.start = unsafe start }

        var buffer: UnsafeMutableRawBufferPointer {
            unsafe UnsafeMutableRawBufferPointer(start: start + Self.bufferAt, count: FuseReceiver.bufferSize)
        }

        // Four words that a successor may find at any moment of ours, so each is written whole and in its turn.
        @inline(__always) private var owner: UnsafeMutablePointer<Atomic<UInt64>> {
            unsafe start.assumingMemoryBound(to: Atomic<UInt64>.self)
        }
        @inline(__always) private var replyCount: UnsafeMutablePointer<Atomic<UInt64>> {
            unsafe (start + 8).assumingMemoryBound(to: Atomic<UInt64>.self)
        }
        /// The request's own length, at its beginning: the kernel writes it, with all the rest, in one call.
        @inline(__always) private var length: UnsafeMutablePointer<Atomic<UInt32>> {
            unsafe (start + Self.bufferAt).assumingMemoryBound(to: Atomic<UInt32>.self)
        }

        /// Before a read.
        @inline(__always) func prepare(for connection: UInt64) {
            unsafe length.pointee.store(0, ordering: .releasing)
            unsafe replyCount.pointee.store(0, ordering: .releasing)
            unsafe owner.pointee.store(connection, ordering: .releasing)
        }

        @inline(__always) func isOf(_ connection: UInt64) -> Bool { unsafe owner.pointee.load(ordering: .relaxed) == connection }

        /// The request is answered, or stands in the list.
        @inline(__always) func clear() { unsafe length.pointee.store(0, ordering: .releasing) }

        /// Before an answer is sent: otherwise nobody knew whether it was, and a change that has failed would be tried again, perhaps with
        /// success.
        @inline(__always) func note(_ parts: UnsafeMutablePointer<iovec>, _ count: Int32) {
            var size = 0
            for index in 0..<Int(count) { unsafe size += parts[index].iov_len }
            guard size <= Self.longestReply else { return }
            var place = unsafe start + Self.replyAt
            for index in 0..<Int(count) where unsafe parts[index].iov_len > 0 {
                unsafe place.copyMemory(from: parts[index].iov_base, byteCount: parts[index].iov_len)
                unsafe place += parts[index].iov_len
            }
            unsafe replyCount.pointee.store(UInt64(size), ordering: .releasing)
        }

        /// What a predecessor has left here. nil: nothing that could be a request.
        func left() -> (connection: UInt64, count: Int, reply: UnsafeRawBufferPointer?)? {
            let count = unsafe Int(length.pointee.load(ordering: .acquiring))
            guard count >= MemoryLayout<fuse_in_header>.size, count <= FuseReceiver.bufferSize else { return nil }
            let reply = unsafe Int(replyCount.pointee.load(ordering: .acquiring))
            let isReply = reply >= MemoryLayout<fuse_out_header>.size && reply <= Self.longestReply
            return unsafe (
                owner.pointee.load(ordering: .acquiring), count,
                isReply ? UnsafeRawBufferPointer(start: start + Self.replyAt, count: reply) : nil
            )
        }
    }

    // MARK: - Making

    /// New memory for `workers` threads that serve and one that takes over; nil where there is none.
    package convenience init?(workers: Int = FuseWorkers.usualCount) {
        let descriptor = unsafe cfuse_memory("remfs-inbox")
        guard descriptor >= 0 else { return nil }
        var header = Header(slots: UInt32(workers + 1))
        let size = off_t(Self.slotsAt + (workers + 1) * Self.slotSize)
        let written = unsafe ftruncate(descriptor, size) == 0 ? pwrite(descriptor, &header, MemoryLayout<Header>.size, 0) : -1
        guard written == MemoryLayout<Header>.size else {
            close(descriptor)
            return nil
        }
        self.init(inherited: descriptor)
    }

    /// What a predecessor has made. nil, and closed: it is not understood.
    package init?(inherited descriptor: Int32) {
        var header = Header(slots: 0)
        let expected = Header(slots: 0)
        var status = stat()
        guard unsafe pread(descriptor, &header, MemoryLayout<Header>.size, 0) == MemoryLayout<Header>.size,
            header.mark == expected.mark, header.format == expected.format, header.slotSize == expected.slotSize,
            header.waiting == expected.waiting, (2...64).contains(header.slots), unsafe fstat(descriptor, &status) == 0,
            status.st_size >= Self.slotsAt + Int(header.slots) * Self.slotSize
        else {
            close(descriptor)
            return nil
        }
        let size = Self.slotsAt + Int(header.slots) * Self.slotSize
        // Resident, as `FuseReceiver` wants its buffers.
        let address = unsafe Self.map(descriptor, size)
        guard unsafe address != MAP_FAILED else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        unsafe memory = unsafe UnsafeMutableRawBufferPointer(start: address, count: size)
        slotCount = Int(header.slots)
        free = Mutex([])
        let occupied = (0..<Self.waitingCount).filter { unsafe Self.length(memory, $0) > 0 }
        let all = (0..<Self.waitingCount).reversed()
        free.withLock { $0 = occupied.isEmpty ? Array(all) : all.filter { !occupied.contains($0) } }
    }

    /// Locked as it is mapped, since clients may wait: in two steps it takes twice as long.
    private static func map(_ descriptor: Int32, _ size: Int) -> UnsafeMutableRawPointer? {
        func map(_ flags: Int32) -> UnsafeMutableRawPointer? {
            unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | Int32(MAP_POPULATE) | flags, descriptor, 0)
        }
        let locked = unsafe map(Int32(MAP_LOCKED))
        // Who may not lock memory has it resident, for as long as there is enough.
        return unsafe locked == MAP_FAILED ? map(0) : locked
    }

    deinit {
        unsafe munmap(memory.baseAddress!, memory.count)
        close(descriptor)
    }

    /// Whether there is one for each of so many threads that serve.
    package func suffices(for workers: Int) -> Bool { slotCount > workers }

    /// nil: the thread that takes over.
    func slot(_ worker: Int?) -> Slot { unsafe Slot(memory.baseAddress! + Self.slotsAt + (worker ?? slotCount - 1) * Self.slotSize) }

    var slots: [Slot] { (0..<slotCount).map { slot($0) } }

    // MARK: - Those that wait

    private static func length(_ memory: UnsafeMutableRawBufferPointer, _ place: Int) -> UInt32 {
        unsafe memory.load(fromByteOffset: waitingAt + place * waitingSize + 8, as: UInt32.self)
    }

    private func entry(_ place: Int) -> UnsafeMutableRawBufferPointer {
        let begin = Self.waitingAt + place * Self.waitingSize
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[begin..<begin + Self.waitingSize])
    }

    /// Notes a request that is answered later; nil where there is no room for it, or it has data: then a crash leaves its caller waiting.
    func wait(_ request: UnsafeRawBufferPointer, from connection: UInt64) -> Int? {
        guard request.count <= Self.waitingSize - 8, let place = free.withLock({ $0.popLast() }) else { return nil }
        let entry = unsafe entry(place)
        unsafe entry.storeBytes(of: connection, as: UInt64.self)
        // The length last: without it nothing stands here.
        unsafe UnsafeMutableRawBufferPointer(rebasing: entry[12...]).copyMemory(from: UnsafeRawBufferPointer(rebasing: request[4...]))
        unsafe (entry.baseAddress! + 8).assumingMemoryBound(to: Atomic<UInt32>.self).pointee
            .store(UInt32(request.count), ordering: .releasing)
        return place
    }

    /// It is answered.
    func answered(_ place: Int) {
        unsafe (entry(place).baseAddress! + 8).assumingMemoryBound(to: Atomic<UInt32>.self).pointee.store(0, ordering: .releasing)
        free.withLock { $0.append(place) }
    }

    /// What a predecessor has left in the list.
    func waiting() -> [(place: Int, connection: UInt64, request: [UInt8])] {
        (0..<Self.waitingCount).compactMap { place in
            let count = unsafe Int(Self.length(memory, place))
            guard count >= MemoryLayout<fuse_in_header>.size, count <= Self.waitingSize - 8 else { return nil }
            let entry = unsafe entry(place)
            return unsafe (place, entry.load(as: UInt64.self), Array(entry[8..<8 + count]))
        }
    }

    /// Whatever predecessors have left, the kernel sends it again, or nobody waits for it.
    package func clear() {
        for slot in slots { slot.clear() }
        for left in waiting() { answered(left.place) }
    }
}
