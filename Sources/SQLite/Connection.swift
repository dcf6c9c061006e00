internal import CSQLite
import Glibc

/// One connection to one SQLite file.
///
/// Not for two threads at once: whoever holds a connection guards it (`MemoryStore`'s writer lock, a reader's exclusive loan).
@safe package final class Connection: @unchecked Sendable {
    // @unchecked: opened with SQLITE_OPEN_NOMUTEX; the owner lends it to one thread at a time.
    let handle: OpaquePointer
    package let path: String
    /// Written by SQLite's hook, under the same guard as the connection.
    private let frames: UnsafeMutablePointer<Int32>

    /// Asked before each step of a statement; an answer other than nil fails the step with that result code. For fault tests only.
    package var fault: (() -> Int32?)?

    /// ms: how long a statement waits for another connection's.
    private static let patience: Int32 = 10_000

    package enum Mode: Sendable { case create, readWrite, readOnly }

    /// Opens `path`.
    ///
    /// - Parameter isPrivate: the file belongs to this process alone, so no byte-range locks are taken, the WAL index lives on the heap
    ///   (5 us of 13 for a transaction), and a transaction is written to the WAL at once (`csqlite_private_vfs`). All connections to
    ///   one file must agree.
    package init(path: String, mode: Mode, isPrivate: Bool = true) throws(SQLiteError) {
        let access =
            switch mode {
            case .create: SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
            case .readWrite: SQLITE_OPEN_READWRITE
            case .readOnly: SQLITE_OPEN_READONLY
            }
        var opened: OpaquePointer?
        let system = unsafe csqlite_private_vfs()
        guard unsafe system != nil else { throw SQLiteError(code: SQLITE_NOMEM, message: "SQLite cannot be set up") }
        let code = unsafe sqlite3_open_v2(
            path, &opened, access | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, isPrivate ? system : nil)
        guard code == SQLITE_OK, let handle = unsafe opened else {
            let message = unsafe opened.map { unsafe String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
            let systemError = unsafe opened.map { unsafe sqlite3_system_errno($0) } ?? 0
            unsafe sqlite3_close_v2(opened)
            throw SQLiteError(code: code, message: message, systemError: systemError)
        }
        unsafe self.handle = handle
        self.path = path
        unsafe frames = .allocate(capacity: 1)
        unsafe frames.initialize(to: 0)
        unsafe sqlite3_busy_timeout(handle, Self.patience)
    }

    deinit {
        // Statements that are still alive keep the handle until they go; v2 is made for that.
        unsafe sqlite3_wal_hook(handle, nil, nil)
        unsafe sqlite3_close_v2(handle)
        unsafe frames.deallocate()
    }

    /// Counts the frames of the WAL from now on (`committedFrames`), in place of SQLite's own checkpoints.
    package func countFrames() {
        // The pointer lives as long as the handle has the hook.
        unsafe sqlite3_wal_hook(
            handle,
            { frames, _, _, count in
                unsafe frames!.assumingMemoryBound(to: Int32.self).pointee = count
                return SQLITE_OK
            }, frames)
    }

    /// Frames that the WAL held after this connection's last commit; 0: it has made none.
    package var committedFrames: Int { unsafe Int(frames.pointee) }

    /// Runs one or more statements without parameters or results.
    package func execute(_ sql: String) throws(SQLiteError) {
        if let injected = fault?() { throw SQLiteError(code: injected, message: "injected fault", sql: sql) }
        let code = unsafe sqlite3_exec(handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw error(code, sql) }
    }

    /// Compiles a statement to be used many times.
    package func prepare(_ sql: String) throws(SQLiteError) -> Statement {
        try Statement(sql, on: self)
    }

    /// The one integer that a query answers, such as a pragma's value; nil when it answers no row or NULL.
    package func integer(_ sql: String) throws(SQLiteError) -> Int64? {
        let statement = try prepare(sql)
        defer { statement.reset() }
        return try statement.step() ? statement.integerOrNil(0) : nil
    }

    /// Rows changed by the last statement.
    package var changes: Int { unsafe Int(sqlite3_changes64(handle)) }

    /// Rows changed since the connection was opened.
    package var totalChanges: Int { unsafe Int(sqlite3_total_changes64(handle)) }

    package var isInTransaction: Bool { unsafe sqlite3_get_autocommit(handle) == 0 }

    package enum Checkpoint: Sendable { case passive, truncate }

    /// Moves WAL frames into the database. Answers how many frames the WAL holds and how many of them are in the database now.
    /// `passive` moves what it can; `truncate` also empties the WAL's file, unless somebody still reads from it. Neither waits.
    package func checkpoint(_ kind: Checkpoint) throws(SQLiteError) -> (frames: Int, moved: Int) {
        if let injected = fault?() { throw SQLiteError(code: injected, message: "injected fault", sql: "checkpoint") }
        // A reader may take seconds, and the caller holds a lock that everyone needs.
        unsafe sqlite3_busy_timeout(handle, 0)
        defer { unsafe sqlite3_busy_timeout(handle, Self.patience) }
        var frames: Int32 = 0
        var moved: Int32 = 0
        let mode = kind == .passive ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_TRUNCATE
        let code = unsafe sqlite3_wal_checkpoint_v2(handle, nil, mode, &frames, &moved)
        guard code == SQLITE_OK || code & 0xff == SQLITE_BUSY else { throw error(code, "checkpoint") }
        return (Int(frames), Int(moved))
    }

    /// Copies the whole database as of now into a new file at `path`, while others go on writing. What fails leaves no file.
    package func backup(to path: String) throws(SQLiteError) {
        do throws(SQLiteError) {
            try copy(to: path)
        } catch {
            for suffix in ["", "-journal"] { _ = unsafe unlink(path + suffix) }
            throw error
        }
    }

    private func copy(to path: String) throws(SQLiteError) {
        let target = try Connection(path: path, mode: .create, isPrivate: false)
        guard let backup = unsafe sqlite3_backup_init(target.handle, "main", handle, "main") else {
            throw target.error(unsafe sqlite3_extended_errcode(target.handle), "backup")
        }
        let stepped = unsafe sqlite3_backup_step(backup, -1)
        let finished = unsafe sqlite3_backup_finish(backup)
        guard stepped == SQLITE_DONE, finished == SQLITE_OK else {
            throw target.error(finished == SQLITE_OK ? stepped : finished, "backup")
        }
    }

    /// Memory that SQLite holds for this connection's pages, in bytes.
    package var cacheBytes: Int {
        var current: Int32 = 0
        var highest: Int32 = 0
        unsafe sqlite3_db_status(handle, SQLITE_DBSTATUS_CACHE_USED, &current, &highest, 0)
        return Int(current)
    }

    func error(_ code: Int32, _ sql: String?) -> SQLiteError {
        let systemError = code & 0xff == SQLITE_CANTOPEN ? unsafe sqlite3_system_errno(handle) : 0
        return SQLiteError(code: code, message: unsafe String(cString: sqlite3_errmsg(handle)), sql: sql, systemError: systemError)
    }

    /// The version of the library that is loaded, such as 3040001.
    package static var libraryVersion: Int { Int(sqlite3_libversion_number()) }
}
