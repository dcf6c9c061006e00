import Fuse
import Glibc
import Logging
import Storage
import Threads

import struct Synchronization.Atomic

/// Hears which files writers have closed, for all mounts, and has their saves sealed.
///
/// Events are read by a thread of its own, which does nothing else, and by whoever must know of closes before it goes on
/// (`takeClosed`, with the store's lock held). Lock order: a store's lock, then this one.
final class CloseWatcher: Sendable {
    private struct State {
        /// By device number: what was closed and is not yet taken.
        var closed: [UInt32: [InodeNumber]] = [:]
        var mounts: [UInt32: @Sendable () -> Void] = [:]
        var isStopping = false
    }
    private let events: FuseCloseEvents
    private let state = Mutex(State())
    private let thread = Mutex<Thread?>(nil)
    /// Closes read so far, by whomever.
    private let heard = Atomic(0)
    private let logger: Logger

    /// nil where the process may not listen (it is not root).
    init?(logger: Logger) {
        guard let events = FuseCloseEvents() else { return nil }
        self.events = events
        self.logger = logger
        let thread = Thread("remfs-close") { [self] in run() }
        self.thread.withLock { $0 = thread }
    }

    /// What the events come from, for the holder.
    var group: Int32 { events.group }

    /// Listens on a mount that is served already. `closed` is called, on the watcher's thread, when something waits to be taken.
    func watch(_ path: String, mount: UInt32, closed: @escaping @Sendable () -> Void) -> Int32 {
        state.withLock { $0.mounts[mount] = closed }
        return events.watch(Array(path.utf8))
    }

    func forget(mount: UInt32) {
        state.withLock { state in
            state.mounts[mount] = nil
            state.closed[mount] = nil
        }
    }

    /// The files closed so far on one mount: every close that has returned is among them.
    func takeClosed(mount: UInt32) -> [InodeNumber] {
        state.withLock { state in
            read(&state)
            return state.closed.removeValue(forKey: mount) ?? []
        }
    }

    private func read(_ state: inout State) {
        let (closes, dropped) = events.read()
        heard.add(closes.count, ordering: .relaxed)
        if dropped { logger.error("close events dropped: saves are sealed after 30 s instead") }
        for close in closes where state.mounts[close.mount] != nil {
            state.closed[close.mount, default: []].append(InodeNumber(close.node))
        }
    }

    /// Closes that follow each other more closely are a burst: a loop of the shell is slower, a program that creates files is not.
    private static let burstPace: Duration = .microseconds(500)
    /// In us: how long a burst is left alone, and after what silence it is over.
    private static let longestPause: UInt32 = 3_000
    private static let silence: UInt32 = 250

    private func awaitEndOfBurst() {
        // Whoever writes one file again and again takes each close in: what waits then says nothing.
        func count() -> (Int, Int) { (heard.load(ordering: .relaxed), events.waiting) }
        var before = count()
        for _ in 0..<Self.longestPause / Self.silence {
            usleep(Self.silence)
            let now = count()
            if now == before { return }
            before = now
        }
    }

    private func run() {
        var streak = 0
        while true {
            let began = ContinuousClock.now
            let hasEvent = events.wait()
            // In a burst, some milliseconds' closes are taken at once: whoever needs one sooner takes it in (`takeClosed`), and each time
            // here holds up a request that needs the same locks, and each wait a client, whose close has to wake us. The first few and the
            // last are taken at once: while one waits, `umount` finds the mount busy, and a lease finds the file open.
            // Only the silence counts, not how long it took us to take the last ones in.
            streak = ContinuousClock.now - began < Self.burstPace ? streak + 1 : 0
            if streak > 3 { awaitEndOfBurst() }
            let told = state.withLock { state -> [@Sendable () -> Void]? in
                if state.isStopping { return nil }
                if hasEvent { read(&state) }
                return state.closed.keys.compactMap { state.mounts[$0] }
            }
            guard let told else { return }
            for closed in told { closed() }
        }
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        events.wake()
        thread.withLock { $0 }?.join()
    }
}
