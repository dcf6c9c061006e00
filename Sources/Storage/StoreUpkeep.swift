import DequeModule
import Glibc
import Logging
import Threads

/// The threads that keep stores up: one seals, one checkpoints and tidies. They sleep until there is something to do.
final class Upkeep: Sendable {
    private struct State {
        /// When each store is to be looked at (monotonic, ns).
        var due: [StoreID: Int64] = [:]
        /// Stores that changed since they were last left alone, and when they last did.
        var untidy: [StoreID: Int64] = [:]
        /// Those of them that were tidied since then, and wait for being idle.
        var tidied: Set<StoreID> = []
        /// Stores whose WAL has grown.
        var full: Set<StoreID> = []
        var isStopping = false
    }
    private let state = Mutex(State())
    private let sealing = Condition()
    private let tidying = Condition()
    private let logger: Logger
    private let threads = Mutex<[Threads.Thread]>([])

    init(logger: Logger) { self.logger = logger }

    func start(_ pool: StorePool) {
        threads.withLock {
            $0 = [
                Thread("remfs-seal") { [weak pool] in if let pool { self.seal(pool) } },
                Thread("remfs-tidy") { [weak pool] in if let pool { self.tidy(pool) } },
            ]
        }
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        sealing.broadcast()
        tidying.broadcast()
        for thread in threads.withLock({ $0 }) { thread.join() }
    }

    /// Has a store looked at in 3 ms: called after each change that leaves something to do.
    func schedule(_ id: StoreID, needsCheckpoint: Bool) {
        let time = StoreState.monotonic()
        let (isNew, isFull) = state.withLock { state in
            state.untidy[id] = time
            if !state.tidied.isEmpty { state.tidied.remove(id) }
            let isFull = needsCheckpoint && state.full.insert(id).inserted
            let due = time + 3_000_000
            guard state.due[id].map({ $0 > due + 1_000_000 }) ?? true else { return (false, isFull) }
            state.due[id] = due
            return (true, isFull)
        }
        if isNew { sealing.signal() }
        if isFull { tidying.signal() }
    }

    private func seal(_ pool: StorePool) {
        while true {
            let next = state.withLock { state in state.isStopping ? nil : state.due.values.min() ?? .max }
            guard let next else { return }
            let time = StoreState.monotonic()
            if next > time {
                let wait = next == .max ? Duration.seconds(3_600) : .nanoseconds(next - time)
                state.wait(on: sealing, atMost: wait, until: { $0.isStopping || ($0.due.values.min() ?? .max) < next }) { _, _ in }
                continue
            }
            let due = state.withLock { state in
                let due = state.due.filter { $0.value <= time }.map(\.key)
                for id in due { state.due[id] = nil }
                return due
            }
            for id in due {
                guard let store = pool.openStore(id) else { continue }
                do {
                    guard let again = try store.maintain() else { continue }
                    state.withLock { $0.due[id] = min($0.due[id] ?? .max, again) }
                } catch {
                    // Nothing is lost: drafts stay drafts. A full disk may have room again in a while.
                    logger.error("cannot seal", metadata: ["store": "\(id)", "error": "\(error)"])
                    state.withLock { $0.due[id] = time + 1_000_000_000 }
                }
            }
        }
    }

    /// A store that has been quiet for so long is tidied; for so long, and it keeps nothing that would only make the next burst fast.
    private static let quiet: Int64 = 2_000_000_000
    private static let idle: Int64 = 5_000_000_000
    /// An hour: what a lost catalog costs is the names and rules of that long.
    private static let betweenCopies: Int64 = 3_600_000_000_000

    /// Moves WALs that have grown into their databases, and once a second tidies stores that have been quiet.
    private func tidy(_ pool: StorePool) {
        var lastRound = StoreState.monotonic()
        var nextCopy = lastRound
        var retention = RetentionSchedule(from: lastRound)
        while true {
            let full = state.wait(on: tidying, atMost: .seconds(1), until: { $0.isStopping || !$0.full.isEmpty }) {
                state, _ -> Set<StoreID>? in
                defer { state.full = [] }
                return state.isStopping ? nil : state.full
            }
            guard let full else { return }
            for id in full { attempt("checkpoint", id) { () throws(RemfsError) in try pool.openStore(id)?.checkpoint() } }
            let time = StoreState.monotonic()
            guard time - lastRound > 1_000_000_000 else { continue }
            lastRound = time
            let (untidy, tidied) = state.withLock { ($0.untidy, $0.tidied) }
            for (id, changed) in untidy where time - changed > (tidied.contains(id) ? Self.idle : Self.quiet) {
                attempt("tidy", id) { () throws(RemfsError) in
                    let isIdle = tidied.contains(id)
                    guard try pool.openStore(id)?.tidy(isIdle: isIdle) != true else { return }
                    state.withLock { state in
                        guard state.untidy[id] == changed else { return }
                        if isIdle { state.untidy[id] = nil }
                        if isIdle { state.tidied.remove(id) } else { state.tidied.insert(id) }
                    }
                }
            }
            if retention.isDue(at: time) {
                attempt("retention") { () throws(RemfsError) in
                    guard let id = retention.next(of: try pool.catalog.storesWithRetention(), at: time) else { return }
                    try pool.withStore(id) { (store) throws(RemfsError) in try store.applyRetention() }
                }
            }
            pool.closeIdle()
            pool.renewBallast()
            if time > nextCopy, pool.copyCatalog() { nextCopy = time + Self.betweenCopies }
        }
    }

    private func attempt(_ what: String, _ id: StoreID? = nil, _ body: () throws(RemfsError) -> Void) {
        do throws(RemfsError) {
            try body()
        } catch {
            let store = id?.description ?? "-"
            logger.error("upkeep failed", metadata: ["task": "\(what)", "store": "\(store)", "error": "\(error)"])
        }
    }
}

/// When which store's old versions are given up: each once a day, one in a round, so that closed stores are not all opened at once.
struct RetentionSchedule {
    /// Monotonic, ns: when each store had its turn.
    private var last: [StoreID: Int64] = [:]
    /// When the stores are looked through next.
    private var due: Int64

    static let day: Int64 = 86_400_000_000_000
    /// Nobody waits for it; a start has other things to do.
    static let pause: Int64 = 60_000_000_000

    init(from start: Int64) { due = start + Self.pause }

    func isDue(at time: Int64) -> Bool { time >= due }

    /// The store whose turn it is, of those that give versions up; nil: none today.
    mutating func next(of stores: [StoreID], at time: Int64) -> StoreID? {
        let known = Set(stores)
        last = last.filter { known.contains($0.key) }
        let next = stores.first { last[$0].map { time - $0 >= Self.day } ?? true }
        if let next { last[next] = time } else { due = time + Self.pause }
        return next
    }
}

/// Answers fsyncs: those that arrive while a sync of a store runs are answered by the next one together.
final class Syncer: Sendable {
    private struct State {
        var waiting: [(store: MemoryStore, done: @Sendable (RemfsError?) -> Void)] = []
        var isStopping = false
    }
    private let state = Mutex(State())
    private let arrived = Condition()
    private let thread = Mutex<Threads.Thread?>(nil)

    init() {
        let thread = Thread("remfs-sync") { [self] in run() }
        self.thread.withLock { $0 = thread }
    }

    func synchronize(_ store: MemoryStore, _ done: @escaping @Sendable (RemfsError?) -> Void) {
        state.withLock { $0.waiting.append((store, done)) }
        arrived.signal()
    }

    private func run() {
        while true {
            let batch = state.wait(on: arrived, until: { $0.isStopping || !$0.waiting.isEmpty }) { state in
                defer { state.waiting = [] }
                return state.waiting
            }
            if batch.isEmpty { return }
            var outcomes: [StoreID: RemfsError?] = [:]
            for (store, done) in batch {
                if outcomes[store.id] == nil {
                    do throws(RemfsError) {
                        try store.synchronizeNow()
                        outcomes[store.id] = .some(nil)
                    } catch {
                        outcomes[store.id] = error
                    }
                }
                done(outcomes[store.id] ?? nil)
            }
        }
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        arrived.broadcast()
        thread.withLock { $0 }?.join()
    }
}

/// A few threads that may block, for work that asynchronous code hands over.
package final class WorkerPool: Sendable {
    private let waiting = Mutex<Deque<@Sendable () -> Void>>([])
    /// Counts what waits, and at the end each thread as well.
    private let arrived = Semaphore()
    private let threads = Mutex<[Threads.Thread]>([])

    package init(count: Int, named name: String = "remfs-store") {
        let threads = (0..<count).map { number in Thread("\(name)-\(number)") { [self] in run() } }
        self.threads.withLock { $0 = threads }
    }

    /// Never waits for a thread of the pool.
    package func submit(_ work: @escaping @Sendable () -> Void) {
        waiting.withLock { $0.append(work) }
        arrived.post()
    }

    private func run() {
        while true {
            arrived.wait()
            // None is left: this is the end.
            guard let work = waiting.withLock({ $0.popFirst() }) else { return }
            work()
        }
    }

    /// Runs what was submitted, then ends the threads. Not to be called on one of them.
    package func stop() {
        let threads = threads.withLock { $0 }
        for _ in threads { arrived.post() }
        for thread in threads { thread.join() }
    }
}
