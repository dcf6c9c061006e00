import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// The daemon is killed again and again under programs that work in its mounts: no call fails, nothing is lost or done twice, and nobody
/// waits for long.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .timeLimit(.minutes(60))) struct KillTests {
        /// REMFS_TAKEOVER_KILLS asks for more, and REMFS_TAKEOVER_MEMORIES for a store that has more in it.
        static let kills = number("REMFS_TAKEOVER_KILLS") ?? 20
        private static let memories = number("REMFS_TAKEOVER_MEMORIES") ?? 200

        private static func number(_ variable: String) -> Int? { ProcessInfo.processInfo.environment[variable].flatMap { Int($0) } }

        enum Kill: CaseIterable { case anywhere, beforeTransaction, beforeCommit, afterCommit, afterReply }

        private static func now() -> Double {
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
        }

        /// A daemon with a store of some size, mounted once and as often again as is asked for.
        static func mounted(
            mounts: Int = 1, memories: Int = 0, options: [String] = [], environment: [String: String] = [:], program: String = Binary.path,
            _ body: (DaemonProcess, [String], Faults) throws -> Void
        ) throws {
            try DaemonProcess.prepared { daemon in
                let faults = try Faults(daemon.directory + "/faults")
                try daemon.start(environment: faults.environment.merging(environment) { $1 }, program: program)
                try daemon.output("store", "create", "notes")
                try daemon.output("store", "set", "notes", "--max-memories", "1000000")
                let directories = (0..<mounts).map { "\(daemon.directory)/mnt\($0)" }
                for directory in directories {
                    try check(mkdir(directory, 0o755))
                    let result = try Binary.run(["mount", "notes", directory] + options, environment: daemon.environment)
                    try #require(result.status == 0, "\(result.errors)")
                }
                if memories > 0 { try check(mkdir(directories[0] + "/many", 0o755)) }
                for number in 0..<memories {
                    let file = try check(open("\(directories[0])/many/\(number)", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644))
                    defer { close(file) }
                    try Files.write(Array(String(repeating: "memory \(number)\n", count: 20).utf8), to: file)
                }
                try body(daemon, directories, faults)
            }
        }

        /// Kills the daemon that serves, at a place or at any time; returns when the next one serves. From when until when it was.
        private static func kill(
            _ daemon: DaemonProcess, _ how: Kill, _ faults: Faults, _ random: inout SeededRandom
        ) throws -> (begin: Double, end: Double) {
            let begin: Double
            let point: FaultPoint?
            switch how {
            case .anywhere: point = nil
            case .beforeTransaction: point = .beforeTransaction
            case .beforeCommit: point = .beforeCommit
            case .afterCommit: point = .afterCommit
            case .afterReply: point = .afterReply
            }
            usleep(UInt32.random(in: 10_000...100_000, using: &random))
            if let point {
                begin = now()
                faults.kill(at: point, passing: UInt32.random(in: 1...30, using: &random))
            } else {
                let process = try daemon.servingProcess()
                begin = now()
                try check(Glibc.kill(process, SIGKILL))
            }
            try #require(daemon.notification() == "READY=1", "no successor: \(daemon.running?.errors ?? "")")
            return (begin, now())
        }

        /// - Parameter name: what is printed before the numbers.
        static func play(
            _ name: String, _ daemon: DaemonProcess, _ clients: WorkingClients, kills: [Kill], _ faults: Faults
        ) throws {
            var random = SeededRandom.fresh()
            var times: [(begin: Double, end: Double)] = []
            for place in 0..<Self.kills {
                times.append(try kill(daemon, kills[place % kills.count], faults, &random))
                if let complaint = clients.complaint {
                    Issue.record("\(complaint), kill \(place), \(random)")
                    break
                }
            }
            try clients.finish()
            let operations = clients.operations.values.reduce(0, +)
            func summary(ofCalls: Bool) -> String {
                let pauses = times.map { clients.pause(from: $0.begin, to: $0.end, ofCalls: ofCalls) }.sorted()
                return "median \(pauses[pauses.count / 2].rounded()) ms, longest \(pauses.last!.rounded()) ms"
            }
            print(
                "\(name): \(times.count) kills, \(operations) operations; pause of a call: \(summary(ofCalls: true)); "
                    + "of a whole operation: \(summary(ofCalls: false))"
                    + (clients.longest.map { ", \($0.kind) at \($0.begun - (times.first?.begin ?? 0)) s took \($0.seconds) s" } ?? ""))
            for (kind, count) in clients.operations { #expect(count > Self.kills / 4, "\(kind) has hardly worked") }
            // Each of its calls may meet a kill; but nobody starves, however often that happens to others.
            if let longest = clients.longest {
                #expect(longest.seconds < 5 * Double(Sanitizer.slowdown), "\(longest.kind) waited through many kills")
            }
        }

        @Test func killsAtAnyTime() throws {
            try Self.mounted(memories: Self.memories) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory)
                try Self.play("at any time", daemon, clients, kills: [.anywhere], faults)
            }
        }

        @Test(arguments: [Kill.beforeTransaction, .beforeCommit, .afterCommit, .afterReply]) func killsAtChosenPlaces(_ kill: Kill) throws {
            try Self.mounted(memories: Self.memories) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory)
                try Self.play("\(kill)", daemon, clients, kills: [kill], faults)
            }
        }

        @Test func killsInAStormOfInvalidations() throws {
            try Self.mounted(mounts: 3, memories: Self.memories) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory, others: Array(mounts[1...]))
                try Self.play("in a storm", daemon, clients, kills: Kill.allCases, faults)
            }
        }

        /// Where locks are the daemon's, between mounts: whoever holds one holds it, and whoever waits goes on waiting.
        @Test(arguments: [[:], noResend]) func locksOfTheDaemonOutliveIt(_ environment: [String: String]) throws {
            try Self.mounted(mounts: 2, options: ["--coherence", "strict"], environment: environment) { daemon, mounts, faults in
                let clients = try WorkingClients(
                    in: mounts[0], scratch: daemon.directory, kinds: ["append", "create", "flock", "fcntl"], lockers: mounts)
                try Self.play(
                    "locks of the daemon\(environment.isEmpty ? "" : ", without resend")", daemon, clients, kills: Kill.allCases, faults)
            }
        }

        /// A request for a lock that was read and not yet noted is noted by a successor, once; and whoever waits later keeps a place of its own.
        @Test(arguments: [[:], noResend]) func whoWaitsForALockKeepsHisPlace(_ environment: [String: String]) throws {
            try Self.mounted(mounts: 2, options: ["--coherence", "strict"], environment: environment) { daemon, mounts, faults in
                func start(_ file: String, _ mount: String) throws -> Program {
                    try Program.start(["flock", "\(mount)/\(file)", "echo", "has it"], in: "/", scratch: daemon.directory)
                }
                // Not `wait`: a caller whose request is lost cannot even be killed while the daemon lives.
                func getsIt(_ program: Program) throws {
                    let deadline = ContinuousClock.now + .seconds(20)
                    while program.isRunning {
                        try #require(ContinuousClock.now < deadline, "it waits for ever")
                        usleep(5_000)
                    }
                    #expect(try program.success() == "has it\n")
                }
                let held = try ["a", "b"].map { file in
                    let descriptor = try check(open("\(mounts[0])/\(file)", O_RDWR | O_CREAT | O_CLOEXEC, 0o644))
                    try check(flock(descriptor, LOCK_EX))
                    return descriptor
                }
                // SETLKW
                faults.kill(at: .request(opcode: 33))
                let first = try start("a", mounts[1])
                #expect(daemon.notification() == "READY=1")
                // It waits, and the second waits elsewhere.
                let second = try start("b", mounts[1])
                usleep(300_000)
                close(held[0])
                try getsIt(first)
                let process = try daemon.servingProcess()
                try check(Glibc.kill(process, SIGKILL))
                #expect(daemon.notification() == "READY=1")
                #expect(second.isRunning)
                close(held[1])
                try getsIt(second)
            }
        }

        /// What a kernel has cached is dropped also where the daemon died before it could say so.
        @Test(arguments: [Kill.afterCommit, .afterReply]) func othersHearOfChangesAcrossAKill(_ kill: Kill) throws {
            try Self.mounted(mounts: 2) { daemon, mounts, faults in
                let changes: [(String, (String) throws -> Void, (String) throws -> Bool)] = [
                    ("unlink", { try check(unlink($0)) }, { access($0, F_OK) != 0 && errno == ENOENT }),
                    ("rename", { try check(rename($0, $0 + "-new")) }, { access($0, F_OK) != 0 && access($0 + "-new", F_OK) == 0 }),
                    (
                        "chmod", { try check(chmod($0, 0o600)) },
                        { try FileManager.default.attributesOfItem(atPath: $0)[.posixPermissions] as? Int == 0o600 }
                    ),
                    ("truncate", { try check(truncate($0, 3)) }, { Files.text($0) == "one" }),
                    ("mkdir", { try check(mkdir($0 + "-made", 0o755)) }, { access($0 + "-made", F_OK) == 0 }),
                    ("link", { try check(link($0, $0 + "-second")) }, { access($0 + "-second", F_OK) == 0 }),
                ]
                for (name, change, isSeen) in changes {
                    let (here, there) = ("\(mounts[0])/\(name)", "\(mounts[1])/\(name)")
                    try Data("one and more".utf8).write(to: URL(fileURLWithPath: here))
                    // All that there is to cache: pages, attributes, names that are there and that are not, a listing.
                    while Files.text(there) != "one and more" { usleep(1_000) }
                    for suffix in ["-new", "-made", "-second"] { #expect(access(there + suffix, F_OK) != 0) }
                    _ = try Files.names(in: mounts[1])
                    usleep(100_000)
                    faults.kill(at: kill == .afterCommit ? .afterCommit : .afterReply)
                    try change(here)
                    #expect(daemon.notification() == "READY=1", "\(name)")
                    faults.kill(at: .afterReply, passing: 0)
                    // Told by a thread of its own, while all are served again.
                    let deadline = ContinuousClock.now + .milliseconds(200 * Sanitizer.slowdown)
                    while try !isSeen(there), ContinuousClock.now < deadline { usleep(1_000) }
                    #expect(try isSeen(there), "\(name)")
                }
            }
        }

        // MARK: - Kernels that send nothing again

        static let noResend = ["REMFS_RESEND": "off"]

        @Test(arguments: Kill.allCases) func killsWithoutResend(_ kill: Kill) throws {
            try Self.mounted(memories: Self.memories, environment: Self.noResend) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory)
                try Self.play("without resend, \(kill)", daemon, clients, kills: [kill], faults)
            }
        }

        @Test func killsInAStormWithoutResend() throws {
            try Self.mounted(mounts: 3, memories: Self.memories, environment: Self.noResend) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory, others: Array(mounts[1...]))
                try Self.play("without resend, in a storm", daemon, clients, kills: Kill.allCases, faults)
            }
        }

        // MARK: - Growth

        private struct Usage: CustomStringConvertible {
            let descriptors: Int
            let threads: Int
            /// Without the program's own pages, which come and go.
            let kilobytes: Int

            init(_ process: pid_t) throws {
                descriptors = try Files.names(in: "/proc/\(process)/fd").count
                let status = try #require(Files.text("/proc/\(process)/status")).split(separator: "\n")
                func value(_ key: String) throws -> Int {
                    let line = try #require(status.first { $0.hasPrefix(key + ":") })
                    return try #require(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) })
                }
                threads = try value("Threads")
                kilobytes = try value("RssAnon") + value("RssShmem")
            }

            var description: String { "\(descriptors) descriptors, \(threads) threads, \(kilobytes) kB" }
        }

        /// Neither the holder nor the daemons that follow one another take more and more.
        @Test func nothingGrows() throws {
            try Self.mounted(mounts: 3, memories: 50) { daemon, mounts, faults in
                let holder = try #require(daemon.running).pid
                func usage() throws -> (holder: Usage, daemon: Usage) {
                    // Some work, then quiet, so that all are alike; and the next one waits already.
                    for mount in mounts { try Data("x".utf8).write(to: URL(fileURLWithPath: mount + "/a")) }
                    let deadline = ContinuousClock.now + .seconds(20)
                    while try DaemonProcess.children(of: holder).count < 2, ContinuousClock.now < deadline { usleep(10_000) }
                    let process = try daemon.servingProcess()
                    // The connection on which that was asked has gone, too.
                    usleep(1_000_000)
                    return (try Usage(holder), try Usage(process))
                }
                func takeOvers(_ count: Int) throws {
                    for place in 0..<count {
                        try check(Glibc.kill(try daemon.servingProcess(), place % 2 == 0 ? SIGKILL : SIGHUP))
                        try #require(daemon.notification() == "READY=1")
                        for mount in mounts { try Data("\(place)".utf8).write(to: URL(fileURLWithPath: mount + "/b")) }
                    }
                }
                // The first ones fill what is filled once.
                try takeOvers(4)
                let before = try usage()
                try takeOvers(Self.kills)
                let after = try usage()
                print("\(Self.kills) take-overs: holder \(before.holder) -> \(after.holder); daemon \(before.daemon) -> \(after.daemon)")
                // Threads of the runtime that are idle may end.
                #expect(after.holder.descriptors == before.holder.descriptors && after.holder.threads <= before.holder.threads)
                // A sanitizer keeps something of each thread that there was.
                #expect(after.holder.kilobytes <= before.holder.kilobytes + (Sanitizer.isActive ? 4_096 : 512))
                #expect(after.daemon.descriptors <= before.daemon.descriptors && after.daemon.threads <= before.daemon.threads)
                #expect(after.daemon.kilobytes <= before.daemon.kilobytes + 4_096)
            }
        }

        // MARK: - A request that kills

        /// Three daemons die of it; then its caller hears EIO, and nobody else hears anything.
        @Test func aRequestThatKillsThreeDaemonsIsAnsweredEIO() throws {
            try Self.mounted(mounts: 2) { daemon, mounts, faults in
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory, kinds: ["append", "overwrite", "read", "flock"])
                let others = try check(open(mounts[1] + "/other", O_RDWR | O_CREAT | O_CLOEXEC, 0o644))
                defer { close(others) }
                // Nobody else makes a FIFO.
                faults.kill(at: .request(opcode: 8), passing: nil)
                for round in 1...2 {
                    #expect(mkfifo(mounts[0] + "/deadly", 0o600) == -1 && errno == EIO)
                    // Those that died after they were ready said so, and the one that serves.
                    var ready = 0
                    while try daemon.remfs("status").status != 0 { usleep(1_000) }
                    let said = try #require(daemon.running).errors
                    ready += said.split(separator: "\n").count { $0.contains("the daemon was killed") }
                    #expect(ready == 3 * round, "\(said)")
                    #expect(said.contains("a request that ended several daemons is answered with EIO"))
                    try Files.write(Array("x".utf8), to: others)
                }
                faults.kill(at: .request(opcode: 8), passing: 0)
                #expect(clients.complaint == nil)
                try check(mkfifo(mounts[0] + "/deadly", 0o600))
                try clients.finish()
                #expect(Files.text(mounts[1] + "/other") == "xx")
            }
        }

        /// Killed before the kernel was greeted: the successor mounts afresh, and whoever came meanwhile is served or told, but never hangs.
        @Test func aDaemonKilledBeforeItsFirstAnswerIsReplaced() throws {
            try Self.mounted { daemon, mounts, faults in
                let directory = daemon.directory + "/second"
                try check(mkdir(directory, 0o755))
                let before = try daemon.servingProcess()
                faults.kill(at: .request(opcode: 26))
                // Its caller is told that the daemon went.
                #expect(try daemon.remfs("mount", "notes", directory).status != 0)
                #expect(daemon.notification() == "READY=1")
                #expect(try daemon.servingProcess() != before)
                let program = try Program.start(
                    ["sh", "-c", "echo here > a && cat a"], in: directory, scratch: daemon.directory)
                #expect(try program.wait(atMost: .seconds(20)).output == "here\n")
                #expect(Files.text(mounts[0] + "/a") == "here\n")
                #expect(DaemonProcess.mounts(below: daemon.directory).count == 2)
                let listed = try #require(try daemon.remfs("status", "--json").json()["mounts"])
                #expect("\(listed)".contains(directory) || "\(listed)" == "2", "\(listed)")
                // And where everybody dies of it, it is not tried for ever: all else goes on.
                try daemon.output("unmount", directory)
                faults.kill(at: .request(opcode: 26), passing: nil)
                #expect(try daemon.remfs("mount", "notes", directory).status != 0)
                #expect(daemon.notification() == "READY=1")
                #expect(daemon.running?.errors.contains("several daemons died of it") == true)
                faults.kill(at: .request(opcode: 26), passing: 0)
                #expect(DaemonProcess.mounts(below: daemon.directory) == mounts)
                #expect(Files.text(mounts[0] + "/a") == "here\n")
                try daemon.output("mount", "notes", directory)
                #expect(Files.text(directory + "/a") == "here\n")
            }
        }
    }
}
