import SQLite
import Testing

@testable import Storage

@Suite struct ScaleTests {
    /// `REMFS_TEST_MEMORIES=100000` for the long form.
    @Test func manyMemoriesOpenFast() throws {
        let count = environment("REMFS_TEST_MEMORIES").flatMap { Int($0) } ?? 20_000
        var policy = Policy()
        policy.maxMemories = Int64(count) * 2
        try TestStore.with(policy: policy) { test in
            let mount = try test.mount()
            for place in 0..<100 { try mount.mkdir("/d\(place)") }
            let template = try test.create("/template", "The content that all of them share")
            try test.settleAll()
            try clone(template, count, in: test, firstDirectory: mount.number("/d0"), step: mount.number("/d1") - mount.number("/d0"))

            let time = try test.timeOfReopening()
            #if DEBUG
                let limit = Duration.milliseconds(count / 5)
            #else
                let limit = Duration.milliseconds(300) * max(1, count / 20_000)
            #endif
            #expect(time < limit)
            print("\(count) memories opened in \(time)")
            #expect(try test.store.statistics().memories == Int64(count) + 1)
            let last = try test.memory("/d99/note-\(count - count % 100 - 1).md")
            #expect(try test.store.content(of: last).count == 34)
            #expect(try test.store.memories(under: "/d7/", depth: 0, after: nil, limit: 10).count == 10)
            let start = ContinuousClock.now
            let diagnosis = try test.store.check()
            let duration = ContinuousClock.now - start
            print("\(count) memories checked in \(duration)")
            #expect(diagnosis.isSound, "\(diagnosis.findings.prefix(3))")
            // 100,000 in well under a minute, also with nothing optimised.
            #expect(duration < .seconds(3) + .microseconds(300) * count)
            Invariants.expect(test.store)
        }
    }

    /// Rows as sealing leaves them, made with SQL: making each by itself would be the longest part of the test.
    private func clone(_ template: Memory, _ count: Int, in test: TestStore, firstDirectory: Int64, step: Int64) throws {
        try test.state { state in
            let memory = template.id.number(in: test.id)!
            let inode = state.memoryInodes[memory]!
            let version = state.inodes[inode]!.head!.version
            guard case .whole(let chunk) = state.inodes[inode]!.content else { throw Failure("the template is not one chunk") }
            let base: Int64 = 1_000_000
            let series = "WITH RECURSIVE series(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < \(count))"
            try state.writer.execute(
                """
                BEGIN IMMEDIATE;
                INSERT INTO inode (number, parent, name, cookie, mode, uid, gid, rdev, flags, size, accessed, modified, changed, content, digest,
                        memory, version, memory_created, version_created, author)
                    \(series) SELECT \(base) + i * 4, \(firstDirectory) + i % 100 * \(step), 'note-' || i || '.md', \(base) + i * 4 + 1, mode,
                        uid, gid, rdev, flags, size, accessed, modified, changed, content, digest, \(base) + i * 4 + 2, \(base) + i * 4 + 3,
                        memory_created, version_created + i + 1, author
                    FROM series, inode WHERE number = \(inode);
                INSERT INTO version (number, memory, operation, directory, name, size, digest, content, began, actor)
                    \(series) SELECT \(base) + i * 4 + 3, \(base) + i * 4 + 2, operation, '/d' || (i % 100) || '/', 'note-' || i || '.md', size,
                        digest, content, began + i + 1, actor
                    FROM series, version WHERE number = \(version);
                UPDATE chunk SET refs = refs + \(count) WHERE number = \(chunk);
                UPDATE property SET value = \(base + Int64(count) * 4 + 10) WHERE name = 'next';
                COMMIT
                """)
        }
    }
}
