import Foundation
import Glibc
import TestSupport
import Testing

/// One daemon and very many mounts.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct ManyMountsTests {
        /// 1,000 are what a daemon is made for; the short form takes as many as are done in a few seconds.
        private static let count = ProcessInfo.processInfo.environment["REMFS_TEST_MOUNTS"].flatMap { Int($0) } ?? 100
        /// Who work at the same time while the daemon is killed.
        private static let busy = min(100, count)

        private struct Figures {
            let threads: Int
            /// In kB.
            let memory: Int
            let descriptors: Int

            init(_ process: pid_t) throws {
                let status = try #require(Files.text("/proc/\(process)/status"))
                func number(_ key: String) throws -> Int {
                    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix(key + ":") })
                    return try #require(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) })
                }
                threads = try number("Threads")
                memory = try number("VmRSS")
                descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/fd").count
            }
        }

        private static func seconds(_ body: () throws -> Void) rethrows -> Double {
            let begun = ContinuousClock.now
            try body()
            return (ContinuousClock.now - begun) / .seconds(1)
        }

        /// Makes stores and mounts each; answers their IDs.
        private static func mount(_ daemon: DaemonProcess, _ count: Int) throws -> (stores: [String], seconds: Double) {
            let stores = try (0..<count).map { number in
                let answer = try daemon.http("POST", "/v1/memory_stores", "{\"name\": \"store-\(number)\"}")
                return try #require(try answer.json()["id"] as? String)
            }
            for number in 0..<count { try check(mkdir("\(daemon.directory)/m\(number)", 0o755)) }
            let (socket, directory) = (daemon.socket, daemon.directory)
            // As programs that start agents do: several at once.
            let clients: [@Sendable () throws -> Void] = (0..<4).map { client in
                {
                    for number in stride(from: client, to: count, by: 4) {
                        let body = "{\"memory_store_id\": \"\(stores[number])\", \"directory\": \"\(directory)/m\(number)\"}"
                        let answer = try DaemonProcess.http(over: socket, "POST", "/v1/mounts", body)
                        try #require(answer.status == 200, "\(String(decoding: answer.body, as: UTF8.self))")
                    }
                }
            }
            return (stores, try seconds { _ = try concurrently(clients) })
        }

        /// A line in a file of each mount, over and over, by 100 threads of one program: the daemon's pauses are all that can go wrong.
        private static let script = """
            import os, sys, threading, time
            root, count = sys.argv[1], int(sys.argv[2])
            longest, lines = [0.0] * count, [0] * count
            def work(place):
                directory = f"{root}/m{place}"
                file = os.open(f"{directory}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                while not os.path.exists(f"{root}/stop"):
                    begun = time.monotonic()
                    assert os.write(file, b"%d\\n" % lines[place]) > 0
                    name = f"{directory}/f{lines[place]}"
                    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                    os.rename(name, name + "-moved")
                    os.unlink(name + "-moved")
                    longest[place] = max(longest[place], time.monotonic() - begun)
                    lines[place] += 1
                os.close(file)
            def guarded(place):
                try: work(place)
                except BaseException as error:
                    print(place, repr(error), file=sys.stderr)
                    os._exit(1)
            threads = [threading.Thread(target=guarded, args=(place,)) for place in range(count)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print(*lines)
            print(max(longest))
            """

        @Test(.timeLimit(.minutes(10))) func oneDaemonServesThemAll() throws {
            try DaemonProcess.with { daemon in
                let (count, busy) = (Self.count, Self.busy)
                let before = try Figures(try daemon.servingProcess())
                let (stores, mounting) = try Self.mount(daemon, count)
                #expect(DaemonProcess.mounts(below: daemon.directory).count == count)
                print("\(count) mounts in \(mounting) s")
                #expect(mounting < 5 * max(1, Double(count) / 1_000))
                for number in 0..<count {
                    try Data("\(number)".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/m\(number)/a"))
                }
                let after = try Figures(try daemon.servingProcess())
                let holder = try Figures(try #require(daemon.running).pid)
                print(
                    """
                    threads \(before.threads) without mounts, \(after.threads) with \(count); for each mount \
                    \((after.memory - before.memory) / count) kB and \((after.descriptors - before.descriptors) / count) descriptors, \
                    and \(holder.descriptors / count) of the holder, which takes \(holder.memory) kB
                    """)
                #expect(after.threads <= before.threads + 4, "threads are not made for mounts")
                // What is refused for want of descriptors counts with twelve for each.
                #expect(after.descriptors - before.descriptors <= 12 * count)
                for (number, store) in stores.enumerated() {
                    let versions = try daemon.http("GET", "/v1/memory_stores/\(store)/memory_versions").data()
                    #expect(versions.map { $0["path"] as? String } == ["/a"], "mount \(number)")
                    #expect(versions.map { $0["operation"] as? String } == ["created"], "mount \(number)")
                }

                if count == 1_000 {
                    let directory = "\(daemon.directory)/one-too-many"
                    try check(mkdir(directory, 0o755))
                    let refused = try daemon.remfs("mount", stores[0], directory)
                    #expect(refused.status == 69 && refused.errors.contains("has 1000 mounts"), "\(refused.errors)")
                }

                try Data(Self.script.utf8).write(to: URL(fileURLWithPath: daemon.directory + "/busy.py"))
                let workers = try Program.start(
                    ["python3", daemon.directory + "/busy.py", daemon.directory, "\(busy)"], in: "/", scratch: daemon.directory)
                var pauses: [Double] = []
                for signal in [SIGKILL, SIGKILL, SIGHUP, SIGKILL] {
                    usleep(500_000)
                    let process = try daemon.servingProcess()
                    try check(kill(process, signal))
                    pauses.append(Self.seconds { #expect(daemon.notification() == "READY=1") })
                    #expect(try daemon.servingProcess() != process)
                }
                usleep(500_000)
                try Data().write(to: URL(fileURLWithPath: daemon.directory + "/stop"))
                let said = try workers.success().split(separator: "\n")
                try #require(said.count == 2)
                print("\(busy) busy; until all \(count) are served: \(pauses) s; the longest operation \(said[1]) s")
                for (place, lines) in said[0].split(separator: " ").compactMap({ Int($0) }).enumerated() {
                    #expect(lines > 0)
                    let log = try String(contentsOfFile: "\(daemon.directory)/m\(place)/log", encoding: .utf8)
                    #expect(log.split(separator: "\n").map(String.init) == (0..<lines).map(String.init), "mount \(place)")
                }
                for number in 0..<count {
                    #expect(try String(contentsOfFile: "\(daemon.directory)/m\(number)/a", encoding: .utf8) == "\(number)")
                }
                let settled = try Figures(try daemon.servingProcess())
                #expect(settled.descriptors <= after.descriptors + 4 * count, "what a successor has, its predecessor had")

                let started = try #require(daemon.running).pid
                let processes = [started] + (try DaemonProcess.children(of: started))
                let stopping = try Self.seconds {
                    let result = try daemon.stop()
                    #expect(result.status == 0, "\(result.errors)")
                }
                print("stopped in \(stopping) s")
                // systemd is told to wait for 90 s.
                #expect(stopping < 60)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                for process in processes { #expect(kill(process, 0) == -1 && errno == ESRCH, "a process is left") }
                #expect(access(daemon.socket, F_OK) != 0)
                #expect(Files.text("/proc/net/unix")?.contains(daemon.socket) == false)
                for number in 0..<count {
                    #expect(try FileManager.default.contentsOfDirectory(atPath: "\(daemon.directory)/m\(number)").isEmpty)
                }
                // With the last descriptor its locks go.
                try daemon.start()
                #expect(try daemon.http("GET", "/v1/mounts").data().isEmpty)
                #expect(try daemon.stop().status == 0)
            }
        }

        // MARK: - Descriptors

        /// The soft and the hard limit.
        private static func limit(of process: pid_t) throws -> [Int] {
            let line = try #require(Files.text("/proc/\(process)/limits")?.split(separator: "\n").first { $0.hasPrefix("Max open files") })
            return line.dropFirst("Max open files".count).split(separator: " ").compactMap { Int($0) }
        }

        /// A limit that is too low is said at the start, a mount that would not fit is refused before it harms another, and what is mounted
        /// outlives the daemon as ever.
        @Test(.timeLimit(.minutes(3))) func aLowLimitIsSaid() throws {
            try DaemonProcess.prepared { daemon in
                try daemon.start(through: ["prlimit", "--nofile=100:256"])
                let holder = try #require(daemon.running).pid
                for process in [holder, try daemon.servingProcess()] { #expect(try Self.limit(of: process) == [256, 256]) }
                #expect(daemon.running?.errors.contains(/limit=256 .*few file descriptors/) == true, "\(daemon.running?.errors ?? "")")
                var mounted = 0
                var refusal: Binary.Result?
                while refusal == nil, mounted < 200 {
                    try daemon.output("store", "create", "s\(mounted)")
                    let directory = "\(daemon.directory)/m\(mounted)"
                    try check(mkdir(directory, 0o755))
                    let result = try daemon.remfs("mount", "s\(mounted)", directory)
                    if result.status == 0 {
                        try Data("kept".utf8).write(to: URL(fileURLWithPath: directory + "/a"))
                        mounted += 1
                    } else {
                        refusal = result
                    }
                }
                // More than the soft limit would have allowed.
                #expect(mounted >= 8)
                #expect(refusal?.status == 69)
                let text = refusal?.errors ?? ""
                for part in ["file descriptors", "is 256", "a mount needs", "LimitNOFILE", "ulimit -n"] {
                    #expect(text.contains(part), "\(text)")
                }
                for _ in 1...3 {
                    let process = try daemon.servingProcess()
                    try check(kill(process, SIGKILL))
                    #expect(daemon.notification() == "READY=1")
                    for number in 0..<mounted {
                        let path = "\(daemon.directory)/m\(number)/a"
                        #expect(try String(contentsOfFile: path, encoding: .utf8) == "kept")
                        try Data("kept".utf8).write(to: URL(fileURLWithPath: path))
                    }
                }
                let result = try daemon.stop()
                #expect(result.status == 0)
                #expect(!result.errors.contains("cannot") && !result.errors.contains("lost"), "\(result.errors)")
            }
        }

        /// The holder keeps nothing beyond its limit, and says so: what is mounted then ends with the daemon, and nothing else does.
        @Test(.timeLimit(.minutes(3))) func aHolderWithoutRoomSaysSo() throws {
            try DaemonProcess.with { daemon in
                for name in ["first", "second"] {
                    try daemon.output("store", "create", name)
                    try check(mkdir("\(daemon.directory)/\(name)", 0o755))
                }
                try daemon.output("mount", "first", "\(daemon.directory)/first")
                let holder = try #require(daemon.running).pid
                // Descriptors that are there stay; the next is one too many.
                let open = Set(try FileManager.default.contentsOfDirectory(atPath: "/proc/\(holder)/fd").compactMap { Int($0) })
                let free = try #require((0...).first { !open.contains($0) })
                try Program.start(
                    ["prlimit", "--pid", "\(holder)", "--nofile=\(free):20000"], in: "/", scratch: daemon.directory
                ).success()
                try daemon.output("mount", "second", "\(daemon.directory)/second")
                try Data("here".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/second/a"))
                let deadline = ContinuousClock.now + .seconds(20)
                while daemon.running?.errors.contains("no file descriptors left to keep a mount") == false, ContinuousClock.now < deadline {
                    usleep(10_000)
                }
                #expect(daemon.running?.errors.contains(/limit=\d+ .*no file descriptors left to keep a mount/) == true)
                #expect(try String(contentsOfFile: "\(daemon.directory)/second/a", encoding: .utf8) == "here")
                try Program.start(
                    ["prlimit", "--pid", "\(holder)", "--nofile=20000:20000"], in: "/", scratch: daemon.directory
                ).success()
                try Data("kept".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/first/a"))
                try check(kill(try daemon.servingProcess(), SIGKILL))
                #expect(daemon.notification() == "READY=1")
                #expect(try String(contentsOfFile: "\(daemon.directory)/first/a", encoding: .utf8) == "kept")
                // Nobody had it: the successor has cleared it away.
                #expect(DaemonProcess.mounts(below: daemon.directory) == ["\(daemon.directory)/first"])
                #expect(try daemon.stop().status == 0)
            }
        }
    }
}
