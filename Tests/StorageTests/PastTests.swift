import SQLite
import Testing
import Threads

@testable import Storage

/// A store's past, name by name.
@Suite struct PastTests {
    private static let author = Author(.local)

    /// Paths and contents below a directory at a moment, listed a few entries at a time.
    private func tree(_ test: TestStore, at moment: PastMoment, _ directory: PathNumber = .root, _ path: String = "") throws -> [String] {
        var found: [String] = []
        var cookie: UInt64 = 2
        while true {
            var entries: [PastEntry] = []
            try test.store.listPast(directory, at: moment, after: cookie) {
                entries.append($0)
                return entries.count < 3
            }
            guard let last = entries.last else { return found }
            cookie = last.cookie
            for entry in entries {
                let name = path + "/" + text(entry.name)
                let looked = try entry.name.withUnsafeBytes { try test.store.pastEntry($0, in: directory, at: moment) }
                #expect(looked?.node == entry.node, "\(name)")
                switch entry.node {
                case .version(let version):
                    let content = try test.store.readPast(version, offset: 0, count: 1 << 20) { Array($0) }
                    #expect(content.count == Int(entry.sizeInBytes))
                    found.append("\(name): \(text(content))")
                case .directory(let number, _): found += try tree(test, at: moment, number, name)
                case .versions: Issue.record("\(name) is of no moment")
                }
            }
        }
    }

    /// The same as an export has it.
    private func exported(_ test: TestStore, at point: StorePoint) throws -> [String] {
        try test.store.withSnapshot(at: point) { (snapshot) throws(RemfsError) in
            var found: [String] = []
            while let entry = snapshot.next() {
                var content: [UInt8] = []
                while case let bytes = try snapshot.read(), !bytes.isEmpty { content += bytes }
                found.append("/\(text(entry.path)): \(text(content))")
            }
            return found.sorted()
        }
    }

    @Test(arguments: 1...4) func theTreeOfAMomentIsThatOfAnExport(_ number: Int) throws {
        try TestStore.with { test in
            let seed = SeededRandom.seed(UInt64(number) * 104_729)
            var random = SeededRandom(seed: seed)
            let mount = try test.mount()
            let names = ["a", "b", "c", "a0", "a.md", "e\u{301}"]
            func path() -> String { (0...random.below(3)).map { _ in "/" + random.pick(names) }.joined() }
            for step in 0..<400 {
                do {
                    switch random.below(10) {
                    case 0: try mount.mkdir(path())
                    case 1: try mount.unlink(path())
                    case 2, 3: try mount.rename(path(), path())
                    case 4: _ = try test.create(path(), "api \(step)")
                    case 5: try mount.rename(path(), path(), .exchange)
                    case 6: try test.passTwoSeconds()
                    default: _ = try mount.save(path(), random.below(20) == 0 ? String(repeating: "\(step) ", count: 30_000) : "\(step)")
                    }
                } catch is RemfsError {}
            }
            try test.settleAll()
            var whole = 0
            for version in try test.versions() where random.below(3) == 0 {
                let moment = try #require(try test.store.pastMoment(named: version.id.description, since: version.created))
                let (shown, expected) = (try tree(test, at: moment).sorted(), try exported(test, at: .version(version.id)))
                // Amidst a change of several memories, in which one is at another's place, each name is shown once.
                let paths = expected.map { String($0.prefix { $0 != ":" }) }
                let isAmidst = Set(paths).count < paths.count || paths.contains { path in paths.contains { $0.hasPrefix(path + "/") } }
                #expect(isAmidst ? Set(shown).isSubset(of: expected) : shown == expected, "REMFS_TEST_SEED=\(seed)")
                whole += isAmidst ? 0 : 1
            }
            #expect(whole > 10)
        }
    }

    @Test func whatIsDeletedLateHidesNobody() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try mount.save("/a", "first")
            try test.settleAll()
            try mount.unlink("/a")
            _ = try test.create("/a", "second")
            try test.passTwoSeconds()
            try test.settleAll()
            let moment = try test.store.pastMoment(.time(test.store.now()), since: Timestamp(microseconds: 0))
            #expect(try tree(test, at: moment) == ["/a: second"])
        }
    }

    /// A successor of this process is asked for nodes that it has not given.
    @Test func nodesOutliveTheProcess() throws {
        try TestStore.with { test in
            _ = try test.create("/notes/deep/a.md", "one")
            let name = test.store.now().rfc3339
            let moment = try #require(try test.store.pastMoment(named: name, since: Timestamp(microseconds: 0)))
            _ = try test.create("/notes/b.md", "later")
            for _ in 0..<2 {
                try test.reopen()
                #expect(try test.store.pastMoment(number: moment.number) == moment)
                #expect(try tree(test, at: moment, PathNumber("/notes"), "/notes") == ["/notes/deep/a.md: one"])
                #expect(try test.store.pastMoment(named: name, since: Timestamp(microseconds: 0)) == moment)
            }
            #expect(RemfsError.code { _ = try test.store.pastMoment(number: 7) } == .gone)
            #expect(RemfsError.code { _ = try test.store.pastPath(PathNumber("/nothing")) } == .gone)
            var listed: [String] = []
            try test.store.listVersions(PathNumber("/notes/deep"), after: 2) {
                listed.append(text($0.name))
                return true
            }
            #expect(listed == ["a.md"])
        }
    }

    @Test func numbersSayWhatTheyAreOf() {
        let path = PathNumber("/notes/a.md")
        let nodes: [PastNode] = [
            .version(1), .version(1 << 43), .directory(.root, at: 0), .directory(path, at: 1), .directory(path, at: Past.most),
            .versions(.root), .versions(path),
        ]
        for node in nodes {
            #expect(PastNode(node.number) == node)
            #expect(node.number > PastNode.first + 1 << 60 && node.inode > 0)
        }
        #expect(Set(nodes.map(\.number)).count == nodes.count)
        for other: UInt64 in [0, 1, 1 << 61, PastNode.first, PastNode.at, 1 << 63] { #expect(PastNode(other) == nil) }
    }

    /// What was asked for as of a time stays so, whatever the clock does.
    @Test func nothingComesToBeThatWasNotThere() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "one")
            let offset = Mutex<Int64>(0)
            let now = test.store.now()
            let moment = try #require(try test.store.pastMoment(named: now.rfc3339, since: now))
            offset.withLock { $0 = -3_600_000_000_000 }
            test.state { $0.clockOffset = { offset.withLock { $0 } } }
            _ = try test.create("/b", "two")
            #expect(try tree(test, at: moment) == ["/a: one"])
            #expect(try test.versions().last!.created > now)
        }
    }

    @Test func momentsNobodyKnowsAreGivenUp() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try test.create("/a", "one")
            let first = test.store.now().microseconds - 1_000
            func ask(_ step: Int) throws -> PastMoment? {
                try test.store.pastMoment(named: Timestamp(microseconds: first + Int64(step)).rfc3339, since: Timestamp(microseconds: 0))
            }
            func rows() throws -> Int64? {
                try test.store.readers.read { (reader) throws(SQLiteError) in try reader.connection.integer("SELECT count(*) FROM past") }
            }
            let held = try #require(try ask(0))
            mount.hold(PastNode.directory(.root, at: held.number).inode)
            for step in 1...(Past.mostIdle + 50) { _ = try ask(step) }
            // One that was used lately stays, however old it is.
            let used = try #require(try ask(1))
            _ = mount.takePosted()
            try test.store.trimPast()
            #expect(try rows() == Int64(Past.mostIdle + 1))
            let name = Array(Timestamp(microseconds: first).rfc3339.utf8)
            #expect(mount.takePosted() == [.name(name, in: InodeNumber(PastNode.at))])
            #expect(try test.store.pastMoment(number: held.number) == held && test.store.pastMoment(number: used.number) == used)
            try test.reopen()
            #expect(try test.store.pastMoment(number: held.number) == held)
            mount.letGo(PastNode.directory(.root, at: held.number).inode)
            try test.store.trimPast()
            #expect(try rows() == Int64(Past.mostIdle))
            // Numbers come again as late as possible, and there are only so many.
            let numbers = try (400..<(400 + Past.most - Past.mostIdle)).map { try #require(try ask($0)).number }
            #expect(Set(numbers).count == numbers.count)
            #expect(RemfsError.code { _ = try ask(9_000) } == .unavailable)
        }
    }

    /// A moment is shown as a whole or not at all.
    @Test func whatRetentionGaveUpIsMissing() throws {
        var policy = Policy()
        policy.retentionDays = 30
        try TestStore.with(policy: policy) { test in
            let offset = Mutex<Int64>(0)
            test.state { $0.clockOffset = { offset.withLock { $0 } } }
            let memory = try test.create("/a", "0")
            _ = try test.create("/b", "0")
            let name = test.store.now().rfc3339
            let moment = try #require(try test.store.pastMoment(named: name, since: Timestamp(microseconds: 0)))
            #expect(try tree(test, at: moment) == ["/a: 0", "/b: 0"])
            for step in 1...20 { _ = try test.store.commit(.update(memory.id, content: bytes("\(step)"), path: nil), by: Self.author) }
            offset.withLock { $0 = 31 * 86_400_000_000_000 }
            #expect(try test.store.collectGarbage(isDryRun: false).versions > 0)
            #expect(RemfsError.code { _ = try tree(test, at: moment) } == .notFound)
            #expect(RemfsError.code { _ = try test.store.pastMoment(named: name, since: Timestamp(microseconds: 0)) } == .notFound)
            #expect(
                RemfsError.code { _ = try Array("b".utf8).withUnsafeBytes { try test.store.pastEntry($0, in: .root, at: moment) } }
                    == .notFound)
            let now = try test.store.pastMoment(.time(test.store.now()), since: Timestamp(microseconds: 0))
            #expect(try tree(test, at: now).sorted() == ["/a: 20", "/b: 0"])
        }
    }

    /// What a redaction has kernels forget: the pages, the name in each moment, and directories that have nothing else.
    @Test func aRedactionIsToldOf() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let memory = try test.create("/d/e/f", "secret")
            _ = try test.create("/d/g", "plain")
            let moment = try #require(try test.store.pastMoment(named: test.store.now().rfc3339, since: Timestamp(microseconds: 0)))
            #expect(try tree(test, at: moment) == ["/d/g: plain", "/d/e/f: secret"] || tree(test, at: moment).count == 2)
            _ = try test.store.commit(.delete(memory.id), by: Self.author)
            let after = try #require(try test.store.pastMoment(named: test.store.now().rfc3339, since: Timestamp(microseconds: 0)))
            let version = try #require(try test.versions().first)
            _ = mount.takePosted()
            _ = try test.store.redact(version.id, by: Self.author)
            let posted = mount.takePosted()
            func node(_ path: String, _ moment: PastMoment) -> InodeNumber { PastNode.directory(PathNumber(path), at: moment.number).inode }
            #expect(posted.contains(.bytes(PastNode.version(version.number).inode, offset: 0, length: 0)))
            #expect(
                posted.contains(.name(bytes("f"), in: node("/d/e", moment))) && posted.contains(.name(bytes("e"), in: node("/d", moment))))
            #expect(
                !posted.contains(.name(bytes("d"), in: node("", moment))) && !posted.contains(.name(bytes("f"), in: node("/d/e", after))))
            #expect(posted.contains(.bytes(PastNode.versions(PathNumber("/d/e/f")).inode, offset: 0, length: 0)))
            #expect(try tree(test, at: moment) == ["/d/g: plain"])
            #expect(RemfsError.code { _ = try test.store.pastFile(version.number) } == .gone)
            #expect(RemfsError.code { _ = try test.store.readPast(version.number, offset: 0, count: 9) { _ in } } == .gone)
        }
    }

    /// A file that nobody was told of may turn out to be a temporary one. Who has seen it in a moment was told.
    @Test func whatIsShownIsNotWithdrawn() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try mount.save("/f", "old")
            _ = try mount.save("/tmp", "new")
            try test.settleAll()
            let moment = try #require(try test.store.pastMoment(named: test.store.now().rfc3339, since: Timestamp(microseconds: 0)))
            #expect(try tree(test, at: moment) == ["/f: old", "/tmp: new"])
            try mount.rename("/tmp", "/f")
            try test.settleAll()
            #expect(try tree(test, at: moment) == ["/f: old", "/tmp: new"])
        }
    }
}
