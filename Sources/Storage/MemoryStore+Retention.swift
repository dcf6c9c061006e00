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

    /// The time from which on the store's history is whole; before it versions are missing that were heads then. nil: nothing was given up.
    package func historyBegins() throws(RemfsError) -> Timestamp? {
        try look { (state) throws(RemfsError) in
            try state.query { () throws(SQLiteError) in try state.horizon() }.map { Timestamp(microseconds: $0) }
        }
    }

    /// - Throws: `notFound` for a time at which the store's tree is not known any more.
    package func requireHistory(at time: Timestamp) throws(RemfsError) {
        guard let begins = try historyBegins(), time < begins else { return }
        throw RemfsError(.notFound, "versions of that time were given up by the retention of \(state.withLock { $0.label })")
    }
}

extension StoreState {
    /// The property with the time (us) before which the history has gaps.
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
        let awaited = Set(removals.values.compactMap { $0.head?.version })
        try commit { () throws(SQLiteError) in
            for inode in holders {
                try keepContent(of: inode)
                try noteOwnContent(of: inode)
            }
            var horizon = try self.horizon() ?? 0
            let before = horizon
            let row = try statements.cached(
                "SELECT memory, content, size, began, ended, pruned FROM version WHERE number = ?1 AND pinned IS NULL")
            let mark = try statements.cached(
                """
                UPDATE version SET pruned = pruned + ?3
                WHERE number = (SELECT number FROM version WHERE memory = ?1 AND number > ?2 ORDER BY number LIMIT 1)
                """)
            let delete = try statements.cached("DELETE FROM version WHERE number = ?1")
            for number in numbers where !heads.contains(number) && !awaited.contains(number) {
                row.bind(number, at: 1)
                guard try row.step() else {
                    row.reset()
                    continue
                }
                let content = Content(row, column: 1, size: row.integer(2))
                let (memory, pruned) = (row.integer(0), row.integer(5))
                horizon = max(horizon, row.integerOrNil(4) ?? row.integer(3))
                row.reset()
                try release(content)
                mark.bind(memory, at: 1)
                mark.bind(number, at: 2)
                mark.bind(pruned + 1, at: 3)
                try mark.run()
                delete.bind(number, at: 1)
                try delete.run()
            }
            guard horizon > before else { return }
            statements.setProperty.bind(Self.horizonMark, at: 1)
            statements.setProperty.bind(horizon, at: 2)
            try statements.setProperty.run()
        }
        for inode in holders { inode.ownsContent = true }
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
