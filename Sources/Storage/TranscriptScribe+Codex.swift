/// Codex's rollout files: `RolloutLine` and `ResponseItem` of openai/codex, `codex-rs/protocol/src/{protocol,models}.rs`; before September 2025
/// the items stand without the envelope, behind a line with the session's ID.
extension TranscriptScribe {
    /// Types of items without an envelope.
    static let codexItems: Set<String> = [
        "message", "reasoning", "function_call", "function_call_output", "local_shell_call", "local_shell_call_output", "custom_tool_call",
        "custom_tool_call_output", "web_search_call", "tool_search_call", "tool_search_output", "image_generation_call", "agent_message",
        "ghost_snapshot", "compaction", "context_compaction",
    ]

    /// - Returns: what is wrong with the line; nil: nothing.
    mutating func readCodex(_ line: JSONValue) -> String? {
        time = Self.time(line["timestamp"])
        guard let type = line["type"]?.string else {
            if line["record_type"] != nil {
                leave("line state")
            } else if line["id"] != nil, line["timestamp"] != nil {
                readCodexSession(line)
            } else {
                return "has no type"
            }
            return nil
        }
        guard let payload = line["payload"] else {
            guard Self.codexItems.contains(type) else { return "has no payload" }
            return readItem(line, type)
        }
        switch type {
        case "session_meta": readCodexSession(payload)
        case "turn_context":
            source.model = source.model ?? payload["model"]?.string?.scalars(atMost: 256)
            source.directory = source.directory ?? payload["cwd"]?.string
            leave("line turn_context")
        case "response_item":
            guard let type = payload["type"]?.string else { return "has an item without a type" }
            return readItem(payload, type)
        case "compacted":
            note(payload["message"]?.string ?? "")
            if payload["replacement_history"] != nil { leave("replacement_history of a compaction") }
        case "event_msg":
            // The same again for the terminal, and what the terminal alone needs.
            let name = payload["type"]?.string ?? "unknown"
            if name == "thread_name_updated", let title = payload["thread_name"]?.string { source.name = title }
            leave("event_msg \(name.scalars(atMost: 64))")
        default: leave("line \(type.scalars(atMost: 64))")
        }
        return nil
    }

    /// A fork's file has its parent's after its own.
    private mutating func readCodexSession(_ session: JSONValue) {
        guard source.session == nil else { return leave("line session_meta of a parent") }
        source.session = session["id"]?.string ?? session["session_id"]?.string
        source.directory = session["cwd"]?.string
        source.branch = session["git"]?["branch"]?.string
        source.version = session["cli_version"]?.string
        instruct(session["base_instructions"]?["text"]?.string ?? session["instructions"]?.string ?? "")
    }

    private mutating func readItem(_ item: JSONValue, _ type: String) -> String? {
        let id = item["call_id"]?.string ?? item["id"]?.string
        switch type {
        case "message":
            switch item["role"]?.string {
            case "user"?: say("user.message", blocks(item["content"]))
            case "assistant"?: say("agent.message", blocks(item["content"], isText: true))
            case "developer"?, "system"?: instruct(text(item["content"]))
            default: return "has a message without a known role"
            }
        case "agent_message": say("agent.message", blocks(item["content"], isText: true))
        case "reasoning": think()
        case "function_call", "custom_tool_call":
            // Of an MCP server's tool, the server is the namespace.
            let name = item["name"]?.string
            let full = item["namespace"]?.string.map { $0.hasSuffix("__") ? $0 + (name ?? "") : "\($0)__\(name ?? "")" }
            use(id, full ?? name, item["arguments"] ?? item["input"])
        case "local_shell_call": use(id, "local_shell", item["action"])
        case "web_search_call": use(id, "web_search", item["action"])
        case "tool_search_call": use(id, "tool_search", item["arguments"])
        case "tool_search_output": result(of: id, [missing("tool_search_output", item)], isError: false)
        case "image_generation_call":
            use(id, "image_generation", item["revised_prompt"].map { .object(["prompt": $0]) })
            if let image = item["result"] { result(of: useCount - 1, named: id, [missing("image", image)], isError: false) }
        case "function_call_output", "custom_tool_call_output", "local_shell_call_output":
            let output = item["output"]
            result(of: id, blocks(output?["content"] ?? output), isError: Self.hasFailed(output))
        default: leave("response_item \(type.scalars(atMost: 64))")
        }
        return nil
    }

    /// Whether a tool says so itself: a field `success`, or the exit code that the shell tool's output has in it as JSON.
    private static func hasFailed(_ output: JSONValue?) -> Bool {
        if case .boolean(let success)? = output?["success"] { return !success }
        // A short look before a long one: only JSON with metadata is read.
        guard let text = output?.string, text.utf8.first == UInt8(ascii: "{"), text.utf8.suffix(200).contains(UInt8(ascii: "}")),
            let value = try? JSONValue(parsing: text.utf8),  // `try?`: a tool's output is whatever it is
            let code = value["metadata"]?["exit_code"]?.wholeNumber
        else { return false }
        return code != 0
    }
}
