import Fuse
import Glibc
import Storage
import Threads

/// The hidden directory `.remfs` at a mount's root: never listed, never stored. It holds `at` and `versions`, the store's past (`PastFiles`),
/// and `status`. On a mount of a moment the root itself is virtual as well.
///
/// `status` gets a new nodeid with lifetime 0 at each lookup that finds it changed, since the kernel would keep its pages for ever.
/// As long as it is the same it keeps its number: cp(1) looks twice and takes another one for another file.
final class VirtualFiles: Sendable {
    private struct State {
        var next: UInt64
        var contents: [NodeID: [UInt8]] = [:]
        /// Oldest first; what the kernel still reads of is among the newest.
        var order: [NodeID] = []
    }
    /// Where a predecessor of this process has served the mount, its numbers are not to come again: they rise with the clock.
    private let state = Mutex(State(next: VirtualFiles.first + 3 + VirtualFiles.microseconds()))
    private let isOffered: Bool
    private let status: @Sendable () -> String
    private let past: PastFiles
    /// The mount as a whole is of a moment.
    private let isOfMoment: Bool

    /// Above every inode number that a store can reach.
    private static let first: NodeID = PastNode.first
    private static let directory: NodeID = first + 1
    private static let at: NodeID = PastNode.at
    private static let versions: NodeID = PastNode.versions(.root).number
    private static let remembered = 256

    private static func microseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
    }

    init(_ options: MountOptions, past: PastFiles, status: @escaping @Sendable () -> String) {
        isOffered = options.history
        isOfMoment = options.at != nil
        self.past = past
        self.status = status
    }

    func isVirtual(_ node: NodeID) -> Bool { node >= Self.first || isOfMoment && node == 1 }

    /// Whether it is the name of `.remfs` itself.
    func isDirectory(_ name: FuseName, in parent: NodeID) -> Bool {
        unsafe isOffered && parent == 1 && name.bytes.elementsEqual(".remfs".utf8)
    }

    /// What a node is of the past; nil: something else. No kernel has been given any that is not offered, but whoever may open by handle can
    /// ask for what he likes.
    private func past(_ node: NodeID) -> PastNode? {
        if isOfMoment, node == 1 { return .directory(.root, at: 0) }
        guard let found = PastNode(node) else { return nil }
        if !isOffered, !isOfMoment { return nil }
        return found
    }

    /// nil: not a virtual name, ask the store.
    func lookup(_ name: FuseName, in parent: NodeID) throws(RemfsError) -> FuseEntry? {
        if unsafe isDirectory(name, in: parent) { return entry(Self.directory, size: 0) }
        guard isVirtual(parent) else { return nil }
        if let parent = past(parent) { return try unsafe past.lookup(name, in: parent) }
        let missing = RemfsError(.notFound, "no such file")
        if parent == Self.at {
            guard let entry = try unsafe past.moment(name) else { throw missing }
            return entry
        }
        guard parent == Self.directory else { throw missing }
        if unsafe name.bytes.elementsEqual("at".utf8) { return past.directory(Self.at, modified: 0) }
        if unsafe name.bytes.elementsEqual("versions".utf8) { return try past.attributes(of: .versions(.root)) }
        guard unsafe name.bytes.elementsEqual("status".utf8) else { throw missing }
        let content = Array(status().utf8)
        let node = state.withLock { state in
            if let last = state.order.last, state.contents[last] == content { return last }
            let node = state.next
            state.next += 1
            state.contents[node] = content
            state.order.append(node)
            if state.order.count > Self.remembered { state.contents[state.order.removeFirst()] = nil }
            return node
        }
        return entry(node, size: content.count)
    }

    private func entry(_ node: NodeID, size: Int) -> FuseEntry {
        let mode = node == Self.directory ? UInt32(S_IFDIR) | 0o555 : UInt32(S_IFREG) | 0o444
        return FuseEntry(
            FuseAttributes(node: node, mode: mode, links: 1, uid: 0, gid: 0, sizeInBytes: Int64(size), blocks: Int64(size + 511) / 512),
            // What `.remfs` is does not change.
            nameLifetime: node == Self.directory ? .forever : .none, attributesLifetime: .none)
    }

    func attributes(of node: NodeID) throws(RemfsError) -> FuseEntry {
        if let node = past(node) { return try past.attributes(of: node) }
        if node == Self.directory { return entry(node, size: 0) }
        if node == Self.at { return past.directory(node, modified: 0) }
        guard let content = state.withLock({ $0.contents[node] }) else { throw RemfsError(.gone, "an earlier status") }
        return entry(node, size: content.count)
    }

    func read(_ node: NodeID, offset: Int64, count: Int, _ reply: FuseReply) throws(RemfsError) {
        if case .version(let version) = past(node) { return try past.read(version, offset: offset, count: count, reply) }
        guard let content = state.withLock({ $0.contents[node] }) else { throw RemfsError(.gone, "an earlier status") }
        let start = min(Int(offset), content.count)
        unsafe content.withUnsafeBytes {
            unsafe reply.data(UnsafeRawBufferPointer(rebasing: $0[start..<min(start + count, content.count)]))
        }
    }

    func list(_ node: NodeID, after cookie: UInt64, into listing: inout FuseListing) throws(RemfsError) {
        if let node = past(node) { return try past.list(node, after: cookie, into: &listing) }
        var names: [(name: String, entry: FuseEntry)] = [(".", entry(node, size: 0)), ("..", entry(node, size: 0))]
        if node == Self.directory {
            names += [
                ("at", past.directory(Self.at, modified: 0)), ("status", entry(Self.first, size: 0)),
                ("versions", try past.attributes(of: .versions(.root))),
            ]
        } else if node != Self.at {
            throw RemfsError(.notADirectory, "no directory")
        }
        for (place, item) in names.enumerated() where cookie <= UInt64(place) {
            let name = Array(item.name.utf8)
            guard unsafe name.withUnsafeBytes({ unsafe listing.add($0, item.entry, cookie: UInt64(place + 1)) }) else { return }
        }
    }
}
