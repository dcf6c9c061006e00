/// What `.remfs` shows of a store's past, as the numbers by which kernels know it.
///
/// Each number says by itself what it is of, so that whoever goes on with a mount after a crash knows what a kernel asks for: bit 62 is set
/// for all that is in no tree of inodes, bits 60 and 61 say which kind it is (0: what lives no longer than the process).
package enum PastNode: Hashable, Sendable {
    /// A version's content. It is the same file in every moment in which it was the head, since nothing of it changes.
    case version(Int64)
    /// A directory as of a moment.
    case directory(PathNumber, at: Int)
    /// A directory of `.remfs/versions`: of the memories below a path, and of the versions of the memory that is or was there.
    case versions(PathNumber)

    /// Numbers from here on are no inode's: inodes are counted from 1.
    package static let first: UInt64 = 1 << 62
    /// `.remfs/at` itself.
    package static let at: UInt64 = first + 2
    private static let kind: UInt64 = 60

    package init?(_ number: UInt64) {
        guard number >= Self.first, number < Self.first << 1 else { return nil }
        let rest = number & (1 << Self.kind - 1)
        switch number >> Self.kind & 3 {
        case 1: self = .version(Int64(rest))
        case 2: self = .directory(PathNumber(bits: rest), at: Int(rest >> PathNumber.width))
        case 3: self = .versions(PathNumber(bits: rest))
        default: return nil
        }
    }

    package var number: UInt64 {
        switch self {
        case .version(let version): Self.first | 1 << Self.kind | UInt64(version)
        case .directory(let path, let moment): Self.first | 2 << Self.kind | UInt64(moment) << PathNumber.width | path.bits
        case .versions(let path): Self.first | 3 << Self.kind | path.bits
        }
    }

    var inode: InodeNumber { InodeNumber(bitPattern: number) }
}

/// A path's number: the first bits of its hash. Two paths of one store with the same number are refused, and not taken for each other; among a
/// hundred thousand directories there are such with a probability of 1 to 50,000.
package struct PathNumber: Hashable, Sendable {
    static let width: UInt64 = 48
    let bits: UInt64

    init(bits: UInt64) { self.bits = bits & (1 << Self.width - 1) }

    /// - Parameter path: `/notes/a.md`, also for a directory; empty for the root.
    package init(_ path: String) { self.init(bits: Digest(of: Array(path.utf8)).words.0) }

    package static let root = PathNumber("")
}

/// A moment as the names of `.remfs/at` choose it, or a mount as a whole.
package struct PastMoment: Sendable, Hashable {
    /// By which nodes name it: of a row of `past`; 0: that of the mount itself.
    package let number: Int
    /// us
    package let time: Int64
    /// The newest version of then; 0: there was none.
    let newest: Int64
}

/// A file or a directory of the past.
package struct PastEntry: Sendable {
    package let name: [UInt8]
    package let node: PastNode
    package let sizeInBytes: Int64
    /// us
    package let modified: Int64
    /// Its place in the listing, above those of `.` and `..`. It stays when other entries go.
    package let cookie: UInt64

    package var isDirectory: Bool { if case .version = node { false } else { true } }

    init(name: [UInt8], version: Int64, sizeInBytes: Int64, modified: Int64) {
        self.name = name
        node = .version(version)
        self.sizeInBytes = sizeInBytes
        self.modified = modified
        cookie = 1 << 50 | UInt64(version)
    }

    /// - Parameter node: a directory's.
    init(name: [UInt8], directory node: PastNode, _ path: PathNumber, modified: Int64) {
        self.name = name
        self.node = node
        sizeInBytes = 0
        self.modified = modified
        cookie = 3 + path.bits
    }
}

/// What an open store remembers of its past while kernels ask for it. Guarded by the store's lock.
struct Past {
    struct Kept {
        let name: String
        let moment: PastMoment
        var lastUse: UInt64
    }

    /// Rows of the table `past`; nil: not read yet.
    var kept: [Int: Kept]?
    var numbers: [String: Int] = [:]
    /// The number given last: one that was given up comes again as late as possible.
    var last = 0
    private var uses: UInt64 = 0
    private var paths: [PathNumber: String] = [:]
    /// Listings that a kernel is in the middle of, oldest first.
    private var listings: [(node: PastNode, entries: [PastEntry])] = []
    /// Times (us) of which nothing is given up, as far as was asked.
    private var whole: Set<Int64> = []
    /// Rises when history loses something: what was read of it before is not to be kept.
    private(set) var losses = 0
    /// us: when history last lost something.
    var lastLoss: Int64 = 0

    /// Rows, before those are given up that no kernel knows any more.
    static let mostIdle = 256
    /// As many as a node's number can name.
    static let most = 1 << 12 - 1
    /// Listings, of as many directories as are read at the same time.
    private static let mostListings = 16
    private static let mostPaths = 100_000

    mutating func use(_ number: Int) {
        uses += 1
        kept?[number]?.lastUse = uses
    }

    mutating func keep(_ name: String, _ moment: PastMoment) {
        uses += 1
        kept?[moment.number] = Kept(name: name, moment: moment, lastUse: uses)
        numbers[name] = moment.number
        last = moment.number
    }

    mutating func giveUp(_ number: Int) {
        if let name = kept?.removeValue(forKey: number)?.name { numbers[name] = nil }
    }

    func freeNumber() -> Int? {
        guard let kept, kept.count < Self.most else { return nil }
        return (1...Self.most).lazy.map { (self.last + $0 - 1) % Self.most + 1 }.first { kept[$0] == nil }
    }

    func path(_ number: PathNumber) -> String? { number == .root ? "" : paths[number] }

    /// Answers false where the number is another path's.
    mutating func note(_ path: String, _ number: PathNumber) -> Bool {
        if let known = self.path(number) { return known.utf8.elementsEqual(path.utf8) }
        // They can all be found again.
        if paths.count >= Self.mostPaths { paths = [:] }
        paths[number] = path
        return true
    }

    func isWhole(at time: Int64) -> Bool { whole.contains(time) }

    mutating func noteWhole(at time: Int64) {
        if whole.count >= Self.most { whole = [] }
        whole.insert(time)
    }

    func listing(_ node: PastNode) -> [PastEntry]? { listings.first { $0.node == node }?.entries }

    mutating func keep(_ listing: [PastEntry], of node: PastNode) {
        drop(node)
        if listings.count >= Self.mostListings { listings.removeFirst() }
        listings.append((node, listing))
    }

    mutating func drop(_ node: PastNode) { listings.removeAll { $0.node == node } }

    mutating func lose(at time: Int64) {
        losses += 1
        lastLoss = time
        listings = []
        whole = []
    }
}
