import Foundation
import Glibc
import TestSupport
import Testing

/// How long a test of this target may take. The shortest limit of all suites around it counts, so this one has to leave room for long forms.
private let longestInMinutes =
    ["REMFS_CRASH_KILLS", "REMFS_TAKEOVER_KILLS", "REMFS_TEST_MOUNTS"].contains { ProcessInfo.processInfo.environment[$0] != nil }
    ? 60 : 3 * Sanitizer.slowdown

/// Starting, stopping and refusing to start. (All suites of this target are one after the other: each test is processes, and cores are few.)
@Suite(.serialized, .timeLimit(.minutes(longestInMinutes))) struct ServeTests {
    private static func mode(_ path: String) -> mode_t {
        var status = stat()
        #expect(stat(path, &status) == 0, "\(path)")
        return status.st_mode & 0o7777
    }

    @Test func isReadyWhenItSaysSo() throws {
        try DaemonProcess.with { daemon in
            let response = try daemon.http("GET", "/v1/status")
            #expect(response.status == 200)
            let status = try response.json()
            #expect(status["type"] as? String == "status")
            // The one that was started keeps the mounts; the one that serves is its child, and so is one that waits.
            let pid = try #require(status["pid"] as? Int)
            let started = try #require(daemon.running).pid
            let children = try DaemonProcess.children(of: started)
            #expect(children.contains(pid_t(pid)) && children.count <= 2)
            #expect(status["stores"] as? Int == 0)
            #expect(Self.mode(daemon.socket) == 0o660)
            #expect(Self.mode("\(daemon.directory)/run") == 0o711)
            #expect(Self.mode(daemon.state) == 0o700)
            #expect(daemon.running?.output == "")
        }
    }

    @Test(arguments: [SIGTERM, SIGINT]) func stopsWhenAskedTo(_ signal: Int32) throws {
        try DaemonProcess.with { daemon in
            try daemon.output("store", "create", "notes")
            let result = try daemon.stop(signal)
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.output == "")
            #expect(daemon.notification() == "STOPPING=1")
            #expect(access(daemon.socket, F_OK) != 0)
        }
    }

    @Test func aHangUpHasAnotherGoOn() throws {
        try DaemonProcess.with { daemon in
            let first = try daemon.servingProcess()
            daemon.running?.signal(SIGHUP)
            #expect(daemon.notification() == "READY=1")
            #expect(try daemon.servingProcess() != first)
            let status = try daemon.http("GET", "/v1/status")
            #expect(status.status == 200)
            #expect(try daemon.stop().status == 0)
        }
    }

    @Test func keepsEverythingWhenItIsKilled() throws {
        try DaemonProcess.with { daemon in
            let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
            try daemon.output("memory", "write", "notes", "/a.md", input: "kept")
            #expect(try daemon.stop(SIGKILL).status == 128 + SIGKILL)
            #expect(access(daemon.socket, F_OK) == 0, "a killed daemon leaves its socket")
            try daemon.start()
            #expect(try daemon.output("memory", "cat", id, "/a.md") == "kept")
            #expect(try daemon.stop().status == 0)
        }
    }

    @Test func refusesAStateDirectoryThatIsInUse() throws {
        try DaemonProcess.with { daemon in
            let second = try daemon.remfs("serve", "--runtime-dir", "\(daemon.directory)/other")
            #expect(second.status == 75)
            #expect(second.errors.hasPrefix("remfs: busy: ") && second.errors.contains("state directory \(daemon.state)"))
            #expect(try daemon.http("GET", "/v1/status").status == 200)
        }
    }

    @Test func refusesASocketThatIsInUse() throws {
        try DaemonProcess.with { daemon in
            let second = try daemon.remfs("serve", "--state-dir", "\(daemon.directory)/other")
            #expect(second.status == 75)
            #expect(second.errors.contains("remfs: busy: socket \(daemon.socket)"))
            #expect(try daemon.http("GET", "/v1/status").status == 200)
        }
    }

    @Test func refusesWhatIsInItsWayAndNoSocket() throws {
        try DaemonProcess.prepared { daemon in
            let file = "\(daemon.directory)/file"
            try Data("precious".utf8).write(to: URL(fileURLWithPath: file))
            let result = try daemon.remfs("serve", "--socket", file)
            #expect(result.status == 75)
            #expect(result.errors.contains("not a socket"))
            #expect(try String(contentsOfFile: file, encoding: .utf8) == "precious")
            let state = try daemon.remfs("serve", "--state-dir", file)
            #expect(state.status == 65)
            #expect(state.errors.hasPrefix("remfs: not_a_directory: ") && state.errors.contains(file))
        }
    }

    @Test func refusesAStateDirectoryThatCannotBeWritten() throws {
        try DaemonProcess.prepared { daemon in
            let place = "\(daemon.directory)/sealed"
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: false)
            // Modes stop nobody who is root, and only root can mount.
            if geteuid() == 0 {
                try #require(mount("none", place, "tmpfs", UInt(MS_RDONLY), nil) == 0)
            } else {
                try #require(chmod(place, 0o500) == 0)
            }
            for directory in [place, "\(place)/state"] {
                let result = try daemon.remfs("serve", "--state-dir", directory)
                #expect(result.status == 77)
                #expect(result.errors.contains(directory))
                #expect(result.errors.lowercased().contains(geteuid() == 0 ? "read-only" : "permission denied"))
                #expect(result.output == "")
            }
        }
    }

    @Test func refusesWhatItDoesNotKnow() throws {
        try DaemonProcess.prepared { daemon in
            #expect(try daemon.remfs("serve", "--no-such-flag").status == 64)
            let file = "\(daemon.directory)/remfs.yaml"
            func serve(_ yaml: String) throws -> Binary.Result {
                try Data(yaml.utf8).write(to: URL(fileURLWithPath: file))
                return try daemon.remfs("serve", "--config", file)
            }
            let unknown = try serve("state_dir: /tmp/x\nstate_dri: /tmp/y\n")
            #expect(unknown.status == 65)
            #expect(unknown.errors.contains(#"unknown key "state_dri""#))
            #expect(try serve("state_dir: [a, b\n").status == 65)
            #expect(try serve("socket: [a, b]\n").status == 65)
            #expect(try serve("log_level: loud\n").status == 65)
            let nobody = try serve("socket_group: no-such-group-anywhere\n")
            #expect(nobody.status == 66)
            #expect(nobody.errors.contains("group no-such-group-anywhere does not exist"))
            for (value, text) in [
                ("state_dir", "7"), ("socket", "true"), ("runtime_dir", "1.5"), ("socket_group", "no"), ("log_level", "3"),
            ] {
                let wrong = try serve("\(value): \(text)\n")
                #expect(wrong.status == 65)
                #expect(wrong.errors == "remfs: invalid_argument: configuration file \(file): \(value) must be a string, not \(text)\n")
            }
            let missing = try daemon.remfs("serve", "--config", "\(daemon.directory)/missing.yaml")
            #expect(missing.status == 66)
            #expect(missing.errors.hasSuffix("missing.yaml cannot be read: No such file or directory\n"))
            let directory = try daemon.remfs("serve", "--config", daemon.directory)
            #expect(directory.status == 65)
            #expect(directory.errors == "remfs: is_a_directory: configuration file \(daemon.directory) cannot be read: Is a directory\n")
            let long = try daemon.remfs("serve", "--socket", "/tmp/" + String(repeating: "x", count: 99))
            #expect(long.status == 65)
            #expect(long.errors.hasSuffix("is over 103 bytes long\n"))
            let place = "/tmp/" + String(repeating: "x", count: 256)
            let name = try daemon.remfs("serve", "--state-dir", place)
            #expect(name.status == 65)
            #expect(name.errors == "remfs: name_too_long: \(place) cannot be made: File name too long\n")
        }
    }

    @Test func aFileMayLeaveAValueOut() throws {
        try DaemonProcess.prepared { daemon in
            let file = "\(daemon.directory)/remfs.yaml"
            // By the name of the daemon's own socket it shows that the others count as none.
            let yaml = "state_dir: ~\nruntime_dir: \"\"\nsocket:\nsocket_group: \(getegid())\nlog_level: null\n"
            try Data(yaml.utf8).write(to: URL(fileURLWithPath: file))
            try daemon.start(
                ["--config", file],
                environment: [
                    "REMFS_STATE_DIR": "", "REMFS_RUNTIME_DIR": "", "STATE_DIRECTORY": daemon.state,
                    "RUNTIME_DIRECTORY": "\(daemon.directory)/run",
                ])
            #expect(try daemon.http("GET", "/v1/status").json()["state_directory"] as? String == daemon.state)
            #expect(try daemon.stop().status == 0)
        }
    }

    @Test func aFlagBeatsTheEnvironmentAndThatTheFile() throws {
        try DaemonProcess.prepared { daemon in
            let file = "\(daemon.directory)/remfs.yaml"
            let yaml = "# places\nsocket: \(daemon.directory)/file.sock\nlog_level: error\n"
            try Data(yaml.utf8).write(to: URL(fileURLWithPath: file))
            func answers(_ name: String) -> Bool {
                guard let descriptor = try? UnixSocket.connect("\(daemon.directory)/\(name)") else { return false }
                close(descriptor)
                return true
            }
            try daemon.start(["--config", file])
            #expect(answers("file.sock"))
            #expect(try daemon.stop().errors == "", "at this level nothing is said of a start and a stop")

            let variable = ["REMFS_SOCKET": "\(daemon.directory)/environment.sock"]
            try daemon.start(["--config", file], environment: variable)
            #expect(answers("environment.sock") && !answers("file.sock"))
            #expect(try daemon.stop().status == 0)

            try daemon.start(["--config", file, "--socket", "\(daemon.directory)/flag.sock"], environment: variable)
            #expect(answers("flag.sock") && !answers("environment.sock"))
            #expect(try daemon.stop().status == 0)
        }
    }

    @Test func halfSentRequestsHoldNothingUp() throws {
        try DaemonProcess.with { daemon in
            try daemon.output("store", "create", "notes")
            var stalled: [Int32] = []
            defer { stalled.forEach { close($0) } }
            for count in 0..<200 {
                let descriptor = try UnixSocket.connect(daemon.socket)
                stalled.append(descriptor)
                try UnixSocket.write(descriptor, "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\n")
                if count % 2 == 0 { try UnixSocket.write(descriptor, "Content-Length: 100\r\n\r\n{\"name\"") }
            }
            #expect(try daemon.http("GET", "/v1/memory_stores").data().count == 1)
            // And a stop does not wait for them.
            let result = try daemon.stop()
            #expect(result.status == 0, "\(result.errors)")
        }
    }

    @Test func aClientThatGoesAwayInTheMiddleHarmsNobody() throws {
        try DaemonProcess.with { daemon in
            for request in [
                "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", "POST /v1/memory_stores HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
                "\u{16}\u{3}\u{1}nonsense\r\n\r\n",
            ] {
                let descriptor = try UnixSocket.connect(daemon.socket)
                try UnixSocket.write(descriptor, request)
                close(descriptor)
            }
            #expect(try daemon.http("GET", "/v1/status").status == 200)
        }
    }

    @Test func onlyRootTheDaemonsUserAndItsGroupMayEnter() throws {
        guard geteuid() == 0 else {
            print("skipped: only root can be somebody else")
            return
        }
        try DaemonProcess.prepared { daemon in
            // Everybody may walk to the socket here; who may talk is the daemon's decision.
            try #require(chmod(daemon.directory, 0o755) == 0)
            try daemon.start(["--socket-group", "65533"])
            try #require(chmod("\(daemon.directory)/run", 0o755) == 0 && chmod(daemon.socket, 0o666) == 0)
            #expect(try Self.status(of: daemon.socket, uid: 65_532, gid: 65_532) == 403)
            #expect(try Self.status(of: daemon.socket, uid: 65_532, gid: 65_533) == 200)
            #expect(try Self.status(of: daemon.socket, uid: 0, gid: 0) == 200)
        }
    }

    /// The HTTP status that a process of another user is answered with.
    private static func status(of socket: String, uid: Int, gid: Int) throws -> Int {
        let arguments = [
            "setpriv", "--reuid", "\(uid)", "--regid", "\(gid)", "--clear-groups",
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket, "http://localhost/v1/status",
        ]
        return try TemporaryDirectory.with { scratch in
            // Refused is an answer too, and curl's status is not asked for.
            let text = try Program.start(arguments, in: "/", scratch: scratch).wait().output
            return try #require(Int(text))
        }
    }
}
