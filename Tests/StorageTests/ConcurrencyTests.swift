import Testing
import Threads

@testable import Storage

/// Many threads on one store: whatever their order, nothing is lost and the store stays sound.
@Suite struct ConcurrencyTests {
    @Test func mountsRequestsAndUpkeepTogether() throws {
        try TestStore.with { test in
            let mounts = try (0..<3).map { _ in try test.mount() }
            let log = try mounts[0].create("/log")
            let store = test.store
            let failures = Mutex<[String]>([])
            let running = Mutex(4)
            func start(_ name: String, _ body: @escaping @Sendable () throws -> Void) -> Threads.Thread {
                Threads.Thread(name) {
                    do { try body() } catch { failures.withLock { $0.append("\(name): \(error)") } }
                    running.withLock { $0 -= 1 }
                }
            }
            var threads: [Threads.Thread] = []
            for (place, mount) in mounts.enumerated() {
                let caller = mount.caller
                threads.append(
                    start("mount-\(place)") {
                        for round in 0..<60 {
                            try bytes("\(place) \(round)\n").withUnsafeBytes {
                                _ = try store.write($0, to: log, at: 0, append: true, seen: .irrelevant, by: caller)
                            }
                            let name = bytes("tmp-\(place)")
                            let made = try store.create(NewInode(mode: 0o100644), named: name, in: 1, by: caller).number
                            try [UInt8](repeating: UInt8(round), count: 2_000).withUnsafeBytes {
                                _ = try store.write($0, to: made, at: 0, append: false, seen: .irrelevant, by: caller)
                            }
                            try store.closed(made, through: caller.origin)
                            // All of them replace the same file.
                            try store.rename(name, in: 1, to: bytes("shared"), in: 1, .replace, seen: { _ in .irrelevant }, by: caller)
                            if round % 5 == 0 { try store.closed(log, through: caller.origin) }
                        }
                    })
            }
            threads.append(
                start("api") {
                    for round in 0..<40 {
                        let memory = try store.commit(.create(path: MemoryPath("/api/\(round)"), content: bytes("x")), by: Author(.local))!
                        _ = try store.memories(under: "/", depth: 0, after: nil, limit: 1_000)
                        for version in try store.versions(VersionFilter(), before: nil, limit: 20) { _ = try store.content(of: version) }
                        if round % 2 == 0 { try store.commit(.delete(memory.id), by: Author(.local)) }
                    }
                })
            while running.withLock({ $0 }) > 0 {
                store.state.withLock { $0.orphansSeen = 0 }
                _ = try store.maintain()
                _ = try store.tidy(isIdle: true)
            }
            for thread in threads { thread.join() }
            #expect(failures.withLock { $0 } == [])
            let lines = try mounts[0].read("/log").split(separator: "\n").map(String.init)
            #expect(lines.sorted() == (0..<3).flatMap { place in (0..<60).map { "\(place) \($0)" } }.sorted())
            #expect(try mounts[0].contents("/shared").count == 2_000)
            #expect(try mounts[0].names("/api").count == 20)
            try test.settleAll()
            Invariants.expect(test.store)
            try test.reopen()
            Invariants.expect(test.store)
        }
    }

    @Test func ofManyUpdatesWithOnePreconditionOneWins() throws {
        try TestStore.with { test in
            let memory = try test.create("/a", "zero")
            let store = test.store
            let won = Mutex<[RemfsError.Code?]>([])
            let threads = (0..<8).map { place in
                Threads.Thread("update-\(place)") {
                    let code = RemfsError.code {
                        try store.commit(
                            .update(memory.id, content: bytes("\(place)"), path: nil), by: Author(.local),
                            if: .contentSHA256(memory.contentSHA256))
                    }
                    won.withLock { $0.append(code) }
                }
            }
            for thread in threads { thread.join() }
            let codes = won.withLock { $0 }
            #expect(codes.count { $0 == nil } == 1)
            #expect(codes.count { $0 == .preconditionFailed } == 7)
            #expect(try test.log().count == 2)
        }
    }
}
