import Foundation
import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// The Nth statement of a change fails, for N = 1, 2, 3 ... until one passes untouched. After each failure the error is the right
/// one, the tree is as it was, in memory, in the file and after a restart, and what was acknowledged is there.
@Suite struct FaultTests {
    /// What SQLite may answer, and what the caller must hear.
    enum Fault: Int32, CaseIterable, CustomStringConvertible {
        case full = 13
        case io = 10
        case memory = 7

        var code: RemfsError.Code {
            switch self {
            case .full: .noSpace
            case .io: .corrupted
            case .memory: .unavailable
            }
        }
        var errno: Int32 {
            switch self {
            case .full: ENOSPC
            case .io: EIO
            case .memory: EAGAIN
            }
        }
        var description: String {
            switch self {
            case .full: "full"
            case .io: "io"
            case .memory: "memory"
            }
        }
    }

    /// - Parameters:
    ///   - prepare: makes what the change needs. It is settled before the change, unless `settles` is false.
    ///   - change: must leave the tree as it was when it throws.
    ///   - expectedFailures: how many statements it has at least, so that a test that fails nothing is noticed.
    private func play(
        _ name: String, atLeast expectedFailures: Int = 3, settles: Bool = true, prepare: (TestStore, TestMount) throws -> Void,
        change: (TestStore, TestMount) throws -> Void, after: (TestStore, TestMount) throws -> Void = { _, _ in },
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        for fault in Fault.allCases {
            try TestStore.with { test in
                let mount = try test.mount()
                try prepare(test, mount)
                if settles { try test.settleAll() }
                // Room for numbers is made beforehand, so that each case counts its own statements only.
                try test.state { try $0.reserveNumbers(2_000) }
                let before = try test.tree()
                var count = 0
                while true {
                    count += 1
                    guard count < 500 else { throw Failure("\(name): statement \(count) still fails") }
                    let counter = Counter(failing: count, with: fault.rawValue)
                    test.state { $0.writer.fault = counter.next }
                    let code = RemfsError.code { try change(test, mount) }
                    test.state { $0.writer.fault = nil }
                    let label = "\(name), \(fault) at statement \(count)"
                    guard counter.hasFailed else {
                        #expect(code == nil, "\(label)", sourceLocation: sourceLocation)
                        break
                    }
                    guard code == fault.code, code?.seenAs.errno == fault.errno else {
                        Issue.record("\(label): answered \(code.map { "\($0)" } ?? "success")", sourceLocation: sourceLocation)
                        if code == nil { break }
                        continue
                    }
                    let now = try test.tree()
                    #expect(now == before, "\(label)", sourceLocation: sourceLocation)
                    Invariants.expect(test.store, hashes: false, label, sourceLocation: sourceLocation)
                    // What is in the file does not hang on the kind of the error.
                    if fault == .io {
                        try test.withCopyAfterKill { copy in
                            let there = try test.tree(of: copy)
                            #expect(there == before, "\(label), restarted", sourceLocation: sourceLocation)
                            Invariants.expect(copy, hashes: false, "\(label), restarted", sourceLocation: sourceLocation)
                        }
                    }
                    if now != before { break }
                }
                #expect(count > expectedFailures, "\(name) has \(count - 1) statements", sourceLocation: sourceLocation)
                try test.settleAll()
                Invariants.expect(test.store, name, sourceLocation: sourceLocation)
                try after(test, mount)
                try test.reopen()
                try after(test, mount)
                Invariants.expect(test.store, name, sourceLocation: sourceLocation)
            }
        }
    }

    /// Fails one statement, by its place.
    private final class Counter {
        private var left: Int
        private let code: Int32
        private(set) var hasFailed = false

        init(failing place: Int, with code: Int32) {
            left = place
            self.code = code
        }

        func next() -> Int32? {
            left -= 1
            guard left == 0 else { return nil }
            hasFailed = true
            return code
        }
    }

    // MARK: Words

    @Test func anErrorSaysWhatToDo() {
        let full = SQLiteError(code: 14, message: "unable to open database file", systemError: EMFILE)
        let error = RemfsError(full, in: "store \"notes\"")
        #expect(error.code == .unavailable && error.message.contains("LimitNOFILE"), "\(error)")
        errno = ENFILE
        #expect(RemfsError.ofSystem("cannot open /x").message.contains("LimitNOFILE"))
        let broken = RemfsError(SQLiteError(code: 10, message: "disk I/O error"), in: "store \"notes\"")
        #expect(broken.code == .corrupted && broken.message.contains("the kernel's log"), "\(broken)")
    }

    // MARK: Syncing

    /// The kernel tells of lost pages once. So do we not: until the journal was written again and synced, nothing is said to be durable.
    @Test func aFailedSyncIsNotForgotten() throws {
        try TestStore.with { test in
            _ = try test.create("/a.md", "one")
            test.syncFailure.withLock { $0 = EIO }
            for path in ["/b.md", "/c.md"] {
                #expect(RemfsError.code { _ = try test.create(path, "two") } == .corrupted)
                #expect(RemfsError.code { try test.store.checkpoint() } == .corrupted)
            }
            // As if the page had left memory and come back from the disk without what was written to it.
            let journal = test.store.path + "-wal"
            let whole = try #require(FileManager.default.contents(atPath: journal))
            try overwrite(journal, at: whole.count - 100, with: [UInt8](repeating: 0, count: 100))
            test.syncFailure.withLock { $0 = 0 }
            for _ in 0..<2 { #expect(RemfsError.code { try test.store.synchronizeNow() } == .corrupted) }
            #expect(RemfsError.code { try test.store.checkpoint(empties: true) } == .corrupted)

            try overwrite(journal, at: 0, with: Array(whole))
            try test.store.synchronizeNow()
            #expect(FileManager.default.contents(atPath: journal) == whole)
            try test.store.checkpoint(empties: true)
            _ = try test.create("/d.md", "three")
            try test.reopen()
            #expect(try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).count == 4)
            Invariants.expect(test.store)
        }
    }

    /// Calls that come while a sync runs hear of its failure as well, whoever the kernel told.
    @Test func aFailedSyncIsToldToAll() throws {
        try TestStore.with { test in
            _ = try test.create("/a.md", "one")
            test.syncFailure.withLock { $0 = EIO }
            let store = test.store
            let succeeded = Mutex(0)
            let threads = (0..<8).map { _ in
                Thread("sync") {
                    for _ in 0..<20 { if (try? store.synchronizeNow()) != nil { succeeded.withLock { $0 += 1 } } }
                }
            }
            for thread in threads { thread.join() }
            #expect(succeeded.withLock { $0 } == 0)
            test.syncFailure.withLock { $0 = 0 }
            try store.synchronizeNow()
        }
    }

    private func overwrite(_ path: String, at offset: Int, with bytes: [UInt8]) throws {
        let file = open(path, O_WRONLY | O_CLOEXEC)
        defer { close(file) }
        guard pwrite(file, bytes, bytes.count, off_t(offset)) == bytes.count else { throw Failure("cannot write \(path): errno \(errno)") }
    }

    // MARK: Reading

    /// What cannot be sealed for want of room hides nothing that is sealed.
    @Test func aFullDiskCanBeRead() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let file = try mount.save("/a.md", "one")
            try test.settleAll()
            try mount.pwrite(file, bytes("two"), at: 0)
            mount.closeAll()
            mount.close(file)
            test.state { $0.writer.fault = { Fault.full.rawValue } }
            #expect(RemfsError.code { try test.store.settle() } == .noSpace)
            let memory = try test.memory("/a.md")
            #expect(text(try test.store.content(of: memory)) == "one")
            #expect(try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).count == 1)
            #expect(try test.store.versions(VersionFilter(), before: nil, limit: 10).map(\.id) == [memory.version])
            #expect(try test.store.version(memory.version).path == "/a.md")
            #expect(try test.store.statistics().versions == 1)
            #expect(try test.store.toldAttributes(of: file)["user.remfs.version"] == memory.version.description)
            try test.store.backup(to: test.directory + "/backup.sqlite")
            // Who writes is told.
            #expect(RemfsError.code { _ = try test.create("/b.md", "three") } == .noSpace)
            test.state { $0.writer.fault = nil }
            #expect(try mount.read("/a.md") == "two")
            #expect(text(try test.store.content(of: try test.memory("/a.md"))) == "two")
        }
    }

    // MARK: Files

    @Test func creating() throws {
        try play("create") { _, _ in
        } change: { _, mount in
            try mount.create("/new")
        } after: { (_, mount) throws in
            #expect(try mount.names("/") == ["new"])
        }
    }

    @Test func creatingWhereAMemoryWas() throws {
        try play("create again", atLeast: 4, settles: false) { test, mount in
            try mount.save("/f", "one")
            try test.settleAll()
            try mount.unlink("/f")
        } change: { _, mount in
            try mount.create("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /f"])
        }
    }

    @Test func writing() throws {
        try play("write") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.pwrite(mount.number("/f"), bytes("two"), at: 0)
        } after: { (_, mount) throws in
            #expect(try mount.read("/f") == "two")
        }
    }

    @Test func writingIntoAnOpenSave() throws {
        try play("write again") { test, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.pwrite(mount.number("/f"), [UInt8](repeating: 65, count: 200_000), at: 1)
        } after: { (_, mount) throws in
            #expect(try mount.contents("/f").count == 200_001)
        }
    }

    @Test func truncating() throws {
        try play("truncate") { _, mount in
            try mount.save("/f", "one and two")
        } change: { _, mount in
            try mount.truncate(mount.number("/f"), to: 3)
        } after: { (_, mount) throws in
            #expect(try mount.read("/f") == "one")
        }
    }

    @Test func punching() throws {
        try play("punch") { _, mount in
            try mount.save("/f", "one and two")
        } change: { _, mount in
            try mount.punch(mount.number("/f"), 3, 5)
        }
    }

    @Test func changingAttributes() throws {
        try play("attributes") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.chmod("/f", 0o600)
        }
    }

    @Test func makingAndRemovingDirectories() throws {
        try play("mkdir") { _, _ in
        } change: { _, mount in
            try mount.mkdir("/d")
        }
        try play("rmdir") { _, mount in
            try mount.mkdir("/d")
        } change: { _, mount in
            try mount.rmdir("/d")
        }
    }

    // MARK: Names

    @Test func unlinking() throws {
        try play("unlink") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "deleted /f"])
        }
    }

    @Test func unlinkingWhatIsBeingWritten() throws {
        try play("unlink open", settles: false) { test, mount in
            try mount.save("/f", "one")
            try test.settleAll()
            try mount.pwrite(mount.number("/f"), bytes("two"), at: 0)
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /f", "deleted /f"])
        }
    }

    @Test func linking() throws {
        try play("link") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.link("/f", "/g")
        }
    }

    @Test func unlinkingTheOldestName() throws {
        try play("unlink oldest", atLeast: 4) { _, mount in
            try mount.save("/f", "one")
            try mount.link("/f", "/g")
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["created /f", "created /g", "deleted /f"])
        }
    }

    @Test func renaming() throws {
        try play("rename") { test, mount in
            try mount.save("/f", "one")
            _ = try test.memory("/f")
        } change: { _, mount in
            try mount.rename("/f", "/g")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /g"])
        }
    }

    @Test func renamingOverAMemory() throws {
        try play("rename established") { test, mount in
            try mount.save("/f", "one")
            _ = try test.memory("/f")
            try mount.save("/g", "two")
        } change: { _, mount in
            try mount.rename("/f", "/g")
        } after: { (test, mount) throws in
            #expect(try mount.read("/g") == "one")
            #expect(try test.log().sorted() == ["created /f", "created /g", "deleted /f", "modified /g"])
        }
        for isSealed in [false, true] {
            try play("rename temporary, sealed \(isSealed)", settles: false) { test, mount in
                try mount.save("/g", "two")
                _ = try test.memory("/g")
                try mount.save("/f", "one")
                if isSealed {
                    try test.store.settle()
                    try mount.append("/f", " more")
                    try test.store.settle()
                }
            } change: { _, mount in
                try mount.rename("/f", "/g")
            } after: { (test, mount) throws in
                #expect(try mount.read("/g") == (isSealed ? "one more" : "one"))
                #expect(try test.log() == ["created /g", "modified /g"])
            }
        }
    }

    @Test func renamingToAndFromWorkingNames() throws {
        try play("rename to backup") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.rename("/f", "/f~")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "deleted /f"])
        }
        try play("rename from backup") { _, mount in
            try mount.save("/f~", "one")
        } change: { _, mount in
            try mount.rename("/f~", "/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f"])
        }
    }

    @Test func renamingADirectory() throws {
        try play("rename directory", atLeast: 8) { _, mount in
            try mount.mkdir("/d")
            for name in ["a", "b", "c"] { try mount.save("/d/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/d", "/e")
        } after: { (test, _) throws in
            #expect(try test.log().count == 6)
        }
        try play("rename directory to .git", atLeast: 8) { _, mount in
            try mount.mkdir("/d")
            for name in ["a", "b", "c"] { try mount.save("/d/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/d", "/.git")
        } after: { (test, _) throws in
            #expect(
                try test.log().sorted() == ["a", "b", "c"].flatMap { ["created /d/\($0)"] } + ["a", "b", "c"].map { "deleted /d/\($0)" })
        }
        try play("rename directory from .git", atLeast: 5) { _, mount in
            try mount.mkdir("/.git")
            for name in ["a", "b", "c"] { try mount.save("/.git/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/.git", "/d")
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["a", "b", "c"].map { "created /d/\($0)" })
        }
    }

    @Test func exchanging() throws {
        try play("exchange", atLeast: 5) { _, mount in
            try mount.save("/f", "one")
            try mount.save("/g", "two")
        } change: { _, mount in
            try mount.rename("/f", "/g", .exchange)
        } after: { (test, mount) throws in
            #expect(try mount.read("/f") == "two")
            #expect(try test.log().count == 4)
        }
    }

    // MARK: Sealing

    private func playSeal(
        _ name: String, atLeast: Int = 6, _ prepare: (TestStore, TestMount) throws -> Void, versions: Int,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try play(name, atLeast: atLeast, settles: false) { test, mount in
            try prepare(test, mount)
        } change: { test, _ in
            try test.store.settle()
        } after: { (test, _) throws in
            #expect(try test.log().count == versions, sourceLocation: sourceLocation)
        }
    }

    @Test func sealingASmallFile() throws {
        try playSeal("seal small", { _, mount in try mount.save("/f", "one") }, versions: 1)
        try playSeal(
            "seal small again",
            { test, mount in
                try mount.save("/f", "one, and much more of it than before")
                try test.settleAll()
                try mount.append("/f", "two")
            }, versions: 2)
    }

    @Test func sealingALargeFile() throws {
        var random = SeededRandom(seed: 5)
        let content = random.text(200_000)
        try playSeal("seal large", { _, mount in try mount.save("/f", content) }, versions: 1)
        try playSeal(
            "seal large again",
            { test, mount in
                try mount.save("/f", content)
                try test.settleAll()
                let number = try mount.number("/f")
                try mount.pwrite(number, bytes("edit"), at: 70_000)
                mount.close(number)
            }, versions: 2)
    }

    @Test func sealingManySavesAtOnce() throws {
        try playSeal(
            "seal many", atLeast: 20,
            { test, mount in
                let text = String(repeating: "a line of it\n", count: 60)
                for place in 0..<5 { try mount.save("/f", text + "\(place)") }
            }, versions: 5)
    }

    /// A disk that stays full: the seal is tried again and again, and takes no more numbers each time.
    @Test func aSealThatFailsGivesItsNumbersBack() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for place in 0..<3 { try mount.save("/f", "content \(place)") }
            let number = try mount.number("/f")
            try mount.pwrite(number, bytes("x"), at: 2)
            mount.close(number)
            try test.state { try $0.takeInCloses(of: mount.origin) }
            func counts() -> [Int64] { test.state { $0.inodes[number]!.drafts!.saves.map(\.count) } }
            let before = counts()
            for _ in 0..<5 {
                let counter = Counter(failing: 8, with: 13)
                test.state { $0.writer.fault = counter.next }
                #expect(RemfsError.code { try test.store.settle() } == .noSpace)
                test.state { $0.writer.fault = nil }
                #expect(counts() == before)
            }
            try test.settleAll()
            #expect(try mount.read("/f") == "coxtent 2")
            Invariants.expect(test.store)
        }
    }

    @Test func sealingRemovals() throws {
        try play("seal removals", settles: false) { test, mount in
            for name in ["/a", "/b"] { try mount.save(name, name) }
            try test.settleAll()
            for name in ["/a", "/b"] { try mount.unlink(name) }
        } change: { test, _ in
            try test.state { try $0.sealRemovals(all: true) }
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["created /a", "created /b", "deleted /a", "deleted /b"])
        }
    }

    @Test func encodingDeltasAndRemovingOrphans() throws {
        var random = SeededRandom(seed: 9)
        let text = random.text(3_000)
        try play("deltas", atLeast: 6) { test, mount in
            for place in 0..<4 {
                try mount.save("/f", text + bytes("\(place)"))
                try test.settleAll()
            }
        } change: { test, _ in
            // A candidate that failed is not tried again: all of them, each time.
            try test.state { state in
                state.deltaCandidates = []
                let row = try state.writer.prepare("SELECT number FROM chunk ORDER BY number")
                let fault = state.writer.fault
                state.writer.fault = nil
                while try row.step() { state.deltaCandidates.append(row.integer(0)) }
                state.writer.fault = fault
                while try state.encodeDeltas(atMost: 100) {}
            }
        } after: { (test, _) throws in
            let contents = try test.versions().map { try test.store.content(of: $0)! }
            #expect(contents == (0..<4).map { text + bytes("\($0)") })
        }
        try play("orphans") { test, mount in
            try mount.save("/f~", text)
            try test.settleAll()
            let number = try mount.number("/f~")
            try mount.pwrite(number, bytes("draft"), at: 0)
            mount.hold(number)
            try mount.unlink("/f~")
        } change: { test, _ in
            try test.state { try $0.deleteOrphans { _ in false } }
        } after: { (test, _) throws in
            let left = try test.state { try $0.writer.integer("SELECT count(*) FROM extent") }
            #expect(left == 0)
        }
    }

    @Test func tidying() throws {
        try play("tidy") { test, mount in
            try mount.mkdir("/d")
            try mount.save("/d/f", "x")
        } change: { test, _ in
            _ = try test.store.tidy(isIdle: true)
        }
    }

    @Test func makingRoomForNumbers() throws {
        try play("reserve") { _, _ in
        } change: { test, _ in
            try test.state { try $0.reserveNumbers(10_000) }
        }
    }

    // MARK: The API

    @Test func creatingByAPI() throws {
        try play("API create", atLeast: 7) { test, mount in
            // An empty tree gives way.
            for path in ["/a", "/a/b", "/a/b/c"] { try mount.mkdir(path) }
        } change: { test, _ in
            _ = try test.create("/a/b", "one")
        } after: { (test, mount) throws in
            #expect(try mount.read("/a/b") == "one")
            #expect(try test.log() == ["created /a/b"])
        }
        try play("API create deep", atLeast: 7) { _, _ in
        } change: { test, _ in
            _ = try test.create("/a/b/c", "one")
        }
    }

    @Test func updatingByAPI() throws {
        try play("API update", atLeast: 7) { test, _ in
            _ = try test.create("/a", "one")
        } change: { test, _ in
            try test.store.commit(.update(test.memory("/a").id, content: bytes("two"), path: nil), by: Author(.local))
        } after: { (test, mount) throws in
            #expect(try mount.read("/a") == "two")
            #expect(try test.log() == ["created /a", "modified /a"])
        }
    }

    @Test func renamingByAPI() throws {
        try play("API rename", atLeast: 7) { test, _ in
            _ = try test.create("/a", "one")
        } change: { test, _ in
            try test.store.commit(.update(test.memory("/a").id, content: bytes("two"), path: MemoryPath("/b/c")), by: Author(.local))
        } after: { (test, mount) throws in
            #expect(try mount.read("/b/c") == "two")
            #expect(try test.log() == ["created /a", "modified /b/c"])
        }
    }

    @Test func deletingByAPI() throws {
        try play("API delete", atLeast: 4) { test, mount in
            try mount.save("/a", "one")
        } change: { test, _ in
            try test.store.commit(.delete(test.memory("/a").id), by: Author(.local))
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /a", "deleted /a"])
        }
    }

    // MARK: Opening

    /// A store whose last seals fail is opened again, and nothing is lost.
    @Test func recoveringAfterAFailedClose() throws {
        for count in 1..<12 {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "one")
                try mount.save("/b", "two")
                let counter = Counter(failing: count, with: 10)
                test.state { $0.writer.fault = counter.next }
                _ = RemfsError.code { try test.store.close() }
                test.state { $0.writer.fault = nil }
                try test.crash()
                #expect(try mount.read("/a") == "one")
                #expect(try mount.read("/b") == "two")
                #expect(try test.log().sorted() == ["created /a", "created /b"])
                Invariants.expect(test.store, "statement \(count)")
            }
        }
    }
}
