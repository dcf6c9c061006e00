import Foundation
import Glibc
import Logging
import SQLite
import Testing

@testable import Storage

/// Stores that begin as a copy: imports, forks, files of other stores.
@Suite struct CopyTests {
    private static func withPool(_ body: (StorePool, String) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            let pool = try StorePool(stateDirectory: directory + "/state", logger: logger)
            defer { pool.close() }
            try body(pool, directory)
            // What fails leaves no file, and what succeeds one.
            let files = try StorePool.names(in: directory + "/state/stores").filter { $0.hasSuffix(".sqlite") }
            #expect(files.count == (try pool.catalog.count()))
            #expect(try !StorePool.names(in: directory + "/state").contains { $0.hasPrefix("spool-") })
        }
    }

    private static func fill(_ store: MemoryStore) throws {
        for path in ["/a", "/d/b", "/d/c"] { try store.commit(.create(path: MemoryPath(path), content: bytes(path)), by: Author(.local)) }
        let memory = try store.memory(at: "/a")
        try store.commit(.update(memory.id, content: bytes("changed"), path: nil), by: Author(.session("sesn_01x")))
    }

    private static func contents(_ store: MemoryStore) throws -> [String: String] {
        var found: [String: String] = [:]
        for case .memory(let memory) in try store.memories(under: "/", depth: 0, after: nil, limit: 100) {
            found[memory.path] = try text(store.content(of: memory))
        }
        return found
    }

    @Test func aForkIsAStoreOfItsOwn() throws {
        try Self.withPool { pool, _ in
            let source = try pool.createStore(name: "source", description: "d", metadata: ["k": "v"])
            var policy = Policy()
            policy.maxMemories = 3
            _ = try pool.setPolicy(source.id, policy)
            let then = try pool.withStore(source.id) { store throws(RemfsError) in store.now() }
            try pool.withStore(source.id) { store throws(RemfsError) in
                do { try Self.fill(store) } catch { throw RemfsError(.internal, "\(error)") }
            }
            let before = try pool.withStore(source.id) { store throws(RemfsError) in
                try store.versions(VersionFilter(), after: 0, limit: 100)[1].created
            }
            policy.access = .readOnly
            policy.maxMemories = 1
            _ = try pool.setPolicy(source.id, policy)
            for keepsHistory in [false, true] {
                let fork = try pool.fork(
                    source.id, at: .now, as: .init(name: "fork"), keepsHistory: keepsHistory, by: Author(.local, writer: Writer(uid: 5)))
                #expect(fork.id != source.id && fork.policy.maxMemories == 1 && fork.policy.access == .readWrite)
                try pool.withStore(fork.id) { store throws(RemfsError) in
                    do {
                        #expect(try Self.contents(store) == ["/a": "changed", "/d/b": "/d/b", "/d/c": "/d/c"])
                        let versions = try store.versions(VersionFilter(), after: 0, limit: 100)
                        #expect(versions.count == (keepsHistory ? 4 : 3))
                        #expect(versions.allSatisfy { $0.store == fork.id })
                        #expect(keepsHistory || versions.allSatisfy { $0.operation == .created && $0.author.writer.uid == 5 })
                        #expect(!keepsHistory || versions.last?.author.actor == .session("sesn_01x"))
                        let theirs = try pool.withStore(source.id) { store throws(RemfsError) in try store.memory(at: "/a") }
                        #expect(try store.memory(at: "/a").id != theirs.id)
                        #expect(RemfsError.code { _ = try store.memory(theirs.id) } == .notFound)
                        try store.commit(.update(store.memory(at: "/a").id, content: bytes("mine"), path: nil), by: Author(.local))
                        Invariants.expect(store)
                    } catch {
                        throw RemfsError(.internal, "\(error)")
                    }
                }
            }
            let old = try pool.fork(source.id, at: .time(before), as: .init(name: "old"), keepsHistory: false, by: Author(.local))
            try pool.withStore(old.id) { store throws(RemfsError) in
                do { #expect(try Self.contents(store) == ["/a": "/a", "/d/b": "/d/b"]) } catch { throw RemfsError(.internal, "\(error)") }
            }
            let empty = try pool.fork(source.id, at: .time(then), as: .init(name: "empty"), keepsHistory: false, by: Author(.local))
            #expect(try pool.withStore(empty.id) { store throws(RemfsError) in try store.statistics().memories } == 0)
            #expect(
                RemfsError.code {
                    _ = try pool.fork(source.id, at: .time(before), as: .init(name: "x"), keepsHistory: true, by: Author(.local))
                } == .invalidArgument)
            #expect(
                RemfsError.code { _ = try pool.fork(source.id, at: .now, as: .init(name: ""), keepsHistory: false, by: Author(.local)) }
                    == .invalidArgument)
            #expect(try pool.withStore(source.id) { store throws(RemfsError) in try store.statistics().versions } == 4, "untouched")
        }
    }

    @Test func aForkKeepsWhatIsNoMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/.git")
            try mount.save("/.git/config", "config")
            try mount.save("/draft~", "draft")
            try mount.symlink("/outside", "/link")
            try mount.save("/notes", "notes")
            try test.store.setExtendedAttribute("user.a", of: mount.number("/notes"), to: [1, 2], .set, by: mount.caller)
            mount.closeAll()
            try test.settleAll()
            try TestStore.with { copy in
                var rules = ImportRules()
                rules.isCopy = true
                try test.store.withSnapshot(at: .now) { snapshot throws(RemfsError) in
                    _ = try copy.store.take(EntrySource(snapshot), rules, by: Author(.local))
                }
                let there = try copy.mount()
                #expect(try copy.log() == ["created /notes"])
                #expect(try there.read("/.git/config") == "config" && there.read("/draft~") == "draft")
                #expect(try copy.store.extendedAttribute("user.a", of: there.number("/notes")) == [1, 2])
                #expect(try copy.store.attributes(of: there.number("/notes")).uid == 1000)
                // Born below a directory that is unversioned there as well.
                try there.save("/.git/HEAD", "ref")
                try copy.settleAll()
                #expect(try copy.log() == ["created /notes"])
                Invariants.expect(copy.store)
                try copy.reopen()
                Invariants.expect(copy.store)
            }
        }
    }

    @Test func aStoresFileBecomesAnother() throws {
        try Self.withPool { pool, directory in
            let source = try pool.createStore(name: "source", description: "", metadata: [:])
            let image = directory + "/state/spool-image"
            let versions = try pool.withStore(source.id) { store throws(RemfsError) in
                do { try Self.fill(store) } catch { throw RemfsError(.internal, "\(error)") }
                try store.backup(to: image)
                return try store.versions(VersionFilter(), after: 0, limit: 100)
            }
            let taken = try pool.importStore(.init(name: "taken"), fromFile: image)
            try pool.withStore(taken.id) { store throws(RemfsError) in
                let theirs = try store.versions(VersionFilter(), after: 0, limit: 100)
                #expect(theirs.map(\.created) == versions.map(\.created) && theirs.map(\.contentSHA256) == versions.map(\.contentSHA256))
                #expect(Set(theirs.map(\.id)).isDisjoint(with: versions.map(\.id)))
                Invariants.expect(store)
            }
        }
    }

    @Test func aFileThatIsNotOursIsRefused() throws {
        try Self.withPool { pool, directory in
            let source = try pool.createStore(name: "source", description: "", metadata: [:])
            let good = directory + "/good.sqlite"
            try pool.withStore(source.id) { store throws(RemfsError) in
                do { try Self.fill(store) } catch { throw RemfsError(.internal, "\(error)") }
                try store.backup(to: good)
            }
            let changes: [(String, String, RemfsError.Code)] = [
                ("another application", "PRAGMA application_id = 5", .invalidArgument),
                ("a newer schema", "PRAGMA user_version = 99", .unsupported),
                ("no schema", "PRAGMA user_version = 0", .invalidArgument),
                ("a trigger", "CREATE TRIGGER t AFTER INSERT ON version BEGIN DELETE FROM inode; END", .invalidArgument),
                ("a view in place of a table", "DROP TABLE ledger; CREATE VIEW ledger AS SELECT 1 AS slot", .invalidArgument),
                ("a table more", "CREATE TABLE more (a)", .invalidArgument),
                ("no owner", "DELETE FROM property WHERE name = 'store'", .invalidArgument),
                ("a wrong content", "UPDATE extent SET bytes = x'00' WHERE bytes IS NOT NULL", .invalidArgument),
                ("a lost file", "DELETE FROM inode WHERE memory IS NOT NULL", .invalidArgument),
            ]
            for (what, sql, code) in changes {
                let image = directory + "/state/image"
                try copyFile(good, to: image)
                do {
                    let connection = try Connection(path: image, mode: .readWrite)
                    try connection.execute(sql)
                    _ = try connection.checkpoint(.truncate)
                }
                #expect(RemfsError.code { _ = try pool.importStore(.init(name: "x"), fromFile: image) } == code, "\(what)")
                for suffix in ["", "-wal", "-shm"] { unlink(image + suffix) }
            }
            for bytes in [bytes("SQLite format 3\0"), bytes("SQLite format 3\0") + [UInt8](repeating: 7, count: 8_000), []] {
                let image = directory + "/state/image"
                try Data(bytes).write(to: URL(fileURLWithPath: image))
                #expect(RemfsError.code { _ = try pool.importStore(.init(name: "x"), fromFile: image) } == .invalidArgument)
                unlink(image)
            }
        }
    }

    @Test func anArchiveBecomesAStoreOrNone() throws {
        try Self.withPool { pool, _ in
            func archive(_ count: Int, cut: Int = 0) throws -> ArchiveReader {
                var bytes: [UInt8] = []
                let writer = ArchiveWriter { bytes += $0 }
                for place in 0..<count {
                    try writer.begin(ArchiveEntry(path: Array("d\(place % 7)/f\(place)".utf8), kind: .file(sizeInBytes: 3)))
                    try writer.write(Array("abc".utf8))
                }
                try writer.finish()
                bytes.removeLast(cut)
                return ArchiveReader { wanted in
                    defer { bytes.removeFirst(min(wanted, bytes.count)) }
                    return Array(bytes.prefix(wanted))
                }
            }
            // More than one transaction takes.
            let (store, counts) = try pool.importStore(.init(name: "big"), from: archive(5_000), ImportRules(), by: Author(.local))
            #expect(counts.created == 5_000)
            try pool.withStore(store.id) { store throws(RemfsError) in Invariants.expect(store) }
            #expect(
                RemfsError.code {
                    _ = try pool.importStore(.init(name: "cut"), from: archive(5_000, cut: 1_500), ImportRules(), by: Author(.local))
                }
                    == .invalidArgument)
            #expect(
                RemfsError.code { _ = try pool.importStore(.init(name: "full"), from: archive(10_001), ImportRules(), by: Author(.local)) }
                    == .storeFull)
            #expect(try pool.catalog.count() == 1)
        }
    }
}
