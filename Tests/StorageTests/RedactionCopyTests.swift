import Foundation
import Glibc
import Logging
import SQLite
import Testing

@testable import Storage

/// Redaction reaches the copies that remfs made of the bytes, and names what it does not reach.
@Suite struct RedactionCopyTests {
    private static let author = Author(.local)
    private static let secret = "qzxjvkwpfq-zzyyxxwwqq"
    private static let all = Scopes(.admin, stores: nil)

    /// A memory that held the secret, and does no longer.
    private static func dirty(_ store: MemoryStore, _ path: String = "/a.md", _ content: String = secret) throws -> Memory {
        let memory = try #require(try store.commit(.create(path: MemoryPath(path), content: bytes(content)), by: author))
        _ = try store.commit(.update(memory.id, content: bytes("clean"), path: nil), by: author)
        return memory
    }

    // MARK: Beside the file

    @Test func aCopyOfBeforeAnUpgradeGoes() throws {
        try TestStore.with { test in
            let memory = try Self.dirty(test.store)
            let copies = ["schema-3", "before-repair-20260101T000000Z"].map { "\(test.store.path).\($0)" }
            for copy in copies { try test.store.backup(to: copy) }
            // What cannot be read may hold anything.
            let torn = test.store.path + ".schema-2"
            try Data(repeating: 7, count: 5_000).write(to: URL(fileURLWithPath: torn))
            #expect(try Traces.inFiles([Self.secret], below: test.directory).count >= 3)
            let removed = try test.store.redact([memory.version], by: Self.author)
            #expect(Set(removed) == Set(copies + [torn]))
            #expect(try Traces.inFiles([Self.secret], below: test.directory) == [])
            #expect(try test.store.keptCopies() == [])
        }
    }

    @Test func aCopyThatCannotHoldItStays() throws {
        try TestStore.with { test in
            _ = try test.create("/other.md", "other")
            try test.store.close()
            try test.reopenClosed()
            let before = test.store.path + ".schema-3"
            try test.store.backup(to: before)
            // Numbers are promised by the thousand: past those of the copy.
            try test.store.close()
            try test.reopenClosed()
            for _ in 0..<10_000 {
                try test.state { state in
                    try state.reserveNumbers(1)
                    _ = state.takeNumber()
                }
            }
            let memory = try Self.dirty(test.store)
            #expect(try test.store.redact([memory.version], by: Self.author) == [])
            // And one from after it was cleaned.
            let after = test.store.path + ".before-repair-20260101T000000Z"
            try test.store.backup(to: after)
            #expect(try test.store.redact([memory.version], by: Self.author) == [before])
            #expect(try test.store.keptCopies() == [after])
            #expect(try Traces.inFiles([Self.secret], below: test.directory) == [])
        }
    }

    @Test func whatAKillLeftGoesAtTheNextStart() throws {
        try TestStore.with { test in
            let memory = try Self.dirty(test.store)
            let copy = test.store.path + ".schema-3"
            try test.store.backup(to: copy)
            // The transaction is there, and no more.
            _ = try test.state { try $0.redact(memory.version.number(in: test.id)!, by: .local) }
            #expect(FileManager.default.fileExists(atPath: copy))
            try test.store.close()
            try test.reopenClosed()
            #expect(!FileManager.default.fileExists(atPath: copy))
            #expect(try Traces.inFiles([Self.secret], below: test.directory) == [])
        }
    }

    // MARK: In the state directory

    private static func withPool(_ body: (StorePool, String) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            let pool = try StorePool(stateDirectory: directory + "/state", logger: logger)
            defer { pool.close() }
            try body(pool, directory + "/state")
        }
    }

    private static func lend<Answer>(_ pool: StorePool, _ id: StoreID, _ body: (MemoryStore) throws -> Answer) throws -> Answer {
        let store = try pool.retain(id)
        defer { pool.release(id) }
        return try body(store)
    }

    private static func redact(
        _ pool: StorePool, _ version: VersionID, in id: StoreID, derived: Bool = false, scopes: Scopes = all
    ) throws -> Redaction {
        try pool.redact(version, in: id, derived: derived, scopes: scopes, by: author)
    }

    @Test func anExportThatIsUnderWayIsCutOff() throws {
        try Self.withPool { pool, state in
            let (one, other) = try (
                pool.createStore(name: "a", description: "", metadata: [:]).id,
                pool.createStore(name: "b", description: "", metadata: [:]).id
            )
            let memory = try Self.lend(pool, one) { try Self.dirty($0) }
            let spool = pool.spoolPath("req_1", of: one)
            for path in [spool, pool.spoolPath("req_2", of: other), pool.spoolPath("req_3")] {
                try Data(Self.secret.utf8).write(to: URL(fileURLWithPath: path))
            }
            let open = open(spool, O_RDONLY)
            defer { close(open) }
            #expect(try Self.redact(pool, memory.version, in: one).removed == [spool])
            var status = Glibc.stat()
            #expect(fstat(open, &status) == 0 && status.st_size == 0 && status.st_nlink == 0)
            // Another store's, and what a client has sent.
            let left = try StorePool.names(in: state).filter { $0.hasPrefix("spool-") }
            #expect(left.count == 2)
            for name in left { unlink("\(state)/\(name)") }
            #expect(try Traces.inFiles([Self.secret], below: state) == [])
            let ballast = try Data(contentsOf: URL(fileURLWithPath: state + "/ballast"))
            #expect(ballast.allSatisfy { $0 == 0 }, "it holds no bytes of anybody")
        }
    }

    @Test func whatSomebodyWasGivenIsListed() throws {
        try Self.withPool { pool, _ in
            let id = try pool.createStore(name: "a", description: "", metadata: [:]).id
            let (memory, redaction) = try Self.lend(pool, id) { store in
                try store.making(.export, of: .now, by: Self.author) { () throws(RemfsError) in }
                let memory = try Self.dirty(store)
                let at = store.now()
                try store.making(.export, of: .now, by: Author(.user("user_7"))) { () throws(RemfsError) in }
                try store.making(.export, of: .version(memory.version), by: Author(.user("user_8"))) { () throws(RemfsError) in }
                try store.making(.export, of: .time(at), by: Author(.user("user_9"))) { () throws(RemfsError) in }
                try store.making(.backup, of: nil, by: Author(.session("sesn_1"))) { () throws(RemfsError) in }
                // One that failed is none.
                let failed = RemfsError.code {
                    try store.making(.backup, of: nil, by: Author(.user("user_10"))) { () throws(RemfsError) in
                        throw RemfsError(.noSpace, "no room")
                    }
                }
                #expect(failed == .noSpace)
                return (memory, try Self.redact(pool, memory.version, in: id))
            }
            func actors(_ redaction: Redaction) -> [MemoryActor?] {
                redaction.remaining.compactMap { if case .copy(let copy, id) = $0 { copy.actor } else { Optional<MemoryActor?>.none } }
            }
            // Of the moment at which it was the head, and of all times.
            #expect(actors(redaction) == [.user("user_8"), .session("sesn_1")])
            #expect(redaction.remaining.count == 2 && redaction.removed == [] && redaction.derived.isEmpty)
            // Also when it is asked again, by when nothing but the row is left.
            #expect(actors(try Self.redact(pool, memory.version, in: id)) == [.user("user_8"), .session("sesn_1")])
        }
    }

    @Test func aFileThatAPersonPutAsideIsListedAndOneThatNobodyWasGivenGoes() throws {
        try Self.withPool { pool, state in
            let id = try pool.createStore(name: "a", description: "", metadata: [:]).id
            let memory = try Self.lend(pool, id) { try Self.dirty($0) }
            let fork = try pool.fork(id, at: .now, as: .init(name: "fork"), keepsHistory: true, by: Self.author).id
            try pool.deleteStore(fork)
            let (kept, gone) = ("\(state)/orphans/\(id).sqlite", "\(state)/orphans/\(fork).sqlite")
            for path in [kept, gone] { try Data(Self.secret.utf8).write(to: URL(fileURLWithPath: path)) }
            let redaction = try Self.redact(pool, memory.version, in: id)
            #expect(redaction.removed == [gone])
            #expect(redaction.remaining.count == 1)
            if case .file(let file)? = redaction.remaining.first { #expect(file == kept) } else { Issue.record("\(redaction.remaining)") }
        }
    }

    // MARK: Derived

    @Test(arguments: [21, 70_000, 100_000]) func theSameBytesGoWithItHereAndInForks(_ size: Int) throws {
        try Self.withPool { pool, state in
            var random = SeededRandom(seed: UInt64(size))
            let content = Self.secret + text(random.text(max(0, size - Self.secret.utf8.count)))
            let id = try pool.createStore(name: "a", description: "", metadata: [:]).id
            let memory = try Self.lend(pool, id) { store in
                let memory = try Self.dirty(store, "/a.md", content)
                // As a restore and a rename have it, and in another memory.
                _ = try store.restore(memory.id, to: memory.version, by: Self.author)
                _ = try store.commit(.update(memory.id, content: nil, path: MemoryPath("/moved.md")), by: Self.author)
                _ = try store.commit(.update(memory.id, content: bytes("clean again"), path: nil), by: Self.author)
                _ = try store.commit(.create(path: MemoryPath("/b.md"), content: bytes(content)), by: Self.author)
                return memory
            }
            let then = StorePoint.version(memory.version)
            let whole = try pool.fork(id, at: .now, as: .init(name: "whole"), keepsHistory: true, by: Self.author).id
            let old = try pool.fork(id, at: then, as: .init(name: "old"), keepsHistory: false, by: Self.author).id
            let second = try pool.fork(old, at: .now, as: .init(name: "second"), keepsHistory: false, by: Self.author).id
            let image = state + "/image"
            try Self.lend(pool, id) { try $0.backup(to: image) }
            let taken = try pool.importStore(.init(name: "taken"), fromFile: image).id
            let young = try pool.fork(id, at: .now, as: .init(name: "young"), keepsHistory: false, by: Self.author).id

            // First without: they are listed.
            let listed = try Self.redact(pool, memory.version, in: id)
            #expect(listed.derived.isEmpty)
            func held(_ redaction: Redaction) -> [HeldVersion] {
                redaction.remaining.compactMap { if case .version(let version) = $0 { version } else { nil } }
            }
            #expect(Set(held(listed).map(\.store)) == [id, whole, old, second, taken, young])
            #expect(held(listed).filter { $0.store == id }.map(\.path) == ["/a.md", "/moved.md", "/b.md"])
            #expect(held(listed).filter(\.isHead).count == 6)

            // What went is asked for by another version that has the same bytes.
            let restored = try #require(held(listed).first { $0.store == id })
            let narrow = Scopes(.admin, stores: [id, whole])
            let part = try Self.redact(pool, restored.id, in: id, derived: true, scopes: narrow)
            #expect(Set(part.derived.map(\.store)) == [id, whole])
            #expect(
                part.hidden == held(listed).count { ![id, whole].contains($0.store) }
                    && held(part).allSatisfy { $0.isHead && [id, whole].contains($0.store) }, "\(part.hidden)")

            // With the heads out of the way all goes.
            for store in [id, whole, old, second, taken, young] {
                try Self.lend(pool, store) { store in
                    for case .memory(let memory) in try store.memories(under: "/", depth: 0, after: nil, limit: 9)
                    where try store.content(of: memory) == bytes(content) {
                        _ = try store.commit(.update(memory.id, content: bytes("clean \(memory.path)"), path: nil), by: Self.author)
                    }
                }
            }
            let last = try #require(
                try Self.lend(pool, id) { try $0.versions(VersionFilter(), before: nil, limit: 99) }.first {
                    $0.path == "/b.md" && $0.operation == .created
                })
            let rest = try Self.redact(pool, last.id, in: id, derived: true)
            #expect(held(rest).isEmpty && rest.hidden == 0 && rest.omitted == 0)
            #expect(try Traces.inFiles([Self.secret], below: state) == [])
            for store in [id, whole, old, second, taken, young] {
                try Self.lend(pool, store) { Invariants.expect($0) }
            }
        }
    }

    /// A name can be what has to go.
    @Test func aForkHasTheVersionItself() throws {
        try Self.withPool { pool, state in
            let id = try pool.createStore(name: "a", description: "", metadata: [:]).id
            let memory = try Self.lend(pool, id) { store in
                let path = try MemoryPath("/\(Self.secret).md")
                let memory = try #require(try store.commit(.create(path: path, content: []), by: Self.author))
                _ = try store.commit(.update(memory.id, content: nil, path: MemoryPath("/clean.md")), by: Self.author)
                return memory
            }
            let fork = try pool.fork(id, at: .now, as: .init(name: "fork"), keepsHistory: true, by: Self.author).id
            let redaction = try Self.redact(pool, memory.version, in: id, derived: true)
            #expect(redaction.derived.map(\.store) == [fork] && redaction.derived[0].path == nil)
            #expect(try Traces.inFiles([Self.secret], below: state) == [])
        }
    }
}
