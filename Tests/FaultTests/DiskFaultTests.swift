import Foundation
import Glibc
import TestSupport
import Testing

/// The disk is full, or answers errors: the one who writes hears so, whoever reads goes on, and so does every other store.
extension FaultTests {
    @Suite struct DiskFaultTests {
        // MARK: A full disk

        /// A daemon whose state lies on a small disk of its own.
        private static func onSmallDisk(megabytes: Int, _ body: (DaemonProcess) throws -> Void) throws {
            try DaemonProcess.prepared { daemon in
                try check(mkdir(daemon.state, 0o700))
                try check(Glibc.mount("tmpfs", daemon.state, "tmpfs", 0, "size=\(megabytes)m"))
                try daemon.start()
                try body(daemon)
                #expect(try daemon.stop().status == 0)
                try unmount(daemon.state)
            }
        }

        /// Takes what room there is, to the last byte.
        private static func fill(_ directory: String) throws {
            try withOpen(directory + "/filler", O_WRONLY | O_CREAT | O_APPEND) { file in
                for size in [65_536, 4_096, 1] {
                    do {
                        while true { try Files.write([UInt8](repeating: 1, count: size), to: file) }
                    } catch { guard error as? Errno == .noSpace else { throw error } }
                }
            }
        }

        /// Text that compresses to nothing.
        private static func noise(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
            (0..<count).map { _ in UInt8.random(in: 33...122, using: &random) }
        }

        /// What a client wrote and was told is there.
        private struct Written {
            var files: [String: [UInt8]] = [:]
            /// What was to be in files that were cut short: they hold the beginning of it.
            var parts: [String: [UInt8]] = [:]

            func compare(_ root: String, _ when: String) throws {
                for (name, bytes) in files { #expect(try Files.bytes("\(root)/\(name)") == bytes, "\(name), \(when)") }
                for (name, bytes) in parts { #expect(try bytes.starts(with: Files.bytes("\(root)/\(name)")), "\(name), \(when)") }
            }
        }

        @Test func whoKeepsAFullDisksMountsIsKilled() async throws {
            try await blocking {
                try Self.onSmallDisk(megabytes: 12) { daemon in
                    try daemon.output("store", "create", "notes")
                    try daemon.output("store", "create", "other")
                    let root = try mount("notes", by: daemon)
                    let other = try mount("other", by: daemon)
                    var random = SeededRandom.fresh()
                    var written = Written()
                    try save("settled", to: other + "/settled")

                    /// Every call on the full disk is done or says that there is no room; nothing else.
                    func attempt(_ when: String, _ body: () throws -> Void) -> Bool {
                        do {
                            try body()
                            return true
                        } catch {
                            #expect(error as? Errno == .noSpace, "\(when): \(error), \(random)")
                            return false
                        }
                    }
                    func create(_ name: String, _ bytes: [UInt8]) -> Bool {
                        attempt("writing \(name)") {
                            try withOpen("\(root)/\(name)", O_WRONLY | O_CREAT | O_EXCL) { file in
                                written.parts[name] = bytes
                                try Files.write(bytes, to: file)
                                written.files[name] = written.parts.removeValue(forKey: name)
                            }
                        }
                    }
                    let kept = try check(open(root + "/kept", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o644))
                    defer { close(kept) }
                    var lines: [UInt8] = []
                    func append(_ line: String) -> Bool {
                        attempt("appending") {
                            try Files.write(Array(line.utf8), to: kept)
                            lines += Array(line.utf8)
                        }
                    }
                    #expect(append("before\n"))
                    var count = 0
                    while create("f\(count)", Self.noise(20_000, &random)) {
                        count += 1
                        try #require(count < 2_000, "the disk does not fill up")
                    }
                    #expect(count > 20)
                    try Self.fill(daemon.state)
                    try written.compare(root, "on the full disk, \(random)")

                    for kill in 1...(isLong ? 20 : 3) {
                        try takeOver(daemon)
                        try written.compare(root, "kill \(kill) of \(random)")
                        #expect(try Files.bytes(root + "/kept") == lines)
                        #expect(try text(other + "/settled") == "settled")
                        // Something small may find its place in what is there already; this does not.
                        let fits = (0..<3).map { create("big\(kill)-\($0)", Self.noise(400_000, &random)) }
                        #expect(fits.contains(false))
                        _ = append("kill \(kill)\n")
                        _ = attempt("mkdir") { try check(mkdir(root + "/d\(kill)", 0o755)) }
                        _ = attempt("rename") {
                            try check(rename(root + "/f\(kill)", root + "/g\(kill)"))
                            written.files["g\(kill)"] = written.files.removeValue(forKey: "f\(kill)")
                        }
                        _ = attempt("writing elsewhere") { try save("again", to: "\(other)/\(kill)") }
                        try written.compare(root, "after kill \(kill) of \(random)")
                        try Self.fill(daemon.state)
                    }

                    // Room is made.
                    try check(unlink(daemon.state + "/filler"))
                    try check(Glibc.mount("tmpfs", daemon.state, "tmpfs", UInt(MS_REMOUNT), "size=64m"))
                    #expect(create("room", Self.noise(400_000, &random)))
                    #expect(append("room\n"))
                    try check(fsync(kept))
                    try save("room", to: other + "/room")
                    for when in ["with room", "and killed once more"] {
                        try written.compare(root, "\(when), \(random)")
                        #expect(try Files.bytes(root + "/kept") == lines, "\(when)")
                        #expect(try text(other + "/settled") == "settled")
                        #expect(try text(other + "/room") == "room")
                        try takeOver(daemon)
                    }
                    try expectSound(daemon, "\(random)")
                    print("\(count) files until the disk was full")
                }
            }
        }

        // MARK: A disk that answers errors

        struct Fault: Sendable, CustomTestStringConvertible {
            let call: String
            let error: String
            let code: Int32

            var testDescription: String { "\(error) from \(call)" }
        }

        static let faults = [
            Fault(call: "pwrite64", error: "EIO", code: EIO), Fault(call: "pwrite64", error: "ENOSPC", code: ENOSPC),
            // Whichever of the two is asked for.
            Fault(call: "fdatasync,fsync", error: "EIO", code: EIO),
        ]
        static let hasStrace = access("/usr/bin/strace", X_OK) == 0

        /// The Nth such call of each thread, on the files of one store, fails.
        @Test(.enabled(if: hasStrace, "needs strace"), arguments: faults) func aFailedCallIsTold(_ fault: Fault) async throws {
            try await blocking {
                try mounted { daemon, root in
                    try daemon.output("store", "create", "other")
                    let other = try mount("other", by: daemon)
                    let row = try daemon.output("store", "list").split(separator: "\n").first { $0.contains("notes") }
                    let id = try #require(row?.split(separator: " ").first)
                    let files = ["", "-wal"].map { "\(daemon.state)/stores/\(id).sqlite\($0)" }
                    var lines = ""
                    var (failed, injected, number) = (0, 0, 0)
                    for place in 1...(isLong ? 12 : 3) {
                        let log = "\(daemon.directory)/strace-\(place)"
                        let tracer = try Program.start(
                            ["strace", "-f", "-y", "-p", "\(try daemon.servingProcess())", "-o", log, "-e", "trace=\(fault.call)"]
                                + files.flatMap { ["-P", $0] } + ["-e", "inject=\(fault.call):error=\(fault.error):when=\(place)"], in: "/",
                            scratch: daemon.directory)
                        try wait { tracer.errors.contains("attached") }
                        for _ in 0..<20 {
                            number += 1
                            do {
                                try withOpen(root + "/log", O_WRONLY | O_CREAT | O_APPEND) { file in
                                    try Files.write(Array("\(number)\n".utf8), to: file)
                                    // Written is written, whatever is said of its durability.
                                    lines += "\(number)\n"
                                    try check(fsync(file))
                                }
                            } catch {
                                #expect((error as? Errno)?.code == fault.code, "\(fault.testDescription) \(place): \(error)")
                                failed += 1
                            }
                            try save("\(number)", to: other + "/f")
                            try withOpen(other + "/f", O_RDONLY) { try check(fsync($0)) }
                        }
                        tracer.signal(SIGINT)
                        _ = try tracer.wait()
                        injected += (Files.text(log) ?? "").split(separator: "\n").count { $0.contains("INJECTED") }
                        #expect(try text(root + "/log") == lines, "\(fault.testDescription) \(place)")
                        // A disk that works again is used again.
                        try withOpen(root + "/log", O_RDONLY) { file in try wait { fsync(file) == 0 } }
                        try takeOver(daemon)
                        #expect(try text(root + "/log") == lines, "\(fault.testDescription) \(place), taken over")
                        #expect(try text(other + "/f") == "\(number)")
                        try expectSound(daemon, "\(fault.testDescription) \(place)")
                    }
                    print("\(fault.testDescription): \(injected) injected, \(failed) told to clients")
                    #expect(injected > 0)
                    #expect(try daemon.stop().status == 0)
                }
            }
        }
    }
}
