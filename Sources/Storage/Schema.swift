import Glibc
import SQLite

/// The tables of a store's file and of the catalog, as numbered migrations. `Schema.md` says what each column means.
///
/// Migrations are append-only: a released one is never edited. Before the first write of a newer schema the old file is kept beside.
enum Schema {
    /// "remf" and "remc" in ASCII.
    static let storeApplicationID: Int64 = 0x7265_6d66
    static let catalogApplicationID: Int64 = 0x7265_6d63

    static let store: [String] = [
        """
        CREATE TABLE property (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

        -- A file, directory, link or device. One wide row, since each further dirty page costs a commit 3 to 4 us.
        CREATE TABLE inode (
            number INTEGER PRIMARY KEY,
            parent INTEGER,                 -- directory of its oldest name; NULL: the root, or unlinked and still open
            name TEXT NOT NULL,             -- that name; for an unlinked one the path it had
            cookie INTEGER NOT NULL,        -- place of that name in its directory's listing
            mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL,
            flags INTEGER NOT NULL,
            size INTEGER NOT NULL CHECK (size >= 0),
            accessed INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
            content ANY,                    -- NULL, a chunk, a list of chunks (8 bytes each), or a link's target
            digest BLOB CHECK (digest IS NULL OR length(digest) = 32),
            memory INTEGER, version INTEGER, memory_created INTEGER, version_created INTEGER,
            author TEXT,                    -- who made or moved it, while no version says so yet
            CHECK ((version IS NULL) = (version_created IS NULL))
        ) STRICT;

        -- Second and further names of a regular file.
        CREATE TABLE dentry (
            cookie INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, inode INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE xattr (
            inode INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (inode, name)
        ) STRICT, WITHOUT ROWID;

        -- Bytes as they were written: a draft, until a chunk of the same number makes them content.
        CREATE TABLE extent (
            number INTEGER PRIMARY KEY,     -- save << 20 | count
            inode INTEGER NOT NULL,
            kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),     -- bytes, hole, truncation
            start INTEGER NOT NULL, length INTEGER NOT NULL,
            modified INTEGER NOT NULL,
            author TEXT,                    -- with the first of a save
            bytes BLOB
        ) STRICT;

        CREATE TABLE chunk (
            number INTEGER PRIMARY KEY,     -- of the extent that holds its bytes
            key INTEGER NOT NULL,           -- the first eight bytes of the digest
            digest BLOB NOT NULL CHECK (length(digest) = 32),
            size INTEGER NOT NULL CHECK (size BETWEEN 1 AND 65536),
            encoding INTEGER NOT NULL CHECK (encoding IN (0, 1)),   -- whole, delta against base
            base INTEGER,
            refs INTEGER NOT NULL CHECK (refs >= 0),
            sequence INTEGER NOT NULL, previous INTEGER,            -- its place among the chunks that held this part of a file
            CHECK ((encoding = 1) = (base IS NOT NULL))
        ) STRICT;
        CREATE INDEX chunk_by_key ON chunk (key);
        CREATE INDEX chunk_by_base ON chunk (base) WHERE base IS NOT NULL;

        CREATE TABLE version (
            number INTEGER PRIMARY KEY,
            memory INTEGER NOT NULL,
            operation INTEGER NOT NULL CHECK (operation BETWEEN 0 AND 2),   -- created, modified, deleted
            directory TEXT, name TEXT,      -- the path after the change; directory ends with /
            size INTEGER, digest BLOB, content ANY,
            began INTEGER NOT NULL, ended INTEGER,                  -- us: when it was the head
            actor TEXT NOT NULL, uid INTEGER, pid INTEGER, command TEXT,
            base INTEGER, stale INTEGER NOT NULL DEFAULT 0,
            trust INTEGER,                  -- of the session that wrote it
            redacted INTEGER, redacted_by TEXT,
            CHECK (operation <> 2 OR content IS NULL),
            CHECK (redacted IS NULL OR (content IS NULL AND name IS NULL AND digest IS NULL AND size IS NULL))
        ) STRICT;
        CREATE INDEX version_by_memory ON version (memory);
        CREATE INDEX version_by_path ON version (directory, name);

        -- A memory whose path was given up by something other than an unlink of its inode; sealed as deleted after two seconds.
        CREATE TABLE removal (
            memory INTEGER PRIMARY KEY, path TEXT NOT NULL, version INTEGER NOT NULL, author TEXT NOT NULL
        ) STRICT;

        -- What a resent request is answered from after a hand-over: a ring, slot = request & 63.
        CREATE TABLE ledger (slot INTEGER PRIMARY KEY, mount INTEGER, request INTEGER, reply BLOB) STRICT;

        CREATE VIEW memory AS
            SELECT memory AS number, number AS inode, version, memory_created AS created, version_created AS updated, size, digest
            FROM inode WHERE memory IS NOT NULL AND parent IS NOT NULL;
        """,
        """
        DROP TABLE ledger;
        -- What a request is answered from that the kernel sends again after a take-over: one row for each thread that answers.
        CREATE TABLE ledger (
            slot INTEGER PRIMARY KEY, mount INTEGER NOT NULL, request INTEGER NOT NULL, answer INTEGER NOT NULL
        ) STRICT;
        """,
        """
        -- The request that made or moved it, or that wrote it: a row of the ledger would be one more page in each transaction.
        ALTER TABLE inode ADD COLUMN mount INTEGER;
        ALTER TABLE inode ADD COLUMN request INTEGER;
        ALTER TABLE extent ADD COLUMN mount INTEGER;
        ALTER TABLE extent ADD COLUMN request INTEGER;
        """,
        """
        -- Retention: what is never given up, and how many versions right before this one were.
        ALTER TABLE version ADD COLUMN pinned INTEGER;
        ALTER TABLE version ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;
        """,
        """
        -- What was made of this store's content and is out of its reach: what a redaction has to speak of.
        CREATE TABLE copy (
            number INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            since INTEGER NOT NULL, until INTEGER NOT NULL CHECK (until >= since),      -- it holds what was a head in between
            made INTEGER NOT NULL, actor TEXT NOT NULL,
            store TEXT                      -- the store that was made of it
        ) STRICT;

        -- Retention, memory by memory: since when those are missing that `pruned` counts, and whether one had another path.
        ALTER TABLE version ADD COLUMN gap INTEGER;
        ALTER TABLE version ADD COLUMN strayed INTEGER NOT NULL DEFAULT 0;
        UPDATE version SET strayed = 1, gap = ifnull(
            (SELECT max(ifnull(before.ended, before.began)) FROM version before
             WHERE before.memory = version.memory AND before.number < version.number), 0) WHERE pruned > 0;
        CREATE INDEX version_by_gap ON version (gap) WHERE gap IS NOT NULL;
        """,
        """
        -- Kinds of secrets that were found in the content, with a space between; empty: none; NULL: nobody looked.
        ALTER TABLE version ADD COLUMN secrets TEXT;
        """,
        """
        -- Moments that kernels may know from `.remfs/at`: nodes of directories there name them by number.
        CREATE TABLE past (
            number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 4095),
            name TEXT NOT NULL UNIQUE,      -- as it was asked for
            time INTEGER NOT NULL           -- us
        ) STRICT;
        """,
    ]

    static let catalog: [String] = [
        """
        CREATE TABLE store (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            description TEXT NOT NULL,
            metadata TEXT NOT NULL CHECK (json_valid(metadata)),
            policy TEXT NOT NULL CHECK (json_valid(policy)),
            created INTEGER NOT NULL, updated INTEGER NOT NULL, archived INTEGER
        ) STRICT;
        CREATE INDEX store_by_name ON store (name);

        -- Filled by the issues that bring sessions, dreams and keys.
        CREATE TABLE session (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL CHECK (json_valid(body)),
            created INTEGER NOT NULL, updated INTEGER NOT NULL, archived INTEGER
        ) STRICT;
        CREATE TABLE attachment (
            session INTEGER NOT NULL REFERENCES session (sequence) ON DELETE CASCADE,
            place INTEGER NOT NULL, store TEXT NOT NULL, access TEXT NOT NULL, slug TEXT NOT NULL,
            body TEXT NOT NULL CHECK (json_valid(body)),
            PRIMARY KEY (session, place)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE event (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            session INTEGER NOT NULL REFERENCES session (sequence) ON DELETE CASCADE,
            thread TEXT, type TEXT NOT NULL, processed INTEGER NOT NULL, body TEXT NOT NULL CHECK (json_valid(body))
        ) STRICT;
        CREATE INDEX event_by_session ON event (session, sequence);
        CREATE TABLE dream (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
            body TEXT NOT NULL CHECK (json_valid(body)), created INTEGER NOT NULL, ended INTEGER, archived INTEGER
        ) STRICT;
        CREATE TABLE key (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL, scopes TEXT NOT NULL CHECK (json_valid(scopes)), created INTEGER NOT NULL, revoked INTEGER
        ) STRICT;
        """,
        """
        -- Nothing has written to them yet.
        DROP TABLE event;
        DROP TABLE attachment;
        DROP TABLE session;

        CREATE TABLE session (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL CHECK (status IN ('idle', 'running', 'rescheduling', 'terminated')),
            agent TEXT NOT NULL, agent_version INTEGER NOT NULL CHECK (agent_version > 0),  -- what lists are filtered by
            title TEXT,
            metadata TEXT NOT NULL CHECK (json_valid(metadata)),
            body TEXT NOT NULL CHECK (json_valid(body)),
            created INTEGER NOT NULL, updated INTEGER NOT NULL, archived INTEGER
        ) STRICT;
        CREATE INDEX session_by_time ON session (created, sequence);
        CREATE INDEX session_by_status ON session (status, created, sequence);
        CREATE INDEX session_by_agent ON session (agent, agent_version);

        -- No reference to the store: when that is deleted, its sessions keep what they had of it.
        CREATE TABLE attachment (
            session INTEGER NOT NULL REFERENCES session (sequence) ON DELETE CASCADE,
            place INTEGER NOT NULL, store TEXT NOT NULL,
            access TEXT NOT NULL CHECK (access IN ('read_write', 'read_only')),
            slug TEXT NOT NULL, body TEXT NOT NULL CHECK (json_valid(body)),
            PRIMARY KEY (session, place), UNIQUE (session, store), UNIQUE (session, slug)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX attachment_by_store ON attachment (store, session);

        CREATE TABLE thread (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            session INTEGER NOT NULL REFERENCES session (sequence) ON DELETE CASCADE,
            parent INTEGER REFERENCES thread (sequence) ON DELETE CASCADE,                  -- NULL: the primary thread
            status TEXT NOT NULL CHECK (status IN ('idle', 'running', 'rescheduling', 'terminated')),
            body TEXT NOT NULL CHECK (json_valid(body)),
            created INTEGER NOT NULL, updated INTEGER NOT NULL, archived INTEGER
        ) STRICT;
        CREATE INDEX thread_by_session ON thread (session, sequence);
        CREATE UNIQUE INDEX thread_primary ON thread (session) WHERE parent IS NULL;
        CREATE INDEX thread_by_parent ON thread (parent) WHERE parent IS NOT NULL;

        CREATE TABLE event (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            session INTEGER NOT NULL,
            thread INTEGER NOT NULL REFERENCES thread (sequence) ON DELETE CASCADE,
            shown INTEGER NOT NULL CHECK (shown IN (0, 1)),     -- whether the session's own list has it
            type TEXT NOT NULL, processed INTEGER NOT NULL, body TEXT NOT NULL CHECK (json_valid(body))
        ) STRICT;
        CREATE INDEX event_by_session ON event (session, sequence) WHERE shown;
        CREATE INDEX event_by_thread ON event (thread, sequence);
        """,
        """
        -- By which names container engines know sessions' stores, and which containers have them.
        CREATE TABLE volume (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
            session INTEGER NOT NULL REFERENCES session (sequence) ON DELETE CASCADE,
            owner INTEGER NOT NULL CHECK (owner IN (0, 1)),         -- whether the session was made for it, and ends with it
            options TEXT NOT NULL CHECK (json_valid(options)),
            created INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX volume_by_session ON volume (session);
        CREATE TABLE volume_use (
            volume INTEGER NOT NULL REFERENCES volume (sequence) ON DELETE CASCADE,
            container TEXT NOT NULL, boot TEXT NOT NULL,
            PRIMARY KEY (volume, container)
        ) STRICT, WITHOUT ROWID;
        """,
    ]

    /// Brings a file to the newest schema, or refuses it: not ours, or newer than this program knows.
    static func migrate(
        _ connection: Connection, named name: String, application: Int64, migrations: [String], isNew: Bool
    ) throws(RemfsError) {
        if isNew {
            try RemfsError.mapping(name) { () throws(SQLiteError) in
                try connection.execute("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = \(application);")
            }
        } else {
            let found = try RemfsError.mapping(name) { () throws(SQLiteError) in try connection.integer("PRAGMA application_id") ?? 0 }
            guard found == application else {
                throw RemfsError(.corrupted, "\(name) is a SQLite file, but not one of remfs: move it away, or restore a backup")
            }
        }
        let version = try RemfsError.mapping(name) { () throws(SQLiteError) in Int(try connection.integer("PRAGMA user_version") ?? 0) }
        guard version <= migrations.count else {
            throw RemfsError(
                .unsupported, "\(name) has schema \(version), this remfs knows \(migrations.count): start the newer remfs that wrote it")
        }
        try RemfsError.mapping(name) { () throws(SQLiteError) in
            try connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            guard version < migrations.count else { return }
            if version > 0 { try connection.backup(to: "\(connection.path).schema-\(version)") }
            try connection.execute("BEGIN IMMEDIATE")
            for migration in migrations[version...] { try connection.execute(migration) }
            try connection.execute("PRAGMA user_version = \(migrations.count); COMMIT")
        }
    }
}

extension RemfsError {
    /// Runs SQL and turns its error into ours.
    static func mapping<Answer>(_ name: String, _ body: () throws(SQLiteError) -> Answer) throws(RemfsError) -> Answer {
        do throws(SQLiteError) { return try body() } catch { throw RemfsError(error, in: name) }
    }

    /// Nothing is wrong but that nothing can be written now.
    var isOfFullDisk: Bool { code == .noSpace || code == .readOnly }

    /// Said by the daemon and by the commands alike.
    package static let moreDescriptors = "raise LimitNOFILE in the daemon's unit, or `ulimit -n`"

    /// The seam where SQLite's errors become ours. `name` is what the file holds: `store "team-notes"`.
    init(_ error: SQLiteError, in name: String) {
        let cause = error.description
        switch error.kind {
        case .full: self.init(.noSpace, "the disk is full, so \(name) cannot be written", cause: cause)
        case .io:
            self.init(
                .corrupted,
                "cannot read or write \(name): the disk answered an error; see the kernel's log, and move the state directory to a sound disk",
                cause: cause)
        case .corrupted:
            self.init(.corrupted, "\(name) is damaged: run remfs doctor, or restore a backup", cause: cause)
        case .notADatabase:
            self.init(.corrupted, "\(name) is not a SQLite file: move it away, or restore a backup", cause: cause)
        case .busy: self.init(.busy, "\(name) is held by another process", cause: cause)
        case .readOnly: self.init(.readOnly, "\(name) is on a read-only disk or may not be written by this user", cause: cause)
        case .cannotOpen where error.systemError == EMFILE || error.systemError == ENFILE:
            self.init(.unavailable, "cannot open the file of \(name): no file descriptors left; \(Self.moreDescriptors)", cause: cause)
        case .cannotOpen: self.init(.unavailable, "cannot open the file of \(name)", cause: cause)
        case .memory: self.init(.unavailable, "out of memory in \(name)", cause: cause)
        case .constraint, .interrupted, .other: self.init(.internal, "a statement failed in \(name)", cause: cause)
        }
    }
}
