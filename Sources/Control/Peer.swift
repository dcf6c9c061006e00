import Foundation
import Glibc
import NIOCore
package import Storage

/// The process at the other end of a Unix socket, as the kernel names it (SO_PEERCRED).
package struct Peer: Sendable, Hashable {
    package let uid: UInt32
    package let gid: UInt32
    /// Zero when the process lives in a PID namespace that is no descendant of ours.
    package let processID: Int32

    package var pid: Int32? { processID > 0 ? processID : nil }

    /// `comm` of the process, if it still runs.
    package var command: String? {
        guard let pid else { return nil }
        // `try?`: the process may be gone, and then its name is not known.
        let text = try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)
        return text?.trimmingCharacters(in: .newlines)
    }

    /// `struct ucred` of the kernel, which glibc hides from Swift.
    private struct Credentials: Sendable {
        var pid: Int32 = 0
        var uid: UInt32 = 0
        var gid: UInt32 = 0
    }

    /// Of a Unix socket's connection; nil: it has gone.
    static func of(_ channel: any Channel) -> EventLoopFuture<Peer?> {
        guard let options = channel as? any SocketOptionProvider else { return channel.eventLoop.makeSucceededFuture(nil) }
        let option: EventLoopFuture<Credentials> = options.unsafeGetSocketOption(
            level: SocketOptionLevel(SOL_SOCKET), name: SocketOptionName(SO_PEERCRED))
        return option.map { Peer(uid: $0.uid, gid: $0.gid, processID: $0.pid) }.recover { _ in nil }
    }
}

/// Names and memberships, from NSS. Blocks.
package enum UserDatabase {
    /// Throws where the database cannot be asked, such as for want of a descriptor: that is no "no".
    package static func isMember(_ uid: UInt32, of group: UInt32) throws(RemfsError) -> Bool {
        var record = unsafe passwd()
        var found: UnsafeMutablePointer<passwd>?
        // The record points into the buffer, which therefore has to stay where it is until the groups are read.
        let buffer = UnsafeMutableBufferPointer<CChar>.allocate(capacity: 16 << 10)
        defer { unsafe buffer.deallocate() }
        let code = unsafe getpwuid_r(uid, &record, buffer.baseAddress!, buffer.count, &found)
        // That an unknown user has no entry some databases say in these words.
        guard [0, ENOENT, ESRCH, EBADF, EPERM].contains(code) else {
            throw RemfsError(.unavailable, "the groups of user \(uid) cannot be read", cause: "errno \(code)")
        }
        guard unsafe found != nil else { return false }
        var groups = [gid_t](repeating: 0, count: 1_024)
        var count = Int32(groups.count)
        guard let name = unsafe record.pw_name, unsafe getgrouplist(name, record.pw_gid, &groups, &count) >= 0 else { return false }
        return groups.prefix(Int(count)).contains(group)
    }

    /// A user's number from its name, or from digits.
    package static func user(_ name: String) -> UInt32? {
        if let number = UInt32(name) { return number }
        return unsafe getpwnam(name).map { unsafe $0.pointee.pw_uid }
    }

    /// A group's number from its name, or from digits.
    package static func group(_ name: String) -> UInt32? {
        if let number = UInt32(name) { return number }
        return unsafe getgrnam(name).map { unsafe $0.pointee.gr_gid }
    }
}
