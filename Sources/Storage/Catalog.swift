import Foundation
import Glibc
import SQLite
import Threads

/// One row of the catalog: a store's name and rules. Its memories are in a file of its own.
package struct Store: Sendable {
    package let id: StoreID
    /// Rises with each store made: the tie-break of equal times, and the cursor.
    package let sequence: Int64
    package let name: String
    package let description: String
    package let metadata: Metadata
    package let policy: Policy
    package let created: Timestamp
    package let updated: Timestamp
    package let archived: Timestamp?

    /// As messages name it.
    package var label: String { "store \"\(name)\" (\(id))" }
}

/// Which stores a listing shows; both times are inclusive.
package struct StoreFilter: Sendable {
    package var includeArchived = false
    package var from: Timestamp?
    package var to: Timestamp?
    /// nil: all.
    package var among: Set<StoreID>?

    package init() {}
}

/// The database of what there is: stores and sessions now, dreams and keys later. Small, synced at each change, safe from any thread.
package final class Catalog: Sendable {
    /// Writes, and reads of sessions.
    private let connection: Mutex<Connection>
    /// Reads stores' rows: each request for a memory does, and transcripts are large. nil: in memory, where a second one would see nothing.
    private let storeReader: Mutex<Connection>?
    private let lastTime: Mutex<Int64>
    /// Told of what happens in sessions, in the order of the commits (`Catalog+Sessions`).
    let sessionObserver = Mutex<(@Sendable (SessionChange) -> Void)?>(nil)
    let path: String
    /// Held while the copy is made, and while a redaction cleans up. Taken before the connection's.
    let copying = Mutex<Void>(())
    /// `Connection.totalChanges` when the copy was made; nil: by an earlier process, or never.
    private let copied = Mutex<Int?>(nil)
    static let label = "the catalog"

    package init(path: String, isNew: Bool) throws(RemfsError) {
        let connection = try RemfsError.mapping(Self.label) { () throws(SQLiteError) in
            try Connection(path: path, mode: isNew ? .create : .readWrite)
        }
        try Schema.migrate(
            connection, named: Self.label, application: Schema.catalogApplicationID, migrations: Schema.catalog, isNew: isNew)
        try RemfsError.mapping(Self.label) { () throws(SQLiteError) in
            try connection.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        }
        let latest = try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try connection.integer(Self.latestTime) }
        lastTime = Mutex(latest ?? 0)
        storeReader =
            path == Self.inMemory
            ? nil : Mutex(try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try Connection(path: path, mode: .readWrite) })
        self.path = path
        self.connection = Mutex(connection)
    }

    private static let inMemory = ":memory:"

    /// Writes and reads a catalog that is in memory only: what a process does for the first time takes it some milliseconds.
    static func rehearse() throws(RemfsError) {
        let catalog = try Catalog(path: inMemory, isNew: true)
        _ = try catalog.createStore(StoreID(bits: 1), name: "rehearsal", description: "", metadata: ["a": "b"])
        _ = try catalog.allStores()
        _ = try catalog.names()
    }

    func with<Answer>(_ body: (Connection) throws(SQLiteError) -> Answer) throws(RemfsError) -> Answer {
        try connection.withLock { (connection) throws(RemfsError) in
            try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try body(connection) }
        }
    }

    /// Reads stores' rows, without waiting for what is done to sessions meanwhile.
    private func withStoreReader<Answer>(_ body: (Connection) throws(SQLiteError) -> Answer) throws(RemfsError) -> Answer {
        guard let storeReader else { return try with(body) }
        return try storeReader.withLock { (connection) throws(RemfsError) in
            try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try body(connection) }
        }
    }

    /// Reads as of one moment: nobody else has the connection meanwhile.
    func read<Answer>(_ body: (Connection) throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        try connection.withLock { (connection) throws(RemfsError) in try body(connection) }
    }

    /// Runs `body` in a transaction; `after`, once it is committed, before any other.
    func transaction<Answer>(
        _ body: (Connection) throws(RemfsError) -> Answer, after: (Answer) -> Void = { _ in }
    ) throws(RemfsError) -> Answer {
        try connection.withLock { (connection) throws(RemfsError) in
            do throws(RemfsError) {
                try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try connection.execute("BEGIN IMMEDIATE") }
                let answer = try body(connection)
                try RemfsError.mapping(Self.label) { () throws(SQLiteError) in try connection.execute("COMMIT") }
                after(answer)
                return answer
            } catch {
                // `try?`: SQLite may have rolled back by itself; the first error is the one to tell of.
                if connection.isInTransaction { try? connection.execute("ROLLBACK") }
                throw error
            }
        }
    }

    /// Of what lists go by: a clock that was set back makes no row older than the one before it. Each from an index.
    private static let latestTime = """
        SELECT max(
            coalesce((SELECT created FROM store ORDER BY sequence DESC LIMIT 1), 0), coalesce((SELECT max(created) FROM session), 0),
            coalesce((SELECT processed FROM event ORDER BY sequence DESC LIMIT 1), 0))
        """

    /// Microseconds that never repeat nor run backwards, whatever the clock does.
    package func now() -> Timestamp {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        let microseconds = Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
        return lastTime.withLock { last in
            last = max(microseconds, last + 1)
            return Timestamp(microseconds: last)
        }
    }

    // MARK: Stores

    private static let columns = "id, sequence, name, description, metadata, policy, created, updated, archived"

    /// The row alone; `StorePool.createStore` makes the file first.
    func createStore(
        _ id: StoreID, name: String, description: String, metadata: Metadata, policy: Policy = Policy()
    ) throws(RemfsError) -> Store {
        let metadata = Self.text(of: metadata)
        let policy = try Self.json(policy)
        let time = now().microseconds
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare(
                "INSERT INTO store (id, name, description, metadata, policy, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)")
            row.bind(id.description, at: 1)
            row.bind(name, at: 2)
            row.bind(description, at: 3)
            row.bind(metadata, at: 4)
            row.bind(policy, at: 5)
            row.bind(time, at: 6)
            try row.run()
        }
        return try store(id)
    }

    package func store(_ id: StoreID) throws(RemfsError) -> Store {
        let found = try select("WHERE id = ?1") { $0.bind(id.description, at: 1) }
        guard let store = found.first else { throw RemfsError(.notFound, "memory store \(id) not found") }
        return store
    }

    /// Those of this name, oldest first.
    package func stores(named name: String, includeArchived: Bool = false) throws(RemfsError) -> [Store] {
        try select("WHERE name = ?1 AND (?2 OR archived IS NULL) ORDER BY sequence") {
            $0.bind(name, at: 1)
            $0.bind(includeArchived ? 1 : 0 as Int64, at: 2)
        }
    }

    /// Those whose policy gives old versions up.
    func storesWithRetention() throws(RemfsError) -> [StoreID] {
        try select("WHERE json_extract(policy, '$.retention_days') IS NOT NULL ORDER BY sequence") { _ in }.map(\.id)
    }

    /// Newest first, after the one with these keys.
    package func stores(
        _ filter: StoreFilter, before: (created: Timestamp, sequence: Int64)?, limit: Int
    ) throws(RemfsError) -> [Store] {
        let among = try filter.among.map { (stores) throws(RemfsError) in try Self.json(stores.map(\.description)) }
        return try select(
            """
            WHERE (?1 OR archived IS NULL) AND created >= ?2 AND created <= ?3 AND (created, sequence) < (?4, ?5)
            AND (?7 IS NULL OR id IN (SELECT value FROM json_each(?7)))
            ORDER BY created DESC, sequence DESC LIMIT ?6
            """
        ) {
            $0.bind(filter.includeArchived ? 1 : 0 as Int64, at: 1)
            $0.bind(filter.from?.microseconds ?? .min, at: 2)
            $0.bind(filter.to?.microseconds ?? .max, at: 3)
            $0.bind(before?.created.microseconds ?? .max, at: 4)
            $0.bind(before?.sequence ?? .max, at: 5)
            $0.bind(Int64(limit), at: 6)
            $0.bind(among, at: 7)
        }
    }

    /// All of them, archived ones too.
    func allStores() throws(RemfsError) -> [Store] { try select("ORDER BY sequence") { _ in } }

    /// The IDs of all of them as they stand there: what the files are called. At each start and each take-over, so without all the rest.
    func names() throws(RemfsError) -> Set<String> {
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("SELECT id FROM store")
            var names: Set<String> = []
            while try row.step() { if let name = row.text(0) { names.insert(name) } }
            return names
        }
    }

    /// Whether there is a store of this ID.
    func contains(_ id: StoreID) throws(RemfsError) -> Bool {
        do throws(RemfsError) {
            _ = try store(id)
            return true
        } catch {
            guard error.code == .notFound else { throw error }
            return false
        }
    }

    /// - Parameter among: nil counts all.
    package func count(among: Set<StoreID>? = nil) throws(RemfsError) -> Int {
        guard let among else {
            return try withStoreReader { (connection) throws(SQLiteError) in
                Int(try connection.integer("SELECT count(*) FROM store") ?? 0)
            }
        }
        return try names().intersection(among.map(\.description)).count
    }

    /// nil stays; `metadata` is a patch in which nil removes a key. At most 16 keys may be left (`api.md` 2).
    package func updateStore(
        _ id: StoreID, name: String?, description: String?, metadata: [ExactString: String?]?
    ) throws(RemfsError) -> Store {
        try StoreLimits.check(name: name, description: description, metadata: metadata ?? [:])
        let store = try store(id)
        guard store.archived == nil else { throw RemfsError(.readOnly, "\(store.label) is archived") }
        var merged = store.metadata
        for (key, value) in metadata ?? [:] { merged[key] = value }
        try StoreLimits.check(pairsOf: merged)
        let (name, description) = (name ?? store.name, description ?? store.description)
        // Where nothing changes `updated_at` stays. (Swift's strings are equal where Unicode says so.)
        let keepsMetadata =
            merged.count == store.metadata.count
            && merged.allSatisfy { store.metadata[$0.key]?.utf8.elementsEqual($0.value.utf8) == true }
        if keepsMetadata, name.utf8.elementsEqual(store.name.utf8), description.utf8.elementsEqual(store.description.utf8) { return store }
        let text = Self.text(of: merged)
        try set(id, "name = ?2, description = ?3, metadata = ?4") {
            $0.bind(name, at: 2)
            $0.bind(description, at: 3)
            $0.bind(text, at: 4)
        }
        return try self.store(id)
    }

    func setPolicy(_ id: StoreID, _ policy: Policy) throws(RemfsError) {
        let text = try Self.json(policy)
        // `updated_at` speaks of the name, the description, the metadata and the archive only.
        try set(id, "policy = ?2", touches: false) { $0.bind(text, at: 2) }
    }

    func archiveStore(_ id: StoreID) throws(RemfsError) -> Store {
        let store = try store(id)
        if store.archived == nil { try set(id, "archived = ?5") { _ in } }
        return try self.store(id)
    }

    /// Binds the time of the change as ?5.
    private func set(
        _ id: StoreID, _ assignments: String, touches: Bool = true, _ bind: (Statement) -> Void
    ) throws(RemfsError) {
        let time = now().microseconds
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare(
                "UPDATE store SET \(assignments), updated = CASE WHEN ?6 THEN ?5 ELSE updated END WHERE id = ?1")
            row.bind(id.description, at: 1)
            row.bind(time, at: 5)
            row.bind(touches ? 1 : 0 as Int64, at: 6)
            bind(row)
            try row.run()
        }
    }

    func deleteStore(_ id: StoreID) throws(RemfsError) {
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("DELETE FROM store WHERE id = ?1")
            row.bind(id.description, at: 1)
            try row.run()
        }
    }

    private func select(_ condition: String, _ bind: (Statement) -> Void) throws(RemfsError) -> [Store] {
        let rows = try withStoreReader { (connection) throws(SQLiteError) in
            let row = try connection.prepare("SELECT \(Self.columns) FROM store \(condition)")
            bind(row)
            var rows: [(String, Int64, String, String, String, String, Int64, Int64, Int64?)] = []
            while try row.step() {
                rows.append(
                    (
                        row.text(0) ?? "", row.integer(1), row.text(2) ?? "", row.text(3) ?? "", row.text(4) ?? "", row.text(5) ?? "",
                        row.integer(6), row.integer(7), row.integerOrNil(8)
                    ))
            }
            return rows
        }
        var stores: [Store] = []
        for row in rows {
            guard let id = StoreID(row.0) else { throw RemfsError(.corrupted, "the catalog names a store by \(row.0)") }
            stores.append(
                Store(
                    id: id, sequence: row.1, name: row.2, description: row.3, metadata: try Self.metadata(row.4),
                    policy: try Self.decoded(row.5),
                    created: Timestamp(microseconds: row.6), updated: Timestamp(microseconds: row.7),
                    archived: row.8.map { Timestamp(microseconds: $0) }))
        }
        return stores
    }

    static func json(_ value: some Encodable) throws(RemfsError) -> String {
        do {
            return String(decoding: try JSONEncoder().encode(value), as: UTF8.self)
        } catch {
            throw RemfsError(.internal, "cannot write a row of the catalog", cause: "\(error)")
        }
    }

    static func decoded<Value: Decodable>(_ text: String) throws(RemfsError) -> Value {
        do {
            return try JSONDecoder().decode(Value.self, from: Data(text.utf8))
        } catch {
            throw RemfsError(.corrupted, "cannot read a row of the catalog", cause: "\(error)")
        }
    }

    // MARK: What a doctor asks

    /// What SQLite's own check says; empty: nothing.
    func problems() throws(RemfsError) -> [String] {
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("PRAGMA integrity_check(20)")
            defer { row.reset() }
            var lines: [String] = []
            while try row.step() { if let line = row.text(0), line != "ok" { lines.append(line) } }
            return lines
        }
    }

    /// A row as it stands, read or not.
    struct RawRow {
        let sequence: Int64
        let id: String
        let name: String
        let isReadable: Bool
    }

    func rawRows() throws(RemfsError) -> [RawRow] {
        let rows = try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("SELECT sequence, id, name, metadata, policy FROM store ORDER BY sequence")
            defer { row.reset() }
            var rows: [(Int64, String, String, String, String)] = []
            while try row.step() {
                rows.append((row.integer(0), row.text(1) ?? "", row.text(2) ?? "", row.text(3) ?? "", row.text(4) ?? ""))
            }
            return rows
        }
        return rows.map { sequence, id, name, metadata, policy in
            do throws(RemfsError) {
                _ = try Self.metadata(metadata)
                let _: Policy = try Self.decoded(policy)
            } catch {
                return RawRow(sequence: sequence, id: id, name: name, isReadable: false)
            }
            return RawRow(sequence: sequence, id: id, name: name, isReadable: true)
        }
    }

    /// Gives a row what cannot be read of it: no metadata, a new store's rules.
    func resetRow(_ sequence: Int64) throws(RemfsError) {
        let policy = try Self.json(Policy())
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("UPDATE store SET metadata = '{}', policy = ?2 WHERE sequence = ?1")
            row.bind(sequence, at: 1)
            row.bind(policy, at: 2)
            try row.run()
        }
    }

    func deleteRow(_ sequence: Int64) throws(RemfsError) {
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("DELETE FROM store WHERE sequence = ?1")
            row.bind(sequence, at: 1)
            try row.run()
        }
    }

    func keep(at place: String) throws(RemfsError) {
        try with { (connection) throws(SQLiteError) in try connection.backup(to: place) }
    }

    func makeIndexes() throws(RemfsError) { try with { (connection) throws(SQLiteError) in try connection.execute("REINDEX") } }

    /// Makes the copy anew, whether or not anything has changed.
    func renewCopy() throws(RemfsError) {
        copied.withLock { $0 = nil }
        _ = try copyIfChanged()
    }

    /// A copy was made by this process.
    var hasCopied: Bool { copied.withLock { $0 != nil } }

    // MARK: Its copy

    /// 64 MiB: copied and checked in a few tenths of a second.
    private static let mostWhenStopping: Int64 = 64 << 20

    /// What the catalog is restored from (`Operations.md`).
    static func copy(of path: String) -> String { path + ".backup" }

    /// Renews the copy if anything has changed since it was made, and answers whether. The old one stays until the new one is whole and
    /// on the disk, and a damaged catalog never takes its place. Others go on meanwhile.
    ///
    /// - Parameter isStopping: then a catalog that has grown large, with transcripts, keeps the copy that it has: nobody is to wait so long.
    func copyIfChanged(isStopping: Bool = false) throws(RemfsError) -> Bool {
        if isStopping, hasCopied, StorePool.allocatedBytes(of: path) > Self.mostWhenStopping { return false }
        return try copying.withLock { _ throws(RemfsError) in
            // What a kill left of one, or a full disk.
            if !isStopping { try finishRedactions(patience: 0) }
            let changes = connection.withLock { $0.totalChanges }
            guard copied.withLock({ $0 != changes }) else { return false }
            try makeCopy()
            return true
        }
    }

    var directory: String { String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]) }

    /// With the lock `copying` held.
    func makeCopy() throws(RemfsError) {
        let changes = connection.withLock { $0.totalChanges }
        let copy = Self.copy(of: path)
        let new = copy + ".new"
        guard unsafe unlink(new) == 0 || errno == ENOENT else { throw RemfsError.ofSystem("cannot write \(new)") }
        do throws(RemfsError) {
            try RemfsError.mapping(Self.label) { () throws(SQLiteError) in
                let connection = try Connection(path: path, mode: .readWrite)
                if try connection.integer("SELECT 1 FROM pragma_quick_check WHERE quick_check <> 'ok'") != nil {
                    throw SQLiteError(code: 11, message: "the copy of before stays")
                }
                // SQLite syncs what it copies.
                try connection.backup(to: new)
            }
            guard unsafe rename(new, copy) == 0 else { throw RemfsError.ofSystem("cannot write \(copy)") }
            try StorePool.synchronizeDirectory(directory)
        } catch {
            // Left behind it is overwritten by the next try.
            _ = unsafe unlink(new)
            throw error
        }
        copied.withLock { $0 = changes }
    }

    func close() throws(RemfsError) {
        try with { (connection) throws(SQLiteError) in _ = try connection.checkpoint(.truncate) }
    }
}
