/// Writes a tar archive as POSIX.1-2001 has it: pax headers where a plain one has no room (names over 100 bytes or not ASCII, parts of
/// seconds, large numbers). Used by one thread.
package final class ArchiveWriter {
    private let sink: ([UInt8]) throws(RemfsError) -> Void
    private var left: Int64 = 0
    private var padding = 0

    package init(_ sink: @escaping ([UInt8]) throws(RemfsError) -> Void) { self.sink = sink }

    /// Begins an entry. The bytes of a file follow with `write`, exactly as many as its size says.
    package func begin(_ entry: ArchiveEntry) throws(RemfsError) {
        try finishEntry()
        var header = Header(name: entry.path)
        header.permissions = Int64(entry.permissions)
        header.uid = Int64(entry.uid)
        header.gid = Int64(entry.gid)
        header.modified = entry.modified
        switch entry.kind {
        case .directory:
            header.type = "5"
            header.name.append(UInt8(ascii: "/"))
        case .file(let size): header.size = size
        case .symbolicLink(let target):
            header.type = "2"
            header.link = target
        case .hardLink(let path):
            header.type = "1"
            header.link = path
        case .fifo: header.type = "6"
        }
        left = header.size
        padding = TarBlock.padding(after: header.size)
        let records = header.records
        if !records.isEmpty {
            var extended = Header(name: Array("PaxHeaders/".utf8) + entry.path.suffix(80))
            extended.type = "x"
            extended.size = Int64(records.count)
            // Where a name is cut it may be cut within a character; whoever reads this header reads the records and not its name.
            try sink(extended.block)
            try sink(records + [UInt8](repeating: 0, count: TarBlock.padding(after: extended.size)))
        }
        try sink(header.block)
    }

    package func write(_ bytes: [UInt8]) throws(RemfsError) {
        guard Int64(bytes.count) <= left else { throw RemfsError(.internal, "an archive's entry has more bytes than its header says") }
        left -= Int64(bytes.count)
        try sink(bytes)
    }

    private func finishEntry() throws(RemfsError) {
        guard left == 0 else { throw RemfsError(.internal, "an archive's entry has fewer bytes than its header says") }
        if padding > 0 { try sink([UInt8](repeating: 0, count: padding)) }
        padding = 0
    }

    /// Writes the end mark.
    package func finish() throws(RemfsError) {
        try finishEntry()
        try sink([UInt8](repeating: 0, count: 2 * TarBlock.size))
    }

    private struct Header {
        var name: [UInt8]
        var type: Unicode.Scalar = "0"
        var link: [UInt8] = []
        var size: Int64 = 0
        var permissions: Int64 = 0o644
        var uid: Int64 = 0
        var gid: Int64 = 0
        /// ns
        var modified: Int64 = 0

        init(name: [UInt8]) { self.name = name }

        private static func isPlain(_ text: [UInt8]) -> Bool { text.count <= 100 && text.allSatisfy { $0 < 0x80 } }

        private var seconds: Int64 { modified / 1_000_000_000 - (modified % 1_000_000_000 < 0 ? 1 : 0) }

        /// What a plain header has no room for.
        var records: [UInt8] {
            var records: [UInt8] = []
            func add(_ key: String, _ value: [UInt8]) {
                let body = Array(" \(key)=".utf8) + value + [UInt8(ascii: "\n")]
                // The length counts its own digits.
                var length = body.count + 1
                while String(length).utf8.count + body.count != length { length = String(length).utf8.count + body.count }
                records += Array(String(length).utf8) + body
            }
            if !Self.isPlain(name) { add("path", name) }
            if !Self.isPlain(link) { add("linkpath", link) }
            if size >= 1 << 33 { add("size", Array("\(size)".utf8)) }
            if uid >= 1 << 21 { add("uid", Array("\(uid)".utf8)) }
            if gid >= 1 << 21 { add("gid", Array("\(gid)".utf8)) }
            if modified % 1_000_000_000 != 0 || seconds < 0 || seconds >= 1 << 33 {
                let digits = String(abs(modified % 1_000_000_000))
                let fraction = String(repeating: "0", count: 9 - digits.utf8.count) + digits
                add("mtime", Array("\(modified < 0 ? "-" : "")\(abs(modified / 1_000_000_000)).\(fraction)".utf8))
            }
            return records
        }

        var block: [UInt8] {
            var block = [UInt8](repeating: 0, count: TarBlock.size)
            func put(_ bytes: some Collection<UInt8>, at place: Int) { block.replaceSubrange(place..<(place + bytes.count), with: bytes) }
            func put(_ number: Int64, at place: Int, digits: Int) {
                // Where it does not fit an extended header has told it.
                let limit: Int64 = 1 << Int64(3 * digits)
                let text = String((0..<limit).contains(number) ? number : 0, radix: 8)
                put((String(repeating: "0", count: digits - text.utf8.count) + text).utf8, at: place)
            }
            put(name.prefix(100), at: 0)
            put(permissions, at: 100, digits: 7)
            put(uid, at: 108, digits: 7)
            put(gid, at: 116, digits: 7)
            put(size, at: 124, digits: 11)
            put(seconds, at: 136, digits: 11)
            put(String(type).utf8, at: 156)
            put(link.prefix(100), at: 157)
            put("ustar\u{0}00".utf8, at: 257)
            put(TarBlock.checksum(block), at: 148, digits: 6)
            put([0, 0x20], at: 154)
            return block
        }
    }
}
