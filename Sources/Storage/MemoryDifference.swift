import SQLite

/// What a memory was at a moment, by the version that was its head.
package struct MemoryState: Sendable {
    package let store: StoreID
    package let memory: MemoryID
    package let version: VersionID
    package let path: String
    package let sizeInBytes: Int64
    /// Of the version: when it began.
    package let created: Timestamp
    let digest: Digest?
    let content: Content
    /// Row numbers.
    let memoryNumber: Int64
    let versionNumber: Int64

    /// Reads the columns `number, memory, directory || name, size, digest, content, began` from `column` on; nil where they are NULL.
    init?(_ row: Statement, column: Int32, in store: StoreID) {
        guard let number = row.integerOrNil(column), let path = row.text(column + 2), let size = row.integerOrNil(column + 3) else {
            return nil
        }
        self.store = store
        memoryNumber = row.integer(column + 1)
        versionNumber = number
        memory = MemoryID(store: store, number: memoryNumber)
        version = VersionID(store: store, number: number)
        self.path = path
        sizeInBytes = size
        digest = unsafe size == 0 ? .ofNothing : row.isNull(column + 4) ? nil : row.withBytes(column + 4) { unsafe Digest(bytes: $0) }
        content = Content(row, column: column + 5, size: size)
        created = Timestamp(microseconds: row.integer(column + 6))
    }

    static func columns(of table: String) -> String {
        ["number", "memory", "directory || \(table).name", "size", "digest", "content", "began"].map { "\(table).\($0)" }.joined(
            separator: ", ")
    }

    /// Equal bytes are the same chunks, unless one of them is a hole; and what is over 128 KiB may have no hash yet.
    func hasContent(of other: MemoryState) -> Bool {
        if sizeInBytes != other.sizeInBytes { return false }
        if let digest, let theirs = other.digest { return digest == theirs }
        return store == other.store && content == other.content
    }
}

/// One memory that is not the same at two moments, or in two stores.
package struct MemoryDifference: Sendable {
    package enum Change: String, Sendable, CaseIterable { case created, modified, deleted, renamed }

    /// nil: it was not there.
    package let old: MemoryState?
    /// nil: it is not there.
    package let new: MemoryState?

    /// A memory that has another path is `renamed`, with other content or not.
    package var change: Change {
        guard let old else { return .created }
        guard let new else { return .deleted }
        // In bytes: to a String `é` is `e` and its accent.
        return old.memory != new.memory || old.path.utf8.elementsEqual(new.path.utf8) ? .modified : .renamed
    }

    /// The new path; of a deletion the old one.
    package var path: String { (new ?? old)?.path ?? "" }

    package var changesContent: Bool {
        guard let old, let new else { return true }
        return !old.hasContent(of: new)
    }

    /// Where a page ends: what is sorted by.
    package var key: DifferenceKey { DifferenceKey(path: path, memory: (new ?? old)?.memoryNumber ?? 0) }
}

/// Where a list of differences goes on: the path of the last one, and its memory, since a path may change hands.
package struct DifferenceKey: Sendable, Equatable {
    package let path: String
    package let memory: Int64

    package init(path: String, memory: Int64) {
        self.path = path
        self.memory = memory
    }
}

/// Which memories of a store are meant.
package enum StoreScope: Sendable, Equatable {
    /// Those at or below a path that ends with `/`; `/` is all of them.
    case prefix(String)
    /// Those that are, or were, at exactly this path.
    case path(String)
    case memory(MemoryID)
}

/// What differs between two moments of one store.
enum DifferenceQuery {
    /// By path and memory, those after `key`. The work is that of looking through the versions between the two moments, not through all.
    static func run(
        _ connection: Connection, in store: StoreID, from old: Moment, to new: Moment, _ scope: StoreScope, after key: DifferenceKey? = nil,
        limit: Int = .max
    ) throws(SQLiteError) -> [MemoryDifference] {
        let changed: String
        let inScope: String
        switch scope {
        case .memory:
            changed = "SELECT ?5 AS memory"
            inScope = ""
        case .prefix(let prefix):
            changed = "SELECT DISTINCT memory FROM version WHERE number > ?1 AND number <= ?2"
            let holds = { (table: String) in "substr(\(table).directory || \(table).name, 1, length(?6)) = ?6" }
            inScope = prefix == "/" ? "" : "AND (\(holds("n")) OR \(holds("o")))"
        case .path:
            changed = "SELECT DISTINCT memory FROM version WHERE number > ?1 AND number <= ?2"
            inScope = "AND (n.directory || n.name = ?6 OR o.directory || o.name = ?6)"
        }
        let row = try connection.prepare(
            """
            WITH changed AS (\(changed)), pair AS (
                SELECT memory, (SELECT max(number) FROM version WHERE version.memory = changed.memory AND number <= ?3) AS old,
                    (SELECT max(number) FROM version WHERE version.memory = changed.memory AND number <= ?4) AS new FROM changed)
            SELECT pair.memory, ifnull(n.directory || n.name, o.directory || o.name) AS path,
                \(MemoryState.columns(of: "o")), \(MemoryState.columns(of: "n"))
            FROM pair
            LEFT JOIN version o ON o.number = pair.old AND o.operation <> 2 AND o.name IS NOT NULL
            LEFT JOIN version n ON n.number = pair.new AND n.operation <> 2 AND n.name IS NOT NULL
            WHERE o.number IS NOT n.number AND (path, pair.memory) > (?7, ?8) \(inScope)
                -- Back and forth is no difference.
                AND (o.number IS NULL OR n.number IS NULL OR o.directory || o.name <> n.directory || n.name OR o.size <> n.size
                    OR CASE WHEN o.digest IS NULL OR n.digest IS NULL THEN o.content IS NOT n.content ELSE o.digest <> n.digest END)
            ORDER BY path, pair.memory LIMIT ?9
            """)
        row.bind(min(old.number, new.number), at: 1)
        row.bind(max(old.number, new.number), at: 2)
        row.bind(old.number, at: 3)
        row.bind(new.number, at: 4)
        if case .memory(let memory) = scope { row.bind(memory.number(in: store) ?? 0, at: 5) }
        switch scope {
        case .prefix(let text), .path(let text): row.bind(text, at: 6)
        case .memory: break
        }
        row.bind(key?.path ?? "", at: 7)
        row.bind(key?.memory ?? 0, at: 8)
        row.bind(Int64(limit), at: 9)
        var found: [MemoryDifference] = []
        while try row.step() {
            found.append(MemoryDifference(old: MemoryState(row, column: 2, in: store), new: MemoryState(row, column: 9, in: store)))
        }
        return found
    }
}
