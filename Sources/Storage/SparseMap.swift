/// Which parts of a file an archive holds; what lies between them is zeros.
///
/// In an archive a map stands in one of four forms: that of GNU tar in the header and blocks behind it, and those of pax: pairs of records
/// (0.0), one record (0.1), or lines of text before the content (1.0). `add` takes nothing on trust: parts come in their order, within the
/// file, without overlap, and not too many.
struct SparseMap: Sendable {
    /// Of the file, holes included.
    let size: Int64
    private var parts: [(start: Int64, length: Int64)] = []
    private var end: Int64 = 0
    /// Bytes that the archive holds.
    private(set) var stored: Int64 = 0

    /// How far it was read.
    private var place: Int64 = 0
    private var next = 0

    /// 4 MiB of memory, and twice what a file of the largest size has that a store gave out: its holes are runs of 64 KiB.
    static let mostParts = 1 << 18

    init(size: Int64) throws(RemfsError) {
        guard size >= 0, size <= StoreState.maximumFile else {
            throw Self.wrong("has \(size) bytes, and no file has more than \(StoreState.maximumFile)")
        }
        self.size = size
    }

    mutating func add(start: Int64, length: Int64) throws(RemfsError) {
        guard start >= end, length >= 0, start <= size, length <= size - start else {
            throw Self.wrong("has parts that overlap, go back, or lie beyond its end")
        }
        guard parts.count < Self.mostParts else { throw Self.wrong("has over \(Self.mostParts) parts") }
        end = start + length
        // The last one of GNU tar only says where the file ends.
        guard length > 0 else { return }
        parts.append((start, length))
        stored += length
    }

    /// What a store needs nothing for: of its 64 KiB pieces those that no part touches, in bytes.
    var holes: Int64 {
        var touched: Int64 = 0
        var last: Int64 = -1
        for part in parts {
            let first = max(part.start / Content.chunkSize, last + 1)
            last = max(last, (part.start + part.length - 1) / Content.chunkSize)
            touched += max(0, last - first + 1)
        }
        return max(0, size - touched * Content.chunkSize)
    }

    /// The next bytes of the file, at most so many: whether they are zeros, and how many. None at the end.
    mutating func take(_ count: Int64) -> (isHole: Bool, count: Int64) {
        while next < parts.count, place >= parts[next].start + parts[next].length { next += 1 }
        let isHole = next == parts.count || place < parts[next].start
        let limit = next == parts.count ? size : isHole ? parts[next].start : parts[next].start + parts[next].length
        let taken = min(count, limit - place)
        place += taken
        return (isHole, taken)
    }

    private static func wrong(_ why: String) -> RemfsError { RemfsError(.invalidArgument, "the archive's sparse file \(why)") }
}

/// Decimal numbers with a newline behind each, as they arrive: the map of pax 1.0 is a count, and so many pairs.
struct SparseLines {
    private(set) var numbers: [Int64] = []
    private var present: Int64 = 0
    private var digits = 0

    /// How many pairs there are to be, once that is known.
    private(set) var count: Int?

    var isDone: Bool { count.map { numbers.count == 2 * $0 } ?? false }

    mutating func add(_ block: [UInt8]) throws(RemfsError) {
        for byte in block where !isDone {
            switch byte {
            case 0x30...0x39 where digits < 18:
                present = present * 10 + Int64(byte - 0x30)
                digits += 1
            case UInt8(ascii: "\n") where digits > 0:
                if count == nil {
                    guard present <= SparseMap.mostParts else {
                        throw RemfsError(.invalidArgument, "the archive's sparse file has over \(SparseMap.mostParts) parts")
                    }
                    count = Int(present)
                } else {
                    numbers.append(present)
                }
                present = 0
                digits = 0
            default: throw RemfsError(.invalidArgument, "the archive has a sparse file whose map is malformed")
            }
        }
    }
}
