import ArgumentParser
import Control
import Foundation
import Storage

struct WatchStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Print what happens in a store as it happens, refused changes too, until interrupted")

    @Argument(help: storeHelp) var store: String
    @Option(help: ArgumentHelp("Begin with what came after this version, or with all (start)", valueName: "version")) var after: String?
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/events/stream"
        let json = daemon.json
        // SIGINT ends it without an error: nothing is lost by it.
        _ = try await untilInterrupted { [after] in
            var events = ServerSentEvents()
            try await client.stream(.get, route, query: [("after", after)]) { (piece) throws(RemfsError) in
                for event in events.take(piece) { try Self.show(event, json: json) }
            }
            throw RemfsError(.unavailable, "the daemon ended the stream")
        }
    }

    private static func show(_ event: (name: String, data: Data), json: Bool) throws(RemfsError) {
        do {
            switch event.name {
            case "ping": return
            case "error":
                let failure = try JSONDecoder().decode(Wire.Failure.self, from: event.data)
                throw RemfsError(.unavailable, failure.error.message)
            case _ where json: try Output.bytes(event.data + Data("\n".utf8))
            case "memory.refused":
                let refusal = try JSONDecoder().decode(Wire.Refusal.self, from: event.data)
                try Output.line("\(refusal.createdAt)  refused  \(refusal.code)  \(Output.printable(refusal.message))")
            default:
                let change = try JSONDecoder().decode(Wire.Change.self, from: event.data)
                let what = change.type.split(separator: ".").last.map(String.init) ?? change.type
                let version = change.version
                try Output.line(
                    [version.createdAt, what, version.id, version.by, Output.printable(version.path ?? "-")].joined(separator: "  "))
            }
        } catch let error as RemfsError {
            throw error
        } catch {
            throw RemfsError(.internal, "an event of the daemon's is not understood", cause: String(describing: error))
        }
    }
}

/// Puts events together from the pieces in which a stream of them arrives.
struct ServerSentEvents {
    private var rest = Data()

    /// The events that are whole with this piece.
    mutating func take(_ piece: Data) -> [(name: String, data: Data)] {
        rest.append(piece)
        var events: [(String, Data)] = []
        while let end = rest.range(of: Data("\n\n".utf8)) {
            let block = rest[rest.startIndex..<end.lowerBound]
            rest = Data(rest[end.upperBound...])
            var name = ""
            var data = Data()
            for line in block.split(separator: UInt8(ascii: "\n")) {
                if line.starts(with: "event: ".utf8) { name = String(decoding: line.dropFirst(7), as: UTF8.self) }
                if line.starts(with: "data: ".utf8) { data += line.dropFirst(6) }
            }
            events.append((name, data))
        }
        return events
    }
}
