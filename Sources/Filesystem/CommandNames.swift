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

    /// At most 15 bytes; nil if the process has gone.
    package func name(of pid: Int32) -> String? {
        state.withLock { state in
            state.uses += 1
            if let entry = state.entries[pid] {
                if let name = Self.read(entry.file) {
                    state.entries[pid]!.lastUse = state.uses
                    return name
                }
                close(entry.file)
                state.entries[pid] = nil
            }
            let file = unsafe open("/proc/\(pid)/comm", O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { return nil }
            guard let name = Self.read(file) else {
                close(file)
                return nil
            }
            if state.entries.count >= Self.most, let oldest = state.entries.min(by: { $0.value.lastUse < $1.value.lastUse }) {
                close(oldest.value.file)
                state.entries[oldest.key] = nil
            }
            state.entries[pid] = Entry(file: file, lastUse: state.uses)
            return name
        }
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
