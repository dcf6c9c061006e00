import Foundation
import Glibc
import Testing

@testable import Storage

/// Tar archives: read, written, refused.
@Suite struct ArchiveTests {
    // MARK: Reading and writing by themselves

    /// An archive of these entries, each with this content.
    private static func archive(_ entries: [(ArchiveEntry, String)]) throws -> [UInt8] {
        var bytes: [UInt8] = []
        let writer = ArchiveWriter { bytes += $0 }
        for (entry, content) in entries {
            try writer.begin(entry)
            if !content.isEmpty { try writer.write(Array(content.utf8)) }
        }
        try writer.finish()
        return bytes
    }

    private static func file(_ path: String, _ content: String) -> (ArchiveEntry, String) {
        (ArchiveEntry(path: bytes(path), kind: .file(sizeInBytes: Int64(content.utf8.count))), content)
    }

    /// What is in an archive, read in pieces of `piece` bytes.
    private static func contents(_ archive: [UInt8], piece: Int = 1_000) throws -> [(ArchiveEntry, String)] {
        let reader = reader(of: archive, piece: piece)
        var found: [(ArchiveEntry, String)] = []
        while let entry = try reader.next() {
            var content: [UInt8] = []
            while case let more = try reader.read(piece), !more.isEmpty { content += more }
            found.append((entry, text(content)))
        }
        return found
    }

    private static func reader(of archive: [UInt8], piece: Int = 70_000) -> ArchiveReader {
        var rest = archive[...]
        return ArchiveReader { count in
            let more = rest.prefix(min(count, piece))
            rest = rest.dropFirst(more.count)
            return Array(more)
        }
    }

    @Test func whatIsWrittenIsRead() throws {
        let long = String(repeating: "directory/", count: 30) + "é ü.md"
        let entries: [(ArchiveEntry, String)] = [
            (ArchiveEntry(path: bytes("d"), kind: .directory, permissions: 0o750, uid: 7, gid: 8, modified: 1_700_000_000_123_456_789), ""),
            (
                ArchiveEntry(path: bytes("d/a"), kind: .file(sizeInBytes: 5), permissions: 0o600, uid: 3_000_000, modified: -1_500_000_000),
                "hello"
            ),
            (ArchiveEntry(path: bytes(long), kind: .file(sizeInBytes: 512), modified: 5), String(repeating: "x", count: 512)),
            (ArchiveEntry(path: bytes(String(repeating: "n", count: 255)), kind: .file(sizeInBytes: 0)), ""),
            (ArchiveEntry(path: bytes("l"), kind: .symbolicLink(target: bytes(long)), permissions: 0o777), ""),
            (ArchiveEntry(path: bytes("h"), kind: .hardLink(to: bytes(long))), ""),
            (ArchiveEntry(path: bytes("p"), kind: .fifo, modified: 1_000_000_000 << 34), ""),
        ]
        let archive = try Self.archive(entries)
        #expect(archive.count % 512 == 0)
        for piece in [1, 511, 512, 100_000] {
            let found = try Self.contents(archive, piece: piece)
            #expect(found.map(\.0) == entries.map(\.0), "in pieces of \(piece)")
            #expect(found.map(\.1) == entries.map(\.1))
        }
    }

    @Test func everyTruncationIsRefused() throws {
        let archive = try Self.archive([
            Self.file("a", "one"), Self.file(String(repeating: "b", count: 120), String(repeating: "x", count: 600)),
        ])
        let whole = archive.count - 512
        for length in 0..<(whole - 512 + 1) where length % 64 == 0 || length % 512 < 3 {
            guard length < whole else { continue }
            #expect(RemfsError.code { _ = try Self.contents(Array(archive[..<length])) } == .invalidArgument, "cut after \(length)")
        }
        #expect(try Self.contents(Array(archive[..<whole])).count == 2)
    }

    @Test func pathsThatLeadOutAreRefused() throws {
        for path in ["/etc/passwd", "../a", "a/../../b", "a/..", ".."] {
            let archive = try Self.archive([Self.file(path, "x")])
            #expect(RemfsError.code { _ = try Self.contents(archive) } == .invalidArgument, "\(path)")
            let link = try Self.archive([Self.file("a", "x"), (ArchiveEntry(path: bytes("l"), kind: .hardLink(to: bytes(path))), "")])
            #expect(RemfsError.code { _ = try Self.contents(link) } == .invalidArgument, "a link to \(path)")
        }
        // Another spelling of what is inside.
        #expect(try Self.contents(Self.archive([Self.file("./a//b/./c", "x")])).map { text($0.0.path) } == ["a/b/c"])
    }

    /// A header of the reader's own making, to say what no writer would.
    ///
    /// - Parameter change: what is to be otherwise; the sum is taken after it.
    static func header(
        _ name: String, type: Character, size: String = "0", link: String = "", _ change: (inout [UInt8]) -> Void = { _ in }
    ) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at place: Int) { block.replaceSubrange(place..<(place + text.utf8.count), with: text.utf8) }
        put(name, at: 0)
        put("0000644", at: 100)
        put("0000000", at: 108)
        put("0000000", at: 116)
        put(size, at: 124)
        put("00000000000", at: 136)
        put(String(type), at: 156)
        put(link, at: 157)
        put("ustar\u{0}00", at: 257)
        change(&block)
        put(String(format: "%06o", Int(TarBlock.checksum(block))) + "\u{0} ", at: 148)
        return block
    }

    private static let end = [UInt8](repeating: 0, count: 1_024)

    @Test func whatNoStoreHoldsIsRefused() throws {
        func code(_ archive: [UInt8]) -> RemfsError.Code? { RemfsError.code { _ = try Self.contents(archive + Self.end) } }
        for type: Character in ["3", "4", "M", "Z"] { #expect(code(Self.header("x", type: type)) == .invalidArgument, "type \(type)") }
        // 8 EiB, 16 GiB and a byte, less than nothing.
        for size in ["\u{80}", "77777777777"] where size.utf8.count > 2 {
            #expect(code(Self.header("x", type: "0", size: size)) == .invalidArgument)
        }
        for first: UInt8 in [0x80, 0xbf, 0xff, 0xc0] {
            var block = Self.header("x", type: "0")
            block.replaceSubrange(124..<136, with: [first] + [UInt8](repeating: 0xff, count: 11))
            block.replaceSubrange(148..<156, with: (String(format: "%06o", Int(TarBlock.checksum(block))) + "\u{0} ").utf8)
            #expect(code(block) == .invalidArgument, "size \(first)")
        }
        #expect(code(Self.header("x", type: "0", size: "12x")) == .invalidArgument)
        #expect(code(Self.header("x", type: "2")) == .invalidArgument, "a link to nowhere")
        #expect(code(Self.header("x", type: "1", size: "00000000001", link: "a")) == .invalidArgument)
        #expect(code(Self.header("", type: "0")) == .invalidArgument, "no name")
        var wrong = Self.header("x", type: "0")
        wrong[0] = 0x79
        #expect(code(wrong) == .invalidArgument, "a wrong checksum")
        #expect(code([0x1f, 0x8b] + [UInt8](repeating: 7, count: 510)) == .invalidArgument)
        #expect(try Self.contents(Self.end).isEmpty, "an archive of nothing")
    }

    @Test func extendedHeadersAreNotTrusted() throws {
        func code(_ records: String, type: Character = "x", size: String? = nil) -> RemfsError.Code? {
            let body = Array(records.utf8)
            let size = size ?? String(format: "%011o", body.count)
            let padding = [UInt8](repeating: 0, count: (512 - body.count % 512) % 512)
            let archive = Self.header("p", type: type, size: size) + body + padding + Self.header("x", type: "0") + Self.end
            return RemfsError.code { _ = try Self.contents(archive) }
        }
        #expect(code("8 path=y\n") == nil || code("9 path=y\n") == nil)
        for records in [
            "9 path=\n", "99 path=y\n", "0 path=y\n", "path=y\n", "9 pathyy\n", "9 path=yy", "999999999999999999999 path=y\n",
            "-9 path=y\n",
            "11 size=-1\n", "12 size=abc\n", "14 mtime=later\n", "13 mtime=1.x\n", "24 GNU.sparse.map=0,1000\n",
            "11 path=/y\n", "12 path=../\n",
        ] {
            #expect(code(records) == .invalidArgument, "\(records)")
        }
        #expect(code("", size: "77777777777") == .invalidArgument, "eight gibibytes of header")
        // What speaks of no entry.
        #expect(RemfsError.code { _ = try Self.contents(Self.header("p", type: "x") + Self.header("q", type: "g") + Self.end) } == nil)
    }

    // MARK: Into a store and out of it

    private static func export(_ store: MemoryStore, at point: StorePoint = .now) throws -> [UInt8] {
        var archive: [UInt8] = []
        _ = try store.export(at: point) { archive += $0 }
        return archive
    }

    private static func take(
        _ archive: [UInt8], into store: MemoryStore, _ change: (inout ImportRules) -> Void = { _ in }
    ) throws -> ImportCounts {
        var rules = ImportRules()
        change(&rules)
        return try store.take(EntrySource(reader(of: archive)), rules, by: Author(.local))
    }

    /// Small and large, empty, binary, with holes, links, a FIFO, deep and long names.
    private static func fill(_ test: TestStore) throws {
        let mount = try test.mount()
        try mount.mkdir("/empty")
        try mount.mkdir("/d")
        try mount.save("/d/one.md", "one\n")
        try mount.save("/d/é \u{1F600}.md", "two\n")
        try mount.save("/none", "")
        try mount.save("/large", text(SeededRandom.notes(300_000)))
        try mount.link("/large", "/also large")
        try mount.symlink("one.md", "/d/link")
        _ = try test.create("/" + (1...19).map { "segment-\($0)" }.joined(separator: "/") + "/deep.md", "deep\n")
        mount.closeAll()
        try test.settleAll()
    }

    @Test func aStoreComesBackFromItsArchive() throws {
        try TestStore.with { test in
            try Self.fill(test)
            let archive = try Self.export(test.store)
            try TestStore.with { copy in
                let counts = try Self.take(archive, into: copy.store)
                #expect(counts.created == 5 && counts.directories == 2 && counts.others == 2, "\(counts)")
                let lines = { (test: TestStore) in
                    try test.tree().map { $0.split(separator: " ").filter { $0.first != "#" }.joined(separator: " ") }
                }
                #expect(try lines(copy) == lines(test))
                Invariants.expect(copy.store)
                #expect(try copy.log().allSatisfy { $0.hasPrefix("created ") })
                // A second time there is nothing to do.
                let again = try Self.take(archive, into: copy.store)
                #expect(again.created == 0 && again.modified == 0 && again.unchanged == 5)
                try copy.reopen()
                #expect(try lines(copy) == lines(test))
                #expect(try Self.export(copy.store).count == archive.count)
                Invariants.expect(copy.store)
            }
        }
    }

    @Test func filesThatAreThereBecomeNewVersions() throws {
        try TestStore.with { test in
            _ = try test.create("/in/a", "one")
            _ = try test.create("/in/same", "same")
            let id = try test.memory("/in/a").id
            let archive = try Self.archive([
                Self.file("a", "two"), Self.file("same", "same"), Self.file("new", "new"), Self.file("new", "newer"),
            ])
            let counts = try Self.take(archive, into: test.store) { $0.prefix = "/in/" }
            #expect(counts.created == 1 && counts.modified == 2 && counts.unchanged == 1)
            #expect(try test.memory("/in/a").id == id)
            #expect(try test.log() == ["created /in/a", "created /in/same", "modified /in/a", "created /in/new", "modified /in/new"])
            #expect(try text(test.store.content(of: test.memory("/in/new"))) == "newer")
            Invariants.expect(test.store)
        }
    }

    @Test func whatFailsLeavesNothingBehind() throws {
        var small = Policy()
        small.maxMemories = 4
        small.maxBytes = 10_000
        small.maxBytesPerMemory = 5_000
        let good = [Self.file("d/one", "one"), Self.file("two", "two")]
        let long = String(repeating: "x", count: 4_000)
        let cases: [(String, [(ArchiveEntry, String)], RemfsError.Code)] = [
            ("too many", [Self.file("three", "3"), Self.file("four", "4")], .storeFull),
            ("too large", [Self.file("three", String(repeating: "x", count: 5_001))], .tooLarge),
            ("too much", [Self.file("three", long), Self.file("two", long), Self.file("d/one", long)], .quota),
            ("in the way", [Self.file("two/below", "x")], .pathConflict),
            ("a directory", [(ArchiveEntry(path: bytes("two"), kind: .directory), "")], .pathConflict),
            ("above", [Self.file("d", "x")], .pathConflict),
            (
                "through a link", [(ArchiveEntry(path: bytes("l"), kind: .symbolicLink(target: bytes("d"))), ""), Self.file("l/x", "x")],
                .pathConflict
            ),
            ("a link out", [(ArchiveEntry(path: bytes("l"), kind: .symbolicLink(target: bytes("/etc"))), "")], .invalidArgument),
            ("a link up", [(ArchiveEntry(path: bytes("d/l"), kind: .symbolicLink(target: bytes("../../x"))), "")], .invalidArgument),
            (
                "a hidden link up", [(ArchiveEntry(path: bytes("d/l"), kind: .symbolicLink(target: bytes("a/../../x"))), "")],
                .invalidArgument
            ),
            ("a name of nothing", [(ArchiveEntry(path: bytes("h"), kind: .hardLink(to: bytes("none"))), "")], .invalidArgument),
            ("reserved", [Self.file(".remfs/at", "x")], .invalidArgument),
            ("no UTF-8", [(ArchiveEntry(path: [0xff], kind: .file(sizeInBytes: 1)), "x")], .nameNotUTF8),
            ("a control character", [Self.file("a\nb", "x")], .invalidArgument),
        ]
        for (what, entries, code) in cases {
            try TestStore.with(policy: small) { test in
                let mount = try test.mount()
                _ = try test.create("/before", "before")
                try mount.mkdir("/kept")
                mount.closeAll()
                try test.settleAll()
                let tree = try test.tree()
                let archive = try Self.archive(Array(good) + entries)
                #expect(RemfsError.code { _ = try Self.take(archive, into: test.store) } == code, "\(what)")
                #expect(try test.tree() == tree, "\(what)")
                #expect(try test.log() == ["created /before"], "\(what)")
                Invariants.expect(test.store, what)
                // And the store goes on.
                try mount.save("/kept/after", "after")
                try test.settleAll()
                #expect(try test.log() == ["created /before", "created /kept/after"], "\(what)")
                Invariants.expect(test.store, what)
            }
        }
    }

    @Test func importingFailsAtAnyStatement() throws {
        try playFaults("import", atLeast: 20) { test, mount in
            _ = try test.create("/a", "one")
            try mount.mkdir("/d")
        } change: { test, _ in
            let archive = try Self.archive([
                (ArchiveEntry(path: bytes("d"), kind: .directory, permissions: 0o700), ""), Self.file("a", "two"),
                Self.file("d/x/b", "three"),
                (ArchiveEntry(path: bytes("l"), kind: .symbolicLink(target: bytes("a"))), ""),
                (ArchiveEntry(path: bytes("h"), kind: .hardLink(to: bytes("a"))), ""),
            ])
            _ = try Self.take(archive, into: test.store)
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /a", "modified /a", "created /d/x/b"])
        }
    }

    @Test func anArchiveOfTheProgramTarIsTaken() throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/tar") || FileManager.default.isExecutableFile(atPath: "/bin/tar")
        else {
            Issue.record("there is no program tar")
            return
        }
        try TemporaryDirectory.with { directory in
            let long = (1...12).map { "a directory of some length \($0)" }.joined(separator: "/")
            try FileManager.default.createDirectory(atPath: "\(directory)/in/\(long)", withIntermediateDirectories: true)
            let files = [
                "a.md": "one\n", "\(long)/é.md": "two\n", String(repeating: "n", count: 200): "three\n", "empty": "",
                "big": text(SeededRandom.notes(200_000)),
            ]
            for (path, content) in files { try content.write(toFile: "\(directory)/in/\(path)", atomically: false, encoding: .utf8) }
            try FileManager.default.createSymbolicLink(atPath: "\(directory)/in/link", withDestinationPath: "a.md")
            try FileManager.default.linkItem(atPath: "\(directory)/in/a.md", toPath: "\(directory)/in/hard")
            var times = [timespec(tv_sec: 1_600_000_000, tv_nsec: 123_456_789), timespec(tv_sec: 1_600_000_000, tv_nsec: 123_456_789)]
            #expect(utimensat(AT_FDCWD, "\(directory)/in/a.md", &times, 0) == 0)
            for format in ["posix", "gnu", "ustar"] {
                // ustar has no room for some names; then tar says so and leaves them out.
                let all = format != "ustar"
                try Self.run("tar", "--format=\(format)", "-C", "\(directory)/in", "-cf", "\(directory)/\(format).tar", ".", mayFail: !all)
                let archive = Array(try Data(contentsOf: URL(fileURLWithPath: "\(directory)/\(format).tar")))
                try TestStore.with { test in
                    let counts = try Self.take(archive, into: test.store)
                    if all { #expect(counts.created == files.count && counts.others == 2, "\(format): \(counts)") }
                    #expect(try text(test.store.content(of: test.memory("/a.md"))) == "one\n" || !all)
                    let mount = try test.mount()
                    let modified = try test.store.attributes(of: mount.number("/a.md")).modified
                    #expect(modified == 1_600_000_000_000_000_000 + (format == "posix" ? 123_456_789 : 0))
                    // And back.
                    let out = "\(directory)/out-\(format)"
                    try FileManager.default.createDirectory(atPath: out, withIntermediateDirectories: false)
                    try Data(Self.export(test.store)).write(to: URL(fileURLWithPath: "\(directory)/back.tar"))
                    try Self.run("tar", "-C", out, "-xf", "\(directory)/back.tar")
                    if all { try Self.run("diff", "-r", "\(directory)/in", out) }
                    Invariants.expect(test.store)
                }
            }
        }
    }

    private static func run(_ arguments: String..., mayFail: Bool = false) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        if mayFail { process.standardError = FileHandle.nullDevice }
        try process.run()
        process.waitUntilExit()
        if !mayFail, process.terminationStatus != 0 { throw Failure("\(arguments) ended with \(process.terminationStatus)") }
    }

    @Test func theArchiveOfATimeHoldsWhatWasThere() throws {
        try TestStore.with { test in
            _ = try test.create("/a", "one")
            _ = try test.create("/d/b", "two")
            let then = test.store.now()
            try test.store.commit(.update(test.memory("/a").id, content: bytes("changed"), path: MemoryPath("/moved")), by: Author(.local))
            try test.store.commit(.delete(test.memory("/d/b").id), by: Author(.local))
            _ = try test.create("/later", "later")
            let found = try Self.contents(Self.export(test.store, at: .time(then)))
            #expect(found.map { text($0.0.path) } == ["a", "d/b"] && found.map(\.1) == ["one", "two"])
            #expect(try Self.contents(Self.export(test.store)).map { text($0.0.path) } == ["moved", "later"])
            let first = try test.versions()[0]
            #expect(try Self.contents(Self.export(test.store, at: .version(first.id))).map { text($0.0.path) } == ["a"])
            let future = Timestamp(microseconds: test.store.now().microseconds + 60_000_000)
            #expect(RemfsError.code { _ = try Self.export(test.store, at: .time(future)) } == .invalidArgument)
        }
    }
}

extension SeededRandom {
    static func notes(_ count: Int) -> [UInt8] {
        var random = SeededRandom(seed: 5)
        return random.text(count)
    }
}
