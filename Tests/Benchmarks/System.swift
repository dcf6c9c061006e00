import Glibc

/// A call that failed or a check that did not hold, in words for whoever runs the benchmark.
struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }

    /// What the last system call left in `errno`.
    static func system(_ what: String) -> Failure { Failure("\(what): \(String(cString: strerror(errno)))") }
}

func nanoseconds(_ clock: clockid_t = CLOCK_MONOTONIC) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

func sleep(milliseconds: UInt32) { usleep(milliseconds * 1000) }

/// What people see while they wait; the table alone goes to stdout.
func note(_ text: String) {
    let line = Array("benchmarks: \(text)\n".utf8)
    _ = write(STDERR_FILENO, line, line.count)
}

/// Plain files, for everything that is not timed.
enum Files {
    static func read(_ path: String) -> [UInt8]? {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(file, &buffer, buffer.count)
            guard count >= 0 else { return nil }
            guard count > 0 else { return bytes }
            bytes.append(contentsOf: buffer[..<count])
        }
    }

    static func text(_ path: String) -> String? { read(path).map { String(decoding: $0, as: UTF8.self) } }

    static func write(_ text: String, to path: String) throws {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let bytes = Array(text.utf8)
        guard Glibc.write(file, bytes, bytes.count) == bytes.count else { throw Failure.system(path) }
    }

    static func makeDirectory(_ path: String) throws {
        guard mkdir(path, 0o755) == 0 else { throw Failure.system("mkdir \(path)") }
    }

    /// The names in a directory, without the two that every directory has.
    static func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    static func status(_ path: String) -> stat? {
        var status = stat()
        return lstat(path, &status) == 0 ? status : nil
    }

    static func isDirectory(_ path: String) -> Bool { status(path).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false }

    /// What a tree takes on its disk, in bytes of allocated blocks: that is what fills it up.
    static func allocatedBytes(below path: String) -> Int {
        guard let own = status(path) else { return 0 }
        let bytes = Int(own.st_blocks) * 512
        guard own.st_mode & S_IFMT == S_IFDIR else { return bytes }
        return names(in: path).reduce(bytes) { $0 + allocatedBytes(below: "\(path)/\($1)") }
    }

    /// Every directory that something is mounted on, with the kind of file system, innermost last.
    static func mounts() -> [(directory: String, type: String)] {
        (text("/proc/self/mountinfo") ?? "").split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard let dash = fields.firstIndex(of: "-"), fields.count > dash + 1, fields.count > 4 else { return nil }
            return (String(fields[4]), String(fields[dash + 1]))
        }
    }

    static func isMounted(_ directory: String) -> Bool { mounts().contains { $0.directory == directory } }

    static func unmount(_ directory: String) {
        // Detached: a dead daemon's mount answers nothing, and what is left over must not keep the scratch directory.
        while isMounted(directory), umount2(directory, Int32(MNT_DETACH)) == 0 {}
    }
}
