import Glibc
import SQLite
import TestSupport
import Testing

/// The VFS that writes a transaction's frames at once: what was committed is in the files when the commit has returned.
@Suite struct JournalTests {
    private func open(_ path: String) throws -> Connection {
        let connection = try Connection(path: path, mode: .create)
        // A cache so small that transactions spill before they end.
        try connection.execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 10;")
        return connection
    }

    private func contents(_ connection: Connection) throws -> [Int64: Int64] {
        var rows: [Int64: Int64] = [:]
        let select = try connection.prepare("SELECT number, length(bytes) + unicode(hex(substr(bytes, 1, 1))) FROM t")
        while try select.step() { rows[select.integer(0)] = select.integer(1) }
        return rows
    }

    @Test func whatIsCommittedIsInTheFiles() throws {
        try TemporaryDirectory.with { directory in
            for _ in 0..<3 { try commitAtRandom(directory, SeededRandom.fresh()) }
        }
    }

    private func commitAtRandom(_ directory: String, _ seed: SeededRandom) throws {
        var random = seed
        func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &random) < percent }
        let path = "\(directory)/\(seed.seed).sqlite"
        let copy = path + "-copy"
        let connection = try open(path)
        let checkpointer = try open(path)
        try connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, bytes BLOB) STRICT")
        let put = try connection.prepare("INSERT OR REPLACE INTO t VALUES (?1, ?2)")
        for step in 0..<60 {
            let before = try contents(connection)
            try connection.execute("BEGIN IMMEDIATE")
            for _ in 0..<Int.random(in: 0..<12, using: &random) {
                put.bind(Int64.random(in: 0..<40, using: &random), at: 1)
                let bytes = [UInt8](repeating: .random(in: 0...255, using: &random), count: .random(in: 0..<30_000, using: &random))
                try put.run(binding: bytes, at: 2)
                // Read what may have been spilled.
                if chance(20) { _ = try contents(connection) }
            }
            if chance(20) { try connection.execute("DELETE FROM t WHERE number % 3 = 0") }
            let now = try contents(connection)
            if chance(25) {
                try connection.execute("ROLLBACK")
                #expect(try contents(connection) == before, "step \(step), \(seed)")
            } else {
                try connection.execute("COMMIT")
                #expect(try contents(connection) == now, "step \(step), \(seed)")
            }
            let expected = try contents(connection)
            #expect(try contents(checkpointer) == expected, "step \(step), \(seed)")
            for suffix in ["", "-wal"] {
                let file = try check(Glibc.open(copy + suffix, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600))
                defer { close(file) }
                try Files.write(Files.bytes(path + suffix), to: file)
            }
            do {
                // With SQLite's own VFS, as after a kill.
                let killed = try Connection(path: copy, mode: .readWrite, isPrivate: false)
                #expect(try contents(killed) == expected, "step \(step), \(seed)")
                let check = try killed.prepare("PRAGMA integrity_check")
                #expect(try check.step() && check.text(0) == "ok", "step \(step), \(seed)")
            }
            if chance(30) { _ = try checkpointer.checkpoint(chance(50) ? .passive : .truncate) }
        }
    }

    @Test func aTransactionIsOneWrite() throws { try TemporaryDirectory.with(countWrites) }

    private func countWrites(_ directory: String) throws {
        let connection = try open("\(directory)/a.sqlite")
        try connection.execute("PRAGMA cache_size = -2000; CREATE TABLE t (number INTEGER PRIMARY KEY, bytes BLOB) STRICT")
        let put = try connection.prepare("INSERT INTO t VALUES (?1, ?2)")
        func add(_ number: Int64) throws {
            try connection.execute("BEGIN IMMEDIATE")
            put.bind(number, at: 1)
            try put.run(binding: [UInt8](repeating: 1, count: 2_000), at: 2)
            try connection.execute("COMMIT")
        }
        // The first frames of a journal come as they are.
        try add(0)
        let before = try Self.writesOfThisThread()
        for number in 1...100 { try add(Int64(number)) }
        #expect(try Self.writesOfThisThread() - before == 100)
    }

    /// A journal that starts over writes where the last one stood. Of that the kernel keeps no pages for long, and part of a page could only be
    /// written once the rest of it was read.
    @Test func aJournalThatStartsOverReadsNothing() throws { try TemporaryDirectory.with(countReads) }

    private func countReads(_ directory: String) throws {
        let path = "\(directory)/a.sqlite"
        let connection = try open(path)
        try connection.execute("PRAGMA cache_size = -2000; CREATE TABLE t (number INTEGER PRIMARY KEY, bytes BLOB) STRICT")
        let put = try connection.prepare("INSERT OR REPLACE INTO t VALUES (?1, ?2)")
        func fill() throws {
            for number in 0..<100 {
                put.bind(Int64(number), at: 1)
                try put.run(binding: [UInt8](repeating: 1, count: 2_000), at: 2)
            }
        }
        try fill()
        let (frames, moved) = try connection.checkpoint(.passive)
        #expect(frames > 0 && frames == moved)
        let journal = try check(Glibc.open(path + "-wal", O_RDWR | O_CLOEXEC))
        defer { close(journal) }
        try check(fsync(journal))
        try #require(posix_fadvise(journal, 0, 0, POSIX_FADV_DONTNEED) == 0)
        let before = try Self.ofThisThread("read_bytes")
        try fill()
        #expect(try Self.ofThisThread("read_bytes") - before == 0)
    }

    private static func writesOfThisThread() throws -> Int { try ofThisThread("syscw") }

    /// A count of proc_pid_io(5) for the calling thread: `syscw`, calls of write(2) and its kin; `read_bytes`, what disks had to give.
    private static func ofThisThread(_ count: String) throws -> Int {
        let text = try #require(Files.text("/proc/thread-self/io"))
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("\(count): ") })
        return try #require(Int(line.dropFirst(count.count + 2)))
    }
}
