import Glibc
import SQLite
import Testing

@testable import Storage

/// A daemon that is killed loses nothing that it acknowledged: its files are copied as they are, and opened.
@Suite struct RecoveryTests {
    @Test(arguments: 1...4) func everythingAcknowledgedIsThereAfterAKill(_ number: Int) throws {
        let seed = SeededRandom.seed(UInt64(number) * 104_729)
        var random = SeededRandom(seed: seed)
        try TestStore.with { test in
            let mounts = [try test.mount(uid: 1), try test.mount(uid: 2)]
            // What each file must hold, and who wrote last.
            var contents: [String: [UInt8]] = [:]
            var authors: [String: String] = [:]
            for step in 0..<SeededRandom.rounds(60) {
                let place = random.below(2)
                let mount = mounts[place]
                let path = "/\(random.below(6))"
                switch random.below(8) {
                case 0:
                    if contents[path] != nil {
                        try mount.unlink(path)
                        contents[path] = nil
                        authors[path] = nil
                    }
                case 1: mount.closeAll()
                case 2: try test.store.settle()
                case 3: try test.removeOrphans()
                case 4: try test.store.checkpoint(empties: random.chance(50))
                default:
                    let piece = random.text(1 + random.below(random.chance(20) ? 100_000 : 300))
                    let file = try mount.find(path) ?? mount.create(path)
                    let old = contents[path] ?? []
                    let offset = random.below(old.count + 1)
                    try mount.pwrite(file, piece, at: Int64(offset))
                    contents[path] = Model.write(piece, at: offset, to: old)
                    authors[path] = "user_\(place + 1)"
                }
                guard random.chance(35) else { continue }
                try test.withCopyAfterKill { copy in
                    let label = "REMFS_TEST_SEED=\(seed) step \(step)"
                    for (path, content) in contents {
                        let memory = try copy.memory(at: path)
                        let found = try copy.content(of: memory)
                        #expect(found == content, "\(label) \(path)")
                        let author = try copy.version(memory.version).author.actor.id
                        #expect(author == authors[path], "\(label) \(path)")
                    }
                    let listed = try copy.memories(under: "/", depth: 0, after: nil, limit: 100).count
                    #expect(listed == contents.count, "\(label)")
                    Invariants.expect(copy, label)
                }
            }
        }
    }

    @Test func anOpenSaveIsSealedUnderItsAuthor() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 501)
            let other = try test.mount(uid: 502, session: "sesn_01xyz")
            try one.save("/f", "base")
            try test.settleAll()
            let file = try one.number("/f")
            try one.pwrite(file, bytes("one"), at: 0)
            try other.pwrite(file, bytes("two"), at: 4)
            try one.create("/new")
            try test.crash()
            #expect(try test.log("/new") == ["created /new"])
            let versions = try test.versions().filter { $0.path == "/f" }
            #expect(versions.map(\.author.actor.id) == ["user_501", "user_501", "sesn_01xyz"])
            #expect(versions[1].author.writer == Writer(uid: 501, pid: 101, command: "process-101"))
            #expect(try versions.map { try text(test.store.content(of: $0)!) } == ["base", "onee", "oneetwo"])
            Invariants.expect(test.store)
        }
    }

    @Test func aNewFilesWritesAreItsMakers() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 501)
            let other = try test.mount(uid: 502)
            let file = try one.create("/f")
            try one.pwrite(file, bytes("one"), at: 0)
            try other.rename("/f", "/g")
            try test.crash()
            let versions = try test.versions()
            #expect(versions.first?.operation == .created && versions.last?.path == "/g")
            #expect(try text(test.store.content(of: versions.last!)!) == "one")
            Invariants.expect(test.store)
        }
    }

    @Test func aRemovalThatWaitedIsTold() throws {
        try TestStore.with { test in
            let mount = try test.mount(uid: 501)
            for path in ["/a", "/b", "/c"] { try mount.save(path, path) }
            try mount.save("/d", "d")
            _ = try test.memory("/d")
            try mount.link("/b", "/b2")
            try test.settleAll()
            try mount.unlink("/a")
            try mount.unlink("/b")
            try mount.rename("/c", "/c~")
            try mount.save("/d.tmp", "new")
            try mount.rename("/d.tmp", "/d")
            try test.crash()
            #expect(
                try test.log().sorted() == [
                    "created /a", "created /b", "created /b2", "created /c", "created /d", "deleted /a", "deleted /b", "deleted /c",
                    "modified /d",
                ])
            #expect(try test.versions().allSatisfy { $0.author.actor.id == "user_501" })
            #expect(try mount.read("/c~") == "/c" && (try mount.read("/d")) == "new")
            Invariants.expect(test.store)
        }
    }

    /// Clients wait while a successor opens the store, so it takes them up afterwards, bit by bit; what they do meanwhile counts.
    @Test func removalsOfAPredecessorAreTakenUpWhileClientsAreServed() throws {
        try TestStore.with { test in
            let mount = try test.mount(uid: 501)
            let count = 600
            for number in 0..<count { try mount.save("/\(number)", "\(number)") }
            try mount.save("/x", "x")
            try test.settleAll()
            for number in 0..<count { try mount.rename("/\(number)", "/\(number)~") }
            try test.crash(isTakingOver: true)
            #expect(test.state { $0.removals.isEmpty && $0.hasWork && $0.nextRemovalDue == 0 })
            let memory = try test.memory("/x").id
            try mount.rename("/x", "/x~")
            for path in ["/0", "/599"] { #expect(RemfsError.code { _ = try test.memory(path) } == .notFound) }
            _ = try test.store.maintain()
            #expect(test.state { $0.leftRemovals != nil })
            try mount.save("/x", "again")
            try test.settleAll()
            #expect(try test.memory("/x").id == memory)
            #expect(try test.log("/x").last == "modified /x")
            #expect(try test.log().filter { $0.hasPrefix("deleted") }.count == count)
            #expect(try test.versions().allSatisfy { $0.author.actor.id == "user_501" })
            Invariants.expect(test.store)
        }
    }

    @Test func holesAndTruncationsOfAnOpenSaveAreReplayedInOrder() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let file = try mount.save("/f", [UInt8](repeating: 1, count: 100_000))
            try test.settleAll()
            try mount.truncate(file, to: 10)
            try mount.truncate(file, to: 50)
            try mount.pwrite(file, [2, 2, 2], at: 70)
            try mount.punch(file, 0, 5)
            try mount.pwrite(file, [3], at: 1)
            var expected = [UInt8](repeating: 1, count: 10) + [UInt8](repeating: 0, count: 60) + [2, 2, 2]
            for place in 0..<5 { expected[place] = 0 }
            expected[1] = 3
            #expect(try mount.contents("/f") == expected)
            try test.crash()
            #expect(try mount.contents("/f") == expected)
            #expect(try test.store.content(of: test.memory("/f")) == expected)
            Invariants.expect(test.store)
        }
    }

    @Test func numbersAreNeverUsedAgain() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var seen: Set<InodeNumber> = []
            for round in 0..<4 {
                for place in 0..<5 {
                    let number = try mount.create("/\(round)-\(place)")
                    #expect(seen.insert(number).inserted)
                    try mount.unlink("/\(round)-\(place)")
                }
                try test.removeOrphans()
                if round % 2 == 0 { try test.crash() } else { try test.reopen() }
            }
            Invariants.expect(test.store)
        }
    }

    @Test func aBackupIsAStore() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let path = test.directory + "/backup.sqlite"
            try test.store.backup(to: path)
            try mount.save("/f", "two")
            #expect(RemfsError.code { try test.store.backup(to: path) } == .pathConflict)
            let copy = try MemoryStore(
                id: test.id, name: "copy", path: path, policy: Policy(), isArchived: false, isNew: false, environment: TestStore.environment
            )
            #expect(try text(copy.content(of: copy.memory(at: "/f"))) == "one")
            Invariants.expect(copy)
        }
    }

    /// One damaged content answers EIO; it keeps neither the store from opening nor other files from being saved.
    @Test func aDamagedChunkIsNotTheWholeStore() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for path in ["/good", "/bad", "/draft"] { try mount.save(path, String(repeating: path, count: 100)) }
            let version = try #require(
                {
                    try test.settleAll(); return try test.versions().first { $0.path == "/bad" }
                }())
            for path in ["/bad", "/draft"] {
                try test.state { state in
                    guard case .whole(let chunk) = state.find(path)!.content else { throw Failure("not one chunk") }
                    try state.writer.execute("UPDATE extent SET bytes = zeroblob(length(bytes)) WHERE number = \(chunk)")
                }
            }
            // A save that builds on what is damaged, and one that does not.
            let draft = try mount.number("/draft")
            try mount.pwrite(draft, bytes("x"), at: 0, append: true)
            mount.close(draft)
            try mount.save("/good", "new")
            #expect(RemfsError.code { _ = try mount.read("/bad") } == .corrupted)
            #expect(RemfsError.code { _ = try test.store.content(of: version) } == .corrupted)
            for _ in 0..<2 {
                #expect(try mount.read("/good") == "new")
                #expect(try text(test.store.content(of: test.memory("/good"))) == "new")
                #expect(RemfsError.code { _ = try mount.read("/draft") } == .corrupted)
                try test.crash()
            }
            // What replaces it wholly is fine again.
            try mount.save("/bad", "repaired")
            #expect(try text(test.store.content(of: test.memory("/bad"))) == "repaired")
            try mount.unlink("/draft")
            try test.settleAll()
            #expect(try mount.names("/") == ["bad", "good"])
        }
    }

    /// Each daemon writes too little for a checkpoint before the next kill: otherwise the journal would grow until it fills the disk, and
    /// each successor would have more of it to read.
    @Test func aJournalThatGrowsFromDaemonToDaemonIsMoved() throws {
        try TestStore.with { test in
            var lives = 0
            while !test.state({ $0.needsCheckpoint }) {
                lives += 1
                try #require(lives < 20, "the journal grows for ever")
                try test.crash(isTakingOver: true)
                for number in 0..<20 { _ = try test.create("/\(lives)-\(number)", String(repeating: "\(lives) \(number) ", count: 15_000)) }
            }
            #expect(lives > 3)
            try test.store.checkpoint()
            #expect(!test.state { $0.needsCheckpoint })
            // Written over from its start.
            _ = try test.create("/again", "")
            #expect(test.state { $0.writer.committedFrames } < 100)
            #expect(!test.state { $0.needsCheckpoint })
        }
    }
}
