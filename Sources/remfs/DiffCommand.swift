import ArgumentParser
import Control
import Storage

struct DiffCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Show what changed in a memory, as a unified diff",
        discussion:
            "Without versions: what its last change did. With one: that version against the memory as it is. With two: one against the other."
    )

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @Argument(help: "A version to compare from") var old: String?
    @Argument(help: "A version to compare to") var new: String?
    @OptionGroup var daemon: DaemonOptions

    struct Report: Encodable {
        let type = "memory_diff"
        let path: String
        let oldVersionID: String?
        let newVersionID: String
        let diff: String

        private enum CodingKeys: String, CodingKey {
            case type, path, diff
            case oldVersionID = "old_version_id"
            case newVersionID = "new_version_id"
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let route = "/v1/memory_stores/\(id)/memory_versions"
        let path = memoryPath(path)
        func version(_ text: String) async throws(RemfsError) -> Wire.Version { try await client.call(.get, "\(route)/\(text)") }

        let newer: Wire.Version
        let older: Wire.Version?
        if let new {
            newer = try await version(new)
            older = try await version(old ?? new)
        } else {
            let memory = try await client.existingMemory(at: path, in: id)
            newer = try await version(memory.memoryVersionID)
            if let old {
                older = try await version(old)
            } else {
                let last: [Wire.Version] = try await client.all(route, query: [("memory_id", memory.id)], limit: 2)
                older = last.count == 2 ? try await version(last[1].id) : nil
            }
        }
        let text = try Self.unified(older, newer, path)
        if daemon.json { return try Output.json(Report(path: path, oldVersionID: older?.id, newVersionID: newer.id, diff: text)) }
        if !text.isEmpty { try Output.line(String(text.dropLast())) }
    }

    private static func unified(_ old: Wire.Version?, _ new: Wire.Version, _ path: String) throws(RemfsError) -> String {
        func bytes(_ version: Wire.Version?) throws(RemfsError) -> [UInt8] {
            // No content at all: there was no memory, or it was redacted. No text: bytes, or too many.
            guard let version, version.contentSHA256 != nil else { return [] }
            guard let content = version.content else {
                throw RemfsError(.invalidArgument, "version \(version.id) is not text, or over 1 MiB")
            }
            return Array(content.utf8)
        }
        func name(_ version: Wire.Version?) -> String {
            version.map { "\(Output.printable($0.path ?? path))\t\($0.createdAt)\t\($0.id)" } ?? "/dev/null"
        }
        return LineDiff.unified(try bytes(old), try bytes(new), oldName: name(old), newName: name(new))
    }
}
