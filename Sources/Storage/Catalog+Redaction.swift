import Glibc
import SQLite
import Threads

/// Redaction of transcripts: an event's row stays, what it says goes, out of the catalog's file, its journal and its copy as well.
extension Catalog {
    /// Blanks what an event says and returns once no trace of it is left in the catalog's files. One that is redacted already is answered as
    /// it is. Archived sessions allow it. Sessions wait while the file is written anew: about a second for each 100 MB.
    ///
    /// - Parameters:
    ///   - mark: fields that say when and by whom; among them `redacted_at`.
    ///   - patience: ns; for those who read from the journal.
    /// - Throws: `notFound`; `invalidArgument` for what nobody said; `unavailable` where the event is blank and its bytes are not gone yet,
    ///   since somebody reads from the journal or there is no room to write the file anew: it is gone on with, and so does the same call.
    package func redactEvent(
        _ id: EventID, of session: SessionID, patience: Int64 = MemoryStore.patienceWithReaders,
        mark: (Timestamp) -> [ExactString: JSONValue]
    ) throws(RemfsError) -> SessionEvent {
        try copying.withLock { _ throws(RemfsError) in
            let found = try event(id, of: session)
            let blank = try found.blanked(mark(now()))
            if let blank {
                // Before anything else: from here on a start knows that there is something to clean away.
                try setRedactionMark()
                try transaction { (connection) throws(RemfsError) in
                    try Self.sql { () throws(SQLiteError) in
                        let row = try connection.prepare("UPDATE event SET body = ?2 WHERE sequence = ?1")
                        row.bind(found.sequence, at: 1)
                        row.bind(blank.body, at: 2)
                        try row.run()
                    }
                }
            }
            do throws(RemfsError) {
                try finishRedactions(patience: patience)
            } catch {
                throw RemfsError(
                    .unavailable, "event \(id) is redacted, but its bytes are not gone yet: \(error.message). Ask again", cause: error.cause
                )
            }
            return blank ?? found
        }
    }

    private func event(_ id: EventID, of session: SessionID) throws(RemfsError) -> SessionEvent {
        let found = try read { (connection) throws(RemfsError) in
            let number = try Self.session(session, connection).sequence
            return try Self.sql { () throws(SQLiteError) -> SessionEvent? in
                let row = try connection.prepare("SELECT sequence, type, processed, body FROM event WHERE id = ?1 AND session = ?2")
                defer { row.reset() }
                row.bind(id.description, at: 1)
                row.bind(number, at: 2)
                guard try row.step() else { return nil }
                return SessionEvent(
                    id: id, sequence: row.integer(0), type: row.text(1) ?? "", processed: Timestamp(microseconds: row.integer(2)),
                    body: row.text(3) ?? "")
            }
        }
        guard let found else { throw RemfsError(.notFound, "event \(id) not found") }
        return found
    }

    // MARK: The files

    /// There from before an event is blanked until the last trace of it is gone.
    private var redactionMark: String { path + ".redaction" }

    private func setRedactionMark() throws(RemfsError) {
        let mark = unsafe open(redactionMark, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard mark >= 0 else { throw RemfsError.ofSystem("cannot make \(redactionMark)") }
        Glibc.close(mark)
        try StorePool.synchronizeDirectory(directory)
    }

    /// Cleans the files of what redactions left in free space, if one has not come to its end: writes all tables anew, empties the journal,
    /// makes the copy anew. With the lock `copying` held.
    func finishRedactions(patience: Int64) throws(RemfsError) {
        guard unsafe access(redactionMark, F_OK) == 0 else { return }
        try with { (connection) throws(SQLiteError) in try connection.execute("VACUUM") }
        let deadline = StoreState.monotonic() + patience
        while try with({ (connection) throws(SQLiteError) in try connection.checkpoint(.truncate).frames != 0 }) {
            guard StoreState.monotonic() < deadline else { throw RemfsError(.busy, "somebody still reads from the journal of the catalog") }
            usleep(10_000)
        }
        try makeCopy()
        try removeCopiesOfUpgrades()
        guard unsafe unlink(redactionMark) == 0 else { throw RemfsError.ofSystem("cannot remove \(redactionMark)") }
    }

    /// What was kept of the file from before its schema was upgraded may hold the same bytes.
    private func removeCopiesOfUpgrades() throws(RemfsError) {
        let prefix = path.dropFirst(directory.count + 1) + ".schema-"
        for name in try StorePool.names(in: directory) where name.hasPrefix(prefix) {
            let copy = "\(directory)/\(name)"
            guard unsafe unlink(copy) == 0 || errno == ENOENT else { throw RemfsError.ofSystem("cannot remove \(copy)") }
        }
    }
}

extension SessionEvent {
    /// What stays of an event's fields: what it refers to and how it ended. Nothing that anybody said.
    private static let kept: Set<ExactString> = [
        "tool_use_id", "mcp_tool_use_id", "custom_tool_use_id", "session_thread_id", "name", "mcp_server_name", "is_error", "result",
        "evaluated_permission", "to_session_thread_id", "to_agent_name", "from_session_thread_id", "from_agent_name",
        "remfs",
    ]

    /// The same without what it says, in a shape that clients read; nil: it is redacted already.
    func blanked(_ mark: [ExactString: JSONValue]) throws(RemfsError) -> SessionEvent? {
        guard ["user", "agent", "system"].contains(type.split(separator: ".").first) else {
            throw RemfsError(.invalidArgument, "event \(id) is of type \(type): only what somebody said is redacted")
        }
        guard case .object(let fields) = try JSONValue(parsing: body.utf8) else {
            throw RemfsError(.corrupted, "the catalog has an event \(id) whose body is no object")
        }
        guard fields["redacted_at"] == nil else { return nil }
        var left = fields.filter { Self.kept.contains($0.key) }
        if fields["content"] != nil {
            // Messages have a block that says so; elsewhere none may stand that clients do not know.
            let isMessage = type.hasPrefix("agent.thread_message") || ["user.message", "agent.message"].contains(type)
            left["content"] = .array(isMessage ? [.object(["type": .string("redacted")])] : [])
        }
        if fields["input"] != nil { left["input"] = .object([:]) }
        return SessionEvent(
            id: id, sequence: sequence, type: type, processed: processed, body: JSONValue.object(left.merging(mark) { $1 }).text)
    }
}
