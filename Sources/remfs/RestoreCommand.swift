import ArgumentParser
import Control
import Storage

struct RestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Go back to an old version of a memory, or make a store what it was",
        discussion: """
            With a version: that version is the newest one again, and the new version's ID is printed. With --to: the store, or with --path \
            or --prefix a part of it, becomes what it was at a time or version, all of it or nothing, and what changed is printed. Nothing is \
            lost: what is there now stays in the history. Deleted memories come back under their IDs.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: "The version to go back to") var version: String?
    @Option(help: ArgumentHelp("The time (RFC 3339) or version that the store is to be as of", valueName: "time|version")) var to: String?
    @Option(help: ArgumentHelp("Only what is or was below this directory", valueName: "path")) var prefix: String?
    @Option(help: "Only what is or was at this path") var path: String?
    @Flag(help: "Only say what would change") var dryRun = false
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable {
        let to: String
        let pathPrefix: String?
        let path: String?
        let dryRun: Bool

        private enum CodingKeys: String, CodingKey {
            case to, path
            case pathPrefix = "path_prefix"
            case dryRun = "dry_run"
        }
    }

    func validate() throws {
        if (version == nil) == (to == nil) { throw ValidationError("Name either a version or, with --to, a time.") }
        if version != nil, prefix != nil || path != nil || dryRun { throw ValidationError("--prefix, --path and --dry-run go with --to.") }
        if prefix != nil, path != nil { throw ValidationError("--prefix and --path exclude each other.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)"
        if let version {
            let memory: Wire.Memory = try await client.call(.post, "\(route)/memory_versions/\(version)/restore")
            if daemon.json { try Output.json(memory) } else { try Output.line(memory.memoryVersionID) }
            return
        }
        let directory = prefix.map(memoryPath).map { $0.hasSuffix("/") ? $0 : $0 + "/" }
        let result: Wire.Restore = try await client.call(
            .post, "\(route)/restore",
            body: Request(to: to ?? "", pathPrefix: directory, path: path.map(memoryPath), dryRun: dryRun))
        if daemon.json { return try Output.json(result) }
        try Output.table(
            ["WHAT", "PATH", "FROM", "TO"],
            result.data.map {
                [
                    $0.change,
                    $0.old.map(\.path) == $0.new.map(\.path)
                        ? $0.path : [$0.old?.path, $0.new?.path].compactMap { $0 }.joined(separator: " -> "),
                    $0.old?.memoryVersionID ?? "-", $0.new?.memoryVersionID ?? "-",
                ]
            })
        if result.omitted > 0 { Output.talk("and \(result.omitted) more") }
    }
}
