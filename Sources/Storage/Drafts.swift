/// One change of a file's bytes that is not sealed yet: a row of the table `extent`.
struct Extent {
    enum Kind { case bytes, hole, truncation }
    let id: Int64
    let kind: Kind
    /// For a truncation: the new size.
    let offset: Int64
    let length: Int64
    /// The bytes, while memory for them lasts; nil: they are in the row.
    let bytes: [UInt8]?
}

/// One save: what was written between the first change of a settled file and the close that ended it.
final class Save {
    /// The high bits of its extents' row numbers.
    let group: Int64
    /// Extents made so far.
    var count: Int64 = 0
    let author: Author
    /// The mount it came through; 0 for the API.
    let origin: Int
    /// Monotonic, ns.
    let opened: Int64
    var lastChange: Int64
    /// The writer has closed: nothing more is added to this save.
    var isClosed = false
    /// Its content is part of the next save's version: no version of its own.
    var isSuperseded = false
    var extents: [Extent] = []
    /// How many bytes of its extents are in memory.
    var residentBytes = 0
    /// Size and time of the file when this save ended.
    var size: Int64
    var modified: Int64
    /// The head that the writer had seen, where another came in between.
    var base: Int64?
    var isStale = false

    init(group: Int64, author: Author, origin: Int, at time: Int64, size: Int64, modified: Int64) {
        self.group = group
        self.author = author
        self.origin = origin
        self.size = size
        self.modified = modified
        opened = time
        lastChange = time
    }

    /// 2^20 extents fit a group; as many as the largest file has chunks stay free for what sealing makes, and those of one write.
    static let maximumExtents: Int64 = (1 << 20) - (1 << 18) - (1 << 10)

    func nextID() -> Int64 {
        defer { count += 1 }
        return group << 20 | count
    }

    /// Whether all that happened so far was a truncation: `slow_cmd > notes.md` before its first output.
    var isTruncationOnly: Bool { extents.allSatisfy { $0.kind == .truncation } }
}

/// A file's unsealed changes: the saves in order, and one map of what they come to for readers.
final class Drafts {
    var saves: [Save] = []
    var map = ExtentMap()
    /// How many of the sealed bytes still show: the smallest size since.
    var sealedLimit: Int64

    init(sealedSize: Int64) { sealedLimit = sealedSize }

    func apply(_ extent: Extent) {
        switch extent.kind {
        case .bytes, .hole: map.put(extent)
        case .truncation:
            sealedLimit = min(sealedLimit, extent.offset)
            map.truncate(to: extent.offset)
        }
    }

    /// After the first saves were sealed: the map again, from those that are left.
    func rebuild(sealedSize: Int64) {
        map = ExtentMap()
        sealedLimit = sealedSize
        for save in saves {
            for extent in save.extents { apply(extent) }
        }
    }
}

/// Which extent holds each byte: sorted, disjoint segments. Appending is constant, elsewhere a binary search and a shift.
struct ExtentMap {
    struct Segment {
        var offset: Int64
        var length: Int64
        let extent: Extent
        var end: Int64 { offset + length }
    }

    private(set) var segments: [Segment] = []

    /// The place of the first segment that ends after `offset`.
    func place(_ offset: Int64) -> Int {
        if let last = segments.last, last.end <= offset { return segments.count }
        var low = 0
        var high = segments.count
        while low < high {
            let middle = (low + high) / 2
            if segments[middle].end <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The segments that hold any byte of a range, in order.
    func segments(from start: Int64, to end: Int64) -> ArraySlice<Segment> {
        let first = place(start)
        var next = first
        while next < segments.count, segments[next].offset < end { next += 1 }
        return segments[first..<next]
    }

    mutating func put(_ extent: Extent) {
        guard extent.length > 0 else { return }
        let new = Segment(offset: extent.offset, length: extent.length, extent: extent)
        let first = place(new.offset)
        var next = first
        while next < segments.count, segments[next].offset < new.end { next += 1 }
        var parts: [Segment] = []
        if first < next, segments[first].offset < new.offset {
            let old = segments[first]
            parts.append(Segment(offset: old.offset, length: new.offset - old.offset, extent: old.extent))
        }
        parts.append(new)
        if first < next, segments[next - 1].end > new.end {
            let old = segments[next - 1]
            parts.append(Segment(offset: new.end, length: old.end - new.end, extent: old.extent))
        }
        segments.replaceSubrange(first..<next, with: parts)
    }

    mutating func truncate(to size: Int64) {
        while segments.last.map({ $0.offset >= size }) ?? false {
            segments.removeLast()
        }
        if let last = segments.last, last.end > size {
            segments[segments.count - 1].length = size - last.offset
        }
    }
}
