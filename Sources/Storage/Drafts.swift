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
    private(set) var extents: [Extent] = []
    /// Hashes of those of them that become chunks as they are, known before it is sealed.
    var digests: [Int64: Digest] = [:]
    /// All of them are known.
    var isPrepared = false
    /// What was found in the content that it comes to, where that was looked for before it is sealed.
    var secrets: SecretKinds?
    /// The smallest that the file was cut to meanwhile.
    private(set) var smallestSize = Int64.max
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

    func add(_ extent: Extent) {
        extents.append(extent)
        if extent.kind == .truncation { smallestSize = min(smallestSize, extent.offset) }
    }

    /// What its seal reads, hashes and stores, at most: all of a small file, of a large one the chunks that it touches.
    var bytesToSeal: Int64 {
        // Many writes are made ready for the seal anyway (`extentsPerSeal`).
        guard size > StoreState.bytesPerSeal, extents.count <= StoreState.extentsPerSeal else { return size }
        let block = Content.chunkSize
        // The last chunk before it may have been shorter.
        var bytes = block
        for extent in extents {
            switch extent.kind {
            case .bytes: bytes += ((extent.offset + extent.length - 1) / block - extent.offset / block + 1) * block
            // What lies wholly in it is not read.
            case .hole: bytes += 2 * block
            case .truncation: bytes += block
            }
        }
        return min(bytes, size)
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

    /// After the first saves were sealed: takes them out of the map. Costs as much as they hold, not as those that are left.
    func removeSealed(_ count: Int, sealedSize: Int64) {
        // What the map shows of them shows in the sealed bytes as well; where it shows something younger, it goes on to.
        for save in saves.prefix(count) { for extent in save.extents { map.remove(extent) } }
        saves.removeFirst(count)
        sealedLimit = saves.reduce(sealedSize) { min($0, $1.smallestSize) }
    }
}

/// Which extent holds each byte: sorted, disjoint segments, in blocks of up to a few hundred.
///
/// Two binary searches find a place, and a change moves the rest of one block: a save of 100,000 writes all over a file costs no more for
/// each of them than one of 100.
struct ExtentMap {
    struct Segment {
        var offset: Int64
        var length: Int64
        let extent: Extent
        var end: Int64 { offset + length }
    }

    /// Where a segment is, or would be: behind the last one the block is one past the last.
    private struct Place {
        var block: Int
        var index: Int
    }

    /// 14 KB to move at most, and an eighth of a percent of the segments in the list of blocks.
    static let longestBlock = 256

    /// Invariant: none is empty or longer than `longestBlock`.
    private(set) var blocks: [[Segment]] = []
    /// How many bytes were written, of all that the segments hold; the rest of them are holes.
    private(set) var storedBytes: Int64 = 0

    var isEmpty: Bool { blocks.isEmpty }
    var count: Int { blocks.reduce(0) { $0 + $1.count } }

    /// The place of the first segment that ends after `offset`.
    private func place(_ offset: Int64) -> Place {
        guard let last = blocks.last?.last, last.end > offset else { return Place(block: blocks.count, index: 0) }
        var low = 0
        var high = blocks.count - 1
        while low < high {
            let middle = (low + high) / 2
            if blocks[middle][blocks[middle].count - 1].end <= offset { low = middle + 1 } else { high = middle }
        }
        let block = low
        low = 0
        high = blocks[block].count - 1
        while low < high {
            let middle = (low + high) / 2
            if blocks[block][middle].end <= offset { low = middle + 1 } else { high = middle }
        }
        return Place(block: block, index: low)
    }

    /// The first segment that ends after `offset`.
    func segment(endingAfter offset: Int64) -> Segment? {
        let place = place(offset)
        return place.block < blocks.count ? blocks[place.block][place.index] : nil
    }

    /// The segments that hold any byte of a range, in order.
    func segments(from start: Int64, to end: Int64) -> [Segment] {
        var found: [Segment] = []
        var place = place(start)
        while place.block < blocks.count {
            while place.index < blocks[place.block].count {
                let segment = blocks[place.block][place.index]
                guard segment.offset < end else { return found }
                found.append(segment)
                place.index += 1
            }
            place = Place(block: place.block + 1, index: 0)
        }
        return found
    }

    mutating func put(_ extent: Extent) {
        guard extent.length > 0 else { return }
        let new = Segment(offset: extent.offset, length: extent.length, extent: extent)
        insert(new, at: clear(from: new.offset, to: new.end))
    }

    /// Takes out what still shows of an extent.
    mutating func remove(_ extent: Extent) {
        guard extent.kind != .truncation, extent.length > 0 else { return }
        let end = extent.offset + extent.length
        var place = place(extent.offset)
        while place.block < blocks.count {
            guard place.index < blocks[place.block].count else {
                place = Place(block: place.block + 1, index: 0)
                continue
            }
            let segment = blocks[place.block][place.index]
            guard segment.offset < end else { return }
            guard segment.extent.id == extent.id else {
                place.index += 1
                continue
            }
            note(segment.extent, segment.length, isGone: true)
            blocks[place.block].remove(at: place.index)
            if blocks[place.block].isEmpty { blocks.remove(at: place.block) }
        }
    }

    /// The parts of a file, of `size` bytes each, that segments touch, in order.
    func places(ofSize size: Int64) -> [Int] {
        var places: [Int] = []
        for block in blocks {
            for segment in block {
                let last = Int((segment.end - 1) / size)
                var place = max(Int(segment.offset / size), (places.last ?? -1) + 1)
                while place <= last {
                    places.append(place)
                    place += 1
                }
            }
        }
        return places
    }

    mutating func truncate(to size: Int64) { _ = clear(from: size, to: .max) }

    /// Takes a range out; answers where a segment that fills it goes.
    private mutating func clear(from start: Int64, to end: Int64) -> Place {
        var place = place(start)
        guard place.block < blocks.count else { return place }
        let first = blocks[place.block][place.index]
        if first.offset < start {
            blocks[place.block][place.index].length = start - first.offset
            note(first.extent, first.offset + first.length - start, isGone: true)
            place.index += 1
            if first.end > end {
                let rest = Segment(offset: end, length: first.end - end, extent: first.extent)
                insert(rest, at: place)
                return self.place(start)
            }
        }
        while place.block < blocks.count {
            if place.index == blocks[place.block].count {
                // The range may begin behind the last segment of a block and go on in the next.
                guard place.block + 1 < blocks.count, blocks[place.block + 1][0].offset < end else { return place }
                place = Place(block: place.block + 1, index: 0)
            }
            let block = place.block
            var next = place.index
            while next < blocks[block].count, blocks[block][next].end <= end {
                note(blocks[block][next].extent, blocks[block][next].length, isGone: true)
                next += 1
            }
            blocks[block].removeSubrange(place.index..<next)
            guard place.index == blocks[block].count else {
                let last = blocks[block][place.index]
                if last.offset < end {
                    blocks[block][place.index] = Segment(offset: end, length: last.end - end, extent: last.extent)
                    note(last.extent, end - last.offset, isGone: true)
                }
                return place
            }
            if place.index == 0 { blocks.remove(at: block) }
        }
        return place
    }

    private mutating func insert(_ segment: Segment, at place: Place) {
        note(segment.extent, segment.length, isGone: false)
        var place = place
        // What is appended fills the last block, and does not halve it.
        if place.index == 0, place.block > 0, blocks[place.block - 1].count < Self.longestBlock {
            place = Place(block: place.block - 1, index: blocks[place.block - 1].count)
        }
        guard place.block < blocks.count, place.index < Self.longestBlock else {
            blocks.insert([segment], at: min(place.block + (place.index > 0 ? 1 : 0), blocks.count))
            return
        }
        blocks[place.block].insert(segment, at: place.index)
        guard blocks[place.block].count > Self.longestBlock else { return }
        let half = Self.longestBlock / 2
        let rest = Array(blocks[place.block][half...])
        blocks[place.block].removeSubrange(half...)
        blocks.insert(rest, at: place.block + 1)
    }

    private mutating func note(_ extent: Extent, _ length: Int64, isGone: Bool) {
        if extent.kind == .bytes { storedBytes += isGone ? -length : length }
    }
}
