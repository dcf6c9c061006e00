import Foundation
import Storage
import Testing

@testable import Control

/// Bodies of the session routes: what is taken, what is refused and for which field.
@Suite struct SessionBodyTests {
    private func events(_ json: String) throws(RemfsError) -> [SessionEvent.Draft] {
        try SessionEvent.Draft.all(in: try body(#"{"events": [\#(json)]}"#))
    }

    private static let text = #"{"type": "text", "text": "hi"}"#
    private static let message = #"{"type": "user.message", "content": [\#(text)]}"#

    @Test(arguments: [
        #"{"type": "user.message", "content": [{"type": "text", "text": "hi"}]}"#,
        #"{"type": "user.message", "content": [{"type": "text", "text": ""}]}"#,
        #"{"type": "user.message", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]}"#,
        #"{"type": "user.message", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}"#,
        #"{"type": "user.message", "content": [{"type": "document", "title": null, "source": {"type": "text", "media_type": "text/plain", "data": "x"}}]}"#,
        #"{"type": "user.message", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_1"}, "context": "c"}]}"#,
        #"{"type": "user.interrupt"}"#, #"{"type": "user.interrupt", "session_thread_id": null}"#,
        #"{"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "allow"}"#,
        #"{"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "deny", "deny_message": "no"}"#,
        #"{"type": "user.tool_result", "tool_use_id": "sevt_1"}"#,
        #"{"type": "user.tool_result", "tool_use_id": "sevt_1", "content": [], "is_error": null}"#,
        #"{"type": "user.custom_tool_result", "custom_tool_use_id": "x", "content": [{"type": "text", "text": "4"}], "is_error": true}"#,
        #"{"type": "user.custom_tool_result", "custom_tool_use_id": "x", "content": [{"type": "search_result", "source": "s", "title": "t", "citations": {"enabled": true}, "content": [{"type": "text", "text": "4"}]}]}"#,
        #"{"type": "agent.message", "id": "msg_1", "processed_at": "2026-01-01T00:00:00Z", "content": [{"type": "text", "text": "hi"}]}"#,
        #"{"type": "agent.thinking"}"#, #"{"type": "agent.thinking", "remfs": {"time": "2026-01-01T00:00:00.5+01:00"}}"#,
        #"{"type": "agent.tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}, "evaluated_permission": "allow"}"#,
        #"{"type": "agent.mcp_tool_use", "name": "f", "input": {}, "mcp_server_name": "s"}"#,
        #"{"type": "agent.custom_tool_use", "name": "f", "input": {"n": 1.5e300}}"#,
        #"{"type": "agent.tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "x"}], "is_error": false}"#,
        #"{"type": "agent.mcp_tool_result", "mcp_tool_use_id": "toolu_1"}"#,
    ])
    func takesWhatTheContractDeclares(_ event: String) throws {
        let draft = try #require(try events(event).first)
        #expect(draft.body.first == "{" && !draft.body.contains(#""type":"user"#) && !draft.body.contains(#""processed_at""#))
        // What is kept reads as what was sent, without what the server says itself.
        let kept = try JSONValue(parsing: draft.body.utf8)
        guard case .object(var sent) = try JSONValue(parsing: event.utf8) else { return }
        for key in ["type", "id", "processed_at"] + (draft.reference.map { [$0.field] } ?? []) { sent[ExactString(key)] = nil }
        #expect(kept == .object(sent))
    }

    @Test(arguments: [
        (#"{"content": []}"#, "events[0].type is required"), (#"{"type": 1}"#, "events[0].type must be a string"),
        (#"{"type": "user.shout"}"#, "clients cannot send"), (#"{"type": "session.status_idle"}"#, "clients cannot send"),
        (#"{"type": "user.define_outcome", "description": "x"}"#, "clients cannot send"),
        (#"{"type": "user.message"}"#, "events[0].content is required"),
        (#"{"type": "agent.thinking", "remfs": {"time": "yesterday"}}"#, "events[0].remfs.time must be a time"),
        (#"{"type": "agent.thinking", "remfs": {"at": "2026-01-01T00:00:00Z"}}"#, "events[0].remfs.at"),
        (#"{"type": "user.message", "content": "hi"}"#, "events[0].content"),
        (#"{"type": "user.message", "content": []}"#, "at least one block"),
        (#"{"type": "user.message", "content": [{"type": "redacted"}]}"#, "events[0].content[0].type is redacted"),
        (#"{"type": "user.message", "content": [{"type": "text"}]}"#, "events[0].content[0].text is required"),
        (#"{"type": "user.message", "content": [{"type": "text", "text": 1}]}"#, "events[0].content[0].text must be a string"),
        (#"{"type": "user.message", "content": ["hi"]}"#, "events[0].content[0] must be an object"),
        (#"{"type": "user.message", "content": [{"type": "search_result"}]}"#, "can stand here"),
        (
            #"{"type": "user.message", "content": [{"type": "image", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}]}"#,
            "source.type"
        ),
        (#"{"type": "user.message", "content": [{"type": "image"}]}"#, "source is required"),
        (#"{"type": "user.message", "content": [{"type": "text", "text": "x"}], "colour": 1}"#, "colour is not a known field"),
        (#"{"type": "user.interrupt", "session_thread_id": 1}"#, "session_thread_id must be a string"),
        (#"{"type": "user.tool_confirmation", "tool_use_id": "x", "result": "maybe"}"#, "result must be"),
        (#"{"type": "user.tool_confirmation", "tool_use_id": "x", "result": "allow", "deny_message": "no"}"#, "deny_message"),
        (#"{"type": "user.tool_result"}"#, "tool_use_id is required"),
        (#"{"type": "user.tool_result", "tool_use_id": ""}"#, "must not be empty"),
        (#"{"type": "user.custom_tool_result", "tool_use_id": "x"}"#, "tool_use_id is not a known field"),
        (#"{"type": "agent.thinking", "thinking": "hm"}"#, "thinking is not a known field"),
        (#"{"type": "agent.tool_use", "name": "bash"}"#, "input is required"),
        (#"{"type": "agent.tool_use", "name": "bash", "input": "ls"}"#, "input must be an object"),
        (#"{"type": "agent.tool_use", "name": "bash", "input": {"n": 1e400}}"#, "not valid JSON"),
        (#"{"type": "agent.message", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}"#, "can stand here"),
        (#"{"type": "system.message", "content": [{"type": "text", "text": "x"}]}"#, "has to be the last event"),
    ])
    func refusesWhatItDoesNot(_ event: String, _ words: String) {
        let error = refusal { () throws(RemfsError) in try events(event) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "taken")")
    }

    @Test func aSystemMessageStandsLastBehindItsMessage() throws {
        let system = #"{"type": "system.message", "content": [{"type": "text", "text": "s"}]}"#
        #expect(try events("\(Self.message), \(system)").map(\.type) == ["user.message", "system.message"])
        for wrong in [
            "\(system), \(Self.message)", "\(Self.message), \(system), \(system)", #"{"type": "user.interrupt"}, \#(system)"#,
            "\(Self.message), \(system), \(Self.message)",
        ] {
            #expect(refusal { () throws(RemfsError) in try events(wrong) }?.code == .invalidArgument, "\(wrong)")
        }
    }

    @Test(arguments: [
        #"{}"#, #"{"events": []}"#, #"{"events": null}"#, #"{"events": {}}"#, #"{"events": [1]}"#, #"{"events": [\#(message)], "x": 1}"#,
    ])
    func refusesWhatHoldsNoEvents(_ json: String) {
        #expect(refusal { () throws(RemfsError) in try SessionEvent.Draft.all(in: try body(json)) }?.code == .invalidArgument)
    }

    @Test func aValueIsWrittenAsItWasRead() throws {
        let text = #"{"a":[1,-2,1.5,1e+20,true,null,"\"\\\u0001é😀"],"b":{},"c":[]}"#
        let value = try JSONValue(parsing: text.utf8)
        #expect(try JSONValue(parsing: value.text.utf8) == value)
        #expect(value.text == text)
        #expect(try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(value)) == value)
    }

    @Test(arguments: [
        (#""a1""#, "a1", 1), (#"{"type": "agent", "id": "a1"}"#, "a1", 1), (#"{"type": "agent", "id": "a1", "version": 7}"#, "a1", 7),
        (#"{"type": "agent_with_overrides", "id": "a1", "system": "s", "model": {"id": "m"}, "tools": []}"#, "a1", 1),
    ])
    func readsAnAgent(_ json: String, _ id: String, _ version: Int64) throws {
        let request = try SessionRequest(try body(#"{"agent": \#(json), "environment_id": "e", "unheard_of": 1}"#))
        #expect(request.agent.id == id && request.agent.version == version)
    }

    @Test(arguments: [
        #"{"environment_id": "e"}"#, #"{"agent": "a"}"#, #"{"agent": 1, "environment_id": "e"}"#,
        #"{"agent": {"id": "a"}, "environment_id": "e"}"#, #"{"agent": {"type": "agent"}, "environment_id": "e"}"#,
        #"{"agent": {"type": "robot", "id": "a"}, "environment_id": "e"}"#,
        #"{"agent": {"type": "agent", "id": "a", "version": 0}, "environment_id": "e"}"#,
        #"{"agent": "a", "environment_id": "e", "budget": {"max_list_cost": 1}}"#,
        #"{"agent": "a", "environment_id": "e", "resources": [{"type": "file", "file_id": "f"}]}"#,
        #"{"agent": "a", "environment_id": "e", "resources": [{"type": "memory_store"}]}"#,
        #"{"agent": "a", "environment_id": "e", "resources": [{"type": "memory_store", "memory_store_id": "m", "access": "write_only"}]}"#,
        #"{"agent": "a", "environment_id": "e", "resources": [{"type": "memory_store", "memory_store_id": "m", "remfs": {"colour": 1}}]}"#,
        #"{"agent": "a", "environment_id": "e", "resources": [{"type": "memory_store", "memory_store_id": "m", "remfs": {"uid": -1}}]}"#,
        #"{"agent": "a", "environment_id": "e", "resources": {}}"#, #"{"agent": "a", "environment_id": "e", "metadata": {"k": 1}}"#,
        #"{"agent": "a", "environment_id": "e", "initial_events": [{"type": "user.interrupt"}]}"#,
        #"{"agent": "a", "environment_id": "e", "initial_events": [{"type": "user.define_outcome"}]}"#,
        #"{"agent": "a", "environment_id": "e", "initial_events": [{"type": "user.message"}]}"#,
        #"{"agent": "a", "environment_id": "e", "remfs": {"trust": "blind"}}"#, #"{"agent": "a", "environment_id": "e", "vault_ids": [1]}"#,
    ])
    func refusesWhatMakesNoSession(_ json: String) {
        #expect(refusal { () throws(RemfsError) in try SessionRequest(try body(json)) }?.code == .invalidArgument, "\(json)")
    }

    @Test func repeatedNamesMakeALeast() throws {
        let query = try Query(parsing: "statuses%5B%5D=idle&statuses[]=running&statuses=terminated&x=1")
        #expect(try query.choices("statuses", of: Session.Status.allCases) == [.idle, .running, .terminated])
        #expect(try query.choices("types", of: Session.Status.allCases) == [])
        #expect(
            refusal { () throws(RemfsError) in try Query(parsing: "statuses[]=asleep").choices("statuses", of: Session.Status.allCases) }?
                .code
                == .invalidArgument)
        let times = try Query(parsing: "created_at[gt]=2026-01-01T00:00:00Z&created_at%5Blte%5D=2026-01-02T00:00:00.5%2B00:00").times(
            "created_at")
        #expect(times.from?.rfc3339 == "2026-01-01T00:00:00.000001Z" && times.to?.rfc3339 == "2026-01-02T00:00:00.500000Z")
        let both = try Query(parsing: "t[gte]=2026-01-01T00:00:00Z&t[gt]=2026-01-03T00:00:00Z&t[lt]=2026-01-05T00:00:00Z").times("t")
        #expect(both.from?.rfc3339 == "2026-01-03T00:00:00.000001Z" && both.to?.rfc3339 == "2026-01-04T23:59:59.999999Z")
    }

    @Test(arguments: [
        Cursor.sessions(.ascending, created: Timestamp(microseconds: 5), sequence: 7, isBackward: true),
        .sessions(.descending, created: Timestamp(microseconds: -5), sequence: 7, isBackward: false), .events(.ascending, of: -3, after: 9),
        .events(.descending, of: 3, after: 9), .threads(of: 1, after: 2), .resources(of: 1, after: 2),
    ])
    func aCursorComesBackAsItWas(_ cursor: Cursor) {
        #expect(Cursor(cursor.text) == cursor)
    }
}
