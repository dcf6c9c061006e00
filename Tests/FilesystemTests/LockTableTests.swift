import Filesystem
import Fuse
import Glibc
import Testing
import Threads

/// The rules of `LockTable`, one by one. `LockTableModelTests` plays them against each other.
@Suite struct LockTableTests {
    // MARK: - Ranges of one owner

    @Test func rangesOfOneKindAreJoinedWhereTheyTouch() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.read, 20...29, by: 1)
        #expect(locks.held(by: 1) == "r0-9 r20-29")
        locks.take(.read, 10...19, by: 1)
        #expect(locks.held(by: 1) == "r0-29")
        locks.take(.read, 5...Int64.max, by: 1)
        #expect(locks.held(by: 1) == "r0-end")
        #expect(locks.table.counts() == (held: 1, waiting: 0))
    }

    @Test func rangesOfTwoKindsAreNotJoined() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.write, 10...19, by: 1)
        locks.take(.read, 20...29, by: 1)
        #expect(locks.held(by: 1) == "r0-9 w10-19 r20-29")
    }

    @Test func unlockingSplits() {
        let locks = Locks()
        locks.take(.write, 0...Int64.max, by: 1)
        locks.take(.unlock, 10...19, by: 1)
        #expect(locks.held(by: 1) == "w0-9 w20-end")
        locks.take(.unlock, 0...0, by: 1)
        locks.take(.unlock, 30...Int64.max, by: 1)
        #expect(locks.held(by: 1) == "w1-9 w20-29")
        locks.take(.unlock, 5...24, by: 1)
        #expect(locks.held(by: 1) == "w1-4 w25-29")
        locks.take(.unlock, 0...Int64.max, by: 1)
        #expect(locks.isEmpty)
    }

    @Test func changingTheKindSplits() {
        let locks = Locks()
        locks.take(.write, 0...29, by: 1)
        locks.take(.read, 10...19, by: 1)
        #expect(locks.held(by: 1) == "w0-9 r10-19 w20-29")
        locks.take(.write, 0...Int64.max, by: 1)
        #expect(locks.held(by: 1) == "w0-end")
    }

    @Test func ownersFilesAndMountsAreApart() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.read, 5...14, by: 2)
        locks.take(.write, 0...9, by: 2, on: 8)
        locks.take(.read, 0...9, by: 1, mount: 2)
        #expect(locks.held(by: 1) == "r0-9")
        #expect(locks.held(by: 2) == "r5-14")
        #expect(locks.held(by: 2, on: 8) == "w0-9")
        #expect(locks.table.counts() == (held: 4, waiting: 0))
    }

    // MARK: - Conflicts

    @Test func theFirstConflictIsNamedWithItsPid() {
        let locks = Locks()
        locks.take(.write, 20...29, by: 1)
        locks.take(.read, 10...12, by: 2)
        #expect(locks.conflict(.write, 0...99, by: 3) == FuseLock(kind: .read, start: 10, end: 12, pid: 1002))
        #expect(locks.conflict(.read, 0...99, by: 3) == FuseLock(kind: .write, start: 20, end: 29, pid: 1001))
        #expect(locks.conflict(.read, 0...19, by: 3) == nil)
        #expect(locks.conflict(.write, 20...29, by: 1) == nil)
        #expect(locks.conflict(.write, 0...99, by: 3, on: 8) == nil)
    }

    @Test func aRequestThatDoesNotWaitIsRefusedAtOnce() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        #expect(locks.ask(.write, 9...9, by: 2, waits: false, as: "write") == nil)
        #expect(locks.answers() == ["write EAGAIN"])
        locks.take(.read, 9...9, by: 2)
        locks.take(.write, 10...10, by: 2)
    }

    @Test func aRangeThatIsNoneIsRefused() {
        let locks = Locks()
        for (start, end) in [(5, 4), (-1, 4), (0, -1)] as [(Int64, Int64)] {
            let lock = FuseLock(kind: .write, start: start, end: end, pid: 0)
            locks.table.set(lock, on: 7, owner: LockOwner(mount: 1, owner: 1), waits: true, granted: locks.answer("bad"))
            #expect(locks.answers() == ["bad EINVAL"])
            #expect(locks.table.conflict(with: lock, on: 7, owner: LockOwner(mount: 1, owner: 1)) == nil)
        }
        #expect(locks.isEmpty)
    }

    // MARK: - Waiting

    @Test func aWriterWaitsForTheLastReader() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.read, 5...14, by: 2)
        #expect(locks.ask(.write, 0...19, by: 3, as: "write") != nil)
        locks.take(.unlock, 0...9, by: 1)
        #expect(locks.answers() == [])
        // Not yet: one byte is still held.
        locks.take(.unlock, 5...13, by: 2)
        #expect(locks.answers() == [])
        locks.take(.unlock, 14...14, by: 2)
        #expect(locks.answers() == ["write"])
        #expect(locks.held(by: 3) == "w0-19")
    }

    @Test func anUpgradeWaitsForTheOtherReaderAndKeepsWhatItHas() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.read, 0...9, by: 2)
        locks.ask(.write, 0...4, by: 1, as: "upgrade")
        #expect(locks.held(by: 1) == "r0-9")
        locks.take(.unlock, 0...9, by: 2)
        #expect(locks.answers() == ["upgrade"])
        #expect(locks.held(by: 1) == "w0-4 r5-9")
    }

    @Test func aDowngradeLetsReadersIn() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1)
        locks.ask(.read, 0...4, by: 2, as: "near")
        locks.ask(.read, 5...9, by: 3, as: "far")
        locks.take(.read, 0...4, by: 1)
        #expect(locks.answers() == ["near"])
        locks.take(.read, 0...9, by: 1)
        #expect(locks.answers() == ["far"])
    }

    @Test func aDowngradeThatHadToWaitLetsReadersIn() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1)
        locks.take(.write, 10...19, by: 2)
        locks.ask(.read, 0...5, by: 3, as: "reader")
        locks.ask(.read, 0...19, by: 1, as: "downgrade")
        #expect(locks.answers() == [])
        locks.take(.unlock, 10...19, by: 2)
        #expect(locks.answers() == ["downgrade", "reader"])
    }

    @Test func oneReleaseMayGrantMany() {
        let locks = Locks()
        locks.take(.write, 0...Int64.max, by: 1)
        for owner in 2...5 { locks.ask(.read, 0...9, by: owner, as: "reader \(owner)") }
        locks.ask(.write, 10...19, by: 6, as: "writer")
        locks.take(.unlock, 0...Int64.max, by: 1)
        #expect(locks.answers() == ["reader 2", "reader 3", "reader 4", "reader 5", "writer"])
    }

    @Test func anAnswerMayUseTheTable() {
        let locks = Locks()
        let table = locks.table
        let (first, second) = (LockOwner(mount: 1, owner: 1), LockOwner(mount: 1, owner: 2))
        let lock = FuseLock(kind: .write, start: 0, end: 9, pid: 0)
        let unlock = FuseLock(kind: .unlock, start: 0, end: 9, pid: 0)
        table.set(lock, on: 7, owner: first, waits: false) { _ in
            table.set(lock, on: 7, owner: second, waits: true) { _ in
                table.set(unlock, on: 7, owner: second, waits: false, granted: locks.answer("inner"))
            }
            table.set(unlock, on: 7, owner: first, waits: false, granted: locks.answer("outer"))
        }
        #expect(locks.answers() == ["outer", "inner"])
        #expect(locks.isEmpty)
    }

    // MARK: - Order

    @Test func readersDoNotOvertakeAWriter() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.ask(.write, 0...9, by: 2, as: "writer")
        locks.ask(.read, 0...9, by: 3, as: "reader")
        #expect(locks.answers() == [])
        locks.take(.unlock, 0...9, by: 1)
        #expect(locks.answers() == ["writer"])
        locks.take(.unlock, 0...9, by: 2)
        #expect(locks.answers() == ["reader"])
    }

    @Test func writersAreGrantedInOrder() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1)
        for owner in 2...9 { locks.ask(.write, Int64(owner)...9, by: owner, as: "\(owner)") }
        for owner in 1...8 {
            locks.take(.unlock, 0...9, by: owner)
            #expect(locks.answers() == ["\(owner + 1)"])
        }
    }

    @Test func whatConflictsWithNobodyGoesAhead() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.ask(.write, 0...9, by: 2, as: "writer")
        locks.ask(.read, 10...19, by: 3, as: "elsewhere")
        locks.ask(.read, 0...9, by: 4, on: 8, as: "another file")
        #expect(locks.answers() == ["elsewhere", "another file"])
    }

    @Test func aRequestThatDoesNotWaitAsksOnlyForWhatIsHeld() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.ask(.write, 0...9, by: 2, as: "writer")
        #expect(locks.conflict(.read, 0...9, by: 3) == nil)
        locks.take(.read, 0...9, by: 3)
        locks.take(.unlock, 0...9, by: 1)
        #expect(locks.answers() == [])
        locks.take(.unlock, 0...9, by: 3)
        #expect(locks.answers() == ["writer"])
    }

    /// Order alone would make owner 1 wait for the writer that waits for owner 1.
    @Test func whoIsWaitedForGoesAhead() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.ask(.write, 0...19, by: 2, as: "writer")
        locks.ask(.read, 0...19, by: 1, as: "reader")
        #expect(locks.answers() == ["reader"])
        locks.take(.unlock, 0...19, by: 1)
        #expect(locks.answers() == ["writer"])
    }

    /// As above, but the ring closes only when owner 1 waits already: 1 lets 2 go first, 2 waits for 3, 3 comes to wait for 1.
    @Test func whoComesToBeWaitedForGoesAhead() {
        let locks = Locks()
        locks.take(.write, 0...0, by: 1, on: 8)
        locks.take(.read, 0...9, by: 3)
        locks.ask(.write, 0...9, by: 2, as: "2")
        locks.ask(.read, 0...9, by: 1, as: "1")
        #expect(locks.answers() == [])
        locks.ask(.write, 0...0, by: 3, on: 8, as: "3")
        #expect(locks.answers() == ["1"])
        locks.take(.unlock, 0...9, by: 1, on: 8)
        locks.take(.unlock, 0...9, by: 1)
        #expect(locks.answers() == ["3"])
        locks.take(.unlock, 0...9, by: 3)
        #expect(locks.answers() == ["2"])
    }

    /// One thread of owner 1 waits, and another takes what the writer will have to wait for.
    @Test func whoseOtherThreadIsWaitedForGoesAhead() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 3)
        locks.ask(.write, 0...9, by: 2, as: "2")
        locks.ask(.read, 5...14, by: 1, as: "1")
        locks.take(.read, 0...0, by: 1, on: 8)
        #expect(locks.answers() == [])
        locks.take(.read, 0...0, by: 1)
        #expect(locks.answers() == ["1"])
    }

    // MARK: - Rings

    @Test func twoUpgradesAreADeadlock() {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        locks.take(.read, 0...9, by: 2)
        locks.ask(.write, 0...9, by: 1, as: "1")
        #expect(locks.ask(.write, 0...9, by: 2, as: "2") == nil)
        #expect(locks.answers() == ["2 EDEADLK"])
        #expect(locks.held(by: 2) == "r0-9")
        locks.take(.unlock, 0...9, by: 2)
        #expect(locks.answers() == ["1"])
    }

    @Test func aRingOverFilesAndMountsIsADeadlock() {
        let locks = Locks()
        for owner in 1...4 { locks.take(.write, 0...0, by: owner, on: Int64(owner), mount: owner) }
        for owner in 1...3 { locks.ask(.read, 0...0, by: owner, on: Int64(owner + 1), mount: owner, as: "\(owner)") }
        #expect(locks.answers() == [])
        // Asking is no waiting.
        locks.ask(.read, 0...0, by: 4, on: 1, mount: 4, waits: false, as: "4")
        locks.ask(.read, 0...0, by: 4, on: 1, mount: 4, as: "4")
        #expect(locks.answers() == ["4 EAGAIN", "4 EDEADLK"])
        locks.table.releasePOSIX(on: 4, owner: LockOwner(mount: 4, owner: 4))
        #expect(locks.answers() == ["3"])
    }

    @Test func aChainIsNoRing() {
        let locks = Locks()
        locks.take(.write, 0...0, by: 1)
        locks.take(.write, 1...1, by: 2)
        locks.take(.write, 2...2, by: 3)
        locks.ask(.write, 1...2, by: 1, as: "1")
        locks.ask(.write, 2...2, by: 2, as: "2")
        locks.ask(.write, 0...0, by: 4, as: "4")
        locks.take(.unlock, 2...2, by: 3)
        #expect(locks.answers() == ["2"])
        locks.take(.unlock, 0...9, by: 2)
        #expect(locks.answers() == ["1"])
        locks.take(.unlock, 0...9, by: 1)
        #expect(locks.answers() == ["4"])
    }

    // MARK: - Interrupts

    @Test func cancellingAnswersOnce() throws {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        let writer = try #require(locks.ask(.write, 0...9, by: 2, as: "writer"))
        locks.ask(.read, 0...9, by: 3, as: "reader")
        locks.table.cancel(writer)
        // The reader had let the writer go first.
        #expect(locks.answers() == ["writer EINTR", "reader"])
        locks.table.cancel(writer)
        #expect(locks.answers() == [])
        locks.take(.write, 10...10, by: 2)
    }

    @Test func cancellingWhatWasGrantedDoesNothing() throws {
        let locks = Locks()
        locks.take(.read, 0...9, by: 1)
        let writer = try #require(locks.ask(.write, 0...9, by: 2, as: "writer"))
        locks.take(.unlock, 0...9, by: 1)
        locks.table.cancel(writer)
        #expect(locks.answers() == ["writer"])
        #expect(locks.held(by: 2) == "w0-9")
    }

    // MARK: - flock

    @Test func wholeLocksShareAndExclude() {
        let locks = Locks()
        locks.flock(.read, by: 1, as: "1")
        locks.flock(.read, by: 2, as: "2")
        locks.flock(.write, by: 3, waits: false, as: "3")
        #expect(locks.answers() == ["1", "2", "3 EAGAIN"])
        locks.flock(.write, by: 3, as: "3")
        locks.flock(.read, by: 4, as: "4")
        locks.flock(.unlock, by: 1, as: "1")
        #expect(locks.answers() == ["1"])
        locks.table.releaseWhole(on: 7, owner: LockOwner(mount: 1, owner: 2))
        #expect(locks.answers() == ["3"])
        locks.flock(.unlock, by: 3, as: "3")
        #expect(locks.answers() == ["3", "4"])
    }

    @Test func convertingGivesTheOldLockUpFirst() {
        let locks = Locks()
        locks.flock(.read, by: 1, as: "1")
        locks.flock(.read, by: 2, as: "2")
        #expect(locks.answers() == ["1", "2"])
        // Refused, and the shared lock lost, so that the other conversion succeeds.
        locks.flock(.write, by: 1, waits: false, as: "1")
        locks.flock(.write, by: 2, waits: false, as: "2")
        #expect(locks.answers() == ["1 EAGAIN", "2"])
        #expect(locks.table.counts() == (held: 1, waiting: 0))
    }

    @Test func whoWaitsForTheOldLockHasItBeforeTheConversion() {
        let locks = Locks()
        locks.flock(.read, by: 1, as: "1")
        locks.flock(.write, by: 2, as: "2")
        locks.flock(.write, by: 1, as: "1 again")
        #expect(locks.answers() == ["1", "2"])
        locks.flock(.unlock, by: 2, as: "2")
        #expect(locks.answers() == ["2", "1 again"])
    }

    @Test func theSameKindAgainChangesNothing() {
        let locks = Locks()
        locks.flock(.read, by: 1, as: "1")
        locks.flock(.write, by: 2, as: "2")
        locks.flock(.read, by: 1, as: "1 again")
        #expect(locks.answers() == ["1", "1 again"])
    }

    @Test func ringsOfWholeLocksAreNotLookedFor() throws {
        let locks = Locks()
        locks.flock(.write, by: 1, on: 7, as: "1")
        locks.flock(.write, by: 2, on: 8, as: "2")
        locks.flock(.write, by: 1, on: 8, as: "1 on 8")
        let last = try #require(locks.flock(.write, by: 2, on: 7, as: "2 on 7"))
        locks.table.cancel(last)
        #expect(locks.answers() == ["1", "2", "2 on 7 EINTR"])
    }

    @Test func rangesAndWholeFilesDoNotMeet() {
        let locks = Locks()
        locks.take(.write, 0...Int64.max, by: 1)
        locks.flock(.write, by: 2, as: "flock")
        #expect(locks.answers() == ["flock"])
        locks.table.releaseWhole(on: 7, owner: LockOwner(mount: 1, owner: 1))
        #expect(locks.held(by: 1) == "w0-end")
        locks.table.releasePOSIX(on: 7, owner: LockOwner(mount: 1, owner: 2))
        #expect(locks.table.counts() == (held: 2, waiting: 0))
    }

    // MARK: - Releases

    @Test func closingADescriptorReleasesItsOwnersRangesOfThatFile() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1)
        locks.take(.read, 20...Int64.max, by: 1)
        locks.take(.write, 0...9, by: 1, on: 8)
        locks.take(.write, 10...19, by: 2)
        locks.ask(.read, 0...9, by: 3, as: "3")
        locks.ask(.read, 10...10, by: 1, as: "another thread")
        locks.table.releasePOSIX(on: 7, owner: LockOwner(mount: 1, owner: 1))
        #expect(locks.answers() == ["3"])
        #expect(locks.held(by: 1) == "")
        #expect(locks.held(by: 1, on: 8) == "w0-9")
        locks.take(.unlock, 10...19, by: 2)
        #expect(locks.answers() == ["another thread"])
    }

    @Test func aReleasedOpenFileWaitsNoMore() {
        let locks = Locks()
        locks.flock(.write, by: 1, as: "1")
        locks.flock(.write, by: 2, as: "2")
        locks.table.releaseWhole(on: 7, owner: LockOwner(mount: 1, owner: 2))
        locks.flock(.unlock, by: 1, as: "1")
        #expect(locks.answers() == ["1", "2 EINTR", "1"])
        #expect(locks.isEmpty)
    }

    @Test func anEndedMountLeavesNothingBehind() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1, mount: 1)
        locks.take(.write, 0...9, by: 1, on: 8, mount: 2)
        locks.flock(.write, by: 1, mount: 1, as: "flock")
        locks.flock(.write, by: 1, mount: 2, as: "other flock")
        locks.ask(.write, 0...4, by: 2, mount: 1, as: "same mount")
        locks.ask(.write, 0...9, by: 2, mount: 2, as: "other mount")
        locks.ask(.write, 0...9, by: 3, on: 8, mount: 1, as: "same mount elsewhere")
        #expect(locks.answers() == ["flock"])
        locks.table.releaseAll(mount: 1)
        let expected = ["other flock", "other mount", "same mount ENOTCONN", "same mount elsewhere ENOTCONN"]
        #expect(locks.answers().sorted() == expected)
        #expect(locks.table.counts() == (held: 3, waiting: 0))
        locks.table.releaseAll(mount: 2)
        #expect(locks.isEmpty)
    }

    @Test func theLastOpenFileOfAnInodeTakesAllLocksAlong() {
        let locks = Locks()
        locks.take(.write, 0...9, by: 1)
        locks.take(.write, 0...9, by: 1, on: 8)
        locks.take(.read, 20...29, by: 1, mount: 2)
        locks.ask(.write, 0...9, by: 2, as: "2")
        locks.ask(.write, 0...9, by: 3, mount: 2, as: "3")
        locks.flock(.read, by: 4, as: "4")
        locks.table.releaseAll(on: 7, mount: 1)
        #expect(locks.answers() == ["4", "2 EINTR", "3"])
        #expect(locks.held(by: 1) == "")
        #expect(locks.held(by: 1, on: 8) == "w0-9")
        #expect(locks.held(by: 1, mount: 2) == "r20-29")
    }

    // MARK: - Many

    @Test func tenThousandRangesOfOneOwner() {
        let locks = Locks()
        let count: Int64 = 10_000
        // Every second byte, from the end to the start: nothing touches.
        for place in (0..<count).reversed() { locks.take(.write, place * 2...place * 2, by: 1) }
        #expect(locks.table.counts().held == Int(count))
        #expect(locks.conflict(.read, 9_999...10_000, by: 2) == FuseLock(kind: .write, start: 10_000, end: 10_000, pid: 1001))
        #expect(locks.conflict(.read, 9_999...9_999, by: 2) == nil)
        locks.take(.write, 0...count * 2, by: 1)
        #expect(locks.held(by: 1) == "w0-20000")
        for place in 0..<count { locks.take(.unlock, place * 2...place * 2, by: 1) }
        #expect(locks.table.counts().held == Int(count))
        locks.table.releasePOSIX(on: 7, owner: LockOwner(mount: 1, owner: 1))
        #expect(locks.isEmpty)
    }

    @Test func aThousandReadersBehindAWriter() {
        let locks = Locks()
        locks.take(.read, 0...0, by: 0)
        locks.ask(.write, 0...Int64.max, by: 1, as: "writer")
        for owner in 2...1001 { locks.ask(.read, 0...Int64.max, by: owner, as: "reader") }
        #expect(locks.table.counts() == (held: 1, waiting: 1001))
        locks.table.releasePOSIX(on: 7, owner: LockOwner(mount: 1, owner: 0))
        #expect(locks.answers() == ["writer"])
        locks.take(.unlock, 0...Int64.max, by: 1)
        #expect(locks.answers().count == 1000)
        locks.table.releaseAll(mount: 1)
        #expect(locks.isEmpty)
    }
}

/// A table, and the answers that it gave, in order.
private struct Locks {
    let table = LockTable()
    private let log = Mutex<[String]>([])

    var isEmpty: Bool { table.counts() == (held: 0, waiting: 0) }

    /// The answers since the last call: a request's name, with the errno if it was refused.
    func answers() -> [String] {
        log.withLock { log in
            defer { log = [] }
            return log
        }
    }

    func answer(_ name: String) -> LockTable.Answer {
        let log = log
        return { errno in log.withLock { $0.append(errno.map { "\(name) \(Self.errnoNames[$0.code] ?? "\($0.code)")" } ?? name) } }
    }

    private static let errnoNames = [
        EAGAIN: "EAGAIN", EDEADLK: "EDEADLK", EINTR: "EINTR", EINVAL: "EINVAL", ENOTCONN: "ENOTCONN",
    ]

    @discardableResult func ask(
        _ kind: FuseLock.Kind, _ range: ClosedRange<Int64>, by owner: Int, on inode: Int64 = 7, mount: Int = 1, waits: Bool = true,
        as name: String
    ) -> LockTicket? {
        table.set(
            lock(kind, range, owner), on: inode, owner: LockOwner(mount: mount, owner: UInt64(owner)), waits: waits, granted: answer(name))
    }

    /// Without waiting, and it must succeed.
    func take(
        _ kind: FuseLock.Kind, _ range: ClosedRange<Int64>, by owner: Int, on inode: Int64 = 7, mount: Int = 1,
        _ location: SourceLocation = #_sourceLocation
    ) {
        let errno = Mutex<FuseErrno??>(nil)
        let asking = LockOwner(mount: mount, owner: UInt64(owner))
        table.set(lock(kind, range, owner), on: inode, owner: asking, waits: false) { answer in errno.withLock { $0 = .some(answer) } }
        #expect(errno.withLock { $0 } == .some(nil), sourceLocation: location)
    }

    @discardableResult func flock(
        _ kind: FuseLock.Kind, by owner: Int, on inode: Int64 = 7, mount: Int = 1, waits: Bool = true, as name: String
    ) -> LockTicket? {
        table.setWhole(kind, on: inode, owner: LockOwner(mount: mount, owner: UInt64(owner)), waits: waits, granted: answer(name))
    }

    func conflict(_ kind: FuseLock.Kind, _ range: ClosedRange<Int64>, by owner: Int, on inode: Int64 = 7, mount: Int = 1) -> FuseLock? {
        table.conflict(with: lock(kind, range, owner), on: inode, owner: LockOwner(mount: mount, owner: UInt64(owner)))
    }

    /// All ranges that an owner holds, as in "r0-9 w20-end".
    func held(by owner: Int, on inode: Int64 = 7, mount: Int = 1) -> String {
        var ranges: [String] = []
        var start: Int64 = 0
        while let lock = conflict(.unlock, start...Int64.max, by: owner, on: inode, mount: mount) {
            ranges.append("\(lock.kind == .read ? "r" : "w")\(lock.start)-\(lock.end == .max ? "end" : "\(lock.end)")")
            guard lock.end < .max else { break }
            start = lock.end + 1
        }
        return ranges.joined(separator: " ")
    }

    private func lock(_ kind: FuseLock.Kind, _ range: ClosedRange<Int64>, _ owner: Int) -> FuseLock {
        FuseLock(kind: kind, start: range.lowerBound, end: range.upperBound, pid: Int32(1000 + owner))
    }
}
