import Glibc
import Testing

/// Directories of tests. Their names tell the process, so that what a crashed one left, mounts and files, is known and cleared.
package enum TemporaryDirectory {
    private static let prefix = "remfs-test-"
    private static let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"

    /// Runs `body` with the path of an empty directory, and removes it afterwards with all that is in it.
    package static func with<Result>(_ body: (String) throws -> Result) throws -> Result {
        let path = try make()
        defer { remove(path) }
        return try body(path)
    }

    static func make() throws -> String {
        _ = cleared
        // Without symbolic links: a mountpoint is reached through none.
        guard let resolved = realpath(base, nil) else { throw Errno(errno) }
        defer { free(resolved) }
        var template = Array("\(String(cString: resolved))/\(prefix)\(getpid())-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Errno(errno) }
        return String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Once in a process, before the first test: what earlier processes left that are no more.
    private static let cleared: Void = {
        for name in names(in: base) where name.hasPrefix(prefix) {
            let pid = name.dropFirst(prefix.count).prefix { $0 != "-" }
            guard let number = pid_t(pid), isGone(number) else { continue }
            for mount in mounts(below: "\(base)/\(name)") {
                // One of its threads may still wait for an answer of its own, and holds the connection.
                abort(mount.connection)
                if umount2(mount.path, Int32(MNT_DETACH)) != 0 {
                    Issue.record("cannot clear the mount \(mount.path) of an earlier run: \(Errno(errno))")
                }
            }
            remove("\(base)/\(name)")
        }
    }()

    private static func isGone(_ pid: pid_t) -> Bool {
        if kill(pid, 0) == -1 { return errno == ESRCH }
        return Files.text("/proc/\(pid)/status")?.contains("\nState:\tZ") ?? true
    }

    private static func abort(_ connection: Substring) {
        let file = open("/sys/fs/fuse/connections/\(connection)/abort", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        Glibc.write(file, "1", 1)
        close(file)
    }

    /// Removes a tree, unless something is still mounted in it: that belongs to its test's failure.
    static func remove(_ path: String) {
        let left = mounts(below: path)
        guard left.isEmpty else {
            Issue.record("still mounted: \(left)")
            for mount in left { umount2(mount.path, Int32(MNT_DETACH)) }
            return
        }
        removeTree(path)
    }

    private static func removeTree(_ path: String) {
        for name in names(in: path) {
            let inner = "\(path)/\(name)"
            var status = stat()
            guard lstat(inner, &status) == 0 else { continue }
            if status.st_mode & S_IFMT == S_IFDIR { removeTree(inner) } else { unlink(inner) }
        }
        if rmdir(path) != 0, errno != ENOENT { Issue.record("cannot remove \(path): \(Errno(errno))") }
    }

    /// Mountpoints below a directory, the innermost first, and the numbers of their FUSE connections.
    private static func mounts(below path: String) -> [(path: String, connection: Substring)] {
        guard let table = Files.text("/proc/self/mountinfo") else { return [] }
        return table.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard fields.count > 4, fields[4].hasPrefix(path + "/") else { return nil }
            return (String(fields[4]), fields[2].split(separator: ":")[1])
        }.reversed()
    }

    private static func names(in path: String) -> [String] { (try? Files.names(in: path)) ?? [] }  // not there: nothing in it
}

/// Plain files, by path.
package enum Files {
    package static func names(in path: String) throws -> [String] {
        guard let directory = opendir(path) else { throw Errno(errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(cString: $0.bindMemory(to: CChar.self).baseAddress!) }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// nil: it cannot be read.
    package static func text(_ path: String) -> String? { (try? bytes(path)).map { String(decoding: $0, as: UTF8.self) } }

    package static func bytes(_ path: String) throws -> [UInt8] {
        let file = try check(open(path, O_RDONLY | O_CLOEXEC))
        defer { close(file) }
        return try readAll(file)
    }

    package static func readAll(_ file: Int32) throws -> [UInt8] {
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 17)
        while true {
            let count = try check(read(file, &buffer, buffer.count))
            guard count > 0 else { return content }
            content += buffer[..<count]
        }
    }

    /// Writes all of it to an open file.
    package static func write(_ bytes: [UInt8], to file: Int32) throws {
        var done = 0
        while done < bytes.count { done += try bytes[done...].withUnsafeBytes { try check(Glibc.write(file, $0.baseAddress, $0.count)) } }
    }
}
