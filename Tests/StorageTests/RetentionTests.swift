import Foundation
import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// Old versions go, the newest ten of what is there stay, and so do pinned ones; the file gets smaller.
@Suite struct RetentionTests {
    private static let author = Author(.local)
    private static let day: Int64 = 86_400_000_000

    // MARK: The rule

    private func rows(_ count: Int, pinned: Set<Int> = [], deleted: Bool = false) -> [Retention.Row] {
        (1...count).map { place in
            Retention.Row(
                number: Int64(place), began: Int64(place), isPinned: pinned.contains(place), isDeletion: deleted && place == count)
        }
    }

    @Test func theNewestTenOfWhatIsThereStay() {
        #expect(Retention.doomed(rows(10), before: 100, newest: 99) == [])
        #expect(Retention.doomed(rows(13), before: 100, newest: 99) == [1, 2, 3])
        #expect(Retention.doomed(rows(13), before: 3, newest: 99) == [1, 2])
        #expect(Retention.doomed(rows(13), before: 1, newest: 99) == [])
        #expect(Retention.doomed(rows(13, pinned: [2]), before: 100, newest: 99) == [1, 3])
        #expect(Retention.doomed([], before: 100, newest: 99) == [])
    }

    @Test func ofWhatWasDeletedAllGoesButTheEndGoesLast() {
        #expect(Retention.doomed(rows(4, deleted: true), before: 100, newest: 99) == [1, 2, 3, 4])
        #expect(Retention.doomed(rows(4, deleted: true), before: 4, newest: 99) == [1, 2, 3])
        #expect(Retention.doomed(rows(4, pinned: [2], deleted: true), before: 100, newest: 99) == [1, 3])
        // The store's last version: the time of the next one follows from it.
        #expect(Retention.doomed(rows(4, deleted: true), before: 100, newest: 4) == [1, 2, 3])
    }

    @Test func eachStoreHasItsTurnOnceADay() {
        let stores = (1...3).map { StoreID(bits: UInt128($0)) }
        var schedule = RetentionSchedule(from: 0)
        let start = RetentionSchedule.pause
        #expect(!schedule.isDue(at: start - 1) && schedule.isDue(at: start))
        #expect((0..<3).map { _ in schedule.next(of: stores, at: start) } == stores)
        #expect(schedule.isDue(at: start))
        #expect(schedule.next(of: stores, at: start) == nil)
        #expect(!schedule.isDue(at: start + 1))
        #expect(schedule.next(of: stores, at: start + RetentionSchedule.day) == stores[0])
        // One that is new has not to wait for the others' day.
        #expect(schedule.next(of: [stores[0], StoreID(bits: 9)], at: start + RetentionSchedule.day) == StoreID(bits: 9))
    }

    // MARK: In a store

    /// A store of which the clock can be put forward.
    private func with(days: Int?, _ body: (TestStore, (Int64) -> Void) throws -> Void) throws {
        var policy = Policy()
        policy.retentionDays = days
        try TestStore.with(policy: policy) { test in
            let offset = Mutex<Int64>(0)
            test.state { $0.clockOffset = { offset.withLock { $0 } } }
            try body(test) { days in offset.withLock { $0 += days * Self.day * 1_000 } }
        }
    }

    private func expectSound(_ test: TestStore, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let diagnosis = try test.store.check()
        #expect(diagnosis.isSound, "\(diagnosis.findings)", sourceLocation: sourceLocation)
        Invariants.expect(test.store, sourceLocation: sourceLocation)
    }

    @Test func oldVersionsGoAndTheFileGetsSmaller() throws {
        try with(days: 30) { test, pass in
            var random = SeededRandom(seed: 3)
            let memory = try test.create("/a.md", "")
            let deleted = try test.create("/b.md", text(random.text(50_000)))
            var contents: [[UInt8]] = [[]]
            for _ in 0..<40 {
                // Nothing in common, so that each takes its room.
                contents.append((0..<60_000).map { _ in UInt8(97 + random.below(26)) })
                _ = try test.store.commit(.update(memory.id, content: contents.last!, path: nil), by: Self.author)
            }
            _ = try test.store.commit(.delete(deleted.id), by: Self.author)
            try test.settleAll()
            try test.tidyAll()
            let versions = try test.versions()
            let pinned = try test.store.pin(versions[5].id, true)
            #expect(pinned.isPinned && versions.count == 43)
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 0)
            #expect(try test.store.historyBegins() == nil)
            pass(31)
            try test.store.settle()
            _ = try test.store.commit(.update(memory.id, content: bytes("now"), path: nil), by: Self.author)

            let plan = try test.store.collectGarbage(isDryRun: true)
            #expect(try test.versions().count == 44)
            // 42 of /a.md less ten and one that is pinned; both of /b.md.
            #expect(plan.versions == 33 && plan.memories == 1 && plan.bytes > 30 * 60_000 && plan.fileBytesAfter == plan.fileBytesBefore)
            var status = stat()
            try #require(stat(test.store.path, &status) == 0)
            let before = status.st_size
            let done = try test.store.collectGarbage(isDryRun: false)
            #expect(done.versions == plan.versions && done.memories == plan.memories && done.bytes == plan.bytes)
            try #require(stat(test.store.path, &status) == 0)
            #expect(Int64(status.st_size) < Int64(before) - plan.bytes * 9 / 10, "\(before) to \(status.st_size)")
            #expect(done.fileBytesAfter < done.fileBytesBefore - plan.bytes * 9 / 10)

            let left = try test.versions()
            #expect(left.count == 11 && left[0].number == pinned.number)
            #expect(try test.store.content(of: left[0]) == contents[4])
            #expect(try test.store.content(of: left[1]) == contents[32])
            try expectSound(test)
            let begins = try #require(try test.store.historyBegins())
            // What is not known any more is not taken for what was not there.
            let early = StorePoint.time(Timestamp(microseconds: begins.microseconds - 1))
            for point in [early, .version(pinned.id)] {
                let code = RemfsError.code { _ = try test.store.restore(to: point, .prefix("/"), by: Self.author) }
                #expect(code == .notFound)
                #expect(RemfsError.code { _ = try test.store.export(at: point) { _ in } } == .notFound)
            }
            #expect(try test.store.export(at: .time(begins)) { _ in } == 1)
            #expect(try test.versions().count == 11)
            // A second time there is nothing to do.
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 0)
            #expect(RemfsError.code { _ = try test.store.version(versions[2].id) } == .notFound)
            try test.reopen()
            try expectSound(test)
            #expect(try test.store.pin(pinned.id, false).isPinned == false)
        }
    }

    @Test func withoutARetentionNothingGoesAndRoomComesBack() throws {
        try with(days: nil) { test, pass in
            var random = SeededRandom(seed: 4)
            let mount = try test.mount()
            try mount.save("/big.tmp~", random.text(400_000))
            try mount.save("/a.md", "one")
            try mount.save("/a.md", "two")
            try test.settleAll()
            try mount.unlink("/big.tmp~")
            try test.settleAll()
            pass(10_000)
            let done = try test.store.collectGarbage(isDryRun: false)
            #expect(done.versions == 0 && done.fileBytesAfter < done.fileBytesBefore - 300_000)
            #expect(try test.versions().count == 2)
            try expectSound(test)
        }
    }

    @Test func upkeepAppliesIt() throws {
        try with(days: 1) { test, pass in
            let memory = try test.create("/a.md", "0")
            for place in 1...14 {
                _ = try test.store.commit(.update(memory.id, content: bytes("\(place)"), path: nil), by: Self.author)
            }
            pass(2)
            try test.store.applyRetention()
            #expect(try test.versions().count == 10)
            #expect(text(try test.store.content(of: test.memory("/a.md"))) == "14")
            try expectSound(test)
        }
    }

    /// A file whose version goes while somebody has it open reads on.
    @Test func anOpenFileOutlivesItsVersions() throws {
        try with(days: 1) { test, pass in
            let mount = try test.mount()
            let number = try mount.save("/a.md", "still here\n")
            try test.store.settle()
            mount.hold(number)
            try mount.unlink("/a.md")
            try test.settleAll()
            try mount.save("/b.md", "another\n")
            try test.settleAll()
            pass(2)
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 2)
            #expect(try test.store.read(number, offset: 0, count: 100) { bytes, _ in text(Array(bytes)) } == "still here\n")
            try expectSound(test)
            try test.crash(isTakingOver: true)
            #expect(try test.store.read(number, offset: 0, count: 100) { bytes, _ in text(Array(bytes)) } == "still here\n")
            mount.letGo(number)
            try test.settleAll()
            try expectSound(test)
        }
    }

    @Test(arguments: 1...3) func whateverWasWrittenTheStoreStaysSound(_ number: Int) throws {
        try with(days: 1) { test, pass in
            let seed = SeededRandom.seed(UInt64(number))
            var random = SeededRandom(seed: seed)
            let mount = try test.mount()
            for step in 0..<SeededRandom.rounds(150) {
                let path = "/f\(random.below(5))"
                switch random.below(12) {
                case 0: if try mount.find(path) != nil { try mount.unlink(path) }
                case 1: if try mount.find(path) != nil { try mount.rename(path, "/f\(random.below(5))") }
                case 2: if try mount.find(path) != nil, try mount.find("/l\(step)") == nil { try mount.link(path, "/l\(step)") }
                case 3:
                    try test.store.settle()
                    if let version = try test.versions().randomElement(using: &random) {
                        _ = try test.store.pin(version.id, random.chance(60))
                    }
                case 4:
                    if let version = try test.versions().randomElement(using: &random) {
                        let code = RemfsError.code { _ = try test.store.redact(version.id, by: Self.author) }
                        #expect(code == nil || code == .invalidArgument, "REMFS_TEST_SEED=\(seed)")
                    }
                case 5:
                    pass(1)
                    try test.store.settle()
                    try test.store.applyRetention()
                case 6: try test.tidyAll()
                case 7: try test.settleAll()
                default: try mount.save(path, random.text(random.below(9_000)))
                }
            }
            try test.settleAll()
            _ = try test.store.collectGarbage(isDryRun: false)
            let diagnosis = try test.store.check()
            #expect(diagnosis.isSound, "REMFS_TEST_SEED=\(seed): \(diagnosis.findings)")
            Invariants.expect(test.store, "REMFS_TEST_SEED=\(seed)")
            try test.reopen()
            try expectSound(test)
        }
    }

    /// Also of stores that nobody has open.
    @Test func upkeepKnowsWhichStoresGiveVersionsUp() throws {
        try TemporaryDirectory.with { directory in
            let pool = try StorePool(stateDirectory: directory + "/state", logger: TestStore.environment.logger)
            defer { pool.close() }
            let ids = try (0..<3).map { try pool.createStore(name: "\($0)", description: "", metadata: [:]).id }
            #expect(try pool.catalog.storesWithRetention() == [])
            for id in [ids[2], ids[0]] {
                var policy = Policy()
                policy.retentionDays = 3
                _ = try pool.setPolicy(id, policy)
            }
            #expect(try pool.catalog.storesWithRetention() == [ids[0], ids[2]])
            _ = try pool.setPolicy(ids[0], Policy())
            #expect(try pool.catalog.storesWithRetention() == [ids[2]])
        }
    }

    // MARK: Memory by memory

    /// Updates a memory so often that its first versions are too many once they are old.
    private func fill(_ test: TestStore, _ path: String, _ count: Int) throws -> Memory {
        var memory = try test.create(path, "\(path) 0")
        for place in 1..<count {
            memory = try #require(
                try test.store.commit(.update(memory.id, content: bytes("\(path) \(place)"), path: nil), by: Self.author))
        }
        return memory
    }

    @Test func whatIsCompleteGoesBackThoughOtherThingsAreNot() throws {
        try with(days: 1) { test, pass in
            let whole = try test.create("/whole/a.md", "first")
            let busy = try fill(test, "/busy/b.md", 14)
            let then = test.store.now()
            for place in 0..<14 {
                _ = try test.store.commit(.update(busy.id, content: bytes("later \(place)"), path: nil), by: Self.author)
            }
            _ = try test.store.commit(.update(whole.id, content: bytes("second"), path: nil), by: Self.author)
            let young = try test.create("/young.md", "new")
            pass(2)
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 18)
            #expect(try test.store.historyBegins() == nil, "something is left of each")
            let point = StorePoint.time(then)
            func code(_ scope: StoreScope) -> RemfsError.Code? {
                RemfsError.code { _ = try test.store.restore(to: point, scope, isDryRun: true, by: Self.author) }
            }
            for scope in [StoreScope.prefix("/"), .prefix("/busy/"), .path("/busy/b.md"), .memory(busy.id)] {
                #expect(code(scope) == .notFound, "\(scope)")
                #expect(
                    RemfsError.code { _ = try StoreComparison(test.store, at: point, with: test.store, at: .now, scope) } == .notFound,
                    "\(scope)")
            }
            for scope in [StoreScope.prefix("/whole/"), .path("/whole/a.md"), .memory(whole.id), .memory(young.id), .path("/young.md")] {
                #expect(code(scope) == nil, "\(scope)")
            }
            #expect(RemfsError.code { _ = try test.store.export(at: point) { _ in } } == .notFound)
            // Before it was there, nothing of it is missing; nor is anything once its oldest version is left.
            let first = try #require(try test.versions().first)
            #expect(try test.store.export(at: .version(first.id)) { _ in } == 1)
            let oldest = try #require(try test.versions().first { $0.memory == busy.id })
            #expect(try test.store.export(at: .version(oldest.id)) { _ in } == 2)
            _ = try test.store.restore(to: point, .prefix("/whole/"), by: Self.author)
            #expect(text(try test.store.content(of: test.memory("/whole/a.md"))) == "first")
            try test.reopen()
            #expect(code(.prefix("/busy/")) == .notFound)
            try expectSound(test)
        }
    }

    @Test func whatMayHaveBeenSomewhereElseIsMissedThere() throws {
        try with(days: 1) { test, pass in
            let moved = try test.create("/in/a.md", "0")
            _ = try test.create("/in/other.md", "other")
            _ = try test.store.commit(.update(moved.id, content: nil, path: MemoryPath("/out/a.md")), by: Self.author)
            let then = test.store.now()
            for place in 0..<12 {
                _ = try test.store.commit(.update(moved.id, content: bytes("later \(place)"), path: nil), by: Self.author)
            }
            pass(2)
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 4)
            for scope in [StoreScope.prefix("/in/"), .path("/in/a.md"), .prefix("/elsewhere/")] {
                let code = RemfsError.code { _ = try test.store.restore(to: .time(then), scope, isDryRun: true, by: Self.author) }
                #expect(code == .notFound, "\(scope): one of them had another path")
            }
            try expectSound(test)
        }
    }

    /// It might have been anywhere.
    @Test func ofWhatIsForgottenNobodyKnowsWhereItWas() throws {
        try with(days: 1) { test, pass in
            let gone = try test.create("/a/gone.md", "x")
            let kept = try test.create("/b/kept.md", "one")
            let then = test.store.now()
            _ = try test.store.commit(.update(kept.id, content: bytes("two"), path: nil), by: Self.author)
            _ = try test.store.commit(.delete(gone.id), by: Self.author)
            let after = test.store.now()
            _ = try test.store.commit(.update(kept.id, content: bytes("three"), path: nil), by: Self.author)
            pass(2)
            #expect(try test.store.collectGarbage(isDryRun: false).memories == 1)
            func code(_ time: Timestamp, _ scope: StoreScope) -> RemfsError.Code? {
                RemfsError.code { _ = try test.store.restore(to: .time(time), scope, isDryRun: true, by: Self.author) }
            }
            #expect(code(then, .prefix("/b/")) == .notFound && code(then, .path("/b/kept.md")) == .notFound)
            #expect(code(then, .memory(kept.id)) == nil && code(after, .prefix("/")) == nil)
            try expectSound(test)
        }
    }

    // MARK: Files of before

    private static let undoSixth = "DROP TABLE past; ALTER TABLE version DROP COLUMN secrets"
    private static let undoFifth =
        "DROP TABLE copy; DROP INDEX version_by_gap; ALTER TABLE version DROP COLUMN gap; ALTER TABLE version DROP COLUMN strayed"

    /// What an older remfs gave up, it kept no account of but that it did.
    @Test func gapsOfBeforeAreTakenForTheWorst() throws {
        try with(days: 1) { test, pass in
            _ = try fill(test, "/busy/b.md", 14)
            let then = test.store.now()
            _ = try fill(test, "/c.md", 14)
            pass(2)
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 8)
            try test.store.close()
            let old = try Connection(path: test.store.path, mode: .readWrite)
            try old.execute("\(Self.undoSixth); \(Self.undoFifth); PRAGMA user_version = 4")
            _ = try old.checkpoint(.truncate)
            try test.reopenClosed()
            func code(_ point: StorePoint, _ scope: StoreScope) -> RemfsError.Code? {
                RemfsError.code { _ = try test.store.restore(to: point, scope, isDryRun: true, by: Self.author) }
            }
            #expect(code(.time(then), .prefix("/elsewhere/")) == .notFound && code(.now, .prefix("/")) == nil)
            try expectSound(test)
        }
    }

    /// A file as the schema before this one left it.
    @Test func anOlderFileIsUpgraded() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", "one")
            _ = try test.store.commit(.update(memory.id, content: bytes("two words"), path: nil), by: Self.author)
            try test.store.close()
            let old = try Connection(path: test.store.path, mode: .readWrite)
            let undoFourth = "ALTER TABLE version DROP COLUMN pinned; ALTER TABLE version DROP COLUMN pruned"
            try old.execute("\(Self.undoSixth); \(Self.undoFifth); \(undoFourth); PRAGMA user_version = 3")
            _ = try old.checkpoint(.truncate)
            let store = try MemoryStore(
                id: test.id, name: "test", path: test.store.path, policy: Policy(), isArchived: false, isNew: false,
                environment: TestStore.environment)
            #expect(try store.keptCopies().map { $0.hasSuffix("store.sqlite.schema-3") } == [true])
            let versions = try store.versions(VersionFilter(), before: nil, limit: 10)
            #expect(versions.count == 2 && versions.allSatisfy { !$0.isPinned })
            #expect(try store.pin(versions[1].id, true).isPinned)
            #expect(try store.search(SearchQuery("words"), under: "/", after: 0, limit: 9).hits.map(\.memory.path) == ["/a.md"])
            #expect(try store.redact(versions[1].id, by: Self.author).redacted != nil)
            #expect(try store.keptCopies() == [], "it held what was redacted")
            #expect(try store.check().isSound)
            try store.close()
        }
    }
}
