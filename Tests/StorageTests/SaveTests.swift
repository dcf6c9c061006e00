import Synchronization
import Testing

@testable import Storage

/// One save is one version: the first half of the table of `design.md` section 4.
@Suite struct SaveTests {
    @Test func aNewFileIsCreatedOnce() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", "a")
            #expect(try test.log() == ["created /a.md"])
            let memory = try test.memory("/a.md")
            #expect(memory.created == memory.updated)
            #expect(memory.contentSHA256 == Digest(of: bytes("a")).hex)
            Invariants.expect(test.store)
        }
    }

    @Test func anEmptyFileIsAMemoryToo() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", "")
            #expect(try test.memory("/a.md").contentSHA256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            try test.reopen()
            #expect(try test.memory("/a.md").sizeInBytes == 0)
            Invariants.expect(test.store)
        }
    }

    @Test func eachSaveIsAVersionUnderOneID() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.save("/f", "two")
            try mount.append("/f", " and three")
            let number = try mount.number("/f")
            try mount.truncate(number, to: 3)
            mount.close(number)
            #expect(try test.memory("/f").id == id)
            #expect(try test.log() == ["created /f", "modified /f", "modified /f", "modified /f"])
            #expect(try test.versions().map { try text(test.store.content(of: $0)!) } == ["one", "two", "two and three", "two"])
            Invariants.expect(test.store)
        }
    }

    @Test func manyWritesBeforeOneCloseAreOneVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.create("/f")
            for place in 0..<100 { try mount.pwrite(number, bytes("line \(place)\n"), at: 0, append: true) }
            mount.close(number)
            #expect(try test.log() == ["created /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func savesThatWaitTogetherAreSealedApart() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for place in 0..<20 { try mount.save("/f", "content \(place)") }
            // Nothing was sealed so far: each close was taken in by the write after it.
            #expect(try test.log().count == 20)
            #expect(try test.versions().map { try text(test.store.content(of: $0)!) } == (0..<20).map { "content \($0)" })
            Invariants.expect(test.store)
        }
    }

    @Test func theSameBytesAreNoVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "same")
            _ = try test.log()
            try mount.save("/f", "same")
            try mount.append("/f", "")
            // Several at once, sealed together.
            let repeated = String(repeating: "same again and again\n", count: 50)
            for _ in 0..<3 { try mount.save("/g", repeated) }
            #expect(try test.log() == ["created /f", "created /g"])
            #expect(try mount.read("/g") == repeated)
            Invariants.expect(test.store)
        }
    }

    @Test func theSameBytesOfALargeFileAreNoVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 3)
            let content = random.text(200_000)
            let number = try mount.save("/f", content)
            _ = try test.log()
            try mount.save("/f", content)
            #expect(try test.log() == ["created /f"])
            try mount.pwrite(number, Array(content[70_000..<70_010]), at: 70_000)
            mount.close(number)
            // Several at once, sealed together.
            for _ in 0..<2 { try mount.save("/f", content) }
            #expect(try test.log() == ["created /f"])
            try mount.append("/f", "new")
            for _ in 0..<2 { try mount.save("/f", content) }
            #expect(try test.log() == ["created /f", "modified /f", "modified /f"])
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try mount.contents("/f") == content)
            Invariants.expect(test.store)
        }
    }

    @Test func attributesAreNoVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "x")
            _ = try test.log()
            try mount.chmod("/f", 0o600)
            var change = AttributeChange()
            change.modified = .at(1_000_000_000)
            change.uid = 7
            _ = try test.store.setAttributes(change, of: mount.number("/f"), seen: .irrelevant, by: mount.caller)
            #expect(try test.log() == ["created /f"])
            try test.reopen()
            let attributes = try mount.attributes("/f")
            #expect(attributes.mode & 0o7777 == 0o600 && attributes.uid == 7 && attributes.modified == 1_000_000_000)
            Invariants.expect(test.store)
        }
    }

    @Test func aTruncationWaitsForItsWriter() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/notes.md", "old")
            _ = try test.log()
            let number = try mount.number("/notes.md")
            try mount.truncate(number, to: 0)
            // `slow_cmd > notes.md`: an hour later.
            try test.state { state in
                state.closeQuietSaves(at: StoreState.monotonic() + 3_600_000_000_000)
                try state.sealQueued()
            }
            #expect(try test.log() == ["created /notes.md"])
            #expect(try test.memory("/notes.md").sizeInBytes == 3)
            try mount.pwrite(number, bytes("new"), at: 0)
            mount.close(number)
            #expect(try test.log() == ["created /notes.md", "modified /notes.md"])
        }
    }

    @Test func aLongSaveIsSealedAfterThirtySeconds() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/log", "a")
            _ = try test.log()
            let number = try mount.number("/log")
            try mount.pwrite(number, bytes("b"), at: 1)
            test.state { $0.closeQuietSaves(at: StoreState.monotonic() + 29_000_000_000) }
            #expect(try test.log().count == 1)
            test.state { $0.closeQuietSaves(at: StoreState.monotonic() + 31_000_000_000) }
            #expect(try test.log().count == 2)
            try mount.pwrite(number, bytes("c"), at: 2)
            mount.close(number)
            #expect(try test.log().count == 3)
            #expect(try mount.read("/log") == "abc")
            Invariants.expect(test.store)
        }
    }

    @Test func quietSealsWhereNoCloseIsHeard() throws {
        try TestStore.with { test in
            let mount = try test.mount(hearsCloses: false)
            let number = try mount.create("/f")
            try mount.pwrite(number, bytes("a"), at: 0)
            test.state { $0.closeQuietSaves(at: StoreState.monotonic() + 1_000_000_000) }
            #expect(try test.log() == [])
            test.state { $0.closeQuietSaves(at: StoreState.monotonic() + 2_100_000_000) }
            #expect(try test.log() == ["created /f"])
        }
    }

    @Test func anotherMountsWriteEndsTheSave() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2)
            let number = try one.create("/f")
            try one.pwrite(number, bytes("one "), at: 0)
            try other.pwrite(number, bytes("two "), at: 0, append: true)
            try one.pwrite(number, bytes("three"), at: 0, append: true)
            one.close(number)
            other.close(number)
            #expect(try test.log() == ["created /f", "modified /f", "modified /f"])
            #expect(try test.versions().map(\.author.actor.id) == ["user_1", "user_2", "user_1"])
            #expect(try one.read("/f") == "one two three")
            Invariants.expect(test.store)
        }
    }

    @Test func anAPIWriteEndsTheSave() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "a")
            let id = try test.memory("/f").id
            let number = try mount.number("/f")
            try mount.pwrite(number, bytes("b"), at: 0)
            try test.store.commit(.update(id, content: bytes("c"), path: nil), by: Author(.local))
            #expect(try test.versions().map { try text(test.store.content(of: $0)!) } == ["a", "b", "c"])
            #expect(try test.versions().map(\.author.actor.id) == ["user_1000", "user_1000", "apikey_local"])
            Invariants.expect(test.store)
        }
    }

    @Test func anAPIReadDoesNotCutASave() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "sealed")
            _ = try test.log()
            let number = try mount.number("/f")
            try mount.pwrite(number, bytes("open"), at: 0)
            let memory = try test.memory("/f")
            #expect(try text(test.store.content(of: memory)) == "sealed")
            #expect(try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).count == 1)
            try mount.pwrite(number, bytes("!"), at: 4)
            mount.close(number)
            #expect(try text(test.store.content(of: test.memory("/f"))) == "open!d")
            #expect(try test.log().count == 2)
        }
    }

    @Test func detachingSealsWhatAMountLeftOpen() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.create("/f")
            try mount.pwrite(number, bytes("x"), at: 0)
            try test.store.detach(mount.origin)
            #expect(try test.log() == ["created /f"])
        }
    }

    @Test func aVersionSaysWho() throws {
        try TestStore.with { test in
            let mount = try test.mount(uid: 501, session: "sesn_01abc")
            try mount.save("/f", "x")
            let author = try #require(test.versions().first).author
            #expect(author.actor == .session("sesn_01abc"))
            #expect(author.writer == Writer(uid: 501, pid: 101, command: "process-101"))
            let unnamed = Caller(origin: mount.origin, uid: 501, gid: 501, pid: 0)
            _ = try bytes("y").withUnsafeBytes {
                try test.store.write($0, to: mount.number("/f"), at: 0, append: false, seen: .irrelevant, by: unnamed)
            }
            try test.settleAll()
            #expect(try test.versions().last?.author.writer == Writer())
        }
    }

    @Test func appendsOfTwoMountsLoseNothing() throws {
        try TestStore.with { test in
            let mounts = [try test.mount(), try test.mount()]
            let number = try mounts[0].create("/log")
            for place in 0..<50 { for mount in mounts { try mount.pwrite(number, bytes("\(place)\n"), at: 0, append: true) } }
            for mount in mounts { mount.closeAll() }
            let expected = (0..<50).flatMap { [$0, $0] }.map { "\($0)\n" }.joined()
            #expect(try mounts[1].read("/log") == expected)
            #expect(try test.log().count == 100)
            #expect(try mounts[1].read("/log") == expected)
            Invariants.expect(test.store)
        }
    }

    // MARK: Sizes around the edges of chunks

    @Test(arguments: [1, 4_096, 65_535, 65_536, 65_537, 131_072, 200_000, 300_001])
    func contentOfEachSizeComesBack(_ size: Int) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: UInt64(size))
            var content = random.text(size)
            try mount.save("/f", content)
            #expect(try mount.contents("/f") == content)
            try test.settleAll()
            #expect(try mount.contents("/f") == content)
            let number = try mount.number("/f")
            for _ in 0..<6 {
                let offset = random.below(size)
                let piece = random.text(1 + random.below(80_000))
                try mount.pwrite(number, piece, at: Int64(offset))
                content = Model.write(piece, at: offset, to: content)
                if random.chance(50) {
                    let cut = random.below(content.count + 1)
                    try mount.truncate(number, to: Int64(cut))
                    content.removeSubrange(cut...)
                }
                if content.count == 0 { break }
                mount.close(number)
                if random.chance(60) { try test.settleAll() }
                #expect(try mount.contents("/f") == content)
            }
            try test.settleAll()
            try test.reopen()
            #expect(try mount.contents("/f") == content)
            Invariants.expect(test.store)
        }
    }

    @Test func aShortFirstChunkOfAGrownFileIsReadAfterShrinking() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.save("/f", "short")
            for size in [200_000, 65_536, 70_000, 65_536, 10] as [Int64] {
                try test.settleAll()
                try mount.truncate(number, to: size)
                mount.close(number)
                try test.settleAll()
                #expect(try mount.contents("/f") == bytes("short") + [UInt8](repeating: 0, count: Int(size) - 5))
                let memory = try test.memory("/f")
                #expect(try test.store.content(of: memory).count == Int(size))
                #expect(try Digest(of: mount.contents("/f")).hex == memory.contentSHA256)
            }
            Invariants.expect(test.store)
        }
    }

    @Test func holesReadAsZerosAndAreFound() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.create("/f")
            try mount.pwrite(number, bytes("end"), at: 300_000)
            for _ in 0..<2 {
                #expect(try mount.contents("/f") == [UInt8](repeating: 0, count: 300_000) + bytes("end"))
                #expect(try test.store.seek(number, from: 0, toHole: true) == 0)
                let data = try #require(try test.store.seek(number, from: 0, toHole: false))
                #expect(data > 200_000 && data <= 300_000)
                #expect(try test.store.seek(number, from: 300_003, toHole: false) == nil)
                try test.settleAll()
            }
            try mount.pwrite(number, [UInt8](repeating: 1, count: 100_000), at: 0)
            try mount.punch(number, 10, 90_000)
            mount.close(number)
            let expected =
                Array(repeating: 1, count: 10) + [UInt8](repeating: 0, count: 90_000 - 10 + 10) + [UInt8](repeating: 1, count: 10_000 - 10)
            for _ in 0..<2 {
                #expect(try mount.contents("/f")[0..<100_000] == expected[0..<100_000])
                try test.settleAll()
            }
            Invariants.expect(test.store)
        }
    }

    /// A large file is not held in memory while it is written, and comes back.
    @Test func aLargeSaveIsNotHeldInMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 59)
            let number = try mount.create("/large")
            var content: [UInt8] = []
            // Pieces of odd sizes, so that chunks are put together from several.
            while content.count < 6_000_000 {
                let piece = random.text(131_072 - (random.chance(20) ? 1 : 0))
                try mount.pwrite(number, piece, at: Int64(content.count))
                content += piece
            }
            let resident = test.state { state in
                state.inodes[number]!.drafts!.saves.reduce(0) { sum, save in sum + save.extents.reduce(0) { $0 + ($1.bytes?.count ?? 0) } }
            }
            #expect(resident <= 256 << 10)
            #expect(try mount.contents("/large") == content)
            mount.close(number)
            try mount.pwrite(number, bytes("more"), at: 3)
            mount.close(number)
            try test.settleAll()
            #expect(try test.log() == ["created /large", "modified /large"])
            let first = try test.store.content(of: test.versions()[0])
            #expect(first == content)
            #expect(try mount.contents("/large") == Model.write(bytes("more"), at: 3, to: content))
            Invariants.expect(test.store)
        }
    }

    @Test func whatIsStoredOfAFileIsCountedWithoutItsHoles() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            func stored(_ path: String) throws -> Int64 { try mount.attributes(path).storedBytes }
            let number = try mount.create("/f")
            try mount.truncate(number, to: 10 << 20)
            #expect(try stored("/f") == 0)
            try mount.pwrite(number, [UInt8](repeating: 1, count: 100), at: 5 << 20)
            try mount.pwrite(number, [UInt8](repeating: 2, count: 100), at: 10 << 20)
            #expect(try stored("/f") == 200)
            mount.close(number)
            try test.settleAll()
            // The chunk in the middle is whole, the last one is short.
            #expect(try stored("/f") == (64 << 10) + 100)
            try mount.pwrite(number, [UInt8](repeating: 3, count: 100), at: 10 << 20)
            #expect(try stored("/f") == (64 << 10) + 200)
            try mount.truncate(number, to: 1_000)
            #expect(try stored("/f") <= 1_000)
            mount.close(number)
            try test.settleAll()
            try mount.save("/small", "small")
            #expect(try stored("/small") == 5)
            try mount.append("/small", "er")
            #expect(try stored("/small") == 7)
            try test.reopen()
            #expect(try stored("/small") == 7)
            #expect(try test.store.attributes(of: 1).storedBytes == 2)
        }
    }

    // MARK: Limits

    @Test func limitsHoldBelowTheMount() throws {
        var policy = Policy()
        policy.maxBytesPerMemory = 100_000
        policy.maxBytes = 150_000
        policy.maxMemories = 3
        try TestStore.with(policy: policy) { test in
            let mount = try test.mount()
            let number = try mount.create("/a")
            try mount.pwrite(number, [UInt8](repeating: 1, count: 100_000), at: 0)
            #expect(RemfsError.code { try mount.pwrite(number, [1], at: 100_000) } == .tooLarge)
            let second = try mount.create("/b")
            #expect(RemfsError.code { try mount.pwrite(second, [UInt8](repeating: 1, count: 60_000), at: 0) } == .quota)
            try mount.create("/c")
            #expect(RemfsError.code { try mount.create("/d") } == .storeFull)
            #expect(RemfsError.code { _ = try test.create("/e", "x") } == .storeFull)
            // Working files are no memories.
            try mount.save("/d~", "working")
            try mount.mkdir("/.git")
            try mount.save("/.git/HEAD", "ref")
            mount.closeAll()
            try mount.unlink("/d~")
            try mount.unlink("/c")
            try mount.create("/d")
            Invariants.expect(test.store)
        }
    }

    @Test func aReadOnlyMountOrStoreRefusesEverything() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.save("/a", "x")
            try mount.mkdir("/d")
            try test.settleAll()
            let before = try test.tree()
            func refusals() -> [RemfsError.Code?] {
                [
                    RemfsError.code { try mount.create("/b") }, RemfsError.code { try mount.pwrite(number, [1], at: 0) },
                    RemfsError.code { try mount.truncate(number, to: 0) }, RemfsError.code { try mount.unlink("/a") },
                    RemfsError.code { try mount.rename("/a", "/b") }, RemfsError.code { try mount.link("/a", "/b") },
                    RemfsError.code { try mount.rmdir("/d") }, RemfsError.code { try mount.chmod("/a", 0) },
                    RemfsError.code { try mount.punch(number, 0, 1) },
                ]
            }
            mount.origin.isReadOnly.store(true, ordering: .releasing)
            #expect(refusals().allSatisfy { $0 == .readOnly })
            mount.origin.isReadOnly.store(false, ordering: .releasing)
            try test.store.setRules(Policy(), isArchived: true, name: "test")
            #expect(refusals().allSatisfy { $0 == .readOnly })
            #expect(RemfsError.code { _ = try test.create("/b", "") } == .readOnly)
            #expect(test.store.access == .readOnly)
            #expect(try test.tree() == before)
            // An archived store lets memories go.
            try test.store.commit(.delete(test.memory("/a").id), by: Author(.local))
            #expect(try test.log().last == "deleted /a")
        }
    }

    // MARK: Time

    @Test func historyNeverRunsBackwards() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "one")
            try test.settleAll()
            // The clock was a day ahead when the last version was made.
            let ahead = StoreState.monotonic() / 1_000 + 4_000_000_000_000_000
            test.state { $0.lastVersionTime = ahead }
            try mount.save("/a", "two")
            try test.settleAll()
            #expect(try test.versions().last?.created.microseconds == ahead + 1)
            try test.reopen()
            try mount.save("/a", "three")
            try mount.save("/b", "new")
            try mount.unlink("/b")
            try test.passTwoSeconds()
            let times = try test.versions().map(\.created.microseconds)
            #expect(times == times.sorted() && Set(times).count == times.count)
            #expect(times.last! > ahead)
            Invariants.expect(test.store)
        }
    }
}
