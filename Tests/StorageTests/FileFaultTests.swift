import Testing

@testable import Storage

/// Changes of files and names, failed at every statement.
@Suite struct FileFaultTests {
    // MARK: Files

    @Test func creating() throws {
        try playFaults("create") { _, _ in
        } change: { _, mount in
            try mount.create("/new")
        } after: { (_, mount) throws in
            #expect(try mount.names("/") == ["new"])
        }
    }

    @Test func creatingWhereAMemoryWas() throws {
        try playFaults("create again", atLeast: 4, settles: false) { test, mount in
            try mount.save("/f", "one")
            try test.settleAll()
            try mount.unlink("/f")
        } change: { _, mount in
            try mount.create("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /f"])
        }
    }

    @Test func writing() throws {
        try playFaults("write") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.pwrite(mount.number("/f"), bytes("two"), at: 0)
        } after: { (_, mount) throws in
            #expect(try mount.read("/f") == "two")
        }
    }

    @Test func writingIntoAnOpenSave() throws {
        try playFaults("write again") { test, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.pwrite(mount.number("/f"), [UInt8](repeating: 65, count: 200_000), at: 1)
        } after: { (_, mount) throws in
            #expect(try mount.contents("/f").count == 200_001)
        }
    }

    @Test func truncating() throws {
        try playFaults("truncate") { _, mount in
            try mount.save("/f", "one and two")
        } change: { _, mount in
            try mount.truncate(mount.number("/f"), to: 3)
        } after: { (_, mount) throws in
            #expect(try mount.read("/f") == "one")
        }
    }

    @Test func punching() throws {
        try playFaults("punch") { _, mount in
            try mount.save("/f", "one and two")
        } change: { _, mount in
            try mount.punch(mount.number("/f"), 3, 5)
        }
    }

    @Test func changingAttributes() throws {
        try playFaults("attributes") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.chmod("/f", 0o600)
        }
    }

    @Test func makingAndRemovingDirectories() throws {
        try playFaults("mkdir") { _, _ in
        } change: { _, mount in
            try mount.mkdir("/d")
        }
        try playFaults("rmdir") { _, mount in
            try mount.mkdir("/d")
        } change: { _, mount in
            try mount.rmdir("/d")
        }
    }

    // MARK: Names

    @Test func unlinking() throws {
        try playFaults("unlink") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "deleted /f"])
        }
    }

    @Test func unlinkingWhatIsBeingWritten() throws {
        try playFaults("unlink open", settles: false) { test, mount in
            try mount.save("/f", "one")
            try test.settleAll()
            try mount.pwrite(mount.number("/f"), bytes("two"), at: 0)
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /f", "deleted /f"])
        }
    }

    @Test func linking() throws {
        try playFaults("link") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.link("/f", "/g")
        }
    }

    @Test func unlinkingTheOldestName() throws {
        try playFaults("unlink oldest", atLeast: 4) { _, mount in
            try mount.save("/f", "one")
            try mount.link("/f", "/g")
        } change: { _, mount in
            try mount.unlink("/f")
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["created /f", "created /g", "deleted /f"])
        }
    }

    @Test func renaming() throws {
        try playFaults("rename") { test, mount in
            try mount.save("/f", "one")
            _ = try test.memory("/f")
        } change: { _, mount in
            try mount.rename("/f", "/g")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "modified /g"])
        }
    }

    @Test func renamingOverAMemory() throws {
        try playFaults("rename established") { test, mount in
            try mount.save("/f", "one")
            _ = try test.memory("/f")
            try mount.save("/g", "two")
        } change: { _, mount in
            try mount.rename("/f", "/g")
        } after: { (test, mount) throws in
            #expect(try mount.read("/g") == "one")
            #expect(try test.log().sorted() == ["created /f", "created /g", "deleted /f", "modified /g"])
        }
        for isSealed in [false, true] {
            try playFaults("rename temporary, sealed \(isSealed)", settles: false) { test, mount in
                try mount.save("/g", "two")
                _ = try test.memory("/g")
                try mount.save("/f", "one")
                if isSealed {
                    try test.store.settle()
                    try mount.append("/f", " more")
                    try test.store.settle()
                }
            } change: { _, mount in
                try mount.rename("/f", "/g")
            } after: { (test, mount) throws in
                #expect(try mount.read("/g") == (isSealed ? "one more" : "one"))
                #expect(try test.log() == ["created /g", "modified /g"])
            }
        }
    }

    @Test func renamingToAndFromWorkingNames() throws {
        try playFaults("rename to backup") { _, mount in
            try mount.save("/f", "one")
        } change: { _, mount in
            try mount.rename("/f", "/f~")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f", "deleted /f"])
        }
        try playFaults("rename from backup") { _, mount in
            try mount.save("/f~", "one")
        } change: { _, mount in
            try mount.rename("/f~", "/f")
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /f"])
        }
    }

    @Test func renamingADirectory() throws {
        try playFaults("rename directory", atLeast: 8) { _, mount in
            try mount.mkdir("/d")
            for name in ["a", "b", "c"] { try mount.save("/d/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/d", "/e")
        } after: { (test, _) throws in
            #expect(try test.log().count == 6)
        }
        try playFaults("rename directory to .git", atLeast: 8) { _, mount in
            try mount.mkdir("/d")
            for name in ["a", "b", "c"] { try mount.save("/d/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/d", "/.git")
        } after: { (test, _) throws in
            #expect(
                try test.log().sorted() == ["a", "b", "c"].flatMap { ["created /d/\($0)"] } + ["a", "b", "c"].map { "deleted /d/\($0)" })
        }
        try playFaults("rename directory from .git", atLeast: 5) { _, mount in
            try mount.mkdir("/.git")
            for name in ["a", "b", "c"] { try mount.save("/.git/\(name)", name) }
        } change: { _, mount in
            try mount.rename("/.git", "/d")
        } after: { (test, _) throws in
            #expect(try test.log().sorted() == ["a", "b", "c"].map { "created /d/\($0)" })
        }
    }

    @Test func exchanging() throws {
        try playFaults("exchange", atLeast: 5) { _, mount in
            try mount.save("/f", "one")
            try mount.save("/g", "two")
        } change: { _, mount in
            try mount.rename("/f", "/g", .exchange)
        } after: { (test, mount) throws in
            #expect(try mount.read("/f") == "two")
            #expect(try test.log().count == 4)
        }
    }
}
