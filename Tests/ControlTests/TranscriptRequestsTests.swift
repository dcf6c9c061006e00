import Control
import Storage
import Testing

extension ReadTranscript {
    /// Every draft alone, and all of them in requests, as the send route reads them.
    func expectAccepted() throws {
        var requests = TranscriptRequests()
        var sent = 0
        for body in drafts.compactMap({ requests.add($0) }) + [requests.take()].compactMap({ $0 }) {
            sent += try SessionEvent.Draft.all(in: Body(parsing: body.utf8)).count
        }
        #expect(sent == drafts.count)
        for draft in drafts { _ = try SessionEvent.Draft(Body(parsing: draft.json.utf8)) }
    }
}

@Suite struct TranscriptRequestsTests {
    @Test(arguments: TranscriptSamples.all) func theSendRouteTakesEveryDraft(_ text: String) throws {
        try ReadTranscript(text).expectAccepted()
    }

    /// A server that gives events their IDs and holds references against them.
    private struct Server {
        var toolUses: Set<String> = []
        var events: [(type: String, id: String)] = []

        mutating func send(_ body: String) throws -> [String] {
            var names: [String: String] = [:]
            var ids: [String] = []
            for draft in try SessionEvent.Draft.all(in: Body(parsing: body.utf8)) {
                let id = "sevt_\(events.count)"
                if let reference = draft.reference, reference.isRequired {
                    #expect(toolUses.contains(names[reference.event] ?? reference.event))
                }
                if draft.type == "agent.tool_use" { toolUses.insert(id) }
                if let name = draft.name { names[name] = id }
                events.append((draft.type, id))
                ids.append(id)
            }
            return ids
        }

        /// Imports what is new: as `remfs session import` does.
        mutating func take(_ text: String) throws {
            let imported = events.count
            var requests = TranscriptRequests(toolUses: events.filter { $0.type == "agent.tool_use" }.map(\.id))
            for draft in ReadTranscript(text).drafts.dropFirst(imported) {
                if let body = requests.add(draft) { requests.sent(try send(body)) }
            }
            if let body = requests.take() { requests.sent(try send(body)) }
        }
    }

    @Test(arguments: [TranscriptSamples.claudeCode, TranscriptSamples.codex, TranscriptSamples.chat])
    func importingAGrownFileAddsWhatIsNew(_ lines: [String]) throws {
        let whole = ReadTranscript(TranscriptSamples.lines(lines)).drafts.count
        for step in [1, 2, 5] {
            var server = Server()
            for count in stride(from: 1, through: lines.count, by: step) {
                let text = TranscriptSamples.lines(Array(lines.prefix(count)))
                try server.take(text)
                let before = server.events.count
                try server.take(text)
                #expect(server.events.count == before)
            }
            try server.take(TranscriptSamples.lines(lines))
            #expect(server.events.count == whole)
        }
    }

    @Test func aSystemMessageWithoutItsMessageIsTheUsers() throws {
        let drafts = ReadTranscript(#"[{"role":"user","content":"a"},{"role":"system","content":"b"},{"role":"user","content":"c"}]"#)
            .drafts
        #expect(drafts.map(\.type) == ["user.message", "system.message", "user.message"])
        var requests = TranscriptRequests()
        #expect(requests.add(drafts[1]) == nil)
        let rest = requests.take()
        let alone = try #require(rest)
        #expect(alone == #"{"events":[{"content":[{"text":"<system>\u000ab\u000a</system>","type":"text"}],"type":"user.message"}]}"#)
        #expect(requests.add(drafts[0]) == nil)
        #expect(requests.add(drafts[1]) == nil)
        // A system message is the last of its request.
        #expect(requests.add(drafts[2])?.contains(#""system.message""#) == true)
    }

    @Test func aResultWhoseToolUseWasNotSentIsTheUsers() throws {
        let drafts = ReadTranscript(TranscriptSamples.lines(TranscriptSamples.chat)).drafts
        var requests = TranscriptRequests()
        #expect(requests.add(drafts[2]) == nil)
        let rest = requests.take()
        let body = try #require(rest)
        #expect(try SessionEvent.Draft.all(in: Body(parsing: body.utf8)).map(\.type) == ["user.tool_result"])
    }

    @Test func whatNestsTooDeepForARequestIsKeptAsText() throws {
        let deep = String(repeating: "[", count: 61) + String(repeating: "]", count: 61)
        let read = ReadTranscript(
            TranscriptSamples.lines([
                #"{"type":"local_shell_call","call_id":"a","action":{"a":\#(deep)}}"#,
                #"{"type":"custom_tool_call","call_id":"b","name":"n","input":\#(deep)}"#,
                #"{"type":"function_call","call_id":"c","name":"n","arguments":"{\"a\":\#(deep)}"}"#,
            ]))
        #expect(read.drafts.count == 3)
        #expect(read.drafts.allSatisfy { $0.json.contains(#""input":{"input":""#) })
        try read.expectAccepted()
    }

    @Test func metadataKeepsToTheContract() {
        let long = String(repeating: "é", count: 5_000)
        let read = ReadTranscript(
            #"{"type":"user","cwd":"\#(long)","sessionId":"\#(long)","message":{"role":"user","content":"\#(long)"},"uuid":"1"}"#)
        let metadata = read.reader.source.metadata
        #expect(metadata["transcript_session"]?.unicodeScalars.count == 512)
        #expect(metadata.count <= 16)
        #expect(read.reader.source.title?.unicodeScalars.count == 100)
    }
}
