/// Finds out which of several memories can come back to their paths together, before any of them does.
///
/// Whoever cannot stays where it is, and then it may be in the way of another one. What the session changed last comes first: where two
/// memories had the same path one after the other, the later one gets it.
struct RevertPlaces {
    private let state: StoreState
    private let differences: [MemoryDifference]
    /// Names that are given up, of inodes that move or go.
    private var leaving: Set<StoreState.Place> = []
    /// Who comes to which path.
    private var claims: [[UInt8]: Int] = [:]
    /// How many come to paths below a directory.
    private var claimsBelow: [[UInt8]: Int] = [:]
    /// By their place in `differences`: those that stay.
    private(set) var conflicts: [Int: RevertOutcome.Conflict] = [:]

    /// - Parameter differences: from what is to what shall be, the session's last changes first.
    init(_ differences: [MemoryDifference], in state: StoreState) {
        self.state = state
        self.differences = differences
        for difference in differences where difference.new == nil || difference.change == .renamed {
            if let place = place(of: difference) { leaving.insert(place) }
        }
        for (index, difference) in differences.enumerated() {
            guard let new = difference.new, difference.old == nil || difference.change == .renamed, conflicts[index] == nil else {
                continue
            }
            let path = Array(new.path.utf8)
            if let conflict = occupant(of: path) {
                leave(index, conflict)
            } else {
                claims[path] = index
                for directory in Self.directories(of: path) { claimsBelow[directory, default: 0] += 1 }
            }
        }
    }

    /// The name under which a memory is now.
    private func place(of difference: MemoryDifference) -> StoreState.Place? {
        guard let old = difference.old, let number = state.memoryInodes[old.memoryNumber], let inode = state.inodes[number] else {
            return nil
        }
        return StoreState.Place(parent: inode.parent, name: inode.name)
    }

    /// The directories above a path, as paths without a trailing `/`, without the root.
    private static func directories(of path: [UInt8]) -> [[UInt8]] {
        path.indices.dropFirst().filter { path[$0] == UInt8(ascii: "/") }.map { Array(path[..<$0]) }
    }

    // MARK: Who is in the way

    private func occupant(of path: [UInt8]) -> RevertOutcome.Conflict? {
        if let inode = fileInTheWay(of: path) {
            return RevertOutcome.Conflict(
                memory: inode.head.map { MemoryID(store: state.id, number: $0.memory) }, path: state.path(of: inode))
        }
        return claimsTouching(path).first.flatMap { differences[$0].new }.map {
            RevertOutcome.Conflict(memory: $0.memory, path: $0.path)
        }
    }

    /// What stays in the tree at a path, above it, or below it.
    private func fileInTheWay(of path: [UInt8]) -> Inode? {
        var directory = state.root
        let segments = path.split(separator: UInt8(ascii: "/")).map { Array($0) }
        for (depth, segment) in segments.enumerated() {
            guard let found = directory.directory!.find(segment) else { return nil }
            guard found.isDirectory else {
                return leaving.contains(StoreState.Place(parent: directory.number, name: segment)) ? nil : found
            }
            directory = found
            guard depth == segments.count - 1 else { continue }
            return TreeWalk(below: found).first { step in
                !step.inode.isDirectory && !leaving.contains(StoreState.Place(parent: step.parent.number, name: step.name))
            }?.inode
        }
        return nil
    }

    /// Those who come to a path, above it, or below it.
    private func claimsTouching(_ path: [UInt8]) -> [Int] {
        var found = ([path] + Self.directories(of: path)).compactMap { claims[$0] }
        if claimsBelow[path] ?? 0 > 0 { found += claims.filter { $0.key.starts(with: path + [UInt8(ascii: "/")]) }.values }
        return found
    }

    // MARK: Staying

    /// One stays where it is, and so do those who were to come where it would have left from.
    private mutating func leave(_ index: Int, _ conflict: RevertOutcome.Conflict) {
        var staying = [(index: index, conflict: conflict)]
        while let one = staying.popLast() {
            guard conflicts[one.index] == nil else { continue }
            conflicts[one.index] = one.conflict
            if let new = differences[one.index].new { withdrawClaim(Array(new.path.utf8), of: one.index) }
            guard let old = differences[one.index].old, let place = place(of: differences[one.index]) else { continue }
            leaving.remove(place)
            for other in claimsTouching(Array(old.path.utf8)) {
                staying.append((other, RevertOutcome.Conflict(memory: old.memory, path: old.path)))
            }
        }
    }

    private mutating func withdrawClaim(_ path: [UInt8], of index: Int) {
        guard claims[path] == index else { return }
        claims[path] = nil
        for directory in Self.directories(of: path) { claimsBelow[directory, default: 0] -= 1 }
    }
}
