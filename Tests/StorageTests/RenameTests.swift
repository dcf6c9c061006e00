import Testing

@testable import Storage

/// Renames and what they mean for memories: part of the table of `design.md` section 4.
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
}
