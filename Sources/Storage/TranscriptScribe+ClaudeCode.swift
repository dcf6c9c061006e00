/// Claude Code's session files, as versions 1.0 to 2.1 write them, and what `claude -p --output-format stream-json` prints. There is no
/// description of the format by its makers; the types of lines are those of public readers and of samples.
extension TranscriptScribe {
    /// - Returns: what is wrong with the line; nil: nothing.
    mutating func readClaudeCode(_ line: JSONValue) -> String? {
        guard let type = line["type"]?.string else { return "has no type" }
        time = Self.time(line["timestamp"])
        readClaudeCodeSource(line)
        switch type {
        case "user", "assistant":
            guard let message = line["message"], message.object != nil else { return "has no message" }
            guard message["content"] != nil else { return "has a message without content" }
            if isSidechain == nil { isSidechain = line["isSidechain"]?.isTrue ?? false }
            if line["toolUseResult"] != nil { leave("toolUseResult (a copy for the program's own use)") }
            if type == "assistant" {
                // The program puts its own errors in the agent's place, under this name.
                let model = message["model"]?.string
                if let model, model != "<synthetic>" { source.model = source.model ?? model.scalars(atMost: 256) }
                readAssistant(message["content"])
            } else {
                readClaudeCodeUser(line, message["content"])
            }
        case "attachment": readAttachment(line["attachment"])
        case "system":
            // What the terminal shows; the model sees none of it but the output of the user's own commands.
            if line["subtype"]?.string == "local_command", let text = line["content"]?.string { note(text) } else { leaveLine(line) }
        case "summary": source.name = source.name ?? line["summary"]?.string
        case "ai-title": setName(line["aiTitle"])
        case "custom-title":
            isNamed = false
            setName(line["customTitle"])
            isNamed = true
        default: leaveLine(line)
        }
        return nil
    }

    private mutating func leaveLine(_ line: JSONValue) {
        let names = [line["type"], line["subtype"]].compactMap { $0?.string?.scalars(atMost: 64) }
        leave("line \(names.joined(separator: " "))")
    }

    /// Over a name of the user's there is no other.
    private mutating func setName(_ name: JSONValue?) {
        if !isNamed, let name = name?.string, !name.isEmpty { source.name = name }
    }

    private mutating func readClaudeCodeSource(_ line: JSONValue) {
        source.session = source.session ?? line["sessionId"]?.string ?? line["session_id"]?.string
        source.directory = source.directory ?? line["cwd"]?.string
        source.branch = source.branch ?? line["gitBranch"]?.string
        source.version = source.version ?? line["version"]?.string
        if line["type"]?.string == "system", source.model == nil { source.model = line["model"]?.string?.scalars(atMost: 256) }
        // A sub-agent's file bears the session's ID, and its own.
        if source.agent == nil, line["isSidechain"]?.isTrue ?? false, isSidechain ?? true { source.agent = line["agentId"]?.string }
    }

    private mutating func readClaudeCodeUser(_ line: JSONValue, _ content: JSONValue?) {
        let isOwn = line["isMeta"]?.isTrue ?? false || line["isCompactSummary"]?.isTrue ?? false || !isHuman(line["origin"])
        let hasResult = content?.array?.contains { $0["type"]?.string?.hasSuffix("tool_result") == true } ?? false
        if isOwn, !hasResult {
            note(text(content))
        } else {
            // In a session's own file, what a sub-agent is told comes from the agent, not from the user.
            let isTold = line["isSidechain"]?.isTrue ?? false && isSidechain == false
            readUser(content, as: isTold ? "agent.message" : "user.message")
        }
    }

    /// What a line says of where it came from: nothing, or a kind other than the user.
    private func isHuman(_ origin: JSONValue?) -> Bool { origin?["kind"]?.string ?? "human" == "human" }

    /// What the user wrote while the agent worked is in no line of its own; all other attachments are the program's.
    private mutating func readAttachment(_ attachment: JSONValue?) {
        let type = attachment?["type"]?.string ?? "unknown"
        guard let attachment, type == "queued_command" else { return leave("attachment \(type.scalars(atMost: 64))") }
        if attachment["commandMode"]?.string ?? "prompt" == "prompt", isHuman(attachment["origin"]) {
            readUser(attachment["prompt"])
        } else {
            note(text(attachment["prompt"]))
        }
    }
}
