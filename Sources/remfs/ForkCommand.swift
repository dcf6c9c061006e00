import ArgumentParser
import Control

struct ForkStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fork", abstract: "Make a new store that is what another one is or was, and print its ID",
        discussion: """
            Each memory of the new store begins with one version, under an ID of its own; what becomes of either store does not \
            concern the other. --history takes all versions along, and who made them.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: "The new store's name") var name: String
    @Option(help: "What the new store is for; without, the same") var description: String?
    @Option(help: ArgumentHelp("As of this time (RFC 3339) or version", valueName: "time|version")) var at: String?
    @Flag(help: "Take the history along") var history = false
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable {
        let name: String
        let description: String?
        let at: String?
        let history: Bool
    }

    func validate() throws {
        if history, at != nil { throw ValidationError("--history goes along only with what is now: leave out --at.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let fork: Wire.Store = try await client.call(
            .post, "/v1/memory_stores/\(id)/fork", body: Request(name: name, description: description, at: at, history: history))
        if daemon.json { try Output.json(fork) } else { try Output.line(fork.id) }
    }
}
