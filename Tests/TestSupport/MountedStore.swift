import Filesystem
import Glibc
import Storage
import Testing
import Threads

extension Trait where Self == ConditionTrait {
    /// Skips, and says so, where no mount can be made.
    package static var needsFuse: Self {
        .enabled(if: MountedStore.isPossible, "needs a /dev/fuse that this user can open, and the right to mount")
    }
}

/// A daemon in this process: stores in a directory of its own, and their mounts.
package final class TestDaemon: Sendable {
    /// For files of the test that are in no store.
    package let scratch: String
    package let pool: StorePool
    package let table: MountTable
    package let log = ErrorLog()
    private let directory: String
    private let state = Mutex(State())

    private struct State {
        var mounts = 0
        var retained: [StoreID] = []
        var hasEnded = false
    }

    init(directory: String) throws {
        self.directory = directory
        scratch = directory + "/scratch"
        try check(mkdir(scratch, 0o755))
        pool = try StorePool(stateDirectory: directory + "/state", logger: log.logger, willBlock: MountTable.willBlock)
        do {
            table = try MountTable(stores: pool, logger: log.logger)
        } catch {
            pool.close()
            throw error
        }
    }

    package func retain(_ id: StoreID) throws -> MemoryStore {
        let store = try pool.retain(id)
        state.withLock { $0.retained.append(id) }
        return store
    }

    package func createStore(_ policy: Policy? = nil, _ memories: [String: String] = [:]) throws -> MemoryStore {
        let id = try pool.createStore(name: "test", description: "", metadata: [:]).id
        if let policy { _ = try pool.setPolicy(id, policy) }
        let store = try retain(id)
        try store.add(memories)
        return store
    }

    package func mount(_ store: MemoryStore, _ options: MountOptions = MountOptions()) throws -> MountedStore {
        let number = state.withLock { state in
            state.mounts += 1
            return state.mounts
        }
        let path = "\(directory)/mnt\(number)"
        try check(mkdir(path, 0o755))
        let mount = try table.mount(store.id, at: path, options, requestedBy: 0)
        return MountedStore(daemon: self, store: store, mount: mount.id, path: path)
    }

    /// Unmounts, seals and closes everything: nothing that waits for its time is left open.
    package func end() {
        let retained = state.withLock { state -> [StoreID]? in
            defer { state.hasEnded = true }
            return state.hasEnded ? nil : state.retained
        }
        guard let retained else { return }
        table.stop()
        for id in retained { pool.release(id) }
        pool.close()
    }

    /// A child that some other test has just forked holds the lock of the directory until its exec.
    private func reopened() throws -> StorePool {
        let deadline = ContinuousClock.now + .seconds(10)
        while true {
            let result = Result { () throws(RemfsError) in
                try StorePool(stateDirectory: directory + "/state", logger: log.logger)
            }
            if case .failure(let error) = result, error.code == .busy, ContinuousClock.now < deadline {
                usleep(1_000)
                continue
            }
            return try result.get()
        }
    }

    /// Ends the daemon, opens its stores again, and lends one.
    package func afterwards<Result>(_ id: StoreID, _ body: (MemoryStore) throws -> Result) throws -> Result {
        end()
        let pool = try reopened()
        defer { pool.close() }
        let store = try pool.retain(id)
        defer { pool.release(id) }
        return try body(store)
    }
}

/// A store mounted in this process, and system calls on the mount.
package struct MountedStore: Sendable {
    package let daemon: TestDaemon
    package let store: MemoryStore
    package let mount: MountID
    /// Of the mountpoint.
    package let path: String
    /// The newest version, and the memories, that the test began with.
    private let first: Int64
    private let known: [MemoryID]

    package static let isPossible: Bool = {
        let device = Glibc.open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { return false }
        close(device)
        return geteuid() == 0
    }()

    init(daemon: TestDaemon, store: MemoryStore, mount: MountID, path: String) {
        self.daemon = daemon
        self.store = store
        self.mount = mount
        self.path = path
        let versions = (try? store.versions(VersionFilter(), after: 0, limit: 10_000)) ?? []  // a store that fails says so in the test
        first = versions.last?.number ?? 0
        known = versions.map(\.memory).reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    /// Runs `body` on one mount of a new store, on a thread that may block. Whatever happens, all is taken down again, the last first.
    ///
    /// - Parameter memories: created through the API, in the order of their paths, before the mount is made.
    package static func with<Result>(
        access: Access = .readWrite, memories: [String: String] = [:], policy: Policy? = nil, _ options: MountOptions = MountOptions(),
        _ body: (MountedStore) throws -> Result
    ) async throws -> Result {
        var options = options
        options.access = access
        return try await with(mounts: [options], memories: memories, policy: policy) { try body($0[0]) }
    }

    /// As above, on several mounts of one store.
    package static func with<Result>(
        mounts: Int, memories: [String: String] = [:], policy: Policy? = nil, _ options: MountOptions = MountOptions(),
        _ body: ([MountedStore]) throws -> Result
    ) async throws -> Result {
        try await with(mounts: Array(repeating: options, count: mounts), memories: memories, policy: policy, body)
    }

    package static func with<Result>(
        mounts: [MountOptions], memories: [String: String] = [:], policy: Policy? = nil, _ body: ([MountedStore]) throws -> Result
    ) async throws -> Result {
        try await blocking {
            try TemporaryDirectory.with { directory in
                let daemon = try TestDaemon(directory: directory)
                defer { daemon.end() }
                let store = try daemon.createStore(policy, memories)
                let mounted = try mounts.map { try daemon.mount(store, $0) }
                let result = try body(mounted)
                daemon.log.expectNone()
                return result
            }
        }
    }

    // MARK: Programs

    /// Runs a script in the root of the mount; it must succeed. Answers what it printed.
    @discardableResult
    package func run(_ script: String) throws -> String { try start(script).success() }

    package func start(_ script: String, input: String = "/dev/null") throws -> Program {
        try Program.start(
            ["bash", "-ec", script], in: path, scratch: daemon.scratch, input: input, environment: ["SCRATCH": daemon.scratch])
    }

    // MARK: Versions

    /// All versions since the test began, oldest first.
    package func versions() throws -> [MemoryVersion] { try Self.versions(of: store, after: first) }

    /// Those at one path.
    package func versions(_ path: String) throws -> [MemoryVersion] { try versions().filter { $0.path == path } }

    private static func versions(of store: MemoryStore, after first: Int64) throws -> [MemoryVersion] {
        try store.versions(VersionFilter(), before: nil, limit: 10_000).reversed().filter { $0.number > first }
    }

    /// Versions since the test began, in words: what happened, where, to which memory (those of the beginning come first), and what it
    /// held then: `modified /a #1: text`.
    package func log() throws -> [String] { try Self.log(of: store, after: first, known) }

    /// As `log`, after the daemon has ended: nothing is pending any more.
    package func history() throws -> [String] {
        try daemon.afterwards(store.id) { try Self.log(of: $0, after: first, known) }
    }

    private static func log(of store: MemoryStore, after first: Int64, _ known: [MemoryID]) throws -> [String] {
        var known = known
        return try versions(of: store, after: first).map { version in
            if !known.contains(version.memory) { known.append(version.memory) }
            let number = known.firstIndex(of: version.memory)! + 1
            var line = "\(version.operation.rawValue) \(version.path ?? "-") #\(number)"
            if let content = try store.content(of: version) { line += ": " + words(content) }
            if version.isStale { line += " (stale)" }
            return line
        }
    }

    /// Short content as text, with `|` between lines and none at the end.
    private static func words(_ content: [UInt8]) -> String {
        guard content.count <= 60, !content.contains(0) else { return "\(content.count) bytes" }
        let lines = String(decoding: content, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        return lines.last == "" ? lines.dropLast().joined(separator: "|") : lines.joined(separator: "|") + "..."
    }

    /// Waits until there are `count` versions since the test began, and answers them in words.
    @discardableResult
    package func log(of count: Int) throws -> [String] {
        while true {
            let lines = try log()
            if lines.count >= count { return lines }
            let newest = try store.statistics().newestVersion
            guard try log().count >= count || store.waitForVersion(after: newest, timeout: .seconds(20)) else { return lines }
        }
    }

    /// The ID under which a path is known.
    package func id(_ path: String) throws -> MemoryID { try store.memory(at: path).id }

    // MARK: Requests

    /// What the kernel asked for while `body` ran, by operation.
    package func requests(_ body: () throws -> Void) throws -> [String: Int] {
        let before = try settledRequests()
        try body()
        let after = try settledRequests()
        var counts: [String: Int] = [:]
        for (operation, count) in after where operation != "statfs" {
            let more = count - before[operation, default: 0]
            if more > 0 { counts[operation] = Int(more) }
        }
        return counts
    }

    /// A worker counts an answer after its caller has it, and before it reads the next request. So a request of our own is sent and waited for.
    private func settledRequests() throws -> [String: UInt64] {
        let before = try daemon.table.requestCounts(mount)["statfs", default: 0]
        var statistics = statvfs()
        try check(statvfs(path, &statistics))
        while true {
            let counts = try daemon.table.requestCounts(mount)
            if counts["statfs", default: 0] > before { return counts }
            sched_yield()
        }
    }
}
