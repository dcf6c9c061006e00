import SQLite
import Threads

/// What a restore has done, or would do.
package struct RestoreOutcome: Sendable {
    /// By path, at most `longestList` of them: from what is to what shall be.
    package let changes: [MemoryDifference]
    package private(set) var counts: [MemoryDifference.Change: Int] = [:]

    /// What one answer lists.
    package static let longestList = 1_000

    init(_ differences: [MemoryDifference]) {
        changes = Array(differences.prefix(Self.longestList))
        for difference in differences { counts[difference.change, default: 0] += 1 }
    }
}

/// Going back: what a store, a part of it or a memory was, as new versions. Nothing is lost by it.
extension MemoryStore {
    /// Makes the memories in `scope` what they were: content and path. What has come since is deleted, what has gone comes back under its
    /// ID. One transaction: all of it or nothing, also after a crash. Where a path that is needed is taken it is nothing, and
    /// `pathConflict`.
    ///
    /// A memory is in scope where it is in it now or was in it then. Saves that are open in it are sealed first. Throws `invalidArgument`
    /// for a moment before the first version.
    ///
    /// - Parameter isDryRun: changes nothing, and says what a restore would do to what is sealed so far.
    package func restore(
        to point: StorePoint, _ scope: StoreScope, isDryRun: Bool = false, by author: Author
    ) throws(RemfsError) -> RestoreOutcome {
        try settleForReading()
        let then = try readers.browse { (reader) throws(RemfsError) -> Moment in
            let then = try self.moment(point, reader)
            // What retention gave up would be taken for what was not there then, and be deleted.
            try self.requireHistory(at: then, scope, reader.connection)
            return then
        }
        guard then.number > 0 else { throw RemfsError(.invalidArgument, "store \(id) had no version then: there is nothing to go back to") }
        if isDryRun {
            return try readers.browse { (reader) throws(RemfsError) in
                RestoreOutcome(try self.differences(to: then, scope, reader.connection))
            }
        }
        let outcome = try changeTogether { (state) throws(RemfsError) in
            try state.sealOpenSaves(scope)
            // More may have been given up meanwhile.
            try self.requireHistory(at: then, scope, state.writer)
            let differences = try self.differences(to: then, scope, state.writer)
            try state.putBack(differences, by: author)
            return RestoreOutcome(differences)
        }
        try synchronizeNow()
        drainInvalidations()
        return outcome
    }

    private func differences(
        to then: Moment, _ scope: StoreScope, _ connection: Connection
    ) throws(RemfsError) -> [MemoryDifference] {
        try RemfsError.mapping("store \(id)") { () throws(SQLiteError) in
            let now = Moment(number: try connection.integer("SELECT max(number) FROM version") ?? 0, time: 0)
            let differences = try DifferenceQuery.run(connection, in: self.id, from: now, to: then, scope)
            // Of what was redacted since nothing can be put back, and that is no reason to take what is there away.
            let row = try connection.prepare(
                "SELECT redacted IS NOT NULL FROM version WHERE memory = ?1 AND number <= ?2 ORDER BY number DESC LIMIT 1")
            var kept: [MemoryDifference] = []
            for difference in differences {
                if difference.new == nil, let old = difference.old {
                    row.bind(old.memoryNumber, at: 1)
                    row.bind(then.number, at: 2)
                    defer { row.reset() }
                    if try row.step(), row.integer(0) == 1 { continue }
                }
                kept.append(difference)
            }
            return kept
        }
    }

    /// Puts a version's content back as a new version; a deleted memory comes back at its last path, under its own ID.
    package func restore(_ memory: MemoryID, to version: VersionID, by author: Author) throws(RemfsError) -> Memory {
        let source = try self.version(version)
        guard source.memory == memory, let number = memory.number(in: id) else {
            throw RemfsError(.notFound, "version \(version) is of another memory")
        }
        let missing = RemfsError(
            .invalidArgument, "version \(version) holds no content to restore: it is a deletion, or was redacted")
        guard source.contentSHA256 != nil else { throw missing }
        try changeTogether { (state) throws(RemfsError) in
            if let place = state.memoryInodes[number], let inode = state.inodes[place], inode.head != nil, inode.links > 0 {
                try state.settleForAPI(inode)
                guard let content = try state.keptContent(ofVersion: source.number), let head = inode.head else { throw missing }
                let digest = if let known = head.digest { known } else { try state.digest(of: inode) }
                guard digest.hex != source.contentSHA256 else {
                    return try state.query { () throws(SQLiteError) in try state.release(content.content) }
                }
                return try state.revise(inode, to: content, at: nil, by: author)
            }
            let last = try state.query { () throws(SQLiteError) -> (number: Int64, path: String)? in
                let row = try state.writer.prepare(
                    "SELECT number, directory || name FROM version WHERE memory = ?1 AND name IS NOT NULL ORDER BY number DESC LIMIT 1")
                row.bind(number, at: 1)
                return try row.step() ? (row.integer(0), row.text(1) ?? "") : nil
            }
            guard let last else { throw RemfsError(.notFound, "memory \(memory) not found") }
            try state.bringBack(number, version: source.number, to: last.path, by: author)
        }
        try synchronizeNow()
        drainInvalidations()
        return try self.memory(memory)
    }
}

extension StoreState {
    /// Seals what is being written in a scope, so that it has a version to go back from.
    fileprivate func sealOpenSaves(_ scope: StoreScope) throws(RemfsError) {
        for inode in Array(inodes.values) where inode.drafts != nil && inode.isMemory && inode.links > 0 {
            let isConcerned =
                switch scope {
                case .prefix(let prefix): path(of: inode).utf8.starts(with: prefix.utf8)
                case .path(let path): self.path(of: inode).utf8.elementsEqual(path.utf8)
                case .memory(let memory): inode.head?.memory == memory.number(in: id)
                }
            if isConcerned { try settleForAPI(inode) }
        }
    }

    /// Makes what is `old` in each difference what is `new`.
    /// Makes what is `old` in each difference what is `new`.
    func putBack(_ differences: [MemoryDifference], by author: Author) throws(RemfsError) {
        func inode(_ state: MemoryState) throws(RemfsError) -> Inode {
            guard let place = memoryInodes[state.memoryNumber], let inode = inodes[place], inode.head != nil else {
                throw RemfsError(.corrupted, "\(state.path) has a version and no file: run remfs doctor")
            }
            return inode
        }
        // First everything that makes room, so that memories may also change places.
        for difference in differences where difference.new == nil {
            if let old = difference.old { try remove(try inode(old), by: author) }
        }
        for difference in differences where difference.change == .renamed {
            if let old = difference.old {
                let inode = try inode(old)
                try settleForAPI(inode)
                lift(inode)
            }
        }
        for difference in differences {
            guard let new = difference.new else { continue }
            guard let old = difference.old else {
                try bringBack(new.memoryNumber, version: new.versionNumber, to: new.path, by: author)
                continue
            }
            let inode = try inode(old)
            var vacancy: Vacancy?
            if difference.change == .renamed {
                vacancy = try self.vacancy(Self.segments(new.path), moving: nil)
            } else {
                try settleForAPI(inode)
            }
            let content = difference.changesContent ? try keptContent(ofVersion: new.versionNumber) : nil
            try revise(inode, to: content, at: vacancy, by: author)
        }
    }

    /// A deleted memory is there again, as a version of it says.
    fileprivate func bringBack(_ memory: Int64, version: Int64, to path: String, by author: Author) throws(RemfsError) {
        guard let content = try keptContent(ofVersion: version) else {
            throw RemfsError(.invalidArgument, "\(path) was redacted: there is no content to restore")
        }
        let previous = try query { () throws(SQLiteError) -> Int64 in
            let row = try statements.cached("SELECT max(number) FROM version WHERE memory = ?1")
            row.bind(memory, at: 1)
            defer { row.reset() }
            return try row.step() ? row.integer(0) : 0
        }
        let vacancy = try self.vacancy(Self.segments(path), moving: nil)
        try reserveNumbers(1)
        try addFile(vacancy, Attributes(), content, number: takeNumber(), memory: (memory, previous), by: author)
    }

    private static func segments(_ path: String) -> [[UInt8]] { path.utf8.split(separator: UInt8(ascii: "/")).map { Array($0) } }
}
