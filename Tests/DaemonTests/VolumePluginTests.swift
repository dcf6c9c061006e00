import Foundation
import Glibc
import TestSupport
import Testing

/// The volume plugin, asked as container engines ask it (design 6).
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse")) struct VolumePluginTests {
        /// A daemon with that socket.
        private static func with(_ body: (DaemonProcess) throws -> Void) throws {
            try DaemonProcess.prepared { daemon in
                try daemon.start(environment: variables(daemon))
                try body(daemon)
            }
        }

        private static func variables(_ daemon: DaemonProcess) -> [String: String] { ["REMFS_VOLUME_SOCKET": socket(daemon)] }

        private static func socket(_ daemon: DaemonProcess) -> String { "\(daemon.directory)/plugins/remfs.sock" }

        private static func raw(_ daemon: DaemonProcess, _ call: String, _ body: [String: Any]?) throws -> RawResponse {
            let text = try body.map { String(decoding: try JSONSerialization.data(withJSONObject: $0), as: UTF8.self) }
            let answer = try DaemonProcess.http(
                over: socket(daemon), "POST", "/\(call)", text, headers: ["Accept: application/vnd.docker.plugins.v1.1+json"])
            #expect(answer.headers["content-type"] == "application/vnd.docker.plugins.v1.1+json")
            return answer
        }

        /// One call that has to succeed.
        @discardableResult
        private static func ask(
            _ daemon: DaemonProcess, _ call: String, _ body: [String: Any]? = nil, sourceLocation: SourceLocation = #_sourceLocation
        ) throws -> [String: Any] {
            let answer = try raw(daemon, call, body)
            let json = try answer.json()
            #expect(answer.status == 200 && json["Err"] as? String ?? "" == "", "\(json)", sourceLocation: sourceLocation)
            return json
        }

        /// What one that has to fail says.
        private static func refusal(
            _ daemon: DaemonProcess, _ call: String, _ body: [String: Any]? = nil, sourceLocation: SourceLocation = #_sourceLocation
        ) throws -> String {
            let answer = try raw(daemon, call, body)
            let message = try answer.json()["Err"] as? String
            #expect(answer.status == 500 && message?.isEmpty == false, "\(answer.status) \(message ?? "")", sourceLocation: sourceLocation)
            return message ?? ""
        }

        private static func create(_ daemon: DaemonProcess, _ name: String, _ options: [String: String]) throws {
            try ask(daemon, "VolumeDriver.Create", ["Name": name, "Opts": options])
        }

        private static func get(_ daemon: DaemonProcess, _ name: String) throws -> [String: Any] {
            try #require(try ask(daemon, "VolumeDriver.Get", ["Name": name])["Volume"] as? [String: Any])
        }

        private static func session(_ daemon: DaemonProcess, _ name: String) throws -> String {
            let status = try #require(try get(daemon, name)["Status"] as? [String: Any])
            return try #require(status["session"] as? String)
        }

        @discardableResult
        private static func mount(_ daemon: DaemonProcess, _ name: String, _ container: String) throws -> String {
            try #require(try ask(daemon, "VolumeDriver.Mount", ["Name": name, "ID": container])["Mountpoint"] as? String)
        }

        private static func names(_ daemon: DaemonProcess) throws -> [String] {
            let volumes = try #require(try ask(daemon, "VolumeDriver.List", [:])["Volumes"] as? [[String: Any]])
            return volumes.compactMap { $0["Name"] as? String }
        }

        /// Ends the serving process, and waits until another serves: also here, where it has to bind its socket anew.
        private static func end(_ daemon: DaemonProcess, _ signal: Int32) throws {
            let before = try daemon.servingProcess()
            try check(kill(before, signal))
            #expect(daemon.notification() == "READY=1")
            #expect(try daemon.servingProcess() != before)
            let deadline = ContinuousClock.now + .seconds(20)
            while ContinuousClock.now < deadline {
                do { return _ = close(try UnixSocket.connect(socket(daemon))) } catch is UnixSocket.Failure { usleep(1_000) }
            }
            Issue.record("no successor takes the place of the socket")
        }

        // MARK: What it answers

        @Test func aVolumeIsAStoreThatContainersGet() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let implements = try Self.ask(daemon, "Plugin.Activate")
                #expect(implements["Implements"] as? [String] == ["VolumeDriver"])
                #expect(try Self.ask(daemon, "VolumeDriver.Capabilities", [:])["Capabilities"] as? [String: String] == ["Scope": "local"])
                try Self.create(daemon, "work", ["store": "notes", "title": "Friday"])
                // An engine that did not hear of it asks again.
                try Self.create(daemon, "work", ["store": "notes", "title": "Friday"])
                let other = try Self.refusal(daemon, "VolumeDriver.Create", ["Name": "work", "Opts": ["store": "notes"]])
                #expect(other == "volume work exists with other options")
                #expect(try Self.get(daemon, "work")["Mountpoint"] as? String == "")
                #expect(try Self.ask(daemon, "VolumeDriver.Path", ["Name": "work"])["Mountpoint"] as? String == "")

                let place = try Self.mount(daemon, "work", "c1")
                let id = try Self.session(daemon, "work")
                #expect(place == "\(daemon.directory)/run/sessions/\(id)/notes")
                #expect(DaemonProcess.mounts(below: daemon.directory) == [place])
                #expect(try Self.ask(daemon, "VolumeDriver.Path", ["Name": "work"])["Mountpoint"] as? String == place)
                let found = try Self.get(daemon, "work")
                #expect(found["Mountpoint"] as? String == place && found["Name"] as? String == "work")
                #expect((found["CreatedAt"] as? String)?.hasSuffix("Z") == true)
                #expect((found["Status"] as? [String: Any])?["containers"] as? Int == 1)
                #expect(try Self.names(daemon) == ["work"])
                // What is written there is the session's, which names the volume.
                try Data("one\n".utf8).write(to: URL(fileURLWithPath: "\(place)/a.md"))
                let log = try #require(try daemon.remfs("log", "notes", "--json").json()["data"] as? [[String: Any]])
                #expect(log.map { ($0["created_by"] as? [String: Any])?["session_id"] as? String } == [id])
                let session = try daemon.remfs("session", "show", id, "--json").json()
                #expect(session["title"] as? String == "Friday" && session["metadata"] as? [String: String] == ["volume": "work"])

                // Two have it; whoever leaves twice has left once.
                try #expect(Self.mount(daemon, "work", "c2") == place)
                try #expect(Self.mount(daemon, "work", "c2") == place)
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "work", "ID": "c1"])
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "work", "ID": "c1"])
                #expect(try Self.refusal(daemon, "VolumeDriver.Remove", ["Name": "work"]) == "volume work is in use by a container")
                #expect(DaemonProcess.mounts(below: daemon.directory) == [place])
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "work", "ID": "c2"])
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "work"])
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                #expect(try Self.names(daemon).isEmpty)
                #expect(try daemon.remfs("session", "show", id, "--json").json()["archived_at"] is String)
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "one\n")
            }
        }

        @Test func severalStoresAreDirectoriesAndOptionsHold() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "Team notes")
                let rules = try daemon.output("store", "create", "rules").trimmingCharacters(in: .newlines)
                try Self.create(daemon, "both", ["store": "Team notes,\(rules):ro", "uid": "4711", "gid": "4712", "umask": "027"])
                let place = try Self.mount(daemon, "both", "c")
                try #expect(FileManager.default.contentsOfDirectory(atPath: place).sorted() == ["rules", "team-notes"])
                #expect(mkdir("\(place)/rules/d", 0o755) == -1 && errno == EROFS)
                try check(mkdir("\(place)/team-notes/d", 0o777))
                var status = stat()
                try check(stat("\(place)/team-notes/d", &status))
                #expect(status.st_uid == 4_711 && status.st_gid == 4_712 && status.st_mode & 0o777 == 0o750)

                // Without an option the volume is the store of its name, as with `docker run --volume-driver remfs -v rules:/rules`.
                try Self.ask(daemon, "VolumeDriver.Create", ["Name": "rules", "Opts": NSNull()])
                #expect(try Self.mount(daemon, "rules", "c").hasSuffix("/rules"))
                try Self.create(daemon, "closed", ["store": "rules", "access": "read_only"])
                let closed = try Self.mount(daemon, "closed", "c")
                #expect(mkdir("\(closed)/d", 0o755) == -1 && errno == EROFS)
            }
        }

        @Test func aVolumeMayShowASessionThatStays() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                let id = try daemon.output("session", "create", "--store", "notes").trimmingCharacters(in: .newlines)
                try Self.create(daemon, "seen", ["session": id])
                let place = try Self.mount(daemon, "seen", "c")
                #expect(place == "\(daemon.directory)/run/sessions/\(id)/notes")
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "seen", "ID": "c"])
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "seen"])
                #expect(DaemonProcess.mounts(below: daemon.directory) == [place])
                // What a volume's own session shows elsewhere, ends with neither.
                try Self.create(daemon, "own", ["store": "notes"])
                try Self.create(daemon, "other", ["session": try Self.session(daemon, "own")])
                #expect(try Self.refusal(daemon, "VolumeDriver.Remove", ["Name": "own"]).contains("volume other shows"))
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "other"])
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "own"])
            }
        }

        @Test func whatCannotBeIsRefusedWithAReason() throws {
            try Self.with { daemon in
                let notes = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                try daemon.output("store", "create", "twice")
                try daemon.output("store", "create", "twice")
                let ended = try daemon.output("session", "create", "--store", "notes").trimmingCharacters(in: .newlines)
                try daemon.output("session", "archive", ended)
                let empty = try daemon.output("session", "create").trimmingCharacters(in: .newlines)
                let cases: [([String: String], String)] = [
                    ([:], "store \"v\" not found"), (["store": "none"], "store \"none\" not found"), (["store": "notes,"], "option store"),
                    (["store": ":ro"], "option store"), (["store": "twice"], "is the name of 2"), (["store": "notes,notes"], "again"),
                    (["store": "memstore_01"], "not found"), (["store": notes, "size": "1"], "option size is not known"),
                    (["store": "notes", "access": "ro"], "option access"), (["store": "notes", "uid": "root"], "option uid"),
                    (["store": "notes", "uid": "4294967295"], "option uid"), (["store": "notes", "umask": "8"], "option umask"),
                    (["store": "notes", "exec": "yes"], "option exec"), (["store": "notes", "coherence": "some"], "option coherence"),
                    (["session": ended], "archived"), (["session": empty], "no stores"), (["session": "sesn_01"], "not found"),
                    (["session": empty, "store": "notes"], "goes with no other"),
                ]
                for (options, reason) in cases {
                    let message = try Self.refusal(daemon, "VolumeDriver.Create", ["Name": "v", "Opts": options])
                    #expect(message.contains(reason), "\(options): \(message)")
                }
                for name in ["", ".", "-a", "a/b", "a b", "é", String(repeating: "x", count: 256)] {
                    _ = try Self.refusal(daemon, "VolumeDriver.Create", ["Name": name, "Opts": ["store": "notes"]])
                }
                for call in ["Create", "Get", "Path", "Mount", "Unmount", "Remove"] {
                    #expect(try Self.refusal(daemon, "VolumeDriver.\(call)", [:]).contains("Name is required"))
                    #expect(try Self.refusal(daemon, "VolumeDriver.\(call)", ["Name": 1]).contains("Name must be"))
                }
                for call in ["Get", "Path", "Remove"] {
                    #expect(try Self.refusal(daemon, "VolumeDriver.\(call)", ["Name": "v"]) == "volume v not found")
                }
                #expect(try Self.refusal(daemon, "VolumeDriver.Mount", ["Name": "v", "ID": "c"]) == "volume v not found")
                // Nothing of it is there, as was asked for.
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "v", "ID": "c"])
                try Self.create(daemon, "v", ["store": "notes"])
                #expect(try Self.refusal(daemon, "VolumeDriver.Mount", ["Name": "v"]).contains("ID is required"))
                _ = try Self.refusal(daemon, "VolumeDriver.Create", ["Name": "w", "Opts": ["store": ["notes"]]])

                // What does not get as far as the protocol.
                #expect(try DaemonProcess.http(over: Self.socket(daemon), "GET", "/VolumeDriver.List").status == 405)
                #expect(try Self.raw(daemon, "VolumeDriver.Nothing", [:]).status == 404)
                #expect(try Self.raw(daemon, "v1/status", [:]).status == 404)
                #expect(try Self.raw(daemon, "VolumeDriver.Get", ["Name": String(repeating: "x", count: 2 << 20)]).status == 413)
                let garbled = try DaemonProcess.http(over: Self.socket(daemon), "POST", "/VolumeDriver.Get", "{\"Name\":")
                #expect(try garbled.status == 500 && (garbled.json()["Err"] as? String)?.contains("JSON") == true)
                let connection = try UnixSocket.connect(Self.socket(daemon))
                defer { close(connection) }
                try UnixSocket.write(connection, "what is this\r\n\r\n")
                let strange = try DaemonProcess.parse(try UnixSocket.readToEnd(connection))
                #expect(try strange.status == 400 && (strange.json()["Err"] as? String)?.contains("not HTTP/1.1") == true)
                // None of it left anything.
                #expect(try Self.names(daemon) == ["v"])
            }
        }

        @Test func aStoreThatCannotBeMountedIsNotHad() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                try Self.create(daemon, "v", ["store": "notes"])
                let id = try Self.session(daemon, "v")
                // As somebody's file in its way.
                try check(mkdir("\(daemon.directory)/run/sessions/\(id)", 0o700))
                try Data().write(to: URL(fileURLWithPath: "\(daemon.directory)/run/sessions/\(id)/notes"))
                _ = try Self.refusal(daemon, "VolumeDriver.Mount", ["Name": "v", "ID": "c"])
                #expect((try Self.get(daemon, "v")["Status"] as? [String: Any])?["containers"] as? Int == 0)
                try check(unlink("\(daemon.directory)/run/sessions/\(id)/notes"))
                #expect(try Self.mount(daemon, "v", "c").hasSuffix("/notes"))
            }
        }

        @Test func theSocketIsItsUsersAlone() throws {
            try Self.with { daemon in
                var status = stat()
                try check(stat(Self.socket(daemon), &status))
                #expect(status.st_mode & 0o7777 == 0o600 && status.st_uid == geteuid())
                #expect(try daemon.stop().status == 0)
                #expect(!FileManager.default.fileExists(atPath: Self.socket(daemon)))
                // Not there unless it was asked for, and never in place of something else.
                try daemon.start()
                #expect(!FileManager.default.fileExists(atPath: Self.socket(daemon)))
                #expect(try daemon.stop().status == 0)
                try Data("mine".utf8).write(to: URL(fileURLWithPath: Self.socket(daemon)))
                let failed = try Binary.run(["serve"], environment: daemon.environment.merging(Self.variables(daemon)) { $1 })
                #expect(failed.status == 75 && failed.errors.contains("is not a socket"), "\(failed.errors)")
                #expect(try String(contentsOfFile: Self.socket(daemon), encoding: .utf8) == "mine")
                let same = try Binary.run(["serve", "--volume-socket", daemon.socket], environment: daemon.environment)
                #expect(same.status == 65 && same.errors.contains("is the control socket"), "\(same.errors)")
            }
        }

        // MARK: Clients that hang up

        @Test func whoHangsUpEarlyHarmsNobody() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                func send(_ text: String) throws -> Int32 {
                    let connection = try UnixSocket.connect(Self.socket(daemon))
                    try UnixSocket.write(connection, text)
                    return connection
                }
                func request(_ call: String, _ body: String) -> String {
                    "POST /VolumeDriver.\(call) HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
                }
                let whole = request("Create", #"{"Name": "v", "Opts": {"store": "notes"}}"#)
                // In the middle of the head and of the body, in bytes (a line's end is one Character): nothing is made.
                for count in [1, 20, 60, whole.utf8.count - 1] { close(try send(String(Substring(whole.utf8.prefix(count))))) }
                #expect(try Self.names(daemon).isEmpty)
                // Before the answer: it is made or not, and whoever asks again has it once.
                for _ in 0..<20 { close(try send(whole)) }
                try Self.create(daemon, "v", ["store": "notes"])
                for number in 0..<20 { close(try send(request("Mount", #"{"Name": "v", "ID": "c\#(number)"}"#))) }
                for _ in 0..<20 { close(try send(request("List", ""))) }
                for number in 0..<20 { try Self.mount(daemon, "v", "c\(number)") }
                #expect((try Self.get(daemon, "v")["Status"] as? [String: Any])?["containers"] as? Int == 20)
                #expect(try Self.names(daemon) == ["v"])
                #expect(DaemonProcess.mounts(below: daemon.directory).count == 1)
                for number in 0..<20 { try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "v", "ID": "c\(number)"]) }
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "v"])
                let sessions = try #require(try daemon.remfs("session", "list", "--archived", "--json").json()["data"] as? [[String: Any]])
                #expect(sessions.count == 1)
            }
        }

        // MARK: From one daemon to the next

        @Test func volumesOutliveTheDaemon() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                try Self.create(daemon, "v", ["store": "notes"])
                try Self.create(daemon, "idle", ["store": "notes"])
                let place = try Self.mount(daemon, "v", "c1")
                let file = try check(open("\(place)/log", O_WRONLY | O_CREAT | O_APPEND, 0o644))
                for signal in [SIGKILL, SIGHUP] {
                    try Files.write(Array("line\n".utf8), to: file)
                    try Self.end(daemon, signal)
                    #expect(try Self.get(daemon, "v")["Mountpoint"] as? String == place)
                    #expect(try Self.names(daemon) == ["idle", "v"])
                    #expect(try Self.mount(daemon, "v", "c2") == place)
                    // Who has it is known still.
                    try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "v", "ID": "c2"])
                    #expect(try Self.refusal(daemon, "VolumeDriver.Remove", ["Name": "v"]).contains("in use"))
                    try Self.create(daemon, "v", ["store": "notes"])
                }
                try check(close(file))
                #expect(try daemon.stop().status == 0)
                try daemon.start(environment: Self.variables(daemon))
                #expect(try Self.mount(daemon, "v", "c1") == place)
                #expect(try String(contentsOfFile: "\(place)/log", encoding: .utf8) == "line\nline\n")
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "v", "ID": "c1"])
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "v"])
                try Self.end(daemon, SIGKILL)
                #expect(try Self.names(daemon) == ["idle"])
                _ = try Self.refusal(daemon, "VolumeDriver.Get", ["Name": "v"])
            }
        }

        @Test func aContainerOfAnotherRunOfTheMachineHasNothing() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                try Self.create(daemon, "v", ["store": "notes"])
                try Self.mount(daemon, "v", "c")
                #expect(try daemon.stop().status == 0)
                let change = try Binary.run(
                    [], environment: daemon.environment,
                    launcher: ["sqlite3", "\(daemon.state)/catalog.sqlite", "UPDATE volume_use SET boot = 'another'"])
                #expect(change.status == 0, "\(change.errors)")
                try daemon.start(environment: Self.variables(daemon))
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "v"])
            }
        }

        @Test func aVolumeGoesWithItsSession() throws {
            try Self.with { daemon in
                try daemon.output("store", "create", "notes")
                for (name, end) in [("a", "archive"), ("d", "delete")] {
                    try Self.create(daemon, name, ["store": "notes"])
                    try Self.mount(daemon, name, "c")
                    try daemon.output("session", end, try Self.session(daemon, name))
                }
                #expect(DaemonProcess.mounts(below: daemon.directory).isEmpty)
                // It can be seen, and be removed although nobody said that its container has left.
                #expect(try Self.names(daemon) == ["a"])
                #expect(try Self.get(daemon, "a")["Mountpoint"] as? String == "")
                #expect(try Self.refusal(daemon, "VolumeDriver.Mount", ["Name": "a", "ID": "c2"]).contains("archived"))
                #expect(try Self.refusal(daemon, "VolumeDriver.Create", ["Name": "a", "Opts": ["store": "notes"]]).contains("archived"))
                try Self.ask(daemon, "VolumeDriver.Remove", ["Name": "a"])
                for name in ["a", "d"] { try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": name, "ID": "c"]) }
            }
        }

        @Test func whatAContainerHasIsNeverIdle() throws {
            try DaemonProcess.prepared { daemon in
                // 0.00001 days: 0.86 s.
                try daemon.start(environment: Self.variables(daemon).merging(["REMFS_SESSION_IDLE_DAYS": "0.00001"]) { $1 })
                try daemon.output("store", "create", "notes")
                try Self.create(daemon, "had", ["store": "notes"])
                try Self.create(daemon, "left", ["store": "notes"])
                let had = try Self.mount(daemon, "had", "c")
                let left = try Self.mount(daemon, "left", "c")
                try Self.ask(daemon, "VolumeDriver.Unmount", ["Name": "left", "ID": "c"])
                let deadline = ContinuousClock.now + .seconds(20)
                while DaemonProcess.mounts(below: daemon.directory).contains(left), ContinuousClock.now < deadline { usleep(10_000) }
                usleep(1_500_000)
                #expect(DaemonProcess.mounts(below: daemon.directory) == [had])
                #expect(try Self.mount(daemon, "left", "c") == left)
            }
        }
    }
}
