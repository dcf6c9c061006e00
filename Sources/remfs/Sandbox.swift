import Foundation
import Glibc
import Storage

/// Where a command of an agent runs: the machine's programs to read, its session's stores at `/mnt/memory`, and nothing else that was not
/// asked for. A bubblewrap sandbox, as an ordinary user without any capability.
struct Sandbox {
    /// Who the command runs as.
    let user: (uid: UInt32, gid: UInt32)
    /// What becomes `/mnt/memory`.
    var memory: String
    /// Directories of the machine that are there as well, in their own places.
    var writable: [String] = []
    var readable: [String] = []
    /// The daemon's own directories: also in one that was asked for they are not there to be seen.
    var ours: [String] = []
    var hasNetwork = false
    var directory = Attachment.root

    /// What every program needs of a machine. `/etc` as the user may read it.
    private static let system = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"]
    static let home = "/home/agent"
    /// Of ours, and those that lead out of the sandbox.
    private static let hidden = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "TMPDIR"]

    /// The user of whoever calls; root is not to run an agent as root, so it is who called sudo, or nobody.
    static func usualUser(_ environment: [String: String]) -> (uid: UInt32, gid: UInt32) {
        guard geteuid() == 0 else { return (geteuid(), getegid()) }
        let ids = ["SUDO_UID", "SUDO_GID"].compactMap { environment[$0].flatMap { UInt32($0) } }
        return ids.count == 2 && ids[0] != 0 ? (ids[0], ids[1]) : (65_534, 65_534)
    }

    /// The command line that runs `command` in the sandbox.
    func command(_ command: [String]) throws(RemfsError) -> [String] {
        var words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        // Whoever has privileges drops them first, so that what root may read is not there to be read.
        if geteuid() == 0 {
            words = ["setpriv", "--reuid", "\(user.uid)", "--regid", "\(user.gid)", "--clear-groups", "--inh-caps=-all", "--"] + words
        }
        if hasNetwork { words += ["--share-net", "--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"] }
        for name in Self.system {
            let path = "/\(name)"
            // On most systems /bin and /lib are links into /usr.
            if let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path) {  // thrown where it is no link
                words += ["--symlink", target, path]
            } else {
                words += ["--ro-bind-try", path, path]
            }
        }
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", Self.home]
        for path in readable { words += ["--ro-bind", path, path] }
        for path in writable { words += ["--bind", path, path] }
        // Last, so that nothing hides it.
        for path in ours where (readable + writable).contains(where: { path == $0 || path.hasPrefix($0 == "/" ? $0 : $0 + "/") }) {
            words += ["--tmpfs", path]
        }
        // What were written beside the stores would be nobody's memory.
        words += ["--bind", memory, Attachment.root, "--remount-ro", Attachment.root, "--chdir", directory, "--"]
        return words + command
    }

    /// The caller's, without what leads to the daemon or out of the sandbox.
    func environment(_ own: [String: String], session: String) -> [String: String] {
        var environment = own.filter { !$0.key.hasPrefix("REMFS_") && !Self.hidden.contains($0.key) }
        environment["HOME"] = Self.home
        environment["REMFS_SESSION"] = session
        return environment
    }
}
