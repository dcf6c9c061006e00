/// The unified format of diff(1) and patch(1), with three lines of context.
enum UnifiedDiff {
    fileprivate enum Line {
        case same(Substring)
        case removed(Substring)
        case added(Substring)

        var isSame: Bool { if case .same = self { true } else { false } }
    }

    private static let context = 3
    /// Lines that differ at either end, beyond which all are shown as replaced: the search takes memory with the square of their number.
    private static let searched = 4_000

    /// Empty when both texts are the same; otherwise ends in a newline.
    static func text(from old: String, to new: String, labels: (old: String, new: String)) -> String {
        guard !old.utf8.elementsEqual(new.utf8) else { return "" }
        let lines = edits(Self.lines(old), Self.lines(new))
        var result = "--- \(labels.old)\n+++ \(labels.new)\n"
        for hunk in hunks(lines) {
            let before = lines[..<hunk.lowerBound]
            let (oldStart, newStart) = (before.count { !$0.isAdded }, before.count { !$0.isRemoved })
            let (oldCount, newCount) = (lines[hunk].count { !$0.isAdded }, lines[hunk].count { !$0.isRemoved })
            result += "@@ -\(range(oldStart, oldCount)) +\(range(newStart, newCount)) @@\n"
            for line in lines[hunk] {
                switch line {
                case .same(let text): result += shown(" ", text)
                case .removed(let text): result += shown("-", text)
                case .added(let text): result += shown("+", text)
                }
            }
        }
        return result
    }

    /// Lines with their newline; the last one may have none.
    private static func lines(_ text: String) -> [Substring] {
        var lines: [Substring] = []
        var rest = text[...]
        // Scalars, not characters: "\r\n" is one character.
        while let end = rest.unicodeScalars.firstIndex(of: "\n") {
            let next = rest.unicodeScalars.index(after: end)
            lines.append(rest[..<next])
            rest = rest[next...]
        }
        if !rest.isEmpty { lines.append(rest) }
        return lines
    }

    private static func shown(_ mark: String, _ line: Substring) -> String {
        line.unicodeScalars.last == "\n" ? mark + line : mark + line + "\n\\ No newline at end of file\n"
    }

    private static func range(_ start: Int, _ count: Int) -> String {
        // An empty range names the line before it.
        let first = count == 0 ? start : start + 1
        return count == 1 ? "\(first)" : "\(first),\(count)"
    }

    private static func edits(_ old: [Substring], _ new: [Substring]) -> [Line] {
        // Bytes, since Swift's == holds canonically equivalent texts equal.
        func same(_ one: Substring, _ other: Substring) -> Bool { one.utf8.elementsEqual(other.utf8) }
        let head = zip(old, new).prefix { same($0, $1) }.count
        let tail = zip(old.dropFirst(head).reversed(), new.dropFirst(head).reversed()).prefix { same($0, $1) }.count
        let (oldMiddle, newMiddle) = (old.dropFirst(head).dropLast(tail), new.dropFirst(head).dropLast(tail))
        var lines = old.prefix(head).map { Line.same($0) }
        if oldMiddle.count + newMiddle.count > searched {
            lines += oldMiddle.map { .removed($0) } + newMiddle.map { .added($0) }
        } else {
            let difference = Array(newMiddle).difference(from: Array(oldMiddle), by: same)
            func offset(_ change: CollectionDifference<Substring>.Change) -> Int {
                switch change {
                case .insert(let offset, _, _), .remove(let offset, _, _): offset
                }
            }
            let removed = Set(difference.removals.map(offset))
            let added = Set(difference.insertions.map(offset))
            var (from, to) = (0, 0)
            while from < oldMiddle.count || to < newMiddle.count {
                if removed.contains(from), from < oldMiddle.count {
                    lines.append(.removed(oldMiddle[oldMiddle.startIndex + from]))
                    from += 1
                } else if added.contains(to), to < newMiddle.count {
                    lines.append(.added(newMiddle[newMiddle.startIndex + to]))
                    to += 1
                } else {
                    lines.append(.same(oldMiddle[oldMiddle.startIndex + from]))
                    from += 1
                    to += 1
                }
            }
        }
        return lines + old.suffix(tail).map { .same($0) }
    }

    /// Changes with the lines around them; those that would touch are one.
    private static func hunks(_ lines: [Line]) -> [Range<Int>] {
        var hunks: [Range<Int>] = []
        for index in lines.indices where !lines[index].isSame {
            let around = max(0, index - context)..<min(lines.count, index + context + 1)
            if let last = hunks.last, around.lowerBound <= last.upperBound {
                hunks[hunks.count - 1] = last.lowerBound..<around.upperBound
            } else {
                hunks.append(around)
            }
        }
        return hunks
    }
}

extension UnifiedDiff.Line {
    fileprivate var isAdded: Bool { if case .added = self { true } else { false } }
    fileprivate var isRemoved: Bool { if case .removed = self { true } else { false } }
}
