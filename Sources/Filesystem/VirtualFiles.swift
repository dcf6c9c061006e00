import Fuse
import Glibc
import Threads

/// The hidden directory `.remfs` at a mount's root: never listed, never stored. Today it holds `status`.
///
/// What is virtual gets a new nodeid with lifetime 0 at each lookup that finds it changed, since the kernel would keep its pages for ever.
/// As long as it is the same it keeps its number: cp(1) looks twice and takes another one for another file.
final class VirtualFiles: Sendable {
    private struct State {
        var next: UInt64
        var contents: [NodeID: [UInt8]] = [:]
        /// Oldest first; what the kernel still reads of is among the newest.
        var order: [NodeID] = []
    }
    /// Where a predecessor of this process has served the mount, its numbers are not to come again: they rise with the clock.
    private let state = Mutex(State(next: VirtualFiles.first + 2 + VirtualFiles.microseconds()))
    private let isOffered: Bool
    private let status: @Sendable () -> String

    /// Above every inode number that a store can reach.
    private static let first: NodeID = 1 << 62
    private static let directory: NodeID = first + 1
    private static let remembered = 256

    private static func microseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
    }

    init(isOffered: Bool, status: @escaping @Sendable () -> String) {
        self.isOffered = isOffered
        self.status = status
    }

    func isVirtual(_ node: NodeID) -> Bool { node >= Self.first }

    /// Whether it is the name of `.remfs` itself.
    func isDirectory(_ name: FuseName, in parent: NodeID) -> Bool {
        unsafe isOffered && parent == 1 && name.bytes.elementsEqual(".remfs".utf8)
    }

    /// nil: not a virtual name, ask the store.
    func lookup(_ name: FuseName, in parent: NodeID) throws(FuseErrno) -> FuseEntry? {
        if parent == 1 {
            guard unsafe isDirectory(name, in: parent) else { return nil }
            return entry(Self.directory, size: 0)
        }
        guard isVirtual(parent) else { return nil }
        guard unsafe parent == Self.directory && name.bytes.elementsEqual("status".utf8) else { throw FuseErrno(ENOENT) }
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
            nameLifetime: .none, attributesLifetime: .none)
    }

    func attributes(of node: NodeID) throws(FuseErrno) -> FuseEntry {
        if node == Self.directory { return entry(node, size: 0) }
        guard let content = state.withLock({ $0.contents[node] }) else { throw FuseErrno(ESTALE) }
        return entry(node, size: content.count)
    }

    func read(_ node: NodeID, offset: Int64, count: Int, _ reply: FuseReply) {
        guard let content = state.withLock({ $0.contents[node] }) else { return reply.error(FuseErrno(ESTALE)) }
        let start = min(Int(offset), content.count)
        unsafe content.withUnsafeBytes {
            unsafe reply.data(UnsafeRawBufferPointer(rebasing: $0[start..<min(start + count, content.count)]))
        }
    }

    func list(_ node: NodeID, after cookie: UInt64, into listing: inout FuseListing) throws(FuseErrno) {
        guard node == Self.directory else { throw FuseErrno(ENOTDIR) }
        let names: [(name: String, entry: FuseEntry)] = [
            (".", entry(node, size: 0)), ("..", entry(node, size: 0)), ("status", entry(Self.first, size: 0)),
        ]
        for (place, item) in names.enumerated() where cookie <= UInt64(place) {
            let name = Array(item.name.utf8)
            guard unsafe name.withUnsafeBytes({ unsafe listing.add($0, item.entry, cookie: UInt64(place + 1)) }) else { return }
        }
    }
}
