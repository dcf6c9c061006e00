import Glibc

/// The only error that leaves `Storage`, `Filesystem` or `Control`: a code, a message that names the thing, an optional cause.
package struct RemfsError: Error, Sendable, CustomStringConvertible {
    package let code: Code
    /// One sentence without a full stop that names the thing (`store "team-notes"`, `/plans/q3.md`).
    package let message: String
    /// What lay below: a SQLite message, an errno. For logs; never shown to a client.
    package let cause: String?
    /// The memory in the way, for `pathConflict`.
    package let conflict: Conflict?

    package struct Conflict: Sendable, Equatable {
        package let memory: MemoryID
        package let path: String
        package init(memory: MemoryID, path: String) {
            self.memory = memory
            self.path = path
        }
    }

    package init(_ code: Code, _ message: String, cause: String? = nil, conflict: Conflict? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
        self.conflict = conflict
    }

    package var description: String { cause.map { "\(code.rawValue): \(message) (\($0))" } ?? "\(code.rawValue): \(message)" }

    package enum Code: String, CaseIterable, Sendable {
        case invalidArgument = "invalid_argument"
        case nameNotUTF8 = "name_not_utf8"
        case nameTooLong = "name_too_long"
        case notFound = "not_found"
        case pathConflict = "path_conflict"
        case notADirectory = "not_a_directory"
        case isADirectory = "is_a_directory"
        case notEmpty = "not_empty"
        case preconditionFailed = "precondition_failed"
        /// A write over what its author's mount has not seen, where the mount refuses those.
        case stale
        /// What the caller got hold of while it was there, and which no name leads to any more.
        case gone
        case busy
        case readOnly = "read_only"
        case notPermitted = "not_permitted"
        case unauthenticated
        case tooLarge = "too_large"
        /// A policy: a secret that was not there before.
        case holdsSecret = "holds_secret"
        case bodyTooLarge = "body_too_large"
        /// A policy: the count of memories.
        case storeFull = "store_full"
        /// A policy: the store's bytes.
        case quota
        /// The disk.
        case noSpace = "no_space"
        case tooManyLinks = "too_many_links"
        case unsupported
        case unavailable
        case corrupted
        case `internal`

        /// How each audience sees it: the kernel, an HTTP client, a shell (sysexits(3)). No `default`: a new code asks for its row.
        package var seenAs: (errno: Int32, status: Int, type: String, exit: Int32) {
            switch self {
            case .invalidArgument: (EINVAL, 400, "invalid_request_error", 65)
            case .nameNotUTF8: (EILSEQ, 400, "invalid_request_error", 65)
            case .nameTooLong: (ENAMETOOLONG, 400, "invalid_request_error", 65)
            case .notFound: (ENOENT, 404, "not_found_error", 66)
            case .pathConflict: (EEXIST, 409, "memory_path_conflict_error", 73)
            case .notADirectory: (ENOTDIR, 409, "memory_path_conflict_error", 65)
            case .isADirectory: (EISDIR, 409, "memory_path_conflict_error", 65)
            case .notEmpty: (ENOTEMPTY, 409, "memory_path_conflict_error", 65)
            case .preconditionFailed, .stale: (ESTALE, 409, "memory_precondition_failed_error", 75)
            case .gone: (ESTALE, 404, "not_found_error", 66)
            case .busy: (EBUSY, 409, "conflict_error", 75)
            case .readOnly: (EROFS, 400, "invalid_request_error", 77)
            case .notPermitted: (EPERM, 403, "permission_error", 77)
            case .unauthenticated: (EACCES, 401, "authentication_error", 77)
            case .tooLarge: (EFBIG, 400, "invalid_request_error", 65)
            case .holdsSecret: (EPERM, 400, "invalid_request_error", 65)
            case .bodyTooLarge: (EFBIG, 413, "request_too_large", 65)
            case .storeFull: (ENOSPC, 400, "invalid_request_error", 74)
            case .quota: (EDQUOT, 400, "invalid_request_error", 74)
            case .noSpace: (ENOSPC, 500, "api_error", 74)
            case .tooManyLinks: (EMLINK, 400, "invalid_request_error", 65)
            case .unsupported: (EOPNOTSUPP, 400, "invalid_request_error", 69)
            case .unavailable: (EAGAIN, 503, "overloaded_error", 69)
            case .corrupted: (EIO, 500, "api_error", 74)
            case .internal: (EIO, 500, "api_error", 70)
            }
        }
    }
}
