#include "CSQLite.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The journal's format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
enum {
    frame_header = 24,
    // In a frame's header: the size of the database after the transaction that ends with it, in pages; 0 in all other frames.
    commit_mark = 4,
    // Of our databases. Others are written as they come.
    page = 4096,
    // Most transactions have fewer than five; those that have more are written in parts.
    most_frames = 8,
};

/// An open journal. What is in `held` follows `end`, where the file's last write ended.
struct journal {
    sqlite3_file base;
    sqlite3_int64 end;
    // The farthest byte that was written since the journal was begun.
    sqlite3_int64 tail;
    int count;
    // The frame that was begun last ends its transaction.
    int commits;
    unsigned char *held;
    // The real file comes behind this one in memory.
};

static sqlite3_vfs *real_vfs;
static sqlite3_vfs our_vfs;

static sqlite3_file *real(sqlite3_file *file) {
    return (sqlite3_file *)((struct journal *)file + 1);
}

static void note(struct journal *journal, sqlite3_int64 offset, int count) {
    if (offset == 0) journal->tail = 0;
    if (offset + count > journal->tail) journal->tail = offset + count;
}

// What follows the last frame is of no transaction, or of one that was moved into the database long ago. So the write goes on with zeros to
// the end of the kernel's page: part of a page that is not in memory has to be read first, and the journal's pages are seldom used.
static int flush(struct journal *journal) {
    if (journal->count == 0) return SQLITE_OK;
    int count = journal->count;
    journal->count = 0;
    sqlite3_int64 end = journal->end + count;
    int filler = end >= journal->tail && end % page ? page - (int)(end % page) : 0;
    memset(journal->held + count, 0, filler);
    sqlite3_file *file = real(&journal->base);
    int code = file->pMethods->xWrite(file, journal->held, count + filler, journal->end);
    note(journal, journal->end, count);
    journal->end = code == SQLITE_OK ? end : -1;
    return code;
}

static int write_journal(sqlite3_file *base, const void *bytes, int count, sqlite3_int64 offset) {
    struct journal *journal = (struct journal *)base;
    int follows = offset == journal->end + journal->count;
    int is_header = count == frame_header && follows && journal->count % (frame_header + page) == 0;
    int is_page = count == page && follows && journal->count % (frame_header + page) == frame_header;
    if (is_header && !journal->held) {
        journal->held = malloc(most_frames * (frame_header + page) + page);
        is_header = journal->held != NULL;
    }
    if (is_header || is_page) {
        if (is_header) {
            static const unsigned char none[4];
            journal->commits = memcmp((const unsigned char *)bytes + commit_mark, none, sizeof none) != 0;
        }
        memcpy(journal->held + journal->count, bytes, count);
        journal->count += count;
        int is_full = journal->count == most_frames * (frame_header + page);
        return is_page && (journal->commits || is_full) ? flush(journal) : SQLITE_OK;
    }
    int code = flush(journal);
    if (code != SQLITE_OK) return code;
    sqlite3_file *file = real(base);
    if (offset == 0 && count < page) {
        // The journal starts over: see `flush`.
        unsigned char first[page] = {0};
        memcpy(first, bytes, count);
        code = file->pMethods->xWrite(file, first, page, 0);
    } else {
        code = file->pMethods->xWrite(file, bytes, count, offset);
    }
    note(journal, offset, count);
    journal->end = code == SQLITE_OK ? offset + count : -1;
    return code;
}

static int close_journal(sqlite3_file *base) {
    struct journal *journal = (struct journal *)base;
    // No transaction ended with it, so nobody misses it.
    free(journal->held);
    journal->held = NULL;
    journal->count = 0;
    return real(base)->pMethods->xClose(real(base));
}

static int read_journal(sqlite3_file *base, void *bytes, int count, sqlite3_int64 offset) {
    int code = flush((struct journal *)base);
    return code == SQLITE_OK ? real(base)->pMethods->xRead(real(base), bytes, count, offset) : code;
}

static int truncate_journal(sqlite3_file *base, sqlite3_int64 size) {
    int code = flush((struct journal *)base);
    return code == SQLITE_OK ? real(base)->pMethods->xTruncate(real(base), size) : code;
}

static int sync_journal(sqlite3_file *base, int flags) {
    int code = flush((struct journal *)base);
    return code == SQLITE_OK ? real(base)->pMethods->xSync(real(base), flags) : code;
}

static int size_journal(sqlite3_file *base, sqlite3_int64 *size) {
    int code = flush((struct journal *)base);
    return code == SQLITE_OK ? real(base)->pMethods->xFileSize(real(base), size) : code;
}

static int lock_journal(sqlite3_file *base, int level) { return real(base)->pMethods->xLock(real(base), level); }
static int unlock_journal(sqlite3_file *base, int level) { return real(base)->pMethods->xUnlock(real(base), level); }
static int is_reserved(sqlite3_file *base, int *answer) { return real(base)->pMethods->xCheckReservedLock(real(base), answer); }
static int control(sqlite3_file *base, int what, void *argument) { return real(base)->pMethods->xFileControl(real(base), what, argument); }
static int sector_size(sqlite3_file *base) { return real(base)->pMethods->xSectorSize(real(base)); }
static int characteristics(sqlite3_file *base) { return real(base)->pMethods->xDeviceCharacteristics(real(base)); }

static const sqlite3_io_methods journal_methods = {
    .iVersion = 1,
    .xClose = close_journal,
    .xRead = read_journal,
    .xWrite = write_journal,
    .xTruncate = truncate_journal,
    .xSync = sync_journal,
    .xFileSize = size_journal,
    .xLock = lock_journal,
    .xUnlock = unlock_journal,
    .xCheckReservedLock = is_reserved,
    .xFileControl = control,
    .xSectorSize = sector_size,
    .xDeviceCharacteristics = characteristics,
};

static int open_file(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out_flags) {
    (void)vfs;
    if (!(flags & SQLITE_OPEN_WAL)) return real_vfs->xOpen(real_vfs, path, file, flags, out_flags);
    struct journal *journal = (struct journal *)file;
    memset(journal, 0, sizeof *journal);
    journal->end = -1;
    int code = real_vfs->xOpen(real_vfs, path, real(file), flags, out_flags);
    // SQLite closes what has methods, opened or not.
    if (real(file)->pMethods) file->pMethods = &journal_methods;
    return code;
}

// What does not open files is the real VFS's, which has to be handed itself.
static int delete_file(sqlite3_vfs *vfs, const char *path, int sync) { (void)vfs; return real_vfs->xDelete(real_vfs, path, sync); }
static int access_file(sqlite3_vfs *vfs, const char *path, int flags, int *answer) {
    (void)vfs;
    return real_vfs->xAccess(real_vfs, path, flags, answer);
}
static int full_path(sqlite3_vfs *vfs, const char *path, int size, char *full) {
    (void)vfs;
    return real_vfs->xFullPathname(real_vfs, path, size, full);
}

static int is_ready;

static void prepare(void) {
    // Nobody asks how much memory SQLite uses, and counting takes a lock for each allocation. Refused once SQLite runs: then it counts.
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    if (sqlite3_initialize() != SQLITE_OK) return;
    real_vfs = sqlite3_vfs_find("unix-excl");
    if (!real_vfs) return;
    our_vfs = *real_vfs;
    our_vfs.pNext = NULL;
    our_vfs.zName = "remfs";
    our_vfs.szOsFile = (int)sizeof(struct journal) + real_vfs->szOsFile;
    our_vfs.xOpen = open_file;
    our_vfs.xDelete = delete_file;
    our_vfs.xAccess = access_file;
    our_vfs.xFullPathname = full_path;
    is_ready = sqlite3_vfs_register(&our_vfs, 0) == SQLITE_OK;
}

const char *csqlite_private_vfs(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
    return is_ready ? our_vfs.zName : NULL;
}

static sqlite3_file *file_of(sqlite3 *db) {
    sqlite3_file *file = NULL;
    int code = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    return code == SQLITE_OK && file && file->pMethods ? file : NULL;
}

int csqlite_read_file(sqlite3 *db, void *bytes, int count, sqlite3_int64 offset) {
    sqlite3_file *file = file_of(db);
    return file ? file->pMethods->xRead(file, bytes, count, offset) : SQLITE_IOERR;
}

int csqlite_write_file(sqlite3 *db, const void *bytes, int count, sqlite3_int64 offset) {
    sqlite3_file *file = file_of(db);
    return file ? file->pMethods->xWrite(file, bytes, count, offset) : SQLITE_IOERR;
}

int csqlite_sync_file(sqlite3 *db) {
    sqlite3_file *file = file_of(db);
    return file ? file->pMethods->xSync(file, SQLITE_SYNC_NORMAL) : SQLITE_IOERR;
}
