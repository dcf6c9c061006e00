/// Puts drafts together into bodies of the send route, and tool results to the events that their tool uses became.
///
/// Add drafts until a body comes back, send it, tell the IDs of the events in the answer; at the end, take what is left.
package struct TranscriptRequests: Sendable {
    /// The IDs of the events that the file's tool uses became, in their order.
    private var toolUses: [String]
    private var held: [TranscriptDraft] = []
    private var weight = 0
    /// The tool uses of the body that was given away, by their places in it.
    private var sentToolUses: [Int] = []

    /// 4 MiB and 500 events: a request is one transaction of the catalog, and others wait for it.
    private static let largest = 4 << 20
    private static let most = 500

    /// - Parameter toolUses: the IDs of the session's `agent.tool_use` events from earlier imports of this file, in their order.
    package init(toolUses: [String] = []) { self.toolUses = toolUses }

    /// - Returns: the body to send before the next draft is added; nil: none yet.
    package mutating func add(_ draft: TranscriptDraft) -> String? {
        let size = draft.value.weight
        // A system message is the last of a request, behind the message that it goes with.
        let isFull = !held.isEmpty && (weight + size > Self.largest || held.count >= Self.most || held.last?.type == "system.message")
        let body = isFull ? take() : nil
        held.append(draft)
        weight += size
        return body
    }

    /// The body with all that is held; nil: nothing is.
    package mutating func take() -> String? {
        guard !held.isEmpty else { return nil }
        sentToolUses = held.indices.filter { held[$0].toolUse != nil }
        let events = held.indices.map { event(at: $0) }
        held = []
        weight = 0
        return JSONValue.object(["events": .array(events)]).text
    }

    /// What the server made of the body that came last: the IDs of its events, in their order.
    package mutating func sent(_ events: [String]) {
        for place in sentToolUses where events.indices.contains(place) { toolUses.append(events[place]) }
        sentToolUses = []
    }

    private func event(at place: Int) -> JSONValue {
        var draft = held[place]
        if let use = draft.toolUse { draft.fields["id"] = .string("use_\(use)") }
        if let use = draft.answers {
            if toolUses.indices.contains(use) {
                draft.fields["tool_use_id"] = .string(toolUses[use])
            } else if sentToolUses.contains(where: { $0 < place && held[$0].toolUse == use }) {
                draft.fields["tool_use_id"] = .string("use_\(use)")
            } else {
                // The caller left out its tool use: of this type alone, the contract does not ask for it.
                draft.type = "user.tool_result"
            }
        } else if draft.type == "system.message", place == 0, let text = draft.fields["content"]?.array?.first?["text"]?.string {
            // Its message went with the request before.
            draft.type = "user.message"
            draft.fields = TranscriptScribe.note(text)
        }
        return draft.value
    }
}
