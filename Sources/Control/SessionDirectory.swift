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

    static func isThere(_ path: String) throws(RemfsError) -> Bool {
        if unsafe access(path, F_OK) == 0 { return true }
        guard errno == ENOENT else { throw RemfsError.ofSystem("\(path) cannot be examined") }
        return false
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

    /// Lets its user in. Nothing is to be written beside the stores, where nobody would keep it.
    func open(to owner: UInt32, _ logger: Logger) {
        let isReadOnly = unsafe chmod(path, 0o500) == 0
        let isOthers = geteuid() == 0 && owner != 0
        let isGiven = unsafe !isOthers || lchown(path, owner, UInt32.max) == 0
        guard !isReadOnly || !isGiven else { return }
        logger.error("a session's user cannot come in", metadata: ["directory": "\(path)", "errno": "\(errno)"])
    }

    /// Takes away the empty places in all of them.
    static func removePlaces(_ root: String, _ logger: Logger) {
        do {
            for session in try FileManager.default.contentsOfDirectory(atPath: root) {
                let path = "\(root)/\(session)"
                if geteuid() != 0 { unsafe chmod(path, 0o700) }
                for name in try FileManager.default.contentsOfDirectory(atPath: path) { unsafe rmdir("\(path)/\(name)") }
            }
        } catch {
            logger.warning("cannot clear the sessions' directories", metadata: ["directory": "\(root)", "error": "\(error)"])
        }
    }

    /// What somebody wrote into a place while nothing was mounted there keeps its own directory, and the place is free.
    static func moveAside(_ path: String, _ logger: Logger) {
        guard unsafe rmdir(path) != 0, errno == ENOTEMPTY else { return }
        let aside = "\(path).lost-\(UInt64(Date().timeIntervalSince1970))"
        let code = unsafe rename(path, aside) == 0 ? 0 : errno
        logger.error(
            "something was written where a session's store was not mounted: it is in no store",
            metadata: ["directory": "\(aside)", "errno": "\(code)"])
    }

    /// Takes it away with the places in it, which are empty; what is mounted or not empty stays.
    static func remove(_ path: String, _ logger: Logger) {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: path) } catch CocoaError.fileReadNoSuchFile {
            return
        } catch {
            return logger.warning("cannot look into a session's directory", metadata: ["directory": "\(path)", "error": "\(error)"])
        }
        // It may be without the right to be written in.
        if geteuid() != 0 { unsafe chmod(path, 0o700) }
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
