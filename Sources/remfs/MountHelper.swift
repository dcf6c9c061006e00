import Storage

/// `mount -t fuse.remfs STORE DIR` and lines of `/etc/fstab`: mount(8) runs this program as `mount.fuse.remfs` with the store, the
/// directory and a list of options. The rest is what `remfs mount` does.
enum MountHelper {
    static let name = "mount.fuse.remfs"

    /// What mount(8) expects of a helper that failed.
    static let usageExit: Int32 = 1
    static let failureExit: Int32 = 32

    /// What is mount(8)'s own business, or always so here.
    private static let ignored: Set<String> = [
        "defaults", "rw", "exec", "nosuid", "nodev", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
        "async", "relatime", "default_permissions",
    ]
    private static let flags = [
        "ro": "--read-only", "noexec": "--noexec", "xattr": "--xattr", "nohistory": "--no-history", "allow_other": "--allow-other",
    ]
    private static let values = [
        "uid": "--uid", "gid": "--gid", "umask": "--umask", "coherence": "--coherence", "on_stale_write": "--on-stale-write",
        "socket": "--socket", "at": "--at",
    ]

    /// The arguments of `remfs` that mean the same; nil: mount(8) only asks whether it would work (`-f`).
    ///
    /// - Throws: `invalidArgument` for an option that is not known, unless they are to be passed over (`-s`).
    static func arguments(_ given: some Collection<String>) throws(RemfsError) -> [String]? {
        var places: [String] = []
        var options: [Substring] = []
        var isSloppy = false
        var isFake = false
        var rest = Array(given)
        while !rest.isEmpty {
            let argument = rest.removeFirst()
            switch argument {
            case "-o", "-t", "-N":
                guard !rest.isEmpty else { throw RemfsError(.invalidArgument, "\(argument) wants a value") }
                let value = rest.removeFirst()
                if argument == "-o" { options += value.split(separator: ",") }
            case _ where argument.hasPrefix("-") && argument.count > 1:
                isSloppy = isSloppy || argument.contains("s")
                isFake = isFake || argument.contains("f")
            default: places.append(argument)
            }
        }
        guard places.count == 2 else { throw RemfsError(.invalidArgument, "usage: \(name) STORE DIRECTORY [-o OPTIONS]") }
        var arguments = ["mount"]
        for option in options {
            let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
            let key = parts[0]
            if let flag = flags[key], parts.count == 1 {
                arguments.append(flag)
            } else if let flag = values[key], parts.count == 2 {
                arguments += [flag, parts[1]]
            } else if !isSloppy, !ignored.contains(key), !key.hasPrefix("x-"), key != "comment" {
                throw RemfsError(.invalidArgument, "mount option \"\(option)\" is not known")
            }
        }
        return isFake ? nil : arguments + ["--"] + places
    }
}
