import Glibc
import SQLite
import Testing

@testable import Storage

/// The ledger says that a request was done exactly if it was: whatever statement a kill or a disk stops a change at.
@Suite struct LedgerTests {
    struct Change: Sendable, CustomTestStringConvertible {
        let name: String
        /// Besides success: the number of an inode that was made or moved (true), or this.
        var makesInode = false
        var answer: Int64 = 0
        let change: @Sendable (TestMount) throws -> Void
        var testDescription: String { name }
    }

    static let changes: [Change] = [
        Change(name: "create", makesInode: true) { try $0.create("/new") },
        Change(name: "mkdir", makesInode: true) { try $0.mkdir("/new") },
        Change(name: "symlink", makesInode: true) { try $0.symlink("x", "/new") },
        Change(name: "link", makesInode: true) { try $0.link("/a", "/new") },
        Change(name: "write", answer: 5) { try $0.pwrite($0.number("/a"), bytes("bytes"), at: 1) },
        Change(name: "append", answer: 200_000) {
            try $0.pwrite($0.number("/a"), [UInt8](repeating: 7, count: 200_000), at: 0, append: true)
        },
        Change(name: "truncate") { try $0.truncate($0.number("/a"), to: 1) },
        Change(name: "punch") { try $0.punch($0.number("/a"), 0, 2) },
        Change(name: "chmod") { try $0.chmod("/a", 0o600) },
        Change(name: "rename", makesInode: true) { try $0.rename("/a", "/new") },
        Change(name: "replace", makesInode: true) { try $0.rename("/a", "/b") },
        Change(name: "exchange") { try $0.rename("/a", "/b", .exchange) },
        Change(name: "rename a further name", makesInode: true) { try $0.rename("/linked", "/new") },
        Change(name: "rename a directory", makesInode: true) { try $0.rename("/d", "/e") },
        Change(name: "unlink") { try $0.unlink("/a") },
        Change(name: "rmdir") { try $0.rmdir("/empty") },
    ]

    private static func request(_ mount: TestMount, _ unique: UInt64, slot: Int = 0) -> LedgerRequest {
        LedgerRequest(mount: mount.origin.number, unique: unique, slot: slot)
    }

    @Test(arguments: changes) func itKnowsWhatWasDone(_ change: Change) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for path in ["/a", "/b"] { try mount.save(path, "content of \(path)") }
            try mount.mkdir("/d")
            try mount.save("/d/below", "below")
            try mount.mkdir("/empty")
            try mount.save("/first", "of two names")
            try mount.link("/first", "/linked")
            try test.settleAll()
            try test.state { try $0.reserveNumbers(2_000) }
            let before = try test.tree()
            var unique: UInt64 = 1_000
            for statement in 1... {
                guard statement < 500 else { throw Failure("statement \(statement) still fails") }
                unique += 2
                let request = Self.request(mount, unique)
                var left = statement
                test.state { state in
                    state.writer.fault = {
                        left -= 1
                        return left == 0 ? 10 : nil
                    }
                }
                let code = RemfsError.code { try mount.with(request) { try change.change(mount) } }
                test.state { $0.writer.fault = nil }
                try test.withCopyAfterKill(isTakingOver: true) { copy in
                    let answer = try copy.answer(to: request)
                    let isDone = try test.tree(of: copy) != before
                    if code == nil {
                        if change.makesInode {
                            let attributes = try copy.attributes(of: try #require(answer))
                            #expect(attributes.links > 0, "statement \(statement)")
                        } else {
                            #expect(answer == change.answer, "statement \(statement)")
                        }
                        // A mode is not in the tree's lines.
                        #expect(isDone || change.name == "chmod")
                    } else {
                        #expect(answer == nil && !isDone, "statement \(statement)")
                    }
                    #expect(try copy.answer(to: Self.request(mount, unique - 2)) == nil)
                    try copy.forgetAnswers()
                    #expect(try copy.answer(to: request) == nil)
                }
                if code == nil { break }
            }
        }
    }

    /// What a predecessor left stands until it is forgotten, also over a second kill: who takes over writes elsewhere.
    @Test func whoTakesOverWritesOverNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/a")
            for slot in 0..<4 { try mount.with(Self.request(mount, UInt64(100 + slot), slot: slot)) { try mount.chmod("/a", 0o700) } }
            try mount.with(Self.request(mount, 104, slot: 2)) { try mount.chmod("/a", 0o750) }
            for generation in 0..<5 {
                try test.crash(isTakingOver: true)
                for unique in [UInt64(100), 101, 103, 104] { #expect(try test.store.answer(to: Self.request(mount, unique)) != nil) }
                #expect(try test.store.answer(to: Self.request(mount, 102)) == nil, "its thread has answered it")
                let late = Self.request(mount, UInt64(200 + generation), slot: LedgerRequest.anyFreeSlot)
                try mount.with(late) { try mount.mkdir("/late-\(generation)") }
                for earlier in 0..<generation {
                    #expect(try test.store.answer(to: Self.request(mount, UInt64(200 + earlier))) != nil)
                }
            }
            try test.store.forgetAnswers()
            for unique in [UInt64(100), 101, 103, 104, 200, 204] { #expect(try test.store.answer(to: Self.request(mount, unique)) == nil) }
        }
    }

    /// A row that has room for its request may go, or take another request, before the first was answered.
    @Test func aRequestOutlivesTheRowItStandsIn() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.with(Self.request(mount, 100, slot: 0)) { try mount.create("/a") }
            try mount.with(Self.request(mount, 101, slot: 1)) { try mount.pwrite(mount.number("/a"), bytes("text"), at: 0) }
            try mount.with(Self.request(mount, 102, slot: 2)) { try mount.rename("/a", "/b") }
            try mount.with(Self.request(mount, 103, slot: 3)) { try mount.create("/c") }
            try mount.with(Self.request(mount, 104, slot: 4)) { try mount.unlink("/c") }
            let number = try mount.number("/b")
            func expectAll(_ moment: Comment) throws {
                try test.withCopyAfterKill(isTakingOver: true) { copy throws in
                    #expect(try copy.answer(to: Self.request(mount, 100)) == number, moment)
                    #expect(try copy.answer(to: Self.request(mount, 101)) == 4, moment)
                    #expect(try copy.answer(to: Self.request(mount, 102)) == number, moment)
                    #expect(try copy.answer(to: Self.request(mount, 103)) != nil, moment)
                    #expect(try copy.answer(to: Self.request(mount, 104)) == 0, moment)
                }
            }
            try expectAll("as they were written")
            try test.settleAll()
            try expectAll("sealed, and the unlinked file gone")
            #expect(try test.state { try $0.writer.integer("SELECT count(*) FROM inode WHERE parent IS NULL AND number <> 1") } == 0)
            try test.crash(isTakingOver: true)
            try expectAll("after another kill")
        }
    }

    /// A successor seals what was left, and may be killed before it has answered.
    @Test func draftsAreRememberedOverASecondKill() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for index in 0..<100 {
                try mount.with(Self.request(mount, UInt64(1_000 + index))) { try mount.create("/\(index)") }
                try mount.with(Self.request(mount, UInt64(2_000 + index))) {
                    try mount.pwrite(mount.number("/\(index)"), bytes("text"), at: 0)
                }
            }
            for _ in 0..<3 {
                try test.crash(isTakingOver: true)
                for index in 0..<100 {
                    #expect(try test.store.answer(to: Self.request(mount, UInt64(1_000 + index))) == mount.number("/\(index)"))
                    #expect(try test.store.answer(to: Self.request(mount, UInt64(2_000 + index))) == 4)
                }
            }
        }
    }

    /// What a predecessor did is known to its successor also where nothing can be written: its mounts go on.
    @Test func aFullDiskForgetsNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let request = Self.request(mount, 100)
            test.state { state in
                state.writer.fault = { 13 }
                let entry = LedgerEntry(mount: Int64(mount.origin.number), unique: 100, answer: 7)
                #expect(RemfsError.code { try state.keepInLedger([entry]) } == .noSpace)
                state.writer.fault = nil
            }
            #expect(try test.store.answer(to: request) == 7)
        }
    }

    /// To end a take-over takes no room: otherwise a full disk would end all mounts with it.
    @Test func aTakeOverEndsOnAFullDisk() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let request = Self.request(mount, 100)
            try mount.with(request) { try mount.mkdir("/a") }
            try mount.with(Self.request(mount, 102)) { try mount.rmdir("/a") }
            try test.crash(isTakingOver: true)
            #expect(try test.store.answer(to: Self.request(mount, 102)) != nil)
            test.state { $0.writer.fault = { Fault.full.rawValue } }
            try test.store.forgetAnswers()
            test.state { $0.writer.fault = nil }
            #expect(try test.store.answer(to: Self.request(mount, 102)) == nil)
        }
    }

    /// A daemon that begins anew has other mounts, and their kernels count from the beginning.
    @Test func withoutATakeOverNothingIsLeft() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.with(Self.request(mount, 100)) { try mount.mkdir("/a") }
            try mount.with(Self.request(mount, 102)) { try mount.rmdir("/a") }
            try test.crash()
            for unique in [UInt64(100), 102] { #expect(try test.store.answer(to: Self.request(mount, unique)) == nil) }
            #expect(try test.state { try $0.writer.integer("SELECT count(*) FROM ledger") } == 0)
        }
    }

    /// Nobody asks again for what no holder would hand on.
    @Test func withoutARequestNothingIsNoted() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "a")
            #expect(try test.state { try $0.writer.integer("SELECT count(*) FROM ledger") } == 0)
            for table in ["inode", "extent"] {
                #expect(try test.state { try $0.writer.integer("SELECT count(*) FROM \(table) WHERE mount IS NOT NULL") } == 0)
            }
        }
    }
}

extension TestMount {
    /// The same mount, whose next changes answer a request.
    @discardableResult func with<Answer>(_ request: LedgerRequest, _ body: () throws -> Answer) rethrows -> Answer {
        let before = caller
        caller = Caller(origin: origin, uid: before.uid, gid: before.gid, pid: before.pid, request: request)
        defer { caller = before }
        return try body()
    }
}
