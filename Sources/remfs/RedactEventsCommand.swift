import ArgumentParser
import Control
import Storage

/// `remfs session redact`
struct RedactEvents: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "redact", abstract: "Remove what events say for good, and print the events' IDs",
        discussion: """
            What was said, done or answered goes; that it was, when, of which type and with which tool stays. It returns when no trace of \
            the bytes is left in the catalog's files. Copies that an upgrade kept beside the catalog, and your backups, are not reached.
            """)

    @Argument(help: sessionHelp) var session: String
    @Argument(help: "Events, as `remfs session events --json` lists them") var events: [String]
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        var redacted: [Wire.Event] = []
        for event in events {
            // Whatever was typed is one segment of the path.
            guard let id = EventID(event) else { throw RemfsError(.notFound, "event \(event) not found") }
            redacted.append(try await client.call(.post, "\(try sessionPath(session))/events/\(id)/redact"))
            if !daemon.json { try Output.line(event) }
        }
        if daemon.json { try Output.json(Wire.Page(data: redacted, nextPage: nil)) }
    }
}
