import ArgumentParser
import Control
import Foundation
import Storage

struct DiffCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Show what changed in a memory or a store, as a unified diff",
        discussion: """
            With a path and no versions: what the memory's last change did. With one version: from then to now. With two: from one to the \
            other. --from and --to take times (RFC 3339) as well, and without a path they compare the whole store; --with compares it \
            with another one, memory by memory as their paths say.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String?
    @Argument(help: "A version to compare from") var old: String?
    @Argument(help: "A version to compare to") var new: String?
    @Option(help: ArgumentHelp("What to compare from", valueName: "time|version")) var from: String?
    @Option(help: ArgumentHelp("What to compare to; without, what is now", valueName: "time|version")) var to: String?
    @Option(help: ArgumentHelp("Only below this directory", valueName: "path")) var prefix: String?
    @Option(help: ArgumentHelp("Another store, to which the comparison goes", valueName: "store")) var with: String?
    @Flag(help: "Say only which memories differ") var names = false
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if old != nil && from != nil || new != nil && to != nil { throw ValidationError("A version is named twice.") }
        if path != nil && prefix != nil { throw ValidationError("A path and --prefix exclude each other.") }
        if path == nil && from == nil && with == nil { throw ValidationError("Name a path, or what to compare with: --from or --with.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/diff"
        var query: [(String, String?)] = [("from", old ?? from), ("to", new ?? to), ("path", path.map(memoryPath))]
        if let prefix = prefix.map(memoryPath) { query.append(("path_prefix", prefix.hasSuffix("/") ? prefix : prefix + "/")) }
        if let with { query.append(("other", try await client.store(with).id)) }
        guard daemon.json || names else {
            return try await client.stream(.get, route, query: query + [("format", "unified")]) { (piece) throws(RemfsError) in
                try Output.bytes(piece)
            }
        }
        let found: [Wire.Difference] = try await client.all(route, query: query + [("view", names ? nil : "full")])
        if daemon.json { return try Output.json(Wire.Page(data: found, nextPage: nil)) }
        try Output.table(
            ["WHAT", "PATH"], found.map { [$0.change, $0.change == "renamed" ? "\($0.old?.path ?? "") -> \($0.path)" : $0.path] })
    }
}
