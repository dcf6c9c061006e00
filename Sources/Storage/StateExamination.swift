import Glibc
import SQLite

/// The catalog against the files of a state directory.
struct StateExamination {
    let directory: String
    /// nil: it cannot be opened.
    let catalog: Catalog?
    /// Why it cannot.
    let failure: RemfsError?
    /// Stores that are being made or deleted right now.
    let isUnfinished: (StoreID) -> Bool
    /// No daemon has it: what a daemon would do at its start can be done here.
    let isOffline: Bool

    private struct Problem {
        var finding: Finding
        let remedy: (() throws(RemfsError) -> String)?

        init(
            _ kind: Finding.Kind, _ message: String, advice: String? = nil, remedy: (() throws(RemfsError) -> String)? = nil
        ) {
            finding = Finding(
                kind: kind, message: message, outcome: remedy == nil ? .unrepairable : .repairable, repair: nil,
                advice: remedy == nil ? advice : nil)
            self.remedy = remedy
        }
    }

    private var path: String { directory + "/catalog.sqlite" }
    private func file(_ id: String) -> String { "\(directory)/stores/\(id).sqlite" }
    private func orphan(_ id: String) -> String { "\(directory)/orphans/\(id).sqlite" }

    func check() throws(RemfsError) -> Diagnosis {
        var diagnosis = Diagnosis(store: nil, name: nil, file: path)
        for problem in try problems() { diagnosis.add(problem.finding) }
        try addNotes(&diagnosis)
        return diagnosis
    }

    /// Repairs what can be. A catalog that was put in place anew is for the caller to open and to look at again.
    func repair() throws(RemfsError) -> Diagnosis {
        var diagnosis = Diagnosis(store: nil, name: nil, file: path)
        let problems = try problems()
        if let catalog, problems.contains(where: { $0.remedy != nil && $0.finding.kind != .catalogCopy }) {
            let place = Diagnosis.placeToKeep(path)
            try catalog.keep(at: place)
            diagnosis.kept = place
        }
        for problem in problems {
            var finding = problem.finding
            if let remedy = problem.remedy {
                finding.repair = try remedy()
                finding.outcome = .repaired
            }
            diagnosis.add(finding)
        }
        try addNotes(&diagnosis)
        return diagnosis
    }

    // MARK: Finding

    private func problems() throws(RemfsError) -> [Problem] {
        guard let catalog else { return [lostCatalog()] }
        var problems: [Problem] = []
        for line in try catalog.problems() {
            let isIndex = line.contains("missing from index") || line.contains("wrong # of entries in index")
            problems.append(
                isIndex
                    ? Problem(.indexWrong, "SQLite's own check of the catalog says: \(line)") { () throws(RemfsError) in
                        try catalog.makeIndexes()
                        return "made its indexes anew"
                    }
                    : Problem(
                        .catalogDamaged, "SQLite's own check of the catalog says: \(line)",
                        advice: "stop the daemon and restore its copy: rm -f \(path) \(path)-wal && cp \(Catalog.copy(of: path)) \(path)"))
        }
        let rows = try catalog.rawRows()
        for row in rows { if let problem = check(row, catalog) { problems.append(problem) } }
        problems += try checkFiles(Set(rows.map(\.id)), catalog)
        if let problem = checkCopy(catalog) { problems.append(problem) }
        return problems
    }

    private func lostCatalog() -> Problem {
        let copy = Catalog.copy(of: path)
        let why = failure?.message ?? "the catalog \(path) is missing or empty"
        return Problem(.catalogDamaged, why) { () throws(RemfsError) in
            let place = Diagnosis.placeToKeep(path)
            let isThere = unsafe access(path, F_OK) == 0
            for suffix in ["", "-wal"] where unsafe access(path + suffix, F_OK) == 0 {
                guard unsafe rename(path + suffix, place + suffix) == 0 else { throw RemfsError.ofSystem("cannot move \(path)\(suffix)") }
            }
            let was = isThere ? "; what was there is \(place)" : ""
            guard Self.isSound(copy) else {
                try Catalog(path: path, isNew: true).close()
                return "made an empty one, since there is no sound copy of it\(was)"
            }
            try RemfsError.mapping("the catalog") { () throws(SQLiteError) in
                try Connection(path: copy, mode: .readWrite).backup(to: path)
            }
            try StorePool.synchronizeDirectory(directory)
            return "put its copy \(copy) in its place\(was)"
        }
    }

    private func check(_ row: Catalog.RawRow, _ catalog: Catalog) -> Problem? {
        guard let id = StoreID(row.id) else {
            return Problem(.catalogRow, "the catalog names a store \"\(row.name)\" by \"\(row.id)\", which is no ID") {
                () throws(RemfsError) in
                try catalog.deleteRow(row.sequence)
                return "dropped the row"
            }
        }
        guard row.isReadable else {
            return Problem(.catalogRow, "the rules or the metadata of store \"\(row.name)\" (\(row.id)) cannot be read") {
                () throws(RemfsError) in
                try catalog.resetRow(row.sequence)
                return "gave it the rules of a new store and no metadata"
            }
        }
        let (file, orphan) = (file(row.id), orphan(row.id))
        guard unsafe access(file, F_OK) != 0, !isUnfinished(id) else { return nil }
        let message = "the file of store \"\(row.name)\" (\(row.id)) is missing"
        guard unsafe access(orphan, F_OK) == 0 else {
            return Problem(
                .fileMissing, message,
                advice: "restore a backup: cp BACKUP \(file); or, to give it up: remfs store delete \(row.id)")
        }
        return Problem(.fileMissing, "\(message), and is in orphans/") { () throws(RemfsError) in
            try Self.move(orphan, to: file)
            return "moved it back"
        }
    }

    private func checkFiles(_ known: Set<String>, _ catalog: Catalog) throws(RemfsError) -> [Problem] {
        var problems: [Problem] = []
        for name in try StorePool.names(in: directory + "/stores").sorted() where name.hasSuffix(".sqlite") {
            let text = String(name.dropLast(7))
            guard !known.contains(text) else { continue }
            let path = "\(directory)/stores/\(name)"
            guard let id = StoreID(text), Self.owner(of: path) == text else {
                problems.append(
                    Problem(
                        .rowMissing, "\(path) is no store that its name says",
                        advice: "move it away: mv \(path)* \(directory)/orphans/"))
                continue
            }
            guard !isUnfinished(id) else { continue }
            problems.append(
                Problem(.rowMissing, "the catalog has no row for the store \(text), whose file is there") { () throws(RemfsError) in
                    let store = try catalog.adoptStore(id)
                    return "gave it one, as \"\(store.name)\", with the rules of a new store"
                })
        }
        return problems
    }

    private func checkCopy(_ catalog: Catalog) -> Problem? {
        let copy = Catalog.copy(of: path)
        let isThere = unsafe access(copy, F_OK) == 0
        // A daemon makes it in its first second.
        if isThere ? Self.isSound(copy) : !isOffline && !catalog.hasCopied { return nil }
        return Problem(.catalogCopy, "the catalog's copy \(copy) \(isThere ? "is damaged" : "is missing")") { () throws(RemfsError) in
            try catalog.renewCopy()
            return "made it anew"
        }
    }

    private func addNotes(_ diagnosis: inout Diagnosis) throws(RemfsError) {
        let orphans = directory + "/orphans"
        guard unsafe access(orphans, F_OK) == 0 else { return }
        for name in try StorePool.names(in: orphans).sorted() where name.hasSuffix(".sqlite") {
            let id = String(name.dropLast(7))
            guard StoreID(id) != nil, unsafe access(file(id), F_OK) != 0 else {
                diagnosis.notes.append("\(orphans)/\(name) is kept and used by nobody")
                continue
            }
            diagnosis.notes.append("\(orphans)/\(name) is a store without a row; to have it back: remfs doctor --repair --adopt \(id)")
        }
    }

    // MARK: Files

    /// Gives a store whose file is in `orphans/` or has no row its place and a row.
    func adopt(_ id: StoreID) throws(RemfsError) -> Finding {
        guard let catalog else { throw failure ?? RemfsError(.corrupted, "the catalog \(path) cannot be read") }
        let (file, orphan) = (file(id.description), orphan(id.description))
        if try catalog.rawRows().contains(where: { $0.id == id.description }) {
            throw RemfsError(.pathConflict, "store \(id) has a row")
        }
        let isOrphan = unsafe access(file, F_OK) != 0
        let place = isOrphan ? orphan : file
        guard unsafe access(place, F_OK) == 0 else { throw RemfsError(.notFound, "no file of store \(id) in stores/ or orphans/") }
        guard Self.owner(of: place) == id.description else { throw RemfsError(.corrupted, "\(place) is not the store \(id)") }
        if isOrphan { try Self.move(orphan, to: file) }
        let store = try catalog.adoptStore(id)
        return Finding(
            kind: .rowMissing, message: "the catalog has no row for the store \(id)", outcome: .repaired,
            repair: "gave it one, as \"\(store.name)\", with the rules of a new store", advice: nil)
    }

    /// Moves a store's file with its journal.
    private static func move(_ from: String, to: String) throws(RemfsError) {
        // The journal first: a file that was left without it would be taken for whole.
        for suffix in ["-wal", ""] where unsafe access(from + suffix, F_OK) == 0 {
            guard unsafe rename(from + suffix, to + suffix) == 0 else { throw RemfsError.ofSystem("cannot move \(from)\(suffix)") }
        }
    }

    /// Which store a file says that it is; nil: none, or it cannot be read.
    private static func owner(of path: String) -> String? {
        do throws(SQLiteError) {
            let connection = try StoreChecker.open(path, forWriting: false)
            guard try connection.integer("PRAGMA application_id") == Schema.storeApplicationID else { return nil }
            let row = try connection.prepare("SELECT value FROM property WHERE name = 'store'")
            defer { row.reset() }
            return try row.step() ? row.text(0) : nil
        } catch {
            return nil
        }
    }

    /// Whether a file is a catalog that SQLite's own check has nothing to say against.
    private static func isSound(_ path: String) -> Bool {
        guard unsafe access(path, F_OK) == 0 else { return false }
        do throws(SQLiteError) {
            let connection = try StoreChecker.open(path, forWriting: false)
            guard try connection.integer("PRAGMA application_id") == Schema.catalogApplicationID else { return false }
            return try connection.integer("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'") == 0
        } catch {
            return false
        }
    }
}

extension Catalog {
    /// A row for a store of which only the file is left.
    func adoptStore(_ id: StoreID) throws(RemfsError) -> Store {
        try createStore(id, name: "recovered-\(id.description.suffix(6))", description: "", metadata: [:])
    }
}

// MARK: With a daemon, and without

extension StorePool {
    private var examination: StateExamination {
        StateExamination(
            directory: directory, catalog: catalog, failure: nil, isUnfinished: { self.isUnfinished($0) }, isOffline: false)
    }

    /// Checks the catalog and the files of the state directory.
    package func checkState() throws(RemfsError) -> Diagnosis { try examination.check() }

    /// Repairs what can be of the catalog and the files while the daemon runs.
    ///
    /// - Parameter id: a store whose file has no row, which is to get one.
    package func repairState(adopting id: StoreID? = nil) throws(RemfsError) -> Diagnosis {
        try examination.repair(adopting: id, then: { () throws(RemfsError) in self.examination })
    }

    /// Looks through a store's file while everyone goes on. Blocks for as long as it takes to read all of it.
    package func check(_ id: StoreID) throws(RemfsError) -> Diagnosis {
        let row = try catalog.store(id)
        return try StoreExamination.checkFile(id, name: row.name, path: path(of: id))
    }

    /// Repairs what can be of a store. What works in its mounts waits meanwhile.
    package func repair(_ id: StoreID) throws(RemfsError) -> Diagnosis {
        let row = try catalog.store(id)
        let path = path(of: id)
        var diagnosis = try withStoreOrFile(
            id, open: { (store) throws(RemfsError) in try store.repair() },
            closed: { () throws(RemfsError) in try StoreExamination.repairFile(id, name: row.name, path: path) })
        diagnosis.name = row.name
        return diagnosis
    }
}

extension StateExamination {
    /// Repairs, adopts, and looks again.
    fileprivate func repair(
        adopting id: StoreID?, then again: () throws(RemfsError) -> StateExamination
    ) throws(RemfsError) -> Diagnosis {
        var diagnosis = try repair()
        let later = try again()
        if diagnosis.findings.contains(where: { $0.outcome == .repaired && $0.kind == .catalogDamaged }) {
            // The catalog of the copy may not know all files.
            let more = try later.repair()
            for finding in more.findings where finding.outcome == .repaired { diagnosis.add(finding) }
        }
        if let id { diagnosis.add(try later.adopt(id)) }
        return diagnosis.followed(by: try later.check())
    }
}

/// A state directory that no daemon has: held as long as this lives.
package final class OfflineState {
    package let directory: String
    private let lockFile: Int32

    /// - Throws: `busy`: a daemon has it; `notFound`: there is none.
    package init(_ directory: String) throws(RemfsError) {
        self.directory = directory
        guard unsafe access(directory + "/stores", F_OK) == 0 else {
            throw RemfsError(.notFound, "\(directory) is no state directory of remfs")
        }
        lockFile = try StorePool.lock(directory)
    }

    deinit { close(lockFile) }

    private func examination() throws(RemfsError) -> StateExamination {
        let path = directory + "/catalog.sqlite"
        func made(_ catalog: Catalog?, _ failure: RemfsError?) -> StateExamination {
            StateExamination(directory: directory, catalog: catalog, failure: failure, isUnfinished: { _ in false }, isOffline: true)
        }
        if try StorePool.isMissingOrEmpty(path) { return made(nil, nil) }
        do throws(RemfsError) {
            return made(try Catalog(path: path, isNew: false), nil)
        } catch {
            guard error.code == .corrupted else { throw error }
            return made(nil, error)
        }
    }

    /// The stores that the catalog names; none where it cannot be read.
    package func stores() throws(RemfsError) -> [(id: StoreID, name: String)] {
        guard let catalog = try examination().catalog else { return [] }
        return try catalog.rawRows().compactMap { row in StoreID(row.id).map { ($0, row.name) } }
    }

    package func checkState() throws(RemfsError) -> Diagnosis { try examination().check() }

    /// - Parameter id: a store whose file has no row, which is to get one.
    package func repairState(adopting id: StoreID? = nil) throws(RemfsError) -> Diagnosis {
        try examination().repair(adopting: id, then: { () throws(RemfsError) in try self.examination() })
    }

    package func check(_ id: StoreID, name: String?) throws(RemfsError) -> Diagnosis {
        try StoreExamination.checkFile(id, name: name, path: file(of: id))
    }

    package func repair(_ id: StoreID, name: String?) throws(RemfsError) -> Diagnosis {
        try StoreExamination.repairFile(id, name: name, path: file(of: id))
    }

    private func file(of id: StoreID) -> String { "\(directory)/stores/\(id).sqlite" }
}
