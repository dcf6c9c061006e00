/// Joins two texts that were changed from one base, line by line, as `git merge-file` does.
///
/// What only one side changed is taken; what both changed alike is taken once; what they changed differently, or changed side by side with
/// no common line between, is a conflict. The result is git's to the byte, but for texts that git calls binary and refuses, and for the
/// choice among equally good merges of texts with over some ten thousand changed lines.
package enum ThreeWayMerge {
    /// - Parameters:
    ///   - oursName: stands beside the `<<<<<<<` of a conflict. Like `theirsName` it should have no newline in it.
    ///   - theirsName: stands beside the `>>>>>>>`.
    /// - Returns: the merged text and how many conflicts are marked in it: none means that the merge is clean. A text that has
    ///   marker lines of its own is not an error, so the count is the thing to ask.
    package static func merge(
        base: [UInt8], ours: [UInt8], theirs: [UInt8], oursName: String, theirsName: String
    ) -> (bytes: [UInt8], conflicts: Int) {
        if theirs == base || theirs == ours { return (ours, 0) }
        if ours == base { return (theirs, 0) }

        var numbering = LineNumbering()
        let sides = Sides(base: numbering.lines(of: base), ours: numbering.lines(of: ours), theirs: numbering.lines(of: theirs))
        let regions = sides.joiningNeighbours(sides.refined(sides.regions(distinct: numbering.distinct)))
        return sides.written(regions, oursName: oursName, theirsName: theirsName)
    }
}

/// A stretch of the merge where the sides differ. Everything between two regions is in both.
private struct Region {
    enum Outcome {
        case ours, theirs, conflict
        /// Looked like a conflict, but the sides turned out to say the same.
        case agreed
    }

    var outcome: Outcome
    var ours: Range<Int>
    var theirs: Range<Int>
}

private struct Sides {
    let base: NumberedLines
    let ours: NumberedLines
    let theirs: NumberedLines

    // MARK: What differs

    /// Lays the edits of both sides beside each other.
    func regions(distinct: Int) -> [Region] {
        var regions: [Region] = []
        func add(_ outcome: Region.Outcome, _ ours: Range<Int>, _ theirs: Range<Int>) {
            // Where no common line is left between two regions there is no telling which of them a line belongs to.
            if let last = regions.last, ours.lowerBound <= last.ours.upperBound || theirs.lowerBound <= last.theirs.upperBound {
                regions[regions.count - 1] = Region(
                    outcome: last.outcome == outcome ? outcome : .conflict,
                    ours: last.ours.lowerBound..<ours.upperBound, theirs: last.theirs.lowerBound..<theirs.upperBound)
            } else {
                regions.append(Region(outcome: outcome, ours: ours, theirs: theirs))
            }
        }

        var ourEdits = LineEdit.edits(from: base.numbers, to: ours.numbers, distinct: distinct, like: .git)[...]
        var theirEdits = LineEdit.edits(from: base.numbers, to: theirs.numbers, distinct: distinct, like: .git)[...]
        while true {
            let mine = ourEdits.first
            let yours = theirEdits.first
            if let mine, yours.map({ mine.old.upperBound < $0.old.lowerBound }) ?? true {
                let shift = yours.map { $0.new.lowerBound - $0.old.lowerBound } ?? theirs.count - base.count
                add(.ours, mine.new, mine.old.shifted(by: shift))
                ourEdits.removeFirst()
            } else if let yours, mine.map({ yours.old.upperBound < $0.old.lowerBound }) ?? true {
                let shift = mine.map { $0.new.lowerBound - $0.old.lowerBound } ?? ours.count - base.count
                add(.theirs, yours.old.shifted(by: shift), yours.new)
                theirEdits.removeFirst()
            } else if let mine, let yours {
                if mine.old != yours.old || !ours.numbers[mine.new].elementsEqual(theirs.numbers[yours.new]) {
                    let lower = min(mine.old.lowerBound, yours.old.lowerBound)
                    let upper = max(mine.old.upperBound, yours.old.upperBound)
                    add(.conflict, mine.new(spanning: lower..<upper), yours.new(spanning: lower..<upper))
                }
                // The one that reaches further may meet the next edit of the other side as well.
                if mine.old.upperBound >= yours.old.upperBound { theirEdits.removeFirst() }
                if yours.old.upperBound >= mine.old.upperBound { ourEdits.removeFirst() }
            } else {
                return regions
            }
        }
    }

    /// Cuts each conflict down to the lines in which the sides really differ: two that both rewrote a paragraph often share most of it.
    func refined(_ regions: [Region]) -> [Region] {
        regions.flatMap { region -> [Region] in
            guard region.outcome == .conflict, !region.ours.isEmpty, !region.theirs.isEmpty else { return [region] }
            let (mine, yours, distinct) = renumbered(ours.numbers[region.ours], theirs.numbers[region.theirs])
            let edits = LineEdit.edits(from: mine, to: yours, distinct: distinct, like: .git)
            if edits.isEmpty { return [Region(outcome: .agreed, ours: region.ours, theirs: region.theirs)] }
            return edits.map {
                Region(
                    outcome: .conflict, ours: $0.old.shifted(by: region.ours.lowerBound),
                    theirs: $0.new.shifted(by: region.theirs.lowerBound))
            }
        }
    }

    /// The same lines under numbers that start from zero: a table over all numbers for each of many small conflicts would cost a square.
    private func renumbered(_ mine: ArraySlice<Int32>, _ yours: ArraySlice<Int32>) -> (mine: [Int32], yours: [Int32], distinct: Int) {
        var known: [Int32: Int32] = [:]
        func number(_ line: Int32) -> Int32 {
            let next = Int32(known.count)
            if let number = known[line] { return number }
            known[line] = next
            return next
        }
        let (mine, yours) = (mine.map(number), yours.map(number))
        return (mine, yours, known.count)
    }

    /// Joins conflicts that only a few lines, or only lines without a letter or digit, keep apart: one is easier to read than two.
    func joiningNeighbours(_ regions: [Region]) -> [Region] {
        regions.reduce(into: []) { joined, region in
            if let last = joined.last, last.outcome == .conflict, region.outcome == .conflict {
                let between = last.ours.upperBound..<region.ours.lowerBound
                if between.count <= 3 || !ours[between].contains(where: \.isLetterOrDigit) {  // 3: git's figure.
                    joined[joined.count - 1].ours = last.ours.lowerBound..<region.ours.upperBound
                    joined[joined.count - 1].theirs = last.theirs.lowerBound..<region.theirs.upperBound
                    return
                }
            }
            joined.append(region)
        }
    }

    // MARK: Writing it down

    func written(_ regions: [Region], oursName: String, theirsName: String) -> (bytes: [UInt8], conflicts: Int) {
        var merged: [UInt8] = []
        merged.reserveCapacity(ours.bytes.count + theirs.bytes.count)
        var conflicts = 0
        // Up to here our lines are written. What is in both sides, and what is to be ours, comes along with them.
        var at = 0
        for region in regions {
            switch region.outcome {
            case .ours, .agreed: continue
            case .theirs:
                merged += ours[at..<region.ours.lowerBound]
                merged += theirs[region.theirs]
            case .conflict:
                conflicts += 1
                let newline = usesCRLF(at: region) ? "\r\n" : "\n"
                func add(_ lines: ArraySlice<UInt8>) {
                    merged += lines
                    // A marker needs a line of its own, so here a missing newline at a text's end cannot be preserved.
                    if let last = lines.last, last != UInt8(ascii: "\n") { merged += newline.utf8 }
                }
                merged += ours[at..<region.ours.lowerBound]
                merged += "<<<<<<< \(oursName)\(newline)".utf8
                add(ours[region.ours])
                merged += "=======\(newline)".utf8
                add(theirs[region.theirs])
                merged += ">>>>>>> \(theirsName)\(newline)".utf8
            }
            at = region.ours.upperBound
        }
        merged += ours[at..<ours.count]
        return (merged, conflicts)
    }

    /// Whether markers are to end in CRLF: only if the base's lines do, and those above the conflict on neither side say otherwise.
    private func usesCRLF(at region: Region) -> Bool {
        base.endsInCRLF(0) == true
            && ours.endsInCRLF(max(region.ours.lowerBound - 1, 0)) != false
            && theirs.endsInCRLF(max(region.theirs.lowerBound - 1, 0)) != false
    }
}

extension NumberedLines {
    /// Nil where no line tells. A last line without an end does as the one above it.
    fileprivate func endsInCRLF(_ line: Int) -> Bool? {
        guard line < count else { return nil }
        if self[line].last == UInt8(ascii: "\n") { return self[line].dropLast().last == UInt8(ascii: "\r") }
        return line == 0 ? nil : endsInCRLF(line - 1)
    }
}

extension LineEdit {
    /// The new lines that stand for an old range that includes the edit's own; what the edit does not touch counts one for one.
    fileprivate func new(spanning range: Range<Int>) -> Range<Int> {
        (new.lowerBound - (old.lowerBound - range.lowerBound))..<(new.upperBound + (range.upperBound - old.upperBound))
    }
}

extension Range<Int> {
    fileprivate func shifted(by distance: Int) -> Range<Int> { (lowerBound + distance)..<(upperBound + distance) }
}

extension UInt8 {
    fileprivate var isLetterOrDigit: Bool {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"): true
        default: false
        }
    }
}
