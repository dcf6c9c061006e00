import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// The promises of `Semantics.md` on which memory a name leads to, kept with real programs on a real mount.
@Suite(.needsFuse)
struct NameSemanticsTests {
    typealias Case = SemanticsCase

    // MARK: Renames

    static let renames = [
        Case("mv a b", with: ["/a": "1\n"], makes: ["modified /b #1: 1"]),
        Case("mv a b; mv b c", with: ["/a": "1\n"], makes: ["modified /b #1: 1", "modified /c #1: 1"]),
        Case("mv a b; mv b a", with: ["/a": "1\n"], makes: ["modified /b #1: 1", "modified /a #1: 1"]),
        Case("mkdir d; mv a d/", with: ["/a": "1\n"], makes: ["modified /d/a #1: 1"]),
        Case(
            "mv d1 d2", with: ["/d1/a": "1\n", "/d1/s/b": "2\n", "/d10": "3\n"],
            makes: ["modified /d2/a #1: 1", "modified /d2/s/b #2: 2"]),
        Case("mv a b", with: ["/a": "1\n", "/b": "2\n"], makes: ["modified /b #2: 1", "deleted /a #1"]),
        Case("mv a b", with: ["/a": "1\n", "/b": "1\n"], makes: ["deleted /a #1"]),
        Case("echo 2 >> a; mv a b", with: ["/a": "1\n"], makes: ["modified /a #1: 1|2", "modified /b #1: 1|2"]),
        Case(
            "python3 -c 'import os; open(\"t\", \"w\").write(\"1\\n\"); os.rename(\"t\", \"new\")'", makes: ["created /new #1: 1"]),
        Case("mkdir e; mv e g", with: ["/a": "1\n"], makes: []),
        Case("ln -s a l; mv l m", with: ["/a": "1\n"], makes: []),
        // Across file systems mv copies, which is a save.
        Case("mv a $SCRATCH/x; echo 2 >> $SCRATCH/x; mv $SCRATCH/x a", with: ["/a": "1\n"], makes: ["modified /a #1: 1|2"]),
        Case("echo 2 > $SCRATCH/x; mv -f $SCRATCH/x a", with: ["/a": "1\n"], makes: ["modified /a #1: 2"]),
    ]

    @Test(arguments: renames) func aMemoryIsKnownByItsPath(_ example: Case) async throws { try await example.run() }

    @Test func exchangedMemoriesStayWhereTheyAre() async throws {
        try await MountedStore.with(memories: ["/a": "1\n", "/b": "2\n"]) { mount in
            try mount.rename("/a", "/b", Linux.exchange)
            #expect(try mount.read("/a") == "2\n")
            expect(try mount.history().sorted(), is: ["modified /a #1: 2", "modified /b #2: 1"])
        }
    }

    // MARK: Deletions

    static let deletions = [
        Case("rm f", with: ["/f": "a\n"], makes: ["deleted /f #1"]),
        Case("rm -r d", with: ["/d/a": "1\n", "/d/b": "2\n"], makes: ["deleted /d/a #1", "deleted /d/b #2"]),
        Case("echo a > f; rm f", makes: ["created /f #1: a", "deleted /f #1"]),
        Case("rm f; echo b > f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("rm f; echo a > f", with: ["/f": "a\n"], makes: []),
        Case("rm f; sleep 1; echo b > f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("rm f; sleep 3; echo b > f", with: ["/f": "a\n"], makes: ["deleted /f #1", "created /f #2: b"]),
        Case("rm f; mkdir f; echo b > f/g", with: ["/f": "a\n"], makes: ["created /f/g #2: b", "deleted /f #1"]),
        Case("rm f; ln -s g f", with: ["/f": "a\n"], makes: ["deleted /f #1"]),
        Case("rm f; echo b > t; mv t f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("rm f; mv g f", with: ["/f": "a\n", "/g": "b\n"], makes: ["modified /f #2: b", "deleted /f #1"]),
        Case("echo b > x~; cp --remove-destination x~ f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("echo b >> f; rm f", with: ["/f": "a\n"], makes: ["modified /f #1: a|b", "deleted /f #1"]),
        Case("mv f f~", with: ["/f": "a\n"], makes: ["deleted /f #1"]),
        Case(
            "for i in 1 2 3; do rm f; echo $i > f; done", with: ["/f": "a\n"],
            makes: ["modified /f #1: 1", "modified /f #1: 2", "modified /f #1: 3"]),
        Case(
            """
            git init -q . ; git add f; git commit -qm one; echo b > f; git commit -qam two
            git checkout -q HEAD~1; cat f; git checkout -q -
            """, with: ["/f": "a\n"], makes: ["modified /f #1: b", "modified /f #1: a", "modified /f #1: b"]),
        Case(
            "git init -q .; git add f; git commit -qm one; rm f; git checkout -q f", with: ["/f": "a\n"],
            makes: []),
        Case(
            "git init -q .; git add f; git commit -qm one; git mv f g; git commit -qm two", with: ["/f": "a\n"],
            makes: ["modified /g #1: a"]),
    ]

    @Test(arguments: deletions) func whatComesBackWithinTwoSecondsWasNotDeleted(_ example: Case) async throws { try await example.run() }

    @Test func theAPISeesADeletionAtOnceAndItsVersionSoon() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            let id = try mount.id("/f")
            try mount.remove("/f")
            #expect { try mount.id("/f") } throws: { ($0 as? RemfsError)?.code == .notFound }
            #expect { try mount.store.memory(id) } throws: { ($0 as? RemfsError)?.code == .notFound }
            expect(try mount.log(), is: [])
            expect(try mount.log(of: 1), is: ["deleted /f #1"])
        }
    }

    @Test func anAPICreationWhereAFileWasRemovedIsANewMemory() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.remove("/f")
            try mount.store.add(["/f": "b\n"])
            expect(try mount.log(), is: ["deleted /f #1", "created /f #2: b"])
            #expect(try mount.read("/f") == "b\n")
        }
    }

    @Test func onlyTheMountThatRemovedItContinuesAMemory() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a\n"]) { mounts in
            try mounts[0].remove("/f")
            try wait { try !mounts[1].exists("/f") }
            try mounts[1].write("/f", "b\n")
            expect(try mounts[0].history().sorted(), is: ["created /f #2: b", "deleted /f #1"])
        }
    }

    @Test func anUnlinkedFileThatIsOpenCanBeReadAndWritten() async throws {
        try await MountedStore.with(memories: ["/f": "abc"]) { mount in
            try mount.withOpen("/f", O_RDWR) { file in
                try mount.remove("/f")
                #expect(try read(file, 10, at: 0) == Array("abc".utf8))
                try TestSupport.write("X", to: file, at: 1)
                try mount.write("/f", "other")
                #expect(try read(file, 10, at: 0) == Array("aXc".utf8))
                var status = stat()
                try check(fstat(file, &status))
                #expect(status.st_nlink == 0)
            }
            expect(try mount.history(), is: ["modified /f #1: other..."])
        }
    }

    // MARK: Links

    static let links = [
        Case("ln a b", with: ["/a": "1\n"], makes: []),
        Case("ln a b; echo 2 >> b", with: ["/a": "1\n"], makes: ["modified /a #1: 1|2"]),
        Case("ln a b; rm b", with: ["/a": "1\n"], makes: []),
        Case("ln a b; mv b c", with: ["/a": "1\n"], makes: []),
        Case("ln a b; mv a c", with: ["/a": "1\n"], makes: ["modified /c #1: 1"]),
        Case("ln a b; rm a", with: ["/a": "1\n"], makes: ["created /b #2: 1", "deleted /a #1"]),
        Case("ln a b; rm a; echo 2 > a", with: ["/a": "1\n"], makes: ["created /b #2: 1", "modified /a #1: 2"]),
        Case("ln a b; echo 2 > t; mv t a", with: ["/a": "1\n"], makes: ["created /b #2: 1", "modified /a #1: 2"]),
        Case("ln a b; echo 2 > t; mv t b", with: ["/a": "1\n"], makes: ["created /b #2: 2"]),
        Case("ln a b; rm a; sleep 0.1; rm b", with: ["/a": "1\n"], makes: ["created /b #2: 1", "deleted /a #1", "deleted /b #2"]),
        Case("echo 1 > t; ln t f; rm t", makes: ["created /t #1: 1", "created /f #2: 1", "deleted /t #1"]),
    ]

    @Test(arguments: links) func theOldestNameIsTheMemorys(_ example: Case) async throws {
        try await MountedStore.with(memories: example.memories) { mount in
            try mount.run(example.script)
            expect(try mount.history().sorted(), is: example.versions.sorted())
        }
    }

    @Test func bothNamesShowTheSameBytes() async throws {
        try await MountedStore.with(memories: ["/a": "1\n"]) { mount in
            try mount.link("/a", "/b")
            try mount.append("/b", "2\n")
            #expect(try mount.read("/a") == "1\n2\n")
            #expect(try mount.status("/a").st_nlink == 2)
            let inodes = try [mount.status("/a").st_ino, mount.status("/b").st_ino]
            #expect(inodes[0] == inodes[1])
            #expect(try mount.store.text("/a") == "1\n2\n")
            try mount.remove("/a")
            #expect(try mount.status("/b").st_nlink == 1)
        }
    }

    // MARK: Working files

    static let workingFiles = [
        Case("echo 1 > a~; echo 2 > .a.swp; echo 3 > 4913; echo 4 > '.#a'; echo 5 > .nfs01", makes: []),
        Case("git init -q .; echo 1 > a; git add a; git commit -qm one", makes: ["created /a #1: 1"]),
        Case("mkdir .git; mkdir .git/deep; echo 1 > .git/deep/a; rm -r .git", makes: []),
        Case("echo 1 > .anthropic-memory-store", makes: []),
        Case("mkdir d; echo 1 > d/.anthropic-memory-store", makes: ["created /d/.anthropic-memory-store #1: 1"]),
        Case("echo 1 > a~; mv a~ a", makes: ["created /a #1: 1"]),
        Case("echo 2 > a~; mv a~ a", with: ["/a": "1\n"], makes: ["modified /a #1: 2"]),
        Case("echo 1 > a; mv a a~", makes: ["created /a #1: 1", "deleted /a #1"]),
        Case("mkdir .git; echo 1 > .git/a; mv .git got", makes: ["created /got/a #1: 1"]),
        // What the API makes is a memory whatever its name.
        Case("echo 2 > a~", with: ["/a~": "1\n"], makes: ["modified /a~ #1: 2"]),
        Case("rm a~", with: ["/a~": "1\n"], makes: ["deleted /a~ #1"]),
    ]

    @Test(arguments: workingFiles) func aWorkingFileHasNoVersions(_ example: Case) async throws { try await example.run() }

    @Test func aWorkingFileIsAFileLikeAny() async throws {
        var policy = Policy()
        policy.unversioned = ["*.tmp"]
        try await MountedStore.with(policy: policy) { mount in
            let bytes = Array(repeating: UInt8(7), count: 300_000)
            try mount.write("/a.tmp", bytes)
            #expect(try mount.bytes("/a.tmp") == bytes)
            #expect(throws: RemfsError.self) { try mount.id("/a.tmp") }
            try mount.write("/a~", "1\n")
            expect(try mount.log(), is: ["created /a~ #1: 1"])
            let bytesKept = try mount.daemon.afterwards(mount.store.id) { try $0.statistics().bytes }
            #expect(bytesKept == 300_002)
        }
    }
}
