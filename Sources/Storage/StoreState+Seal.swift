import SQLite

/// What sealing one inode will write, worked out before its transaction.
struct SealPlan {
    struct Step {
        let save: Save
        /// Chunks that are new with this save, by their place in the content.
        var chunks: [(place: Int, chunk: StoreState.NewChunk)]
        /// The content's chunks; new ones carry the number they may lose to an equal one.
        var list: [Int64]
        let size: Int64
        let digest: Digest?
        /// Nothing changed against the version before: no version.
        var isUnchanged: Bool
    }

    let inode: Inode
    var steps: [Step]
    /// A change of name without new bytes.
    var movedBy: Author?
}

/// Sealing: drafts become chunks with hashes, and saves become versions.
extension StoreState {
    func enqueueSeal(_ inode: Inode) {
        if queued.insert(inode.number).inserted { sealQueue.append(inode.number) }
    }

    /// Ends the open save of a file: its writer has closed, or another one comes.
    ///
    /// - Parameter isHeard: the close was heard of, so none is to come for this save.
    func closeSave(of inode: Inode, isHeard: Bool = false) {
        openSaves.remove(inode.number)
        guard let save = inode.drafts?.saves.last, !save.isClosed else { return }
        save.isClosed = true
        if !isHeard { inode.endedEarly.insert(save.origin) }
        save.size = inode.size
        save.modified = inode.modified
        enqueueSeal(inode)
    }

    /// Takes in the close events that wait: whatever was closed before this moment is closed for us as well.
    func takeInCloses(of origin: Origin) throws(RemfsError) {
        guard let takeClosed = origin.takeClosed else { return }
        for number in takeClosed() {
            guard let inode = inodes[number] else { continue }
            inode.endedEarly.remove(origin.number)
            if inode.drafts?.saves.last?.origin == origin.number { closeSave(of: inode, isHeard: true) }
        }
    }

    /// Seals what is closed (`includingOpen`: also what is still being written) before the path of a memory changes hands.
    func sealBeforeNameGoes(_ inode: Inode, includingOpen: Bool) throws(RemfsError) {
        if includingOpen, inode.head != nil, let save = inode.drafts?.saves.last, !save.isClosed, !save.extents.isEmpty {
            closeSave(of: inode)
        }
        guard inode.drafts?.saves.first?.isClosed ?? false || (inode.changedBy != nil && inode.head != nil && inode.drafts == nil) else {
            return
        }
        try seal([inode])
    }

    /// Seals all inodes that wait, in batches of one transaction each.
    func sealQueued(atMost limit: Int = .max) throws(RemfsError) {
        var left = limit
        while !sealQueue.isEmpty, left > 0 {
            // 64: the lock is held about 10 us for each.
            let batch = Array(sealQueue.prefix(min(64, left)))
            sealQueue.removeFirst(batch.count)
            for number in batch { queued.remove(number) }
            left -= batch.count
            let sealable = batch.compactMap { inodes[$0] }
            do {
                try seal(sealable)
            } catch {
                for inode in sealable { enqueueSeal(inode) }
                throw error
            }
        }
    }

    func seal(_ batch: [Inode]) throws(RemfsError) {
        var plans: [SealPlan] = []
        for inode in batch {
            if let plan = try query({ () throws(SQLiteError) in try self.plan(inode) }) { plans.append(plan) }
        }
        guard !plans.isEmpty else { return }
        try reserveNumbers(Int64(plans.reduce(0) { $0 + $1.steps.count * 2 + 4 }))
        var outcomes: [SealOutcome] = []
        var sealed: Set<Int64> = []
        for plan in plans { for step in plan.steps { sealed.insert(step.save.group) } }
        let from = openGroups.subtracting(sealed).min() ?? next
        try commit { () throws(SQLiteError) in
            for plan in plans { outcomes.append(try write(plan)) }
            if !sealed.isEmpty {
                statements.setProperty.bind("open_from", at: 1)
                statements.setProperty.bind(from, at: 2)
                try statements.setProperty.run()
            }
        }
        openGroups.subtract(sealed)
        for outcome in outcomes { apply(outcome) }
    }

    // MARK: Working out

    private func plan(_ inode: Inode) throws(SQLiteError) -> SealPlan? {
        // What is left over of a long burst is sealed by the next round: its contents are held in memory until they are written.
        let saves = (inode.drafts?.saves.prefix { $0.isClosed } ?? []).prefix(Self.savesPerSeal)
        var plan = SealPlan(inode: inode, steps: [], movedBy: nil)
        // An unlinked file has no path to have versions at: what was closed was sealed before its name went.
        if inode.links == 0 { return nil }
        var list = inode.content.chunks
        var size = inode.sealedSize
        var fresh = FreshChunks()
        for save in saves {
            var step =
                save.size <= Content.chunkSize && size <= Content.chunkSize
                ? try planSmall(save, of: inode, list: list, size: size, &fresh)
                : try planLarge(save, of: inode, list: list, size: size, &fresh)
            if let before = plan.steps.last(where: { !$0.isUnchanged }), inode.isMemory, !save.isSuperseded, !before.save.isSuperseded,
                before.digest != nil, before.digest == step.digest, before.size == step.size
            {
                step.isUnchanged = true
            }
            plan.steps.append(step)
            guard !step.isUnchanged else { continue }
            list = step.list
            size = step.size
        }
        if plan.steps.count > 1 { encodeWithin(&plan, fresh) }
        if inode.changedBy != nil, inode.isMemory { plan.movedBy = inode.changedBy }
        return plan.steps.isEmpty && plan.movedBy == nil ? nil : plan
    }

    /// Chunks that this seal is about to store, for the saves that go on from them.
    private typealias FreshChunks = [Int64: (bytes: [UInt8], sequence: Int64)]

    private static let savesPerSeal = 64

    private func content(of chunk: Int64, _ fresh: FreshChunks) throws(SQLiteError) -> [UInt8] {
        if let found = fresh[chunk] { return found.bytes }
        return try bytes(of: chunk)
    }

    /// A chunk to be stored at `place`, after the one that `list` has there.
    private func newChunk(
        _ number: Int64, _ bytes: [UInt8], isStored: Bool, replacing list: [Int64], at place: Int, _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> NewChunk {
        let previous = place < list.count && list[place] != 0 ? list[place] : nil
        var sequence: Int64 = 1
        if let previous {
            if let found = fresh[previous] { sequence = found.sequence + 1 } else { sequence = (try chunkRow(previous)?.sequence ?? 0) + 1 }
        }
        fresh[number] = (bytes, sequence)
        return NewChunk(
            number: number, digest: Digest(of: bytes), size: bytes.count, bytes: isStored ? nil : bytes, previous: previous, delta: nil,
            sequence: sequence)
    }

    private func planSmall(
        _ save: Save, of inode: Inode, list: [Int64], size: Int64, _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> SealPlan.Step {
        if save.size == 0 {
            return SealPlan.Step(
                save: save, chunks: [], list: [], size: 0, digest: .ofNothing,
                isUnchanged: isUnchanged(inode, after: save, size: 0, digest: .ofNothing))
        }
        // One draft that holds all of the content stays where it is.
        var content: [UInt8]
        var kept: Int64?
        if let last = save.extents.last, last.kind == .bytes, last.offset == 0, last.length == save.size {
            content = try self.bytes(of: last)
            kept = last.id
        } else {
            content = size == 0 || list[0] == 0 ? [UInt8](repeating: 0, count: Int(size)) : try self.content(of: list[0], fresh)
            for extent in save.extents { try apply(extent, to: &content) }
            if content.count < save.size { content.append(contentsOf: repeatElement(0, count: Int(save.size) - content.count)) }
            content.removeSubrange(Int(save.size)...)
        }
        let chunk = try newChunk(kept ?? save.nextID(), content, isStored: kept != nil, replacing: list, at: 0, &fresh)
        return SealPlan.Step(
            save: save, chunks: [(0, chunk)], list: [chunk.number], size: save.size, digest: chunk.digest,
            isUnchanged: isUnchanged(inode, after: save, size: save.size, digest: chunk.digest))
    }

    /// Whether a save came to what the version before it holds.
    private func isUnchanged(_ inode: Inode, after save: Save, size: Int64, digest: Digest?) -> Bool {
        guard inode.isMemory, let head = inode.head, save === inode.drafts?.saves.first else { return false }
        return inode.changedBy == nil && head.size == size && digest != nil && head.digest == digest
    }

    /// A draft's bytes: from memory, or from its row.
    func bytes(of extent: Extent) throws(SQLiteError) -> [UInt8] {
        if let bytes = extent.bytes { return bytes }
        statements.extentBytes.bind(extent.id, at: 1)
        defer { statements.extentBytes.reset() }
        guard try statements.extentBytes.step() else { throw SQLiteError(code: 11, message: "draft \(extent.id) is missing") }
        return statements.extentBytes.bytes(0)
    }

    private func apply(_ extent: Extent, to content: inout [UInt8]) throws(SQLiteError) {
        switch extent.kind {
        case .truncation:
            if content.count > extent.offset { content.removeSubrange(Int(extent.offset)...) }
        case .hole:
            let end = min(Int(extent.offset + extent.length), content.count)
            if extent.offset < end {
                content.replaceSubrange(Int(extent.offset)..<end, with: repeatElement(0, count: end - Int(extent.offset)))
            }
        case .bytes:
            let start = Int(extent.offset)
            if content.count < start { content.append(contentsOf: repeatElement(0, count: start - content.count)) }
            let bytes = try self.bytes(of: extent)
            content.replaceSubrange(start..<min(start + bytes.count, content.count), with: bytes)
        }
    }

    /// A file of several chunks: only those that the save touched are read, hashed and stored.
    private func planLarge(
        _ save: Save, of inode: Inode, list: [Int64], size: Int64, _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> SealPlan.Step {
        let drafts = Drafts(sealedSize: size)
        for extent in save.extents { drafts.apply(extent) }
        let block = Content.chunkSize
        let count = Int((save.size + block - 1) / block)
        var result: [Int64] = []
        result.reserveCapacity(count)
        var chunks: [(place: Int, chunk: NewChunk)] = []
        for place in 0..<count {
            let start = Int64(place) * block
            let end = min(start + block, save.size)
            var segments: [ExtentMap.Segment] = []
            var next = drafts.map.place(start)
            while next < drafts.map.segments.count, drafts.map.segments[next].offset < end {
                segments.append(drafts.map.segments[next])
                next += 1
            }
            let old = place < list.count ? list[place] : 0
            let oldEnd = min(start + block, size)
            if segments.isEmpty, old == 0 || drafts.sealedLimit >= min(end, oldEnd), end >= oldEnd || old == 0 {
                result.append(old)
                continue
            }
            if segments.count == 1, segments[0].extent.kind == .bytes, segments[0].extent.offset == start,
                segments[0].extent.length == end - start
            {
                let extent = segments[0].extent
                let bytes = try self.bytes(of: extent)
                chunks.append((place, try newChunk(extent.id, bytes, isStored: true, replacing: list, at: place, &fresh)))
                result.append(extent.id)
                continue
            }
            var bytes = [UInt8](repeating: 0, count: Int(end - start))
            if old != 0, drafts.sealedLimit > start {
                let sealed = try content(of: old, fresh)
                let shown = Int(min(Int64(sealed.count), drafts.sealedLimit - start, end - start))
                bytes.replaceSubrange(0..<shown, with: sealed[0..<shown])
            }
            for segment in segments {
                let from = max(segment.offset, start)
                let to = min(segment.end, end)
                let target = Int(from - start)..<Int(to - start)
                if segment.extent.kind == .hole {
                    bytes.replaceSubrange(target, with: repeatElement(0, count: target.count))
                } else {
                    let source = try self.bytes(of: segment.extent)
                    let first = Int(from - segment.extent.offset)
                    bytes.replaceSubrange(target, with: source[first..<(first + target.count)])
                }
            }
            if bytes.allSatisfy({ $0 == 0 }) {
                result.append(0)
                continue
            }
            let number = save.nextID()
            chunks.append((place, try newChunk(number, bytes, isStored: false, replacing: list, at: place, &fresh)))
            result.append(number)
        }
        // Content up to a mebibyte is hashed when it is sealed; what is larger when someone asks.
        var digest: Digest?
        if save.size <= 1 << 20 {
            digest = try unsafe Digest { (take) throws(SQLiteError) in
                for (place, chunk) in result.enumerated() {
                    let length = Int(min(block, save.size - Int64(place) * block))
                    var bytes = chunk == 0 ? [] : try content(of: chunk, fresh)
                    if bytes.count < length { bytes.append(contentsOf: repeatElement(0, count: length - bytes.count)) }
                    unsafe bytes.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<length])) }
                }
            }
        }
        let sameChunks =
            chunks.isEmpty && save === inode.drafts?.saves.first && inode.changedBy == nil && inode.isMemory
            && inode.head?.size == save.size && result == list
        return SealPlan.Step(
            save: save, chunks: chunks, list: result, size: save.size, digest: digest,
            isUnchanged: sameChunks || isUnchanged(inode, after: save, size: save.size, digest: digest))
    }

    /// Several saves of one file at once: older chunks are written as deltas of newer ones from the start.
    private func encodeWithin(_ plan: inout SealPlan, _ fresh: FreshChunks) {
        guard plan.inode.isMemory else { return }
        struct Part: Hashable {
            let place: Int
            let sequence: Int64
        }
        var numbers: [Part: Int64] = [:]
        for step in plan.steps {
            for (place, chunk) in step.chunks { numbers[Part(place: place, sequence: chunk.sequence)] = chunk.number }
        }
        for step in plan.steps.indices {
            for index in plan.steps[step].chunks.indices {
                let (place, chunk) = plan.steps[step].chunks[index]
                guard let bytes = chunk.bytes, let base = numbers[Part(place: place, sequence: DeltaChain.base(of: chunk.sequence))],
                    base != chunk.number, let newer = fresh[base]
                else { continue }
                let program = Delta.encode(bytes, against: newer.bytes)
                if program.count * 4 < bytes.count * 3 { plan.steps[step].chunks[index].chunk.delta = (base, program) }
            }
        }
    }
}

/// What a seal wrote, to be taken over into the tree.
struct SealOutcome {
    let plan: SealPlan
    var content: Content
    var size: Int64
    var digest: Digest?
    var head: MemoryHead?
    var versions: [VersionRow] = []
    var ownsContent: Bool
    /// The version that tells what each save, by its group, came to.
    var became: [Int64: Int64] = [:]
    /// Chunks whose older ones may become deltas.
    var candidates: [Int64] = []
}

extension StoreState {
    // MARK: Writing

    private func write(_ plan: SealPlan) throws(SQLiteError) -> SealOutcome {
        let inode = plan.inode
        var outcome = SealOutcome(
            plan: plan, content: inode.content, size: inode.sealedSize, digest: inode.digest, head: inode.head,
            ownsContent: inode.ownsContent)
        // The newest first: older chunks are deltas of newer ones, which must be there when one of them is found to be needed whole.
        var renamed: [Int64: Int64] = [:]
        for step in plan.steps.reversed() where !step.isUnchanged {
            for (_, chunk) in step.chunks {
                var chunk = chunk
                if let delta = chunk.delta, let base = renamed[delta.base] { chunk.delta = (base, delta.program) }
                let number = try store(chunk, for: inode.number)
                if number != chunk.number {
                    renamed[chunk.number] = number
                } else if chunk.delta == nil, !DeltaChain.steps(endingAt: chunk.sequence).isEmpty {
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
            for (place, number) in list.enumerated() where number != 0 && !step.chunks.contains(where: { $0.place == place }) {
                statements.addReference.bind(number, at: 1)
                try statements.addReference.run()
            }
            let content = Content(list, size: step.size)
            if outcome.ownsContent { try release(outcome.content) }
            outcome.content = content
            outcome.size = step.size
            outcome.digest = step.digest
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
        if outcome.versions.isEmpty, let author = plan.movedBy, inode.links > 0, inode.drafts?.saves.first.map({ $0.isClosed }) ?? true {
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
            } else if outcome.ownsContent {
                // Equal to the head: the head's own chunks do.
                let head = outcome.head!
                try release(outcome.content)
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
        let memory = outcome.head?.memory ?? takeNumber()
        let began = versionTime()
        let version = VersionRow(
            number: takeNumber(), memory: memory, operation: outcome.head == nil ? .created : .modified, path: path, size: outcome.size,
            digest: outcome.digest, content: outcome.content, began: began, author: author, base: base, isStale: isStale,
            previous: outcome.head?.version)
        outcome.versions.append(version)
        outcome.head = MemoryHead(
            memory: memory, version: version.number, created: outcome.head?.created ?? began, updated: began, size: outcome.size,
            digest: outcome.digest, content: outcome.content)
    }

    /// Whether the head version says already what the file has become.
    private func isHead(_ outcome: SealOutcome, at path: String) throws(SQLiteError) -> Bool {
        guard let head = outcome.head, let digest = outcome.digest, head.digest == digest, head.size == outcome.size else { return false }
        let row = try statements.cached("SELECT directory || name FROM version WHERE number = ?1")
        row.bind(head.version, at: 1)
        defer { row.reset() }
        return try row.step() && row.text(0) == path
    }

    /// Deletes the drafts of a save that no chunk needs.
    private func drop(_ save: Save, keeping kept: Set<Int64>) throws(SQLiteError) {
        for extent in save.extents where !kept.contains(extent.id) {
            statements.deleteExtent.bind(extent.id, at: 1)
            try statements.deleteExtent.run()
        }
        // A draft whose content was there already is not needed either.
        for number in kept where save.extents.contains(where: { $0.id == number }) {
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
        row.bind(inode.flags.rawValue, at: 13)
        try row.run()
    }

    private func apply(_ outcome: SealOutcome) {
        let inode = outcome.plan.inode
        inode.content = outcome.content
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
            drafts.saves.removeFirst(outcome.plan.steps.count)
            if drafts.saves.isEmpty {
                inode.drafts = nil
            } else {
                drafts.rebuild(sealedSize: outcome.size)
                if drafts.saves[0].isClosed { enqueueSeal(inode) }
            }
        }
        if inode.isMemory { deltaCandidates.append(contentsOf: outcome.candidates) }
        // Every other mount may hold pages of a version that ended up elsewhere, but the bytes are the same: nothing to invalidate.
    }
}
