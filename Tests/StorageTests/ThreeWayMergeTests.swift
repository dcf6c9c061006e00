import Storage
import Testing

@Suite struct ThreeWayMergeTests {
    private func merge(_ base: String, _ ours: String, _ theirs: String) -> (text: String, conflicts: Int) {
        let merged = ThreeWayMerge.merge(
            base: Array(base.utf8), ours: Array(ours.utf8), theirs: Array(theirs.utf8), oursName: "ours", theirsName: "theirs")
        return (String(decoding: merged.bytes, as: UTF8.self), merged.conflicts)
    }

    @Test func aSideThatChangedNothingTakesTheOther() {
        #expect(merge("a\n", "a\n", "b\n") == ("b\n", 0))
        #expect(merge("a\n", "b\n", "a\n") == ("b\n", 0))
        #expect(merge("a\n", "a\n", "a\n") == ("a\n", 0))
        #expect(merge("a\n", "", "a\n") == ("", 0))
    }

    @Test func changesFarApartAreBothTaken() {
        #expect(merge("1\n2\n3\n4\n5\n", "one\n2\n3\n4\n5\n", "1\n2\n3\n4\nfive\n") == ("one\n2\n3\n4\nfive\n", 0))
        #expect(merge("1\n2\n3\n", "0\n1\n2\n3\n", "1\n2\n") == ("0\n1\n2\n", 0))
    }

    @Test func oneCommonLineBetweenIsEnough() {
        #expect(merge("1\n2\n3\n", "one\n2\n3\n", "1\n2\nthree\n") == ("one\n2\nthree\n", 0))
    }

    @Test func changesSideBySideConflict() {
        #expect(
            merge("1\n2\n", "one\n2\n", "1\ntwo\n") == ("<<<<<<< ours\none\n2\n=======\n1\ntwo\n>>>>>>> theirs\n", 1))
    }

    @Test func theSameChangeOnBothSidesIsTakenOnce() {
        #expect(merge("1\n2\n3\n", "1\nx\n3\n", "1\nx\n3\n") == ("1\nx\n3\n", 0))
        #expect(merge("1\n2\n3\n4\n5\n", "1\nx\n3\n4\nours\n", "0\n1\nx\n3\n4\n5\n") == ("0\n1\nx\n3\n4\nours\n", 0))
    }

    @Test func differentChangesOfALineConflict() {
        #expect(
            merge("1\n2\n3\n", "1\nours\n3\n", "1\ntheirs\n3\n")
                == ("1\n<<<<<<< ours\nours\n=======\ntheirs\n>>>>>>> theirs\n3\n", 1))
    }

    @Test func aConflictHoldsOnlyWhatDiffers() {
        #expect(
            merge("1\n2\n", "a\nb\nours\nd\n", "a\nb\ntheirs\nd\n")
                == ("a\nb\n<<<<<<< ours\nours\n=======\ntheirs\n>>>>>>> theirs\nd\n", 1))
    }

    @Test func conflictsCloseTogetherAreOne() {
        let between = ["a\nb\nc\n", "a\nb\nc\nd\n", "-\n-\n-\n-\n"]
        #expect(between.map { merge("1\n2\n", "x\n\($0)y\n", "u\n\($0)v\n").conflicts } == [1, 2, 1])
    }

    @Test func deletingWhatTheOtherSideChangedConflicts() {
        #expect(merge("1\n2\n3\n", "1\n3\n", "1\nx\n3\n") == ("1\n<<<<<<< ours\n=======\nx\n>>>>>>> theirs\n3\n", 1))
    }

    @Test func twoNewTextsConflictInWhole() {
        #expect(merge("", "a\n", "b\n") == ("<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n", 1))
        #expect(merge("", "a\n", "a\n") == ("a\n", 0))
    }

    @Test func aMissingLastNewlineStaysMissing() {
        #expect(merge("1\n2\n3", "one\n2\n3", "1\n2\n3") == ("one\n2\n3", 0))
        #expect(merge("1\n2\n3\n", "one\n2\n3\n", "1\n2\n3") == ("one\n2\n3", 0))
        #expect(merge("1\n2\n3", "one\n2\n3", "1\n2\n3\n") == ("one\n2\n3\n", 0))
    }

    @Test func markersStandOnLinesOfTheirOwn() {
        #expect(merge("1", "2", "3") == ("<<<<<<< ours\n2\n=======\n3\n>>>>>>> theirs\n", 1))
    }

    @Test func markersEndAsTheLinesDo() {
        #expect(
            merge("1\r\n2\r\n", "1\r\nx\r\n", "1\r\ny\r\n")
                == ("1\r\n<<<<<<< ours\r\nx\r\n=======\r\ny\r\n>>>>>>> theirs\r\n", 1))
        #expect(merge("1\r\n", "2\n", "3\r\n") == ("<<<<<<< ours\n2\n=======\n3\r\n>>>>>>> theirs\n", 1))
    }

    @Test func bytesThatAreNoUTF8PassThrough() {
        let merged = ThreeWayMerge.merge(
            base: [1, 10, 2, 10, 3, 10], ours: [0xFF, 10, 2, 10, 3, 10], theirs: [1, 10, 2, 10, 0, 0xFE], oursName: "o", theirsName: "t")
        #expect(merged == ([0xFF, 10, 2, 10, 0, 0xFE], 0))
    }

    @Test(
        .enabled(if: ReferenceCases.areInstalled("git"), "there is no git to compare with"))
    func theMergeIsGits() throws {
        let reference = ReferenceCases(of: #function)
        let script = "git merge-file -p -L ours -L base -L theirs ours base theirs >merged; echo $? >status"
        for (texts, files) in zip(reference.cases, try reference.files(["merged", "status"], after: script)) {
            let merged = ThreeWayMerge.merge(
                base: texts.base, ours: texts.ours, theirs: texts.theirs, oursName: "ours", theirsName: "theirs")
            #expect(String(decoding: merged.bytes, as: UTF8.self) == String(decoding: files["merged"] ?? [], as: UTF8.self))
            #expect(merged.bytes == files["merged"])
            // More than an exit status holds are reported as 127.
            #expect("\(min(merged.conflicts, 127))\n" == String(decoding: files["status"] ?? [], as: UTF8.self))
        }
    }

    /// Needs no program: what must hold of any merge.
    @Test func mergesKeepTheirPromises() {
        for texts in ReferenceCases(of: #function).cases {
            func merged(_ base: [UInt8], _ ours: [UInt8], _ theirs: [UInt8]) -> (bytes: [UInt8], conflicts: Int) {
                ThreeWayMerge.merge(base: base, ours: ours, theirs: theirs, oursName: "ours", theirsName: "theirs")
            }
            #expect(merged(texts.base, texts.ours, texts.base) == (texts.ours, 0))
            #expect(merged(texts.base, texts.base, texts.theirs) == (texts.theirs, 0))
            #expect(merged(texts.base, texts.ours, texts.ours) == (texts.ours, 0))
            // Which side is whose decides the order within a conflict, nothing else.
            let there = merged(texts.base, texts.ours, texts.theirs)
            let back = merged(texts.base, texts.theirs, texts.ours)
            #expect((there.conflicts == 0) == (back.conflicts == 0))
            if there.conflicts == 0 { #expect(there.bytes == back.bytes) }
        }
    }
}
