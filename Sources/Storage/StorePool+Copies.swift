import Glibc
import Logging
import SQLite

/// Stores that begin as something that is there already: an archive, a store's file, another store.
extension StorePool {
    /// 32 MiB: of content in one transaction while a store is made, which nobody waits for.
    private static let batch: Int64 = 32 << 20

    /// Makes a store of a tar archive. Either all of it is there, or no store.
    package func importStore(
        _ new: NewStore, from archive: ArchiveReader, _ rules: ImportRules, by author: Author
    ) throws(RemfsError) -> (store: Store, counts: ImportCounts) {
        var rules = rules
        rules.batch = Self.batch
        var counts = ImportCounts()
        let store = try addStore(new) { (id) throws(RemfsError) in
            let store = try self.openFile(of: id, name: new.name, policy: new.policy, isNew: true)
            counts = try store.take(EntrySource(archive), rules, by: author)
            return store
        }
        return (store, counts)
    }

    /// Makes a store of the file of one, with all its history. The file at `image` is on the disk of the state directory, belongs to nobody
    /// else and is gone afterwards. One that is damaged, or not made as ours are, is refused.
    package func importStore(_ new: NewStore, fromFile image: String) throws(RemfsError) -> Store {
        try addStore(new) { (id) throws(RemfsError) in
            try self.notingImport(of: try StoreImage.check(image), as: id)
            try StoreImage.give(image, to: id)
            guard unsafe rename(image, self.path(of: id)) == 0 else { throw RemfsError.ofSystem("cannot put the imported store in place") }
            return try self.openFile(of: id, name: new.name, policy: new.policy, isNew: false)
        }
    }

    /// Makes a store that is what another one is or was.
    ///
    /// Without its history: each memory begins with one `created` version by `author`, under an ID of its own. With it the file is copied:
    /// every version and who made it, under new IDs. That is possible for now only.
    package func fork(
        _ id: StoreID, at point: StorePoint, as new: NewStore, keepsHistory: Bool, by author: Author
    ) throws(RemfsError) -> Store {
        var new = new
        new.policy = try catalog.store(id).policy
        // Somebody wants to work on it.
        new.policy.access = .readWrite
        guard !keepsHistory else {
            guard point == .now else {
                throw RemfsError(.invalidArgument, "a fork takes the history along only as of now: leave out \"at\" or \"history\"")
            }
            return try withStore(id) { (source) throws(RemfsError) in
                try addStore(new) { (id) throws(RemfsError) in
                    try source.making(.fork, of: nil, as: id, by: author) { () throws(RemfsError) in
                        try source.backup(to: self.path(of: id))
                        try StoreImage.give(self.path(of: id), to: id)
                        return try self.openFile(of: id, name: new.name, policy: new.policy, isNew: false)
                    }
                }
            }
        }
        return try withStore(id) { (source) throws(RemfsError) in
            try addStore(new) { (id) throws(RemfsError) in
                try source.makingOfSnapshot(.fork, at: point, as: id, by: author) { (snapshot) throws(RemfsError) in
                    // What the source holds it may hold: its limits may be younger than its files.
                    var limitless = new.policy
                    limitless.contract = false
                    limitless.maxMemories = .max
                    limitless.maxBytes = nil
                    limitless.maxBytesPerMemory = .max
                    if limitless.secrets == .refuse { limitless.secrets = .warn }
                    let store = try self.openFile(of: id, name: new.name, policy: limitless, isNew: true)
                    var rules = ImportRules()
                    rules.isCopy = true
                    rules.batch = Self.batch
                    _ = try store.take(EntrySource(snapshot), rules, by: author)
                    try store.setRules(new.policy, isArchived: false, name: new.name)
                    return store
                }
            }
        }
    }
}

extension StorePool {
    /// Notes that a store is made of another one's file, which is here: what is redacted there is looked for in this one.
    fileprivate func notingImport(of source: StoreID, as id: StoreID) throws(RemfsError) {
        guard try catalog.contains(source) else { return }
        do throws(RemfsError) {
            try withStore(source) { (store) throws(RemfsError) in
                try store.making(.import, of: nil, as: id, by: Author(.local)) { () throws(RemfsError) in }
            }
        } catch {
            // That one is damaged, perhaps, and this is its backup: no reason not to take it.
            logger.warning("an import is not noted in the store it is of", metadata: ["store": "\(source)", "error": "\(error)"])
        }
    }
}

extension MemoryStore {
    /// As `making`, with the snapshot that it is made of.
    fileprivate func makingOfSnapshot<Answer>(
        _ kind: StoreCopy.Kind, at point: StorePoint, as store: StoreID, by author: Author,
        _ body: (StoreSnapshot) throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        try making(kind, of: point, as: store, by: author) { () throws(RemfsError) in try withSnapshot(at: point, body) }
    }
}

/// Files through which something large passes on its way in or out.
extension StorePool {
    private static let spool = "spool-"

    /// A place on the disk of the stores. What a daemon that was killed has left there goes at the next start.
    package func spoolPath(_ name: String) -> String { "\(directory)/\(Self.spool)\(name)" }

    /// The same, for what is made of a store: a redaction in that takes it away.
    package func spoolPath(_ name: String, of id: StoreID) -> String { "\(directory)/\(Self.spoolName(of: id))\(name)" }

    static func spoolName(of id: StoreID) -> String { "\(spool)\(id)-" }

    static func clearSpool(in directory: String) throws(RemfsError) {
        for name in try names(in: directory) where name.hasPrefix(spool) {
            guard unsafe unlink("\(directory)/\(name)") == 0 || errno == ENOENT else { throw RemfsError.ofSystem("cannot remove \(name)") }
        }
    }
}

/// A store's file that is to become another store's.
enum StoreImage {
    /// Throws `invalidArgument` where it is no store's file, has a schema that is not ours to the letter (a trigger would run with our
    /// rights), or is not sound from end to end; `unsupported` where a newer remfs wrote it.
    ///
    /// Answers which store's it is.
    static func check(_ path: String) throws(RemfsError) -> StoreID {
        let refused = "the file is no store of remfs that can be imported"
        let version: Int
        var store: StoreID?
        do throws(SQLiteError) {
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
            guard try connection.integer("PRAGMA application_id") == Schema.storeApplicationID else {
                throw SQLiteError(code: 26, message: "its application_id is another")
            }
            version = Int(try connection.integer("PRAGMA user_version") ?? 0)
            // What a search made is made again by the next one: it is no part of the schema.
            try connection.execute("DROP TABLE IF EXISTS search")
            if (1...Schema.store.count).contains(version) {
                let own = try Connection(path: ":memory:", mode: .create)
                for migration in Schema.store.prefix(version) { try own.execute(migration) }
                guard try parts(of: connection) == parts(of: own) else { throw SQLiteError(code: 26, message: "its schema is another") }
                let row = try connection.prepare("SELECT value FROM property WHERE name = 'store'")
                defer { row.reset() }
                if try row.step() { store = row.text(0).flatMap { StoreID($0) } }
            }
        } catch {
            switch error.kind {
            case .notADatabase, .corrupted, .constraint, .other: break
            default: throw RemfsError(error, in: "the file to import")
            }
            throw RemfsError(.invalidArgument, "\(refused): \(error.message)")
        }
        guard version <= Schema.store.count else {
            throw RemfsError(
                .unsupported, "the file has schema \(version), this remfs knows \(Schema.store.count): import it with a newer one")
        }
        guard let id = store else { throw RemfsError(.invalidArgument, "\(refused): it does not say which store it is") }
        let diagnosis = try StoreExamination.check(id, name: nil, path: path)
        guard diagnosis.isSound else {
            let first = diagnosis.findings.first.map { ": \($0.kind.rawValue), \($0.message)" } ?? ""
            throw RemfsError(.invalidArgument, "\(refused): it is damaged\(first). Put it in place of its own store and run remfs doctor")
        }
        return id
    }

    /// The statements that made a schema, without SQLite's own tables.
    private static func parts(of connection: Connection) throws(SQLiteError) -> [String] {
        let row = try connection.prepare(
            "SELECT type || ' ' || name || ' ' || ifnull(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1"
        )
        defer { row.reset() }
        var parts: [String] = []
        while try row.step() {
            parts.append((row.text(0) ?? "").split(whereSeparator: \.isWhitespace).joined(separator: " "))
        }
        return parts
    }

    /// Makes the file another store's: its memories and versions have other IDs from then on. No mount's requests are known there.
    static func give(_ path: String, to id: StoreID) throws(RemfsError) {
        try RemfsError.mapping("the file of \(id)") { () throws(SQLiteError) in
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute(
                """
                PRAGMA trusted_schema = OFF; BEGIN IMMEDIATE;
                UPDATE property SET value = '\(id)' WHERE name = 'store';
                DROP TABLE IF EXISTS search;
                DELETE FROM property WHERE name IN ('\(StoreState.searchMark)', '\(StoreState.searchCount)');
                DELETE FROM ledger;
                UPDATE inode SET mount = NULL, request = NULL WHERE mount IS NOT NULL;
                UPDATE extent SET mount = NULL, request = NULL WHERE mount IS NOT NULL;
                """)
            // What was made of the other one, and what kernels know of it. A file of an older remfs has no such tables.
            for table in ["copy", "past"] {
                guard try connection.integer("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '\(table)'") == 1 else {
                    continue
                }
                try connection.execute("DELETE FROM \(table)")
            }
            try connection.execute("COMMIT")
            _ = try connection.checkpoint(.truncate)
        }
    }
}
