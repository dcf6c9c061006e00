/// Writes the drafts of a transcript; each format's part of it reads one line or element and says what there is to write.
struct TranscriptScribe: Sendable {
    var source = TranscriptSource()
    private(set) var leftOut: [String: Int] = [:]
    var items: [TranscriptItem] = []
    private(set) var draftCount = 0

    /// Of what is being read.
    var line = 0
    var time: Timestamp?

    /// The tool uses by the IDs that the file has for them; of two with one ID, the later. Those that never get a result stay as they are.
    private var uses: [ExactString: Int] = [:]
    private(set) var useCount = 0
    private var lastType = ""

    // What formats have to remember from one line to the next.

    /// Claude Code: whether the file is a sub-agent's, as its first message says.
    var isSidechain: Bool?
    /// Claude Code: whether the user gave the session its name.
    var isNamed = false
    /// SWE-agent: the action that the next observation belongs to.
    var openAction: Int?

    let limits: TranscriptLimits

    init(limits: TranscriptLimits) { self.limits = limits }

    /// As many kinds as a report can show; a file may have as many as it has lines.
    private static let mostKinds = 200

    mutating func leave(_ kind: String) {
        let isNew = leftOut[kind] == nil && leftOut.count >= Self.mostKinds
        leftOut[isNew ? "of other kinds" : kind, default: 0] += 1
    }

    // MARK: Writing

    /// What the user or the agent said; nothing without a block.
    mutating func say(_ type: String, _ blocks: [JSONValue]) {
        guard !blocks.isEmpty else { return }
        if type == "user.message", source.opening == nil { source.opening = Self.opening(blocks) }
        write(type, ["content": .array(blocks)])
    }

    /// A mark that the agent thought: the contract has no place for what.
    mutating func think() {
        leave("thinking")
        write("agent.thinking", [:])
    }

    /// - Parameter input: an object, or its JSON as a string; what is neither becomes the field `input` of one.
    mutating func use(_ id: String?, _ name: String?, _ input: JSONValue?) {
        let number = useCount
        useCount += 1
        let id = id.flatMap { $0.isEmpty ? nil : $0 } ?? "call_\(number)"
        uses[Self.key(id)] = number
        write(
            "agent.tool_use", ["id": .string(id), "name": .string(name ?? "unknown"), "input": .object(Self.input(input))], toolUse: number)
    }

    /// IDs have forty bytes. What is longer is not worth its room as a whole, since all of them are held.
    private static func key(_ id: String) -> ExactString { ExactString(id.cut(to: 256)) }

    /// The parser of the send route goes down to 64, and three of those are the request's. What is deeper is kept as JSON in a string.
    private static let deepestInput = 60

    private static func input(_ input: JSONValue?) -> [ExactString: JSONValue] {
        switch input {
        case nil: return [:]
        case .object(let fields)? where input?.depth ?? 0 <= deepestInput: return fields
        case .string(let text)?:
            // `try?`: models write arguments that are no JSON; they are kept as they are.
            let value = try? JSONValue(parsing: text.utf8)
            if let value, let fields = value.object, value.depth <= deepestInput { return fields }
            return text.isEmpty ? [:] : ["input": .string(text)]
        case let value?: return ["input": value.depth < deepestInput ? value : .string(value.text)]
        }
    }

    /// The result of a tool use. One that the file does not have is kept as the user's answer, whose reference the contract does not check.
    mutating func result(of id: String?, _ blocks: [JSONValue], isError: Bool) {
        let id = id ?? ""
        if let use = uses[Self.key(id)] { return result(of: use, named: id, blocks, isError: isError) }
        leave("tool result without its tool use (kept as user.tool_result)")
        write("user.tool_result", Self.result(id.isEmpty ? "unknown" : id, blocks, isError))
    }

    mutating func result(of use: Int, named id: String? = nil, _ blocks: [JSONValue], isError: Bool) {
        write("agent.tool_result", Self.result(id ?? "call_\(use)", blocks, isError), answers: use)
    }

    private static func result(_ id: String, _ blocks: [JSONValue], _ isError: Bool) -> [ExactString: JSONValue] {
        ["tool_use_id": .string(id), "content": .array(blocks), "is_error": .boolean(isError)]
    }

    /// What the program said to the model in the user's place. The contract has a system message only behind a message of the user's; elsewhere
    /// it is one of those, in a mark that says whose it is.
    mutating func note(_ text: String) {
        guard !text.isEmpty else { return }
        if lastType == "user.message" || lastType == "user.tool_result" {
            write("system.message", ["content": .array([.text(text)])])
        } else {
            write("user.message", Self.note(text))
        }
    }

    static func note(_ text: String) -> [ExactString: JSONValue] { ["content": .array([.text("<system>\n\(text)\n</system>")])] }

    /// A system prompt: the session's, if nothing was said before.
    mutating func instruct(_ text: String) {
        guard !text.isEmpty else { return }
        guard draftCount == 0 else { return note(text) }
        let added = source.system == nil ? text : "\n\n\(text)"
        let kept = added.scalars(atMost: systemRoom)
        if kept.utf8.count < added.utf8.count { leave("end of the system prompt") }
        systemRoom -= kept.unicodeScalars.count
        source.system = source.system ?? ""
        source.system?.append(kept)
    }

    /// How many scalars the system prompt may still get: an agent's has at most 100,000 (`api.md` 2).
    private var systemRoom = 100_000

    private mutating func write(_ type: String, _ fields: [ExactString: JSONValue], toolUse: Int? = nil, answers: Int? = nil) {
        var draft = TranscriptDraft(type: type, fields: fields, time: time, line: line, toolUse: toolUse, answers: answers)
        if draft.value.weight > limits.draft { lighten(&draft) }
        lastType = type
        draftCount += 1
        if let time {
            source.first = min(source.first ?? time, time)
            source.last = max(source.last ?? time, time)
        }
        items.append(.draft(draft))
    }

    /// Long strings lose their ends, as little of them as will do; if nothing does, what holds them goes.
    private mutating func lighten(_ draft: inout TranscriptDraft) {
        leave("end of an event that is too large")
        let whole = draft.fields
        for part in [2, 8, 32, 512] where draft.value.weight > limits.draft {
            draft.fields = whole.mapValues { $0.cut(stringsTo: limits.draft / part) }
        }
        if draft.value.weight > limits.draft { draft.fields = whole.mapValues(Self.absent) }
    }

    private static func absent(_ value: JSONValue) -> JSONValue {
        let sentence = "[remfs left out \(value.weight) bytes]"
        return switch value {
        case .object: .object(["left_out": .string(sentence)])
        case .array: .array([.text(sentence)])
        default: value.cut(stringsTo: 1_024)
        }
    }

    /// The first line of what a user wrote; programs put texts of their own in that place, which begin with a mark.
    private static func opening(_ blocks: [JSONValue]) -> String? {
        for block in blocks {
            guard let text = block["text"]?.string else { continue }
            let line = text.unicodeScalars.drop { $0.properties.isWhitespace }.prefix { $0 != "\n" && $0 != "\r" }.prefix(100)
            if let first = line.first, first != "<", !line.starts(with: "# AGENTS.md".unicodeScalars) {
                return String(String.UnicodeScalarView(line))
            }
        }
        return nil
    }

    /// The time of what is being read: RFC 3339, or a number of seconds, milliseconds or microseconds since 1970.
    static func time(_ value: JSONValue?) -> Timestamp? {
        let number: Double
        switch value {
        case .string(let text)?: return Timestamp(rfc3339: text)
        case .integer(let whole)?: number = Double(whole)
        case .number(let fraction)?: number = fraction
        default: return nil
        }
        // By size: a number of seconds has ten digits for the next 260 years.
        let microseconds = number < 1e11 ? number * 1e6 : number < 1e14 ? number * 1e3 : number
        guard microseconds > 0, microseconds < 1e17 else { return nil }
        return Timestamp(microseconds: Int64(microseconds))
    }
}
