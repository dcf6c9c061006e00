import Foundation
import Storage
import TestSupport
import Testing

@testable import Control

/// Keys are what their bytes are: `é` in one scalar and in two are two keys, though Swift holds them equal.
@Suite(.serialized) struct MetadataTests {
    private static let one = "\u{e9}"
    private static let two = "e\u{301}"

    /// Where a text stands in an answer, by bytes.
    private static func holds(_ response: RawResponse, _ text: String) -> Bool { Data(response.body).range(of: Data(text.utf8)) != nil }

    @Test func keysOfStoresAndSessionsAreTheirBytes() async throws {
        try await ServedControl.with { control in
            let (one, two) = (Self.one, Self.two)
            #expect(one == two, "which is why this is tested")
            let pairs = #"{"\#(one)": "1", "\#(two)": "2"}"#
            let made = try control.local("POST", "/v1/memory_stores", #"{"name": "a", "metadata": \#(pairs)}"#)
            #expect(made.status == 200, "\(String(decoding: made.body, as: UTF8.self))")
            let store = "/v1/memory_stores/" + (try #require(try made.json()["id"] as? String))
            let session = try control.local("POST", "/v1/sessions", #"{"agent": "a", "environment_id": "e", "metadata": \#(pairs)}"#)
            #expect(session.status == 200, "\(String(decoding: session.body, as: UTF8.self))")
            let places = [store, "/v1/sessions/" + (try #require(try session.json()["id"] as? String))]
            for place in places {
                let both = try control.local("GET", place)
                #expect(
                    Self.holds(both, #""\#(one)":"1""#) && Self.holds(both, #""\#(two)":"2""#),
                    "\(String(decoding: both.body, as: UTF8.self))")
                // A patch names one of them.
                let changed = try control.local("POST", place, #"{"metadata": {"\#(two)": "3"}}"#)
                #expect(Self.holds(changed, #""\#(one)":"1""#) && Self.holds(changed, #""\#(two)":"3""#))
                let removed = try control.local("POST", place, #"{"metadata": {"\#(one)": null}}"#)
                #expect(!Self.holds(removed, one) && Self.holds(removed, #""\#(two)":"3""#))
                let turned = try control.local("POST", place, #"{"metadata": {"\#(two)": null, "\#(one)": "3"}}"#)
                #expect(Self.holds(turned, #""\#(one)":"3""#) && !Self.holds(turned, two))
            }
            #expect(
                try control.local("POST", store, #"{"metadata": {"\#(one)": "1", "\u00e9": "2"}}"#).status == 400, "the same bytes twice")
            // A fork has what its source has.
            _ = try control.local("POST", store, #"{"metadata": \#(pairs)}"#)
            let fork = try control.local("POST", "\(store)/fork", #"{"name": "b"}"#)
            #expect(Self.holds(fork, #""\#(one)":"1""#) && Self.holds(fork, #""\#(two)":"2""#))
        }
    }

    /// What agents do is kept as it was sent.
    @Test func whatIsInAnEventIsKeptByItsBytes() async throws {
        try await ServedControl.with { control in
            let session = try control.local("POST", "/v1/sessions", #"{"agent": "a", "environment_id": "e"}"#).json()["id"] as? String ?? ""
            let input = #"{"\#(Self.one)": 1, "\#(Self.two)": 2}"#
            let sent = try control.local(
                "POST", "/v1/sessions/\(session)/events",
                #"{"events": [{"type": "agent.tool_use", "id": "\#(Self.one)", "name": "n", "input": \#(input)}, "#
                    + #"{"type": "agent.tool_use", "id": "\#(Self.two)", "name": "m", "input": {}}, "#
                    + #"{"type": "agent.tool_result", "tool_use_id": "\#(Self.one)", "content": []}]}"#)
            #expect(sent.status == 200, "\(String(decoding: sent.body, as: UTF8.self))")
            let events = try control.local("GET", "/v1/sessions/\(session)/events")
            #expect(Self.holds(events, #""\#(Self.one)":1"#) && Self.holds(events, #""\#(Self.two)":2"#))
            let data = try events.data()
            #expect(data.last?["tool_use_id"] as? String == data.first?["id"] as? String)
        }
    }

    @Test func aPatchIsWrittenByItsBytes() throws {
        let pairs: [ExactString: String?] = [ExactString(Self.one): "1", ExactString(Self.two): "2", "none": nil]
        let bytes = try JSONWriter().encode(Wire.Metadata(pairs))
        #expect(bytes.elementsEqual(#"{"\#(Self.two)":"2","none":null,"\#(Self.one)":"1"}"#.utf8))
        let read = try JSONDecoder().decode(Wire.Metadata.self, from: Data(#"{"a": "b", "c": null}"#.utf8))
        #expect(read == Wire.Metadata(["a": "b", "c": nil]))
    }
}
