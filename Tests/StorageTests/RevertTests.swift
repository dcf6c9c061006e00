import Foundation
import Testing
import Threads

@testable import Storage

/// Putting back what a session changed.
@Suite struct RevertTests {
    static let session = SessionID(bits: 1)
    static let theirs = Author(.session(session.description))
    static let other = Author(.session(SessionID(bits: 2).description))
    static let caller = Author(.api(keyID: "apikey_test"), writer: Writer(uid: 7))

    private static func update(_ test: TestStore, _ path: String, _ content: String?, to newPath: String? = nil, by author: Author) throws {
        try test.store.commit(
            .update(test.memory(path).id, content: content.map { bytes($0) }, path: newPath.map { try MemoryPath($0) }), by: author)
    }

    private static func delete(_ test: TestStore, _ path: String, by author: Author) throws {
        try test.store.commit(.delete(test.memory(path).id), by: author)
    }

    /// Every memory: its path, ID and content.
    static func memories(_ test: TestStore) throws -> [String] {
        try test.store.memories(under: "/", depth: 0, after: nil, limit: 1_000).map { listing in
            guard case .memory(let memory) = listing else { throw Failure("a prefix in a listing without a depth") }
            return "\(memory.path) \(memory.id) \(try text(test.store.content(of: memory)))"
        }
    }

    private static func contents(_ test: TestStore) throws -> [String: String] {
        Dictionary(
            uniqueKeysWithValues: try memories(test).map { line in
                let parts = line.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
                return (String(parts[0]), String(parts[2]))
            })
    }

    private static func told(_ outcome: RevertOutcome) -> [String] {
        outcome.changes.map { "\($0.kind) \($0.path)" + ($0.oldPath.map { " from \($0)" } ?? "") }
            + outcome.left.map { "\($0.reason) \($0.path ?? "-")" + ($0.conflict.map { " by \($0.path)" } ?? "") }
    }

    /// Reverts, having asked first what that would do: the two agree, and to ask changes nothing. Afterwards there is nothing left to do.
    @discardableResult
    private static func revert(
        _ test: TestStore, since: Timestamp? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> RevertOutcome {
        let (before, log) = (try memories(test), try test.log())
        let plan = try test.store.revert(session, since: since, isDryRun: true, by: caller)
        #expect(try memories(test) == before && test.log() == log, sourceLocation: sourceLocation)
        #expect(plan.undo == nil && plan.changes.allSatisfy { $0.made == nil }, sourceLocation: sourceLocation)
        let outcome = try test.store.revert(session, since: since, by: caller)
        #expect(told(outcome) == told(plan) && outcome.counts == plan.counts, sourceLocation: sourceLocation)
        #expect(outcome.unchanged == plan.unchanged && outcome.leftCount == plan.leftCount, sourceLocation: sourceLocation)
        let made = try test.versions().dropFirst(log.count)
        #expect(Set(made.map(\.id)) == Set(outcome.changes.compactMap(\.made)), sourceLocation: sourceLocation)
        #expect(made.count == outcome.changes.count && made.allSatisfy { $0.author == caller }, sourceLocation: sourceLocation)
        Invariants.expect(test.store, sourceLocation: sourceLocation)
        let again = try test.store.revert(session, since: since, by: caller)
        #expect(again.changes.isEmpty && again.undo == nil && again.left.count == outcome.left.count, sourceLocation: sourceLocation)
        #expect(again.unchanged == outcome.unchanged + outcome.changes.count, sourceLocation: sourceLocation)
        return outcome
    }

    @Test func allThatASessionDidIsPutBackAndThatIsUndone() throws {
        try TestStore.with { test in
            for path in ["/changed", "/d/moved", "/d/both", "/gone", "/alone", "/back"] { _ = try test.create(path, "\(path) one") }
            let large = text(SeededRandom.notes(400_000))
            let mount = try test.mount()
            try mount.save("/large", large)
            try test.settleAll()
            let before = try Self.memories(test)
            try Self.update(test, "/changed", "two", by: Self.theirs)
            try Self.update(test, "/changed", "three", by: Self.theirs)
            try Self.update(test, "/d/moved", nil, to: "/e/f/moved", by: Self.theirs)
            try Self.update(test, "/d/both", "two", to: "/both", by: Self.theirs)
            try Self.delete(test, "/gone", by: Self.theirs)
            _ = try test.create("/new/n", "new", by: Self.theirs)
            _ = try test.create("/brief", "brief", by: Self.theirs)
            try Self.delete(test, "/brief", by: Self.theirs)
            try Self.update(test, "/back", "two", by: Self.theirs)
            try Self.update(test, "/back", "/back one", by: Self.theirs)
            let agent = try test.mount(session: Self.session.description)
            try agent.save("/large", "short")
            try test.settleAll()
            try test.tidyAll()
            let after = try Self.memories(test)
            let outcome = try Self.revert(test)
            #expect(
                Self.told(outcome) == [
                    "restored /changed", "moved /d/both from /both", "moved /d/moved from /e/f/moved", "recreated /gone", "restored /large",
                    "deleted /new/n",
                ])
            #expect(outcome.counts == [.restored: 2, .moved: 2, .recreated: 1, .deleted: 1] && outcome.unchanged == 2)
            #expect(try Self.memories(test) == before)
            #expect(try mount.read("/large") == large && mount.find("/e") == nil && mount.find("/new") == nil)
            let changed = try #require(outcome.changes.first)
            #expect(try text(test.store.content(of: test.store.version(changed.from)) ?? []) == "three")
            #expect(try text(test.store.content(of: test.store.version(#require(changed.to))) ?? []) == "/changed one")
            // And back again, to the version that the answer names.
            _ = try test.store.restore(to: .version(#require(outcome.undo)), .prefix("/"), by: Self.caller)
            #expect(try Self.memories(test) == after)
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try Self.memories(test) == after)
        }
    }

    @Test func whatOthersChangedSinceIsLeftAloneAndListed() throws {
        try TestStore.with { test in
            for path in ["/a", "/b", "/c", "/d"] { _ = try test.create(path, "one") }
            for path in ["/a", "/b", "/c", "/d"] { try Self.update(test, path, "two", by: Self.theirs) }
            _ = try test.create("/new", "two", by: Self.theirs)
            try Self.update(test, "/a", "three", by: Self.other)
            try Self.delete(test, "/b", by: Author(.user(uid: 5)))
            try Self.update(test, "/c", nil, to: "/moved", by: Self.other)
            try Self.update(test, "/new", "three", by: Self.other)
            let outcome = try Self.revert(test)
            #expect(
                Self.told(outcome) == [
                    "restored /d", "changedSince /a", "changedSince /b", "changedSince /moved", "changedSince /new",
                ])
            #expect(try Self.contents(test) == ["/a": "three", "/moved": "two", "/d": "one", "/new": "three"])
            let left = try #require(outcome.left.first { $0.path == "/b" })
            let version = try #require(try test.versions().last { $0.operation == .deleted })
            #expect(left.actor == .user("user_5") && left.version == version.id && left.time == version.created)
            #expect(outcome.left.first?.actor == Self.other.actor && outcome.leftCount == 4)
            // Somebody has put it back by hand.
            try Self.update(test, "/a", "one", by: Self.other)
            let again = try test.store.revert(Self.session, by: Self.caller)
            #expect(again.unchanged == 2 && again.left.map(\.path) == ["/b", "/moved", "/new"])
        }
    }

    @Test func whatCameAfterSomebodyElsesChangeIsPutBackToThat() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "one")
            try Self.update(test, "/a", "two", by: Self.theirs)
            try Self.update(test, "/a", "three", by: Self.other)
            try Self.update(test, "/a", "four", by: Self.theirs)
            try Self.update(test, "/a", "five", to: "/b", by: Self.theirs)
            let outcome = try Self.revert(test)
            #expect(Self.told(outcome) == ["moved /a from /b", "changedBetween /b"])
            #expect(outcome.left.first?.actor == Self.other.actor && outcome.left.first?.version == outcome.changes.first?.to)
            #expect(try Self.contents(test) == ["/a": "three"])
        }
    }

    @Test func sinceATimeEarlierChangesStay() throws {
        try TestStore.with { test in
            for path in ["/a", "/b", "/c"] { _ = try test.create(path, "one") }
            for path in ["/a", "/b"] { try Self.update(test, path, "two", by: Self.theirs) }
            let since = try Timestamp(microseconds: #require(test.versions().last).created.microseconds + 1)
            for path in ["/b", "/c"] { try Self.update(test, path, "three", by: Self.theirs) }
            #expect(try Self.told(Self.revert(test, since: since)) == ["restored /b", "restored /c"])
            #expect(try Self.contents(test) == ["/a": "two", "/b": "two", "/c": "one"])
            #expect(try test.store.revert(Self.session, since: Timestamp(microseconds: .max), by: Self.caller).unchanged == 0)
            // The earlier ones are another matter: since then it was changed by whoever reverted.
            let rest = try test.store.revert(Self.session, by: Self.caller)
            #expect(Self.told(rest) == ["restored /a", "changedSince /b"] && rest.unchanged == 1)
        }
    }

    @Test func aSessionThatChangedNothingIsNoError() throws {
        try TestStore.with { test in
            let empty = try test.store.revert(Self.session, by: Self.caller)
            #expect(empty.changes.isEmpty && empty.left.isEmpty && empty.undo == nil)
            _ = try test.create("/a", "one", by: Self.other)
            #expect(try Self.told(Self.revert(test)).isEmpty)
        }
    }

    // MARK: Paths that are taken

    @Test func memoriesChangePlaces() throws {
        try TestStore.with { test in
            let mount = try test.mount(session: Self.session.description)
            for path in ["/a", "/b", "/x", "/deep/y"] { _ = try test.create(path, path) }
            let before = try Self.memories(test)
            for (from, to) in [("/a", "/t"), ("/b", "/a"), ("/t", "/b")] { try mount.rename(from, to) }
            try test.settleAll()
            // A file where a directory was, and a directory where a file was.
            try Self.update(test, "/x", nil, to: "/x/below", by: Self.theirs)
            try Self.update(test, "/deep/y", nil, to: "/deep", by: Self.theirs)
            #expect(
                try Self.told(Self.revert(test)) == [
                    "moved /a from /b", "moved /b from /a", "moved /deep/y from /deep", "moved /x from /x/below",
                ])
            #expect(try Self.memories(test) == before)
        }
    }

    @Test func whoseOldPathIsTakenStays() throws {
        try TestStore.with { test in
            for path in ["/moved", "/gone", "/below/f", "/dir", "/linked", "/fine"] { _ = try test.create(path, "one") }
            for path in ["/moved", "/below/f"] { try Self.update(test, path, "two", to: "\(path)-away", by: Self.theirs) }
            for path in ["/gone", "/dir", "/linked"] { try Self.delete(test, path, by: Self.theirs) }
            try Self.update(test, "/fine", "two", by: Self.theirs)
            try Self.update(test, "/below/f-away", nil, to: "/away", by: Self.theirs)
            let taken = try test.create("/moved", "another's", by: Self.other)
            for path in ["/gone", "/below", "/dir/in/it"] { _ = try test.create(path, "another's", by: Self.other) }
            try test.mount().symlink("elsewhere", "/linked")
            let outcome = try Self.revert(test)
            #expect(
                Self.told(outcome) == [
                    "restored /fine", "pathTaken /away by /below", "pathTaken /dir by /dir/in/it", "pathTaken /gone by /gone",
                    "pathTaken /linked by /linked", "pathTaken /moved-away by /moved",
                ])
            #expect(outcome.left.last?.conflict?.memory == taken.id)
            #expect(outcome.left.first { $0.path == "/linked" }?.conflict.map { $0.memory == nil } == true)
            #expect(try Self.contents(test)["/away"] == "two" && Self.contents(test)["/moved"] == "another's")
        }
    }

    @Test func whoStaysMayBeInTheWayOfOthers() throws {
        try TestStore.with { test in
            // Each came to where the one before had been; where the first was there is somebody else now.
            let count = 40
            for number in 0..<count { _ = try test.create("/\(number)", "\(number)") }
            for number in (0..<count).reversed() { try Self.update(test, "/\(number)", nil, to: "/\(number + 1)", by: Self.theirs) }
            _ = try test.create("/free", "free", by: Self.theirs)
            _ = try test.create("/0", "another's", by: Self.other)
            let before = try Self.contents(test)
            let outcome = try Self.revert(test)
            #expect(outcome.counts == [.deleted: 1] && outcome.left.count == count)
            #expect(outcome.left.allSatisfy { $0.reason == .pathTaken })
            #expect(try Self.contents(test) == before.filter { $0.key != "/free" })
            // Once it has gone all of them can.
            try Self.delete(test, "/0", by: Self.other)
            #expect(try Self.revert(test).counts == [.moved: count])
            #expect(try Self.contents(test) == Dictionary(uniqueKeysWithValues: (0..<count).map { ("/\($0)", "\($0)") }))
        }
    }

    /// The session moved one away, put another in its place, and that one cannot go back: at the path, below it, and above it.
    @Test(arguments: [("/q", "/q"), ("/q", "/q/below"), ("/q/below", "/q")])
    func whoCannotGoBackKeepsThePlaceThatAnotherWants(_ wanted: String, _ kept: String) throws {
        try TestStore.with { test in
            _ = try test.create("/p", "p")
            _ = try test.create(wanted, "q")
            try Self.update(test, "/p", nil, to: "/r", by: Self.theirs)
            try Self.update(test, wanted, nil, to: "/z", by: Self.theirs)
            try Self.update(test, "/r", nil, to: kept, by: Self.theirs)
            _ = try test.create("/p", "another's", by: Self.other)
            let before = try Self.contents(test)
            #expect(try Self.told(Self.revert(test)) == ["pathTaken \(kept) by /p", "pathTaken /z by \(kept)"])
            #expect(try Self.contents(test) == before)
            try Self.delete(test, "/p", by: Self.other)
            #expect(try Self.revert(test).counts == [.moved: 2])
            #expect(try Self.contents(test) == ["/p": "p", wanted: "q"])
        }
    }

    @Test func ofTwoThatHadOnePathTheLaterOneGetsIt() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "first")
            try Self.delete(test, "/a", by: Self.theirs)
            _ = try test.create("/a", "second", by: Self.other)
            try Self.update(test, "/a", nil, to: "/b", by: Self.theirs)
            _ = try test.create("/d/x", "third")
            try Self.delete(test, "/d/x", by: Self.theirs)
            _ = try test.create("/d", "fourth", by: Self.other)
            try Self.delete(test, "/d", by: Self.theirs)
            let outcome = try Self.revert(test)
            #expect(Self.told(outcome) == ["moved /a from /b", "recreated /d", "pathTaken /a by /a", "pathTaken /d/x by /d"])
            #expect(try Self.contents(test) == ["/a": "second", "/d": "fourth"])
        }
    }

    // MARK: What cannot be known

    @Test func whatWasRedactedBeforeIsLeftAlone() throws {
        try TestStore.with { test in
            let secret = try test.create("/a", "secret")
            try Self.update(test, "/a", "two", by: Self.theirs)
            let gone = try test.create("/gone", "secret too")
            try Self.delete(test, "/gone", by: Self.theirs)
            for version in [secret.version, gone.version] { _ = try test.store.redact(version, by: Author(.user(uid: 3))) }
            let outcome = try Self.revert(test)
            #expect(Self.told(outcome) == ["redacted /a", "redacted /gone"])
            let left = try #require(outcome.left.first)
            let redacted = try test.store.version(secret.version)
            #expect(left.version == secret.version && left.actor == .user("user_3") && left.time == redacted.redacted)
            #expect(try Self.contents(test) == ["/a": "two"])
        }
    }

    /// A version of the session that was redacted is undone like any.
    @Test func whatTheSessionWroteMayBeRedacted() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "one")
            try Self.update(test, "/a", "secret", by: Self.theirs)
            try Self.delete(test, "/a", by: Self.theirs)
            for version in try test.versions().suffix(2) { _ = try test.store.redact(version.id, by: Self.other) }
            #expect(try Self.told(Self.revert(test)) == ["recreated /a"])
            #expect(try Self.contents(test) == ["/a": "one"])
        }
    }

    @Test func whatRetentionGaveUpIsLeftAlone() throws {
        var policy = Policy()
        policy.retentionDays = 1
        try TestStore.with(policy: policy) { test in
            let offset = Mutex<Int64>(0)
            test.state { $0.clockOffset = { offset.withLock { $0 } } }
            for path in ["/a", "/b", "/gone"] { _ = try test.create(path, "one") }
            // Of this one an older version is kept: that is not what it was.
            _ = try test.store.pin(test.create("/pinned", "one").version, true)
            try Self.update(test, "/pinned", "two", by: Self.other)
            offset.withLock { $0 = 2 * 86_400_000_000_000 }
            for path in ["/a", "/pinned"] { for number in 0..<10 { try Self.update(test, path, "\(number)", by: Self.theirs) } }
            try Self.update(test, "/b", "two", by: Self.theirs)
            try Self.delete(test, "/gone", by: Self.theirs)
            _ = try test.create("/last", "last")
            #expect(try test.store.collectGarbage(isDryRun: false).versions == 3)
            #expect(try Self.told(Self.revert(test)) == ["restored /b", "pruned /a", "pruned /gone", "pruned /pinned"])
            #expect(try Self.contents(test) == ["/a": "9", "/b": "one", "/last": "last", "/pinned": "9"])
        }
    }

    // MARK: Rules and failures

    @Test func whatIsBeingWrittenIsSealedFirst() throws {
        try TestStore.with { test in
            let agent = try test.mount(session: Self.session.description)
            let human = try test.mount()
            for path in ["/a", "/b", "/gone"] { _ = try test.create(path, "one") }
            try Self.update(test, "/b", "two", by: Self.theirs)
            try agent.pwrite(agent.number("/a"), bytes("twofold"), at: 0)
            try agent.pwrite(agent.create("/new"), bytes("new"), at: 0)
            try agent.create("/empty")
            try agent.unlink("/gone")
            try human.pwrite(human.number("/b"), bytes("three"), at: 0)
            let outcome = try test.store.revert(Self.session, by: Self.caller)
            #expect(Self.told(outcome) == ["restored /a", "deleted /empty", "recreated /gone", "deleted /new", "changedSince /b"])
            #expect(try Self.contents(test) == ["/a": "one", "/b": "three", "/gone": "one"])
            #expect(outcome.left.first?.actor == .user("user_1000"))
            Invariants.expect(test.store)
            try test.settleAll()
            #expect(try Self.contents(test) == ["/a": "one", "/b": "three", "/gone": "one"])
            Invariants.expect(test.store)
        }
    }

    @Test func theStoresRulesHold() throws {
        try TestStore.with { test in
            for path in ["/a", "/b"] { _ = try test.create(path, "a long content") }
            try Self.update(test, "/a", "short", by: Self.theirs)
            try Self.delete(test, "/b", by: Self.theirs)
            let before = try Self.memories(test)
            func expectRefusal(_ code: RemfsError.Code, isArchived: Bool = false, _ change: (inout Policy) -> Void) throws {
                var policy = Policy()
                change(&policy)
                try test.store.setRules(policy, isArchived: isArchived, name: "test")
                #expect(RemfsError.code { _ = try test.store.revert(Self.session, by: Self.caller) } == code)
                #expect(try Self.memories(test) == before)
                #expect(try test.store.revert(Self.session, isDryRun: true, by: Self.caller).changes.count == 2)
                Invariants.expect(test.store)
            }
            try expectRefusal(.readOnly) { $0.access = .readOnly }
            try expectRefusal(.readOnly, isArchived: true) { _ in }
            try expectRefusal(.quota) { $0.maxBytes = 20 }
            try expectRefusal(.storeFull) { $0.maxMemories = 1 }
            try test.store.setRules(Policy(), isArchived: false, name: "test")
            try Self.revert(test)
        }
    }

    @Test func revertingFailsAtAnyStatement() throws {
        try playFaults("revert", atLeast: 20) { test, _ in
            for path in ["/a", "/d/b", "/c"] { _ = try test.create(path, "one") }
            try Self.update(test, "/a", "changed", to: "/z", by: Self.theirs)
            try Self.update(test, "/c", "changed", by: Self.theirs)
            try Self.delete(test, "/d/b", by: Self.theirs)
            _ = try test.create("/new", "new", by: Self.theirs)
        } change: { test, _ in
            _ = try test.store.revert(Self.session, by: Self.caller)
        } after: { (test, _) throws in
            #expect(try Self.contents(test) == ["/a": "one", "/d/b": "one", "/c": "one"])
        }
    }
}
