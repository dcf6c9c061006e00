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
        var isUnchanged = false
        /// What was found in it; nil: nobody looked.
        var secrets: SecretKinds?
    }

    let inode: Inode
    var steps: [Step]
    /// A change of name without new bytes.
    var movedBy: Author?
    /// What was found in the bytes that stay, where a change of name makes a version of them.
    var secrets: SecretKinds?
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
        try sealAll(inode)
    }

    /// Seals all closed saves of a file, however many, and a change of its name.
    func sealAll(_ inode: Inode) throws(RemfsError) {
        var left = Int.max
        while inode.changedBy != nil || inode.drafts?.saves.first?.isClosed ?? false {
            try seal([inode])
            // An open save keeps the change of name waiting; damaged content keeps its saves.
            let now = inode.drafts?.saves.count ?? 0
            guard now < left else { return }
            left = now
        }
    }

    /// Seals all inodes that wait.
    func sealQueued() throws(RemfsError) {
        while !sealQueue.isEmpty { try sealBatch() }
    }

    /// Seals some of the inodes that wait, in one transaction: as many as hold the lock for about a millisecond.
    ///
    /// - Parameter leavesLarge: those that would hold it for longer wait until they are made ready (`MemoryStore.sealLarge`).
    func sealBatch(atMost limit: Int = savesPerSeal, leavesLarge: Bool = false) throws(RemfsError) {
        var batch: [Inode] = []
        var saves = 0
        var bytes: Int64 = 0
        while let number = sealQueue.first, saves < limit, bytes < Self.bytesPerSeal {
            if leavesLarge, let inode = inodes[number], largeSave(of: inode) != nil { break }
            sealQueue.removeFirst()
            queued.remove(number)
            guard let inode = inodes[number] else { continue }
            batch.append(inode)
            let waiting = closedSaves(of: inode)
            saves += max(waiting.count, 1)
            bytes += waiting.reduce(0) { $0 + $1.bytesToSeal }
        }
        do {
            try seal(batch)
        } catch {
            for inode in batch { enqueueSeal(inode) }
            throw error
        }
    }

    /// The saves of a file that one seal takes: closed, in order, and no more bytes to hash than may be. What is left over of a long burst
    /// is sealed by the next round: its contents are held in memory until they are written, so a large one is sealed alone.
    private func closedSaves(of inode: Inode) -> ArraySlice<Save> {
        guard let drafts = inode.drafts else { return [] }
        var bytes: Int64 = 0
        let saves = drafts.saves.prefix(Self.savesPerSeal).prefix { save in
            let more = save.bytesToSeal
            guard save.isClosed, bytes == 0 || bytes + more <= Self.bytesPerSeal else { return false }
            bytes += more
            return true
        }
        return saves
    }

    func seal(_ batch: [Inode]) throws(RemfsError) {
        // A seal that fails gives the numbers back that it took within its saves: a full disk may have it tried for hours.
        let counts = batch.flatMap { inode in closedSaves(of: inode).map { (save: $0, count: $0.count) } }
        do throws(RemfsError) {
            try sealNow(batch)
        } catch {
            for (save, count) in counts { save.count = count }
            throw error
        }
    }

    private func sealNow(_ batch: [Inode]) throws(RemfsError) {
        var plans: [SealPlan] = []
        for inode in batch {
            do throws(SQLiteError) {
                if let plan = try self.plan(inode) { plans.append(plan) }
            } catch {
                // Damaged content of one file keeps its drafts as they are, and no other file from being sealed.
                guard error.kind == .corrupted else { throw RemfsError(error, in: label) }
            }
        }
        guard !plans.isEmpty else { return }
        try reserveNumbers(Int64(plans.reduce(0) { $0 + $1.steps.count * 2 + 4 }))
        var outcomes: [SealOutcome] = []
        var sealed: Set<Int64> = []
        for plan in plans { for step in plan.steps { sealed.insert(step.save.group) } }
        let from = openGroups.smallest(without: sealed) ?? next
        try commit { () throws(SQLiteError) in
            for plan in plans { outcomes.append(try write(plan)) }
            if !sealed.isEmpty {
                statements.setProperty.bind("open_from", at: 1)
                statements.setProperty.bind(from, at: 2)
                try statements.setProperty.run()
            }
        }
        for group in sealed { openGroups.remove(group) }
        for outcome in outcomes { apply(outcome) }
    }

    // MARK: Working out

    private func plan(_ inode: Inode) throws(SQLiteError) -> SealPlan? {
        let saves = closedSaves(of: inode)
        var plan = SealPlan(inode: inode, steps: [], movedBy: nil)
        // An unlinked file has no path to have versions at: what was closed was sealed before its name went.
        if inode.links == 0 { return nil }
        var list = inode.content.chunks
        var size = inode.sealedSize
        var fresh = FreshChunks()
        var known = inode.secrets
        // What the newest version says: a save that comes to the same adds none.
        typealias Told = (list: [Int64], size: Int64, digest: Digest?)
        var told = inode.isMemory && inode.changedBy == nil ? inode.head.map { Told($0.content.chunks, $0.size, $0.digest) } : nil
        for save in saves {
            var step =
                save.size <= Content.chunkSize && size <= Content.chunkSize
                ? try planSmall(save, list: list, size: size, &fresh) : try planLarge(save, list: list, size: size, &fresh)
            if let told, told.size == step.size, told.list == step.list || told.digest.map({ $0 == step.digest }) ?? false {
                step.isUnchanged = true
            }
            if !step.isUnchanged, inode.isMemory, !save.isSuperseded {
                step.secrets = try secrets(of: step, over: list, known: known, fresh)
            }
            plan.steps.append(step)
            guard !step.isUnchanged else { continue }
            known = step.secrets
            list = step.list
            size = step.size
            told = inode.isMemory && !save.isSuperseded ? (step.list, step.size, step.digest) : nil
        }
        if plan.steps.count > 1 { encodeWithin(&plan, fresh) }
        // A change of name is told with the last of the saves that wait, or by itself where none does.
        if inode.changedBy != nil, inode.isMemory, plan.steps.count == inode.drafts?.saves.count ?? 0 { plan.movedBy = inode.changedBy }
        if plan.movedBy != nil, known == nil, inode.content != inode.head?.content, list == inode.content.chunks {
            plan.secrets = try secrets(in: inode.content)
        }
        return plan.steps.isEmpty && plan.movedBy == nil ? nil : plan
    }

    /// Looks for secrets in what a save comes to; nil where nobody wants to know. Of a large content in which there were none, what changed
    /// is looked at.
    private func secrets(
        of step: SealPlan.Step, over list: [Int64], known: SecretKinds?, _ fresh: FreshChunks
    ) throws(SQLiteError) -> SecretKinds? {
        guard policy.secrets != .allow else { return nil }
        if let found = step.save.secrets { return found }
        if step.size <= Content.chunkSize, let found = step.list.first.flatMap({ fresh[$0] }) { return SecretKinds(in: found.bytes) }
        let new = Dictionary(uniqueKeysWithValues: step.chunks.map { ($0.place, $0.chunk) })
        var scan = SecretScan()
        for place in step.list.indices {
            let looks = known?.isEmpty != true || place >= list.count || list[place] != step.list[place]
            try scan.pass(place, looks: looks) { (place) throws(SQLiteError) in
                let number = step.list[place]
                if let found = fresh[number] { return found.bytes }
                if let chunk = new[place] {
                    if let bytes = chunk.bytes { return bytes }
                    return try draft(number)
                }
                return try readableBytes(of: number)
            }
        }
        return scan.finish()
    }

    /// Chunks that this seal is about to store, for the saves that go on from them.
    private typealias FreshChunks = [Int64: (bytes: [UInt8], sequence: Int64)]

    /// What one transaction seals: 20 to 30 us each, 0.7 us for each kilobyte that is hashed, up to three times, and 1 to 2 us for each that is
    /// looked through for secrets.
    static let savesPerSeal = 32
    static let bytesPerSeal: Int64 = 512 << 10
    /// 4 us each: read, laid over the others, deleted.
    static let extentsPerSeal = 256
    /// Saves that may wait for a quiet moment, in a store and of one file: each costs a kilobyte of memory and its bytes.
    static let mostWaiting = 4_096
    static let mostWaitingOfFile = 8_192
    /// 128 KiB: more than the contract's 102,400 bytes, and 0.1 ms of the lock.
    static let hashedAtSeal: Int64 = 128 << 10

    private func content(of chunk: Int64, _ fresh: FreshChunks) throws(SQLiteError) -> [UInt8] {
        if let found = fresh[chunk] { return found.bytes }
        return try bytes(of: chunk)
    }

    /// What a chunk is to hold.
    private struct NewContent {
        let digest: Digest
        let size: Int
        /// nil: a draft holds them, and nobody asks for them.
        let bytes: [UInt8]?
    }

    /// Whether a chunk holds these bytes.
    private func holds(_ chunk: Int64, _ new: NewContent, _ fresh: FreshChunks) throws(SQLiteError) -> Bool {
        if let found = fresh[chunk], let bytes = new.bytes { return found.bytes == bytes }
        guard let row = try chunkRow(chunk), row.size == new.size else { return false }
        return row.digest == new.digest
    }

    /// A chunk to be stored at `place`, after the one that `list` has there.
    ///
    /// - Parameter keeps: its bytes are asked for again before it is stored.
    private func newChunk(
        _ number: Int64, _ new: NewContent, isStored: Bool, keeps: Bool, replacing list: [Int64], at place: Int,
        _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> NewChunk {
        let previous = place < list.count && list[place] != 0 ? list[place] : nil
        var sequence: Int64 = 1
        if let previous {
            if let found = fresh[previous] { sequence = found.sequence + 1 } else { sequence = (try chunkRow(previous)?.sequence ?? 0) + 1 }
        }
        if keeps, let bytes = new.bytes { fresh[number] = (bytes, sequence) }
        return NewChunk(
            number: number, digest: new.digest, size: new.size, bytes: isStored ? nil : new.bytes, previous: previous, delta: nil,
            sequence: sequence)
    }

    private func planSmall(
        _ save: Save, list: [Int64], size: Int64, _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> SealPlan.Step {
        if save.size == 0 {
            return SealPlan.Step(save: save, chunks: [], list: [], size: 0, digest: .ofNothing)
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
        let new = NewContent(digest: Digest(of: content), size: content.count, bytes: content)
        let chunk = try newChunk(kept ?? save.nextID(), new, isStored: kept != nil, keeps: true, replacing: list, at: 0, &fresh)
        return SealPlan.Step(save: save, chunks: [(0, chunk)], list: [chunk.number], size: save.size, digest: chunk.digest)
    }

    /// A draft's bytes: from memory, or from its row.
    func bytes(of extent: Extent) throws(SQLiteError) -> [UInt8] {
        if let bytes = extent.bytes { return bytes }
        return try draft(extent.id)
    }

    private func draft(_ number: Int64) throws(SQLiteError) -> [UInt8] {
        statements.extentBytes.bind(number, at: 1)
        defer { statements.extentBytes.reset() }
        guard try statements.extentBytes.step() else { throw SQLiteError(code: 11, message: "draft \(number) is missing") }
        return statements.extentBytes.bytes(0)
    }

    func lay(_ segments: [ExtentMap.Segment], over bytes: inout [UInt8], from start: Int64) throws(SQLiteError) {
        try bytes.lay(segments, from: start) { (extent) throws(SQLiteError) in try self.bytes(of: extent) }
    }

    private func apply(_ extent: Extent, to content: inout [UInt8]) throws(SQLiteError) {
        switch extent.kind {
        case .truncation:
            if content.count > extent.offset { content.removeSubrange(Int(extent.offset)...) }
        case .hole:
            let end = min(Int(extent.offset + extent.length), content.count)
            if extent.offset < end { content.zero(Int(extent.offset)..<end) }
        case .bytes:
            let start = Int(extent.offset)
            if content.count < start { content.append(contentsOf: repeatElement(0, count: start - content.count)) }
            let bytes = try self.bytes(of: extent)
            content.replaceSubrange(start..<min(start + bytes.count, content.count), with: bytes)
        }
    }

    /// A file of several chunks: only those that the save touched are read, hashed and stored.
    private func planLarge(
        _ save: Save, list: [Int64], size: Int64, _ fresh: inout FreshChunks
    ) throws(SQLiteError) -> SealPlan.Step {
        let keeps = save.bytesToSeal <= Self.bytesPerSeal
        if !keeps || save.extents.count > Self.extentsPerSeal { willBlock() }
        let drafts = Drafts(sealedSize: size)
        for extent in save.extents { drafts.apply(extent) }
        let block = Content.chunkSize
        let count = Int((save.size + block - 1) / block)
        var result = Array(list.prefix(count))
        result.append(contentsOf: repeatElement(0, count: count - result.count))
        var chunks: [(place: Int, chunk: NewChunk)] = []
        for place in drafts.touchedPlaces(size: save.size, sealedSize: size) {
            let start = Int64(place) * block
            let end = min(start + block, save.size)
            let old = place < list.count ? list[place] : 0
            let segments: [ExtentMap.Segment]
            switch drafts.source(of: place, size: save.size, sealedSize: size, hadChunk: old != 0) {
            case .before:
                continue
            case .hole:
                result[place] = 0
                continue
            case .draft(let extent):
                // Its hash is known where the save was made ready for this.
                let bytes = keeps || save.digests[extent.id] == nil ? try self.bytes(of: extent) : nil
                let new = NewContent(digest: save.digests[extent.id] ?? Digest(of: bytes!), size: Int(extent.length), bytes: bytes)
                if old != 0, try holds(old, new, fresh) { continue }
                chunks.append((place, try newChunk(extent.id, new, isStored: true, keeps: keeps, replacing: list, at: place, &fresh)))
                result[place] = extent.id
                continue
            case .parts(let parts): segments = parts
            }
            var bytes = [UInt8](repeating: 0, count: Int(end - start))
            if old != 0, drafts.sealedLimit > start {
                let sealed = try content(of: old, fresh)
                let shown = Int(min(Int64(sealed.count), drafts.sealedLimit - start, end - start))
                bytes.overwrite(at: 0, with: sealed[0..<shown])
            }
            try lay(segments, over: &bytes, from: start)
            // The last chunk of a file that grew without a byte there stayed as short as it was: what it lacks is zeros.
            if old != 0, save.size > block, try content(of: old, fresh).isExtendedByZeros(to: bytes) { continue }
            if bytes.allSatisfy({ $0 == 0 }) {
                result[place] = 0
                continue
            }
            let new = NewContent(digest: Digest(of: bytes), size: bytes.count, bytes: bytes)
            if old != 0, try holds(old, new, fresh) { continue }
            let number = save.nextID()
            chunks.append((place, try newChunk(number, new, isStored: false, keeps: keeps, replacing: list, at: place, &fresh)))
            result[place] = number
        }
        // Whatever the API could have written is hashed when it is sealed; what is larger when someone asks.
        var digest: Digest?
        if save.size <= Self.hashedAtSeal {
            digest = try unsafe Digest { (take) throws(SQLiteError) in
                for (place, chunk) in result.enumerated() {
                    let length = Int(min(block, save.size - Int64(place) * block))
                    var bytes = chunk == 0 ? [] : try content(of: chunk, fresh)
                    if bytes.count < length { bytes.append(contentsOf: repeatElement(0, count: length - bytes.count)) }
                    unsafe bytes.withUnsafeBytes { unsafe take(UnsafeRawBufferPointer(rebasing: $0[0..<length])) }
                }
            }
        }
        return SealPlan.Step(save: save, chunks: chunks, list: result, size: save.size, digest: digest)
    }

    /// Several saves of one file at once: older chunks are written as deltas of newer ones from the start.
    private func encodeWithin(_ plan: inout SealPlan, _ fresh: FreshChunks) {
        guard plan.inode.isMemory else { return }
        struct Part: Hashable {
            let place: Int
            let sequence: Int64
        }
        var numbers: [Part: Int64] = [:]
        // A save that came to nothing stores no chunk that another could be a delta of.
        for step in plan.steps where !step.isUnchanged {
            for (place, chunk) in step.chunks { numbers[Part(place: place, sequence: chunk.sequence)] = chunk.number }
        }
        for step in plan.steps.indices {
            for index in plan.steps[step].chunks.indices {
                let (place, chunk) = plan.steps[step].chunks[index]
                guard let bytes = chunk.bytes, let sequence = DeltaChain.base(of: chunk.sequence),
                    let base = numbers[Part(place: place, sequence: sequence)],
                    base != chunk.number, let newer = fresh[base]
                else { continue }
                let program = Delta.encode(bytes, against: newer.bytes)
                if program.count * 4 < bytes.count * 3 { plan.steps[step].chunks[index].chunk.delta = (base, program) }
            }
        }
    }
}

extension [UInt8] {
    /// Whether `other` is this and zeros behind it, one at least.
    fileprivate func isExtendedByZeros(to other: [UInt8]) -> Bool {
        count < other.count && other[count...].allSatisfy { $0 == 0 } && other[..<count] == self[...]
    }
}
