import Foundation
import Glibc
import TestSupport
import Testing

/// The past below a mount, and mounts of it, across a daemon that dies.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct PastTests {
        private static func kill(_ daemon: DaemonProcess, _ signal: Int32) throws {
            let process = try daemon.servingProcess()
            try check(Glibc.kill(process, signal))
            #expect(daemon.notification() == "READY=1")
            #expect(try daemon.servingProcess() != process)
        }

        private static func run(_ daemon: DaemonProcess, in directory: String, _ script: String) throws -> String {
            try Program.start(["bash", "-ec", script], in: directory, scratch: daemon.directory, environment: daemon.environment).success()
        }

        /// A store with a memory at two times, and the moment between them.
        private static func prepared(_ body: (DaemonProcess, String, String) throws -> Void) throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let directory = "\(daemon.directory)/mnt"
                try check(mkdir(directory, 0o755))
                try daemon.output("memory", "write", "notes", "/d/e/f", input: "one\n")
                try daemon.output("memory", "write", "notes", "/d/g", input: "g\n")
                let log = try #require(try daemon.remfs("log", "notes", "/d/g", "--json").json()["data"] as? [[String: Any]])
                let then = try #require(log.first?["id"] as? String)
                try daemon.output("memory", "write", "notes", "/d/e/f", input: "two\n")
                try daemon.output("mount", "notes", directory)
                try body(daemon, directory, then)
            }
        }

        @Test(arguments: [SIGKILL, SIGHUP]) func whoIsInThePastStaysThere(_ signal: Int32) throws {
            try Self.prepared { daemon, directory, then in
                let at = "\(directory)/.remfs/at/\(then)"
                let file = try check(open(at + "/d/e/f", O_RDONLY | O_CLOEXEC))
                defer { close(file) }
                // A shell that stands in there, and reads when it is told to.
                let shell = try Program.start(
                    [
                        "bash", "-ec",
                        """
                        mkfifo "$SCRATCH/go"; cd \(at)/d; : > "$SCRATCH/in"
                        while read -r line < "$SCRATCH/go"; do
                            [ "$line" = end ] && break
                            cat e/f g; ls; pwd -P; ls ../../\(then)/d/e
                        done
                        """,
                    ], in: "/", scratch: daemon.directory,
                    environment: daemon.environment.merging(["SCRATCH": daemon.directory]) { $1 })
                while access("\(daemon.directory)/in", F_OK) != 0 { usleep(10_000) }
                let versions = "\(directory)/.remfs/versions/d/e"
                let listing = try check(open(versions, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
                defer { close(listing) }
                for round in 1...3 {
                    try Self.kill(daemon, signal)
                    #expect(try String(decoding: TestSupport.read(file, 10, at: 0), as: UTF8.self) == "one\n", "\(round)")
                    try Data("go\n".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/go"))
                    #expect(try Self.run(daemon, in: "/", "cat \(at)/d/e/f \(directory)/d/e/f; ls \(at)/d") == "one\ntwo\ne\ng\n")
                    #expect(try Self.run(daemon, in: "/", "ls \(versions)/f | wc -l; cat \(versions)/f/*") == "2\none\ntwo\n")
                    let inside = try check(openat(listing, "f", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
                    close(inside)
                }
                try Data("end\n".utf8).write(to: URL(fileURLWithPath: "\(daemon.directory)/go"))
                let seen = "one\ng\ne\ng\n\(at)/d\nf\n"
                #expect(try shell.success() == String(repeating: seen, count: 3))
            }
        }

        @Test func aMountOfAMomentOutlivesTheDaemon() throws {
            try Self.prepared { daemon, _, then in
                let past = "\(daemon.directory)/past"
                try check(mkdir(past, 0o755))
                let mount = try daemon.remfs("mount", "notes", past, "--at", then, "--json").json()
                #expect(mount["access"] as? String == "read_only" && (mount["at"] as? String)?.hasSuffix("Z") == true)
                let tree = "find -type f | sort; cat d/e/f; ls -A; touch new || [ $? = 1 ]; cat .remfs/status | grep access"
                let expected = "./d/e/f\n./d/g\none\nd\naccess: read_only\n"
                #expect(try Self.run(daemon, in: past, tree) == expected)
                let inside = try check(open(past + "/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
                for _ in 0..<2 {
                    try Self.kill(daemon, SIGKILL)
                    let file = try check(openat(inside, "g", O_RDONLY | O_CLOEXEC))
                    #expect(try String(decoding: TestSupport.read(file, 10, at: 0), as: UTF8.self) == "g\n")
                    close(file)
                    #expect(try Self.run(daemon, in: past, tree) == expected)
                }
                close(inside)
                // What was is not made writable, in no way.
                let id = try #require(mount["id"] as? String)
                let switched = try daemon.http("POST", "/v1/mounts/\(id)", #"{"access": "read_write"}"#).status
                #expect(switched == 400)
                #expect(open(past + "/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644) == -1 && errno == EROFS)
                #expect(open(past + "/d/g", O_WRONLY | O_CLOEXEC) == -1 && errno == EROFS)
                try daemon.output("unmount", past)
            }
        }

        @Test func onlyWhatWasCanBeMounted() throws {
            try Self.prepared { daemon, _, then in
                let past = "\(daemon.directory)/past"
                try check(mkdir(past, 0o755))
                for (at, status) in [
                    ("2001-01-01T00:00:00Z", Int32(66)), ("2101-01-01T00:00:00Z", 65), ("yesterday", 65), ("memver_0", 65),
                ] {
                    let refused = try daemon.remfs("mount", "notes", past, "--at", at)
                    #expect(refused.status == status, "\(at): \(refused.errors)")
                }
                let body = #"{"memory_store_id": "notes", "directory": "\#(past)", "at": "\#(then)", "access": "read_write"}"#
                let store = try #require(
                    (try daemon.remfs("store", "list", "--json").json()["data"] as? [[String: Any]])?.first?["id"] as? String)
                let answer = try daemon.http("POST", "/v1/mounts", body.replacingOccurrences(of: "\"notes\"", with: "\"\(store)\"")).status
                #expect(answer == 400)
                #expect(DaemonProcess.mounts(below: past).isEmpty)
            }
        }
    }
}
