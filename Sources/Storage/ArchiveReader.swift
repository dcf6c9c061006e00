/// Reads a tar archive: POSIX ustar and pax, GNU and the old form. Takes nothing on trust, and holds one header, one piece of content, and
/// of a sparse file the map, of which the zeros are read like any content.
///
/// What is not to be had in a store is refused with the entry's name: absolute paths, `..`, devices, archives of several volumes. A hard link leads to a path inside; where a symbolic link leads is for the caller to judge. Used by one thread.
package final class ArchiveReader {
    /// Answers up to that many of the next bytes; none at the end.
    private let source: (Int) throws(RemfsError) -> [UInt8]
    private var buffer: [UInt8] = []
    private var place = 0
    private var isExhausted = false
    /// Of the present entry's content, and of what fills its last block.
    private var left: Int64 = 0
    private var padding = 0
    /// Where the present entry's content belongs, if it is a sparse file.
    private var sparse: SparseMap?
    private var isFirst = true
    private var isAtEnd = false

    /// 64 KiB: what a content is asked for at a time.
    private static let piece = 64 << 10
    /// 1 MiB: an extended header holds two paths and a few numbers.
    private static let longestHeader: Int64 = 1 << 20
    /// 64 KiB: deeper than any tree that a person has made.
    private static let longestPath = 64 << 10

    package init(_ source: @escaping (Int) throws(RemfsError) -> [UInt8]) { self.source = source }

    /// The next entry, once what is left of the present one's content is passed over; nil at the end mark. A missing one is an error.
    package func next() throws(RemfsError) -> ArchiveEntry? {
        if isAtEnd { return nil }
        try skip()
        var extended = ExtendedHeader()
        while true {
            let block = try take(TarBlock.size)
            guard block.count == TarBlock.size else { throw cutOff(block) }
            if block.allSatisfy({ $0 == 0 }) {
                guard extended.isEmpty else { throw Self.malformed("its last header speaks of an entry that is not there") }
                isAtEnd = true
                return nil
            }
            try requireHeader(block)
            isFirst = false
            let size = try number(block, 124..<136, "size")
            switch block[156] {
            case UInt8(ascii: "x"), UInt8(ascii: "X"): try extended.add(records: try header(of: size))
            // What holds for all entries: dates and comments of the program that made it.
            case UInt8(ascii: "g"): _ = try ExtendedHeader.records(in: try header(of: size))
            case UInt8(ascii: "L"): extended.path = Self.text(try header(of: size)[...])
            case UInt8(ascii: "K"): extended.link = Self.text(try header(of: size)[...])
            // A volume's label is no file.
            case UInt8(ascii: "V"): _ = try header(of: size)
            default: return try entry(block, size: extended.size ?? size, extended)
            }
        }
    }

    /// Up to `count` of the present entry's bytes; none at its end.
    package func read(_ count: Int) throws(RemfsError) -> [UInt8] {
        guard sparse != nil else { return try readStored(count) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count, let (isHole, length) = sparse?.take(Int64(count - bytes.count)), length > 0 {
            if isHole { bytes.append(contentsOf: repeatElement(0, count: Int(length))) } else { bytes += try readStored(Int(length)) }
        }
        return bytes
    }

    /// Of what stands in the archive.
    private func readStored(_ count: Int) throws(RemfsError) -> [UInt8] {
        let wanted = Int(min(Int64(count), left))
        let bytes = try take(wanted)
        guard bytes.count == wanted else { throw Self.malformed("it is cut off within a file") }
        left -= Int64(wanted)
        return bytes
    }

    // MARK: Headers

    private func entry(_ block: [UInt8], size: Int64, _ extended: ExtendedHeader) throws(RemfsError) -> ArchiveEntry {
        let raw = extended.sparse.path ?? extended.path ?? name(block)
        let path = try Self.path(raw)
        let shown = ArchiveEntry.shown(path)
        func refused(_ why: String) -> RemfsError { RemfsError(.invalidArgument, "the archive's entry \(shown) \(why)") }
        let link = extended.link ?? Self.text(block[157..<257])
        var kind: ArchiveEntry.Kind
        switch block[156] {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"):
            // The old form has no type for directories.
            kind = raw.last == UInt8(ascii: "/") ? .directory : .file(sizeInBytes: size)
        case UInt8(ascii: "1"):
            guard size == 0 else { throw refused("is a hard link with content") }
            kind = .hardLink(to: try Self.path(link))
        case UInt8(ascii: "2"):
            guard !link.isEmpty, link.count < 4_096, !link.contains(0) else { throw refused("is a symbolic link to nowhere") }
            kind = .symbolicLink(target: link)
        case UInt8(ascii: "3"), UInt8(ascii: "4"): throw refused("is a device")
        case UInt8(ascii: "5"), UInt8(ascii: "D"): kind = .directory
        case UInt8(ascii: "6"): kind = .fifo
        case UInt8(ascii: "S"): kind = .file(sizeInBytes: size)
        case UInt8(ascii: "M"): throw refused("goes on from another volume")
        case let type: throw refused("has the type \(type), which is not known")
        }
        var holes: Int64 = 0
        if case .file = kind {
            guard size <= StoreState.maximumFile else {
                throw refused("has \(size) bytes: no file has more than \(StoreState.maximumFile)")
            }
            guard !path.isEmpty else { throw refused("has no name") }
            left = size
            if let map = try block[156] == UInt8(ascii: "S") ? oldMap(block) : map(extended.sparse) {
                guard map.stored == left else { throw refused("is sparse, and its parts are not what the archive holds of it") }
                kind = .file(sizeInBytes: map.size)
                holes = map.holes
                sparse = map
            }
        } else {
            guard !extended.sparse.isSparse else { throw refused("is sparse, and no file") }
            // A directory may have a size: that of its names, which follow with type D only.
            left = block[156] == UInt8(ascii: "D") ? size : 0
        }
        guard left >= 0 else { throw refused("has a size below zero") }
        padding = TarBlock.padding(after: left)
        let uid = if let uid = extended.uid { uid } else { try number(block, 108..<116, "uid") }
        let gid = if let gid = extended.gid { gid } else { try number(block, 116..<124, "gid") }
        let modified = if let modified = extended.modified { modified } else { Self.nanoseconds(try number(block, 136..<148, "mtime")) }
        return ArchiveEntry(
            path: path, kind: kind, permissions: UInt32(truncatingIfNeeded: try number(block, 100..<108, "mode")) & 0o7777,
            uid: UInt32(truncatingIfNeeded: uid), gid: UInt32(truncatingIfNeeded: gid), modified: modified, holes: holes)
    }

    // MARK: Sparse files

    /// GNU tar's own form: four parts in the header, and 21 in each block that follows it.
    private func oldMap(_ block: [UInt8]) throws(RemfsError) -> SparseMap {
        var map = try SparseMap(size: try number(block, 483..<495, "real size"))
        func add(_ block: [UInt8], _ fields: Int, from start: Int) throws(RemfsError) {
            // One without a length ends them.
            for place in stride(from: start, to: start + fields * 24, by: 24) where block[place + 12] != 0 {
                try map.add(
                    start: try number(block, place..<(place + 12), "sparse offset"),
                    length: try number(block, (place + 12)..<(place + 24), "sparse length"))
            }
        }
        try add(block, 4, from: 386)
        var goesOn = block[482] != 0
        var blocks = 0
        while goesOn {
            let more = try take(TarBlock.size)
            blocks += 1
            guard more.count == TarBlock.size else { throw Self.malformed("it is cut off within a header") }
            // Empty ones could go on for ever.
            guard blocks <= SparseMap.mostParts / 21 + 1 else { throw Self.malformed("a sparse file has too many parts") }
            try add(more, 21, from: 0)
            goesOn = more[504] != 0
        }
        return map
    }

    /// The forms of pax; nil: it is no sparse file. Of the newest one the map stands before the content.
    private func map(_ records: SparseRecords) throws(RemfsError) -> SparseMap? {
        guard records.isSparse else { return nil }
        guard let size = records.size else { throw Self.malformed("a sparse file does not say its size") }
        var map = try SparseMap(size: size)
        var numbers = records.numbers
        if records.hasLines {
            var lines = SparseLines()
            while !lines.isDone {
                let block = try readStored(TarBlock.size)
                guard block.count == TarBlock.size else { throw Self.malformed("a sparse file's map is cut off") }
                try lines.add(block)
            }
            numbers = lines.numbers
        }
        guard numbers.count % 2 == 0 else { throw Self.malformed("a sparse file's map is malformed") }
        for place in stride(from: 0, to: numbers.count, by: 2) { try map.add(start: numbers[place], length: numbers[place + 1]) }
        return map
    }

    /// Of the header alone: the POSIX form splits long names in two.
    private func name(_ block: [UInt8]) -> [UInt8] {
        let name = Self.text(block[0..<100])
        guard block[257..<263].elementsEqual("ustar\0".utf8) else { return name }
        let prefix = Self.text(block[345..<500])
        return prefix.isEmpty ? name : prefix + [UInt8(ascii: "/")] + name
    }

    private func requireHeader(_ block: [UInt8]) throws(RemfsError) {
        let stored = try? number(block, 148..<156, "checksum")  // what is no number is no checksum either
        let sum = TarBlock.checksum(block)
        // Old programs added the bytes up as signed ones.
        let signed = sum - 256 * Int64(block.enumerated().count { !(148..<156).contains($0.offset) && $0.element >= 0x80 })
        guard stored == sum || stored == signed else {
            if isFirst { throw Self.malformed(Self.compression(of: block) ?? "it does not begin with a header") }
            throw Self.malformed("a header does not match its checksum")
        }
    }

    private static func compression(of block: [UInt8]) -> String? {
        let known: [(String, [UInt8])] = [
            ("gzip", [0x1f, 0x8b]), ("bzip2", Array("BZh".utf8)), ("xz", [0xfd, 0x37, 0x7a, 0x58]), ("zstd", [0x28, 0xb5, 0x2f, 0xfd]),
        ]
        return known.first { block.starts(with: $0.1) }.map { "it is compressed: send what `\($0.0) -dc` makes of it" }
    }

    /// The bytes up to the first zero.
    private static func text(_ field: ArraySlice<UInt8>) -> [UInt8] { Array(field.prefix { $0 != 0 }) }

    private func number(_ block: [UInt8], _ field: Range<Int>, _ what: String) throws(RemfsError) -> Int64 {
        if let number = Self.number(block[field]) { return number }
        throw Self.malformed("a header's \(what) is no number")
    }

    /// Octal digits between spaces and zeros, or GNU's binary form, of which the first bit is set.
    private static func number(_ field: ArraySlice<UInt8>) -> Int64? {
        guard let first = field.first else { return nil }
        if first & 0x80 != 0 {
            // The second bit is the sign.
            var value: Int64 = first & 0x40 != 0 ? -1 : 0
            for (place, byte) in field.enumerated() {
                let byte = place == 0 ? (value < 0 ? byte | 0x80 : byte & 0x7f) : byte
                guard value >= -(1 << 54), value < 1 << 54 else { return nil }
                value = value << 8 | Int64(byte)
            }
            return value
        }
        var digits = field.drop { $0 == 0x20 }
        let rest = digits.drop { (0x30...0x37).contains($0) }
        digits = digits[digits.startIndex..<rest.startIndex]
        // Twelve digits at most: no overflow.
        guard rest.allSatisfy({ $0 == 0 || $0 == 0x20 }) else { return nil }
        return digits.reduce(0) { $0 << 3 | Int64($1 - 0x30) }
    }

    /// A path in a store: names between single slashes. What stands for the same directory (`./`, `//`) is left out.
    private static func path(_ raw: [UInt8]) throws(RemfsError) -> [UInt8] {
        func refused(_ why: String) -> RemfsError { RemfsError(.invalidArgument, "the archive's path \(ArchiveEntry.shown(raw)) \(why)") }
        guard raw.first != UInt8(ascii: "/") else { throw refused("is absolute") }
        guard raw.count <= longestPath else { throw refused("has over \(longestPath) bytes") }
        var path: [UInt8] = []
        for segment in raw.split(separator: UInt8(ascii: "/")) where !segment.elementsEqual(".".utf8) {
            guard !segment.elementsEqual("..".utf8) else { throw refused("leads out of the archive") }
            if !path.isEmpty { path.append(UInt8(ascii: "/")) }
            path += segment
        }
        return path
    }

    static func nanoseconds(_ seconds: Int64) -> Int64 {
        // Years 1678 to 2262: what is beyond is shown as the last of them.
        let limit = Int64.max / 1_000_000_000 - 1
        return min(max(seconds, -limit), limit) * 1_000_000_000
    }

    // MARK: Bytes

    private func header(of size: Int64) throws(RemfsError) -> [UInt8] {
        guard (0...Self.longestHeader).contains(size) else { throw Self.malformed("an extended header has \(size) bytes") }
        let bytes = try take(Int(size))
        guard bytes.count == Int(size) else { throw Self.malformed("it is cut off within a header") }
        let filler = TarBlock.padding(after: size)
        guard try take(filler).count == filler else { throw Self.malformed("it is cut off within a header") }
        return bytes
    }

    /// Passes over the rest of the present entry.
    private func skip() throws(RemfsError) {
        sparse = nil
        while left > 0 { _ = try readStored(Self.piece) }
        guard try take(padding).count == padding else { throw Self.malformed("it is cut off within a file") }
        padding = 0
    }

    /// Exactly `count` bytes, or fewer where the archive ends.
    private func take(_ count: Int) throws(RemfsError) -> [UInt8] {
        while buffer.count - place < count, !isExhausted {
            let more = try source(max(Self.piece, count - (buffer.count - place)))
            if more.isEmpty { isExhausted = true }
            if place > 0 { buffer.removeFirst(place) }
            place = 0
            buffer += more
        }
        let end = min(place + count, buffer.count)
        defer { place = end }
        return Array(buffer[place..<end])
    }

    private func cutOff(_ rest: [UInt8]) -> RemfsError {
        if isFirst { return Self.malformed(rest.isEmpty ? "it is empty" : Self.compression(of: rest) ?? "it is shorter than a header") }
        return Self.malformed("it is cut off: there is no end mark")
    }

    private static func malformed(_ why: String) -> RemfsError {
        RemfsError(.invalidArgument, "this is no tar archive that can be read: \(why)")
    }
}

/// What extended headers say of the entry that follows them, in place of its own header.
private struct ExtendedHeader {
    var path: [UInt8]?
    var link: [UInt8]?
    var size: Int64?
    var uid: Int64?
    var gid: Int64?
    var modified: Int64?
    var sparse = SparseRecords()
    private var hasRecords = false

    var isEmpty: Bool { path == nil && link == nil && !hasRecords }

    mutating func add(records bytes: [UInt8]) throws(RemfsError) {
        for (key, value) in try Self.records(in: bytes) {
            hasRecords = true
            // Without a value the header itself holds.
            switch key {
            case "path": path = value.isEmpty ? nil : try Self.name(value)
            case "linkpath": link = value.isEmpty ? nil : try Self.name(value)
            case "size": size = try Self.decimal(value, key)
            case "uid": uid = try Self.decimal(value, key)
            case "gid": gid = try Self.decimal(value, key)
            case "mtime": modified = value.isEmpty ? nil : try Self.time(value)
            case _ where key.hasPrefix("GNU.sparse."): try sparse.add(String(key.dropFirst(11)), value)
            // Access times, owners' names, attributes of other systems.
            default: break
            }
        }
    }

    /// `LENGTH KEY=VALUE` and a newline, all of them counted in LENGTH.
    static func records(in bytes: [UInt8]) throws(RemfsError) -> [(key: String, value: [UInt8])] {
        let malformed = RemfsError(.invalidArgument, "this is no tar archive that can be read: an extended header is malformed")
        var records: [(String, [UInt8])] = []
        var rest = bytes[...]
        // Some programs fill the block with zeros and count them.
        while let first = rest.first, first != 0 {
            let digits = rest.prefix { (0x30...0x39).contains($0) }
            guard !digits.isEmpty, digits.count <= 7, let length = Int(String(decoding: digits, as: UTF8.self)), length <= rest.count,
                length > digits.count + 2
            else { throw malformed }
            let record = rest.prefix(length)
            rest = rest.dropFirst(length)
            let body = record.dropFirst(digits.count)
            guard body.first == 0x20, record.last == UInt8(ascii: "\n"), let equals = body.firstIndex(of: UInt8(ascii: "=")) else {
                throw malformed
            }
            let key = String(decoding: body[(body.startIndex + 1)..<equals], as: UTF8.self)
            records.append((key, Array(body[(equals + 1)..<(body.endIndex - 1)])))
        }
        return records
    }

    fileprivate static func name(_ value: [UInt8]) throws(RemfsError) -> [UInt8] {
        guard !value.contains(0) else { throw RemfsError(.invalidArgument, "the archive has a name with a zero byte") }
        return value
    }

    fileprivate static func decimal(_ value: [UInt8], _ key: String) throws(RemfsError) -> Int64? {
        if value.isEmpty { return nil }
        guard let number = Int64(String(decoding: value, as: UTF8.self)), number >= 0 else {
            throw RemfsError(.invalidArgument, "this is no tar archive that can be read: an extended header's \(key) is no number")
        }
        return number
    }

    /// Seconds, with as many digits behind the point as anybody likes.
    private static func time(_ value: [UInt8]) throws(RemfsError) -> Int64 {
        let wrong = RemfsError(.invalidArgument, "this is no tar archive that can be read: an extended header's mtime is no time")
        let isNegative = value.first == UInt8(ascii: "-")
        let halves = value.dropFirst(isNegative ? 1 : 0).split(separator: UInt8(ascii: "."), maxSplits: 1, omittingEmptySubsequences: false)
        let fraction = halves.count > 1 ? halves[1] : []
        guard let whole = halves.first, !whole.isEmpty, whole.count <= 18, (whole + fraction).allSatisfy({ (0x30...0x39).contains($0) })
        else { throw wrong }
        let seconds = whole.reduce(Int64(0)) { $0 * 10 + Int64($1 - 0x30) }
        var nanoseconds: Int64 = 0
        for place in 0..<9 {
            nanoseconds = nanoseconds * 10 + (place < fraction.count ? Int64(fraction[fraction.startIndex + place] - 0x30) : 0)
        }
        let time = ArchiveReader.nanoseconds(seconds) + nanoseconds
        return isNegative ? -time : time
    }
}

/// What extended headers say of a sparse file. GNU tar has three forms of that (0.0, 0.1, 1.0).
private struct SparseRecords {
    private(set) var isSparse = false
    private(set) var path: [UInt8]?
    /// Of the file, in bytes.
    private(set) var size: Int64?
    /// Starts and lengths, one after the other.
    private(set) var numbers: [Int64] = []
    /// The map is no record, but stands before the content.
    private(set) var hasLines = false

    mutating func add(_ key: String, _ value: [UInt8]) throws(RemfsError) {
        isSparse = true
        func number() throws(RemfsError) -> Int64 {
            if let number = try ExtendedHeader.decimal(value, "GNU.sparse.\(key)") { return number }
            throw RemfsError(.invalidArgument, "the archive has a sparse file whose \(key) is missing")
        }
        switch key {
        case "name": path = try ExtendedHeader.name(value)
        case "size", "realsize": size = try number()
        case "major":
            guard try number() <= 1 else { throw RemfsError(.invalidArgument, "the archive has sparse files of a form that is not known") }
            hasLines = try number() == 1
        case "minor":
            guard try number() <= 1 else { throw RemfsError(.invalidArgument, "the archive has sparse files of a form that is not known") }
        case "offset", "numbytes":
            // In pairs, the offset first.
            guard numbers.count % 2 == (key == "offset" ? 0 : 1) else {
                throw RemfsError(.invalidArgument, "the archive has a sparse file whose map is malformed")
            }
            numbers.append(try number())
        case "map":
            for part in value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) {
                guard let number = try ExtendedHeader.decimal(Array(part), "GNU.sparse.map") else {
                    throw RemfsError(.invalidArgument, "the archive has a sparse file whose map is malformed")
                }
                numbers.append(number)
            }
        // How many there are is counted.
        default: break
        }
    }
}
