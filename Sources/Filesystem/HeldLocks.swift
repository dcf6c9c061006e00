import Fuse

/// The locks that are held on one file, of all owners. Finding those at a place takes a binary search and a walk over its neighbours.
struct HeldLocks {
    struct Held {
        let owner: LockOwner
        /// Never `unlock`.
        let kind: FuseLock.Kind
        let span: ClosedRange<Int64>
        let pid: Int32
        /// The greatest end of this lock and all before it, so that a search knows where to begin.
        var reach: Int64 = 0

        var lock: FuseLock { FuseLock(kind: kind, start: span.lowerBound, end: span.upperBound, pid: pid) }

        /// Where they overlap.
        func blocks(_ other: FuseLock.Kind, by another: LockOwner) -> Bool {
            owner != another && (kind == .write || other == .write)
        }
    }

    /// By start. Invariant: an owner's locks do not overlap, those of one kind do not touch, and a write lock overlaps no other owner's.
    private var locks: [Held] = []

    var count: Int { locks.count }

    /// The first lock by start, of those that overlap `span`, for which `body` holds.
    func first(in span: ClosedRange<Int64>, where body: (Held) -> Bool) -> Held? {
        var index = locks.partitionPoint { $0.reach >= span.lowerBound }
        while index < locks.count, locks[index].span.lowerBound <= span.upperBound {
            if locks[index].span.upperBound >= span.lowerBound, body(locks[index]) { return locks[index] }
            index += 1
        }
        return nil
    }

    func forEach(in span: ClosedRange<Int64>, _ body: (Held) -> Void) {
        _ = first(in: span) { lock in
            body(lock)
            return false
        }
    }

    /// Whether others' locks keep `owner` from having `kind` there.
    func block(_ kind: FuseLock.Kind, _ span: ClosedRange<Int64>, by owner: LockOwner) -> Bool {
        first(in: span) { $0.blocks(kind, by: owner) } != nil
    }

    /// Makes `owner` hold `kind` in `span`, whatever it held there. Others' locks are not looked at.
    ///
    /// - Returns: how many locks more there are, and whether others may find room that they had not.
    mutating func set(_ kind: FuseLock.Kind, _ span: ClosedRange<Int64>, by owner: LockOwner, pid: Int32) -> (added: Int, frees: Bool) {
        var whole = span
        var replaced = RangeSet<Int>()
        var pieces: [Held] = []
        var frees = false
        // One byte more on each side: neighbours of the same kind are joined.
        let vicinity = max(span.lowerBound, 1) - 1...min(span.upperBound, .max - 1) + 1
        var index = locks.partitionPoint { $0.reach >= vicinity.lowerBound }
        while index < locks.count, locks[index].span.lowerBound <= vicinity.upperBound {
            let old = locks[index]
            if old.owner == owner, old.kind == kind, old.span.overlaps(vicinity) {
                whole = min(whole.lowerBound, old.span.lowerBound)...max(whole.upperBound, old.span.upperBound)
                replaced.insert(index, within: locks)
            } else if old.owner == owner, old.span.overlaps(span) {
                if old.span.lowerBound < span.lowerBound { pieces.append(old.part(old.span.lowerBound...span.lowerBound - 1)) }
                if old.span.upperBound > span.upperBound { pieces.append(old.part(span.upperBound + 1...old.span.upperBound)) }
                replaced.insert(index, within: locks)
                frees = frees || kind != .write
            }
            index += 1
        }
        if kind != .unlock { pieces.append(Held(owner: owner, kind: kind, span: whole, pid: pid)) }
        let before = locks.count
        remove(replaced)
        for piece in pieces { insert(piece) }
        return (locks.count - before, frees)
    }

    private mutating func remove(_ indices: RangeSet<Int>) {
        guard let first = indices.ranges.first?.lowerBound, let last = indices.ranges.last?.upperBound else { return }
        locks.removeSubranges(indices)
        restoreReach(from: first, through: last)
    }

    private mutating func insert(_ lock: Held) {
        let index = locks.partitionPoint { $0.span.lowerBound > lock.span.lowerBound }
        locks.insert(lock, at: index)
        restoreReach(from: index, through: index)
    }

    /// Computes `reach` anew from `first` on, and after `last` for as long as it differs from what is there.
    private mutating func restoreReach(from first: Int, through last: Int) {
        var reach = first == 0 ? 0 : locks[first - 1].reach
        for index in first..<max(first, locks.count) {
            reach = max(reach, locks[index].span.upperBound)
            if index > last, locks[index].reach == reach { return }
            locks[index].reach = reach
        }
    }
}

extension HeldLocks.Held {
    fileprivate func part(_ span: ClosedRange<Int64>) -> Self { Self(owner: owner, kind: kind, span: span, pid: pid) }
}

extension Array {
    /// The first index for which `isAfter` holds, in an array where it holds for all that follow too.
    func partitionPoint(_ isAfter: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
