import ArgumentParser
import Control
import Storage

struct RestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Make an old version the newest one again, and print the new version's ID",
        discussion: "Nothing is lost: what the memory is now stays in its history. A deleted memory comes back under its ID.")

    @Argument(help: storeHelp) var store: String
    @Argument(help: "The version to go back to") var version: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let memory: Wire.Memory = try await client.call(
            .post, "/v1/memory_stores/\(try await client.store(store).id)/memory_versions/\(version)/restore")
        if daemon.json { try Output.json(memory) } else { try Output.line(memory.memoryVersionID) }
    }
}
