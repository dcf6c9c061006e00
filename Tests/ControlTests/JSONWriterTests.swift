import Foundation
import Testing

@testable import Control

/// What is written is what Foundation reads, and what its encoder writes.
@Suite struct JSONWriterTests {
    private struct Inner: Codable, Equatable {
        var list: [Int] = []
        var maybe: String?
        var more: [Inner] = []
    }

    private struct Value: Codable {
        var text = ""
        var number: Int64 = 0
        var unsigned = UInt64.max
        var real = 0.0
        var truth = false
        var inner = Inner()
        var words: [String: String] = [:]
        var lists: [[String]] = []
        @Wire.Nullable var nothing: String?
    }

    private static func read<Document: Decodable>(_ bytes: [UInt8], as type: Document.Type = Document.self) throws -> Document {
        try JSONDecoder().decode(type, from: Data(bytes))
    }

    @Test func anyValueComesBack() throws {
        let all = String(String.UnicodeScalarView((0..<0x300).compactMap { Unicode.Scalar($0) }))
        for text in [
            "", "plain", "\"\\/\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}", all, "é😀\u{2028}\u{feff}", String(repeating: "\"", count: 10_000),
        ] {
            var value = Value(text: text, number: .min, real: 1.5, truth: true)
            value.inner = Inner(list: [1, 2, 3], maybe: text, more: [Inner(), Inner(list: [-1])])
            value.words = [text: text, "b": "c"]
            value.lists = [[], [text], ["a", "b"]]
            let bytes = try JSONWriter().encode(value)
            let back = try Self.read(bytes, as: Value.self)
            #expect(
                back.text == text && back.number == .min && back.unsigned == .max && back.inner == value.inner && back.words == value.words)
            // As Foundation has it, but for the order of keys.
            let theirs = try JSONSerialization.jsonObject(with: JSONEncoder().encode(value)) as? NSDictionary
            #expect(try JSONSerialization.jsonObject(with: Data(bytes)) as? NSDictionary == theirs)
        }
    }

    @Test func nothingIsWrittenAsNull() throws {
        let text = String(decoding: try JSONWriter().encode(Value()), as: UTF8.self)
        #expect(text.contains(#""nothing":null"#) && text.contains(#""real":0,"#) && !text.contains("maybe"))
        #expect(String(decoding: try JSONWriter().encode([String: Int]()), as: UTF8.self) == "{}")
        #expect(String(decoding: try JSONWriter().encode([Int]()), as: UTF8.self) == "[]")
        #expect(String(decoding: try JSONWriter().encode("a/b"), as: UTF8.self) == #""a/b""#)
        #expect(throws: EncodingError.self) { try JSONWriter().encode(Value(real: .nan)) }
    }

    /// Two containers of one value are one object, and nested ones close before what follows.
    @Test func containersNest() throws {
        struct Twice: Encodable {
            enum Keys: String, CodingKey { case first, second, third }
            func encode(to encoder: any Encoder) throws {
                var one = encoder.container(keyedBy: Keys.self)
                var nested = one.nestedContainer(keyedBy: Keys.self, forKey: .first)
                try nested.encode("x", forKey: .first)
                var list = nested.nestedUnkeyedContainer(forKey: .second)
                try list.encode(1)
                var deep = list.nestedUnkeyedContainer()
                try deep.encode(2)
                try list.encode(3)
                try nested.encode("y", forKey: .third)
                var two = encoder.container(keyedBy: Keys.self)
                try two.encode(true, forKey: .second)
            }
        }
        let text = String(decoding: try JSONWriter().encode([Twice(), Twice()]), as: UTF8.self)
        let one = #"{"first":{"first":"x","second":[1,[2],3],"third":"y"},"second":true}"#
        #expect(text == "[\(one),\(one)]")
    }
}
