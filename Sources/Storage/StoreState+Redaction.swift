import Glibc
import SQLite

/// Taking a version's bytes out of the tables. The file itself is cleaned afterwards (`MemoryStore.scrub`).
extension StoreState {
    /// The property that stands in the file from the redaction's transaction until the last trace of its bytes is gone.
    static let redactionMark = "redaction"

    /// How far the cleaning of the file after a redaction has come. A kill starts it over.
    struct Scrub {
        /// Redactions since the store was opened, and those of them of which nothing is left in the file.
        var wanted = 0
        var done = 0
        /// The file is being written to past SQLite: no checkpoint may run.
        var isRunning = false

        var isNeeded: Bool { done < wanted }
    }

    /// The version that the mark names: the last one, if several were redacted together.
    func redactionsUnderWay() throws(RemfsError) -> [Int64] {
        try query { () throws(SQLiteError) in
            try writer.integer("SELECT value FROM property WHERE name = '\(Self.redactionMark)'").map { [$0] } ?? []
        }
    }

    /// What a change of a version's row needs to know of it.
    struct VersionFacts {
        let number: Int64
        let memory: Int64
        let path: String?
        let content: Content
        let isRedacted: Bool
    }

    func facts(ofVersion number: Int64) throws(SQLiteError) -> VersionFacts? {
        let row = try statements.cached("SELECT memory, directory || name, content, size, redacted FROM version WHERE number = ?1")
        row.bind(number, at: 1)
        defer { row.reset() }
        guard try row.step() else { return nil }
        return VersionFacts(
            number: number, memory: row.integer(0), path: row.text(1), content: Content(row, column: 2, size: row.integer(3)),
            isRedacted: !row.isNull(4))
    }

    /// Blanks a version: content, path, hash and size go, the row stays. What shares its chunks keeps them. Once is enough.
    ///
    /// Answers the lowest number under which any of its bytes were written; nil: it was redacted before.
    ///
    /// - Throws: `notFound`; `invalidArgument` for the head of a live memory.
    func redact(_ number: Int64, by actor: MemoryActor) throws(RemfsError) -> Int64? {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        let version = VersionID(store: id, number: number)
        func look() throws(RemfsError) -> VersionFacts {
            let found = try query { () throws(SQLiteError) in try self.facts(ofVersion: number) }
            guard let found else { throw RemfsError(.notFound, "version \(version) not found") }
            return found
        }
        var facts = try look()
        if facts.isRedacted { return nil }
        // A memory that was unlinked a moment ago is told as deleted first: then its last content is no head any more.
        try sealRemovals(all: true) { $0.memory == facts.memory }
        facts = try look()
        if let place = memoryInodes[facts.memory], let inode = inodes[place], inode.head?.version == number {
            throw RemfsError(
                .invalidArgument,
                "version \(version) is what \(path(of: inode)) holds now: write a new version or delete the memory, then redact it")
        }
        let chunks = Set(facts.content.chunks.filter { $0 != 0 })
        let holders = looseHolders(of: chunks)
        let time = now()
        // One for the zeros of each unlinked file.
        try reserveNumbers(Int64(holders.count) + 2)
        let groups = holders.map { _ in takeNumber() }
        // Those of which the content has uses of its own.
        let counted = inodes.values.filter { $0.isRegular && $0.ownsContent } + holders.filter { !$0.ownsContent }
        var blanked: [(inode: Inode, content: Content, digest: Digest?)] = []
        let shown = try query { () throws(SQLiteError) in try pastPlaces(ofVersion: number) }
        try commit { () throws(SQLiteError) in
            // They read from chunks that so far this version counts.
            for inode in holders { try keepContent(of: inode) }
            try release(facts.content)
            for (inode, group) in zip(holders, groups) where inode.links == 0 {
                guard try !isHeldByVersions(inode.content, besides: counted) else { continue }
                blanked.append(try blank(inode, group: group))
            }
            for inode in holders { try noteOwnContent(of: inode) }
            let row = try statements.cached(
                """
                UPDATE version SET directory = NULL, name = NULL, size = NULL, digest = NULL, content = NULL, redacted = ?2,
                    redacted_by = ?3 WHERE number = ?1
                """)
            row.bind(number, at: 1)
            row.bind(time / 1_000, at: 2)
            row.bind(actor.id, at: 3)
            try row.run()
            // The index may know its words. They would be in its pages even after they were deleted from it.
            try dropSearchIndex()
            statements.setProperty.bind(Self.redactionMark, at: 1)
            statements.setProperty.bind(number, at: 2)
            try statements.setProperty.run()
        }
        for inode in holders { inode.ownsContent = true }
        for (inode, content, digest) in blanked {
            inode.content = content
            inode.digest = digest
            inode.name = [UInt8(ascii: "/")]
            invalidate(.bytes(inode.number, offset: 0, length: 0))
        }
        didDropSearchIndex()
        if let shown { try forgetPast(shown) }
        scrub.wanted += 1
        // A chunk's number tells the save that wrote it.
        return chunks.reduce(number) { min($0, $1 >> 20) }
    }

    /// Files that read from one of these chunks and neither count it nor have a head that does: unlinked ones that somebody may have open,
    /// and those whose name changed hands while they were written to.
    func looseHolders(of chunks: Set<Int64>) -> [Inode] {
        guard !chunks.isEmpty else { return [] }
        return inodes.values.filter { inode in
            guard inode.isRegular else { return false }
            guard inode.links == 0 || !inode.ownsContent && inode.head?.content != inode.content else { return false }
            return inode.content.chunks.contains { chunks.contains($0) }
        }
    }

    /// Writes that an inode counts its content for itself (`keepContent`).
    func noteOwnContent(of inode: Inode) throws(SQLiteError) {
        let row = try statements.cached("UPDATE inode SET flags = ?2 WHERE number = ?1")
        row.bind(inode.number, at: 1)
        row.bind(inode.flags.union(.ownsContent).rawValue, at: 2)
        try row.run()
    }

    /// Whether each chunk of a content is some version's, and not only that of files.
    private func isHeldByVersions(_ content: Content, besides files: [Inode]) throws(SQLiteError) -> Bool {
        for chunk in Set(content.chunks) where chunk != 0 {
            let uses = files.reduce(Int64(0)) { $0 + Int64($1.content.chunks.count { $0 == chunk }) }
            guard let row = try chunkRow(chunk), row.references > uses else { return false }
        }
        return true
    }

    /// Gives an unlinked file zeros in place of its bytes, as many, and takes the path off it that it had. Whoever has it open reads zeros.
    private func blank(_ inode: Inode, group: Int64) throws(SQLiteError) -> (inode: Inode, content: Content, digest: Digest?) {
        let size = inode.sealedSize
        var content = Content.empty
        var digest: Digest? = size == 0 ? .ofNothing : nil
        if size > Content.chunkSize {
            content = .list([Int64](repeating: 0, count: inode.content.chunks.count))
        } else if size > 0 {
            let zeros = [UInt8](repeating: 0, count: Int(size))
            digest = Digest(of: zeros)
            let chunk = NewChunk(
                number: group << 20, digest: Digest(of: zeros), size: zeros.count, bytes: zeros, previous: nil, delta: nil, sequence: 1)
            content = .whole(try store(chunk, for: inode.number))
        }
        try release(inode.content)
        let row = try statements.cached("UPDATE inode SET content = ?2, digest = ?3, name = '/' WHERE number = ?1")
        row.bind(inode.number, at: 1)
        bind(content, to: row, at: 2)
        row.bind(digest?.bytes, at: 3)
        try row.run()
        return (inode, content, digest)
    }

    // MARK: Pins

    func pin(_ number: Int64, _ isPinned: Bool) throws(RemfsError) {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        let time = now() / 1_000
        var isThere = false
        try commit { () throws(SQLiteError) in
            // Pinned again it keeps the time at which it was.
            let row = try statements.cached(
                "UPDATE version SET pinned = CASE WHEN ?2 IS NULL THEN NULL ELSE ifnull(pinned, ?2) END WHERE number = ?1")
            row.bind(number, at: 1)
            row.bind(isPinned ? time : nil, at: 2)
            try row.run()
            isThere = writer.changes == 1
        }
        guard isThere else { throw RemfsError(.notFound, "version \(VersionID(store: id, number: number)) not found") }
    }
}
