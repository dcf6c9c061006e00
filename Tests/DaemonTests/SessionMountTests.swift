import Foundation
import Glibc
import struct Synchronization.Atomic
import TestSupport
import Testing
import Threads

/// Sessions and the mounts of their stores (design 6).
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct SessionMountTests {
        private static func line(_ text: String) -> String { text.trimmingCharacters(in: .newlines) }

        /// A session with these stores, and its directory.
        private static func session(_ daemon: DaemonProcess, _ stores: String..., options: [String] = []) throws -> (
            id: String, path: String
        ) {
            let arguments = ["session", "create"] + stores.flatMap { ["--store", $0] } + options
            let made = try Binary.run(arguments, environment: daemon.environment)
            try #require(made.status == 0, "\(made.errors)")
            let id = line(made.output)
            return (id, line(try daemon.output("session", "path", id)))
        }

        private static func run(_ arguments: String...) throws -> Binary.Result {
            try Binary.run([], environment: ["PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"], launcher: arguments)
        }

        private static func wait(_ condition: () throws -> Bool, sourceLocation: SourceLocation = #_sourceLocation) throws {
            let deadline = ContinuousClock.now + .seconds(20)
            while try !condition() {
                guard ContinuousClock.now < deadline else {
                    Issue.record("what was waited for did not happen", sourceLocation: sourceLocation)
                    throw TimedOut()
                }
                usleep(10_000)
            }
        }

        private static func kill(_ daemon: DaemonProcess) throws {
            let process = try daemon.servingProcess()
            try check(Glibc.kill(process, SIGKILL))
            #expect(daemon.notification() == "READY=1")
        }

        private static func log(_ daemon: DaemonProcess, _ store: String) throws -> [[String: Any]] {
            try #require(try daemon.remfs("log", store, "--json").json()["data"] as? [[String: Any]])
        }

        private static func actor(_ version: [String: Any]) -> String? {
            (version["created_by"] as? [String: Any])?["session_id"] as? String
        }

        @Test func aSessionHasItsStoresAndItsNameOnWhatItWrites() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "Team notes")
                try daemon.output("store", "create", "rules")
                let (id, path) = try Self.session(daemon, "Team notes", "rules:ro", options: ["--trust", "untrusted"])
                #expect(path == "\(daemon.directory)/run/sessions/\(id)")
                try #expect(FileManager.default.contentsOfDirectory(atPath: path).sorted() == ["rules", "team-notes"])
                try Data("one\n".utf8).write(to: URL(fileURLWithPath: "\(path)/team-notes/a.md"))
                #expect(open("\(path)/rules/a.md", O_WRONLY | O_CREAT, 0o644) == -1 && errno == EROFS)
                let log = try Self.log(daemon, "Team notes")
                #expect(log.count == 1 && Self.actor(log[0]) == id && log[0]["trust"] as? String == "untrusted")
                // Programs do not run from it unless it was asked for.
                try Data("#!/bin/sh\n".utf8).write(to: URL(fileURLWithPath: "\(path)/team-notes/run"))
                try check(chmod("\(path)/team-notes/run", 0o755))
                #expect(try Self.run("/bin/bash", "-c", "\(path)/team-notes/run").status == 126)
                // What the session has is the session's to end.
                let mounts = try #require(try daemon.remfs("status", "--json").json()["mounts"] as? Int)
                #expect(mounts == 2)
                #expect(try daemon.remfs("unmount", "\(path)/rules").status != 0)
                try daemon.output("session", "archive", id)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(!FileManager.default.fileExists(atPath: path))
                #expect(try daemon.remfs("session", "path", id).errors.contains("archived"))
                #expect(try daemon.output("memory", "cat", "Team notes", "/a.md") == "one\n")
            }
        }

        @Test func aBindMountThatOutlivesItsSessionIsNotConnected() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                let (bound, steps) = ("\(daemon.directory)/bound", "\(daemon.directory)/steps")
                try check(mkdir(bound, 0o755))
                try check(mkdir(steps, 0o755))
                let container = try Program.start(
                    [
                        "/usr/bin/unshare", "-m", "/bin/bash", "-c",
                        """
                        mount --bind \(path)/notes \(bound) && cd \(bound) && exec 5>>log && echo before >&5 && touch \(steps)/ready
                        for i in $(seq 600); do [ -e \(steps)/ended ] && break; sleep 0.05; done
                        echo after >&5; ls \(bound); cat \(bound)/log; echo "done"
                        """,
                    ], in: "/", scratch: steps)
                try Self.wait { FileManager.default.fileExists(atPath: "\(steps)/ready") }
                try daemon.output("session", "delete", id)
                try check(close(check(open("\(steps)/ended", O_WRONLY | O_CREAT, 0o644))))
                let outcome = try container.wait(atMost: .seconds(60))
                #expect(outcome.output == "done\n")
                #expect(outcome.errors.components(separatedBy: "Transport endpoint is not connected").count == 4, "\(outcome.errors)")
                let log = try Self.log(daemon, "notes")
                #expect(log.count == 1 && Self.actor(log[0]) == id)
                #expect(try daemon.output("memory", "cat", "notes", "/log") == "before\n")
            }
        }

        @Test func whatAMappingHoldsIsKeptWhenTheSessionEnds() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                let file = try check(open("\(path)/notes/page", O_RDWR | O_CREAT, 0o644))
                defer { close(file) }
                try check(ftruncate(file, 4_096))
                let page = try #require(mmap(nil, 4_096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
                defer { munmap(page, 4_096) }
                page.copyMemory(from: "mapped", byteCount: 6)
                try daemon.output("session", "archive", id)
                #expect(try daemon.output("memory", "cat", "notes", "/page").hasPrefix("mapped"))
            }
        }

        @Test func accessChangesAtOnceAndForRootToo() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                let file = try check(open("\(path)/notes/a", O_WRONLY | O_CREAT, 0o644))
                defer { close(file) }
                try Files.write(Array("yes".utf8), to: file)
                try daemon.output("session", "set", id, "notes:ro")
                #expect(write(file, "no", 2) == -1 && errno == EROFS)
                #expect(mkdir("\(path)/notes/d", 0o755) == -1 && errno == EROFS)
                // It is the attachment's, so it holds through a restart as well.
                try Self.kill(daemon)
                #expect(mkdir("\(path)/notes/d", 0o755) == -1 && errno == EROFS)
                try daemon.output("session", "set", id, "notes:rw")
                try check(mkdir("\(path)/notes/d", 0o755))
                try Files.write(Array("!".utf8), to: file)
                #expect(try String(contentsOfFile: "\(path)/notes/a", encoding: .utf8) == "yes!")
            }
        }

        @Test func sessionsGoOnWhenTheDaemonIsKilledAndWhenItIsStopped() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                let file = try check(open("\(path)/notes/log", O_WRONLY | O_CREAT | O_APPEND, 0o644))
                try Files.write(Array("1\n".utf8), to: file)
                try Self.kill(daemon)
                try Files.write(Array("2\n".utf8), to: file)
                try check(close(file))
                #expect(try Self.log(daemon, "notes").allSatisfy { Self.actor($0) == id })
                // All of it gone at once, the holder first.
                let serving = try daemon.servingProcess()
                let holder = try #require(daemon.running)
                holder.signal(SIGSTOP)
                try check(Glibc.kill(serving, SIGKILL))
                holder.signal(SIGKILL)
                _ = try holder.wait()
                try daemon.start()
                #expect(try String(contentsOfFile: "\(path)/notes/log", encoding: .utf8) == "1\n2\n")
                // Stopped in order, its mounts are gone; started again, they are back in the same place.
                #expect(try daemon.stop().status == 0)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                try daemon.start()
                #expect(DaemonProcess.mounts(below: daemon.directory) == ["\(path)/notes"])
                try Data("3\n".utf8).write(to: URL(fileURLWithPath: "\(path)/notes/more"))
                #expect(try Self.log(daemon, "notes").allSatisfy { Self.actor($0) == id })
            }
        }

        @Test func aSessionThatEndedWhileNobodyLookedHasNoMounts() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                // As when the daemon is killed right after it has noted the end.
                let serving = try daemon.servingProcess()
                let holder = try #require(daemon.running)
                holder.signal(SIGSTOP)
                try check(Glibc.kill(serving, SIGKILL))
                // Until then it holds the catalog.
                try Self.wait { Files.text("/proc/\(serving)/stat")?.contains(") Z ") ?? true }
                let change = try Self.run(
                    "sqlite3", "-cmd", ".timeout 10000", "\(daemon.state)/catalog.sqlite",
                    "UPDATE session SET status = 'terminated', archived = 1")
                #expect(change.status == 0, "\(change.errors)")
                holder.signal(SIGCONT)
                #expect(daemon.notification() == "READY=1")
                #expect(try daemon.remfs("session", "path", id).status != 0)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(!FileManager.default.fileExists(atPath: path))
            }
        }

        @Test func aDeletedStoreDoesNotKeepTheOthersAway() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "gone")
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "gone", "notes")
                try daemon.output("store", "delete", "gone")
                #expect(try daemon.stop().status == 0)
                try daemon.start()
                #expect(DaemonProcess.mounts(below: daemon.directory) == ["\(path)/notes"])
                #expect(Self.line(try daemon.output("session", "path", id)) == path)
                #expect(try daemon.output("session", "prompt", id).contains("Access: none, the store was deleted"))
                // Undone by the session that did it.
                try Data("1\n".utf8).write(to: URL(fileURLWithPath: "\(path)/notes/a"))
                try daemon.output("revert", "--session", id, "--yes")
                #expect(!FileManager.default.fileExists(atPath: "\(path)/notes/a"))
            }
        }

        @Test func othersDoNotComeIn() throws {
            try DaemonProcess.with { daemon in
                try check(chmod(daemon.directory, 0o755))
                try daemon.output("store", "create", "notes")
                let (_, path) = try Self.session(daemon, "notes", options: ["--uid", "4711", "--gid", "4711"])
                try check(chmod("\(daemon.directory)/run", 0o755))
                func asUser(_ uid: Int, _ script: String) throws -> Binary.Result {
                    try Self.run("setpriv", "--reuid", "\(uid)", "--regid", "\(uid)", "--clear-groups", "/bin/sh", "-c", script)
                }
                let file = "\(path)/notes/a"
                let own = try asUser(4711, "echo mine > \(file) && cat \(file) && stat -c %u:%g \(file)")
                #expect(own.output == "mine\n4711:4711\n", "\(own.errors)")
                let other = try asUser(4712, "cat \(path)/notes/a; ls \(path); ls \(daemon.directory)/run/sessions")
                #expect(other.output.isEmpty)
                #expect(other.errors.components(separatedBy: "Permission denied").count == 4, "\(other.errors)")
            }
        }

        @Test func thePromptHasFiveFactsOfEachStore() throws {
            try DaemonProcess.with { daemon in
                let notes = try SessionTests.store(daemon, "Team notes")
                let rules = try SessionTests.store(daemon, "rules")
                _ = try SessionTests.call(daemon, "POST", "/v1/memory_stores/\(rules)", ["description": "House rules\n## Not a heading"])
                let session = try SessionTests.session(
                    daemon,
                    [
                        "resources": [
                            ["type": "memory_store", "memory_store_id": notes, "instructions": "Keep it short.\nOne fact a line."],
                            ["type": "memory_store", "memory_store_id": rules, "access": "read_only"],
                        ]
                    ])
                let id = try SessionTests.id(session)
                let text = try daemon.output("session", "prompt", id)
                #expect(
                    text.hasSuffix(
                        """

                        ## Team notes

                        - Path: /mnt/memory/team-notes
                        - Access: read and write
                        - Instructions: Keep it short.
                          One fact a line.

                        ## rules

                        - Path: /mnt/memory/rules
                        - Access: read only, every change is refused
                        - Description: House rules ## Not a heading

                        """), "\(text)")
                let response = try daemon.http("GET", "/v1/sessions/\(id)/prompt")
                #expect(String(decoding: response.body, as: UTF8.self) == text)
                #expect(response.headers["content-type"] == "text/markdown; charset=utf-8")
                _ = try SessionTests.call(daemon, "POST", "/v1/memory_stores/\(notes)/archive")
                #expect(try !daemon.output("session", "prompt", id).contains("Access: read and write"))
            }
        }

        @Test func idleSessionsAreUnmountedAndMountedOnDemand() throws {
            try DaemonProcess.prepared { daemon in
                // 0.00001 days: 0.86 s.
                try daemon.start(environment: ["REMFS_SESSION_IDLE_DAYS": "0.00001"])
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                let file = try check(open("\(path)/notes/a", O_WRONLY | O_CREAT, 0o644))
                usleep(2_500_000)
                // Somebody has a file open there.
                #expect(DaemonProcess.mounts(below: daemon.directory).count == 1)
                try check(close(file))
                try Self.wait { DaemonProcess.mounts(below: daemon.directory).isEmpty }
                // An agent that wrote there now would write nowhere.
                try Self.wait { !FileManager.default.fileExists(atPath: "\(path)/notes") }
                #expect(Self.line(try daemon.output("session", "path", id)) == path)
                #expect(FileManager.default.fileExists(atPath: "\(path)/notes/a"))
            }
        }

        /// Whoever may rename above a mountpoint does not get the daemon to unmount, or to remount, what somebody else has mounted.
        @Test(.enabled(if: geteuid() == 0, "needs root")) func aPathThatLeadsElsewhereIsNotFollowed() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (first, second) = ("\(daemon.directory)/a", "\(daemon.directory)/other")
                for path in [first, "\(first)/m", second, "\(second)/m"] { try check(mkdir(path, 0o755)) }
                try check(mount("tmpfs", "\(second)/m", "tmpfs", 0, nil))
                defer { umount2("\(second)/m", Int32(MNT_DETACH)) }
                try daemon.output("mount", "notes", "\(first)/m")
                try check(rename(first, "\(daemon.directory)/b"))
                try check(symlink(second, first))
                for arguments in [["unmount", "\(first)/m"], ["unmount", "--lazy", "\(first)/m"]] {
                    let refused = try Binary.run(arguments, environment: daemon.environment)
                    #expect(refused.status == 69 && refused.errors.contains("\(daemon.directory)/b/m"), "\(refused.errors)")
                }
                let listed = try #require(try daemon.http("GET", "/v1/mounts").data().first?["id"] as? String)
                _ = try SessionTests.call(daemon, "POST", "/v1/mounts/\(listed)", ["access": "read_only"])
                try Data("writable".utf8).write(to: URL(fileURLWithPath: "\(second)/m/file"))
                #expect(mkdir("\(daemon.directory)/b/m/d", 0o755) == -1 && errno == EROFS)
                // Put back, it ends as ever.
                try check(unlink(first))
                try check(rename("\(daemon.directory)/b", first))
                try daemon.output("unmount", "\(first)/m")
                #expect(DaemonProcess.mounts(below: daemon.directory) == ["\(second)/m"])
            }
        }

        /// Whatever was acknowledged is in the store, and nothing is once the switch has returned: not to a writer that is in the middle,
        /// nor to a mapping.
        @Test func noWriteIsAcknowledgedAfterTheSwitch() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (id, path) = try Self.session(daemon, "notes")
                for round in 1...5 {
                    let isSwitched = Atomic<Bool>(false)
                    let acknowledged = Mutex([Int: [Int]]())
                    let late = Mutex([Int]())
                    // Three that append, and one that writes through a mapping.
                    let environment = daemon.environment
                    Thread.forEach(Array(0..<5), threads: 5, named: "writer") { writer in
                        if writer == 4 {
                            usleep(50_000)
                            do {
                                let set = try Binary.run(["session", "set", id, "notes:ro"], environment: environment)
                                #expect(set.status == 0, "\(set.errors)")
                            } catch {
                                Issue.record(error)
                            }
                            return isSwitched.store(true, ordering: .sequentiallyConsistent)
                        }
                        let file = open("\(path)/notes/\(round)-\(writer)", O_RDWR | O_CREAT | (writer == 3 ? 0 : O_APPEND), 0o644)
                        defer { close(file) }
                        var page: UnsafeMutableRawPointer?
                        if writer == 3 {
                            ftruncate(file, 4_096)
                            page = mmap(nil, 4_096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                        }
                        defer { if let page { munmap(page, 4_096) } }
                        for number in 1...1_000_000 {
                            let wasSwitched = isSwitched.load(ordering: .sequentiallyConsistent)
                            let line = String(repeating: "0", count: 7 - "\(number)".count) + "\(number)\n"
                            let isDone: Bool
                            if let page {
                                line.utf8CString.withUnsafeBytes { page.copyMemory(from: $0.baseAddress!, byteCount: 8) }
                                isDone = msync(page, 4_096, MS_SYNC) == 0
                            } else {
                                isDone = write(file, line, 8) == 8
                            }
                            if isDone {
                                acknowledged.withLock { $0[writer, default: []].append(number) }
                                if wasSwitched { late.withLock { $0.append(writer) } }
                            } else if isSwitched.load(ordering: .sequentiallyConsistent) {
                                return
                            }
                        }
                    }
                    #expect(late.withLock { $0 }.isEmpty)
                    for writer in 0..<4 {
                        let ledger = acknowledged.withLock { $0[writer] ?? [] }
                        #expect(ledger.count > 0)
                        let stored = try daemon.output("memory", "cat", "notes", "/\(round)-\(writer)")
                        // What the mount shows is what is stored, also where a write from its pages was refused.
                        #expect(Files.text("\(path)/notes/\(round)-\(writer)") == stored)
                        let numbers = stored.split(separator: "\n").compactMap { Int($0) }
                        if writer < 3 {
                            #expect(numbers == ledger)
                        } else {
                            // The kernel may have written it back by itself before the answer that was an error.
                            #expect((numbers.first ?? 0) >= (ledger.last ?? .max))
                        }
                    }
                    try daemon.output("session", "set", id, "notes:rw")
                }
            }
        }

        @Test func twoHundredSessionsComeAndGo() throws {
            try DaemonProcess.with { daemon in
                let stores = try (0..<2).map { try SessionTests.store(daemon, "store \($0)") }
                let resources = stores.map { ["type": "memory_store", "memory_store_id": $0] }
                /// What the daemon and its holder have open, their threads, and the daemon's memory in kB.
                func taken() throws -> (descriptors: Int, threads: Int, memory: Int) {
                    let serving = try daemon.servingProcess()
                    let status = try #require(Files.text("/proc/\(serving)/status"))
                    func number(_ key: String) -> Int {
                        guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix(key) }) else { return 0 }
                        return Int(line.split(whereSeparator: \.isWhitespace)[1]) ?? 0
                    }
                    var open = 0
                    for process in [serving, try #require(daemon.running).pid] {
                        open += try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/fd").count
                    }
                    return (open, number("Threads:"), number("VmRSS:"))
                }
                func play(_ count: Int) throws -> [Double] {
                    var times: [Double] = []
                    var made: [String] = []
                    for _ in 0..<count {
                        let start = ContinuousClock.now
                        made.append(try SessionTests.id(SessionTests.session(daemon, ["resources": resources])))
                        times.append((ContinuousClock.now - start) / .milliseconds(1))
                    }
                    #expect(DaemonProcess.mounts(below: daemon.directory).count == 2 * count)
                    let full = try taken()
                    if count > 1 {
                        times.sort()
                        let (median, slow) = (times[times.count / 2], times[times.count * 99 / 100])
                        let memory = (full.memory - before.memory) / (2 * count)
                        print("\(count) sessions of two stores: attached in \(median) ms, p99 \(slow) ms; \(memory) kB an attachment")
                    }
                    for id in made { _ = try SessionTests.call(daemon, "POST", "/v1/sessions/\(id)/archive") }
                    return times
                }
                var before = (descriptors: 0, threads: 0, memory: 0)
                // What is opened once is not counted.
                _ = try play(1)
                before = try taken()
                let times = try play(200)
                // Measured in a debug build as well; under a sanitizer everything takes longer.
                #expect(times[times.count * 99 / 100] < Double(50 * Sanitizer.slowdown))
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(try FileManager.default.contentsOfDirectory(atPath: "\(daemon.directory)/run/sessions").isEmpty)
                try Self.wait { try taken().descriptors <= before.descriptors + 2 }
                #expect(try taken().threads <= before.threads + 2)
            }
        }
    }
}
