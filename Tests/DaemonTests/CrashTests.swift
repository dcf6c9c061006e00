import Filesystem
import Foundation
import Glibc
import Storage
import TestSupport
import Testing

/// What is left when the daemon is killed while programs write through its mount, compared with what those programs were told was done.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .timeLimit(.minutes(10))) struct CrashTests {
        /// REMFS_CRASH_KILLS asks for more.
        static let kills = ProcessInfo.processInfo.environment["REMFS_CRASH_KILLS"].flatMap { Int($0) } ?? 20

        /// What each writer does with number n; when the call has returned, n goes into its ledger, outside of the mount.
        private static let script = """
            import os, sys
            kind, root, ledger, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
            done = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

            def save(path, text, pieces=1):
                with open(path, "w") as f:
                    for piece in range(pieces):
                        f.write(text[piece * len(text) // pieces:(piece + 1) * len(text) // pieces])
                        f.flush()

            try:
                os.chdir(root)
                while True:
                    if kind == "append":
                        with open("log", "a") as f: f.write(f"{n}\\n")
                    elif kind == "create":
                        save(f"new/f{n}", f"{n} " * 100)
                    elif kind == "rename":
                        save("renamed.tmp", f"{n} " * 100)
                        os.replace("renamed.tmp", "renamed")
                    else:
                        save("over", f"{n} " * 500, 3)
                    os.write(done, f"{os.getpid()} {n}\\n".encode())
                    n += 1
            except OSError as error:
                # The daemon has gone: ENOTCONN, ECONNABORTED, or EIO for what was on its way.
                sys.exit(0 if error.errno in (107, 103, 5) else f"{kind} {n}: {error}")
            """

        private static let kinds = ["append", "create", "rename", "over"]

        /// A writer's ledger: which numbers were done, by which process.
        private struct Ledger {
            var done: [Int: Int32] = [:]
            /// How far they came: the next number may have been under way.
            var last = 0

            init(_ path: String) {
                for line in (Files.text(path) ?? "").split(separator: "\n") {
                    let fields = line.split(separator: " ")
                    done[Int(fields[1])!] = Int32(fields[0])!
                    last = max(last, Int(fields[1])!)
                }
            }
        }

        @Test func nothingThatWasDoneIsLostTornOrThereTwice() async throws {
            try await blocking {
                try DaemonProcess.prepared { daemon in
                    var random = SeededRandom.fresh()
                    let scratch = daemon.directory + "/scratch"
                    let root = daemon.directory + "/mnt"
                    for directory in [scratch, root] { try check(mkdir(directory, 0o755)) }
                    let ledgers = Dictionary(uniqueKeysWithValues: Self.kinds.map { ($0, "\(scratch)/ledger-\($0)") })
                    try Data(Self.script.utf8).write(to: URL(fileURLWithPath: scratch + "/writer.py"))
                    var gaps: [String: Set<Int>] = [:]

                    try daemon.start()
                    let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                    try daemon.output("mount", "notes", root)
                    try check(mkdir(root + "/new", 0o755))
                    for kill in 1...Self.kills {
                        // The number that may have been under way is not used again.
                        let writers = try Self.kinds.map { kind in
                            let next = Ledger(ledgers[kind]!).last + 2
                            gaps[kind, default: []].insert(next - 1)
                            return try Program.start(
                                ["python3", scratch + "/writer.py", kind, root, ledgers[kind]!, "\(next)"], in: scratch, scratch: scratch)
                        }
                        let begun = ledgers.mapValues(Self.count)
                        let target = begun.values.reduce(0, +) + Int.random(in: 20...400, using: &random)
                        try Self.wait {
                            let now = ledgers.mapValues(Self.count)
                            let hasAll = now.values.reduce(0, +) >= target && now.allSatisfy { $0.value > begun[$0.key]! }
                            return hasAll || writers.contains { !$0.errors.isEmpty }
                        }
                        #expect(try daemon.stop(SIGKILL).status == 128 + SIGKILL)
                        for writer in writers {
                            let outcome = try writer.wait()
                            #expect(outcome.status == 0, "\(outcome.errors)")
                        }
                        for kind in Self.kinds { gaps[kind]!.insert(Ledger(ledgers[kind]!).last + 1) }

                        try daemon.start()
                        try daemon.output("mount", "notes", root)
                        try Self.compare(root, ledgers, gaps, "kill \(kill) of \(random)")
                    }
                    #expect(try daemon.stop().status == 0)
                    try Self.compareVersions(daemon.state, id, ledgers, gaps, "\(random)")
                }
            }
        }

        private static func count(_ ledger: String) -> Int {
            (try? Files.bytes(ledger))?.count { $0 == 10 } ?? 0  // not made yet: nothing done
        }

        private static func wait(_ condition: () throws -> Bool) throws {
            let deadline = ContinuousClock.now + .seconds(60)
            while try !condition() {
                guard ContinuousClock.now < deadline else { throw TimedOut() }
                usleep(1_000)
            }
        }

        /// What files hold, through the mount of a daemon that has just been started again.
        private static func compare(_ root: String, _ ledgers: [String: String], _ gaps: [String: Set<Int>], _ when: String) throws {
            let log = try #require(Files.text(root + "/log"))
            #expect(log.isEmpty || log.hasSuffix("\n"), "torn at its end, \(when)")
            judge(log.split(separator: "\n").map(String.init), Ledger(ledgers["append"]!), gaps["append"]!, when)

            let created = Ledger(ledgers["create"]!)
            var names: [String] = []
            for name in try Files.names(in: root + "/new") {
                let text = Files.text("\(root)/new/\(name)")
                // f and the number, since 4913 alone is a working file of vim's.
                let number = String(name.dropFirst())
                // One that was under way may be there without its bytes.
                if created.done[Int(number) ?? 0] == nil, text == "" { continue }
                #expect(text == String(repeating: "\(number) ", count: 100), "new/\(name), \(when)")
                names.append(number)
            }
            judge(names, created, gaps["create"]!, when)

            for (kind, file, times) in [("rename", "renamed", 100), ("over", "over", 500)] {
                let ledger = Ledger(ledgers[kind]!)
                guard ledger.last > 0 else { continue }
                let text = try #require(Files.text("\(root)/\(file)"))
                let done = String(repeating: "\(ledger.last) ", count: times)
                let underWay = String(repeating: "\(ledger.last + 1) ", count: times)
                #expect(text == done || text == underWay || (kind == "over" && underWay.hasPrefix(text)), "\(file), \(when)")
            }
        }

        /// All that was done once, and of the rest only what was under way at a kill.
        private static func judge(_ numbers: [String], _ ledger: Ledger, _ gaps: Set<Int>, _ when: String) {
            let found = numbers.compactMap { Int($0) }
            #expect(found.count == numbers.count, "torn: \(numbers.filter { Int($0) == nil }), \(when)")
            #expect(Set(found).count == found.count, "twice, \(when)")
            let missing = Set(ledger.done.keys).subtracting(found)
            #expect(missing.isEmpty, "lost: \(missing.sorted()), \(when)")
            let invented = Set(found).subtracting(ledger.done.keys).subtracting(gaps)
            #expect(invented.isEmpty, "invented: \(invented.sorted()), \(when)")
        }

        /// Each thing done is one version, by the process that did it.
        private static func compareVersions(
            _ state: String, _ id: String, _ ledgers: [String: String], _ gaps: [String: Set<Int>], _ when: String
        ) throws {
            let errors = ErrorLog()
            let pool = try StorePool(stateDirectory: state, logger: errors.logger)
            defer { pool.close() }
            let found = try pool.withStore(try #require(StoreID(id))) { (store) throws(RemfsError) in
                var found: [(version: MemoryVersion, text: String)] = []
                for version in try store.versions(VersionFilter(), before: nil, limit: 1_000_000).reversed() {
                    found.append((version, String(decoding: try store.content(of: version) ?? [], as: UTF8.self)))
                }
                return found
            }
            errors.expectNone()
            for (kind, times) in [("create", 100), ("rename", 100), ("over", 500)] {
                let ledger = Ledger(ledgers[kind]!)
                var numbers: [String] = []
                for (version, text) in found where version.operation != .deleted {
                    let isOfKind =
                        switch kind {
                        case "create": version.path?.hasPrefix("/new/") ?? false
                        case "rename": version.path == "/renamed"
                        default: version.path == "/over"
                        }
                    guard isOfKind else { continue }
                    let number = String(text.prefix { $0 != " " })
                    let isWhole = text == String(repeating: "\(number) ", count: times)
                    // A save that a kill cut is a version of what there was of it.
                    if !isWhole, text == "" || gaps[kind]!.contains(Int(number) ?? 0) { continue }
                    #expect(isWhole, "\(version.path ?? "") holds \(text.utf8.count) bytes of \(number), \(when)")
                    numbers.append(number)
                    guard let pid = ledger.done[Int(number) ?? 0] else { continue }
                    #expect(version.author.writer.pid == pid, "\(kind) \(number), \(when)")
                    #expect(version.author.writer.command == "python3", "\(kind) \(number), \(when)")
                }
                judge(numbers, ledger, gaps[kind]!, "versions of \(kind), \(when)")
            }
            // Appends of one process to one file: each a version that is one line longer.
            let appends = found.filter { $0.version.path == "/log" }.map(\.text)
            #expect(zip(appends, appends.dropFirst()).allSatisfy { $1.hasPrefix($0) && $1.count > $0.count }, "\(when)")
            #expect(appends.count >= Ledger(ledgers["append"]!).done.count, "\(when)")
        }
    }
}
