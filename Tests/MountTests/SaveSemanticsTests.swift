import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// The promises of `Semantics.md` on what one save is, kept with real programs on a real mount.
@Suite(.needsFuse)
struct SaveSemanticsTests {
    typealias Case = SemanticsCase

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
}
