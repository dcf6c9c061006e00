import Foundation
import Glibc
import SQLite
import Testing

@testable import Storage

/// Redaction removes bytes: from every table, from free space, from the journal, from the search index, and from what unlinked files show.
@Suite struct RedactionTests {
    private static let author = Author(.local)
    /// No other text has it, and no part of it is a word of `SeededRandom.text`.
    private static let secret = "qzxjvkwpfq-zzyyxxwwqq"

    /// In pieces, so that deltas and drafts cut through it.
    private static let words = [secret, "qzxjvkw", "zzyyxxw"]

    private static func secretive(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
        var content = random.text(count)
        for place in stride(from: 40, to: max(41, count - 30), by: max(200, count / 40)) {
            guard place + secret.utf8.count <= content.count else { break }
            content.replaceSubrange(place..<(place + secret.utf8.count), with: Array(secret.utf8))
        }
        return content
    }

    private func expectSound(_ test: TestStore, _ label: String = "", sourceLocation: SourceLocation = #_sourceLocation) throws {
        let diagnosis = try test.store.check()
        #expect(diagnosis.isSound, "\(label): \(diagnosis.findings)", sourceLocation: sourceLocation)
        Invariants.expect(test.store, label, sourceLocation: sourceLocation)
    }

    // MARK: The bytes

    @Test(arguments: [120, 3_000, 40_000, 300_000], [true, false])
    func noTraceIsLeft(_ size: Int, _ encodes: Bool) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: UInt64(size))
            let clean = random.text(size)
            try mount.save("/notes.md", clean)
            try mount.save("/other.md", random.text(2_000))
            // In many small drafts, as an editor or a program writes.
            let number = try mount.number("/notes.md")
            let dirty = Self.secretive(size, &random)
            try mount.truncate(number, to: 0)
            for place in stride(from: 0, to: size, by: max(37, size / 50)) {
                try mount.pwrite(number, Array(dirty[place..<min(place + max(37, size / 50), size)]), at: Int64(place))
            }
            mount.close(number)
            try test.settleAll()
            _ = try test.store.search(SearchQuery("deploy"), under: "/", after: 0, limit: 1)
            // Neighbours in its chain: deltas of it, and what it is a delta of.
            for round in 0..<6 {
                var next = random.text(size)
                next.replaceSubrange(
                    0..<min(40, size), with: bytes(String("version \(round) of the notes, which says nothing".prefix(min(40, size)))))
                try mount.save("/notes.md", round % 2 == 0 ? next : clean)
                try test.store.settle()
            }
            if encodes { try test.tidyAll() }
            try test.settleAll()
            #expect(try !Traces.of([Self.secret], in: test).isEmpty, "the test looks in the wrong places")
            let versions = try test.versions().filter { $0.path == "/notes.md" }
            let contents = try versions.map { try test.store.content(of: $0) }
            let target = try #require(versions.dropFirst().first)
            #expect(contents[1] == dirty)

            let redacted = try test.store.redact(target.id, by: Self.author)
            #expect(redacted.redacted != nil && redacted.redactedBy == .local && redacted.path == nil && redacted.contentSHA256 == nil)
            #expect(redacted.sizeInBytes == nil && redacted.created == target.created && redacted.author.actor == target.author.actor)
            #expect(try Traces.of(Self.words, in: test) == [])
            for (version, content) in zip(versions, contents) where version.number != target.number {
                #expect(try test.store.content(of: version) == content)
            }
            #expect(try test.store.content(of: redacted) == nil)
            try expectSound(test)
            let again = try test.store.redact(target.id, by: Author(.user("user_7")))
            #expect(again.redacted == redacted.redacted && again.redactedBy == .local)

            // What comes after brings nothing back.
            try mount.save("/notes.md", "more\n")
            try test.settleAll()
            try test.tidyAll()
            #expect(try Traces.of(Self.words, in: test) == [])
            try test.reopen()
            #expect(try Traces.of(Self.words, in: test) == [])
            try expectSound(test)
        }
    }

    @Test func whatAnotherVersionHoldsAsWellStays() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", "the same words\n")
            try mount.save("/b.md", "the same words\n")
            try mount.save("/a.md", "others\n")
            try test.settleAll()
            try test.tidyAll()
            let versions = try test.versions()
            let first = try #require(versions.first { $0.path == "/a.md" })
            let same = try #require(versions.first { $0.path == "/b.md" })
            _ = try test.store.redact(first.id, by: Self.author)
            #expect(try test.store.content(of: first) == nil)
            #expect(try test.store.content(of: same) == bytes("the same words\n"))
            #expect(try mount.read("/b.md") == "the same words\n")
            try expectSound(test)
        }
    }

    @Test func headsAreRefusedAndDeletionsAreNot() throws {
        try TestStore.with { test in
            let memory = try test.create("/\(Self.secret).md", "text")
            #expect(RemfsError.code { _ = try test.store.redact(memory.version, by: Self.author) } == .invalidArgument)
            #expect(RemfsError.code { _ = try test.store.redact(VersionID(store: test.id, number: 999), by: Self.author) } == .notFound)
            let other = VersionID(store: StoreID(bits: 9), number: 4)
            #expect(RemfsError.code { _ = try test.store.redact(other, by: Self.author) } == .notFound)
            _ = try test.store.commit(.delete(memory.id), by: Self.author)
            for version in try test.versions() { _ = try test.store.redact(version.id, by: Self.author) }
            // The name was only there.
            #expect(try Traces.of(Self.words, in: test) == [])
            #expect(try test.store.versions(VersionFilter(), before: nil, limit: 9).map(\.operation) == [.deleted, .created])
            try expectSound(test)
            try test.reopen()
            try expectSound(test)
        }
    }

    @Test func aDeletionOfAMomentAgoIsNoHead() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", Self.secret)
            try test.store.settle()
            let version = try #require(try test.versions().first)
            try mount.unlink("/a.md")
            _ = try test.store.redact(version.id, by: Self.author)
            #expect(try Traces.of([Self.secret], in: test) == [])
            try test.settleAll()
            try expectSound(test)
        }
    }

    /// Whoever has the deleted file open reads zeros from then on: the same bytes would be its content otherwise.
    @Test(arguments: [30, 200_000]) func anUnlinkedFileThatIsOpenIsBlanked(_ size: Int) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 5)
            let content = Self.secretive(size, &random) + Array(Self.secret.utf8)
            let number = try mount.save("/a.md", content)
            try test.store.settle()
            mount.hold(number)
            try mount.unlink("/a.md")
            try test.settleAll()
            _ = mount.takePosted()
            let version = try #require(try test.versions().first)
            _ = try test.store.redact(version.id, by: Self.author)
            #expect(try Traces.of(Self.words, in: test) == [])
            let shown = try test.store.read(number, offset: 0, count: content.count + 1) { bytes, _ in Array(bytes) }
            #expect(shown == [UInt8](repeating: 0, count: content.count))
            #expect(mount.takePosted().contains(.bytes(number, offset: 0, length: 0)))
            try expectSound(test)
            try test.crash(isTakingOver: true)
            mount.letGo(number)
            try test.settleAll()
            try expectSound(test)
        }
    }

    @Test func aCopyThatIsAFileOfItsOwnStays() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", Self.secret)
            try mount.save("/a.md~", Self.secret)
            try mount.save("/a.md", "gone\n")
            try test.settleAll()
            let version = try #require(try test.versions().first)
            _ = try test.store.redact(version.id, by: Self.author)
            #expect(try mount.read("/a.md~") == Self.secret)
            try expectSound(test)
        }
    }

    @Test func aDeletedMemoryComesBackFromWhatIsLeft() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", "first")
            _ = try test.store.commit(.update(memory.id, content: bytes("second"), path: nil), by: Self.author)
            _ = try test.store.commit(.delete(memory.id), by: Self.author)
            let versions = try test.versions()
            _ = try test.store.redact(versions[2].id, by: Self.author)
            _ = try test.store.redact(versions[1].id, by: Self.author)
            #expect(RemfsError.code { _ = try test.store.restore(memory.id, to: versions[1].id, by: Self.author) } == .invalidArgument)
            #expect(try test.store.restore(memory.id, to: versions[0].id, by: Self.author).path == "/a.md")
            try expectSound(test)
        }
    }

    /// What was redacted cannot be put back, and what is there instead is not taken away for it.
    @Test func goingBackLeavesAloneWhatWasRedacted() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", Self.secret)
            let other = try test.create("/b.md", "first")
            let then = try #require(try test.versions().last)
            _ = try test.store.commit(.update(memory.id, content: bytes("clean"), path: nil), by: Self.author)
            _ = try test.store.commit(.update(other.id, content: bytes("second"), path: nil), by: Self.author)
            _ = try test.create("/c.md", "new")
            _ = try test.store.redact(memory.version, by: Self.author)
            _ = try test.store.restore(to: .version(then.id), .prefix("/"), by: Self.author)
            #expect(try text(test.store.content(of: test.memory("/a.md"))) == "clean")
            #expect(try text(test.store.content(of: test.memory("/b.md"))) == "first")
            #expect(RemfsError.code { _ = try test.memory("/c.md") } == .notFound)
            try expectSound(test)
        }
    }

    // MARK: Who is in the way

    @Test func aReaderOfTheJournalIsWaitedForAndThenNamed() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", Self.secret)
            let old = memory.version
            _ = try test.store.commit(.update(memory.id, content: bytes("clean"), path: nil), by: Self.author)
            let code = try test.store.readers.snapshot { (reader) throws(SQLiteError) in
                _ = try reader.connection.integer("SELECT count(*) FROM version")
                return RemfsError.code { _ = try test.store.redact(old, by: Self.author, patience: 30_000_000) }
            }
            #expect(code == .unavailable)
            #expect(test.state { $0.scrub.isNeeded })
            // The same call goes on with it.
            #expect(try test.store.redact(old, by: Self.author).redacted != nil)
            #expect(test.state { !$0.scrub.isNeeded })
            #expect(try Traces.of(Self.words, in: test) == [])
            try expectSound(test)
        }
    }

    @Test func upkeepGoesOnWithWhatWasInTheWay() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", Self.secret)
            let old = memory.version
            _ = try test.store.commit(.update(memory.id, content: bytes("clean"), path: nil), by: Self.author)
            try test.store.readers.snapshot { (reader) throws(SQLiteError) in
                _ = try reader.connection.integer("SELECT count(*) FROM version")
                _ = RemfsError.code { _ = try test.store.redact(old, by: Self.author, patience: 1) }
            }
            try test.tidyAll()
            #expect(try Traces.of(Self.words, in: test) == [])
            try expectSound(test)
        }
    }

    /// A kill before any of its statements: either nothing was redacted, or opening the store finishes it.
    @Test func aKillAtAnyStatementLeavesAllOrNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 77)
            let content = Self.secretive(9_000, &random)
            try mount.save("/a.md", content)
            try test.store.settle()
            try mount.save("/a.md", random.text(9_000))
            try test.settleAll()
            try test.tidyAll()
            _ = try test.store.search(SearchQuery("deploy"), under: "/", after: 0, limit: 1)
            let version = try #require(try test.versions().first)
            try TemporaryDirectory.with { copies in
                let path = test.store.path
                var count = 0
                var failed = false
                test.state { state in
                    state.writer.fault = {
                        count += 1
                        for suffix in ["", "-wal"] {
                            do { try copyFile(path + suffix, to: "\(copies)/\(count).sqlite\(suffix)") } catch { failed = true }
                        }
                        return nil
                    }
                }
                _ = try test.store.redact(version.id, by: Self.author)
                test.state { $0.writer.fault = nil }
                #expect(!failed && count > 10, "\(count) statements")
                var redacted = 0
                for place in 1...count {
                    try TemporaryDirectory.with { directory in
                        for suffix in ["", "-wal"] {
                            try copyFile("\(copies)/\(place).sqlite\(suffix)", to: "\(directory)/store.sqlite\(suffix)")
                        }
                        let store = try MemoryStore(
                            id: test.id, name: "test", path: directory + "/store.sqlite", policy: Policy(), isArchived: false, isNew: false,
                            environment: TestStore.environment)
                        if try store.version(version.id).redacted == nil {
                            #expect(try store.content(of: version) == content, "statement \(place)")
                        } else {
                            redacted += 1
                            #expect(try Traces.inFiles(Self.words, below: directory) == [], "statement \(place)")
                        }
                        #expect(try store.check().isSound, "statement \(place)")
                        try store.close()
                    }
                }
                #expect(redacted > 2 && redacted < count)
            }
        }
    }

    @Test func aStatementThatFailsLeavesItToBeDoneAgain() throws {
        try TestStore.with { test in
            let memory = try test.create("/a.md", Self.secret)
            let old = memory.version
            _ = try test.store.commit(.update(memory.id, content: bytes("clean"), path: nil), by: Self.author)
            var statement = 0
            while true {
                statement += 1
                try #require(statement < 200)
                let counter = FaultCounter(failing: statement, with: Fault.full.rawValue)
                test.state { $0.writer.fault = counter.next }
                let code = RemfsError.code { _ = try test.store.redact(old, by: Self.author, patience: 1) }
                test.state { $0.writer.fault = nil }
                guard counter.hasFailed else { break }
                #expect(code == .noSpace || code == .unavailable || code == nil, "statement \(statement): \(String(describing: code))")
                Invariants.expect(test.store, hashes: false, "statement \(statement)")
            }
            #expect(statement > 10)
            #expect(try test.store.redact(old, by: Self.author).redacted != nil)
            #expect(try Traces.of(Self.words, in: test) == [])
            try expectSound(test)
        }
    }

    @Test func keptCopiesAreNamed() throws {
        try TestStore.with { test in
            #expect(try test.store.keptCopies() == [])
            for name in ["store.sqlite.schema-3", "store.sqlite.before-repair-20260101T000000Z", "other.sqlite.schema-3"] {
                try copyFile("/dev/null", to: "\(test.directory)/\(name)")
            }
            #expect(
                try test.store.keptCopies()
                    == ["store.sqlite.before-repair-20260101T000000Z", "store.sqlite.schema-3"].map { "\(test.directory)/\($0)" })
        }
    }
}
