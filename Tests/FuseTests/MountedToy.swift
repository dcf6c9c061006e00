import Fuse
import Glibc
import Testing
import Threads

/// All that needs a kernel that lets us mount. Serialized, since the tests count this process's descriptors, threads and requests.
@Suite(
    .serialized,
    .enabled(if: MountedToy.isPossible, "needs a /dev/fuse that this user can open, and the right to mount"))
struct FuseTests {}

/// A system call that failed.
struct Failed: Error, Equatable {
    let errno: Int32
    init(_ errno: Int32) { self.errno = errno }
}

/// Throws errno where a call returned -1.
@discardableResult
func check<Number: FixedWidthInteger>(_ result: Number) throws -> Number {
    guard result != -1 else { throw Failed(errno) }
    return result
}

/// A toy file system on a temporary directory, with workers of its own, and system calls on it.
struct MountedToy {
    let toy: ToyFilesystem
    let connection: FuseConnection
    let mountpoint: FuseMountpoint
    let workers: FuseWorkers
    let path: String

    static let isPossible: Bool = {
        let device = Glibc.open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { return false }
        close(device)
        return geteuid() == 0
    }()

    /// Workers that nobody expects to stall, on a machine that may be slow.
    static func quietWorkers() -> FuseWorkers {
        FuseWorkers(stallLimit: .seconds(20), hangLimit: .seconds(40)) { stall in Issue.record("unexpected: \(stall)") }
    }

    /// Runs `body` on a fresh mount, and takes it down again whatever happens.
    static func with(
        _ options: FuseConnectionOptions = FuseConnectionOptions(), mounting: FuseMountpoint.Options = .init(),
        workers given: FuseWorkers? = nil,
        _ body: (MountedToy) throws -> Void
    ) throws {
        let workers = given ?? MountedToy.quietWorkers()
        defer { if given == nil { workers.stop() } }
        try TemporaryDirectory.with { directory in
            let mounted = try mount(ToyFilesystem(options), at: directory, workers, mounting)
            defer { mounted.unmountAnyway() }
            try body(mounted)
        }
    }

    static func mount(
        _ toy: ToyFilesystem, at path: String, _ workers: FuseWorkers, _ options: FuseMountpoint.Options = .init()
    ) throws -> MountedToy {
        var options = options
        options.source = TemporaryDirectory.source
        let (mountpoint, device) = try FuseMountpoint.mount(at: Array(path.utf8), options)
        do {
            let connection = try FuseConnection(filesystem: toy, device: device, number: mountpoint.number)
            #expect(workers.add(connection))
            #expect(toy.wait { $0.starts == 1 })
            return MountedToy(toy: toy, connection: connection, mountpoint: mountpoint, workers: workers, path: path)
        } catch {
            try mountpoint.unmount(lazily: true)
            throw error
        }
    }

    func unmountAnyway() {
        // Often unmounted already, by the test.
        try? mountpoint.unmount(lazily: true)
        connection.end()
    }

    // MARK: - Counting

    /// Waits until the answers of all earlier calls are counted, which happens after the caller has them: a worker counts one answer
    /// before it reads the next request.
    func settle() throws {
        let before = toy.count(.statfs)
        var statistics = statvfs()
        try check(statvfs(path, &statistics))
        #expect(toy.wait { $0.counts[.statfs, default: 0] > before })
    }

    /// How many requests came for what the caller did.
    func settledRequests() throws -> Int {
        try settle()
        return toy.requests
    }

    // MARK: - System calls, below the mountpoint

    func path(_ name: String) -> String { "\(path)/\(name)" }

    func open(_ name: String, _ flags: Int32, _ mode: mode_t = 0o644) throws -> Int32 {
        try check(Glibc.open(path(name), flags | O_CLOEXEC, mode))
    }

    @discardableResult
    func withOpen<Result>(_ name: String, _ flags: Int32, _ mode: mode_t = 0o644, _ body: (Int32) throws -> Result) throws -> Result {
        let file = try open(name, flags, mode)
        defer { close(file) }
        return try body(file)
    }

    func write(_ name: String, _ content: String, _ flags: Int32 = O_WRONLY | O_CREAT | O_TRUNC) throws {
        try withOpen(name, flags) { file in
            let count = try check(Glibc.write(file, content, content.utf8.count))
            #expect(count == content.utf8.count)
        }
    }

    func read(_ name: String) throws -> String {
        try withOpen(name, O_RDONLY) { String(decoding: try Self.readAll($0), as: UTF8.self) }
    }

    static func readAll(_ file: Int32) throws -> [UInt8] {
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = try check(Glibc.read(file, &buffer, buffer.count))
            guard count > 0 else { return content }
            content += buffer[..<count]
        }
    }

    func status(_ name: String) throws -> stat {
        var status = stat()
        try check(lstat(path(name), &status))
        return status
    }

    func list(_ name: String = "") throws -> [String] {
        guard let directory = opendir(path(name)) else { throw Failed(errno) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }
}

/// Temporary directories that carry the mounts of these tests, so that those of a crashed predecessor can be recognised and cleared.
enum TemporaryDirectory {
    static let prefix = "remfs-fusetests"
    /// The source of this process's mounts.
    static let source = Array("\(prefix).\(getpid())".utf8)

    /// Clears what a crashed run left: its dead mounts and their directories.
    private static let cleared: Void = {
        do {
            for mount in try FuseMountpoint.existing() where mount.source.starts(with: prefix.utf8) {
                // The source has the pid of who mounted it. A zombie may wait for us, with a thread in the kernel.
                let pid = String(decoding: mount.source.dropFirst(prefix.utf8.count + 1).prefix { (48...57).contains($0) }, as: UTF8.self)
                guard let file = fopen("/proc/\(pid)/status", "r") else {
                    try clear(mount)
                    continue
                }
                defer { fclose(file) }
                var line = [CChar](repeating: 0, count: 256)
                while fgets(&line, 256, file) != nil {
                    let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
                    if text.hasPrefix("State:\tZ") { try clear(mount) }
                }
            }
        } catch {
            Issue.record("cannot clear old mounts: \(error)")
        }
    }()

    private static func clear(_ mount: FuseMountpoint.Existing) throws {
        if !mount.isDead { #expect(mount.abort() == 0) }
        try FuseMountpoint.unmount(mount.path, lazily: true)
        let path = String(decoding: mount.path, as: UTF8.self)
        rmdir(path)
        rmdir(String(path.prefix(upTo: path.lastIndex(of: "/")!)))
    }

    /// Runs `body` with the path of an empty directory called `name`, and removes it afterwards.
    static func with(named name: String = "mnt", _ body: (String) throws -> Void) throws {
        _ = cleared
        let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(base)/\(prefix).XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failed(errno) }
        let outer = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        defer { rmdir(outer) }
        let inner = "\(outer)/\(name)"
        try check(mkdir(inner, 0o755))
        defer { rmdir(inner) }
        try body(inner)
    }
}

/// What a thread of a test is to say, once, and whether it did.
final class Event<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let changed = Condition()

    func post(_ value: Value) {
        self.value.withLock { $0 = value }
        changed.broadcast()
    }

    /// Nil after `timeout`.
    func wait(_ timeout: Duration = .seconds(10)) -> Value? {
        value.wait(on: changed, atMost: timeout, until: { $0 != nil }) { value, _ in value }
    }

    var isPosted: Bool { value.withLock { $0 != nil } }
}

extension Event where Value == Void {
    func post() { post(()) }
}
