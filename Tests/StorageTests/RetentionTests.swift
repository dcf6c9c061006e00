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
            #expect(RemfsError.code { try test.store.requireHistory(at: Timestamp(microseconds: begins.microseconds - 1)) } == .notFound)
            try test.store.requireHistory(at: begins)
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

    // MARK: Files of before

    /// A file as the schema before this one left it.
    @Test func anOlderFileIsUpgraded() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", "one")
            _ = try test.store.commit(.update(memory.id, content: bytes("two words"), path: nil), by: Self.author)
            try test.store.close()
            let old = try Connection(path: test.store.path, mode: .readWrite)
            try old.execute("ALTER TABLE version DROP COLUMN pinned; ALTER TABLE version DROP COLUMN pruned; PRAGMA user_version = 3")
            _ = try old.checkpoint(.truncate)
            let store = try MemoryStore(
                id: test.id, name: "test", path: test.store.path, policy: Policy(), isArchived: false, isNew: false,
                environment: TestStore.environment)
            #expect(store.keptCopies().map { $0.hasSuffix("store.sqlite.schema-3") } == [true])
            let versions = try store.versions(VersionFilter(), before: nil, limit: 10)
            #expect(versions.count == 2 && versions.allSatisfy { !$0.isPinned })
            #expect(try store.pin(versions[1].id, true).isPinned)
            #expect(try store.search(SearchQuery("words"), under: "/", after: 0, limit: 9).hits.map(\.memory.path) == ["/a.md"])
            #expect(try store.redact(versions[1].id, by: Self.author).redacted != nil)
            #expect(try store.check().isSound)
            try store.close()
        }
    }
}
