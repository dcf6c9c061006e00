import Testing

@testable import Storage

/// Saves of one large file that come faster than they are sealed.
@Suite struct BacklogTests {
    /// Each seal takes the first saves out of what readers see of the drafts, and leaves all else as it is.
    @Test(arguments: 1...3) func whatWaitsStaysWhatItIsWhileTheFirstAreSealed(_ round: UInt64) throws {
        let seed = SeededRandom.seed(round)
        var random = SeededRandom(seed: seed)
        try TestStore.with { test in
            let mount = try test.mount()
            var content = random.text(600_000 + random.below(200_000))
            let number = try mount.save("/f", content)
            try test.settleAll()
            var saves = [content]
            for step in 0..<40 {
                // A truncation waits for its own writer's bytes.
                try mount.with(pid: Int32(1_000 + step)) {
                    content = try mount.scribble(1 + random.below(20), on: number, content, &random)
                    guard random.chance(70) else { return }
                    let line = bytes("(line \(step))\n")
                    try mount.pwrite(number, line, at: Int64(content.count))
                    content += line
                }
                mount.close(number)
                if content != saves.last { saves.append(content) }
            }
            try test.store.takeInCloses(through: mount.origin)
            var rounds = 0
            while test.state({ !$0.sealQueue.isEmpty }) {
                rounds += 1
                if rounds % 3 == 0 { try test.store.sealLarge() }
                try test.state { state in try state.sealBatch(atMost: 1) }
                #expect(try mount.contents("/f") == content, "seed \(seed), round \(rounds)")
                if rounds % 8 == 0 { Invariants.expect(test.store, "seed \(seed), round \(rounds)") }
            }
            #expect(rounds > 4, "seed \(seed)")
            let versions = try test.versions().map { try test.store.content(of: $0)! }
            // Not the contents themselves: a failure would print them.
            let differs = zip(versions, saves).enumerated().first { $0.element.0 != $0.element.1 }?.offset
            #expect(differs == nil && versions.count == saves.count, "seed \(seed), \(versions.count) versions of \(saves.count)")
            try test.reopen()
            #expect(try mount.contents("/f") == content, "seed \(seed)")
            Invariants.expect(test.store, "seed \(seed)")
        }
    }

    /// A file that grew without a byte keeps its last chunk as it was: a hole where there are zeros already is no change.
    @Test func aHoleInWhatGrewChangesNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.save("/f", [UInt8](repeating: 7, count: 140_000))
            try mount.truncate(number, to: 300_000)
            mount.close(number)
            try test.settleAll()
            try mount.punch(number, 150_000, 20_000)
            mount.close(number)
            try test.settleAll()
            #expect(try test.versions().map(\.sizeInBytes) == [140_000, 300_000])
            Invariants.expect(test.store)
        }
    }

    /// A log that a program appends to for hours: no save may cost more because others wait behind it.
    @Test func aSaveCostsNoMoreWhereManyWait() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 8)
            let number = try mount.save("/log", random.text(700_000))
            try test.settleAll()
            func timePerSave(_ count: Int) throws -> Duration {
                for line in 0..<count {
                    try mount.pwrite(number, bytes("line \(line) of \(count)\n"), at: 0, append: true)
                    mount.close(number)
                    if line % 500 == 0 { try test.store.takeInCloses(through: mount.origin) }
                }
                try test.store.takeInCloses(through: mount.origin)
                let began = ContinuousClock.now
                try test.state { state in try state.sealQueued() }
                return (ContinuousClock.now - began) / count
            }
            _ = try timePerSave(50)
            let few = try min(timePerSave(200), timePerSave(200))
            let many = try timePerSave(4_000)
            print("a save of a file of 700 kB: \(few) where 200 wait, \(many) where 4,000 do")
            #expect(many < few * 2)
        }
    }
}
