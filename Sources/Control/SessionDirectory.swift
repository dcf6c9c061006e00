import Foundation
import Glibc
import Logging
import Storage

/// The directory of one session's mounts: a place for each store, there only while the store is mounted.
///
/// It is one user's, so that others of this machine do not come in. While something is being mounted in it it is the daemon's: whoever may
/// rename in it could make a place lead elsewhere between its check and the mount.
struct SessionDirectory {
    private let path: String

    /// The directory of all sessions, which everybody may pass through.
    static func makeRoot(_ root: String) throws(RemfsError) {
        try Directory.make(root, mode: 0o711)
    }

    /// Makes it, or takes it back for as long as something is mounted in it.
    static func make(_ path: String) throws(RemfsError) -> SessionDirectory {
        if try !Directory.make(path, mode: 0o700), geteuid() == 0 {
            guard unsafe lchown(path, 0, 0) == 0 else { throw RemfsError.ofSystem("\(path) cannot be taken") }
        }
        guard unsafe chmod(path, 0o700) == 0 else { throw RemfsError.ofSystem("\(path) cannot be taken") }
        return SessionDirectory(path: path)
    }

    /// Makes the place of a store, or takes one that is left. A link that somebody has put there is no directory, and refused.
    static func makePlace(_ path: String) throws(RemfsError) {
        guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else { throw RemfsError.ofSystem("\(path) cannot be made") }
    }

    /// Lets its user in.
    func open(to owner: UInt32, _ logger: Logger) {
        guard geteuid() == 0, owner != 0, unsafe lchown(path, owner, UInt32.max) != 0 else { return }
        logger.error("a session's user cannot come in", metadata: ["directory": "\(path)", "errno": "\(errno)"])
    }

    /// Takes it away with the places in it, which are empty; what is mounted or not empty stays.
    static func remove(_ path: String, _ logger: Logger) {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: path) } catch CocoaError.fileReadNoSuchFile {
            return
        } catch {
            return logger.warning("cannot look into a session's directory", metadata: ["directory": "\(path)", "error": "\(error)"])
        }
        for name in names { unsafe rmdir("\(path)/\(name)") }
        guard unsafe rmdir(path) != 0, errno != ENOENT else { return }
        logger.warning("a session's directory stays", metadata: ["directory": "\(path)", "errno": "\(errno)"])
    }

    /// Takes away those of sessions that are over.
    static func sweep(_ root: String, unless isLive: (SessionID) -> Bool, _ logger: Logger) {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: root) } catch {
            return logger.warning("cannot look into the sessions' directory", metadata: ["directory": "\(root)", "error": "\(error)"])
        }
        for name in names {
            guard let id = SessionID(name), !isLive(id) else { continue }
            remove("\(root)/\(name)", logger)
        }
    }
}
