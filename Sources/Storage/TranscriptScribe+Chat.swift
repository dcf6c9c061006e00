/// Messages of `role` and `content`, as OpenAI's Chat Completions and Anthropic's Messages have them, and what is written beside them.
extension TranscriptScribe {
    /// - Returns: what is wrong with the message; nil: nothing.
    mutating func readChat(_ message: JSONValue) -> String? {
        guard let role = message["role"]?.string else { return "begins a message without a role" }
        time = Self.time(message["timestamp"] ?? message["created_at"] ?? message["created"] ?? message["time"])
        let content = message["content"]
        switch role {
        case "system", "developer": instruct(text(content))
        case "user", "human": readUser(content)
        case "assistant", "model", "ai":
            if message["reasoning_content"] != nil || message["reasoning"] != nil || message["thinking"] != nil { think() }
            readAssistant(content ?? message["refusal"])
            for call in message["tool_calls"]?.array ?? [] { readCall(call) }
            if let call = message["function_call"] { readCall(call) }
            source.model = source.model ?? message["model"]?.string?.scalars(atMost: 256)
        case "tool", "function":
            // The older form has no ID: it answers the latest call.
            if let id = message["tool_call_id"]?.string {
                result(of: id, blocks(content), isError: message["is_error"]?.isTrue ?? false)
            } else if useCount > 0 {
                result(of: useCount - 1, blocks(content), isError: false)
            } else {
                result(of: nil, blocks(content), isError: false)
            }
        default: return "begins a message with the role \(role.shortened)"
        }
        return nil
    }

    /// `{id, type, function: {name, arguments}}`, or only what is inside.
    mutating func readCall(_ call: JSONValue) {
        let inner = call["function"] ?? call["custom"] ?? call
        use(call["id"]?.string, inner["name"]?.string, inner["arguments"] ?? inner["input"])
    }

    /// A member of the object that holds the list of messages or steps, whichever program wrote it.
    ///
    /// - Returns: whether there was something to take from it.
    mutating func readMember(_ name: String, _ value: JSONValue) -> Bool {
        switch name {
        case "model": source.model = source.model ?? value.string?.scalars(atMost: 256)
        case "id", "session_id", "conversation_id", "chat_id": source.session = source.session ?? value.string
        case "title", "name": source.name = source.name ?? value.string
        case "system": instruct(text(value))
        case "cwd": source.directory = source.directory ?? value.string
        case "trajectory_format": source.version = source.version ?? value.string
        case "session":  // of Codex's first files, written in TypeScript
            source.session = source.session ?? value["id"]?.string
            instruct(value["instructions"]?.string ?? "")
        case "replay_config": return readReplay(value)
        default: return false
        }
        return value.string != nil || value.object != nil
    }

    /// What SWE-agent was run with, as an object or as the JSON of one.
    private mutating func readReplay(_ value: JSONValue) -> Bool {
        // `try?`: what cannot be read is left out.
        let config = value.string.flatMap { try? JSONValue(parsing: $0.utf8) } ?? value
        source.name = source.name ?? config["problem_statement"]?["id"]?.string
        source.model = source.model ?? config["agent"]?["model"]?["name"]?.string?.scalars(atMost: 256)
        return source.name != nil
    }
}
