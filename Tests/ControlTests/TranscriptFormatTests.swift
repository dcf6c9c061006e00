import Storage
import Testing

@Suite struct TranscriptFormatTests {
    @Test func claudeCode() throws {
        let read = ReadTranscript(TranscriptSamples.lines(TranscriptSamples.claudeCode))
        #expect(read.faults.isEmpty)
        #expect(
            read.story == [
                #"user.message "Why does the total go wrong?""#,
                "agent.thinking",
                #"agent.message "I will read the file.""#,
                #"agent.tool_use #0 Read {"file_path":"/home/ana/shop/total.py"}"#,
                "agent.tool_result of #0 \"1\tsum = 0\" <image>",
                #"user.message "and the tax""#,
                #"agent.message "Look for tests""#,
                "user.message \"<system>\nBase directory for this skill: /x\n</system>\"",
                #"system.message "This session is being continued.""#,
                #"user.tool_result failed "no such tool use""#,
            ])
        let source = read.reader.source
        #expect(source.format == .claudeCode)
        #expect(source.session == "5f0c1c2e-0000-4000-8000-000000000001")
        #expect(source.title == "Totals")
        #expect(source.opening == "Why does the total go wrong?")
        #expect(source.model == "claude-opus-4-5")
        #expect(source.directory == "/home/ana/shop")
        #expect(source.agent == nil)
        #expect(source.metadata["transcript_started_at"] == "2026-03-01T09:00:00.000000Z")
        #expect(read.drafts[1].time == Timestamp(rfc3339: "2026-03-01T09:00:02.5Z"))
        #expect(read.drafts[1].line == 3)
        #expect(
            read.reader.leftOut == [
                "line file-history-snapshot": 1, "thinking": 1, "toolUseResult (a copy for the program's own use)": 1,
                "line queue-operation": 1, "attachment todo_reminder": 1, "line system compact_boundary": 1,
                "tool result without its tool use (kept as user.tool_result)": 1,
            ])
    }

    @Test func aSubAgentsOwnFileIsItsSession() {
        let read = ReadTranscript(
            #"{"isSidechain":true,"agentId":"a7","sessionId":"s","type":"user","message":{"role":"user","content":"Look"},"uuid":"1"}"#)
        #expect(read.story == [#"user.message "Look""#])
        #expect(read.reader.source.agent == "a7")
    }

    @Test func streamedJSONOfClaudeCode() {
        let read = ReadTranscript(
            TranscriptSamples.lines([
                #"{"type":"system","subtype":"init","cwd":"/w","session_id":"s1","tools":["Bash"],"model":"claude-opus-4-5"}"#,
                #"{"type":"assistant","message":{"id":"m","role":"assistant","content":[{"type":"text","text":"hi"}]},"session_id":"s1"}"#,
                #"{"type":"result","subtype":"success","is_error":false,"result":"hi","session_id":"s1"}"#,
            ]))
        #expect(read.story == [#"agent.message "hi""#])
        #expect(read.reader.source.session == "s1")
        #expect(read.reader.source.model == "claude-opus-4-5")
        #expect(read.reader.leftOut == ["line system init": 1, "line result success": 1])
    }

    @Test func codex() {
        let read = ReadTranscript(TranscriptSamples.lines(TranscriptSamples.codex))
        #expect(read.faults.isEmpty)
        #expect(
            read.story == [
                "user.message \"<environment_context>\n  <cwd>/repo/app</cwd>\n</environment_context>\"",
                #"user.message "List the files" <image>"#,
                "agent.thinking",
                #"agent.tool_use #0 exec_command {"cmd":"ls"}"#,
                #"agent.tool_result of #0 failed "{"output":"ls: no","metadata":{"exit_code":2,"duration_seconds":0.1}}""#,
                #"agent.tool_use #1 apply_patch {"input":"*** Begin Patch\u000a*** End Patch"}"#,
                #"agent.tool_result of #1 "Success""#,
                #"agent.tool_use #2 local_shell {"command":["pwd"],"type":"exec"}"#,
                #"agent.tool_use #3 mcp__box__run {"input":"not json"}"#,
                "user.message \"<system>\nSo far: files listed.\n</system>\"",
                #"agent.message "Done.""#,
            ])
        let source = read.reader.source
        #expect(source.format == .codex)
        #expect(source.session == "019c6694-aa05-76e0-98b1-46390fb71add")
        #expect(source.system == "You are Codex.\n\nAsk before you write.")
        #expect(source.model == "gpt-5.3-codex")
        #expect(source.directory == "/repo/app")
        #expect(source.branch == "trunk")
        #expect(source.title == "List the files")
        #expect(read.reader.leftOut["event_msg token_count"] == 1)
    }

    @Test func codexWithoutTheEnvelope() {
        let read = ReadTranscript(TranscriptSamples.lines(TranscriptSamples.bareCodex))
        #expect(read.faults.isEmpty)
        #expect(
            read.story == [
                #"user.message "hello codex""#,
                #"agent.tool_use #0 shell {"command":["bash","-lc","ls"]}"#,
                #"agent.tool_result of #0 "{"output":"a.txt","metadata":{"exit_code":0,"duration_seconds":0.0}}""#,
            ])
        #expect(read.reader.source.session == "c3c4b301-27c8-4c70-b6e4-46b99fdf0236")
        #expect(read.reader.source.format == .codex)
    }

    @Test func codexInOneDocument() {
        let items = TranscriptSamples.bareCodex.filter { $0.contains(#""type":"#) }.joined(separator: ",\n")
        let read = ReadTranscript(#"{"session":{"timestamp":"2025-06-26T00:00:00Z","id":"old","instructions":"I"},"items":[\#(items)]}"#)
        #expect(read.story == ReadTranscript(TranscriptSamples.lines(TranscriptSamples.bareCodex)).story)
        #expect(read.reader.source.session == "old")
        #expect(read.reader.source.system == "I")
    }

    @Test func sweAgentWithItsHistory() {
        let read = ReadTranscript(TranscriptSamples.sweAgent)
        #expect(read.faults.isEmpty)
        #expect(
            read.story == [
                #"user.message "Fix the issue.""#,
                "agent.message \"Let us look.\n\"",
                #"agent.tool_use #0 bash {"command":"ls\u000a"}"#,
                "agent.tool_result of #0 \"a.py\n(Open file: n/a)\nbash-$\"",
                #"agent.message "I open it.""#,
                #"agent.tool_use #1 open {"path":"a.py"}"#,
                #"agent.tool_result of #1 "print(1)""#,
            ])
        let source = read.reader.source
        #expect(source.format == .sweAgent)
        #expect(source.system == "SETTING: You are a programmer.")
        #expect(source.title == "shop-i1")
        #expect(source.model == "gpt-4o")
        #expect(
            read.reader.leftOut == [
                "trajectory": 1, "demonstration": 1, "field info": 1, "field environment": 1, "unreadable characters": 1,
            ])
        #expect(read.drafts[0].line == 15)
    }

    @Test func sweAgentWithATrajectoryAlone() {
        let read = ReadTranscript(
            """
            {"trajectory": [
              {"action": "ls", "observation": "a.py", "response": "r", "state": {}, "thought": "Look.", "execution_time": 0.1,
               "query": [{"role": "system", "content": "S"}, {"role": "user", "content": "Fix it.", "message_type": "observation"}]},
              {"action": "", "observation": "", "response": "I give up", "state": {}, "thought": "", "query": [{"role": "user", "content": "x"}]}
            ], "info": {}}
            """)
        #expect(read.faults.isEmpty)
        #expect(
            read.story == [
                #"user.message "Fix it.""#, #"agent.message "Look.""#, #"agent.tool_use #0 bash {"command":"ls"}"#,
                #"agent.tool_result of #0 "a.py""#, #"agent.message "I give up""#,
            ])
        #expect(read.reader.source.system == "S")
    }

    private let chatStory = [
        #"user.message "Weather in Rome?""#,
        #"agent.tool_use #0 weather {"city":"Rome"}"#,
        #"agent.tool_result of #0 "21 degrees""#,
        #"agent.message "21 degrees.""#,
        #"user.message "And this?" <image>"#,
    ]

    @Test func chatInEachOfItsForms() {
        for text in [TranscriptSamples.lines(TranscriptSamples.chat), TranscriptSamples.chatArray, TranscriptSamples.chatObject] {
            let read = ReadTranscript(text)
            #expect(read.faults.isEmpty)
            #expect(read.story == chatStory)
            #expect(read.reader.source.format == .chat)
            #expect(read.reader.source.system == "Be brief.")
            #expect(read.drafts[3].time == Timestamp(microseconds: 1_770_000_000_000_000))
        }
        let object = ReadTranscript(TranscriptSamples.chatObject).reader
        #expect(object.source.title == "Weather")
        #expect(object.source.model == "gpt-4o")
        #expect(object.leftOut == ["field temperature": 1])
    }

    @Test func chatWithAnthropicsBlocks() {
        let read = ReadTranscript(
            #"""
            [{"role":"user","content":"Go"},
             {"role":"assistant","content":[{"type":"thinking","thinking":"..."},{"type":"text","text":"A"},{"type":"text","text":"B"},
              {"type":"tool_use","id":"t","name":"Bash","input":{"command":"ls"}}]},
             {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"x","is_error":true},{"type":"text","text":"next"}]},
             {"role":"system","content":"Hurry."},
             {"role":"function","name":"old","content":"y"}]
            """#)
        #expect(
            read.story == [
                #"user.message "Go""#, "agent.thinking", #"agent.message "A" "B""#, #"agent.tool_use #0 Bash {"command":"ls"}"#,
                #"agent.tool_result of #0 failed "x""#, #"user.message "next""#, #"system.message "Hurry.""#,
                #"agent.tool_result of #0 "y""#,
            ])
    }

    @Test func whatIsTooLargeOrStrangeIsNamedAndCounted() {
        let large = String(repeating: "A", count: 300 << 10)
        let read = ReadTranscript(
            TranscriptSamples.lines([
                #"{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"\#(large)"}}]}"#,
                #"{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}"#,
                #"{"role":"assistant","content":[{"type":"image","source":{"type":"url","url":"https://example.com"}}]}"#,
                #"{"role":"user","content":""}"#,
            ]))
        #expect(read.faults.isEmpty)
        #expect(read.story.count == 3)
        #expect(read.story.allSatisfy { $0.contains("[remfs left out ") && $0.hasSuffix(" bytes]\"") })
        #expect(read.reader.leftOut == ["block image": 2, "block input_audio": 1])
    }

    @Test func whatIsKeptForTheSessionHasAnEnd() {
        let text = String(repeating: "é", count: 60_000)
        let system = ReadTranscript(
            TranscriptSamples.lines([#"{"role":"system","content":"\#(text)"}"#, #"{"role":"system","content":"\#(text)"}"#])
        ).reader
        #expect(system.source.system?.unicodeScalars.count == 100_000)
        #expect(system.leftOut == ["end of the system prompt": 1])
        let kinds = (0..<500).map { #"{"type":"kind-\#($0)","sessionId":"s"}"# }
        let left = ReadTranscript(TranscriptSamples.lines(kinds)).reader.leftOut
        #expect(left.count == 201)
        #expect(left["of other kinds"] == 300)
    }
}
