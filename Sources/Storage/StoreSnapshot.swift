import Glibc
import SQLite

/// The tree of a store as of one moment, entry by entry, for an export or a fork. In memory are the names, never the contents.
///
/// Valid inside `MemoryStore.withSnapshot` only; used by one thread.
package final class StoreSnapshot {
    fileprivate struct Item {
        let entry: ArchiveEntry
        let content: Content
        let inode: InodeNumber
    }

    private let items: [Item]
    private let reader: Reader
    private let label: String
    private var place = -1
    /// Chunks of the present file that were read, and what of the last one is left.
    private var chunksRead = 0
    private var left: Int64 = 0

    fileprivate init(_ items: [Item], _ reader: Reader, label: String) {
        self.items = items
        self.reader = reader
        self.label = label
    }

    package func next() -> ArchiveEntry? {
        place += 1
        guard place < items.count else { return nil }
        chunksRead = 0
        if case .file(let size) = items[place].entry.kind { left = size } else { left = 0 }
        return items[place].entry
    }

    /// The next bytes of the present file, a chunk at a time, checked against their hash; none at its end.
    package func read() throws(RemfsError) -> [UInt8] {
        guard left > 0 else { return [] }
        let length = Int(min(left, Content.chunkSize))
        let chunks = items[place].content.chunks
        let chunk = chunksRead < chunks.count ? chunks[chunksRead] : 0
        chunksRead += 1
        left -= Int64(length)
        var bytes = chunk == 0 ? [] : try RemfsError.mapping(label) { () throws(SQLiteError) in try reader.bytes(of: chunk) }
        if bytes.count > length { bytes.removeLast(bytes.count - length) }
        if bytes.count < length { bytes.append(contentsOf: repeatElement(0, count: length - bytes.count)) }
        return bytes
    }

    /// The extended attributes of the present entry.
    func extendedAttributes() throws(RemfsError) -> [(name: String, value: [UInt8])] {
        let inode = items[place].inode
        return try RemfsError.mapping(label) { () throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT name, value FROM xattr WHERE inode = ?1 ORDER BY name")
            row.bind(inode, at: 1)
            var found: [(String, [UInt8])] = []
            while try row.step() { found.append((row.text(0) ?? "", row.bytes(1))) }
            return found
        }
    }
}

extension MemoryStore {
    /// Lends the tree as of now, with everything that is in it but sockets and devices; or as of a moment: the memories that there were,
    /// without what has no history. Content is that of the last sealed version. Writers go on meanwhile.
    package func withSnapshot<Answer>(
        at point: StorePoint, _ body: (StoreSnapshot) throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        try settleForReading()
        return try readers.browse { (reader) throws(RemfsError) in
            let label = "store \(self.id)"
            let items: [StoreSnapshot.Item]
            if case .now = point {
                items = try self.look { (state) throws(RemfsError) in
                    // With the lock held, so that the rows are those of this tree.
                    _ = try RemfsError.mapping(label) { () throws(SQLiteError) in
                        try reader.connection.integer("SELECT count(*) FROM property")
                    }
                    if state.isDeleted { throw RemfsError(.gone, "\(state.label) was deleted") }
                    return StoreSnapshot.items(of: state)
                }
            } else {
                let moment = try self.moment(point, reader)
                try self.requireHistory(at: moment, .prefix("/"), reader.connection)
                items = try StoreSnapshot.items(at: moment, reader, label: label)
            }
            return try body(StoreSnapshot(items, reader, label: label))
        }
    }

    /// Writes the tree as a tar archive. Answers how many entries it has.
    package func export(
        at point: StorePoint, to sink: @escaping ([UInt8]) throws(RemfsError) -> Void
    ) throws(RemfsError) -> Int {
        try withSnapshot(at: point) { (snapshot) throws(RemfsError) in
            let writer = ArchiveWriter(sink)
            var count = 0
            while let entry = snapshot.next() {
                count += 1
                try writer.begin(entry)
                while case let bytes = try snapshot.read(), !bytes.isEmpty { try writer.write(bytes) }
            }
            try writer.finish()
            return count
        }
    }
}

extension StoreSnapshot {
    fileprivate static func items(of state: StoreState) -> [Item] {
        var items: [Item] = []
        /// Files with several names: the first that comes is the file.
        var named: [InodeNumber: [UInt8]] = [:]
        var walk = TreeWalk(below: state.root)
        while let step = walk.next() {
            let inode = step.inode
            var path = walk.path
            path += step.name
            var content = Content.empty
            let kind: ArchiveEntry.Kind
            switch inode.kind {
            case UInt32(S_IFDIR):
                // What is in an implied one implies it again.
                if inode.flags.contains(.implicit), inode.mode & 0o7777 == 0o755 { continue }
                kind = .directory
            case UInt32(S_IFREG):
                if let first = named[inode.number] {
                    kind = .hardLink(to: first)
                    break
                }
                // A file that was never sealed has no content that anybody was promised.
                if inode.isMemory, inode.head == nil { continue }
                content = inode.head?.content ?? inode.content
                kind = .file(sizeInBytes: inode.head?.size ?? inode.sealedSize)
                if inode.links > 1 { named[inode.number] = path }
            case UInt32(S_IFLNK): kind = .symbolicLink(target: inode.target ?? [])
            case UInt32(S_IFIFO): kind = .fifo
            default: continue
            }
            items.append(
                Item(
                    entry: ArchiveEntry(
                        path: path, kind: kind, permissions: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, modified: inode.modified,
                        isUnversioned: inode.flags.contains(.unversioned)),
                    content: content, inode: inode.number))
        }
        return items
    }

    fileprivate static func items(at moment: Moment, _ reader: Reader, label: String) throws(RemfsError) -> [Item] {
        try RemfsError.mapping(label) { () throws(SQLiteError) in
            let row = try reader.connection.prepare(
                """
                SELECT directory || name, size, content, began FROM version
                WHERE began <= ?1 AND (ended IS NULL OR ended > ?1) AND operation <> 2 AND name IS NOT NULL ORDER BY directory, name
                """)
            row.bind(moment.time, at: 1)
            var items: [Item] = []
            while try row.step() {
                let size = row.integer(1)
                items.append(
                    Item(
                        entry: ArchiveEntry(
                            path: Array(row.bytes(0).dropFirst()), kind: .file(sizeInBytes: size), uid: geteuid(), gid: getegid(),
                            modified: row.integer(3) * 1_000),
                        content: Content(row, column: 2, size: size), inode: 0))
            }
            return items
        }
    }
}
