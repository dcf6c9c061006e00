import Filesystem
import Glibc
import Storage
import TestSupport
import Testing
import Threads

/// The promises of `Semantics.md` on who wrote, who else sees it, and what refuses or outlives it, kept with real programs on real mounts.
@Suite(.needsFuse)
struct SharingSemanticsTests {
    // MARK: Authors

    @Test func aVersionNamesTheProcessThatWroteIt() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            let program = try mount.start("echo b > f")
            try program.success()
            let author = try #require(try mount.versions("/f").last).author
            #expect(author.actor == .user(uid: 0))
            #expect(author.writer == Writer(uid: 0, pid: program.pid, command: "bash"))
        }
    }

    @Test(arguments: [
        ("cp x~ f", "cp"), ("sed -i s/a/b/ f", "sed"), ("truncate -s0 f", "truncate"), ("mv f g", "mv"), ("rm f", "rm"),
        ("python3 -c 'open(\"f\", \"w\").write(\"b\")'", "python3"), ("ex -s -c '%s/a/b/' -c x f", "ex"), ("tee f < x~", "tee"),
    ]) func itsCommandIsTheOneThatPeopleKnow(_ script: String, _ command: String) async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.run("echo b > x~; \(script)")
            let authors = try mount.daemon.afterwards(mount.store.id) { store in
                try store.versions(VersionFilter(), before: nil, limit: 10).map(\.author.writer.command)
            }
            #expect(authors == [command, nil])
        }
    }

    @Test func itsUserIsWhoWrote() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.change(mode: 0o666, of: "/f")
            try mount.run("setpriv --reuid 4711 --regid 4712 --clear-groups bash -c 'echo b > f'")
            let author = try #require(try mount.versions("/f").last).author
            #expect(author.actor == .user(uid: 4711))
            #expect(author.writer.uid == 4711)
        }
    }

    /// The kernel names threads; people know processes.
    @Test func aThreadWritesInTheNameOfItsProcess() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            let program = try mount.start(
                """
                exec python3 -c '
                import threading
                t = threading.Thread(target=lambda: open("f", "w").write("b")); t.start(); t.join()
                '
                """)
            try program.success()
            let writer = try mount.versions("/f").last?.author.writer
            #expect(writer == Writer(uid: 0, pid: program.pid, command: "python3"))
        }
    }

    @Test func writeBackOfAMappingNamesNobody() async throws {
        try await MountedStore.with(memories: ["/f": "abc\n"]) { mount in
            try mount.run(
                """
                python3 -c '
                import mmap
                with open("f", "r+b") as f, mmap.mmap(f.fileno(), 0) as m: m[0:1] = b"X"
                '
                """)
            let author = try #require(try mount.versions("/f").last).author
            #expect(author.writer.pid == nil)
            #expect(author.writer.command == nil)
        }
    }

    @Test func theAPIWritesInItsCallersName() async throws {
        try await MountedStore.with { mount in
            let caller = Author(.api(keyID: "apikey_1"), writer: Writer(uid: 5, pid: 6, command: "curl"))
            _ = try mount.store.commit(.create(path: MemoryPath("/f"), content: [65]), by: caller)
            #expect(try mount.versions("/f").map(\.author) == [caller])
        }
    }

    // MARK: Several mounts

    /// How it is told to the other mounts: `SeveralMountsTests`.
    @Test func whatOneMountWritesAllOthersShow() async throws {
        try await MountedStore.with(mounts: 3, memories: ["/f": "a\n"]) { mounts in
            for mount in mounts { #expect(try mount.read("/f") == "a\n") }
            try mounts[0].run("echo b > f; echo c > new; mkdir d; sync f")
            for mount in mounts {
                #expect(try mount.read("/f") == "b\n")
                #expect(try mount.read("/new") == "c\n")
                #expect(try mount.names() == ["d", "f", "new"])
            }
        }
    }

    static let views: [(String, [String])] = [
        // The writer has seen the other's version: by reading it, even before it is sealed, or by replacing it.
        ("echo b > $B/f; cat $A/f; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c"]),
        ("echo b > $B/f; sleep 0.1; cat $A/f; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c"]),
        ("sed -i s/a/b/ $B/f; cat $A/f; sed -i s/b/c/ $A/f", ["modified /f #1: b", "modified /f #1: c"]),
        ("exec 5>$B/f; echo b >&5; cat $A/f; exec 5>&-; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c"]),
        // It has not: it had read what was there before, or written it.
        ("cat $A/f; echo b > $B/f; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c (stale)"]),
        ("cat $A/f; echo b > $B/f; sleep 0.1; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c (stale)"]),
        ("cat $A/f; sed -i s/a/b/ $B/f; sync $B/f; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c (stale)"]),
        ("cat $A/f; echo b > $B/f; echo c > $A/t; mv $A/t $A/f", ["modified /f #1: b", "modified /f #1: c (stale)"]),
        ("cat $A/f; sed -i s/a/b/ $B/f; echo c > $A/t; mv $A/t $A/f", ["modified /f #1: b", "modified /f #1: c (stale)"]),
        ("echo 1 > $A/f; echo b > $B/f; echo c > $A/f", ["modified /f #1: 1", "modified /f #1: b", "modified /f #1: c (stale)"]),
        (
            "exec 5<$A/f; sed -i s/a/b/ $B/f; sync $B/f; cat <&5; echo c > $A/t; mv $A/t $A/f",
            ["modified /f #1: b", "modified /f #1: c (stale)"]
        ),
        // It never saw any of it, so it believed nothing; and who appends or writes in place replaces nothing.
        ("echo b > $B/f; echo c > $A/f", ["modified /f #1: b", "modified /f #1: c"]),
        ("cat $A/f; echo b > $B/f; echo c >> $A/f", ["modified /f #1: b", "modified /f #1: b|c"]),
        ("cat $A/f; echo b > $B/f; printf X | dd of=$A/f conv=notrunc status=none", ["modified /f #1: b", "modified /f #1: X"]),
    ]

    @Test(arguments: views) func whatAWriterHasSeenDecidesWhetherItIsStale(_ script: String, _ versions: [String]) async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a\n"]) { mounts in
            try mounts[0].run("A=\(mounts[0].path) B=\(mounts[1].path); \(script)")
            expect(try mounts[0].history(), is: versions)
        }
    }

    @Test func aReplacementOfWhatItsAuthorNeverSawIsStale() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a\n"]) { mounts in
            let base = try mounts[0].store.memory(at: "/f").version
            #expect(try mounts[0].read("/f") == "a\n")
            try mounts[1].write("/f", "b\n")
            try mounts[0].write("/f", "c\n")
            let versions = try mounts[0].versions("/f")
            expect(try mounts[0].log(), is: ["modified /f #1: b", "modified /f #1: c (stale)"])
            #expect(versions.last?.base == base)
        }
    }

    // MARK: Read-only

    @Test func aReadOnlyMountRefusesToWrite() async throws {
        try await MountedStore.with(access: .readOnly, memories: ["/a.md": "one"]) { mount throws in
            #expect(throws: Errno.readOnlyFileSystem) { try mount.write("/a.md", "two") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.write("/new", "two") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.remove("/a.md") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.rename("/a.md", "/b.md") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.makeDirectory("/d") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.change(mode: 0o600, of: "/a.md") }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.truncate("/a.md", 0) }
            #expect(try mount.read("/a.md") == "one")
            expect(try mount.history(), is: [])
        }
    }

    // MARK: Limits

    @Test func aFullStoreSaysWhichLimitItMet() async throws {
        var policy = Policy()
        policy.maxBytesPerMemory = 1_000
        policy.maxBytes = 1_500
        policy.maxMemories = 3
        try await MountedStore.with(memories: ["/a": "a"], policy: policy) { mount in
            #expect(throws: Errno.fileTooLarge) { try mount.write("/b", Array(repeating: 1, count: 1_001)) }
            try mount.write("/b", Array(repeating: 1, count: 1_000))
            #expect(throws: Errno.diskQuotaExceeded) { try mount.write("/c", Array(repeating: 1, count: 600)) }
            #expect(throws: Errno.noSpace) { try mount.write("/d", "d") }
            #expect(try mount.read("/a") == "a")
            #expect(try mount.size("/b") == 1_000)
        }
    }

    // MARK: Crashes

    /// Of the daemon itself: `CrashTests`. Here it stops in order, with a save under way, and its successor finds all.
    @Test func whatWasWrittenIsThereAfterAStop() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.append("/f", "b\n")
            try mount.write("/new", "c\n")
            try mount.makeDirectory("/d")
            try mount.remove("/new")
            try mount.daemon.afterwards(mount.store.id) { store throws in
                #expect(try store.text("/f") == "a\nb\n")
                #expect(throws: RemfsError.self) { try store.memory(at: "/new") }
            }
        }
    }
}
