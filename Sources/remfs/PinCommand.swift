import ArgumentParser
import Control
import Storage

struct PinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pin", abstract: "Keep a version whatever the store's retention says")

    @Argument(help: storeHelp) var store: String
    @Argument(help: "The version to keep") var version: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws { try await daemon.setPin(of: version, in: store, "pin") }
}

struct UnpinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "unpin", abstract: "Leave a version to the store's retention again")

    @Argument(help: storeHelp) var store: String
    @Argument(help: "The version that was pinned") var version: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws { try await daemon.setPin(of: version, in: store, "unpin") }
}

extension DaemonOptions {
    fileprivate func setPin(of version: String, in store: String, _ verb: String) async throws {
        let client = try await client()
        let answer: Wire.Version = try await client.call(
            .post, "/v1/memory_stores/\(try await client.store(store).id)/memory_versions/\(version)/\(verb)")
        if json { try Output.json(answer) }
    }
}
