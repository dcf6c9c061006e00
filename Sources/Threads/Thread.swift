import Glibc
import struct Synchronization.Atomic

/// An OS thread of ours: one that may block for as long as the kernel, SQLite or a disk likes, which Swift's own pool may not.
package final class Thread: Sendable {
    private let handle: pthread_t
    private let isJoined = Atomic<Bool>(false)

    /// Starts a thread that runs `body` once. `name` is what `ps -T` and `gdb` show, cut to 15 bytes.
    /// Signals that the process handles elsewhere (TERM, INT, HUP) are blocked in it.
    ///
    /// - Parameter stackSize: in bytes. 512 KiB: the deepest of ours is a SQLite statement on top of a FUSE request.
    package init(_ name: String, stackSize: Int = 512 << 10, _ body: @escaping @Sendable () -> Void) {
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        unsafe pthread_attr_setstacksize(&attributes, stackSize)
        defer { unsafe pthread_attr_destroy(&attributes) }
        let start = unsafe Unmanaged.passRetained(Start(name: name, body: body))
        var handle = pthread_t()
        let code = unsafe pthread_create(
            &handle, &attributes,
            { argument in
                let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                Thread.name(start.name)
                Thread.blockSignals()
                start.body()
                return nil
            }, start.toOpaque())
        // A machine that cannot start a thread cannot serve: this is a broken invariant of the process, not an input.
        precondition(code == 0, "pthread_create failed with \(code)")
        self.handle = handle
    }

    /// Nobody can wait for the thread any more, so its stack goes when its body has returned. Otherwise a daemon that starts one each
    /// time somebody follows a log would keep them all.
    deinit {
        if !isJoined.load(ordering: .relaxed) { pthread_detach(handle) }
    }

    /// Waits until the thread's body has returned. Call it once.
    package func join() {
        isJoined.store(true, ordering: .relaxed)
        pthread_join(handle, nil)
    }

    /// Runs `body` once for each of `items` and waits for all: the first ones first, on up to `count` threads at the same time. One item
    /// alone is for the calling thread.
    package static func forEach<Item: Sendable>(
        _ items: [Item], threads count: Int, named name: String, _ body: @escaping @Sendable (Item) -> Void
    ) {
        guard items.count > 1, count > 1 else { return items.forEach(body) }
        let next = Mutex(0)
        let threads = (0..<min(count, items.count)).map { number in
            Thread("\(name)-\(number)") {
                while true {
                    let place = next.withLock { next in
                        defer { next += 1 }
                        return next
                    }
                    guard place < items.count else { return }
                    body(items[place])
                }
            }
        }
        for thread in threads { thread.join() }
    }

    /// Blocks the signals that one place in the process waits for, in the calling thread and those it starts.
    package static func blockSignals() {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGPIPE] { unsafe sigaddset(&set, signal) }
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Names the calling thread through /proc, since glibc hides `pthread_setname_np` from Swift. A thread without a name works as well.
    private static func name(_ name: String) {
        let file = unsafe open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        _ = unsafe Array(name.utf8.prefix(15)).withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
        close(file)
    }

    private final class Start: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
}
