/// Which program wrote a line.
extension TranscriptFormat {
    /// By the fields of its object; nil: by none of them.
    init?(ofLine line: JSONValue) {
        let type = line["type"]?.string
        if let type, line["payload"] != nil, Self.isCodex(type) {
            self = .codex
        } else if type == nil, line["record_type"] != nil {
            self = .codex
        } else if type == nil, line["role"] == nil, line["id"] != nil, line["timestamp"] != nil {
            // The first line, before September 2025.
            self = .codex
        } else if type != nil, line["role"] == nil, line["message"]?.object != nil || Self.marks.contains(where: { line[$0] != nil }) {
            self = .claudeCode
        } else if let type, TranscriptScribe.codexItems.contains(type), type != "message" || Self.isResponse(line) {
            self = .codex
        } else if line["role"]?.string != nil {
            self = .chat
        } else {
            return nil
        }
    }

    /// Fields of which every line of Claude Code has one.
    private static let marks: [ExactString] = ["sessionId", "session_id", "uuid", "leafUuid", "messageId", "parentUuid"]

    private static func isCodex(_ type: String) -> Bool {
        ["session_meta", "response_item", "event_msg", "turn_context", "compacted"].contains(type) || type.contains("_")
    }

    /// Whether a message is one of the Responses API, not of a chat: by the types of its blocks.
    private static func isResponse(_ line: JSONValue) -> Bool {
        line["content"]?.array?.contains { ["input_text", "output_text", "input_image"].contains($0["type"]?.string) } ?? false
    }
}
