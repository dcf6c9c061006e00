import Glibc

/// One label's file system, fresh in every round.
protocol Contender: AnyObject {
    var label: Label { get }
    /// Makes an empty file system for this round and returns its root.
    func begin(round: Int) throws -> String
    /// Makes it forget what it holds in memory; the kernel's caches are dropped by the caller.
    func goCold() throws
    func end()
    /// The daemon whose processor time and requests are counted.
    var processes: Set<pid_t> { get }
    func processorTime() -> [pid_t: UInt64]
    func requests() -> [String: Int]?
    func settle(afterWriting: Bool)
}

extension Contender {
    func requests() -> [String: Int]? { nil }
    func settle(afterWriting: Bool) {}
    func processorTime() -> [pid_t: UInt64] {
        var times: [pid_t: UInt64] = [:]
        for pid in processes {
            var clock = clockid_t()
            if clock_getcpuclockid(pid, &clock) == 0 { times[pid] = nanoseconds(clock) }
        }
        return times
    }
}

/// A plain directory.
final class Ext4: Contender {
    let label = Label.ext4
    let processes: Set<pid_t> = []
    private let scratch: Scratch
    init(scratch: Scratch) { self.scratch = scratch }

    func begin(round: Int) throws -> String { try scratch.directory("r\(round)-ext4") }
    func goCold() {}
    // Nothing is deleted before the end: the next round would create beside what was just freed.
    func end() {}
}

/// The FUSE file system that everyone has: a directory seen through libfuse.
final class Bindfs: Contender {
    let label: Label
    private let scratch: Scratch
    private var source = ""
    private var directory = ""
    private var process: ChildProcess?
    private var cleanup = 0

    init(label: Label, scratch: Scratch) {
        self.label = label
        self.scratch = scratch
    }

    var processes: Set<pid_t> { process.map { [$0.pid] } ?? [] }

    func begin(round: Int) throws -> String {
        source = try scratch.directory("r\(round)-\(label.rawValue)-source")
        directory = try scratch.directory("r\(round)-\(label.rawValue)")
        try mount()
        return directory
    }

    func goCold() throws {
        end()
        try mount()
    }

    func end() {
        guard let process else { return }
        Files.unmount(directory)
        // Nothing is lost with it: its files are those of the directory below.
        _ = process.stop(patience: 5000)
        self.process = nil
        Cleanup.shared.remove(cleanup)
    }

    private func mount() throws {
        let caches = ["-o", "kernel_cache,entry_timeout=3600,attr_timeout=3600,negative_timeout=3600"]
        let process = try ChildProcess.start(
            ["bindfs", "-f"] + (label == .bindfsCached ? caches : []) + [source, directory], ownGroup: true)
        self.process = process
        cleanup = Cleanup.shared.add { [directory] in
            Files.unmount(directory)
            _ = process.stop(patience: 2000)
        }
        for _ in 0..<500 {
            if Files.isMounted(directory) { return }
            sleep(milliseconds: 10)
        }
        throw Failure("bindfs does not mount \(directory)")
    }
}

/// A store of its own for each round, mounted by one daemon.
final class Remfs: Contender {
    let label = Label.remfs
    private let daemon: Daemon
    private let scratch: Scratch
    private let memories: Int
    private var store = ""
    private var directory = ""
    private var cleanup = 0

    init(daemon: Daemon, scratch: Scratch, memories: Int) throws {
        self.daemon = daemon
        self.scratch = scratch
        self.memories = memories
    }

    var processes: Set<pid_t> { daemon.processes }
    func processorTime() -> [pid_t: UInt64] { daemon.processorTime() }
    func requests() -> [String: Int]? { daemon.requests() }
    func settle(afterWriting: Bool) { daemon.settle(afterWriting: afterWriting) }

    func begin(round: Int) throws -> String {
        directory = try scratch.directory("r\(round)-remfs")
        // Four times: latency, fsync and mix add memories of their own, and deleted ones may be counted for a while.
        store = try daemon.createStore("benchmark-\(round)", memories: 4 * memories)
        try mount()
        return directory
    }

    func goCold() throws {
        daemon.settle()
        Cleanup.shared.remove(cleanup)
        try daemon.stop()
        // A clean stop unmounts; what it left would answer nothing.
        Files.unmount(directory)
        try daemon.start()
        try mount()
        daemon.settle(afterWriting: false)
    }

    func end() {
        daemon.unmount(directory)
        Cleanup.shared.remove(cleanup)
    }

    private func mount() throws {
        // A daemon that mounts again what it had mounted before has saved us the work.
        if !Files.isMounted(directory) { try daemon.mount(store, at: directory) }
        cleanup = Cleanup.shared.add { [directory] in Files.unmount(directory) }
    }
}
