import Testing

@testable import Storage

/// Files of several names: which of them is the memory's.
@Suite struct LinkTests {
    @Test func aLinkIsAnotherNameOfTheSameMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "x")
            let id = try test.memory("/a").id
            try mount.link("/a", "/b")
            try mount.append("/b", "y")
            #expect(try test.log() == ["created /a", "modified /a"])
            #expect(try mount.attributes("/b").links == 2)
            #expect(
                RemfsError.code { _ = try test.store.commit(.create(path: MemoryPath("/b"), content: []), by: Author(.local)) }
                    == .pathConflict)
            try mount.unlink("/b")
            try test.settleAll()
            #expect(try test.memory("/a").id == id)
            #expect(try test.log() == ["created /a", "modified /a"])
            Invariants.expect(test.store)
        }
    }

    @Test func theOldestNameTakesTheMemoryWithIt() throws {
        for way in 0..<3 {
            for isReopened in [false, true] {
                try TestStore.with { test in
                    let mount = try test.mount()
                    try mount.save("/a", "x")
                    let id = try test.memory("/a").id
                    try mount.link("/a", "/b")
                    try mount.link("/a", "/c")
                    switch way {
                    case 0: try mount.unlink("/a")
                    case 1:
                        try mount.save("/a.tmp", "new")
                        try mount.rename("/a.tmp", "/a")
                    default: try test.store.commit(.delete(id), by: Author(.local))
                    }
                    if isReopened { try test.crash() } else { try test.settleAll() }
                    let heir = try test.memory("/b")
                    #expect(heir.id != id)
                    #expect(try text(test.store.content(of: heir)) == "x")
                    #expect(try mount.attributes("/c").links == 2)
                    let log = try test.log()
                    #expect(
                        Set(log) == (way == 1 ? ["created /a", "modified /a", "created /b"] : ["created /a", "deleted /a", "created /b"]))
                    #expect(log.count == 3)
                    if way == 1 { #expect(try test.memory("/a").id == id) }
                    Invariants.expect(test.store, "way \(way) reopened \(isReopened)")
                }
            }
        }
    }

    @Test func aFileThatIsOpenGoesOnUnderItsOtherName() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "x")
            _ = try test.log()
            let number = try mount.number("/a")
            try mount.link("/a", "/b")
            try mount.pwrite(number, bytes("y"), at: 1)
            try mount.unlink("/a")
            try mount.pwrite(number, bytes("z"), at: 2)
            mount.close(number)
            try test.settleAll()
            #expect(try mount.read("/b") == "xyz")
            #expect(try text(test.store.content(of: test.memory("/b"))) == "xyz")
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try mount.read("/b") == "xyz")
            Invariants.expect(test.store)
        }
    }

    @Test func renamingOneLinkOverTheOtherChangesNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "x")
            _ = try test.log()
            try mount.link("/a", "/b")
            try mount.rename("/b", "/a")
            #expect(try mount.names("/") == ["a", "b"])
            try mount.rename("/b", "/c")
            #expect(try mount.names("/") == ["a", "c"])
            #expect(try test.log() == ["created /a"])
            Invariants.expect(test.store)
            try test.reopen()
            Invariants.expect(test.store)
        }
    }

    /// `ln f f~` and a new `f` over it: a backup by link is a working file, not a memory.
    @Test func anHeirIsWhatItsNameSays() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "x")
            _ = try test.log()
            try mount.link("/f", "/f~")
            try mount.save("/f.new", "y")
            try mount.rename("/f.new", "/f")
            try test.settleAll()
            #expect(try test.log() == ["created /f", "modified /f"])
            #expect(try mount.read("/f~") == "x")
            try mount.save("/g~", "z")
            try mount.link("/g~", "/g")
            try mount.unlink("/g~")
            try test.settleAll()
            #expect(try test.log() == ["created /f", "modified /f", "created /g"])
            Invariants.expect(test.store)
            try test.reopen()
            Invariants.expect(test.store)
        }
    }
}
