import Glibc
import Threads

/// Command names of processes that wait for us, from /proc/PID/comm.
///
/// The files stay open: reading one again is a third of opening it, and an open one whose process is gone answers ESRCH, so a
/// number that was given to another process is noticed.
package final class CommandNames: Sendable {
    private struct Entry {
        let file: Int32
        var lastUse: UInt64
    }
    private struct State {
        var entries: [Int32: Entry] = [:]
        var uses: UInt64 = 0
    }
    private let state = Mutex(State())
    /// As many processes as usually write at a time.
    private static let most = 64

    package init() {}

    deinit { state.withLock { for entry in $0.entries.values { close(entry.file) } } }

    /// The process that a thread belongs to (the kernel names threads), and its command: at most 15 bytes, nil if it has gone.
    package func process(of thread: Int32) -> (pid: Int32, command: String?) {
        state.withLock { state in
            state.uses += 1
            if let entry = state.entries[thread] {
                if let name = Self.read(entry.file) {
                    state.entries[thread]!.lastUse = state.uses
                    return (thread, name)
                }
                close(entry.file)
                state.entries[thread] = nil
            }
            let pid = Self.process(of: thread)
            let file = unsafe open("/proc/\(pid)/comm", O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { return (pid, nil) }
            guard let name = Self.read(file) else {
                close(file)
                return (pid, nil)
            }
            // A thread's number may go to another process while its own lives on: only main threads are remembered.
            guard pid == thread else {
                close(file)
                return (pid, name)
            }
            if state.entries.count >= Self.most, let oldest = state.entries.min(by: { $0.value.lastUse < $1.value.lastUse }) {
                close(oldest.value.file)
                state.entries[oldest.key] = nil
            }
            state.entries[pid] = Entry(file: file, lastUse: state.uses)
            return (pid, name)
        }
    }

    /// `Tgid` of /proc/TID/status, which stands in its first lines; the thread itself where it cannot be read.
    private static func process(of thread: Int32) -> Int32 {
        let file = unsafe open("/proc/\(thread)/status", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return thread }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress!, $0.count) }
        guard count > 0 else { return thread }
        for line in String(decoding: bytes[0..<count], as: UTF8.self).split(separator: "\n") where line.hasPrefix("Tgid:") {
            return Int32(line.dropFirst(5).drop { $0 == "\t" || $0 == " " }) ?? thread
        }
        return thread
    }

    private static func read(_ file: Int32) -> String? {
        unsafe withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { buffer in
            let count = unsafe pread(file, buffer.baseAddress!, 64, 0)
            guard count > 1 else { return nil }
            // Without the newline at its end.
            return unsafe String(decoding: buffer[0..<(count - 1)], as: UTF8.self)
        }
    }
}
