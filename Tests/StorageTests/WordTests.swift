import Foundation
import Glibc
import Testing

@testable import Storage

/// The domain's words: IDs, paths, patterns, policies, errors.
@Suite struct WordTests {
    // MARK: IDs

    @Test func idsGoToTextAndBack() {
        var random = SeededRandom(seed: 43)
        let bits: [UInt128] =
            [0, 1, 57, 58, .max, .max - 1, UInt128(UInt64.max), 1 << 64]
            + (0..<200).map { _ in UInt128.random(in: 0...(.max), using: &random) }
        for bits in bits {
            let id = StoreID(bits: bits)
            #expect(id.description.hasPrefix("memstore_01") && id.description.utf8.count == 33)
            #expect(StoreID(id.description) == id)
            #expect(SessionID(id.description) == nil)
        }
        #expect(Set((0..<100).map { _ in StoreID.random() }).count == 100)
    }

    @Test func textsThatAreNoIDsAreNone() {
        let good = StoreID(bits: 12_345).description
        for text in [
            "", "memstore_", "memstore_01", String(good.dropLast()), good + "1", good.replacing("memstore_01", with: "memstore_02"),
            "x" + good, good.uppercased(),
            String(good.dropLast()) + "0", String(good.dropLast()) + "l", String(good.dropLast(2)) + "\u{E9}",
            "memstore_01zzzzzzzzzzzzzzzzzzzzzz", " " + good,
        ] {
            #expect(StoreID(text) == nil, "\(text)")
        }
    }

    @Test func rowsHaveIDsOfTheirStoreOnly() {
        let one = StoreID.random()
        let other = StoreID.random()
        for number in [1, 2, 3, 1_000, 1 << 40, Int64.max] as [Int64] {
            let id = MemoryID(store: one, number: number)
            #expect(id.number(in: one) == number)
            #expect(id.number(in: other) == nil)
            #expect(MemoryID(id.description)?.number(in: one) == number)
            #expect(VersionID(store: one, number: number).bits == id.bits)
        }
        // Neighbours look different.
        let first = MemoryID(store: one, number: 1).description
        let second = MemoryID(store: one, number: 2).description
        #expect(zip(first.dropFirst(6), second.dropFirst(6)).count { $0 == $1 } < 8)
    }

    @Test func idsAreTextInJSON() throws {
        let id = MemoryID(bits: 77)
        let json = try JSONEncoder().encode([id])
        #expect(String(decoding: json, as: UTF8.self) == "[\"\(id)\"]")
        #expect(try JSONDecoder().decode([MemoryID].self, from: json) == [id])
        #expect(throws: DecodingError.self) { try JSONDecoder().decode([MemoryID].self, from: Data("[\"mem_01x\"]".utf8)) }
    }

    @Test func base58IsWhatItSays() {
        #expect(Base58.encode(0) == String(repeating: "1", count: 22))
        #expect(Base58.decode(String(repeating: "1", count: 22)) == 0)
        #expect(Base58.encode(58) == String(repeating: "1", count: 20) + "21")
        #expect(Base58.decode(Base58.encode(.max)) == .max)
        #expect(Base58.decode(String(repeating: "z", count: 22)) == nil)  // over 2^128
        #expect(Base58.decode("") == nil)
    }

    // MARK: Paths

    /// As a list and not as arguments: their characters would end up in the names of tests.
    private static let paths = [
        "/a", "/a.md", "/a b/c", "/.hidden", "/%", "/a_b", "/#?", "/\"quoted\"", "/back\\slash", "/täglich", "/日本語/ノート", "/\u{1F600}",
        "/...", "/.a", "/..a", "/a..", "/remfs", "/.remfsx", "/a/.remfs", "/a/.anthropic-memory-store",
        "/" + String(repeating: "x", count: 1_023),
        String(repeating: "/s", count: 20),
    ]

    private static let refusedPaths = [
        ("", "start with /"), ("a", "start with /"), ("/", "empty segment"), ("//", "empty segment"), ("/a/", "empty segment"),
        ("/a//b", "empty segment"), ("/.", "segment"), ("/..", "segment"), ("/a/../b", "segment"), ("/a/.", "segment"),
        ("/a\u{0}b", "control"), ("/a\n", "control"), ("/a\u{7F}", "control"), ("/a\u{85}", "control"), ("/a\u{200B}b", "format"),
        ("/a\u{202E}b", "format"), ("/a\u{AD}b", "format"), ("/\u{FEFF}a", "format"), ("/a\u{2028}b", "separator"),
        ("/a\u{2029}b", "separator"),
        ("/e\u{301}", "NFC"), ("/\u{1100}\u{1161}", "NFC"), ("/\u{212B}", "NFC"), ("/.remfs", "reserved"), ("/.remfs/x", "reserved"),
        ("/.anthropic-memory-store", "reserved"), ("/" + String(repeating: "x", count: 1_024), "1,024"),
        (String(repeating: "/s", count: 21), "20 segments"), ("/" + String(repeating: "é", count: 512), "1,024"),
    ]

    @Test func pathsOfTheContractAreTaken() throws {
        for path in Self.paths {
            #expect(try MemoryPath(path).text == path)
            fuzzPath(Array(path.utf8))
        }
    }

    @Test func pathsThatTheContractRefusesAreToldWhy() {
        for (path, word) in Self.refusedPaths {
            do {
                _ = try MemoryPath(path)
                Issue.record("\(path) was taken")
            } catch {
                #expect(error.code == .invalidArgument)
                #expect(error.message.contains(word), "\(error.message)")
            }
            fuzzPath(Array(path.utf8))
        }
    }

    @Test func anyBytesAreAPathOrNone() {
        var random = SeededRandom(seed: 47)
        let alphabet: [[UInt8]] = [
            [0x2f], [0x2e], [0x61], [0xc3, 0xa9], [0x65, 0xcc, 0x81], [0], [0xff], [0xe2, 0x80, 0x8b], [0xf0, 0x9f, 0x98, 0x80],
            bytes(".remfs"),
        ]
        for _ in 0..<2_000 {
            var path: [UInt8] = random.chance(80) ? [0x2f] : []
            for _ in 0..<random.below(30) { path += random.pick(alphabet) }
            fuzzPath(path)
        }
    }

    // MARK: Patterns

    @Test(arguments: [
        ("abc", "abc", true), ("abc", "ab", false), ("abc", "abcd", false), ("", "", true), ("", "*", true), ("", "?", false),
        ("a", "?", true),
        ("abc", "*", true), ("abc", "a*", true), ("abc", "*c", true), ("abc", "*b*", true), ("abc", "a*d", false), ("a*c", "a[*]c", true),
        ("abc", "a[b]c", true), ("abc", "a[!b]c", false), ("adc", "a[!b]c", true), ("a5", "a[0-9]", true), ("ax", "a[0-9]", false),
        ("a-", "a[-x]", true), ("a]", "a[]]", true), ("ab", "a[b", false), ("a[b", "a[b", true), (".x.swp", ".*.sw?", true),
        (".x.swpx", ".*.sw?x", true), ("x~", "*~", true), ("~", "*~", true), ("a~b", "*~", false), ("aXbXc", "a*X*c", true),
        (String(repeating: "a", count: 200), String(repeating: "*a", count: 50) + "b", false),
    ])
    func aGlobMatchesAsFnmatchDoes(_ name: String, _ pattern: String, _ matches: Bool) {
        #expect(Glob.matches(bytes(name)[...], bytes(pattern)[...]) == matches)
        #expect((fnmatch(pattern, name, 0) == 0) == matches)
    }

    @Test func globsAgreeWithFnmatch() {
        var random = SeededRandom(seed: 53)
        for _ in 0..<5_000 {
            let name = String((0..<random.below(8)).map { _ in random.pick(Array("abc-.~")) })
            let pattern = String((0..<random.below(8)).map { _ in random.pick(Array("abc**??-.~")) })
            #expect(Glob.matches(bytes(name)[...], bytes(pattern)[...]) == (fnmatch(pattern, name, 0) == 0), "\(name) \(pattern)")
        }
    }

    @Test func workingFilesAreThoseOfEditorsAndTools() {
        let names = UnversionedNames(UnversionedNames.standard)
        for name in ["x~", ".x.swp", ".x.swo", ".x.swpx", "4913", ".#lock", ".nfs000012"] {
            #expect(names.covers(bytes(name)) { bytes("/" + name) }, "\(name)")
        }
        for name in ["x", "x~y", "x.swp", "49130", "#x#", "nfs", ".swp", ".anthropic-memory-store2"] {
            #expect(!names.covers(bytes(name)) { bytes("/" + name) }, "\(name)")
        }
        #expect(names.covers(bytes(".anthropic-memory-store")) { bytes("/.anthropic-memory-store") })
        #expect(!names.covers(bytes(".anthropic-memory-store")) { bytes("/a/.anthropic-memory-store") })
        #expect(names.coversDirectory(bytes(".git")) && !names.coversDirectory(bytes("git")))
        let own = UnversionedNames(["", "/", "build/", "/top/x", "*.o"])
        #expect(own.coversDirectory(bytes("build")) && own.covers(bytes("a.o")) { [] })
        #expect(own.covers(bytes("x")) { bytes("/top/x") } && !own.covers(bytes("x")) { bytes("/x") })
    }

    // MARK: Policies

    @Test func aPolicyGoesToJSONAndBack() throws {
        var policy = Policy()
        policy.access = .readOnly
        policy.contract = true
        policy.maxBytesPerMemory = 7
        policy.maxMemories = 8
        policy.maxBytes = 9
        policy.unversioned = ["*.bak"]
        policy.secrets = .refuse
        policy.retentionDays = 30
        let json = try JSONEncoder().encode(policy)
        #expect(try JSONDecoder().decode(Policy.self, from: json) == policy)
        let object = try #require(JSONSerialization.jsonObject(with: json) as? [String: Any])
        #expect(
            Set(object.keys) == [
                "access", "contract", "max_bytes_per_memory", "max_memories", "max_bytes", "unversioned", "secrets", "retention_days",
            ])
        #expect(object["access"] as? String == "read_only" && object["secrets"] as? String == "refuse")
        #expect(try JSONDecoder().decode(Policy.self, from: JSONEncoder().encode(Policy())) == Policy())
        #expect(throws: DecodingError.self) {
            try JSONDecoder().decode(Policy.self, from: Data(#"{"access": "sometimes"}"#.utf8))
        }
    }

    // MARK: Errors

    /// The table of `house.md` section 5, a row for each code and a column for each audience.
    @Test(arguments: [
        (RemfsError.Code.invalidArgument, EINVAL, 400, "invalid_request_error", Int32(65)),
        (.nameNotUTF8, EILSEQ, 400, "invalid_request_error", 65),
        (.nameTooLong, ENAMETOOLONG, 400, "invalid_request_error", 65), (.notFound, ENOENT, 404, "not_found_error", 66),
        (.pathConflict, EEXIST, 409, "memory_path_conflict_error", 73), (.notADirectory, ENOTDIR, 409, "memory_path_conflict_error", 65),
        (.isADirectory, EISDIR, 409, "memory_path_conflict_error", 65), (.notEmpty, ENOTEMPTY, 409, "memory_path_conflict_error", 65),
        (.preconditionFailed, ESTALE, 409, "memory_precondition_failed_error", 75),
        (.stale, ESTALE, 409, "memory_precondition_failed_error", 75), (.gone, ESTALE, 404, "not_found_error", 66),
        (.busy, EBUSY, 409, "conflict_error", 75), (.readOnly, EROFS, 400, "invalid_request_error", 77),
        (.notPermitted, EPERM, 403, "permission_error", 77), (.unauthenticated, EACCES, 401, "authentication_error", 77),
        (.tooLarge, EFBIG, 400, "invalid_request_error", 65), (.bodyTooLarge, EFBIG, 413, "request_too_large", 65),
        (.storeFull, ENOSPC, 400, "invalid_request_error", 74), (.quota, EDQUOT, 400, "invalid_request_error", 74),
        (.noSpace, ENOSPC, 500, "api_error", 74), (.tooManyLinks, EMLINK, 400, "invalid_request_error", 65),
        (.holdsSecret, EPERM, 400, "invalid_request_error", 65),
        (.unsupported, ENOTSUP, 400, "invalid_request_error", 69), (.unavailable, EAGAIN, 503, "overloaded_error", 69),
        (.corrupted, EIO, 500, "api_error", 74), (.internal, EIO, 500, "api_error", 70),
    ])
    func eachErrorIsSeenAsItsTableSays(_ code: RemfsError.Code, _ errno: Int32, _ status: Int, _ type: String, _ exit: Int32) {
        let seen = code.seenAs
        #expect(seen.errno == errno && seen.status == status && seen.type == type && seen.exit == exit)
    }

    @Test func eachCodeHasItsOwnName() {
        // 26: as many as the table above has rows.
        #expect(RemfsError.Code.allCases.count == 26)
        #expect(Set(RemfsError.Code.allCases.map(\.rawValue)).count == 26)
        #expect(RemfsError.Code.allCases.allSatisfy { $0.rawValue.allSatisfy { $0.isLowercase || $0.isNumber || $0 == "_" } })
    }

    @Test func anErrorNamesTheThingAndKeepsItsCause() {
        let error = RemfsError(.noSpace, "the disk is full", cause: "SQLite 13")
        #expect(error.description == "no_space: the disk is full (SQLite 13)")
        #expect(RemfsError(.notFound, "x not found").description == "not_found: x not found")
    }

    // MARK: Actors

    @Test func actorsAndAuthorsComeBackFromTheirRows() {
        for actor in [MemoryActor.session("sesn_01a"), .api(keyID: "apikey_local"), .user(uid: 501), .serviceAccount("svac_1")] {
            #expect(MemoryActor(id: actor.id) == actor)
            for writer in [Writer(), Writer(uid: 0, pid: 1, command: "x"), Writer(uid: .max), Writer(command: "a b\u{1f}c")] {
                let author = Author(actor, writer: writer)
                #expect(Author(row: author.row) == author)
            }
        }
        #expect(MemoryActor(id: "nobody") == nil)
        for row in ["", "x", "user_1", "user_1\u{1f}1\u{1f}2", "nobody\u{1f}\u{1f}\u{1f}"] { #expect(Author(row: row) == nil, "\(row)") }
    }

    // MARK: Hashes

    @Test func aDigestIsTheSHA256() {
        #expect(Digest(of: bytes("abc")).hex == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(Digest.ofNothing.hex == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        let digest = Digest(of: bytes("abc"))
        #expect(digest.bytes.withUnsafeBytes { Digest(bytes: $0) } == digest)
        #expect(bytes("short").withUnsafeBytes { Digest(bytes: $0) } == nil)
    }

    @Test func timesOfTheCatalogNeverRepeat() throws {
        try TemporaryDirectory.with { directory in
            let catalog = try Catalog(path: directory + "/catalog.sqlite", isNew: true)
            var last = catalog.now()
            for _ in 0..<2_000 {
                let next = catalog.now()
                #expect(next > last)
                last = next
            }
        }
    }
}

/// Whatever the bytes: a path that keeps its rules, or an `invalidArgument`.
func fuzzPath(_ bytes: [UInt8]) {
    let text = String(decoding: bytes, as: UTF8.self)
    do throws(RemfsError) {
        let path = try MemoryPath(text)
        #expect(path.text.utf8.elementsEqual(text.utf8))
        #expect(path.segments.count <= 20 && path.segments.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." })
        #expect("/" + path.segments.joined(separator: "/") == text)
    } catch {
        #expect(error.code == .invalidArgument)
    }
}
