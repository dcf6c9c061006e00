internal import CSQLite

/// The database's file itself, below SQLite's pages: for what no statement reaches. On the descriptor that SQLite has, since closing another
/// one would give up the process's locks on the file.
extension Connection {
    /// Fills `bytes` from `offset` on. What lies beyond the end is an error.
    package func readFile(_ bytes: inout [UInt8], at offset: Int64) throws(SQLiteError) {
        let code = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe csqlite_read_file(handle, buffer.baseAddress, Int32(buffer.count), offset)
        }
        guard code == SQLITE_OK else { throw error(code, "read of the file") }
    }

    package func writeFile(_ bytes: [UInt8], at offset: Int64) throws(SQLiteError) {
        if let injected = fault?() { throw SQLiteError(code: injected, message: "injected fault", sql: "write to the file") }
        let code = unsafe bytes.withUnsafeBytes { buffer in
            unsafe csqlite_write_file(handle, buffer.baseAddress, Int32(buffer.count), offset)
        }
        guard code == SQLITE_OK else { throw error(code, "write to the file") }
    }

    /// Blocks until what was written is on the disk.
    package func synchronizeFile() throws(SQLiteError) {
        let code = unsafe csqlite_sync_file(handle)
        guard code == SQLITE_OK else { throw error(code, "sync of the file") }
    }

    /// Forgets the pages that this connection keeps in memory. Outside of transactions.
    package func forgetPages() { unsafe sqlite3_db_release_memory(handle) }
}
