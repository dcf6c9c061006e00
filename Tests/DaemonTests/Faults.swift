import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// The file in which a test says where a daemon is to be killed (`FaultPoint`): all daemons that follow one another look into it.
final class Faults {
    private let path: String
    private let numbers: UnsafeMutablePointer<UInt32>
    private let size = FaultPoint.places * MemoryLayout<UInt32>.size

    /// What a daemon is to have in its environment.
    var environment: [String: String] { [FaultPoint.variable: path] }

    init(_ path: String) throws {
        self.path = path
        let file = try check(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600))
        defer { close(file) }
        try check(ftruncate(file, off_t(size)))
        let address = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard address != MAP_FAILED else { throw Errno(errno) }
        numbers = address!.bindMemory(to: UInt32.self, capacity: FaultPoint.places)
    }

    deinit { munmap(numbers, size) }

    /// Whoever comes by as the Nth is killed, and with nil whoever comes by, until told otherwise (0: nobody).
    func kill(at point: FaultPoint, passing count: UInt32? = 1) { numbers[point.place] = count ?? .max }
}
