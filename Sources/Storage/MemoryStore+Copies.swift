import Glibc
import Logging
import SQLite
import Threads

/// What is known of copies of a store's content.
extension MemoryStore {
    /// Makes a copy of the store's content for somebody, and notes that it was made: before, so that a kill forgets none.
    ///
    /// - Parameters:
    ///   - point: the moment of which it is; nil: it has all of the history.
    ///   - store: the store that is made.
    package func making<Answer>(
        _ kind: StoreCopy.Kind, of point: StorePoint?, as store: StoreID? = nil, by author: Author,
        _ body: () throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        var since: Int64 = 0
        var until = Int64.max
        switch point {
        case nil: break
        case .now: since = now().microseconds
        case .some(let point):
            since = try readers.browse { (reader) throws(RemfsError) in try self.moment(point, reader).time }
            until = since
        }
        let number = try state.withLock { (state) throws(RemfsError) in
            try state.note(kind, since: since, until: max(since, until), store: store, actor: author.actor)
        }
        let answer: Answer
        do throws(RemfsError) {
            answer = try body()
        } catch {
            // One that stays names a copy that was not made, which is no more than a word too many.
            try? state.withLock { (state) throws(RemfsError) in try state.forgetCopy(number) }
            throw error
        }
        if until == .max { try state.withLock { (state) throws(RemfsError) in try state.finishCopy(number) } }
        return answer
    }

    /// All copies that are known, oldest first.
    func copies() throws(RemfsError) -> [StoreCopy] {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT kind, since, until, made, actor, store FROM copy ORDER BY number")
            var found: [StoreCopy] = []
            while try row.step() {
                // A kind that is not known was written by a newer remfs, which this one refuses to open.
                guard let kind = row.text(0).flatMap({ StoreCopy.Kind(rawValue: $0) }) else { continue }
                found.append(
                    StoreCopy(
                        kind: kind, since: row.integer(1), until: row.integer(2), made: Timestamp(microseconds: row.integer(3)),
                        actor: row.text(4).flatMap { MemoryActor(id: $0) }, store: row.text(5).flatMap { StoreID($0) }))
            }
            return found
        }
    }

    // MARK: The same bytes

    /// What a version's bytes can be found by while they are there; nil: it has none.
    func trace(of version: VersionID) throws(RemfsError) -> ContentTrace? {
        guard let number = version.number(in: id) else { throw RemfsError(.notFound, "version \(version) not found") }
        return try readers.snapshot { (reader) throws(SQLiteError) in
            let row = reader.versionContent
            row.bind(number, at: 1)
            defer { row.reset() }
            guard try row.step(), let size = row.integerOrNil(1), size > 0 else { return nil }
            return ContentTrace(size: size, digests: try Self.digests(of: Content(row, column: 0, size: size), reader.connection))
        }
    }

    /// Versions that hold these bytes, oldest first.
    func versions(holding trace: ContentTrace) throws(RemfsError) -> [HeldVersion] {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare(
                "SELECT \(Self.heldColumns), content FROM version WHERE size = ?1 AND name IS NOT NULL AND operation <> 2 ORDER BY number")
            row.bind(trace.size, at: 1)
            var found: [HeldVersion] = []
            while try row.step() {
                guard try Self.digests(of: Content(row, column: 6, size: trace.size), reader.connection) == trace.digests else { continue }
                found.append(self.held(row))
            }
            return found
        }
    }

    /// A version by its number, unless it was redacted.
    func heldVersion(_ number: Int64) throws(RemfsError) -> HeldVersion? {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT \(Self.heldColumns) FROM version WHERE number = ?1 AND name IS NOT NULL")
            row.bind(number, at: 1)
            return try row.step() ? self.held(row) : nil
        }
    }

    /// When a version was the head, redacted or not.
    func interval(of number: Int64) throws(RemfsError) -> Interval? {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT began, ended, operation = 2 FROM version WHERE number = ?1")
            row.bind(number, at: 1)
            guard try row.step() else { return nil }
            return Interval(began: row.integer(0), ended: row.integerOrNil(1), isDeletion: row.integer(2) == 1)
        }
    }

    private static let heldColumns = "number, memory, directory || name, began, ended, operation = 2"

    private func held(_ row: Statement) -> HeldVersion {
        let interval = Interval(began: row.integer(3), ended: row.integerOrNil(4), isDeletion: row.integer(5) == 1)
        return HeldVersion(
            store: id, id: VersionID(store: id, number: row.integer(0)), memory: MemoryID(store: id, number: row.integer(1)),
            path: row.text(2) ?? "", isHead: interval.ended == nil && !interval.isDeletion, interval: interval)
    }

    private static func digests(of content: Content, _ connection: Connection) throws(SQLiteError) -> [[UInt8]] {
        let row = try connection.prepare("SELECT digest FROM chunk WHERE number = ?1")
        var digests: [[UInt8]] = []
        for chunk in content.chunks {
            guard chunk != 0 else {
                digests.append([])
                continue
            }
            row.bind(chunk, at: 1)
            digests.append(try row.step() ? row.bytes(0) : [0])
            row.reset()
        }
        return digests
    }

    // MARK: Kept files

    /// Copies of the store's file that were kept beside it: of before an upgrade, or a repair.
    ///
    /// - Throws: what listing their directory does: then nobody is to say that there are none.
    package func keptCopies() throws(RemfsError) -> [String] {
        let slash = path.lastIndex(of: "/") ?? path.startIndex
        let names = try StorePool.names(in: String(path[..<slash]))
        let name = String(path[path.index(after: slash)...])
        return names.filter { $0.hasPrefix(name + ".") && !$0.hasSuffix("-wal") && !$0.hasSuffix("-journal") }.sorted().map {
            path[...slash] + $0
        }
    }

    /// Removes the copies beside the store's file that may hold what was redacted. Answers those that went; one that cannot be removed is
    /// still there, and is told of in the log.
    ///
    /// - Parameters:
    ///   - versions: what was redacted, by number.
    ///   - oldest: the lowest number under which any of it was written.
    func removeKeptCopies(holding versions: [Int64], writtenSince oldest: Int64) throws(RemfsError) -> [String] {
        var removed: [String] = []
        let copies: [String]
        do throws(RemfsError) { copies = try keptCopies() } catch {
            // No reason to redact nothing. Who asks what remains is told.
            environment.logger.error("cannot look for copies that are not redacted", metadata: ["store": "\(id)", "error": "\(error)"])
            return []
        }
        for copy in copies where !Self.isClean(copy, of: versions, writtenSince: oldest) {
            guard unsafe Glibc.unlink(copy) == 0 || errno == ENOENT else {
                environment.logger.error(
                    "cannot remove a copy that is not redacted", metadata: ["store": "\(id)", "file": "\(copy)", "errno": "\(errno)"])
                continue
            }
            for suffix in ["-wal", "-journal"] { _ = unsafe Glibc.unlink(copy + suffix) }
            environment.logger.notice("a kept copy held what was redacted: removed", metadata: ["store": "\(id)", "file": "\(copy)"])
            removed.append(copy)
        }
        if !removed.isEmpty { try StorePool.synchronizeDirectory(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])) }
        return removed
    }

    /// Whether a copy is from before all of it was written, or from after all of it was cleaned away. One that cannot be read is not.
    private static func isClean(_ copy: String, of versions: [Int64], writtenSince oldest: Int64) -> Bool {
        do throws(SQLiteError) {
            let connection = try Connection(path: copy, mode: .readWrite)
            try connection.execute("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA wal_autocheckpoint = 0;")
            if let next = try connection.integer("SELECT value FROM property WHERE name = 'next'"), next <= oldest { return true }
            let isUnderWay = try connection.integer("SELECT count(*) FROM property WHERE name = '\(StoreState.redactionMark)'") != 0
            guard !isUnderWay else { return false }
            for version in versions {
                guard try connection.integer("SELECT redacted FROM version WHERE number = \(version)") != nil else { return false }
            }
            return true
        } catch {
            return false
        }
    }

    // MARK: Spool files

    /// Takes away the files through which exports of this store are on their way: whoever reads one is cut off. Answers which.
    func cutSpools() -> [String] {
        guard let directory = environment.stateDirectory else { return [] }
        let prefix = StorePool.spoolName(of: id)
        func warn(_ reason: String) {
            environment.logger.error("an export under way may hold what was redacted", metadata: ["store": "\(id)", "reason": "\(reason)"])
        }
        let names: [String]
        do throws(RemfsError) { names = try StorePool.names(in: directory) } catch {
            warn("\(error)")
            return []
        }
        var cut: [String] = []
        for name in names where name.hasPrefix(prefix) {
            let path = "\(directory)/\(name)"
            let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
            guard file >= 0 else {
                // It has ended meanwhile.
                if errno != ENOENT { warn("\(path): errno \(errno)") }
                continue
            }
            defer { Glibc.close(file) }
            // First its bytes, then its name: who has it open finds nothing in it.
            guard ftruncate(file, 0) == 0 else {
                warn("\(path): errno \(errno)")
                continue
            }
            _ = unsafe Glibc.unlink(path)
            cut.append(path)
        }
        return cut
    }
}

extension StoreState {
    /// So many are remembered, the newest: who exports every minute is not to fill the file.
    private static let mostCopies: Int64 = 10_000

    /// Notes a copy that is about to be made; answers the number of its row.
    func note(
        _ kind: StoreCopy.Kind, since: Int64, until: Int64, store: StoreID?, actor: MemoryActor
    ) throws(RemfsError) -> Int64 {
        if isDeleted { throw RemfsError(.gone, "\(label) was deleted") }
        let time = now() / 1_000
        var number: Int64 = 0
        try commit { () throws(SQLiteError) in
            number = (try writer.integer("SELECT max(number) FROM copy") ?? 0) + 1
            let row = try statements.cached(
                "INSERT INTO copy (number, kind, since, until, made, actor, store) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
            row.bind(number, at: 1)
            row.bind(kind.rawValue, at: 2)
            row.bind(since, at: 3)
            row.bind(until, at: 4)
            row.bind(time, at: 5)
            row.bind(actor.id, at: 6)
            row.bind(store?.description, at: 7)
            try row.run()
            // Those that are stores are looked through, however old.
            let old = try statements.cached("DELETE FROM copy WHERE number <= ?1 AND store IS NULL")
            old.bind(number - Self.mostCopies, at: 1)
            try old.run()
        }
        return number
    }

    func finishCopy(_ number: Int64) throws(RemfsError) {
        let time = now() / 1_000
        try commit { () throws(SQLiteError) in
            let row = try statements.cached("UPDATE copy SET until = max(since, ?2) WHERE number = ?1")
            row.bind(number, at: 1)
            row.bind(time, at: 2)
            try row.run()
        }
    }

    func forgetCopy(_ number: Int64) throws(RemfsError) {
        try commit { () throws(SQLiteError) in
            let row = try statements.cached("DELETE FROM copy WHERE number = ?1")
            row.bind(number, at: 1)
            try row.run()
        }
    }
}
