import Storage
import TestSupport
import Testing

@Suite struct LineDiffTests {
    private func unified(_ old: String, _ new: String, context: Int = 3) -> String {
        LineDiff.unified(Array(old.utf8), Array(new.utf8), oldName: "old", newName: "new", context: context)
    }

    private func text(_ lines: ClosedRange<Int>) -> String { lines.map { "\($0)\n" }.joined() }

    @Test func equalTextsHaveNoDiff() {
        #expect(unified("", "").isEmpty)
        #expect(unified("a\nb", "a\nb").isEmpty)
        #expect(LineDiff.hunks([1, 10], [1, 10]).isEmpty)
        #expect(LineDiff.edits([1, 10], [1, 10]).isEmpty)
    }

    @Test func aChangeShowsThreeLinesOnEachSide() {
        let new = text(1...9).replacing("5\n", with: "five\n")
        #expect(
            unified(text(1...9), new) == """
                --- old
                +++ new
                @@ -2,7 +2,7 @@
                 2
                 3
                 4
                -5
                +five
                 6
                 7
                 8

                """)
    }

    @Test func aSingleLineGoesWithoutItsCount() {
        #expect(unified("a\n", "b\n") == "--- old\n+++ new\n@@ -1 +1 @@\n-a\n+b\n")
    }

    @Test func anEmptySideStartsAtTheLineBefore() {
        #expect(unified("", "a\nb\n") == "--- old\n+++ new\n@@ -0,0 +1,2 @@\n+a\n+b\n")
        #expect(unified("a\n", "") == "--- old\n+++ new\n@@ -1 +0,0 @@\n-a\n")
        #expect(unified("a\nb\n", "a\nx\nb\n", context: 0) == "--- old\n+++ new\n@@ -1,0 +2 @@\n+x\n")
    }

    @Test func aMissingLastNewlineIsSaid() {
        #expect(
            unified("a\nb", "a\nb\n") == """
                --- old
                +++ new
                @@ -1,2 +1,2 @@
                 a
                -b
                \\ No newline at end of file
                +b

                """)
        #expect(unified("a\nb", "x\nb", context: 1).hasSuffix("+x\n b\n\\ No newline at end of file\n"))
    }

    @Test func changesWhoseContextsTouchShareAHunk() {
        func changing(_ lines: Int...) -> String {
            lines.reduce(text(1...30)) { $0.replacing("\n\($1)\n", with: "\nx\n") }
        }
        // Between lines 10 and 17 there are six, twice the context; between 10 and 18 one more.
        #expect(unified(text(1...30), changing(10, 17)).matches(of: /@@ -/).count == 1)
        #expect(unified(text(1...30), changing(10, 18)).matches(of: /@@ -/).count == 2)
    }

    @Test(arguments: [0, 1, 1_000, .max, -1, .min]) func anyContextWillDo(_ context: Int) {
        let patch = unified(text(1...9), text(2...8), context: context)
        #expect(patch.matches(of: /\n [0-9]/).count == [1: 2, 1_000: 7, .max: 7][context, default: 0])
    }

    @Test func anInsertedCopyOfWhatItStandsBesideIsTheLowerOne() {
        #expect(unified("a\nb\n", "a\na\nb\n").contains("@@\n a\n+a\n b\n"))
    }

    @Test func bytesThatAreNoUTF8PassThrough() {
        let old: [UInt8] = [0xFF, 0x00, 0x0A, 0xC3, 0x0A]
        let new: [UInt8] = [0xFE, 0x00, 0x0A, 0xC3, 0x0A]
        let patch = LineDiff.unifiedBytes(old, new, oldName: "o", newName: "n")
        #expect(patch == Array("--- o\n+++ n\n@@ -1,2 +1,2 @@\n-".utf8) + [0xFF, 0, 10, 0x2B, 0xFE, 0, 10, 0x20, 0xC3, 10])
        #expect(LineDiff.unified(old, new, oldName: "o", newName: "n").contains("-\u{FFFD}\0\n+\u{FFFD}\0\n \u{FFFD}\n"))
    }

    @Test func hunksAreValues() throws {
        let hunk = try #require(LineDiff.hunks(Array("a\nb\nc".utf8), Array("a\nB\nc".utf8), context: 1).first)
        #expect(hunk.old == 0..<3)
        #expect(hunk.new == 0..<3)
        #expect(hunk.header == "@@ -1,3 +1,3 @@")
        #expect(hunk.lines.map(\.kind) == [.unchanged, .removed, .added, .unchanged])
        #expect(hunk.lines.map(\.endsInNewline) == [true, true, true, false])
        #expect(LineDiff.edits(Array("a\nb\nc".utf8), Array("a\nB\nc".utf8)) == [LineEdit(old: 1..<2, new: 1..<2)])
    }

    /// The same lines in another order: nothing can be left out beforehand, and the shortest script is far.
    @Test(.timeLimit(.minutes(Sanitizer.slowdown))) func shuffledTextsEndInGoodTime() {
        var random = SeededRandom(seed: 1)
        let lines = (0..<5_000).map { "line \($0)\n" }
        let (old, new) = (Array(lines.joined().utf8), Array(lines.shuffled(using: &random).joined().utf8))
        #expect(applied(LineDiff.edits(old, new), to: old, from: new) == new)
    }

    @Test(
        .enabled(if: ReferenceCases.areInstalled("diff"), "there is no diff program to compare with"))
    func theDiffIsThatOfTheRealProgram() throws {
        let reference = ReferenceCases(of: #function)
        let script = "for context in 0 1 3; do diff -a -U $context --label old --label new base ours >$context; done; true"
        for (texts, files) in zip(reference.cases, try reference.files(["0", "1", "3"], after: script)) {
            for context in [0, 1, 3] {
                let patch = LineDiff.unifiedBytes(texts.base, texts.ours, oldName: "old", newName: "new", context: context)
                #expect(String(decoding: patch, as: UTF8.self) == String(decoding: files["\(context)"] ?? [], as: UTF8.self))
                #expect(patch == files["\(context)"])
            }
        }
    }

    @Test(
        .enabled(if: ReferenceCases.areInstalled("patch"), "there is no patch program to apply diffs with"))
    func thePatchAppliesWithTheRealProgram() throws {
        let reference = ReferenceCases(of: #function)
        let patches = reference.cases.map { LineDiff.unifiedBytes($0.base, $0.ours, oldName: "old", newName: "new") }
        for (texts, result) in zip(reference.cases, try reference.patched(with: patches)) {
            #expect(String(decoding: result, as: UTF8.self) == String(decoding: texts.ours, as: UTF8.self))
        }
    }

    /// Needs no program: the edits, and the lines of the hunks, hold everything that the new text has and the old one has not.
    @Test func editsAndHunksMakeTheNewText() {
        for texts in ReferenceCases(of: #function).cases {
            #expect(applied(LineDiff.edits(texts.base, texts.ours), to: texts.base, from: texts.ours) == texts.ours)

            let all = LineDiff.hunks(texts.base, texts.ours, context: .max)
            #expect(all.count <= 1)
            if let hunk = all.first {
                #expect(hunk.lines.filter { $0.kind != .added }.flatMap(\.bytes) == texts.base)
                #expect(hunk.lines.filter { $0.kind != .removed }.flatMap(\.bytes) == texts.ours)
            }
        }
    }

    private func applied(_ edits: [LineEdit], to old: [UInt8], from new: [UInt8]) -> [UInt8] {
        let (old, new) = (lines(old), lines(new))
        var result: [UInt8] = []
        var at = 0
        for edit in edits {
            result += old[at..<edit.old.lowerBound].joined()
            result += new[edit.new].joined()
            at = edit.old.upperBound
        }
        return result + old[at...].joined()
    }

    private func lines(_ text: [UInt8]) -> [[UInt8]] {
        text.reduce(into: [[]]) { lines, byte in
            lines[lines.count - 1].append(byte)
            if byte == UInt8(ascii: "\n") { lines.append([]) }
        }
    }
}
