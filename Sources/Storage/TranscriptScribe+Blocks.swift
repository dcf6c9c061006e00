/// Content as Anthropic's and OpenAI's messages have it, in the contract's blocks (`api.md` 7.6).
extension TranscriptScribe {
    /// A string, or blocks. What is no text is kept where the contract has a block for it and it is small; else a text says what was there.
    ///
    /// - Parameter isText: only texts may stand there.
    mutating func blocks(_ content: JSONValue?, isText: Bool = false) -> [JSONValue] {
        switch content {
        case .string(let text)?: text.isEmpty ? [] : [.text(text)]
        case .array(let parts)?: parts.compactMap { block($0, isText: isText) }
        case .object?: content.flatMap { block($0, isText: isText) }.map { [$0] } ?? []
        default: []
        }
    }

    /// nil: there is nothing to keep.
    mutating func block(_ part: JSONValue, isText: Bool = false) -> JSONValue? {
        if let text = part.string { return .text(text) }
        let type = part["type"]?.string ?? (part["text"] == nil ? "block" : "text")
        switch type {
        case "text", "input_text", "output_text", "summary_text", "reasoning_text":
            guard let text = part["text"]?.string, !text.isEmpty else { return nil }
            return .text(text)
        case "refusal": return part["refusal"]?.string.map { .text($0) }
        case "image", "image_url", "input_image": return image(part, isText: isText)
        case "document": return document(part, isText: isText)
        case "search_result", "web_search_result":
            let parts = [part["title"]?.string, part["source"]?.string ?? part["url"]?.string, text(part["content"])]
            return .text(parts.compactMap { $0 }.filter { !$0.isEmpty }.joined(separator: "\n"))
        case "tool_reference": return .text("[tool \(part["tool_name"]?.string ?? "")]")
        default: return missing(type, part)
        }
    }

    /// What is left out: counted, and named in the place where it stood.
    mutating func missing(_ type: String, _ part: JSONValue) -> JSONValue {
        let type = type.scalars(atMost: 64)
        leave("block \(type)")
        return .text("[remfs left out \(type): \(part.weight) bytes]")
    }

    private mutating func image(_ part: JSONValue, isText: Bool) -> JSONValue {
        guard !isText, let source = Self.source(part), source.weight <= limits.image else { return missing("image", part) }
        return .object(["type": .string("image"), "source": source])
    }

    private mutating func document(_ part: JSONValue, isText: Bool) -> JSONValue {
        guard !isText, let source = Self.source(part, isDocument: true), source.weight <= limits.image else {
            return missing("document", part)
        }
        var block: [ExactString: JSONValue] = ["type": .string("document"), "source": source]
        for key: ExactString in ["title", "context"] { block[key] = part[key]?.string.map { .string($0) } }
        return .object(block)
    }

    /// Where the bytes are, in one of the contract's ways; nil: in none of them.
    private static func source(_ part: JSONValue, isDocument: Bool = false) -> JSONValue? {
        if let url = part["image_url"]?.string ?? part["image_url"]?["url"]?.string { return source(url: url) }
        guard let given = part["source"], let type = given["type"]?.string else { return nil }
        let keys: [ExactString]
        switch type {
        case "base64": keys = ["media_type", "data"]
        case "url": keys = ["url"]
        case "text" where isDocument && given["media_type"]?.string == "text/plain": keys = ["media_type", "data"]
        default: return nil
        }
        var source: [ExactString: JSONValue] = ["type": .string(type)]
        for key in keys {
            guard let value = given[key]?.string else { return nil }
            source[key] = .string(value)
        }
        return .object(source)
    }

    /// `data:image/png;base64,...`, or an address.
    private static func source(url: String) -> JSONValue? {
        guard url.utf8.starts(with: "data:".utf8) else { return .object(["type": .string("url"), "url": .string(url)]) }
        let parts = url.utf8.split(separator: UInt8(ascii: ","), maxSplits: 1)
        guard parts.count == 2, let head = String(parts[0]), head.utf8.count < 100, head.hasSuffix(";base64"), let data = String(parts[1])
        else {
            return nil
        }
        return .object([
            "type": .string("base64"), "media_type": .string(String(head.dropFirst(5).dropLast(7))), "data": .string(data),
        ])
    }

    // MARK: Anthropic's messages

    /// The blocks of an assistant's message, each as the event that it is.
    mutating func readAssistant(_ content: JSONValue?) {
        guard let parts = content?.array else { return say("agent.message", blocks(content, isText: true)) }
        var said: [JSONValue] = []
        for part in parts {
            let type = part["type"]?.string ?? ""
            switch type {
            case "thinking", "redacted_thinking":
                flush(&said, "agent.message")
                think()
            case "tool_use", "server_tool_use", "mcp_tool_use":
                flush(&said, "agent.message")
                use(part["id"]?.string, part["name"]?.string, part["input"])
            case _ where type.hasSuffix("tool_result"):
                flush(&said, "agent.message")
                readResult(part)
            default: if let block = block(part, isText: true) { said.append(block) }
            }
        }
        flush(&said, "agent.message")
    }

    /// The blocks of a user's message: tool results, and what lies between them as messages of this type.
    mutating func readUser(_ content: JSONValue?, as type: String = "user.message") {
        let isText = type != "user.message"
        guard let parts = content?.array else { return say(type, blocks(content, isText: isText)) }
        var said: [JSONValue] = []
        for part in parts {
            if part["type"]?.string?.hasSuffix("tool_result") == true {
                flush(&said, type)
                readResult(part)
            } else if let block = block(part, isText: isText) {
                said.append(block)
            }
        }
        flush(&said, type)
    }

    private mutating func readResult(_ part: JSONValue) {
        result(of: part["tool_use_id"]?.string, blocks(part["content"]), isError: part["is_error"]?.isTrue ?? false)
    }

    private mutating func flush(_ said: inout [JSONValue], _ type: String) {
        say(type, said)
        said = []
    }

    /// The texts of blocks, as one.
    mutating func text(_ content: JSONValue?) -> String {
        blocks(content, isText: true).compactMap { $0["text"]?.string }.joined(separator: "\n")
    }
}
