import DequeModule

/// The groups of saves that are not sealed, and at any time the smallest: where recovery has to start to look.
///
/// Groups come with rising numbers and go in about that order, so that the smallest is found at the front.
struct OpenGroups {
    private var groups: Set<Int64> = []
    /// Ascending; those that are gone are dropped when they come to the front.
    private var order: Deque<Int64> = []

    var count: Int { groups.count }

    func contains(_ group: Int64) -> Bool { groups.contains(group) }

    mutating func insert(_ group: Int64) {
        guard groups.insert(group).inserted else { return }
        if let last = order.last, last >= group {
            // Out of turn: only while a store is loaded, or where one comes back that is still in line.
            let place = order.firstIndex { $0 >= group }!
            if order[place] != group { order.insert(group, at: place) }
        } else {
            order.append(group)
        }
    }

    mutating func remove(_ group: Int64) {
        groups.remove(group)
        while let first = order.first, !groups.contains(first) { order.removeFirst() }
    }

    /// The smallest, once `others` are gone.
    func smallest(without others: Set<Int64>) -> Int64? { order.first { groups.contains($0) && !others.contains($0) } }
}
