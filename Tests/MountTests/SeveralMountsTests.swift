import Filesystem
import Glibc
import Storage
import TestSupport
import Testing
import Threads

/// Mounts of one store, and the API beside them: what one side commits, the others drop from their caches.
@Suite(.needsFuse)
struct SeveralMountsTests {
    /// Two mounts that have listed, looked up and read everything, so that all of it is in the kernel's caches.
    private func withWarmMounts(
        _ memories: [String: String], _ options: MountOptions = MountOptions(), _ body: (MountedStore, MountedStore) throws -> Void
    ) async throws {
        try await MountedStore.with(mounts: 2, memories: memories, options) { mounts in
            for mount in mounts {
                try mount.run("ls -lR > /dev/null; find . -type f -exec cat {} + > /dev/null; ! cat missing 2> /dev/null")
            }
            try body(mounts[0], mounts[1])
        }
    }

    // MARK: Invalidation

    @Test(arguments: [
        ("echo new > f", "new\n"), ("echo more >> f", "old\nmore\n"), ("printf X | dd of=f conv=notrunc status=none", "Xld\n"),
        ("truncate -s 2 f", "ol"), ("echo new > t; mv t f", "new\n"), ("sed -i s/old/new/ f", "new\n"), ("rm f; echo new > f", "new\n"),
        ("fallocate -p -o 1 -l 2 f", "o\0\0\n"), ("cp --reflink=never g f", "other\n"),
        ("python3 -c 'import os; a = os.open(\"g\", 0); b = os.open(\"f\", 2); os.copy_file_range(a, b, 3)'", "oth\n"),
    ]) func contentThatWasReadIsReadAgain(_ script: String, _ content: String) async throws {
        try await withWarmMounts(["/f": "old\n", "/g": "other\n"]) { one, two in
            try one.run(script + "; sync f")
            expect(try two.read("/f"), is: content)
            expect(try two.size("/f"), is: content.utf8.count)
            expect(try one.read("/f"), is: content)
        }
    }

    @Test func aFileThatIsOpenShowsNewContent() async throws {
        try await withWarmMounts(["/f": "old"]) { one, two in
            try two.withOpen("/f", O_RDONLY) { file in
                expect(try TestSupport.read(file, 10, at: 0), is: Array("old".utf8))
                try one.withOpen("/f", O_WRONLY | O_TRUNC) { other in
                    try TestSupport.write("newer", to: other, at: 0)
                    try check(fsync(other))
                }
                expect(try TestSupport.read(file, 10, at: 0), is: Array("newer".utf8))
            }
        }
    }

    @Test func namesComeGoAndMove() async throws {
        try await withWarmMounts(["/f": "1", "/d/g": "2"]) { one, two in
            #expect(throws: Errno.noSuchFile) { try two.read("/missing") }
            try one.run("echo here > missing; mkdir e; sync .")
            expect(try two.read("/missing"), is: "here\n")
            expect(try two.names(), is: ["d", "e", "f", "missing"])
            try one.run("rm missing; rmdir e; mv f d/f; sync .")
            #expect(throws: Errno.noSuchFile) { try two.read("/missing") }
            #expect(throws: Errno.noSuchFile) { try two.names("/e") }
            #expect(throws: Errno.noSuchFile) { try two.read("/f") }
            expect(try two.read("/d/f"), is: "1")
            expect(try two.names("/d"), is: ["f", "g"])
            try one.run("mv d x; ln x/f h; ln -s h s; sync .")
            expect(try two.names(), is: ["h", "s", "x"])
            expect(try two.read("/s"), is: "1")
            expect(try two.status("/x/f").st_nlink, is: 2)
        }
    }

    @Test func attributesFollow() async throws {
        try await withWarmMounts(["/f": "1"]) { one, two in
            try one.run("chmod 640 f; chown 5:6 f; touch -d @1234567890.5 f; sync f")
            let status = try two.status("/f")
            #expect(status.st_mode & 0o777 == 0o640)
            #expect(status.st_uid == 5)
            #expect(status.st_gid == 6)
            #expect(status.st_mtim.tv_sec == 1_234_567_890)
            #expect(status.st_mtim.tv_nsec == 500_000_000)
        }
    }

    /// Without fsync nobody waits, but it arrives.
    @Test func withoutFsyncItArrivesSoon() async throws {
        try await withWarmMounts(["/f": "0"]) { one, two in
            for number in 1...100 {
                try one.write("/f", "\(number)")
                try wait { try two.read("/f") == "\(number)" }
            }
        }
    }

    /// A name is told to another kernel within a millisecond. Who opens it sooner is made to look again, and does not write into a file
    /// that has no name any more.
    @Test func aWriteThatComesBeforeTheNewsOfARenameIsNotLost() async throws {
        try await withWarmMounts(["/f": "0"]) { one, two in
            for number in 1...100 {
                try two.write("/t", "two \(number)")
                try two.rename("/t", "/f")
                try one.write("/f", "one \(number)")
                expect(try one.store.text("/f"), is: "one \(number)")
            }
        }
    }

    /// Both make the file at once, as two sessions do that begin a log: one of them makes it, the other opens it.
    @Test func whoMakesWhatAnotherMountMadeAMomentAgoOpensIt() async throws {
        try await withWarmMounts([:]) { one, two in
            let rounds = 300
            let arrived = Mutex(0)
            let outcomes = try concurrently(
                [one, two].map { mount in
                    { @Sendable in
                        var made = 0
                        for round in 0..<rounds {
                            arrived.withLock { $0 += 1 }
                            while arrived.withLock({ $0 }) < 2 * (round + 1) { sched_yield() }
                            try mount.withOpen("/log-\(round)", O_WRONLY | O_CREAT | O_APPEND) { try Files.write([120], to: $0) }
                            // Who wants to be the one that made it hears the truth.
                            do {
                                close(try mount.open("/own-\(round)", O_WRONLY | O_CREAT | O_EXCL))
                                made += 1
                            } catch let error as Errno where error == .fileExists {
                                // The other did.
                            }
                        }
                        return made
                    }
                })
            #expect(outcomes.reduce(0, +) == rounds)
            for mount in [one, two] { try mount.run("sync .") }
            for round in 0..<rounds { expect(try two.read("/log-\(round)"), is: "xx") }
        }
    }

    @Test func otherFilesStayCached() async throws {
        try await withWarmMounts(["/f": "1", "/g": "2", "/d/h": "3"]) { one, two in
            for _ in 0..<2 { try two.run("cat g d/h > /dev/null") }
            try one.run("echo new > f; sync f")
            let requests = try two.requests { try two.run("cat g d/h > /dev/null") }
            // The directory has changed by nothing: f was there before.
            #expect(requests["read"] == nil)
            #expect(requests["lookup"] == nil)
        }
    }

    @Test func theAPIIsHeardWhenItsCallHasReturned() async throws {
        try await withWarmMounts(["/f": "0", "/d/g": "x"]) { one, two in
            let author = Author(.local)
            for number in 1...30 {
                try one.store.update("/f", "\(number)")
                for mount in [one, two] { expect(try mount.read("/f"), is: "\(number)") }
            }
            try one.store.add(["/missing": "here", "/new/deep": "1"])
            for mount in [one, two] {
                expect(try mount.read("/missing"), is: "here")
                expect(try mount.names(), is: ["d", "f", "missing", "new"])
            }
            _ = try one.store.commit(.update(one.id("/f"), content: nil, path: MemoryPath("/d/f")), by: author)
            for mount in [one, two] {
                #expect(throws: Errno.noSuchFile) { try mount.read("/f") }
                expect(try mount.read("/d/f"), is: "30")
            }
            _ = try one.store.commit(.delete(one.id("/d/f")), by: author)
            for mount in [one, two] {
                #expect(throws: Errno.noSuchFile) { try mount.read("/d/f") }
                expect(try mount.names("/d"), is: ["g"])
            }
        }
    }

    @Test func twoMountsThatChangeTheSameDirectoryDoNotWaitForEachOther() async throws {
        try await withWarmMounts(["/d/f": "0"]) { one, two in
            _ = try concurrently(
                [one, two].enumerated().map { place, mount in
                    { @Sendable () throws -> Void in
                        for number in 0..<150 {
                            let name = "/d/\(place)-\(number)"
                            try mount.write(name, name)
                            try mount.rename(name, name + "x")
                            try mount.write("/d/f", name)
                            _ = try mount.read("/d/f")
                            if number % 3 == 0 { try mount.remove(name + "x") }
                        }
                    }
                })
            try one.run("sync .")
            expect(try one.names("/d"), is: try two.names("/d"))
            expect(try one.names("/d").count, is: 201)
            expect(try one.read("/d/f"), is: try two.read("/d/f"))
        }
    }

    // MARK: Appending

    @Test(arguments: [MountOptions.Coherence.relaxed, .strict]) func appendsFromTwoMountsLoseNothing(_ coherence: MountOptions.Coherence)
        async throws
    {
        var options = MountOptions()
        options.coherence = coherence
        try await MountedStore.with(mounts: 2, memories: ["/log": ""], options) { mounts in
            let programs = try mounts.enumerated().map { place, mount in
                try mount.start("for i in $(seq 200); do echo \(place) $i >> log; done")
            }
            for program in programs { try program.success() }
            // Where OPEN is answered, RELEASE follows the close, and nobody waits for it.
            try wait { try mounts[0].store.text("/log").utf8.count == 2 * (9 * 4 + 90 * 5 + 101 * 6) }
            let lines = try mounts[0].store.text("/log").split(separator: "\n").map(String.init)
            for place in 0..<2 {
                #expect(lines.filter { $0.hasPrefix("\(place) ") } == (1...200).map { "\(place) \($0)" })
            }
            #expect(lines.count == 400)
            try mounts[0].run("sync log")
            for mount in mounts { expect(try mount.read("/log").split(separator: "\n").count, is: 400) }
        }
    }

    // MARK: Stale writes

    @Test func aStaleWriteCanBeRefused() async throws {
        var refusing = MountOptions()
        refusing.onStaleWrite = .refuse
        try await MountedStore.with(mounts: [refusing, MountOptions()], memories: ["/f": "a", "/g": "g"]) { mounts in
            expect(try mounts[0].read("/f"), is: "a")
            try mounts[1].write("/f", "b")
            #expect(throws: Errno.stale) { try mounts[0].write("/f", "c") }
            try mounts[0].write("/t", "c")
            #expect(throws: Errno.stale) { try mounts[0].rename("/t", "/f") }
            expect(try mounts[0].store.text("/f"), is: "b")
            // Under refuse, who never read it does not know what it replaces.
            #expect(throws: Errno.stale) { try mounts[0].write("/g", "c") }
            try mounts[0].append("/g", "+")
            // Whoever reads it, knows it.
            expect(try mounts[0].read("/f"), is: "b")
            try mounts[0].write("/f", "c")
            try mounts[0].rename("/t", "/f")
            expect(try mounts[0].versions().filter(\.isStale).count, is: 0)
        }
    }

    @Test func whoReadsBeforeTheSealCanWriteUnderRefuse() async throws {
        var refusing = MountOptions()
        refusing.onStaleWrite = .refuse
        try await MountedStore.with(mounts: 2, memories: ["/f": "0"], refusing) { mounts in
            for number in 1...40 {
                let mount = mounts[number % 2]
                try wait { try mount.read("/f") == "\(number - 1)" }
                try mount.write("/f", "\(number)")
            }
            expect(try mounts[0].versions("/f").count, is: 40)
        }
    }

    // MARK: Strict coherence

    @Test func whenCloseHasReturnedEveryMountSeesTheBytes() async throws {
        var strict = MountOptions()
        strict.coherence = .strict
        try await withWarmMounts(["/f": "0"], strict) { one, two in
            for number in 1...100 {
                let (writer, reader) = number % 2 == 0 ? (one, two) : (two, one)
                try writer.write("/f", "\(number)")
                expect(try reader.read("/f"), is: "\(number)")
            }
        }
    }

    /// RELEASE comes after `close` has returned: it ends its own save, not the next one.
    @Test func eachSaveIsOneVersionHoweverCloseTheNext() async throws {
        var strict = MountOptions()
        strict.coherence = .strict
        try await MountedStore.with(memories: ["/f": "0"], strict) { mount in
            for number in 1...200 { try mount.write("/f", "\(number)") }
            expect(try mount.history(), is: (1...200).map { "modified /f #1: \($0)..." })
        }
    }

    /// Also a RELEASE that has to wait for the store, which the writers of other files keep busy.
    @Test func eachSaveIsOneVersionHoweverBusyTheStore() async throws {
        var strict = MountOptions()
        strict.coherence = .strict
        let files = (1...4).map { "/f\($0)" }
        try await MountedStore.with(memories: Dictionary(uniqueKeysWithValues: files.map { ($0, "0") }), strict) { mount in
            _ = try concurrently(
                files.map { file in
                    { @Sendable () throws -> Void in
                        for number in 1...100 { try mount.write(file, "\(number)") }
                    }
                })
            let history = try mount.history()
            for (place, file) in files.enumerated() {
                expect(history.filter { $0.contains(file) }, is: (1...100).map { "modified \(file) #\(place + 1): \($0)..." })
            }
        }
    }

    @Test func locksHoldBetweenStrictMounts() async throws {
        var strict = MountOptions()
        strict.coherence = .strict
        try await MountedStore.with(mounts: 2, memories: ["/f": "0"], strict) { mounts in
            let file = try mounts[0].open("/f", O_RDWR)
            try check(flock(file, LOCK_EX))
            let refused = try mounts[1].start("flock -n f true")
            expect(try refused.wait().status, is: 1)
            let waiting = try mounts[1].start("touch ready~; flock f echo got")
            try wait { try mounts[0].exists("/ready~") }
            #expect(waiting.output == "")
            close(file)
            expect(try waiting.success(), is: "got\n")
            let script = """
                import fcntl, sys
                f = open("f", "r+"); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
                """
            var lock = flock(l_type: Int16(F_WRLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 5, l_pid: 0)
            try mounts[0].withOpen("/f", O_RDWR) { file in
                try check(fcntl(file, F_SETLK, &lock))
                expect(try mounts[1].start("python3 -c '\(script)' 2> /dev/null").wait().status, is: 1)
            }
            expect(try mounts[1].start("python3 -c '\(script)'").wait().status, is: 0)
        }
    }

    /// Two sessions that count in one file, each under the lock.
    @Test func aCounterUnderALockLosesNoStep() async throws {
        var strict = MountOptions()
        strict.coherence = .strict
        try await MountedStore.with(mounts: 2, memories: ["/n": "0\n"], strict) { mounts in
            let step = "for i in $(seq 25); do flock lock~ bash -c 'n=$(cat n); echo $((n + 1)) > n'; done"
            let programs = try mounts.map { try $0.start("touch lock~; \(step)") }
            for program in programs { try program.success() }
            expect(try mounts[0].store.text("/n"), is: "50\n")
        }
    }

    // MARK: Read-only

    @Test func aMountIsSwitchedWhileItIsLive() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a"]) { mounts in
            let (one, two) = (mounts[0], mounts[1])
            _ = try one.daemon.table.setAccess(one.mount, .readOnly)
            #expect(throws: Errno.readOnlyFileSystem) { try one.write("/f", "b") }
            #expect(throws: Errno.readOnlyFileSystem) { try one.makeDirectory("/d") }
            try two.write("/f", "b")
            _ = try one.daemon.table.setAccess(one.mount, .readWrite)
            try one.write("/f", "c")
            expect(try one.store.text("/f"), is: "c")
        }
    }

    @Test func anOpenWriterIsRefusedAtItsNextWrite() async throws {
        try await MountedStore.with(memories: ["/f": "a"]) { mount in
            try mount.withOpen("/f", O_RDWR) { file in
                try TestSupport.write("b", to: file, at: 0)
                _ = try mount.daemon.table.setAccess(mount.mount, .readOnly)
                #expect(pwrite(file, "c", 1, 0) == -1 && errno == EROFS)
                #expect(ftruncate(file, 0) == -1 && errno == EROFS)
                expect(try TestSupport.read(file, 9, at: 0), is: [UInt8(ascii: "b")])
                _ = try mount.daemon.table.setAccess(mount.mount, .readWrite)
                try TestSupport.write("d", to: file, at: 0)
                _ = try mount.daemon.table.setAccess(mount.mount, .readOnly)
            }
            // With the last writer gone, the kernel itself says so.
            try wait {
                var statistics = statvfs()
                try check(statvfs(mount.path, &statistics))
                return statistics.f_flag & UInt(ST_RDONLY) != 0
            }
            expect(try mount.store.text("/f"), is: "d")
        }
    }

    /// What a mapping holds and the store refuses is not left in the page cache for others to read.
    @Test func aRefusedWriteLeavesNothingBehind() async throws {
        try await MountedStore.with(memories: ["/f": "abc"]) { mount in
            try mount.withOpen("/f", O_RDWR) { file in
                let map = try #require(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
                defer { munmap(map, 4096) }
                map.storeBytes(of: UInt8(ascii: "X"), as: UInt8.self)
                _ = try mount.daemon.table.setAccess(mount.mount, .readOnly)
                #expect(msync(map, 4096, Int32(MS_SYNC)) == -1)
                try wait { try mount.read("/f") == "abc" }
            }
            expect(try mount.history(), is: [])
        }
    }

    @Test func aStoresOwnRuleHoldsForEveryMount() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "a"]) { mounts in
            let (daemon, id) = (mounts[0].daemon, mounts[0].store.id)
            var policy = Policy()
            policy.access = .readOnly
            _ = try daemon.pool.setPolicy(id, policy)
            for mount in mounts { #expect(throws: Errno.readOnlyFileSystem) { try mount.write("/f", "b") } }
            policy.access = .readWrite
            _ = try daemon.pool.setPolicy(id, policy)
            for mount in mounts { try mount.write("/f", "b") }
            _ = try daemon.pool.archiveStore(id)
            for mount in mounts {
                #expect(throws: Errno.readOnlyFileSystem) { try mount.write("/f", "c") }
                #expect(throws: Errno.readOnlyFileSystem) { try mount.remove("/f") }
                expect(try mount.read("/f"), is: "b")
            }
        }
    }

    @Test func aMountOfADeletedStoreIsStale() async throws {
        try await MountedStore.with(memories: ["/f": "a"]) { mount in
            try mount.daemon.pool.deleteStore(mount.store.id)
            #expect(throws: Errno.stale) { try mount.write("/new", "b") }
        }
    }
}
