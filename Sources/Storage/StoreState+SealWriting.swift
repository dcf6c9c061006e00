import SQLite

/// What a seal wrote, to be taken over into the tree.
struct SealOutcome {
    let plan: SealPlan
    var content: Content
    var size: Int64
    var digest: Digest?
    var head: MemoryHead?
    var versions: [VersionRow] = []
    var ownsContent: Bool
    /// What was found in the content; nil: nobody looked.
    var secrets: SecretKinds?
    /// The version that tells what each save, by its group, came to.
    var became: [Int64: Int64] = [:]
    /// Chunks whose older ones may become deltas.
    var candidates: [Int64] = []
}

extension StoreState {
    // MARK: Writing

    func write(_ plan: SealPlan) throws(SQLiteError) -> SealOutcome {
        let inode = plan.inode
        // Drafts are not looked through any more once they are content.
        try keepNotes(inRowsOf: inode.number, onlyDrafts: true)
        var outcome = SealOutcome(
            plan: plan, content: inode.content, size: inode.sealedSize, digest: inode.digest, head: inode.head,
            ownsContent: inode.ownsContent, secrets: plan.secrets ?? inode.secrets)
        // The newest first: older chunks are deltas of newer ones, which must be there when one of them is found to be needed whole.
        var renamed: [Int64: Int64] = [:]
        for step in plan.steps.reversed() where !step.isUnchanged {
            for (_, chunk) in step.chunks {
                var chunk = chunk
                if let delta = chunk.delta, let base = renamed[delta.base] { chunk.delta = (base, delta.program) }
                let number = try store(chunk, for: inode.number)
                if number != chunk.number {
                    renamed[chunk.number] = number
                } else if !DeltaChain.steps(endingAt: chunk.sequence).isEmpty {
                    // Also where it is a delta itself: the one before it may have been sealed earlier.
                    outcome.candidates.append(number)
                }
            }
        }
        for step in plan.steps {
            let list = step.list.map { renamed[$0] ?? $0 }
            if step.isUnchanged {
                try drop(step.save, keeping: [])
                outcome.became[step.save.group] = outcome.head?.version
                continue
            }
            // Parts that stay are used once more by the new version.
            let newPlaces = Set(step.chunks.map(\.place))
            for (place, number) in list.enumerated() where number != 0 && !newPlaces.contains(place) {
                statements.addReference.bind(number, at: 1)
                try statements.addReference.run()
            }
            let content = Content(list, size: step.size)
            if outcome.ownsContent { try release(outcome.content) }
            outcome.content = content
            outcome.size = step.size
            outcome.digest = step.digest
            outcome.secrets = step.secrets
            outcome.ownsContent = true
            try drop(step.save, keeping: Set(step.chunks.map(\.chunk.number)))
            let path = path(of: inode)
            // What took the place of a file with the same bytes changed nothing.
            var comesToTheSame = outcome.versions.isEmpty && plan.movedBy != nil
            if comesToTheSame { comesToTheSame = try isHead(outcome, at: path) }
            if inode.isMemory, !step.save.isSuperseded, !comesToTheSame {
                // The name changed and the bytes too: one version tells both, by who wrote the bytes.
                append(
                    &outcome, path: path, author: step.save.author, base: step.save.base ?? inode.staleBase,
                    isStale: step.save.isStale || inode.staleBase != nil)
                // The version holds the chunks from here on.
                outcome.ownsContent = false
            }
            outcome.became[step.save.group] = outcome.head?.version
        }
        if outcome.versions.isEmpty, let author = plan.movedBy, inode.links > 0 {
            // A move, a swap, or bytes taken over from a temporary file that was sealed before.
            let path = path(of: inode)
            if try !isHead(outcome, at: path) {
                append(&outcome, path: path, author: author, base: inode.staleBase, isStale: inode.staleBase != nil)
                if !outcome.ownsContent {
                    for chunk in outcome.content.chunks where chunk != 0 {
                        statements.addReference.bind(chunk, at: 1)
                        try statements.addReference.run()
                    }
                }
                outcome.ownsContent = false
            } else if let head = outcome.head {
                // Equal to the head: the head's own chunks do.
                if outcome.ownsContent { try release(outcome.content) }
                outcome.content = head.content
                outcome.ownsContent = false
            }
        }
        for step in plan.steps where step.save.isSuperseded { outcome.became[step.save.group] = outcome.head?.version }
        for version in outcome.versions { try insert(version) }
        let isSettled = inode.drafts.map { $0.saves.count == plan.steps.count } ?? true
        try writeInode(inode, outcome, author: isSettled || !outcome.versions.isEmpty ? nil : inode.changedBy)
        return outcome
    }

    private func append(_ outcome: inout SealOutcome, path: String, author: Author, base: Int64?, isStale: Bool) {
        let sameAs = outcome.head.flatMap { $0.content == outcome.content ? $0.version : nil }
        let memory = outcome.head?.memory ?? takeNumber()
        let began = versionTime()
        let version = VersionRow(
            number: takeNumber(), memory: memory, operation: outcome.head == nil ? .created : .modified, path: path, size: outcome.size,
            digest: outcome.digest, content: outcome.content, began: began, author: author, base: base, isStale: isStale,
            previous: outcome.head?.version, secrets: outcome.secrets, sameAs: sameAs)
        outcome.versions.append(version)
        outcome.head = MemoryHead(
            memory: memory, version: version.number, created: outcome.head?.created ?? began, updated: began, size: outcome.size,
            digest: outcome.digest, content: outcome.content)
    }

    /// Whether the head version says already what the file has become.
    private func isHead(_ outcome: SealOutcome, at path: String) throws(SQLiteError) -> Bool {
        guard let head = outcome.head, head.size == outcome.size else { return false }
        guard head.content == outcome.content || head.digest != nil && head.digest == outcome.digest else { return false }
        let row = try statements.cached("SELECT directory || name FROM version WHERE number = ?1")
        row.bind(head.version, at: 1)
        defer { row.reset() }
        return try row.step() && row.text(0)?.utf8.elementsEqual(path.utf8) == true
    }

    /// Deletes the drafts of a save that no chunk needs.
    private func drop(_ save: Save, keeping kept: Set<Int64>) throws(SQLiteError) {
        for extent in save.extents where !kept.contains(extent.id) {
            statements.deleteExtent.bind(extent.id, at: 1)
            try statements.deleteExtent.run()
        }
        // A draft whose content was there already is not needed either.
        for extent in save.extents where kept.contains(extent.id) {
            let number = extent.id
            if try chunkRow(number) == nil {
                statements.deleteExtent.bind(number, at: 1)
                try statements.deleteExtent.run()
            }
        }
    }

    /// The hash of a memory's head, however large.
    func digest(of inode: Inode) throws(RemfsError) -> Digest {
        try query { () throws(SQLiteError) in
            try unsafe Digest { (take) throws(SQLiteError) in
                try unsafe forEachPart(of: inode.head?.content ?? .empty, size: inode.head?.size ?? 0, take)
            }
        }
    }

    /// Passes a content's bytes in order, holes as zeros.
    func forEachPart(
        of content: Content, size: Int64, _ body: (UnsafeRawBufferPointer) -> Void
    ) throws(SQLiteError) {
        var left = size
        for chunk in content.chunks {
            let length = Int(min(left, Content.chunkSize))
            var bytes = chunk == 0 ? [] : try self.bytes(of: chunk)
            if bytes.count < length { bytes.append(contentsOf: repeatElement(0, count: length - bytes.count)) }
            unsafe bytes.withUnsafeBytes { unsafe body(UnsafeRawBufferPointer(rebasing: $0[0..<length])) }
            left -= Int64(length)
        }
    }

    func writeInode(_ inode: Inode, _ outcome: SealOutcome, author: Author?) throws(SQLiteError) {
        let row = statements.settleInode
        row.bind(inode.number, at: 1)
        row.bind(outcome.size, at: 2)
        row.bind(inode.modified, at: 3)
        row.bind(inode.changed, at: 4)
        bind(outcome.content, to: row, at: 5)
        row.bind(outcome.digest?.bytes, at: 6)
        let isMemory = inode.isMemory && inode.links > 0
        row.bind(isMemory ? outcome.head?.memory : nil, at: 7)
        row.bind(isMemory ? outcome.head?.version : nil, at: 8)
        row.bind(isMemory ? outcome.head?.created : nil, at: 9)
        row.bind(isMemory ? outcome.head?.updated : nil, at: 10)
        row.bind(author?.row, at: 11)
        row.bind(inode.accessed, at: 12)
        row.bind((outcome.ownsContent ? inode.flags.union(.ownsContent) : inode.flags).rawValue, at: 13)
        try row.run()
    }

    func apply(_ outcome: SealOutcome) {
        let inode = outcome.plan.inode
        inode.content = outcome.content
        inode.secrets = outcome.secrets
        inode.sealedSize = outcome.size
        inode.digest = outcome.digest
        inode.ownsContent = outcome.ownsContent
        if inode.links > 0 {
            let oldKey = seenKey(of: inode)
            inode.head = outcome.head
            if let head = outcome.head { memoryInodes[head.memory] = inode.number }
            if !outcome.versions.isEmpty { inode.head?.origin = outcome.plan.steps.last?.save.origin ?? inode.movedIn }
            didSeal(inode, outcome, seenAs: oldKey)
        }
        for version in outcome.versions { lastVersion = max(lastVersion, version.number) }
        if !outcome.versions.isEmpty || outcome.plan.movedBy != nil {
            inode.changedBy = nil
            inode.staleBase = nil
        }
        if let drafts = inode.drafts {
            if drafts.saves.count == outcome.plan.steps.count {
                inode.drafts = nil
            } else {
                drafts.removeSealed(outcome.plan.steps.count, sealedSize: outcome.size)
                if drafts.saves[0].isClosed { enqueueSeal(inode) }
            }
        }
        if inode.isMemory { deltaCandidates.append(contentsOf: outcome.candidates) }
        // Every other mount may hold pages of a version that ended up elsewhere, but the bytes are the same: nothing to invalidate.
    }
}
