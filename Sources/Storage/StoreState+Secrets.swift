import SQLite

/// A file that may become a memory's content, looked through without the lock.
struct ScannedFile: Sendable {
    let number: InodeNumber
    /// What it was then (`Inode.changed`, ns).
    let changed: Int64
    let size: Int64
    let found: SecretKinds
}

/// The store's policy about secrets. `warn` is the seal's and the API's: a version says what was found in it. `refuse` is asked before a
/// change as well: of what it brings, what was not there before is refused.
extension StoreState {
    // MARK: Contents

    /// What is found in a content that the API brings; nil where nobody looks.
    ///
    /// - Parameter inode: the memory that it becomes the content of.
    func secrets(in content: [UInt8], over inode: Inode?, at path: @autoclosure () -> String) throws(RemfsError) -> SecretKinds? {
        guard policy.secrets != .allow else { return nil }
        let found = SecretKinds(in: content)
        if policy.secrets == .refuse, !found.isEmpty { try requireKnown(in: content, over: inode, at: path()) }
        return found
    }

    /// As above, of what is stored already.
    func requireKnown(_ stored: StoredContent, over inode: Inode?, at path: @autoclosure () -> String) throws(RemfsError) {
        guard policy.secrets == .refuse, stored.secrets?.isEmpty == false else { return }
        let bytes = try query { () throws(SQLiteError) in try packedBytes(of: stored.content) }
        try requireKnown(in: bytes, over: inode, at: path())
    }

    // MARK: Mounts

    /// 4 KiB before and after what is written (`design.md` 9).
    private static let around: Int64 = 4 << 10

    /// Refuses a write that would make a secret of what it brings and what is around it.
    func requireNoNewSecret(_ bytes: UnsafeRawBufferPointer, at start: Int64, in inode: Inode) throws(RemfsError) {
        let from = max(0, start - Self.around)
        let end = start + Int64(bytes.count)
        var window = try shownBytes(of: inode, from, Int(start - from))
        window.append(contentsOf: repeatElement(0, count: Int(start - from) - window.count))
        let written = window.count..<(window.count + bytes.count)
        unsafe window.append(contentsOf: bytes)
        window += try shownBytes(of: inode, end, Int(Self.around))
        try requireKnown(in: window, touching: written, over: inode, at: path(of: inode))
    }

    /// Refuses a rename that brings a secret into a memory: of a file that was none, or that somebody made to take another's place.
    func requireNoNewSecret(
        renaming inode: Inode, to name: [UInt8], _ parent: Inode, over target: Inode?, _ scanned: ScannedFile?, by caller: Caller
    ) throws(RemfsError) {
        guard policy.secrets == .refuse, inode.isRegular, !isUnversioned(name, in: parent, isDirectory: false) else { return }
        let replaced = target.flatMap { $0.isMemory ? $0 : nil }
        // Nothing comes in where a memory gets another name, or one takes the other's place.
        if inode.isMemory, replaced == nil || inode.head != nil && !isUnsettled(inode, in: caller.origin) { return }
        if inode.drafts == nil, inode.secrets?.isEmpty == true { return }
        if let scanned, scanned.number == inode.number, scanned.changed == inode.changed, scanned.size == inode.size, scanned.found.isEmpty
        {
            return
        }
        let bytes = try query { () throws(SQLiteError) in try packedBytes(of: inode) }
        try requireKnown(in: bytes, over: replaced, at: path(name, in: parent))
    }

    /// A file that nobody else was told of, born a moment ago.
    func isUnsettled(_ inode: Inode, in origin: Origin) -> Bool {
        inode.unsettledIn == origin.number && Self.monotonic() - inode.born < 60_000_000_000
    }

    // MARK: Sealed contents

    /// What is found in a content that is stored; nil where nobody looks.
    func secrets(in content: Content) throws(SQLiteError) -> SecretKinds? {
        guard policy.secrets != .allow else { return nil }
        let chunks = content.chunks
        var scan = SecretScan()
        for place in chunks.indices {
            try scan.pass(place, looks: true) { (place) throws(SQLiteError) in try readableBytes(of: chunks[place]) }
        }
        return scan.finish()
    }

    /// A chunk's bytes; nil for a hole, and where they are damaged: that is told where somebody reads them, and keeps no other part of the
    /// file from being sealed.
    func readableBytes(of chunk: Int64) throws(SQLiteError) -> [UInt8]? {
        guard chunk != 0 else { return nil }
        do throws(SQLiteError) {
            return try bytes(of: chunk)
        } catch {
            guard error.kind == .corrupted else { throw error }
            return nil
        }
    }

    // MARK: What was there before

    /// A secret by what it is, for as long as two contents are compared.
    private struct Finding: Hashable {
        let rule: SecretScanner.Rule
        let bytes: ArraySlice<UInt8>

        static func all(in bytes: [UInt8]) -> [Finding] {
            SecretScanner.matches(in: bytes[...]).map { Finding(rule: $0.rule, bytes: bytes[$0.range]) }
        }
    }

    /// Throws `holdsSecret` unless each secret in `bytes` is one that the file has now, or had in its last version: an edit of something else
    /// is no reason to refuse it.
    private func requireKnown(
        in bytes: [UInt8], touching: Range<Int>? = nil, over inode: Inode?, at path: @autoclosure () -> String
    ) throws(RemfsError) {
        let matches = SecretScanner.matches(in: bytes[...], touching: touching)
        guard !matches.isEmpty else { return }
        let known = try inode.map { (inode) throws(RemfsError) in try findings(before: inode) } ?? []
        for match in matches {
            let finding = Finding(rule: match.rule, bytes: bytes[match.range])
            if known.contains(finding) { continue }
            // Who writes a file anew in several pieces may be in the middle of one.
            if match.range.upperBound == bytes.endIndex,
                known.contains(where: { $0.rule == match.rule && $0.bytes.starts(with: finding.bytes) })
            {
                continue
            }
            throw RemfsError(.holdsSecret, "\(path()) would hold a secret (\(match.rule.rawValue)): \(label) refuses them")
        }
    }

    private func findings(before inode: Inode) throws(RemfsError) -> Set<Finding> {
        // 64 MiB and more, perhaps. Whoever comes here is about to be refused, most of the time.
        if inode.size > Self.bytesPerSeal { willBlock() }
        return try query { () throws(SQLiteError) in
            var known = Set(Finding.all(in: try packedBytes(of: inode)))
            if let head = inode.head, inode.drafts != nil || head.content != inode.content {
                known.formUnion(Finding.all(in: try packedBytes(of: head.content)))
            }
            return known
        }
    }

    // MARK: Bytes

    /// A content without its holes, each of which is one zero.
    private func packedBytes(of content: Content) throws(SQLiteError) -> [UInt8] {
        var bytes: [UInt8] = []
        let chunks = content.chunks
        for (place, chunk) in chunks.enumerated() {
            let part = chunk == 0 ? [] : try self.bytes(of: chunk)
            bytes += part
            // A chunk that is shorter ends in zeros, unless it is the last.
            if part.count < Content.chunkSize, place < chunks.count - 1 { bytes.append(0) }
        }
        return bytes
    }

    /// As above, with what is not sealed yet.
    private func packedBytes(of inode: Inode) throws(SQLiteError) -> [UInt8] {
        guard let drafts = inode.drafts else { return try packedBytes(of: inode.content) }
        let chunks = inode.content.chunks
        var bytes: [UInt8] = []
        for (place, start) in stride(from: 0, to: inode.size, by: Int(Content.chunkSize)).enumerated() {
            let isHole = place >= chunks.count || chunks[place] == 0
            if isHole, drafts.map.segments(from: start, to: start + Content.chunkSize).isEmpty {
                bytes.append(0)
            } else {
                bytes += try draftedBytes(inode, start, Int(Content.chunkSize))
            }
        }
        return bytes
    }

    private func shownBytes(of inode: Inode, _ offset: Int64, _ count: Int) throws(RemfsError) -> [UInt8] {
        try query { () throws(SQLiteError) in try draftedBytes(inode, offset, count) }
    }
}
