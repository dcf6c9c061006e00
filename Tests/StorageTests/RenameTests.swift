import Glibc
import Testing

@testable import Storage

/// Names and what they mean for memories: the second half of the table of `design.md` section 4.
@Suite struct RenameTests {
    // MARK: Temporary files

    @Test func aTemporaryFileRenamedOverAMemoryIsItsNextVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.save("/sedXYZ", "two")
            try mount.rename("/sedXYZ", "/f")
            #expect(try test.memory("/f").id == id)
            #expect(try test.log() == ["created /f", "modified /f"])
            #expect(try text(test.store.content(of: test.memory("/f"))) == "two")
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try test.log() == ["created /f", "modified /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func aSealedTemporaryFileLeavesNoRow() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            let id = try test.memory("/f").id
            try mount.save("/tmp1", "two")
            try mount.append("/tmp1", " and more")
            // Upkeep has sealed it meanwhile; nobody was told.
            try test.store.settle()
            #expect(try test.versions().count == 3)
            try mount.rename("/tmp1", "/f")
            #expect(try test.log() == ["created /f", "modified /f"])
            #expect(try test.memory("/f").id == id)
            #expect(try mount.read("/f") == "two and more")
            Invariants.expect(test.store)
        }
    }

    @Test func aTemporaryFileThatIsStillOpenIsOneVersion() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            _ = try test.memory("/f")
            let number = try mount.create("/f.tmp")
            try mount.pwrite(number, bytes("two"), at: 0)
            try mount.rename("/f.tmp", "/f")
            mount.close(number)
            #expect(try test.log() == ["created /f", "modified /f"])
            Invariants.expect(test.store)
        }
    }

    @Test func aTemporaryFileThatSomeoneWasToldOfIsDeleted() throws {
        for tell in [0, 1, 2] {
            try TestStore.with { test in
                let mount = try test.mount()
                let other = try test.mount()
                try mount.save("/f", "one")
                let id = try test.memory("/f").id
                try mount.save("/f.tmp", "two")
                switch tell {
                case 0: _ = try test.memory("/f.tmp")
                case 1:
                    try test.store.settle()
                    _ = try other.number("/f.tmp")
                default: _ = try test.store.versions(VersionFilter(), before: nil, limit: 10)
                }
                try mount.rename("/f.tmp", "/f")
                try test.settleAll()
                #expect(Set(try test.log()) == ["created /f", "created /f.tmp", "deleted /f.tmp", "modified /f"])
                #expect(try test.memory("/f").id == id)
                Invariants.expect(test.store, "tell \(tell)")
            }
        }
    }

    @Test func aTemporaryFileMovedToAFreeNameIsBornThere() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/.new.tmp", "x")
            try mount.rename("/.new.tmp", "/new.md")
            #expect(try test.log() == ["created /new.md"])
            try mount.save("/two.tmp", "y")
            try test.store.settle()
            try mount.rename("/two.tmp", "/two.md")
            #expect(try test.log() == ["created /new.md", "created /two.md"])
            Invariants.expect(test.store)
        }
    }

    @Test func afterAMinuteAFileIsSettled() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "one")
            _ = try test.log()
            try mount.save("/g", "two")
            try test.store.settle()
            test.state { $0.inodes.values.forEach { $0.born -= 61_000_000_000 } }
            try mount.rename("/g", "/f")
            try test.settleAll()
            #expect(Set(try test.log()) == ["created /f", "created /g", "deleted /g", "modified /f"])
            Invariants.expect(test.store)
        }
    }

    /// `sed -i a; mv a b`: what a's memory was before is history, though its file was made a moment ago.
    @Test func aMemoryThatWentOnInATemporaryFileIsNoTemporaryFile() throws {
        for way in 0..<3 {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "one")
                try mount.save("/b", "b")
                _ = try test.memory("/a")
                let b = try test.memory("/b").id
                switch way {
                case 0:
                    try mount.save("/a.tmp", "two")
                    try mount.rename("/a.tmp", "/a")
                case 1:
                    try mount.unlink("/a")
                    try mount.save("/a", "two")
                default:
                    try mount.unlink("/a")
                    try mount.save("/a.tmp", "two")
                    try mount.rename("/a.tmp", "/a")
                }
                try mount.rename("/a", "/b")
                try test.settleAll()
                #expect(
                    try test.log().sorted() == ["created /a", "created /b", "deleted /a", "modified /a", "modified /b"], "way \(way)")
                #expect(try test.memory("/b").id == b)
                #expect(try mount.read("/b") == "two")
                Invariants.expect(test.store, "way \(way)")
            }
        }
    }

    // MARK: Pending deletes

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
            #expect(RemfsError.code { _ = try test.store.attributes(of: number) } == .stale)
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

    // MARK: Moving

    @Test func aMoveToAFreeNameIsAVersionWithTheNewPath() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "x")
            let id = try test.memory("/a").id
            try mount.rename("/a", "/b")
            #expect(try test.memory("/b").id == id)
            #expect(try test.log() == ["created /a", "modified /b"])
            Invariants.expect(test.store)
        }
    }

    @Test func aMovedDirectoryMovesItsMemories() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/one")
            try mount.mkdir("/one/deep")
            try mount.save("/one/a", "a")
            try mount.save("/one/deep/b", "b")
            let ids = [try test.memory("/one/a").id, try test.memory("/one/deep/b").id]
            try mount.rename("/one", "/two")
            #expect([try test.memory("/two/a").id, try test.memory("/two/deep/b").id] == ids)
            #expect(try test.log().suffix(2).sorted() == ["modified /two/a", "modified /two/deep/b"])
            Invariants.expect(test.store)
            try test.reopen()
            #expect([try test.memory("/two/a").id, try test.memory("/two/deep/b").id] == ids)
            Invariants.expect(test.store)
        }
    }

    @Test func aDirectoryReplacesAnEmptyOneOnly() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for path in ["/a", "/b", "/b/x", "/c"] { try mount.mkdir(path) }
            try mount.save("/f", "")
            #expect(RemfsError.code { try mount.rename("/a", "/b") } == .notEmpty)
            #expect(RemfsError.code { try mount.rename("/a", "/f") } == .notADirectory)
            #expect(RemfsError.code { try mount.rename("/f", "/a") } == .isADirectory)
            #expect(RemfsError.code { try mount.rename("/b", "/b/x/y") } == .invalidArgument)
            #expect(RemfsError.code { try mount.rename("/a", "/f", .noReplace) } == .pathConflict)
            try mount.rename("/a", "/c")
            #expect(try mount.names("/") == ["b", "c", "f"])
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func anEstablishedMemoryMovedOverAnotherEndsThere() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "from a")
                try mount.save("/b", "from b")
                let (a, b) = (try test.memory("/a").id, try test.memory("/b").id)
                try mount.rename("/a", "/b")
                // A kill before the move was sealed must count its chunks as the running store does.
                if isReopened { try test.crash() } else { try test.settleAll() }
                #expect(try test.memory("/b").id == b)
                #expect(try text(test.store.content(of: test.memory("/b"))) == "from a")
                #expect(Set(try test.log()) == ["created /a", "created /b", "deleted /a", "modified /b"])
                #expect(try test.versions().filter { $0.memory == a }.map(\.operation) == [.created, .deleted])
                Invariants.expect(test.store, "reopened \(isReopened)")
            }
        }
    }

    /// A memory that another was moved over ends at once, whatever else is waiting for its two seconds.
    @Test func whatEndsAtOnceDoesNotWaitInLine() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for path in ["/a", "/b", "/c"] { try mount.save(path, path) }
            for path in ["/a", "/b", "/c"] { _ = try test.memory(path) }
            try mount.unlink("/c")
            try mount.rename("/a", "/b")
            try test.state { try $0.sealRemovals(all: false) }
            #expect(try test.log().contains("deleted /a"))
            #expect(try !test.log().contains("deleted /c"))
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func anExchangeSwapsContents() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "from a")
                try mount.save("/b", "from b")
                let (a, b) = (try test.memory("/a").id, try test.memory("/b").id)
                try mount.rename("/a", "/b", .exchange)
                if isReopened { try test.crash() }
                #expect([try test.memory("/a").id, try test.memory("/b").id] == [a, b])
                #expect(try mount.read("/a") == "from b")
                #expect(try mount.read("/b") == "from a")
                #expect(Set(try test.log().suffix(2)) == ["modified /a", "modified /b"])
                #expect(try test.log().count == 4)
                Invariants.expect(test.store, "reopened \(isReopened)")
            }
        }
    }

    @Test func anExchangeOfEqualContentsChangesNothing() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/a", "same")
                try mount.save("/b", "same")
                _ = try test.log()
                try mount.rename("/a", "/b", .exchange)
                if isReopened { try test.crash() }
                #expect(try test.log().count == 2)
                Invariants.expect(test.store, "reopened \(isReopened)")
            }
        }
    }

    @Test func aFileAndADirectoryExchangePlaces() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/d")
            try mount.save("/d/x", "x")
            try mount.save("/f", "f")
            _ = try test.log()
            try mount.rename("/d", "/f", .exchange)
            #expect(try mount.read("/d") == "f")
            #expect(try mount.read("/f/x") == "x")
            #expect(Set(try test.log().suffix(2)) == ["modified /d", "modified /f/x"])
            #expect(RemfsError.code { try mount.rename("/f", "/nowhere", .exchange) } == .notFound)
            Invariants.expect(test.store)
        }
    }

    @Test func anExchangeWithAnUnversionedNameKeepsTheMemoryAtItsPath() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "old")
            let id = try test.memory("/f").id
            try mount.save("/f~", "new")
            try mount.rename("/f~", "/f", .exchange)
            try test.settleAll()
            #expect(try mount.read("/f") == "new")
            #expect(try mount.read("/f~") == "old")
            #expect(try test.memory("/f").id == id)
            #expect(try text(test.store.content(of: test.memory("/f"))) == "new")
            #expect(RemfsError.code { _ = try test.memory("/f~") } == .notFound)
            #expect(try test.log() == ["created /f", "modified /f"])
            Invariants.expect(test.store)
        }
    }

    // MARK: Links

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

    // MARK: Unversioned names

    @Test func workingFilesHaveNoVersions() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/.git")
            try mount.mkdir("/.git/objects")
            for path in ["/f~", "/.f.swp", "/4913", "/.#f", "/.nfs001", "/.anthropic-memory-store", "/.git/HEAD", "/.git/objects/ab"] {
                try mount.save(path, "x")
                try mount.append(path, "y")
            }
            try test.settleAll()
            #expect(try test.log() == [])
            for path in ["/f~", "/.git/objects/ab"] { #expect(try mount.read(path) == "xy") }
            #expect(RemfsError.code { _ = try test.memory("/f~") } == .notFound)
            #expect(try test.store.memories(under: "/", depth: 0, after: nil, limit: 10).isEmpty)
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try mount.read("/.git/objects/ab") == "xy")
            Invariants.expect(test.store)
        }
    }

    @Test func whatTheAPICreatesIsAMemoryWhateverItsName() throws {
        try TestStore.with { test in
            _ = try test.create("/draft~", "x")
            #expect(try test.memory("/draft~").sizeInBytes == 1)
            let mount = try test.mount()
            try mount.append("/draft~", "y")
            #expect(try test.log() == ["created /draft~", "modified /draft~"])
            Invariants.expect(test.store)
        }
    }

    @Test func aWorkingFileRenamedToAnOrdinaryNameBecomesAMemory() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/f~", "x")
                try test.settleAll()
                try mount.rename("/f~", "/f")
                if isReopened { try test.crash() } else { try test.settleAll() }
                #expect(try test.log() == ["created /f"])
                #expect(try text(test.store.content(of: test.memory("/f"))) == "x")
                Invariants.expect(test.store, "reopened \(isReopened)")
            }
        }
    }

    @Test func aWorkingFileRenamedOverAMemoryIsItsNextVersion() throws {
        for content in ["new", "old"] {
            for isReopened in [false, true] {
                try TestStore.with { test in
                    let mount = try test.mount()
                    try mount.save("/f", "old")
                    let id = try test.memory("/f").id
                    try mount.save("/4913", content)
                    try test.settleAll()
                    try mount.rename("/4913", "/f")
                    if isReopened { try test.crash() } else { try test.settleAll() }
                    #expect(try test.memory("/f").id == id)
                    #expect(try test.log() == (content == "old" ? ["created /f"] : ["created /f", "modified /f"]))
                    Invariants.expect(test.store, "\(content), reopened \(isReopened)")
                }
            }
        }
    }

    @Test func aMemoryRenamedToAWorkingNameEnds() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.save("/f", "x")
                _ = try test.log()
                try mount.rename("/f", "/f~")
                if isReopened { try test.crash() } else { try test.settleAll() }
                #expect(try test.log() == ["created /f", "deleted /f"])
                #expect(try mount.read("/f~") == "x")
                Invariants.expect(test.store, "reopened \(isReopened)")
                try mount.unlink("/f~")
                try test.settleAll()
                #expect(try text(test.store.content(of: test.versions()[0])!) == "x")
                Invariants.expect(test.store, "reopened \(isReopened)")
            }
        }
    }

    @Test func aDirectoryRenamedToAndFromGit() throws {
        for isReopened in [false, true] {
            try TestStore.with { test in
                let mount = try test.mount()
                try mount.mkdir("/repo")
                try mount.mkdir("/repo/deep")
                try mount.save("/repo/a", "a")
                try mount.save("/repo/deep/b", "b")
                _ = try test.log()
                try mount.rename("/repo", "/.git")
                if isReopened { try test.crash() } else { try test.settleAll() }
                #expect(RemfsError.code { _ = try test.memory("/.git/a") } == .notFound)
                #expect(try test.versions().suffix(2).map(\.operation) == [.deleted, .deleted])
                #expect(try mount.read("/.git/deep/b") == "b")
                Invariants.expect(test.store, "there, reopened \(isReopened)")
                try mount.rename("/.git", "/back")
                if isReopened { try test.crash() } else { try test.settleAll() }
                #expect(try text(test.store.content(of: test.memory("/back/deep/b"))) == "b")
                Invariants.expect(test.store, "back, reopened \(isReopened)")
            }
        }
    }

    /// The path of a `deleted` version is the one that the memory had.
    @Test func whatGoesBelowGitIsDeletedWhereItWas() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/repo")
            try mount.save("/repo/a", "a")
            _ = try test.log()
            try mount.rename("/repo", "/.git")
            try test.settleAll()
            #expect(try test.log() == ["created /repo/a", "deleted /repo/a"])
        }
    }

    // MARK: Stale writes

    @Test func aReplacementOverAnUnseenVersionIsStale() throws {
        for way in 0..<2 {
            try TestStore.with { test in
                let one = try test.mount(uid: 1)
                let other = try test.mount(uid: 2)
                try one.save("/f", "base")
                _ = try test.log()
                let seen = try other.seen("/f")
                let base = try test.versions()[0].id
                try one.save("/f", "newer")
                _ = try test.log()
                if way == 0 {
                    try other.save("/f", "stale", seen: seen)
                } else {
                    try other.save("/f.tmp", "stale")
                    try other.rename("/f.tmp", "/f", seen: seen)
                }
                try test.settleAll()
                let last = try #require(test.versions().last)
                #expect(last.isStale && last.base == base && last.operation == .modified)
                #expect(try one.read("/f") == "stale")
                // The next save of it is not.
                try other.save("/f", "again", seen: .version(last.number))
                try test.settleAll()
                #expect(try test.versions().last?.isStale == false)
                Invariants.expect(test.store)
            }
        }
    }

    @Test func whoSawTheHeadOrNothingIsNotStale() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2)
            try one.save("/f", "one")
            _ = try test.log()
            try other.save("/f", "two", seen: .version(nil))
            _ = try test.log()
            try one.save("/f", "three", seen: one.seen("/f"))
            _ = try test.log()
            try other.append("/f", " and four")
            _ = try test.log()
            #expect(try test.versions().allSatisfy { !$0.isStale })
        }
    }

    @Test func aMountMayRefuseStaleWrites() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2, refusesStaleWrites: true)
            try one.save("/f", "base")
            _ = try test.log()
            let seen = try other.seen("/f")
            try one.save("/f", "newer")
            try test.settleAll()
            let before = try test.tree()
            #expect(RemfsError.code { try other.truncate(other.number("/f"), to: 0, seen: seen) } == .stale)
            #expect(try test.tree() == before)
            try other.save("/f.tmp", "stale")
            #expect(RemfsError.code { try other.rename("/f.tmp", "/f", seen: seen) } == .stale)
            #expect(RemfsError.code { try other.truncate(other.number("/f"), to: 0, seen: .version(nil)) } == .stale)
            #expect(try one.read("/f") == "newer")
            #expect(try one.read("/f.tmp") == "stale")
            try other.rename("/f.tmp", "/f", seen: other.seen("/f"))
            try test.settleAll()
            #expect(try one.read("/f") == "stale")
            #expect(try test.versions().allSatisfy { !$0.isStale })
            Invariants.expect(test.store)
        }
    }

    // MARK: Names and what others are told

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
