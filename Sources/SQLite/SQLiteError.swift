internal import CSQLite

/// What SQLite answered: its extended result code, its message, and the statement it concerned.
package struct SQLiteError: Error, Sendable, CustomStringConvertible {
    /// The extended result code, such as `SQLITE_IOERR_FSYNC` (1034). See sqlite.org/rescode.html.
    package let code: Int32
    package let message: String
    package let sql: String?
    /// The errno of the system call that failed, where SQLite knows of one; else 0.
    package let systemError: Int32

    package init(code: Int32, message: String, sql: String? = nil, systemError: Int32 = 0) {
        self.systemError = systemError
        self.code = code
        self.message = message
        self.sql = sql
    }

    package enum Kind: Sendable {
        case full, io, corrupted, notADatabase, busy, readOnly, cannotOpen, constraint, memory, interrupted, other
    }

    /// The family that a caller may act on.
    package var kind: Kind {
        switch code & 0xff {
        case SQLITE_FULL: .full
        case SQLITE_IOERR: .io
        case SQLITE_CORRUPT: .corrupted
        case SQLITE_NOTADB: .notADatabase
        case SQLITE_BUSY, SQLITE_LOCKED: .busy
        case SQLITE_READONLY, SQLITE_PERM: .readOnly
        case SQLITE_CANTOPEN: .cannotOpen
        case SQLITE_CONSTRAINT: .constraint
        case SQLITE_NOMEM: .memory
        case SQLITE_INTERRUPT: .interrupted
        default: .other
        }
    }

    package var description: String { sql.map { "SQLite \(code): \(message) in \($0)" } ?? "SQLite \(code): \(message)" }
}
