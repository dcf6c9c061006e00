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
    /// How many records there are.
    package private(set) var count: Int
    private let descriptor: Int32
    private var isSecond: Bool

    // Two places, of which the header names the one that counts, and how many records are in it.
    private static let most = 1 << 16
    private static let room = off_t(64 << 20)
    private var start: off_t { FuseHoldMemory.end + off_t(kind.rawValue) * Self.room }
    private func place(_ isSecond: Bool) -> off_t { start + 4_096 + off_t(isSecond ? Self.most * kind.recordSize : 0) }

    /// Goes on with what predecessors have left in it.
    package init(_ memory: FuseHoldMemory, _ kind: Kind) {
        descriptor = memory.descriptor
        self.kind = kind
        (count, isSecond) = (0, false)
        var word: UInt64 = 0
        // Short: nothing was ever written.
        guard unsafe pread(descriptor, &word, 8, start) == 8 else { return }
        (count, isSecond) = (min(Self.most, Int(word & ~(1 << 63))), word >> 63 != 0)
    }

    package func read() -> [[UInt8]] {
        let size = kind.recordSize
        var bytes = [UInt8](repeating: 0, count: count * size)
        guard unsafe pread(descriptor, &bytes, bytes.count, place(isSecond)) == bytes.count else { return [] }
        return (0..<count).map { Array(bytes[$0 * size..<($0 + 1) * size]) }
    }

    /// 0 or an errno: ENOSPC where there is no room for more, or no memory.
    package mutating func append(_ record: [UInt8]) -> Int32 {
        guard count < Self.most else { return ENOSPC }
        return write(record, isSecond, at: count, newCount: count + 1)
    }

    /// Has these in place of all that are there. 0 or an errno.
    package mutating func replace(_ records: [[UInt8]]) -> Int32 {
        guard records.count <= Self.most else { return ENOSPC }
        return write(Array(records.joined()), !isSecond, at: 0, newCount: records.count)
    }

    /// 0 or an errno.
    package mutating func removeAll() -> Int32 { count == 0 ? 0 : write([], isSecond, at: 0, newCount: 0) }

    private mutating func write(_ bytes: [UInt8], _ isSecond: Bool, at index: Int, newCount: Int) -> Int32 {
        let place = place(isSecond) + off_t(index * kind.recordSize)
        let written = unsafe bytes.isEmpty ? 0 : pwrite(descriptor, bytes, bytes.count, place)
        // A part of it: no more memory, and errno says nothing.
        guard written == bytes.count else { return written < 0 ? errno : ENOSPC }
        var word = UInt64(newCount) | (isSecond ? 1 << 63 : 0)
        guard unsafe pwrite(descriptor, &word, 8, start) == 8 else { return errno }
        (count, self.isSecond) = (newCount, isSecond)
        return 0
    }
}
