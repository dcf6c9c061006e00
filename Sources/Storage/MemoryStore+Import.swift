import Glibc
import SQLite

/// Entries with their contents, one after the other.
package struct EntrySource {
    let next: () throws(RemfsError) -> ArchiveEntry?
    /// Up to that many of the present entry's bytes.
    let read: (Int) throws(RemfsError) -> [UInt8]
    let extendedAttributes: () throws(RemfsError) -> [(name: String, value: [UInt8])]

    package init(_ archive: ArchiveReader) {
        next = { () throws(RemfsError) in try archive.next() }
        read = { (count) throws(RemfsError) in try archive.read(count) }
        extendedAttributes = { [] }
    }

    init(_ snapshot: StoreSnapshot) {
        next = { snapshot.next() }
        // A chunk, which is what an importer asks for.
        read = { (_) throws(RemfsError) in try snapshot.read() }
        extendedAttributes = { () throws(RemfsError) in try snapshot.extendedAttributes() }
    }
}

/// What an import takes and how.
package struct ImportRules: Sendable {
    /// Where the entries go: an absolute path that ends with `/`.
    package var prefix = "/"
    /// Symbolic links that lead out of the store, or may, are refused otherwise.
    package var takesLinksOut = false
    /// Owners, all bits of modes and working files as they are: for a fork. An archive's say nothing here.
    var isCopy = false
    /// One transaction after the other, each of so many bytes: for a store that nobody knows yet. nil: one for all.
    var batch: Int64?

    package init() {}
}

/// What an import has done.
package struct ImportCounts: Sendable, Equatable {
    package var created = 0
    package var modified = 0
    package var unchanged = 0
    package var directories = 0
    /// Symbolic links, hard links, FIFOs and working files.
    package var others = 0
    /// Of those that were created or modified: in which a secret was found.
    package var secrets = 0
    package var bytes: Int64 = 0

    package init() {}
}

extension MemoryStore {
    /// Puts entries into the store, as one transaction unless the rules say otherwise. A file that is there becomes a new version of its
    /// memory; where something else is in the way nothing is done.
    package func take(_ source: EntrySource, _ rules: ImportRules, by author: Author) throws(RemfsError) -> ImportCounts {
        var importer = Importer(source, rules, author)
        while try !changeTogether({ (state) throws(RemfsError) in try importer.takeBatch(into: state) }) {
            // Nobody else does it for a store that is being made.
            try checkpoint()
        }
        try synchronizeNow()
        drainInvalidations()
        return importer.counts
    }
}

/// Puts entries into a tree.
private struct Importer {
    private let source: EntrySource
    private let rules: ImportRules
    private let author: Author
    private let prefix: [[UInt8]]
    private var entries = 0
    /// Directories, whose times are set last.
    private var times: [(InodeNumber, Int64)] = []
    private(set) var counts = ImportCounts()

    /// What is no memory is bounded by nothing else: an inode costs some 300 bytes of memory.
    private static let mostEntries = 1_000_000
    private static let entriesPerBatch = 2_000

    /// Of holes, in bytes: an archive of a few bytes can have as many as it likes, and each is hashed. Where others wait for that, 1 GiB.
    private var zeros: Int64 = 0
    private static let mostZeros: Int64 = 1 << 30
    private static let mostZerosOfNew: Int64 = 64 << 30

    init(_ source: EntrySource, _ rules: ImportRules, _ author: Author) {
        self.source = source
        self.rules = rules
        self.author = author
        prefix = rules.prefix.utf8.split(separator: UInt8(ascii: "/")).map { Array($0) }
    }

    /// Answers whether all is done.
    mutating func takeBatch(into state: StoreState) throws(RemfsError) -> Bool {
        let firstEntry = entries
        let firstByte = counts.bytes
        while let entry = try source.next() {
            entries += 1
            guard entries <= Self.mostEntries else {
                throw RemfsError(.tooLarge, "the archive has more than \(Self.mostEntries) entries")
            }
            do throws(RemfsError) {
                try take(entry, into: state)
            } catch {
                // Whose fault it is says the code; which entry's only we know.
                guard error.code.seenAs.status < 500 else { throw error }
                throw RemfsError(
                    error.code, "the archive's entry \(entry.shown): \(error.message)", cause: error.cause, conflict: error.conflict)
            }
            if let batch = rules.batch, counts.bytes - firstByte > batch || entries - firstEntry >= Self.entriesPerBatch { return false }
        }
        for (number, time) in times.reversed() {
            if let directory = state.inodes[number] { try state.setTime(time, of: directory) }
        }
        return true
    }

    private mutating func take(_ entry: ArchiveEntry, into state: StoreState) throws(RemfsError) {
        let path = prefix + entry.segments
        // The root itself, as `tar -C DIR .` has it.
        guard !entry.path.isEmpty else { return }
        guard !path[0].elementsEqual(".remfs".utf8) else { throw RemfsError(.invalidArgument, "the path /.remfs is reserved") }
        var attributes = StoreState.Attributes(
            permissions: entry.permissions & (entry.kind == .directory ? 0o1777 : 0o777), modified: entry.modified)
        if rules.isCopy {
            attributes.permissions = entry.permissions
            attributes.uid = entry.uid
            attributes.gid = entry.gid
        }
        // Everything that an import makes is a memory; but the SDK's marker the API could not have made.
        attributes.isUnversioned =
            rules.isCopy ? entry.isUnversioned : path.count == 1 && path[0].elementsEqual(".anthropic-memory-store".utf8)
        switch entry.kind {
        case .directory:
            let directory = try state.placeDirectory(path, attributes)
            times.append((directory.number, entry.modified))
            counts.directories += 1
            try copyExtendedAttributes(to: directory, in: state)
        case .file(let size): try takeFile(size, holes: entry.holes, at: path, attributes, into: state)
        case .symbolicLink(let target):
            guard rules.isCopy || rules.takesLinksOut || Self.staysInside(target, from: path) else {
                throw RemfsError(.invalidArgument, "the link to \(ArchiveEntry.shown(target)) may lead out of the store")
            }
            if let there = state.find(path), there.target == target { return }
            try state.addNode(try state.vacancy(path, moving: nil), type: S_IFLNK, target: target, attributes)
            counts.others += 1
        case .fifo:
            if let there = state.find(path), there.kind == UInt32(S_IFIFO) { return }
            try state.addNode(try state.vacancy(path, moving: nil), type: S_IFIFO, target: nil, attributes)
            counts.others += 1
        case .hardLink(let first):
            guard let file = state.find(prefix + first.split(separator: UInt8(ascii: "/")).map { Array($0) }), file.isRegular else {
                throw RemfsError(.invalidArgument, "the hard link leads to \(ArchiveEntry.shown(first)), which is no file")
            }
            if state.find(path) === file { return }
            try state.addName(try state.vacancy(path, moving: nil), of: file)
            counts.others += 1
        }
    }

    private mutating func takeFile(
        _ size: Int64, holes: Int64, at path: [[UInt8]], _ attributes: StoreState.Attributes, into state: StoreState
    ) throws(RemfsError) {
        let policy = state.policy
        // As through a mount, what counts is what is stored.
        guard attributes.isUnversioned || size - holes <= policy.maxBytesPerMemory else {
            throw RemfsError(.tooLarge, "it has \(size - holes) bytes: \(state.label) allows \(policy.maxBytesPerMemory)")
        }
        zeros += holes
        let most = rules.batch == nil ? Self.mostZeros : Self.mostZerosOfNew
        guard zeros <= most else {
            throw RemfsError(.tooLarge, "the archive's sparse files have holes of over \(most >> 30) GiB together")
        }
        if policy.contract, size > StoreState.contractBytes {
            throw RemfsError(.tooLarge, "it has \(size) bytes: the contract allows \(StoreState.contractBytes)")
        }
        counts.bytes += size
        guard let there = state.find(path), there.isRegular else {
            let vacancy = try state.vacancy(path, moving: nil)
            try state.reserveNumbers(1)
            let number = state.takeNumber()
            let stored = try state.storeContent(size: size, for: number, pieces)
            let inode = try state.addFile(vacancy, attributes, stored, number: number, by: author)
            try copyExtendedAttributes(to: inode, in: state)
            if attributes.isUnversioned { counts.others += 1 } else { counts.created += 1 }
            if !attributes.isUnversioned, stored.secrets?.isEmpty == false { counts.secrets += 1 }
            return
        }
        guard there.isMemory else { throw state.conflict(there) }
        try state.settleForAPI(there)
        guard let head = there.head else { throw state.conflict(there) }
        let stored = try state.storeContent(size: size, for: there.number, after: head.content, pieces)
        let before = if let known = head.digest { known } else { try state.digest(of: there) }
        guard before != stored.digest else {
            try state.query { () throws(SQLiteError) in try state.release(stored.content) }
            counts.unchanged += 1
            return
        }
        try state.revise(there, to: stored, at: nil, modified: attributes.modified, by: author)
        counts.modified += 1
        if stored.secrets?.isEmpty == false { counts.secrets += 1 }
    }

    /// A chunk of the present file, whole.
    private func pieces(_ count: Int) throws(RemfsError) -> [UInt8] {
        let bytes = try source.read(count)
        guard bytes.count == count else { throw RemfsError(.internal, "a file of an import ends before its size says") }
        return bytes
    }

    private func copyExtendedAttributes(to inode: Inode, in state: StoreState) throws(RemfsError) {
        for (name, value) in try source.extendedAttributes() {
            state.hasExtendedAttributes = true
            try state.query { () throws(SQLiteError) in
                let row = try state.statements.cached("INSERT INTO xattr (inode, name, value) VALUES (?1, ?2, ?3)")
                row.bind(inode.number, at: 1)
                row.bind(name, at: 2)
                row.bind(value, at: 3)
                try row.run()
            }
        }
    }

    /// Whether a link cannot lead out. `..` counts at the beginning only: behind a name it goes up from wherever that leads.
    private static func staysInside(_ target: [UInt8], from path: [[UInt8]]) -> Bool {
        guard target.first != UInt8(ascii: "/") else { return false }
        let segments = target.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual(".".utf8) }
        let ups = segments.prefix { $0.elementsEqual("..".utf8) }.count
        return ups < path.count && !segments.dropFirst(ups).contains { $0.elementsEqual("..".utf8) }
    }
}

extension StoreState {
    /// As `find`, by names.
    func find(_ segments: [[UInt8]]) -> Inode? {
        var inode = root
        for segment in segments {
            guard let next = inode.directory?.find(segment) else { return nil }
            inode = next
        }
        return inode
    }
}
