import Foundation
import Glibc
import TestSupport
import Testing

/// Mounts from the outside: that they come, go, and outlive nothing they should not.
extension ServeTests {
    static let hasFuse = access("/dev/fuse", R_OK | W_OK) == 0

    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct MountTests {
        /// A daemon with a store `notes` mounted read-write on `directory/mnt`.
        private static func mounted(_ body: (DaemonProcess, String) throws -> Void) throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let directory = "\(daemon.directory)/mnt"
                try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
                try daemon.output("mount", "notes", directory)
                try body(daemon, directory)
            }
        }

        private static func write(_ text: String, to file: String) -> Int32 {
            let descriptor = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
            guard descriptor >= 0 else { return errno }
            defer { close(descriptor) }
            return Glibc.write(descriptor, text, text.utf8.count) == text.utf8.count ? 0 : errno
        }

        /// As mount(8) runs it: by a name of its own, with options as in /etc/fstab.
        @Test func theHelperOfMountMounts() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/a", input: "here")
                let directory = "\(daemon.directory)/mnt"
                try check(mkdir(directory, 0o755))
                let helper = "\(daemon.directory)/mount.fuse.remfs"
                try check(symlink(Binary.path, helper))
                func mount(_ arguments: String...) throws -> Program.Outcome {
                    try Program.start([helper] + arguments, in: "/", scratch: daemon.directory, environment: daemon.environment).wait()
                }
                #expect(try mount("notes", directory, "-o", "rw,quota").status == 32)
                #expect(try mount("nobody", directory, "-o", "rw").status == 32)
                #expect(try mount("notes", directory, "-f").status == 0)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                let mounted = try mount("notes", directory, "-v", "-o", "ro,noexec,nofail,x-systemd.requires=remfs.service,umask=027,uid=7")
                #expect(mounted.status == 0, "\(mounted.errors)")
                #expect(try String(contentsOfFile: "\(directory)/a", encoding: .utf8) == "here")
                var status = stat()
                try check(stat("\(directory)/a", &status))
                #expect(status.st_uid == 7 && status.st_mode & 0o777 == 0o640)
                #expect(Self.write("x", to: "\(directory)/b") == EROFS)
            }
        }

        /// What a thousand saves of a growing file leave on the disk, journal included, when it has been quiet for ten seconds.
        @Test func historyStaysSmallByItself() throws {
            try Self.mounted { daemon, directory in
                let line = "one more line of what was learned today\n"
                var generator = SeededRandom(seed: 20)
                let start = (0..<50_000).map { $0 % 80 == 79 ? "\n" : String(UnicodeScalar(UInt8.random(in: 97...122, using: &generator))) }
                    .joined()
                try #require(Self.write(start, to: "\(directory)/log.md") == 0)
                let stores = "\(daemon.state)/stores"
                func bytes() throws -> Int {
                    try FileManager.default.contentsOfDirectory(atPath: stores).reduce(0) { sum, name in
                        var status = stat()
                        try check(stat("\(stores)/\(name)", &status))
                        return sum + Int(status.st_blocks) * 512
                    }
                }
                _ = try daemon.output("log", "notes")
                let before = try bytes()
                try Program.start(
                    ["bash", "-c", "for i in $(seq 1000); do echo \"${line}$i\" >> '\(directory)/log.md'; done"], in: "/",
                    scratch: daemon.directory, environment: ["line": String(line.dropLast())]
                ).success()
                let deadline = ContinuousClock.now + .seconds(10 * Sanitizer.slowdown)
                while try bytes() - before > 2 << 20, ContinuousClock.now < deadline { usleep(100_000) }
                #expect(try bytes() - before <= 2 << 20)

                let versions = try #require(
                    try daemon.remfs("log", "notes", "/log.md", "--limit", "2000", "--json").json()["data"] as? [[String: Any]])
                try #require(versions.count == 1_001)
                for place in stride(from: 0, to: 1_001, by: 40) {
                    let id = try #require(versions[1_000 - place]["id"] as? String)
                    let expected = start + (0..<place).map { line.dropLast() + "\($0 + 1)\n" }.joined()
                    #expect(try daemon.output("memory", "cat", "notes", "/log.md", id) == expected)
                }
            }
        }

        @Test func aMountIsLiveWhenTheCommandReturns() throws {
            try Self.mounted { daemon, directory in
                let writer = try Program.start(
                    ["sh", "-c", "printf 'through the mount' > '\(directory)/a.md'"], in: "/", scratch: daemon.directory)
                try writer.success()
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "through the mount")
                try daemon.output("memory", "write", "notes", "/b.md", input: "through the API")
                #expect(try String(contentsOfFile: "\(directory)/b.md", encoding: .utf8) == "through the API")
                let status = try daemon.remfs("status", "--json").json()
                let mount = try #require((status["mounted"] as? [[String: Any]])?.first)
                #expect(mount["directory"] as? String == directory)
                #expect(mount["state"] as? String == "mounted" && mount["access"] as? String == "read_write")
                #expect(
                    Set(mount.keys) == [
                        "id", "type", "memory_store_id", "session_id", "directory", "access", "at", "state", "created_at", "remfs",
                    ])
                let version = try #require(try daemon.remfs("log", "notes", "/a.md", "--json").json()["data"] as? [[String: Any]]).first
                #expect(version?["created_by"] as? [String: String] == ["type": "user_actor", "user_id": "user_\(geteuid())"])
                #expect((version?["writer"] as? [String: Any])?["pid"] as? Int == Int(writer.pid))
                #expect((version?["writer"] as? [String: Any])?["command"] as? String == "sh")

                let requests = try daemon.http("GET", "/v1/mounts/\(mount["id"] as? String ?? "")/requests").json()
                #expect(((requests["requests"] as? [String: Any])?["write"] as? Int ?? 0) >= 1, "\(requests)")
                let metrics = String(decoding: try daemon.http("GET", "/metrics").body, as: UTF8.self)
                #expect(metrics.contains("\nremfs_mounts 1\n"))
                #expect(metrics.contains("remfs_fuse_requests_total{op=\"write\",errno=\"0\"}"))
                #expect(metrics.contains("remfs_fuse_request_seconds_count{op=\"write\"}"))

                try daemon.output("unmount", directory)
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(try daemon.remfs("unmount", directory).status == 66)
            }
        }

        @Test func accessIsSwitchedOnALiveMount() throws {
            try Self.mounted { daemon, directory in
                let id = try #require(try daemon.http("GET", "/v1/mounts").data().first?["id"] as? String)
                let closed = try daemon.http("POST", "/v1/mounts/\(id)", #"{"access": "read_only"}"#)
                #expect(try closed.json()["access"] as? String == "read_only")
                #expect(Self.write("x", to: "\(directory)/a") == EROFS)
                #expect(try daemon.http("POST", "/v1/mounts/\(id)", #"{"access": "read_write"}"#).status == 200)
                #expect(Self.write("x", to: "\(directory)/a") == 0)
                #expect(try daemon.http("POST", "/v1/mounts/\(id)", #"{"access": "none"}"#).status == 400)
                #expect(try daemon.http("POST", "/v1/mounts/\(id)", #"{"colour": "red"}"#).status == 400)
                #expect(try daemon.http("POST", "/v1/mounts/\(id)", "{}").status == 400)

                try daemon.output("store", "set", "notes", "--access", "read_only")
                #expect(Self.write("y", to: "\(directory)/a") == EROFS)
                try daemon.output("store", "set", "notes", "--access", "read_write")
                #expect(Self.write("y", to: "\(directory)/a") == 0)
                try daemon.output("store", "archive", "notes")
                #expect(Self.write("z", to: "\(directory)/a") == EROFS)
                #expect(try String(contentsOfFile: "\(directory)/a", encoding: .utf8) == "y")
            }
        }

        @Test func aWriteOverWhatItsAuthorNeverSawIsListedAndMerged() throws {
            try Self.mounted { daemon, one in
                let other = "\(daemon.directory)/other"
                try FileManager.default.createDirectory(atPath: other, withIntermediateDirectories: false)
                try daemon.output("mount", "notes", other)
                /// Both read `base`; the other mount saves `theirs`, then this one saves `ours` over it, unseen.
                func race(_ file: String, _ base: String, theirs: String, ours: String) throws {
                    try daemon.output("memory", "write", "notes", file, input: base)
                    for directory in [one, other] { #expect(try String(contentsOfFile: directory + file, encoding: .utf8) == base) }
                    #expect(Self.write(theirs, to: other + file) == 0)
                    #expect(try daemon.output("memory", "cat", "notes", file) == theirs, "their save is sealed")
                    #expect(Self.write(ours, to: one + file) == 0)
                }
                try race("/clean", "a\nb\nc\nd\ne\n", theirs: "A\nb\nc\nd\ne\n", ours: "a\nb\nc\nd\nE\n")
                #expect(try daemon.remfs("merge", "notes", "/nowhere").status == 66)
                let log = try #require(try daemon.remfs("log", "notes", "--stale", "--json").json()["data"] as? [[String: Any]])
                #expect(log.count == 1)
                #expect(log.first?["path"] as? String == "/clean")
                #expect(log.first?["stale"] as? Bool == true)
                #expect((log.first?["base_version_id"] as? String)?.hasPrefix("memver_01") == true)
                #expect(try daemon.output("log", "notes", "/clean").contains("modified stale"))
                #expect(try daemon.output("merge", "notes", "/clean").hasPrefix("memver_01"))
                #expect(try String(contentsOfFile: one + "/clean", encoding: .utf8) == "A\nb\nc\nd\nE\n")

                try race("/torn", "a\n", theirs: "b\n", ours: "c\n")
                let torn = try daemon.remfs("merge", "notes", "/torn", "--json")
                #expect(torn.status == 1)
                #expect(try torn.json()["conflicts"] as? Int == 1)
                #expect(torn.errors.contains("/torn"))
                #expect(try daemon.output("memory", "cat", "notes", "/torn").contains("<<<<<<<"))

                try daemon.output("memory", "write", "notes", "/calm", input: "x")
                #expect(try daemon.remfs("merge", "notes", "/calm").status == 65)
            }
        }

        @Test func aBusyMountIsUnmountedOnlyLazily() throws {
            try Self.mounted { daemon, directory in
                let file = open("\(directory)/a", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
                try #require(file >= 0)
                let refused = try daemon.remfs("unmount", directory)
                #expect(refused.status == 75)
                #expect(refused.errors.hasPrefix("remfs: busy: \(directory)"))
                try daemon.output("unmount", directory, "--lazy")
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(Glibc.write(file, "late", 4) == 4)
                close(file)
            }
        }

        @Test func whatCannotBeMountedOnIsRefused() throws {
            try Self.mounted { daemon, directory in
                for (store, target, status) in [
                    ("notes", directory, 75), ("notes", "\(daemon.directory)/missing", 66), ("notes", "\(daemon.directory)/notify", 65),
                    ("notes", daemon.state, 65), ("nobody", daemon.state, 66),
                ] as [(String, String, Int32)] {
                    let result = try daemon.remfs("mount", store, target)
                    #expect(result.status == status, "\(store) on \(target): \(result.errors)")
                }
                #expect(DaemonProcess.mounts(below: daemon.directory) == [directory])
            }
        }

        @Test func aDirectoryIsNamedAsInAShell() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let (place, target) = ("\(daemon.directory)/place", "\(daemon.directory)/place/dir")
                try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: true)
                try FileManager.default.createSymbolicLink(atPath: "\(daemon.directory)/link", withDestinationPath: target)
                func run(_ command: String, _ name: String, in directory: String) throws -> Program.Outcome {
                    try Program.start(
                        [Binary.path] + (command == "mount" ? ["mount", "notes", name] : [command, name]), in: directory,
                        scratch: daemon.directory, environment: daemon.environment
                    ).wait()
                }
                for (name, directory) in [
                    ("dir", place), ("./dir", place), ("dir/", place), (".//dir/.", place), ("../place/dir", place), (".", target),
                    ("../dir", target), ("\(place)//dir/", "/"),
                ] {
                    let mounted = try run("mount", name, in: directory)
                    #expect(mounted.status == 0, "\(name) in \(directory): \(mounted.errors)")
                    #expect(DaemonProcess.mounts(below: daemon.directory) == [target])
                    // Who stands in it would hold it.
                    let unmounted = try run("unmount", directory == target ? target : name, in: directory == target ? "/" : directory)
                    #expect(unmounted.status == 0, "\(name) in \(directory): \(unmounted.errors)")
                }
                for name in ["link", "link/.", "link/../dir", "../link"] {
                    let refused = try run("mount", name, in: name == "../link" ? place : daemon.directory)
                    #expect(refused.status == 65, "\(name): \(refused.errors)")
                }
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
            }
        }

        @Test func aStopUnmountsEvenWhatIsInUse() throws {
            try Self.mounted { daemon, directory in
                let file = open("\(directory)/a", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
                try #require(file >= 0 && Glibc.write(file, "kept", 4) == 4)
                defer { close(file) }
                let result = try daemon.stop()
                #expect(result.status == 0, "\(result.errors)")
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                try daemon.start()
                #expect(try daemon.output("memory", "cat", "notes", "/a") == "kept")
            }
        }

        @Test func aKilledDaemonsMountIsClearedByTheNext() throws {
            try Self.mounted { daemon, directory in
                #expect(Self.write("kept", to: "\(directory)/a") == 0)
                #expect(try daemon.stop(SIGKILL).status == 128 + SIGKILL)
                // Who comes while the last of the two processes dies hears ECONNABORTED.
                let deadline = ContinuousClock.now + .seconds(10)
                var code: Int32 = 0
                repeat { code = Self.write("lost", to: "\(directory)/a") } while code != ENOTCONN && ContinuousClock.now < deadline
                #expect(code == ENOTCONN)
                try daemon.start()
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(try daemon.output("memory", "cat", "notes", "/a") == "kept")
                try daemon.output("mount", "notes", directory)
                #expect(try String(contentsOfFile: "\(directory)/a", encoding: .utf8) == "kept")
            }
        }
    }

    @Test func theDemoShowsWhatItClaims() throws {
        var environment = DaemonProcess.environment("/nowhere")
        environment["REMFS_STATE_DIR"] = nil
        environment["REMFS_RUNTIME_DIR"] = nil
        let result = try Binary.run(["demo"], environment: environment)
        if Self.hasFuse {
            #expect(result.status == 0, "\(result.output)\n\(result.errors)")
            #expect(result.output.contains("claims were checked."))
            #expect(result.output.split(separator: "\n").count { $0.hasPrefix("# checked: ") } == 25)
        } else {
            #expect(result.status == 69)
            #expect(result.errors.contains("/dev/fuse"))
        }
        let scratch = try #require(result.output.firstMatch(of: /\/[^ ]*remfs-demo-[A-Za-z0-9]+/)).output
        #expect(!FileManager.default.fileExists(atPath: String(scratch)))
    }

    /// Runs the demo where `/dev/fuse` is what `commands` make of it, for nobody but it: in a mount namespace that goes with it.
    private static func demo(where commands: String, as user: String, _ check: (Program.Outcome) throws -> Void) throws {
        guard geteuid() == 0 else {
            print("skipped: only root can be somebody else, and make devices")
            return
        }
        try TemporaryDirectory.with { scratch in
            let home = "\(scratch)/home"
            try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: false)
            try #require(chmod(scratch, 0o755) == 0 && chmod(home, 0o777) == 0)
            let run = "setpriv --reuid \(user) --regid \(user) --clear-groups env HOME=\(home) TMPDIR=\(home)"
            let script = """
                set -e
                mount -t tmpfs -o dev none /mnt
                \(commands)
                mount --bind /mnt/fuse /dev/fuse
                \(run) test -x '\(Binary.path)' || exit 125
                exec \(run) '\(Binary.path)' demo
                """
            let result = try Program.start(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], in: "/", scratch: scratch,
                environment: DaemonProcess.sanitizers
            ).wait()
            guard result.status != 125 else {
                print("skipped: this directory is closed to other users")
                return
            }
            try check(result)
            #expect(try FileManager.default.contentsOfDirectory(atPath: home).isEmpty)
        }
    }

    /// 65534 is nobody, who has an entry in every user database: fusermount3 wants one.
    @Test(.enabled(if: hasFuse, "needs /dev/fuse")) func theDemoWorksForAnOrdinaryUser() throws {
        try Self.demo(where: "mknod -m 666 /mnt/fuse c 10 229", as: "65534") { result in
            #expect(result.status == 0, "\(result.output)\n\(result.errors)")
            #expect(result.output.contains("claims were checked.") && result.output.contains("two seconds of quiet"))
        }
    }

    @Test(.enabled(if: hasFuse, "needs /dev/fuse")) func theDemoSaysThatThereIsNoDevice() throws {
        try Self.demo(where: "touch /mnt/fuse", as: "0") { result in
            #expect(result.status == 69)
            #expect(result.errors == "remfs: unavailable: the demo mounts a store, and /dev/fuse is no device here\n")
        }
    }

    @Test(.enabled(if: hasFuse, "needs /dev/fuse"), arguments: [1, 12, 60]) func aDemoThatNobodyReadsLeavesNothing(_ lines: Int) throws {
        try TemporaryDirectory.with { scratch in
            let place = "\(scratch)/place"
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: false)
            let result = try Program.start(
                ["bash", "-c", "'\(Binary.path)' demo | head -\(lines) > /dev/null; echo ${PIPESTATUS[0]}"], in: "/", scratch: scratch,
                environment: ["TMPDIR": place].merging(DaemonProcess.sanitizers) { $1 }
            ).wait()
            #expect(result.output == "141\n")
            #expect(result.errors == "")
            #expect(try FileManager.default.contentsOfDirectory(atPath: place).isEmpty)
            #expect(DaemonProcess.mounts(below: place).isEmpty)
        }
    }

    @Test(.enabled(if: hasFuse, "needs /dev/fuse")) func anInterruptedDemoLeavesNothing() throws {
        let demo = try Binary.start(["demo"], environment: DaemonProcess.environment("/nowhere"))
        // Any moment will do; this is one with a mount.
        while demo.isRunning, !demo.output.contains("remfs status") { sched_yield() }
        demo.signal(SIGINT)
        let result = try demo.wait()
        #expect(result.status == 130, "\(result.errors)")
        if let scratch = result.output.firstMatch(of: /\/[^ ]*remfs-demo-[A-Za-z0-9]+/)?.output {
            #expect(!FileManager.default.fileExists(atPath: String(scratch)))
            #expect(DaemonProcess.mounts(below: String(scratch)).isEmpty)
        }
    }
}
