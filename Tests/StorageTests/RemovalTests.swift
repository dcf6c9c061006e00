import Testing

@testable import Storage

/// Removals, and what within two seconds continues what was removed.
@Suite struct RemovalTests {
    @Test func vimRenamesAwayAndWritesAnew() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.rename("/f", "/f~")
            #expect(RemfsError.code { _ = try test.memory("/f") } == .notFound)
            try mount.save("/f", "two")
            try mount.unlink("/f~")
            try test.passTwoSeconds()
            #expect(try test.memory("/f").id == id)
            #expect(try test.log() == ["created /f", "modified /f"])
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func aFileMadeAnewWithinTwoSecondsContinues() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.unlink("/f")
            #expect(RemfsError.code { _ = try test.memory("/f") } == .notFound)
            try mount.save("/f", "two")
            try test.passTwoSeconds()
            #expect(try test.memory("/f").id == id)
            #expect(try test.log() == ["created /f", "modified /f"])
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func aTemporaryFileRenamedToARemovedNameContinues() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            for isSealed in [false, true] {
                try mount.unlink("/f")
                try mount.save("/f.tmp", "two \(isSealed)")
                if isSealed { try test.store.settle() }
                try mount.rename("/f.tmp", "/f")
                try test.passTwoSeconds()
                #expect(try test.memory("/f").id == id)
            }
            #expect(try test.log() == ["created /f", "modified /f", "modified /f"])
            try test.settleAll()
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try mount.read("/f") == "two true")
            Invariants.expect(test.store)
        }
    }

    @Test func afterTwoSecondsItIsDeleted() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.unlink("/f")
            try test.state { try $0.sealRemovals(all: false) }
            #expect(try test.log() == ["created /f"])
            try test.passTwoSeconds()
            #expect(try test.log() == ["created /f", "deleted /f"])
            try mount.save("/f", "two")
            #expect(try test.memory("/f").id != id)
            #expect(try test.log() == ["created /f", "deleted /f", "created /f"])
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func anotherMountsFileIsANewMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let other = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.unlink("/f")
            try other.save("/f", "two")
            #expect(try test.memory("/f").id != id)
            try test.passTwoSeconds()
            #expect(try test.memory("/f").sizeInBytes == 3)
            #expect(try test.log().sorted() == ["created /f", "created /f", "deleted /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func anAPICreateEndsAPendingDelete() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.unlink("/f")
            #expect(try test.create("/f", "two").id != id)
            #expect(try test.log() == ["created /f", "deleted /f", "created /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func aDirectoryBornAtARemovedNameContinuesNothing() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            _ = try test.log()
            try mount.unlink("/f")
            try mount.mkdir("/f")
            try test.passTwoSeconds()
            #expect(try test.log() == ["created /f", "deleted /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func anUnlinkedFileThatIsOpenCanBeUsed() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.save("/f", "one")
            _ = try test.log()
            mount.hold(number)
            try mount.unlink("/f")
            try test.passTwoSeconds()
            try mount.pwrite(number, bytes("still "), at: 3)
            try test.removeOrphans()
            #expect(try test.store.read(number, offset: 0, count: 100) { bytes, _ in text(Array(bytes)) } == "onestill ")
            #expect(try test.store.attributes(of: number).links == 0)
            Invariants.expect(test.store)
            mount.letGo(number)
            try test.removeOrphans()
            #expect(RemfsError.code { _ = try test.store.attributes(of: number) } == .gone)
            #expect(try text(test.store.content(of: test.versions()[0])!) == "one")
            Invariants.expect(test.store)
        }
    }

    /// The daemon dies while an unlinked file is held open: its history must keep its bytes.
    @Test func aKillWhileAnUnlinkedFileIsOpenKeepsItsVersions() throws {
        for way in 0..<3 {
            try TestStore.with { test in
                let mount = try test.mount()
                let number = try mount.save("/f", "one")
                let memory = try test.memory("/f")
                mount.hold(number)
                switch way {
                case 0: try mount.unlink("/f")
                case 1: try test.store.commit(.delete(memory.id), by: Author(.local))
                default: try mount.unlink("/f")
                }
                if way != 2 { try test.passTwoSeconds() }
                try test.removeOrphans()
                try test.crash()
                #expect(try test.log() == ["created /f", "deleted /f"])
                #expect(try text(test.store.content(of: test.versions()[0])!) == "one")
                Invariants.expect(test.store, "way \(way)")
            }
        }
    }
}
