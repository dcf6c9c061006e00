import Glibc
import Testing

@testable import Storage

/// What a name may be, how names are listed, and who is told of a change.
@Suite struct NameTests {
    @Test func namesFollowTheirRules() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            func code(_ name: [UInt8]) -> RemfsError.Code? {
                RemfsError.code {
                    _ = try test.store.create(NewInode(mode: UInt32(S_IFREG) | 0o644), named: name, in: 1, by: mount.caller)
                }
            }
            #expect(code([]) == .invalidArgument)
            #expect(code(Array(repeating: 97, count: 256)) == .nameTooLong)
            #expect(code(Array(repeating: 97, count: 255)) == nil)
            #expect(code([0xff, 0x61]) == .nameNotUTF8)
            #expect(code([0xc0, 0x80]) == .nameNotUTF8)
            #expect(code([0x61, 0x0a]) == .invalidArgument)
            #expect(code([0x61, 0xc2, 0x85]) == .invalidArgument)  // U+0085, a control character
            #expect(code([0x61, 0x2f]) == .invalidArgument)
            #expect(code(bytes(".remfs")) == .pathConflict)
            #expect(code(bytes(".")) == .pathConflict)
            #expect(code(bytes("..")) == .pathConflict)
            #expect(code(bytes("e\u{301}")) == nil)  // not NFC: fine in a mount
            #expect(code(bytes("\u{E9}")) == nil)  // and another name than the one before
            #expect(code(bytes("\u{E9}")) == .pathConflict)
            Invariants.expect(test.store)
        }
    }

    @Test func theContractsPathRulesHoldWhereThePolicySaysSo() throws {
        var policy = Policy()
        policy.contract = true
        try TestStore.with(policy: policy) { test in
            let mount = try test.mount()
            #expect(RemfsError.code { try mount.create("/e\u{301}") } == .invalidArgument)
            let number = try mount.create("/ok")
            #expect(RemfsError.code { try mount.pwrite(number, [UInt8](repeating: 65, count: 102_401), at: 0) } == .tooLarge)
            try mount.pwrite(number, [UInt8](repeating: 65, count: 102_400), at: 0)
        }
    }

    @Test func otherMountsAreToldExactlyWhatChanged() throws {
        try TestStore.with { test in
            let one = try test.mount()
            let other = try test.mount()
            let number = try one.create("/a")
            #expect(other.takePosted() == [.name(bytes("a"), in: 1)])
            try one.pwrite(number, bytes("xyz"), at: 0)
            #expect(other.takePosted() == [.bytes(number, offset: 0, length: 3)])
            try one.rename("/a", "/b")
            let posted = other.takePosted()
            #expect(posted.contains(.name(bytes("a"), in: 1)) && posted.contains(.name(bytes("b"), in: 1)))
            try one.link("/b", "/c")
            #expect(other.takePosted() == [.name(bytes("c"), in: 1), .attributes(number)])
            try one.unlink("/c")
            #expect(other.takePosted() == [.removal(bytes("c"), in: 1, of: number), .attributes(number)])
            try one.chmod("/b", 0o600)
            #expect(other.takePosted() == [.attributes(number)])
            // Its own kernel knows already.
            #expect(one.takePosted() == [])
            one.closeAll()
            try test.settleAll()
            #expect(other.takePosted() == [] && one.takePosted() == [])
            try test.store.commit(.update(test.memory("/b").id, content: bytes("api"), path: nil), by: Author(.local))
            #expect(one.takePosted().contains(.bytes(number, offset: 0, length: 0)))
            #expect(other.takePosted().contains(.bytes(number, offset: 0, length: 0)))
        }
    }

    @Test func aListingGoesOnWhereItStopped() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/d")
            for number in 0..<100 { try mount.create("/d/\(number)") }
            let directory = try mount.number("/d")
            var found: [String] = []
            var cookie: Int64 = 0
            while true {
                var page: [String] = []
                try test.store.list(directory, after: cookie, by: mount.origin) { name, place, _ in
                    page.append(text(name))
                    cookie = place
                    return page.count < 7
                }
                if page.isEmpty { break }
                found += page
                // Names that go and come meanwhile must not move the others.
                if found.count == 49 {
                    for number in 0..<40 { try mount.unlink("/d/\(number)") }
                    try mount.create("/d/late")
                }
            }
            #expect(found == (0..<100).map(String.init) + ["late"])
            Invariants.expect(test.store)
        }
    }

    @Test func otherKindsOfFilesAndTheirAttributesSurvive() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.symlink("../target", "/link")
            _ = try test.store.create(NewInode(mode: UInt32(S_IFIFO) | 0o600), named: bytes("pipe"), in: 1, by: mount.caller)
            _ = try test.store.create(NewInode(mode: UInt32(S_IFCHR) | 0o600, rdev: 0x103), named: bytes("null"), in: 1, by: mount.caller)
            try mount.mkdir("/empty")
            try mount.save("/f", "x")
            try test.store.setExtendedAttribute("user.note", of: mount.number("/f"), to: [1, 2], .create, by: mount.caller)
            #expect(
                RemfsError.code {
                    try test.store.setExtendedAttribute("user.note", of: mount.number("/f"), to: [], .create, by: mount.caller)
                } == .pathConflict)
            try test.settleAll()
            let before = try test.tree()
            try test.reopen()
            #expect(try test.tree() == before)
            #expect(try test.store.readLink(mount.number("/link")) == bytes("../target"))
            #expect(try mount.attributes("/null").rdev == 0x103)
            #expect(try test.store.extendedAttribute("user.note", of: mount.number("/f")) == [1, 2])
            #expect(try test.store.extendedAttributes(of: mount.number("/f")) == ["user.note"])
            try test.store.removeExtendedAttribute("user.note", of: mount.number("/f"), by: mount.caller)
            #expect(try test.store.extendedAttribute("user.note", of: mount.number("/f")) == nil)
            #expect(try test.log() == ["created /f"])
            Invariants.expect(test.store)
        }
    }
}
