import ArgumentParser
import Control
import Storage

struct RedactCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "redact", abstract: "Remove the bytes of old versions for good, and print the versions' IDs",
        discussion: """
            Each version's content, path and hash go; that it was, when and by whom stays. It returns when no trace of the bytes is left in \
            the store's files. Bytes that another version holds as well stay there: --derived redacts those too, also in stores that were \
            forked from this one. What a memory holds now is not redacted: write a new version or delete the memory first. What is known to \
            be left, such as backups and exports, is told on stderr.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: "Versions, as `remfs log` lists them") var versions: [String]
    @Flag(help: "Redact all versions with the same bytes, in stores made of this one as well") var derived = false
    @OptionGroup var daemon: DaemonOptions

    private struct Request: Encodable { let derived: Bool }

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/memory_versions"
        var redacted: [Wire.Redaction] = []
        for version in versions {
            let redaction: Wire.Redaction = try await client.call(.post, "\(route)/\(version)/redact", body: Request(derived: derived))
            redacted.append(redaction)
            guard !daemon.json else { continue }
            try Output.line(version)
            for other in redaction.derived { try Output.line(other.memoryVersionID) }
            for file in redaction.removed { Output.talk("removed \(file), which held it or may have") }
        }
        if daemon.json { return try Output.json(Wire.Page(data: redacted, nextPage: nil)) }
        // What a later one has redacted is not left.
        let gone = Set(versions + redacted.flatMap { $0.derived.map(\.memoryVersionID) })
        var told: Set<String> = []
        for remainder in redacted.flatMap(\.remaining) where !(remainder.memoryVersionID.map { gone.contains($0) } ?? false) {
            let line = remainder.line
            if told.insert(line).inserted { Output.talk("not redacted: \(line)") }
        }
        let unlisted = redacted.reduce(0) { $0 + $1.omitted + $1.hidden }
        if unlisted > 0 { Output.talk("not redacted: \(unlisted) more") }
    }
}

extension Wire.Remainder {
    fileprivate var line: String {
        let store = memoryStoreID ?? "-"
        switch kind {
        case "head": return "\(path ?? "-") of \(store) holds it now (\(memoryVersionID ?? "-"))"
        case "version": return "\(memoryVersionID ?? "-") of \(store), which was \(path ?? "-")"
        case "file": return file ?? "-"
        default: return "\(kind) of \(store), made at \(madeAt ?? "-") by \(madeBy.map { $0.actor.id } ?? "-")"
        }
    }
}
