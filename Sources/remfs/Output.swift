import Foundation
import Glibc
import Storage
import struct Synchronization.Atomic

/// Where commands write: data to stdout, talk to stderr.
enum Output {
    /// Takes the places of streams that we were started without, so that no file of ours gets one and is written to. Writing stays an error.
    static func takePlaces() {
        for place in STDIN_FILENO...STDERR_FILENO where fcntl(place, F_GETFD) < 0 {
            _ = unsafe open("/dev/null", place == STDIN_FILENO ? O_WRONLY : O_RDONLY)
        }
    }

    /// A line of data.
    static func line(_ text: String) throws(RemfsError) { try bytes(Data((text + "\n").utf8)) }

    static func bytes(_ data: Data) throws(RemfsError) {
        var rest = data
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count >= 0 {
                rest = rest.dropFirst(count)
                continue
            }
            switch errno {
            case EINTR: break
            case EAGAIN:
                // Whoever shares it has made it non-blocking.
                var space = pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0)
                _ = unsafe poll(&space, 1, -1)
            case EPIPE:
                cutOff.store(true, ordering: .relaxed)
                throw RemfsError(.unavailable, "nobody reads stdout any more")
            default: throw RemfsError.ofSystem("stdout cannot be written")
            }
        }
    }

    /// Whether the reader of stdout has gone, as `head` does when it has its lines: no failure, and nothing to say.
    static var isCutOff: Bool { cutOff.load(ordering: .relaxed) }
    private static let cutOff = Atomic<Bool>(false)

    /// One document, keys sorted.
    static func json(_ value: some Encodable) throws(RemfsError) {
        try document(value, [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    }

    /// One document on one line, for output that goes on.
    static func jsonLine(_ value: some Encodable) throws(RemfsError) { try document(value, [.sortedKeys, .withoutEscapingSlashes]) }

    private static func document(_ value: some Encodable, _ formatting: JSONEncoder.OutputFormatting) throws(RemfsError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = formatting
        let data: Data
        do {
            data = try encoder.encode(value)
        } catch {
            throw RemfsError(.internal, "the answer makes no JSON", cause: String(describing: error))
        }
        try bytes(data + Data("\n".utf8))
    }

    /// Rows under a header, in columns of equal width; nothing at all when there are no rows.
    static func table(_ header: [String], _ rows: [[String]]) throws(RemfsError) {
        guard !rows.isEmpty else { return }
        let lines = [header] + rows.map { $0.map(printable) }
        let widths = header.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
        for cells in lines {
            let padded = cells.enumerated().map { column, cell in
                column == cells.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }
            try line(padded.joined(separator: "  "))
        }
    }

    /// A name as a terminal may see it: control characters, which a mount's names cannot hold but a store's description or a command's name
    /// may, are escaped.
    static func printable(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { $0.properties.generalCategory == .control }) else { return text }
        var shown = ""
        for scalar in text.unicodeScalars {
            if scalar.properties.generalCategory == .control {
                shown += scalar.escaped(asASCII: true)
            } else {
                shown.unicodeScalars.append(scalar)
            }
        }
        return shown
    }

    /// `remfs: not_found: store "x"`
    static func complain(_ error: RemfsError) { talk("\(error.code.rawValue): \(error.message)") }

    /// A line on stderr, which nothing is to be done about if it cannot be written.
    static func talk(_ text: String) {
        let line = Array("remfs: \(text)\n".utf8)
        _ = unsafe line.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
