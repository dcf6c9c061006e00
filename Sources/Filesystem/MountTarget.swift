import Glibc
import Storage

/// What may be mounted on: an empty directory of the caller's, reached without any symbolic link.
enum MountTarget {
    /// - Returns: a descriptor of it, the caller's to close: a path may lead elsewhere by the time something is mounted there.
    static func open(_ path: String, owner: UInt32) throws(RemfsError) -> Int32 {
        guard path.utf8.first == UInt8(ascii: "/"), path != "/" else {
            throw RemfsError(.invalidArgument, "a mountpoint is an absolute path, not \"\(path)\"")
        }
        var directory = unsafe Glibc.open("/", directoryFlags)
        guard directory >= 0 else { throw RemfsError.ofSystem("cannot open /") }
        var isGood = false
        defer { if !isGood { close(directory) } }
        // In bytes: a String may hold a slash and what follows it for one character, and two segments would be opened as one.
        for segment in path.utf8.split(separator: UInt8(ascii: "/")).map({ Substring($0) }) {
            guard segment != ".", segment != ".." else { throw RemfsError(.invalidArgument, "\(path) holds . or ..") }
            // O_NOFOLLOW with O_DIRECTORY: a link is ENOTDIR.
            let next = unsafe openat(directory, String(segment), directoryFlags)
            guard next >= 0 else { throw RemfsError.ofSystem("cannot mount on \(path)") }
            close(directory)
            directory = next
        }
        var status = stat()
        guard unsafe fstat(directory, &status) == 0 else { throw RemfsError.ofSystem("cannot mount on \(path)") }
        guard owner == 0 || status.st_uid == owner else {
            throw RemfsError(.notPermitted, "\(path) belongs to another user")
        }
        try requireEmpty(directory, path)
        isGood = true
        return directory
    }

    /// Without doubled and trailing slashes, as the kernel shows it.
    static func plain(_ path: String) -> [UInt8] {
        path.utf8.split(separator: UInt8(ascii: "/")).flatMap { [UInt8(ascii: "/")] + Array($0) }
    }

    private static let directoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC

    private static func requireEmpty(_ directory: Int32, _ path: String) throws(RemfsError) {
        let own = unsafe openat(directory, ".", directoryFlags)
        guard own >= 0, let handle = unsafe fdopendir(own) else { throw RemfsError.ofSystem("cannot read \(path)") }
        defer { unsafe closedir(handle) }
        while let entry = unsafe readdir(handle) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) {
                unsafe String(cString: $0.bindMemory(to: CChar.self).baseAddress!)
            }
            if name != ".", name != ".." { throw RemfsError(.notEmpty, "\(path) is not empty") }
        }
    }
}
