/// The programs whose transcripts can be read, known by their content.
package enum TranscriptFormat: String, Sendable, CaseIterable {
    /// Lines of `~/.claude/projects/*/*.jsonl`, and of `claude -p --output-format stream-json`.
    case claudeCode = "claude_code"
    /// Lines of `~/.codex/sessions/**/rollout-*.jsonl`, with the envelope or, before September 2025, without it.
    case codex
    /// A `.traj` file.
    case sweAgent = "swe_agent"
    /// Messages of `role` and `content`: a list, an object with the list `messages`, or lines.
    case chat
}

/// One event of a transcript, in the shape that the send route takes (`api.md` 7.6).
package struct TranscriptDraft: Sendable, Equatable {
    package var type: String
    /// All fields but the type. A tool use has an `id` and its result names it in `tool_use_id`, both as the file has them; the file may have
    /// one twice, so that `toolUse` and `answers` are what to go by from one request to the next.
    package var fields: [ExactString: JSONValue]
    /// When it happened, where the file says so: sent in the event's object `remfs`, since the server gives every event a time of its own.
    package let time: Timestamp?
    /// Where it begins in the file, counted from 1.
    package let line: Int
    /// Which of the file's tool uses this is, counted from 0; nil: none.
    package let toolUse: Int?
    /// The tool use that this is the result of.
    package let answers: Int?

    /// As an element of `events`.
    package var json: String { value.text }

    var value: JSONValue {
        var object = fields
        object["type"] = .string(type)
        if let time { object["remfs"] = .object(["time": .string(time.rfc3339)]) }
        return .object(object)
    }
}

/// A place in a transcript that could not be read.
package struct TranscriptFault: Sendable, Equatable, CustomStringConvertible {
    /// Counted from 1.
    package let line: Int
    /// One sentence without its subject, the line; of the content it has at most the name of a field.
    package let reason: String
    /// Whether nothing behind it can be read; else the caller may go on.
    package let isFatal: Bool

    package init(line: Int, reason: String, isFatal: Bool = false) {
        self.line = line
        self.reason = reason
        self.isFatal = isFatal
    }

    package var description: String { "line \(line) \(reason)" }
}

/// What a transcript's parts may weigh, in bytes.
package struct TranscriptLimits: Sendable {
    /// A line, or an element of a list: it is held as a whole.
    package var element = 32 << 20
    /// A draft: a request may have 32 MiB (`ControlContext.maximumSessionBody`), and has other parts than this one.
    package var draft = 24 << 20
    /// An image or a document, in base64: a screen that says something still fits, a photograph does not.
    package var image = 256 << 10

    package init() {}
}

package enum TranscriptItem: Sendable, Equatable {
    case draft(TranscriptDraft)
    case fault(TranscriptFault)
}

/// Whose transcript it is, as far as the file says. Grows while the file is read.
package struct TranscriptSource: Sendable, Equatable {
    package internal(set) var format: TranscriptFormat?
    /// The program's own ID of its session.
    package internal(set) var session: String?
    /// The program's ID of the agent, where the file is a sub-agent's.
    package internal(set) var agent: String?
    /// What the program or the user calls it.
    package internal(set) var name: String?
    /// The beginning of what the user said first.
    package internal(set) var opening: String?
    package internal(set) var model: String?
    /// The system prompt: what stands before all else.
    package internal(set) var system: String?
    /// Where the program ran.
    package internal(set) var directory: String?
    package internal(set) var branch: String?
    /// Of the program.
    package internal(set) var version: String?
    /// Of the first and the last event that has a time.
    package internal(set) var first: Timestamp?
    package internal(set) var last: Timestamp?

    package var title: String? { (name ?? opening)?.scalars(atMost: 4_096) }

    /// For the session's metadata: within the contract's limits (`api.md` 2).
    package var metadata: Metadata {
        let pairs: [(ExactString, String?)] = [
            ("transcript_format", format?.rawValue), ("transcript_session", session), ("transcript_agent", agent),
            ("transcript_model", model), ("transcript_directory", directory), ("transcript_branch", branch),
            ("transcript_version", version), ("transcript_started_at", first?.rfc3339),
        ]
        return pairs.reduce(into: [:]) { metadata, pair in metadata[pair.0] = pair.1?.scalars(atMost: 512) }
    }
}
