import Glibc

/// An errno for the kernel: the only error that leaves a `FuseFilesystem`.
package struct FuseErrno: Error, Equatable, Sendable {
    package let code: Int32
    package init(_ code: Int32) { self.code = code }
}

/// What the kernel calls an inode within one connection. 1 is the root.
package typealias NodeID = UInt64

/// How long the kernel may keep what it was told. remfs tells it of each change, so mostly for ever.
package enum FuseLifetime: Sendable {
    case none
    case forever

    /// In seconds, as libfuse wants it. The kernel clamps what it cannot hold.
    package var seconds: Double { self == .forever ? 1e9 : 0 }
}

/// What `stat` shows of an inode. Times are nanoseconds since 1970, signed.
package struct FuseAttributes: Equatable, Sendable {
    package var node: NodeID
    /// Type and permission bits, as in `st_mode`.
    package var mode: UInt32
    package var links: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var rdev: UInt64
    package var sizeInBytes: Int64
    /// Of 512 bytes each, as in `st_blocks`.
    package var blocks: Int64
    package var accessed: Int64
    package var modified: Int64
    package var changed: Int64

    package init(
        node: NodeID, mode: UInt32, links: UInt32, uid: UInt32, gid: UInt32, rdev: UInt64 = 0, sizeInBytes: Int64 = 0, blocks: Int64 = 0,
        accessed: Int64 = 0, modified: Int64 = 0, changed: Int64 = 0
    ) {
        self.node = node
        self.mode = mode
        self.links = links
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.sizeInBytes = sizeInBytes
        self.blocks = blocks
        self.accessed = accessed
        self.modified = modified
        self.changed = changed
    }
}

/// The reply to a lookup: an inode, what it looks like and for how long. `node` 0 is a name that does not exist, cached as such.
package struct FuseEntry: Equatable, Sendable {
    package var attributes: FuseAttributes
    package var nameLifetime: FuseLifetime
    package var attributesLifetime: FuseLifetime

    package init(_ attributes: FuseAttributes, nameLifetime: FuseLifetime = .forever, attributesLifetime: FuseLifetime = .forever) {
        self.attributes = attributes
        self.nameLifetime = nameLifetime
        self.attributesLifetime = attributesLifetime
    }

    /// A name that the kernel may remember as missing until it is told otherwise.
    package static let missing = FuseEntry(FuseAttributes(node: 0, mode: 0, links: 0, uid: 0, gid: 0))
}

/// One name from the kernel: bytes without `/` or NUL, not necessarily UTF-8. Valid during the call that received it only.
@unsafe package struct FuseName {
    package let bytes: UnsafeRawBufferPointer

    /// - Parameter bytes: must stay readable for as long as this value is used.
    package init(_ bytes: UnsafeRawBufferPointer) {
        unsafe self.bytes = bytes
    }
}

/// Which fields a `setattr` changes. A nil field stays.
package struct FuseAttributeChange: Sendable {
    package enum Time: Sendable, Equatable {
        case now
        /// Nanoseconds since 1970.
        case at(Int64)
    }
    /// Permission bits (the type bits are to be ignored).
    package var mode: UInt32?
    package var uid: UInt32?
    package var gid: UInt32?
    package var sizeInBytes: Int64?
    package var accessed: Time?
    package var modified: Time?
    /// Set where the kernel asks for setuid and setgid bits to go together with the change.
    package var clearsPrivileges = false

    package init() {}
}

/// Who asks, and the number by which the kernel knows the request (`unique`, with bit 63 where it was sent again).
package struct FuseContext: Sendable {
    /// The request's number on its connection. The kernel never repeats one but for a request that it sends again (`isResent`).
    package var unique: UInt64
    /// The kernel sends it again after a take-over: a predecessor has read it, and may have done it, but not answered it.
    package var isResent: Bool
    /// Which of the threads that serve asks, from 0; nil: the one that takes over, before the others begin. A thread has answered one
    /// request before it brings the next, but for those with a `FuseReply`.
    package var worker: Int?
    package var uid: UInt32
    package var gid: UInt32
    /// In the daemon's pid namespace; 0 where the kernel names no process (write-back of a mapping).
    package var pid: Int32
    package var umask: UInt32

    package init(
        unique: UInt64, isResent: Bool = false, worker: Int? = 0, uid: UInt32, gid: UInt32, pid: Int32, umask: UInt32
    ) {
        self.unique = unique
        self.isResent = isResent
        self.worker = worker
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.umask = umask
    }
}

/// What a write says of itself besides its bytes.
package struct FuseWriteFlags: Sendable {
    /// The descriptor was opened with O_APPEND: the offset is the kernel's belief of the end, not the end.
    package var append = false
    /// The bytes come from the page cache (a shared mapping); uid and pid are not those of a caller.
    package var fromPageCache = false

    package init() {}
}

package struct FuseRenameFlags: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let noReplace = FuseRenameFlags(rawValue: 1)
    package static let exchange = FuseRenameFlags(rawValue: 2)
    package static let whiteout = FuseRenameFlags(rawValue: 4)
}

/// What `statfs` shows, in blocks of `blockSize` bytes.
package struct FuseStatistics: Sendable {
    package var blockSize: UInt32
    package var blocks: UInt64
    package var freeBlocks: UInt64
    package var files: UInt64
    package var freeFiles: UInt64
    package var maximumNameLength: UInt32

    package init(blockSize: UInt32, blocks: UInt64, freeBlocks: UInt64, files: UInt64, freeFiles: UInt64, maximumNameLength: UInt32) {
        self.blockSize = blockSize
        self.blocks = blocks
        self.freeBlocks = freeBlocks
        self.files = files
        self.freeFiles = freeFiles
        self.maximumNameLength = maximumNameLength
    }
}

/// A byte-range lock as the kernel passes it. `end` is inclusive; `Int64.max` is the end of the file.
package struct FuseLock: Equatable, Sendable {
    package enum Kind: Sendable { case read, write, unlock }
    package var kind: Kind
    package var start: Int64
    package var end: Int64
    /// The holder's pid, for F_GETLK's answer.
    package var pid: Int32

    package init(kind: Kind, start: Int64, end: Int64, pid: Int32) {
        self.kind = kind
        self.start = start
        self.end = end
        self.pid = pid
    }
}

/// The operations. `rawValue` is the place in `allCases`.
package enum FuseOperation: Int, CaseIterable, Sendable {
    case lookup, forget, getattr, setattr, readlink, mknod, mkdir, unlink, rmdir, symlink, rename, link, open, read, write, statfs,
        release, fsync, setxattr, getxattr, listxattr, removexattr, flush, initialize, opendir, readdir, readdirplus, releasedir, fsyncdir,
        getlk, setlk, flock, create, interrupt, fallocate, lseek, copyFileRange, other

    /// By which metrics and budgets call it.
    package var name: String { "\(self)" }
}
