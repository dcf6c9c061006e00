import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// History stays small, and every version of it is read back.
@Suite struct DeltaTests {
    // MARK: The code

    @Test(arguments: 1...4) func whatIsEncodedIsDecoded(_ number: Int) {
        let seed = SeededRandom.seed(UInt64(number))
        var random = SeededRandom(seed: seed)
        for _ in 0..<SeededRandom.rounds(60) {
            let base =
                random.chance(20)
                ? (0..<random.below(3_000)).map { _ in UInt8(truncatingIfNeeded: random.next()) } : random.text(random.below(6_000))
            var target = base
            for _ in 0..<random.below(6) { target = Self.edited(target, &random) }
            let program = Delta.encode(target, against: base)
            #expect(Delta.decode(program, against: base) == target, "REMFS_TEST_SEED=\(seed)")
            // Never much longer than what it says.
            #expect(program.count <= target.count + 40, "REMFS_TEST_SEED=\(seed)")
        }
    }

    private static func edited(_ content: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
        var content = content
        guard !content.isEmpty else { return random.text(random.below(500)) }
        let place = random.below(content.count)
        let length = min(random.below(400), content.count - place)
        switch random.below(5) {
        case 0: content.insert(contentsOf: random.text(random.below(300)), at: place)
        case 1: content.removeSubrange(place..<(place + length))
        case 2: content.replaceSubrange(place..<(place + length), with: random.text(length))
        case 3: content.append(contentsOf: content[place..<(place + length)])
        default:
            // A paragraph moves.
            let moved = content[place..<(place + length)]
            content.removeSubrange(place..<(place + length))
            content.insert(contentsOf: moved, at: content.isEmpty ? 0 : random.below(content.count))
        }
        return content
    }

    @Test func edgesAreEncoded() {
        let long = [UInt8](repeating: 7, count: 65_536)
        for (target, base) in [
            ([], []), ([], long), (long, []), (long, long), ([1], [2]), (Array(long.dropLast()), long), ([9] + long.dropLast(), long),
        ] as [([UInt8], [UInt8])] {
            #expect(Delta.decode(Delta.encode(target, against: base), against: base) == target)
        }
        #expect(Delta.encode(long, against: long).count < 16)
    }

    @Test func nonsenseIsRefusedAndNeverTraps() {
        let corpus: [[UInt8]] = [
            [], [0], [1], [0xff], [0x80], [0x80, 0x80], [Array(repeating: 0x80, count: 9), [1]].flatMap { $0 },
            [Array(repeating: 0xff, count: 9), [0x7f]].flatMap { $0 }, [3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0], [4, 1], [5, 200], [0xfe, 0xff, 3],
        ]
        for program in corpus { fuzzDelta(program) }
        var random = SeededRandom(seed: 11)
        let base = random.text(200)
        for _ in 0..<3_000 {
            var program = Delta.encode(Self.edited(base, &random), against: base)
            for _ in 0..<(1 + random.below(3)) where !program.isEmpty {
                program[random.below(program.count)] = UInt8(truncatingIfNeeded: random.next())
            }
            fuzzDelta(program)
        }
        // A bomb: copies that add up to more than a chunk.
        let whole = [UInt8](repeating: 1, count: 65_536)
        let copy = Delta.encode(whole, against: whole)
        #expect(Delta.decode(copy + copy, against: whole) == nil)
    }

    // MARK: In a store

    /// The issue's number: a log of 50 kB that grows by 40 bytes a thousand times.
    @Test func aThousandAppendsStaySmallAndFast() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 17)
            var content = random.text(50_000)
            try mount.save("/log.md", content)
            try test.settleAll()
            try test.tidyAll()
            let before = fileBytes(test)
            var contents = [content]
            for place in 0..<1_000 {
                let line = bytes("2026-01-01T00:00:00Z entry \(1_000 + place) is done\n")
                content += line
                let number = try mount.number("/log.md")
                try mount.pwrite(number, line, at: 0, append: true)
                mount.close(number)
                contents.append(content)
                // Upkeep comes now and then, so that both ways to a delta are taken.
                if place % 7 == 0 { try test.store.settle() }
                if place % 100 == 99 { try test.tidyAll() }
            }
            try test.settleAll()
            try test.tidyAll()
            let grown = fileBytes(test) - before
            #expect(grown <= 2 << 20, "grew by \(grown) bytes")
            let versions = try test.versions()
            try #require(versions.count == 1_001)
            var slowest: Int64 = 0
            for (version, expected) in zip(versions, contents) {
                let start = StoreState.monotonic()
                let found = try test.store.content(of: version)
                slowest = max(slowest, StoreState.monotonic() - start)
                guard found == expected else {
                    Issue.record("version \(version.number) is not what was written")
                    return
                }
            }
            #if !DEBUG
                #expect(slowest < 2_000_000, "the slowest version took \(slowest / 1_000) us")
            #endif
            Invariants.expect(test.store)
        }
    }

    @Test func editsOfManyKindsAreReadBackAfterTidying() throws {
        let seed = SeededRandom.seed(23)
        var random = SeededRandom(seed: seed)
        try TestStore.with { test in
            let mount = try test.mount()
            var contents: [[UInt8]] = []
            var content = random.text(8_000)
            for place in 0..<150 {
                // Now and then a content comes back: its chunk is shared.
                content = random.chance(12) && !contents.isEmpty ? random.pick(contents) : Self.edited(content, &random)
                if content == contents.last { continue }
                try mount.save("/f", content)
                contents.append(content)
                if random.chance(30) { try test.store.settle() }
                if random.chance(10) { try test.tidyAll() }
                if place % 40 == 39 { try test.reopen() }
            }
            try test.settleAll()
            try test.tidyAll()
            #expect(try test.versions().map { try test.store.content(of: $0)! } == contents, "REMFS_TEST_SEED=\(seed)")
            Invariants.expect(test.store, "REMFS_TEST_SEED=\(seed)")
        }
    }

    /// More versions than one in 256 chunks: chains must not grow with them.
    @Test func chainsStayShort() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 29)
            let content = random.text(400)
            try mount.save("/f", content)
            for place in 0..<1_200 {
                let number = try mount.number("/f")
                try mount.pwrite(number, bytes(String(10_000 + place)), at: 100)
                mount.close(number)
                if place % 50 == 0 { try test.store.settle() }
            }
            try test.settleAll()
            try test.tidyAll()
            var deepest = 0
            try test.state { state in
                var bases: [Int64: Int64] = [:]
                let row = try state.writer.prepare("SELECT number, base FROM chunk WHERE base IS NOT NULL")
                while try row.step() { bases[row.integer(0)] = row.integer(1) }
                #expect(bases.count > 1_000)
                for number in bases.keys {
                    var depth = 0
                    var place = number
                    while let base = bases[place] {
                        depth += 1
                        place = base
                    }
                    deepest = max(deepest, depth)
                }
            }
            #expect(deepest <= 10)
            Invariants.expect(test.store)
        }
    }

    @Test func baseAndStepsAreEachOthersInverse() {
        for sequence in Int64(1)...2_000 {
            for step in DeltaChain.steps(endingAt: sequence) { #expect(DeltaChain.base(of: sequence - step) == sequence) }
            if let base = DeltaChain.base(of: sequence) { #expect(DeltaChain.steps(endingAt: base).contains(base - sequence)) }
        }
    }

    /// Files that share a content, of which one goes on: the head of the other stays whole.
    @Test func aSharedHeadStaysWhole() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 31)
            let content = random.text(2_000)
            try mount.save("/a", content)
            try mount.save("/b", content)
            try test.settleAll()
            for place in 0..<5 {
                try mount.append("/a", "line \(place)\n")
                try test.settleAll()
            }
            try mount.save("/c", content)
            try test.settleAll()
            try test.tidyAll()
            #expect(try mount.contents("/b") == content)
            #expect(try mount.contents("/c") == content)
            Invariants.expect(test.store)
        }
    }

    /// Readers of heads and of history while chunks are re-encoded below them: never an error, never other bytes.
    @Test func readersAndRecodingDoNotMeet() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 37)
            let content = random.text(3_000)
            try mount.save("/f", content)
            try test.settleAll()
            let first = try test.versions()[0]
            let number = try mount.number("/f")
            let store = test.store
            let isDone = Mutex(false)
            let failures = Mutex<[String]>([])
            let readers = (0..<2).map { place in
                Threads.Thread("reader-\(place)") {
                    while !isDone.withLock({ $0 }) {
                        do {
                            let old = try store.content(of: first)
                            let head = try store.read(number, offset: 0, count: 3_000) { bytes, _ in Array(bytes) }
                            if old != content || head != content { failures.withLock { $0.append("other bytes") } }
                        } catch {
                            failures.withLock { $0.append("\(error)") }
                        }
                    }
                }
            }
            for place in 0..<150 {
                try mount.append("/f", "line \(place)\n")
                try test.settleAll()
                try test.state { while try $0.encodeDeltas(atMost: 16) {} }
                // Back to whole: the same content under another name needs it as a head.
                let name = "/copy-\(place)"
                try mount.save(name, content)
                try test.settleAll()
                try mount.unlink(name)
            }
            isDone.withLock { $0 = true }
            for reader in readers { reader.join() }
            #expect(failures.withLock { $0.prefix(3) } == [])
            Invariants.expect(test.store)
        }
    }

    private func fileBytes(_ test: TestStore) -> Int {
        var status = stat()
        return stat(test.store.path, &status) == 0 ? Int(status.st_size) : 0
    }
}

/// Whatever the bytes: nil or a content, never a trap.
func fuzzDelta(_ program: [UInt8]) {
    for base in [[], [UInt8](repeating: 3, count: 200)] {
        if let decoded = Delta.decode(program, against: base) { #expect(decoded.count <= 65_536) }
    }
}
