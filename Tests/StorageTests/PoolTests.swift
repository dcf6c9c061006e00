import Foundation
import Glibc
import Logging
import SQLite
import Testing
import Threads

@testable import Storage

/// A directory of stores: the catalog, and files that are not what they should be.
@Suite struct PoolTests {
    private static let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })

    private func withPool(_ body: (StorePool, String) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let pool = try StorePool(stateDirectory: directory + "/state", logger: Self.logger)
            defer { pool.close() }
            try body(pool, directory + "/state")
        }
    }

    private func make(_ pool: StorePool, _ name: String) throws -> Store {
        let store = try pool.createStore(name: name, description: "", metadata: [:])
        try pool.withStore(store.id) { (store) throws(RemfsError) in
            _ = try store.commit(.create(path: MemoryPath("/a"), content: bytes(name)), by: Author(.local))
        }
        return store
    }

    private func read(_ pool: StorePool, _ id: StoreID) throws -> String {
        try pool.withStore(id) { (store) throws(RemfsError) in text(try store.content(of: try store.memory(at: "/a"))) }
    }

    // MARK: Files that are not what they should be

    /// Each damage is done while no daemon runs; the error names the store and what to do, and its neighbour is unharmed.
    @Test(arguments: [
        ("truncated", RemfsError.Code.corrupted, "damaged"), ("cut to a page", .corrupted, "damaged"),
        ("emptied", .corrupted, "not one of remfs"),
        ("text", .corrupted, "not a SQLite file"), ("newer", .unsupported, "schema 99"),
        ("other application", .corrupted, "not one of remfs"),
        ("missing", .corrupted, "missing"), ("directory", .unavailable, "cannot open"),
        ("another store's", .corrupted, "holds another store"),
    ])
    func aBadFileIsSaidToBeOne(_ damage: String, _ code: RemfsError.Code, _ word: String) throws {
        try TemporaryDirectory.with { directory in
            var pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            let good = try make(pool, "good one")
            let bad = try make(pool, "bad one")
            try pool.withStore(bad.id) { (store) throws(RemfsError) in
                for number in 0..<200 {
                    _ = try store.commit(.create(path: MemoryPath("/n\(number)"), content: bytes("content \(number)")), by: Author(.local))
                }
            }
            pool.close()
            let path = "\(directory)/stores/\(bad.id).sqlite"
            try spoil(path, damage)
            pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            do {
                _ = try read(pool, bad.id)
                Issue.record("\(damage) was not noticed")
            } catch let error as RemfsError {
                #expect(error.code == code, "\(error)")
                #expect(error.message.contains("bad one") && error.message.contains(word), "\(error)")
            }
            #expect(try read(pool, good.id) == "good one")
            // It can be deleted, and the catalog knows it until then.
            #expect(try pool.catalog.count() == 2)
            if damage != "directory" { try pool.deleteStore(bad.id) }
            #expect(try read(pool, good.id) == "good one")
        }
    }

    private func spoil(_ path: String, _ damage: String) throws {
        var status = stat()
        guard stat(path, &status) == 0 else { throw Failure("no file \(path)") }
        switch damage {
        case "truncated": truncate(path, status.st_size / 2 / 4_096 * 4_096)
        case "cut to a page": truncate(path, 4_096)
        case "emptied": truncate(path, 0)
        case "text": try Data(String(repeating: "no database. ", count: 400).utf8).write(to: URL(fileURLWithPath: path))
        case "newer": try Connection(path: path, mode: .readWrite).execute("PRAGMA user_version = 99")
        case "another store's":
            try Connection(path: path, mode: .readWrite).execute(
                "UPDATE property SET value = '\(StoreID.random())' WHERE name = 'store'; PRAGMA wal_checkpoint(TRUNCATE)")
        case "other application": try Connection(path: path, mode: .readWrite).execute("PRAGMA application_id = 7")
        case "missing": unlink(path)
        default:
            unlink(path)
            mkdir(path, 0o700)
        }
        for suffix in ["-wal", "-shm"] { unlink(path + suffix) }
    }

    @Test func aBadCatalogIsSaidToBeOne() throws {
        for (damage, code) in [("text", RemfsError.Code.corrupted), ("newer", .unsupported), ("other application", .corrupted)] {
            try TemporaryDirectory.with { directory in
                try StorePool(stateDirectory: directory, logger: Self.logger).close()
                try spoil(directory + "/catalog.sqlite", damage)
                #expect(RemfsError.code { _ = try StorePool(stateDirectory: directory, logger: Self.logger) } == code, "\(damage)")
            }
        }
    }

    /// A kill at the first start leaves an empty file: the next start makes the catalog.
    @Test func anEmptyCatalogIsMadeAnew() throws {
        try TemporaryDirectory.with { directory in
            #expect(FileManager.default.createFile(atPath: directory + "/catalog.sqlite", contents: nil))
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            #expect(try read(pool, make(pool, "one").id) == "one")
        }
    }

    /// A lost catalog is not taken for a first start, which would move every store aside; its copy brings it back.
    @Test(arguments: ["missing", "emptied"])
    func aLostCatalogIsToBeRestored(_ damage: String) throws {
        try TemporaryDirectory.with { directory in
            let catalog = directory + "/catalog.sqlite"
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            let store = try make(pool, "kept")
            pool.close()
            try spoil(catalog, damage)
            do {
                try StorePool(stateDirectory: directory, logger: Self.logger).close()
                Issue.record("\(damage) was not noticed")
            } catch let error as RemfsError {
                #expect(error.code == .corrupted && error.message.contains("\(catalog).backup"), "\(error)")
            }
            #expect(access("\(directory)/stores/\(store.id).sqlite", F_OK) == 0)

            unlink(catalog)
            try copyFile(catalog + ".backup", to: catalog)
            let again = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { again.close() }
            #expect(try read(again, store.id) == "kept")
        }
    }

    /// Only a catalog that is not there is missing.
    @Test func aCatalogThatCannotBeSeenIsNoNewOne() throws {
        try TemporaryDirectory.with { directory in
            #expect(symlink("catalog.sqlite", directory + "/catalog.sqlite") == 0)
            #expect(RemfsError.code { try StorePool(stateDirectory: directory, logger: Self.logger).close() } == .invalidArgument)
        }
    }

    @Test func theCatalogIsCopiedOnceItHasChanged() throws {
        try withPool { pool, directory in
            let copy = directory + "/catalog.sqlite.backup"
            _ = try make(pool, "one")
            pool.copyCatalog()
            #expect(try Connection(path: copy, mode: .readWrite).integer("SELECT count(*) FROM store") == 1)
            #expect(!pool.copyCatalog())
            _ = try make(pool, "two")
            #expect(pool.copyCatalog())
            #expect(try Connection(path: copy, mode: .readWrite).integer("SELECT count(*) FROM store") == 2)
            #expect(access(copy + ".new", F_OK) != 0)
        }
    }

    /// Whoever finds a new store's row finds the store that its maker has open.
    @Test func aNewStoreIsOpenOnce() throws {
        try withPool { pool, _ in
            let seen = Mutex<[StoreID: ObjectIdentifier]>([:])
            let isDone = Mutex(false)
            let thread = Threads.Thread("finder") {
                while !isDone.withLock({ $0 }) {
                    // What cannot be opened is missing below.
                    guard let newest = try? pool.catalog.stores(StoreFilter(), before: nil, limit: 1).first?.id,
                        seen.withLock({ $0[newest] == nil }), let store = try? pool.retain(newest)
                    else { continue }
                    seen.withLock { $0[newest] = ObjectIdentifier(store) }
                }
            }
            var made: [StoreID: ObjectIdentifier] = [:]
            for number in 0..<30 {
                let id = try pool.createStore(name: "s\(number)", description: "", metadata: [:]).id
                made[id] = ObjectIdentifier(try pool.retain(id))
                while seen.withLock({ $0[id] == nil }) { usleep(100) }
            }
            isDone.withLock { $0 = true }
            thread.join()
            #expect(seen.withLock { $0 } == made)
        }
    }

    @Test func aFileWithoutARowIsMovedAside() throws {
        try TemporaryDirectory.with { directory in
            try StorePool(stateDirectory: directory, logger: Self.logger).close()
            let name = "\(StoreID.random()).sqlite"
            for suffix in ["", "-wal"] {
                #expect(FileManager.default.createFile(atPath: "\(directory)/stores/\(name)\(suffix)", contents: nil))
            }
            let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            #expect(access("\(directory)/stores/\(name)", F_OK) != 0)
            #expect(access("\(directory)/orphans/\(name)", F_OK) == 0)
            #expect(access("\(directory)/orphans/\(name)-wal", F_OK) == 0)
        }
    }

    @Test func oneDaemonAtATime() throws {
        try withPool { pool, directory in
            #expect(RemfsError.code { _ = try StorePool(stateDirectory: directory, logger: Self.logger) } == .busy)
        }
    }

    /// A small tmpfs for a disk that is full. Needs root.
    @Test(.enabled(if: geteuid() == 0, "only root may mount a small disk"))
    func aFullDiskRefusesAndKeepsServing() throws {
        try TemporaryDirectory.with { directory in
            let disk = directory + "/disk"
            mkdir(disk, 0o700)
            guard mount("tmpfs", disk, "tmpfs", 0, "size=4m") == 0 else {
                // A container without the capability: there is nothing to test it with.
                print("skipped: cannot mount a tmpfs, errno \(errno)")
                return
            }
            defer { umount2(disk, Int32(MNT_DETACH)) }
            var pool = try StorePool(stateDirectory: disk, logger: Self.logger)
            defer { pool.close() }
            let store = try make(pool, "small disk")
            let small = try make(pool, "small store")
            var written = 0
            var refused: RemfsError?
            var random = SeededRandom(seed: 41)
            while refused == nil, written < 2_000 {
                do {
                    try pool.withStore(store.id) { (store) throws(RemfsError) in
                        let content = (0..<20_000).map { _ in UInt8(33 + random.below(90)) }
                        _ = try store.commit(.create(path: MemoryPath("/n\(written)"), content: content), by: Author(.local))
                    }
                    written += 1
                } catch let error as RemfsError {
                    refused = error
                }
            }
            #expect(refused?.code == .noSpace, "\(refused.map { "\($0)" } ?? "never refused")")
            #expect(refused?.message.contains("small disk") ?? false)
            #expect(written > 10)
            // Everything that was acknowledged is there, and there is room again after a deletion outside.
            #expect(try read(pool, store.id) == "small disk")
            try pool.withStore(store.id) { (store) throws(RemfsError) in
                #expect(try store.memories(under: "/", depth: 0, after: nil, limit: 10_000).count == written + 1)
                Invariants.expect(store)
            }
            // The last byte goes as well.
            try fill(disk)
            try pool.withStore(store.id) { (store) throws(RemfsError) in
                let memory = try store.memory(at: "/n1")
                #expect(try store.content(of: memory).count == 20_000)
                #expect(try !store.versions(VersionFilter(), before: nil, limit: 10).isEmpty)
                #expect(try store.statistics().memories == Int64(written) + 1)
                try store.backup(to: directory + "/backup.sqlite")
            }
            let files = try FileManager.default.contentsOfDirectory(atPath: disk + "/stores").sorted()
            #expect(RemfsError.code { _ = try pool.createStore(name: "no room", description: "", metadata: [:]) } == .noSpace)
            #expect(try FileManager.default.contentsOfDirectory(atPath: disk + "/stores").sorted() == files)
            // A daemon that starts now serves as well.
            pool.close()
            pool = try StorePool(stateDirectory: disk, logger: Self.logger)
            #expect(try read(pool, small.id) == "small store")
            try fill(disk)
            try pool.deleteStore(small.id)
            #expect(try pool.catalog.count() == 1)

            guard mount("tmpfs", disk, "tmpfs", UInt(MS_REMOUNT), "size=16m") == 0 else { throw Failure("cannot remount: errno \(errno)") }
            try pool.withStore(store.id) { (store) throws(RemfsError) in
                _ = try store.commit(.create(path: MemoryPath("/again"), content: bytes("room")), by: Author(.local))
                Invariants.expect(store)
            }
        }
    }

    /// Takes all that is free on a disk.
    private func fill(_ disk: String) throws {
        let file = open(disk + "/filler", O_WRONLY | O_CREAT | O_APPEND, 0o600)
        guard file >= 0 else { throw Failure("cannot make a file: errno \(errno)") }
        defer { close(file) }
        let page = [UInt8](repeating: 1, count: 4_096)
        while write(file, page, page.count) > 0 {}
        guard errno == ENOSPC else { throw Failure("cannot fill \(disk): errno \(errno)") }
    }

    // MARK: The catalog

    @Test func storesAreMadeChangedArchivedAndDeleted() throws {
        try withPool { pool, directory in
            let made = try pool.createStore(name: "notes", description: "of ours", metadata: ["team": "docs"])
            #expect(try pool.catalog.store(made.id).metadata == ["team": "docs"])
            #expect(made.created == made.updated && made.archived == nil && made.policy == Policy())
            let updated = try pool.catalog.updateStore(made.id, name: "Notes", description: nil, metadata: ["team": nil, "a": "1"])
            #expect(updated.name == "Notes" && updated.description == "of ours" && updated.metadata == ["a": "1"])
            #expect(updated.updated > made.updated)
            let many = Dictionary(uniqueKeysWithValues: (0..<16).map { (ExactString("k\($0)"), Optional("v")) })
            #expect(
                RemfsError.code { _ = try pool.catalog.updateStore(made.id, name: nil, description: nil, metadata: many) }
                    == .invalidArgument)
            // At the limit one key may go and another come.
            _ = try pool.catalog.updateStore(made.id, name: nil, description: nil, metadata: many.merging(["a": nil]) { _, new in new })

            _ = try read(pool, make(pool, "other").id)
            let mine = try pool.catalog.stores(named: "Notes")
            #expect(mine.map(\.id) == [made.id])
            let archived = try pool.archiveStore(made.id)
            #expect(archived.archived != nil)
            #expect(try pool.archiveStore(made.id).archived == archived.archived)
            #expect(RemfsError.code { _ = try pool.catalog.updateStore(made.id, name: "x", description: nil, metadata: nil) } == .readOnly)
            try pool.withStore(made.id) { (store) throws(RemfsError) in
                #expect(
                    RemfsError.code { _ = try store.commit(.create(path: MemoryPath("/x"), content: []), by: Author(.local)) } == .readOnly)
            }
            #expect(try pool.catalog.stores(named: "Notes").isEmpty)
            try pool.deleteStore(made.id)
            #expect(RemfsError.code { _ = try pool.retain(made.id) } == .notFound)
            #expect(RemfsError.code { try pool.deleteStore(made.id) } == .notFound)
            #expect(access("\(directory)/stores/\(made.id).sqlite", F_OK) != 0)
        }
    }

    @Test func aDeletedStoreThatIsHeldAnswersStale() throws {
        try withPool { pool, _ in
            let row = try make(pool, "held")
            let store = try pool.retain(row.id)
            try pool.deleteStore(row.id)
            pool.release(row.id)
            #expect(RemfsError.code { _ = try store.attributes(of: 1) } == .gone)
            #expect(RemfsError.code { _ = try store.commit(.create(path: MemoryPath("/x"), content: []), by: Author(.local)) } == .gone)
        }
    }

    @Test func aListOfStoresIsPagedNewestFirst() throws {
        try withPool { pool, _ in
            var ids: [StoreID] = []
            for number in 0..<7 { ids.append(try pool.createStore(name: "s\(number)", description: "", metadata: [:]).id) }
            _ = try pool.archiveStore(ids[3])
            func list(_ change: (inout StoreFilter) -> Void, limit: Int) throws -> [StoreID] {
                var filter = StoreFilter()
                change(&filter)
                var found: [Store] = []
                while true {
                    let last = found.last.map { (created: $0.created, sequence: $0.sequence) }
                    let page = try pool.catalog.stores(filter, before: last, limit: limit)
                    if page.isEmpty { return found.map(\.id) }
                    found += page
                }
            }
            let newestFirst = Array(ids.reversed())
            for limit in [1, 2, 3, 100] {
                #expect(try list({ $0.includeArchived = true }, limit: limit) == newestFirst)
                #expect(try list({ _ in }, limit: limit) == newestFirst.filter { $0 != ids[3] })
            }
            let times = try ids.map { try pool.catalog.store($0).created }
            #expect(times == times.sorted() && Set(times).count == times.count)
            // Both ends are inclusive.
            let some = try list(
                {
                    $0.from = times[1]; $0.to = times[5]; $0.includeArchived = true
                }, limit: 2)
            #expect(some == Array(ids[1...5].reversed()))
        }
    }

    @Test func aPolicyIsKeptAndHolds() throws {
        try TemporaryDirectory.with { directory in
            var pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            let store = try make(pool, "ruled")
            var policy = Policy()
            policy.access = .readOnly
            policy.unversioned = ["*.bak", "build/"]
            policy.maxBytes = 1 << 30
            policy.secrets = .refuse
            #expect(try pool.setPolicy(store.id, policy).policy == policy)
            pool.close()
            pool = try StorePool(stateDirectory: directory, logger: Self.logger)
            defer { pool.close() }
            #expect(try pool.catalog.store(store.id).policy == policy)
            try pool.withStore(store.id) { (store) throws(RemfsError) in
                #expect(store.access == .readOnly)
                #expect(store.state.withLock { $0.policy == policy })
            }
        }
    }

    @Test func noPolicyAllowsMoreThanAFileMayHave() throws {
        try withPool { pool, _ in
            let store = try make(pool, "large")
            var policy = Policy()
            policy.maxBytesPerMemory = 16 << 30
            #expect(try pool.setPolicy(store.id, policy).policy == policy)
            try pool.withStore(store.id) { (store) throws(RemfsError) in
                store.state.withLock { state in
                    let file = Inode(
                        number: 9, mode: UInt32(S_IFREG), uid: 0, gid: 0, rdev: 0, flags: [], parent: 1, name: bytes("f"), cookie: 9,
                        accessed: 0, modified: 0, changed: 0)
                    let error = #expect(throws: RemfsError.self) { try state.checkSize(16 << 30 + 1, of: file) }
                    #expect(error?.code == .tooLarge && error?.message.contains("no file has more than 17179869184") ?? false)
                    #expect(throws: Never.self) { try state.checkSize(16 << 30, of: file) }
                }
            }
            policy.maxBytesPerMemory += 1
            let error = #expect(throws: RemfsError.self) { try pool.setPolicy(store.id, policy) }
            #expect(error?.code == .invalidArgument && error?.message.contains("16 GiB") ?? false)
            #expect(try pool.catalog.store(store.id).policy.maxBytesPerMemory == 16 << 30)
        }
    }

    @Test func whoWatchesHearsOfChangesOfAccess() throws {
        try withPool { pool, _ in
            let heard = Mutex<[StoreID]>([])
            pool.observe { id in heard.withLock { $0.append(id) } }
            let store = try make(pool, "watched")
            _ = try pool.setPolicy(store.id, Policy())
            _ = try pool.archiveStore(store.id)
            try pool.deleteStore(store.id)
            #expect(heard.withLock { $0 } == [store.id, store.id, store.id])
        }
    }

    @Test func workIsDoneOnThreadsThatMayBlock() async throws {
        let directory = NSTemporaryDirectory() + "remfs-storage-\(UUID().uuidString)"
        // What cannot be removed stays in /tmp: no test depends on it.
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let pool = try StorePool(stateDirectory: directory, logger: Self.logger)
        let store = try pool.createStore(name: "s", description: "", metadata: [:])
        await withTaskGroup(of: RemfsError.Code?.self) { group in
            for number in 0..<40 {
                group.addTask {
                    do throws(RemfsError) {
                        try await pool.perform(store.id) { (store) throws(RemfsError) in
                            _ = try store.commit(.create(path: MemoryPath("/\(number % 20)"), content: bytes("x")), by: Author(.local))
                        }
                        return nil
                    } catch {
                        return error.code
                    }
                }
            }
            var codes: [RemfsError.Code?] = []
            for await code in group { codes.append(code) }
            #expect(codes.count { $0 == nil } == 20)
            #expect(codes.count { $0 == .pathConflict } == 20)
        }
        do throws(RemfsError) {
            try await pool.perform(StoreID.random()) { (_) throws(RemfsError) in }
            Issue.record("no such store was found")
        } catch {
            #expect(error.code == .notFound)
        }
        #expect(try pool.statistics().stores == 1)
        // Closing waits for threads, which this one may not.
        let thread = await withCheckedContinuation { done in
            let started = Mutex<Threads.Thread?>(nil)
            started.withLock { thread in
                thread = Threads.Thread("close") {
                    pool.close()
                    done.resume(returning: started.withLock { $0! })
                }
            }
        }
        thread.join()
    }

    /// Upkeep by itself: a save is sealed, a removal told, and the journal emptied, with nobody asking.
    @Test func upkeepSealsWithoutBeingAsked() throws {
        try withPool { pool, _ in
            let row = try pool.createStore(name: "s", description: "", metadata: [:])
            let store = try pool.retain(row.id)
            defer { pool.release(row.id) }
            let caller = Caller(origin: TestMount.observer, uid: 1, gid: 1, pid: 1)
            _ = try store.create(NewInode(mode: UInt32(S_IFREG) | 0o644), named: bytes("f"), in: 1, by: caller)
            #expect(store.waitForVersion(after: 0, timeout: .seconds(30)))
            let newest = try store.statistics().newestVersion
            try store.unlink(bytes("f"), in: 1, by: caller)
            #expect(store.waitForVersion(after: newest, timeout: .seconds(30)))
            #expect(try store.versions(VersionFilter(), before: nil, limit: 10).map(\.operation) == [.deleted, .created])
        }
    }
}
