package import Fuse
import Glibc
package import Storage
import Threads

/// Whom a lock belongs to: a process (POSIX locks) or an open file (OFD and flock locks), as the kernel of one mount numbers it.
package struct LockOwner: Hashable, Sendable {
    /// The numbers of two mounts have nothing to do with each other, even for the same process.
    package let mount: Int
    package let owner: UInt64

    package init(mount: Int, owner: UInt64) {
        self.mount = mount
        self.owner = owner
    }
}

/// A request that waits for its lock, to be named in `LockTable.cancel`. Never used again.
package struct LockTicket: Hashable, Sendable {
    fileprivate let family: LockFamily
    fileprivate let inode: InodeNumber
    fileprivate let number: UInt64
}

/// The locks of one store, shared by all mounts of it for which the kernel hands locking to us (`coherence: strict`).
///
/// Byte ranges (POSIX, and OFD locks, which differ in their owner only) and whole files (flock) are two families that never meet, as in
/// Linux. Nothing here blocks: a request that must wait is queued, and answered by the thread that makes room for it.
///
/// Requests that wait are granted in order: one lets those go first that came earlier and conflict with it, so readers who come and go
/// cannot keep a writer out. The exception is a request whose owner holds a lock that somebody waits for: making it wait behind the very
/// request that it blocks would be a deadlock that no program asked for. (A ring of owners in which one merely lets another go first
/// would need someone to wait for a lock of that one, who then would not let it go first.) A request that does not wait is refused for
/// locks that are held, never for requests that wait: fcntl(2) promises that.
///
/// What that costs, and local Linux does not ask: a program that holds a shared lock through one open file and waits for another shared
/// lock on the same file through a second one stands behind a writer that came between. Owners are all that we are told of programs.
package final class LockTable: Sendable {
    /// Told once how a request ended: nil when the lock is granted. Called without any lock of the table, so it may call the table.
    package typealias Answer = @Sendable (FuseErrno?) -> Void

    private struct State {
        var ranges = LockSpace(family: .ranges)
        var wholes = LockSpace(family: .wholes)
        /// Who is told of what changes in the locks of a mount.
        var records: [Int: LockRecord] = [:]
    }
    private let state = Mutex(State())  // innermost: nothing is locked, answered or called while it is held

    package init() {}

    // MARK: - Byte ranges

    /// What F_GETLK asks: the lock nearest the start of the file that keeps `owner` from having `lock`, if there is one.
    ///
    /// With the kind `unlock` it is the owner's own first lock in the range, as Linux has it for F_OFD_GETLK.
    package func conflict(with lock: FuseLock, on inode: InodeNumber, owner: LockOwner) -> FuseLock? {
        guard lock.isValid else { return nil }
        return state.withLock { state in
            guard let held = state.ranges.files[inode]?.held else { return nil }
            return held.first(in: lock.span) {
                lock.kind == .unlock ? $0.owner == owner : $0.blocks(lock.kind, by: owner)
            }?.lock
        }
    }

    /// Takes, changes or gives up `owner`'s locks in a range. What it had there before stays until the new lock is granted.
    ///
    /// - Parameters:
    ///   - waits: a request that conflicts is queued, or answered EDEADLK if that closes a ring of owners who wait for each other.
    ///     Otherwise it is answered EAGAIN.
    ///   - granted: called before this returns, or later on the thread that makes room.
    /// - Returns: nil if the request was answered.
    @discardableResult package func set(
        _ lock: FuseLock, on inode: InodeNumber, owner: LockOwner, waits: Bool, granted: @escaping Answer
    ) -> LockTicket? {
        guard lock.isValid else {
            granted(FuseErrno(EINVAL))
            return nil
        }
        return change(.ranges) { $0.set(LockRequest(lock, on: inode, owner: owner, granted), waits: waits) }
    }

    /// Gives up all ranges that `owner` holds on `inode`: it has closed a descriptor. A request of its that waits (another thread's) stays.
    package func releasePOSIX(on inode: InodeNumber, owner: LockOwner) {
        change(.ranges) { $0.release(on: inode, owner: owner) }
    }

    // MARK: - Whole files

    /// flock(2). A lock of the other kind is given up first, and lost if the new one is refused or cancelled: so does Linux.
    ///
    /// Parameters and result are as in `set(_:on:owner:waits:granted:)`, but rings are not looked for.
    @discardableResult package func setWhole(
        _ kind: FuseLock.Kind, on inode: InodeNumber, owner: LockOwner, waits: Bool, granted: @escaping Answer
    ) -> LockTicket? {
        let request = LockRequest(.whole(kind), on: inode, owner: owner, granted)
        return change(.wholes) { $0.convert(request, waits: waits) }
    }

    /// The open file `owner` is gone. A request of its that still waits is answered EINTR: nobody would ever give the lock up.
    package func releaseWhole(on inode: InodeNumber, owner: LockOwner) {
        change(.wholes) { wholes in
            wholes.withdraw(owner, on: inode, FuseErrno(EINTR))
            wholes.release(on: inode, owner: owner)
        }
    }

    // MARK: - Both

    /// The caller was interrupted: answers EINTR if the request still waits, does nothing otherwise.
    package func cancel(_ ticket: LockTicket) {
        change(ticket.family) { $0.cancel(ticket, FuseErrno(EINTR)) }
    }

    /// The last open file of `inode` in a mount is gone, and all that was locked through it: requests that wait are answered EINTR.
    ///
    /// RELEASE names an owner for flock locks only, so this is how OFD locks end that nobody unlocked.
    package func releaseAll(on inode: InodeNumber, mount: Int) {
        for family in [LockFamily.ranges, .wholes] {
            change(family) { $0.releaseAll(mount: mount, on: inode, FuseErrno(EINTR)) }
        }
    }

    /// The mount has ended: its locks go, and its requests that wait are answered ENOTCONN.
    package func releaseAll(mount: Int) {
        // Nobody will ask for it any more, and its memory may be another's soon.
        state.withLock { $0.records[mount] = nil }
        for family in [LockFamily.ranges, .wholes] {
            change(family) { $0.releaseAll(mount: mount, on: nil, FuseErrno(ENOTCONN)) }
        }
    }

    /// How many locks are held, after merging, and how many requests wait.
    package func counts() -> (held: Int, waiting: Int) {
        state.withLock { state in
            let files = Array(state.ranges.files.values) + Array(state.wholes.files.values)
            return (files.reduce(0) { $0 + $1.held.count }, files.reduce(0) { $0 + $1.waiting.count })
        }
    }

    // MARK: - Outliving the process

    /// From now on what changes in the locks of a mount is recorded before anybody is answered. What a predecessor has recorded is held
    /// again: it was granted, so nobody is asked. Before the first request of that mount.
    func record(_ mount: Int, in record: LockRecord) {
        state.withLock { state in
            for change in record.changes(of: mount) {
                switch change.family {
                case .ranges: state.ranges.restore(change)
                case .wholes: state.wholes.restore(change)
                }
            }
            _ = state.ranges.takeChanges()
            _ = state.wholes.takeChanges()
            state.records[mount] = record
        }
    }

    /// Runs `body` on a family and grants what that has made room for; then, the lock given up, answers.
    private func change<Result>(_ family: LockFamily, _ body: (inout LockSpace) -> Result) -> Result {
        let (result, answers) = state.withLock { state in
            let (result, answers, changes) =
                switch family {
                case .ranges: (body(&state.ranges), state.ranges.settle(), state.ranges.takeChanges())
                case .wholes: (body(&state.wholes), state.wholes.settle(), state.wholes.takeChanges())
                }
            for change in changes {
                let mount = change.owner.mount
                state.records[mount]?.add(change) { state.ranges.held(by: mount) + state.wholes.held(by: mount) }
            }
            return (result, answers)
        }
        for (granted, errno) in answers { granted(errno) }
        return result
    }
}

enum LockFamily: UInt8 { case ranges, wholes }

/// What was asked for in one call. Guarded by the table's lock.
private final class LockRequest {
    let kind: FuseLock.Kind
    let span: ClosedRange<Int64>
    let pid: Int32
    let inode: InodeNumber
    let owner: LockOwner
    let granted: LockTable.Answer
    /// Set when it begins to wait; grows along each queue.
    var number: UInt64 = 0
    /// It lets earlier requests that conflict with it go first. Once false for ever: somebody has waited for its owner.
    var yields = true

    init(_ lock: FuseLock, on inode: InodeNumber, owner: LockOwner, _ granted: @escaping LockTable.Answer) {
        kind = lock.kind
        span = lock.span
        pid = lock.pid
        self.inode = inode
        self.owner = owner
        self.granted = granted
    }

    func conflicts(with other: LockRequest) -> Bool {
        owner != other.owner && (kind == .write || other.kind == .write) && span.overlaps(other.span)
    }
}

// MARK: - One family

/// The locks of one family: what is held, who waits, and what may go on.
private struct LockSpace {
    final class File {
        var held = HeldLocks()
        /// In the order in which they came.
        var waiting: [LockRequest] = []
    }
    struct Owner {
        /// How many locks it holds, by inode. Invariant: every count is above zero.
        var held: [InodeNumber: Int] = [:]
        /// More than one if its threads wait.
        var waiting: [LockRequest] = []
    }

    let family: LockFamily
    /// Invariant: something is held or waits in each.
    private(set) var files: [InodeNumber: File] = [:]
    /// Invariant: each holds something or waits.
    private var owners: [LockOwner: Owner] = [:]
    private var lastNumber: UInt64 = 0
    /// Where requests may have become grantable since the queue was last looked through.
    private var gaps: [InodeNumber: ClosedRange<Int64>] = [:]
    private var answers: [(LockTable.Answer, FuseErrno?)] = []
    private var changes: [LockChange] = []

    init(family: LockFamily) { self.family = family }

    mutating func set(_ request: LockRequest, waits: Bool) -> LockTicket? {
        guard request.kind != .unlock else {
            release(on: request.inode, owner: request.owner, request.span)
            return answer(request, nil)
        }
        let isBlocked = files[request.inode]?.held.block(request.kind, request.span, by: request.owner) ?? false
        if isBlocked && !waits { return answer(request, EAGAIN) }
        if !isBlocked && (!waits || isFirst(request) || isWaitedFor(request.owner)) {
            hold(request)
            return answer(request, nil)
        }
        // Only a lock that is held can close a ring: see `LockTable` on letting others go first.
        if isBlocked && family == .ranges && closesRing(request) { return answer(request, EDEADLK) }
        return enqueue(request)
    }

    /// As flock(2) does it: whoever waits for the old lock may have it before the new one is tried.
    mutating func convert(_ request: LockRequest, waits: Bool) -> LockTicket? {
        if let old = files[request.inode]?.held.first(in: request.span, where: { $0.owner == request.owner }) {
            if old.kind == request.kind { return answer(request, nil) }
            release(on: request.inode, owner: request.owner)
            if request.kind != .unlock { fillGaps() }
        }
        return set(request, waits: waits)
    }

    mutating func release(on inode: InodeNumber, owner: LockOwner, _ span: ClosedRange<Int64> = 0...Int64.max) {
        guard owners[owner]?.held[inode] != nil, let file = files[inode] else { return }
        let change = file.held.set(.unlock, span, by: owner, pid: 0)
        changes.append(LockChange(family: family, inode: inode, owner: owner, kind: .unlock, span: span, pid: 0))
        count(change.added, on: inode, owner)
        if change.frees { look(through: span, of: inode) }
        forgetIfUnused(inode)
    }

    mutating func cancel(_ ticket: LockTicket, _ errno: FuseErrno) {
        guard let file = files[ticket.inode] else { return }
        let index = file.waiting.partitionPoint { $0.number >= ticket.number }
        guard index < file.waiting.count, file.waiting[index].number == ticket.number else { return }
        let request = file.waiting.remove(at: index)
        stopWaiting(request)
        // Those that let it go first.
        look(through: request.span, of: request.inode)
        forgetIfUnused(request.inode)
        answers.append((request.granted, errno))
    }

    /// Answers the requests of `owner` that wait, on one inode or on all.
    mutating func withdraw(_ owner: LockOwner, on inode: InodeNumber?, _ errno: FuseErrno) {
        for request in owners[owner]?.waiting ?? [] where inode == nil || request.inode == inode { cancel(ticket(of: request), errno) }
    }

    /// First nobody of the mount waits any more, then nobody holds: nothing is granted to what is about to go.
    mutating func releaseAll(mount: Int, on inode: InodeNumber?, _ errno: FuseErrno) {
        if let inode, files[inode] == nil { return }
        let leaving = owners.filter { $0.key.mount == mount }
        for owner in leaving.keys { withdraw(owner, on: inode, errno) }
        for (owner, entry) in leaving {
            for held in entry.held.keys where inode == nil || held == inode { release(on: held, owner: owner) }
        }
    }

    /// Grants what can be granted. Returns whom to answer.
    mutating func settle() -> [(LockTable.Answer, FuseErrno?)] {
        fillGaps()
        defer { answers = [] }
        return answers
    }

    // MARK: Recording

    mutating func takeChanges() -> [LockChange] {
        defer { changes = [] }
        return changes
    }

    mutating func restore(_ change: LockChange) {
        guard change.kind != .unlock else { return release(on: change.inode, owner: change.owner, change.span) }
        let held = file(change.inode).held.set(change.kind, change.span, by: change.owner, pid: change.pid)
        count(held.added, on: change.inode, change.owner)
    }

    /// All that is held through a mount, as changes that lead to it.
    func held(by mount: Int) -> [LockChange] {
        var found: [LockChange] = []
        for (owner, entry) in owners where owner.mount == mount {
            for inode in entry.held.keys {
                files[inode]?.held.forEach(in: 0...Int64.max) { lock in
                    guard lock.owner == owner else { return }
                    found.append(
                        LockChange(family: family, inode: inode, owner: owner, kind: lock.kind, span: lock.span, pid: lock.pid))
                }
            }
        }
        return found
    }

    // MARK: Waiting

    private mutating func enqueue(_ request: LockRequest) -> LockTicket {
        lastNumber += 1
        request.number = lastNumber
        request.yields = !isWaitedFor(request.owner)
        let file = file(request.inode)
        file.waiting.append(request)
        owners[request.owner, default: Owner()].waiting.append(request)
        // Whoever waits politely and holds what is waited for from now on must not be kept any longer.
        file.held.forEach(in: request.span) { if $0.blocks(request.kind, by: request.owner) { stopYielding($0.owner) } }
        return ticket(of: request)
    }

    /// Nobody who came earlier and conflicts with it waits.
    private func isFirst(_ request: LockRequest) -> Bool {
        !(files[request.inode]?.waiting.contains { $0.conflicts(with: request) } ?? false)
    }

    /// Whether somebody waits for a lock that `owner` holds.
    private func isWaitedFor(_ owner: LockOwner) -> Bool {
        guard let entry = owners[owner] else { return false }
        return entry.held.keys.contains { inode in
            guard let file = files[inode] else { return false }
            return file.waiting.contains { request in
                file.held.first(in: request.span) { $0.owner == owner && $0.blocks(request.kind, by: request.owner) } != nil
            }
        }
    }

    /// Whether `request`, by waiting, would wait for itself through others. With several threads of one owner it may be that one of them
    /// could still give way; Linux refuses that too.
    private func closesRing(_ request: LockRequest) -> Bool {
        guard isWaitedFor(request.owner) else { return false }
        var seen: Set<LockOwner> = []
        var pending = [request]
        while let next = pending.popLast() {
            let ring = files[next.inode]?.held.first(in: next.span) { held in
                guard held.blocks(next.kind, by: next.owner) else { return false }
                if held.owner == request.owner { return true }
                if seen.insert(held.owner).inserted, let entry = owners[held.owner] { pending += entry.waiting }
                return false
            }
            if ring != nil { return true }
        }
        return false
    }

    private mutating func stopYielding(_ owner: LockOwner) {
        guard let entry = owners[owner] else { return }
        for request in entry.waiting where request.yields {
            request.yields = false
            look(through: request.span, of: request.inode)
        }
    }

    private mutating func stopWaiting(_ request: LockRequest) {
        owners[request.owner]?.waiting.removeAll { $0 === request }
        forgetIfUnused(request.owner)
    }

    private func ticket(of request: LockRequest) -> LockTicket {
        LockTicket(family: family, inode: request.inode, number: request.number)
    }

    // MARK: Granting

    private mutating func hold(_ request: LockRequest) {
        let change = file(request.inode).held.set(request.kind, request.span, by: request.owner, pid: request.pid)
        changes.append(
            LockChange(
                family: family, inode: request.inode, owner: request.owner, kind: request.kind, span: request.span, pid: request.pid))
        count(change.added, on: request.inode, request.owner)
        // It was a downgrade.
        if change.frees { look(through: request.span, of: request.inode) }
        // Another thread of this owner waits, and others may wait from now on for what this one was given.
        if owners[request.owner]?.waiting.isEmpty == false, isWaitedFor(request.owner) { stopYielding(request.owner) }
    }

    private mutating func look(through span: ClosedRange<Int64>, of inode: InodeNumber) {
        gaps[inode] = gaps[inode].map { min($0.lowerBound, span.lowerBound)...max($0.upperBound, span.upperBound) } ?? span
    }

    /// Looks through the queues with gaps until nothing more can be granted. A grant may open a gap of its own.
    private mutating func fillGaps() {
        while let (inode, gap) = gaps.popFirst() {
            guard let file = files[inode] else { continue }
            // Those that go on waiting are moved to the front, in order: what stands before `kept` came earlier than `request`.
            var kept = 0
            for index in file.waiting.indices {
                let request = file.waiting[index]
                if gap.overlaps(request.span), !file.held.block(request.kind, request.span, by: request.owner),
                    !request.yields || !file.waiting[..<kept].contains(where: { $0.conflicts(with: request) })
                {
                    stopWaiting(request)
                    hold(request)
                    answer(request, nil)
                } else {
                    if kept < index { file.waiting.swapAt(kept, index) }
                    kept += 1
                }
            }
            file.waiting.removeSubrange(kept...)
        }
    }

    @discardableResult private mutating func answer(_ request: LockRequest, _ errno: Int32?) -> LockTicket? {
        answers.append((request.granted, errno.map { FuseErrno($0) }))
        return nil
    }

    // MARK: Books

    private mutating func file(_ inode: InodeNumber) -> File {
        if let file = files[inode] { return file }
        let file = File()
        files[inode] = file
        return file
    }

    private mutating func count(_ added: Int, on inode: InodeNumber, _ owner: LockOwner) {
        let count = (owners[owner]?.held[inode] ?? 0) + added
        owners[owner, default: Owner()].held[inode] = count > 0 ? count : nil
        forgetIfUnused(owner)
    }

    private mutating func forgetIfUnused(_ owner: LockOwner) {
        if let entry = owners[owner], entry.held.isEmpty, entry.waiting.isEmpty { owners[owner] = nil }
    }

    private mutating func forgetIfUnused(_ inode: InodeNumber) {
        if let file = files[inode], file.held.count == 0, file.waiting.isEmpty { files[inode] = nil }
    }
}

extension FuseLock {
    fileprivate var isValid: Bool { start >= 0 && start <= end }
    /// Only if `isValid`.
    fileprivate var span: ClosedRange<Int64> { start...end }

    fileprivate static func whole(_ kind: Kind) -> FuseLock { FuseLock(kind: kind, start: 0, end: .max, pid: 0) }
}
