package import Glibc
package import Logging
package import Storage

/// The place of a Unix socket: its directory, what may be left of an earlier daemon, its owner and mode.
package struct ControlSocket: Sendable {
    package let path: String
    /// nil leaves them as they are made: the daemon's own.
    package let owner: UInt32?
    package let group: UInt32?
    package let mode: mode_t

    package init(path: String, owner: UInt32? = nil, group: UInt32? = nil, mode: mode_t = 0o660) {
        self.path = path
        self.owner = owner
        self.group = group
        self.mode = mode
    }

    private var directory: String {
        let end = path.lastIndex(of: "/") ?? path.startIndex
        return end == path.startIndex ? "/" : String(path[..<end])
    }

    /// Makes the directory if there is none, and removes a socket that nobody answers. Anything else at the path is `busy`.
    package func prepare() throws(RemfsError) {
        guard path.utf8.first == UInt8(ascii: "/") else { throw RemfsError(.invalidArgument, "socket \(path) is not an absolute path") }
        try checkLength()
        if try Directory.make(directory, mode: 0o711) { try own(directory) }
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else {
            guard errno == ENOENT else { throw RemfsError.ofSystem("socket \(path) cannot be examined") }
            return
        }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw RemfsError(.busy, "\(path) is in the way: it is not a socket")
        }
        guard try !isAnswered() else { throw RemfsError(.busy, "socket \(path) is in use by another daemon") }
        guard unsafe unlink(path) == 0 || errno == ENOENT else {
            throw RemfsError.ofSystem("the left-over socket \(path) cannot be removed")
        }
    }

    /// How many may wait for a daemon that is busy, or about to come.
    private static let backlog: Int32 = 1_024

    /// Makes the socket, which `prepare` has made room for, and opens it to its group.
    ///
    /// - Returns: its descriptor, the caller's to close. Who connects waits from now on.
    package func listen() throws(RemfsError) -> Int32 {
        let descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("no socket can be made") }
        do throws(RemfsError) {
            guard unsafe withAddress({ unsafe bind(descriptor, $0, $1) }) == 0 else {
                throw RemfsError.ofSystem("socket \(path) cannot be bound")
            }
            // Nobody can connect before it listens, so nobody comes too early.
            try own(path)
            guard unsafe chmod(path, mode) == 0 else { throw RemfsError.ofSystem("socket \(path) cannot be opened to its users") }
            guard Glibc.listen(descriptor, Self.backlog) == 0 else { throw RemfsError.ofSystem("socket \(path) cannot be listened on") }
        } catch {
            close(descriptor)
            throw error
        }
        return descriptor
    }

    /// Takes the socket away from its place.
    package func remove(_ logger: Logger) {
        if unsafe unlink(path) != 0, errno != ENOENT {
            logger.warning("the socket cannot be removed", metadata: ["socket": "\(path)", "errno": "\(errno)"])
        }
    }

    /// The path that a listening socket was bound to; nil: it has none.
    package static func path(of descriptor: Int32) -> String? {
        var address = sockaddr_un()
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let code = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe getsockname(descriptor, $0, &length) }
        }
        guard code == 0, address.sun_family == sa_family_t(AF_UNIX) else { return nil }
        let bytes = unsafe withUnsafeBytes(of: address.sun_path) { unsafe $0.prefix { $0 != 0 }.map { $0 } }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    /// Whether a socket of that kind is at the path.
    package var isThere: Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }

    private func withAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        return unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }

    private func own(_ path: String) throws(RemfsError) {
        guard owner != nil || group != nil else { return }
        guard unsafe chown(path, owner ?? UInt32.max, group ?? UInt32.max) == 0 else {
            throw RemfsError.ofSystem("\(path) cannot be given to its owner and group")
        }
    }

    /// The system has room for 107 bytes, NIO for as many as every system has.
    private static let maximumPathBytes = 103

    func checkLength() throws(RemfsError) {
        guard path.utf8.count <= Self.maximumPathBytes else {
            throw RemfsError(.invalidArgument, "socket \(path) is over \(Self.maximumPathBytes) bytes long")
        }
    }

    private func isAnswered() throws(RemfsError) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("no socket can be made") }
        defer { close(descriptor) }
        let code = unsafe withAddress { unsafe connect(descriptor, $0, $1) }
        // EAGAIN: its backlog is full, so somebody is there.
        if code == 0 || errno == EAGAIN { return true }
        guard errno == ECONNREFUSED || errno == ENOENT else {
            throw RemfsError(.busy, "socket \(path) may be in use by another daemon", cause: "errno \(errno)")
        }
        return false
    }
}

/// Directories of the daemon.
package enum Directory {
    /// Without symbolic links, through which nothing is mounted.
    package static func real(_ path: String) throws(RemfsError) -> String {
        guard let real = unsafe realpath(path, nil) else { throw RemfsError.ofSystem("\(path) cannot be found") }
        defer { unsafe free(real) }
        return unsafe String(cString: real)
    }

    /// Makes a directory and those above it; true when it was not there. `mode` holds for the last one, 0755 for those above.
    @discardableResult
    package static func make(_ path: String, mode: mode_t) throws(RemfsError) -> Bool {
        var status = stat()
        if unsafe stat(path, &status) == 0 {
            guard status.st_mode & S_IFMT == S_IFDIR else { throw RemfsError(.notADirectory, "\(path) is not a directory") }
            return false
        }
        if let end = path.lastIndex(of: "/"), end != path.startIndex { try make(String(path[..<end]), mode: 0o755) }
        guard unsafe mkdir(path, mode) == 0 else {
            if errno == EEXIST { return false }
            throw RemfsError.ofSystem("\(path) cannot be made")
        }
        // mkdir's mode passes through the umask.
        guard unsafe chmod(path, mode) == 0 else { throw RemfsError.ofSystem("\(path) cannot be made") }
        return true
    }
}
