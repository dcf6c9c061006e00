import Foundation
import Glibc
import Testing

/// The built binary, run as people run it.
package struct Binary {
    /// Beside the test bundle.
    package static let path: String = {
        let bundle = try! FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return URL(fileURLWithPath: bundle).deletingLastPathComponent().appendingPathComponent("remfs").path
    }()

    package struct Result {
        package let status: Int32
        package let output: String
        package let errors: String
        /// The output as one JSON document.
        package func json() throws -> [String: Any] {
            try #require(try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any], "\(output)")
        }
    }

    /// A process that has been started, with both its outputs in files, so that none can fill up.
    ///
    /// - Parameter launcher: the binary, or a command that becomes it.
    package static func start(
        _ arguments: [String], environment: [String: String], input: String = "", launcher: [String] = [Binary.path]
    ) throws -> Running {
        try Running(launcher + arguments, environment: environment, input: input)
    }

    package static func run(
        _ arguments: [String], environment: [String: String], input: String = "", launcher: [String] = [Binary.path]
    ) throws -> Result {
        try start(arguments, environment: environment, input: input, launcher: launcher).wait()
    }

    package final class Running {
        private let program: Program
        private var hasEnded = false
        private let directory: String

        fileprivate init(_ arguments: [String], environment: [String: String], input: String) throws {
            directory = "/tmp/remfs-run-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
            try Data(input.utf8).write(to: URL(fileURLWithPath: "\(directory)/in"))
            program = try Program.start(
                arguments, in: "/", scratch: directory, input: "\(directory)/in", environment: environment)
        }

        package var pid: pid_t { program.pid }
        package var isRunning: Bool { program.isRunning }
        package var output: String { program.output }
        package var errors: String { program.errors }

        package func signal(_ signal: Int32) { program.signal(signal) }

        /// Waits for the end. A process that hangs is killed after three minutes, and fails its test.
        package func wait() throws -> Result {
            hasEnded = true
            let outcome = try program.wait(atMost: .seconds(180))
            return Result(status: outcome.status, output: outcome.output, errors: outcome.errors)
        }

        deinit {
            if !hasEnded {
                signal(SIGKILL)
                do { _ = try program.wait() } catch { Issue.record("a process cannot be ended: \(error)") }
            }
            try! FileManager.default.removeItem(atPath: directory)
        }
    }
}

/// A daemon with directories of its own. What a test leaves mounted or running is cleared afterwards.
package final class DaemonProcess {
    package let directory: String
    package let environment: [String: String]
    private let listener: NotificationListener
    package private(set) var running: Binary.Running?
    /// With what the daemon, and commands against it, are started: the binary, or what becomes it.
    package var launcher = [Binary.path]

    package var socket: String { "\(directory)/run/control.sock" }
    package var state: String { "\(directory)/state" }

    private init() throws {
        directory = "/tmp/remfs-daemon-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        listener = try NotificationListener("\(directory)/notify")
        environment = Self.environment(directory).merging(["NOTIFY_SOCKET": listener.path]) { $1 }
    }

    /// Nothing of the machine's own configuration gets in, but what a sanitizer was told: the binary was built with the same one.
    package static func environment(_ directory: String) -> [String: String] {
        [
            "PATH": ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin", "HOME": directory,
            "TMPDIR": access(directory, W_OK) == 0 ? directory : "/tmp", "LC_ALL": "C",
            "REMFS_STATE_DIR": "\(directory)/state", "REMFS_RUNTIME_DIR": "\(directory)/run", "REMFS_CONFIG": "/dev/null",
        ].merging(sanitizers) { $1 }
    }

    /// What a sanitizer was told.
    package static let sanitizers = ProcessInfo.processInfo.environment.filter { ["ASAN_OPTIONS", "TSAN_OPTIONS"].contains($0.key) }

    /// Runs `body` with a daemon that is ready.
    package static func with(_ body: (DaemonProcess) throws -> Void) throws {
        try prepared { daemon in
            try daemon.start()
            try body(daemon)
        }
    }

    /// Runs `body` with the directories of a daemon that has not been started.
    package static func prepared(_ body: (DaemonProcess) throws -> Void) throws {
        let daemon = try DaemonProcess()
        defer { daemon.clear() }
        try body(daemon)
    }

    /// - Parameters:
    ///   - program: another copy of the binary.
    ///   - through: a command that becomes the daemon, as `prlimit`.
    package func start(
        _ arguments: [String] = [], environment extra: [String: String] = [:], program: String? = nil, through: [String] = []
    ) throws {
        running = try Binary.start(
            ["serve"] + arguments, environment: environment.merging(extra) { $1 }, launcher: through + (program.map { [$0] } ?? launcher))
        var message = listener.next()
        // What an earlier one of this test said when it stopped.
        while message == "STOPPING=1" { message = listener.next() }
        try #require(message == "READY=1", "the daemon did not start: \(running?.errors ?? "")")
    }

    /// The process that serves: a child of the one that was started, which keeps the mounts.
    package func servingProcess() throws -> pid_t {
        pid_t(try #require(try remfs("status", "--json").json()["pid"] as? Int))
    }

    /// The processes that another has started and that are there.
    package static func children(of process: pid_t) throws -> [pid_t] {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/task").flatMap { task in
            (Files.text("/proc/\(process)/task/\(task)/children") ?? "").split(separator: " ").compactMap { pid_t($0) }
        }
    }

    /// What the daemon next tells systemd.
    package func notification() -> String? { listener.next() }

    /// Ends the daemon and gives what it left.
    package func stop(_ signal: Int32 = SIGTERM) throws -> Binary.Result {
        let running = try #require(running)
        running.signal(signal)
        let result = try running.wait()
        self.running = nil
        return result
    }

    /// A command of the same binary against this daemon.
    package func remfs(_ arguments: String..., input: String = "", environment extra: [String: String] = [:]) throws -> Binary.Result {
        try Binary.run(arguments, environment: environment.merging(extra) { $1 }, input: input, launcher: launcher)
    }

    /// A command that has to succeed; what it says.
    @discardableResult
    package func output(_ arguments: String..., input: String = "") throws -> String {
        let result = try Binary.run(arguments, environment: environment, input: input, launcher: launcher)
        try #require(result.status == 0, "remfs \(arguments.joined(separator: " ")): \(result.status) \(result.errors)")
        return result.output
    }

    private func clear() {
        // Killed with its last reference.
        running = nil
        for mount in Self.mounts(below: directory).reversed() { umount2(mount, Int32(MNT_DETACH)) }
        precondition(Self.mounts(below: directory).isEmpty, "\(directory) is still mounted")
        try! FileManager.default.removeItem(atPath: directory)
    }

    package static func mounts(below directory: String) -> [String] {
        // Foundation would take the first page for all of it.
        guard let text = Files.text("/proc/self/mountinfo") else { preconditionFailure("mountinfo cannot be read") }
        return text.split(separator: "\n").map { String($0.split(separator: " ")[4]) }.filter { $0.hasPrefix(directory + "/") }
    }
}

/// What systemd would listen on.
private final class NotificationListener {
    let path: String
    private let descriptor: Int32

    init(_ path: String) throws {
        self.path = path
        descriptor = try UnixSocket.make(Int32(SOCK_DGRAM.rawValue))
        try UnixSocket.bind(descriptor, to: path)
    }

    deinit { close(descriptor) }

    /// The next message; nil when none came in half a minute, which is a failure and no measure.
    func next() -> String? {
        var timeout = timeval(tv_sec: 30, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? String(decoding: buffer.prefix(count), as: UTF8.self) : nil
    }
}

package enum UnixSocket {
    package struct Failure: Error { package let code: Int32 }

    package static func make(_ type: Int32 = Int32(SOCK_STREAM.rawValue)) throws -> Int32 {
        let descriptor = socket(AF_UNIX, type | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(code: errno) }
        return descriptor
    }

    package static func bind(_ descriptor: Int32, to path: String) throws {
        guard withAddress(path, { Glibc.bind(descriptor, $0, $1) }) == 0 else { throw Failure(code: errno) }
    }

    package static func connect(_ path: String) throws -> Int32 {
        let descriptor = try make()
        guard withAddress(path, { Glibc.connect(descriptor, $0, $1) }) == 0 else {
            let code = errno
            close(descriptor)
            throw Failure(code: code)
        }
        return descriptor
    }

    package static func write(_ descriptor: Int32, _ text: String) throws {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { throw Failure(code: errno) }
            rest = rest.dropFirst(count)
        }
    }

    /// All that comes until the other side closes.
    package static func readToEnd(_ descriptor: Int32) throws -> [UInt8] {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { throw Failure(code: errno) }
            if count == 0 { return bytes }
            bytes += buffer.prefix(count)
        }
    }

    private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        precondition(path.utf8.count < MemoryLayout.size(ofValue: address.sun_path))
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }
}

/// HTTP without a library, so that what is checked is what is on the wire.
package struct RawResponse {
    package let status: Int
    package let headers: [String: String]
    package let body: [UInt8]

    package func json() throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(body)) as? [String: Any], "\(String(decoding: body, as: UTF8.self))")
    }

    /// The list under `data`.
    package func data() throws -> [[String: Any]] { try #require(try json()["data"] as? [[String: Any]]) }

    /// `error.type` of the envelope, after a look at the rest of it.
    package func errorType() throws -> String {
        let envelope = try json()
        #expect(envelope["type"] as? String == "error")
        #expect(envelope["request_id"] as? String == headers["request-id"])
        let error = try #require(envelope["error"] as? [String: Any])
        #expect((error["message"] as? String)?.isEmpty == false)
        return try #require(error["type"] as? String)
    }
}

extension DaemonProcess {
    /// One request on a connection of its own.
    package func http(_ method: String, _ target: String, _ body: String? = nil, headers: [String] = []) throws -> RawResponse {
        try Self.http(over: socket, method, target, body, headers: headers)
    }

    package static func http(
        over socket: String, _ method: String, _ target: String, _ body: String? = nil, headers: [String] = []
    ) throws -> RawResponse {
        let descriptor = try UnixSocket.connect(socket)
        defer { close(descriptor) }
        var lines = ["\(method) \(target) HTTP/1.1", "Host: localhost", "Connection: close"] + headers
        if let body { lines.append("Content-Length: \(body.utf8.count)") }
        try UnixSocket.write(descriptor, lines.joined(separator: "\r\n") + "\r\n\r\n" + (body ?? ""))
        return try parse(try UnixSocket.readToEnd(descriptor))
    }

    package static func parse(_ bytes: [UInt8]) throws -> RawResponse {
        let separator = Array("\r\n\r\n".utf8)
        let end = try #require(bytes.indices.first { bytes[$0...].starts(with: separator) }, "no answer")
        let head = String(decoding: bytes[..<end], as: UTF8.self).components(separatedBy: "\r\n")
        let status = try #require(Int(head[0].split(separator: " ")[1]))
        var headers: [String: String] = [:]
        for line in head.dropFirst() {
            let colon = try #require(line.firstIndex(of: ":"))
            headers[line[..<colon].lowercased()] = line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
        }
        #expect(headers["request-id"]?.hasPrefix("req_01") == true)
        var body = Array(bytes[(end + 4)...])
        if headers["transfer-encoding"] == "chunked" { body = try dechunk(body) }
        return RawResponse(status: status, headers: headers, body: body)
    }

    private static func dechunk(_ bytes: [UInt8]) throws -> [UInt8] {
        var (rest, result) = (bytes[...], [UInt8]())
        while let end = rest.firstIndex(of: 13) {
            let size = try #require(Int(String(decoding: rest[..<end], as: UTF8.self), radix: 16))
            if size == 0 { break }
            result += rest[(end + 2)..<(end + 2 + size)]
            rest = rest[(end + 2 + size + 2)...]
        }
        return result
    }
}
