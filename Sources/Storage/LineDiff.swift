/// What changed between two texts, line by line, in the form of `diff -u`.
///
/// It is GNU diff's to the byte, but for the choice among scripts of texts where hundreds of edits lie close together.
/// Texts are bytes: nothing here asks whether they are UTF-8, and a line ends with a newline or with the text.
package enum LineDiff {
    /// Changes that lie together, with the unchanged lines around them.
    package struct Hunk: Sendable, Hashable {
        /// The lines of the old text that the hunk covers, counted from zero.
        package let old: Range<Int>
        /// The lines of the new text.
        package let new: Range<Int>
        package let lines: [Line]

        /// The line that introduces the hunk: `@@ -1,3 +1,4 @@`.
        package var header: String { "@@ -\(Self.written(old)) +\(Self.written(new)) @@" }

        /// Counted from one. A single line goes without its count; no lines are named by the line before them, which may be 0.
        private static func written(_ range: Range<Int>) -> String {
            switch range.count {
            case 0: "\(range.lowerBound),0"
            case 1: "\(range.lowerBound + 1)"
            default: "\(range.lowerBound + 1),\(range.count)"
            }
        }
    }

    package struct Line: Sendable, Hashable {
        package enum Kind: String, Sendable, Codable { case unchanged, removed, added }

        package let kind: Kind
        /// With its newline, if it has one. Shares the memory of the whole text.
        package let bytes: ArraySlice<UInt8>

        /// False at most for the last line of each text.
        package var endsInNewline: Bool { bytes.last == UInt8(ascii: "\n") }
    }

    /// The differing places themselves, in order: those that `hunks` shows with its usual context.
    package static func edits(_ old: [UInt8], _ new: [UInt8]) -> [LineEdit] {
        if old == new { return [] }
        return numbered(old, new, context: 3).edits
    }

    /// - Parameter context: how many unchanged lines to show on each side of a change; changes whose contexts touch share a hunk.
    /// - Returns: nothing when the texts are equal.
    package static func hunks(_ old: [UInt8], _ new: [UInt8], context: Int = 3) -> [Hunk] {
        if old == new { return [] }
        // Whoever asks for more lines than there are gets them all; a line is a byte at least. No sum below overflows.
        let context = min(max(context, 0), max(old.count, new.count))
        let (old, new, edits) = numbered(old, new, context: context)

        var hunks: [Hunk] = []
        var rest = edits[...]
        while let first = rest.first {
            var last = first
            var together = rest.prefix(1)
            while let next = rest.dropFirst(together.count).first, next.old.lowerBound - last.old.upperBound <= 2 * context {
                last = next
                together = rest.prefix(together.count + 1)
            }
            rest = rest.dropFirst(together.count)

            // Edits lie opposite each other, so there is as much unchanged text before, or after, on one side as on the other.
            let before = min(context, first.old.lowerBound, first.new.lowerBound)
            let after = min(context, old.count - last.old.upperBound, new.count - last.new.upperBound)
            let oldRange = (first.old.lowerBound - before)..<(last.old.upperBound + after)
            let newRange = (first.new.lowerBound - before)..<(last.new.upperBound + after)

            var lines: [Line] = []
            var at = oldRange.lowerBound
            for edit in together {
                lines += (at..<edit.old.lowerBound).map { Line(kind: .unchanged, bytes: old[$0]) }
                lines += edit.old.map { Line(kind: .removed, bytes: old[$0]) }
                lines += edit.new.map { Line(kind: .added, bytes: new[$0]) }
                at = edit.old.upperBound
            }
            lines += (at..<oldRange.upperBound).map { Line(kind: .unchanged, bytes: old[$0]) }
            hunks.append(Hunk(old: oldRange, new: newRange, lines: lines))
        }
        return hunks
    }

    /// A patch that `patch` applies: two lines with the names as they are given, then the hunks. Empty when the texts are equal.
    ///
    /// The bytes of the texts are in it unharmed. A name with a newline in it makes the patch unreadable; that is the caller's to prevent.
    package static func unifiedBytes(
        _ old: [UInt8], _ new: [UInt8], oldName: String, newName: String, context: Int = 3
    ) -> [UInt8] {
        let hunks = hunks(old, new, context: context)
        if hunks.isEmpty { return [] }
        var patch = Array("--- \(oldName)\n+++ \(newName)\n".utf8)
        for hunk in hunks {
            patch += "\(hunk.header)\n".utf8
            for line in hunk.lines {
                switch line.kind {
                case .unchanged: patch.append(UInt8(ascii: " "))
                case .removed: patch.append(UInt8(ascii: "-"))
                case .added: patch.append(UInt8(ascii: "+"))
                }
                patch += line.bytes
                if !line.endsInNewline { patch += "\n\\ No newline at end of file\n".utf8 }
            }
        }
        return patch
    }

    /// The same to look at: bytes that are no UTF-8 show as replacement characters.
    package static func unified(_ old: [UInt8], _ new: [UInt8], oldName: String, newName: String, context: Int = 3) -> String {
        String(decoding: unifiedBytes(old, new, oldName: oldName, newName: newName, context: context), as: UTF8.self)
    }

    private static func numbered(_ old: [UInt8], _ new: [UInt8], context: Int) -> (
        old: NumberedLines, new: NumberedLines, edits: [LineEdit]
    ) {
        var numbering = LineNumbering()
        let old = numbering.lines(of: old)
        let new = numbering.lines(of: new)
        return (old, new, LineEdit.edits(from: old.numbers, to: new.numbers, distinct: numbering.distinct, like: .diff(context: context)))
    }
}
