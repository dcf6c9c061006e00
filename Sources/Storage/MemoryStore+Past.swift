import SQLite
import Threads

/// The store as it was, for those who walk through it name by name: `.remfs/at`, and a mount of a moment.
///
/// The tree at a moment is asked of the versions, a statement or two for each directory, and never made as a whole.
extension MemoryStore {
    // MARK: Moments

    /// The moment that a name below `.remfs/at` is of: an RFC 3339 time, in UTC where it says no zone, or a version's ID. nil: none is, as
    /// before the store was made, or after now. Throws `notFound` where retention gave up something of then.
    ///
    /// The first use of a name writes a row, so that a successor of this process knows the nodes that kernels have been given.
    ///
    /// - Parameter created: when the store was made.
    package func pastMoment(named name: String, since created: Timestamp) throws(RemfsError) -> PastMoment? {
        try loadPast()
        let known = try look { (state) throws(RemfsError) -> PastMoment? in
            guard let number = state.past.numbers[name] else { return nil }
            state.past.use(number)
            return state.past.kept?[number]?.moment
        }
        if let known {
            try requirePast(at: known)
            return known
        }
        guard let point = StorePoint(name, time: { Timestamp(rfc3339: $0) ?? Timestamp(rfc3339: $0 + "Z") }) else { return nil }
        if case .now = point { return nil }
        let found: PastMoment
        do throws(RemfsError) { found = try pastMoment(point, since: created) } catch {
            guard error.code == .notFound || error.code == .invalidArgument else { throw error }
            return nil
        }
        let (moment, isFull) = try change { (state) throws(RemfsError) -> (PastMoment, Bool) in
            if let number = state.past.numbers[name], let kept = state.past.kept?[number] { return (kept.moment, false) }
            guard let number = state.past.freeNumber() else {
                throw RemfsError(.unavailable, "\(state.label) is looked at as of \(Past.most) moments at the same time")
            }
            let moment = PastMoment(number: number, time: found.time, newest: found.newest)
            try state.commit { () throws(SQLiteError) in
                let row = try state.statements.cached("INSERT INTO past (number, name, time) VALUES (?1, ?2, ?3)")
                row.bind(Int64(number), at: 1)
                row.bind(name, at: 2)
                row.bind(moment.time, at: 3)
                try row.run()
            }
            // Also where the clock is set back nothing comes to be as of then any more.
            state.lastVersionTime = max(state.lastVersionTime, moment.time)
            state.past.keep(name, moment)
            return (moment, (state.past.kept?.count ?? 0) > Past.mostIdle)
        }
        if isFull { environment.schedule(id, false) }
        return moment
    }

    /// As of a moment, for a mount as a whole. Throws `notFound` and `invalidArgument` where there is no such.
    package func pastMoment(_ point: StorePoint, since created: Timestamp) throws(RemfsError) -> PastMoment {
        try settleForReading()
        let moment = try readers.browse { (reader) throws(RemfsError) in try self.moment(point, reader) }
        guard moment.number > 0 || moment.time >= created.microseconds else { throw RemfsError(.notFound, "store \(id) was made later") }
        let found = PastMoment(number: 0, time: moment.time, newest: moment.number)
        try requirePast(at: found)
        return found
    }

    /// The moment that nodes name by a number above 0. Throws `gone`.
    package func pastMoment(number: Int) throws(RemfsError) -> PastMoment {
        try loadPast()
        let found = try look { (state) throws(RemfsError) in state.past.kept?[number]?.moment }
        guard let found else { throw RemfsError(.gone, "store \(id) knows no moment \(number)") }
        return found
    }

    /// That of a mount as a whole, of which it was asked before, perhaps of a predecessor of this process.
    package func pastMoment(of time: Int64) throws(RemfsError) -> PastMoment {
        let newest = try readers.browse { (reader) throws(RemfsError) in try self.newest(atOrBefore: time, reader) }
        return PastMoment(number: 0, time: time, newest: newest)
    }

    /// Reads the rows of moments, once.
    func loadPast() throws(RemfsError) {
        guard try look({ (state) throws(RemfsError) in state.past.kept == nil }) else { return }
        let rows = try readers.browse { (reader) throws(RemfsError) -> [(name: String, moment: PastMoment)] in
            let rows = try RemfsError.mapping("store \(self.id)") { () throws(SQLiteError) in
                let row = try reader.cached("SELECT number, name, time FROM past ORDER BY number")
                defer { row.reset() }
                var rows: [(number: Int, name: String, time: Int64)] = []
                while try row.step() { rows.append((Int(row.integer(0)), row.text(1) ?? "", row.integer(2))) }
                return rows
            }
            var found: [(String, PastMoment)] = []
            for row in rows {
                let newest = try self.newest(atOrBefore: row.time, reader)
                found.append((row.name, PastMoment(number: row.number, time: row.time, newest: newest)))
            }
            return found
        }
        try look { (state) throws(RemfsError) in
            guard state.past.kept == nil else { return }
            state.past.kept = [:]
            for row in rows { state.past.keep(row.name, row.moment) }
        }
    }

    /// Gives up rows beyond the last `Past.mostIdle` that were used, where no kernel knows their nodes; one that does is told to forget them
    /// unless somebody is in there, and asked again when the next row is written.
    func trimPast() throws(RemfsError) {
        let (idle, origins) = state.withLock { state -> ([Past.Kept], [Origin]) in
            guard let kept = state.past.kept, kept.count > Past.mostIdle else { return ([], []) }
            return (Array(kept.values.sorted { $0.lastUse < $1.lastUse }.prefix(kept.count - Past.mostIdle)), Array(state.origins.values))
        }
        guard !idle.isEmpty else { return }
        // Asked without the store's lock: the mounts have locks of their own.
        let held = idle.map { kept in
            let node = PastNode.directory(.root, at: kept.moment.number).inode
            return origins.contains { $0.holds(node) }
        }
        try change { (state) throws(RemfsError) in
            var unused: [Int] = []
            for (kept, isHeld) in zip(idle, held) where state.past.kept?[kept.moment.number]?.lastUse == kept.lastUse {
                if isHeld {
                    state.invalidate(.name(Array(kept.name.utf8), in: InodeNumber(bitPattern: PastNode.at)))
                } else {
                    unused.append(kept.moment.number)
                }
            }
            guard !unused.isEmpty else { return }
            try state.commit { () throws(SQLiteError) in
                let row = try state.statements.cached("DELETE FROM past WHERE number = ?1")
                for number in unused {
                    row.bind(Int64(number), at: 1)
                    try row.run()
                }
            }
            for number in unused { state.past.giveUp(number) }
        }
    }

    // MARK: Reading

    private func requirePast(at moment: PastMoment) throws(RemfsError) {
        try readPast(at: moment) { _ throws(SQLiteError) in
        } _: { _, _ throws(RemfsError) in
        }
    }

    /// Reads the store's history as of one transaction, and then does with the store's lock held what goes with it: nothing is lost of that
    /// history meanwhile, else it is read again.
    ///
    /// - Parameter moment: of which nothing may be missing. nil: of any.
    func readPast<Found, Answer>(
        at moment: PastMoment?, _ body: (Reader) throws(SQLiteError) -> Found,
        _ finish: (StoreState, Found) throws(RemfsError) -> Answer
    ) throws(RemfsError) -> Answer {
        while true {
            let (losses, isWhole) = try look { (state) throws(RemfsError) -> (Int, Bool) in
                if state.isDeleted { throw RemfsError(.gone, "\(state.label) was deleted") }
                return (state.past.losses, moment.map { state.past.isWhole(at: $0.time) } ?? true)
            }
            let found = try readers.snapshot { (reader) throws(SQLiteError) -> Found? in
                if let moment, !isWhole, try !reader.hasHistory(at: moment.time) { return nil }
                return try body(reader)
            }
            guard let found else { throw RemfsError(.notFound, "what was there at that time was given up by the retention of store \(id)") }
            // What takes something out of history does it under this lock.
            let answer = try look { (state) throws(RemfsError) -> Answer? in
                guard state.past.losses == losses else { return nil }
                if let moment { state.past.noteWhole(at: moment.time) }
                return try finish(state, found)
            }
            if let answer { return answer }
        }
    }

    /// nil: no such name then.
    package func pastEntry(
        _ name: UnsafeRawBufferPointer, in directory: PathNumber, at moment: PastMoment
    ) throws(RemfsError) -> PastEntry? {
        guard let text = unsafe String(validating: name, as: UTF8.self) else { return nil }
        let parent = try pastPath(directory) + "/"
        let path = parent + text
        return try readPast(at: moment) { (reader) throws(SQLiteError) -> (file: PastFile?, isDirectory: Bool) in
            if let file = try reader.file(text, in: parent, at: moment) { return (file, false) }
            return (nil, try reader.isDirectory(path, at: moment))
        } _: { (state, found) throws(RemfsError) in
            if let file = found.file {
                state.expose(file)
                return file.entry(Array(text.utf8))
            }
            return found.isDirectory ? try state.directory(text, path, at: moment) : nil
        }
    }

    /// The entries of a directory after a cookie, in order, until `take` says that it is full.
    package func listPast(
        _ directory: PathNumber, at moment: PastMoment, after cookie: UInt64, _ take: (PastEntry) -> Bool
    ) throws(RemfsError) {
        let node = PastNode.directory(directory, at: moment.number)
        // Another mount may show another moment under the number 0.
        let known = moment.number == 0 ? nil : try look { (state) throws(RemfsError) in state.past.listing(node) }
        let entries: [PastEntry]
        if let known {
            entries = known
        } else {
            let path = try pastPath(directory) + "/"
            entries = try readPast(at: moment) { (reader) throws(SQLiteError) in
                (
                    try reader.files(in: path, at: moment, willBlock: self.environment.willBlock),
                    try reader.directories(in: path, at: moment)
                )
            } _: { (state, found: (files: [(String, PastFile)], directories: [String])) throws(RemfsError) in
                var entries: [PastEntry] = []
                entries.reserveCapacity(found.files.count + found.directories.count)
                let files = Set(found.directories.isEmpty ? [] : found.files.map { ExactString($0.0) })
                for name in found.directories where !files.contains(ExactString(name)) {
                    entries.append(try state.directory(name, path + name, at: moment))
                }
                for (name, file) in found.files {
                    state.expose(file)
                    entries.append(file.entry(Array(name.utf8)))
                }
                entries.sort { $0.cookie < $1.cookie }
                if moment.number != 0 { state.past.keep(entries, of: node) }
                return entries
            }
        }
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].cookie <= cookie { low = middle + 1 } else { high = middle }
        }
        for entry in entries[low...] { guard take(entry) else { return } }
        // The kernel keeps it from now on.
        try look { (state) throws(RemfsError) in state.past.drop(node) }
    }

    /// What a version is as a file. Throws `gone` where there is none (any more).
    package func pastFile(_ version: Int64) throws(RemfsError) -> PastEntry {
        let found = try readPast(at: nil) { (reader) throws(SQLiteError) in
            try reader.file(version)
        } _: { _, found throws(RemfsError) in
            found
        }
        guard let found else { throw goneVersion(version) }
        return found.entry([])
    }

    private func goneVersion(_ version: Int64) -> RemfsError {
        RemfsError(.gone, "\(VersionID(store: id, number: version)) was redacted or given up")
    }

    /// Up to `count` bytes of a version from `offset`, in memory that is valid inside `body` only.
    package func readPast<Answer>(
        _ version: Int64, offset: Int64, count: Int, _ body: (UnsafeRawBufferPointer) -> Answer
    ) throws(RemfsError) -> Answer {
        try look { (state) throws(RemfsError) in if state.isDeleted { throw RemfsError(.gone, "\(state.label) was deleted") } }
        let small = try readers.read { (reader) throws(SQLiteError) in
            try unsafe reader.withSmallVersion(version) { bytes in
                let start = min(Int(offset), bytes.count)
                return unsafe body(UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + count, bytes.count)]))
            }
        }
        if let small { return small }
        let found = try readers.snapshot { (reader) throws(SQLiteError) -> Answer? in
            let row = try reader.cached("SELECT content, size FROM version WHERE number = ?1 AND name IS NOT NULL")
            row.bind(version, at: 1)
            guard try row.step() else {
                row.reset()
                return nil
            }
            let size = row.integer(1)
            let content = Content(row, column: 0, size: size)
            row.reset()
            return unsafe try reader.range(of: content, size: size, offset, count)?.withUnsafeBytes { unsafe body($0) }
        }
        guard let found else { throw goneVersion(version) }
        return found
    }

    // MARK: Paths

    /// The path that a number is of. One that this process has not given is looked for among all paths that there were.
    func pastPath(_ number: PathNumber) throws(RemfsError) -> String {
        if let known = try look({ (state) throws(RemfsError) in state.past.path(number) }) { return known }
        environment.willBlock()
        let found = try readers.snapshot { (reader) throws(SQLiteError) -> [String] in
            var found: Set<ExactString> = []
            var last = ExactString("")
            let row = try reader.connection.prepare(
                "SELECT DISTINCT directory, name FROM version WHERE directory IS NOT NULL ORDER BY directory, name")
            while try row.step() {
                let directory = row.text(0) ?? ""
                let path = directory + (row.text(1) ?? "")
                if PathNumber(path) == number { found.insert(ExactString(path)) }
                guard last != ExactString(directory) else { continue }
                last = ExactString(directory)
                var rest = directory.utf8.dropLast()
                while !rest.isEmpty {
                    let text = String(Substring(rest))
                    if PathNumber(text) == number { found.insert(ExactString(text)) }
                    rest = rest[..<(rest.lastIndex(of: UInt8(ascii: "/")) ?? rest.startIndex)]
                }
            }
            return found.map(\.text)
        }
        guard let path = found.first else { throw RemfsError(.gone, "store \(id) knows no path of that number") }
        guard found.count == 1 else { throw RemfsError(.unsupported, "\(path) and \(found[1]) have one number") }
        try look { (state) throws(RemfsError) in _ = try state.note(path) }
        return path
    }
}

/// A version as a file.
struct PastFile {
    let number: Int64
    let memory: Int64
    let sizeInBytes: Int64
    let began: Int64
    let operation: MemoryVersion.Operation

    static let columns = "number, memory, size, began, operation"

    /// Reads `columns` from `column` on.
    init(_ row: Statement, column: Int32 = 0) {
        number = row.integer(column)
        memory = row.integer(column + 1)
        sizeInBytes = row.integer(column + 2)
        began = row.integer(column + 3)
        operation = MemoryVersion.Operation(row: row.integer(column + 4))
    }

    func entry(_ name: [UInt8]) -> PastEntry { PastEntry(name: name, version: number, sizeInBytes: sizeInBytes, modified: began) }
}

extension StoreState {
    /// Whoever is shown as of a moment is no temporary file any more, whose versions could be withdrawn.
    func expose(_ file: PastFile) {
        guard file.operation == .created, let place = memoryInodes[file.memory] else { return }
        inodes[place]?.unsettledIn = 0
    }

    /// Notes a path under its number. Throws `unsupported` where that is another's.
    func note(_ path: String) throws(RemfsError) -> PathNumber {
        let number = PathNumber(path)
        guard past.note(path, number) else {
            throw RemfsError(.unsupported, "\(path) has the number of another path in \(label), and its past cannot be shown")
        }
        return number
    }

    fileprivate func directory(_ name: String, _ path: String, at moment: PastMoment) throws(RemfsError) -> PastEntry {
        let number = try note(path)
        return PastEntry(name: Array(name.utf8), directory: .directory(number, at: moment.number), number, modified: moment.time)
    }
}

extension Reader {
    /// A row that was the head of a memory at the time ?3.
    private static let isHead = "began <= ?3 AND (ended IS NULL OR ended > ?3) AND operation <> 2"

    /// As `requireHistory` of a whole store.
    fileprivate func hasHistory(at time: Int64) throws(SQLiteError) -> Bool {
        let row = try cached(
            """
            SELECT 1 WHERE EXISTS (SELECT 1 FROM version WHERE gap <= ?1 AND began > ?1)
                OR EXISTS (SELECT 1 FROM property WHERE name = '\(StoreState.horizonMark)' AND value > ?1)
            """)
        row.bind(time, at: 1)
        defer { row.reset() }
        return try !row.step()
    }

    /// Of several the newest: within a change of several memories, as an exchange of two, there are moments at which one has come to the place
    /// of another that is still there. A directory of that name is not shown then.
    ///
    /// - Parameter directory: with a `/` at its end.
    fileprivate func file(_ name: String, in directory: String, at moment: PastMoment) throws(SQLiteError) -> PastFile? {
        let row = try cached(
            "SELECT \(PastFile.columns) FROM version WHERE directory = ?1 AND name = ?2 AND \(Self.isHead) ORDER BY number DESC LIMIT 1")
        row.bind(directory, at: 1)
        row.bind(name, at: 2)
        row.bind(moment.time, at: 3)
        defer { row.reset() }
        return try row.step() ? PastFile(row) : nil
    }

    fileprivate func file(_ version: Int64) throws(SQLiteError) -> PastFile? {
        let row = try cached("SELECT \(PastFile.columns) FROM version WHERE number = ?1 AND name IS NOT NULL")
        row.bind(version, at: 1)
        defer { row.reset() }
        return try row.step() ? PastFile(row) : nil
    }

    /// Whether there were memories below a path. Directories below `/a` are those from `/a/` up to, and without, `/a0`: `0` follows `/`.
    func isDirectory(_ path: String, at moment: PastMoment) throws(SQLiteError) -> Bool {
        let row = try cached("SELECT 1 FROM version WHERE directory >= ?1 AND directory < ?2 AND \(Self.isHead) LIMIT 1")
        row.bind(path + "/", at: 1)
        row.bind(path + "0", at: 2)
        row.bind(moment.time, at: 3)
        defer { row.reset() }
        return try row.step()
    }

    /// How many names are looked at before others' requests go on meanwhile: half a millisecond.
    private static let namesAtOnce = 256

    /// In the order of names.
    fileprivate func files(
        in directory: String, at moment: PastMoment, willBlock: () -> Void
    ) throws(SQLiteError) -> [(String, PastFile)] {
        var files: [(String, PastFile)] = []
        // From one name to the next, and to the newest version of each until then: the index alone tells, however many there are.
        let row = try cached(
            """
            WITH RECURSIVE each (name) AS (
                SELECT min(name) FROM version WHERE directory = ?1 AND name > ?4
                UNION ALL
                SELECT (SELECT min(name) FROM version WHERE directory = ?1 AND name > each.name) FROM each WHERE each.name IS NOT NULL
                LIMIT \(Self.namesAtOnce))
            SELECT \(PastFile.columns), each.name, \(Self.isHead) FROM each LEFT JOIN version ON number = (
                SELECT max(number) FROM version one WHERE one.directory = ?1 AND one.name = each.name AND one.number <= ?2)
            WHERE each.name IS NOT NULL
            """)
        row.bind(directory, at: 1)
        row.bind(moment.newest, at: 2)
        row.bind(moment.time, at: 3)
        var last = ""
        while true {
            row.bind(last, at: 4)
            var count = 0
            var others: [String] = []
            defer { row.reset() }
            while try row.step() {
                count += 1
                last = row.text(5) ?? ""
                if row.integer(6) == 1 { files.append((last, PastFile(row))) } else if !row.isNull(0) { others.append(last) }
            }
            row.reset()
            // It was deleted or moved away, unless one that came to that place had told so later.
            for name in others { if let file = try file(name, in: directory, at: moment) { files.append((name, file)) } }
            guard count == Self.namesAtOnce else { return files }
            willBlock()
        }
    }

    fileprivate func directories(in directory: String, at moment: PastMoment) throws(SQLiteError) -> [String] {
        try directories(in: directory, where: Self.isHead, time: moment.time)
    }

    /// Names of directories in one with memories of which `condition` is true, by skipping from one to the next.
    ///
    /// - Parameter time: its parameter 3.
    func directories(in directory: String, where condition: String, time: Int64) throws(SQLiteError) -> [String] {
        // One of them ends with `/` always, so none is equal to where it goes on.
        let row = try cached(
            "SELECT directory FROM version WHERE directory > ?1 AND directory < ?2 AND \(condition) ORDER BY directory LIMIT 1")
        row.bind(String(Substring(directory.utf8.dropLast())) + "0", at: 2)
        row.bind(time, at: 3)
        defer { row.reset() }
        var names: [String] = []
        var last = directory
        while true {
            row.bind(last, at: 1)
            guard try row.step(), let found = row.text(0) else { return names }
            row.reset()
            let name = String(Substring(found.utf8.dropFirst(directory.utf8.count).prefix { $0 != UInt8(ascii: "/") }))
            names.append(name)
            last = directory + name + "0"
        }
    }
}
