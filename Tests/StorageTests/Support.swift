import Foundation
import Glibc
import Logging
import SQLite
import Testing
import Threads

@testable import Storage

/// SplitMix64: the same seed gives the same run.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    /// Lines that look like notes: compressible against each other, as real memories are.
    mutating func text(_ count: Int) -> [UInt8] {
        let words = ["deploy", "the", "gate", "on", "friday", "uses", "port", "8080", "never", "ask", "user", "prefers", "tabs"]
        var bytes: [UInt8] = []
        while bytes.count < count { bytes.append(contentsOf: Array((pick(words) + (chance(12) ? "\n" : " ")).utf8)) }
        bytes.removeSubrange(count...)
        return bytes
    }

    /// The seed of a test: from the environment when it is set, so that a failure can be replayed.
    static func seed(_ standard: UInt64) -> UInt64 { environment("REMFS_TEST_SEED").flatMap { UInt64($0) } ?? standard }
    static func rounds(_ standard: Int) -> Int { environment("REMFS_TEST_ROUNDS").flatMap { Int($0) } ?? standard }
}

func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// A directory of its own that goes when the body has ended.
enum TemporaryDirectory {
    static func with<Answer>(_ body: (String) throws -> Answer) throws -> Answer {
        var template = Array("/tmp/remfs-storage-XXXXXX".utf8CString)
        let path = try template.withUnsafeMutableBufferPointer { buffer in
            guard let made = mkdtemp(buffer.baseAddress!) else { throw Failure("mkdtemp failed with errno \(errno)") }
            return String(cString: made)
        }
        // What cannot be removed stays in /tmp: no test depends on it.
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try body(path)
    }
}

struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

extension RemfsError {
    /// The code that a body throws; nil when it throws nothing.
    static func code(_ body: () throws -> Void) -> Code? {
        do {
            try body()
            return nil
        } catch let error as RemfsError {
            return error.code
        } catch {
            Issue.record("not a RemfsError: \(error)")
            return nil
        }
    }
}

/// One store without a pool: nothing happens in it but what the test asks for.
final class TestStore {
    let directory: String
    let id: StoreID
    private(set) var store: MemoryStore
    private(set) var mounts: [TestMount] = []
    private let policy: Policy
    private var copies = 0

    /// The errno with which the next sync of a journal fails; 0: it succeeds. Of this store alone.
    let syncFailure = Mutex<Int32>(0)

    static let environment = StoreEnvironment(
        willBlock: {}, schedule: { _, _ in }, synchronize: { store, done in done(nil) }, keepsOrphans: { false },
        logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))

    init(in directory: String, policy: Policy = Policy()) throws {
        self.directory = directory
        self.policy = policy
        id = StoreID(bits: 0x0123_4567_89ab_cdef_0011_2233_4455_6677)
        var environment = Self.environment
        environment.syncFile = { [syncFailure] file in
            let failure = syncFailure.withLock { $0 }
            guard failure != 0 else { return fdatasync(file) }
            errno = failure
            return -1
        }
        store = try MemoryStore(
            id: id, name: "test", path: directory + "/store.sqlite", policy: policy, isArchived: false, isNew: true,
            environment: environment)
    }

    /// - Parameter isTakingOver: as a daemon opens it that goes on with the mounts of one that was killed.
    private static func open(
        _ path: String, _ id: StoreID, _ policy: Policy, isNew: Bool, isTakingOver: Bool = false
    ) throws -> MemoryStore {
        var environment = environment
        environment.keepsOrphans = { isTakingOver }
        return try MemoryStore(id: id, name: "test", path: path, policy: policy, isArchived: false, isNew: isNew, environment: environment)
    }

    static func with<Answer>(policy: Policy = Policy(), _ body: (TestStore) throws -> Answer) throws -> Answer {
        try TemporaryDirectory.with { directory in
            let test = try TestStore(in: directory, policy: policy)
            return try body(test)
        }
    }

    /// A mount that hears of closes, unless told otherwise.
    func mount(
        uid: UInt32 = 1000, hearsCloses: Bool = true, refusesStaleWrites: Bool = false, session: String? = nil,
        trust: Session.Trust? = nil
    ) throws -> TestMount {
        let mount = TestMount(
            of: self, number: (mounts.last?.origin.number ?? 0) + 1, uid: uid, hearsCloses: hearsCloses,
            refusesStaleWrites: refusesStaleWrites, session: session, trust: trust)
        mounts.append(mount)
        try store.attach(mount.origin)
        return mount
    }

    /// Closes the store and opens it again; mounts come back.
    func reopen() throws {
        try store.close()
        store = try Self.open(store.path, id, policy, isNew: false)
        for mount in mounts { try store.attach(mount.origin) }
    }

    /// As `reopen`, of a store that was closed already.
    func reopenClosed() throws { store = try Self.open(store.path, id, policy, isNew: false) }

    /// How long opening takes, as a daemon that starts does it.
    func timeOfReopening() throws -> Duration {
        try store.close()
        let start = ContinuousClock.now
        store = try Self.open(store.path, id, policy, isNew: false)
        return ContinuousClock.now - start
    }

    /// What a daemon that was killed right now leaves behind, opened: a copy of the files as they are.
    func withCopyAfterKill<Answer>(isTakingOver: Bool = false, _ body: (MemoryStore) throws -> Answer) throws -> Answer {
        copies += 1
        let path = "\(directory)/copy-\(copies).sqlite"
        defer { for suffix in ["", "-wal", "-shm"] { unlink(path + suffix) } }
        try copyFiles(to: path)
        let copy = try Self.open(path, id, policy, isNew: false, isTakingOver: isTakingOver)
        return try body(copy)
    }

    /// The same files, opened by nobody.
    func withFilesAfterKill<Answer>(_ body: (String) throws -> Answer) throws -> Answer {
        copies += 1
        let path = "\(directory)/files-\(copies).sqlite"
        defer { for suffix in ["", "-wal", "-shm"] { unlink(path + suffix) } }
        try copyFiles(to: path)
        return try body(path)
    }

    /// Goes on with the files as a kill would have left them.
    func crash(isTakingOver: Bool = false) throws {
        copies += 1
        let path = "\(directory)/after-\(copies).sqlite"
        try copyFiles(to: path)
        store = try Self.open(path, id, policy, isNew: false, isTakingOver: isTakingOver)
        for mount in mounts {
            mount.forget()
            try store.attach(mount.origin)
        }
    }

    private func copyFiles(to path: String) throws {
        // With the lock held nothing is half written: what a kill leaves is a prefix of the same writes.
        try store.state.withLock { _ in
            for suffix in ["", "-wal"] where access(store.path + suffix, F_OK) == 0 {
                try copyFile(store.path + suffix, to: path + suffix)
            }
        }
    }

    func state<Answer>(_ body: (StoreState) throws -> Answer) rethrows -> Answer { try store.state.withLock { try body($0) } }

    /// Everything that time would do: closes, seals, removals, implied directories, orphans.
    func settleAll() throws {
        for mount in mounts { mount.closeAll() }
        try store.settle()
        try state { state in
            for number in state.openSaves { if let inode = state.inodes[number] { state.closeSave(of: inode) } }
            try state.sealQueued()
            try state.sealRemovals(all: true)
            state.removeEmptiedDirectories()
        }
        try removeOrphans()
    }

    /// What upkeep does now and then.
    func removeOrphans() throws {
        state { $0.orphansSeen = 0 }
        _ = try store.maintain()
    }

    /// Pending deletes as two seconds later.
    func passTwoSeconds() throws {
        try state { state in
            try state.sealQueued()
            try state.sealRemovals(all: true)
            state.removeEmptiedDirectories()
        }
    }

    func tidyAll() throws { while try store.tidy(isIdle: true) {} }

    // MARK: What versions say

    /// All versions, oldest first, as `operation path author`.
    func log(_ path: String? = nil) throws -> [String] {
        try store.settle()
        return try versions().filter { path == nil || $0.path == path }.map { "\($0.operation) \($0.path ?? "-")" }
    }

    func versions() throws -> [MemoryVersion] {
        try store.settle()
        // Straight from the rows: asking the store would make every temporary file known.
        return try state { state in
            var numbers: [Int64] = []
            let row = try state.writer.prepare("SELECT number FROM version ORDER BY number")
            while try row.step() { numbers.append(row.integer(0)) }
            return numbers
        }.map { try version($0) }
    }

    private func version(_ number: Int64) throws -> MemoryVersion {
        try state { state in
            let row = try state.writer.prepare(
                """
                SELECT memory, operation, directory || name, size, digest, began, actor, uid, pid, command, base, stale, trust, secrets
                FROM version
                WHERE number = ?1
                """)
            row.bind(number, at: 1)
            guard try row.step() else { throw Failure("version \(number) is gone") }
            return MemoryVersion(
                id: VersionID(store: id, number: number), number: number, memory: MemoryID(store: id, number: row.integer(0)), store: id,
                operation: MemoryVersion.Operation(row: row.integer(1)), path: row.text(2),
                contentSHA256: row.isNull(4) ? nil : row.withBytes(4) { Digest(bytes: $0)?.hex }, sizeInBytes: row.integerOrNil(3),
                created: Timestamp(microseconds: row.integer(5)),
                author: Author(
                    MemoryActor(id: row.text(6) ?? "") ?? .local,
                    writer: Writer(
                        uid: row.integerOrNil(7).map { UInt32($0) }, pid: row.integerOrNil(8).map { Int32($0) }, command: row.text(9)),
                    trust: row.integerOrNil(12).map { Session.Trust(row: $0) }),
                base: row.integerOrNil(10).map { VersionID(store: id, number: $0) }, isStale: row.integer(11) == 1, redacted: nil,
                redactedBy: nil, secrets: row.text(13)?.split(separator: " ").map(String.init))
        }
    }

    func memory(_ path: String) throws -> Memory { try store.memory(at: path) }

    func create(_ path: String, _ content: String, by author: Author = Author(.local)) throws -> Memory {
        try store.commit(.create(path: MemoryPath(path), content: bytes(content)), by: author)!
    }

    /// Every file and directory: path, number, kind, links, size and bytes, without times.
    func tree(of store: MemoryStore? = nil) throws -> [String] {
        let store = store ?? self.store
        let reader = TestMount.observer
        var lines: [String] = []
        func visit(_ number: InodeNumber, _ prefix: String) throws {
            var entries: [(String, InodeAttributes)] = []
            try store.list(number, after: 0, by: reader) { name, _, attributes in
                entries.append((text(name), attributes))
                return true
            }
            for (name, attributes) in entries.sorted(by: { $0.0 < $1.0 }) {
                let path = prefix + "/" + name
                let kind = attributes.mode & UInt32(S_IFMT)
                var line =
                    "\(path) #\(attributes.number) \(String(attributes.mode, radix: 8)) x\(attributes.links) \(attributes.sizeInBytes)"
                if kind == UInt32(S_IFREG) {
                    let bytes = try store.read(attributes.number, offset: 0, count: Int(attributes.sizeInBytes) + 1) { bytes, _ in
                        Array(bytes)
                    }
                    line += " \(Digest(of: bytes).hex.prefix(16)) \(bytes.count)"
                }
                lines.append(line)
                if kind == UInt32(S_IFDIR) { try visit(attributes.number, path) }
            }
        }
        // Looking must not settle what is unsettled: births are put back.
        let unsettled = store.state.withLock { state in state.inodes.mapValues { $0.unsettledIn } }
        try visit(1, "")
        store.state.withLock { state in for (number, origin) in unsettled { state.inodes[number]?.unsettledIn = origin } }
        return lines
    }
}

func copyFile(_ from: String, to: String) throws {
    let source = open(from, O_RDONLY)
    let target = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    defer {
        close(source)
        close(target)
    }
    guard source >= 0, target >= 0 else { throw Failure("cannot copy \(from) to \(to): errno \(errno)") }
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        let count = read(source, &buffer, buffer.count)
        if count == 0 { return }
        guard count > 0, write(target, buffer, count) == count else { throw Failure("cannot copy \(from): errno \(errno)") }
    }
}

/// A mount as a store sees it, and a client of it that speaks in paths.
final class TestMount {
    /// What the store told this mount, and what the mount has to tell the store.
    private struct Shared {
        var closed: [InodeNumber] = []
        var posted: [Invalidation] = []
        var held: Set<InodeNumber> = []
    }

    private unowned let test: TestStore
    private let shared: Mutex<Shared>
    let origin: Origin
    var caller: Caller
    /// Files that this client holds open for writing.
    private var open: Set<InodeNumber> = []

    private var store: MemoryStore { test.store }

    /// Reads only, and is no mount of any store.
    static let observer = Origin(
        number: 1_000_000, isReadOnly: false, refusesStaleWrites: false, actor: { .user(uid: $0) }, process: { ($0, nil) }, takeClosed: nil,
        post: { _ in }, holds: { _ in false }, drain: { _ in true }, isBehind: { false })

    init(of test: TestStore, number: Int, uid: UInt32, hearsCloses: Bool, refusesStaleWrites: Bool, session: String?, trust: Session.Trust?)
    {
        self.test = test
        let shared = Mutex(Shared())
        self.shared = shared
        let takeClosed: @Sendable () -> [InodeNumber] = {
            shared.withLock { state -> [InodeNumber] in
                defer { state.closed = [] }
                return state.closed
            }
        }
        origin = Origin(
            number: number, isReadOnly: false, refusesStaleWrites: refusesStaleWrites, trust: trust,
            actor: { uid in session.map { MemoryActor.session($0) } ?? MemoryActor.user(uid: uid) }, process: { ($0, "process-\($0)") },
            takeClosed: hearsCloses ? takeClosed : nil, post: { posted in shared.withLock { $0.posted += posted } },
            holds: { number in shared.withLock { $0.held.contains(number) } }, drain: { _ in true }, isBehind: { false })
        caller = Caller(origin: origin, uid: uid, gid: uid, pid: 100 + Int32(number))
    }

    /// The same mount used by another process.
    func with<Answer>(pid: Int32, _ body: () throws -> Answer) rethrows -> Answer {
        let before = caller
        caller = Caller(origin: origin, uid: before.uid, gid: before.gid, pid: pid)
        defer { caller = before }
        return try body()
    }

    /// What was posted since the last call.
    func takePosted() -> [Invalidation] {
        shared.withLock { state in
            defer { state.posted = [] }
            return state.posted
        }
    }

    /// The kernel behind this mount has an inode open, though unlinked.
    func hold(_ number: InodeNumber) { _ = shared.withLock { $0.held.insert(number) } }
    func letGo(_ number: InodeNumber) { _ = shared.withLock { $0.held.remove(number) } }

    func forget() {
        open = []
        shared.withLock { $0 = Shared() }
    }

    // MARK: Names

    func number(_ path: String) throws -> InodeNumber {
        guard let number = try find(path) else { throw RemfsError(.notFound, path) }
        return number
    }

    func find(_ path: String) throws -> InodeNumber? {
        var number: InodeNumber = 1
        for segment in path.split(separator: "/") {
            let found = try Array(segment.utf8).withUnsafeBytes { try store.lookup($0, in: number, by: origin) }
            guard let found else { return nil }
            number = found.number
        }
        return number
    }

    private func place(_ path: String) throws -> (parent: InodeNumber, name: [UInt8]) {
        let slash = path.lastIndex(of: "/")!
        return (try number(String(path[..<slash])), bytes(String(path[path.index(after: slash)...])))
    }

    @discardableResult
    func create(_ path: String, isOpen: Bool = true) throws -> InodeNumber {
        let (parent, name) = try place(path)
        let number = try store.create(NewInode(mode: UInt32(S_IFREG) | 0o644, isOpen: isOpen), named: name, in: parent, by: caller).number
        if isOpen { open.insert(number) }
        return number
    }

    func mkdir(_ path: String) throws {
        let (parent, name) = try place(path)
        _ = try store.create(NewInode(mode: UInt32(S_IFDIR) | 0o755), named: name, in: parent, by: caller)
    }

    func symlink(_ target: String, _ path: String) throws {
        let (parent, name) = try place(path)
        _ = try store.create(NewInode(mode: UInt32(S_IFLNK) | 0o777, target: bytes(target)), named: name, in: parent, by: caller)
    }

    func link(_ from: String, _ to: String) throws {
        let (parent, name) = try place(to)
        _ = try store.link(number(from), as: name, in: parent, by: caller)
    }

    func unlink(_ path: String) throws {
        let (parent, name) = try place(path)
        try store.unlink(name, in: parent, by: caller)
    }

    func rmdir(_ path: String) throws {
        let (parent, name) = try place(path)
        try store.removeDirectory(name, in: parent, by: caller)
    }

    func rename(_ from: String, _ to: String, _ rule: RenameRule = .replace, seen: Seen = .irrelevant) throws {
        let (parent, name) = try place(from)
        let (newParent, newName) = try place(to)
        try store.rename(name, in: parent, to: newName, in: newParent, rule, seen: { _ in seen }, by: caller)
    }

    func names(_ path: String) throws -> [String] {
        var names: [String] = []
        try store.list(try number(path), after: 0, by: origin) { name, _, _ in
            names.append(text(name))
            return true
        }
        return names.sorted()
    }

    // MARK: Bytes

    @discardableResult
    func pwrite(_ number: InodeNumber, _ content: [UInt8], at offset: Int64, append: Bool = false, seen: Seen = .irrelevant) throws -> Int64
    {
        open.insert(number)
        return try content.withUnsafeBytes { try store.write($0, to: number, at: offset, append: append, seen: seen, by: caller) }
    }

    func truncate(_ number: InodeNumber, to size: Int64, seen: Seen = .irrelevant) throws {
        var change = AttributeChange()
        change.sizeInBytes = size
        open.insert(number)
        _ = try store.setAttributes(change, of: number, seen: seen, by: caller)
    }

    func chmod(_ path: String, _ mode: UInt32) throws {
        var change = AttributeChange()
        change.mode = mode
        _ = try store.setAttributes(change, of: number(path), seen: .irrelevant, by: caller)
    }

    func punch(_ number: InodeNumber, _ offset: Int64, _ length: Int64) throws {
        open.insert(number)
        try store.allocate(number, offset: offset, length: length, keepsSize: true, makesHole: true, by: caller)
    }

    /// The last descriptor goes: the event is queued before close returns.
    func close(_ number: InodeNumber) {
        guard open.remove(number) != nil else { return }
        shared.withLock { $0.closed.append(number) }
    }

    func closeAll() { for number in open { close(number) } }

    /// `cat > path`: created or emptied, written, closed.
    @discardableResult
    func save(_ path: String, _ content: String, seen: Seen = .irrelevant) throws -> InodeNumber {
        try save(path, bytes(content), seen: seen)
    }

    @discardableResult
    func save(_ path: String, _ content: [UInt8], seen: Seen = .irrelevant) throws -> InodeNumber {
        let number: InodeNumber
        if let existing = try find(path) {
            number = existing
            try truncate(number, to: 0, seen: seen)
        } else {
            number = try create(path)
        }
        if !content.isEmpty { try pwrite(number, content, at: 0) }
        close(number)
        return number
    }

    func append(_ path: String, _ content: String) throws {
        let number = try number(path)
        try pwrite(number, bytes(content), at: 0, append: true)
        close(number)
    }

    func read(_ path: String) throws -> String { text(try contents(path)) }

    func contents(_ path: String) throws -> [UInt8] {
        let number = try number(path)
        let size = try store.attributes(of: number).sizeInBytes
        return try store.read(number, offset: 0, count: Int(size) + 1) { bytes, _ in Array(bytes) }
    }

    /// What the mount is given a byte of, as `Seen` wants it.
    func seen(_ path: String) throws -> Seen {
        .version(try store.read(try number(path), offset: 0, count: 1) { _, version in version })
    }

    func attributes(_ path: String) throws -> InodeAttributes { try store.attributes(of: number(path)) }
}
