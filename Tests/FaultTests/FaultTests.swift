import Foundation
import Glibc
import TestSupport
import Testing

/// What goes wrong around a daemon that serves mounts: it is killed, stopped, its disk fails or fills up, the power is cut, the clock jumps.
/// What was acknowledged is there afterwards, and who works in a mount hears the truth. (One after the other: each is processes, and
/// cores are few.)
@Suite(
    .serialized, .timeLimit(.minutes(30)),
    .enabled(if: geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0, "needs root and /dev/fuse"))
struct FaultTests {
    /// REMFS_TEST_FAULTS=long: as often as it takes to be sure, not only as often as a change of the code deserves.
    static let isLong = ProcessInfo.processInfo.environment["REMFS_TEST_FAULTS"] == "long"

    /// A daemon with a store `notes` mounted at the given directory.
    static func mounted(_ environment: [String: String] = [:], _ body: (DaemonProcess, String) throws -> Void) throws {
        try DaemonProcess.prepared { daemon in
            try daemon.start(environment: environment)
            try daemon.output("store", "create", "notes")
            try body(daemon, try mount("notes", by: daemon))
        }
    }

    /// Mounts a store on a directory of its own name.
    static func mount(_ store: String, on name: String? = nil, by daemon: DaemonProcess) throws -> String {
        let directory = "\(daemon.directory)/\(name ?? store)"
        if access(directory, F_OK) != 0 { try check(mkdir(directory, 0o755)) }
        try daemon.output("mount", store, directory)
        return directory
    }

    /// Kills the process that serves, and waits for its successor.
    static func takeOver(_ daemon: DaemonProcess) throws {
        let process = try daemon.servingProcess()
        try check(kill(process, SIGKILL))
        #expect(daemon.notification() == "READY=1")
        #expect(try daemon.servingProcess() != process)
    }

    /// Stops a process, and returns when none of its threads runs any more: the signal only asks for that, and on a busy machine a thread may
    /// answer several requests until then.
    static func stop(_ process: pid_t) throws {
        try check(kill(process, SIGSTOP))
        var running: [String] = []
        do {
            try wait {
                running = try Files.names(in: "/proc/\(process)/task").compactMap { thread in
                    // "12 (a name) T ...": a thread that has ended meanwhile has no more states, and one that waits in the kernel (D), perhaps
                    // for what this process is to answer, stops before it comes back.
                    guard let status = Files.text("/proc/\(process)/task/\(thread)/stat") else { return nil }
                    let state = status[status.lastIndex(of: ")")!...].dropFirst(2).first
                    return state == "T" || state == "D" ? nil : status
                }
                return running.isEmpty
            }
        } catch {
            Issue.record("these do not stop: \(running)")
            throw error
        }
    }

    /// Looks through all stores, from end to end.
    static func expectSound(_ daemon: DaemonProcess, _ when: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let doctor = try daemon.remfs("doctor")
        #expect(doctor.status == 0, "\(when): \(doctor.output)\(doctor.errors)", sourceLocation: sourceLocation)
    }

    /// Waits for an event that has no descriptor to wait on; at most `limit`.
    static func wait(
        _ limit: Duration = .seconds(30), _ condition: () throws -> Bool, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let deadline = ContinuousClock.now + limit
        while try !condition() {
            guard ContinuousClock.now < deadline else {
                Issue.record("what was waited for did not happen", sourceLocation: sourceLocation)
                throw TimedOut()
            }
            usleep(1_000)
        }
    }

    /// Unmounts a disk of a daemon that has ended. Who was killed a moment ago may still have a file open.
    static func unmount(_ disk: String) throws {
        try wait {
            if umount2(disk, 0) == 0 { return true }
            guard errno == EBUSY else { throw Errno(errno) }
            return false
        }
    }

    /// Runs a body with an open file.
    @discardableResult
    static func withOpen<Answer>(_ path: String, _ flags: Int32, _ body: (Int32) throws -> Answer) throws -> Answer {
        let file = try check(open(path, flags | O_CLOEXEC, 0o644))
        let answer: Answer
        do { answer = try body(file) } catch {
            close(file)
            throw error
        }
        try check(close(file))
        return answer
    }

    /// Writes a whole file.
    static func save(_ text: String, to path: String) throws {
        try withOpen(path, O_WRONLY | O_CREAT | O_TRUNC) { try Files.write(Array(text.utf8), to: $0) }
    }

    static func text(_ path: String) throws -> String { String(decoding: try Files.bytes(path), as: UTF8.self) }
}
