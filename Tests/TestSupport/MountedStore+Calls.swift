import Glibc

/// System calls below the mountpoint, by the paths that the store knows.
extension MountedStore {
    package func path(_ name: String) -> String { path + name }

    package func open(_ name: String, _ flags: Int32, _ mode: mode_t = 0o644) throws -> Int32 {
        try check(Glibc.open(path(name), flags | O_CLOEXEC, mode))
    }

    @discardableResult
    package func withOpen<Result>(
        _ name: String, _ flags: Int32, _ mode: mode_t = 0o644, _ body: (Int32) throws -> Result
    ) throws -> Result {
        let file = try open(name, flags, mode)
        defer { close(file) }
        return try body(file)
    }

    package func write(_ name: String, _ content: String) throws { try write(name, Array(content.utf8)) }

    package func write(_ name: String, _ content: [UInt8], _ flags: Int32 = O_WRONLY | O_CREAT | O_TRUNC) throws {
        try withOpen(name, flags) { try Files.write(content, to: $0) }
    }

    package func append(_ name: String, _ content: String) throws {
        try write(name, Array(content.utf8), O_WRONLY | O_CREAT | O_APPEND)
    }

    package func read(_ name: String) throws -> String { String(decoding: try bytes(name), as: UTF8.self) }

    package func bytes(_ name: String) throws -> [UInt8] { try withOpen(name, O_RDONLY) { try Files.readAll($0) } }

    package func status(_ name: String) throws -> stat {
        var status = stat()
        try check(lstat(path(name), &status))
        return status
    }

    package func size(_ name: String) throws -> Int { Int(try status(name).st_size) }

    package func exists(_ name: String) throws -> Bool {
        do {
            _ = try status(name)
            return true
        } catch let error as Errno where error == .noSuchFile {
            return false
        }
    }

    package func names(_ name: String = "/") throws -> [String] { try Files.names(in: path(name)).sorted() }
    package func makeDirectory(_ name: String, _ mode: mode_t = 0o755) throws { try check(mkdir(path(name), mode)) }
    package func removeDirectory(_ name: String) throws { try check(rmdir(path(name))) }
    package func remove(_ name: String) throws { try check(unlink(path(name))) }
    package func link(_ name: String, _ newName: String) throws { try check(Glibc.link(path(name), path(newName))) }
    package func symbolicLink(_ target: String, _ name: String) throws { try check(symlink(target, path(name))) }
    package func truncate(_ name: String, _ size: Int) throws { try check(Glibc.truncate(path(name), size)) }
    package func change(mode: mode_t, of name: String) throws { try check(chmod(path(name), mode)) }

    package func rename(_ name: String, _ newName: String, _ flags: UInt32 = 0) throws {
        if flags == 0 {
            try check(Glibc.rename(path(name), path(newName)))
        } else {
            try Linux.rename(path(name), path(newName), flags)
        }
    }
}

/// Reads at an offset.
package func read(_ file: Int32, _ count: Int, at offset: Int) throws -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: count)
    let got = try check(pread(file, &buffer, count, offset))
    return Array(buffer[..<got])
}

/// Writes at an offset, all of it.
package func write(_ text: String, to file: Int32, at offset: Int) throws {
    let count = try check(pwrite(file, text, text.utf8.count, offset))
    precondition(count == text.utf8.count, "a short write")
}
