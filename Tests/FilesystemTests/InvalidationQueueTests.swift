import Fuse
import Glibc
import Storage
import Testing

@testable import Filesystem

/// What a kernel has still to forget, while nobody tells it.
@Suite struct InvalidationQueueTests {
    private func withQueue(_ body: (InvalidationQueue, Notifier, FuseHoldMemory) throws -> Void) throws {
        let memory = try #require(FuseHoldMemory())
        defer { close(memory.descriptor) }
        let notifier = Notifier(count: 0)
        try body(InvalidationQueue(notifier, memory), notifier, memory)
    }

    /// What a successor would find.
    private func left(_ memory: FuseHoldMemory) -> [Invalidation] {
        FuseHoldLog(memory, .invalidations).read().compactMap(Invalidation.init(record:))
    }

    private func name(_ number: Int) -> Invalidation { .name(Array("name \(number)".utf8), in: 1) }

    /// Otherwise a daemon that is killed again and again would leave more to each successor than that one can send before it is killed.
    @Test func aBurstOfChangesToAFewFilesStaysShort() throws {
        try withQueue { queue, notifier, memory in
            for number in 0..<20_000 {
                queue.post([.bytes(5, offset: Int64(number) * 10, length: 10), .attributes(6), name(number % 10)])
            }
            #expect(left(memory).count < 20)
            #expect(Set(left(memory)).isSuperset(of: [.bytes(5, offset: 0, length: 0), .attributes(6)] + (0..<10).map(name)))
            // A successor says what there is and what came since, however long it takes until it can.
            let successor = InvalidationQueue(notifier, memory)
            successor.post([.bytes(7, offset: 0, length: 1)])
            #expect(left(memory).last == .bytes(7, offset: 0, length: 1))
            successor.takeInInherited()
            successor.work()
            // What was sent is gone with the next change.
            successor.post([name(20)])
            #expect(left(memory).suffix(1) == [name(20)] && left(memory).count < 20)
        }
    }

    /// It is read by the thread that sends, not while callers wait for the mount; before that, whoever was there first stays first.
    @Test func whatASuccessorFindsIsNotLostBeforeItIsRead() throws {
        try withQueue { queue, notifier, memory in
            for number in 0..<10 { queue.post([name(number)]) }
            let second = InvalidationQueue(notifier, memory)
            second.post([name(3), name(20)])
            // Killed as well.
            let third = InvalidationQueue(notifier, memory)
            #expect(Set(left(memory)) == Set(((0..<10) + [20]).map(name)))
            third.takeInInherited()
            #expect(Set(left(memory)) == Set(((0..<10) + [20]).map(name)))
        }
    }

    /// Of what comes without an end only that is kept which was not sent.
    @Test func whatWasSentIsNotSentAgain() throws {
        try withQueue { queue, notifier, memory in
            for number in 0..<1_000 { queue.post([name(number)]) }
            #expect(left(memory) == (0..<1_000).map(name))
            queue.work()
            queue.post([name(7)])
            #expect(left(memory) == [name(7)])
            // Bit by bit, for as long as it goes on.
            for number in 0..<5_000 {
                queue.post([name(number)])
                queue.work()
                if left(memory).count > 70 { Issue.record("\(left(memory).count) are left"); break }
            }
            #expect(left(memory).last == name(4_999))
        }
    }

    @Test(arguments: [
        // The pages of both, and perhaps more.
        ((0, 10), (10, 10), (0, 0)), ((100, 10), (50, 10), (50, 0)), ((100, 0), (50, 1), (50, 0)), ((0, 10), (5, 0), (0, 0)),
        // Nothing more than the first.
        ((0, 0), (7, 3), (0, 0)), ((0, 0), (7, 0), (0, 0)), ((0, 10), (3, 7), (0, 10)), ((5, 5), (5, 5), (5, 5)),
    ])
    func pagesOfOneFileAreForgottenTogether(
        _ first: (offset: Int64, length: Int64), _ second: (offset: Int64, length: Int64), _ both: (offset: Int64, length: Int64)
    ) throws {
        try withQueue { queue, _, memory in
            for (offset, length) in [first, second] { queue.post([.bytes(5, offset: offset, length: length)]) }
            #expect(left(memory).last == .bytes(5, offset: both.offset, length: both.length))
            // Not another file's.
            queue.post([.bytes(6, offset: 1, length: 1)])
            #expect(left(memory).last == .bytes(6, offset: 1, length: 1))
        }
    }
}
