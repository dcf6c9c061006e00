import Control
import Foundation
import Glibc
import Storage

/// A file that appears under its name only when it is whole and on disk.
final class NewFile {
    let path: String
    private(set) var size = 0
    private let partial: String
    private let descriptor: Int32

    /// Throws `pathConflict` when there is something at `path`.
    init(_ path: String) throws(RemfsError) {
        self.path = path
        partial = "\(path).partial-\(getpid())"
        guard unsafe faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0 else { throw RemfsError(.pathConflict, "\(path) exists") }
        descriptor = unsafe open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("\(path) cannot be made") }
    }

    func append(_ data: Data) throws(RemfsError) {
        var rest = data
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
            guard count >= 0 || errno == EINTR else { throw RemfsError.ofSystem("\(path) cannot be written") }
            rest = rest.dropFirst(max(count, 0))
        }
        size += data.count
    }

    func finish() throws(RemfsError) {
        guard fsync(descriptor) == 0 else { throw RemfsError.ofSystem("\(path) cannot be written") }
        // link(2) refuses what exists by now, where rename(2) would replace it.
        guard unsafe link(partial, path) == 0 else {
            if errno == EEXIST { throw RemfsError(.pathConflict, "\(path) exists") }
            throw RemfsError.ofSystem("\(path) cannot be made")
        }
    }

    deinit {
        close(descriptor)
        unsafe unlink(partial)
    }
}

extension NewFile {
    /// What `--json` says of a store that was copied into one.
    struct Report: Encodable {
        let memoryStoreID: String
        let file: String
        let sizeInBytes: Int

        private enum CodingKeys: String, CodingKey {
            case file
            case memoryStoreID = "memory_store_id"
            case sizeInBytes = "size_bytes"
        }
    }
}
