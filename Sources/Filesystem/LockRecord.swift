import Fuse
import Glibc
import Logging
import Storage
import Threads

/// One change of the locks that are held.
struct LockChange: Equatable {
    let family: LockFamily
    let inode: InodeNumber
    let owner: LockOwner
    let kind: FuseLock.Kind
    let span: ClosedRange<Int64>
    let pid: Int32
}

/// The locks of a mount that hands locking to us, in memory that outlives the process: the kernel keeps none of them, and asks nobody again
/// for what it was granted.
///
/// Its own lock is innermost, within that of one `LockTable`.
final class LockRecord: Sendable {
    private let log: Mutex<FuseHoldLog>
    private let logger: Logger
    /// Beyond so many records those that undo each other are left out.
    private static let usual = 1_000

    init(_ memory: FuseHoldMemory, logger: Logger) {
        log = Mutex(FuseHoldLog(memory, .locks))
        self.logger = logger
    }

    /// - Parameter held: what is held after it.
    func add(_ change: LockChange, held: () -> [LockChange]) {
        let code = log.withLock { log in
            var code = log.append(Self.bytes(change))
            if code != 0 || log.count > Self.usual {
                let held = held()
                if code != 0 || log.count > max(Self.usual, 4 * held.count) { code = log.replace(held.map(Self.bytes)) }
            }
            return code
        }
        if code != 0 { logger.error("a lock would not outlive this process", metadata: ["errno": "\(code)"]) }
    }

    /// What a predecessor has recorded.
    func changes(of mount: Int) -> [LockChange] { log.withLock { $0.read() }.compactMap { Self.change($0, mount) } }

    private static func bytes(_ change: LockChange) -> [UInt8] {
        let kind: UInt64 =
            switch change.kind {
            case .read: 0
            case .write: 1
            case .unlock: 2
            }
        let words = [
            UInt64(change.family.rawValue), kind, UInt64(bitPattern: change.inode), change.owner.owner, UInt64(change.span.lowerBound),
            UInt64(change.span.upperBound), UInt64(bitPattern: Int64(change.pid)), 0,
        ]
        return words.flatMap { (word: UInt64) -> [UInt8] in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(8 * $0)) } }
    }

    private static func change(_ bytes: [UInt8], _ mount: Int) -> LockChange? {
        let words = stride(from: 0, to: FuseHoldLog.Kind.locks.recordSize, by: 8).map { start in
            var word: UInt64 = 0
            for place in 0..<8 { word |= UInt64(bytes[start + place]) << UInt64(8 * place) }
            return word
        }
        let kinds: [FuseLock.Kind] = [.read, .write, .unlock]
        guard let family = UInt8(exactly: words[0]).flatMap(LockFamily.init), let kind = Int(exactly: words[1]), kind < kinds.count,
            let first = Int64(exactly: words[4]), let last = Int64(exactly: words[5]), first <= last
        else { return nil }
        return LockChange(
            family: family, inode: InodeNumber(bitPattern: words[2]), owner: LockOwner(mount: mount, owner: words[3]), kind: kinds[kind],
            span: first...last, pid: Int32(truncatingIfNeeded: words[6]))
    }
}
