import Foundation
import Glibc
import TestSupport
import Testing

/// The daemon is stopped as a whole, as a debugger, a frozen container or a machine that sleeps does it; and so are its clients, for good.
extension FaultTests {
    @Suite struct PauseTests {
        /// s. The long form is longer than the daemon's own patience with a kernel that does not answer.
        static let pause = isLong ? 35 : 3

        /// Whoever works in a mount waits, and goes on.
        @Test func whoeverWaitsForAStoppedDaemonGoesOn() async throws {
            try await blocking {
                try mounted { daemon, root in
                    let second = try mount("notes", on: "second", by: daemon)
                    // Two mounts of one store, so that the kernel is being told of changes at every moment.
                    let clients = Clients<String>()
                    for (name, mine, theirs) in [("one", root, second), ("two", second, root)] {
                        clients.start(name) { goesOn in
                            var number = 0
                            do {
                                repeat {
                                    number += 1
                                    try save("\(number)", to: "\(mine)/\(name)")
                                    // What the other mount shows may be a moment old.
                                    let read = Files.text("\(theirs)/\(name)") ?? ""
                                    guard (Int(read) ?? 0) <= number else { return "read \(read) after \(number)" }
                                    try withOpen("\(mine)/log", O_WRONLY | O_CREAT | O_APPEND) {
                                        try Files.write(Array("\(name) \(number)\n".utf8), to: $0)
                                    }
                                    try check(rename("\(mine)/\(name)", "\(mine)/\(name)-\(number % 10)"))
                                } while goesOn()
                                return "done \(number)"
                            } catch { return "\(error) at \(number)" }
                        }
                    }
                    try wait { clients.fewestSteps > 5 || !clients.answers.isEmpty }
                    #expect(clients.answers.isEmpty)
                    let process = try daemon.servingProcess()
                    try stop(process)
                    let before = clients.fewestSteps
                    sleep(UInt32(Self.pause))
                    #expect(!clients.haveEnded)
                    #expect(clients.fewestSteps <= before + 1, "the daemon was not stopped")
                    try check(kill(process, SIGCONT))
                    try wait { !clients.answers.isEmpty || clients.fewestSteps > before + 20 }
                    let outcomes = clients.stop()
                    var lines: [String] = []
                    for (name, outcome) in outcomes {
                        let count = try #require(outcome.hasPrefix("done ") ? Int(outcome.dropFirst(5)) : nil, "\(name): \(outcome)")
                        lines += (1...count).map { "\(name) \($0)" }
                    }
                    #expect(try text(root + "/log").split(separator: "\n").map(String.init).sorted() == lines.sorted())
                    #expect(try daemon.servingProcess() == process)
                    #expect(daemon.running?.errors.contains("aborted") == false, "\(daemon.running?.errors ?? "")")
                    try expectSound(daemon, "after a pause of \(Self.pause) s")
                    print("\(Self.pause) s of pause, then \(outcomes)")
                    #expect(try daemon.stop().status == 0)
                }
            }
        }

        /// A client that is killed while its request waits leaves the mount to others, and its change whole or undone.
        @Test func aClientMayDieInsideARequest() async throws {
            try await blocking {
                try mounted { daemon, root in
                    let calls = [
                        "append": "os.write(os.open('log', os.O_WRONLY | os.O_APPEND), b'line\\n')",
                        "create": "os.open('made', os.O_WRONLY | os.O_CREAT | os.O_EXCL)",
                        "write": "os.write(os.open('large', os.O_WRONLY | os.O_CREAT), b'x' * 1000000)",
                        "rename": "os.rename('here', 'there')", "mkdir": "os.mkdir('directory')", "lookup": "os.stat('absent')",
                        "fsync": "f = os.open('log', os.O_WRONLY | os.O_APPEND); os.write(f, b'line\\n'); os.fsync(f)",
                    ]
                    for round in 1...(isLong ? 20 : 2) {
                        for (name, call) in calls.sorted(by: { $0.key < $1.key }) {
                            let directory = "\(root)/\(name)-\(round)"
                            try check(mkdir(directory, 0o755))
                            for file in ["log", "here"] { try save("first\n", to: "\(directory)/\(file)") }
                            let process = try daemon.servingProcess()
                            let ready = "\(daemon.directory)/ready"
                            let go = "\(daemon.directory)/go"
                            let client = try Program.start(
                                [
                                    "python3", "-c",
                                    """
                                    import os, time
                                    os.chdir('\(directory)')
                                    open('\(ready)', 'w').close()
                                    while not os.path.exists('\(go)'): time.sleep(0.001)
                                    \(call)
                                    """,
                                ], in: "/", scratch: daemon.directory)
                            try wait { access(ready, F_OK) == 0 }
                            try stop(process)
                            try save("", to: go)
                            // In the kernel it waits for the daemon: it has asked for something, and nothing happens any more.
                            func state(_ process: Int32, _ file: String) -> String { Files.text("/proc/\(process)/\(file)") ?? "none" }
                            do { try wait { state(client.pid, "stack").contains("fuse") } } catch {
                                Issue.record("\(name): \(state(client.pid, "stack"))\(state(client.pid, "status"))")
                                Issue.record("the daemon: \(state(process, "status"))")
                                throw error
                            }
                            client.signal(SIGKILL)
                            try check(kill(process, SIGCONT))
                            #expect(try client.wait().status == 128 + SIGKILL, "\(name)")
                            for file in [ready, go] { try check(unlink(file)) }

                            let names = Set(try Files.names(in: directory))
                            #expect(try ["first\n", "first\nline\n"].contains(text(directory + "/log")), "\(name)")
                            #expect(names.contains("here") != names.contains("there"), "\(name)")
                            #expect(try text(directory + (names.contains("here") ? "/here" : "/there")) == "first\n")
                            if names.contains("large") {
                                #expect(try Files.bytes(directory + "/large").allSatisfy { $0 == UInt8(ascii: "x") })
                            }
                            // Nothing of it is in the way of others.
                            try save("second", to: directory + "/log")
                            try check(unlink(directory + "/log"))
                        }
                    }
                    try expectSound(daemon, "after clients died")
                    try daemon.output("unmount", root)
                    #expect(try daemon.stop().status == 0)
                }
            }
        }
    }
}
