import Foundation
import Glibc
import TestSupport
import Testing

/// What the daemon asks of the system, seen from outside. (A process that is its own client cannot be traced: it would wait for itself.)
extension ServeTests {
    static let hasStrace = access("/usr/bin/strace", X_OK) == 0

    @Suite(.serialized, .enabled(if: ServeTests.hasFuse && ServeTests.hasStrace, "needs /dev/fuse and strace")) struct DurabilityTests {
        /// A daemon with a mount, and its system calls while `body` runs.
        private static func traced(_ calls: String, _ body: (DaemonProcess, String) throws -> Void) async throws -> [String] {
            try await blocking {
                var lines: [String] = []
                try DaemonProcess.with { daemon in
                    let root = daemon.directory + "/mnt"
                    try check(mkdir(root, 0o755))
                    try daemon.output("store", "create", "notes")
                    try daemon.output("mount", "notes", root)
                    try check(close(check(open(root + "/f", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644))))
                    let pid = try daemon.servingProcess()
                    let log = Self.log(daemon)
                    let tracer = try Program.start(
                        ["strace", "-f", "-y", "-ttt", "-T", "-p", "\(pid)", "-e", "trace=\(calls)", "-o", log], in: "/",
                        scratch: daemon.directory)
                    let deadline = ContinuousClock.now + .seconds(20)
                    while !tracer.errors.contains("attached") {
                        guard ContinuousClock.now < deadline else { throw TimedOut() }
                        usleep(1_000)
                    }
                    try body(daemon, root)
                    tracer.signal(SIGINT)
                    _ = try tracer.wait()
                    lines = Self.lines(log)
                }
                return lines
            }
        }

        private static func log(_ daemon: DaemonProcess) -> String { daemon.directory + "/strace" }

        private static func lines(_ log: String) -> [String] { (Files.text(log) ?? "").split(separator: "\n").map(String.init) }

        private static func seconds() -> Double {
            var now = timespec()
            clock_gettime(CLOCK_REALTIME, &now)
            return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
        }

        @Test func fsyncWaitsForTheJournal() async throws {
            var span = (began: 0.0, ended: 0.0)
            let lines = try await Self.traced("fdatasync") { _, root in
                let file = try check(open(root + "/f", O_WRONLY | O_APPEND | O_CLOEXEC))
                defer { close(file) }
                try Files.write(Array("b".utf8), to: file)
                span.began = Self.seconds()
                try check(fsync(file))
                span.ended = Self.seconds()
            }
            // "PID time fdatasync(5</.../memstore_....sqlite-wal>) = 0 <duration>", perhaps in two halves: the second has the duration.
            let ends = lines.compactMap { line -> Double? in
                guard line.contains("fdatasync"), line.contains("= 0 <"), let duration = Double(line.split(separator: "<").last!.dropLast())
                else { return nil }
                let time = line.split(separator: " ")[1]
                return line.contains("resumed") ? Double(time) : Double(time).map { $0 + duration }
            }
            #expect(lines.contains { $0.contains("fdatasync") && $0.contains(".sqlite-wal") }, "\(lines)")
            #expect(ends.contains { $0 > span.began && $0 <= span.ended }, "\(span) \(lines)")
        }

        @Test func aWriteWithoutFsyncSyncsNothing() async throws {
            let lines = try await Self.traced("fdatasync,fsync") { _, root in
                let file = try check(open(root + "/f", O_WRONLY | O_APPEND | O_CLOEXEC))
                try Files.write(Array("b".utf8), to: file)
                try check(close(file))
            }
            #expect(!lines.contains { $0.contains("sync(") }, "\(lines)")
        }

        /// The daemon's own counts are those of its reads of the FUSE device.
        @Test func everyRequestIsCounted() async throws {
            var counted = 0
            let lines = try await Self.traced("read,readv") { daemon, root in
                func total() throws -> Int {
                    let status = try daemon.remfs("status", "--json").json()
                    let mount = try #require((status["mounted"] as? [[String: Any]])?.first?["id"] as? String)
                    let requests = try #require(try daemon.http("GET", "/v1/mounts/\(mount)/requests").json()["requests"] as? [String: Any])
                    return requests.values.compactMap { $0 as? Int }.reduce(0, +)
                }
                let before = try total()
                for number in 0..<20 {
                    let file = try check(open(root + "/f\(number)", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644))
                    try Files.write(Array("b".utf8), to: file)
                    try check(close(file))
                }
                // Answers are counted after their callers have them: ask until what was read has been counted.
                let deadline = ContinuousClock.now + .seconds(20)
                repeat {
                    counted = try total() - before
                } while counted != Self.readsOfDevice(Self.lines(Self.log(daemon))) && ContinuousClock.now < deadline
            }
            // Three for each file; and GETATTR for default_permissions, once or as often as the directory has changed.
            #expect(counted >= 60 && counted <= 85)
            let reads = Self.readsOfDevice(lines)
            #expect(reads == counted, "\(reads) reads, \(counted) counted")
        }

        /// A person's `sqlite3` on a live store would move the journal under the daemon's feet, or start it over.
        @Test func noOtherProcessTouchesAnOpenStore() async throws {
            try await blocking {
                try DaemonProcess.with { daemon in
                    try daemon.output("store", "create", "notes")
                    let file = try #require(Files.names(in: daemon.state + "/stores").first { $0.hasSuffix(".sqlite") })
                    for statement in ["PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM inode", "SELECT count(*) FROM inode"] {
                        let script = """
                            import sqlite3, sys
                            try: print(sqlite3.connect(sys.argv[1], timeout=0.1).execute(sys.argv[2]).fetchall())
                            except sqlite3.OperationalError as error: print(error)
                            """
                        let program = try Program.start(
                            ["python3", "-c", script, "\(daemon.state)/stores/\(file)", statement], in: "/", scratch: daemon.directory)
                        #expect(try program.success() == "database is locked\n", "\(statement)")
                    }
                }
            }
        }

        private static func readsOfDevice(_ lines: [String]) -> Int {
            // A call that others come between is shown in two halves, of which the first names the file and the second the result.
            var unfinished: Set<Substring> = []
            return lines.count { line in
                let thread = line.prefix { $0 != " " }
                if line.contains("unfinished") {
                    if line.contains("</dev/fuse>") { unfinished.insert(thread) }
                    return false
                }
                let isOfDevice = line.contains("resumed") ? unfinished.remove(thread) != nil : line.contains("</dev/fuse>")
                return isOfDevice && !line.contains("= -1")
            }
        }
    }
}
