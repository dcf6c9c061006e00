import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// Another program takes over, the one that is installed cannot be used, or the configuration cannot: mounts go on.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .timeLimit(.minutes(10))) struct UpgradeTests {
        /// Runs `body` with a daemon whose program is a file that may be replaced, and the path of that.
        private static func installed(
            _ first: String = Binary.path, environment: [String: String] = [:],
            _ body: (DaemonProcess, [String], Faults, _ program: String) throws -> Void
        ) throws {
            let program = "/tmp/remfs-installed-\(UInt32.random(in: 0 ... .max))"
            try install(first, as: program)
            defer { unlink(program) }
            try KillTests.mounted(environment: environment, program: program) { daemon, mounts, faults in
                try body(daemon, mounts, faults, program)
            }
        }

        private static func install(_ binary: String, as program: String) throws {
            try FileManager.default.copyItem(atPath: binary, toPath: program + ".new")
            try check(rename(program + ".new", program))
        }

        private static func installScript(_ text: String, as program: String) throws {
            try Data(text.utf8).write(to: URL(fileURLWithPath: program + ".new"))
            try check(chmod(program + ".new", 0o755))
            try check(rename(program + ".new", program))
        }

        private static func program(_ process: pid_t) throws -> String {
            try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/exe")
        }

        private static func wait(_ what: Comment, _ condition: () throws -> Bool) throws {
            let deadline = ContinuousClock.now + .seconds(30)
            while try !condition() {
                try #require(ContinuousClock.now < deadline, what)
                usleep(5_000)
            }
        }

        /// REMFS_UPGRADE_FROM names the binary to begin with, of an earlier commit: it is replaced by this one.
        @Test(arguments: [SIGHUP, SIGUSR1]) func anUpgradeUnderLoad(_ signal: Int32) throws {
            let earlier = ProcessInfo.processInfo.environment["REMFS_UPGRADE_FROM"]
            try Self.installed(earlier ?? Binary.path) { daemon, mounts, _, program in
                let holder = try #require(daemon.running).pid
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory)
                for _ in 1...3 {
                    usleep(200_000)
                    let before = try daemon.servingProcess()
                    try Self.install(Binary.path, as: program)
                    try check(kill(holder, signal))
                    #expect(daemon.notification() == "READY=1")
                    let next = try daemon.servingProcess()
                    #expect(next != before)
                    #expect(try Self.program(holder) == program && Self.program(next) == program, "\(daemon.running?.errors ?? "")")
                    #expect(clients.complaint == nil)
                }
                // And what follows is protected as ever.
                try Self.expectProtected(daemon, clients)
            }
        }

        /// The daemon that serves may be killed as ever, and nothing is lost.
        private static func expectProtected(_ daemon: DaemonProcess, _ clients: WorkingClients) throws {
            try check(kill(try daemon.servingProcess(), SIGKILL))
            #expect(daemon.notification() == "READY=1")
            try clients.finish()
            #expect(try daemon.stop().status == 0)
        }

        /// A program that does not understand what the holder leaves it gives the process back.
        @Test func aProgramThatUnderstandsNothingIsNotStayedWith() throws {
            try Self.installed { daemon, mounts, faults, program in
                let holder = try #require(daemon.running).pid
                let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory, kinds: ["append", "overwrite", "directory"])
                let serving = try daemon.servingProcess()
                try Self.install(Binary.path, as: program)
                faults.kill(at: .resumed)
                try check(kill(holder, SIGUSR1))
                try Self.wait("nobody says that it was refused") {
                    daemon.running?.errors.contains("the installed program does not understand what the holder keeps") ?? false
                }
                #expect(try Self.program(holder) == program + " (deleted)")
                #expect(try daemon.servingProcess() == serving)
                try Self.expectProtected(daemon, clients)
            }
        }

        /// It is started anew less and less often, and once it can be, it is.
        @Test func aHolderThatEndsAtOnceIsNotStartedWithoutAPause() throws {
            try Self.installed { daemon, mounts, _, program in
                let holder = try #require(daemon.running).pid
                let serving = try daemon.servingProcess()
                // What waits is of the same program still.
                let starts = daemon.directory + "/starts"
                try Self.installScript("#!/bin/sh\necho >> \(starts)\nexit 1\n", as: program)
                try check(kill(holder, SIGKILL))
                try Self.wait("no holder is tried") { (Files.text(starts) ?? "").count >= 4 }
                usleep(1_000_000)
                // 0, 20, 40, 80, 160, 320, 640 ms, and a little for each.
                #expect((Files.text(starts) ?? "").count <= 9)
                #expect(daemon.running?.errors.contains("no holder can be kept running") == true)
                #expect(try DaemonProcess.children(of: serving).count <= 1, "the dead are not taken in")
                try Data("still here".utf8).write(to: URL(fileURLWithPath: mounts[0] + "/a"))
                // Nor can nothing be started.
                try check(unlink(program))
                usleep(500_000)
                try Self.install(Binary.path, as: program)
                var next: pid_t = 0
                try Self.wait("no other holder") {
                    for child in try DaemonProcess.children(of: serving) where try DaemonProcess.children(of: child).count == 1 {
                        next = child
                    }
                    return next != 0
                }
                defer { kill(next, SIGTERM) }
                try check(kill(serving, SIGKILL))
                #expect(daemon.notification() == "READY=1")
                #expect(Files.text(mounts[0] + "/a") == "still here")
                try check(kill(next, SIGTERM))
                try Self.wait("mounts remain") { DaemonProcess.mounts(below: daemon.directory).isEmpty }
            }
        }

        /// Somebody breaks the configuration while it runs: whoever goes on does so with what was in force.
        @Test func aBrokenConfigurationEndsNobody() throws {
            try TemporaryDirectory.with { directory in
                let configuration = directory + "/remfs.yaml"
                try Data("log_level: info\n".utf8).write(to: URL(fileURLWithPath: configuration))
                try KillTests.mounted(environment: ["REMFS_CONFIG": configuration]) { daemon, mounts, _ in
                    let holder = try #require(daemon.running).pid
                    let clients = try WorkingClients(in: mounts[0], scratch: daemon.directory, kinds: ["append", "overwrite", "directory"])
                    try Data("log_level: [nonsense\nwhat: is this\n".utf8).write(to: URL(fileURLWithPath: configuration))
                    // The holder becomes itself once more.
                    try check(kill(holder, SIGUSR1))
                    #expect(daemon.notification() == "READY=1")
                    #expect(daemon.running?.errors.contains("the configuration cannot be used") == true)
                    for _ in 1...3 {
                        try check(kill(try daemon.servingProcess(), SIGKILL))
                        #expect(daemon.notification() == "READY=1")
                    }
                    #expect(clients.complaint == nil)
                    // And another holder.
                    let serving = try daemon.servingProcess()
                    try check(kill(holder, SIGKILL))
                    var next: pid_t = 0
                    try Self.wait("no other holder") {
                        for child in try DaemonProcess.children(of: serving) where try DaemonProcess.children(of: child).count == 1 {
                            next = child
                        }
                        return next != 0
                    }
                    defer { kill(next, SIGTERM) }
                    try check(kill(serving, SIGKILL))
                    #expect(daemon.notification() == "READY=1")
                    try clients.finish()
                    try check(kill(next, SIGTERM))
                    try Self.wait("mounts remain") { DaemonProcess.mounts(below: daemon.directory).isEmpty }
                    // A person who starts it is told.
                    #expect(try daemon.remfs("serve", environment: ["REMFS_CONFIG": configuration]).status == 65)
                }
            }
        }
    }
}
