#pragma once
#include <sqlite3.h>

/// Sets SQLite up for this process, once, and answers the name of the VFS to open files with that belong to this process alone.
///
/// The VFS is `unix-excl`, but for one thing: the frames that a transaction appends to the journal (WAL) are written with one call
/// when the transaction commits, and not with two for each page. Nothing else is held back: what SQLite was told is committed is in the
/// file, and where that write fails the transaction fails. From any thread. NULL: SQLite could not be set up.
const char *csqlite_private_vfs(void);

/// Reads from the file of a connection's database, writes to it, syncs it: on SQLite's own descriptor, past its pages. The caller sees to it
/// that nobody else writes to the file. Answers a result code; reading beyond the end is an error.
int csqlite_read_file(sqlite3 *db, void *bytes, int count, sqlite3_int64 offset);
int csqlite_write_file(sqlite3 *db, const void *bytes, int count, sqlite3_int64 offset);
int csqlite_sync_file(sqlite3 *db);
