import Foundation
import Glibc
import TestSupport
import Testing

/// Stores as volumes of podman, which is run with storage and a configuration of its own.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .enabled(if: Podman.isThere, Podman.needed))
    struct PodmanTests {
        @Test func podmanMakesShowsAndRemovesVolumes() throws {
            try Podman.with { daemon, podman in
                try daemon.output("store", "create", "notes")
                try podman.output("volume", "create", "--driver", "remfs", "-o", "store=notes", "-o", "uid=1000", "work")
                #expect(try podman.output("volume", "ls", "--format", "{{.Driver}} {{.Name}}") == "remfs work\n")
                let shown = try JSONSerialization.jsonObject(with: Data(try podman.output("volume", "inspect", "work").utf8))
                let volume = try #require((shown as? [[String: Any]])?.first)
                #expect(volume["Driver"] as? String == "remfs" && volume["Name"] as? String == "work")
                let id = try #require((volume["Status"] as? [String: Any])?["session"] as? String)
                #expect(try daemon.remfs("session", "show", id, "--json").json()["metadata"] as? [String: String] == ["volume": "work"])

                // What is wrong is told, and nothing is made.
                let cases = [(["-o", "store=none"], "not found"), (["-o", "store=notes", "-o", "size=1"], "option size is not known")]
                for (options, reason) in cases {
                    let refused = try podman.run(["volume", "create", "--driver", "remfs"] + options + ["wrong"])
                    #expect(refused.status != 0 && refused.errors.contains(reason), "\(refused.errors)")
                }
                #expect(try podman.run(["volume", "inspect", "wrong"]).status != 0)

                // It is there after a daemon that was killed.
                try check(Glibc.kill(try daemon.servingProcess(), SIGKILL))
                #expect(daemon.notification() == "READY=1")
                #expect(try podman.output("volume", "inspect", "--format", "{{.Status.session}}", "work") == id + "\n")
                try podman.output("volume", "rm", "work")
                #expect(try podman.output("volume", "ls", "--quiet").isEmpty)
                #expect(try daemon.remfs("session", "show", id, "--json").json()["archived_at"] is String)
            }
        }

        @Test(.enabled(if: Podman.runsContainers, "podman cannot run a container on this machine")) func aContainerHasTheStore() throws {
            try Podman.with { daemon, podman in
                try daemon.output("store", "create", "notes")
                try daemon.output("store", "create", "handbook")
                try daemon.output("memory", "write", "handbook", "/rules.md", input: "Be kind.\n")
                try podman.output("volume", "create", "--driver", "remfs", "-o", "store=notes", "work")
                let id = try podman.output("volume", "inspect", "--format", "{{.Status.session}}", "work").trimmingCharacters(in: .newlines)
                let written = try podman.container(
                    ["-v", "work:/mnt/memory"], "echo one > /mnt/memory/a.md && echo two >> /mnt/memory/a.md && cat /mnt/memory/a.md")
                #expect(written.status == 0 && written.output == "one\ntwo\n", "\(written.errors)")
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "one\ntwo\n")
                let log = try #require(try daemon.remfs("log", "notes", "--json").json()["data"] as? [[String: Any]])
                #expect(log.count == 2)
                #expect(log.allSatisfy { ($0["created_by"] as? [String: Any])?["session_id"] as? String == id })

                // Several stores, one of them read-only, for a program that is not root.
                try podman.output(
                    "volume", "create", "--driver", "remfs", "-o", "store=notes,handbook:ro", "-o", "uid=1000", "-o", "gid=1000", "both")
                let both = try podman.container(
                    ["-v", "both:/mnt/memory", "--user", "1000:1000"],
                    "cat /mnt/memory/handbook/rules.md; cd /mnt/memory/notes; echo three > b.md; echo no > ../handbook/rules.md")
                #expect(both.status != 0 && both.output == "Be kind.\n" && both.errors.contains("Read-only file system"), "\(both.errors)")
                #expect(try daemon.output("memory", "cat", "notes", "/b.md") == "three\n")

                // In use, until its container ends; and the daemon may die meanwhile.
                let steps = "\(daemon.directory)/steps"
                try check(mkdir(steps, 0o755))
                let container = try podman.start(
                    ["-v", "work:/mnt/memory", "-v", "\(steps):/steps"],
                    """
                    exec 5>>/mnt/memory/log; echo before >&5; touch /steps/ready
                    for i in $(seq 1200); do [ -e /steps/killed ] && break; sleep 0.05; done
                    echo after >&5; cat /mnt/memory/log
                    """)
                let deadline = ContinuousClock.now + .seconds(60)
                while !FileManager.default.fileExists(atPath: "\(steps)/ready"), container.isRunning, ContinuousClock.now < deadline {
                    usleep(10_000)
                }
                let refused = try podman.run(["volume", "rm", "work"])
                #expect(refused.status != 0 && refused.errors.contains("being used"), "\(refused.status) \(refused.errors)")
                try check(Glibc.kill(try daemon.servingProcess(), SIGKILL))
                #expect(daemon.notification() == "READY=1")
                try check(close(check(open("\(steps)/killed", O_WRONLY | O_CREAT, 0o644))))
                let ended = try container.wait()
                #expect(ended.status == 0 && ended.output == "before\nafter\n", "\(ended.errors)")
                try podman.output("volume", "rm", "work")
                try podman.output("volume", "rm", "both")
                #expect(try daemon.output("memory", "cat", "notes", "/log") == "before\nafter\n")
            }
        }
    }
}

/// podman with its storage, its state and its configuration in a daemon's directory. It and the daemon live in a mount namespace of their
/// own, where podman's mounts harm nobody, and where a machine's cgroups can be those that its runtime takes.
private struct Podman {
    static let needed: Comment = "podman and crun are missing"
    static let isThere = ["podman", "crun"].allSatisfy { program in
        ["/usr/local/bin", "/usr/bin", "/bin"].contains { access("\($0)/\(program)", X_OK) == 0 }
    }

    /// A container without any volume: where that is refused, a volume has nothing to do with it, and why goes to standard error.
    static let runsContainers: Bool = {
        guard isThere, ServeTests.hasFuse, geteuid() == 0 else { return false }
        var runs = false
        do {
            try with { _, podman in
                let result = try podman.container([], "echo here")
                runs = result.status == 0 && result.output == "here\n"
                if !runs { FileHandle.standardError.write(Data("podman: \(result.errors)\n".utf8)) }
            }
        } catch {
            FileHandle.standardError.write(Data("podman: \(error)\n".utf8))
        }
        return runs
    }()

    private let daemon: DaemonProcess
    /// The holder, which is there as long as the daemon, whichever process serves.
    private let process: pid_t
    private var root: String { "\(daemon.directory)/podman" }

    static func with(_ body: (DaemonProcess, Podman) throws -> Void) throws {
        try DaemonProcess.prepared { daemon in
            let socket = "\(daemon.directory)/volumes.sock"
            // A machine with cgroups of both versions is shown those of the second alone.
            let namespace = """
                if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
                    umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
                fi
                exec "$@"
                """
            try daemon.start(
                environment: ["REMFS_VOLUME_SOCKET": socket],
                through: geteuid() == 0
                    ? ["/usr/bin/unshare", "-m", "--propagation", "private", "/bin/sh", "-c", namespace, "sh"] : [])
            let podman = Podman(daemon: daemon, process: try #require(daemon.running).pid)
            try podman.prepare(socket)
            try body(daemon, podman)
        }
    }

    private func prepare(_ socket: String) throws {
        let inside = ["", "/usr", "/proc", "/sys", "/dev", "/etc", "/tmp", "/mnt"].map { "/rootfs\($0)" }
        for directory in ["", "/tmp"] + inside { try check(mkdir(root + directory, 0o755)) }
        // Of this machine's programs, which the container sees below /usr.
        for name in ["bin", "sbin", "lib", "lib64"] { try check(symlink("usr/\(name)", "\(root)/rootfs/\(name)")) }
        let configuration = "[engine]\nevents_logger = \"none\"\n[engine.volume_plugins]\nremfs = \"\(socket)\"\n"
        try Data(configuration.utf8).write(to: URL(fileURLWithPath: "\(root)/containers.conf"))
    }

    private var environment: [String: String] {
        [
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": root, "TMPDIR": "\(root)/tmp",
            "CONTAINERS_CONF": "\(root)/containers.conf", "XDG_RUNTIME_DIR": "\(root)/tmp",
        ]
    }

    private var command: [String] {
        let enter = geteuid() == 0 ? ["/usr/bin/nsenter", "--mount", "--target", "\(process)"] : []
        return enter + [
            "podman", "--root", "\(root)/storage", "--runroot", "\(root)/run", "--tmpdir", "\(root)/libpod", "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--runtime", "crun",
        ]
    }

    func run(_ arguments: [String]) throws -> Binary.Result { try Binary.run(arguments, environment: environment, launcher: command) }

    @discardableResult
    func output(_ arguments: String...) throws -> String {
        let result = try run(arguments)
        try #require(result.status == 0, "podman \(arguments.joined(separator: " ")): \(result.status) \(result.errors)")
        return result.output
    }

    /// A container of this machine's programs that runs a script.
    func start(_ options: [String], _ script: String) throws -> Binary.Running {
        // No more than what a service may have: limits and groups of its own are not everywhere to be had.
        let usual = [
            "run", "--rm", "--network", "none", "--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096",
            "--security-opt", "seccomp=unconfined", "-v", "/usr:/usr:ro",
        ]
        return try Binary.start(
            usual + options + ["--rootfs", "\(root)/rootfs", "/bin/sh", "-c", script], environment: environment, launcher: command)
    }

    func container(_ options: [String], _ script: String) throws -> Binary.Result { try start(options, script).wait() }
}
