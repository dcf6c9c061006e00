import Filesystem
import Fuse
import Glibc
import Testing
import Threads

/// `LockTable` against an array of bytes, and against many threads at once.
@Suite struct LockTableModelTests {
    /// Fixed seeds, and a new one for each run. A seed that failed is repeated by putting it into the list.
    @Test(arguments: Array(1...10) + [UInt64.random(in: 100...UInt64.max)]) func agreesWithArraysOfBytes(seed: UInt64) {
        print("lock model: seed \(seed)")
        var random = SplitMix(state: seed)
        let table = LockTable()
        let log = AnswerLog()
        var model = Model()
        var tickets: [Int: LockTicket] = [:]

        for step in 0..<300 {
            let agent = Int.random(in: 0..<Model.agents, using: &random)
            let inode = Int.random(in: 0..<Model.inodes, using: &random)
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<85 where !model.isWaiting(agent):
                let waits = Bool.random(using: &random)
                let kind = [FuseLock.Kind.read, .write, .unlock].randomElement(using: &random)!
                let first = Int.random(in: 0..<Model.bytes, using: &random)
                let last = min(Model.bytes - 1, first + Int.random(in: 0..<8, using: &random))
                let request = Model.Request(id: step, agent: agent, inode: inode, kind: kind, bytes: first...last)
                tickets[step] = table.set(
                    request.lock, on: Int64(inode), owner: Model.owner(agent), waits: waits, granted: log.answer(to: step))
                model.set(request, waits: waits)
            case 0..<85:
                break
            case 85..<92:
                guard let request = model.waiting.randomElement(using: &random) else { break }
                table.cancel(tickets[request.id]!)
                model.cancel(request.id)
            case 92..<95:
                // An old ticket, most often of a request that was answered.
                guard let id = tickets.keys.sorted().randomElement(using: &random) else { break }
                table.cancel(tickets[id]!)
                model.cancel(id)
            case 95..<98:
                table.releasePOSIX(on: Int64(inode), owner: Model.owner(agent))
                model.release(agent, inode)
            case 98:
                table.releaseAll(on: Int64(inode), mount: agent % Model.mounts)
                model.releaseAll(mount: agent % Model.mounts, on: inode, EINTR)
            default:
                table.releaseAll(mount: agent % Model.mounts)
                model.releaseAll(mount: agent % Model.mounts, on: nil, ENOTCONN)
            }
            #expect(log.take() == model.takeAnswers(), "seed \(seed), step \(step)")
            #expect(model.isFreeOfRings, "seed \(seed), step \(step)")
            // Every third, because looking at every byte is what takes the time.
            guard step % 3 != 0 || agrees(table, model) else {
                Issue.record("what is held differs: seed \(seed), step \(step)")
                return
            }
        }
        // Whoever does not wait lets go, until nobody waits.
        while !model.waiting.isEmpty {
            let before = model.waiting.count
            for agent in 0..<Model.agents where !model.isWaiting(agent) {
                for inode in 0..<Model.inodes {
                    table.releasePOSIX(on: Int64(inode), owner: Model.owner(agent))
                    model.release(agent, inode)
                    #expect(log.take() == model.takeAnswers(), "seed \(seed), at the end")
                }
            }
            guard model.waiting.count < before else {
                Issue.record("some wait for ever: seed \(seed)")
                return
            }
        }
        for mount in 0..<Model.mounts { table.releaseAll(mount: mount) }
        #expect(table.counts() == (held: 0, waiting: 0), "seed \(seed)")
    }

    /// Every run of bytes of every agent, its kind, bounds and pid; how many there are; and a stranger's view of each byte.
    private func agrees(_ table: LockTable, _ model: Model) -> Bool {
        var count = 0
        for inode in 0..<Model.inodes {
            let runs = (0..<Model.agents).map { model.runs(of: $0, inode) }
            count += runs.reduce(0) { $0 + $1.count }
            for byte in 0..<Model.bytes {
                let probe = Model.range(byte...byte)
                for agent in 0..<Model.agents {
                    let lock = FuseLock(kind: .unlock, start: probe.lowerBound, end: probe.upperBound, pid: 0)
                    let found = table.conflict(with: lock, on: Int64(inode), owner: Model.owner(agent))
                    let expected = runs[agent].first { $0.start <= probe.lowerBound && probe.upperBound <= $0.end }
                    guard found == expected else { return false }
                }
                for kind in [FuseLock.Kind.read, .write] {
                    let lock = FuseLock(kind: kind, start: probe.lowerBound, end: .max, pid: 0)
                    let found = table.conflict(with: lock, on: Int64(inode), owner: LockOwner(mount: 99, owner: 99))
                    let expected = runs.joined().filter { $0.end >= lock.start && ($0.kind == .write || kind == .write) }
                    guard found?.start == expected.map(\.start).min(), found.map({ expected.contains($0) }) ?? true else { return false }
                }
            }
        }
        return table.counts() == (held: count, waiting: model.waiting.count)
    }

    // MARK: - Threads

    /// Threads that lock, unlock and interrupt each other: nobody is answered twice or never, and nobody holds what another has.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func threadsExcludeEachOther(seed: UInt64) {
        print("lock threads: seed \(seed)")
        let table = LockTable()
        let tickets = Mutex<[LockTicket]>([])
        let usage = Mutex(Usage())
        let threads = (0..<8).map { agent in
            Thread("locker-\(agent)") {
                var random = SplitMix(state: seed &* 1000 &+ UInt64(agent))
                let owner = LockOwner(mount: agent % 2, owner: UInt64(agent))
                for _ in 0..<500 {
                    let place = Usage.Place(
                        isWhole: Bool.random(using: &random), inode: Int64.random(in: 0..<2, using: &random),
                        byte: Int64.random(in: 0..<2, using: &random))
                    let kind: FuseLock.Kind = Int.random(in: 0..<3, using: &random) == 0 ? .write : .read
                    let outcome = Outcome()
                    let ticket =
                        place.isWhole
                        ? table.setWhole(kind, on: place.inode, owner: owner, waits: true, granted: outcome.set)
                        : table.set(place.lock(kind), on: place.inode, owner: owner, waits: true, granted: outcome.set)
                    // Someone's, whose request may be answered at this very moment.
                    let victim = tickets.withLock { tickets in
                        if let ticket { tickets.append(ticket) }
                        guard Int.random(in: 0..<4, using: &random) == 0 else { return nil as LockTicket? }
                        return tickets.indices.randomElement(using: &random).map { tickets.remove(at: $0) }
                    }
                    if let victim { table.cancel(victim) }
                    switch outcome.wait() {
                    case nil:
                        usage.withLock { $0.enter(place, kind) }
                        usage.withLock { $0.leave(place, kind) }
                        if place.isWhole {
                            table.releaseWhole(on: place.inode, owner: owner)
                        } else {
                            table.releasePOSIX(on: place.inode, owner: owner)
                        }
                    case EINTR: usage.withLock { $0.interrupted += 1 }
                    default: usage.withLock { $0.isBroken = true }
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(usage.withLock { !$0.isBroken })
        #expect(table.counts() == (held: 0, waiting: 0))
        print("lock threads: \(usage.withLock { $0.interrupted }) interrupted")
    }

    /// Several threads cancel the same request while another grants it: one of them wins.
    @Test func cancelAndGrantRace() {
        let table = LockTable()
        let (holder, waiter) = (LockOwner(mount: 0, owner: 1), LockOwner(mount: 1, owner: 1))
        let lock = FuseLock(kind: .write, start: 0, end: .max, pid: 0)
        for _ in 0..<200 {
            let outcome = Outcome()
            table.set(lock, on: 1, owner: holder, waits: false) { _ in }
            let ticket = table.set(lock, on: 1, owner: waiter, waits: true, granted: outcome.set)!
            let start = Gate()
            let cancelling = (0..<2).map { _ in
                Thread("canceller") {
                    start.pass()
                    table.cancel(ticket)
                }
            }
            let releasing = Thread("releaser") {
                start.pass()
                table.releaseAll(mount: 0)
            }
            start.open()
            for thread in cancelling + [releasing] { thread.join() }
            let errno = outcome.wait()
            #expect(errno == nil || errno == EINTR)
            #expect(table.counts() == (held: errno == nil ? 1 : 0, waiting: 0))
            table.releaseAll(mount: 1)
        }
    }
}

// MARK: - The model

/// Locks as a kind for each byte, and requests as a list that is gone through again and again. The last byte stands for all up to the end.
private struct Model {
    static let (agents, mounts, inodes, bytes) = (5, 2, 2, 16)

    struct Request {
        let id: Int
        let agent: Int
        let inode: Int
        let kind: FuseLock.Kind
        let bytes: ClosedRange<Int>
        /// Somebody has waited for the agent since this request waits: order no longer binds it.
        var isUrgent = false

        var lock: FuseLock {
            let range = Model.range(bytes)
            return FuseLock(kind: kind, start: range.lowerBound, end: range.upperBound, pid: Int32(100 + agent))
        }

        func conflicts(with other: Request) -> Bool {
            agent != other.agent && inode == other.inode && (kind == .write || other.kind == .write) && bytes.overlaps(other.bytes)
        }
    }

    /// By inode, agent, byte.
    private var held = Array(
        repeating: Array(repeating: [FuseLock.Kind?](repeating: nil, count: bytes), count: agents), count: inodes)
    private(set) var waiting: [Request] = []
    private var answers: [String] = []

    static func owner(_ agent: Int) -> LockOwner { LockOwner(mount: agent % mounts, owner: UInt64(agent / mounts)) }

    static func range(_ bytes: ClosedRange<Int>) -> ClosedRange<Int64> {
        Int64(bytes.lowerBound)...(bytes.upperBound == Self.bytes - 1 ? .max : Int64(bytes.upperBound))
    }

    func isWaiting(_ agent: Int) -> Bool { waiting.contains { $0.agent == agent } }

    /// Whether each agent that waits waits, in the end, for one that does not.
    var isFreeOfRings: Bool {
        var stuck = Set(waiting.map(\.agent))
        while let free = stuck.first(where: { agent in
            waiting.indices.filter { waiting[$0].agent == agent }.allSatisfy { blockers(ofWaiting: $0).isDisjoint(with: stuck) }
        }) { stuck.remove(free) }
        return stuck.isEmpty
    }

    mutating func set(_ request: Request, waits: Bool) {
        let blockers = holders(against: request)
        if request.kind == .unlock || (blockers.isEmpty && !waits) {
            grant(request)
        } else if !waits {
            answers.append(AnswerLog.text(request.id, EAGAIN))
        } else if !blockers.isEmpty && reaches(request.agent, from: blockers) {
            answers.append(AnswerLog.text(request.id, EDEADLK))
        } else {
            waiting.append(request)
        }
        settle()
    }

    mutating func cancel(_ id: Int) {
        withdraw(EINTR) { $0.id == id }
        settle()
    }

    mutating func release(_ agent: Int, _ inode: Int) {
        held[inode][agent] = Array(repeating: nil, count: Self.bytes)
        settle()
    }

    mutating func releaseAll(mount: Int, on inode: Int?, _ errno: Int32) {
        withdraw(errno) { $0.agent % Self.mounts == mount && (inode == nil || $0.inode == inode) }
        for agent in 0..<Self.agents where agent % Self.mounts == mount {
            for each in 0..<Self.inodes where inode == nil || each == inode {
                held[each][agent] = Array(repeating: nil, count: Self.bytes)
            }
        }
        settle()
    }

    mutating func takeAnswers() -> [String] {
        defer { answers = [] }
        return answers.sorted()
    }

    func runs(of agent: Int, _ inode: Int) -> [FuseLock] {
        var runs: [FuseLock] = []
        var first = 0
        for byte in 0..<Self.bytes where byte == Self.bytes - 1 || held[inode][agent][byte] != held[inode][agent][byte + 1] {
            if let kind = held[inode][agent][byte] {
                runs.append(Request(id: 0, agent: agent, inode: inode, kind: kind, bytes: first...byte).lock)
            }
            first = byte + 1
        }
        return runs
    }

    private mutating func withdraw(_ errno: Int32, where isMeant: (Request) -> Bool) {
        answers += waiting.filter(isMeant).map { AnswerLog.text($0.id, errno) }
        waiting.removeAll(where: isMeant)
    }

    private mutating func grant(_ request: Request) {
        for byte in request.bytes { held[request.inode][request.agent][byte] = request.kind == .unlock ? nil : request.kind }
        answers.append(AnswerLog.text(request.id, nil))
    }

    private mutating func settle() {
        while true {
            for index in waiting.indices {
                let agent = waiting[index].agent
                if waiting.contains(where: { holders(against: $0).contains(agent) }) { waiting[index].isUrgent = true }
            }
            guard let next = waiting.indices.first(where: { blockers(ofWaiting: $0).isEmpty }) else { return }
            grant(waiting.remove(at: next))
        }
    }

    private func holders(against request: Request) -> Set<Int> {
        guard request.kind != .unlock else { return [] }
        return Set(
            (0..<Self.agents).filter { agent in
                agent != request.agent
                    && request.bytes.contains { byte in
                        held[request.inode][agent][byte].map { $0 == .write || request.kind == .write } ?? false
                    }
            })
    }

    private func blockers(ofWaiting index: Int) -> Set<Int> {
        let request = waiting[index]
        let earlier = request.isUrgent ? [] : waiting[..<index].filter { $0.conflicts(with: request) }
        return holders(against: request).union(earlier.map(\.agent))
    }

    private func reaches(_ agent: Int, from start: Set<Int>) -> Bool {
        var known = start
        while true {
            let more = waiting.filter { known.contains($0.agent) }.reduce(into: known) { $0.formUnion(holders(against: $1)) }
            if more == known { return known.contains(agent) }
            known = more
        }
    }
}

// MARK: - Tools

/// The answers of a table, sorted: which of two files is looked through first is not promised.
private final class AnswerLog: Sendable {
    private let log = Mutex<[String]>([])

    func answer(to id: Int) -> LockTable.Answer {
        { errno in self.log.withLock { $0.append(Self.text(id, errno?.code)) } }
    }

    func take() -> [String] {
        log.withLock { log in
            defer { log = [] }
            return log.sorted()
        }
    }

    static func text(_ id: Int, _ errno: Int32?) -> String { "\(id): \(errno ?? 0)" }
}

/// One answer, to be waited for. A second one stops the test run.
private final class Outcome: Sendable {
    private let answer = Mutex<FuseErrno??>(nil)
    private let changed = Condition()

    func set(_ errno: FuseErrno?) {
        answer.withLock { answer in
            precondition(answer == nil, "answered twice")
            answer = .some(errno)
        }
        changed.broadcast()
    }

    /// The errno, or nil for success.
    func wait() -> Int32? { answer.wait(on: changed, until: { $0 != nil }) { $0!?.code } }
}

/// Lets threads go at once.
private final class Gate: Sendable {
    private let isOpen = Mutex(false)
    private let changed = Condition()

    func open() {
        isOpen.withLock { $0 = true }
        changed.broadcast()
    }

    func pass() { isOpen.wait(on: changed, until: { $0 }) { _ in } }
}

/// Who is inside of what, as the threads believe.
private struct Usage {
    struct Place: Hashable {
        let isWhole: Bool
        let inode: Int64
        let byte: Int64

        func lock(_ kind: FuseLock.Kind) -> FuseLock { FuseLock(kind: kind, start: byte, end: byte, pid: 0) }
        var object: Place { isWhole ? Place(isWhole: true, inode: inode, byte: 0) : self }
    }
    var readers: [Place: Int] = [:]
    var writers: [Place: Int] = [:]
    var interrupted = 0
    var isBroken = false

    mutating func enter(_ place: Place, _ kind: FuseLock.Kind) {
        let object = place.object
        if kind == .write { writers[object, default: 0] += 1 } else { readers[object, default: 0] += 1 }
        let (reading, writing) = (readers[object] ?? 0, writers[object] ?? 0)
        if writing > 1 || (writing == 1 && reading > 0) { isBroken = true }
    }

    mutating func leave(_ place: Place, _ kind: FuseLock.Kind) {
        if kind == .write { writers[place.object]! -= 1 } else { readers[place.object]! -= 1 }
    }
}

/// SplitMix64: the same numbers for the same seed, on every machine.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
