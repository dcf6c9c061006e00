/// SWE-agent's `.traj` files: `HistoryItem` and `TrajectoryStep` of SWE-agent/SWE-agent, `sweagent/types.py`. The history has the task and
/// the calls as the model made them, so the trajectory is read only where there is none.
extension TranscriptScribe {
    /// - Returns: what is wrong with the element; nil: nothing.
    mutating func readSWEAgent(_ item: JSONValue) -> String? {
        if let role = item["role"]?.string { return readHistory(item, role) }
        guard item["action"] != nil || item["response"] != nil || item["observation"] != nil else {
            return "begins an element that is no step"
        }
        readStep(item)
        return nil
    }

    private mutating func readHistory(_ item: JSONValue, _ role: String) -> String? {
        // What was shown to the model as an example never happened.
        if item["is_demo"]?.isTrue ?? false || item["agent"]?.string == "demo" {
            leave("demonstration")
            return nil
        }
        switch role {
        case "system": instruct(text(item["content"]))
        case "user":
            if let action = openAction {
                result(of: action, blocks(item["content"]), isError: false)
                openAction = nil
            } else {
                say("user.message", blocks(item["content"]))
            }
        case "assistant": readAction(item)
        case "tool":
            openAction = nil
            let id = item["tool_call_ids"]?.array?.first?.string ?? item["tool_call_id"]?.string
            result(of: id, blocks(item["content"]), isError: false)
        default: return "begins an element with the role \(role.shortened)"
        }
        return nil
    }

    /// A thought, and the action as a call of a function or, in older files, as a line for the shell.
    private mutating func readAction(_ item: JSONValue) {
        for _ in item["thinking_blocks"]?.array ?? [] { think() }
        let action = item["action"]?.string ?? ""
        let calls = item["tool_calls"]?.array ?? []
        let thought = item["thought"]?.string ?? ""
        let isSaid = !thought.isEmpty || (action.isEmpty && calls.isEmpty)
        say("agent.message", isSaid && thought.isEmpty ? blocks(item["content"], isText: true) : thought.isEmpty ? [] : [.text(thought)])
        openAction = nil
        for call in calls { readCall(call) }
        if calls.isEmpty, !action.isEmpty { act(action) }
    }

    private mutating func act(_ action: String) {
        openAction = useCount
        use(nil, "bash", .object(["command": .string(action)]))
    }

    private mutating func readStep(_ step: JSONValue) {
        // The first step's prompt has the task in it.
        if draftCount == 0 {
            for item in (step["query"] ?? step["messages"])?.array ?? [] {
                if let role = item["role"]?.string { _ = readHistory(item, role) }  // what is wrong there is no fault of the step
            }
        } else if step["query"] != nil || step["messages"] != nil {
            leave("query of a step (what was said before)")
        }
        let (thought, action) = (step["thought"]?.string ?? "", step["action"]?.string ?? "")
        let said = thought.isEmpty && action.isEmpty ? step["response"]?.string ?? "" : thought
        if !said.isEmpty { say("agent.message", [.text(said)]) }
        guard !action.isEmpty else { return }
        act(action)
        result(of: useCount - 1, blocks(step["observation"]), isError: false)
        openAction = nil
    }
}
