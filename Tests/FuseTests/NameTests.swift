import Fuse
import Glibc
import Testing
import Threads

extension FuseTests {
    @Suite struct Names {
        @Test func namesAppearMoveAndGo() throws {
            try MountedToy.with { mount throws in
                try check(mkdir(mount.path("d"), 0o750))
                try mount.write("d/a", "one")
                try check(link(mount.path("d/a"), mount.path("b")))
                #expect(try mount.status("b").st_nlink == 2)
                #expect(try mount.status("b").st_ino == mount.status("d/a").st_ino)
                #expect(try mount.read("b") == "one")
                try check(unlink(mount.path("d/a")))
                #expect(throws: Failed(ENOENT)) { try mount.read("d/a") }
                #expect(throws: Failed(ENOENT)) { try mount.read("never") }
                try check(Glibc.rename(mount.path("b"), mount.path("d/c")))
                #expect(throws: Failed(ENOTEMPTY)) { try check(rmdir(mount.path("d"))) }
                try check(unlink(mount.path("d/c")))
                try check(rmdir(mount.path("d")))
                #expect(try mount.list() == [])
            }
        }

        @Test func theUmaskIsTheKernelsToApply() throws {
            try MountedToy.with { mount throws in
                let old = umask(0o027)
                defer { umask(old) }
                try mount.withOpen("f", O_CREAT | O_WRONLY, 0o666) { _ in }
                try check(mkdir(mount.path("d"), 0o777))
                #expect(try mount.status("f").st_mode == S_IFREG | 0o640)
                #expect(try mount.status("d").st_mode == S_IFDIR | 0o750)
            }
        }

        @Test func aRequestSaysWhoAsks() throws {
            try MountedToy.with { mount throws in
                try check(mkdir(mount.path("d"), 0o755))
                let context = try #require(mount.toy.state.withLock { $0.lastContext })
                #expect(context.uid == geteuid())
                #expect(context.gid == getegid())
                #expect(context.pid == gettid())
                #expect(context.unique > 0)
                let mask = umask(0)
                umask(mask)
                #expect(context.umask == mask)
            }
        }

        @Test func renameKnowsItsFlags() throws {
            try MountedToy.with { mount throws in
                try mount.write("a", "A")
                try mount.write("b", "B")
                #expect(throws: Failed(EEXIST)) { try rename(mount.path("a"), mount.path("b"), flags: 1) }
                try rename(mount.path("a"), mount.path("b"), flags: 2)
                #expect(try mount.read("a") == "B")
                #expect(try mount.read("b") == "A")
                try rename(mount.path("a"), mount.path("c"), flags: 1)
                #expect(try mount.list().sorted() == ["b", "c"])
                try rename(mount.path("b"), mount.path("c"), flags: 0)
                #expect(try mount.list() == ["c"])
                #expect(try mount.read("c") == "A")
            }
        }

        private func rename(_ from: String, _ to: String, flags: UInt32) throws {
            try check(renameat2(AT_FDCWD, from, AT_FDCWD, to, flags))
        }

        @Test func symbolicLinksKeepTheirBytes() throws {
            try MountedToy.with { mount throws in
                let target = "../somewhere/else with spaces/" + String(repeating: "x", count: 1000)
                try check(symlink(target, mount.path("l")))
                var buffer = [CChar](repeating: 0, count: 2000)
                let count = try check(readlink(mount.path("l"), &buffer, buffer.count))
                #expect(String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self) == target)
                #expect(try mount.status("l").st_size == target.utf8.count)
            }
        }

        @Test func specialFilesKeepTheirDevice() throws {
            try MountedToy.with { mount throws in
                try check(mknod(mount.path("fifo"), S_IFIFO | 0o600, 0))
                try check(mknod(mount.path("null"), S_IFCHR | 0o600, 0x103))
                #expect(try mount.status("fifo").st_mode & S_IFMT == S_IFIFO)
                #expect(try mount.status("null").st_rdev == 0x103)
            }
        }

        @Test func aLargeDirectoryIsListedOnceAndCompletely() throws {
            try MountedToy.with { mount throws in
                let names = (0..<5000).map { "\($0)-" + String(repeating: "n", count: $0 % 200) }
                for name in names { mount.toy.makeFile(name, "x") }
                #expect(try mount.list() == names)
                // The listing may have changed the directory's access time, for which the next opendir asks.
                #expect(try mount.list() == names)
                #expect(mount.toy.count(.readdirplus) > 1)
                #expect(mount.toy.count(.readdir) == 0)
                // Attributes came with the listing, and the listing itself is kept: the kernel may do without another request. It may also let
                // go of what it keeps, where memory is short, and asks again then: so one round of several has to be without any.
                let rounds = try (0..<5).map { _ in
                    let before = try mount.settledRequests()
                    for name in names { _ = try mount.status(name) }
                    #expect(try mount.list() == names)
                    return try mount.settledRequests() - before
                }
                #expect(rounds.contains(0), "requests in each round: \(rounds)")
            }
        }

        @Test func aListingFindsTheLongestName() throws {
            try MountedToy.with { mount throws in
                let name = String(repeating: "å", count: 127) + "x"
                mount.toy.makeFile(name, "x")
                #expect(try mount.list() == [name])
                #expect(try mount.read(name) == "x")
            }
        }

        @Test func whatTheKernelDropsIsForgotten() throws {
            try MountedToy.with { mount throws in
                try mount.write("a", "x")
                try check(unlink(mount.path("a")))
                #expect(mount.toy.wait { $0.forgotten == 1 && $0.nodes.count == 1 })
            }
        }
    }
}
