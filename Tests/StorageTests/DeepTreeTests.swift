import Glibc
import Testing
import Threads

@testable import Storage

/// A tree as deep as somebody likes to make it, on a stack as small as the daemon's threads have.
@Suite struct DeepTreeTests {
    private static let depth = 20_000

    /// Runs `body` on a thread of ours, and throws what it throws.
    private func onSmallStack<Answer: Sendable>(_ body: @escaping @Sendable () throws -> Answer) throws -> Answer {
        let outcome = Mutex<Result<Answer, any Error>?>(nil)
        Thread("deep") {
            let result = Result { try body() }
            outcome.withLock { $0 = result }
        }.join()
        return try outcome.withLock { $0! }.get()
    }

    /// A chain of directories named `d`, from the top to the bottom.
    private static func makeChain(_ test: TestStore, _ mount: TestMount) throws -> [InodeNumber] {
        var chain: [InodeNumber] = []
        for _ in 0..<depth {
            let directory = NewInode(mode: UInt32(S_IFDIR) | 0o755)
            chain.append(try test.store.create(directory, named: bytes("d"), in: chain.last ?? 1, by: mount.caller).number)
        }
        return chain
    }

    private static func save(_ name: String, in parent: InodeNumber, _ test: TestStore, _ mount: TestMount) throws {
        let file = try test.store.create(NewInode(mode: UInt32(S_IFREG) | 0o644), named: bytes(name), in: parent, by: mount.caller).number
        try mount.pwrite(file, bytes("deep"), at: 0)
        mount.close(file)
        try test.store.settle()
    }

    @Test(.timeLimit(.minutes(5))) func aDeepTreeIsListedMovedReopenedAndRemoved() throws {
        let seen = try onSmallStack { () -> [String] in
            try TestStore.with { test in
                let mount = try test.mount()
                var seen: [String] = []
                func list(_ label: String) throws {
                    let all = try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).map(Self.short)
                    let top = try test.store.memories(under: "/", depth: 1, after: nil, limit: 10).map(Self.short)
                    seen.append("\(label): \(all), \(top)")
                }
                let chain = try Self.makeChain(test, mount)
                try Self.save("b.md", in: chain.last!, test, mount)
                try list("sealed")
                let deep = try test.store.memories(under: "/", depth: 0, after: nil, limit: 1).compactMap(Self.path).first ?? ""
                for after in [String(deep.dropLast(4)) + "a.md", deep] {
                    seen.append("after: \(try test.store.memories(under: "/", depth: 0, after: after, limit: 10).map(Self.short))")
                }
                try mount.rename("/d", "/e")
                try list("moved")
                try test.reopen()
                try list("reopened")
                seen.append("taken: \(RemfsError.code { _ = try test.create("/e", "in the way") }.map { "\($0)" } ?? "made")")
                try mount.rename("/e", "/.git")
                try test.passTwoSeconds()
                try list("unversioned")
                try mount.mkdir("/other")
                try mount.rename("/.git", "/other", .exchange)
                try test.settleAll()
                try list("a memory again")
                try test.crash()
                try list("after a kill")
                for (place, number) in chain.enumerated().reversed() {
                    if place == chain.count - 1 { try test.store.unlink(bytes("b.md"), in: number, by: mount.caller) }
                    let (name, parent) = place == 0 ? ("other", 1) : ("d", chain[place - 1])
                    try test.store.removeDirectory(bytes(name), in: parent, by: mount.caller)
                }
                try test.settleAll()
                try list("removed")
                return seen
            }
        }
        let length = 2 * Self.depth + 5
        #expect(
            seen == [
                "sealed: [\"\(length) b.md\"], [\"3 /d/\"]", "after: [\"\(length) b.md\"]", "after: []",
                "moved: [\"\(length) b.md\"], [\"3 /e/\"]", "reopened: [\"\(length) b.md\"], [\"3 /e/\"]", "taken: pathConflict",
                "unversioned: [], []", "a memory again: [\"\(length + 4) b.md\"], [\"7 /other/\"]",
                "after a kill: [\"\(length + 4) b.md\"], [\"7 /other/\"]", "removed: [], []",
            ])
    }

    /// Directories without a memory give way to one, however deep they are.
    @Test(.timeLimit(.minutes(5))) func aDeepEmptyTreeGivesWay() throws {
        let paths = try onSmallStack { () -> [String] in
            try TestStore.with { test in
                _ = try Self.makeChain(test, test.mount())
                _ = try test.create("/d", "instead")
                try test.settleAll()
                return try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).map(Self.short)
            }
        }
        #expect(paths == ["2 /d"])
    }

    private static func path(_ item: MemoryListing) -> String {
        switch item {
        case .memory(let memory): memory.path
        case .prefix(let prefix): prefix
        }
    }

    /// How long a path is, and its end.
    private static func short(_ item: MemoryListing) -> String {
        let path = path(item)
        return "\(path.utf8.count) \(path.utf8.count > 20 ? String(path.suffix(4)) : path)"
    }
}
