import Foundation
import SQLite
import Testing

@testable import Storage

/// Looks for bytes wherever a store may keep some: in its files as they are, and in all that these encode.
enum Traces {
    /// Where any of the words is, in the files as a kill would leave them now and as they are; empty: nowhere.
    static func of(_ words: [String], in test: TestStore) throws -> [String] {
        var found = try inFiles(words, below: test.directory)
        try test.withFilesAfterKill { path in
            // The writer's way in: what the journal has not moved yet is seen as well.
            let connection = try Connection(path: path, mode: .readWrite)
            found += try inRows(words, connection)
        }
        return found
    }

    /// The raw bytes of every file below a directory, whoever they belong to.
    static func inFiles(_ words: [String], below directory: String) throws -> [String] {
        var found: [String] = []
        let names = FileManager.default.enumerator(atPath: directory)?.compactMap { $0 as? String } ?? []
        for name in names {
            let path = directory + "/" + name
            var isDirectory: ObjCBool = false
            guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory), !isDirectory.boolValue else { continue }
            let data = try Data(contentsOf: URL(fileURLWithPath: path))
            for word in words where data.range(of: Data(word.utf8)) != nil { found.append("\(word) in \(name)") }
        }
        return found
    }

    /// Every chunk decoded, every draft, every text of every table, and the words of the search index.
    static func inRows(_ words: [String], _ connection: Connection) throws -> [String] {
        var found: [String] = []
        func look(_ bytes: [UInt8], _ place: String) {
            let data = Data(bytes)
            for word in words where data.range(of: Data(word.utf8)) != nil { found.append("\(word) in \(place)") }
        }
        let chunk = try connection.prepare("SELECT digest, size, encoding, base FROM chunk WHERE number = ?1")
        let extent = try connection.prepare("SELECT bytes FROM extent WHERE number = ?1")
        for number in try numbers("SELECT number FROM chunk", connection) {
            look(try ChunkReader.bytes(of: number, row: chunk, extent: extent), "chunk \(number)")
        }
        for number in try numbers("SELECT number FROM extent", connection) {
            extent.bind(number, at: 1)
            if try extent.step() { look(extent.bytes(0), "extent \(number)") }
            extent.reset()
        }
        for (table, columns) in [
            ("version", "directory, name, command, actor"), ("inode", "name, author, content"), ("dentry", "name"), ("removal", "path"),
            ("xattr", "name, value"), ("property", "value"),
        ] {
            for column in columns.split(separator: ", ") {
                let row = try connection.prepare("SELECT CAST(\(column) AS BLOB) FROM \(table) WHERE \(column) IS NOT NULL")
                while try row.step() { look(row.bytes(0), "\(table).\(column)") }
            }
        }
        if try connection.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'search'") == 1 {
            try connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'search', 'row')")
            let terms = Set(words.flatMap { $0.lowercased().split { !$0.isLetter && !$0.isNumber }.map(String.init) })
            let row = try connection.prepare("SELECT term FROM temp.vocabulary")
            while try row.step() {
                if let term = row.text(0), terms.contains(term) { found.append("\(term) in the search index") }
            }
        }
        return found
    }

    private static func numbers(_ sql: String, _ connection: Connection) throws -> [Int64] {
        let row = try connection.prepare(sql)
        var numbers: [Int64] = []
        while try row.step() { numbers.append(row.integer(0)) }
        return numbers
    }
}
