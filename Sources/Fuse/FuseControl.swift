internal import Glibc

/// The kernel's own list of FUSE connections (fusectl), by the minor number of each mount's device.
enum FuseControl {
    static let directory = "/sys/fs/fuse/connections"

    /// Ends a connection: every waiting caller gets ECONNABORTED.
    ///
    /// - Returns: an errno.
    static func abort(_ number: UInt32) -> Int32 {
        let file = "\(directory)/\(number)/abort"
        let first = write("1", to: file)
        guard first == ENOENT, geteuid() == 0, mountIfMissing() else { return first }
        return write("1", to: file)
    }

    /// How many requests of a connection wait or are being answered; nil if fusectl does not tell.
    static func waiting(_ number: UInt32) -> Int? {
        guard let bytes = read("\(directory)/\(number)/waiting") else { return nil }
        return Int(String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self))
    }

    /// Whole content of a file of /proc or /sys, which have no size; nil if it cannot be read.
    static func read(_ file: String) -> [UInt8]? {
        let descriptor = unsafe open(file, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe Glibc.read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { return nil }
            guard count > 0 else { return content }
            content.append(contentsOf: buffer[..<count])
        }
    }

    private static func write(_ text: String, to file: String) -> Int32 {
        let descriptor = unsafe open(file, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        return unsafe Glibc.write(descriptor, text, text.utf8.count) < 0 ? errno : 0
    }

    /// Containers and small systems often leave fusectl unmounted; its directory is then empty.
    private static func mountIfMissing() -> Bool {
        guard let list = unsafe opendir(directory) else { return false }
        defer { unsafe closedir(list) }
        while let entry = unsafe readdir(list) {
            if unsafe entry.pointee.d_name.0 != CChar(UInt8(ascii: ".")) { return false }
        }
        return unsafe mount("fusectl", directory, "fusectl", UInt(MS_NOSUID | MS_NODEV | MS_NOEXEC), nil) == 0
    }
}
