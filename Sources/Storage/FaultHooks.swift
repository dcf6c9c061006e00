import Glibc
import Threads

/// What fault tests ask of a daemon that serves real mounts, by variables of its environment (`Operations.md`). Without them, and in a
/// release build, nothing here runs.
package struct FaultHooks: Sendable {
    private let statements: StatementKill?
    private let clockFile: String?

    /// No hooks.
    package init() {
        statements = nil
        clockFile = nil
    }

    package init(_ environment: [String: String]) {
        #if DEBUG
            statements = environment["REMFS_DEBUG_KILL_AT_STATEMENT"].map { StatementKill(file: $0) }
            clockFile = environment["REMFS_DEBUG_CLOCK"]
        #else
            self.init()
        #endif
    }

    /// For `Connection.fault` of a store's writer.
    var beforeStatement: (() -> Int32?)? {
        guard let statements else { return nil }
        return {
            statements.pass()
            return nil
        }
    }

    /// How far the wall clock is off, in ns; nil: it is not asked for.
    var clockOffset: (@Sendable () -> Int64)? {
        guard let clockFile else { return nil }
        return { (Self.text(of: clockFile).flatMap { Int64($0) } ?? 0) * 1_000_000_000 }
    }

    /// The first line of a small file; nil: it is not there.
    fileprivate static func text(of path: String) -> String? {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = unsafe read(file, &bytes, bytes.count)
        return String(decoding: bytes.prefix(max(count, 0)).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }
}

/// Ends this process between two statements. While the file says `N MARK`, each statement on a store's writer is counted from the first that
/// finds that MARK; before the Nth the file is removed, so that a successor lives, and the process killed.
private final class StatementKill: Sendable {
    private let file: String
    private let passed = Mutex((text: "", count: 0))

    init(file: String) { self.file = file }

    func pass() {
        guard let text = FaultHooks.text(of: file), let limit = text.split(separator: " ").first.flatMap({ Int($0) }) else { return }
        let isReached = passed.withLock { passed in
            passed = text == passed.text ? (text, passed.count + 1) : (text, 1)
            return passed.count == limit
        }
        // Whoever removes it has it: a test that takes it back is sure that nothing happens any more.
        guard isReached, unsafe unlink(file) == 0 else { return }
        kill(getpid(), SIGKILL)
    }
}
