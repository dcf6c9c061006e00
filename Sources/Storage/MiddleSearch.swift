/// Searches for the middle of a shortest edit, from both ends at once.
///
/// A path goes through the grid of old lines by new lines; it steps along one axis for an edit, and along a diagonal, for nothing, where the
/// lines are equal. After each round, a frontier knows how far along the old lines one can come on each diagonal (old place minus new place)
/// with that many edits. Where the frontiers meet, a shortest path passes.
struct MiddleSearch {
    /// The part of the two texts in question.
    struct Box {
        var old: Range<Int>
        var new: Range<Int>
    }

    /// How far one direction has come, for the diagonals around the one it started on.
    private struct Frontier {
        private var reached: [Int]
        /// The diagonal of the first element.
        private let first: Int
        private let beyond: Int
        /// The diagonals of this round are every second one of these.
        private(set) var diagonals: ClosedRange<Int>

        /// - Parameter beyond: what no step comes from: worse than any place of the box.
        init(start: Int, at place: Int, beyond: Int, reusing storage: inout [Int]) {
            first = start - storage.count / 2
            self.beyond = beyond
            diagonals = start...start
            reached = []
            swap(&reached, &storage)
            self[start] = place
        }

        /// Invariant: `diagonal` is at most one further from the start than there were rounds.
        subscript(diagonal: Int) -> Int {
            get { reached[diagonal - first] }
            set { reached[diagonal - first] = newValue }
        }

        /// Widens to the neighbouring diagonals; at the edge of the box it turns inwards instead.
        mutating func widen(within limits: ClosedRange<Int>) {
            var (low, high) = (diagonals.lowerBound, diagonals.upperBound)
            if low > limits.lowerBound {
                low -= 1
                self[low - 1] = beyond
            } else {
                low += 1
            }
            if high < limits.upperBound {
                high += 1
                self[high + 1] = beyond
            } else {
                high -= 1
            }
            diagonals = low...high
        }

        mutating func giveBack(_ storage: inout [Int]) { swap(&reached, &storage) }
    }

    private let old: [Int32]
    private let new: [Int32]
    /// The rounds before an exact search is given up, each of which tries one more diagonal than the last.
    ///
    /// A search given up has come this many lines at least, so it bounds the work to about as many steps for each line, whatever the files
    /// hold. 256 is git's figure up to 65,536 lines; beyond, it falls so that two files of 5 MB take a second or two at the very worst.
    private let patience: Int
    private var forwardStorage: [Int]
    private var backwardStorage: [Int]

    init(old: [Int32], new: [Int32]) {
        self.old = old
        self.new = new
        patience = min(max((256 * 65_536) / max(old.count + new.count, 1), 16), 256)
        forwardStorage = [Int](repeating: 0, count: 2 * patience + 3)
        backwardStorage = forwardStorage
    }

    /// Takes the lines off a box that its two parts begin or end with alike.
    func trim(_ box: inout Box) {
        var (oldLow, newLow) = (box.old.lowerBound, box.new.lowerBound)
        var (oldHigh, newHigh) = (box.old.upperBound, box.new.upperBound)
        while oldLow < oldHigh, newLow < newHigh, old[oldLow] == new[newLow] {
            oldLow += 1
            newLow += 1
        }
        while oldLow < oldHigh, newLow < newHigh, old[oldHigh - 1] == new[newHigh - 1] {
            oldHigh -= 1
            newHigh -= 1
        }
        box = Box(old: oldLow..<oldHigh, new: newLow..<newHigh)
    }

    /// A point inside the box, or on its edge but never at both its start and its end, which splits the work in two.
    ///
    /// Invariant: the box is trimmed and neither side is empty, so at least one edit lies on each side of the point.
    mutating func middle(of box: Box) -> (old: Int, new: Int) {
        let limits = (box.old.lowerBound - box.new.upperBound)...(box.old.upperBound - box.new.lowerBound)
        var forward = Frontier(
            start: box.old.lowerBound - box.new.lowerBound, at: box.old.lowerBound, beyond: -1, reusing: &forwardStorage)
        var backward = Frontier(
            start: box.old.upperBound - box.new.upperBound, at: box.old.upperBound, beyond: .max, reusing: &backwardStorage)
        defer {
            forward.giveBack(&forwardStorage)
            backward.giveBack(&backwardStorage)
        }
        // With an odd distance the frontiers meet on a forward step, with an even one on a backward step.
        let isOdd = (box.old.count - box.new.count) & 1 != 0

        for _ in 0..<patience {
            forward.widen(within: limits)
            for diagonal in stride(from: forward.diagonals.upperBound, through: forward.diagonals.lowerBound, by: -2) {
                let (deleted, inserted) = (forward[diagonal - 1], forward[diagonal + 1])
                var place = deleted >= inserted ? deleted + 1 : inserted
                while place < box.old.upperBound, place - diagonal < box.new.upperBound, old[place] == new[place - diagonal] { place += 1 }
                forward[diagonal] = place
                if isOdd, backward.diagonals.contains(diagonal), backward[diagonal] <= place { return (place, place - diagonal) }
            }
            backward.widen(within: limits)
            for diagonal in stride(from: backward.diagonals.upperBound, through: backward.diagonals.lowerBound, by: -2) {
                let (inserted, deleted) = (backward[diagonal - 1], backward[diagonal + 1])
                var place = inserted < deleted ? inserted : deleted - 1
                while place > box.old.lowerBound, place - diagonal > box.new.lowerBound, old[place - 1] == new[place - 1 - diagonal] {
                    place -= 1
                }
                backward[diagonal] = place
                if !isOdd, forward.diagonals.contains(diagonal), place <= forward[diagonal] { return (place, place - diagonal) }
            }
        }
        return furthest(of: forward, backward, in: box)
    }

    /// The place where the search is cut when its patience is over: the furthest that one of the directions has come, counted in lines of both texts.
    private func furthest(of forward: Frontier, _ backward: Frontier, in box: Box) -> (old: Int, new: Int) {
        var ahead = (old: box.old.lowerBound, new: box.new.lowerBound)
        for diagonal in stride(from: forward.diagonals.upperBound, through: forward.diagonals.lowerBound, by: -2) {
            // A frontier may have stepped out of the box by one line.
            let place = min(forward[diagonal], box.old.upperBound, box.new.upperBound + diagonal)
            if place + place - diagonal > ahead.old + ahead.new { ahead = (place, place - diagonal) }
        }
        var behind = (old: box.old.upperBound, new: box.new.upperBound)
        for diagonal in stride(from: backward.diagonals.upperBound, through: backward.diagonals.lowerBound, by: -2) {
            let place = max(backward[diagonal], box.old.lowerBound, box.new.lowerBound + diagonal)
            if place + place - diagonal < behind.old + behind.new { behind = (place, place - diagonal) }
        }
        let gained = ahead.old + ahead.new - box.old.lowerBound - box.new.lowerBound
        let gainedBehind = box.old.upperBound + box.new.upperBound - behind.old - behind.new
        return gained > gainedBehind ? ahead : behind
    }
}
