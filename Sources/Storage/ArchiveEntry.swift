/// One file, directory or link on its way out of a store or into one: what a tar archive keeps of it.
package struct ArchiveEntry: Sendable, Equatable {
    package enum Kind: Sendable, Equatable {
        case directory
        case file(sizeInBytes: Int64)
        case symbolicLink(target: [UInt8])
        /// Another name of a file that came before, by its path.
        case hardLink(to: [UInt8])
        case fifo
    }

    /// From the root down, without a slash at either end. Of names only: none is empty, `.` or `..`. Empty: the root itself.
    package var path: [UInt8]
    package var kind: Kind
    /// The lowest twelve bits of a mode.
    package var permissions: UInt32
    package var uid: UInt32
    package var gid: UInt32
    /// Nanoseconds since 1970.
    package var modified: Int64
    /// A working file without versions. A tar archive does not keep this.
    package var isUnversioned: Bool
    /// Of a file, in bytes: pieces of 64 KiB that are nothing but zeros, as far as the archive says so.
    package var holes: Int64

    package init(
        path: [UInt8], kind: Kind, permissions: UInt32 = 0o644, uid: UInt32 = 0, gid: UInt32 = 0, modified: Int64 = 0,
        isUnversioned: Bool = false, holes: Int64 = 0
    ) {
        self.path = path
        self.kind = kind
        self.permissions = permissions
        self.uid = uid
        self.gid = gid
        self.modified = modified
        self.isUnversioned = isUnversioned
        self.holes = holes
    }

    var segments: [[UInt8]] { path.split(separator: UInt8(ascii: "/")).map { Array($0) } }

    /// For messages: what a client sent is cut and cannot hold control characters.
    var shown: String { Self.shown(path) }

    static func shown(_ path: [UInt8]) -> String {
        let text = String(decoding: path.prefix(200), as: UTF8.self)
        let safe = String(String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
        return path.count > 200 ? safe + "..." : safe
    }
}

/// The blocks of a tar archive (POSIX.1-2001 "pax Interchange Format").
enum TarBlock {
    static let size = 512

    /// What a header's bytes add up to while its checksum is spaces.
    static func checksum(_ block: [UInt8]) -> Int64 {
        var sum: Int64 = 0
        for (place, byte) in block.enumerated() { sum += Int64((148..<156).contains(place) ? 0x20 : byte) }
        return sum
    }

    /// How many bytes follow a content up to the next block.
    static func padding(after size: Int64) -> Int { Int((512 - size % 512) % 512) }
}
