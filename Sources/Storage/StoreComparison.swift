import SQLite

/// Two moments of one store, or of two, side by side.
///
/// What is in memory at a time is a page of differences and two contents. Its methods block; safe from any thread.
package final class StoreComparison: Sendable {
    private let old: MemoryStore
    private let new: MemoryStore
    private let from: Moment
    private let to: Moment
    private let scope: StoreScope

    /// 1 MiB, of each of two contents: longer ones are said to differ, as are those that are no text.
    package static let longestText: Int64 = 1 << 20
    /// 4 MiB: of contents that one page compares line by line.
    package static let bytesPerPage: Int64 = 4 << 20
    /// Of a tree that is compared with another, read at a time.
    private static let rowsAtOnce = 500

    /// Compares `old` at `from` with `new` at `to`, which may be the same store.
    ///
    /// - Parameter from: nil: the version before the one that the one memory in `scope` has at `to`.
    package init(
        _ old: MemoryStore, at from: StorePoint?, with new: MemoryStore, at to: StorePoint, _ scope: StoreScope
    ) throws(RemfsError) {
        self.old = old
        self.new = new
        try new.settleForReading()
        let end = try new.readers.browse { (reader) throws(RemfsError) in try new.moment(to, reader) }
        var scope = scope
        let start: Moment
        if let from {
            if old !== new { try old.settleForReading() }
            start = try old.readers.browse { (reader) throws(RemfsError) in try old.moment(from, reader) }
        } else {
            guard old === new else { throw RemfsError(.internal, "a comparison of two stores begins nowhere") }
            let (memory, moment) = try new.readers.browse { (reader) throws(RemfsError) in try new.previous(of: scope, at: end, reader) }
            scope = .memory(memory)
            start = moment
        }
        self.scope = scope
        self.from = start
        self.to = end
        try old.readers.browse { (reader) throws(RemfsError) in try old.requireHistory(at: start, scope, reader.connection) }
        try new.readers.browse { (reader) throws(RemfsError) in try new.requireHistory(at: end, scope, reader.connection) }
    }

    // MARK: Pages

    /// The differences after `key`, by path: at most `limit`, and whether there are more.
    package func page(after key: DifferenceKey?, limit: Int) throws(RemfsError) -> (items: [MemoryDifference], next: DifferenceKey?) {
        if old === new {
            let found = try old.readers.browse { (reader) throws(RemfsError) in
                try RemfsError.mapping("store \(self.old.id)") { () throws(SQLiteError) in
                    try DifferenceQuery.run(
                        reader.connection, in: self.old.id, from: self.from, to: self.to, self.scope, after: key, limit: limit + 1)
                }
            }
            return Self.page(of: found, limit)
        }
        return try pageOfTwo(after: key, limit: limit)
    }

    /// Walks through both trees in the order of directories and names, which is that of the index.
    private func pageOfTwo(
        after key: DifferenceKey?, limit: Int
    ) throws(RemfsError) -> (items: [MemoryDifference], next: DifferenceKey?) {
        let left = TreeRows(old, at: from, scope, after: key?.path)
        let right = TreeRows(new, at: to, scope, after: key?.path)
        var found: [MemoryDifference] = []
        var one = try left.next()
        var other = try right.next()
        // One more than are shown: else a page could be followed by one with nothing on it.
        while found.count <= limit, one != nil || other != nil {
            let order = Self.order(one, other)
            let difference = MemoryDifference(old: order <= 0 ? one : nil, new: order >= 0 ? other : nil)
            if let old = difference.old, let new = difference.new {
                if try !isSame(old, new) { found.append(difference) }
            } else {
                found.append(difference)
            }
            if order <= 0 { one = try left.next() }
            if order >= 0 { other = try right.next() }
        }
        return Self.page(of: found, limit)
    }

    private static func page(of found: [MemoryDifference], _ limit: Int) -> (items: [MemoryDifference], next: DifferenceKey?) {
        let shown = found.prefix(limit)
        return (Array(shown), found.count > limit ? shown.last?.key : nil)
    }

    /// Below 0: the first comes alone; 0: both are at one path.
    private static func order(_ one: MemoryState?, _ other: MemoryState?) -> Int {
        guard let one else { return 1 }
        guard let other else { return -1 }
        let (left, right) = (StoreState.split(one.path), StoreState.split(other.path))
        let isSameDirectory = left.directory.utf8.elementsEqual(right.directory.utf8)
        if isSameDirectory, left.name.utf8.elementsEqual(right.name.utf8) { return 0 }
        let precedes =
            isSameDirectory
            ? left.name.utf8.lexicographicallyPrecedes(right.name.utf8)
            : left.directory.utf8.lexicographicallyPrecedes(right.directory.utf8)
        return precedes ? -1 : 1
    }

    private func isSame(_ one: MemoryState, _ other: MemoryState) throws(RemfsError) -> Bool {
        guard one.sizeInBytes == other.sizeInBytes else { return false }
        return try digest(of: one) == digest(of: other)
    }

    // MARK: Contents

    private func store(of state: MemoryState) -> MemoryStore { state.store == old.id ? old : new }

    private func digest(of state: MemoryState) throws(RemfsError) -> Digest {
        if let digest = state.digest { return digest }
        return try store(of: state).readers.snapshot { (reader) throws(SQLiteError) in
            try reader.digest(of: state.content, size: state.sizeInBytes)
        }
    }

    /// Lower-case hex, whatever the size.
    package func contentSHA256(of state: MemoryState) throws(RemfsError) -> String { try digest(of: state).hex }

    /// How many bytes a line-by-line comparison has to read.
    package static func cost(of difference: MemoryDifference) -> Int64 {
        guard difference.changesContent else { return 0 }
        let sizes = [difference.old, difference.new].compactMap { $0?.sizeInBytes }
        return sizes.contains { $0 > longestText } ? 0 : sizes.reduce(0, +)
    }

    /// The texts of both sides; nil where they are no text, or too long for one.
    private func texts(of difference: MemoryDifference) throws(RemfsError) -> (old: [UInt8], new: [UInt8])? {
        let sides = [difference.old, difference.new]
        guard sides.allSatisfy({ $0.map { $0.sizeInBytes <= Self.longestText } ?? true }) else { return nil }
        var texts: [[UInt8]] = []
        for side in sides {
            guard let side else {
                texts.append([])
                continue
            }
            let bytes = try store(of: side).readers.snapshot { (reader) throws(SQLiteError) in
                try reader.bytes(of: side.content, size: side.sizeInBytes)
            }
            guard !bytes.contains(0), String(validating: bytes, as: UTF8.self) != nil else { return nil }
            texts.append(bytes)
        }
        return (texts[0], texts[1])
    }

    /// Line by line; empty where the content is the same, nil where it is no text.
    package func hunks(of difference: MemoryDifference) throws(RemfsError) -> [LineDiff.Hunk]? {
        guard difference.changesContent else { return [] }
        return try texts(of: difference).map { LineDiff.hunks($0.old, $0.new) }
    }

    /// The same as a patch, which patch(1) applies with `-p1`. A new path is told as git does it.
    package func patch(of difference: MemoryDifference, _ written: (MemoryState) -> String) throws(RemfsError) -> [UInt8] {
        var patch: [UInt8] = []
        if difference.change == .renamed, let old = difference.old, let new = difference.new {
            patch += "rename from \(old.path)\nrename to \(new.path)\n".utf8
        }
        guard difference.changesContent else { return patch }
        let names = [difference.old, difference.new].map { $0.map(written) ?? "/dev/null" }
        guard let texts = try texts(of: difference) else {
            let paths = [difference.old, difference.new].map { $0?.path ?? "/dev/null" }
            return patch + Array("Binary files \(paths[0]) and \(paths[1]) differ\n".utf8)
        }
        let lines = LineDiff.unifiedBytes(texts.old, texts.new, oldName: names[0], newName: names[1])
        // An empty memory that came or went has no line to show.
        return patch + (lines.isEmpty ? Array("--- \(names[0])\n+++ \(names[1])\n".utf8) : lines)
    }
}

/// The memories of a store at a moment, in the order of directories and names, some hundred at a time.
private final class TreeRows {
    private let store: MemoryStore
    private let moment: Moment
    private let scope: StoreScope
    private var after: (directory: String, name: String)
    private var rows: ArraySlice<MemoryState> = []
    private var isDone = false

    init(_ store: MemoryStore, at moment: Moment, _ scope: StoreScope, after path: String?) {
        self.store = store
        self.moment = moment
        self.scope = scope
        after = path.map { StoreState.split($0) } ?? ("", "")
    }

    func next() throws(RemfsError) -> MemoryState? {
        if rows.isEmpty, !isDone { try fill() }
        return rows.popFirst()
    }

    private func fill() throws(RemfsError) {
        // Directories below `/a/` are those from there up to, and without, `/a0`: `0` follows `/`.
        let (condition, low, high) =
            switch scope {
            case .prefix("/"): ("", "", "")
            case .prefix(let prefix): ("AND directory >= ?5 AND directory < ?6", prefix, String(prefix.dropLast()) + "0")
            case .path(let path): ("AND directory = ?5 AND name = ?6", StoreState.split(path).directory, StoreState.split(path).name)
            case .memory(let memory): ("AND memory = ?5 + 0", "\(memory.number(in: store.id) ?? 0)", "")
            }
        let found = try store.readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare(
                """
                SELECT \(MemoryState.columns(of: "version")) FROM version
                WHERE began <= ?1 AND (ended IS NULL OR ended > ?1) AND operation <> 2 AND (directory, name) > (?2, ?3) \(condition)
                ORDER BY directory, name LIMIT ?4
                """)
            row.bind(moment.time, at: 1)
            row.bind(after.directory, at: 2)
            row.bind(after.name, at: 3)
            row.bind(500, at: 4)
            row.bind(low, at: 5)
            row.bind(high, at: 6)
            var found: [MemoryState] = []
            while try row.step() { if let state = MemoryState(row, column: 0, in: store.id) { found.append(state) } }
            return found
        }
        rows = found[...]
        if let last = found.last { after = StoreState.split(last.path) } else { isDone = true }
    }
}

extension MemoryStore {
    /// The memory that a scope names, and the moment of the version before the one that it had at `moment`.
    fileprivate func previous(of scope: StoreScope, at moment: Moment, _ reader: Reader) throws(RemfsError) -> (MemoryID, Moment) {
        let found = try RemfsError.mapping("store \(id)") { () throws(SQLiteError) -> (memory: Int64, number: Int64)? in
            let row: Statement
            switch scope {
            case .prefix: return nil
            case .memory(let memory):
                row = try reader.connection.prepare(
                    "SELECT memory, number FROM version WHERE memory = ?1 AND number <= ?2 ORDER BY number DESC LIMIT 1")
                row.bind(memory.number(in: self.id) ?? 0, at: 1)
            case .path(let path):
                row = try reader.connection.prepare(
                    "SELECT memory, number FROM version WHERE directory = ?1 AND name = ?3 AND number <= ?2 ORDER BY number DESC LIMIT 1")
                row.bind(StoreState.split(path).directory, at: 1)
                row.bind(StoreState.split(path).name, at: 3)
            }
            row.bind(moment.number, at: 2)
            defer { row.reset() }
            return try row.step() ? (row.integer(0), row.integer(1)) : nil
        }
        guard let found else {
            if case .prefix = scope { throw RemfsError(.invalidArgument, "a moment to compare from is required: \"from\"") }
            throw RemfsError(.notFound, "there was no such memory in store \(id)")
        }
        let before = try RemfsError.mapping("store \(id)") { () throws(SQLiteError) -> Moment in
            let row = try reader.connection.prepare(
                "SELECT number, began FROM version WHERE memory = ?1 AND number < ?2 ORDER BY number DESC LIMIT 1")
            row.bind(found.memory, at: 1)
            // The last that it has at the moment, under whatever path.
            row.bind(found.number, at: 2)
            defer { row.reset() }
            return try row.step() ? Moment(number: row.integer(0), time: row.integer(1)) : .start
        }
        return (MemoryID(store: id, number: found.memory), before)
    }
}
