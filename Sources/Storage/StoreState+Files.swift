import Glibc
import SQLite

/// Which fields a change of attributes sets; nil stays.
package struct AttributeChange: Sendable {
    package var mode: UInt32?
    package var uid: UInt32?
    package var gid: UInt32?
    package var sizeInBytes: Int64?
    package enum Time: Sendable, Equatable {
        case now
        case at(Int64)
    }
    package var accessed: Time?
    package var modified: Time?

    package init() {}
}

/// Whether a change is judged as a write over something that its author may not have seen.
package enum Seen: Sendable {
    /// In-place writes and appends are never stale.
    case irrelevant
    /// A replacement: the newest version that the author saw by another way than this store's reads and writes; nil: none.
    case version(Int64?)
}

/// Bytes and attributes: what `write`, `truncate`, `fallocate` and `chmod` do.
extension StoreState {
    // MARK: Attributes

    func setAttributes(_ change: AttributeChange, of number: InodeNumber, seen: Seen, by caller: Caller) throws(RemfsError) -> Inode {
        try requireWritable(by: caller)
        let inode = try inode(number)
        let time = now()
        var change = change
        var truncates = false
        if let size = change.sizeInBytes {
            guard inode.isRegular else {
                throw RemfsError(inode.isDirectory ? .isADirectory : .invalidArgument, "\(path(of: inode)) is no regular file")
            }
            truncates = size != inode.size
            if truncates {
                // What else is to change is another transaction, and the one that answers: a truncation may be done twice.
                let request = change.onlyTruncates ? caller : nil
                try truncate(inode, to: size, seen: seen, by: caller, answering: request)
            } else if change.modified == nil {
                // The same size: only the times change.
                change.modified = .now
            }
        }
        let accessed = change.accessed.map { $0 == .now ? time : $0.nanoseconds }
        // A truncation's own row carries the time.
        let modified = change.modified.map { $0 == .now ? time : $0.nanoseconds }
        if truncates, change.onlyTruncates { return inode }
        let old = (inode.mode, inode.uid, inode.gid, inode.accessed, inode.modified)
        if let mode = change.mode { inode.mode = inode.kind | (mode & 0o7777) }
        if let uid = change.uid { inode.uid = uid }
        if let gid = change.gid { inode.gid = gid }
        if let accessed { inode.accessed = accessed }
        if let modified { inode.modified = modified }
        do {
            try commit(answering: caller) { () throws(SQLiteError) in try updateAttributes(of: inode, changed: time) }
        } catch {
            (inode.mode, inode.uid, inode.gid, inode.accessed, inode.modified) = old
            throw error
        }
        inode.changed = time
        invalidate(.attributes(number))
        return inode
    }

    private func truncate(
        _ inode: Inode, to size: Int64, seen: Seen, by caller: Caller, answering request: Caller?
    ) throws(RemfsError) {
        guard size >= 0 else { throw RemfsError(.invalidArgument, "a size cannot be negative") }
        // Opened by a name that another mount has given away, before the news of it came: the kernel looks the name up again and repeats
        // the open. A second, a thousand times what the news takes, is soon over for who has an unlinked file open; a machine
        // that is busy may take longer over the news.
        if size == 0, let removal = inode.removal, removal.origin != caller.origin.number,
            Self.monotonic() - removal.time < 1_000_000_000 || caller.origin.isBehind()
        {
            throw RemfsError(.gone, "\(path(of: inode)) was removed by another session")
        }
        try checkSize(size, of: inode)
        let save = try openSave(of: inode, seen: seen, by: caller)
        unsafe try add([(.truncation, size, 0, nil)], to: save, of: inode, answering: request)
        invalidate(.bytes(inode.number, offset: min(size, inode.size), length: 0))
        setSize(size, of: inode)
    }

    private func setSize(_ size: Int64, of inode: Inode) {
        if inode.links > 0 { usedBytes += size - inode.size }
        inode.size = size
    }

    // MARK: Writing

    /// Writes at `offset`, or at the end where `append`; answers where the bytes went.
    func write(
        _ bytes: UnsafeRawBufferPointer, to number: InodeNumber, at offset: Int64, append: Bool, seen: Seen, by caller: Caller
    ) throws(RemfsError) -> Int64 {
        try requireWritable(by: caller)
        let inode = try inode(number)
        guard inode.isRegular else { throw RemfsError(.invalidArgument, "\(path(of: inode)) is no regular file") }
        let start = append ? inode.size : offset
        guard start >= 0, bytes.count > 0 else { return start }
        let end = start + Int64(bytes.count)
        try checkSize(end, of: inode, adding: Int64(bytes.count))
        if policy.secrets == .refuse, inode.isMemory { unsafe try requireNoNewSecret(bytes, at: start, in: inode) }
        let save = try openSave(of: inode, seen: seen, by: caller)
        // Long writes are cut where chunks will be, so that sealing keeps the rows as they are.
        let block = Content.chunkSize
        var pieces: [(Extent.Kind, Int64, Int64, UnsafeRawBufferPointer?)] = unsafe []
        var place = start
        while place < end {
            let next = bytes.count <= Int(block) ? end : min(end, (place / block + 1) * block)
            unsafe pieces.append(
                (.bytes, place, next - place, unsafe UnsafeRawBufferPointer(rebasing: bytes[Int(place - start)..<Int(next - start)])))
            place = next
        }
        unsafe try add(pieces, to: save, of: inode, answering: caller, Int64(bytes.count))
        if end > inode.size { setSize(end, of: inode) }
        invalidate(.bytes(number, offset: start, length: Int64(bytes.count)))
        return start
    }

    /// The save that a change of bytes belongs to: the one that is open, or a new one.
    private func openSave(of inode: Inode, seen: Seen, by caller: Caller) throws(RemfsError) -> Save {
        if let save = inode.drafts?.saves.last, !save.isClosed {
            if save.origin == caller.origin.number {
                // Whoever closed the file before this write ended the save, whether we have taken note or not.
                // The process that has just made or emptied it is in the middle of one save.
                if !save.isTruncationOnly || save.author.writer.pid != caller.pid { try takeInCloses(of: caller.origin) }
            } else {
                closeSave(of: inode)
            }
            if !save.isClosed, save.count < Save.maximumExtents { return save }
            if !save.isClosed { closeSave(of: inode) }
        }
        // The close of a save that is over is not to end the next one.
        if inode.endedEarly.contains(caller.origin.number) { try takeInCloses(of: caller.origin) }
        // Who saves faster than seals keep up waits for them.
        if let waiting = inode.drafts?.saves.count, waiting > Self.mostWaitingOfFile { try seal([inode]) }
        // What others have closed is the head that this one may not have seen.
        if case .version = seen, inode.isMemory { try sealBeforeNameGoes(inode, includingOpen: false) }
        let base = try staleBase(inode, seen, by: caller)
        try reserveNumbers(2)
        // Only now: a seal notes from which number on saves are open, and would pass over one that it does not know of yet.
        // Through the page cache the kernel names nobody.
        let save = Save(
            group: takeNumber(), author: caller.author(), origin: caller.origin.number, at: Self.monotonic(), size: inode.size,
            modified: inode.modified)
        if let base {
            save.base = base
            save.isStale = true
        }
        return save
    }

    /// Bytes of a save kept in memory until they are sealed, so that sealing reads nothing: what a save of a memory usually is.
    private static let residentLimit = 256 << 10

    /// Bytes that fit on one page with their row: what stands behind them is read without reading them.
    private static let longestWithNote = 3_800

    private func add(
        _ pieces: [(Extent.Kind, Int64, Int64, UnsafeRawBufferPointer?)], to save: Save, of inode: Inode, answering caller: Caller?,
        _ answer: Int64 = 0
    ) throws(RemfsError) {
        let isNew = inode.drafts?.saves.last !== save
        let time = now()
        let first = save.count
        // The author stands with the first draft; that of a new file stands in its inode.
        let author = isNew ? save.author.row : nil
        let numbers = unsafe pieces.map { _ in save.nextID() }
        let hasRoom = unsafe pieces.count == 1 && (pieces[0].3?.count ?? 0) <= Self.longestWithNote
        do {
            try commit(answering: caller, answer, inRowOf: hasRoom ? inode.number : nil, isDraft: true) { (request) throws(SQLiteError) in
                let row = statements.insertExtent
                for place in unsafe pieces.indices {
                    let piece = unsafe pieces[place]
                    row.bind(numbers[place], at: 1)
                    row.bind(inode.number, at: 2)
                    unsafe row.bind(piece.0 == .bytes ? 0 : piece.0 == .hole ? 1 : 2 as Int64, at: 3)
                    unsafe row.bind(piece.1, at: 4)
                    unsafe row.bind(piece.2, at: 5)
                    row.bind(time, at: 6)
                    row.bind(place == 0 ? author : nil, at: 7)
                    if let bytes = unsafe piece.3 { unsafe row.bind(borrowing: bytes, at: 8) } else { row.bind(nil as Int64?, at: 8) }
                    bind(request, to: row, at: 9)
                    try row.run()
                }
            }
        } catch {
            save.count = first
            throw error
        }
        if isNew {
            if inode.drafts == nil { inode.drafts = Drafts(sealedSize: inode.sealedSize) }
            inode.drafts!.saves.append(save)
            openGroups.insert(save.group)
            openSaves.insert(inode.number)
            noteSeen(inode, in: save.origin)
        }
        for place in unsafe pieces.indices {
            let piece = unsafe pieces[place]
            let keepsBytes = unsafe save.residentBytes + (piece.3?.count ?? 0) <= Self.residentLimit
            if keepsBytes { unsafe save.residentBytes += piece.3?.count ?? 0 }
            let extent = unsafe Extent(
                id: numbers[place], kind: piece.0, offset: piece.1, length: piece.2,
                bytes: keepsBytes ? piece.3.map { unsafe Array($0) } : nil)
            save.add(extent)
            inode.drafts!.apply(extent)
        }
        save.lastChange = Self.monotonic()
        inode.modified = time
        inode.changed = time
    }

    // MARK: Space

    /// fallocate(2): makes room (sparse), or makes holes.
    func allocate(
        _ number: InodeNumber, offset: Int64, length: Int64, keepsSize: Bool, makesHole: Bool, by caller: Caller
    ) throws(RemfsError) {
        try requireWritable(by: caller)
        let inode = try inode(number)
        guard inode.isRegular else { throw RemfsError(.invalidArgument, "\(path(of: inode)) is no regular file") }
        guard offset >= 0, length > 0, offset <= Int64.max - length else {
            throw RemfsError(.invalidArgument, "a range cannot be empty or negative")
        }
        let end = offset + length
        if !keepsSize { try checkSize(end, of: inode) }
        if makesHole {
            let holeEnd = keepsSize ? min(end, inode.size) : end
            if holeEnd > offset {
                let save = try openSave(of: inode, seen: .irrelevant, by: caller)
                let isAll = keepsSize || end <= inode.size
                unsafe try add([(.hole, offset, holeEnd - offset, nil)], to: save, of: inode, answering: isAll ? caller : nil)
            }
        }
        if !keepsSize, end > inode.size {
            let save = try openSave(of: inode, seen: .irrelevant, by: caller)
            unsafe try add([(.truncation, end, 0, nil)], to: save, of: inode, answering: caller)
            setSize(end, of: inode)
        }
        invalidate(.bytes(number, offset: offset, length: length))
    }
}

extension AttributeChange {
    /// Nothing of it but a size, and the times that go with it.
    fileprivate var onlyTruncates: Bool {
        mode == nil && uid == nil && gid == nil && accessed == nil && (modified == nil || modified == .now)
    }
}

extension AttributeChange.Time {
    fileprivate var nanoseconds: Int64 { if case .at(let time) = self { time } else { 0 } }
}
