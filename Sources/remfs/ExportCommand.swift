import ArgumentParser
import Control
import Foundation
import Glibc
import Storage

struct ExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write a store as a tar archive, or with its history as one SQLite file",
        discussion: """
            The archive holds the tree with times and modes: files, directories, links and FIFOs. `--at` gives the memories that there \
            were at a time. `remfs import` reads both.
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument { case tar, sqlite }

    @Argument(help: storeHelp) var store: String
    @Option(name: .shortAndLong, help: "Where to write, in place of stdout; must not exist", completion: .file()) var output: String?
    @Option(help: "tar, or sqlite for all of the history") var format = Format.tar
    @Option(help: ArgumentHelp("As of this time (RFC 3339) or version", valueName: "time|version")) var at: String?
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if output == nil, daemon.json { throw ValidationError("--json needs --output: stdout is the archive's.") }
        if output == nil, isatty(STDOUT_FILENO) == 1 { throw ValidationError("An archive is nothing for a terminal: use --output.") }
        if at != nil, format == .sqlite { throw ValidationError("A SQLite file holds all times: --at is for tar.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let file = try output.map { (output) throws(RemfsError) in try NewFile(Settings.absolute(output)) }
        try await client.stream(.get, "/v1/memory_stores/\(id)/export", query: [("format", format.rawValue), ("at", at)]) {
            (piece) throws(RemfsError) in
            if let file { try file.append(piece) } else { try Output.bytes(piece) }
        }
        guard let file else { return }
        try file.finish()
        if daemon.json { try Output.json(NewFile.Report(memoryStoreID: id, file: file.path, sizeInBytes: file.size)) }
    }
}

struct ImportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Make a store of a tar archive or of a store's SQLite file, and print its ID",
        discussion: """
            With --into the files of an archive go into a store that is there: those that are there already become new versions. Either all \
            of it is done or nothing. Compressed archives are to be decompressed first: zcat notes.tar.gz | remfs import - --name notes
            """)

    @Argument(help: "A file, or - for stdin", completion: .file()) var file: String
    @Option(help: "The new store's name") var name: String?
    @Option(help: "What the new store is for; agents read it") var description: String?
    @Option(help: ArgumentHelp("A store that is there, in place of a new one", valueName: "store")) var into: String?
    @Option(help: ArgumentHelp("A directory that everything goes into", valueName: "path")) var prefix: String?
    @Flag(help: "Take symbolic links that lead out of the store, too") var linksOut = false
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if (name == nil) == (into == nil) { throw ValidationError("Name either a new store (--name) or one that is there (--into).") }
        if into != nil, description != nil { throw ValidationError("--description is for a new store.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let source = try UploadedFile(file)
        var query: [(String, String?)] = [("name", name), ("description", description), ("links", linksOut ? "any" : nil)]
        if let into { query.append(("memory_store_id", try await client.store(into).id)) }
        if let prefix = prefix.map(memoryPath) { query.append(("path_prefix", prefix.hasSuffix("/") ? prefix : prefix + "/")) }
        let result: Wire.Import = try await client.upload("/v1/memory_stores/import", query: query) { () async throws(RemfsError) in
            try await source.next()
        }
        if daemon.json { try Output.json(result) } else { try Output.line(result.memoryStore.id) }
    }
}

/// A file or stdin, read a piece at a time by a thread that may block.
private final class UploadedFile: Sendable {
    private let descriptor: Int32
    private let name: String

    init(_ file: String) throws(RemfsError) {
        name = file == "-" ? "stdin" : file
        descriptor = file == "-" ? STDIN_FILENO : unsafe open(file, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("\(file) cannot be read") }
    }

    deinit { if descriptor != STDIN_FILENO { close(descriptor) } }

    /// nil at the end.
    func next() async throws(RemfsError) -> Data? {
        let result = await onThread("upload") { [self] () -> Result<Data?, RemfsError> in
            // 1 MiB: a thread costs little beside it.
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            while true {
                let count = unsafe read(descriptor, &bytes, bytes.count)
                if count < 0, errno == EINTR { continue }
                guard count >= 0 else { return .failure(RemfsError.ofSystem("\(name) cannot be read")) }
                return .success(count == 0 ? nil : Data(bytes[..<count]))
            }
        }
        return try result.get()
    }
}
