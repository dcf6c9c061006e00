#pragma once
#include <sqlite3.h>

/// Sets SQLite up for this process, once, and answers the name of the VFS to open files with that belong to this process alone.
///
/// The VFS is `unix-excl`, but for one thing: the frames that a transaction appends to the journal (WAL) are written with one call
/// when the transaction commits, and not with two for each page. Nothing else is held back: what SQLite was told is committed is in the
/// file, and where that write fails the transaction fails. From any thread. NULL: SQLite could not be set up.
const char *csqlite_private_vfs(void);
