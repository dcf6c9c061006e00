import ArgumentParser
import Control

struct MergeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge", abstract: "Merge the last stale write of a memory with what it overwrote, and print the new version's ID",
        discussion: "Exits with 1 where both sides changed the same lines: these stand in the memory between conflict markers.")

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable { let path: String }

    func run() async throws {
        let client = try await daemon.client()
        let merge: Wire.Merge = try await client.call(
            .post, "/v1/memory_stores/\(try await client.store(store).id)/merge", body: Request(path: memoryPath(path)))
        if daemon.json { try Output.json(merge) } else { try Output.line(merge.memory.memoryVersionID) }
        guard merge.conflicts == 0 else {
            Output.talk("\(merge.memory.path) has \(merge.conflicts) conflicts to resolve")
            throw ExitCode(1)
        }
    }
}
