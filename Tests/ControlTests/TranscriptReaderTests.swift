import Storage
import TestSupport
import Testing

@Suite struct TranscriptReaderTests {
    private let user = #"{"role":"user","content":"a"}"#

    @Test(arguments: TranscriptSamples.all) func piecesOfAnySizeMakeTheSameDrafts(_ text: String) {
        let whole = ReadTranscript(text)
        #expect(whole.faults.isEmpty)
        #expect(!whole.drafts.isEmpty)
        for cuts in [[1], [2, 7], [64, 1, 999]] {
            let read = ReadTranscript(text, cuts: cuts)
            #expect(read.drafts == whole.drafts)
            #expect(read.faults == whole.faults)
            #expect(read.reader.source == whole.reader.source)
            #expect(read.reader.leftOut == whole.reader.leftOut)
            #expect(read.reader.consumed == whole.reader.consumed)
        }
    }

    /// What import skips by: so many drafts were there before.
    @Test(arguments: TranscriptSamples.all) func theDraftsOfABeginningAreTheBeginningOfTheDrafts(_ text: String) {
        let bytes = Array(text.utf8)
        let whole = ReadTranscript(text).drafts
        for end in stride(from: 0, through: bytes.count, by: 13) {
            var reader = TranscriptReader()
            let items = reader.read(bytes[..<end])
            #expect(items == whole.prefix(items.count).map { .draft($0) })
        }
    }

    @Test func aGrownDocumentBeginsWithItsOldDrafts() {
        let messages = TranscriptSamples.chat
        let whole = ReadTranscript(TranscriptSamples.chatArray).drafts
        for count in 1..<messages.count {
            let drafts = ReadTranscript("[\n  \(messages.prefix(count).joined(separator: ",\n  "))\n]\n").drafts
            #expect(drafts == Array(whole.prefix(drafts.count)))
        }
    }

    @Test func aFollowerGoesOnBehindWhatIsConsumed() {
        let text = Array(TranscriptSamples.lines(TranscriptSamples.claudeCode).utf8)
        let whole = ReadTranscript(text).drafts
        var random = SeededRandom(seed: 7)
        var reader = TranscriptReader()
        var drafts: [TranscriptItem] = []
        var end = 0
        while end < text.count {
            let next = min(text.count, end + Int.random(in: 1...700, using: &random))
            drafts += reader.read(text[end..<next])
            end = next
            #expect(reader.consumed <= end)
            #expect(reader.consumed == 0 || text[reader.consumed - 1] == 0x0a)
        }
        #expect(drafts == whole.map { .draft($0) })
        #expect(reader.consumed == text.count)
        #expect(reader.isLines == true)
    }

    @Test func anUnfinishedLastLineWaits() {
        var reader = TranscriptReader()
        #expect(reader.read(Array("\(user)\n{\"role\":\"us".utf8)).count == 1)
        #expect(reader.consumed == user.utf8.count + 1)
        #expect(reader.read(Array("er\",\"content\":\"b\"}\n".utf8)).count == 1)
        // A line without an end is one for an import, if it is whole.
        #expect(ReadTranscript("\(user)\n\(user)").drafts.count == 2)
        let cut = ReadTranscript("\(user)\n{\"role\":\"us")
        #expect(cut.drafts.count == 1)
        #expect(cut.faults.map(\.description) == ["line 2 is not valid JSON"])
    }

    @Test func badLinesAreNamedAndTheRestIsRead() {
        let read = ReadTranscript(
            ["", user, "garbage", #"{"role":"user","role":"user"}"#, "42", #"{"a":1}"#, "\0\0", #"{"role":"pope","content":""}"#, user, ""]
                .joined(separator: "\n"))
        #expect(read.drafts.map(\.line) == [2, 9])
        #expect(
            read.faults.map(\.description) == [
                "line 3 is not valid JSON", "line 4 has the key role twice", "line 5 is no JSON object",
                "line 6 begins a message without a role",
                "line 7 is not valid JSON", "line 8 begins a message with the role pope",
            ])
        #expect(read.faults.allSatisfy { !$0.isFatal })
    }

    @Test func aFirstLineThatIsBadHidesNoneBehindIt() {
        for bad in ["garbage", "{\"type\": \"us", "{\"a\": {", "{", "\"a\"", "nul", "{\"a\"}", "\u{1}"] {
            let read = ReadTranscript("\(bad)\n\(user)\n\(user)\n")
            #expect(read.drafts.count == 2, "\(bad)")
            #expect(read.faults.map(\.line) == [1], "\(bad)")
        }
    }

    @Test func whatTheSecondLineIsDoesNotMakeADocument() {
        let read = ReadTranscript("\(user)\n[\(user)]\n{\"messages\":[\(user)]}\n\(user)\n")
        #expect(read.drafts.map(\.line) == [1, 4])
        #expect(read.faults.map(\.description) == ["line 2 is no JSON object", "line 3 begins a message without a role"])
    }

    @Test func marksOfOtherSystemsAreNothing() {
        let text = "\u{feff}" + TranscriptSamples.chat.joined(separator: "\r\n") + "\r\n"
        let plain = ReadTranscript(TranscriptSamples.lines(TranscriptSamples.chat))
        for cuts in [[1], [2], [4_096]] {
            let read = ReadTranscript(text, cuts: cuts)
            #expect(read.faults.isEmpty)
            #expect(read.drafts == plain.drafts)
            #expect(read.reader.consumed == text.utf8.count)
        }
    }

    @Test func brokenCharactersAreMended() {
        var bytes = Array(#"{"role":"user","content":"a\ud83d b\udE00 \ud83d\ude00 \\ud83d "#.utf8)
        bytes += [0xff, 0xc3]
        bytes += #" c","n":[NaN,-Infinity,"NaN"]}"#.utf8
        let read = ReadTranscript(bytes)
        #expect(read.faults.isEmpty)
        #expect(read.story == ["user.message \"a\u{fffd} b\u{fffd} \u{1f600} \\ud83d \u{fffd}\u{fffd} c\""])
        #expect(read.reader.leftOut == ["unreadable characters": 1])
    }

    @Test func whatIsNoTranscriptIsSoonGivenUp() {
        let empty = ReadTranscript("")
        #expect(empty.faults.map(\.isFatal) == [true])
        #expect(ReadTranscript("[]").faults.map(\.isFatal) == [true])
        #expect(ReadTranscript("{}").faults.map(\.isFatal) == [false])
        let lines = ReadTranscript(String(repeating: "no\n", count: 10_000))
        #expect(lines.faults.count == 101)
        #expect(lines.faults.last?.isFatal == true)
        #expect(ReadTranscript(#"{"messages": [{"role": "user", "content": "a"} {"#).faults.map(\.isFatal) == [true])
    }

    @Test func aDocumentThatEndsTooSoonSaysSo() {
        let read = ReadTranscript(String(TranscriptSamples.chatArray.dropLast(30)))
        #expect(read.drafts.count == 4)
        #expect(read.faults == [TranscriptFault(line: 7, reason: "is where the file ends, inside a document", isFatal: true)])
    }

    @Test func documentsMayFollowOneAnother() {
        let read = ReadTranscript("{\"messages\":[\(user)]}\n{\"messages\":[\(user),\(user)]}\n")
        #expect(read.faults.isEmpty)
        #expect(read.drafts.count == 3)
    }

    @Test func whatNestsDeepIsRefusedAndWhatClosesOftenIsRead() {
        let deep = String(repeating: "[", count: 100_000)
        #expect(ReadTranscript("\(user)\n\(deep)\n\(user)\n").faults.map(\.line) == [2])
        #expect(ReadTranscript(deep).faults.allSatisfy { $0.isFatal })
        #expect(ReadTranscript(String(repeating: "[]", count: 100_000)).drafts.isEmpty)
        #expect(ReadTranscript(String(repeating: "{}", count: 100_000)).drafts.isEmpty)
        #expect(ReadTranscript(String(repeating: "{\"a\":", count: 100_000)).drafts.isEmpty)
    }

    private var small: TranscriptLimits {
        var limits = TranscriptLimits()
        limits.element = 200
        limits.draft = 2_000
        return limits
    }

    @Test(arguments: [[1], [7], [150, 300], [4_096]]) func whatIsOverTheLimitIsPassedOver(_ cuts: [Int]) {
        let large = #"{"role":"user","content":"\#(String(repeating: "x", count: 200))"}"#
        let lines = ReadTranscript("\(user)\n\(large)\n\(user)\n", cuts: cuts, limits: small)
        #expect(lines.drafts.map(\.line) == [1, 3])
        #expect(lines.faults.map(\.description) == ["line 2 has more than 200 bytes"])
        #expect(lines.reader.consumed == 2 * user.utf8.count + large.utf8.count + 3)
        let first = ReadTranscript("\(large)\n\(user)\n", cuts: cuts, limits: small)
        #expect(first.drafts.map(\.line) == [2])
        #expect(first.faults.map(\.line) == [1])
        let document = ReadTranscript("[\(user),\n\(large),\n\(user)]", cuts: cuts, limits: small)
        #expect(document.drafts.map(\.line) == [1, 3])
        #expect(document.faults.map(\.description) == ["line 2 begins an element of more than 200 bytes"])
    }

    @Test func anEventThatWouldFillARequestIsCut() throws {
        var limits = small
        limits.element = 1 << 20
        // Control characters are six bytes each once they are written.
        let text = String(repeating: "\\u0001", count: 1_000)
        let read = ReadTranscript("{\"role\":\"user\",\"content\":\"\(text)\"}", limits: limits)
        let json = try #require(read.drafts.first?.json)
        #expect(json.utf8.count < 2_000)
        #expect(json.contains("[remfs left out 750 bytes]"))
        let many = (0..<100).map { #"{"type":"text","text":"\#($0) is a block"}"# }.joined(separator: ",")
        let short = ReadTranscript("{\"role\":\"user\",\"content\":[\(many)]}", limits: limits)
        #expect(short.story.first?.hasPrefix("user.message \"[remfs left out ") == true)
        #expect([read, short].allSatisfy { $0.reader.leftOut == ["end of an event that is too large": 1] })
        let arguments = "{\"a\":[\(many)]}".replacing("\"", with: "\\\"")
        let call = #"{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"\#(arguments)"}}]}"#
        #expect(ReadTranscript(call, limits: limits).story.first?.hasPrefix(#"agent.tool_use #0 f {"left_out":"[remfs "#) == true)
    }

    /// Whatever the bytes are, they are read to the end, the same way in every cut, and every draft is one that the send route takes.
    @Test func anyBytesAreRead() throws {
        var random = SeededRandom.fresh()
        let samples = TranscriptSamples.all.map { Array($0.utf8) }
        for _ in 0..<300 {
            var bytes = samples.randomElement(using: &random)!
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                let end = min(bytes.count, place + Int.random(in: 0...40, using: &random))
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.removeSubrange(place..<max(place + 1, end))
                case 2: bytes.insert(contentsOf: bytes[place..<end], at: place)
                default: bytes.insert("{}[]\",:\\\n\u{0}tn-1e9".utf8.randomElement(using: &random)!, at: place)
                }
                if bytes.isEmpty { bytes = [0] }
            }
            let whole = ReadTranscript(bytes)
            let cut = ReadTranscript(bytes, cuts: [Int.random(in: 1...90, using: &random), 5])
            #expect(cut.drafts == whole.drafts, "\(random)")
            #expect(cut.faults == whole.faults, "\(random)")
            try whole.expectAccepted()
        }
    }
}
