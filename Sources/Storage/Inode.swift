import Glibc

/// The number of an inode within its store, which is also what the kernel calls it. 1 is the root. Never reused.
package typealias InodeNumber = Int64

/// Where the sealed bytes of a file are.
enum Content: Equatable {
    case empty
    /// One chunk: a file of up to 64 KiB.
    case whole(Int64)
    /// A chunk for each 64 KiB, in order; 0 is a hole.
    case list([Int64])

    static let chunkSize: Int64 = 64 << 10

    var chunks: [Int64] {
        switch self {
        case .empty: []
        case .whole(let chunk): [chunk]
        case .list(let chunks): chunks
        }
    }

    /// How many bytes of a content of `size` bytes are in chunks: the last one may be shorter.
    func storedBytes(ofSize size: Int64) -> Int64 {
        guard case .list(let chunks) = self else { return self == .empty ? 0 : size }
        let whole = Int64(chunks.count { $0 != 0 }) * Self.chunkSize
        return chunks.last ?? 0 == 0 ? whole : whole - (Int64(chunks.count) * Self.chunkSize - size)
    }

    init(_ chunks: [Int64], size: Int64) {
        if size == 0 {
            self = .empty
        } else if size <= Self.chunkSize, chunks.count == 1, chunks[0] != 0 {
            self = .whole(chunks[0])
        } else {
            self = .list(chunks)
        }
    }
}

/// What a memory's head version holds: the state that the API shows while a save goes on.
struct MemoryHead {
    let memory: Int64
    /// Version row number.
    let version: Int64
    let created: Int64
    let updated: Int64
    let size: Int64
    /// nil: not yet asked for (content over 128 KiB is hashed on demand).
    let digest: Digest?
    let content: Content
    /// The mount that wrote it; 0: the API, or a daemon before this one.
    var origin = 0
}

/// A file, directory, link or device of one store, in memory. Every inode of an open store has one.
///
/// Invariant: only touched with the store's lock held.
final class Inode {
    struct Flags: OptionSet {
        let rawValue: Int64
        /// A directory that an API path implied: it goes with its last memory.
        static let implicit = Flags(rawValue: 1)
        /// A regular file without versions: a working file of an editor or tool.
        static let unversioned = Flags(rawValue: 2)
        /// In a row only: `ownsContent`.
        static let ownsContent = Flags(rawValue: 4)
    }

    let number: InodeNumber
    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    let rdev: UInt64
    var flags: Flags
    var links: UInt32
    /// In bytes, drafts included.
    var size: Int64
    /// Nanoseconds since 1970.
    var accessed: Int64
    var modified: Int64
    var changed: Int64

    /// The oldest name; parent 0 where there is none (the root, an unlinked inode).
    var parent: InodeNumber
    var name: [UInt8]
    var cookie: Int64
    /// Younger names, oldest first. Regular files only.
    var otherNames: [Name]

    struct Name: Equatable {
        var parent: InodeNumber
        var name: [UInt8]
        var cookie: Int64
    }

    /// Sealed bytes, and their hash where it is known.
    var content: Content {
        didSet {
            sealedBytes = nil
            secrets = nil
        }
    }
    var sealedSize: Int64 { didSet { sealedBytes = nil } }
    /// What was found in the sealed bytes; nil: nobody has looked since the store was opened.
    var secrets: SecretKinds?
    /// What the chunks hold, once somebody asked: there may be thousands, and attributes are asked for often.
    private var sealedBytes: Int64?
    /// The sealed chunks are counted once for this inode: no version holds them, or another memory's does.
    ///
    /// Invariant: kept in the row, and changed in the transaction that changes the counts.
    var ownsContent = false
    var digest: Digest?
    /// A symbolic link's target.
    var target: [UInt8]?
    var directory: Directory?

    /// A memory's last sealed version; nil for what is no memory or has no version yet.
    var head: MemoryHead?
    /// Writes since the last seal.
    var drafts: Drafts?
    /// Mounts whose last save was ended by something else than its close, which may still be in the queue of events.
    var endedEarly: Set<Int> = []
    /// Who changed its name since the last version, or made it: sealed with the next version.
    var changedBy: Author?
    /// It took the place of a version that its author never saw: the one it did see.
    var staleBase: Int64?
    /// The mount of the last change of name.
    var movedIn = 0
    /// Which mount took its last name, and when (monotonic, ns).
    var removal: (origin: Int, time: Int64)?
    /// The mount in which the file was born, as long as nobody else was told of it. 0: settled.
    var unsettledIn: Int
    /// The process that made it, and when (ns): what tells a temporary file from a moved one.
    var bornBy: Int32
    var born: Int64

    /// As the row keeps them.
    var storedFlags: Flags { ownsContent ? flags.union(.ownsContent) : flags }

    var kind: UInt32 { mode & UInt32(S_IFMT) }
    var isDirectory: Bool { kind == UInt32(S_IFDIR) }
    var isRegular: Bool { kind == UInt32(S_IFREG) }
    var isMemory: Bool { isRegular && !flags.contains(.unversioned) }

    init(
        number: InodeNumber, mode: UInt32, uid: UInt32, gid: UInt32, rdev: UInt64, flags: Flags, parent: InodeNumber, name: [UInt8],
        cookie: Int64, accessed: Int64, modified: Int64, changed: Int64
    ) {
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.flags = flags
        self.parent = parent
        self.name = name
        self.cookie = cookie
        self.accessed = accessed
        self.modified = modified
        self.changed = changed
        links = mode & UInt32(S_IFMT) == UInt32(S_IFDIR) ? 2 : 1
        size = 0
        otherNames = []
        content = .empty
        sealedSize = 0
        digest = .ofNothing
        target = nil
        directory = mode & UInt32(S_IFMT) == UInt32(S_IFDIR) ? Directory() : nil
        head = nil
        drafts = nil
        changedBy = nil
        unsettledIn = 0
        bornBy = 0
        born = 0
    }

    /// What is stored of a regular file, holes not counted. Bytes that drafts wrote over sealed ones count twice until they are sealed, but never
    /// beyond the size.
    var storedBytes: Int64 {
        let sealed = sealedBytes ?? content.storedBytes(ofSize: sealedSize)
        sealedBytes = sealed
        guard let drafts else { return sealed }
        return min(size, min(sealed, drafts.sealedLimit) + drafts.map.storedBytes)
    }

    /// Whether `(parent, name)` is the name by which the memory is known.
    func isOldestName(_ name: [UInt8], in parent: InodeNumber) -> Bool { self.parent == parent && self.name == name }
}

/// The names in one directory, in the order in which they came: a name's cookie is its place, for `readdir` to go on from.
///
/// A hash index over an append-only list: no allocation on lookup, and a listing is a slice. Removed names leave a gap until half
/// of the list is gaps.
final class Directory {
    struct Entry {
        let name: [UInt8]
        let cookie: Int64
        /// nil: removed.
        var inode: Inode?
    }

    private(set) var entries: [Entry] = []
    private(set) var count = 0
    /// Open addressing; 0 is free, -1 a gap, else the entry's place + 1. A power of two, at most half full.
    private var slots: [Int32] = []
    private var used = 0

    func find(_ name: UnsafeRawBufferPointer) -> Inode? {
        guard let place = unsafe place(of: name) else { return nil }
        return entries[place].inode
    }

    func find(_ name: [UInt8]) -> Inode? { unsafe name.withUnsafeBytes { unsafe find($0) } }

    /// Adds a name that is not there: at the end, or where a name has just been removed.
    func add(_ name: [UInt8], cookie: Int64, _ inode: Inode) {
        if (used + 1) * 2 > slots.count { rebuild() }
        let entry = Entry(name: name, cookie: cookie, inode: inode)
        count += 1
        if let last = entries.last, last.cookie >= cookie {
            let place = place(after: cookie - 1)
            if entries[place].cookie == cookie {
                entries[place] = entry
                index(place)
            } else {
                // The gap was closed meanwhile, as it is once for half of all names.
                entries.insert(entry, at: place)
                rebuild()
            }
            return
        }
        entries.append(entry)
        index(entries.count - 1)
    }

    /// Adds names to a directory that has none greater: all at once, since a store of thousands is opened while clients wait.
    ///
    /// - Parameter names: by cookie, rising.
    func append(_ names: [Entry]) {
        entries.append(contentsOf: names)
        count += names.count
        if (used + names.count) * 2 > slots.count { return rebuild() }
        for place in entries.indices.suffix(names.count) { index(place) }
    }

    /// The cookie of a name; 0: it is not there.
    func cookie(of name: [UInt8]) -> Int64 {
        guard let place = unsafe name.withUnsafeBytes({ unsafe place(of: $0) }) else { return 0 }
        return entries[place].cookie
    }

    func remove(_ name: [UInt8]) {
        guard let slot = unsafe name.withUnsafeBytes({ unsafe slot(of: $0) }) else { return }
        let place = Int(slots[slot]) - 1
        slots[slot] = -1
        entries[place].inode = nil
        count -= 1
        if entries.count > 32, count * 2 < entries.count { rebuild() }
    }

    /// The place of the first entry whose cookie is greater.
    func place(after cookie: Int64) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].cookie <= cookie { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func place(of name: UnsafeRawBufferPointer) -> Int? {
        unsafe slot(of: name).map { Int(slots[$0]) - 1 }
    }

    private func slot(of name: UnsafeRawBufferPointer) -> Int? {
        guard !slots.isEmpty else { return nil }
        let mask = slots.count - 1
        var slot = unsafe Self.hash(name) & mask
        while slots[slot] != 0 {
            let place = Int(slots[slot]) - 1
            if place >= 0, entries[place].name.count == name.count,
                unsafe entries[place].name.withUnsafeBytes({
                    unsafe name.count == 0 || memcmp($0.baseAddress!, name.baseAddress!, name.count) == 0
                })
            {
                return slot
            }
            slot = (slot + 1) & mask
        }
        return nil
    }

    private func index(_ place: Int) {
        if Self.index(place, entries[place].name, in: &slots) { used += 1 }
    }

    /// True: it took a slot that was free, and not a gap.
    @discardableResult
    private static func index(_ place: Int, _ name: [UInt8], in slots: inout [Int32]) -> Bool {
        let mask = slots.count - 1
        var slot = unsafe name.withUnsafeBytes { unsafe hash($0) } & mask
        while slots[slot] > 0 { slot = (slot + 1) & mask }
        let wasFree = slots[slot] == 0
        slots[slot] = Int32(place + 1)
        return wasFree
    }

    private func rebuild() {
        entries.removeAll { $0.inode == nil }
        var size = 8
        while size < (entries.count + 1) * 4 { size *= 2 }
        var fresh = [Int32](repeating: 0, count: size)
        for (place, entry) in entries.enumerated() { Self.index(place, entry.name, in: &fresh) }
        slots = fresh
        used = entries.count
    }

    /// FNV-1a, with a final mix: names are short, and an attacker who floods one directory slows down that directory only.
    private static func hash(_ name: UnsafeRawBufferPointer) -> Int {
        var value: UInt64 = 0xcbf2_9ce4_8422_2325
        for place in 0..<name.count { value = unsafe (value ^ UInt64(name[place])) &* 0x100_0000_01b3 }
        return Int(truncatingIfNeeded: (value ^ (value >> 29)) >> 1)
    }
}
