import Glibc
import Synchronization

/// What has to be undone however the run ends: programs stopped, mounts taken down, the scratch directory removed. Last in, first out, once.
final class Cleanup: Sendable {
    static let shared = Cleanup()

    private struct State {
        var steps: [(id: Int, undo: @Sendable () -> Void)] = []
        var next = 0
        /// Invariant: once true it stays so, and only the thread that set it takes steps.
        var isRunning = false
    }
    private let state = Mutex(State())

    func add(_ undo: @escaping @Sendable () -> Void) -> Int {
        state.withLock { state in
            state.next += 1
            state.steps.append((state.next, undo))
            return state.next
        }
    }

    /// Forgets a step whose work has been done in the ordinary way.
    func remove(_ id: Int) {
        state.withLock { state in
            if !state.isRunning { state.steps.removeAll { $0.id == id } }
        }
    }

    /// Ends here once a signal has begun to clean up: what the phases would do next would happen below the mounts that are gone.
    func waitIfRunning() {
        if state.withLock({ $0.isRunning }) { while true { pause() } }
    }

    func run() {
        let isFirst = state.withLock { state in
            defer { state.isRunning = true }
            return !state.isRunning
        }
        // A signal came first and will end the process: returning now would let `main` exit under its hands.
        guard isFirst else { while true { pause() } }
        while let step = state.withLock({ $0.steps.popLast() }) { step.undo() }
    }

    /// From here on an interrupted run cleans up as well. Call it before any other thread is started, which inherit what is blocked.
    func catchSignals() {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, signal) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
        signal(SIGPIPE, SIG_IGN)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { _ in
                var set = sigset_t()
                sigemptyset(&set)
                for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, signal) }
                var signal: Int32 = 0
                sigwait(&set, &signal)
                note("stopped by signal \(signal), cleaning up")
                Cleanup.shared.run()
                _exit(128 + signal)
            }, nil)
    }
}

/// The directory everything happens in, removed at the end.
struct Scratch {
    let path: String
    private static let prefix = "remfs-benchmarks-"

    init(in parent: String?) throws {
        let parent = Scratch.parent(parent)
        guard let resolved = realpath(parent, nil) else { throw Failure.system(parent) }
        defer { free(resolved) }
        var template = Array("\(String(cString: resolved))/\(Scratch.prefix)XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure.system("a scratch directory in \(parent)") }
        let path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        self.path = path
        _ = Cleanup.shared.add { Scratch.remove(path) }
        let type = Scratch.filesystem(of: path)
        guard type == "ext4" else {
            throw Failure("\(parent) is on \(type), and the comparison is with ext4 on a disk: name another with --scratch")
        }
        try Files.write("\(getpid())\n", to: "\(path)/pid")
        spread()
    }

    func directory(_ name: String) throws -> String {
        try Files.makeDirectory("\(path)/\(name)")
        return "\(path)/\(name)"
    }

    /// Flushes the disk's own file system, so that no phase pays for the one before.
    func flush() throws { try ChildProcess.run(["sync", "-f", path]) }

    /// Makes ext4 put each new directory in a block group of its own (`chattr +T`): creating near recently deleted files is slow for
    /// minutes, up to eighty times, and would flatter whatever it is compared with.
    private func spread() {
        let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        defer { close(directory) }
        var flags: Int32 = 0
        // FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of <linux/fs.h>, which are macros Swift does not see.
        guard ioctl(directory, 0x8008_6601, &flags) == 0 else { return }
        flags |= 0x0002_0000
        if ioctl(directory, 0x4008_6602, &flags) != 0 { note("cannot spread directories over the disk; creates on ext4 may be slow") }
    }

    /// Removes what a killed run left behind: its process is gone, so nothing of it is in use.
    static func clearLeftovers(in parent: String?) {
        let parent = Scratch.parent(parent)
        for name in Files.names(in: parent) where name.hasPrefix(prefix) {
            let path = "\(parent)/\(name)"
            guard let owner = Files.text("\(path)/pid").flatMap({ pid_t($0.filter(\.isNumber)) }), kill(owner, 0) != 0 else { continue }
            note("removing what an earlier run left in \(path)")
            // Its daemons have the name of this directory, which no other has, among their arguments.
            for process in Files.names(in: "/proc").compactMap({ pid_t($0) }) {
                let command = Files.text("/proc/\(process)/cmdline") ?? ""
                guard command.contains("\(path)/"), command.hasPrefix("bindfs\0") || command.contains("\0serve\0") else { continue }
                kill(process, SIGTERM)
                for _ in 0..<500 where kill(process, 0) == 0 { sleep(milliseconds: 10) }
                kill(process, SIGKILL)
            }
            remove(path)
        }
    }

    private static func parent(_ named: String?) -> String { named ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp" }

    private static func remove(_ path: String) {
        for mount in Files.mounts().reversed() where mount.directory.hasPrefix("\(path)/") { Files.unmount(mount.directory) }
        // --one-file-system: should a mount be left after all, its content is not ours to delete.
        // More than once: a phase that was interrupted may still be writing.
        for _ in 0..<5 {
            try? ChildProcess.run(["rm", "-rf", "--one-file-system", path])
            if access(path, F_OK) != 0 { return }
            sleep(milliseconds: 100)
        }
        note("could not remove \(path)")
    }

    private static func filesystem(of path: String) -> String {
        Files.mounts().filter { path == $0.directory || path.hasPrefix($0.directory == "/" ? "/" : "\($0.directory)/") }
            .max { $0.directory.count < $1.directory.count }?.type ?? "an unknown file system"
    }
}
