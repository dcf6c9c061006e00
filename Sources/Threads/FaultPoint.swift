#if DEBUG
    internal import Glibc
    internal import struct Synchronization.Atomic
#endif

/// A place at which a test may have this process killed, as a crash there would. In release builds there is none: nothing is asked, and
/// the variable is not read.
///
/// A test names a file of 512 bytes in `REMFS_FAULTS`, and so to all daemons that follow one another. In it stand 128 numbers of 32 bits, one
/// for each place: 0: nothing happens; N: whoever comes by as the Nth kills the process (SIGKILL), and those before count; the largest: whoever
/// comes by kills it, each time.
package enum FaultPoint {
    /// A request that changes something was read, and nothing was done for it.
    case beforeTransaction
    /// All of a request's rows are written, with its line in the ledger, and not committed.
    case beforeCommit
    /// What was asked for is done, and its caller does not know.
    case afterCommit
    /// The caller of a change knows.
    case afterReply
    /// A request of this kind was read (`enum fuse_opcode`, below 64).
    case request(opcode: UInt32)
    /// A holder reads what the program that it was before has left for it. (Nobody dies here: it does not understand it.)
    case resumed

    package static let variable = "REMFS_FAULTS"
    package static let places = 128

    /// Where it stands in the file.
    package var place: Int {
        switch self {
        case .beforeTransaction: 0
        case .beforeCommit: 1
        case .afterCommit: 2
        case .afterReply: 3
        case .resumed: 4
        case .request(let opcode): 64 + Int(min(opcode, 63))
        }
    }

    /// Whether a test is at work.
    @inline(__always)
    package static var isPossible: Bool {
        #if DEBUG
            return unsafe numbers != nil
        #else
            return false
        #endif
    }

    @inline(__always)
    package static func pass(_ point: @autoclosure () -> FaultPoint) {
        #if DEBUG
            if isPossible, isMeant(point()) {
                kill(getpid(), SIGKILL)
                // It comes before this returns to user code, also where another thread takes it.
                while true { pause() }
            }
        #endif
    }

    /// For a fault that is not a death.
    package static func happens(_ point: FaultPoint) -> Bool {
        #if DEBUG
            return isPossible && isMeant(point)
        #else
            return false
        #endif
    }

    #if DEBUG
        /// Shared by all processes that were told of the file. nil: no test is at work.
        nonisolated(unsafe) private static let numbers: UnsafeMutablePointer<Atomic<UInt32>>? = {
            guard let path = unsafe getenv(variable) else { return nil }
            let descriptor = unsafe open(path, O_RDWR | O_CLOEXEC)
            // A test that names no such file would test nothing.
            precondition(descriptor >= 0, "\(variable) names no file")
            defer { close(descriptor) }
            let size = places * MemoryLayout<UInt32>.size
            let address = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
            unsafe precondition(address != MAP_FAILED, "\(variable) cannot be mapped")
            // Four bytes, of which any value is one.
            return unsafe address!.bindMemory(to: Atomic<UInt32>.self, capacity: places)
        }()

        /// Whether it is this one's turn.
        private static func isMeant(_ point: FaultPoint) -> Bool {
            let number = unsafe numbers! + point.place
            var seen = unsafe number.pointee.load(ordering: .relaxed)
            while seen != 0, seen != .max {
                let (exchanged, original) = unsafe number.pointee.compareExchange(expected: seen, desired: seen - 1, ordering: .relaxed)
                if exchanged { return seen == 1 }
                seen = original
            }
            return seen == .max
        }
    #endif
}
