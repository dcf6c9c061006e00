import SQLite
import Threads

/// A save that is large, or of many small writes: what its seal needs to know, read and hashed before it and without the store's lock.
///
/// A seal holds the lock, and hashing takes 4 ms for each megabyte. So the hashes of drafts that become chunks as they are are noted ahead,
/// and what is written all over a chunk is put together and added to the save as one more draft, which says the same as those before it.
struct SealAhead: Sendable {
    /// A draft that will be a chunk, or is to be added so that it will.
    struct Piece: Sendable {
        /// nil: to be added.
        var extent: Int64?
        let offset: Int64
        let length: Int64
        let digest: Digest
        /// Of a draft to be added; nil: all zeros.
        var bytes: [UInt8]?
    }

    let inode: InodeNumber
    let group: Int64
    let extents: [Extent]
    let size: Int64
    let content: Content
    let sealedSize: Int64
    /// Somebody wants to know of secrets in it; where there were none, of those in what changes.
    let isScanned: Bool
    let isClean: Bool

    /// Half a megabyte at a time: what is added holds the lock for about a millisecond.
    static let chunksPerStep = 8
}

/// Where the bytes of one chunk of a file come from when a save is sealed.
enum ChunkSource {
    /// Nothing of the save touches it.
    case before
    /// One draft is all of it.
    case draft(Extent)
    case hole
    case parts([ExtentMap.Segment])
}

extension Drafts {
    /// The chunks of a file that these may change, in order: where `source` may answer anything but `before`.
    func touchedPlaces(size: Int64, sealedSize: Int64) -> [Int] {
        let block = Content.chunkSize
        let count = Int((size + block - 1) / block)
        // What was cut off, or stood in a chunk of its own size, changes without a draft over it.
        guard sealedLimit == sealedSize, sealedSize > block else { return Array(0..<count) }
        var places = map.places(ofSize: block).filter { $0 < count }
        let sealedLast = Int((sealedSize - 1) / block)
        let index = places.firstIndex { $0 >= sealedLast } ?? places.count
        if sealedLast < count, index == places.count || places[index] != sealedLast { places.insert(sealedLast, at: index) }
        return places
    }

    /// - Parameters:
    ///   - size: of the file when the save ended.
    ///   - sealedSize: before the save.
    ///   - hadChunk: not a hole until then.
    func source(of place: Int, size: Int64, sealedSize: Int64, hadChunk: Bool) -> ChunkSource {
        let block = Content.chunkSize
        let start = Int64(place) * block
        let end = min(start + block, size)
        let segments = map.segments(from: start, to: end)
        let oldEnd = min(start + block, sealedSize)
        // A file of one chunk is read by its hash, so that chunk must not be shorter than the file.
        if segments.isEmpty,
            !hadChunk || sealedLimit >= min(end, oldEnd) && end >= oldEnd && (size > block || sealedSize <= block && sealedSize == size)
        {
            return .before
        }
        // All of the extent still shows: none of it was cut off by a truncation before the file grew again.
        if segments.count == 1, let only = segments.first, only.extent.offset == start, only.extent.length == end - start, only.end == end {
            return only.extent.kind == .bytes ? .draft(only.extent) : .hole
        }
        return .parts(segments)
    }
}

extension MemoryStore {
    /// Seals large saves that are closed: of one file, or of those that wait next.
    func sealLarge(of number: InodeNumber? = nil) throws(RemfsError) {
        guard state.withLock({ $0.sealAhead(number) != nil }) else { return }
        environment.willBlock()
        // Whoever comes second finds the work done.
        try preparing.withLock { _ throws(RemfsError) in
            while let work = state.withLock({ $0.sealAhead(number) }) { try sealLarge(work) }
        }
    }

    private func sealLarge(_ work: SealAhead) throws(RemfsError) {
        let drafts = Drafts(sealedSize: work.sealedSize)
        for extent in work.extents { drafts.apply(extent) }
        let chunks = work.content.chunks
        let count = Int((work.size + Content.chunkSize - 1) / Content.chunkSize)
        var scan: SecretScan? = work.isScanned ? SecretScan() : nil
        var place = 0
        while place < count {
            let first = place
            var pieces: [SealAhead.Piece] = []
            do throws(RemfsError) {
                place = try readers.snapshot { (reader) throws(SQLiteError) in
                    var place = first
                    while place < count, pieces.count < SealAhead.chunksPerStep {
                        let old = place < chunks.count ? chunks[place] : 0
                        let (piece, isChanged, bytes) = try reader.piece(place, of: work, drafts, over: old)
                        if let piece { pieces.append(piece) }
                        try scan?.pass(place, looks: isChanged || !work.isClean) { (other) throws(SQLiteError) in
                            if other == place, isChanged { return bytes }
                            return other < chunks.count ? try reader.readableBytes(of: chunks[other]) : nil
                        }
                        place += 1
                    }
                    return place
                }
            } catch {
                // It was sealed or unlinked meanwhile, or it is damaged: that is the seal's to judge.
                guard error.code == .corrupted else { throw error }
                scan = nil
                break
            }
            let isCurrent = try state.withLock { (state) throws(RemfsError) in try state.note(pieces, for: work) }
            guard isCurrent else { return }
        }
        try change { (state) throws(RemfsError) in
            guard let (inode, save) = state.save(of: work) else { return }
            save.isPrepared = true
            save.secrets = scan?.finish()
            try state.seal([inode])
        }
    }
}

extension StoreState {
    /// The closed save of a file that is sealed next, if that holds the lock for long.
    func largeSave(of inode: Inode) -> Save? {
        guard inode.links > 0, let save = inode.drafts?.saves.first, save.isClosed, !save.isPrepared else { return nil }
        let isLarge = save.bytesToSeal > Self.bytesPerSeal || save.extents.count > Self.extentsPerSeal
        return isLarge || save.size > Self.bytesPerSeal && isScanned(save, of: inode) && !isClean(inode) ? save : nil
    }

    private func isScanned(_ save: Save, of inode: Inode) -> Bool { policy.secrets != .allow && inode.isMemory && !save.isSuperseded }

    private func isClean(_ inode: Inode) -> Bool { inode.secrets?.isEmpty == true }

    /// What is to be made ready: of one file, or of the first that waits.
    fileprivate func sealAhead(_ number: InodeNumber?) -> SealAhead? {
        // What does not wait at the front now does when this one is sealed.
        let waiting = number.map { [$0] } ?? Array(sealQueue.prefix(Self.savesPerSeal))
        for number in waiting {
            guard let inode = inodes[number], let save = largeSave(of: inode) else { continue }
            return SealAhead(
                inode: number, group: save.group, extents: save.extents, size: save.size, content: inode.content,
                sealedSize: inode.sealedSize, isScanned: isScanned(save, of: inode), isClean: isClean(inode))
        }
        return nil
    }

    /// The save, if it is still what it was and not sealed.
    fileprivate func save(of work: SealAhead) -> (inode: Inode, save: Save)? {
        guard let inode = inodes[work.inode], let save = largeSave(of: inode), save.group == work.group, save.size == work.size,
            inode.sealedSize == work.sealedSize, inode.content == work.content
        else { return nil }
        return (inode, save)
    }

    /// Keeps what was found out; false: the save is not what it was.
    fileprivate func note(_ pieces: [SealAhead.Piece], for work: SealAhead) throws(RemfsError) -> Bool {
        guard let (inode, save) = save(of: work) else { return false }
        for piece in pieces { if let extent = piece.extent { save.digests[extent] = piece.digest } }
        let added = pieces.filter { $0.extent == nil }
        guard !added.isEmpty else { return true }
        let count = save.count
        let numbers = added.map { _ in save.nextID() }
        do throws(RemfsError) {
            try commit { () throws(SQLiteError) in
                for (number, piece) in zip(numbers, added) {
                    let row = statements.insertExtent
                    row.bind(number, at: 1)
                    row.bind(inode.number, at: 2)
                    row.bind(piece.bytes == nil ? 1 : 0 as Int64, at: 3)
                    row.bind(piece.offset, at: 4)
                    row.bind(piece.length, at: 5)
                    row.bind(save.modified, at: 6)
                    row.bind(nil as String?, at: 7)
                    if let bytes = piece.bytes {
                        try row.run(binding: bytes, at: 8)
                    } else {
                        row.bind(nil as Int64?, at: 8)
                        try row.run()
                    }
                }
            }
        } catch {
            save.count = count
            throw error
        }
        for (number, piece) in zip(numbers, added) {
            let kind: Extent.Kind = piece.bytes == nil ? .hole : .bytes
            // Readers go on with the drafts that it is made of: later saves may lie over them.
            save.add(Extent(id: number, kind: kind, offset: piece.offset, length: piece.length, bytes: nil))
            save.digests[number] = piece.digest
        }
        return true
    }
}

extension Reader {
    /// What is to be noted of one chunk; no piece: nothing, its seal reads nothing either. And whether the save touches it, and then its bytes, nil
    /// for a hole.
    fileprivate func piece(
        _ place: Int, of work: SealAhead, _ drafts: Drafts, over old: Int64
    ) throws(SQLiteError) -> (SealAhead.Piece?, isChanged: Bool, bytes: [UInt8]?) {
        let start = Int64(place) * Content.chunkSize
        let length = min(Content.chunkSize, work.size - start)
        switch drafts.source(of: place, size: work.size, sealedSize: work.sealedSize, hadChunk: old != 0) {
        case .before: return (nil, false, nil)
        case .hole: return (nil, true, nil)
        case .draft(let extent):
            let content = try bytes(of: extent)
            return (SealAhead.Piece(extent: extent.id, offset: start, length: length, digest: Digest(of: content)), true, content)
        case .parts(let segments):
            var content = [UInt8](repeating: 0, count: Int(length))
            if old != 0, drafts.sealedLimit > start {
                let sealed = try bytes(of: old)
                content.overwrite(at: 0, with: sealed[0..<min(sealed.count, Int(min(drafts.sealedLimit - start, length)))])
            }
            try content.lay(segments, from: start) { (extent) throws(SQLiteError) in try bytes(of: extent) }
            let isHole = content.allSatisfy { $0 == 0 }
            let piece = SealAhead.Piece(offset: start, length: length, digest: Digest(of: content), bytes: isHole ? nil : content)
            return (piece, true, piece.bytes)
        }
    }

    /// As the writer's own (`StoreState.readableBytes`).
    fileprivate func readableBytes(of chunk: Int64) throws(SQLiteError) -> [UInt8]? {
        guard chunk != 0 else { return nil }
        do throws(SQLiteError) {
            return try bytes(of: chunk)
        } catch {
            guard error.kind == .corrupted else { throw error }
            return nil
        }
    }

    private func bytes(of extent: Extent) throws(SQLiteError) -> [UInt8] {
        if let bytes = extent.bytes { return bytes }
        guard let bytes = try draft(extent.id) else { throw SQLiteError(code: 11, message: "draft \(extent.id) is missing") }
        return bytes
    }
}

extension [UInt8] {
    /// Puts drafts over the bytes of a file from `start` on, as far as these go.
    mutating func lay(
        _ segments: [ExtentMap.Segment], from start: Int64, _ bytes: (Extent) throws(SQLiteError) -> [UInt8]
    ) throws(SQLiteError) {
        for segment in segments {
            let from = Swift.max(segment.offset, start)
            let to = Swift.min(segment.end, start + Int64(count))
            let target = Int(from - start)..<Int(to - start)
            if segment.extent.kind == .hole {
                zero(target)
            } else {
                let first = Int(from - segment.extent.offset)
                overwrite(at: target.lowerBound, with: try bytes(segment.extent)[first..<(first + target.count)])
            }
        }
    }
}
