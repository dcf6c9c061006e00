import Fuse
import Glibc
import Testing
import Threads

extension FuseTests {
    @Suite struct Content {
        @Test func bytesComeBack() throws {
            try MountedToy.with { mount throws in
                var bytes = [UInt8](repeating: 0, count: 5_000_001)
                for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index &* 31 >> 3) }
                try mount.withOpen("big", O_CREAT | O_RDWR) { file in
                    var done = 0
                    while done < bytes.count { done += try check(Glibc.write(file, Array(bytes[done...]), bytes.count - done)) }
                }
                try mount.settle()
                // Each as large as was agreed.
                #expect(mount.toy.count(.write) == 5)
                #expect(try mount.withOpen("big", O_RDONLY) { try MountedToy.readAll($0) } == bytes)
                #expect(mount.connection.invalidate(2) == 0)
                #expect(try mount.withOpen("big", O_RDONLY) { try MountedToy.readAll($0) } == bytes)
            }
        }

        @Test func appendsSayThatTheyAre() throws {
            try MountedToy.with { mount throws in
                try mount.write("log", "one\n")
                #expect(!mount.toy.state.withLock { $0.lastWrite.append })
                try mount.write("log", "two\n", O_WRONLY | O_APPEND)
                #expect(mount.toy.state.withLock { $0.lastWrite.append })
                #expect(try mount.read("log") == "one\ntwo\n")
            }
        }

        @Test func mappedPagesAreWrittenAsSuch() throws {
            try MountedToy.with { mount throws in
                try mount.write("m", String(repeating: "a", count: 4096))
                try mount.withOpen("m", O_RDWR) { file in
                    let address = try #require(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
                    address.storeBytes(of: UInt8(ascii: "b"), as: UInt8.self)
                    try check(msync(address, 4096, MS_SYNC))
                    try check(munmap(address, 4096))
                }
                #expect(mount.toy.state.withLock { $0.lastWrite.fromPageCache })
                #expect(mount.toy.state.withLock { $0.nodes[2]!.content.prefix(2) == [98, 97] })
            }
        }

        @Test func sizesChange() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "0123456789")
                try check(truncate(mount.path("f"), 4))
                #expect(try mount.read("f") == "0123")
                try mount.withOpen("f", O_RDWR) { try check(ftruncate($0, 6)) }
                #expect(try mount.read("f") == "0123\0\0")
                try mount.withOpen("f", O_WRONLY | O_TRUNC) { _ in }
                #expect(try mount.read("f") == "")
            }
        }

        @Test func timesAreNanoseconds() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                var times = [timespec(tv_sec: -5, tv_nsec: 123_456_789), timespec(tv_sec: 4_102_444_800, tv_nsec: 999_999_999)]
                try check(utimensat(AT_FDCWD, mount.path("f"), &times, 0))
                let change = try #require(mount.toy.state.withLock { $0.lastChange })
                #expect(change.accessed == .at(-4_876_543_211))
                #expect(change.modified == .at(4_102_444_800_999_999_999))
                #expect(change.mode == nil && change.sizeInBytes == nil && change.uid == nil && !change.clearsPrivileges)
                let status = try mount.status("f")
                #expect(status.st_atim.tv_sec == -5 && status.st_atim.tv_nsec == 123_456_789)
                #expect(status.st_mtim.tv_sec == 4_102_444_800 && status.st_mtim.tv_nsec == 999_999_999)
                try check(utimensat(AT_FDCWD, mount.path("f"), nil, 0))
                #expect(mount.toy.state.withLock { $0.lastChange?.modified } == .now)
            }
        }

        @Test func ownersAndModesChange() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                try check(chmod(mount.path("f"), 0o6755))
                #expect(try mount.status("f").st_mode == S_IFREG | 0o6755)
                try check(chown(mount.path("f"), 1234, 2345))
                #expect(try mount.status("f").st_uid == 1234)
                #expect(try mount.status("f").st_gid == 2345)
                // The kernel takes the bits away itself, since nobody promised to.
                #expect(try mount.status("f").st_mode == S_IFREG | 0o755)
            }
        }

        @Test func syncsArrive() throws {
            try MountedToy.with { mount throws in
                try mount.withOpen("f", O_CREAT | O_RDWR) { file in
                    try check(fsync(file))
                    try check(fdatasync(file))
                }
                try mount.settle()
                #expect(mount.toy.count(.fsync) == 2)
                try mount.withOpen("", O_RDONLY | O_DIRECTORY) { try check(fsync($0)) }
                try mount.settle()
                #expect(mount.toy.count(.fsyncdir) == 1)
            }
        }

        @Test func holesAndDataAreFound() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "0123456789")
                try mount.withOpen("f", O_RDONLY) { file throws in
                    #expect(try check(lseek(file, 3, seekData)) == 3)
                    #expect(try check(lseek(file, 3, seekHole)) == 10)
                    #expect(throws: Failed(ENXIO)) { try check(lseek(file, 11, seekData)) }
                }
            }
        }

        @Test func roomIsAllocated() throws {
            try MountedToy.with { mount throws in
                try mount.withOpen("f", O_CREAT | O_RDWR) { file in
                    try check(fallocate(file, 0, 100, 50))
                    #expect(throws: Failed(EOPNOTSUPP)) { try check(fallocate(file, 3, 0, 10)) }
                }
                #expect(try mount.status("f").st_size == 150)
            }
        }

        @Test func rangesAreCopiedInside() throws {
            try MountedToy.with { mount throws in
                try mount.write("a", "0123456789")
                try mount.write("b", "----------")
                try mount.withOpen("a", O_RDONLY) { source in
                    try mount.withOpen("b", O_RDWR) { destination throws in
                        var from = off_t(2)
                        var to = off_t(5)
                        #expect(try check(copyFileRange(source, &from, destination, &to, 4, 0)) == 4)
                    }
                }
                try mount.settle()
                #expect(mount.toy.count(.copyFileRange) == 1)
                #expect(try mount.read("b") == "-----2345-")
            }
        }

        @Test func statisticsAreShown() throws {
            try MountedToy.with { mount throws in
                var statistics = statvfs()
                try check(statvfs(mount.path, &statistics))
                #expect(statistics.f_bsize == 4096 && statistics.f_blocks == 1000 && statistics.f_bavail == 600)
                #expect(statistics.f_files == 50 && statistics.f_ffree == 40 && statistics.f_namemax == 255)
            }
        }

        @Test func extendedAttributesAreKeptWhereOffered() throws {
            var options = FuseConnectionOptions()
            options.answersExtendedAttributes = true
            try MountedToy.with(options) { mount throws in
                try mount.write("f", "x")
                let file = mount.path("f")
                try check(setxattr(file, "user.one", "first", 5, 0))
                try check(setxattr(file, "user.two", "", 0, 0))
                #expect(throws: Failed(EEXIST)) { try check(setxattr(file, "user.one", "again", 5, 1)) }
                var buffer = [UInt8](repeating: 0, count: 100)
                #expect(try check(getxattr(file, "user.one", nil, 0)) == 5)
                #expect(try check(getxattr(file, "user.one", &buffer, 100)) == 5)
                #expect(Array(buffer[..<5]) == Array("first".utf8))
                #expect(throws: Failed(ERANGE)) { try check(getxattr(file, "user.one", &buffer, 2)) }
                #expect(try check(getxattr(file, "user.two", &buffer, 100)) == 0)
                let count = try check(listxattr(file, nil, 0))
                #expect(count == 18)
                try check(removexattr(file, "user.one"))
                #expect(throws: Failed(ENODATA)) { try check(getxattr(file, "user.one", nil, 0)) }
            }
        }
    }
}
