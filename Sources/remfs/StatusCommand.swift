import ArgumentParser
import Control
import Storage

struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "status", abstract: "Show the daemon and its mounts")

    @OptionGroup var daemon: DaemonOptions

    struct Report: Encodable {
        let status: Wire.Status
        let mounts: [Wire.Mount]

        private enum CodingKeys: String, CodingKey { case mounted }

        func encode(to encoder: any Encoder) throws {
            try status.encode(to: encoder)
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(mounts, forKey: .mounted)
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        let status: Wire.Status = try await client.call(.get, "/v1/status")
        let mounts: [Wire.Mount] = try await client.call(.get, "/v1/mounts", as: Wire.Page<Wire.Mount>.self).data
        if daemon.json { return try Output.json(Report(status: status, mounts: mounts)) }
        try Output.line("remfs \(status.version), pid \(status.pid), since \(status.startedAt)")
        try Output.line("state in \(status.stateDirectory): \(status.stores) stores, \(status.openStores) open")
        try Output.table(
            ["MOUNT", "STORE", "ACCESS", "STATE", "DIRECTORY"],
            mounts.map { [$0.id, $0.memoryStoreID, $0.access.rawValue, $0.state, $0.directory] })
    }
}
