internal import Glibc

/// A list of records in the memory that a holder keeps of a mount, behind its content (`FuseHoldMemory`): what a daemon knows and no database
/// does. Each record is there as a whole or not at all, whenever the process is killed.
///
/// Not safe by itself: its owner guards it.
package struct FuseHoldLog: Sendable {
    /// Which list; each has a place of its own. A number is never used for anything else again.
    package enum Kind: Int, Sendable {
        case locks = 0
        case invalidations = 1

        /// In bytes.
        package var recordSize: Int {
            switch self {
            case .locks: 64
            case .invalidations: 320
            }
        }
    }

    package let kind: Kind
    /// Those that are there stand at `first..<end`: whoever notes `end` before it appends can tell later what to remove. Places rise for as
    /// long as this value lives, also where the records have moved.
    package var first: Int { moved + low }
    package var end: Int { moved + high }
    private var moved = 0
    /// Where in the memory they are.
    private var low: Int
    private var high: Int
    private let descriptor: Int32
    private var isSecond: Bool

    /// How many records there are.
    package var count: Int { high - low }

    // Two places, of which the header names the one that counts, and how many records are in it.
    private static let most = 1 << 16
    private static let room = off_t(64 << 20)
    private var start: off_t { FuseHoldMemory.end + off_t(kind.rawValue) * Self.room }
    private func place(_ isSecond: Bool) -> off_t { start + 4_096 + off_t(isSecond ? Self.most * kind.recordSize : 0) }

    /// Goes on with what predecessors have left in it.
    package init(_ memory: FuseHoldMemory, _ kind: Kind) {
        descriptor = memory.descriptor
        self.kind = kind
        (low, high, isSecond) = (0, 0, false)
        var word: UInt64 = 0
        // Short: nothing was ever written.
        guard unsafe pread(descriptor, &word, 8, start) == 8 else { return }
        high = min(Self.most, Int(word & 0xffff_ffff))
        low = min(high, Int(word >> 32 & 0x7fff_ffff))
        isSecond = word >> 63 != 0
    }

    package func read() -> [[UInt8]] {
        let size = kind.recordSize
        var bytes = [UInt8](repeating: 0, count: count * size)
        guard unsafe pread(descriptor, &bytes, bytes.count, place(isSecond) + off_t(low * size)) == bytes.count else { return [] }
        return (0..<count).map { Array(bytes[$0 * size..<($0 + 1) * size]) }
    }

    /// 0 or an errno: ENOSPC where there is no room for more, or no memory.
    package mutating func append(_ record: [UInt8]) -> Int32 {
        guard high < Self.most else { return ENOSPC }
        return write(record, isSecond, at: high, low: low, high: high + 1)
    }

    /// Takes away all before a place. Their room is there again once none is left, or once they were half of what there is room for.
    /// 0 or an errno.
    package mutating func removeFirst(upTo place: Int) -> Int32 {
        let index = min(place - moved, high)
        guard index > low else { return 0 }
        if index == high { return removeAll() }
        let code = write([], isSecond, at: 0, low: index, high: high)
        guard code == 0, low > Self.most / 2 else { return code }
        let left = read()
        return left.count == count ? replace(left) : EIO
    }

    /// Has these in place of all that are there. 0 or an errno.
    package mutating func replace(_ records: [[UInt8]]) -> Int32 {
        guard records.count <= Self.most else { return ENOSPC }
        let end = end
        let code = write(Array(records.joined()), !isSecond, at: 0, low: 0, high: records.count)
        // The last one keeps its place.
        if code == 0 { moved = end - high }
        return code
    }

    /// 0 or an errno.
    package mutating func removeAll() -> Int32 { high == 0 ? 0 : replace([]) }

    private mutating func write(_ bytes: [UInt8], _ isSecond: Bool, at index: Int, low: Int, high: Int) -> Int32 {
        let place = place(isSecond) + off_t(index * kind.recordSize)
        let written = unsafe bytes.isEmpty ? 0 : pwrite(descriptor, bytes, bytes.count, place)
        // A part of it: no more memory, and errno says nothing.
        guard written == bytes.count else { return written < 0 ? errno : ENOSPC }
        // One word, so that they change together.
        var word = UInt64(high) | UInt64(low) << 32 | (isSecond ? 1 << 63 : 0)
        guard unsafe pwrite(descriptor, &word, 8, start) == 8 else { return errno }
        (self.low, self.high, self.isSecond) = (low, high, isSecond)
        return 0
    }
}
