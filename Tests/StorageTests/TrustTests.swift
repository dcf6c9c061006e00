import Testing

@testable import Storage

/// A session's trust stands with each version that it made.
@Suite struct TrustTests {
    private static func trusts(_ test: TestStore) throws -> [String] {
        try test.versions().map { "\($0.operation.rawValue) \($0.path ?? "-"): \($0.author.trust?.rawValue ?? "-")" }
    }

    @Test(arguments: [nil, .trusted, .untrusted] as [Session.Trust?]) func eachVersionOfASessionCarriesIt(_ trust: Session.Trust?) throws {
        try TestStore.with { test in
            let mount = try test.mount(session: "sesn_01x", trust: trust)
            try mount.save("/a", "one")
            try test.settleAll()
            try mount.append("/a", "two")
            // Through the page cache nobody is named but the session.
            mount.caller = Caller(origin: mount.origin, uid: 1, gid: 1, pid: 0)
            try mount.append("/a", "three")
            try test.settleAll()
            try mount.mkdir("/d")
            try mount.rename("/a", "/d/a")
            try test.settleAll()
            try mount.rename("/d", "/e")
            try test.settleAll()
            try mount.unlink("/e/a")
            try test.settleAll()
            let memory = try test.create("/b", "of the API")
            try test.store.commit(.delete(memory.id), by: Author(.local))
            let word = trust?.rawValue ?? "-"
            #expect(
                try Self.trusts(test) == [
                    "created /a: \(word)", "modified /a: \(word)", "modified /a: \(word)", "modified /d/a: \(word)",
                    "modified /e/a: \(word)",
                    "deleted /e/a: \(word)", "created /b: -", "deleted /b: -",
                ])
            let shown = try test.store.versions(VersionFilter(), before: nil, limit: 20)
            #expect(shown.map(\.author.trust) == [nil, nil] + Array(repeating: trust, count: 6))
            #expect(try test.store.version(shown[3].id).author.trust == trust)
            Invariants.expect(test.store)
        }
    }

    /// What a daemon that was killed left open is sealed as its author's.
    @Test func itOutlivesACrash() throws {
        try TestStore.with { test in
            let mount = try test.mount(session: "sesn_01x", trust: .untrusted)
            for name in ["/gone", "/moved", "/replaced", "/linked"] { try mount.save(name, name) }
            try mount.link("/linked", "/other")
            try test.settleAll()
            let known = try Self.trusts(test).count
            // Drafts, a new file, a removal, a change of name, a file in another's place, a removal without an inode.
            try mount.append("/moved", "more")
            try mount.create("/new")
            try mount.unlink("/gone")
            try mount.rename("/moved", "/there")
            try mount.save("/t", "other")
            try mount.rename("/t", "/replaced")
            try mount.unlink("/linked")
            try test.crash()
            try test.settleAll()
            let after = try Self.trusts(test).dropFirst(known)
            #expect(after.count >= 6 && after.allSatisfy { $0.hasSuffix(": untrusted") }, "\(after)")
            #expect(Set(after.map { $0.prefix { $0 != " " } }) == ["created", "modified", "deleted"])
        }
    }

    @Test func rowsOfOlderDaemonsAreRead() {
        let writer = Writer(uid: 5, pid: 6, command: "a\u{1f}b c")
        #expect(Author(row: "sesn_01x\u{1f}5\u{1f}6\u{1f}a\u{1f}b c") == Author(.session("sesn_01x"), writer: writer))
        for trust in [nil, .trusted, .untrusted] as [Session.Trust?] {
            for author in [Author(.session("sesn_01x"), writer: writer, trust: trust), Author(.session("sesn_01x"), trust: trust)] {
                #expect(Author(row: author.row) == author)
            }
        }
        #expect(Author(.session("sesn_01x"), writer: writer).row == "sesn_01x\u{1f}5\u{1f}6\u{1f}a\u{1f}b c")
        #expect(Author(row: "sesn_01x of_a_newer_remfs\u{1f}\u{1f}\u{1f}") == Author(.session("sesn_01x")))
        #expect(Author(row: "\u{1f}\u{1f}\u{1f}") == nil)
    }
}
