import Glibc
import SQLite
import Threads

/// A store that is open is repaired in place: what works in its mounts waits meanwhile.
extension MemoryStore {
    /// Looks through the store's file while everyone goes on. Takes as long as reading all of it.
    func check() throws(RemfsError) -> Diagnosis { try StoreExamination.check(id, name: nil, path: path) }

    /// Repairs what a check has found and takes the tree out of the file again, as after a crash. Saves that were open are sealed.
    ///
    /// The store's lock is held for as long as it takes to copy the file and to read it once, without its content.
    func repair() throws(RemfsError) -> Diagnosis {
        var diagnosis = try check()
        guard diagnosis.isRepairable else { return diagnosis }
        let needsHashes = diagnosis.findings.contains { $0.kind == .chainLong || $0.kind == .countWrong }
        let kept = Diagnosis.placeToKeep(path)
        var repaired = Diagnosis(store: id, name: nil, file: path)
        // The locks in their order. The file is not cleaned meanwhile, and a save that is being made ready speaks of the tree as it was.
        let newest = try scrubbing.withLock { _ throws(RemfsError) in
            try preparing.withLock { _ throws(RemfsError) in
                try state.withLock { (state) throws(RemfsError) -> Int64 in
                    if state.isDeleted { throw RemfsError(.gone, "\(state.label) was deleted") }
                    try StoreExamination.keep(state.writer, at: kept, label: state.label)
                    // A directory's times are in memory only; they are no reason to give up.
                    try? state.writeDirectoryTimes()
                    try StoreExamination.repair(state.writer, id, path: path, hashes: needsHashes, into: &repaired)
                    state = try state.takenOutAgain()
                    return state.lastVersion
                }
            }
        }
        announce(newest)
        environment.schedule(id, true)
        repaired.kept = kept
        diagnosis = repaired.followed(by: try check())
        return diagnosis
    }
}

extension StoreState {
    /// The tree as the file has it, as after a crash, in this one's place: saves that were open are sealed. The mounts are told.
    func takenOutAgain() throws(RemfsError) -> StoreState {
        let fresh = try StoreState(id: id, label: label, policy: policy, isArchived: isArchived, writer: writer)
        fresh.willBlock = willBlock
        fresh.clockOffset = clockOffset
        // Whether a mount has an unlinked file open is asked by upkeep.
        try fresh.load(keepingOrphans: true)
        fresh.takePlace(of: self)
        return fresh
    }

    /// Takes over what belongs to this process, and tells the mounts of what is not as it was.
    fileprivate func takePlace(of old: StoreState) {
        origins = old.origins
        seen = old.seen
        ledger = old.ledger
        lastActivity = old.lastActivity
        hasExtendedAttributes = hasExtendedAttributes || old.hasExtendedAttributes
        for (number, before) in old.inodes {
            guard let now = inodes[number] else {
                for name in before.allNames { invalidate(.removal(name.name, in: name.parent, of: number)) }
                invalidate(.attributes(number))
                continue
            }
            let names = now.allNames
            for name in before.allNames where !names.contains(name) { invalidate(.name(name.name, in: name.parent)) }
            for name in names where !before.allNames.contains(name) { invalidate(.name(name.name, in: name.parent)) }
            if before.attributes != now.attributes { invalidate(.attributes(number)) }
            if before.content != now.content || before.drafts != nil { invalidate(.bytes(number, offset: 0, length: 0)) }
        }
        for (number, now) in inodes where old.inodes[number] == nil {
            for name in now.allNames { invalidate(.name(name.name, in: name.parent)) }
        }
        postInvalidations(except: 0)
    }
}

extension Inode {
    fileprivate var allNames: [Name] { parent == 0 ? [] : [Name(parent: parent, name: name, cookie: cookie)] + otherNames }
}
