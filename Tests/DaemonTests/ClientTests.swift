import Foundation
import Glibc
import TestSupport
import Testing

/// Clients that are not ours, or that know nothing of us, against the built daemon: the programs of `Tests/Clients`.
extension ServeTests {
    @Suite(.serialized) struct ClientTests {
        enum Transport: CaseIterable {
            /// Without a key, as the process that it is.
            case unixSocket
            /// With a key that may do everything.
            case tcp
        }

        /// Runs `body` with a daemon that listens on both, and what tells a program how to reach it.
        private static func with(_ transport: Transport, _ body: (DaemonProcess, [String: String]) throws -> Void) throws {
            try DaemonProcess.prepared { daemon in
                let port = try Port.free()
                try daemon.start(["--listen", "127.0.0.1:\(port)"])
                switch transport {
                case .unixSocket: try body(daemon, Client.unixSocket(daemon))
                case .tcp:
                    let key = try daemon.http("POST", "/v1/keys", #"{"name": "client", "permission": "admin"}"#).json()
                    let secret = try #require(key["secret"] as? String)
                    try body(daemon, ["REMFS_CLIENT_URL": "http://127.0.0.1:\(port)", "REMFS_CLIENT_KEY": secret])
                }
            }
        }

        /// The contract, line by line. The count of checks says that the program did not pass by checking nothing.
        @Test(
            arguments: [
                ("contract_http", 3_500), ("contract_stores", 1_500), ("contract_memories", 5_000), ("contract_versions", 350),
                ("contract_redaction", 50), ("contract_sessions", 2_500),
            ], Transport.allCases)
        func theContractHolds(_ program: (name: String, checks: Int), over transport: Transport) throws {
            try Self.with(transport) { daemon, environment in
                try Client.passes("python3", program.name, program.checks, daemon, environment: environment)
            }
        }

        @Test(.enabled(if: ServeTests.hasFuse && geteuid() == 0, "needs root and /dev/fuse: only root hears of closes"))
        func theAPIAndTheMountsAreOnePathToTheStore() throws {
            try DaemonProcess.with { daemon in
                let directories = try ["one", "two"].map { try Self.mounted(daemon, at: $0) }
                let mounts = directories.map(\.directory).joined(separator: ":")
                let environment = ["REMFS_CLIENT_MOUNTS": mounts, "REMFS_CLIENT_STORE": directories[0].store]
                try Client.passes(
                    "python3", "one_path", 3_500, daemon, environment: Client.unixSocket(daemon).merging(environment) { $1 })
            }
        }

        /// Every method of the SDK's resources, each plainly, raw, streamed and asynchronously; which there are the program asks the SDK.
        @Test(
            .enabled(if: SDK.isThere, SDK.needed),
            arguments: [("sdk_memory_stores", 2_000), ("sdk_sessions", 2_000), ("sdk_dreams", 400)], Transport.allCases)
        func theOfficialSDKWorksUnchanged(_ program: (name: String, checks: Int), over transport: Transport) throws {
            let python = try SDK.python.get()
            try Self.with(transport) { daemon, environment in
                try Client.passes(python, program.name, program.checks, daemon, environment: environment)
            }
        }

        /// What a worker of the hosted service does with the stores of a session: it copies them and reconciles its copies.
        @Test(.enabled(if: SDK.isThere, SDK.needed), arguments: Transport.allCases)
        func theSyncWorkerOfTheSDKWorks(over transport: Transport) throws {
            let python = try SDK.python.get()
            try Self.with(transport) { daemon, environment in
                let scratch = "\(daemon.directory)/copies"
                try FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: false)
                let environment = environment.merging(["REMFS_CLIENT_SCRATCH": scratch]) { $1 }
                try Client.passes(python, "sdk_sync", 200, daemon, environment: environment)
            }
        }

        @Test(.enabled(if: SDK.isThere, SDK.needed)) func theTestsInTheSDKsSourcePass() throws {
            let (python, source) = (try SDK.python.get(), try SDK.source())
            try DaemonProcess.with { daemon in
                let environment = Client.unixSocket(daemon).merging(["REMFS_CLIENT_SDK": source]) { $1 }
                try Client.passes(python, "sdk_generated", 3_500, daemon, environment: environment)
            }
        }

        @Test(
            .enabled(if: ServeTests.hasFuse && geteuid() == 0, "needs root and /dev/fuse"),
            .enabled(if: SDK.isThere, SDK.needed))
        func theMemoryToolOfTheSDKWorksOnAMount() throws {
            let python = try SDK.python.get()
            try DaemonProcess.with { daemon in
                let mounted = try Self.mounted(daemon, at: "tool")
                let environment = ["REMFS_CLIENT_MOUNT": mounted.directory, "REMFS_CLIENT_STORE": mounted.store]
                try Client.passes(
                    python, "memory_tool", 200, daemon, environment: Client.unixSocket(daemon).merging(environment) { $1 })
            }
        }

        /// Mounts the store `clients`, made where it is not there yet.
        private static func mounted(_ daemon: DaemonProcess, at name: String) throws -> (directory: String, store: String) {
            let directory = "\(daemon.directory)/\(name)"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
            var stores = try daemon.http("GET", "/v1/memory_stores?name=clients").data()
            if stores.isEmpty { stores = [try daemon.http("POST", "/v1/memory_stores", #"{"name": "clients"}"#).json()] }
            let store = try #require(stores[0]["id"] as? String)
            try daemon.output("mount", store, directory)
            return (directory, store)
        }
    }
}

/// A program of `Tests/Clients`. It prints what was wrong, and last how much it has checked: `1234 checks in ..., 0 wrong`.
enum Client {
    static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Clients").path

    static func unixSocket(_ daemon: DaemonProcess) -> [String: String] { ["REMFS_CLIENT_URL": "unix:\(daemon.socket)"] }

    /// Runs it; fails where it found anything wrong, or checked less than it should have.
    static func passes(
        _ python: String, _ program: String, _ checks: Int, _ daemon: DaemonProcess, environment: [String: String]
    ) throws {
        let rounds = ProcessInfo.processInfo.environment["REMFS_CLIENT_ROUNDS"].map { ["REMFS_CLIENT_ROUNDS": $0] } ?? [:]
        let outcome = try Program.start(
            [python, "\(directory)/\(program).py"], in: directory, scratch: daemon.directory,
            environment: environment.merging(rounds) { $1 }
        ).wait(atMost: .seconds(600))
        let lines = outcome.output.split(separator: "\n").map(String.init)
        for line in lines where line.hasPrefix("WRONG") { Issue.record("\(program): \(line)") }
        #expect(outcome.status == 0, "\(program): \(outcome.errors)\(outcome.output.suffix(4_000))")
        let last = try #require(lines.last?.wholeMatch(of: /([0-9]+) checks in .*, 0 wrong/), "\(program): \(outcome.output.suffix(4_000))")
        #expect(try #require(Int(last.1)) >= checks, "\(program) checked too little: \(last.0)")
    }
}

/// The SDK of `Tests/Clients/requirements.txt` in a virtual environment, made once for each version outside the checkout, below the user's
/// cache directory; with its source, for the tests that are in it.
enum SDK {
    static let python: Result<String, any Error> = Result { try make() + "/bin/python" }
    /// Asked only by tests that are about to run. Why it is not there goes to standard error.
    static let isThere: Bool = {
        if case .failure(let error) = python {
            FileHandle.standardError.write(Data("no SDK: \(error)\n".utf8))
            return false
        }
        return true
    }()
    static let needed: Comment = "needs python3 with venv, and pip with an index"

    private struct Failed: Error, CustomStringConvertible { let description: String }

    /// Where it was unpacked.
    static func source() throws -> String {
        let directory = URL(fileURLWithPath: try python.get()).deletingLastPathComponent().deletingLastPathComponent().path + "/source"
        return directory + "/" + (try #require(try FileManager.default.contentsOfDirectory(atPath: directory).first))
    }

    private static func make() throws -> String {
        let environment = ProcessInfo.processInfo.environment
        let requirements = "\(Client.directory)/requirements.txt"
        let wanted = try String(contentsOfFile: requirements, encoding: .utf8).split(separator: "\n").map(String.init)
        let scratch = FileManager.default.temporaryDirectory.appendingPathComponent("remfs-sdk-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: false)
        defer { try! FileManager.default.removeItem(atPath: scratch) }
        func run(_ arguments: String...) throws -> String {
            let program = try Program.start(arguments, in: "/", scratch: scratch, environment: environment)
            let outcome = try program.wait(atMost: .seconds(600))
            guard outcome.status == 0 else { throw Failed(description: "\(arguments.joined(separator: " ")): \(outcome.errors)") }
            return outcome.output
        }
        let version = try run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").trimmingCharacters(in: .newlines)
        let home = environment["HOME"] ?? scratch
        let cache = environment["XDG_CACHE_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil } ?? "\(home)/.cache"
        let name = (["python", version] + wanted).joined(separator: "-").map { $0.isLetter || $0.isNumber || $0 == "." ? $0 : "-" }
        let directory = "\(cache)/remfs-tests/\(String(name))"
        if access("\(directory)/source", F_OK) == 0, (try? run("\(directory)/bin/python", "-c", "import anthropic, pytest")) != nil {
            return directory  // and otherwise it is made again
        }
        let unfinished = "\(directory).\(UUID().uuidString)"
        do {
            _ = try run("python3", "-m", "venv", unfinished)
            let python = "\(unfinished)/bin/python"
            _ = try run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
            let sdk = try #require(wanted.first { $0.hasPrefix("anthropic[") }).replacing("[aiohttp]", with: "")
            _ = try run(
                python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "anthropic", "-d",
                "\(unfinished)/archive", sdk)
            let unpack =
                "import glob, shutil, sys; shutil.unpack_archive(glob.glob(sys.argv[1] + '/archive/*')[0], sys.argv[1] + '/source')"
            _ = try run(python, "-c", unpack, unfinished)
            // Another run may have been faster; what stands there and does not work gives way.
            if access(directory, F_OK) == 0 { try FileManager.default.removeItem(atPath: directory) }
            try check(rename(unfinished, directory))
        } catch {
            if access(unfinished, F_OK) == 0 { try FileManager.default.removeItem(atPath: unfinished) }
            throw error
        }
        return directory
    }
}
