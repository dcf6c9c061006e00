/// What each mount has seen of each memory, and which writes are therefore stale (`design.md` 5).
extension StoreState {
    /// What a mount has seen is kept by memory, since a replaced file is another inode; a new file without a version goes by its inode.
    func seenKey(of inode: Inode) -> Int64 { inode.head?.memory ?? -inode.number }

    /// Stands for the version that tells of a file's new name, or of what it replaced, while that is not sealed.
    private static let aboutToBe: Int64 = -1

    /// A mount was given bytes of a file as it is now, or wrote them: the newest save, or else the head.
    func noteSeen(_ inode: Inode, in origin: Int) {
        // Opened before it was replaced, read afterwards: what was read is what it was.
        if let former = formerHeads[inode.number] {
            let known = seen[origin]?[former.memory]
            // A save that is not sealed is newer than any version.
            if known.map({ $0 > 0 && !openGroups.contains($0) && $0 < former.version }) ?? true {
                seen[origin, default: [:]][former.memory] = former.version
            }
            return
        }
        let head = inode.changedBy == nil ? inode.head?.version : Self.aboutToBe
        guard let newest = inode.drafts?.saves.last?.group ?? head else { return }
        seen[origin, default: [:]][seenKey(of: inode)] = newest
    }

    /// The saves that mounts saw have become versions.
    func didSeal(_ inode: Inode, _ outcome: SealOutcome, seenAs oldKey: Int64) {
        let key = seenKey(of: inode)
        // The keys are copied: a dictionary that is walked over is copied when it is changed.
        for origin in Array(seen.keys) {
            guard let newest = key == oldKey ? seen[origin]![key] : seen[origin]!.removeValue(forKey: oldKey) else { continue }
            seen[origin]![key] = newest == Self.aboutToBe ? outcome.head?.version : outcome.became[newest] ?? newest
        }
        // Who moves a file knows what it is afterwards.
        if outcome.plan.steps.isEmpty, let version = outcome.versions.last, origins[inode.movedIn] != nil {
            seen[inode.movedIn, default: [:]][key] = version.number
        }
    }

    /// The version that the author of a replacement had seen, if the head is newer and by another; nil: it is not stale.
    ///
    /// Whatever is closed is sealed before this is asked.
    func staleBase(_ inode: Inode, _ judged: Seen, by caller: Caller) throws(RemfsError) -> Int64? {
        guard case .version(let read) = judged, inode.isMemory, let head = inode.head, head.origin != caller.origin.number else {
            return nil
        }
        let known = max(read ?? 0, seen[caller.origin.number]?[head.memory] ?? 0)
        guard known < head.version else { return nil }
        if caller.origin.refusesStaleWrites {
            throw RemfsError(.stale, "\(path(of: inode)) was changed by another session since this one read it")
        }
        // Who was never given a byte believed nothing.
        return known == 0 ? nil : known
    }
}
