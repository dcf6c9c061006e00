import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// Bytes: reading, writing, holes, sizes, and what becomes of files that have no name any more.
@Suite(.needsFuse)
struct FilesTests {
    /// Seeded operations on one file and on an array; compared all along, while saves are sealed and opened anew.
    @Test(arguments: [0, 1, 2]) func aFileIsWhatAnArrayIs(_ round: UInt64) async throws {
        try await MountedStore.with(mounts: 2) { mounts in
            var random = SeededRandom(seed: SeededRandom.fresh().seed &+ round)
            var model: [UInt8] = []
            var file = try mounts[0].open("/f", O_RDWR | O_CREAT)
            defer { close(file) }
            for step in 0..<250 {
                let limit = round == 0 ? 3_000 : 300_000
                let offset = Int.random(in: 0...limit, using: &random)
                switch Int.random(in: 0..<8, using: &random) {
                case 0, 1, 2:
                    let bytes = random.bytes(Int.random(in: 1...(limit / 4), using: &random))
                    #expect(pwrite(file, bytes, bytes.count, offset) == bytes.count)
                    if model.count < offset { model += Array(repeating: 0, count: offset - model.count) }
                    model.replaceSubrange(offset..<min(model.count, offset + bytes.count), with: bytes)
                case 3:
                    try check(ftruncate(file, offset))
                    model = offset <= model.count ? Array(model[..<offset]) : model + Array(repeating: 0, count: offset - model.count)
                case 4:
                    let length = Int.random(in: 1...limit, using: &random)
                    try Linux.allocate(file, Linux.punchHole | Linux.keepSize, Int64(offset), Int64(length))
                    let end = min(model.count, offset + length)
                    if offset < end { model.replaceSubrange(offset..<end, with: repeatElement(0, count: end - offset)) }
                case 5:
                    close(file)
                    if step % 3 == 0 { _ = try mounts[0].versions() }
                    file = try mounts[0].open("/f", O_RDWR)
                case 6:
                    try Linux.allocate(file, 0, Int64(offset), 10)
                    if model.count < offset + 10 { model += Array(repeating: 0, count: offset + 10 - model.count) }
                default:
                    let bytes = random.bytes(100)
                    try mounts[0].write("/f", bytes, O_WRONLY | O_APPEND)
                    model += bytes
                }
                let read = try TestSupport.read(file, limit * 2, at: 0)
                guard read == model else {
                    Issue.record("step \(step) differs: \(random)")
                    return
                }
            }
            try check(fsync(file))
            expect(try mounts[1].bytes("/f") == model, is: true)
            let kept = try mounts[0].daemon.afterwards(mounts[0].store.id) { try $0.content(of: $0.memory(at: "/f")) }
            #expect(kept == model, "\(random)")
        }
    }

    @Test func everySizeAroundAChunkComesBack() async throws {
        try await MountedStore.with { mount in
            let sizes = [0, 1, 4_095, 4_096, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, 1 << 20, (1 << 20) + 1]
            var random = SeededRandom(seed: 1)
            let contents = sizes.map { random.bytes($0) }
            for (size, content) in zip(sizes, contents) { try mount.write("/\(size)", content) }
            for (size, content) in zip(sizes, contents) { expect(try mount.bytes("/\(size)") == content, is: true) }
            let kept = try mount.daemon.afterwards(mount.store.id) { store in
                try zip(sizes, contents).map { try store.content(of: store.memory(at: "/\($0)")) == $1 }
            }
            #expect(kept.allSatisfy { $0 })
        }
    }

    /// What was cut off in the middle of a save does not come back when the file grows again, read before the seal or after it.
    @Test func cutBytesDoNotComeBack() async throws {
        try await MountedStore.with { mount in
            let full = [UInt8](repeating: 7, count: 200_000)
            let model = [UInt8](repeating: 7, count: 99_716) + [UInt8](repeating: 0, count: 150_284)
            try mount.withOpen("/f", O_RDWR | O_CREAT) { file in
                try Files.write(full, to: file)
                try check(ftruncate(file, 99_716))
                try check(ftruncate(file, 250_000))
                expect(try TestSupport.read(file, 300_000, at: 0) == model, is: true)
            }
            expect(try mount.store.content(of: mount.store.memory(at: "/f")) == model, is: true)
            expect(try mount.bytes("/f") == model, is: true)
        }
    }

    // MARK: Holes

    @Test func aSparseFileHasHolesAndData() async throws {
        try await MountedStore.with { mount in
            try mount.withOpen("/f", O_RDWR | O_CREAT) { file in
                try TestSupport.write("begin", to: file, at: 0)
                try TestSupport.write("end", to: file, at: 1 << 20)
                for _ in 0..<2 {
                    expect(try check(lseek(file, 0, Linux.seekData)), is: 0)
                    let hole = try check(lseek(file, 0, Linux.seekHole))
                    #expect(hole >= 5 && hole <= 65_536)
                    let data = try check(lseek(file, hole, Linux.seekData))
                    #expect(data > hole && data <= 1 << 20)
                    expect(try check(lseek(file, 1 << 20, Linux.seekHole)), is: (1 << 20) + 3)
                    #expect(lseek(file, 2 << 20, Linux.seekData) == -1 && errno == ENXIO)
                    expect(try TestSupport.read(file, 5, at: 500_000), is: [0, 0, 0, 0, 0])
                    // Once as drafts, once sealed.
                    _ = try mount.versions()
                }
            }
            expect(try mount.size("/f"), is: (1 << 20) + 3)
        }
    }

    @Test func blocksAreWhatIsStored() async throws {
        try await MountedStore.with { mount in
            try mount.run("truncate -s 10m f g; printf 123 | dd of=g bs=1 seek=5M conv=notrunc status=none; yes | head -c 100000 > h")
            expect(try mount.status("/f").st_blocks, is: 0)
            // Three bytes; once they are sealed, a chunk.
            #expect([1, 128].contains(try mount.status("/g").st_blocks))
            expect(try mount.status("/h").st_blocks, is: 196)
            expect(try mount.run("du -k f h"), is: "0\tf\n98\th\n")
        }
    }

    @Test func zeroingAndPunchingMakeZeros() async throws {
        try await MountedStore.with(memories: ["/f": "0123456789"]) { mount in
            try mount.withOpen("/f", O_RDWR) { file in
                try Linux.allocate(file, Linux.punchHole | Linux.keepSize, 2, 3)
                expect(try TestSupport.read(file, 20, at: 0), is: Array("01\0\0\056789".utf8))
                try Linux.allocate(file, Linux.zeroRange, 8, 4)
                expect(try TestSupport.read(file, 20, at: 0), is: Array("01\0\0\0567\0\0\0\0".utf8))
                try Linux.allocate(file, Linux.keepSize, 0, 1_000)
                #expect(throws: Errno(EINVAL)) { try Linux.allocate(file, 0, 0, 0) }
            }
            expect(try mount.size("/f"), is: 12)
        }
    }

    @Test func aRangeIsCopiedWithinAndAcrossFiles() async throws {
        try await MountedStore.with(memories: ["/a": String(repeating: "x", count: 90_000), "/b": "b"]) { mount in
            let from = try mount.open("/a", O_RDONLY)
            let to = try mount.open("/b", O_RDWR)
            defer {
                close(from)
                close(to)
            }
            var copied = 0
            while true {
                let count = try Linux.copyRange(from, to, 100_000)
                if count == 0 { break }
                copied += count
            }
            #expect(copied == 90_000)
            expect(try mount.size("/b"), is: 90_000)
        }
    }

    // MARK: Appending

    @Test func appendersInOneMountLoseNothing() async throws {
        try await MountedStore.with { mount in
            _ = try concurrently(
                (0..<4).map { place in
                    { @Sendable () throws -> Void in
                        try mount.withOpen("/log", O_WRONLY | O_CREAT | O_APPEND) { file in
                            for number in 0..<100 { try Files.write(Array("\(place) \(number)\n".utf8), to: file) }
                        }
                    }
                })
            let lines = try mount.read("/log").split(separator: "\n")
            #expect(lines.count == 400)
            #expect(Set(lines).count == 400)
        }
    }

    @Test func anAppendGoesToTheEndWhateverTheOffset() async throws {
        try await MountedStore.with(memories: ["/f": "abc"]) { mount in
            try mount.withOpen("/f", O_RDWR | O_APPEND) { file in
                try check(lseek(file, 0, SEEK_SET))
                try Files.write(Array("d".utf8), to: file)
                try mount.truncate("/f", 1)
                try Files.write(Array("e".utf8), to: file)
            }
            expect(try mount.read("/f"), is: "ae")
        }
    }

    // MARK: Mappings

    @Test func aMappingAndReadsAgree() async throws {
        try await MountedStore.with(memories: ["/f": String(repeating: "a", count: 8_192)]) { mount in
            try mount.withOpen("/f", O_RDWR) { file in
                let map = try #require(mmap(nil, 8_192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
                try TestSupport.write("X", to: file, at: 5_000)
                #expect(map.load(fromByteOffset: 5_000, as: UInt8.self) == UInt8(ascii: "X"))
                map.storeBytes(of: UInt8(ascii: "Y"), toByteOffset: 10, as: UInt8.self)
                expect(try TestSupport.read(file, 1, at: 10), is: [UInt8(ascii: "Y")])
                try check(msync(map, 8_192, Int32(MS_SYNC)))
                try check(munmap(map, 8_192))
            }
            let text = try mount.store.text("/f")
            #expect(text.filter { $0 != "a" } == "YX")
        }
    }

    // MARK: Limits

    @Test func aFileGrowsToItsLimitAndNoFurther() async throws {
        var policy = Policy()
        policy.maxBytesPerMemory = 10_000
        try await MountedStore.with(policy: policy) { mount in
            try mount.withOpen("/f", O_RDWR | O_CREAT) { file in
                let bytes = [UInt8](repeating: 1, count: 10_000)
                try Files.write(bytes, to: file)
                #expect(Glibc.write(file, bytes, 1) == -1 && errno == EFBIG)
                #expect(ftruncate(file, 10_001) == 0 || errno == EFBIG)
                expect(try TestSupport.read(file, 10_000, at: 0) == bytes, is: true)
            }
            // A working file is bound by the store's bytes only.
            try mount.write("/f~", [UInt8](repeating: 2, count: 20_000))
        }
    }

    @Test func theQuotaIsGivenBack() async throws {
        var policy = Policy()
        policy.maxBytes = 10_000
        try await MountedStore.with(policy: policy) { mount in
            try mount.write("/a", [UInt8](repeating: 1, count: 9_000))
            #expect(throws: Errno.diskQuotaExceeded) { try mount.write("/b", [UInt8](repeating: 1, count: 2_000)) }
            try mount.remove("/b")
            try mount.truncate("/a", 1_000)
            try mount.write("/b", [UInt8](repeating: 1, count: 9_000))
            try mount.remove("/a")
            try mount.append("/b", String(repeating: "x", count: 1_000))
        }
    }

    @Test func statfsTellsTheTruth() async throws {
        var policy = Policy()
        policy.maxBytes = 1 << 20
        policy.maxMemories = 100
        try await MountedStore.with(policy: policy) { mount in
            func statistics() throws -> statvfs {
                var answer = statvfs()
                try check(statvfs(mount.path, &answer))
                return answer
            }
            let before = try statistics()
            #expect(before.f_bavail * before.f_bsize == 1 << 20)
            #expect(before.f_namemax == 255)
            try mount.write("/f", [UInt8](repeating: 1, count: 512 << 10))
            let after = try statistics()
            #expect(after.f_bavail * after.f_bsize == 512 << 10)
            #expect(after.f_ffree == before.f_ffree - 1)
        }
    }

    @Test func theContractsRulesCanHoldForMounts() async throws {
        var policy = Policy()
        policy.contract = true
        try await MountedStore.with(policy: policy) { mount in
            try mount.write("/a.md", [UInt8](repeating: 65, count: 102_400))
            #expect(throws: Errno.fileTooLarge) { try mount.write("/b.md", [UInt8](repeating: 65, count: 102_401)) }
            #expect(throws: Errno.invalidArgument) { try mount.write("/e\u{301}", "not NFC") }
        }
    }
}
