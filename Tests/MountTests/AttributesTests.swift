import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// Modes, owners, times, extended attributes, and how a mount may show them.
@Suite(.needsFuse)
struct AttributesTests {
    private func times(_ status: stat) -> [Int] {
        [status.st_atim.tv_sec, status.st_atim.tv_nsec, status.st_mtim.tv_sec, status.st_mtim.tv_nsec]
    }

    @Test func timesAreKeptToTheNanosecond() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "1"]) { mounts in
            let given = [timespec(tv_sec: 1_000_000_001, tv_nsec: 123_456_789), timespec(tv_sec: -5, tv_nsec: 999_999_999)]
            try check(utimensat(AT_FDCWD, mounts[0].path("/f"), given, 0))
            try mounts[0].run("sync f")
            for mount in mounts { expect(times(try mount.status("/f")), is: [1_000_000_001, 123_456_789, -5, 999_999_999]) }
        }
    }

    @Test func aWriteMovesItsTimesAndARenameMovesThoseOfTheDirectories() async throws {
        try await MountedStore.with { mount in
            try mount.run("mkdir a b; echo 1 > a/f; touch -d @1000 a b a/f")
            try mount.append("/a/f", "2")
            #expect(try mount.status("/a/f").st_mtim.tv_sec > 1_000)
            expect(try mount.status("/a").st_mtim.tv_sec, is: 1_000)
            try mount.rename("/a/f", "/b/f")
            #expect(try mount.status("/a").st_mtim.tv_sec > 1_000)
            #expect(try mount.status("/b").st_mtim.tv_sec > 1_000)
            expect(try mount.names(), is: ["a", "b"])
        }
    }

    @Test func modesAndOwnersAreKept() async throws {
        try await MountedStore.with(memories: ["/f": "1"]) { mount in
            try mount.change(mode: 0o4751, of: "/f")
            try check(lchown(mount.path("/f"), 12, 34))
            let status = try mount.status("/f")
            #expect(status.st_uid == 12 && status.st_gid == 34)
            // chown takes the set-id bits of an executable away.
            #expect(status.st_mode & 0o7777 == 0o751 || status.st_mode & 0o7777 == 0o4751)
            try mount.change(mode: 0o640, of: "/f")
            try mount.append("/f", "2")
            expect(try mount.status("/f").st_mode & 0o7777, is: 0o640)
        }
    }

    @Test func aSetgidDirectoryPassesItsGroupOn() async throws {
        try await MountedStore.with { mount in
            try mount.run("mkdir d; chgrp 55 d; chmod 2775 d; mkdir d/e; echo 1 > d/f; ln -s f d/l")
            expect(try mount.status("/d/f").st_gid, is: 55)
            expect(try mount.status("/d/e").st_gid, is: 55)
            expect(try mount.status("/d/l").st_gid, is: 55)
            expect(try mount.status("/d/e").st_mode & S_ISGID, is: S_ISGID)
        }
    }

    @Test func aStickyDirectoryKeepsOthersFromRemoving() async throws {
        try await MountedStore.with { mount in
            try mount.run("mkdir d; chmod 1777 d; echo 1 > d/f")
            let other = try mount.start("setpriv --reuid 1000 --regid 1000 --clear-groups rm -f d/f").wait()
            #expect(other.status != 0)
            expect(try mount.exists("/d/f"), is: true)
        }
    }

    @Test func othersMayDoWhatTheModeSays() async throws {
        try await MountedStore.with(memories: ["/f": "1"]) { mount in
            func asOther(_ script: String) throws -> Int32 {
                try mount.start("setpriv --reuid 1000 --regid 1000 --clear-groups bash -c '\(script)'").wait().status
            }
            try mount.change(mode: 0o600, of: "/f")
            #expect(try asOther("cat f") != 0)
            try mount.change(mode: 0o644, of: "/f")
            #expect(try asOther("cat f") == 0)
            #expect(try asOther("echo 2 > f") != 0)
            #expect(try asOther("chmod 777 f") != 0)
        }
    }

    @Test func aMountCanShowEveryFileAsOneUsers() async throws {
        var options = MountOptions()
        options.uid = 4_000
        options.gid = 4_001
        options.umask = 0o027
        try await MountedStore.with(mounts: [options, MountOptions()], memories: ["/f": "1"]) { mounts in
            try mounts[0].write("/new", "2")
            for name in ["/f", "/new", "/"] {
                let status = try mounts[0].status(name)
                #expect(status.st_uid == 4_000 && status.st_gid == 4_001)
                #expect(status.st_mode & 0o027 == 0)
            }
            #expect(throws: Errno.notPermitted) { try check(lchown(mounts[0].path("/f"), 1, 1)) }
            try mounts[0].run("chmod 700 f; sync f")
            let stored = try mounts[1].status("/f")
            #expect(stored.st_uid == 0)
            #expect(stored.st_mode & 0o777 == 0o700)
            try mounts[0].run("setpriv --reuid 4000 --regid 4001 --clear-groups bash -c 'echo 3 > f'")
            expect(try mounts[1].versions("/f").last?.author.writer.uid, is: 4_000)
        }
    }

    @Test func extendedAttributesAreOffUnlessAskedFor() async throws {
        try await MountedStore.with(memories: ["/f": "1"]) { mount throws in
            #expect(throws: Errno.notSupported) { try Linux.setAttribute("user.a", of: mount.path("/f"), to: "b") }
            #expect(throws: Errno.notSupported) { try Linux.attribute("user.a", of: mount.path("/f")) }
        }
    }

    @Test func extendedAttributesCanBeKept() async throws {
        var options = MountOptions()
        options.xattr = true
        try await MountedStore.with(memories: ["/f": "1"], options) { mount in
            let path = mount.path("/f")
            try Linux.setAttribute("user.a", of: path, to: "one")
            expect(try Linux.attribute("user.a", of: path), is: "one")
            #expect(throws: Errno.fileExists) { try Linux.setAttribute("user.a", of: path, to: "b", .create) }
            #expect(throws: Errno.noData) { try Linux.setAttribute("user.b", of: path, to: "b", .replace) }
            #expect(throws: Errno.notPermitted) { try Linux.setAttribute("user.remfs.version", of: path, to: "b") }
            expect(try Linux.attribute("user.remfs.memory_id", of: path), is: try mount.id("/f").description)
            expect(try Linux.attribute("user.remfs.version", of: path), is: try mount.store.memory(at: "/f").version.description)
            expect(try Linux.attribute("user.remfs.sha256", of: path).count, is: 64)
            // Only what can be copied is listed.
            expect(try mount.run("getfattr --absolute-names -d -m - f"), is: "# file: f\nuser.a=\"one\"\n\n")
            try mount.run("mkdir /tmp/$$ && cp -a f /tmp/$$/f && rsync -aX /tmp/$$/ . && rm -r /tmp/$$")
            try Linux.removeAttribute("user.a", of: path)
            #expect(throws: Errno.noData) { try Linux.attribute("user.a", of: path) }
            expect(try mount.log(), is: [])
        }
    }
}
