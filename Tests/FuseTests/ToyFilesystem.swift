import Fuse
import Glibc
import Threads

/// A file system in memory: the second conformer of `FuseFilesystem`, as simple as it can be and complete.
final class ToyFilesystem: FuseFilesystem {
    struct Entry {
        var cookie: UInt64
        var name: [UInt8]
        var node: NodeID
    }

    struct Node {
        var attributes: FuseAttributes
        var content: [UInt8] = []
        var target: [UInt8] = []
        var entries: [Entry] = []
        var nextCookie: UInt64 = 3
        var extendedAttributes: [[UInt8]: [UInt8]] = [:]
        var lookups: UInt64 = 0
        /// One writer or several readers, by owner.
        var holders: [UInt64: FuseLock.Kind] = [:]
        var waiting: [(owner: UInt64, kind: FuseLock.Kind, reply: FuseReply)] = []
    }

    struct State {
        var nodes: [NodeID: Node] = [:]
        var next: NodeID = 2
        var counts: [FuseOperation: Int] = [:]
        var answers: [(FuseOperation, Int32)] = []
        var starts = 0
        var ends = 0
        var forgotten: UInt64 = 0
        var lastWrite = FuseWriteFlags()
        var lastContext: FuseContext?
        var lastChange: FuseAttributeChange?
        var lastRelease: (flags: Int32, flockOwner: UInt64?)?
    }

    /// What a test wants to happen inside an operation.
    struct Hooks {
        var read: (@Sendable (NodeID) -> Void)?
        /// Takes the answer over if it returns true.
        var takesRead: (@Sendable (NodeID, FuseReply) -> Bool)?
        var synchronize: (@Sendable (NodeID, FuseReply) -> Void)?
    }

    let options: FuseConnectionOptions
    let state = Mutex(State())
    let changed = Condition()
    let hooks = Mutex(Hooks())

    init(_ options: FuseConnectionOptions = FuseConnectionOptions()) {
        self.options = options
        let now = Self.now()
        state.withLock { state in
            state.nodes[1] = Node(
                attributes: FuseAttributes(
                    node: 1, mode: S_IFDIR | 0o755, links: 2, uid: geteuid(), gid: getegid(), accessed: now, modified: now, changed: now))
        }
    }

    // MARK: - For tests

    /// Makes a file from inside, as another mount or a program would.
    @discardableResult
    func makeFile(_ name: String, _ content: String, in parent: NodeID = 1) -> NodeID {
        state.withLock { state in
            let node = Self.makeInode(&state, mode: S_IFREG | 0o644, uid: geteuid(), gid: getegid())
            state.nodes[node]!.content = Array(content.utf8)
            state.nodes[node]!.attributes.sizeInBytes = Int64(content.utf8.count)
            Self.add(&state, Array(name.utf8), node, to: parent)
            return node
        }
    }

    func setContent(of node: NodeID, to content: String) {
        state.withLock { state in
            state.nodes[node]!.content = Array(content.utf8)
            state.nodes[node]!.attributes.sizeInBytes = Int64(content.utf8.count)
        }
    }

    func count(_ operation: FuseOperation) -> Int { state.withLock { $0.counts[operation, default: 0] } }

    /// All requests but those that the kernel sends in its own time, and statfs, which the tests themselves use.
    var requests: Int {
        state.withLock { state in
            state.counts.reduce(0) { [.forget, .release, .interrupt, .initialize, .statfs].contains($1.key) ? $0 : $0 + $1.value }
        }
    }

    /// Waits until `ready` holds; false after 10 s.
    func wait(until ready: (inout State) -> Bool) -> Bool {
        state.wait(on: changed, atMost: .seconds(10), until: ready) { _, held in held }
    }

    static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    // MARK: - Life

    func connectionDidStart(_ connection: FuseConnection) {
        state.withLock { $0.starts += 1 }
        changed.broadcast()
    }

    func connectionDidEnd(_ connection: FuseConnection) {
        state.withLock { $0.ends += 1 }
        changed.broadcast()
    }

    func answered(_ operation: FuseOperation, errno: Int32, seconds: Double) {
        precondition(seconds >= 0)
        state.withLock { state in
            state.counts[operation, default: 0] += 1
            state.answers.append((operation, errno))
        }
        changed.broadcast()
    }

    // MARK: - Names

    func lookup(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        let name = Array(name.bytes)
        return state.withLock { state in
            state.lastContext = context
            guard let entry = state.nodes[parent]?.entries.first(where: { $0.name == name }) else { return .missing }
            return Self.entry(&state, entry.node)
        }
    }

    func forget(_ node: NodeID, count: UInt64) {
        state.withLock { state in
            state.forgotten += count
            guard let lookups = state.nodes[node]?.lookups, node != 1 else { return }
            precondition(lookups >= count, "the kernel forgets more than it looked up")
            state.nodes[node]!.lookups -= count
            if lookups == count, state.nodes[node]!.attributes.links == 0 { state.nodes[node] = nil }
        }
    }

    func makeNode(
        _ name: FuseName, in parent: NodeID, mode: UInt32, rdev: UInt64, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry {
        try make(name, in: parent, mode: mode, context) { $0.attributes.rdev = rdev }
    }

    func makeDirectory(_ name: FuseName, in parent: NodeID, mode: UInt32, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try make(name, in: parent, mode: mode | S_IFDIR, context) { $0.attributes.links = 2 }
    }

    func symbolicLink(_ name: FuseName, in parent: NodeID, target: FuseName, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        let target = Array(target.bytes)
        return try make(name, in: parent, mode: S_IFLNK | 0o777, context) {
            $0.target = target
            $0.attributes.sizeInBytes = Int64(target.count)
        }
    }

    func create(
        _ name: FuseName, in parent: NodeID, mode: UInt32, flags: Int32, _ context: FuseContext
    ) throws(FuseErrno) -> FuseEntry {
        try make(name, in: parent, mode: mode | S_IFREG, context) { _ in }
    }

    func unlink(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) {
        let name = Array(name.bytes)
        try state.withLock { state throws(FuseErrno) in
            guard let node = Self.remove(&state, name, from: parent) else { throw FuseErrno(ENOENT) }
            Self.unlinked(&state, node)
        }
    }

    func removeDirectory(_ name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) {
        let name = Array(name.bytes)
        try state.withLock { state throws(FuseErrno) in
            guard let entry = state.nodes[parent]!.entries.first(where: { $0.name == name }) else { throw FuseErrno(ENOENT) }
            guard state.nodes[entry.node]!.entries.isEmpty else { throw FuseErrno(ENOTEMPTY) }
            _ = Self.remove(&state, name, from: parent)
            state.nodes[entry.node]!.attributes.links = 0
        }
    }

    func rename(
        _ name: FuseName, in parent: NodeID, to newName: FuseName, in newParent: NodeID, _ flags: FuseRenameFlags, _ context: FuseContext
    ) throws(FuseErrno) {
        let name = Array(name.bytes)
        let newName = Array(newName.bytes)
        try state.withLock { state throws(FuseErrno) in
            guard flags.isSubset(of: [.noReplace, .exchange]) else { throw FuseErrno(EINVAL) }
            let old = state.nodes[newParent]!.entries.first { $0.name == newName }
            if old != nil, flags.contains(.noReplace) { throw FuseErrno(EEXIST) }
            if old == nil, flags.contains(.exchange) { throw FuseErrno(ENOENT) }
            guard let node = Self.remove(&state, name, from: parent) else { throw FuseErrno(ENOENT) }
            if let old {
                _ = Self.remove(&state, newName, from: newParent)
                if flags.contains(.exchange) {
                    Self.add(&state, name, old.node, to: parent)
                } else {
                    Self.unlinked(&state, old.node)
                }
            }
            Self.add(&state, newName, node, to: newParent)
        }
    }

    func link(_ node: NodeID, as name: FuseName, in parent: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        let name = Array(name.bytes)
        return state.withLock { state in
            state.nodes[node]!.attributes.links += 1
            Self.add(&state, name, node, to: parent)
            return Self.entry(&state, node)
        }
    }

    func readDirectory(_ node: NodeID, after cookie: UInt64, into listing: inout FuseListing, _ context: FuseContext) throws(FuseErrno) {
        state.withLock { state in
            let own = FuseEntry(state.nodes[node]!.attributes)
            for (index, dots) in [".", ".."].enumerated() where cookie < UInt64(index + 1) {
                guard
                    dots.utf8.withContiguousStorageIfAvailable({ listing.add(UnsafeRawBufferPointer($0), own, cookie: UInt64(index + 1)) })!
                else { return }
            }
            for entry in state.nodes[node]!.entries where entry.cookie > cookie {
                let answer = FuseEntry(state.nodes[entry.node]!.attributes)
                guard entry.name.withUnsafeBytes({ listing.add($0, answer, cookie: entry.cookie) }) else { return }
                if listing.wantsAttributes { state.nodes[entry.node]!.lookups += 1 }
            }
        }
    }

    func synchronizeDirectory(_ node: NodeID, _ context: FuseContext, _ reply: FuseReply) {
        reply.success()
    }

    // MARK: - Inodes

    func attributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        try state.withLock { state throws(FuseErrno) in
            guard let attributes = state.nodes[node]?.attributes else { throw FuseErrno(ESTALE) }
            return FuseEntry(attributes)
        }
    }

    func setAttributes(_ change: FuseAttributeChange, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseEntry {
        let now = Self.now()
        return state.withLock { state in
            state.lastChange = change
            var attributes = state.nodes[node]!.attributes
            if let mode = change.mode { attributes.mode = attributes.mode & S_IFMT | mode }
            if let uid = change.uid { attributes.uid = uid }
            if let gid = change.gid { attributes.gid = gid }
            if let size = change.sizeInBytes {
                attributes.sizeInBytes = size
                let content = state.nodes[node]!.content.prefix(Int(size))
                state.nodes[node]!.content = content + Array(repeating: 0, count: Int(size) - content.count)
            }
            if let time = change.accessed { attributes.accessed = Self.time(time, now) }
            if let time = change.modified { attributes.modified = Self.time(time, now) }
            attributes.changed = now
            state.nodes[node]!.attributes = attributes
            return FuseEntry(attributes)
        }
    }

    func readLink(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        state.withLock { $0.nodes[node]!.target }
    }

    func statistics(_ node: NodeID, _ context: FuseContext) throws(FuseErrno) -> FuseStatistics {
        FuseStatistics(blockSize: 4096, blocks: 1000, freeBlocks: 600, files: 50, freeFiles: 40, maximumNameLength: 255)
    }

    // MARK: - Opening

    func open(_ node: NodeID, flags: Int32, _ context: FuseContext) throws(FuseErrno) {}

    func flush(_ node: NodeID, owner: UInt64, _ context: FuseContext, _ reply: FuseReply) {
        // POSIX locks go with the first descriptor that their process closes.
        unlock(node, owner)
        reply.success()
    }

    func release(_ node: NodeID, flags: Int32, flockOwner: UInt64?, _ context: FuseContext, _ reply: FuseReply) {
        state.withLock { $0.lastRelease = (flags, flockOwner) }
        if let flockOwner { unlock(node, flockOwner) }
        reply.success()
    }

    // MARK: - Content

    func read(_ node: NodeID, offset: Int64, count: Int, _ context: FuseContext, _ reply: FuseReply) {
        let (hook, takes) = hooks.withLock { ($0.read, $0.takesRead) }
        hook?(node)
        if let takes, takes(node, reply) { return }
        let bytes = state.withLock { state in Array(state.nodes[node]!.content.dropFirst(Int(offset)).prefix(count)) }
        bytes.withUnsafeBytes { reply.data($0) }
    }

    func write(
        _ bytes: UnsafeRawBufferPointer, to node: NodeID, offset: Int64, _ flags: FuseWriteFlags, _ context: FuseContext
    ) throws(FuseErrno) -> Int {
        let bytes = Array(bytes)
        state.withLock { state in
            state.lastWrite = flags
            Self.write(&state, bytes, to: node, at: Int(offset))
        }
        return bytes.count
    }

    func synchronize(_ node: NodeID, dataOnly: Bool, _ context: FuseContext, _ reply: FuseReply) {
        if let hook = hooks.withLock({ $0.synchronize }) { hook(node, reply) } else { reply.success() }
    }

    func allocate(_ node: NodeID, mode: Int32, offset: Int64, length: Int64, _ context: FuseContext) throws(FuseErrno) {
        guard mode == 0 else { throw FuseErrno(EOPNOTSUPP) }
        state.withLock { state in
            let missing = Int(offset + length) - state.nodes[node]!.content.count
            guard missing > 0 else { return }
            state.nodes[node]!.content += Array(repeating: 0, count: missing)
            state.nodes[node]!.attributes.sizeInBytes = offset + length
        }
    }

    func seek(_ node: NodeID, offset: Int64, whence: Int32, _ context: FuseContext) throws(FuseErrno) -> Int64 {
        // All of a file is data, with the hole that every file has at its end.
        try state.withLock { state throws(FuseErrno) in
            let size = state.nodes[node]!.attributes.sizeInBytes
            guard offset < size else { throw FuseErrno(ENXIO) }
            return whence == seekData ? offset : size
        }
    }

    func copyRange(
        from source: NodeID, offset: Int64, to destination: NodeID, offset destinationOffset: Int64, length: Int64, _ context: FuseContext
    ) throws(FuseErrno) -> Int {
        state.withLock { state in
            let bytes = Array(state.nodes[source]!.content.dropFirst(Int(offset)).prefix(Int(length)))
            Self.write(&state, bytes, to: destination, at: Int(destinationOffset))
            return bytes.count
        }
    }

    // MARK: - Extended attributes

    func setExtendedAttribute(
        _ name: FuseName, of node: NodeID, to value: UnsafeRawBufferPointer, flags: Int32, _ context: FuseContext
    ) throws(FuseErrno) {
        let name = Array(name.bytes)
        let value = Array(value)
        try state.withLock { state throws(FuseErrno) in
            if flags == 1, state.nodes[node]!.extendedAttributes[name] != nil { throw FuseErrno(EEXIST) }
            state.nodes[node]!.extendedAttributes[name] = value
        }
    }

    func extendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        let name = Array(name.bytes)
        return try state.withLock { state throws(FuseErrno) in
            guard let value = state.nodes[node]!.extendedAttributes[name] else { throw FuseErrno(ENODATA) }
            return value
        }
    }

    func extendedAttributes(of node: NodeID, _ context: FuseContext) throws(FuseErrno) -> [UInt8] {
        state.withLock { $0.nodes[node]!.extendedAttributes.keys.flatMap { $0 + [0] } }
    }

    func removeExtendedAttribute(_ name: FuseName, of node: NodeID, _ context: FuseContext) throws(FuseErrno) {
        let name = Array(name.bytes)
        try state.withLock { state throws(FuseErrno) in
            guard state.nodes[node]!.extendedAttributes.removeValue(forKey: name) != nil else { throw FuseErrno(ENODATA) }
        }
    }

    // MARK: - Locks (whole files: the range is not looked at)

    func lockConflicting(with lock: FuseLock, on node: NodeID, owner: UInt64, _ context: FuseContext) throws(FuseErrno) -> FuseLock {
        state.withLock { state in
            guard let holder = state.nodes[node]!.holders.first(where: { $0.key != owner && ($0.value == .write || lock.kind == .write) })
            else { return FuseLock(kind: .unlock, start: 0, end: .max, pid: 0) }
            return FuseLock(kind: holder.value, start: 0, end: .max, pid: getpid())
        }
    }

    func lock(_ lock: FuseLock, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply) {
        lockWhole(lock.kind, on: node, owner: owner, waits: waits, context, reply)
    }

    func lockWhole(_ kind: FuseLock.Kind, on node: NodeID, owner: UInt64, waits: Bool, _ context: FuseContext, _ reply: FuseReply) {
        if kind == .unlock {
            unlock(node, owner)
            reply.success()
            return
        }
        enum Verdict { case granted, refused, waiting }
        let verdict = state.withLock { state -> Verdict in
            if Self.grant(&state, kind, node, owner) { return .granted }
            guard waits else { return .refused }
            state.nodes[node]!.waiting.append((owner, kind, reply))
            return .waiting
        }
        switch verdict {
        case .granted: reply.success()
        case .refused: reply.error(FuseErrno(EAGAIN))
        case .waiting:
            changed.broadcast()
            reply.onInterrupt {
                let mine = self.state.withLock { state -> FuseReply? in
                    guard let index = state.nodes[node]!.waiting.firstIndex(where: { $0.owner == owner }) else { return nil }
                    return state.nodes[node]!.waiting.remove(at: index).reply
                }
                mine?.error(FuseErrno(EINTR))
            }
        }
    }

    private func unlock(_ node: NodeID, _ owner: UInt64) {
        let granted = state.withLock { state -> [FuseReply] in
            guard state.nodes[node]?.holders.removeValue(forKey: owner) != nil else { return [] }
            var granted: [FuseReply] = []
            while let first = state.nodes[node]!.waiting.first, Self.grant(&state, first.kind, node, first.owner) {
                granted.append(state.nodes[node]!.waiting.removeFirst().reply)
            }
            return granted
        }
        for reply in granted { reply.success() }
    }

    private static func grant(_ state: inout State, _ kind: FuseLock.Kind, _ node: NodeID, _ owner: UInt64) -> Bool {
        let others = state.nodes[node]!.holders.filter { $0.key != owner }
        guard others.isEmpty || kind == .read && others.values.allSatisfy({ $0 == .read }) else { return false }
        state.nodes[node]!.holders[owner] = kind
        return true
    }

    // MARK: - Helpers

    private func make(
        _ name: FuseName, in parent: NodeID, mode: UInt32, _ context: FuseContext, _ fill: (inout Node) -> Void
    ) throws(FuseErrno) -> FuseEntry {
        let name = Array(name.bytes)
        return try state.withLock { state throws(FuseErrno) in
            state.lastContext = context
            guard !state.nodes[parent]!.entries.contains(where: { $0.name == name }) else { throw FuseErrno(EEXIST) }
            let node = Self.makeInode(&state, mode: mode, uid: context.uid, gid: context.gid)
            fill(&state.nodes[node]!)
            Self.add(&state, name, node, to: parent)
            return Self.entry(&state, node)
        }
    }

    private static func makeInode(_ state: inout State, mode: UInt32, uid: UInt32, gid: UInt32) -> NodeID {
        let node = state.next
        state.next += 1
        let now = now()
        state.nodes[node] = Node(
            attributes: FuseAttributes(
                node: node, mode: mode, links: 1, uid: uid, gid: gid, accessed: now, modified: now, changed: now))
        return node
    }

    private static func entry(_ state: inout State, _ node: NodeID) -> FuseEntry {
        state.nodes[node]!.lookups += 1
        return FuseEntry(state.nodes[node]!.attributes)
    }

    private static func add(_ state: inout State, _ name: [UInt8], _ node: NodeID, to parent: NodeID) {
        let cookie = state.nodes[parent]!.nextCookie
        state.nodes[parent]!.nextCookie += 1
        state.nodes[parent]!.entries.append(Entry(cookie: cookie, name: name, node: node))
    }

    private static func remove(_ state: inout State, _ name: [UInt8], from parent: NodeID) -> NodeID? {
        guard let index = state.nodes[parent]!.entries.firstIndex(where: { $0.name == name }) else { return nil }
        return state.nodes[parent]!.entries.remove(at: index).node
    }

    private static func unlinked(_ state: inout State, _ node: NodeID) {
        state.nodes[node]!.attributes.links -= 1
        if state.nodes[node]!.attributes.links == 0, state.nodes[node]!.lookups == 0 { state.nodes[node] = nil }
    }

    private static func write(_ state: inout State, _ bytes: [UInt8], to node: NodeID, at offset: Int) {
        let missing = offset + bytes.count - state.nodes[node]!.content.count
        if missing > 0 { state.nodes[node]!.content += Array(repeating: 0, count: missing) }
        state.nodes[node]!.content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        state.nodes[node]!.attributes.sizeInBytes = Int64(state.nodes[node]!.content.count)
    }

    private static func time(_ time: FuseAttributeChange.Time, _ now: Int64) -> Int64 {
        switch time {
        case .now: now
        case .at(let time): time
        }
    }
}
