import Foundation
import Testing

@testable import Storage

/// Differences between moments and stores, and going back to a moment.
@Suite struct GoingBackTests {
    // MARK: Differences

    /// Each difference in a word or two.
    private static func told(_ comparison: StoreComparison, limit: Int = 3) throws -> [String] {
        var lines: [String] = []
        var key: DifferenceKey?
        repeat {
            let page = try comparison.page(after: key, limit: limit)
            #expect(page.items.count <= limit)
            for difference in page.items {
                let move = difference.change == .renamed ? " from \(difference.old?.path ?? "")" : ""
                lines.append("\(difference.change) \(difference.path)\(move)\(difference.changesContent ? "" : " only")")
            }
            key = page.next
        } while key != nil
        return lines
    }

    private static func told(
        _ test: TestStore, _ from: StorePoint, _ to: StorePoint = .now, _ scope: StoreScope = .prefix("/")
    ) throws -> [String] {
        try told(StoreComparison(test.store, at: from, with: test.store, at: to, scope))
    }

    @Test func whatChangedBetweenTwoMoments() throws {
        try TestStore.with { test in
            for path in ["/a", "/b", "/d/c", "/d/e", "/same", "/back"] { _ = try test.create(path, "\(path) one\n") }
            let then = StorePoint.time(test.store.now())
            func update(_ path: String, _ content: String?, to newPath: String? = nil) throws {
                try test.store.commit(
                    .update(test.memory(path).id, content: content.map { bytes($0) }, path: newPath.map { try MemoryPath($0) }),
                    by: Author(.local))
            }
            try update("/a", "two\n")
            try test.store.commit(.delete(test.memory("/b").id), by: Author(.local))
            _ = try test.create("/b", "another memory\n")
            try update("/d/c", nil, to: "/d/moved")
            try update("/d/e", "two\n", to: "/f")
            try update("/back", "two\n")
            try update("/back", "/back one\n")
            _ = try test.create("/new", "new\n")
            _ = try test.create("/gone", "gone\n")
            try test.store.commit(.delete(test.memory("/gone").id), by: Author(.local))
            let all = [
                "modified /a", "deleted /b", "created /b", "renamed /d/moved from /d/c only", "renamed /f from /d/e", "created /new",
            ]
            #expect(try Self.told(test, then) == all)
            #expect(try Self.told(test, .now, then).count == all.count, "the other way round")
            #expect(try Self.told(test, .now, then).contains("created /b"))
            #expect(try Self.told(test, then, .now, .prefix("/d/")) == ["renamed /d/moved from /d/c only", "renamed /f from /d/e"])
            #expect(try Self.told(test, then, .now, .path("/a")) == ["modified /a"])
            #expect(try Self.told(test, then, .now, .path("/same")).isEmpty)
            #expect(try Self.told(test, then, .now, .memory(test.memory("/f").id)) == ["renamed /f from /d/e"])
            #expect(try Self.told(test, .now).isEmpty)
            // From before the first version, everything is new.
            #expect(try Self.told(test, .time(Timestamp(microseconds: 0)), then).count == 6)
            let versions = try test.versions()
            #expect(try Self.told(test, .version(versions[0].id), .version(versions[2].id)) == ["created /b", "created /d/c"])
            #expect(RemfsError.code { _ = try Self.told(test, .version(VersionID(store: test.id, number: 1_000_000))) } == .notFound)
        }
    }

    @Test func withoutABeginningItIsTheLastChangeOfOneMemory() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "one\ntwo\n")
            _ = try test.create("/b", "b")
            try test.store.commit(.update(test.memory("/a").id, content: bytes("one\n2\n"), path: nil), by: Author(.local))
            let comparison = try StoreComparison(test.store, at: nil, with: test.store, at: .now, .path("/a"))
            let difference = try #require(try comparison.page(after: nil, limit: 10).items.first)
            #expect(try comparison.hunks(of: difference)?.map(\.header) == ["@@ -1,2 +1,2 @@"])
            let patch = try text(comparison.patch(of: difference) { $0.path })
            #expect(patch == "--- /a\n+++ /a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n")
            #expect(
                RemfsError.code { _ = try StoreComparison(test.store, at: nil, with: test.store, at: .now, .path("/none")) } == .notFound)
            #expect(
                RemfsError.code { _ = try StoreComparison(test.store, at: nil, with: test.store, at: .now, .prefix("/")) }
                    == .invalidArgument)
        }
    }

    @Test func whatIsNoTextIsSaidToDiffer() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/binary", [0, 1, 2])
            try mount.save("/latin", [0xe9])
            try mount.save("/long", [UInt8](repeating: 0x61, count: 1 << 20 + 1))
            try mount.save("/empty", "")
            mount.closeAll()
            try test.settleAll()
            let comparison = try StoreComparison(
                test.store, at: .time(Timestamp(microseconds: 0)), with: test.store, at: .now, .prefix("/"))
            let items = try comparison.page(after: nil, limit: 10).items
            #expect(items.map(\.path) == ["/binary", "/empty", "/latin", "/long"])
            for item in items {
                let patch = try text(comparison.patch(of: item) { $0.path })
                if item.path == "/empty" {
                    #expect(try comparison.hunks(of: item)?.isEmpty == true && patch == "--- /dev/null\n+++ /empty\n")
                } else {
                    #expect(try comparison.hunks(of: item) == nil && patch == "Binary files /dev/null and \(item.path) differ\n")
                }
                #expect(try comparison.contentSHA256(of: #require(item.new)).count == 64)
            }
        }
    }

    @Test func twoStoresAreComparedByPath() throws {
        try TestStore.with { one in
            try TestStore.with { other in
                // Where directories end and names begin matters for the order: all that sorts near a slash.
                let paths = ["/a", "/a.md", "/a-b/c", "/b/c", "/b/c.d", "/b/d/e", "/b-", "/z", "/b/é"]
                for path in paths { _ = try one.create(path, path) }
                for path in paths.reversed() where path != "/a.md" { _ = try other.create(path, path == "/b/d/e" ? "changed" : path) }
                _ = try other.create("/b/d/f", "new")
                _ = try other.create("/0", "new")
                func told(_ scope: StoreScope, limit: Int) throws -> Set<String> {
                    let lines = try Self.told(StoreComparison(one.store, at: .now, with: other.store, at: .now, scope), limit: limit)
                    #expect(Set(lines).count == lines.count)
                    return Set(lines)
                }
                for limit in [1, 2, 100] {
                    #expect(try told(.prefix("/"), limit: limit) == ["deleted /a.md", "modified /b/d/e", "created /b/d/f", "created /0"])
                    #expect(try told(.prefix("/b/"), limit: limit) == ["modified /b/d/e", "created /b/d/f"])
                    #expect(try told(.prefix("/b/d/"), limit: limit) == ["modified /b/d/e", "created /b/d/f"])
                    #expect(try told(.path("/0"), limit: limit) == ["created /0"])
                }
            }
        }
    }

    /// Against a dictionary that was kept aside: random changes, random pairs of moments.
    @Test func differencesAreWhatADictionarySays() throws {
        var random = SeededRandom(seed: SeededRandom.seed(11))
        try TestStore.with { test in
            var now: [String: String] = [:]
            var moments: [(StorePoint, [String: String])] = [(.time(test.store.now()), [:])]
            let paths = ["/a", "/b", "/c/d", "/c/e", "/c/f/g", "/h"]
            for round in 0..<80 {
                let path = random.pick(paths)
                if now[path] != nil {
                    let id = try test.memory(path).id
                    if random.chance(30) {
                        try test.store.commit(.delete(id), by: Author(.local))
                        now[path] = nil
                    } else if let target = paths.first(where: { now[$0] == nil }), random.chance(40) {
                        try test.store.commit(.update(id, content: nil, path: MemoryPath(target)), by: Author(.local))
                        now[target] = now.removeValue(forKey: path)
                    } else {
                        let content = random.chance(30) ? now[path]! : "\(round)\n"
                        try test.store.commit(.update(id, content: bytes(content), path: nil), by: Author(.local))
                        now[path] = content
                    }
                } else {
                    now[path] = random.chance(50) ? "same\n" : "\(round)\n"
                    _ = try test.create(path, now[path]!)
                }
                moments.append((.time(test.store.now()), now))
            }
            for _ in 0..<60 {
                let (from, before) = random.pick(moments)
                let (to, after) = random.pick(moments)
                let comparison = try StoreComparison(test.store, at: from, with: test.store, at: to, .prefix("/"))
                var result = before
                var arriving: [String: String] = [:]
                var key: DifferenceKey?
                repeat {
                    let page = try comparison.page(after: key, limit: 2)
                    for difference in page.items {
                        if let old = difference.old { #expect(result.removeValue(forKey: old.path) != nil) }
                        if let new = difference.new {
                            arriving[new.path] = try text(test.store.content(of: test.store.version(new.version)) ?? [])
                        }
                    }
                    key = page.next
                } while key != nil
                result.merge(arriving) { _, new in new }
                #expect(result == after)
            }
            // And a restore makes it so.
            for _ in 0..<15 {
                let (point, then) = random.pick(moments.dropFirst().map { $0 })
                let planned = try test.store.restore(to: point, .prefix("/"), isDryRun: true, by: Author(.local))
                let count = try test.versions().count
                let done = try test.store.restore(to: point, .prefix("/"), by: Author(.local))
                #expect(planned.counts == done.counts)
                #expect(try test.versions().count == count + done.changes.count)
                var found: [String: String] = [:]
                for case .memory(let memory) in try test.store.memories(under: "/", depth: 0, after: nil, limit: 100) {
                    found[memory.path] = try text(test.store.content(of: memory))
                }
                #expect(found == then)
                Invariants.expect(test.store)
            }
            try test.reopen()
            Invariants.expect(test.store)
        }
    }

    // MARK: Restores

    @Test func aStoreGoesBackToATime() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try test.create("/a", "one")
            _ = try test.create("/d/b", "two")
            _ = try test.create("/c", "three")
            try mount.save("/large", text(SeededRandom.notes(400_000)))
            try test.settleAll()
            let ids = try ["/a", "/d/b", "/c", "/large"].map { try test.memory($0).id }
            let then = StorePoint.time(test.store.now())
            // a and c change places, b goes with its directory, large is cut, and something new is there.
            try mount.rename("/a", "/t")
            try mount.rename("/c", "/a")
            try mount.rename("/t", "/c")
            try test.settleAll()
            try test.store.commit(.delete(test.memory("/d/b").id), by: Author(.local))
            try mount.save("/large", "short")
            try mount.save("/new", "new")
            try test.settleAll()
            try test.tidyAll()
            let outcome = try test.store.restore(to: then, .prefix("/"), by: Author(.local))
            #expect(outcome.counts == [.renamed: 2, .created: 1, .modified: 1, .deleted: 1])
            #expect(try ["/a", "/d/b", "/c", "/large"].map { try test.memory($0).id } == ids)
            #expect(try mount.read("/a") == "one" && mount.read("/c") == "three" && mount.read("/d/b") == "two")
            #expect(try mount.read("/large") == text(SeededRandom.notes(400_000)))
            #expect(try mount.find("/new") == nil)
            Invariants.expect(test.store)
            #expect(try test.store.restore(to: then, .prefix("/"), by: Author(.local)).changes.isEmpty, "nothing is left to do")
            try test.reopen()
            #expect(try mount.read("/large") == text(SeededRandom.notes(400_000)))
            Invariants.expect(test.store)
        }
    }

    @Test func aPartGoesBackAndTheRestStays() throws {
        try TestStore.with { test in
            _ = try test.create("/in/a", "one")
            _ = try test.create("/in/moved", "one")
            _ = try test.create("/out", "one")
            let then = StorePoint.time(test.store.now())
            for path in ["/in/a", "/out"] {
                try test.store.commit(.update(test.memory(path).id, content: bytes("two"), path: nil), by: Author(.local))
            }
            try test.store.commit(.update(test.memory("/in/moved").id, content: nil, path: MemoryPath("/elsewhere")), by: Author(.local))
            _ = try test.create("/in/new", "new")
            let outcome = try test.store.restore(to: then, .prefix("/in/"), by: Author(.local))
            #expect(outcome.changes.map { "\($0.change) \($0.path)" } == ["modified /in/a", "renamed /in/moved", "deleted /in/new"])
            #expect(try text(test.store.content(of: test.memory("/out"))) == "two")
            _ = try test.store.restore(to: then, .path("/out"), by: Author(.local))
            #expect(try text(test.store.content(of: test.memory("/out"))) == "one")
            Invariants.expect(test.store)
        }
    }

    @Test func whereAPathIsTakenNothingIsDone() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try test.create("/a", "one")
            _ = try test.create("/b", "one")
            let then = StorePoint.time(test.store.now())
            try test.store.commit(.update(test.memory("/b").id, content: bytes("two"), path: nil), by: Author(.local))
            try test.store.commit(.delete(test.memory("/a").id), by: Author(.local))
            try mount.symlink("elsewhere", "/a")
            let (tree, log) = (try test.tree(), try test.log())
            #expect(RemfsError.code { _ = try test.store.restore(to: then, .prefix("/"), by: Author(.local)) } == .pathConflict)
            #expect(try test.tree() == tree && test.log() == log)
            Invariants.expect(test.store)
            #expect(
                RemfsError.code { _ = try test.store.restore(to: .time(Timestamp(microseconds: 5)), .prefix("/"), by: Author(.local)) }
                    == .invalidArgument)
            #expect(try test.tree() == tree && test.log() == log)
        }
    }

    @Test func anOpenSaveIsSealedBeforeItIsUndone() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "one")
            try test.settleAll()
            let then = StorePoint.time(test.store.now())
            let number = try mount.number("/a")
            try mount.pwrite(number, bytes("two"), at: 0)
            _ = try test.store.restore(to: then, .prefix("/"), by: Author(.local))
            #expect(try mount.read("/a") == "one")
            #expect(try test.log() == ["created /a", "modified /a", "modified /a"])
            Invariants.expect(test.store)
        }
    }

    @Test func restoringFailsAtAnyStatement() throws {
        var then = StorePoint.now
        try playFaults("restore", atLeast: 20) { test, mount in
            _ = try test.create("/a", "one")
            _ = try test.create("/d/b", "two")
            then = .version(try test.create("/c", "three").version)
            try test.store.commit(.update(test.memory("/a").id, content: bytes("changed"), path: MemoryPath("/z")), by: Author(.local))
            try test.store.commit(.update(test.memory("/c").id, content: bytes("three and more"), path: nil), by: Author(.local))
            try test.store.commit(.delete(test.memory("/d/b").id), by: Author(.local))
            _ = try test.create("/new", "new")
        } change: { test, _ in
            _ = try test.store.restore(to: then, .prefix("/"), by: Author(.local))
        } after: { (test, mount) throws in
            #expect(try mount.read("/a") == "one" && mount.read("/d/b") == "two" && mount.read("/c") == "three")
            #expect(try mount.find("/new") == nil && mount.find("/z") == nil)
        }
    }
}
