import Foundation
import Glibc
import Logging
import SQLite
import Testing

@testable import Storage

/// Made up, and in parts, so that no service that scans repositories takes this file for a leak.
enum Sample {
    private static let letters = Array("Zk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoKvN6tBq0xXe2yPz8wAi7LhSj3RkUd5gC9oFm4")

    /// A GitHub token, another one for each number.
    static func token(_ number: Int = 0) -> String {
        "gh" + "p_" + String((0..<36).map { letters[($0 * 7 + number * 11 + number / 72) % letters.count] })
    }
    static let awsKey = "AK" + "IAQ3ZT7LM2XVBN6WPD"
    static let privateKey =
        "-----BEGIN RSA " + "PRIVATE KEY-----\n"
        + (0..<12).map { line in String((0..<64).map { letters[($0 * 5 + line * 13) % letters.count] }) }.joined(separator: "\n")
        + "\n-----END RSA " + "PRIVATE KEY-----\n"
    static let password = "DB_PASS" + "WORD=kT9" + "v#2LmQx8w\n"

    static func policy(_ secrets: Policy.Secrets) -> Policy {
        var policy = Policy()
        policy.secrets = secrets
        return policy
    }
}

/// What becomes of secrets in what is written, as the store's policy says.
@Suite struct SecretPolicyTests {
    private typealias Rule = SecretScanner.Rule

    private static func set(_ secrets: Policy.Secrets, of test: TestStore) throws {
        try test.store.setRules(Sample.policy(secrets), isArchived: false, name: "test")
    }

    /// `operation path: what was found`, oldest first; `?` where nobody looked.
    private static func marks(_ test: TestStore) throws -> [String] {
        try test.settleAll()
        return try test.versions().map { version in
            "\(version.operation.rawValue) \(version.path ?? "-"): \(version.secrets.map { $0.joined(separator: " ") } ?? "?")"
        }
    }

    // MARK: Marks

    @Test func aSaveIsMarkedWithWhatIsInIt() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "nothing to see: the token is elsewhere\n")
            try mount.save("/a", "key \(Sample.token())\n")
            _ = try Self.marks(test)
            // What stays is found again, and what is written beside it.
            try mount.append("/a", "aws \(Sample.awsKey)\n")
            _ = try Self.marks(test)
            try mount.save("/a", "key gone\n")
            try mount.save("/empty", "")
            try mount.save("/pem", Sample.privateKey)
            try mount.save("/env", Sample.password)
            #expect(
                try Self.marks(test) == [
                    "created /a: ", "modified /a: github_token", "modified /a: aws_access_key github_token", "modified /a: ",
                    "created /empty: ",
                    "created /pem: private_key", "created /env: password_assignment",
                ])
            try mount.unlink("/pem")
            try test.passTwoSeconds()
            #expect(try test.versions().last?.secrets == nil, "a deletion has no content")
        }
    }

    @Test func theMarkGoesWithTheContent() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let key = try test.create("/key", "key \(Sample.token())\n")
            _ = try test.store.commit(.update(key.id, content: nil, path: MemoryPath("/d/key")), by: Author(.local))
            let first = try #require(test.versions().first).id
            _ = try test.store.commit(.update(key.id, content: bytes("clean\n"), path: nil), by: Author(.local))
            _ = try test.store.restore(key.id, to: first, by: Author(.local))
            let expected = [
                "created /key: github_token", "modified /d/key: github_token", "modified /d/key: ", "modified /d/key: github_token",
            ]
            #expect(try Self.marks(test) == expected)
            // Of files that this process has not sealed as well.
            try test.reopen()
            try mount.rename("/d/key", "/e")
            try test.settleAll()
            try test.reopen()
            try mount.mkdir("/x")
            try mount.rename("/e", "/x/e")
            try test.settleAll()
            try mount.rename("/x", "/y")
            #expect(
                try Self.marks(test) == expected + [
                    "modified /e: github_token", "modified /x/e: github_token", "modified /y/e: github_token",
                ])
        }
    }

    /// A temporary file takes the other's place: sealed before, or not.
    @Test(arguments: [false, true], [false, true]) func aFileThatTakesAnothersPlaceIsMarked(_ isSealed: Bool, _ isKilled: Bool) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f", "old\n")
            try test.settleAll()
            try mount.save("/f.tmp", "new \(Sample.token())\n")
            if isSealed {
                mount.closeAll()
                try test.state { state in
                    try state.takeInCloses(of: mount.origin)
                    try state.sealQueued()
                }
            }
            try mount.rename("/f.tmp", "/f")
            if isKilled { try test.crash() }
            #expect(try Self.marks(test) == ["created /f: ", "modified /f: github_token"])
        }
    }

    @Test func whatSwapsPlacesIsMarked() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a", "key \(Sample.token())\n")
            try mount.save("/b", "clean\n")
            try test.settleAll()
            try mount.rename("/a", "/b", .exchange)
            #expect(try Self.marks(test).suffix(2).sorted() == ["modified /a: ", "modified /b: github_token"])
        }
    }

    @Test func whatComesInAPieceIsMarked() throws {
        try TestStore.with { test in
            let entries = ["clean": "nothing", "key": "key \(Sample.token())"]
            let counts = try test.store.take(EntrySource(Self.archive(entries)), ImportRules(), by: Author(.local))
            #expect(counts.created == 2 && counts.secrets == 1)
            let again = try test.store.take(EntrySource(Self.archive(["clean": "a \(Sample.awsKey)"])), ImportRules(), by: Author(.local))
            #expect(again.modified == 1 && again.secrets == 1)
            #expect(try Self.marks(test) == ["created /clean: ", "created /key: github_token", "modified /clean: aws_access_key"])
            // All of it as it was: what has come goes, and what it was is what it is marked with.
            let first = try #require(test.versions().first)
            _ = try test.store.restore(to: .version(first.id), .prefix("/"), by: Author(.local))
            #expect(try Self.marks(test).suffix(2) == ["deleted /key: ?", "modified /clean: "])
        }
    }

    @Test func aMergeIsMarked() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2)
            try one.save("/f", "a\nb\nc\nd\ne\n")
            _ = try test.log()
            let seen = try other.seen("/f")
            try one.save("/f", "key \(Sample.token())\nb\nc\nd\ne\n")
            _ = try test.log()
            try other.save("/f", "a\nb\nc\nd\nclean\n", seen: seen)
            _ = try test.log()
            _ = try test.store.merge(at: "/f", by: Author(.local))
            #expect(try Self.marks(test).last == "modified /f: github_token")
        }
    }

    @Test(arguments: [false, true]) func aForkIsMarked(_ keepsHistory: Bool) throws {
        try TemporaryDirectory.with { directory in
            let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            let pool = try StorePool(stateDirectory: directory + "/state", logger: logger)
            defer { pool.close() }
            let source = try pool.createStore(name: "source", description: "", metadata: [:]).id
            try pool.withStore(source) { (store) throws(RemfsError) in
                _ = try store.commit(.create(path: MemoryPath("/key"), content: bytes(Sample.token())), by: Author(.local))
            }
            // What the source holds a fork of it may hold.
            _ = try pool.setPolicy(source, Sample.policy(.refuse))
            let fork = try pool.fork(source, at: .now, as: .init(name: "fork"), keepsHistory: keepsHistory, by: Author(.local))
            #expect(fork.policy.secrets == .refuse)
            try pool.withStore(fork.id) { (store) throws(RemfsError) in
                #expect(try store.versions(VersionFilter(), after: 0, limit: 9).map(\.secrets) == [["github_token"]])
                let refused = RemfsError.code {
                    _ = try store.commit(.create(path: MemoryPath("/other"), content: bytes(Sample.token(1))), by: Author(.local))
                }
                #expect(refused == .holdsSecret)
            }
        }
    }

    @Test func whereSecretsAreAllowedNobodyLooks() throws {
        try TestStore.with(policy: Sample.policy(.allow)) { test in
            let mount = try test.mount()
            try mount.save("/f", "key \(Sample.token())\n")
            let made = try test.create("/g", Sample.token(1))
            try test.settleAll()
            try Self.set(.warn, of: test)
            // Its content is what it was when nobody looked. (Somebody knows it: it is no temporary file.)
            _ = try test.memory("/f")
            try mount.rename("/f", "/h")
            try test.settleAll()
            try mount.append("/h", "more\n")
            _ = try Self.marks(test)
            // What a restore puts back is looked at then.
            _ = try test.store.commit(.update(made.id, content: bytes("clean"), path: nil), by: Author(.local))
            _ = try test.store.restore(made.id, to: made.version, by: Author(.local))
            try Self.set(.allow, of: test)
            try mount.append("/h", "more\n")
            #expect(
                try Self.marks(test) == [
                    "created /f: ?", "created /g: ?", "modified /h: ?", "modified /h: github_token", "modified /g: ",
                    "modified /g: github_token",
                    "modified /h: ?",
                ])
        }
    }

    /// Large files are looked at where they changed; what is said of them is what is in all of them.
    @Test(arguments: 1...4) func theMarkOfALargeFileIsThatOfAllItsBytes(_ round: UInt64) throws {
        let seed = SeededRandom.seed(round)
        var random = SeededRandom(seed: seed)
        try TestStore.with { test in
            let mount = try test.mount()
            var content = random.text(200_000 + random.below(500_000))
            let number = try mount.save("/f", content)
            var expected = [SecretKinds(in: content)]
            var secrets = [Sample.token(), Sample.awsKey, Sample.privateKey, "\n" + Sample.password].map { bytes(" " + $0 + " ") }
            secrets += secrets.map { [UInt8](repeating: UInt8(ascii: " "), count: $0.count) }
            for step in 0..<25 {
                // Most of all around the edges of chunks.
                let edge = random.below(content.count / 65_536 + 1) * 65_536
                let place = random.chance(60) ? max(0, edge - random.below(1_000)) : random.below(content.count)
                switch random.below(6) {
                case 0 where content.count > 150_000:
                    let size = content.count - random.below(90_000)
                    try mount.truncate(number, to: Int64(size))
                    content.removeSubrange(size...)
                case 1:
                    let more = random.text(random.below(70_000) + 1)
                    try mount.pwrite(number, more, at: Int64(content.count))
                    content += more
                case 2:
                    // What was found is gone.
                    var clean = content
                    for match in SecretScanner.matches(in: clean[...]) {
                        for byte in match.range { clean[byte] = UInt8(ascii: " ") }
                        try mount.pwrite(number, Array(clean[match.range]), at: Int64(match.range.lowerBound))
                    }
                    content = clean
                default:
                    let piece = random.pick(secrets)
                    try mount.pwrite(number, piece, at: Int64(place))
                    if place + piece.count > content.count {
                        content += [UInt8](repeating: 0, count: place + piece.count - content.count)
                    }
                    content.replaceSubrange(place..<(place + piece.count), with: piece)
                }
                mount.close(number)
                // Several saves may wait for one seal.
                if random.chance(70) { try test.store.settle() }
                if random.chance(10) { try test.reopen() }
                expected.append(SecretKinds(in: content))
                try #require(try mount.contents("/f") == content, "seed \(seed), step \(step)")
            }
            try test.settleAll()
            let found = try test.versions().map { $0.secrets?.joined(separator: " ") }
            // A save that changed nothing made no version.
            var told: [String] = []
            for version in try test.versions() {
                told.append(SecretKinds(in: try #require(try test.store.content(of: version))).row)
            }
            #expect(found == told, "seed \(seed)")
            #expect(found.count > 12 && Set(told).count > 2 && expected.last?.row == told.last, "seed \(seed)")
        }
    }

    /// Half of a secret in a chunk that stays, the other half in the one that changes.
    @Test(arguments: [false, true]) func whatLiesOverAnEdgeIsFound(_ isReversed: Bool) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let number = try mount.save("/f", String(repeating: "plain words\n", count: 17_000))
            try test.settleAll()
            let token = bytes(" " + Sample.token())
            let halves = [(Array(token[..<20]), Int64(65_536 - 20)), (Array(token[20...] + [0x20]), Int64(65_536))]
            for (half, place) in isReversed ? halves.reversed() : halves {
                try mount.pwrite(number, half, at: place)
                mount.close(number)
                try test.settleAll()
            }
            #expect(try test.versions().map(\.secrets) == [[], [], ["github_token"]])
        }
    }

    /// All of a large file is looked through only where something was found in it or nobody has looked yet, and then without the lock.
    @Test func allOfALargeFileIsLookedThroughAhead() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let padding = String(repeating: "plain words\n", count: 90_000)
            func appendIsAhead(_ path: String) throws -> Bool {
                try mount.append(path, "more\n")
                let number = try mount.number(path)
                let isAhead = try test.state { state in
                    try state.takeInCloses(of: mount.origin)
                    return state.largeSave(of: state.inodes[number]!) != nil
                }
                _ = try test.store.maintain()
                try test.store.settle()
                return isAhead
            }
            try mount.save("/clean", padding)
            try mount.save("/key", padding + "key \(Sample.token())\n" + padding)
            try test.settleAll()
            #expect(try !appendIsAhead("/clean"))
            #expect(try appendIsAhead("/key"))
            try test.reopen()
            #expect(try appendIsAhead("/clean"), "nobody knows any more")
            #expect(try !appendIsAhead("/clean"))
            try Self.set(.allow, of: test)
            #expect(try !appendIsAhead("/key"))
            let versions = try test.versions()
            #expect(versions.filter { $0.path == "/clean" }.map(\.secrets) == [[], [], [], []])
            #expect(versions.filter { $0.path == "/key" }.map(\.secrets) == [["github_token"], ["github_token"], nil])
        }
    }

    /// A content of any size is scanned in pieces as if it were one.
    @Test func piecesAreScannedAsOne() throws {
        var random = SeededRandom(seed: SeededRandom.seed(7))
        for secret in [Sample.token(), Sample.awsKey, Sample.privateKey, "\n" + Sample.password] {
            for place in stride(from: 131_072 - secret.utf8.count - 9, to: 131_080, by: 7) + [262_130, 240_000, 259_000, 393_200] {
                var content = random.text(500_000)
                content.replaceSubrange(place..<(place + secret.utf8.count + 2), with: bytes(" " + secret + " "))
                var scan = SecretScan()
                for start in stride(from: 0, to: content.count, by: 65_536) {
                    scan.take(content[start..<min(start + 65_536, content.count)])
                }
                #expect(scan.finish() == SecretKinds(in: content), "\(secret.prefix(8)) at \(place)")
            }
        }
        // Something longer that has the look of one somewhere within is none, wherever it is cut.
        let blob = bytes(String(repeating: "AI" + "zaSyZk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoKvN6tBq0x", count: 6_000))
        var scan = SecretScan()
        for start in stride(from: 0, to: blob.count, by: 65_536) { scan.take(blob[start..<min(start + 65_536, blob.count)]) }
        #expect(scan.finish() == SecretKinds(in: blob))
    }

    @Test func kindsAreKeptByName() throws {
        #expect(Rule.allCases.count <= 64)
        var kinds = SecretKinds.none
        #expect(kinds.row.isEmpty && SecretKinds(row: "") == kinds)
        for rule in Rule.allCases {
            kinds.insert(rule)
            #expect(SecretKinds(row: kinds.row) == kinds)
        }
        #expect(kinds.rules == Rule.allCases)
        #expect(SecretKinds(row: "github_token of_a_newer_remfs") == nil)
    }

    static func archive(_ files: [String: String]) throws -> ArchiveReader {
        var bytes: [UInt8] = []
        let writer = ArchiveWriter { (more) throws(RemfsError) in bytes += more }
        for (path, content) in files.sorted(by: { $0.key < $1.key }) {
            let content = Array(content.utf8)
            try writer.begin(ArchiveEntry(path: Array(path.utf8), kind: .file(sizeInBytes: Int64(content.count))))
            try writer.write(content)
        }
        try writer.finish()
        var place = 0
        let all = bytes
        return ArchiveReader { count in
            defer { place = min(all.count, place + count) }
            return Array(all[place..<min(all.count, place + count)])
        }
    }
}
