@testable import Fuse
import Glibc
import Testing
import Threads

/// The parts that need no kernel.
@Suite struct MountTableTests {
    @Test func oursAreFoundInTheTable() {
        let table = #"""
            22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
            51 22 0:45 / /tmp/a\040b\012c\134d,e rw,nosuid,nodev,relatime shared:7 master:2 - fuse.remfs team\040notes rw,user_id=0,group_id=0
            52 22 0:46 / /mnt/other rw - fuse.sshfs host: rw
            53 22 0:147 / /mnt/plain ro,noexec - fuse.remfs remfs ro

            broken line
            """#
        let found = FuseMountpoint.existing(in: Array(table.utf8))
        #expect(found.map { String(decoding: $0.path, as: UTF8.self) } == ["/tmp/a b\nc\\d,e", "/mnt/plain"])
        #expect(found.map { String(decoding: $0.source, as: UTF8.self) } == ["team notes", "remfs"])
        #expect(found.map(\.number) == [45, 147])
    }
}

extension FuseTests {
    @Suite struct Mountpoints {
        @Test(arguments: [FuseMountpoint.Way.direct, .helper])
        func oddPathsAndSourcesWork(_ way: FuseMountpoint.Way) throws {
            let workers = MountedToy.quietWorkers()
            defer { workers.stop() }
            try TemporaryDirectory.with(named: "a,b c\\d\n\te\\040é-o ro") { path in
                var options = FuseMountpoint.Options()
                options.way = way
                options.source = TemporaryDirectory.source + Array(".x,y \\z".utf8)
                let (mountpoint, device) = try FuseMountpoint.mount(at: Array(path.utf8), options)
                let toy = ToyFilesystem()
                let connection = try FuseConnection(filesystem: toy, device: device, number: mountpoint.number)
                defer { connection.end() }
                #expect(workers.add(connection))
                let mount = MountedToy(toy: toy, connection: connection, mountpoint: mountpoint, workers: workers, path: path)
                try mount.write("f", "x")
                let found = try FuseMountpoint.existing().filter { $0.path == Array(path.utf8) }
                #expect(found.count == 1)
                #expect(found.first?.source == options.source)
                #expect(found.first?.number == mountpoint.number && mountpoint.number != nil)
                #expect(found.first?.isDead == false)
                try mountpoint.unmount()
                #expect(toy.wait { $0.ends == 1 })
                #expect(try FuseMountpoint.existing().allSatisfy { $0.path != Array(path.utf8) })
            }
        }

        @Test func optionsReachTheKernel() throws {
            var options = FuseMountpoint.Options()
            options.isReadOnly = true
            options.forbidsExecution = true
            try MountedToy.with(mounting: options) { mount throws in
                mount.toy.makeFile("f", "x")
                #expect(throws: Failed(EROFS)) { try mount.write("g", "y") }
                var statistics = statvfs()
                try check(statvfs(mount.path, &statistics))
                let expected = UInt(ST_RDONLY | ST_NOSUID)
                #expect(statistics.f_flag & expected == expected)
                #expect(statistics.f_flag & 8 != 0, "noexec")
                #expect(statistics.f_flag & 4 != 0, "nodev")
            }
        }

        @Test func aMountTurnsReadOnlyAndBack() throws {
            var options = FuseMountpoint.Options()
            options.forbidsExecution = true
            try MountedToy.with(mounting: options) { mount throws in
                try mount.write("f", "x")
                try mount.withOpen("f", O_WRONLY) { _ in
                    #expect(throws: FuseMountpoint.Failure(call: "remount", errno: EBUSY)) { try mount.mountpoint.remount(readOnly: true) }
                }
                try mount.mountpoint.remount(readOnly: true)
                #expect(throws: Failed(EROFS)) { try mount.write("f", "y") }
                #expect(try mount.read("f") == "x")
                try mount.mountpoint.remount(readOnly: false)
                try mount.write("f", "y")
                var statistics = statvfs()
                try check(statvfs(mount.path, &statistics))
                #expect(statistics.f_flag & 8 != 0, "noexec survives")
            }
        }

        @Test func failuresNameTheCall() throws {
            #expect(throws: FuseMountpoint.Failure(call: "realpath", errno: ENOENT)) {
                _ = try FuseMountpoint.mount(at: Array("/nonexistent/nowhere".utf8))
            }
            #expect(throws: FuseMountpoint.Failure(call: "realpath", errno: ENOTDIR)) {
                _ = try FuseMountpoint.mount(at: Array("/dev/null".utf8))
            }
            var options = FuseMountpoint.Options()
            options.way = .helper
            // More than a page.
            options.source = Array(repeating: UInt8(ascii: "x"), count: 5000)
            #expect {
                _ = try FuseMountpoint.mount(at: Array("/tmp".utf8), options)
            } throws: { error in
                guard let failure = error as? FuseMountpoint.Failure else { return false }
                return failure.call == "fusermount3" && failure.errno == EPERM && failure.detail.hasPrefix("fusermount3: ")
            }
            #expect(throws: FuseMountpoint.Failure(call: "umount", errno: EINVAL)) { try FuseMountpoint.unmount(Array("/usr".utf8)) }
        }

        @Test func aDescriptorThatIsNoneIsRefused() {
            #expect(throws: FuseConnection.Failure.session) { _ = try FuseConnection(filesystem: ToyFilesystem(), device: -1, number: nil) }
        }
    }
}
