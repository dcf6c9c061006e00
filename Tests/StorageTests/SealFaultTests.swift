import SQLite
import Testing

@testable import Storage

/// What seals, encodes and tidies, failed at every statement.
@Suite struct SealFaultTests {
    private func playSeal(
        _ name: String, atLeast: Int = 6, _ prepare: (TestStore, TestMount) throws -> Void, versions: Int,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try playFaults(name, atLeast: atLeast, settles: false) { test, mount in
            try prepare(test, mount)
        } change: { test, _ in
            try test.store.settle()
        } after: { (test, _) throws in
            #expect(try test.log().count == versions, sourceLocation: sourceLocation)
        }
    }

    @Test func sealingASmallFile() throws {
        try playSeal("seal small", { _, mount in try mount.save("/f", "one") }, versions: 1)
        try playSeal(
            "seal small again",
            { test, mount in
                try mount.save("/f", "one, and much more of it than before")
                try test.settleAll()
                try mount.append("/f", "two")
            }, versions: 2)
    }

    @Test func sealingALargeFile() throws {
        var random = SeededRandom(seed: 5)
        let content = random.text(200_000)
        try playSeal("seal large", { _, mount in try mount.save("/f", content) }, versions: 1)
        try playSeal(
            "seal large again",
            { test, mount in
                try mount.save("/f", content)
                try test.settleAll()
                let number = try mount.number("/f")
                try mount.pwrite(number, bytes("edit"), at: 70_000)
                mount.close(number)
            }, versions: 2)
    }

    @Test func sealingManySavesAtOnce() throws {
        try playSeal(
            "seal many", atLeast: 20,
            { test, mount in
                let text = String(repeating: "a line of it\n", count: 60)
                for place in 0..<5 { try mount.save("/f", text + "\(place)") }
            }, versions: 5)
    }

    /// A disk that stays full: the seal is tried again and again, and takes no more numbers each time.
    @Test func aSealThatFailsGivesItsNumbersBack() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for place in 0..<3 { try mount.save("/f", "content \(place)") }
            let number = try mount.number("/f")
            try mount.pwrite(number, bytes("x"), at: 2)
            mount.close(number)
            try test.state { try $0.takeInCloses(of: mount.origin) }
            func counts() -> [Int64] { test.state { $0.inodes[number]!.drafts!.saves.map(\.count) } }
            let before = counts()
            for _ in 0..<5 {
                let counter = FaultCounter(failing: 8, with: 13)
                test.state { $0.writer.fault = counter.next }
                #expect(RemfsError.code { try test.store.settle() } == .noSpace)
                test.state { $0.writer.fault = nil }
                #expect(counts() == before)
            }
            try test.settleAll()
            #expect(try mount.read("/f") == "coxtent 2")
            Invariants.expect(test.store)
        }
    }

    @Test func sealingRemovals() throws {
        try playFaults("seal removals", settles: false) { test, mount in
            for name in ["/a", "/b"] { try mount.save(name, name) }
            try test.settleAll()
            for name in ["/a", "/b"] { try mount.unlink(name) }
        } change: { test, _ in
            try test.state { try $0.sealRemovals(all: true) }
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["created /a", "created /b", "deleted /a", "deleted /b"])
        }
    }

    @Test func encodingDeltasAndRemovingOrphans() throws {
        var random = SeededRandom(seed: 9)
        let text = random.text(3_000)
        try playFaults("deltas", atLeast: 6) { test, mount in
            for place in 0..<4 {
                try mount.save("/f", text + bytes("\(place)"))
                try test.settleAll()
            }
        } change: { test, _ in
            // A candidate that failed is not tried again: all of them, each time.
            try test.state { state in
                state.deltaCandidates = []
                let row = try state.writer.prepare("SELECT number FROM chunk ORDER BY number")
                let fault = state.writer.fault
                state.writer.fault = nil
                while try row.step() { state.deltaCandidates.append(row.integer(0)) }
                state.writer.fault = fault
                while try state.encodeDeltas(atMost: 100) {}
            }
        } after: { (test, _) throws in
            let contents = try test.versions().map { try test.store.content(of: $0)! }
            #expect(contents == (0..<4).map { text + bytes("\($0)") })
        }
        try playFaults("orphans") { test, mount in
            try mount.save("/f~", text)
            try test.settleAll()
            let number = try mount.number("/f~")
            try mount.pwrite(number, bytes("draft"), at: 0)
            mount.hold(number)
            try mount.unlink("/f~")
        } change: { test, _ in
            try test.state { try $0.deleteOrphans { _ in false } }
        } after: { (test, _) throws in
            let left = try test.state { try $0.writer.integer("SELECT count(*) FROM extent") }
            #expect(left == 0)
        }
    }

    @Test func tidying() throws {
        try playFaults("tidy") { test, mount in
            try mount.mkdir("/d")
            try mount.save("/d/f", "x")
        } change: { test, _ in
            _ = try test.store.tidy(isIdle: true)
        }
    }

    @Test func makingRoomForNumbers() throws {
        try playFaults("reserve") { _, _ in
        } change: { test, _ in
            try test.state { try $0.reserveNumbers(10_000) }
        }
    }
}
