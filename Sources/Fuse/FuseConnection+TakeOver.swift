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

    /// Has the kernel send again what was read and not answered. Before the connection is served.
    ///
    /// - Returns: an errno; EINVAL where the kernel cannot (before Linux 6.9).
    package func requestResend() -> Int32 {
        // Not in the header of every Linux that this is built on (`FUSE_NOTIFY_RESEND`).
        var header = fuse_out_header(len: UInt32(MemoryLayout<fuse_out_header>.size), error: 7, unique: 0)
        let count = unsafe withUnsafeBytes(of: &header) { unsafe Glibc.write(device, $0.baseAddress!, $0.count) }
        return count < 0 ? errno : 0
    }

    /// Answers what the kernel sends again, on the calling thread, until it has nothing more to say or says something new. Replies that
    /// are given later (`FuseReply`) may still be under way when this returns.
    ///
    /// - Parameter attempt: asked before each of them, by its number on the connection.
    /// - Returns: how many were answered or are being answered.
    package func answerResent(_ attempt: (UInt64) -> Attempt) -> Int {
        let receiver = FuseReceiver(worker: nil)
        let progress = FuseProgress(FuseBaton())
        var count = 0
        while true {
            let outcome = receiver.receive(from: self, progress) { header in
                guard header.unique & FuseReceiver.resent != 0 else { return true }
                count += 1
                guard case .giveUp = attempt(header.unique & ~FuseReceiver.resent) else { return true }
                self.refuse(header.unique, EIO)
                return false
            }
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

    private func refuse(_ unique: UInt64, _ errno: Int32) {
        var header = fuse_out_header(len: UInt32(MemoryLayout<fuse_out_header>.size), error: -errno, unique: unique)
        _ = unsafe withUnsafeBytes(of: &header) { unsafe Glibc.write(device, $0.baseAddress!, $0.count) }  // nobody waits any more
    }

    /// Whether the kernel still knows an inode: asked by dropping its attributes.
    package func kernelKnows(_ node: NodeID) -> Bool { invalidate(node, length: -1) == 0 }
}
