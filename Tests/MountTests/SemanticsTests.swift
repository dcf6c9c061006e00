import Filesystem
import Glibc
import Storage
import TestSupport
import Testing
import Threads

/// The promises of `Semantics.md`, under its headings and in its order, kept with real programs on a real mount.
@Suite(.needsFuse)
struct SemanticsTests {
    /// A script that runs in the root of a mount, and the versions that exist for it once nothing is pending any more.
    struct Case: Sendable, CustomTestStringConvertible {
        let script: String
        var memories: [String: String] = [:]
        let versions: [String]

        init(_ script: String, with memories: [String: String] = [:], makes versions: [String]) {
            self.script = script
            self.memories = memories
            self.versions = versions
        }

        var testDescription: String { script }

        func run(_ options: MountOptions = MountOptions()) async throws {
            try await MountedStore.with(memories: memories, options) { mount in
                try mount.run(script)
                expect(try mount.history(), is: versions)
            }
        }
    }

    // MARK: Saves

    static let saves = [
        Case("echo a > new", makes: ["created /new #1: a"]),
        Case("touch new", makes: ["created /new #1: "]),
        Case("mkdir -p deep/er; echo a > deep/er/new", makes: ["created /deep/er/new #1: a"]),
        Case(
            "printf a > new; printf b >> new; printf c >> new",
            makes: ["created /new #1: a...", "modified /new #1: ab...", "modified /new #1: abc..."]),
        Case("echo b > f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("echo b >> f", with: ["/f": "a\n"], makes: ["modified /f #1: a|b"]),
        Case("for i in 1 2 3; do echo $i; done > f", with: ["/f": "a\n"], makes: ["modified /f #1: 1|2|3"]),
        Case("(echo 1; (echo 2); /bin/echo 3) > f", with: ["/f": "a\n"], makes: ["modified /f #1: 1|2|3"]),
        Case("python3 -c 'open(\"f\", \"w\").write(\"b\\n\")'", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case(
            """
            python3 -c '
            f = open("f", "w")
            for line in range(3): print(line, file=f, flush=True)
            '
            """, with: ["/f": "a\n"], makes: ["modified /f #1: 0|1|2"]),
        Case("echo b > x~; cp x~ f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("truncate -s0 f", with: ["/f": "a\n"], makes: ["modified /f #1: "]),
        Case("truncate -s3 f", with: ["/f": "a\nb\nc\n"], makes: ["modified /f #1: a|b..."]),
        Case("printf X | dd of=f bs=1 seek=1 conv=notrunc status=none", with: ["/f": "abc\n"], makes: ["modified /f #1: aXc"]),
        Case("echo b | tee f > /dev/null", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case(
            """
            python3 -c '
            import mmap
            with open("f", "r+b") as f, mmap.mmap(f.fileno(), 0) as m: m[0:1] = b"X"
            '
            """, with: ["/f": "abc\n"], makes: ["modified /f #1: Xbc"]),
        Case(
            """
            python3 -c '
            import mmap
            f = open("f", "r+b"); m = mmap.mmap(f.fileno(), 0); f.close()
            m[0:1] = b"X"; m.close()
            '
            """, with: ["/f": "abc\n"], makes: ["modified /f #1: Xbc"]),
        Case("fallocate -p -o 0 -l 2 f", with: ["/f": "abcd"], makes: ["modified /f #1: 4 bytes"]),
        // What comes to the same bytes is no change.
        Case("echo a > f", with: ["/f": "a\n"], makes: []),
        Case("echo a > x~; cp x~ f", with: ["/f": "a\n"], makes: []),
        Case("echo b > f; echo a > f", with: ["/f": "a\n"], makes: ["modified /f #1: b", "modified /f #1: a"]),
        Case("printf a | dd of=f bs=1 conv=notrunc status=none", with: ["/f": "abc\n"], makes: []),
        Case("touch f; touch -d @0 f; chmod 600 f; chown 1:1 f; chgrp 0 f", with: ["/f": "a\n"], makes: []),
        Case("cat f; cp f $SCRATCH/copy; grep a f; stat f", with: ["/f": "a\n"], makes: []),
        Case("sed -i s/b/c/ f", with: ["/f": "a\n"], makes: []),
        // Directories, links, FIFOs and devices have no versions.
        Case("mkdir d; ln -s f l; mkfifo p; mknod n c 1 3; rmdir d; rm l p n", with: ["/f": "a\n"], makes: []),
    ]

    @Test(arguments: saves) func aSaveIsOneVersion(_ example: Case) async throws { try await example.run() }

    @Test(arguments: saves) func aSaveIsOneVersionUnderStrictCoherence(_ example: Case) async throws {
        var options = MountOptions()
        options.coherence = .strict
        try await example.run(options)
    }

    /// The shell truncates at once, the program writes when it is done: that is one save, however long it takes.
    @Test func aSlowCommandIsOneVersion() async throws {
        try await MountedStore.with(memories: ["/notes.md": "old\n"]) { mount in
            try mount.run("mkfifo $SCRATCH/go")
            let slow = try mount.start("(read line; echo one; sleep 2.5; echo two) < $SCRATCH/go > notes.md")
            let start = try check(Glibc.open(mount.daemon.scratch + "/go", O_WRONLY | O_CLOEXEC))
            try wait { try mount.size("/notes.md") == 0 }
            #expect(try mount.store.text("/notes.md") == "old\n", "the API shows the last sealed version")
            expect(try mount.log(), is: [])
            try Files.write(Array("go\n".utf8), to: start)
            close(start)
            try slow.success()
            expect(try mount.log(), is: ["modified /notes.md #1: one|two"])
        }
    }

    /// Every child that inherits a descriptor closes it at its end; only the last close ends the save.
    @Test func childrenThatInheritTheFileDoNotEndTheSave() async throws {
        try await MountedStore.with { mount in
            try mount.withOpen("/f", O_WRONLY | O_CREAT) { file in
                try Files.write(Array("one\n".utf8), to: file)
                let other = try check(fcntl(file, F_DUPFD_CLOEXEC, 3))
                close(other)
                expect(try mount.log(), is: [])
                try Files.write(Array("two\n".utf8), to: file)
            }
            expect(try mount.log(), is: ["created /f #1: one|two"])
        }
    }

    @Test func fsyncSealsNothing() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.withOpen("/f", O_WRONLY | O_TRUNC) { file in
                for line in ["one\n", "two\n"] {
                    try Files.write(Array(line.utf8), to: file)
                    try check(fsync(file))
                    expect(try mount.log(), is: [])
                }
            }
            expect(try mount.log(), is: ["modified /f #1: one|two"])
        }
    }

    /// Who polls through the API while a file is being saved sees what it was, then what it is.
    @Test func aReaderThatPollsSeesNoHalfSave() async throws {
        try await MountedStore.with(memories: ["/f": "old"]) { mount in
            let done = Event<Void>()
            let texts = try concurrently([
                { @Sendable () throws -> [String] in
                    try mount.withOpen("/f", O_WRONLY | O_TRUNC) { file in
                        for _ in 0..<200 { try Files.write(Array("new ".utf8), to: file) }
                    }
                    done.post()
                    return []
                },
                { @Sendable () throws -> [String] in
                    var seen: [String] = []
                    while !done.isPosted { seen.append(try mount.store.text("/f")) }
                    return seen
                },
            ])
            let new = String(repeating: "new ", count: 200)
            #expect(Set(texts[1]).isSubset(of: ["old", new]))
            #expect(try mount.store.text("/f") == new)
            expect(try mount.log(), is: ["modified /f #1: 800 bytes"])
        }
    }

    /// A version is there when `close` has returned: nobody has to wait for it.
    @Test func aVersionIsThereWhenCloseHasReturned() async throws {
        try await MountedStore.with { mount in
            for number in 1...50 {
                try mount.write("/f", "\(number)")
                #expect(try mount.store.text("/f") == "\(number)")
            }
            #expect(try mount.versions("/f").count == 50)
        }
    }

    @Test func anAPIWriteEndsTheSaveThatItMeets() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.withOpen("/f", O_WRONLY | O_APPEND) { file in
                try Files.write(Array("b\n".utf8), to: file)
                try mount.store.update("/f", "api\n")
                try Files.write(Array("c\n".utf8), to: file)
            }
            expect(try mount.log(), is: ["modified /f #1: a|b", "modified /f #1: api", "modified /f #1: api|c"])
        }
    }

    @Test func unmountingEndsASave() async throws {
        try await MountedStore.with { mount in
            let file = try mount.open("/f", O_WRONLY | O_CREAT)
            try Files.write(Array("a\n".utf8), to: file)
            try mount.daemon.table.unmount(mount.mount, lazily: true)
            close(file)
            expect(try mount.history(), is: ["created /f #1: a"])
        }
    }

    // MARK: Temporary files

    static let temporaryFiles = [
        Case("sed -i s/a/b/ f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("sed -i s/a/b/ f; sed -i s/b/c/ f", with: ["/f": "a\n"], makes: ["modified /f #1: b", "modified /f #1: c"]),
        Case("perl -pi -e s/a/b/ f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case(
            """
            python3 -c '
            import os
            open("tmp", "w").write("b\\n"); os.replace("tmp", "f")
            '
            """, with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case(
            """
            python3 -c '
            import os, tempfile
            with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as t:
                t.write("b\\n"); t.flush(); os.fsync(t.fileno())
            os.rename(t.name, "f")
            '
            """, with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        // Another process than the one that made it, and later than its seal.
        Case("echo b > tmp; sleep 0.1; mv tmp f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("echo 1 > tmp; echo 2 > tmp; sleep 0.1; echo 3 >> tmp; mv tmp f", with: ["/f": "a\n"], makes: ["modified /f #1: 2|3"]),
        Case("cp f tmp; mv tmp f", with: ["/f": "a\n"], makes: []),
        Case("rsync -a $SCRATCH/../mnt1/src/ dst/", with: ["/src/f": "b\nb\n", "/dst/f": "a\n"], makes: ["modified /dst/f #1: b|b"]),
        // What has become a memory is none any more, whoever made it and however short ago.
        Case(
            "sed -i s/a/b/ f; mv f g", with: ["/f": "a\n", "/g": "g\n"], makes: ["modified /f #1: b", "modified /g #2: b", "deleted /f #1"]),
        Case(
            "rm f; echo b > f; mv f g", with: ["/f": "a\n", "/g": "g\n"],
            makes: ["modified /f #1: b", "modified /g #2: b", "deleted /f #1"]),
        Case(
            """
            python3 -c '
            import os
            open("tmp", "w").write("b\\n"); os.replace("tmp", "f"); os.rename("f", "g")
            '
            """, with: ["/f": "a\n"], makes: ["modified /f #1: b", "modified /g #1: b"]),
        Case("sort -r f -o f", with: ["/f": "a\nb\n"], makes: ["modified /f #1: b|a"]),
        Case("ex -s -c '%s/a/b/' -c x f", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("vim -es -u NONE -c 'set backup' -c '%s/a/b/' -c x f; rm -f f~", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case(
            "vim -es -u NONE -c 'set backup backupcopy=no writebackup' -c '%s/a/b/' -c x f", with: ["/f": "a\n"],
            makes: ["modified /f #1: b"]),
        Case("mv f f~; echo b > f; rm f~", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
        Case("patch -s f <<< $'1c1\\n< a\\n---\\n> b'", with: ["/f": "a\n"], makes: ["modified /f #1: b"]),
    ]

    @Test(arguments: temporaryFiles) func aTemporaryFileLeavesNoTrace(_ example: Case) async throws { try await example.run() }

    /// Who was told of it expects to hear of its end.
    @Test func aTemporaryFileThatTheAPIHasShownGetsADeletion() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            try mount.write("/tmp", "b\n")
            expect(try mount.log(), is: ["created /tmp #2: b"])
            try mount.rename("/tmp", "/f")
            expect(try mount.history(), is: ["created /tmp #2: b", "modified /f #1: b", "deleted /tmp #2"])
        }
    }

    @Test func aTemporaryFileThatAnotherMountHasSeenGetsADeletion() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a\n"]) { mounts in
            try mounts[0].write("/tmp", "b\n")
            #expect(try mounts[1].read("/tmp") == "b\n")
            try mounts[0].rename("/tmp", "/f")
            expect(try mounts[0].history(), is: ["created /tmp #2: b", "modified /f #1: b", "deleted /tmp #2"])
        }
    }

    /// Its versions appear only once it is known that they stay.
    @Test func followersOfTheLogHearOfNoTemporaryFile() async throws {
        try await MountedStore.with(memories: ["/f": "a\n"]) { mount in
            let start = try mount.store.statistics().newestVersion
            try mount.write("/tmp", "b\n")
            #expect(try mount.store.versions(VersionFilter(), after: start, limit: 10).isEmpty)
            try mount.rename("/tmp", "/f")
            expect(try mount.store.versions(VersionFilter(), after: start, limit: 10).map(\.path), is: ["/f"])
        }
    }

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

/// Waits until something holds that another thread, process or kernel brings about; at most 20 s.
func wait(_ condition: () throws -> Bool, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let deadline = ContinuousClock.now + .seconds(20)
    while try !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("what was waited for did not happen", sourceLocation: sourceLocation)
            throw TimedOut()
        }
        sched_yield()
    }
}

/// As `#expect(value == expected)`, but shows both even where the value is of a call that throws.
func expect<Value: Equatable>(_ value: Value, is expected: Value, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(value == expected, sourceLocation: sourceLocation)
}
