import Foundation
import Glibc
import Logging
import SQLite
import Testing

@testable import Storage

/// Without what the ledger has in it.
private let extent = "extent (number, inode, kind, start, length, modified, author, bytes)"

/// Each kind of damage to a real store's file: found by its name, repaired or said to be beyond repair, and nothing found afterwards.
@Suite struct DoctorTests {
    /// What is done to the file of a closed store, and what the doctor has to say.
    struct Damage: CustomTestStringConvertible, Sendable {
        let name: String
        /// With `inode`, `version`, `memory`, `chunk` of /notes/a.md in braces.
        let sql: String
        let finds: Set<Finding.Kind>
        var isRepairable = true
        /// The file of a memory has to read the same afterwards; nil: not asked.
        var keeps: [String: String] = ["/notes/a.md": "third", "/notes/b.md": "only"]
        var testDescription: String { name }
    }

    static let cases: [Damage] = [
        Damage(name: "no owner", sql: "DELETE FROM property WHERE name = 'store'", finds: [.ownerMissing]),
        Damage(
            name: "another store", sql: "UPDATE property SET value = 'memstore_01xxxxxxxxxxxxxxxxxxxxxx' WHERE name = 'store'",
            finds: [.foreignFile], isRepairable: false, keeps: [:]),
        Damage(name: "numbers run out", sql: "UPDATE property SET value = 5 WHERE name = 'next'", finds: [.numberWrong]),
        Damage(name: "no numbers", sql: "DELETE FROM property WHERE name = 'next'", finds: [.numberWrong]),
        Damage(name: "open_from is text", sql: "INSERT OR REPLACE INTO property VALUES ('open_from', 'x')", finds: [.numberWrong]),
        Damage(name: "no root", sql: "DELETE FROM inode WHERE number = 1", finds: [.rootMissing]),
        Damage(name: "the root is a file", sql: "UPDATE inode SET mode = 33188 WHERE number = 1", finds: [.rootMissing]),
        Damage(
            name: "unknown type", sql: "UPDATE inode SET mode = 420 WHERE name = 'pipe'", finds: [.typeUnknown]),
        Damage(
            name: "a file's directory is gone", sql: "UPDATE inode SET parent = 999999 WHERE number = {inode}", finds: [.directoryMissing],
            keeps: ["/lost+found/a.md": "third", "/notes/b.md": "only"]),
        Damage(
            name: "a directory's row is gone", sql: "DELETE FROM inode WHERE name = 'notes'", finds: [.directoryMissing],
            keeps: ["/lost+found/a.md": "third", "/lost+found/b.md": "only"]),
        Damage(
            name: "a directory's directory is gone", sql: "UPDATE inode SET parent = 888888 WHERE name = 'notes'",
            finds: [.directoryMissing], keeps: ["/lost+found/notes/a.md": "third", "/lost+found/notes/b.md": "only"]),
        Damage(
            name: "a directory below itself",
            sql: "UPDATE inode SET parent = (SELECT number FROM inode WHERE name = 'inner') WHERE name = 'outer'",
            finds: [.directoryCycle]),
        Damage(name: "a second name in no directory", sql: "UPDATE dentry SET parent = 777777", finds: [.directoryMissing]),
        Damage(name: "a second name of nothing", sql: "UPDATE dentry SET inode = 777777", finds: [.nameOfNothing]),
        Damage(
            name: "a second name of a directory", sql: "UPDATE dentry SET inode = (SELECT number FROM inode WHERE name = 'outer')",
            finds: [.nameOfNothing]),
        Damage(
            name: "a second name of what is unlinked", sql: "UPDATE inode SET parent = NULL WHERE name = 'linked'",
            finds: [.nameOfUnlinked]),
        Damage(
            name: "two files of one name", sql: "UPDATE inode SET name = 'a.md' WHERE name = 'b.md'", finds: [.nameTwice, .pathWrong],
            keeps: ["/notes/a.md": "third"]),
        Damage(
            name: "two names at one place",
            sql: "UPDATE inode SET cookie = (SELECT cookie FROM inode WHERE name = 'a.md') WHERE name = 'b.md'",
            finds: [.cookieTwice]),
        Damage(
            name: "a name with a slash", sql: "UPDATE inode SET name = 'x/y' WHERE name = 'b.md'", finds: [.nameInvalid, .pathWrong],
            keeps: ["/notes/a.md": "third"]),
        Damage(name: "attributes of nothing", sql: "INSERT INTO xattr VALUES (424242, 'user.x', x'00')", finds: [.attributeOfNothing]),
        Damage(name: "an open interval", sql: "UPDATE version SET ended = NULL WHERE memory = {memory}", finds: [.intervalWrong]),
        Damage(
            name: "a gap", sql: "UPDATE version SET ended = ended - 1 WHERE memory = {memory} AND ended IS NOT NULL",
            finds: [.intervalWrong]),
        Damage(
            name: "a head that has ended", sql: "UPDATE version SET ended = began + 1 WHERE number = {version}", finds: [.intervalWrong]),
        Damage(
            name: "no creation", sql: "UPDATE version SET operation = 1 WHERE memory = {memory}", finds: [.operationWrong]),
        Damage(name: "created twice", sql: "UPDATE version SET operation = 0 WHERE number = {version}", finds: [.operationWrong]),
        Damage(
            name: "a version in the middle is gone",
            sql: "DELETE FROM version WHERE memory = {memory} AND operation = 1 AND ended IS NOT NULL",
            finds: [.intervalWrong, .chunkUnused]),
        Damage(
            name: "an earlier time",
            sql: "UPDATE version SET began = 1 WHERE number = (SELECT min(number) + 0 FROM version WHERE operation = 2)",
            finds: [.timeBackwards, .intervalWrong], isRepairable: false),
        Damage(
            name: "two files are one memory",
            sql: """
                UPDATE inode SET (memory, version, memory_created, version_created) =
                    (SELECT memory, version, memory_created, version_created FROM inode WHERE number = {inode}) WHERE name = 'b.md'
                """, finds: [.memoryTwice, .memoryLost, .headContent, .pathWrong]),
        Damage(
            name: "a file's row is gone", sql: "DELETE FROM inode WHERE number = {inode}", finds: [.memoryLost],
            keeps: ["/lost+found/a.md": "third"]),
        Damage(
            name: "an older head",
            sql: "UPDATE inode SET version = (SELECT min(number) FROM version WHERE memory = {memory}) WHERE number = {inode}",
            finds: [.headWrong, .headContent]),
        Damage(name: "a head that is not there", sql: "UPDATE inode SET version = 123456789 WHERE number = {inode}", finds: [.headWrong]),
        Damage(name: "a head's time", sql: "UPDATE inode SET version_created = 1 WHERE number = {inode}", finds: [.headWrong]),
        Damage(
            name: "a version without a memory", sql: "UPDATE inode SET memory = NULL WHERE number = {inode}",
            finds: [.headWrong, .memoryLost]),
        Damage(
            name: "no versions", sql: "DELETE FROM version WHERE memory = {memory}", finds: [.headWrong, .chunkUnused, .countWrong]),
        Damage(
            name: "another content than its head's",
            sql:
                "UPDATE inode SET (content, size, digest) = (SELECT content, size, digest FROM inode WHERE name = 'b.md') WHERE number = {inode}",
            finds: [.headContent], keeps: ["/notes/a.md": "only"]),
        Damage(
            name: "no content", sql: "UPDATE inode SET content = NULL WHERE number = {inode}", finds: [.headContent, .contentMalformed]),
        Damage(name: "another path than its head's", sql: "UPDATE version SET name = 'z.md' WHERE number = {version}", finds: [.pathWrong]),
        Damage(
            name: "a removal of what is there",
            sql: "INSERT INTO removal VALUES ({memory}, '/notes/a.md', {version}, 'user_1' || char(31) || '1' || char(31) || char(31))",
            finds: [.removalWrong]),
        Damage(
            name: "a removal of nothing",
            sql: "INSERT INTO removal VALUES (5555, '/notes/x.md', 6666, 'user_1' || char(31) || '1' || char(31) || char(31))",
            finds: [.removalWrong]),
        Damage(
            name: "content that fits no size", sql: "UPDATE version SET content = x'00' WHERE number = {version}",
            finds: [.contentMalformed, .headContent, .countWrong]),
        Damage(
            name: "a chunk's row is gone", sql: "DELETE FROM chunk WHERE number = {chunk}", finds: [.chunkMissing]),
        Damage(
            name: "a chunk is gone", sql: "DELETE FROM chunk WHERE number = {chunk}; DELETE FROM extent WHERE number = {chunk}",
            finds: [.chunkMissing], isRepairable: false, keeps: ["/notes/b.md": "only"]),
        Damage(
            name: "a chunk that nobody uses",
            sql: """
                INSERT INTO \(extent) VALUES (77 << 20, 3, 0, 0, 1, 0, NULL, x'00');
                INSERT INTO chunk VALUES (77 << 20, 0, zeroblob(32), 1, 0, NULL, 0, 1, NULL)
                """, finds: [.chunkUnused, .hashWrong]),
        Damage(name: "too many uses", sql: "UPDATE chunk SET refs = refs + 3 WHERE number = {chunk}", finds: [.countWrong]),
        Damage(name: "no uses", sql: "UPDATE chunk SET refs = 0 WHERE number = {chunk}", finds: [.countWrong]),
        Damage(name: "a key", sql: "UPDATE chunk SET key = 1 WHERE number = {chunk}", finds: [.keyWrong]),
        Damage(name: "a chunk's size", sql: "UPDATE chunk SET size = 77 WHERE number = {chunk}", finds: [.countWrong]),
        Damage(
            name: "a version's hash", sql: "UPDATE version SET digest = zeroblob(32) WHERE number = {version}",
            finds: [.digestWrong, .headContent]),
        Damage(
            name: "a version without a hash", sql: "UPDATE version SET digest = NULL WHERE number = {version}", finds: [.digestWrong]),
        Damage(
            name: "bytes that are not those of the hash", sql: "UPDATE extent SET bytes = x'6162636465' WHERE number = {chunk}",
            finds: [.hashWrong], isRepairable: false, keeps: ["/notes/b.md": "only"]),
        Damage(
            name: "no bytes", sql: "DELETE FROM extent WHERE number = {chunk}", finds: [.bytesMissing], isRepairable: false,
            keeps: ["/notes/b.md": "only"]),
        Damage(
            name: "a delta of nothing", sql: "UPDATE chunk SET encoding = 1, base = 999 WHERE number = {chunk}",
            finds: [.headIsDelta, .chainBroken], isRepairable: false, keeps: ["/notes/b.md": "only"]),
        Damage(
            name: "a delta of itself", sql: "UPDATE chunk SET encoding = 1, base = {chunk} WHERE number = {chunk}",
            finds: [.headIsDelta, .chainBroken], isRepairable: false, keeps: ["/notes/b.md": "only"]),
        Damage(
            name: "drafts of no file",
            sql:
                "INSERT INTO \(extent) VALUES (((SELECT max(number) FROM extent) >> 20) + 1 << 20, 99999, 0, 0, 5, 1000, NULL, x'68656c6c6f')",
            finds: [.draftOfNothing], keeps: ["/lost+found/inode-99999": "hello", "/notes/a.md": "third"]),
        Damage(
            name: "bytes of no chunk", sql: "INSERT INTO \(extent) VALUES (3 << 20, 99999, 0, 0, 5, 0, NULL, x'68656c6c6f')",
            finds: [.bytesOfNothing]),
        Damage(
            name: "drafts that are taken for sealed",
            sql: """
                INSERT INTO \(extent) VALUES (((SELECT value FROM property WHERE name = 'open_from') - 1 << 20) + 500000, {inode}, 0, 0, 5, 1000, NULL,
                    x'4649525354')
                """, finds: [.draftHidden], keeps: ["/notes/a.md": "FIRST"]),
    ]

    @Test(arguments: cases) func damageIsFoundAndRepaired(_ damage: Damage) throws {
        try Self.withStore { path, id in
            try Self.damage(path, damage.sql)
            let found = try StoreExamination.check(id, name: "test", path: path)
            #expect(Set(found.findings.map(\.kind)) == damage.finds, "\(found.findings)")
            #expect(found.kept == nil)
            let repaired = try StoreExamination.repairFile(id, name: "test", path: path)
            #expect(repaired.isClean == damage.isRepairable, "\(repaired.findings)")
            #expect(repaired.findings.allSatisfy { ($0.outcome == .repaired) == ($0.repair != nil) })
            for finding in repaired.findings where finding.outcome == .unrepairable {
                #expect(finding.advice?.isEmpty == false, "\(finding)")
            }
            // What was there before is kept where anything was changed.
            if repaired.findings.contains(where: { $0.outcome == .repaired }) {
                let kept = try #require(repaired.kept)
                let again = try StoreExamination.check(id, name: "test", path: kept)
                #expect(Set(again.findings.map(\.kind)) == damage.finds)
            }
            let after = try StoreExamination.check(id, name: "test", path: path)
            #expect(after.isSound == damage.isRepairable, "\(after.findings)")
            guard !damage.keeps.isEmpty else { return }
            let store = try Self.open(path, id)
            for (name, content) in damage.keeps {
                #expect(try text(store.content(of: store.memory(at: name))) == content, "\(name)")
            }
            if damage.isRepairable { Invariants.expect(store) }
            try store.close()
        }
    }

    // MARK: Pages, indexes, chains

    /// Bytes of the file itself, changed.
    private func flip(_ path: String, at offset: Int64) throws {
        let file = Glibc.open(path, O_RDWR)
        defer { close(file) }
        var byte: UInt8 = 0
        try #require(pread(file, &byte, 1, off_t(offset)) == 1)
        byte ^= 0x55
        try #require(pwrite(file, &byte, 1, off_t(offset)) == 1)
    }

    @Test func anIndexThatLeadsElsewhereIsMadeAnew() throws {
        try Self.withStore { path, id in
            let root = try #require(
                try Connection(path: path, mode: .readWrite).integer("SELECT rootpage FROM sqlite_schema WHERE name = 'chunk_by_key'"))
            // The end of the page is the end of its first entry: the number of a chunk.
            try flip(path, at: root * 4_096 - 1)
            let found = try StoreExamination.check(id, name: nil, path: path)
            #expect(found.findings.map(\.kind) == [.indexWrong], "\(found.findings)")
            let repaired = try StoreExamination.repairFile(id, name: nil, path: path)
            #expect(repaired.isClean && repaired.findings.map(\.kind) == [.indexWrong], "\(repaired.findings)")
            #expect(try StoreExamination.check(id, name: nil, path: path).isSound)
        }
    }

    @Test func aDamagedPageIsForABackup() throws {
        try Self.withStore { path, id in
            let root = try #require(
                try Connection(path: path, mode: .readWrite).integer("SELECT rootpage FROM sqlite_schema WHERE name = 'xattr'"))
            try flip(path, at: (root - 1) * 4_096)
            let repaired = try StoreExamination.repairFile(id, name: nil, path: path)
            let damage = try #require(repaired.findings.first { $0.kind == .databaseDamaged }, "\(repaired.findings)")
            #expect(!repaired.isClean && damage.outcome == .unrepairable && damage.advice?.contains("cp BACKUP \(path)") == true)
        }
    }

    @Test(arguments: ["text", "empty", "catalog", "newer"]) func aFileThatIsNoStoreIsSaidToBeNone(_ what: String) throws {
        try Self.withStore { path, id in
            switch what {
            case "text": try Data(String(repeating: "no database ", count: 1_000).utf8).write(to: URL(fileURLWithPath: path))
            case "empty": try Data().write(to: URL(fileURLWithPath: path))
            case "catalog": try Self.damage(path, "PRAGMA application_id = 7")
            default: try Self.damage(path, "PRAGMA user_version = 99")
            }
            let found = try StoreExamination.repairFile(id, name: nil, path: path)
            #expect(found.findings.map(\.kind) == [.fileUnreadable] && !found.isClean && found.kept == nil, "\(found.findings)")
            #expect(found.findings.first?.advice != nil)
        }
    }

    @Test func aChainThatIsTooLongIsCut() throws {
        try Self.withStore { path, id in
            let connection = try Connection(path: path, mode: .readWrite)
            let content = bytes("hello")
            let digest = Digest(of: content)
            var list: [UInt8] = []
            // Each a copy of the one after it; the last is whole.
            for place in 0..<40 {
                let number = 90 << 20 | Int64(place)
                list += withUnsafeBytes(of: number.littleEndian) { Array($0) }
                let extent = try connection.prepare("INSERT INTO \(extent) VALUES (?1, 3, 0, 0, 5, 0, NULL, ?2)")
                extent.bind(number, at: 1)
                extent.bind(place == 39 ? content : [5 << 1 | 1, 0], at: 2)
                try extent.run()
                let chunk = try connection.prepare("INSERT INTO chunk VALUES (?1, ?2, ?3, 5, ?4, ?5, 1, 1, NULL)")
                chunk.bind(number, at: 1)
                chunk.bind(digest.key, at: 2)
                chunk.bind(digest.bytes, at: 3)
                chunk.bind(place == 39 ? 0 : 1 as Int64, at: 4)
                chunk.bind(place == 39 ? nil : number + 1, at: 5)
                try chunk.run()
            }
            let version = try connection.prepare(
                "UPDATE version SET size = 40 * 65536, digest = NULL, content = ?1 WHERE number = (SELECT min(number) FROM version)")
            version.bind(list, at: 1)
            try version.run()
            let found = try StoreExamination.check(id, name: nil, path: path)
            #expect(Set(found.findings.map(\.kind)) == [.chainLong, .chunkUnused], "\(found.findings)")
            #expect(found.findings.count { $0.kind == .chainLong } == 7)
            let repaired = try StoreExamination.repairFile(id, name: nil, path: path)
            #expect(repaired.isClean, "\(repaired.findings)")
            Invariants.expect(try Self.open(path, id))
        }
    }

    @Test func moreThanIsShownIsRepairedAsWell() throws {
        try Self.withStore { path, id in
            try Self.damage(
                path,
                """
                WITH RECURSIVE series(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < 7000)
                INSERT INTO xattr SELECT 500000 + i, 'user.x', x'00' FROM series
                """)
            let found = try StoreExamination.check(id, name: nil, path: path)
            #expect(found.findings.count == Diagnosis.most && found.omitted == [.repairable: 7_000 - Diagnosis.most])
            let repaired = try StoreExamination.repairFile(id, name: nil, path: path)
            #expect(repaired.isClean && repaired.findings.count == Diagnosis.most)
            #expect(repaired.omitted == [.repaired: 7_000 - Diagnosis.most])
        }
    }

    // MARK: A store that is open

    @Test func anOpenStoreIsRepairedUnderItsMounts() throws {
        try TestStore.with { test in
            let mounts = [try test.mount(), try test.mount()]
            try mounts[0].mkdir("/notes")
            try mounts[0].save("/notes/a.md", "kept")
            try mounts[1].save("/b.md", "other")
            try test.settleAll()
            let open = try mounts[1].create("/open")
            try mounts[1].pwrite(open, bytes("half"), at: 0)
            let notes = try mounts[0].number("/notes")
            let file = try mounts[0].number("/notes/a.md")
            try Connection(path: test.store.path, mode: .readWrite).execute(
                "UPDATE inode SET parent = 999 WHERE number = \(file); UPDATE chunk SET refs = refs + 1")
            for mount in mounts { _ = mount.takePosted() }

            let found = try test.store.check()
            #expect(Set(found.findings.map(\.kind)) == [.directoryMissing, .countWrong], "\(found.findings)")
            let repaired = try test.store.repair()
            #expect(repaired.isClean, "\(repaired.findings)")
            #expect(try StoreExamination.check(test.id, name: nil, path: #require(repaired.kept)).findings.count == found.findings.count)
            for mount in mounts {
                let posted = mount.takePosted()
                #expect(posted.contains(.name(bytes("a.md"), in: notes)), "\(posted)")
                #expect(try posted.contains(.name(bytes("a.md"), in: mount.number("/lost+found"))), "\(posted)")
                #expect(try mount.read("/lost+found/a.md") == "kept")
            }
            // What was being written goes on.
            try mounts[1].pwrite(open, bytes("whole"), at: 0)
            mounts[1].closeAll()
            try test.settleAll()
            #expect(try mounts[0].read("/open") == "whole")
            #expect(try test.log("/lost+found/a.md") == ["modified /lost+found/a.md"])
            Invariants.expect(test.store)
            #expect(try test.store.repair().isSound)
        }
    }

    /// Looking waits for no writer and keeps none waiting.
    @Test func aCheckGoesOnBesideATransaction() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", "a")
            try test.settleAll()
            try test.state { state in
                try state.writer.execute("BEGIN IMMEDIATE; UPDATE inode SET size = 77 WHERE number = 1")
                defer { #expect(throws: Never.self) { try state.writer.execute("ROLLBACK") } }
                #expect(try StoreExamination.check(test.id, name: nil, path: test.store.path).isSound)
            }
        }
    }

    // MARK: After a crash

    @Test(arguments: 1...4) func whatAKillLeavesIsSound(_ number: Int) throws {
        let seed = SeededRandom.seed(UInt64(number) * 15_485_863)
        var random = SeededRandom(seed: seed)
        try TestStore.with { test in
            let mounts = [try test.mount(uid: 1), try test.mount(uid: 2, hearsCloses: false)]
            try mounts[0].mkdir("/d")
            for step in 0..<SeededRandom.rounds(80) {
                let mount = random.pick(mounts)
                let path = random.pick(["/a", "/b~", "/c", "/d/e", "/d/f", "/g"])
                let other = random.pick(["/a", "/b~", "/c", "/d/e", "/d/f", "/g"])
                let isThere = try mount.find(path) != nil
                switch random.below(10) {
                case 0 where isThere: try mount.unlink(path)
                case 1 where isThere && path != other: try mount.rename(path, other)
                case 2:
                    if isThere, try mount.find(other) == nil { try mount.link(path, other) }
                case 3: mount.closeAll()
                case 4: try test.store.settle()
                case 5: try test.tidyAll()
                case 6: if isThere { try mount.truncate(mount.number(path), to: Int64(random.below(200_000))) }
                default:
                    let file = try mount.find(path) ?? mount.create(path)
                    try mount.pwrite(file, random.text(1 + random.below(random.chance(20) ? 150_000 : 300)), at: Int64(random.below(1_000)))
                }
                guard random.chance(40) else { continue }
                try test.withFilesAfterKill { path in
                    let diagnosis = try StoreExamination.check(test.id, name: nil, path: path)
                    #expect(diagnosis.isSound, "REMFS_TEST_SEED=\(seed) step \(step): \(diagnosis.findings)")
                }
                if random.chance(10) { try test.crash() }
                Invariants.expect(test.store, hashes: false, "REMFS_TEST_SEED=\(seed) step \(step)")
            }
        }
    }

    /// A store with a bit of everything, closed.
    static func withStore(_ body: (String, StoreID) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let test = try TestStore(in: directory)
            let mount = try test.mount()
            for name in ["/notes", "/outer", "/outer/inner"] { try mount.mkdir(name) }
            try mount.save("/notes/a.md", "first")
            try test.store.settle()
            try mount.save("/notes/a.md", "second")
            try mount.save("/notes/b.md", "only")
            try mount.save("/linked", "linked")
            try mount.link("/linked", "/outer/second")
            try mount.save("/pipe", "")
            try mount.save("/gone", "gone")
            try mount.save("/work~", "a working file")
            try mount.symlink("notes/a.md", "/link")
            try test.settleAll()
            try mount.unlink("/gone")
            try test.settleAll()
            try mount.save("/notes/a.md", "third")
            try mount.save("/large", [UInt8](repeating: 7, count: 100_000))
            try test.settleAll()
            try test.tidyAll()
            Invariants.expect(test.store)
            try test.store.close()
            try body(test.store.path, test.id)
        }
    }

    static func open(_ path: String, _ id: StoreID) throws -> MemoryStore {
        try MemoryStore(
            id: id, name: "test", path: path, policy: Policy(), isArchived: false, isNew: false, environment: TestStore.environment)
    }

    static func damage(_ path: String, _ sql: String) throws {
        let connection = try Connection(path: path, mode: .readWrite)
        var sql = sql
        for (name, column) in [("{inode}", "number"), ("{version}", "version"), ("{memory}", "memory"), ("{chunk}", "content")] {
            let value = try #require(try connection.integer("SELECT \(column) FROM inode WHERE name = 'a.md'"))
            sql = sql.replacingOccurrences(of: name, with: "\(value)")
        }
        try connection.execute("PRAGMA ignore_check_constraints = ON")
        try connection.execute(sql)
    }
}
