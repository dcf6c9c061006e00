import Glibc

/// A system call that failed, by the names of `swift-system`.
package struct Errno: Error, Equatable, CustomStringConvertible {
    package let code: Int32
    package init(_ code: Int32) { self.code = code }

    package var description: String { "errno \(code): \(String(cString: strerror(code)))" }

    package static let noSuchFile = Errno(ENOENT)
    package static let fileExists = Errno(EEXIST)
    package static let readOnlyFileSystem = Errno(EROFS)
    package static let stale = Errno(ESTALE)
    package static let nameTooLong = Errno(ENAMETOOLONG)
    package static let illegalByteSequence = Errno(EILSEQ)
    package static let invalidArgument = Errno(EINVAL)
    package static let tooManySymbolicLinks = Errno(ELOOP)
    package static let fileTooLarge = Errno(EFBIG)
    package static let noSpace = Errno(ENOSPC)
    package static let diskQuotaExceeded = Errno(EDQUOT)
    package static let notSupported = Errno(ENOTSUP)
    package static let notPermitted = Errno(EPERM)
    package static let notADirectory = Errno(ENOTDIR)
    package static let isADirectory = Errno(EISDIR)
    package static let notEmpty = Errno(ENOTEMPTY)
    package static let noSuchAddress = Errno(ENXIO)
    package static let wouldBlock = Errno(EWOULDBLOCK)
    package static let noData = Errno(ENODATA)
}

/// Throws errno where a call returned -1.
@discardableResult
package func check<Number: FixedWidthInteger>(_ result: Number) throws -> Number {
    guard result != -1 else { throw Errno(errno) }
    return result
}

/// Calls that glibc has and its Swift module hides, and numbers of Linux's headers.
package enum Linux {
    package static let seekData: Int32 = 3
    package static let seekHole: Int32 = 4
    package static let keepSize: Int32 = 0x01
    package static let punchHole: Int32 = 0x02
    package static let zeroRange: Int32 = 0x10
    package static let noReplace: UInt32 = 1
    package static let exchange: UInt32 = 2

    private static func symbol<Function>(_ name: String, _ type: Function.Type) -> Function {
        // In glibc since 2.36 or earlier.
        unsafeBitCast(dlsym(nil, name)!, to: type)
    }

    private typealias OneNumber = @convention(c) (Int32) -> Int32
    private typealias Range = @convention(c) (UInt32, UInt32, Int32) -> Int32
    private typealias Allocation = @convention(c) (Int32, Int32, Int64, Int64) -> Int32
    private typealias Renaming = @convention(c) (Int32, UnsafePointer<CChar>, Int32, UnsafePointer<CChar>, UInt32) -> Int32
    private typealias Copying =
        @convention(c) (Int32, UnsafeMutablePointer<Int64>?, Int32, UnsafeMutablePointer<Int64>?, Int, UInt32) -> Int
    private typealias ProcessFile = @convention(c) (pid_t, UInt32) -> Int32

    private typealias SettingAttribute =
        @convention(c) (
            UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeRawPointer, Int, Int32
        ) -> Int32
    private typealias GettingAttribute =
        @convention(c) (
            UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeMutableRawPointer, Int
        ) -> Int
    private typealias RemovingAttribute = @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>) -> Int32

    private static let setAttributeCall = symbol("setxattr", SettingAttribute.self)
    private static let getAttributeCall = symbol("getxattr", GettingAttribute.self)
    private static let removeAttributeCall = symbol("removexattr", RemovingAttribute.self)
    private static let unshareCall = symbol("unshare", OneNumber.self)
    private static let closeRangeCall = symbol("close_range", Range.self)
    private static let fallocateCall = symbol("fallocate", Allocation.self)
    private static let renameCall = symbol("renameat2", Renaming.self)
    private static let copyCall = symbol("copy_file_range", Copying.self)
    private static let pidfdCall = symbol("pidfd_open", ProcessFile.self)

    /// Gives the calling thread descriptors and a working directory of its own, without any of the process's files.
    static func leaveSharedFiles() throws {
        let files: Int32 = 0x400
        let directories: Int32 = 0x200
        try check(unshareCall(files | directories))
        try check(closeRangeCall(3, .max, 0))
    }

    package static func allocate(_ file: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) throws {
        try check(fallocateCall(file, mode, offset, length))
    }

    package static func rename(_ from: String, _ to: String, _ flags: UInt32) throws {
        try check(renameCall(AT_FDCWD, from, AT_FDCWD, to, flags))
    }

    package static func copyRange(_ from: Int32, _ to: Int32, _ count: Int) throws -> Int {
        try check(copyCall(from, nil, to, nil, count, 0))
    }

    package enum AttributeRule: Int32 { case set, create, replace }

    package static func setAttribute(_ name: String, of path: String, to value: String, _ rule: AttributeRule = .set) throws {
        try check(setAttributeCall(path, name, value, value.utf8.count, rule.rawValue))
    }

    package static func attribute(_ name: String, of path: String) throws -> String {
        var buffer = [UInt8](repeating: 0, count: 256)
        let count = try check(getAttributeCall(path, name, &buffer, buffer.count))
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    package static func removeAttribute(_ name: String, of path: String) throws { try check(removeAttributeCall(path, name)) }

    /// A descriptor that becomes readable when the process ends.
    static func open(process: pid_t) throws -> Int32 { try check(pidfdCall(process, 0)) }
}
