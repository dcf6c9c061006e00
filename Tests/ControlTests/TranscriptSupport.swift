import Storage

/// What a reader makes of a file.
struct ReadTranscript {
    var drafts: [TranscriptDraft] = []
    var faults: [TranscriptFault] = []
    var reader: TranscriptReader

    /// - Parameter cuts: how many bytes each piece has, in turn.
    init(_ bytes: [UInt8], cuts: [Int] = [1 << 16], limits: TranscriptLimits = TranscriptLimits()) {
        reader = TranscriptReader(limits: limits)
        while true {
            var rest = bytes[...]
            var turn = 0
            while !rest.isEmpty {
                take(reader.read(rest.prefix(cuts[turn % cuts.count])))
                rest = rest.dropFirst(cuts[turn % cuts.count])
                turn += 1
            }
            take(reader.finish())
            guard let again = reader.again else { return }
            reader = again
        }
    }

    init(_ text: String, cuts: [Int] = [1 << 16], limits: TranscriptLimits = TranscriptLimits()) {
        self.init(Array(text.utf8), cuts: cuts, limits: limits)
    }

    private mutating func take(_ items: [TranscriptItem]) {
        for item in items {
            switch item {
            case .draft(let draft): drafts.append(draft)
            case .fault(let fault): faults.append(fault)
            }
        }
    }

    /// Each draft as one line: its type and what it says.
    var story: [String] { drafts.map(Self.line) }

    private static func line(_ draft: TranscriptDraft) -> String {
        var line = draft.type
        if let use = draft.toolUse { line += " #\(use) \(text(draft.fields["name"])) \((draft.fields["input"] ?? .null).text)" }
        if let use = draft.answers { line += " of #\(use)" }
        if case .boolean(true) = draft.fields["is_error"] { line += " failed" }
        guard case .array(let blocks) = draft.fields["content"] else { return line }
        for block in blocks {
            guard case .object(let fields) = block else { continue }
            line += text(fields["type"]) == "text" ? " \"\(text(fields["text"]))\"" : " <\(text(fields["type"]))>"
        }
        return line
    }

    private static func text(_ value: JSONValue?) -> String { if case .string(let text) = value { text } else { "" } }
}

/// Files as their programs write them, with content of our own.
enum TranscriptSamples {
    static let claudeCode = [
        #"{"type":"file-history-snapshot","messageId":"m0","snapshot":{"messageId":"m0","trackedFileBackups":{}},"isSnapshotUpdate":false}"#,
        #"{"parentUuid":null,"isSidechain":false,"userType":"external","cwd":"/home/ana/shop","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","version":"2.1.30","gitBranch":"main","type":"user","message":{"role":"user","content":"Why does the total go wrong?"},"uuid":"u1","timestamp":"2026-03-01T09:00:00.000Z"}"#,
        #"{"parentUuid":"u1","isSidechain":false,"cwd":"/home/ana/shop","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","version":"2.1.30","type":"assistant","message":{"model":"claude-opus-4-5","id":"msg_1","type":"message","role":"assistant","content":[{"type":"thinking","thinking":"Look at the sum.","signature":"EqQB"}],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":2}},"requestId":"req_1","uuid":"a1","timestamp":"2026-03-01T09:00:02.500Z"}"#,
        #"{"parentUuid":"a1","isSidechain":false,"sessionId":"5f0c1c2e-0000-4000-8000-000000000001","type":"assistant","message":{"model":"claude-opus-4-5","id":"msg_1","role":"assistant","content":[{"type":"text","text":"I will read the file."},{"type":"tool_use","id":"toolu_01","name":"Read","input":{"file_path":"/home/ana/shop/total.py"}}]},"uuid":"a2","timestamp":"2026-03-01T09:00:03.000Z"}"#,
        #"{"parentUuid":"a2","isSidechain":false,"sessionId":"5f0c1c2e-0000-4000-8000-000000000001","type":"user","message":{"role":"user","content":[{"tool_use_id":"toolu_01","type":"tool_result","content":[{"type":"text","text":"1\tsum = 0"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]}]},"uuid":"u2","toolUseResult":{"type":"text","file":{"filePath":"total.py"}},"timestamp":"2026-03-01T09:00:03.200Z"}"#,
        #"{"type":"queue-operation","operation":"enqueue","timestamp":"2026-03-01T09:00:04.000Z","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","content":"and the tax"}"#,
        #"{"parentUuid":"u2","isSidechain":false,"type":"attachment","attachment":{"type":"queued_command","prompt":"and the tax","commandMode":"prompt"},"uuid":"t1","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","timestamp":"2026-03-01T09:00:04.100Z"}"#,
        #"{"parentUuid":"u2","isSidechain":false,"type":"attachment","attachment":{"type":"todo_reminder","content":[],"itemCount":0},"uuid":"t2","sessionId":"5f0c1c2e-0000-4000-8000-000000000001"}"#,
        #"{"isSidechain":true,"agentId":"a7","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","type":"user","message":{"role":"user","content":"Look for tests"},"uuid":"s1","timestamp":"2026-03-01T09:00:05.000Z"}"#,
        #"{"isSidechain":false,"isMeta":true,"sessionId":"5f0c1c2e-0000-4000-8000-000000000001","type":"user","message":{"role":"user","content":"Base directory for this skill: /x"},"uuid":"u3","timestamp":"2026-03-01T09:00:06.000Z"}"#,
        #"{"type":"system","subtype":"compact_boundary","content":"Conversation compacted","compactMetadata":{"trigger":"auto","preTokens":155025},"uuid":"c1","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","timestamp":"2026-03-01T09:00:07.000Z"}"#,
        #"{"isCompactSummary":true,"isSidechain":false,"type":"user","message":{"role":"user","content":"This session is being continued."},"uuid":"u4","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","timestamp":"2026-03-01T09:00:07.100Z"}"#,
        #"{"type":"user","isSidechain":false,"message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_gone","is_error":true,"content":"no such tool use"}]},"uuid":"u5","sessionId":"5f0c1c2e-0000-4000-8000-000000000001","timestamp":"2026-03-01T09:00:08.000Z"}"#,
        #"{"type":"custom-title","customTitle":"Totals","sessionId":"5f0c1c2e-0000-4000-8000-000000000001"}"#,
        #"{"type":"ai-title","aiTitle":"Fixing totals","sessionId":"5f0c1c2e-0000-4000-8000-000000000001"}"#,
    ]

    static let codex = [
        #"{"timestamp":"2026-02-16T10:00:00.000Z","type":"session_meta","payload":{"id":"019c6694-aa05-76e0-98b1-46390fb71add","timestamp":"2026-02-16T10:00:00.000Z","cwd":"/repo/app","originator":"codex-tui","cli_version":"0.137.0","source":"cli","model_provider":"openai","base_instructions":{"text":"You are Codex."},"git":{"commit_hash":"abc","branch":"trunk"}}}"#,
        #"{"timestamp":"2026-02-16T10:00:00.100Z","type":"response_item","payload":{"type":"message","role":"developer","content":[{"type":"input_text","text":"Ask before you write."}]}}"#,
        #"{"timestamp":"2026-02-16T10:00:00.200Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"<environment_context>\n  <cwd>/repo/app</cwd>\n</environment_context>"}]}}"#,
        #"{"timestamp":"2026-02-16T10:00:01.000Z","type":"turn_context","payload":{"cwd":"/repo/app","approval_policy":"never","model":"gpt-5.3-codex","effort":"high"}}"#,
        #"{"timestamp":"2026-02-16T10:00:01.100Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"List the files"},{"type":"input_image","image_url":"data:image/png;base64,iVBORw0KGgo="}]}}"#,
        #"{"timestamp":"2026-02-16T10:00:01.200Z","type":"event_msg","payload":{"type":"user_message","message":"List the files","images":[]}}"#,
        #"{"timestamp":"2026-02-16T10:00:02.000Z","type":"response_item","payload":{"type":"reasoning","summary":[{"type":"summary_text","text":"**Listing**"}],"content":null,"encrypted_content":"gAAAA"}}"#,
        #"{"timestamp":"2026-02-16T10:00:02.100Z","type":"response_item","payload":{"type":"function_call","name":"exec_command","arguments":"{\"cmd\":\"ls\"}","call_id":"call_1"}}"#,
        #"{"timestamp":"2026-02-16T10:00:02.200Z","type":"event_msg","payload":{"type":"token_count","info":null}}"#,
        #"{"timestamp":"2026-02-16T10:00:02.300Z","type":"response_item","payload":{"type":"function_call_output","call_id":"call_1","output":"{\"output\":\"ls: no\",\"metadata\":{\"exit_code\":2,\"duration_seconds\":0.1}}"}}"#,
        #"{"timestamp":"2026-02-16T10:00:03.000Z","type":"response_item","payload":{"type":"custom_tool_call","status":"completed","call_id":"call_2","name":"apply_patch","input":"*** Begin Patch\n*** End Patch"}}"#,
        #"{"timestamp":"2026-02-16T10:00:03.100Z","type":"response_item","payload":{"type":"custom_tool_call_output","call_id":"call_2","output":"Success"}}"#,
        #"{"timestamp":"2026-02-16T10:00:04.000Z","type":"response_item","payload":{"type":"local_shell_call","call_id":"call_3","status":"completed","action":{"type":"exec","command":["pwd"]}}}"#,
        #"{"timestamp":"2026-02-16T10:00:05.000Z","type":"response_item","payload":{"type":"function_call","name":"run","namespace":"mcp__box","arguments":"not json","call_id":"call_4"}}"#,
        #"{"timestamp":"2026-02-16T10:00:06.000Z","type":"compacted","payload":{"message":"So far: files listed.","replacement_history":[]}}"#,
        #"{"timestamp":"2026-02-16T10:00:07.000Z","type":"response_item","payload":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Done."}],"phase":"final_answer"}}"#,
    ]

    static let bareCodex = [
        #"{"id":"c3c4b301-27c8-4c70-b6e4-46b99fdf0236","timestamp":"2025-08-18T01:16:13.522Z","instructions":null,"git":{"branch":"main"}}"#,
        #"{"record_type":"state"}"#,
        #"{"type":"message","id":null,"role":"user","content":[{"type":"input_text","text":"hello codex"}]}"#,
        #"{"type":"function_call","id":"fc_1","name":"shell","arguments":"{\"command\":[\"bash\",\"-lc\",\"ls\"]}","call_id":"call_a"}"#,
        #"{"record_type":"state"}"#,
        #"{"type":"function_call_output","call_id":"call_a","output":"{\"output\":\"a.txt\",\"metadata\":{\"exit_code\":0,\"duration_seconds\":0.0}}"}"#,
    ]

    /// As `json.dumps(data, indent=2)` writes it.
    static let sweAgent = """
        {
          "environment": "swe_main",
          "trajectory": [
            {
              "action": "ls\\n",
              "observation": "a.py\\n",
              "response": "Let us look.\\n```\\nls\\n```",
              "state": "{\\"open_file\\": \\"n/a\\"}\\n",
              "thought": "Let us look.\\n"
            }
          ],
          "history": [
            {"role": "system", "content": "SETTING: You are a programmer.", "agent": "primary"},
            {"agent": "primary", "content": "Here is a demonstration.", "is_demo": true, "role": "user"},
            {"role": "user", "content": "Fix the issue.", "agent": "primary"},
            {"role": "assistant", "content": "Let us look.\\n```\\nls\\n```", "thought": "Let us look.\\n", "action": "ls\\n", "agent": "primary"},
            {"role": "user", "content": "a.py\\n(Open file: n/a)\\nbash-$", "agent": "primary"},
            {"role": "assistant", "content": "I open it.", "thought": "I open it.", "action": "open a.py", "agent": "primary",
             "tool_calls": [{"function": {"arguments": "{\\"path\\":\\"a.py\\"}", "name": "open"}, "id": "call_x", "type": "function"}],
             "message_type": "action"},
            {"role": "tool", "content": [{"type": "text", "text": "print(1)"}], "agent": "primary", "message_type": "observation", "tool_call_ids": ["call_x"]}
          ],
          "info": {"exit_status": "submitted", "submission": "diff", "model_stats": {"instance_cost": NaN}},
          "replay_config": "{\\"problem_statement\\": {\\"id\\": \\"shop-i1\\"}, \\"agent\\": {\\"model\\": {\\"name\\": \\"gpt-4o\\"}}}"
        }
        """

    static let chat = [
        #"{"role":"system","content":"Be brief."}"#,
        #"{"role":"user","content":"Weather in Rome?"}"#,
        #"{"role":"assistant","content":null,"tool_calls":[{"id":"call_w","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]}"#,
        #"{"role":"tool","tool_call_id":"call_w","content":"21 degrees"}"#,
        #"{"role":"assistant","content":[{"type":"text","text":"21 degrees."}],"created_at":1770000000}"#,
        #"{"role":"user","content":[{"type":"text","text":"And this?"},{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}"#,
    ]
    static var chatArray: String { "[\n  \(chat.joined(separator: ",\n  "))\n]\n" }
    static var chatObject: String { #"{"model":"gpt-4o","title":"Weather","messages":"# + chatArray + #","temperature":0.5}"# }

    static func lines(_ lines: [String]) -> String { lines.map { $0 + "\n" }.joined() }

    static var all: [String] {
        [lines(claudeCode), lines(codex), lines(bareCodex), sweAgent, lines(chat), chatArray, chatObject]
    }
}
