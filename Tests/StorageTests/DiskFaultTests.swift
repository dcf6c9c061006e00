import Foundation
import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// What a store does while its disk fails, and what it says of it.
@Suite struct DiskFaultTests {
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
            // Behind the last frame the file goes on to the end of a page.
            let frames = (whole.count - 32) / (24 + 4_096)
            try overwrite(journal, at: 32 + frames * (24 + 4_096) - 100, with: [UInt8](repeating: 0, count: 100))
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

    // MARK: Opening

    /// A store whose last seals fail is opened again, and nothing is lost.
    @Test func recoveringAfterAFailedClose() throws {
        for count in 1..<12 {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "one")
                try mount.save("/b", "two")
                let counter = FaultCounter(failing: count, with: 10)
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
