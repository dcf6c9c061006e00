import Foundation
import Glibc
import SQLite
import Testing

@Suite struct ConnectionTests {
    /// A database in a directory of its own.
    private func withDatabase(_ body: (String) throws -> Void) throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("remfs-sqlite-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        // What cannot be removed stays in /tmp: no test depends on it.
        defer { try? FileManager.default.removeItem(at: directory) }
        try body(directory.appendingPathComponent("test.sqlite").path)
    }

    private func kind(_ body: () throws -> Void) -> SQLiteError.Kind? {
        do {
            try body()
            return nil
        } catch {
            return (error as? SQLiteError)?.kind
        }
    }

    @Test func valuesComeBackAsTheyWereBound() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (a INTEGER, b TEXT, c BLOB) STRICT")
            let insert = try connection.prepare("INSERT INTO t VALUES (?1, ?2, ?3)")
            let rows: [(Int64?, String?, [UInt8]?)] = [
                (0, "", []), (.min, "täglich \u{1F600}", [0, 255, 0]), (.max, "a\u{0}b", Array(repeating: 7, count: 100_000)),
                (nil, nil, nil),
            ]
            for row in rows {
                insert.bind(row.0, at: 1)
                insert.bind(row.1, at: 2)
                insert.bind(row.2, at: 3)
                try insert.run()
            }
            let select = try connection.prepare("SELECT a, b, c FROM t ORDER BY rowid")
            for row in rows {
                #expect(try select.step())
                #expect(select.integerOrNil(0) == row.0)
                #expect(select.text(1) == row.1)
                #expect(select.bytesOrNil(2) == row.2)
            }
            #expect(try !select.step())
        }
    }

    @Test func borrowedBytesAndNamesArriveWhole() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (name TEXT, bytes BLOB) STRICT")
            let insert = try connection.prepare("INSERT INTO t VALUES (?1, ?2)")
            insert.bind(text: Array("na\u{EF}ve".utf8), at: 1)
            try insert.run(binding: [1, 2, 3], at: 2)
            insert.bind(text: [], at: 1)
            try insert.run(binding: [], at: 2)
            let select = try connection.prepare("SELECT name, bytes FROM t ORDER BY rowid")
            #expect(try select.step() && select.text(0) == "na\u{EF}ve" && select.bytes(1) == [1, 2, 3])
            #expect(try select.step() && select.text(0) == "" && select.bytes(1) == [] && !select.isNull(1))
        }
    }

    @Test func errorsTellTheirFamilyAndTheirStatement() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER CHECK (b > 0)) STRICT; INSERT INTO t VALUES (1, 1)")
            #expect(kind { try connection.execute("INSERT INTO t VALUES (1, 1)") } == .constraint)
            #expect(kind { try connection.execute("INSERT INTO t VALUES (2, 0)") } == .constraint)
            #expect(kind { _ = try connection.prepare("SELECT nonsense FROM t") } == .other)
            #expect(kind { _ = try Connection(path: path + "-nowhere", mode: .readWrite) } == .cannotOpen)
            do {
                try connection.execute("DELETE FROM nowhere")
                Issue.record("no error")
            } catch let error as SQLiteError {
                #expect(error.sql == "DELETE FROM nowhere")
                #expect(error.description.contains("nowhere"))
            }
        }
    }

    @Test(arguments: [
        (Int32(13), SQLiteError.Kind.full), (10, .io), (10 | (4 << 8), .io), (11, .corrupted), (26, .notADatabase), (5, .busy), (6, .busy),
        (8, .readOnly), (3, .readOnly), (14, .cannotOpen), (19, .constraint), (7, .memory), (9, .interrupted), (1, .other),
    ])
    func eachCodeHasAFamily(_ code: Int32, _ kind: SQLiteError.Kind) {
        #expect(SQLiteError(code: code, message: "").kind == kind)
    }

    @Test func aFileThatIsNoDatabaseIsSaidToBeNone() throws {
        try withDatabase { path in
            try Data(String(repeating: "not a database, not at all. ", count: 100).utf8).write(to: URL(fileURLWithPath: path))
            let connection = try Connection(path: path, mode: .readWrite)
            #expect(kind { _ = try connection.integer("PRAGMA user_version") } == .notADatabase)
        }
    }

    @Test func aFailedStatementCanBeUsedAgain() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT")
            let insert = try connection.prepare("INSERT INTO t VALUES (?1)")
            insert.bind(1 as Int64, at: 1)
            try insert.run()
            #expect(kind { try insert.run() } == .constraint)
            insert.bind(2 as Int64, at: 1)
            try insert.run()
            #expect(try connection.integer("SELECT count(*) FROM t") == 2)
        }
    }

    /// An injected fault must leave a statement as a real one does: reset, so that the next use binds and runs.
    @Test func anInjectedFaultLeavesAStatementUsable() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1), (2), (3)")
            let update = try connection.prepare("UPDATE t SET a = a + 10 WHERE a = ?1 RETURNING a")
            try connection.execute("BEGIN IMMEDIATE")
            update.bind(1 as Int64, at: 1)
            #expect(try update.step() && update.integer(0) == 11)
            connection.fault = { 10 }
            #expect(kind { _ = try update.step() } == .io)
            connection.fault = nil
            update.bind(2 as Int64, at: 1)
            #expect(try update.step() && update.integer(0) == 12)
            update.reset()
            try connection.execute("ROLLBACK")
            #expect(try connection.integer("SELECT sum(a) FROM t") == 6)
        }
    }

    @Test func faultsReachStepsStatementsAndCheckpoints() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER) STRICT")
            let insert = try connection.prepare("INSERT INTO t VALUES (1)")
            connection.fault = { 13 }
            #expect(kind { try insert.run() } == .full)
            #expect(kind { try connection.execute("DELETE FROM t") } == .full)
            #expect(kind { _ = try connection.checkpoint(.passive) } == .full)
            connection.fault = nil
            try insert.run()
            #expect(try connection.integer("SELECT count(*) FROM t") == 1)
        }
    }

    @Test func aCheckpointEmptiesTheJournal() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a INTEGER) STRICT")
            for number in 0..<10 { try connection.execute("INSERT INTO t VALUES (\(number))") }
            let outcome = try connection.checkpoint(.passive)
            #expect(outcome.frames > 0 && outcome.moved == outcome.frames)
            _ = try connection.checkpoint(.truncate)
            var status = stat()
            #expect(stat(path + "-wal", &status) == 0 && status.st_size == 0)
        }
    }

    /// Whoever checkpoints may hold a lock that everyone needs: a reader must not keep it waiting.
    @Test func aCheckpointDoesNotWaitForAReader() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a INTEGER) STRICT")
            let reader = try Connection(path: path, mode: .readWrite)
            try reader.execute("BEGIN")
            #expect(try reader.integer("SELECT count(*) FROM t") == 0)
            try connection.execute("INSERT INTO t VALUES (1)")
            let start = ContinuousClock.now
            let outcome = try connection.checkpoint(.truncate)
            #expect(ContinuousClock.now - start < .seconds(5))
            #expect(outcome.frames > 0)
            #expect(try reader.integer("SELECT count(*) FROM t") == 0)
            try reader.execute("COMMIT")
            _ = try connection.checkpoint(.truncate)
            var status = stat()
            #expect(stat(path + "-wal", &status) == 0 && status.st_size == 0)
        }
    }

    @Test func aReaderSeesTheLastCommitWhileAWriterGoesOn() throws {
        try withDatabase { path in
            let writer = try Connection(path: path, mode: .create)
            try writer.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER) STRICT; INSERT INTO t VALUES (1)")
            let reader = try Connection(path: path, mode: .readWrite)
            try writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)")
            #expect(writer.isInTransaction)
            #expect(try reader.integer("SELECT count(*) FROM t") == 1)
            try writer.execute("COMMIT")
            #expect(!writer.isInTransaction)
            #expect(try reader.integer("SELECT count(*) FROM t") == 2)
        }
    }

    @Test func aBackupIsAFileOfItsOwn() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER) STRICT; INSERT INTO t VALUES (1), (2)")
            try connection.backup(to: path + ".copy")
            try connection.execute("DELETE FROM t")
            let copy = try Connection(path: path + ".copy", mode: .readOnly, isPrivate: false)
            #expect(try copy.integer("SELECT count(*) FROM t") == 2)
            #expect(kind { try copy.execute("DELETE FROM t") } == .readOnly)
        }
    }

    @Test func noRowAndNullAreBothNil() throws {
        try withDatabase { path in
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("CREATE TABLE t (a INTEGER) STRICT")
            #expect(try connection.integer("SELECT a FROM t") == nil)
            #expect(try connection.integer("SELECT max(a) FROM t") == nil)
            #expect(try connection.integer("SELECT 7") == 7)
            #expect(Connection.libraryVersion >= 3_037_000)  // STRICT tables
        }
    }
}
