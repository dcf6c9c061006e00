import ArgumentParser
import Control
import Storage

struct RedactCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "redact", abstract: "Remove the bytes of old versions for good, and print the versions' IDs",
        discussion: """
            Each version's content, path and hash go; that it was, when and by whom stays. It returns when no trace of the bytes is left in \
            the store's files. Bytes that another version holds as well stay there: redact all of them. What a memory holds now is not \
            redacted: write a new version or delete the memory first. Backups, and the copies that an upgrade or a repair kept beside the \
            store's file, are not reached.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: "Versions, as `remfs log` lists them") var versions: [String]
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/memory_versions"
        var redacted: [Wire.Version] = []
        for version in versions {
            redacted.append(try await client.call(.post, "\(route)/\(version)/redact"))
            if !daemon.json { try Output.line(version) }
        }
        if daemon.json { try Output.json(Wire.Page(data: redacted, nextPage: nil)) }
    }
}
