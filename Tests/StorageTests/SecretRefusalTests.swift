import Foundation
import Testing
import Threads

@testable import Storage

/// A store that refuses secrets: what is new is refused on every way in, and what was there stays editable.
@Suite struct SecretRefusalTests {
    /// A store that held `memories` before it refused anything.
    private static func with(_ memories: [String: String] = [:], _ body: (TestStore, TestMount) throws -> Void) throws {
        try TestStore.with(policy: Sample.policy(.allow)) { test in
            for (path, content) in memories.sorted(by: { $0.key < $1.key }) { _ = try test.create(path, content) }
            try test.store.setRules(Sample.policy(.refuse), isArchived: false, name: "test")
            try body(test, try test.mount())
            Invariants.expect(test.store)
        }
    }

    /// That it is refused, and changes nothing.
    ///
    /// - Parameter isTakenBack: it was begun, so kernels are told to look again.
    private static func expectRefusal(
        _ test: TestStore, _ mount: TestMount, isTakenBack: Bool = false, sourceLocation: SourceLocation = #_sourceLocation,
        _ body: () throws -> Void
    ) throws {
        let before = try test.tree()
        #expect(RemfsError.code(body) == .holdsSecret, sourceLocation: sourceLocation)
        #expect(try test.tree() == before, sourceLocation: sourceLocation)
        #expect(mount.takePosted().isEmpty || isTakenBack, sourceLocation: sourceLocation)
    }

    private static let token = Sample.token()

    // MARK: Writes through a mount

    @Test func aWriteIsRefusedAndLeavesNothing() throws {
        try Self.with(["/f": "notes\n"]) { test, mount in
            let number = try mount.number("/f")
            _ = mount.takePosted()
            for secret in [Self.token, Sample.awsKey, Sample.privateKey, Sample.password] {
                try Self.expectRefusal(test, mount) { try mount.pwrite(number, bytes("\n" + secret), at: 6) }
                try Self.expectRefusal(test, mount) { try mount.pwrite(number, bytes("\n" + secret), at: 0, append: true) }
            }
            try mount.append("/f", "the token is elsewhere\n")
            let new = try mount.create("/new")
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(new, bytes(Self.token), at: 0) }
            try test.settleAll()
            #expect(try test.log() == ["created /f", "modified /f", "created /new"])
            #expect(try Traces.of([Self.token, Sample.awsKey], in: test).isEmpty)
        }
    }

    @Test func theMessageSaysWhatAndNotWhich() throws {
        try Self.with { test, mount in
            let number = try mount.create("/f")
            do {
                try mount.pwrite(number, bytes("key \(Self.token)"), at: 0)
                Issue.record("it was not refused")
            } catch let error as RemfsError {
                #expect(error.message.hasPrefix("/f would hold a secret (github_token): store \"test\""))
                #expect(!"\(error)".contains(Self.token.dropFirst(4).prefix(8)))
            }
        }
    }

    /// A secret that comes in parts, in any order, within what a write is looked at with.
    @Test func whatIsPutTogetherIsRefusedWithItsLastPart() throws {
        let (start, end) = (String(Self.token.prefix(20)), String(Self.token.dropFirst(20)))
        try Self.with { test, mount in
            let number = try mount.save("/a", "key " + start)
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(number, bytes(end), at: 24) }
            let other = try mount.create("/b")
            try mount.pwrite(other, bytes(end), at: 20)
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(other, bytes(start), at: 0) }
            // Beyond 4 KiB only the seal sees it: then it is marked.
            let lines = bytes(Sample.privateKey)
            let third = try mount.create("/c")
            try mount.pwrite(third, [UInt8](repeating: UInt8(ascii: "\n"), count: 6_000) + lines[40...], at: 40)
            try mount.pwrite(third, Array(lines[..<20]), at: 0)
            try test.settleAll()
            #expect(try test.versions().last?.secrets == [])
        }
    }

    @Test func whatOnlyTheSealFindsIsMarked() throws {
        try Self.with { test, mount in
            // The header, and so far behind it that a write sees only one of the two, the key.
            let number = try mount.create("/f")
            let padding = String(repeating: "Comment: nothing\n", count: 300)
            let parts = Sample.privateKey.split(separator: "\n", maxSplits: 1)
            try mount.pwrite(number, bytes(parts[0] + "\n" + padding), at: 0)
            try mount.pwrite(number, bytes(String(parts[1])), at: Int64(parts[0].utf8.count + 1 + padding.utf8.count))
            try test.settleAll()
            #expect(try test.versions().last?.secrets == ["private_key"])
        }
    }

    @Test func whatWasThereStaysEditable() throws {
        let old = "one\nkey \(Self.token)\n\(Sample.password)two\n"
        try Self.with(["/f": old]) { test, mount in
            // In place, beside it; a page as a mapping writes it; anew from nothing, at once and in pieces.
            try mount.append("/f", "three\n")
            let number = try mount.number("/f")
            try mount.pwrite(number, bytes("O"), at: 0)
            try mount.pwrite(number, bytes("One\nkey \(Self.token)\n"), at: 0)
            mount.close(number)
            try mount.save("/f", "zero\n" + old)
            for count in [7, 20, 45, 60] {
                try mount.truncate(number, to: 0)
                let all = bytes("zero\n" + old)
                for start in stride(from: 0, to: all.count, by: count) {
                    try mount.pwrite(number, Array(all[start..<min(start + count, all.count)]), at: Int64(start))
                }
                mount.close(number)
            }
            try test.settleAll()
            #expect(try mount.read("/f") == "zero\n" + old)
            #expect(try test.versions().last?.secrets == ["github_token", "password_assignment"].sorted { $0 > $1 }.reversed())
            // Another one is new, and so is this one somewhere else.
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(number, bytes(" " + Sample.token(5)), at: 400) }
            let other = try mount.create("/other")
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(other, bytes(Self.token), at: 0) }
            // Once it has gone, it does not come back.
            try mount.save("/f", "clean\n")
            try test.settleAll()
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.pwrite(number, bytes(Self.token), at: 0) }
        }
    }

    @Test func aFileThatWasRemovedAMomentAgoIsTheSameFile() throws {
        try Self.with(["/f": "key \(Self.token)\n"]) { test, mount in
            try mount.unlink("/f")
            try mount.save("/f", "more\nkey \(Self.token)\n")
            try test.settleAll()
            #expect(try test.log() == ["created /f", "modified /f"])
        }
    }

    /// What is no memory holds what it likes, until it becomes one.
    @Test func aWorkingFileIsJudgedWhenItBecomesAMemory() throws {
        try Self.with(["/f": "notes\n", "/k": "key \(Self.token)\n"]) { test, mount in
            try mount.save("/f~", "key \(Self.token)\n")
            try mount.save("/g~", "clean\n")
            _ = mount.takePosted()
            for target in ["/f", "/new"] { try Self.expectRefusal(test, mount) { try mount.rename("/f~", target) } }
            try Self.expectRefusal(test, mount) { try mount.rename("/f~", "/f", .exchange) }
            // It holds that already.
            try mount.rename("/f~", "/k")
            try mount.rename("/g~", "/g")
            try test.settleAll()
            #expect(try mount.read("/k") == "key \(Self.token)\n" && mount.read("/g") == "clean\n")
        }
    }

    @Test(arguments: [100, 700_000]) func aTemporaryFileIsJudgedWhole(_ size: Int) throws {
        try TestStore.with(policy: Sample.policy(.allow)) { test in
            let mount = try test.mount()
            let padding = String(repeating: "plain words\n", count: size / 12)
            for name in ["/f", "/g", "/h"] { try mount.save(name, "notes\n") }
            try mount.save("/k", padding + "key \(Self.token)\n")
            try test.settleAll()
            for name in ["/open", "/sealed", "/same"] { try mount.save(name, padding + "key \(Self.token)\n") }
            try test.store.settle()
            try mount.save("/open", padding + "key \(Self.token)\n\n")
            try mount.save("/clean", padding + "nothing\n")
            try test.store.setRules(Sample.policy(.refuse), isArchived: false, name: "test")
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try mount.rename("/open", "/f") }
            try Self.expectRefusal(test, mount) { try mount.rename("/sealed", "/f") }
            try mount.rename("/same", "/k")
            try mount.rename("/clean", "/g")
            // An established memory brings nothing that was not there.
            try mount.rename("/k", "/h")
            try test.settleAll()
            #expect(try mount.read("/h") == padding + "key \(Self.token)\n" && mount.read("/f") == "notes\n")
            Invariants.expect(test.store)
        }
    }

    // MARK: The API and imports

    @Test func theAPIIsRefused() throws {
        try Self.with(["/f": "notes\n", "/k": "key \(Self.token)\n"]) { test, mount in
            func commit(_ change: MemoryChange) throws { _ = try test.store.commit(change, by: Author(.local)) }
            let (plain, key) = (try test.memory("/f"), try test.memory("/k"))
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount) { try commit(.create(path: MemoryPath("/d/new"), content: bytes(Self.token))) }
            try Self.expectRefusal(test, mount) { try commit(.update(plain.id, content: bytes(Self.token), path: nil)) }
            try Self.expectRefusal(test, mount) { try commit(.update(plain.id, content: bytes(Self.token), path: MemoryPath("/d/new"))) }
            try Self.expectRefusal(test, mount) { try commit(.update(key.id, content: bytes(Sample.token(1)), path: nil)) }
            try commit(.update(key.id, content: bytes("more\nkey \(Self.token)\n"), path: nil))
            try commit(.update(key.id, content: nil, path: MemoryPath("/d/k")))
            try commit(.update(key.id, content: bytes("clean\n"), path: nil))
            _ = mount.takePosted()
            // What was given up is given up.
            try Self.expectRefusal(test, mount, isTakenBack: true) {
                _ = try test.store.restore(key.id, to: key.version, by: Author(.local))
            }
            try Self.expectRefusal(test, mount, isTakenBack: true) {
                _ = try test.store.restore(to: .version(key.version), .prefix("/"), by: Author(.local))
            }
            #expect(
                try test.log() == ["created /f", "created /k", "modified /k", "modified /d/k", "modified /d/k"])
        }
    }

    @Test func anImportIsRefusedWhole() throws {
        try Self.with(["/k": "key \(Self.token)\n"]) { test, mount in
            func take(_ files: [String: String]) throws {
                _ = try test.store.take(EntrySource(SecretPolicyTests.archive(files)), ImportRules(), by: Author(.local))
            }
            _ = mount.takePosted()
            try Self.expectRefusal(test, mount, isTakenBack: true) { try take(["a": "notes\n", "b": "key \(Self.token)\n"]) }
            try Self.expectRefusal(test, mount, isTakenBack: true) { try take(["a": "notes\n", "k": "key \(Sample.token(2))\n"]) }
            do {
                try take(["a": "notes\n", "b": "key \(Self.token)\n"])
            } catch let error as RemfsError {
                #expect(error.message.contains("entry b: /b would hold a secret (github_token)"), "\(error)")
            }
            try take(["a": "notes\n", "k": "again\nkey \(Self.token)\n"])
            #expect(try test.log() == ["created /k", "created /a", "modified /k"])
        }
    }

    /// Within a second the same refusal is told once, as the others are.
    @Test func aRefusalIsTold() {
        let refusals = Refusals()
        let told = Mutex<[RemfsError]>([])
        refusals.observe { _, error in told.withLock { $0.append(error) } }
        let error = RemfsError(.holdsSecret, "/f would hold a secret")
        for _ in 0..<3 { refusals.tell(of: error, in: StoreID(bits: 1)) }
        #expect(told.withLock { $0.map(\.code) } == [.holdsSecret])
    }
}
