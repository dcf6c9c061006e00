internal import CFuse
internal import Glibc
internal import struct Synchronization.Atomic
internal import Threads

/// Going on with a connection that a process began which is no more: what it had read and not answered is answered first, on one thread.
extension FuseConnection {
    /// What `answerResent` does with a request that killed its predecessors.
    package enum Attempt: Sendable {
        case answer
        /// Its caller gets EIO.
        case giveUp
    }

    /// Has the kernel send again what was read from `device`, a connection's, and not answered. Before the connection is served.
    ///
    /// - Returns: an errno; EINVAL where the kernel cannot (before Linux 6.9).
    package static func requestResend(_ device: Int32) -> Int32 {
        // Not in the header of every Linux that this is built on (`FUSE_NOTIFY_RESEND`).
        var header = fuse_out_header(len: UInt32(MemoryLayout<fuse_out_header>.size), error: 7, unique: 0)
        let count = unsafe withUnsafeBytes(of: &header) { unsafe Glibc.write(device, $0.baseAddress!, $0.count) }
        return count < 0 ? errno : 0
    }

    /// Whether a request waits on `device`, or its end.
    package static func isReadable(_ device: Int32) -> Bool { firstReadable([device]) != nil }

    /// The place of the first of `devices` on which a request waits, or its end.
    package static func firstReadable(_ devices: [Int32]) -> Int? {
        var states = devices.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        guard unsafe poll(&states, nfds_t(states.count), 0) > 0 else { return nil }
        return states.firstIndex { $0.revents != 0 }
    }

    /// Whether a request waits that nobody has read, or the connection's end.
    package var isAwaited: Bool { Self.isReadable(device) }

    /// Answers what the kernel sends again, on the calling thread, until it has nothing more to say or says something new. Replies that
    /// are given later (`FuseReply`) may still be under way when this returns.
    ///
    /// - Parameters:
    ///   - attempt: asked before each of them, by its number on the connection.
    ///   - survived: told after each of them: whatever becomes of it, it did not end this process.
    /// - Returns: how many were answered or are being answered.
    package func answerResent(_ inbox: FuseInbox?, _ attempt: (UInt64) -> Attempt, survived: (UInt64) -> Void) -> Int {
        let receiver = FuseReceiver(worker: nil, inbox: inbox)
        let progress = FuseProgress(FuseBaton())
        var count = 0
        while true {
            var attempted: UInt64?
            let outcome = receiver.receive(from: self, progress) { header in
                guard header.unique & FuseReceiver.resent != 0 else { return true }
                count += 1
                let unique = header.unique & ~FuseReceiver.resent
                attempted = unique
                guard case .giveUp = attempt(unique) else { return true }
                self.refuse(header.unique, EIO)
                return false
            }
            if let attempted { survived(attempted) }
            switch outcome {
            case .processed where receiver.wasNew: return count
            case .processed: continue
            case .nothing: return count
            case .ended(let errno):
                endCause.store(errno, ordering: .relaxed)
                return count
            }
        }
    }

    /// As `answerResent`, for a kernel that sends nothing again: answers what stands in the inbox. Once for all connections, before any of
    /// them is read from.
    ///
    /// - Parameters:
    ///   - connections: by their identity. What is of none of them is let go of.
    ///   - attempt: with the connection.
    package static func answerLeft(
        in inbox: FuseInbox, _ connections: [UInt64: FuseConnection], _ attempt: (FuseConnection, UInt64) -> Attempt,
        survived: (FuseConnection, UInt64) -> Void
    ) -> Int {
        var count = 0
        func answer(_ receiver: FuseReceiver, _ size: Int, _ connection: FuseConnection) {
            let unique = receiver.header.unique
            count += 1
            if case .giveUp = attempt(connection, unique) {
                connection.refuse(unique, EIO)
            } else {
                receiver.processLeft(size, from: connection)
            }
            survived(connection, unique)
        }
        // Before the slots: what was read and has to wait gets a place in the list, and that is this process's.
        let waiting = inbox.waiting()
        for slot in inbox.slots {
            guard let left = unsafe slot.left(), let connection = unsafe connections[left.connection] else {
                slot.clear()
                continue
            }
            if let reply = unsafe left.reply {
                // Perhaps it was sent, and then nobody waits: ENOENT.
                _ = unsafe Glibc.write(connection.device, reply.baseAddress!, reply.count)
            } else {
                unsafe answer(FuseReceiver(worker: nil, inbox: inbox, slot: slot), left.count, connection)
            }
            slot.clear()
        }
        for left in waiting {
            if let connection = connections[left.connection] {
                let receiver = FuseReceiver(worker: nil, inbox: inbox)
                receiver.fill(left.request)
                answer(receiver, left.request.count, connection)
            }
            // Where it waits again, it stands in another place already.
            inbox.answered(left.place)
        }
        return count
    }

    private func refuse(_ unique: UInt64, _ errno: Int32) {
        var header = fuse_out_header(len: UInt32(MemoryLayout<fuse_out_header>.size), error: -errno, unique: unique)
        _ = unsafe withUnsafeBytes(of: &header) { unsafe Glibc.write(device, $0.baseAddress!, $0.count) }  // nobody waits any more
    }

    /// Whether the kernel still knows an inode: asked by dropping its attributes.
    package func kernelKnows(_ node: NodeID) -> Bool { invalidate(node, length: -1) == 0 }
}
