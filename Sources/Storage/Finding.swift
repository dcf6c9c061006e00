import Glibc
import SQLite

/// One thing that `remfs doctor` found wrong in a store's file, in the catalog or among the files of the state directory.
package struct Finding: Sendable, Equatable {
    /// What rule is broken. `Operations.md` says of each what it means.
    package enum Kind: String, CaseIterable, Sendable {
        // The file as such.
        case databaseDamaged = "database_damaged"
        case indexWrong = "index_wrong"
        case fileUnreadable = "file_unreadable"
        case foreignFile = "foreign_file"
        case ownerMissing = "owner_missing"
        // The tree.
        case rootMissing = "root_missing"
        case typeUnknown = "type_unknown"
        case directoryMissing = "directory_missing"
        case directoryCycle = "directory_cycle"
        case nameInvalid = "name_invalid"
        case nameTwice = "name_twice"
        case cookieTwice = "cookie_twice"
        case nameOfNothing = "name_of_nothing"
        case nameOfUnlinked = "name_of_unlinked"
        case attributeOfNothing = "attribute_of_nothing"
        // History.
        case intervalWrong = "interval_wrong"
        case operationWrong = "operation_wrong"
        case timeBackwards = "time_backwards"
        case memoryTwice = "memory_twice"
        case memoryLost = "memory_lost"
        case headWrong = "head_wrong"
        case headContent = "head_content"
        case pathWrong = "path_wrong"
        case removalWrong = "removal_wrong"
        // Content.
        case contentMalformed = "content_malformed"
        case chunkMissing = "chunk_missing"
        case chunkUnused = "chunk_unused"
        case countWrong = "count_wrong"
        case keyWrong = "key_wrong"
        case headIsDelta = "head_is_delta"
        case digestWrong = "digest_wrong"
        case hashWrong = "hash_wrong"
        case bytesMissing = "bytes_missing"
        case chainBroken = "chain_broken"
        case chainLong = "chain_long"
        case draftOfNothing = "draft_of_nothing"
        case draftHidden = "draft_hidden"
        case bytesOfNothing = "bytes_of_nothing"
        case numberWrong = "number_wrong"
        // The catalog and the files.
        case catalogDamaged = "catalog_damaged"
        case catalogRow = "catalog_row"
        case catalogCopy = "catalog_copy"
        case fileMissing = "file_missing"
        case rowMissing = "row_missing"
    }

    package enum Outcome: String, Sendable {
        /// Found, and `--repair` would put it right.
        case repairable
        case repaired
        /// `advice` says what to do.
        case unrepairable
    }

    package let kind: Kind
    /// One sentence without a full stop that names the thing.
    package let message: String
    package var outcome: Outcome
    /// What was done about it, once it was repaired.
    package var repair: String?
    /// What a person has to do where remfs can do nothing.
    package let advice: String?
}

/// What a check of one store, or of the state directory, came to.
package struct Diagnosis: Sendable {
    /// nil: the catalog and the files of the state directory.
    package let store: StoreID?
    /// The store's name; nil where no row says it.
    package var name: String?
    /// The file that was looked at.
    package let file: String
    /// At most `Diagnosis.most`, in the order in which they were found.
    package private(set) var findings: [Finding] = []
    /// How many more there are of each outcome.
    package private(set) var omitted: [Finding.Outcome: Int] = [:]
    /// Where the file as it was before the first repair is kept; nil: nothing was repaired.
    package var kept: String?
    /// What is there and no damage: files that nobody has a row for, and the like. One sentence each.
    package var notes: [String] = []

    /// More than anyone reads.
    package static let most = 200

    init(store: StoreID?, name: String?, file: String) {
        self.store = store
        self.name = name
        self.file = file
    }

    mutating func add(_ finding: Finding) {
        if findings.count < Self.most { findings.append(finding) } else { omitted[finding.outcome, default: 0] += 1 }
    }

    /// Those that nobody has looked at more closely.
    mutating func addOmitted(_ count: Int) { if count > 0 { omitted[.repairable, default: 0] += count } }

    /// Nothing was found.
    package var isSound: Bool { findings.isEmpty }
    /// Nothing is wrong any more.
    package var isClean: Bool { findings.allSatisfy { $0.outcome == .repaired } && omitted.keys.allSatisfy { $0 == .repaired } }
    var isRepairable: Bool { findings.contains { $0.outcome == .repairable } || omitted[.repairable] != nil }

    /// As another check of the same thing found it after these were repaired.
    func followed(by later: Diagnosis) -> Diagnosis {
        var all = self
        all.findings = findings.filter { $0.outcome == .repaired }
        all.omitted = omitted.filter { $0.key == .repaired }
        for finding in later.findings { all.add(finding) }
        for (outcome, count) in later.omitted { all.omitted[outcome, default: 0] += count }
        all.notes = later.notes
        return all
    }

    /// The name of a copy that is kept from before a repair: beside the file, with the time in UTC.
    static func placeToKeep(_ file: String) -> String {
        var now = time(nil)
        var parts = unsafe tm()
        unsafe gmtime_r(&now, &parts)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let day = unsafe "\(parts.tm_year + 1_900)\(two(parts.tm_mon + 1))\(two(parts.tm_mday))"
        let base = unsafe "\(file).before-repair-\(day)T\(two(parts.tm_hour))\(two(parts.tm_min))\(two(parts.tm_sec))Z"
        var place = base
        var number = 1
        while unsafe access(place, F_OK) == 0 {
            number += 1
            place = "\(base)-\(number)"
        }
        return place
    }
}

/// A finding with what puts it right.
struct Trouble {
    var finding: Finding
    /// Answers what it did, in words.
    let remedy: ((StoreRepairer) throws(SQLiteError) -> String)?

    /// - Parameter advice: nil: as for all damage of a store, its backup.
    init(
        _ kind: Finding.Kind, _ message: String, advice: String? = nil,
        remedy: ((StoreRepairer) throws(SQLiteError) -> String)? = nil
    ) {
        finding = Finding(
            kind: kind, message: message, outcome: remedy == nil ? .unrepairable : .repairable, repair: nil,
            advice: remedy == nil ? advice : nil)
        self.remedy = remedy
    }
}
