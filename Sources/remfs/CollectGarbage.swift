import ArgumentParser
import Control
import Storage

/// `remfs store gc`
struct CollectGarbage: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Give up versions that the policy does not keep, and make the store's file smaller",
        discussion: """
            Versions go that are older than the policy's retention (`remfs store set --retention-days`), but the newest ten of a memory that \
            is there and pinned ones stay. The daemon does the same once a day. Without a retention nothing goes, and free room in the file \
            is given back all the same.
            """)

    @Argument(help: storeHelp) var store: String
    @Flag(help: "Only say what would go") var dryRun = false
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable {
        let dryRun: Bool

        private enum CodingKeys: String, CodingKey { case dryRun = "dry_run" }
    }

    func run() async throws {
        let client = try await daemon.client()
        let result: Wire.GarbageCollection = try await client.call(
            .post, "/v1/memory_stores/\(try await client.store(store).id)/gc", body: Request(dryRun: dryRun))
        if daemon.json { return try Output.json(result) }
        let rule = result.retentionDays.map { "older than \($0) days" } ?? "none: they are kept for ever"
        try Output.line("versions \(dryRun ? "to give up" : "given up"): \(result.versions) (\(rule))")
        try Output.line("deleted memories \(dryRun ? "to forget" : "forgotten"): \(result.memories)")
        try Output.line("their content: \(result.contentBytes) bytes")
        try Output.line(
            "the store's file: \(result.fileBytesBefore) bytes" + (dryRun ? "" : " before, \(result.fileBytesAfter) bytes now"))
    }
}
