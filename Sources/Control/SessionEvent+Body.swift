package import Storage

/// The shapes of events that clients send: those of the contract, and the agent's side of a transcript (`api.md` 7.6).
extension SessionEvent.Draft {
    /// The events of a request: at least one, and a system message only as the last, after the message that it goes with.
    package static func all(in body: Body) throws(RemfsError) -> [Self] {
        try body.allow("events")
        guard let events = try body.objects("events"), !events.isEmpty else {
            throw RemfsError(.invalidArgument, "events must be an array of at least one event")
        }
        var drafts: [Self] = []
        for event in events { drafts.append(try Self(event)) }
        for (place, draft) in drafts.enumerated() where draft.type == "system.message" {
            let accompanied = place > 0 && ["user.message", "user.tool_result", "user.custom_tool_result"].contains(drafts[place - 1].type)
            guard place == drafts.count - 1, accompanied else {
                throw events[place].refusal("type", "is \"system.message\", which has to be the last event, after the message it goes with")
            }
        }
        return drafts
    }

    /// What the server says of every event, and what a client's copy of one may therefore hold.
    private static let assigned: Set<String> = ["id", "type", "processed_at"]

    package init(_ event: Body) throws(RemfsError) {
        let type = try event.requiredString("type")
        guard let shape = EventShape.known[type] else {
            throw event.refusal("type", "is \(Body.quoted(type)), which clients cannot send")
        }
        let assigned = Self.assigned.union(shape.routing ? ["session_thread_id"] : [])
        try event.allow(assigned.union(shape.fields.map(\.name)).union(["remfs"]))
        try Self.checkAddition(event)
        for key in ["id", "processed_at"] { _ = try event.string(key) }
        for field in shape.fields { try field.check(in: event) }
        let reference = try shape.fields.first { $0.kind.isReference }.map { field throws(RemfsError) in
            SessionEvent.Reference(
                field: field.name, event: try event.requiredString(field.name), isRequired: field.kind == .reference(isStrict: true))
        }
        if type == "user.tool_confirmation", event.has("deny_message"), try event.string("result") != "deny" {
            throw event.refusal("deny_message", "goes with the result \"deny\" only")
        }
        self.init(type: type, body: event.json(without: assigned.union(reference.map { [$0.field] } ?? [])))
        self.reference = reference
        name = try event.string("id")
        if type == "user.interrupt" { thread = try event.string("session_thread_id") }
    }
}

extension SessionEvent.Draft {
    /// The object `remfs` (`api.md` 13): when it happened, where that is not when it was sent. Kept and given back as it came.
    private static func checkAddition(_ event: Body) throws(RemfsError) {
        guard let addition = try event.object("remfs") else { return }
        try addition.allow("time")
        guard let time = try addition.string("time") else { return }
        guard Timestamp(rfc3339: time) != nil else { throw addition.refusal("time", "must be a time as in RFC 3339") }
    }
}

/// What an event of one type may hold.
private struct EventShape: Sendable {
    struct Field: Sendable {
        enum Kind: Sendable, Equatable {
            case text
            case boolean
            case object
            case choice([String])
            /// Content blocks of these types.
            case blocks(Set<String>, canBeEmpty: Bool)
            /// The ID of a tool use; a strict one has to be there.
            case reference(isStrict: Bool)

            var isReference: Bool { if case .reference = self { true } else { false } }
        }

        let name: String
        let kind: Kind
        var isRequired = true
    }

    let fields: [Field]
    /// Whether a read event of this type may carry the thread that the server routed it to, which is not kept.
    var routing = false

    private static let message: Set<String> = ["text", "image", "document"]
    private static let result: Set<String> = ["text", "image", "document", "search_result"]
    private static let permission = Field(name: "evaluated_permission", kind: .choice(["allow", "ask", "deny"]), isRequired: false)
    private static let evaluation = Field(name: "evaluation", kind: .object, isRequired: false)
    private static let name = Field(name: "name", kind: .text)
    private static let input = Field(name: "input", kind: .object)

    private static func result(of field: String, isStrict: Bool) -> EventShape {
        EventShape(
            fields: [
                Field(name: field, kind: .reference(isStrict: isStrict)),
                Field(name: "content", kind: .blocks(result, canBeEmpty: true), isRequired: false),
                Field(name: "is_error", kind: .boolean, isRequired: false),
            ], routing: true)
    }

    /// By type. `user.define_outcome` is not among them: nobody here would evaluate it.
    static let known: [String: EventShape] = [
        "user.message": EventShape(fields: [Field(name: "content", kind: .blocks(message, canBeEmpty: false))]),
        "user.interrupt": EventShape(fields: [Field(name: "session_thread_id", kind: .text, isRequired: false)]),
        "user.tool_confirmation": EventShape(
            fields: [
                Field(name: "tool_use_id", kind: .reference(isStrict: false)), Field(name: "result", kind: .choice(["allow", "deny"])),
                Field(name: "deny_message", kind: .text, isRequired: false),
            ], routing: true),
        "user.tool_result": result(of: "tool_use_id", isStrict: false),
        "user.custom_tool_result": result(of: "custom_tool_use_id", isStrict: false),
        "system.message": EventShape(fields: [Field(name: "content", kind: .blocks(["text"], canBeEmpty: false))]),
        "agent.message": EventShape(fields: [Field(name: "content", kind: .blocks(["text"], canBeEmpty: true))]),
        "agent.thinking": EventShape(fields: []),
        "agent.tool_use": EventShape(fields: [name, input, permission, evaluation], routing: true),
        "agent.mcp_tool_use": EventShape(
            fields: [name, input, Field(name: "mcp_server_name", kind: .text), permission, evaluation], routing: true),
        "agent.custom_tool_use": EventShape(fields: [name, input], routing: true),
        "agent.tool_result": result(of: "tool_use_id", isStrict: true),
        "agent.mcp_tool_result": result(of: "mcp_tool_use_id", isStrict: true),
    ]
}

extension EventShape.Field {
    func check(in event: Body) throws(RemfsError) {
        guard event.has(name) else {
            if isRequired { throw event.refusal(name, "is required") }
            return
        }
        switch kind {
        case .text: _ = try event.string(name)
        case .boolean: _ = try event.boolean(name)
        case .object: _ = try event.object(name)
        case .choice(let choices):
            guard choices.contains(try event.requiredString(name)) else {
                throw event.refusal(name, "must be \(choices.map { "\"\($0)\"" }.joined(separator: " or "))")
            }
        case .reference:
            if try event.requiredString(name).isEmpty { throw event.refusal(name, "must not be empty") }
        case .blocks(let types, let canBeEmpty):
            let blocks = try event.objects(name) ?? []
            guard canBeEmpty || !blocks.isEmpty else { throw event.refusal(name, "must have at least one block") }
            for block in blocks { try ContentBlock.check(block, types) }
        }
    }
}

/// A part of a message.
private enum ContentBlock {
    static func check(_ block: Body, _ types: Set<String>) throws(RemfsError) {
        let type = try block.requiredString("type")
        guard types.contains(type) else {
            throw block.refusal("type", "is \(Body.quoted(type)): only \(types.sorted().joined(separator: ", ")) can stand here")
        }
        switch type {
        case "text":
            try block.allow("type", "text")
            _ = try block.requiredString("text")
        case "image":
            try block.allow("type", "source")
            try source(block, isDocument: false)
        case "document":
            try block.allow("type", "source", "title", "context")
            for key in ["title", "context"] { _ = try block.string(key) }
            try source(block, isDocument: true)
        default:
            try block.allow("type", "source", "title", "content", "citations")
            for key in ["source", "title"] { _ = try block.requiredString(key) }
            guard let content = try block.objects("content") else { throw block.refusal("content", "is required") }
            for part in content { try check(part, ["text"]) }
            guard let citations = try block.object("citations") else { throw block.refusal("citations", "is required") }
            try citations.allow("enabled")
            guard try citations.boolean("enabled") != nil else { throw citations.refusal("enabled", "is required") }
        }
    }

    private static func source(_ block: Body, isDocument: Bool) throws(RemfsError) {
        guard let source = try block.object("source") else { throw block.refusal("source", "is required") }
        switch try source.requiredString("type") {
        case "base64":
            try source.allow("type", "media_type", "data")
            for key in ["media_type", "data"] { _ = try source.requiredString(key) }
        case "url":
            try source.allow("type", "url")
            _ = try source.requiredString("url")
        case "file":
            try source.allow("type", "file_id")
            _ = try source.requiredString("file_id")
        case "text" where isDocument:
            try source.allow("type", "media_type", "data")
            _ = try source.requiredString("data")
            guard try source.requiredString("media_type") == "text/plain" else {
                throw source.refusal("media_type", "must be \"text/plain\"")
            }
        default:
            throw source.refusal("type", "must be \"base64\", \"url\" or \"file\"\(isDocument ? " or \"text\"" : "")")
        }
    }
}
