import Fuse
import Glibc
import Testing

/// What passes between a daemon and its holder.
@Suite struct HoldTests {
    @Test func memoryKeepsTheLastWholeContent() throws {
        let memory = try #require(FuseHoldMemory())
        defer { close(memory.descriptor) }
        #expect(memory.read() == nil)
        for round in 1...5 {
            let content = [UInt8](repeating: UInt8(round), count: round * 100_000)
            #expect(memory.write(content) == 0)
            #expect(memory.read() == content)
        }
        // The newest is torn, as a kill in the middle of it leaves it: the one before counts. (It stands in the first of two places.)
        var byte: UInt8 = 0
        try check(pwrite(memory.descriptor, &byte, 1, 4_096 + 1_000))
        #expect(memory.read() == [UInt8](repeating: 4, count: 400_000))
        #expect(memory.write([7]) == 0)
        #expect(memory.read() == [7])
        #expect(memory.write([UInt8](repeating: 0, count: (64 << 20) + 1)) == EFBIG)
    }

    @Test func attemptsAreCountedAcrossProcesses() throws {
        let memory = try #require(FuseHoldMemory())
        defer { close(memory.descriptor) }
        #expect(memory.write([1]) == 0)
        for count in 0..<4 { #expect(FuseHoldMemory(memory.descriptor).countAttempt(at: 1_000) == count) }
        // Many others push out the oldest, and never a newer one.
        for unique in stride(from: UInt64(2), through: 60, by: 2) { #expect(memory.countAttempt(at: unique) == 0) }
        #expect(memory.countAttempt(at: 1_000) == 4)
        memory.forgetAttempts(at: 1_000)
        #expect(memory.countAttempt(at: 1_000) == 0)
        memory.forgetAttempts(at: 77)
        #expect(memory.read() == [1])
    }

    @Test func messagesKeepTheirOrderAndBringDescriptors() throws {
        let (one, other) = try #require(FuseHoldSocket.pair())
        defer { other.close() }
        let memory = try #require(FuseHoldMemory())
        let device = try check(open("/dev/null", O_RDWR | O_CLOEXEC))
        #expect(memory.write(Array("state".utf8)) == 0)
        let sent = FuseHold(name: "mnt_01 of a name", device: device, memory: memory.descriptor)
        for message in [FuseHoldSocket.Message.keep(sent), .closeEvents(device), .drop("mnt_01"), .ready, .handOver, .end] {
            #expect(one.send(message) == 0)
        }
        sent.close()
        guard case .keep(let hold) = other.receive() else {
            Issue.record("nothing to keep")
            return
        }
        defer { hold.close() }
        #expect(hold.name == sent.name)
        #expect(FuseHoldMemory(hold.memory).read() == Array("state".utf8))
        #expect(fcntl(hold.device, F_GETFD) == FD_CLOEXEC)
        guard case .closeEvents(let group) = other.receive() else {
            Issue.record("no close events")
            return
        }
        close(group)
        #expect([other.receive(), other.receive(), other.receive(), other.receive()] == [.drop("mnt_01"), .ready, .handOver, .end])
        one.close()
        #expect(other.receive() == nil)
    }

    @Test func aHoldersStateComesBack() throws {
        var state = FuseHolderState(daemon: .init(process: 12, socket: 7, isChild: true, isReady: true))
        #expect(try FuseHolderState(state.bytes) == state)
        state.daemon.handsOver = true
        state.holds = [FuseHold(name: "mnt_01 of a name", device: 8, memory: 9), FuseHold(name: "mnt_02", device: 10, memory: 11)]
        state.listener = FuseHeldListener(descriptor: 12, isGiven: true)
        state.inbox = 13
        state.remains = [99, 100]
        state.signals = 14
        #expect(try FuseHolderState(state.bytes) == state)
        // The program before the first that wrote a format.
        let text = String(decoding: state.bytes, as: UTF8.self)
        let former = text.split(separator: "\n").dropFirst().joined(separator: "\n")
        #expect(try FuseHolderState(Array(former.utf8)) == state)
    }

    @Test func whatAHolderDoesNotUnderstandIsRefused() throws {
        let state = FuseHolderState(daemon: .init(process: 12, socket: 7))
        let text = String(decoding: state.bytes, as: UTF8.self)
        let newer = text.replacing("format \(FuseHolderState.newestFormat)", with: "format 99")
        #expect(throws: FuseHolderState.Failure.format(99)) { try FuseHolderState(Array(newer.utf8)) }
        for wrong in ["", "format", "format x 0", text + "\nwhat 1 2", text + "\nhold 1 2", "format 1 0\nhold 1 2 a", "daemon 1 x -"] {
            #expect(throws: FuseHolderState.Failure.malformed, "\(wrong)") { try FuseHolderState(Array(wrong.utf8)) }
        }
    }

    @Test func aLogKeepsWholeRecords() throws {
        let memory = try #require(FuseHoldMemory())
        defer { close(memory.descriptor) }
        func record(_ number: UInt8, _ kind: FuseHoldLog.Kind) -> [UInt8] { [UInt8](repeating: number, count: kind.recordSize) }
        for kind in [FuseHoldLog.Kind.locks, .invalidations] {
            var log = FuseHoldLog(memory, kind)
            #expect(log.count == 0 && log.read() == [])
            for number in UInt8(1)...3 { #expect(log.append(record(number, kind)) == 0) }
            // As a successor finds it.
            #expect(FuseHoldLog(memory, kind).read() == [record(1, kind), record(2, kind), record(3, kind)])
            #expect(log.replace([record(9, kind)]) == 0 && log.append(record(8, kind)) == 0)
            #expect(FuseHoldLog(memory, kind).read() == [record(9, kind), record(8, kind)])
            // From its beginning on, bit by bit; the room of what has gone is there again once nothing is left.
            let place = log.end
            #expect(log.append(record(7, kind)) == 0 && log.removeFirst(upTo: log.first + 1) == 0)
            #expect(FuseHoldLog(memory, kind).read() == [record(8, kind), record(7, kind)])
            #expect(log.removeFirst(upTo: place) == 0 && log.removeFirst(upTo: log.first) == 0)
            #expect(FuseHoldLog(memory, kind).read() == [record(7, kind)] && FuseHoldLog(memory, kind).count == 1)
            #expect(log.removeFirst(upTo: log.end) == 0 && log.count == 0)
            #expect(FuseHoldLog(memory, kind).read() == [])
            for number in UInt8(5)...6 { #expect(log.append(record(number, kind)) == 0) }
            #expect(FuseHoldLog(memory, kind).read() == [record(5, kind), record(6, kind)])
        }
        // Without an end, though there is always something left.
        var endless = FuseHoldLog(memory, .invalidations)
        for _ in 0..<150_000 {
            let place = endless.end
            guard endless.append(record(4, .invalidations)) == 0, endless.removeFirst(upTo: place - 1) == 0 else {
                Issue.record("no room at \(place)")
                break
            }
        }
        #expect(endless.count == 2 && FuseHoldLog(memory, .invalidations).read() == [record(4, .invalidations), record(4, .invalidations)])
        // Neither has written over the other, nor over the content.
        #expect(memory.write([7]) == 0 && memory.read() == [7])
        var locks = FuseHoldLog(memory, .locks)
        #expect(locks.count == 2 && locks.removeAll() == 0)
        #expect(FuseHoldLog(memory, .locks).count == 0 && FuseHoldLog(memory, .invalidations).count == 2)
    }
}
