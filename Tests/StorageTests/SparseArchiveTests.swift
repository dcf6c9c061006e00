import Foundation
import Glibc
import Testing

@testable import Storage

/// Sparse files in tar archives: of the program tar in all its forms, and of those who mean no good.
@Suite struct SparseArchiveTests {
    private static func reader(of archive: [UInt8], piece: Int = 70_000) -> ArchiveReader {
        var place = 0
        return ArchiveReader { count in
            let end = min(archive.count, place + min(count, piece))
            defer { place = end }
            return Array(archive[place..<end])
        }
    }

    private static func contents(_ archive: [UInt8], piece: Int = 65_536) throws -> [(entry: ArchiveEntry, bytes: [UInt8])] {
        let reader = reader(of: archive, piece: max(piece, 512))
        var found: [(ArchiveEntry, [UInt8])] = []
        while let entry = try reader.next() {
            var content: [UInt8] = []
            while case let more = try reader.read(piece), !more.isEmpty { content += more }
            found.append((entry, content))
        }
        return found
    }

    private static func code(_ archive: [UInt8]) -> RemfsError.Code? {
        RemfsError.code {
            let reader = reader(of: archive)
            while try reader.next() != nil { while try !reader.read(65_536).isEmpty {} }
        }
    }

    // MARK: The program

    private static let forms = ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"]

    /// What holes there are in a file is the file system's to say: tar is told to look for zeros.
    private static func tar(_ form: String, in directory: String) throws -> [UInt8] {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments =
            ["tar"] + "--format=\(form)".split(separator: " ").map(String.init) + [
                "--hole-detection=raw", "-S", "-C", directory, "-cf", "-", ".",
            ]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let archive = Array(output.fileHandleForReading.readDataToEndOfFile())
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure("tar ended with \(process.terminationStatus)") }
        return archive
    }

    /// Files with holes at the beginning, between, at the end, of nothing else, and of so many that maps go on in blocks of their own.
    private static func fill(_ directory: String) throws -> [String: [UInt8]] {
        var random = SeededRandom(seed: 6)
        func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }
        var many: [UInt8] = []
        for _ in 0..<120 { many += random.text(4_096) + zeros(8_192) }
        let files = [
            "plain": random.text(5_000), "begin": zeros(300_000) + random.text(3_000), "end": random.text(70_000) + zeros(500_000),
            "between": random.text(10) + zeros(1_000_000) + random.text(7) + zeros(200_001) + random.text(1), "nothing": zeros(400_000),
            "many": many, "name that is long " + String(repeating: "é", count: 90): zeros(100_000) + random.text(100),
        ]
        for (path, content) in files {
            let file = open("\(directory)/\(path)", O_WRONLY | O_CREAT, 0o644)
            defer { close(file) }
            #expect(ftruncate(file, off_t(content.count)) == 0)
            // With fewer blocks than bytes tar takes it for sparse.
            for start in stride(from: 0, to: content.count, by: 4_096) {
                let block = Array(content[start..<min(start + 4_096, content.count)])
                guard block.contains(where: { $0 != 0 }) else { continue }
                #expect(pwrite(file, block, block.count, off_t(start)) == block.count)
            }
        }
        return files
    }

    @Test(arguments: forms) func whatTarMakesIsRead(_ form: String) throws {
        try TemporaryDirectory.with { directory in
            let files = try Self.fill(directory)
            let archive = try Self.tar(form, in: directory)
            let total = files.values.reduce(0) { $0 + $1.count }
            #expect(archive.count < total / 2, "\(archive.count) of \(total): it is sparse")
            for piece in [65_536, 5_000] {
                let found = try Self.contents(archive, piece: piece).filter { $0.entry.kind != .directory }
                #expect(Set(found.map { text($0.entry.path) }) == Set(files.keys))
                for (entry, bytes) in found {
                    #expect(bytes == files[text(entry.path)], "\(text(entry.path)) in pieces of \(piece)")
                    #expect(entry.kind == .file(sizeInBytes: Int64(bytes.count)))
                }
                let nothing = try #require(found.first { text($0.entry.path) == "nothing" })
                let end = try #require(found.first { text($0.entry.path) == "end" })
                let plain = try #require(found.first { text($0.entry.path) == "plain" })
                #expect(nothing.entry.holes == 400_000 && end.entry.holes == 570_000 - 131_072 && plain.entry.holes == 0)
            }
            // Into a store, which has a limit that only holes go over.
            var policy = Policy()
            policy.maxBytesPerMemory = 1_500_000
            policy.maxBytes = 10_000_000
            try TestStore.with(policy: policy) { test in
                let counts = try test.store.take(EntrySource(Self.reader(of: archive)), ImportRules(), by: Author(.local))
                #expect(counts.created == files.count)
                for (path, content) in files { #expect(try test.store.content(of: test.memory("/" + path)) == content, "\(path)") }
                Invariants.expect(test.store)
            }
            for length in stride(from: 0, to: archive.count - 10_240, by: archive.count / 9) {
                #expect(Self.code(Array(archive[..<length])) == .invalidArgument, "cut after \(length)")
            }
        }
    }

    @Test func holesCountNothingAgainstTheLimitOfAMemory() throws {
        let archive = Self.pax("1.0", size: 3 << 20, parts: [(1 << 20, 5)], data: "hello")
        var policy = Policy()
        policy.maxBytesPerMemory = 65_536
        try TestStore.with(policy: policy) { test in
            _ = try test.store.take(EntrySource(Self.reader(of: archive)), ImportRules(), by: Author(.local))
            let content = try test.store.content(of: test.memory("/f"))
            #expect(content.count == 3 << 20)
            Invariants.expect(test.store)
        }
        policy.maxBytesPerMemory = 65_535
        try TestStore.with(policy: policy) { test in
            let code = RemfsError.code { _ = try test.store.take(EntrySource(Self.reader(of: archive)), ImportRules(), by: Author(.local)) }
            #expect(code == .tooLarge)
        }
    }

    /// A few bytes that say to be gigabytes hold nobody up for long.
    @Test func holesHaveALimitTogether() throws {
        let one = Self.pax("1.0", size: 16 << 30, parts: [], data: "")
        try TestStore.with { test in
            let code = RemfsError.code { _ = try test.store.take(EntrySource(Self.reader(of: one)), ImportRules(), by: Author(.local)) }
            #expect(code == .tooLarge)
            let log = try test.log()
            #expect(log == [], "nothing of it")
        }
        #expect(Self.code(Self.pax("1.0", size: (16 << 30) + 1, parts: [], data: "")) == .invalidArgument)
    }

    // MARK: Those who mean no good

    private static let end = [UInt8](repeating: 0, count: 1_024)

    private static func padded(_ bytes: [UInt8]) -> [UInt8] { bytes + [UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512) }

    private static func header(_ name: String, type: Character, size: Int, _ change: (inout [UInt8]) -> Void = { _ in }) -> [UInt8] {
        ArchiveTests.header(name, type: type, size: String(format: "%011o", size), change)
    }

    private static func record(_ key: String, _ value: String) -> String {
        let body = " \(key)=\(value)\n"
        var length = body.utf8.count + 1
        while "\(length)".utf8.count + body.utf8.count != length { length += 1 }
        return "\(length)\(body)"
    }

    private static func pax(_ version: String, size: Int, parts: [(Int, Int)], data: String, count: String? = nil) -> [UInt8] {
        var records = record("GNU.sparse.name", "f")
        var content = Array(data.utf8)
        switch version {
        case "0.0":
            records += record("GNU.sparse.size", "\(size)") + record("GNU.sparse.numblocks", "\(parts.count)")
            for part in parts { records += record("GNU.sparse.offset", "\(part.0)") + record("GNU.sparse.numbytes", "\(part.1)") }
        case "0.1":
            records += record("GNU.sparse.size", "\(size)")
            records += record("GNU.sparse.map", parts.map { "\($0.0),\($0.1)" }.joined(separator: ","))
        default:
            records += record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", "\(size)")
            let lines = [count ?? "\(parts.count)"] + parts.flatMap { ["\($0.0)", "\($0.1)"] }
            content = padded(Array(lines.map { $0 + "\n" }.joined().utf8)) + content
        }
        let extended = Array(records.utf8)
        return header("h", type: "x", size: extended.count) + padded(extended) + header("GNUSparseFile.1/f", type: "0", size: content.count)
            + padded(content) + end
    }

    private static func gnu(size: Int, parts: [(Int, Int)], data: String, endless: Int = 0) -> [UInt8] {
        func field(_ number: Int) -> [UInt8] { Array(String(format: "%011o", number).utf8) + [0] }
        let fields = parts.map { field($0.0) + field($0.1) }
        var archive = header("f", type: "S", size: data.utf8.count) { block in
            for (place, field) in fields.prefix(4).enumerated() {
                block.replaceSubrange((386 + place * 24)..<(410 + place * 24), with: field)
            }
            block[482] = fields.count > 4 || endless > 0 ? 1 : 0
            block.replaceSubrange(483..<495, with: field(size))
        }
        var rest = fields.dropFirst(4)
        while !rest.isEmpty {
            var block = rest.prefix(21).flatMap { $0 }
            rest = rest.dropFirst(21)
            block += [UInt8](repeating: 0, count: 512 - block.count)
            block[504] = rest.isEmpty ? 0 : 1
            archive += block
        }
        for _ in 0..<endless { archive += [UInt8](repeating: 0, count: 504) + [1] + [UInt8](repeating: 0, count: 7) }
        return archive + padded(Array(data.utf8)) + end
    }

    private static func archives(size: Int, parts: [(Int, Int)], data: String) -> [(String, [UInt8])] {
        ["0.0", "0.1", "1.0"].map { ($0, pax($0, size: size, parts: parts, data: data)) } + [
            ("gnu", gnu(size: size, parts: parts, data: data))
        ]
    }

    @Test func mapsThatAreRightAreRead() throws {
        for (form, archive) in Self.archives(size: 20, parts: [(2, 3), (5, 1), (9, 4), (20, 0)], data: "abcdefgh") {
            let found = try Self.contents(archive)
            #expect(found.map { text($0.entry.path) } == ["f"], "\(form)")
            #expect(found[0].bytes == bytes("\0\0abcd\0\0\0efgh\0\0\0\0\0\0\0"), "\(form)")
        }
        let parts = (0..<200).map { ($0 * 10, 1) }
        for (form, archive) in Self.archives(size: 2_000, parts: parts, data: String(repeating: "x", count: 200)) {
            let found = try Self.contents(archive)[0].bytes
            #expect(found.count { $0 != 0 } == 200, "\(form)")
        }
    }

    @Test func mapsThatAreWrongAreRefused() throws {
        let cases: [(String, Int, [(Int, Int)], String)] = [
            ("overlapping", 20, [(0, 5), (4, 3)], "abcdefgh"), ("decreasing", 20, [(10, 4), (2, 4)], "abcdefgh"),
            ("the same twice", 20, [(2, 4), (2, 4)], "abcdefgh"), ("beyond the end", 20, [(15, 8)], "abcdefgh"),
            ("far beyond", 20, [(8_000_000_000, 8)], "abcdefgh"), ("more than is there", 20, [(0, 9)], "abcdefgh"),
            ("less than is there", 20, [(0, 7)], "abcdefgh"), ("nothing of what is there", 20, [], "abcdefgh"),
        ]
        for (what, size, parts, data) in cases {
            for (form, archive) in Self.archives(size: size, parts: parts, data: data) {
                #expect(Self.code(archive) == .invalidArgument, "\(what) in \(form)")
            }
        }
        for (number, what) in [
            ("999999999", "a huge map"), ("99999999999999999999999", "a number beyond all"), ("-1", "a negative count"), ("x", "no number"),
            ("", "nothing"), ("2", "more pairs than there are"),
        ] {
            #expect(Self.code(Self.pax("1.0", size: 20, parts: [(0, 8)], data: "abcdefgh", count: number)) == .invalidArgument, "\(what)")
        }
        #expect(Self.code(Self.gnu(size: 20, parts: [(0, 8)], data: "abcdefgh", endless: 20_000)) == .invalidArgument, "endless")
        for records in [
            ["GNU.sparse.map": "0,8"], ["GNU.sparse.size": "20", "GNU.sparse.map": "0,8,"],
            ["GNU.sparse.size": "20", "GNU.sparse.map": "0"],
            ["GNU.sparse.size": "-20", "GNU.sparse.map": "0,8"], ["GNU.sparse.size": "20", "GNU.sparse.numbytes": "8"],
            ["GNU.sparse.major": "2", "GNU.sparse.realsize": "20"], ["GNU.sparse.size": "20", "GNU.sparse.offset": "0"],
            ["GNU.sparse.name": "../out", "GNU.sparse.size": "8", "GNU.sparse.map": "0,8"],
        ] {
            let extended = Array(records.sorted { $0.key < $1.key }.map { Self.record($0.key, $0.value) }.joined().utf8)
            let file = Self.header("f", type: "0", size: 8) + Self.padded(bytes("abcdefgh")) + Self.end
            #expect(
                Self.code(Self.header("h", type: "x", size: extended.count) + Self.padded(extended) + file) == .invalidArgument,
                "\(records)")
            let directory = Self.header("d", type: "5", size: 0) + Self.end
            #expect(
                Self.code(Self.header("h", type: "x", size: extended.count) + Self.padded(extended) + directory) == .invalidArgument,
                "\(records) of a directory")
        }
    }
}
