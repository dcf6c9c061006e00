import Foundation
import Glibc
import TestSupport
import Testing

/// A daemon of somebody who is not root, and mounts through `fusermount3`. Each difference that Operations lists has its test here.
extension ServeTests {
    /// Only root can be somebody else, and make devices.
    static let canBeOthers = hasFuse && geteuid() == 0

    @Suite(.serialized, .enabled(if: ServeTests.canBeOthers, "needs root and /dev/fuse"), .timeLimit(.minutes(3)))
    struct OrdinaryUserTests {
        /// The versions of one memory, the newest first.
        private static func log(_ user: OrdinaryUser, _ path: String) throws -> [[String: Any]] {
            try #require(try user.daemon.remfs("log", "notes", path, "--json").json()["data"] as? [[String: Any]])
        }

        /// Waits until a memory has so many versions, and expects them to be these, the newest first.
        private static func expect(_ operations: [String], of path: String, _ user: OrdinaryUser) throws {
            let deadline = ContinuousClock.now + .seconds(20)
            while try log(user, path).count < operations.count, ContinuousClock.now < deadline { usleep(100_000) }
            #expect(try log(user, path).compactMap { $0["operation"] as? String } == operations, "\(path)")
        }

        private static func mounted(_ options: [String] = [], _ body: (OrdinaryUser, _ directory: String) throws -> Void) throws {
            try OrdinaryUser.with { user in
                try user.daemon.start()
                try user.daemon.output("store", "create", "notes")
                let directory = try user.makeDirectory("mnt")
                let result = try Binary.run(
                    ["mount", "notes", directory] + options, environment: user.daemon.environment, launcher: user.daemon.launcher)
                try #require(result.status == 0, "\(result.errors)")
                try body(user, directory)
            }
        }

        @Test func savesEndWithQuiet() throws {
            try Self.mounted { user, directory in
                #expect(user.daemon.running?.errors.contains("no close events without root") == true)
                try user.run("echo one > \(directory)/a && mkdir \(directory)/d && echo x > \(directory)/d/b && ln -s a \(directory)/l")
                #expect(try user.run("cat \(directory)/l \(directory)/d/b") == "one\nx\n")
                #expect(try Self.log(user, "/a").isEmpty, "nobody has told the daemon that the file is closed")
                try Self.expect(["created"], of: "/a", user)
                let writer = try #require(try Self.log(user, "/a").first?["writer"] as? [String: Any])
                #expect(writer["uid"] as? Int == OrdinaryUser.uid)
                // Two saves within two seconds are one.
                try user.run("echo two >> \(directory)/a; echo three >> \(directory)/a")
                try Self.expect(["modified", "created"], of: "/a", user)
                try user.run("echo four >> \(directory)/a")
                try Self.expect(["modified", "modified", "created"], of: "/a", user)
                #expect(try user.daemon.output("memory", "cat", "notes", "/a") == "one\ntwo\nthree\nfour\n")
                // As for root from here: identity across a replacement, removal, the mount seen from inside.
                try user.run("sed -i s/one/uno/ \(directory)/a && rm \(directory)/d/b")
                try Self.expect(["modified", "modified", "modified", "created"], of: "/a", user)
                try Self.expect(["deleted", "created"], of: "/d/b", user)
                #expect(try user.run("cat \(directory)/.remfs/status").contains("access: read_write"))
            }
        }

        @Test func aStrictMountHearsOfCloses() throws {
            try Self.mounted(["--coherence", "strict"]) { user, directory in
                // RELEASE tells, which needs no fanotify: two saves are two versions.
                try user.run("echo one > \(directory)/a; echo two >> \(directory)/a")
                try Self.expect(["modified", "created"], of: "/a", user)
            }
        }

        @Test func aReadOnlyMountIsReadOnlyToTheKernel() throws {
            try Self.mounted(["--read-only", "--noexec"]) { user, directory in
                let line = try #require(try user.mounts().first)
                #expect(line.contains(" fuse.remfs ") && line.contains("ro,") && line.contains("noexec"))
                #expect(try user.attempt("touch \(directory)/a").errors.contains("Read-only file system"))
            }
        }

        /// The superblock stays writable, so `open` succeeds; no byte arrives all the same. And nothing is left of it in the kernel's pages.
        @Test func aLiveMountIsSwitched() throws {
            try Self.mounted { user, directory in
                try user.run("echo one > \(directory)/a")
                let id = try #require(try user.daemon.http("GET", "/v1/mounts").data().first?["id"] as? String)
                func access(_ access: String) throws {
                    #expect(try user.daemon.http("POST", "/v1/mounts/\(id)", "{\"access\": \"\(access)\"}").status == 200)
                }
                for _ in 1...2 {
                    try access("read_only")
                    #expect(try user.mounts().first?.contains("rw,") == true)
                    let script = """
                        import errno, os
                        os.chdir("\(directory)")
                        file = os.open("a", os.O_WRONLY | os.O_APPEND)
                        calls = (lambda: os.write(file, b"two"), lambda: os.unlink("a"), lambda: os.mkdir("d"), lambda: os.truncate("a", 0))
                        for call in calls:
                            try: call()
                            except OSError as error: print(errno.errorcode[error.errno])
                        """
                    #expect(try user.run("python3 -c '\(script)'; cat \(directory)/a") == "EROFS\nEROFS\nEROFS\nEROFS\none\n")
                    try access("read_write")
                    try user.run("echo two >> \(directory)/a && printf 'one\\n' > \(directory)/a")
                }
            }
        }

        /// Writers go on through kills of the daemon and through hand-overs, of the daemon and of both processes.
        @Test func theMountOutlivesTheDaemon() throws {
            try Self.mounted { user, directory in
                let writer = try user.start(
                    """
                    n=0; exec 5>>\(directory)/open
                    while [ ! -e \(user.daemon.directory)/stop ]; do
                        echo $n >> \(directory)/log || exit 1; echo $n >&5 || exit 2
                        mkdir \(directory)/d || exit 3; rmdir \(directory)/d || exit 4; n=$((n + 1))
                    done; echo $n
                    """)
                let holder = try #require(user.daemon.running).pid
                for round in 0..<6 {
                    usleep(200_000)
                    let serving = try user.daemon.servingProcess()
                    switch round % 3 {
                    case 0: try check(kill(serving, SIGKILL))
                    case 1: try check(kill(serving, SIGHUP))
                    default: try check(kill(holder, SIGUSR1))
                    }
                    #expect(user.daemon.notification() == "READY=1")
                    #expect(try user.daemon.servingProcess() != serving)
                }
                usleep(200_000)
                try user.run("touch \(user.daemon.directory)/stop")
                let count = try #require(Int(try writer.success().trimmingCharacters(in: .newlines)))
                for name in ["log", "open"] {
                    let lines = try user.run("cat \(directory)/\(name)").split(separator: "\n").compactMap { Int($0) }
                    #expect(count > 0 && lines == Array(0..<count), "\(name)")
                }
                #expect(try user.daemon.stop().status == 0)
                #expect(try user.mounts().isEmpty)
            }
        }

        @Test func unmountAndStopEndIt() throws {
            try Self.mounted { user, directory in
                let stop = "\(user.daemon.directory)/stop"
                let reader = try user.start("cd \(directory) && echo in && while [ ! -e \(stop) ]; do sleep 0.05; done")
                while reader.output.isEmpty, reader.isRunning { usleep(1_000) }
                let busy = try user.daemon.remfs("unmount", directory)
                #expect(busy.status == 75 && busy.errors.contains("in use"), "\(busy.errors)")
                #expect(try user.mounts().count == 1)
                try user.daemon.output("unmount", directory, "--lazy")
                #expect(try user.mounts().isEmpty)
                try user.run("touch \(stop)")
                try reader.success()
                try user.daemon.output("mount", "notes", directory)
                try user.run("echo x > \(directory)/a")
                // The user's own `fusermount3` will do as well.
                try user.run("fusermount3 -u \(directory)")
                let deadline = ContinuousClock.now + .seconds(20)
                while try !user.daemon.http("GET", "/v1/mounts").data().isEmpty, ContinuousClock.now < deadline { usleep(10_000) }
                #expect(try user.daemon.output("memory", "cat", "notes", "/a") == "x\n")
                try user.daemon.output("mount", "notes", directory)
                let started = try #require(user.daemon.running).pid
                let processes = [started] + (try DaemonProcess.children(of: started))
                #expect(try user.daemon.stop().status == 0)
                #expect(try user.mounts().isEmpty)
                #expect(access(user.daemon.socket, F_OK) != 0)
                for process in processes { #expect(kill(process, 0) == -1) }
            }
        }

        @Test func whatAllProcessesLeaveIsCleared() throws {
            try Self.mounted { user, directory in
                try user.run("echo kept > \(directory)/a")
                #expect(try user.daemon.stop(SIGKILL).status == 128 + SIGKILL)
                let deadline = ContinuousClock.now + .seconds(20)
                while ContinuousClock.now < deadline, try !user.attempt("ls \(directory)").errors.contains("not connected") {
                    usleep(10_000)
                }
                try user.daemon.start()
                #expect(try user.mounts().isEmpty)
                #expect(user.daemon.running?.errors.contains("dead mount of an earlier run cleared") == true)
                try user.daemon.output("mount", "notes", directory)
                #expect(try user.run("cat \(directory)/a") == "kept\n")
            }
        }

        /// Not even root comes in, unless the machine allows it and the mount asks for it.
        @Test func othersComeInWhereAllowed() throws {
            try Self.mounted { user, directory in
                try user.run("echo x > \(directory)/a && chmod 644 \(directory)/a")
                #expect(try user.attempt("cat \(directory)/a", as: 0).errors.contains("Permission denied"))
                #expect(try user.attempt("cat \(directory)/a", as: 65_533).errors.contains("Permission denied"))
                let other = try user.makeDirectory("other")
                try user.writeConfiguration("")
                let refused = try user.daemon.remfs("mount", "notes", other, "--allow-other")
                #expect(refused.status == 77 && refused.errors.contains("user_allow_other"), "\(refused.errors)")
                try user.writeConfiguration("user_allow_other\n")
                try user.daemon.output("mount", "notes", other, "--allow-other")
                #expect(try user.run("cat \(other)/a", as: 65_533) == "x\n")
                #expect(try user.run("cat \(other)/a", as: 0) == "x\n")
                // Modes hold for them.
                #expect(try user.attempt("echo y >> \(other)/a", as: 65_533).errors.contains("Permission denied"))
            }
        }

        /// `fusermount3` counts all FUSE mounts there are.
        @Test func moreMountsThanTheMachineAllowsAreRefused() throws {
            try Self.mounted { user, _ in
                let there = try user.run("grep -cE ' fuse([.][^ ]*)? ' /proc/self/mounts").trimmingCharacters(in: .newlines)
                try user.writeConfiguration("mount_max = \(there)\n")
                let refused = try user.daemon.remfs("mount", "notes", try user.makeDirectory("other"))
                #expect(refused.status == 77 && refused.errors.contains("mount_max"), "\(refused.errors)")
            }
        }

        @Test func mountpointsAreTheUsersOwn() throws {
            try OrdinaryUser.with { user in
                try user.daemon.start()
                try user.daemon.output("store", "create", "notes")
                let directory = try user.makeDirectory("mnt")
                try check(chown(directory, 0, 0))
                let refused = try user.daemon.remfs("mount", "notes", directory)
                #expect(refused.status == 77 && refused.errors.contains("belongs to another user"), "\(refused.errors)")
                #expect(try user.mounts().isEmpty)
            }
        }

        /// What the watchdog does to a connection that hangs is this user's right as well.
        @Test func aConnectionCanBeAborted() throws {
            try Self.mounted { user, directory in
                let line = try #require(try user.mounts().first)
                let number = try #require(line.split(separator: " ")[2].split(separator: ":").last)
                try user.run("echo 1 > /sys/fs/fuse/connections/\(number)/abort")
                #expect(try user.attempt("ls \(directory)").errors.contains("not connected"))
                let deadline = ContinuousClock.now + .seconds(20)
                while try !user.daemon.http("GET", "/v1/mounts").data().isEmpty, ContinuousClock.now < deadline { usleep(10_000) }
                #expect(try user.daemon.stop().status == 0)
            }
        }

        /// A request is received into memory that is locked, so that a kill in that moment is nobody's error: as much as a user may lock will do.
        @Test(.disabled(if: Sanitizer.isActive, "a sanitizer's runtime has mlock(2) do nothing")) func receiveBuffersAreLocked() throws {
            try OrdinaryUser.with { user in
                try user.daemon.start(through: ["prlimit", "--memlock=\(8 << 20)"])
                let status = try #require(Files.text("/proc/\(try user.daemon.servingProcess())/status"))
                let locked = try #require(status.firstMatch(of: /VmLck:\s+(\d+) kB/))
                #expect(try #require(Int(locked.1)) >= 4 * 1_152)
            }
        }
    }
}

/// Somebody who is not root, in a mount namespace where everybody may open `/dev/fuse` and `/etc/fuse.conf` is the test's own. It ends, with
/// all that is mounted in it, when the last process in it does.
private final class OrdinaryUser {
    /// Nobody, who has an entry in every user database: fusermount3 wants one.
    static let uid = 65_534

    /// Started as this user.
    let daemon: DaemonProcess
    private let anchor: Program

    static func with(_ body: (OrdinaryUser) throws -> Void) throws {
        try DaemonProcess.prepared { daemon in
            let user = try OrdinaryUser(daemon)
            defer { user.end() }
            try body(user)
        }
    }

    private init(_ daemon: DaemonProcess) throws {
        self.daemon = daemon
        let directory = daemon.directory
        try check(chmod(directory, 0o755))
        for path in [directory, "\(directory)/notify"] { try check(chown(path, UInt32(Self.uid), UInt32(Self.uid))) }
        try Data().write(to: URL(fileURLWithPath: "\(directory)/fuse.conf"))
        try check(chmod("\(directory)/fuse.conf", 0o644))
        // Where this checkout is closed to others, they have the program all the same.
        let binary = "\(directory)/remfs"
        if link(Binary.path, binary) != 0 { try FileManager.default.copyItem(atPath: Binary.path, toPath: binary) }
        let script = """
            set -e
            mount -t tmpfs -o dev,mode=755 none /mnt
            mknod -m 666 /mnt/fuse c 10 229
            mount --bind /mnt/fuse /dev/fuse
            mount --bind \(directory)/fuse.conf /etc/fuse.conf
            umount -l /mnt
            mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
            echo ready
            exec sleep 1000
            """
        anchor = try Program.start(
            ["unshare", "--mount", "--propagation", "private", "setpriv", "--pdeathsig", "KILL", "sh", "-c", script], in: "/",
            scratch: directory)
        while anchor.output.isEmpty, anchor.isRunning { usleep(1_000) }
        try #require(anchor.output == "ready\n", "\(anchor.errors)")
        daemon.launcher = launcher(Self.uid) + [binary]
    }

    private func launcher(_ uid: Int) -> [String] {
        ["nsenter", "--mount=/proc/\(anchor.pid)/ns/mnt", "setpriv", "--reuid", "\(uid)", "--regid", "\(uid)", "--clear-groups"]
    }

    func end() {
        anchor.signal(SIGKILL)
        do { _ = try anchor.wait() } catch { Issue.record("the namespace cannot be ended: \(error)") }
    }

    func makeDirectory(_ name: String) throws -> String {
        let path = "\(daemon.directory)/\(name)"
        try check(mkdir(path, 0o755))
        try check(chown(path, UInt32(Self.uid), UInt32(Self.uid)))
        return path
    }

    /// What `/etc/fuse.conf` says from now on.
    func writeConfiguration(_ text: String) throws {
        let file = try check(open("\(daemon.directory)/fuse.conf", O_WRONLY | O_TRUNC | O_CLOEXEC))
        defer { close(file) }
        try Files.write(Array(text.utf8), to: file)
    }

    /// Lines of mountinfo, of mounts below the daemon's directory.
    func mounts() throws -> [String] {
        try #require(Files.text("/proc/\(anchor.pid)/mountinfo")).split(separator: "\n").map(String.init)
            .filter { $0.split(separator: " ")[4].hasPrefix(daemon.directory + "/") }
    }

    func start(_ script: String, as uid: Int = OrdinaryUser.uid) throws -> Program {
        try Program.start(launcher(uid) + ["bash", "-c", script], in: "/", scratch: daemon.directory)
    }

    func attempt(_ script: String, as uid: Int = OrdinaryUser.uid) throws -> Program.Outcome { try start(script, as: uid).wait() }

    /// What a script prints that has to succeed.
    @discardableResult
    func run(_ script: String, as uid: Int = OrdinaryUser.uid) throws -> String { try start(script, as: uid).success() }
}
