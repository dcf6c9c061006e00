import Glibc
package import Logging
import Storage

/// How many descriptors this process may have (RLIMIT_NOFILE), and what it takes to serve mounts. What does not fit is refused before it
/// begins: in the middle of a request the lack of one would be somebody's failed write.
///
/// Safe from any thread.
package enum DescriptorLimit {
    /// A mount and its store, in use: the connection and what a successor is told of it; the database and its journal for the one that
    /// writes, for checkpoints and for each that reads, and the journal once more.
    static let perMount = 12
    /// What is kept free for requests: connections to the socket, files whose closing is heard of, directories that are looked through.
    static let reserve = 64
    /// Of a daemon without mounts.
    private static let base = 32

    /// How many descriptors a daemon takes with so many mounts.
    static func needed(for mounts: Int) -> Int { base + reserve + perMount * mounts }

    /// The soft limit.
    package static var current: Int {
        var limit = rlimit()
        // Fails for a wrong argument only.
        guard unsafe getrlimit(resource, &limit) == 0 else { return .max }
        return Int(clamping: limit.rlim_cur)
    }

    private static let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)

    /// How many descriptors this process has.
    static var inUse: Int {
        var status = stat()
        // Linux 6.2 and later say it so.
        if unsafe stat("/proc/self/fd", &status) == 0, status.st_size > 0 { return Int(status.st_size) }
        guard let directory = unsafe opendir("/proc/self/fd") else { return 0 }  // then opening says what is wrong
        defer { unsafe closedir(directory) }
        var count = -3  // itself, and two names that are none
        while unsafe readdir(directory) != nil { count += 1 }
        return max(count, 0)
    }

    /// Raises the soft limit to the hard one, and says so where that is less than a daemon may need, or than its mounts do.
    ///
    /// - Parameters:
    ///   - mounts: how many there are to go on with.
    ///   - isFirst: false: another process of this daemon has spoken already of what is no error.
    package static func raise(for mounts: Int, isFirst: Bool, _ logger: Logger) {
        var limit = rlimit()
        guard unsafe getrlimit(resource, &limit) == 0 else { return }  // as for `current`
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max
            if unsafe setrlimit(resource, &limit) != 0 { logger.warning("descriptor limit not raised", metadata: ["code": "\(errno)"]) }
        }
        if needed(for: mounts) > current {
            logger.error(
                "too few file descriptors for the mounts there are",
                metadata: [
                    "limit": "\(current)", "needed": "\(needed(for: mounts))", "mounts": "\(mounts)",
                    "advice": "\(RemfsError.moreDescriptors)",
                ])
        } else if isFirst, needed(for: usual) > current {
            logger.warning(
                "few file descriptors",
                metadata: [
                    "limit": "\(current)", "mounts": "\(max(0, (current - needed(for: 0)) / perMount))",
                    "advice": "\(RemfsError.moreDescriptors)",
                ])
        }
    }

    /// As many mounts as one daemon is made for.
    private static let usual = 1_000

    /// Whether another connection leaves enough for requests and for the mounts that are.
    package static var hasRoomForConnection: Bool { inUse + reserve / 2 < current }

    /// - Throws: `unavailable` where another mount would leave too few descriptors for requests.
    static func requireRoomForMount() throws(RemfsError) {
        let (limit, inUse) = (current, inUse)
        guard inUse + perMount + reserve > limit else { return }
        throw RemfsError(
            .unavailable,
            """
            no file descriptors left for another mount: the limit (RLIMIT_NOFILE) is \(limit), \(inUse) are open, and a mount needs \
            up to \(perMount) besides \(reserve) for requests; \(RemfsError.moreDescriptors)
            """)
    }
}
