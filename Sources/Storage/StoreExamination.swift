import Glibc
import SQLite

/// A check of one store's file from end to end, and its repair.
enum StoreExamination {
    /// Looks through all of the file, through a connection of its own; writers go on.
    static func check(_ id: StoreID, name: String?, path: String) throws(RemfsError) -> Diagnosis {
        var diagnosis = Diagnosis(store: id, name: name, file: path)
        let connection: Connection
        do throws(SQLiteError) {
            connection = try StoreChecker.open(path, forWriting: false)
            try requireSchema(connection, path, &diagnosis)
        } catch {
            try addUnreadable(error, path, &diagnosis)
            return diagnosis
        }
        guard diagnosis.isSound else { return diagnosis }
        let checker = StoreChecker(connection, id: id, path: path)
        for part in StoreChecker.Part.allCases {
            try checker.check(part)
            // Another store's file is not looked at as if it were this one's.
            if checker.troubles.contains(where: { $0.finding.kind == .foreignFile }) { break }
        }
        for trouble in checker.troubles { diagnosis.add(trouble.finding) }
        diagnosis.addOmitted(checker.omitted)
        if diagnosis.isSound { try addNotes(connection, &diagnosis) }
        return diagnosis
    }

    private static func addUnreadable(_ error: SQLiteError, _ path: String, _ diagnosis: inout Diagnosis) throws(RemfsError) {
        let kind: Finding.Kind
        switch error.kind {
        case .corrupted: kind = .databaseDamaged
        case .notADatabase: kind = .fileUnreadable
        default: throw RemfsError(error, in: path)
        }
        diagnosis.add(
            Trouble(kind, "the file is no SQLite file that can be read: \(error.message)", advice: StoreChecker.restoring(path)).finding)
    }

    private static func requireSchema(_ connection: Connection, _ path: String, _ diagnosis: inout Diagnosis) throws(SQLiteError) {
        let application = try connection.integer("PRAGMA application_id") ?? 0
        let version = try connection.integer("PRAGMA user_version") ?? 0
        if application != Schema.storeApplicationID || version == 0 {
            diagnosis.add(Trouble(.fileUnreadable, "the file is not a store of remfs", advice: StoreChecker.restoring(path)).finding)
        } else if version > Schema.store.count {
            let message = "the file has schema \(version), this remfs knows \(Schema.store.count)"
            diagnosis.add(Trouble(.fileUnreadable, message, advice: "run the newer remfs that wrote it").finding)
        }
    }

    /// What waits for something, as it does in a sound store.
    private static func addNotes(_ connection: Connection, _ diagnosis: inout Diagnosis) throws(RemfsError) {
        let label = "store \(diagnosis.file)"
        for (sql, what) in [
            ("SELECT count(*) FROM inode WHERE parent IS NULL AND number <> 1", "unlinked files, which go when nobody has them open"),
            ("SELECT count(*) FROM removal", "removals, which are told after two seconds"),
            ("SELECT count(*) FROM property WHERE name = 'redaction'", "redactions whose bytes are not gone yet: upkeep goes on with it"),
            (
                """
                SELECT count(DISTINCT number >> 20) FROM extent
                WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.number = extent.number)
                """, "saves that are not sealed yet"
            ),
        ] {
            let count = try RemfsError.mapping(label) { () throws(SQLiteError) in try connection.integer(sql) ?? 0 }
            if count > 0 { diagnosis.notes.append("\(count) \(what)") }
        }
    }

    /// Repairs what can be, in transactions of `connection`. Nobody else may have the store open for writing.
    ///
    /// - Parameter hashes: also looks through all chunks for what can be repaired there.
    static func repair(
        _ connection: Connection, _ id: StoreID, path: String, hashes: Bool, into diagnosis: inout Diagnosis
    ) throws(RemfsError) {
        let checker = StoreChecker(connection, id: id, path: path)
        // Repairs take numbers: the last look is whether those are promised.
        for part in StoreChecker.Part.allCases + [.numbers] where part != .hashes || hashes {
            // What a repair leads to is found by the next round of the same part.
            var repaired = 0
            repeat {
                try checker.check(part)
                let troubles = checker.takeTroubles()
                if troubles.contains(where: { $0.finding.kind == .foreignFile }) { return }
                repaired = try apply(troubles, connection, &diagnosis)
            } while repaired > 0
        }
    }

    /// Puts right what was found, each by itself: one that fails leaves the others. Answers how many were.
    private static func apply(
        _ troubles: [Trouble], _ connection: Connection, _ diagnosis: inout Diagnosis
    ) throws(RemfsError) -> Int {
        let label = "store \(diagnosis.file)"
        var repaired = 0
        try RemfsError.mapping(label) { () throws(SQLiteError) in try connection.execute("BEGIN IMMEDIATE") }
        do throws(SQLiteError) {
            let repairer = try StoreRepairer(connection)
            for trouble in troubles {
                guard let remedy = trouble.remedy else { continue }
                try connection.execute("SAVEPOINT repair")
                do throws(SQLiteError) {
                    var finding = trouble.finding
                    finding.repair = try remedy(repairer)
                    finding.outcome = .repaired
                    diagnosis.add(finding)
                    repaired += 1
                } catch {
                    // A rule of the schema, or damage elsewhere, stands in the way: the check that follows says what is left.
                    guard error.kind == .constraint || error.kind == .corrupted, connection.isInTransaction else { throw error }
                    try connection.execute("ROLLBACK TO repair")
                }
                try connection.execute("RELEASE repair")
            }
            try connection.execute("COMMIT")
        } catch {
            let failure = RemfsError(error, in: label)
            if connection.isInTransaction {
                try RemfsError.mapping(label) { () throws(SQLiteError) in try connection.execute("ROLLBACK") }
            }
            throw failure
        }
        return repaired
    }
}

extension StoreExamination {
    /// Keeps the file as it is beside it, before the first repair.
    static func keep(_ connection: Connection, at place: String, label: String) throws(RemfsError) {
        do throws(SQLiteError) {
            try connection.backup(to: place)
        } catch {
            let failure = RemfsError(error, in: label)
            throw RemfsError(failure.code, "nothing is repaired, since \(label) cannot be kept as it is at \(place)", cause: failure.cause)
        }
    }

    /// As `check`, where the file may be missing.
    static func checkFile(_ id: StoreID, name: String?, path: String) throws(RemfsError) -> Diagnosis {
        guard unsafe access(path, F_OK) != 0 else { return try check(id, name: name, path: path) }
        guard errno == ENOENT else { throw RemfsError.ofSystem("cannot look at \(path)") }
        var diagnosis = Diagnosis(store: id, name: name, file: path)
        let advice = "restore a backup: cp BACKUP \(path)"
        diagnosis.add(Trouble(.fileMissing, "the store's file \(path) is missing", advice: advice).finding)
        return diagnosis
    }

    /// Checks and repairs the file of a store that nobody has open.
    static func repairFile(_ id: StoreID, name: String?, path: String) throws(RemfsError) -> Diagnosis {
        let found = try checkFile(id, name: name, path: path)
        guard found.isRepairable else { return found }
        let kept = Diagnosis.placeToKeep(path)
        var repaired = Diagnosis(store: id, name: name, file: path)
        let connection = try RemfsError.mapping(path) { () throws(SQLiteError) in try StoreChecker.open(path, forWriting: true) }
        try keep(connection, at: kept, label: path)
        try repair(connection, id, path: path, hashes: true, into: &repaired)
        repaired.kept = kept
        return repaired.followed(by: try check(id, name: name, path: path))
    }
}
