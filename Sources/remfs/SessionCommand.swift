import ArgumentParser
import Control
import Foundation
import Glibc
import Storage

struct SessionCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session", abstract: "Create, list and end sessions, read and import their transcripts",
        subcommands: [
            CreateSession.self, RunSession.self, ListSessions.self, ShowSession.self, SetSession.self, SessionPath.self, SessionPrompt.self,
            ArchiveSession.self, DeleteSession.self, SessionEvents.self, RedactEvents.self, ImportTranscripts.self, WatchTranscripts.self,
        ])
}

let sessionHelp = ArgumentHelp("A session's ID", valueName: "session")

/// A store on the command line: `NAME`, `NAME:ro` or `NAME:rw`.
struct StoreChoice: ExpressibleByArgument {
    let store: String
    let access: Access

    init?(argument: String) {
        let isReadOnly = argument.hasSuffix(":ro")
        access = isReadOnly ? .readOnly : .readWrite
        store = isReadOnly || argument.hasSuffix(":rw") ? String(argument.dropLast(3)) : argument
        if store.isEmpty { return nil }
    }
}

/// What a session is made of, on the command line.
struct SessionOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A store that the agent has, read-only with :ro; may be repeated", valueName: "store[:ro]"))
    var store: [StoreChoice] = []
    @Option(help: "Anything that names the agent") var agent = "agent"
    @Option(help: "Anything that names where it runs") var environment = "local"
    @Option var title: String?
    @Option(help: ArgumentHelp("A pair of metadata; may be repeated", valueName: "key=value")) var metadata: [Pair] = []
    @Option(help: "trusted or untrusted: what the session's versions carry") var trust: String?
    @Flag(help: "Let programs run from the stores") var exec = false
    @OptionGroup var view: ViewOptions

    private struct Request: Encodable {
        struct Resource: Encodable {
            let type = "memory_store"
            let memoryStoreID: String
            let access: Access
            let remfs: ViewOptions.Request

            private enum CodingKeys: String, CodingKey {
                case type, access, remfs
                case memoryStoreID = "memory_store_id"
            }
        }

        let agent: String
        let environmentID: String
        let title: String?
        let metadata: Wire.Metadata
        let resources: [Resource]
        let remfs: [String: String]?

        private enum CodingKeys: String, CodingKey {
            case agent, title, metadata, resources, remfs
            case environmentID = "environment_id"
        }
    }

    /// Who was named to own what is in the stores.
    var user: (uid: UInt32, gid: UInt32)? { view.uid.map { ($0, view.gid ?? $0) } }

    /// - Parameter agent: as whom the agent runs: what is stored as root's it could not write to. nil: as root.
    func create(with client: ControlClient, for agent: (uid: UInt32, gid: UInt32)? = nil) async throws -> Wire.Session {
        var view = view.request(exec: exec)
        if let agent = agent ?? (geteuid() == 0 ? nil : (geteuid(), getegid())) {
            view.uid = view.uid ?? agent.uid
            view.gid = view.gid ?? agent.gid
        }
        var resources: [Request.Resource] = []
        for choice in store {
            resources.append(.init(memoryStoreID: try await client.store(choice.store).id, access: choice.access, remfs: view))
        }
        return try await client.call(
            .post, "/v1/sessions",
            body: Request(
                agent: self.agent, environmentID: environment, title: title, metadata: Pair.metadata(metadata), resources: resources,
                remfs: trust.map { ["trust": $0] }))
    }
}

private struct CreateSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Create a session, mount its stores, print its ID")

    @OptionGroup var session: SessionOptions
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let session = try await session.create(with: daemon.client())
        if daemon.json { try Output.json(session) } else { try Output.line(session.id) }
    }
}

private struct ListSessions: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List sessions, newest first", aliases: ["ls"])

    @Flag(help: "Show archived sessions too") var archived = false
    @Option(help: ArgumentHelp("Only sessions that have this store", valueName: "store")) var store: String?
    @Option(name: [.customShort("n"), .long], help: "How many sessions at most") var limit = 50
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        var id: String?
        if let store { id = try await client.store(store).id }
        let sessions: [Wire.Session] = try await client.all(
            "/v1/sessions", query: [("include_archived", archived ? "true" : nil), ("memory_store_id", id)], limit: limit)
        if daemon.json { return try Output.json(Wire.Page(data: sessions, nextPage: nil)) }
        try Output.table(
            ["ID", "CREATED", "STATUS", "STORES", "TITLE"],
            sessions.map { session in
                [
                    session.id, shortTime(session.createdAt), session.status,
                    session.resources.map { Output.printable($0.name) }.joined(separator: ","), session.title ?? "",
                ]
            })
    }
}

private struct ShowSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show a session and its stores")

    @Argument(help: sessionHelp) var session: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let session: Wire.Session = try await daemon.client().call(.get, sessionPath(session))
        if daemon.json { return try Output.json(session) }
        var lines = [
            ("id", session.id), ("status", session.status), ("title", session.title ?? ""), ("agent", session.agent.id),
            ("environment", session.environmentID), ("created", session.createdAt), ("updated", session.updatedAt),
            ("archived", session.archivedAt ?? "no"),
        ]
        lines += session.metadata.sorted.map { ("metadata \($0.key)", $0.value ?? "") }
        lines += session.resources.map { (("store"), "\($0.mountPath)  \($0.access.rawValue)  \($0.memoryStoreID)  \($0.name)") }
        let width = lines.map(\.0.count).max() ?? 0
        for (name, value) in lines {
            try Output.line(Output.printable(name) + String(repeating: " ", count: width - name.count + 2) + Output.printable(value))
        }
    }
}

private struct SetSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change how a session may use one of its stores, at once",
        discussion: "remfs session set SESSION notes:ro makes a live mount read-only, root included; notes:rw takes it back.")

    @Argument(help: sessionHelp) var session: String
    @Argument(help: ArgumentHelp("A store that the session has, with :ro or :rw", valueName: "store:ro|rw")) var store: StoreChoice
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store.store).id
        let resource: Wire.Resource = try await client.call(
            .post, "\(sessionPath(session))/resources/\(id)", body: ["access": store.access.rawValue])
        if daemon.json { try Output.json(resource) }
    }
}

private struct SessionPath: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "path", abstract: "Print the directory that holds a session's stores, mounted",
        discussion: "Bind it to /mnt/memory in the agent's container: docker run -v $(remfs session path SESSION):/mnt/memory:rslave")

    @Argument(help: sessionHelp) var session: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let mounts: Wire.SessionMounts = try await daemon.client().call(.post, "\(sessionPath(session))/mounts", body: [String: String]())
        if daemon.json { try Output.json(mounts) } else { try Output.line(mounts.directory) }
    }
}

private struct SessionPrompt: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prompt", abstract: "Print what an agent has to be told of its stores, for its system prompt")

    struct Answer: Encodable { let prompt: String }

    @Argument(help: sessionHelp) var session: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let text = String(decoding: try await daemon.client().bytes(.get, "\(sessionPath(session))/prompt"), as: UTF8.self)
        // As it is: names and instructions are the owner's own words, and a prompt has several lines.
        if daemon.json { try Output.json(Answer(prompt: text)) } else { try Output.bytes(Data(text.utf8)) }
    }
}

private struct ArchiveSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "archive", abstract: "End a session and keep its transcript")

    @Argument(help: sessionHelp) var session: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let archived: Wire.Session = try await daemon.client().call(.post, "\(sessionPath(session))/archive")
        if daemon.json { try Output.json(archived) }
    }
}

private struct DeleteSession: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete a session with its transcript; its stores stay", aliases: ["rm"])

    @Argument(help: sessionHelp) var session: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let deleted: Wire.Deleted = try await daemon.client().call(.delete, sessionPath(session))
        if daemon.json { try Output.json(deleted) }
    }
}

private struct SessionEvents: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "events", abstract: "List a session's events, oldest first")

    @Argument(help: sessionHelp) var session: String
    @Option(help: ArgumentHelp("Only events of this type", valueName: "type")) var type: String?
    @Option(name: [.customShort("n"), .long], help: "How many events at most") var limit = 1_000
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    func run() async throws {
        let events: [Wire.Event] = try await daemon.client()
            .all("\(sessionPath(session))/events", query: [("types[]", type)], limit: limit)
        if daemon.json { return try Output.json(Wire.Page(data: events, nextPage: nil)) }
        try Output.table(["TIME", "TYPE", "WHAT"], events.map { Self.row($0) })
    }

    private static func row(_ event: Wire.Event) -> [String] {
        guard case .object(let fields) = event else { return ["", "", event.text] }
        return [shortTime(text(fields["processed_at"])), text(fields["type"]), String(summary(fields).prefix(100))]
    }

    /// The text that an event has, or the tool that it uses.
    private static func summary(_ fields: [ExactString: JSONValue]) -> String {
        if case .array(let blocks)? = fields["content"] {
            let texts = blocks.map { block in
                guard case .object(let part) = block else { return "" }
                return part["text"].map { text($0) } ?? "[\(text(part["type"]))]"
            }
            return texts.joined(separator: " ").split(whereSeparator: \.isNewline).joined(separator: " ")
        }
        return [text(fields["name"]), fields["input"]?.text ?? ""].filter { !$0.isEmpty }.joined(separator: " ")
    }

    private static func text(_ value: JSONValue?) -> String {
        if case .string(let text)? = value { text } else { "" }
    }
}

/// Whatever was typed is one segment of the path.
func sessionPath(_ session: String) throws(RemfsError) -> String {
    guard let id = SessionID(session) else { throw RemfsError(.notFound, "session \(session) not found") }
    return "/v1/sessions/\(id)"
}
