import Fuse
import Glibc
import Storage
import Threads

/// A store's past as files that cannot be changed: `.remfs/at`, `.remfs/versions`, and a mount of a moment.
///
/// What is of a moment never changes, so a kernel keeps it for as long as it likes: names, attributes and pages. A redaction has it forget
/// (`Invalidation`). What `.remfs/versions` lists grows: of it a kernel keeps no name, and no listing for longer than that is the same.
final class PastFiles: Sendable {
    private let store: MemoryStore
    private let inodes: InodeTable
    private let options: MountOptions
    /// When the store was made.
    private let created: @Sendable () throws(RemfsError) -> Timestamp
    /// What a mount as a whole is of; nil: not asked for yet, or none.
    private let own = Mutex<PastMoment?>(nil)

    init(
        _ store: MemoryStore, _ inodes: InodeTable, _ options: MountOptions,
        created: @escaping @Sendable () throws(RemfsError) -> Timestamp
    ) {
        self.store = store
        self.inodes = inodes
        self.options = options
        self.created = created
    }

    private func moment(_ number: Int) throws(RemfsError) -> PastMoment {
        guard number == 0 else { return try store.pastMoment(number: number) }
        if let known = own.withLock({ $0 }) { return known }
        guard let time = options.at else { throw RemfsError(.gone, "this mount is of no moment") }
        let moment = try store.pastMoment(of: time)
        own.withLock { $0 = moment }
        return moment
    }

    // MARK: Names

    /// `.remfs/at/NAME`. The kernel asks each time somebody passes, and so the moments that are used longest ago are known.
    func moment(_ name: FuseName) throws(RemfsError) -> FuseEntry? {
        guard let text = unsafe String(validating: name.bytes, as: UTF8.self) else { return nil }
        guard let moment = try store.pastMoment(named: text, since: try created()) else { return nil }
        let node = PastNode.directory(.root, at: moment.number).number
        inodes.counted(node)
        return directory(node, modified: moment.time, nameLifetime: .none)
    }

    func lookup(_ name: FuseName, in parent: PastNode) throws(RemfsError) -> FuseEntry {
        switch parent {
        case .version: throw RemfsError(.notADirectory, "a version is no directory")
        case .directory(let path, let number):
            return try unsafe store.pastEntry(name.bytes, in: path, at: try moment(number)).map { entry($0, in: parent) } ?? .missing
        case .versions(let path):
            guard let found = try unsafe store.versionsEntry(name.bytes, in: path) else { throw RemfsError(.notFound, "no such path") }
            return entry(found, in: parent)
        }
    }

    func attributes(of node: PastNode) throws(RemfsError) -> FuseEntry {
        switch node {
        case .version(let version): entry(try store.pastFile(version), in: node)
        case .directory(_, let number): directory(node.number, modified: try moment(number).time)
        case .versions:
            directory(node.number, modified: try store.historyChanged(), nameLifetime: .none, attributesLifetime: .none)
        }
    }

    /// Cookies 1 and 2 are `.` and `..`.
    func list(_ node: PastNode, after cookie: UInt64, into listing: inout FuseListing) throws(RemfsError) {
        for (place, name) in [[UInt8(ascii: ".")], Array("..".utf8)].enumerated() where cookie <= UInt64(place) {
            let dot = directory(node.number, modified: 0)
            guard unsafe name.withUnsafeBytes({ unsafe listing.add($0, dot, cookie: UInt64(place + 1)) }) else { return }
        }
        // A listing is lent for the time of a call, and no closure may keep it: so this one hands out what there is room for.
        var room = true
        switch node {
        case .version: throw RemfsError(.notADirectory, "a version is no directory")
        case .directory(let path, let number):
            try store.listPast(path, at: try moment(number), after: cookie) {
                room = add($0, in: node, to: &listing)
                return room
            }
        case .versions(let path):
            try store.listVersions(path, after: cookie) {
                room = add($0, in: node, to: &listing)
                return room
            }
        }
    }

    private func add(_ entry: PastEntry, in parent: PastNode, to listing: inout FuseListing) -> Bool {
        let shown = self.entry(entry, in: parent)
        return unsafe entry.name.withUnsafeBytes { unsafe listing.add($0, shown, cookie: entry.cookie) }
    }

    // MARK: What they look like

    private func entry(_ past: PastEntry, in parent: PastNode) -> FuseEntry {
        var changes = false
        if case .versions = parent { changes = true }
        let lifetime: FuseLifetime = changes ? .none : .forever
        guard !past.isDirectory else {
            return directory(past.node.number, modified: past.modified, nameLifetime: lifetime, attributesLifetime: lifetime)
        }
        let time = past.modified * 1_000
        return FuseEntry(
            FuseAttributes(
                node: past.node.number, mode: UInt32(S_IFREG) | 0o444 & ~(options.umask ?? 0), links: 1, uid: options.uid ?? geteuid(),
                gid: options.gid ?? getegid(), sizeInBytes: past.sizeInBytes, blocks: (past.sizeInBytes + 511) / 512, accessed: time,
                modified: time, changed: time), nameLifetime: lifetime)
    }

    func directory(
        _ node: NodeID, modified: Int64, nameLifetime: FuseLifetime = .forever, attributesLifetime: FuseLifetime = .forever
    ) -> FuseEntry {
        let time = modified * 1_000
        return FuseEntry(
            FuseAttributes(
                node: node, mode: UInt32(S_IFDIR) | 0o555 & ~(options.umask ?? 0), links: 1, uid: options.uid ?? geteuid(),
                gid: options.gid ?? getegid(), accessed: time, modified: time, changed: time), nameLifetime: nameLifetime,
            attributesLifetime: attributesLifetime)
    }

    // MARK: Bytes

    func read(_ version: Int64, offset: Int64, count: Int, _ reply: FuseReply) throws(RemfsError) {
        unsafe try store.readPast(version, offset: offset, count: count) { unsafe reply.data($0) }
    }
}

extension MountOptions {
    /// What a mount with these options has to forget of what the store tells all of them: one of a moment shows nothing that lives.
    func concerned(by invalidations: [Invalidation]) -> [Invalidation] {
        guard at != nil else { return invalidations }
        let root = PastNode.directory(.root, at: 0).number
        return invalidations.compactMap { invalidation in
            switch invalidation {
            case .attributes: invalidation
            case .bytes(let inode, _, _): NodeID(inode) >= PastNode.first ? invalidation : nil
            case .name(let name, let parent):
                NodeID(parent) == root ? .name(name, in: 1) : NodeID(parent) >= PastNode.first ? invalidation : nil
            case .removal: nil
            }
        }
    }
}

extension MountTable {
    func virtualFiles(
        _ mount: MountID, _ memories: MemoryStore, _ inodes: InodeTable, _ options: MountOptions
    ) -> VirtualFiles {
        let store = memories.id
        let past = PastFiles(memories, inodes, options) { [stores] () throws(RemfsError) in try stores.catalog.store(store).created }
        return VirtualFiles(options, past: past) { [weak self] in self?.status(of: mount) ?? "" }
    }
}

extension MountTable.Entry {
    func requireSwitch(to access: Access) throws(RemfsError) {
        guard options.at != nil, access != .readOnly else { return }
        throw RemfsError(.invalidArgument, "\(directory) shows the store as it was, and stays read_only")
    }
}
