import SQLite
import Threads

/// The full-text index of a store: heads only, made at the first search, brought up to date before each answer and in quiet times.
///
/// It is written by nobody's save. A document is a version, under its number; what is not a head any more is passed over when it is found,
/// so nothing is ever taken out of it, and it is made anew once most of it is of the past. It keeps no text (FTS5 `content=''`): the
/// words alone, and where they stand.
extension StoreState {
    /// The property that says up to which version the index has looked; there while there is an index.
    static let searchMark = "searched"
    /// Documents that were put into the index since it was made.
    static let searchCount = "search_documents"
    /// What the index is told of a memory: what JSON can show (`Wire.text`), the same limit.
    static let longestIndexed: Int64 = 1 << 20
    /// Letters are compared without case and accents.
    static let tokenizer = "unicode61 remove_diacritics 2"

    static let makeSearchIndex = """
        CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(path, text, content='', tokenize='\(tokenizer)')
        """

    /// A head as the index takes it in.
    struct Document: Sendable {
        let version: Int64
        let path: String
        let text: [UInt8]
    }

    /// Takes the index away, in the caller's transaction: the next search makes a new one.
    func dropSearchIndex() throws(SQLiteError) {
        guard searchedUpTo != nil else { return }
        try writer.execute("DROP TABLE IF EXISTS search")
        try setSearch(upTo: 0, documents: 0)
    }

    /// After the caller's commit.
    func didDropSearchIndex() { if searchedUpTo != nil { searchedUpTo = 0 } }

    private func setSearch(upTo version: Int64, documents: Int64) throws(SQLiteError) {
        for (name, value) in [(Self.searchMark, version), (Self.searchCount, documents)] {
            statements.setProperty.bind(name, at: 1)
            statements.setProperty.bind(value, at: 2)
            try statements.setProperty.run()
        }
    }

    /// Takes documents in, and notes that all versions up to `version` have been looked at.
    ///
    /// - Parameter after: up to where the caller had read; where the index is at another place by now, nothing happens.
    func index(_ documents: [Document], after: Int64, upTo version: Int64) throws(RemfsError) {
        guard (searchedUpTo ?? 0) == after else { return }
        try commit { () throws(SQLiteError) in
            if after == 0 { try writer.execute(Self.makeSearchIndex) }
            let row = try statements.cached("INSERT INTO search (rowid, path, text) VALUES (?1, ?2, ?3)")
            for document in documents {
                row.bind(document.version, at: 1)
                row.bind(document.path, at: 2)
                row.bind(text: document.text, at: 3)
                try row.run()
            }
            let before = try writer.integer("SELECT value FROM property WHERE name = '\(Self.searchCount)'") ?? 0
            try setSearch(upTo: version, documents: before + Int64(documents.count))
        }
        searchedUpTo = version
        // Its pages are many: the journal is to be moved sooner.
        uncheckpointed += documents.count
    }

    /// Begins the index anew where less than one in `factor` of its documents is a head.
    func renewSearchIndex(factor: Int64) throws(RemfsError) {
        guard searchedUpTo ?? 0 > 0 else { return }
        let count = try query { () throws(SQLiteError) in
            let row = try statements.cached("SELECT value FROM property WHERE name = '\(Self.searchCount)'")
            defer { row.reset() }
            return try row.step() ? row.integer(0) : 0
        }
        // 1,000: a small index is not worth the trouble.
        guard count > 1_000 + factor * Int64(memoryInodes.count) else { return }
        try commit { () throws(SQLiteError) in try dropSearchIndex() }
        didDropSearchIndex()
    }
}

extension MemoryStore {
    /// As long as a search waits for the index to take in what has changed: 10,000 memories of 2 KB are new to it within that.
    static let patienceWithIndex: Int64 = 10_000_000_000
    /// What one transaction of the index takes in: it holds the store's lock for about 3 ms.
    private static let documentsAtOnce = 32
    private static let bytesAtOnce = 96 << 10

    /// Finds memories that have all words and phrases of a query, the best first. Never older than what was sealed before the call.
    ///
    /// - Parameters:
    ///   - prefix: `/`, or a directory with a trailing `/`.
    ///   - place: how many hits to pass over.
    /// - Returns: up to `limit` hits, and whether there may be more.
    /// - Throws: `unavailable` while an index of very many memories is being made.
    package func search(
        _ query: SearchQuery, under prefix: String, after place: Int, limit: Int
    ) throws(RemfsError) -> (hits: [SearchHit], hasMore: Bool) {
        try settleForReading()
        let deadline = StoreState.monotonic() + Self.patienceWithIndex
        try makeIndex()
        guard try catchUpIndex(renewing: 10, goesOn: { StoreState.monotonic() < deadline }) else {
            environment.schedule(id, false)
            throw RemfsError(.unavailable, "the search index of \(state.withLock { $0.label }) is being made: ask again in a moment")
        }
        let found = try find(query, under: prefix, after: place, limit: limit + 1)
        var hits: [SearchHit] = []
        let snippets = try Snippets(query, label: state.withLock { $0.label })
        for hit in found.prefix(limit) {
            // Gone or changed since: what it was is no answer any more.
            let memory = try look { (state) throws(RemfsError) -> Memory? in
                guard let place = state.memoryInodes[hit.memory], let inode = state.inodes[place], inode.head?.version == hit.version else {
                    return nil
                }
                return state.memory(inode)
            }
            guard let memory else { continue }
            let (snippet, highlights) = try snippets.snippet(path: hit.path, text: hit.text)
            hits.append(SearchHit(memory: try complete(memory), snippet: snippet, highlights: highlights, score: hit.score))
        }
        return (hits, found.count > limit)
    }

    private struct Found: Sendable {
        let version: Int64
        let memory: Int64
        let path: String
        let text: [UInt8]
        let score: Double
    }

    private func find(_ query: SearchQuery, under prefix: String, after place: Int, limit: Int) throws(RemfsError) -> [Found] {
        try readers.snapshot { (reader) throws(SQLiteError) in
            // A store without a version has no index either.
            guard try reader.connection.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'search'") == 1 else { return [] }
            let row = try reader.connection.prepare(
                """
                SELECT version.number, version.memory, version.directory || version.name, version.content, version.size,
                    CAST(-search.rank * 1000000 AS INTEGER)
                FROM search JOIN version ON version.number = search.rowid
                WHERE search MATCH ?1 AND version.ended IS NULL AND version.operation <> 2 AND version.redacted IS NULL
                    AND (?2 = '/' OR substr(version.directory, 1, length(?2)) = ?2)
                ORDER BY search.rank, version.number LIMIT ?3 OFFSET ?4
                """)
            row.bind(query.expression, at: 1)
            row.bind(prefix, at: 2)
            row.bind(Int64(limit), at: 3)
            row.bind(Int64(place), at: 4)
            var found: [Found] = []
            while try row.step() {
                let size = row.integer(4)
                let text = try reader.bytes(of: Content(row, column: 3, size: size), size: size)
                found.append(
                    Found(
                        version: row.integer(0), memory: row.integer(1), path: row.text(2) ?? "", text: text,
                        score: Double(row.integer(5)) / 1_000_000))
            }
            return found
        }
    }

    // MARK: Bringing it up to date

    /// From now on the store has an index: until the first search nobody pays for one.
    private func makeIndex() throws(RemfsError) {
        try state.withLock { (state) throws(RemfsError) in
            if state.isDeleted { throw RemfsError(.gone, "\(state.label) was deleted") }
            guard state.searchedUpTo == nil else { return }
            let hasFTS = try state.query { () throws(SQLiteError) in
                try state.writer.integer("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'") ?? 0
            }
            guard hasFTS > 0 else {
                throw RemfsError(.unsupported, "this machine's SQLite was built without FTS5, so nothing can be searched")
            }
            state.searchedUpTo = 0
        }
    }

    /// Has the index take in what was sealed since it was last looked at, bit by bit. Answers whether it is up to date.
    ///
    /// - Parameters:
    ///   - factor: it is made anew where less than one in so many of its documents is a head.
    ///   - goesOn: asked before each transaction.
    func catchUpIndex(renewing factor: Int64 = 2, goesOn: () -> Bool) throws(RemfsError) -> Bool {
        let isBehind = state.withLock { state in state.searchedUpTo.map { $0 < state.lastVersion } ?? false }
        guard isBehind else { return true }
        environment.willBlock()
        return try indexing.withLock { _ throws(RemfsError) in
            try state.withLock { (state) throws(RemfsError) in try state.renewSearchIndex(factor: factor) }
            // What is sealed from here on is the next one's.
            let goal = state.withLock { $0.lastVersion }
            var batches = 0
            while true {
                let after = state.withLock { $0.searchedUpTo ?? goal }
                guard after < goal else { return true }
                guard goesOn() else { return false }
                let (documents, upTo) = try documents(after: after, upTo: goal)
                try state.withLock { (state) throws(RemfsError) in try state.index(documents, after: after, upTo: upTo) }
                batches += 1
                if batches % 64 == 0 { environment.schedule(id, true) }
            }
        }
    }

    /// Heads after a version, as many as one transaction takes, and up to which version there are no more.
    private func documents(after: Int64, upTo goal: Int64) throws(RemfsError) -> (documents: [StoreState.Document], upTo: Int64) {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare(
                """
                SELECT number, directory || name, content, size FROM version
                WHERE number > ?1 AND number <= ?2 AND ended IS NULL AND operation <> 2 AND redacted IS NULL ORDER BY number
                """)
            row.bind(after, at: 1)
            row.bind(goal, at: 2)
            defer { row.reset() }
            var documents: [StoreState.Document] = []
            var bytes = 0
            while try row.step() {
                let (number, size) = (row.integer(0), row.integer(3))
                guard size <= StoreState.longestIndexed else { continue }
                let text: [UInt8]
                do throws(SQLiteError) {
                    text = try reader.bytes(of: Content(row, column: 2, size: size), size: size)
                } catch {
                    // One that is damaged is not found; the others are.
                    guard error.kind == .corrupted else { throw error }
                    continue
                }
                guard String(validating: text, as: UTF8.self) != nil else { continue }
                documents.append(StoreState.Document(version: number, path: row.text(1) ?? "", text: text))
                bytes += text.count
                if documents.count == Self.documentsAtOnce || bytes >= Self.bytesAtOnce { return (documents, number) }
            }
            return (documents, goal)
        }
    }
}

/// Finds the place in a text that a query means. The index holds no text, so each page of hits is indexed once more, in memory.
private struct Snippets {
    private let connection: Connection
    private let insert: Statement
    private let select: Statement
    private let clear: Statement
    private let label: String

    /// Around what was found, and nothing that a text has: control characters are taken out of it first.
    private static let begin: Unicode.Scalar = "\u{2}"
    private static let end: Unicode.Scalar = "\u{3}"
    /// As many words as a snippet has at most.
    private static let words = 24

    init(_ query: SearchQuery, label: String) throws(RemfsError) {
        self.label = label
        (connection, insert, select, clear) = try RemfsError.mapping(label) { () throws(SQLiteError) in
            let connection = try Connection(path: ":memory:", mode: .create, isPrivate: false)
            try connection.execute("CREATE VIRTUAL TABLE hit USING fts5(path, text, tokenize='\(StoreState.tokenizer)')")
            let select = try connection.prepare(
                "SELECT snippet(hit, 1, char(2), char(3), '...', \(Self.words)) FROM hit WHERE hit MATCH ?1")
            select.bind(query.expression, at: 1)
            return (
                connection, try connection.prepare("INSERT INTO hit (rowid, path, text) VALUES (1, ?1, ?2)"), select,
                try connection.prepare("DELETE FROM hit")
            )
        }
    }

    func snippet(path: String, text: [UInt8]) throws(RemfsError) -> (String, [Range<Int>]) {
        let marked = try RemfsError.mapping(label) { () throws(SQLiteError) -> String in
            insert.bind(path, at: 1)
            insert.bind(text: text.map { $0 < 0x20 && $0 != 0x0A && $0 != 0x09 ? 0x20 : $0 }, at: 2)
            try insert.run()
            defer { select.reset() }
            let snippet = try select.step() ? select.text(0) ?? "" : ""
            select.reset()
            try clear.run()
            return snippet
        }
        var plain = String.UnicodeScalarView()
        var count = 0
        var from = 0
        var highlights: [Range<Int>] = []
        for scalar in marked.unicodeScalars {
            switch scalar {
            case Self.begin: from = count
            case Self.end: highlights.append(from..<count)
            default:
                plain.append(scalar)
                count += 1
            }
        }
        return (String(plain), highlights)
    }
}
