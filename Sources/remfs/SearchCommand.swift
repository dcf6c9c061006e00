import ArgumentParser
import Control
import Glibc
import Storage

struct SearchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "search", abstract: "Find memories that hold words, the best first",
        discussion: """
            All words have to be there, in the memory or in its path, whatever their case and accents. \"A phrase\" in double quotes is found as \
            it stands, and a word with * at its end with any ending.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: "Words and \"phrases\"") var query: [String]
    @Option(help: ArgumentHelp("Only memories below this directory", valueName: "directory")) var under: String?
    @Option(name: [.customShort("n"), .long], help: "How many memories at most") var limit = 20
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit must be at least 1.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let prefix = under.map { memoryPath($0) }.map { $0.hasSuffix("/") ? $0 : $0 + "/" }
        let found: [Wire.SearchResult] = try await client.all(
            "/v1/memory_stores/\(try await client.store(store).id)/search",
            query: [("q", query.joined(separator: " ")), ("path_prefix", prefix)], limit: limit)
        if daemon.json { return try Output.json(Wire.Page(data: found, nextPage: nil)) }
        let isTerminal = isatty(STDOUT_FILENO) == 1
        for result in found {
            try Output.line(Output.printable(result.memory.path))
            for line in Self.lines(of: result, inColour: isTerminal) { try Output.line("    \(line)") }
        }
    }

    /// The snippet, without empty lines; what was found stands out on a terminal.
    private static func lines(of result: Wire.SearchResult, inColour: Bool) -> [String] {
        let begins = Set(result.highlights.compactMap(\.first))
        let ends = Set(result.highlights.compactMap(\.last))
        var lines: [String] = []
        var line = ""
        // A match may go over the end of a line.
        var isHighlighted = false
        func end() {
            if !line.allSatisfy(\.isWhitespace) { lines.append(isHighlighted ? line + "\u{1B}[0m" : line) }
            line = isHighlighted ? "\u{1B}[1m" : ""
        }
        for (place, scalar) in result.snippet.unicodeScalars.enumerated() {
            if inColour, ends.contains(place) {
                line += "\u{1B}[0m"
                isHighlighted = false
            }
            if inColour, begins.contains(place) {
                line += "\u{1B}[1m"
                isHighlighted = true
            }
            if scalar == "\n" { end() } else { line += Output.printable(String(scalar)) }
        }
        if isHighlighted {
            line += "\u{1B}[0m"
            isHighlighted = false
        }
        end()
        return lines
    }
}
