import Testing

@testable import Storage

/// Names without history, and what moves from and to them.
@Suite struct UnversionedNameTests {
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
}
