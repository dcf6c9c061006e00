internal import CSQLite

/// A compiled statement: bind, step until it says false, read columns in between, reset.
///
/// Parameters are counted from 1, columns from 0, as SQLite does. Bound memory must live until `reset`.
@safe package final class Statement {
    private let handle: OpaquePointer
    private let connection: Connection
    package let sql: String

    fileprivate static let prepareFlags = UInt32(SQLITE_PREPARE_PERSISTENT)

    init(_ sql: String, on connection: Connection) throws(SQLiteError) {
        var prepared: OpaquePointer?
        let code = unsafe sqlite3_prepare_v3(connection.handle, sql, -1, Self.prepareFlags, &prepared, nil)
        guard code == SQLITE_OK, let handle = unsafe prepared else { throw connection.error(code, sql) }
        unsafe self.handle = handle
        self.connection = connection
        self.sql = sql
    }

    deinit { unsafe sqlite3_finalize(handle) }

    @inline(__always)
    package func bind(_ value: Int64, at place: Int32) { unsafe sqlite3_bind_int64(handle, place, value) }

    @inline(__always)
    package func bind(_ value: Int64?, at place: Int32) {
        if let value { unsafe sqlite3_bind_int64(handle, place, value) } else { unsafe sqlite3_bind_null(handle, place) }
    }

    /// Text is copied.
    package func bind(_ value: String?, at place: Int32) {
        guard var value else {
            unsafe sqlite3_bind_null(handle, place)
            return
        }
        value.withUTF8 {
            unsafe _ = sqlite3_bind_text64(handle, place, $0.baseAddress, UInt64($0.count), Self.transient, UInt8(SQLITE_UTF8))
        }
    }

    /// Bytes are copied.
    package func bind(_ value: [UInt8]?, at place: Int32) {
        guard let value else {
            unsafe sqlite3_bind_null(handle, place)
            return
        }
        unsafe value.withUnsafeBytes { unsafe bind(copying: $0, at: place) }
    }

    /// Bytes are copied.
    package func bind(copying value: UnsafeRawBufferPointer, at place: Int32) {
        guard let base = value.baseAddress, value.count > 0 else {
            unsafe sqlite3_bind_zeroblob(handle, place, 0)
            return
        }
        unsafe _ = sqlite3_bind_blob64(handle, place, base, UInt64(value.count), Self.transient)
    }

    /// Bytes are not copied: they must stay until `reset`.
    @inline(__always)
    package func bind(borrowing value: UnsafeRawBufferPointer, at place: Int32) {
        guard let base = value.baseAddress, value.count > 0 else {
            unsafe sqlite3_bind_zeroblob(handle, place, 0)
            return
        }
        unsafe _ = sqlite3_bind_blob64(handle, place, base, UInt64(value.count), nil)
    }

    /// A name: UTF-8 bytes as text, copied.
    package func bind(text value: [UInt8], at place: Int32) {
        unsafe value.withUnsafeBufferPointer {
            guard let base = $0.baseAddress else {
                unsafe _ = sqlite3_bind_text64(handle, place, "", 0, Self.transient, UInt8(SQLITE_UTF8))
                return
            }
            unsafe base.withMemoryRebound(to: CChar.self, capacity: $0.count) { characters in
                unsafe _ = sqlite3_bind_text64(handle, place, characters, UInt64(value.count), Self.transient, UInt8(SQLITE_UTF8))
            }
        }
    }

    /// Goes to the next row: true while there is one.
    @inline(__always)
    package func step() throws(SQLiteError) -> Bool {
        if let fault = connection.fault, let injected = fault() {
            unsafe sqlite3_reset(handle)
            throw SQLiteError(code: injected, message: "injected fault", sql: sql)
        }
        let code = unsafe sqlite3_step(handle)
        if code == SQLITE_ROW { return true }
        if code == SQLITE_DONE { return false }
        let error = connection.error(code, sql)
        unsafe sqlite3_reset(handle)
        throw error
    }

    /// Runs a statement that answers no rows, and makes it ready for the next use. Bindings stay.
    @inline(__always)
    package func run() throws(SQLiteError) {
        do {
            while try step() {}
        } catch {
            reset()
            throw error
        }
        reset()
    }

    /// Binds bytes without copying them and runs the statement.
    package func run(binding bytes: [UInt8], at place: Int32) throws(SQLiteError) {
        // Array.withUnsafeBytes rethrows untyped errors: the result is carried out by hand.
        let result: Result<Void, SQLiteError> = unsafe bytes.withUnsafeBytes { buffer in
            do throws(SQLiteError) {
                unsafe bind(borrowing: buffer, at: place)
                return .success(try run())
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    @inline(__always)
    package func reset() { unsafe sqlite3_reset(handle) }

    @inline(__always)
    package func integer(_ column: Int32) -> Int64 { unsafe sqlite3_column_int64(handle, column) }

    package func isNull(_ column: Int32) -> Bool { unsafe sqlite3_column_type(handle, column) == SQLITE_NULL }

    package func integerOrNil(_ column: Int32) -> Int64? { isNull(column) ? nil : integer(column) }

    /// The value of a column of any type, where it is an integer.
    package func integerIfNumber(_ column: Int32) -> Int64? {
        unsafe sqlite3_column_type(handle, column) == SQLITE_INTEGER ? integer(column) : nil
    }

    package func text(_ column: Int32) -> String? {
        guard let text = unsafe sqlite3_column_text(handle, column) else { return nil }
        let count = unsafe Int(sqlite3_column_bytes(handle, column))
        return unsafe String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self)
    }

    package func bytes(_ column: Int32) -> [UInt8] {
        unsafe withBytes(column) { unsafe Array($0) }
    }

    package func bytesOrNil(_ column: Int32) -> [UInt8]? { isNull(column) ? nil : bytes(column) }

    /// The column's bytes in SQLite's own memory: valid inside `body` only.
    @inline(__always)
    package func withBytes<Result, Failure: Error>(
        _ column: Int32, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // sqlite3_column_blob first: it may convert, and the count is that of the converted value.
        let base = unsafe sqlite3_column_blob(handle, column)
        let count = unsafe Int(sqlite3_column_bytes(handle, column))
        return try unsafe body(UnsafeRawBufferPointer(start: base, count: base == nil ? 0 : count))
    }

    /// SQLITE_TRANSIENT is a cast of -1, which Swift does not import.
    private static let transient = unsafe unsafeBitCast(-1, to: sqlite3_destructor_type.self)
}
