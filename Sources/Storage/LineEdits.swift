/// One place where two texts differ: these lines of the old one became those lines of the new one.
///
/// Line numbers count from zero. A range may be empty, then its bound says between which lines; never both are.
package struct LineEdit: Sendable, Hashable {
    package let old: Range<Int>
    package let new: Range<Int>

    package init(old: Range<Int>, new: Range<Int>) {
        self.old = old
        self.new = new
    }
}

extension LineEdit {
    /// Whose script to find. Both tools give up lines so common that they say nothing about where they belong, if most around them
    /// changed; they differ in when, and it shows: in what a reader sees, and in what conflicts.
    enum Tool {
        case git
        /// GNU diff with so many lines of context: it looks no further into the texts' common start and end than it would show.
        case diff(context: Int)
    }

    /// What turns one sequence of line numbers into another: in order, and with at least one common line between any two edits.
    ///
    /// The script is one of the shortest, but for what the tool gives up, and except where over 256 edits lie so close together that the
    /// search stops being exact (see `MiddleSearch.patience`).
    ///
    /// - Parameter distinct: every number is in `0..<distinct`.
    static func edits(from old: [Int32], to new: [Int32], distinct: Int, like tool: Tool) -> [LineEdit] {
        var old = ChangedLines(old)
        var new = ChangedLines(new)
        let unseen = ChangedLines.markUnmatchable(&old, &new, distinct: distinct, like: tool)
        ChangedLines.markShortestEdit(&old, &new)
        old.settleRuns(against: new, above: old.count - unseen)
        new.settleRuns(against: old, above: new.count - unseen)

        var edits: [LineEdit] = []
        var (atOld, atNew) = (0, 0)
        while atOld < old.count || atNew < new.count {
            let endOld = old.endOfRun(from: atOld)
            let endNew = new.endOfRun(from: atNew)
            if endOld > atOld || endNew > atNew {
                edits.append(LineEdit(old: atOld..<endOld, new: atNew..<endNew))
            }
            // Past the common line that ended both runs, or past both ends.
            (atOld, atNew) = (endOld + 1, endNew + 1)
        }
        return edits
    }
}

/// One side of a comparison, and which of its lines have no counterpart on the other.
///
/// Invariant, from `markShortestEdit` on: both sides have equally many unchanged lines, and the k-th of one equals the k-th of the other.
private struct ChangedLines {
    let numbers: [Int32]
    var changed: [Bool]
    /// The lines that the search is to look at, in order. The others are changed for certain, or common to both texts' starts or ends.
    var candidates: [Int] = []

    init(_ numbers: [Int32]) {
        self.numbers = numbers
        changed = [Bool](repeating: false, count: numbers.count)
    }

    var count: Int { numbers.count }

    /// The first line at or after this one that is unchanged, or the end.
    func endOfRun(from line: Int) -> Int {
        var end = line
        while end < count, changed[end] { end += 1 }
        return end
    }

    // MARK: What need not be searched

    /// Leaves out common starts and ends, and marks the lines that cannot or should not be matched.
    ///
    /// - Returns: how many lines at the end the tool does not even look at.
    static func markUnmatchable(_ old: inout ChangedLines, _ new: inout ChangedLines, distinct: Int, like tool: LineEdit.Tool) -> Int {
        let shorter = min(old.count, new.count)
        var head = 0
        while head < shorter, old.numbers[head] == new.numbers[head] { head += 1 }
        var (unseenHead, unseenTail) = (0, 0)
        if case .diff(let context) = tool {
            // The end is looked for after the start was cut to what is shown of it, and may take in the rest of it once more.
            unseenHead = max(head - context, 0)
            unseenTail = max(commonEnd(old, new, atMost: shorter - unseenHead) - context, 0)
        }
        let tail = commonEnd(old, new, atMost: shorter - head)

        let seenOld = unseenHead..<(old.count - unseenTail)
        let seenNew = unseenHead..<(new.count - unseenTail)
        let inOld = old.occurrences(in: seenOld, distinct)
        let inNew = new.occurrences(in: seenNew, distinct)
        old.markUnmatchable(in: head..<(old.count - tail), occurring: inNew, seen: seenOld.count, like: tool)
        new.markUnmatchable(in: head..<(new.count - tail), occurring: inOld, seen: seenNew.count, like: tool)
        return unseenTail
    }

    private static func commonEnd(_ old: ChangedLines, _ new: ChangedLines, atMost limit: Int) -> Int {
        var tail = 0
        while tail < limit, old.numbers[old.count - 1 - tail] == new.numbers[new.count - 1 - tail] { tail += 1 }
        return tail
    }

    private func occurrences(in range: Range<Int>, _ distinct: Int) -> [Int32] {
        var counts = [Int32](repeating: 0, count: distinct)
        for number in numbers[range] { counts[Int(number)] += 1 }
        return counts
    }

    /// How well a line can be placed on the other side.
    private enum Match { case none, good, tooMany }

    private mutating func markUnmatchable(in range: Range<Int>, occurring counts: [Int32], seen: Int, like tool: LineEdit.Tool) {
        let limit =
            switch tool {
            case .git: Self.tooManyForGit(among: count)
            case .diff: Self.tooManyForDiff(among: seen)
            }
        let matches = range.map { line -> Match in
            let found = Int(counts[Int(numbers[line])])
            return found == 0 ? .none : found >= limit ? .tooMany : .good
        }
        let givenUp =
            switch tool {
            case .git: Self.givenUpByGit(matches)
            case .diff: Self.givenUpByDiff(matches)
            }
        for (line, isGivenUp) in zip(range, givenUp) {
            if isGivenUp {
                changed[line] = true
            } else {
                candidates.append(line)
            }
        }
    }

    /// From how many counterparts on a line says nothing: about the root of the number of lines, at most 1,024.
    private static func tooManyForGit(among lines: Int) -> Int {
        var root = 1
        var rest = lines
        while rest > 0 {
            root *= 2
            rest /= 4
        }
        return min(root, 1_024)
    }

    /// As git, each common line looks at up to 100 lines above and below, as far as no well-matched one is in between. It is given up if
    /// there are unmatched lines on both sides and common ones make up less than a quarter.
    private static func givenUpByGit(_ matches: [Match]) -> [Bool] {
        let window = 100
        // For every place, how many lines before it match nothing: a window's share is then a subtraction.
        var unmatchedBefore = [0]
        unmatchedBefore.reserveCapacity(matches.count + 1)
        for match in matches { unmatchedBefore.append(unmatchedBefore[unmatchedBefore.count - 1] + (match == .none ? 1 : 0)) }
        // For every place, the first well-matched line at or after it.
        var nextGood = [Int](repeating: matches.count, count: matches.count + 1)
        for line in matches.indices.reversed() { nextGood[line] = matches[line] == .good ? line : nextGood[line + 1] }

        var lastGood = -1
        return matches.enumerated().map { line, match in
            switch match {
            case .none: return true
            case .good:
                lastGood = line
                return false
            case .tooMany:
                let above = max(lastGood + 1, line - window)..<line
                let below = (line + 1)..<min(nextGood[line], line + window + 1, matches.count)
                let unmatchedAbove = unmatchedBefore[above.upperBound] - unmatchedBefore[above.lowerBound]
                let unmatchedBelow = unmatchedBefore[below.upperBound] - unmatchedBefore[below.lowerBound]
                let unmatched = unmatchedAbove + unmatchedBelow
                let tooMany = above.count + below.count - unmatched + 2  // The line itself, once for each direction.
                return unmatchedAbove > 0 && unmatchedBelow > 0 && tooMany * 4 < tooMany + unmatched
            }
        }
    }

    /// GNU diff is content with more: five, doubled as often as a 64th of the lines can be divided by four.
    private static func tooManyForDiff(among lines: Int) -> Int {
        var limit = 5
        var rest = lines / 256
        while rest > 0 {
            limit *= 2
            rest /= 4
        }
        return limit + 1
    }

    /// As GNU diff, takes each stretch between well-matched lines as a whole, from its first unmatched line to its last, and gives its
    /// common lines up if they are at most a quarter, except where several stand together and those near the stretch's ends.
    private static func givenUpByDiff(_ matches: [Match]) -> [Bool] {
        var givenUp = matches.map { $0 == .none }
        for part in matches.indices.split(whereSeparator: { matches[$0] == .good }) {
            guard let first = part.first(where: { matches[$0] == .none }), let last = part.last(where: { matches[$0] == .none }) else {
                continue
            }
            let stretch = first...last
            let common = stretch.count { matches[$0] == .tooMany }
            if common == 0 || common * 4 > stretch.count { continue }
            for line in stretch { givenUp[line] = true }

            // About the root of a quarter of the stretch, and one.
            var together = 1
            var rest = stretch.count / 16
            while rest > 0 {
                together *= 2
                rest /= 4
            }
            together += 1
            for group in stretch.split(whereSeparator: { matches[$0] == .none }) where group.count >= together {
                for line in group { givenUp[line] = false }
            }
            keepNearEdge(stretch, matches, &givenUp)
            keepNearEdge(stretch.reversed(), matches, &givenUp)
        }
        return givenUp
    }

    /// Keeps common lines until three unmatched ones stand in a row, or until the first unmatched one from the ninth line on.
    private static func keepNearEdge(_ lines: some Sequence<Int>, _ matches: [Match], _ givenUp: inout [Bool]) {
        var inARow = 0
        for (distance, line) in lines.enumerated() {
            if matches[line] == .none {
                inARow += 1
                if distance >= 8 || inARow == 3 { return }
            } else {
                inARow = 0
                givenUp[line] = false
            }
        }
    }

    // MARK: The search

    /// Myers' O(ND) algorithm in linear space: find a point in the middle of a shortest path, then do both halves likewise.
    static func markShortestEdit(_ old: inout ChangedLines, _ new: inout ChangedLines) {
        let oldLines = old.candidates
        let newLines = new.candidates
        var search = MiddleSearch(old: oldLines.map { old.numbers[$0] }, new: newLines.map { new.numbers[$0] })
        // A list of what is left, not recursion: threads have small stacks, and a hopeless pair of files makes thousands of halves.
        var boxes = [MiddleSearch.Box(old: 0..<oldLines.count, new: 0..<newLines.count)]
        while var box = boxes.popLast() {
            search.trim(&box)
            if box.old.isEmpty {
                for place in box.new { new.changed[newLines[place]] = true }
            } else if box.new.isEmpty {
                for place in box.old { old.changed[oldLines[place]] = true }
            } else {
                let middle = search.middle(of: box)
                boxes.append(.init(old: box.old.lowerBound..<middle.old, new: box.new.lowerBound..<middle.new))
                boxes.append(.init(old: middle.old..<box.old.upperBound, new: middle.new..<box.new.upperBound))
            }
        }
    }

    // MARK: Where ambiguous runs belong

    /// Settles where runs of changed lines are that could as well be a line higher or lower (one of two blank lines was deleted: which?).
    ///
    /// A run goes as low as it can, swallowing those it meets, or else beside the lowest run of the other side that it can reach, where
    /// the two make one edit instead of two.
    ///
    /// - Parameter bottom: no run goes lower than this line.
    mutating func settleRuns(against other: ChangedLines, above bottom: Int) {
        let otherRuns = other.runsByGap()
        var gap = 0
        var start = 0
        while true {
            var end = endOfRun(from: start)
            if end > start {
                var size: Int
                var highestEnd: Int
                var canMeet: Bool
                repeat {
                    size = end - start
                    while slideUp(&start, &end) { gap -= 1 }
                    highestEnd = end
                    canMeet = otherRuns[gap]
                    while slideDown(&start, &end, above: bottom) {
                        gap += 1
                        canMeet = canMeet || otherRuns[gap]
                    }
                } while end - start != size  // It swallowed another run, and may reach further now.
                if end > highestEnd, canMeet {
                    while !otherRuns[gap], slideUp(&start, &end) { gap -= 1 }
                }
            }
            if end == count { return }
            start = end + 1
            gap += 1
        }
    }

    /// For every gap between unchanged lines, those before the first and after the last included, whether changed lines lie there.
    private func runsByGap() -> [Bool] {
        var runs = [false]
        for isChanged in changed {
            if isChanged {
                runs[runs.count - 1] = true
            } else {
                runs.append(false)
            }
        }
        return runs
    }

    /// Moves a run up by one line, if that makes no difference to the text, and takes in a run that it then touches.
    private mutating func slideUp(_ start: inout Int, _ end: inout Int) -> Bool {
        guard start > 0, numbers[start - 1] == numbers[end - 1] else { return false }
        start -= 1
        end -= 1
        changed[start] = true
        changed[end] = false
        while start > 0, changed[start - 1] { start -= 1 }
        return true
    }

    /// The same, downwards.
    private mutating func slideDown(_ start: inout Int, _ end: inout Int, above bottom: Int) -> Bool {
        guard end < bottom, numbers[start] == numbers[end] else { return false }
        changed[start] = false
        changed[end] = true
        start += 1
        end = endOfRun(from: end + 1)
        return true
    }
}
