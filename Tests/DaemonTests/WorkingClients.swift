import Foundation
import Glibc
import TestSupport
import Testing

/// Programs that work in a mount without a pause, each in its own way, and check what they get. None of them may see an error, and what they
/// did must be there exactly once.
final class WorkingClients {
    /// What a client says at its end.
    private struct Report: Decodable {
        let operations: Int
        /// What took long, in seconds of the monotonic clock: when it began, and how long it took.
        let slow: [[Double]]
    }

    static let kinds = ["append", "create", "rename", "unlink", "overwrite", "read", "map", "directory", "flock", "fcntl"]

    /// Of the files that are made: the store neither grows nor shrinks with the time that the clients work. Older ones are read once more
    /// before they go.
    private static let kept = 500

    private let root: String
    private let scratch: String
    private var programs: [(kind: String, program: Program)] = []
    private(set) var operations: [String: Int] = [:]
    private var slow: [(kind: String, begun: Double, seconds: Double)] = []

    /// Starts them; returns once each has done something.
    ///
    /// - Parameters:
    ///   - lockers: mounts of the same store in which those work who wait for locks; by default this one.
    ///   - others: further mounts of the same store, in each of which a client changes and reads what these ones see.
    init(in root: String, scratch: String, kinds: [String] = WorkingClients.kinds, lockers: [String] = [], others: [String] = []) throws {
        self.root = root
        self.scratch = scratch
        try Data(Self.script.utf8).write(to: URL(fileURLWithPath: scratch + "/client.py"))
        try check(mkdir(root + "/cwd", 0o755))
        try Data(String(repeating: "content ", count: 4_000).utf8).write(to: URL(fileURLWithPath: root + "/static"))
        for name in ["flock-lock", "flock-count", "fcntl-lock", "fcntl-count", "shared"] {
            try Data("0".utf8).write(to: URL(fileURLWithPath: "\(root)/\(name)"))
        }
        // Of locks two, who wait for each other.
        for kind in kinds {
            let isLocker = ["flock", "fcntl"].contains(kind)
            for copy in 0..<(isLocker ? 2 : 1) {
                try start(kind, copy, isLocker && !lockers.isEmpty ? lockers[copy % lockers.count] : root)
            }
        }
        try start("pulse", 0, root)
        for (copy, other) in others.enumerated() { try start("storm", copy, other) }
        let deadline = ContinuousClock.now + .seconds(60)
        while programs.contains(where: { $0.program.output.isEmpty }) {
            if let failed = programs.first(where: { !$0.program.isRunning }) { _ = try failed.program.success() }
            try #require(ContinuousClock.now < deadline, "a client does not begin")
            usleep(5_000)
        }
    }

    private func start(_ kind: String, _ copy: Int, _ directory: String) throws {
        programs.append(
            (
                kind,
                try Program.start(
                    ["python3", scratch + "/client.py", kind, "\(copy)", directory, scratch + "/stop", "\(Self.kept)"], in: "/",
                    scratch: scratch)
            ))
    }

    /// The first that has ended, with what it said: an error.
    var complaint: String? { programs.first { !$0.program.isRunning }.map { "\($0.kind): \($0.program.errors)" } }

    /// The longest wait that overlaps a time, in ms: of one that makes a single call at a time (`ofCalls`), or of any, for all the calls of
    /// which its work consists.
    func pause(from begin: Double, to end: Double, ofCalls: Bool) -> Double {
        let waits = slow.filter { $0.begun <= end && $0.begun + $0.seconds >= begin && ($0.kind == "pulse" || !ofCalls) }
        return (waits.map(\.seconds).max() ?? 0) * 1_000
    }

    /// Who waited longest, and when that began.
    var longest: (kind: String, begun: Double, seconds: Double)? { slow.max { $0.seconds < $1.seconds } }

    /// Ends them, and compares what is there with what they did.
    func finish() throws {
        try Data().write(to: URL(fileURLWithPath: scratch + "/stop"))
        for (kind, program) in programs {
            let lines = try program.success().split(separator: "\n")
            let report = try JSONDecoder().decode(Report.self, from: Data((lines.last ?? "").utf8))
            operations[kind, default: 0] += report.operations
            slow += report.slow.map { (kind, $0[0], $0[1]) }
        }
        let names = try Files.names(in: root)
        func count(_ kind: String) -> Int { operations[kind] ?? 0 }
        if operations["append"] != nil {
            let lines = try #require(Files.text(root + "/log")).split(separator: "\n").map(String.init)
            #expect(lines == (0..<count("append")).map(String.init), "lines are lost or doubled")
        }
        #expect(names.count { $0.hasPrefix("create-") } == min(Self.kept, count("create")))
        for name in names where name.hasPrefix("create-") {
            #expect(Files.text("\(root)/\(name)") == String(repeating: "\(name.dropFirst(7)) ", count: 50))
        }
        #expect(names.count { $0.hasPrefix("second-") } == min(51, count("rename")))
        #expect(!names.contains { name in ["rename-", "renamed-", "unlink-"].contains { name.hasPrefix($0) } })
        if operations["overwrite"] != nil {
            #expect(Files.text(root + "/over") == String(repeating: "\(count("overwrite") - 1) ", count: 500))
        }
        if operations["directory"] != nil {
            #expect(
                try Files.names(in: root + "/cwd").sorted()
                    == (max(0, count("directory") - 20)..<count("directory")).map { "d\($0)" }.sorted())
        }
        // Whoever was not alone with a count would have lost one.
        for kind in ["flock", "fcntl"] where operations[kind] != nil { #expect(Files.text("\(root)/\(kind)-count") == "\(count(kind))") }
        if operations["map"] != nil {
            let bytes = try Files.bytes(root + "/map")
            let numbers = stride(from: 0, to: bytes.count, by: 4_096).map {
                Int(String(decoding: bytes[$0..<$0 + 8], as: UTF8.self).trimmingCharacters(in: .whitespaces))
            }
            let last = count("map") - 1
            #expect(numbers == (0..<16).map { place in last - (last - place + 16) % 16 })
        }
    }

    private static let script = #"""
        import fcntl, json, mmap, os, sys, time
        kind, copy, root, stop, kept = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
        slow, n, begun = [], 0, 0.0

        def begin():
            global begun
            begun = time.monotonic()

        def done():
            took = time.monotonic() - begun
            if took > 0.003: slow.append((begun, took))

        def save(path, text, mode="w"):
            with open(path, mode) as f: f.write(text)

        def fresh(path):
            # From the daemon, not from the kernel's pages.
            fd = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                found = b""
                while piece := os.read(fd, 1 << 16): found += piece
                return found.decode()
            finally: os.close(fd)

        def counted(take, drop):
            fd = os.open(f"{root}/{kind}-lock", os.O_RDWR)
            take(fd)
            with open(f"{root}/{kind}-count", "r+") as f:
                number = int(f.read())
                # The other one waits for the lock, perhaps across a kill.
                time.sleep(0.002)
                f.seek(0)
                f.write(str(number + 1))
            drop(fd)
            os.close(fd)
            # Otherwise this one would have the lock again before the other has woken up, and that one would wait for ever.
            time.sleep(0.001)

        if kind == "map":
            fd = os.open(f"{root}/map", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            os.ftruncate(fd, 16 * 4096)
            pages = mmap.mmap(fd, 16 * 4096)
            for place in range(16): pages[4096 * place:4096 * place + 8] = b"%8d" % (place - 16)
        if kind == "directory": os.chdir(f"{root}/cwd")
        while n == 0 or not os.path.exists(stop):
            begin()
            if kind == "append": save(f"{root}/log", f"{n}\n", "a")
            elif kind == "create":
                save(f"{root}/create-{n}", f"{n} " * 50, "x")
                if n >= kept:
                    assert fresh(f"{root}/create-{n - kept}") == f"{n - kept} " * 50
                    os.unlink(f"{root}/create-{n - kept}")
            elif kind == "rename":
                name = f"{root}/rename-{n}"
                save(name, str(n), "x")
                os.rename(name, f"{root}/renamed-{n}")
                os.link(f"{root}/renamed-{n}", f"{root}/second-{n}")
                os.unlink(f"{root}/renamed-{n}")
                if n > 50: os.unlink(f"{root}/second-{n - 51}")
            elif kind == "unlink":
                name = f"{root}/unlink-{n}"
                save(name, "short lived", "x")
                os.unlink(name)
                assert not os.path.lexists(name)
            elif kind == "overwrite":
                save(f"{root}/over", f"{n} " * 500)
                assert fresh(f"{root}/over") == f"{n} " * 500
            elif kind == "read": assert fresh(f"{root}/static") == "content " * 4000
            elif kind == "map":
                place = n % 16
                pages[4096 * place:4096 * place + 8] = b"%8d" % n
                pages.flush(4096 * place, 4096)
                # Read again through the mapping, from the daemon.
                pages.madvise(mmap.MADV_DONTNEED)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert [int(pages[4096 * p:4096 * p + 8]) for p in range(16)] == [n - (n - p) % 16 for p in range(16)]
            elif kind == "directory":
                os.mkdir(f"d{n}")
                os.symlink("x", f"d{n}/link")
                fd2 = os.open(f"d{n}/f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                os.ftruncate(fd2, 3)
                assert os.fstat(fd2).st_size == 3
                os.unlink(f"d{n}/f")
                assert os.fstat(fd2).st_nlink == 0 and os.pread(fd2, 9, 0) == b"\0\0\0"
                os.close(fd2)
                os.unlink(f"d{n}/link")
                if n >= 20: os.rmdir(f"d{n - 20}")
                assert os.getcwd() == f"{root}/cwd" and len(os.listdir()) == min(n + 1, 20)
            elif kind == "flock": counted(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), lambda fd: fcntl.flock(fd, fcntl.LOCK_UN))
            elif kind == "fcntl": counted(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN))
            elif kind == "pulse":
                if n == 0: pulse = os.open(f"{root}/pulse", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                os.pwrite(pulse, b"x", 0)
                done()
                time.sleep(0.001)
                begin()
            elif kind == "storm":
                # What all other mounts have in their caches changes all the time.
                save(f"{root}/shared", f"{n} " * 100)
                os.close(os.open(f"{root}/storm-{copy}", os.O_CREAT | os.O_WRONLY, 0o644))
                os.rename(f"{root}/storm-{copy}", f"{root}/stormy-{copy}")
                os.unlink(f"{root}/stormy-{copy}")
                assert fresh(f"{root}/static") == "content " * 4000
                os.utime(f"{root}/static")
            else: raise ValueError(kind)
            if kind not in ("flock", "fcntl", "storm", "pulse") and os.path.exists(f"{root}/shared"): fresh(f"{root}/shared")
            done()
            if n == 0: print("begun", flush=True)
            n += 1
        print(json.dumps({"operations": n, "slow": slow}))
        """#
}
