import Control
import Foundation
import Glibc
import Storage

/// A transcript on its way into a session: read, compared with what the session has of it already, and sent.
///
/// What is in a session stays, so the same file can be imported again, and a grown one adds what is new.
struct TranscriptImport {
    /// How it came out.
    struct Outcome: Encodable {
        let file: String?
        let sessionID: String
        let format: String?
        /// Events that are new, and those that were there.
        let added: Int
        let present: Int
        let faults: [String]
        /// What a transcript has and an event cannot, by kind.
        let leftOut: [String: Int]

        private enum CodingKeys: String, CodingKey {
            case file, format, added, present, faults
            case sessionID = "session_id"
            case leftOut = "left_out"
        }
    }

    /// What the caller wants.
    struct Choices: Sendable {
        /// The session to add to; nil: the transcript's own, which is made where there is none.
        var session: String?
        var resources: [JSONValue] = []
        var isLenient = false
    }

    private static let piece = 256 << 10

    private let client: ControlClient
    private let choices: Choices
    /// As messages name it.
    private let name: String
    private let path: String?

    private(set) var faults: [TranscriptFault] = []
    private var reader = TranscriptReader()
    private var requests = TranscriptRequests()
    private(set) var session: String?
    /// What the session had of it.
    private var present: [String] = []
    private var passed = 0
    private(set) var added = 0
    /// How much of the file the reader was given.
    private(set) var offset: Int64 = 0

    /// - Parameter path: absolute; nil: it comes from elsewhere, and only what it says itself tells it from others.
    init(_ client: ControlClient, _ choices: Choices, name: String, path: String?) {
        self.client = client
        self.choices = choices
        self.name = name
        self.path = path
    }

    // MARK: A whole file

    /// Imports a file from its start to its end. It is read twice: where something is wrong with it, nothing of it is sent.
    mutating func importAll(_ file: Int32) async throws(RemfsError) -> Outcome {
        var start = TranscriptReader()
        var checked = start
        while true {
            try Self.read(file, from: 0) { (piece) throws(RemfsError) in try check(checked.read(piece)) }
            try check(checked.finish())
            guard let again = checked.again else { break }
            (start, checked) = (again, again)
        }
        if !faults.isEmpty, !choices.isLenient || checked.draftCount == 0 { throw refusal }
        try await open(checked.source)
        guard present.count <= checked.draftCount else {
            throw RemfsError(
                .preconditionFailed,
                "session \(session ?? "") has \(present.count) events and \(name) \(checked.draftCount): it does not hold what the file held"
            )
        }
        reader = start
        var pieces = FilePieces(file, Self.piece)
        while let piece = try pieces.next() { try await take(reader.read(piece)) }
        try await take(reader.finish())
        try await flush()
        try await describe(checked.source)
        return outcome(checked)
    }

    private mutating func check(_ items: [TranscriptItem]) throws(RemfsError) {
        for case .fault(let fault) in items {
            faults.append(fault)
            if fault.isFatal { throw refusal }
        }
    }

    private var refusal: RemfsError {
        let shown = faults.prefix(10).map { "\(name): \($0)" }.joined(separator: "\n")
        let rest = faults.count > 10 ? "\nand \(faults.count - 10) more lines" : ""
        let advice = faults.contains(where: \.isFatal) ? "" : "\nNothing was imported; --lenient leaves such lines out"
        return RemfsError(.invalidArgument, shown + rest + advice)
    }

    private static func read(_ file: Int32, from start: Int64, _ body: (ArraySlice<UInt8>) throws(RemfsError) -> Void) throws(RemfsError) {
        var pieces = FilePieces(file, piece, from: start)
        while let piece = try pieces.next() { try body(piece) }
    }

    private func outcome(_ reader: TranscriptReader) -> Outcome {
        Outcome(
            file: path, sessionID: session ?? "", format: reader.source.format?.rawValue, added: added, present: present.count,
            faults: faults.map(\.description), leftOut: reader.leftOut)
    }

    // MARK: A file that grows

    /// Takes in what has come to a file of lines since the last time; a last line that has no end yet stays for the next one.
    ///
    /// - Returns: false where the file is a document, which its program writes as a whole each time: that is for `importAll`.
    mutating func follow(_ file: Int32) async throws(RemfsError) -> Bool {
        var pieces = FilePieces(file, Self.piece, from: offset)
        while let piece = try pieces.next() {
            offset += Int64(piece.count)
            let items = reader.read(piece)
            guard reader.isLines != false else { return false }
            for case .fault(let fault) in items {
                faults.append(fault)
                if !choices.isLenient || fault.isFatal { throw refusal }
                Output.talk("\(name): \(fault): left out")
            }
            if session == nil, items.contains(where: { if case .draft = $0 { true } else { false } }) { try await open(reader.source) }
            try await take(items)
        }
        try await flush()
        return true
    }

    // MARK: The session

    /// Finds the transcript's session, with what it has of it, or makes one.
    private mutating func open(_ source: TranscriptSource) async throws(RemfsError) {
        if let chosen = choices.session {
            session = try (await client.call(.get, sessionPath(chosen)) as Wire.Session).id
        } else if let found = try await find(source) {
            session = found.id
        } else {
            let made: Wire.Session = try await client.call(.post, "/v1/sessions", json: request(source).text)
            session = made.id
            return
        }
        try await look()
    }

    private func agent(_ source: TranscriptSource) -> String { source.format?.rawValue ?? "agent" }

    /// What tells this transcript from all others of its program: its own ID, or where it is.
    private func identity(_ source: TranscriptSource) -> [ExactString: String] {
        guard let id = source.session else {
            guard let path else { return [:] }
            return ["transcript_file": String(path.unicodeScalars.suffix(512).map(Character.init))]
        }
        var identity: [ExactString: String] = ["transcript_session": id]
        identity["transcript_agent"] = source.agent
        return identity.mapValues { String(String.UnicodeScalarView($0.unicodeScalars.prefix(512))) }
    }

    private func find(_ source: TranscriptSource) async throws(RemfsError) -> Wire.Session? {
        let identity = identity(source)
        guard !identity.isEmpty else { return nil }
        let sessions: [Wire.Session] = try await client.all(
            "/v1/sessions", query: [("agent_id", agent(source)), ("include_archived", "true")])
        return sessions.first { session in
            let keys: [ExactString] = ["transcript_session", "transcript_agent", "transcript_file"]
            return keys.allSatisfy { key in
                (session.metadata[key] ?? "").utf8.elementsEqual((identity[key] ?? "").utf8)
            }
        }
    }

    private func request(_ source: TranscriptSource) -> JSONValue {
        var agent: [ExactString: JSONValue] = ["type": .string("agent_with_overrides"), "id": .string(agent(source))]
        agent["system"] = source.system.map { .string($0) }
        agent["model"] = source.model.map { .string(String($0.prefix(64))) }
        var request: [ExactString: JSONValue] = [
            "agent": .object(agent), "environment_id": .string("transcript"),
            "metadata": .object(metadata(source).mapValues { .string($0) }), "resources": .array(choices.resources),
        ]
        request["title"] = source.title.map { .string($0) }
        return .object(request)
    }

    private func metadata(_ source: TranscriptSource) -> [ExactString: String] {
        source.metadata.merging(identity(source)) { _, identity in identity }
    }

    /// What a program writes at the end of its file, a title for one, comes to a session that was made from the beginning.
    private func describe(_ source: TranscriptSource) async throws(RemfsError) {
        guard choices.session == nil, let session, added > 0 else { return }
        var change: [ExactString: JSONValue] = ["metadata": .object(metadata(source).mapValues { .string($0) })]
        change["title"] = source.title.map { .string($0) }
        let _: Wire.Session = try await client.call(.post, "/v1/sessions/\(session)", json: JSONValue.object(change).text)
    }

    /// What the session has: the types of its events, and which of them are tool uses.
    private mutating func look() async throws(RemfsError) {
        guard let session else { return }
        var uses: [String] = []
        var next: String?
        repeat {
            let path = "/v1/sessions/\(session)/events"
            let bytes = try await client.bytes(.get, path, query: [("page", next)])
            guard case .object(let page) = try JSONValue(parsing: bytes), case .array(let events)? = page["data"] else {
                throw RemfsError(.internal, "the daemon's answer to \(path) is not understood")
            }
            for case .object(let event) in events {
                guard case .string(let type)? = event["type"], case .string(let id)? = event["id"] else { continue }
                guard ["user.", "agent.", "system."].contains(where: { type.hasPrefix($0) }) else { continue }
                present.append(type)
                if type == "agent.tool_use" { uses.append(id) }
            }
            if case .string(let cursor)? = page["next_page"] { next = cursor } else { next = nil }
        } while next != nil
        requests = TranscriptRequests(toolUses: uses)
    }

    // MARK: Sending

    private mutating func take(_ items: [TranscriptItem]) async throws(RemfsError) {
        for case .draft(let draft) in items {
            if passed < present.count {
                try compare(draft, with: present[passed])
                passed += 1
                continue
            }
            if let body = requests.add(draft) { try await send(body) }
        }
    }

    /// Somebody else may have written to the session: then it is not known what is new.
    private func compare(_ draft: TranscriptDraft, with type: String) throws(RemfsError) {
        // These two are sent as others where what they belong to is elsewhere (`TranscriptRequests`).
        guard draft.type != type, !["system.message", "agent.tool_result"].contains(draft.type) else { return }
        throw RemfsError(
            .preconditionFailed,
            "session \(session ?? "") does not hold what \(name) begins with: at line \(draft.line) is \(draft.type), and there \(type)")
    }

    private mutating func flush() async throws(RemfsError) {
        if let body = requests.take() { try await send(body) }
    }

    private mutating func send(_ body: String) async throws(RemfsError) {
        guard let session else { return }
        struct Sent: Decodable {
            struct Event: Decodable { let id: String }
            let data: [Event]
        }
        let sent: Sent = try await client.call(.post, "/v1/sessions/\(session)/events", json: body)
        requests.sent(sent.data.map(\.id))
        added += sent.data.count
    }
}

/// The bytes of a file, some at a time.
private struct FilePieces {
    private let file: Int32
    private var offset: Int64
    private var buffer: [UInt8]

    init(_ file: Int32, _ size: Int, from offset: Int64 = 0) {
        self.file = file
        self.offset = offset
        buffer = [UInt8](repeating: 0, count: size)
    }

    /// nil: there are no more.
    mutating func next() throws(RemfsError) -> ArraySlice<UInt8>? {
        let count = unsafe pread(file, &buffer, buffer.count, off_t(offset))
        guard count >= 0 else { throw RemfsError.ofSystem("a transcript cannot be read") }
        offset += Int64(count)
        return count == 0 ? nil : buffer[..<count]
    }
}
