import Glibc
import SQLite
import Threads

/// A store's journal (its WAL) as a file that has to reach the disk.
///
/// What holds: `synchronize` answers success only if everything committed before the call is on the disk. A sync that fails may have
/// dropped pages: the kernel calls them clean from then on, and the next fdatasync would answer success over them. Such pages stay in
/// memory for a while, so before the next try all of the journal is read back, checked against its own checksums, and written again,
/// byte for byte. Until that and a sync after it succeed, every answer is an error, and no checkpoint may copy from the journal.
final class JournalFile: Sendable {
    private struct State {
        var isRunning = false
        /// How many syncs have begun, and which of them was the last to end.
        var begun = 0
        var ended = 0
        /// The errno of the last sync; 0: it succeeded.
        var failure: Int32 = 0
    }
    private let state = Mutex(State())
    private let ended = Condition()
    private let file: Int32
    private let sync: @Sendable (Int32) -> Int32

    /// nil, with `errno` set, where it cannot be opened.
    init?(path: String, sync: @escaping @Sendable (Int32) -> Int32) {
        file = unsafe open(path, O_RDWR | O_CLOEXEC)
        self.sync = sync
        if file < 0 { return nil }
    }

    deinit { if file >= 0 { close(file) } }

    /// Whether the last sync failed.
    var hasFailed: Bool { state.withLock { $0.failure != 0 } }

    /// Blocks until all that is written so far is on the disk; answers an errno, or 0. One sync runs at a time: the kernel tells of lost
    /// pages only once, and another that ran beside it would not hear. Calls that arrive meanwhile share the next.
    ///
    /// - Parameter rewrite: calls `rewrite(upTo:)` while nobody writes; answers whether all of the journal was whole.
    func synchronize(rewriting rewrite: () -> Bool) -> Int32 {
        let mine = state.withLock { $0.begun + 1 }
        let before = state.wait(on: ended, until: { !$0.isRunning || $0.ended >= mine }) { state -> Int32? in
            if state.ended >= mine { return nil }
            state.isRunning = true
            state.begun += 1
            return state.failure
        }
        guard let before else { return state.withLock { $0.failure } }
        let isWhole = before == 0 || rewrite()
        let failure = isWhole ? (sync(file) == 0 ? 0 : errno) : before
        state.withLock { state in
            state.isRunning = false
            state.ended = state.begun
            state.failure = failure
        }
        ended.broadcast()
        return failure
    }

    // MARK: Writing it again

    private static let headerSize = 32
    private static let frameHeaderSize = 24

    /// Writes every frame again that is whole; answers whether those are all that were committed. Nobody else may write meanwhile.
    /// The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    ///
    /// - Parameter frames: how many the last commit left; nil: none since the store was opened.
    func rewrite(upTo frames: Int?) -> Bool {
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { return false }
        if status.st_size == 0 { return true }
        guard let header = read(Self.headerSize, at: 0), write(header, at: 0) else { return false }
        // Big-endian words are summed only by machines that are.
        guard Self.word(header, 0) == 0x377f_0682 else { return false }
        let page = Int(Self.word(header, 8))
        var sum = Checksum()
        sum.add(header[0..<24])
        guard page >= 512, page <= 65_536, sum.isWritten(header, at: 24) else { return false }
        var committed = 0
        for number in 1... {
            let size = Self.frameHeaderSize + page
            let offset = Self.headerSize + (number - 1) * size
            guard offset + size <= Int(status.st_size), let frame = read(size, at: offset) else { break }
            guard frame[8..<16] == header[16..<24] else { break }
            sum.add(frame[0..<8])
            sum.add(frame[Self.frameHeaderSize...])
            guard sum.isWritten(frame, at: 16) else { break }
            guard write(frame, at: offset) else { return false }
            if Self.word(frame, 4) != 0 { committed = number }
        }
        return committed >= frames ?? 0
    }

    /// Which pages of the database stand in the journal.
    struct Pages {
        /// Of the journal's header: another one once it was started over. Empty: it has none.
        var salt: [UInt8] = []
        var count = 0
        /// Those of the frames that are not in `before`.
        var pages: Set<Int> = []
    }

    /// The pages of all frames of this turn of the journal, of transactions that were taken back too; nil: it cannot be read.
    ///
    /// - Parameter before: what was answered earlier: frames of the same turn that it counts are left out.
    func pages(after before: Pages = Pages()) -> Pages? {
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { return nil }
        guard status.st_size >= Self.headerSize, let header = read(Self.headerSize, at: 0) else {
            return status.st_size == 0 ? Pages() : nil
        }
        var found = Pages(salt: Array(header[16..<24]))
        let size = Self.frameHeaderSize + Int(Self.word(header, 8))
        if found.salt == before.salt { found.count = before.count }
        while Self.headerSize + found.count * size + Self.frameHeaderSize <= Int(status.st_size) {
            guard let frame = read(Self.frameHeaderSize, at: Self.headerSize + found.count * size) else { return nil }
            guard frame[8..<16].elementsEqual(found.salt) else { break }
            found.pages.insert(Int(Self.word(frame, 0)))
            found.count += 1
        }
        return found
    }

    private func read(_ count: Int, at offset: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return unsafe bytes.withUnsafeMutableBytes { unsafe pread(file, $0.baseAddress, count, off_t(offset)) } == count ? bytes : nil
    }

    private func write(_ bytes: [UInt8], at offset: Int) -> Bool {
        unsafe bytes.withUnsafeBytes { unsafe pwrite(file, $0.baseAddress, $0.count, off_t(offset)) } == bytes.count
    }

    fileprivate static func word(_ bytes: [UInt8], _ place: Int) -> UInt32 {
        bytes[place..<(place + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// The running sum over the header and all frames so far.
    private struct Checksum {
        var first: UInt32 = 0
        var second: UInt32 = 0

        mutating func add(_ bytes: ArraySlice<UInt8>) {
            unsafe bytes.withUnsafeBytes { bytes in
                for place in stride(from: 0, to: bytes.count - 7, by: 8) {
                    unsafe first &+= UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)) &+ second
                    unsafe second &+= UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: place + 4, as: UInt32.self)) &+ first
                }
            }
        }

        func isWritten(_ bytes: [UInt8], at place: Int) -> Bool {
            JournalFile.word(bytes, place) == first && JournalFile.word(bytes, place + 4) == second
        }
    }
}
