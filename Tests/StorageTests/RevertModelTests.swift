import Testing

@testable import Storage

/// Three sessions do this and that; what one of them did is put back, against a plain account of who made what of which memory.
@Suite struct RevertModelTests {
    private struct State: Equatable {
        var path: String
        var content: String
    }

    /// All that a memory was, with who made it so; nil: deleted.
    private typealias History = [(actor: MemoryActor, state: State?)]

    private static let sessions = (1...3).map { SessionID(bits: UInt128($0)) }
    private static let paths = ["/a", "/a/b", "/a/c", "/b", "/c/d", "/c/d/e", "/f", "/g"]
    private static let caller = Author(.api(keyID: "apikey_test"))

    private static func states(_ test: TestStore) throws -> [MemoryID: State] {
        var states: [MemoryID: State] = [:]
        for case .memory(let memory) in try test.store.memories(under: "/", depth: 0, after: nil, limit: 1_000) {
            states[memory.id] = State(path: memory.path, content: try text(test.store.content(of: memory)))
        }
        return states
    }

    /// What changed between two looks is noted as the actor's.
    private static func note(
        _ before: [MemoryID: State], _ after: [MemoryID: State], by actor: MemoryActor, in histories: inout [MemoryID: History]
    ) {
        for id in Set(before.keys).union(after.keys) where before[id] != after[id] {
            histories[id, default: []].append((actor, after[id]))
        }
    }

    /// One random change; what is not possible just then is none.
    private static func change(
        _ test: TestStore, _ round: Int, _ now: [MemoryID: State], _ gone: [MemoryID], by author: Author, _ random: inout SeededRandom
    ) throws {
        let ids = now.keys.sorted { $0.bits < $1.bits }
        let path = try MemoryPath(random.pick(paths))
        do {
            switch random.below(10) {
            case 0..<3: try test.store.commit(.create(path: path, content: bytes("new \(round)")), by: author)
            case 3..<5 where !ids.isEmpty:
                try test.store.commit(.update(random.pick(ids), content: bytes("text \(random.below(4))"), path: nil), by: author)
            case 5..<8 where !ids.isEmpty:
                try test.store.commit(
                    .update(random.pick(ids), content: random.chance(40) ? bytes("moved \(round)") : nil, path: path), by: author)
            case 8 where !ids.isEmpty: try test.store.commit(.delete(random.pick(ids)), by: author)
            case 9 where !gone.isEmpty:
                let id = random.pick(gone)
                let version = try test.versions().filter { $0.memory == id && $0.operation != .deleted }.last
                if let version { _ = try test.store.restore(id, to: version.id, by: author) }
            default: break
            }
        } catch let error as RemfsError where error.code == .pathConflict {
            return
        }
    }

    private static func touches(_ one: String, _ other: String) -> Bool {
        one == other || one.hasPrefix(other + "/") || other.hasPrefix(one + "/")
    }

    @Test func whatOneOfThreeSessionsDidIsPutBack() throws {
        let seed = SeededRandom.seed(23)
        var random = SeededRandom(seed: seed)
        var counts: [String: Int] = [:]
        for story in 0..<SeededRandom.rounds(25) {
            try TestStore.with { test in
                var histories: [MemoryID: History] = [:]
                var now: [MemoryID: State] = [:]
                for part in 0..<4 {
                    for round in 0..<random.below(40) + 5 {
                        let author = Author(.session(random.pick(Self.sessions).description))
                        let gone = histories.keys.filter { now[$0] == nil }.sorted { $0.bits < $1.bits }
                        try Self.change(test, part * 100 + round, now, gone, by: author, &random)
                        let after = try Self.states(test)
                        Self.note(now, after, by: author.actor, in: &histories)
                        now = after
                    }
                    let label = "seed \(seed), story \(story), part \(part)"
                    let session = random.pick(Self.sessions)
                    let actor = MemoryActor.session(session.description)
                    // What the account says: of a memory that it was the last to change, what was before its last changes in a row.
                    var wanted: [MemoryID: State?] = [:]
                    for (id, history) in histories where history.last?.actor == actor {
                        let before = history.reversed().first { $0.actor != actor }?.state
                        if before != now[id] { wanted.updateValue(before, forKey: id) }
                    }
                    let plan = try test.store.revert(session, isDryRun: true, by: Self.caller)
                    let log = try test.log().count
                    #expect(try Self.states(test) == now, "\(label)")
                    let outcome = try test.store.revert(session, by: Self.caller)
                    let after = try Self.states(test)
                    #expect(plan.changes.map(\.memory) == outcome.changes.map(\.memory), "\(label)")
                    let stays = Set(outcome.left.filter { $0.reason == .pathTaken }.map(\.memory))
                    for id in histories.keys {
                        if let state = wanted[id], !stays.contains(id) {
                            #expect(after[id] == state, "\(label): \(id) is not what it was")
                        } else {
                            #expect(after[id] == now[id], "\(label): \(id) is none of its")
                        }
                        let isListed = outcome.changes.contains { $0.memory == id }
                        #expect(isListed == (wanted[id] != nil && !stays.contains(id)), "\(label): \(id)")
                    }
                    // Nobody stays without a reason.
                    for id in stays {
                        let path = try #require(wanted[id] ?? nil).path
                        #expect(after.contains { $0.key != id && Self.touches($0.value.path, path) }, "\(label): \(path) is free")
                    }
                    #expect(try test.log().count == log + outcome.changes.count, "\(label)")
                    Invariants.expect(test.store, hashes: false, label)
                    for change in outcome.changes { counts[change.kind.rawValue, default: 0] += 1 }
                    for left in outcome.left { counts[left.reason.rawValue, default: 0] += 1 }
                    // Back to the version that the answer names: exactly what was there.
                    if let undo = outcome.undo {
                        _ = try test.store.restore(to: .version(undo), .prefix("/"), by: Self.caller)
                        #expect(try Self.states(test) == now, "\(label)")
                        Self.note(now, after, by: Self.caller.actor, in: &histories)
                        Self.note(after, now, by: Self.caller.actor, in: &histories)
                    } else {
                        #expect(after == now, "\(label)")
                    }
                }
                Invariants.expect(test.store)
            }
        }
        // The stories tell of everything that there is.
        for kind in RevertOutcome.Change.Kind.allCases { #expect(counts[kind.rawValue] ?? 0 > 5, "\(kind): \(counts)") }
        for reason in ["changed_since", "changed_between", "path_taken"] { #expect(counts[reason] ?? 0 > 5, "\(reason): \(counts)") }
    }
}
