internal import CFuse
internal import Glibc

/// A directory that a FUSE file system is mounted on: mounting, unmounting, and finding what an earlier run left.
///
/// Each call may block for as long as the kernel likes, and is not for a `FuseFilesystem` method.
package struct FuseMountpoint: Sendable {
    package struct Options: Sendable {
        /// What the first column of `mount` shows. Any bytes but NUL.
        package var source = Array("remfs".utf8)
        package var isReadOnly = false
        package var forbidsExecution = false
        package var ignoresAccessTimes = false
        /// Who may come in where others may not; nil: the process's own. Only as root.
        package var user: (uid: UInt32, gid: UInt32)?
        /// Whether other users may come in; nil: as root yes, as an ordinary user no (`fuse.conf` must allow it there).
        package var allowsOthers: Bool?
        package var way = Way.automatic

        package init() {}
    }

    package enum Way: Sendable {
        /// Directly as root, with the helper as an ordinary user.
        case automatic
        case direct
        /// With the setuid program `fusermount3`.
        case helper
    }

    /// A system call or the helper failed.
    package struct Failure: Error, Equatable, Sendable {
        /// Which: "mount", "umount", "fusermount3" ...
        package let call: String
        /// EPERM where the helper failed.
        package let errno: Int32
        /// What the helper said, else empty.
        package let detail: String

        package init(call: String, errno: Int32, detail: String = "") {
            self.call = call
            self.errno = errno
            self.detail = detail
        }
    }

    /// Absolute and without symbolic links, as mountinfo has it. Any bytes that a path may have, without a NUL.
    package let path: [UInt8]
    /// The minor number of the mount's device, under which fusectl knows its connection.
    package let number: UInt32?
    package let usesHelper: Bool
    /// The flags of mount(2) besides MS_RDONLY, which a remount must repeat.
    package let flags: UInt

    package init(path: [UInt8], number: UInt32?, usesHelper: Bool, flags: UInt) {
        self.path = path
        self.number = number
        self.usesHelper = usesHelper
        self.flags = flags
    }

    /// The second half of the type `fuse.remfs`, by which mounts of ours are found.
    package static let subtype = "remfs"

    /// Ends the connection of what is mounted: whoever waits for an answer gets ECONNABORTED, later callers ENOTCONN, wherever they have it.
    /// Only while it is mounted is the number its own.
    ///
    /// - Returns: an errno; ENOENT if it has no number or fusectl does not tell of it, EACCES without the right.
    package func abort() -> Int32 { number.map(FuseControl.abort) ?? ENOENT }

    /// Has the kernel write back what was changed through mappings. Waits for the requests that it sends for that.
    ///
    /// - Returns: an errno.
    package func writeBack() -> Int32 {
        unsafe (path + [0]).withUnsafeBytes { unsafe cfuse_write_back($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
    }

    // MARK: - Mounting

    /// Mounts on the directory `path`. The kernel's first request (INIT) then waits in the returned descriptor, and callers wait for it.
    ///
    /// - Parameter directory: a descriptor of the directory, which was found to be a good place: where `path` leads meanwhile does not
    ///   matter then. As root only: the helper looks for itself.
    /// - Returns: the mountpoint, and the descriptor for `FuseConnection`, close-on-exec, now the caller's.
    package static func mount(
        at path: [UInt8], directory: Int32? = nil, _ options: Options = Options()
    ) throws(Failure) -> (FuseMountpoint, device: Int32) {
        var flags = UInt(MS_NOSUID | MS_NODEV)
        if options.forbidsExecution { flags |= UInt(MS_NOEXEC) }
        if options.ignoresAccessTimes { flags |= UInt(MS_NOATIME) }
        let usesHelper =
            switch options.way {
            case .automatic: geteuid() != 0
            case .direct: false
            case .helper: true
            }
        if let directory, !usesHelper {
            let place = "/proc/self/fd/\(directory)".utf8Bytes
            let device = try mountDirectly(place, options, flags)
            // Seen from above: the descriptor shows what is below the mount. Its last name stays as long as it is a mountpoint.
            let name = Array(path[((path.lastIndex(of: UInt8(ascii: "/")) ?? -1) + 1)...])
            let number = unsafe withCString(place + "/..".utf8Bytes) { parent in
                let parent = unsafe open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                guard parent >= 0 else { return Int64(-errno) }
                defer { close(parent) }
                return unsafe withCString(name) { unsafe cfuse_minor_at(parent, $0) }
            }
            return (FuseMountpoint(path: path, number: UInt32(exactly: number), usesHelper: false, flags: flags), device)
        }
        let path = try resolved(path)
        let device = usesHelper ? try mountWithHelper(path, options) : try mountDirectly(path, options, flags)
        let number = unsafe withCString(path) { unsafe cfuse_device_minor($0) }
        let mountpoint = FuseMountpoint(path: path, number: UInt32(exactly: number), usesHelper: usesHelper, flags: flags)
        return (mountpoint, device)
    }

    private static func resolved(_ path: [UInt8]) throws(Failure) -> [UInt8] {
        // The dot has what is no directory refused: the helper would mount on a file as well.
        guard let resolved = unsafe withCString(path + "/.".utf8Bytes, { unsafe realpath($0, nil) }) else {
            throw Failure(call: "realpath", errno: errno)
        }
        defer { unsafe free(resolved) }
        return unsafe Array(UnsafeRawBufferPointer(start: resolved, count: strlen(resolved)))
    }

    private static func mountDirectly(_ path: [UInt8], _ options: Options, _ flags: UInt) throws(Failure) -> Int32 {
        let device = unsafe open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { throw Failure(call: "open /dev/fuse", errno: errno) }
        let user = options.user ?? (geteuid(), getegid())
        var data = "fd=\(device),rootmode=40000,user_id=\(user.uid),group_id=\(user.gid),default_permissions"
        if options.allowsOthers ?? true { data += ",allow_other" }
        let flags = options.isReadOnly ? flags | UInt(MS_RDONLY) : flags
        // Source and directory are arguments of their own here, so no byte in them has a meaning.
        let result = unsafe withCString(options.source) { source in
            unsafe withCString(path) { path in unsafe Glibc.mount(source, path, "fuse.\(subtype)", flags, data) }
        }
        guard result == 0 else {
            let code = errno
            close(device)
            throw Failure(call: "mount", errno: code)
        }
        return device
    }

    private static func mountWithHelper(_ path: [UInt8], _ options: Options) throws(Failure) -> Int32 {
        var list = "nosuid,nodev,default_permissions,subtype=\(subtype)"
        if options.allowsOthers ?? false { list += ",allow_other" }
        if options.isReadOnly { list += ",ro" }
        if options.forbidsExecution { list += ",noexec" }
        if options.ignoresAccessTimes { list += ",noatime" }
        var bytes = Array(list.utf8) + Array(",fsname=".utf8)
        for byte in options.source {
            // The helper splits at commas and unescapes.
            if byte == UInt8(ascii: ",") || byte == UInt8(ascii: "\\") { bytes.append(UInt8(ascii: "\\")) }
            bytes.append(byte)
        }
        var ends: [Int32] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw Failure(call: "socketpair", errno: errno)
        }
        defer { close(ends[0]) }
        let helper: FuseHelper
        do throws(Failure) {
            helper = try FuseHelper(["-o".utf8Bytes, bytes, "--".utf8Bytes, path], inheriting: ends[1])
        } catch {
            close(ends[1])
            throw error
        }
        close(ends[1])
        let device = cfuse_receive_descriptor(ends[0])
        do throws(Failure) {
            try helper.wait()
        } catch {
            if device >= 0 { close(device) }
            throw error
        }
        guard device >= 0 else { throw Failure(call: "fusermount3", errno: -device) }
        return device
    }

    // MARK: - Mounted

    /// Whether it is still what is mounted there, reached through no symbolic link. Asks no file system.
    package var isMounted: Bool {
        guard let number else { return true }
        let place = unsafe Self.withCString(path) { unsafe cfuse_walk($0, true) }
        guard place >= 0 else { return false }
        defer { close(place) }
        return unsafe cfuse_minor_at(place, "") == Int64(number)
    }

    /// Runs `body` with a path of the mount that leads nowhere else, whoever renames above it.
    ///
    /// - Parameter isInside: its root, and not the place that it is mounted on.
    /// - Throws: EINVAL where something else is there.
    private func withPlace(_ call: String, isInside: Bool, _ body: ([UInt8]) -> Int32) throws(Failure) {
        let place = unsafe Self.withCString(path) { unsafe cfuse_walk($0, isInside) }
        guard place >= 0 else { throw Failure(call: call, errno: -place == ENOENT || -place == ENOTDIR ? EINVAL : -place) }
        defer { close(place) }
        let name = isInside ? [] : Array(path[((path.lastIndex(of: UInt8(ascii: "/")) ?? -1) + 1)...])
        if let number {
            guard unsafe Self.withCString(name, { unsafe cfuse_minor_at(place, $0) }) == Int64(number) else {
                throw Failure(call: call, errno: EINVAL)
            }
        }
        guard body(Array("/proc/self/fd/\(place)".utf8) + (isInside ? [] : [UInt8(ascii: "/")] + name)) == 0 else {
            throw Failure(call: call, errno: errno)
        }
    }

    /// Makes the mount read-only or writable for all who see it. Only as root.
    ///
    /// - Throws: EBUSY while files are open for writing. Callers must expect it.
    package func remount(readOnly: Bool) throws(Failure) {
        var flags = flags | UInt(MS_REMOUNT)
        if readOnly { flags |= UInt(MS_RDONLY) }
        try withPlace("remount", isInside: true) { place in
            unsafe Self.withCString(place) { unsafe Glibc.mount(nil, $0, nil, flags, nil) }
        }
    }

    /// Unmounts. EBUSY while files are open or directories worked in, unless `lazily`: then the path is free at once and the connection
    /// ends with the last user.
    package func unmount(lazily: Bool = false) throws(Failure) {
        guard !usesHelper else { return try Self.unmount(path, lazily: lazily, usingHelper: true) }
        try withPlace("umount", isInside: false) { place in
            unsafe Self.withCString(place) { unsafe umount2($0, Int32(UMOUNT_NOFOLLOW) | (lazily ? Int32(MNT_DETACH) : 0)) }
        }
    }

    /// Unmounts what is mounted on `path`, by whomever.
    package static func unmount(_ path: [UInt8], lazily: Bool = false) throws(Failure) {
        try unmount(path, lazily: lazily, usingHelper: geteuid() != 0)
    }

    private static func unmount(_ path: [UInt8], lazily: Bool, usingHelper: Bool) throws(Failure) {
        if usingHelper {
            try FuseHelper(["-u".utf8Bytes] + (lazily ? ["-z".utf8Bytes] : []) + ["--".utf8Bytes, path]).wait()
        } else {
            let flags = Int32(UMOUNT_NOFOLLOW) | (lazily ? Int32(MNT_DETACH) : 0)
            guard unsafe withCString(path, { unsafe umount2($0, flags) }) == 0 else { throw Failure(call: "umount", errno: errno) }
        }
    }

    fileprivate static func withCString<Result>(_ bytes: [UInt8], _ body: (UnsafePointer<CChar>) -> Result) -> Result {
        unsafe (bytes + [0]).withUnsafeBytes { unsafe body($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
    }
}

// MARK: - What is mounted

extension FuseMountpoint {
    /// A mount of ours, of this or an earlier run, as the calling process's mount namespace shows it.
    package struct Existing: Sendable, Equatable {
        package let path: [UInt8]
        package let source: [UInt8]
        /// The minor number of its device.
        package let number: UInt32

        /// Whether nobody serves it any more (ENOTCONN). Asks the file system, so it waits for a server that lives and is slow.
        ///
        /// False as well for a server that was killed and cannot die, since one of its threads waits in the kernel with a notification:
        /// such a connection has requests waiting, and only `abort` ends it.
        package var isDead: Bool {
            // A connection with requests waiting has a descriptor that is open somewhere: others fail them at once.
            if let waiting = FuseControl.waiting(number), waiting > 0 { return false }
            var statistics = statvfs()
            return unsafe FuseMountpoint.withCString(path) { unsafe statvfs($0, &statistics) } != 0 && errno == ENOTCONN
        }

        /// Ends its connection, whoever serves it: who waits gets ECONNABORTED. It is dead then and still mounted.
        ///
        /// - Returns: an errno; EACCES without the right.
        package func abort() -> Int32 { FuseControl.abort(number) }
    }

    /// All mounts of type `fuse.remfs`, in the order in which they were mounted.
    package static func existing() throws(Failure) -> [Existing] {
        guard let table = FuseControl.read("/proc/self/mountinfo") else { throw Failure(call: "read /proc/self/mountinfo", errno: errno) }
        return existing(in: table)
    }

    /// Those in `table`, which is in the format of /proc/self/mountinfo.
    static func existing(in table: [UInt8]) -> [Existing] {
        table.split(separator: UInt8(ascii: "\n")).compactMap { line in
            // ID parent major:minor root path options [optional...] - type source options
            let fields = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
            guard fields.count >= 9, let dash = fields[6...].firstIndex(where: { $0.elementsEqual("-".utf8) }), dash + 2 < fields.count,
                fields[dash + 1].elementsEqual("fuse.\(subtype)".utf8),
                let number = fields[2].split(separator: UInt8(ascii: ":")).last.flatMap({ UInt32(String(decoding: $0, as: UTF8.self)) })
            else { return nil }
            return Existing(path: unescaped(fields[4]), source: unescaped(fields[dash + 2]), number: number)
        }
    }

    /// Undoes the kernel's `\ooo` for blanks, newlines, backslashes and the like.
    private static func unescaped(_ field: ArraySlice<UInt8>) -> [UInt8] {
        var result: [UInt8] = []
        var rest = field
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "7")).contains($0) }) {
                result.append(digits.reduce(0) { $0 &* 8 &+ ($1 - UInt8(ascii: "0")) })
                rest.removeFirst(3)
            } else {
                result.append(byte)
            }
        }
        return result
    }
}

/// One run of `fusermount3`.
private struct FuseHelper {
    private let process: pid_t
    /// Where its standard error can be read.
    private let said: Int32

    /// Starts it.
    ///
    /// - Parameter inheriting: a socket over which it is to send the descriptor of the mount.
    init(_ arguments: [[UInt8]], inheriting socket: Int32? = nil) throws(FuseMountpoint.Failure) {
        var ends: [Int32] = [-1, -1]
        // A socket and no pipe, since Swift's Glibc has no pipe2: a child that another thread starts meanwhile would inherit an end.
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw FuseMountpoint.Failure(call: "socketpair", errno: errno)
        }
        defer { close(ends[1]) }
        var environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".utf8Bytes, "LC_ALL=C".utf8Bytes]
        if socket != nil { environment.append("_FUSE_COMMFD=\(FuseSpawn.descriptor)".utf8Bytes) }
        let started = FuseSpawn.start(
            "fusermount3", ["fusermount3".utf8Bytes] + arguments, environment: environment, inheriting: socket, standardError: ends[1])
        switch started {
        case .success(let process): self.process = process
        case .failure(let failure):
            close(ends[0])
            throw FuseMountpoint.Failure(call: "fusermount3", errno: failure.errno)
        }
        said = ends[0]
    }

    /// Waits for its end.
    func wait() throws(FuseMountpoint.Failure) {
        defer { close(said) }
        var text = [UInt8](repeating: 0, count: 1024)
        // One line is all it says; a closed pipe is silence.
        let count = unsafe read(said, &text, text.count)
        var status: Int32 = 0
        while unsafe waitpid(process, &status, 0) < 0 {
            guard errno == EINTR else { throw FuseMountpoint.Failure(call: "waitpid", errno: errno) }
        }
        guard status == 0 else {
            let detail = String(decoding: text.prefix(max(count, 0)).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
            throw FuseMountpoint.Failure(call: "fusermount3", errno: EPERM, detail: detail)
        }
    }
}

extension String {
    fileprivate var utf8Bytes: [UInt8] { Array(utf8) }
}
