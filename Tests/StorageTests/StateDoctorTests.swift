import Foundation
import Glibc
import Logging
import SQLite
import Testing

@testable import Storage

/// The catalog against the files of a state directory, without a daemon and with one.
@Suite struct StateDoctorTests {
    private static let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })

    /// A state directory with two stores, that nobody has open.
    private func withState(_ body: (String, [StoreID]) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            var stores: [StoreID] = []
            for name in ["one", "two"] {
                let id = try pool.createStore(name: name, description: "", metadata: ["a": "b"]).id
                try pool.withStore(id) { (store) throws(RemfsError) in
                    _ = try store.commit(.create(path: MemoryPath("/a.md"), content: bytes(name)), by: Author(.local))
                }
                stores.append(id)
            }
            pool.close()
            try body(directory, stores)
        }
    }

    private func catalog(_ directory: String, _ sql: String) throws {
        try Connection(path: directory + "/catalog.sqlite", mode: .readWrite).execute(sql)
    }

    private func file(_ directory: String, _ id: StoreID) -> String { "\(directory)/stores/\(id).sqlite" }

    /// What an offline doctor finds, what it says once it has repaired, and that it then finds nothing.
    private func expect(
        _ directory: String, finds: Set<Finding.Kind>, isRepairable: Bool = true, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let state = try OfflineState(directory)
        let found = try state.checkState()
        #expect(Set(found.findings.map(\.kind)) == finds, "\(found.findings)", sourceLocation: sourceLocation)
        let repaired = try state.repairState()
        #expect(repaired.isClean == isRepairable, "\(repaired.findings)", sourceLocation: sourceLocation)
        #expect(repaired.findings.allSatisfy { $0.outcome != .unrepairable || $0.advice != nil }, sourceLocation: sourceLocation)
        #expect(try state.checkState().isSound == isRepairable, sourceLocation: sourceLocation)
    }

    /// What the stores hold, once a daemon has the directory again.
    private func contents(_ directory: String) throws -> [String: String] {
        let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
        defer { pool.close() }
        var contents: [String: String] = [:]
        for row in try pool.catalog.allStores() {
            contents[row.name] = try pool.withStore(row.id) { (store) throws(RemfsError) in
                text(try store.content(of: store.memory(at: "/a.md")))
            }
        }
        return contents
    }

    @Test func aSoundStateIsSound() throws {
        try withState { directory, stores in
            try expect(directory, finds: [])
            let state = try OfflineState(directory)
            #expect(try state.stores().map(\.id) == stores)
            for id in stores { #expect(try state.check(id, name: nil).isSound) }
            #expect(try FileManager.default.contentsOfDirectory(atPath: directory + "/stores").count == 2)
        }
    }

    @Test func aDirectoryThatADaemonHasIsLeftAlone() throws {
        try withState { directory, _ in
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            #expect(RemfsError.code { _ = try OfflineState(directory) } == .busy)
            #expect(RemfsError.code { _ = try OfflineState(directory + "/none") } == .notFound)
        }
    }

    @Test func aFileWithoutARowGetsOne() throws {
        try withState { directory, stores in
            try catalog(directory, "DELETE FROM store WHERE id = '\(stores[0])'")
            try expect(directory, finds: [.rowMissing])
            #expect(try contents(directory) == ["recovered-\(stores[0].description.suffix(6))": "one", "two": "two"])
        }
    }

    @Test func aFileThatADaemonHasMovedAsideComesBack() throws {
        try withState { directory, stores in
            try catalog(directory, "DELETE FROM store WHERE id = '\(stores[0])'")
            #expect(try contents(directory) == ["two": "two"])
            let state = try OfflineState(directory)
            let found = try state.checkState()
            #expect(found.isSound && found.notes.contains { $0.hasSuffix("remfs doctor --repair --adopt \(stores[0])") }, "\(found.notes)")
            let repaired = try state.repairState(adopting: stores[0])
            #expect(repaired.isClean && repaired.notes.isEmpty, "\(repaired)")
            #expect(RemfsError.code { _ = try state.repairState(adopting: stores[1]) } == .pathConflict)
            #expect(RemfsError.code { _ = try state.repairState(adopting: .random()) } == .notFound)
        }
    }

    @Test func aRunningDaemonAdoptsAndRepairsAsWell() throws {
        try withState { directory, stores in
            try catalog(directory, "DELETE FROM store WHERE id = '\(stores[0])'")
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            #expect(try pool.checkState().isSound)
            #expect(try pool.repairState(adopting: stores[0]).isClean)
            #expect(
                try pool.withStore(stores[0]) { (store) throws(RemfsError) in text(try store.content(of: store.memory(at: "/a.md"))) }
                    == "one")
            // One that is open, and one that is not.
            _ = try pool.retain(stores[0])
            defer { pool.release(stores[0]) }
            for id in stores {
                #expect(try pool.check(id).isSound)
                try Connection(path: file(directory, id), mode: .readWrite).execute("UPDATE chunk SET refs = 9")
                #expect(try pool.check(id).findings.map(\.kind) == [.countWrong])
                let repaired = try pool.repair(id)
                #expect(repaired.isClean && repaired.name != nil && repaired.kept != nil, "\(repaired)")
                #expect(try pool.check(id).isSound)
            }
        }
    }

    @Test func aRowWithoutAFileIsToldAndTakenFromWhereItIs() throws {
        try withState { directory, stores in
            let path = file(directory, stores[1])
            #expect(rename(path, "\(directory)/orphans/\(stores[1]).sqlite") == 0)
            try expect(directory, finds: [.fileMissing])
            #expect(try contents(directory) == ["one": "one", "two": "two"])
            unlink(path)
            try expect(directory, finds: [.fileMissing], isRepairable: false)
            #expect(try OfflineState(directory).check(stores[1], name: "two").findings.map(\.kind) == [.fileMissing])
        }
    }

    @Test func rowsThatCannotBeReadAreReset() throws {
        try withState { directory, stores in
            try catalog(
                directory,
                """
                UPDATE store SET policy = '{"max_memories": "many"}' WHERE id = '\(stores[0])';
                INSERT INTO store (id, name, description, metadata, policy, created, updated)
                    SELECT 'x', 'stray', '', '{}', policy, 1, 1 FROM store WHERE id = '\(stores[1])'
                """)
            try expect(directory, finds: [.catalogRow])
            #expect(try contents(directory) == ["one": "one", "two": "two"])
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: directory).contains { $0.contains("catalog.sqlite.before-repair-") })
        }
    }

    @Test(arguments: ["missing", "text"]) func theCatalogsCopyIsRenewed(_ damage: String) throws {
        try withState { directory, _ in
            let copy = directory + "/catalog.sqlite.backup"
            unlink(copy)
            if damage == "text" { try Data("x".utf8).write(to: URL(fileURLWithPath: copy)) }
            try expect(directory, finds: [.catalogCopy])
        }
    }

    @Test(arguments: ["missing", "emptied", "text"], [true, false]) func aLostCatalogComesBack(_ damage: String, hasCopy: Bool) throws {
        try withState { directory, stores in
            let path = directory + "/catalog.sqlite"
            if !hasCopy { unlink(path + ".backup") }
            unlink(path)
            if damage != "missing" {
                try Data((damage == "text" ? String(repeating: "x", count: 5_000) : "").utf8).write(to: URL(fileURLWithPath: path))
            }
            // What is not in the catalog is not looked at; once it is back, all is.
            try expect(directory, finds: [.catalogDamaged])
            let names = hasCopy ? ["one", "two"] : stores.map { "recovered-\($0.description.suffix(6))" }
            #expect(try contents(directory) == [names[0]: "one", names[1]: "two"])
        }
    }

    @Test func aFileUnderAnothersNameIsToldOnce() throws {
        try withState { directory, stores in
            try Data(contentsOf: URL(fileURLWithPath: file(directory, stores[0])))
                .write(to: URL(fileURLWithPath: "\(directory)/stores/notes.sqlite"))
            try expect(directory, finds: [.rowMissing], isRepairable: false)
        }
    }
}
