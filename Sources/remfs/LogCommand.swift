import ArgumentParser
import Control
import Storage

struct LogCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log", abstract: "List versions, newest first: what became of a store or a memory, when, by whom",
        discussion: """
            With a path: the whole history of the memory that is there, under earlier paths too. Where there is none any more, the \
            versions of whatever was there.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String?
    @Flag(help: "Only writes over a version that their author never saw") var stale = false
    @Flag(name: .shortAndLong, help: "Go on with new versions as they come, oldest first, until interrupted") var follow = false
    @Option(name: [.customShort("n"), .long], help: "How many versions at most") var limit = 50
    @Option(help: "Only versions made by this session") var session: String?
    @Option(help: ArgumentHelp("Only versions from this time on (RFC 3339)", valueName: "time")) var since: String?
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let route = "/v1/memory_stores/\(id)/memory_versions"
        var query: [(String, String?)] = [("stale", stale ? "true" : nil), ("session_id", session), ("created_at[gte]", since)]
        if let path = path.map(memoryPath) {
            if let memory = try await client.memory(at: path, in: id) {
                query.append(("memory_id", memory.id))
            } else {
                query.append(("path", path))
            }
        }
        guard follow else {
            let versions: [Wire.Version] = try await client.all(route, query: query, limit: limit)
            if daemon.json { return try Output.json(Wire.Page(data: versions, nextPage: nil)) }
            return try Output.table(Self.header, versions.map(Self.row))
        }
        // Where to go on from is the newest version of all, shown or not.
        let newest: [Wire.Version] = try await client.all(route, limit: 1)
        // SIGINT ends it without an error: nothing is lost by it.
        _ = try await untilInterrupted { [query] in
            try await show(client, route, query, after: newest.first?.id ?? "start")
        }
    }

    private func show(_ client: ControlClient, _ route: String, _ query: [(String, String?)], after first: String) async throws {
        var after = first
        while !Task.isCancelled {
            let page: Wire.Page<Wire.Version> = try await client.call(
                .get, route, query: query + [("after", after), ("wait", "30"), ("limit", "100")])
            for version in page.data {
                if daemon.json { try Output.jsonLine(version) } else { try Output.line(Self.row(version).joined(separator: "  ")) }
                after = version.id
            }
        }
    }

    private static let header = ["TIME", "VERSION", "WHAT", "BY", "PATH"]

    private static func row(_ version: Wire.Version) -> [String] {
        let marks = [(version.stale, " stale"), (version.secrets?.isEmpty == false, " secret"), (version.redactedAt != nil, " redacted")]
        let what = version.operation + marks.filter(\.0).map(\.1).joined()
        return [version.createdAt, version.id, what, version.by, version.path ?? "-"]
    }
}

extension Wire.Version {
    /// Who made it, in one word if possible: the actor, and the process it acted through.
    var by: String {
        let name = createdBy?.actor.id ?? "-"
        let process = [writer.command.map(Output.printable), writer.pid.map { "pid \($0)" }, writer.uid.map { "uid \($0)" }]
            .compactMap { $0 }
        return process.isEmpty ? name : "\(name) (\(process.joined(separator: ", ")))"
    }
}
