import Foundation
import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// What is in no row is nowhere in the file, whatever SQLite left there, while others go on.
@Suite struct ScrubTests {
    // MARK: The file by itself

    /// Rows of all sizes in tables and indexes, most of them given up again, and none of what was given up wiped.
    private static func fill(_ connection: Connection, _ random: inout SeededRandom) throws {
        try connection.execute(
            """
            PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA secure_delete = OFF;
            PRAGMA wal_autocheckpoint = 0;
            CREATE TABLE a (number INTEGER PRIMARY KEY, text TEXT, bytes BLOB);
            CREATE INDEX a_by_text ON a (text);
            CREATE TABLE b (name TEXT PRIMARY KEY, value ANY) WITHOUT ROWID;
            """)
        let insert = try connection.prepare("INSERT INTO a (text, bytes) VALUES (?1, ?2)")
        let name = try connection.prepare("INSERT OR REPLACE INTO b VALUES (?1, ?2)")
        let sizes = [0, 3, 30, 400, 1_010, 4_057, 4_061, 4_062, 8_153, 8_160, 65_536]
        try connection.execute("BEGIN")
        for place in 0..<500 {
            // What goes is bytes that stand for nothing in a page, and longer than any number.
            let size = random.pick(sizes) + random.below(9)
            insert.bind(text([UInt8](repeating: 0x7e, count: min(size, 3_000))) + "\(place)", at: 1)
            try insert.run(binding: [UInt8](repeating: 0xee, count: size), at: 2)
            name.bind(text([UInt8](repeating: 0x7e, count: random.below(2_500))) + "\(place)", at: 1)
            try name.run(binding: [UInt8](repeating: 0xee, count: random.below(3_000)), at: 2)
        }
        try connection.execute("COMMIT")
        for round in 0..<6 {
            try connection.execute(
                """
                BEGIN; DELETE FROM a WHERE number % 7 = \(round); DELETE FROM b WHERE length(name) % 7 = \(round);
                INSERT INTO a (text, bytes) SELECT text || '\(round)', bytes FROM a WHERE number % 13 = \(round); COMMIT;
                PRAGMA incremental_vacuum(\(random.below(20)));
                """)
            _ = try connection.checkpoint(.truncate)
        }
        try connection.execute(
            """
            UPDATE a SET text = 'kept ' || number || hex(zeroblob(number % 700)), bytes = zeroblob(length(bytes) / 2);
            DELETE FROM b WHERE length(name) % 3 > 0; UPDATE b SET value = 'value';
            CREATE TABLE c AS SELECT name FROM b; DELETE FROM b; INSERT INTO b SELECT 'kept ' || rowid, 1 FROM c; DROP TABLE c;
            """)
        _ = try connection.checkpoint(.truncate)
    }

    private static func rows(_ path: String) throws -> [String] {
        let connection = try Connection(path: path, mode: .readWrite)
        #expect(try connection.integer("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'") == 1)
        var rows: [String] = []
        for sql in ["SELECT number || text || hex(bytes) FROM a ORDER BY number", "SELECT name || value FROM b ORDER BY name"] {
            let row = try connection.prepare(sql)
            while try row.step() { rows.append(row.text(0) ?? "") }
        }
        return rows
    }

    /// Runs of what was given up, of four bytes and more: fewer are a number by chance.
    private static func traces(_ path: String) throws -> Int {
        let data = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        var (count, run) = (0, 0)
        for (place, byte) in data.enumerated() {
            run = (byte == 0xee || byte == 0x7e) && place > 0 && (run == 0 || data[place - 1] == byte) ? run + 1 : 0
            if run == 4 { count += 1 }
        }
        return count
    }

    @Test(arguments: 1...4) func nothingButRowsIsLeftInTheFile(_ number: Int) throws {
        try TemporaryDirectory.with { directory in
            let seed = SeededRandom.seed(UInt64(number))
            var random = SeededRandom(seed: seed)
            let path = directory + "/a.sqlite"
            let connection = try Connection(path: path, mode: .create)
            try Self.fill(connection, &random)
            #expect(try connection.integer("PRAGMA freelist_count") ?? 0 > 10)
            let rows = try Self.rows(path)
            #expect(try Self.traces(path) > 100, "the test looks in the wrong places")
            var scrubber = PageScrubber(connection)
            try scrubber.scrubAll()
            #expect(scrubber.written > 10)
            #expect(try Self.traces(path) == 0, "REMFS_TEST_SEED=\(seed)")
            #expect(try Self.rows(path) == rows, "REMFS_TEST_SEED=\(seed)")
            // Once is enough.
            var again = PageScrubber(connection)
            try again.scrubAll()
            #expect(again.written == 0)
        }
    }

    /// Pages that were written again, one by one: whatever they are, what belongs to them is cleaned.
    @Test func eachPageIsCleanedByItself() throws {
        try TemporaryDirectory.with { directory in
            var random = SeededRandom(seed: 9)
            let path = directory + "/a.sqlite"
            let connection = try Connection(path: path, mode: .create)
            try Self.fill(connection, &random)
            let rows = try Self.rows(path)
            let pages = Int(try connection.integer("PRAGMA page_count") ?? 0)
            var scrubber = PageScrubber(connection)
            for page in 1...pages { try scrubber.scrub([page, pages + 5]) }
            #expect(try Self.traces(path) == 0)
            #expect(try Self.rows(path) == rows)
        }
    }

    @Test func whatIsNotUnderstoodIsNotTouched() throws {
        try TemporaryDirectory.with { directory in
            var random = SeededRandom(seed: 3)
            let path = directory + "/a.sqlite"
            do {
                let connection = try Connection(path: path, mode: .create)
                try Self.fill(connection, &random)
            }
            let good = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
            for round in 0..<300 {
                var bytes = good
                for _ in 0..<(1 + random.below(3)) {
                    // Headers, pointers and maps are at the beginning of pages.
                    let place = random.below(good.count / 4_096) * 4_096 + random.below(120)
                    bytes[place] = UInt8(random.below(256))
                }
                try Data(bytes).write(to: URL(fileURLWithPath: path))
                guard let connection = try? Connection(path: path, mode: .readWrite) else { continue }
                var scrubber = PageScrubber(connection)
                // Whatever comes of it: it ends, and traps nowhere.
                do { try scrubber.scrubAll() } catch { #expect(Bool(true), "\(round): \(error)") }
            }
            try Data(good).write(to: URL(fileURLWithPath: path))
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute("PRAGMA auto_vacuum = NONE; PRAGMA journal_mode = DELETE; VACUUM;")
            #expect(throws: PageScrubber.Failure.self) {
                var scrubber = PageScrubber(connection)
                try scrubber.scrubAll()
            }
        }
    }

    // MARK: In a store

    private static let author = Author(.local)
    private static let secret = "qzxjvkwpfq-zzyyxxwwqq"

    /// A store with much in it, some of which was given up unwiped; answers the version to redact.
    private static func fill(_ test: TestStore) throws -> VersionID {
        try test.state { try $0.writer.execute("PRAGMA secure_delete = OFF") }
        let mount = try test.mount()
        var random = SeededRandom(seed: 12)
        for place in 0..<60 { try mount.save("/f\(place).md", random.text(200 + 331 * place)) }
        var content = random.text(40_000)
        for place in stride(from: 0, to: 39_000, by: 500) { content.replaceSubrange(place..<(place + 21), with: Array(secret.utf8)) }
        let number = try mount.save("/secret.md", content)
        try test.settleAll()
        for place in stride(from: 0, to: 60, by: 3) { try mount.unlink("/f\(place).md") }
        try mount.save("/secret.md", "clean")
        try test.settleAll()
        try test.tidyAll()
        let memory = try test.memory("/secret.md")
        _ = number
        return try #require(try test.versions().first { $0.memory == memory.id }).id
    }

    /// A writer's pages are of before, with all that was in them: it writes them into the journal while the file is cleaned.
    @Test(arguments: [3, 40, 200]) func writersGoOnMeanwhile(_ saves: Int) throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            let mount = test.mounts[0]
            var random = SeededRandom(seed: 77)
            var (calls, written) = (0, 0)
            var failure: (any Error)?
            test.store.checkpointer.withLock { connection in
                connection.fault = {
                    // Between two of the first pages, as another thread would: later the store's lock is held.
                    calls += 1
                    guard calls <= 5 else { return nil }
                    do {
                        for _ in 0..<((saves + 4) / 5) {
                            written += 1
                            try mount.save("/f\(1 + 3 * random.below(19)).md", random.text(random.below(9_000)))
                            if written % 5 == 0 { try mount.save("/new\(written).md", "new") }
                        }
                    } catch { failure = error }
                    return nil
                }
            }
            _ = try test.store.redact(version, by: Self.author)
            test.store.checkpointer.withLock { $0.fault = nil }
            #expect(failure == nil && calls > 5 && written >= saves, "\(written) \(String(describing: failure))")
            #expect(try Traces.of([Self.secret, "qzxjvkw"], in: test) == [])
            // Nor does what they write later bring it back.
            for place in 0..<40 { try mount.save("/f\(1 + 3 * (place % 19)).md", random.text(3_000)) }
            try test.settleAll()
            try test.tidyAll()
            #expect(try Traces.of([Self.secret, "qzxjvkw"], in: test) == [])
            let diagnosis = try test.store.check()
            #expect(diagnosis.isSound, "\(diagnosis.findings)")
            Invariants.expect(test.store)
        }
    }

    /// It reads from the journal, which so cannot be emptied: what was written before is cleaned nevertheless.
    @Test(arguments: [1, 60]) func aReaderThatComesMeanwhileIsWaitedFor(_ saves: Int) throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            let mount = test.mounts[0]
            let reader = try Connection(path: test.store.path, mode: .readWrite)
            let ending = Mutex<Threads.Thread?>(nil)
            var random = SeededRandom(seed: 78)
            var calls = 0
            var failure: (any Error)?
            test.store.checkpointer.withLock { connection in
                connection.fault = {
                    calls += 1
                    guard calls == 3 else { return nil }
                    do {
                        for _ in 0..<saves { try mount.save("/f\(1 + 3 * random.below(19)).md", random.text(random.below(9_000))) }
                        try reader.execute("BEGIN")
                        _ = try reader.integer("SELECT count(*) FROM version")
                        for _ in 0..<saves { try mount.save("/f\(1 + 3 * random.below(19)).md", random.text(random.below(9_000))) }
                    } catch { failure = error }
                    ending.withLock {
                        $0 = Threads.Thread("reader") {
                            usleep(150_000)
                            // Where that fails the redaction does as well, and says so.
                            try? reader.execute("COMMIT")
                        }
                    }
                    return nil
                }
            }
            let begin = StoreState.monotonic()
            _ = try test.store.redact(version, by: Self.author)
            #expect(StoreState.monotonic() - begin > 140_000_000, "it waited")
            test.store.checkpointer.withLock { $0.fault = nil }
            ending.withLock { $0 }?.join()
            #expect(failure == nil && calls > 3)
            #expect(try Traces.of([Self.secret, "qzxjvkw"], in: test) == [])
            for place in 0..<40 { try mount.save("/f\(1 + 3 * (place % 19)).md", random.text(3_000)) }
            try test.settleAll()
            #expect(try Traces.of([Self.secret, "qzxjvkw"], in: test) == [])
            #expect(try test.store.check().isSound)
        }
    }

    @Test func aThreadThatNeverPausesIsNotInTheWay() throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            let (store, memory) = (test.store, try test.memory("/f1.md").id)
            let isDone = Mutex(false)
            let failure = Mutex<String?>(nil)
            let thread = Threads.Thread("writer") {
                var random = SeededRandom(seed: 5)
                do {
                    while !isDone.withLock({ $0 }) {
                        let content = random.text(1 + random.below(5_000))
                        _ = try store.commit(.update(memory, content: content, path: nil), by: Author(.user("user_5")))
                    }
                } catch { failure.withLock { $0 = "\(error)" } }
            }
            let before = try test.versions().count
            for place in 0..<5 {
                if place > 0 { _ = try test.create("/more\(place).md", Self.secret) }
                let target = place == 0 ? version : try test.memory("/more\(place).md").version
                if place > 0 { _ = try test.store.commit(.delete(test.memory("/more\(place).md").id), by: Self.author) }
                _ = try test.store.redact(target, by: Self.author)
            }
            isDone.withLock { $0 = true }
            thread.join()
            #expect(failure.withLock { $0 } == nil)
            try test.settleAll()
            #expect(try test.versions().count > before)
            #expect(try Traces.of([Self.secret, "qzxjvkw"], in: test) == [])
            #expect(try test.store.check().isSound)
        }
    }

    /// Killed between two pages: the next start finds nothing amiss, and finishes.
    @Test func aKillBetweenPagesIsFinishedByTheNextStart() throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            try TemporaryDirectory.with { copies in
                var count = 0
                var failure: (any Error)?
                test.store.checkpointer.withLock { connection in
                    connection.fault = {
                        count += 1
                        do {
                            for suffix in ["", "-wal"] { try copyFile(test.store.path + suffix, to: "\(copies)/\(count).sqlite\(suffix)") }
                        } catch { failure = error }
                        return nil
                    }
                }
                _ = try test.store.redact(version, by: Self.author)
                #expect(failure == nil && count > 5, "\(count) pages")
                for place in 1...count {
                    let store = try MemoryStore(
                        id: test.id, name: "test", path: "\(copies)/\(place).sqlite", policy: Policy(), isArchived: false, isNew: false,
                        environment: TestStore.environment)
                    #expect(try store.version(version).redacted != nil)
                    #expect(try store.check().isSound, "page \(place)")
                    try store.close()
                }
                #expect(try Traces.inFiles([Self.secret], below: copies) == [])
            }
        }
    }

    @Test func aFileThatIsMadeInAnotherWayIsWrittenAnew() throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            try TemporaryDirectory.with { directory in
                let path = directory + "/store.sqlite"
                try test.store.backup(to: path)
                do {
                    let connection = try Connection(path: path, mode: .readWrite)
                    try connection.execute("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM")
                }
                let store = try MemoryStore(
                    id: test.id, name: "test", path: path, policy: Policy(), isArchived: false, isNew: false,
                    environment: TestStore.environment)
                #expect(try !Traces.inFiles([Self.secret], below: directory).isEmpty)
                _ = try store.redact(version, by: Self.author)
                #expect(try Traces.inFiles([Self.secret], below: directory) == [])
                #expect(try store.check().findings.allSatisfy { $0.message.contains("auto_vacuum") })
                try store.close()
            }
        }
    }

    /// A write that fails leaves it to be done again.
    @Test func aDiskThatFailsIsTriedAgain() throws {
        try TestStore.with { test in
            let version = try Self.fill(test)
            test.store.checkpointer.withLock { $0.fault = { Fault.full.rawValue } }
            #expect(RemfsError.code { _ = try test.store.redact(version, by: Self.author) } == .unavailable)
            #expect(test.state { $0.scrub.isNeeded && !$0.scrub.isRunning })
            test.store.checkpointer.withLock { $0.fault = nil }
            try test.tidyAll()
            #expect(try Traces.of([Self.secret], in: test) == [])
            #expect(test.state { !$0.scrub.isNeeded })
        }
    }
}
