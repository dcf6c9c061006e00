import Foundation
import Fuse
import Glibc
import TestSupport
import Testing

/// The daemon dies, its mounts do not: whoever works in them waits a moment and goes on.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct TakeOverTests {
        private static func mounted(_ body: (DaemonProcess, String) throws -> Void) throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let directory = "\(daemon.directory)/mnt"
                try check(mkdir(directory, 0o755))
                try daemon.output("mount", "notes", directory)
                try body(daemon, directory)
            }
        }

        /// Ends the serving process, and waits until another serves.
        private static func kill(_ daemon: DaemonProcess, _ signal: Int32 = SIGKILL) throws {
            let process = try daemon.servingProcess()
            try check(Glibc.kill(process, signal))
            #expect(daemon.notification() == "READY=1")
            #expect(try daemon.servingProcess() != process)
        }

        @Test func whatIsOpenStaysOpen() throws {
            try Self.mounted { daemon, directory in
                let appending = try check(open(directory + "/log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644))
                defer { close(appending) }
                let unlinked = try check(open(directory + "/gone", O_RDWR | O_CREAT | O_CLOEXEC, 0o644))
                defer { close(unlinked) }
                try Files.write(Array("still here".utf8), to: unlinked)
                try check(unlink(directory + "/gone"))
                try check(mkdir(directory + "/inside", 0o755))
                let inside = try check(open(directory + "/inside", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
                defer { close(inside) }
                let locked = try check(open(directory + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o644))
                defer { close(locked) }
                try check(flock(locked, LOCK_EX))
                for round in 1...5 {
                    try Files.write(Array("line \(round)\n".utf8), to: appending)
                    try Self.kill(daemon)
                    try Files.write(Array("and \(round)\n".utf8), to: appending)
                    try check(close(check(openat(inside, "in-\(round)", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644))))
                    var bytes = [UInt8](repeating: 0, count: 100)
                    let count = try check(pread(unlinked, &bytes, bytes.count, 0))
                    #expect(String(decoding: bytes[..<count], as: UTF8.self) == "still here")
                    let other = try check(open(directory + "/lock", O_RDWR | O_CLOEXEC))
                    #expect(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK)
                    close(other)
                    // An orphan that is still open outlives upkeep's look at it.
                    usleep(600_000)
                }
                let expected = (1...5).map { "line \($0)\nand \($0)\n" }.joined()
                #expect(try String(contentsOfFile: directory + "/log", encoding: .utf8) == expected)
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory + "/inside").count == 5)
            }
        }

        /// Writers that never stop, and a daemon that is killed again and again: no call fails, nothing is lost or done twice.
        @Test(.timeLimit(.minutes(3)), arguments: [SIGKILL, SIGHUP]) func nobodyNotices(_ signal: Int32) throws {
            try Self.mounted { daemon, directory in
                // However long it takes: under a sanitizer more files than a store has by default.
                try daemon.output("store", "set", "notes", "--max-memories", "1000000")
                let script = """
                    import os, sys, time
                    root, kind, stop = sys.argv[1], sys.argv[2], sys.argv[3]
                    n, worst = 0, 0.0
                    while not os.path.exists(stop):
                        begun = time.monotonic()
                        name = f"{root}/{kind}-{n}"
                        if kind == "append":
                            with open(f"{root}/log", "a") as f: f.write(f"{n}\\n")
                        elif kind == "create":
                            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                        elif kind == "rename":
                            with open(name, "x") as f: f.write(str(n))
                            os.rename(name, f"{root}/renamed-{n}")
                            os.link(f"{root}/renamed-{n}", f"{root}/second-{n}")
                            os.unlink(f"{root}/renamed-{n}")
                            if n > 50: os.unlink(f"{root}/second-{n - 50}")
                        else:
                            os.mkdir(name)
                            os.symlink("x", f"{name}/link")
                            os.truncate(os.open(f"{name}/f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), 3)
                            assert os.stat(f"{name}/f").st_size == 3
                            os.unlink(f"{name}/f"); os.unlink(f"{name}/link"); os.rmdir(name)
                            os.closerange(3, 100)
                        worst = max(worst, time.monotonic() - begun)
                        n += 1
                    print(n, int(worst * 1e6))
                    """
                try Data(script.utf8).write(to: URL(fileURLWithPath: daemon.directory + "/writer.py"))
                let stop = daemon.directory + "/stop"
                let kinds = ["append", "create", "rename", "directory"]
                let writers = try kinds.map {
                    try Program.start(
                        ["python3", daemon.directory + "/writer.py", directory, $0, stop], in: "/", scratch: daemon.directory)
                }
                let kills = ProcessInfo.processInfo.environment["REMFS_TAKEOVER_KILLS"].flatMap { Int($0) } ?? 20
                for _ in 0..<kills {
                    usleep(UInt32.random(in: 10_000...150_000))
                    try Self.kill(daemon, signal)
                }
                try Data().write(to: URL(fileURLWithPath: stop))
                var counts: [String: Int] = [:]
                for (kind, writer) in zip(kinds, writers) {
                    let numbers = try writer.success().split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
                    try #require(numbers.count == 2)
                    counts[kind] = numbers[0]
                    print("\(kind): \(numbers[0]) operations over \(kills) kills, the longest \(numbers[1]) us")
                    #expect(numbers[0] > kills)
                }
                let lines = try String(contentsOfFile: directory + "/log", encoding: .utf8).split(separator: "\n")
                #expect(lines.map(String.init) == (0..<(counts["append"] ?? 0)).map(String.init))
                let names = try FileManager.default.contentsOfDirectory(atPath: directory)
                #expect(names.count { $0.hasPrefix("create-") } == counts["create"])
                #expect(names.count { $0.hasPrefix("second-") } == min(51, counts["rename"] ?? 0))
                #expect(!names.contains { $0.hasPrefix("directory-") || $0.hasPrefix("rename-") || $0.hasPrefix("renamed-") })
            }
        }

        /// What a mount has seen is known to a successor that was told. After a crash it counts as having seen nothing, so nothing is stale.
        @Test(arguments: [(SIGHUP, true), (SIGKILL, false)]) func whatWasSeenIsHandedOver(_ signal: Int32, _ isStale: Bool) throws {
            try Self.mounted { daemon, directory in
                try daemon.output("memory", "write", "notes", "/a", input: "from elsewhere")
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "from elsewhere")
                try daemon.output("memory", "write", "notes", "/a", input: "and newer")
                try Self.kill(daemon, signal)
                try Program.start(["sh", "-c", "echo mine > a"], in: directory, scratch: daemon.directory).success()
                let versions = try #require(try daemon.remfs("log", "notes", "/a", "--json").json()["data"] as? [[String: Any]])
                #expect(versions.map { $0["stale"] as? Bool } == [isStale, false, false])
            }
        }

        /// The keeper alone dies: the daemon goes on, starts another, and that one does what it is for.
        private static func standby(_ daemon: DaemonProcess) throws -> pid_t {
            let (holder, serving) = (try #require(daemon.running).pid, try daemon.servingProcess())
            let deadline = ContinuousClock.now + .seconds(20)
            while ContinuousClock.now < deadline {
                let others = try DaemonProcess.children(of: holder).filter { $0 != serving }
                // It has the holder's program for a moment, before it is its own.
                if others.count == 1, (Files.text("/proc/\(others[0])/environ") ?? "").contains("REMFS_HOLDER=") { return others[0] }
                usleep(10_000)
            }
            return try #require(nil as pid_t?, "there is no standby")
        }

        /// A successor waits before it is needed, so that a pause does not begin with the start of a program.
        @Test func aSuccessorWaits() throws {
            try Self.mounted { daemon, directory in
                for round in 1...3 {
                    let standby = try Self.standby(daemon)
                    try Self.kill(daemon)
                    #expect(try daemon.servingProcess() == standby)
                    try Data("\(round)".utf8).write(to: URL(fileURLWithPath: directory + "/a"))
                }
                // Without one things go on as well.
                try check(Glibc.kill(try Self.standby(daemon), SIGKILL))
                usleep(100_000)
                try Self.kill(daemon)
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "3")
                _ = try Self.standby(daemon)
                let holder = try #require(daemon.running).pid
                let children = try DaemonProcess.children(of: holder)
                #expect(try daemon.stop().status == 0)
                for child in children { #expect(Glibc.kill(child, 0) == -1, "nobody is left behind") }
            }
        }

        /// What the holder keeps for a successor may come from another remfs: that mount ends, with a reason, and no other.
        @Test(arguments: ["newer", "nonsense"]) func whatWasLeftMayNotBeUnderstood(_ kind: String) throws {
            try Self.mounted { daemon, directory in
                let other = "\(daemon.directory)/other"
                try check(mkdir(other, 0o755))
                try daemon.output("mount", "notes", other)
                try Data("kept".utf8).write(to: URL(fileURLWithPath: directory + "/a"))
                let memory = try Self.memory(of: directory, keptBy: #require(daemon.running).pid)
                defer { close(memory.descriptor) }
                var left = try #require(JSONSerialization.jsonObject(with: Data(memory.read() ?? [])) as? [String: Any])
                left["format"] = 99
                #expect(memory.write(kind == "newer" ? Array(try JSONSerialization.data(withJSONObject: left)) : [1, 2, 3]) == 0)
                try Self.kill(daemon)
                #expect(try String(contentsOfFile: other + "/a", encoding: .utf8) == "kept")
                // What nobody goes on with is cleared away.
                #expect(access(directory + "/a", F_OK) == -1 && errno == ENOENT)
                let errors = try #require(daemon.running).errors
                #expect(errors.contains(kind == "newer" ? "format 99" : "not understood"), "\(errors)")
                try daemon.output("mount", "notes", directory)
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "kept")
                try Self.kill(daemon)
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "kept")
            }
        }

        /// What a holder keeps for a successor of the mount at `directory`.
        private static func memory(of directory: String, keptBy holder: Int32) throws -> FuseHoldMemory {
            for number in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(holder)/fd") {
                let path = "/proc/\(holder)/fd/\(number)"
                // One may be closed meanwhile.
                guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path), target.contains("remfs-mount") else {
                    continue
                }
                let memory = FuseHoldMemory(try check(open(path, O_RDWR | O_CLOEXEC)))
                let left = try JSONSerialization.jsonObject(with: Data(memory.read() ?? [])) as? [String: Any]
                if left?["directory"] as? String == directory { return memory }
                close(memory.descriptor)
            }
            return try #require(nil, "the holder keeps nothing of \(directory)")
        }

        @Test func theHolderMayDie() throws {
            try Self.mounted { daemon, directory in
                try Data("kept".utf8).write(to: URL(fileURLWithPath: directory + "/a"))
                let serving = try daemon.servingProcess()
                let holder = try #require(daemon.running).pid
                try check(Glibc.kill(holder, SIGKILL))
                let deadline = ContinuousClock.now + .seconds(20)
                var successor: pid_t?
                while successor == nil, ContinuousClock.now < deadline {
                    successor = try DaemonProcess.children(of: serving).first
                    usleep(10_000)
                }
                let next = try #require(successor)
                defer { Glibc.kill(next, SIGTERM) }
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "kept")
                usleep(300_000)
                try check(Glibc.kill(serving, SIGKILL))
                #expect(daemon.notification() == "READY=1")
                #expect(try String(contentsOfFile: directory + "/a", encoding: .utf8) == "kept")
                try check(Glibc.kill(next, SIGTERM))
                #expect(daemon.notification() == "STOPPING=1")
                while DaemonProcess.mounts(below: daemon.directory).isEmpty == false, ContinuousClock.now < deadline { usleep(10_000) }
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(daemon.running?.errors.contains("unavailable") == false, "who only waited goes without a word")
            }
        }
    }
}
