import Glibc
import SQLite
import Threads

/// Giving up old versions and giving their room back to the disk.
extension MemoryStore {
    /// Versions of one transaction: the lock is held for a few milliseconds.
    private static let versionsAtOnce = 64
    private static let pagesAtOnce: Int64 = 256

    /// Keeps a version whatever the policy's `retention_days` says, or no longer.
    package func pin(_ version: VersionID, _ isPinned: Bool) throws(RemfsError) -> MemoryVersion {
        guard let number = version.number(in: id) else { throw RemfsError(.notFound, "version \(version) not found") }
        try settle()
        try change { (state) throws(RemfsError) in try state.pin(number, isPinned) }
        try synchronizeNow()
        return try self.version(version)
    }

    /// Applies the policy's retention and makes the file as small as what it holds. Others go on meanwhile.
    ///
    /// - Parameter isDryRun: nothing changes; the answer says what would.
    package func collectGarbage(isDryRun: Bool) throws(RemfsError) -> GarbageCollection {
        try settle()
        let doomed = try doomedVersions()
        var result = try account(of: doomed)
        result.fileBytesBefore = fileBytes
        result.fileBytesAfter = result.fileBytesBefore
        guard !isDryRun else { return result }
        try prune(doomed.map(\.number))
        while try state.withLock({ (state) throws(RemfsError) in try state.encodeDeltas(atMost: 4) }) {}
        var rounds = 0
        while try state.withLock({ (state) throws(RemfsError) in try state.freeAnyPages(atMost: Self.pagesAtOnce) }) {
            rounds += 1
            // Each page that moves is in the journal first.
            if rounds % 16 == 0 { try checkpoint() }
        }
        do throws(RemfsError) {
            try emptyJournal(patience: 1_000_000_000)
        } catch {
            // Somebody reads from it: the file is cut by a later checkpoint.
            guard error.code == .busy else { throw error }
            environment.schedule(id, true)
        }
        result.fileBytesAfter = fileBytes
        return result
    }

    /// Applies the policy's retention alone, as upkeep does once a day; the pages that it frees are given back in quiet times.
    func applyRetention() throws(RemfsError) {
        guard state.withLock({ $0.policy.retentionDays != nil && !$0.isDeleted }) else { return }
        try settle()
        try prune(try doomedVersions().map(\.number))
    }

    private var fileBytes: Int64 {
        [path, path + "-wal"].reduce(0) { sum, path in
            var status = stat()
            return unsafe sum + (stat(path, &status) == 0 ? Int64(status.st_size) : 0)
        }
    }

    // MARK: What goes

    private struct Doomed {
        let number: Int64
        /// Whether nothing of its memory stays.
        let isOfForgotten: Bool
    }

    /// Oldest first: what is a delta is a delta of what came later.
    private func doomedVersions() throws(RemfsError) -> [Doomed] {
        let (cutoff, newest) = state.withLock { state -> (Int64?, Int64) in
            (state.policy.retentionDays.map { state.now() / 1_000 - Int64($0) * 86_400_000_000 }, state.lastVersion)
        }
        guard let cutoff else { return [] }
        return try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare(
                "SELECT memory, number, began, pinned IS NOT NULL, operation FROM version ORDER BY memory, number")
            var doomed: [Doomed] = []
            var memory: Int64 = 0
            var versions: [Retention.Row] = []
            func judge() {
                let numbers = Retention.doomed(versions, before: cutoff, newest: newest)
                doomed += numbers.map { Doomed(number: $0, isOfForgotten: numbers.count == versions.count) }
                versions.removeAll(keepingCapacity: true)
            }
            while try row.step() {
                if row.integer(0) != memory { judge() }
                memory = row.integer(0)
                versions.append(
                    Retention.Row(
                        number: row.integer(1), began: row.integer(2), isPinned: row.integer(3) == 1, isDeletion: row.integer(4) == 2))
            }
            judge()
            return doomed.sorted { $0.number < $1.number }
        }
    }

    private func account(of doomed: [Doomed]) throws(RemfsError) -> GarbageCollection {
        var result = GarbageCollection()
        result.versions = Int64(doomed.count)
        guard !doomed.isEmpty else { return result }
        return try readers.snapshot { (reader) throws(SQLiteError) in
            var uses: [Int64: Int64] = [:]
            var forgotten: Set<Int64> = []
            let version = try reader.connection.prepare("SELECT memory, content, size FROM version WHERE number = ?1")
            for one in doomed {
                version.bind(one.number, at: 1)
                defer { version.reset() }
                guard try version.step() else { continue }
                if one.isOfForgotten { forgotten.insert(version.integer(0)) }
                for chunk in Content(version, column: 1, size: version.integer(2)).chunks where chunk != 0 { uses[chunk, default: 0] += 1 }
            }
            result.memories = Int64(forgotten.count)
            let chunk = try reader.connection.prepare(
                "SELECT chunk.refs, length(extent.bytes) FROM chunk JOIN extent ON extent.number = chunk.number WHERE chunk.number = ?1")
            for (number, count) in uses {
                chunk.bind(number, at: 1)
                defer { chunk.reset() }
                if try chunk.step(), chunk.integer(0) <= count { result.bytes += chunk.integer(1) }
            }
            return result
        }
    }

    private func prune(_ numbers: [Int64]) throws(RemfsError) {
        var rest = numbers[...]
        while !rest.isEmpty {
            let batch = rest.prefix(Self.versionsAtOnce)
            rest = rest.dropFirst(batch.count)
            try change { (state) throws(RemfsError) in try state.prune(Array(batch)) }
        }
    }

    /// The time from which on no memory is missing without a trace. nil: none is.
    package func historyBegins() throws(RemfsError) -> Timestamp? {
        try look { (state) throws(RemfsError) in
            try state.query { () throws(SQLiteError) in try state.horizon() }.map { Timestamp(microseconds: $0) }
        }
    }

    /// Throws `notFound` where retention gave up what something in `scope` was, or may have been, at a moment.
    ///
    /// Memory by memory: the first version after a gap says since when versions are missing, and whether all of them had its path. Only of
    /// a memory of which nothing is left no row can tell: before the last of those ended (`horizon`), it may have been anywhere.
    func requireHistory(at moment: Moment, _ scope: StoreScope, _ connection: Connection) throws(RemfsError) {
        let missing = try RemfsError.mapping("store \(id)") { () throws(SQLiteError) -> String? in
            let concerned: String
            switch scope {
            case .memory: concerned = "version.memory = ?2"
            case .prefix("/"): concerned = "true"
            case .prefix:
                concerned = """
                    (strayed OR name IS NULL OR EXISTS (SELECT 1 FROM version other WHERE other.memory = version.memory
                        AND substr(other.directory || other.name, 1, length(?2)) = ?2))
                    """
            case .path:
                concerned = """
                    (strayed OR name IS NULL OR EXISTS (SELECT 1 FROM version other WHERE other.memory = version.memory
                        AND other.directory || other.name = ?2))
                    """
            }
            let row = try connection.prepare(
                """
                SELECT ifnull(directory || name, 'a memory that was redacted') FROM version
                WHERE gap <= ?1 AND began > ?1 AND \(concerned) LIMIT 1
                """)
            row.bind(moment.time, at: 1)
            switch scope {
            case .memory(let memory): row.bind(memory.number(in: self.id) ?? 0, at: 2)
            case .prefix("/"): break
            case .prefix(let text), .path(let text): row.bind(text, at: 2)
            }
            if try row.step() { return row.text(0) }
            if case .memory = scope { return nil }
            let horizon = try connection.integer("SELECT value FROM property WHERE name = '\(StoreState.horizonMark)'")
            return horizon.map { moment.time < $0 } ?? false ? "memories that were deleted since" : nil
        }
        guard let missing else { return }
        // The store's lock may be held.
        throw RemfsError(.notFound, "what \(missing) was at that time was given up by the retention of store \(id)")
    }
}

extension StoreState {
    /// The property with the time (us) before which there were memories of which nothing is left.
    static let horizonMark = "horizon"

    func horizon() throws(SQLiteError) -> Int64? {
        try writer.integer("SELECT value FROM property WHERE name = '\(Self.horizonMark)'")
    }

    /// Takes versions out of history. What came to be a head meanwhile, or was pinned, stays.
    func prune(_ numbers: [Int64]) throws(RemfsError) {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        // Only where a file has lost its name or changed hands a moment ago does it read from what no head of its own counts.
        let chunks = try query { () throws(SQLiteError) in
            var chunks: Set<Int64> = []
            for number in numbers { if let facts = try facts(ofVersion: number) { chunks.formUnion(facts.content.chunks) } }
            return chunks.subtracting([0])
        }
        let holders = looseHolders(of: chunks)
        let heads = Set(memoryInodes.values.compactMap { inodes[$0]?.head?.version })
        try recoverLeftRemovals()
        let awaited = Set(removals.values.compactMap { $0.head?.version })
        try commit { () throws(SQLiteError) in
            for inode in holders {
                try keepContent(of: inode)
                try noteOwnContent(of: inode)
            }
            var horizon = try self.horizon() ?? 0
            let before = horizon
            let row = try statements.cached(
                """
                SELECT memory, content, size, began, ended, pruned, gap, strayed, directory || name FROM version
                WHERE number = ?1 AND pinned IS NULL
                """)
            let mark = try statements.cached(
                """
                UPDATE version SET pruned = pruned + ?3, gap = min(ifnull(gap, ?4), ?4),
                    strayed = strayed OR ?5 OR directory || name IS NULL OR directory || name <> ?6
                WHERE number = (SELECT number FROM version WHERE memory = ?1 AND number > ?2 ORDER BY number LIMIT 1)
                """)
            let rest = try statements.cached("SELECT 1 FROM version WHERE memory = ?1 LIMIT 1")
            let delete = try statements.cached("DELETE FROM version WHERE number = ?1")
            for number in numbers where !heads.contains(number) && !awaited.contains(number) {
                row.bind(number, at: 1)
                guard try row.step() else {
                    row.reset()
                    continue
                }
                let content = Content(row, column: 1, size: row.integer(2))
                let (memory, pruned) = (row.integer(0), row.integer(5))
                let (began, ended, gap) = (row.integer(3), row.integerOrNil(4), row.integerOrNil(6))
                let (hasStrayed, path) = (row.integer(7) == 1, row.text(8))
                row.reset()
                try release(content)
                mark.bind(memory, at: 1)
                mark.bind(number, at: 2)
                mark.bind(pruned + 1, at: 3)
                mark.bind(min(gap ?? began, began), at: 4)
                mark.bind(hasStrayed || path == nil ? 1 : 0 as Int64, at: 5)
                mark.bind(path ?? "", at: 6)
                try mark.run()
                delete.bind(number, at: 1)
                try delete.run()
                rest.bind(memory, at: 1)
                if try !rest.step() { horizon = max(horizon, ended ?? began) }
                rest.reset()
            }
            guard horizon > before else { return }
            statements.setProperty.bind(Self.horizonMark, at: 1)
            statements.setProperty.bind(horizon, at: 2)
            try statements.setProperty.run()
        }
        for inode in holders { inode.ownsContent = true }
        past.lose(at: now() / 1_000)
        uncheckpointed += numbers.count
    }

    /// Gives free pages back to the disk, however few. Answers whether more are left.
    func freeAnyPages(atMost most: Int64) throws(RemfsError) -> Bool {
        try query { () throws(SQLiteError) in
            let free = try writer.integer("PRAGMA freelist_count") ?? 0
            guard free > 0 else { return false }
            try writer.execute("PRAGMA incremental_vacuum(\(most))")
            uncheckpointed += Int(most)
            return try writer.integer("PRAGMA freelist_count") ?? 0 < free
        }
    }
}
