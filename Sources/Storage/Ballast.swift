import Glibc
import Threads

/// Room that is kept for the catalog: on a full disk a store could not be deleted otherwise, since the row that goes has to be written.
final class Ballast: Sendable {
    private let path: String
    private let isThere = Mutex(false)

    /// 256 KiB: a deletion writes some ten pages of the catalog, to its journal and then to itself.
    private static let size: off_t = 256 << 10

    init(path: String) {
        self.path = path
        renew()
    }

    /// Puts the room aside, unless it is there. On a disk that is full it is left for later.
    func renew() {
        isThere.withLock { isThere in
            guard !isThere else { return }
            let file = unsafe open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
            guard file >= 0 else { return }
            defer { close(file) }
            isThere = posix_fallocate(file, 0, Self.size) == 0
            // Part of it is of no use to us.
            if !isThere { _ = unsafe unlink(path) }
        }
    }

    /// Gives the room to whoever writes next: the caller, who holds up nobody in between.
    func release() {
        isThere.withLock { isThere in
            // Where it cannot be removed there is no more room than before, which the caller will hear.
            _ = unsafe unlink(path)
            isThere = false
        }
    }
}
