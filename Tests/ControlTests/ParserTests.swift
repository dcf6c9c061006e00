import Filesystem
import Foundation
import Storage
import Testing

@testable import Control

/// What `parse` throws, or a failed expectation.
func refusal<Value>(_ parse: () throws(RemfsError) -> Value) -> RemfsError? {
    do throws(RemfsError) {
        _ = try parse()
        return nil
    } catch {
        return error
    }
}

func body(_ json: String) throws(RemfsError) -> Body { try Body(parsing: Data(json.utf8)) }

@Suite struct BodyTests {
    @Test func readsEachType() throws {
        let body = try body(#"{"s": "x", "n": null, "b": true, "i": 7, "a": ["p", "q"], "o": {"k": "v"}, "m": {"k": "v", "gone": null}}"#)
        #expect(try body.string("s") == "x")
        #expect(try body.string("n") == nil)
        #expect(try body.string("absent") == nil)
        #expect(try body.boolean("b") == true)
        #expect(try body.integer("i", in: 0...9) == 7)
        #expect(try body.strings("a") == ["p", "q"])
        #expect(try body.object("o")?.string("k") == "v")
        let patch = try #require(try body.metadata("m", removing: true))
        #expect(patch.keys.sorted() == ["gone", "k"])
        #expect(patch["gone"] == .some(nil))
    }

    @Test(arguments: [
        ("", "request body is not valid JSON"), ("{", "request body is not valid JSON"), ("[]", "request body must be a JSON object"),
        ("null", "request body must be a JSON object"), (#""text""#, "request body must be a JSON object"),
        ("{} x", "request body is not valid JSON"),
        (#"{"a": 1, "b": 2, "a": 3}"#, "request body has the key a twice"),
        (#"{"o": {"k": null, "k": null}}"#, "request body has the key k twice"),
        (#"{"a": 1, "\u0061": 1}"#, "request body has the key a twice"),
        (#"{"a": 1,}"#, "request body is not valid JSON"), (#"{"a": "\ud800"}"#, "request body is not valid JSON"),
        (#"{"a": [1,]}"#, "request body is not valid JSON"), (#"{"a": 01}"#, "request body is not valid JSON"),
        (#"{"a": "\ud83dx"}"#, "request body is not valid JSON"), (#"{"a": "\ude00"}"#, "request body is not valid JSON"),
        (#"{"a": .5}"#, "request body is not valid JSON"), (#"{"a": +1}"#, "request body is not valid JSON"),
        (#"{"a": tru}"#, "request body is not valid JSON"), (#"{'a': 1}"#, "request body is not valid JSON"),
        (#"{"a" 1}"#, "request body is not valid JSON"), (#"{"a": "\x"}"#, "request body is not valid JSON"),
        ("{\"a\": \"\n\"}", "request body is not valid JSON"), (#"{"a": "x}"#, "request body is not valid JSON"),
        ("\u{feff}{}", "request body is not valid JSON"), (#"{"a": 1 "b": 2}"#, "request body is not valid JSON"),
    ])
    func refusesWhatIsNoObject(_ json: String, _ message: String) {
        let error = refusal { () throws(RemfsError) in try body(json) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message == message)
    }

    @Test(arguments: [
        ("null", JSONValue.null), (" [ ] ", .array([])), ("{ }", .object([:])), ("-0", .integer(0)), ("12", .integer(12)),
        ("9223372036854775807", .integer(.max)), ("9223372036854775808", .number(9_223_372_036_854_775_808)), ("1.5e2", .number(150)),
        ("1E-2", .number(0.01)), (#""\u00e9\ud83d\ude00\n\/\"\\\u0000""#, .string("é😀\n/\"\\\0")),
        (
            #"[1, "a", [true, false], {"k": {}}]"#,
            .array([.integer(1), .string("a"), .array([.boolean(true), .boolean(false)]), .object(["k": .object([:])])])
        ),
    ])
    func readsEachKindOfValue(_ json: String, _ value: JSONValue) throws {
        #expect(try JSONValue(parsing: json.utf8) == value)
    }

    /// Another parser agrees, on what both take.
    @Test func readsWhatFoundationReads() throws {
        let text = (0..<0x250).compactMap(Unicode.Scalar.init).map(String.init).joined() + "\u{2028}\u{ffff}\u{10ffff}"
        let encoded = try JSONEncoder().encode([text])
        #expect(try JSONValue(parsing: encoded) == .array([.string(text)]))
    }

    @Test func refusesBytesThatAreNoUTF8() {
        #expect(
            refusal { () throws(RemfsError) in try Body(parsing: Data([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])) }?.code
                == .invalidArgument)
    }

    @Test func namesTheFieldThatIsWrong() throws {
        let body = try body(
            #"{"name": 1, "flag": "yes", "count": 1.5, "list": [1], "meta": {"k": 1}, "o": 3, "huge": 99999999999999999999}"#)
        #expect(refusal { () throws(RemfsError) in try body.string("name") }?.message == "name must be a string")
        #expect(refusal { () throws(RemfsError) in try body.boolean("flag") }?.message == "flag must be true or false")
        #expect(
            refusal { () throws(RemfsError) in try body.integer("count", in: 0...5) }?.message == "count must be an integer from 0 to 5")
        #expect(refusal { () throws(RemfsError) in try body.integer("huge", in: 0...5) }?.message == "huge must be an integer from 0 to 5")
        #expect(refusal { () throws(RemfsError) in try body.strings("list") }?.message == "list must be an array of strings")
        #expect(refusal { () throws(RemfsError) in try body.metadata("meta", removing: false) }?.message == "meta.k must be a string")
        #expect(refusal { () throws(RemfsError) in try body.object("o") }?.message == "o must be an object")
        #expect(refusal { () throws(RemfsError) in try body.requiredString("path") }?.message == "path is required")
        #expect(refusal { () throws(RemfsError) in try body.choice("name", of: View.allCases) }?.message == "name must be a string")
    }

    @Test func namesTheUnknownFieldAndItsPlace() throws {
        let body = try body(#"{"name": "x", "colour": 1, "precondition": {"type": "content_sha256", "hash": "0"}}"#)
        #expect(refusal { () throws(RemfsError) in try body.allow("name", "precondition") }?.message == "colour is not a known field")
        #expect(refusal { () throws(RemfsError) in try Precondition(body) }?.message == "precondition.hash is not a known field")
    }

    @Test func readsAPreconditionOnlyInItsExactForm() throws {
        let hash = String(repeating: "0a", count: 32)
        #expect(try Precondition(try body("{}")) == nil)
        #expect(try Precondition(try body(#"{"precondition": null}"#)) == nil)
        let right = try Precondition(try body(#"{"precondition": {"type": "content_sha256", "content_sha256": "\#(hash)"}}"#))
        #expect(right == .contentSHA256(hash))
        for wrong in [
            #"{"type": "etag", "content_sha256": "\#(hash)"}"#, #"{"type": "content_sha256"}"#, #"{"content_sha256": "\#(hash)"}"#,
            #"{"type": "content_sha256", "content_sha256": "\#(hash.uppercased())"}"#,
            #"{"type": "content_sha256", "content_sha256": "0a"}"#,
        ] {
            let error = refusal { () throws(RemfsError) in try Precondition(try body(#"{"precondition": \#(wrong)}"#)) }
            #expect(error?.code == .invalidArgument, "\(wrong)")
        }
    }

    @Test func appliesAPolicyPatch() throws {
        var policy = Policy()
        policy.maxBytes = 5
        try policy.apply(
            try body(
                #"{"access": "read_only", "contract": true, "max_memories": 3, "max_bytes": 0, "secrets": "refuse", "unversioned": ["*.tmp"], "retention_days": 30}"#
            ))
        #expect(policy.access == .readOnly && policy.contract && policy.maxMemories == 3 && policy.maxBytes == nil)
        #expect(policy.secrets == .refuse && policy.unversioned == ["*.tmp"] && policy.retentionDays == 30)
        let before = policy
        try policy.apply(try body(#"{"access": null}"#))
        #expect(policy == before)
        for wrong in [
            #"{"access": "none"}"#, #"{"max_memories": 0}"#, #"{"max_bytes_per_memory": 0}"#, #"{"max_memories": "3"}"#,
            #"{"unversioned": [""]}"#,
            #"{"secrets": "maybe"}"#,
            #"{"retention_days": 1000000}"#, #"{"colour": "red"}"#, #"{"contract": 1}"#,
        ] {
            #expect(refusal { () throws(RemfsError) in try policy.apply(try body(wrong)) }?.code == .invalidArgument, "\(wrong)")
        }
        #expect(policy == before)
    }

    @Test func readsMountOptions() throws {
        let options = try MountOptions(
            access: .readOnly,
            try body(
                #"{"uid": 1000, "gid": 100, "umask": 18, "history": false, "on_stale_write": "refuse", "coherence": "strict", "xattr": true, "exec": false, "allow_other": true}"#
            ))
        #expect(options.access == .readOnly && options.uid == 1_000 && options.gid == 100 && options.umask == 0o22)
        #expect(!options.history && options.onStaleWrite == .refuse && options.coherence == .strict && options.xattr && !options.exec)
        #expect(options.allowsOthers == true)
        let standard = try MountOptions(access: nil, nil)
        #expect(standard.access == .readWrite && standard.history && standard.exec && !standard.xattr && standard.allowsOthers != true)
        for wrong in [#"{"uid": -1}"#, #"{"uid": 4294967295}"#, #"{"umask": 512}"#, #"{"coherence": "loose"}"#, #"{"at": "now"}"#] {
            #expect(
                refusal { () throws(RemfsError) in try MountOptions(access: nil, try body(wrong)) }?.code == .invalidArgument, "\(wrong)")
        }
    }
}

@Suite struct QueryTests {
    @Test func readsBothEncodings() throws {
        for text in [
            "created_at[gte]=2026-11-22T16:24:28.193888%2B00:00", "created_at%5Bgte%5D=2026-11-22T16%3A24%3A28.193888Z",
            "created_at%5bgte%5d=2026-11-22T16:24:28.193888+00:00",
        ] {
            #expect(try Query(parsing: text).time("created_at[gte]")?.rfc3339 == "2026-11-22T16:24:28.193888Z", "\(text)")
        }
        let query = try Query(parsing: "path_prefix=%2Fa%20b%2F&beta=true&limit=5&include_archived=true&&flag")
        #expect(query.string("path_prefix") == "/a b/")
        #expect(try query.integer("limit", in: 1...100) == 5)
        #expect(try query.boolean("include_archived"))
        #expect(try !query.boolean("absent"))
        #expect(query.string("flag") == "")
        #expect(query.string("absent") == nil)
        #expect(try Query(parsing: nil).string("x") == nil)
        #expect(try Query(parsing: "path=%C3%A9+x").string("path") == "é x")
    }

    @Test func refusesWithTheNameOfTheParameter() throws {
        let query = try Query(parsing: "limit=0&archived=yes&view=half&since=today&empty=")
        #expect(
            refusal { () throws(RemfsError) in try query.integer("limit", in: 1...100) }?.message
                == "query parameter limit must be an integer from 1 to 100")
        #expect(refusal { () throws(RemfsError) in try query.integer("empty", in: 1...100) }?.code == .invalidArgument)
        #expect(
            refusal { () throws(RemfsError) in try query.boolean("archived") }?.message == "query parameter archived must be true or false")
        #expect(
            refusal { () throws(RemfsError) in try query.choice("view", of: View.allCases) }?.message
                == #"query parameter view must be "basic" or "full""#)
        #expect(refusal { () throws(RemfsError) in try query.time("since") }?.message == "query parameter since must be an RFC 3339 time")
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            #expect(refusal { () throws(RemfsError) in try Query(parsing: text) }?.code == .invalidArgument, "\(text)")
        }
    }
}

@Suite struct CursorTests {
    @Test(arguments: [
        Cursor.stores(created: Timestamp(microseconds: 1_795_364_668_193_888), sequence: 12), .search(after: 20),
        .stores(created: Timestamp(microseconds: -1), sequence: 1),
        .memories(after: "/notes/größe ~?.md"), .memories(after: "/deep/"), .versions(before: 1), .versions(before: .max),
    ])
    func isReadBack(_ cursor: Cursor) {
        #expect(cursor.text.hasPrefix("page_"))
        #expect(
            cursor.text.utf8.allSatisfy {
                $0 == 0x5f || $0 == 0x2d || (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
            })
        #expect(Cursor(cursor.text) == cursor)
    }

    @Test(arguments: [
        "", "page_", "page_!!!", "page_AAAA", "garbage", "PAGE_cy0xOjI", "page_" + Data("s+1:2".utf8).base64EncodedString(),
        "page_" + Data("s-1".utf8).base64EncodedString(), "page_" + Data("m+notes".utf8).base64EncodedString(),
        "page_" + Data("v-0".utf8).base64EncodedString(), "page_" + Data("v-x".utf8).base64EncodedString(),
    ])
    func refusesWhatIsNoneOfOurs(_ text: String) {
        #expect(Cursor(text) == nil)
    }

    @Test func aPageKnowsItsLimits() throws {
        #expect(try PageRequest(try Query(parsing: "")).limit == 20)
        #expect(try PageRequest(try Query(parsing: "limit=100")).limit == 100)
        for text in ["limit=0", "limit=101", "limit=-1", "limit=x", "page=", "page=nonsense"] {
            #expect(refusal { () throws(RemfsError) in try PageRequest(try Query(parsing: text)) }?.code == .invalidArgument, "\(text)")
        }
    }
}

@Suite struct ByteRangeTests {
    @Test(arguments: [
        ("bytes=0-4", ByteRange.part(0..<5)), ("bytes=5-", .part(5..<10)), ("bytes=-3", .part(7..<10)), ("bytes=0-99", .part(0..<10)),
        ("bytes=-99", .part(0..<10)), ("bytes=10-", .beyond), ("bytes=10-12", .beyond), ("bytes=-0", .beyond),
        ("bytes=4-2", nil), ("bytes=0-1,3-4", nil), ("lines=0-1", nil), ("bytes=", nil), ("bytes=-", nil), ("bytes=a-b", nil),
        ("bytes=99999999999999999999-", nil),
    ])
    func isReadAsTheRFCSays(_ header: String, _ expected: ByteRange?) {
        #expect(ByteRange(header, of: 10) == expected)
    }
}

/// Bodies for a fuzzer to link; here they run over a small corpus and what grows out of it.
@Suite struct FuzzTests {
    static func fuzzBody(_ bytes: [UInt8]) {
        guard let body = try? Body(parsing: Data(bytes)) else { return }  // refused is fine, crashing is not
        var policy = Policy()
        _ = refusal { () throws(RemfsError) in try policy.apply(body) }
        _ = refusal { () throws(RemfsError) in try Precondition(body) }
        _ = refusal { () throws(RemfsError) in try MountOptions(access: nil, body) }
        _ = refusal { () throws(RemfsError) in try body.metadata("metadata", removing: true) }
    }

    static func fuzzQuery(_ bytes: [UInt8]) {
        guard let query = try? Query(parsing: String(decoding: bytes, as: UTF8.self)) else { return }  // as above
        _ = refusal { () throws(RemfsError) in try PageRequest(query) }
        _ = refusal { () throws(RemfsError) in try query.time("created_at[gte]") }
    }

    static func fuzzCursor(_ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        if let cursor = Cursor(text) { precondition(Cursor(cursor.text) == cursor) }
        if let time = Timestamp(rfc3339: text) { precondition(Timestamp(rfc3339: time.rfc3339) == time) }
    }

    private static let corpus: [String] = [
        #"{"path": "/a.md", "content": "x", "precondition": {"type": "content_sha256", "content_sha256": "00"}}"#,
        #"{"metadata": {"a": "b", "c": null}, "name": "\u0000\ud83d\ude00", "n": -1.5e300, "a": [[[]]]}"#,
        #"{"access": "read_only", "unversioned": ["*~"], "max_bytes": 9223372036854775807}"#,
        "created_at%5Bgte%5D=2026-11-22T16:24:28.193888%2B00:00&limit=20&page=page_cy0xOjI", "2026-11-22T16:24:28.193888+00:00",
        Cursor.stores(created: Timestamp(microseconds: 1), sequence: 2).text, Cursor.memories(after: "/a/b").text, "",
    ]

    @Test func nothingThatIsSentCrashesAParser() {
        var random = SystemRandomNumberGenerator()
        let seed = random.next()
        var state = seed
        func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33
        }
        print("seed \(seed)")
        for text in Self.corpus {
            for round in 0..<500 {
                var bytes = Array(text.utf8)
                for _ in 0..<(round % 8) where !bytes.isEmpty {
                    let place = Int(next() % UInt64(bytes.count))
                    switch next() % 3 {
                    case 0: bytes[place] = UInt8(truncatingIfNeeded: next())
                    case 1: bytes.remove(at: place)
                    default: bytes.insert(UInt8(truncatingIfNeeded: next()), at: place)
                    }
                }
                Self.fuzzBody(bytes)
                Self.fuzzQuery(bytes)
                Self.fuzzCursor(bytes)
            }
        }
    }

    @Test func deepNestingIsRefusedAndNotFatal() {
        for depth in [100, 500, 1_000, 100_000] {
            Self.fuzzBody(Array((String(repeating: #"{"a":"#, count: depth) + "1" + String(repeating: "}", count: depth)).utf8))
            Self.fuzzBody(Array((#"{"a":"# + String(repeating: "[", count: depth)).utf8))
        }
        let deep = #"{"a":"# + String(repeating: "[", count: 100_000) + String(repeating: "]", count: 100_000) + "}"
        #expect(refusal { () throws(RemfsError) in try body(deep) }?.code == .invalidArgument)
    }
}
