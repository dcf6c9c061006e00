import ArgumentParser
import Control
import Foundation
import Glibc
import Storage

/// What importing once and following have in common.
struct TranscriptOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("A store that the sessions have, read-only with :ro; may be repeated", valueName: "store[:ro]"))
    var store: [StoreChoice] = []
    @Flag(help: "Leave out lines that cannot be read, and say which")
    var lenient = false

    /// Asks the daemon, also where no store is named: who may not send is to hear of it before anything is read.
    func choices(_ client: ControlClient, session: String? = nil) async throws(RemfsError) -> TranscriptImport.Choices {
        let _: Wire.Page<Wire.Session> = try await client.call(.get, "/v1/sessions", query: [("limit", "1")])
        var resources: [JSONValue] = []
        for choice in store {
            resources.append(
                .object([
                    "type": .string("memory_store"), "memory_store_id": .string(try await client.store(choice.store).id),
                    "access": .string(choice.access.rawValue),
                ]))
        }
        return TranscriptImport.Choices(session: session, resources: resources, isLenient: lenient)
    }
}

struct ImportTranscripts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Record transcripts that agents have left in files",
        discussion: """
            Transcripts of Claude Code (JSONL), Codex (JSONL) and SWE-agent (.traj), and chats of role and content as JSON or JSONL. Each \
            becomes a session; of a file that has grown since the last time, what is new is added. Prints the sessions' IDs.
            """)

    @Argument(help: ArgumentHelp("Files; - or none is standard input", valueName: "file"), completion: .file())
    var files: [String] = []
    @Option(help: ArgumentHelp("The session to add to, in place of the transcript's own", valueName: "session"))
    var session: String?
    @OptionGroup var options: TranscriptOptions
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if session != nil, files.count > 1 { throw ValidationError("--session takes one transcript.") }
        if session != nil, !options.store.isEmpty {
            throw ValidationError("--session and --store exclude each other: a session has its stores.")
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        let choices = try await options.choices(client, session: session)
        var outcomes: [TranscriptImport.Outcome] = []
        for name in files.isEmpty ? ["-"] : files {
            let file = name == "-" ? try Self.spooledInput() : try openToRead(name)
            defer { close(file) }
            let path = name == "-" ? nil : URL(fileURLWithPath: name).path
            var transcript = TranscriptImport(client, choices, name: name == "-" ? "standard input" : name, path: path)
            let outcome = try await transcript.importAll(file)
            outcomes.append(outcome)
            guard !daemon.json else { continue }
            try Output.line(outcome.sessionID)
            for fault in outcome.faults { Output.talk("\(name): \(fault): left out") }
            Output.talk("\(name): \(outcome.added) events added, \(outcome.present) were there")
            for (kind, count) in outcome.leftOut.sorted(by: { $0.key < $1.key }) { Output.talk("\(name): left out: \(count) x \(kind)") }
        }
        if daemon.json { try Output.json(["data": outcomes]) }
    }

    /// Standard input in a file without a name: it is read twice.
    private static func spooledInput() throws(RemfsError) -> Int32 {
        let directory = FileManager.default.temporaryDirectory.path
        var name = Array("\(directory)/remfs-import-XXXXXX".utf8CString)
        let file = unsafe mkstemp(&name)
        guard file >= 0 else { throw RemfsError.ofSystem("no temporary file can be made in \(directory)") }
        unsafe unlink(name)
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while true {
            let count = unsafe read(STDIN_FILENO, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                close(file)
                throw RemfsError.ofSystem("standard input cannot be read")
            }
            guard count > 0 else { return file }
            guard unsafe write(file, buffer, count) == count else {
                close(file)
                throw RemfsError.ofSystem("standard input cannot be kept in \(directory)")
            }
        }
    }
}

private func openToRead(_ name: String) throws(RemfsError) -> Int32 {
    let file = unsafe open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard file >= 0 else { throw RemfsError.ofSystem("\(name) cannot be read") }
    guard FileMark("/dev/fd/\(file)") != nil else {
        close(file)
        throw RemfsError(.invalidArgument, "\(name) is no regular file")
    }
    return file
}

/// What tells whether a file has changed, and whether it is the same file still.
private struct FileMark: Equatable {
    let number: Int
    let size: Int64
    let modified: Date

    /// nil: there is no such file, or it is no regular one.
    init?(_ path: String) {
        // `try?`: as said.
        guard let found = try? FileManager.default.attributesOfItem(atPath: URL(fileURLWithPath: path).resolvingSymlinksInPath().path),
            found[.type] as? FileAttributeType == .typeRegular, let number = found[.systemFileNumber] as? Int,
            let size = found[.size] as? Int64, let modified = found[.modificationDate] as? Date
        else { return nil }
        (self.number, self.size, self.modified) = (number, size, modified)
    }
}

struct WatchTranscripts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Follow a directory of transcripts, and record what comes to them, until interrupted",
        discussion: """
            All .jsonl, .json and .traj files below it, as `session import` reads them; new ones and new lines are looked for every second. A file \
            with a line that cannot be read is reported, and tried again when it has changed.
            """)

    @Argument(help: ArgumentHelp("A directory, such as ~/.claude/projects", valueName: "directory"), completion: .directory)
    var directory: String
    @OptionGroup var options: TranscriptOptions
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let choices = try await options.choices(client)
        let root = URL(fileURLWithPath: directory).path
        guard let handle = unsafe opendir(root) else { throw RemfsError.ofSystem("\(directory) cannot be listed") }
        unsafe closedir(handle)
        _ = try await untilInterrupted {
            var followed = FollowedFiles(client, choices, root)
            while true {
                try await followed.look()
                try await Task.sleep(for: .seconds(1))
            }
        }
    }
}

/// The transcripts below a directory, and how far each has been read.
private struct FollowedFiles {
    private struct File {
        var mark: FileMark
        /// nil: a document, or a file with which something was wrong.
        var transcript: TranscriptImport?
    }

    private let client: ControlClient
    private let choices: TranscriptImport.Choices
    private let root: String
    private var files: [String: File] = [:]

    init(_ client: ControlClient, _ choices: TranscriptImport.Choices, _ root: String) {
        self.client = client
        self.choices = choices
        self.root = root
    }

    mutating func look() async throws(RemfsError) {
        let paths = Self.paths(below: root)
        files = files.filter { paths.contains($0.key) }
        for path in paths.sorted() {
            let name = String(path.dropFirst(root.count).drop { $0 == "/" })
            do throws(RemfsError) {
                try await look(at: path, name)
            } catch {
                // The daemon's end is ours; a file's own trouble is told once, until it changes.
                if error.code == .unavailable { throw error }
                Output.talk("\(name): \(error.message)")
            }
        }
    }

    private static func paths(below root: String) -> Set<String> {
        let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []
        return Set(names.filter { name in [".jsonl", ".json", ".traj"].contains { name.hasSuffix($0) } }.map { "\(root)/\($0)" })
    }

    private mutating func look(at path: String, _ name: String) async throws(RemfsError) {
        // Gone since it was listed, or no file.
        guard let mark = FileMark(path), mark.size > 0 else { return }
        let known = files[path]
        guard known?.mark != mark else { return }
        files[path] = File(mark: mark, transcript: nil)
        let file = try openToRead(path)
        defer { close(file) }
        let isGrown = known.map { $0.mark.number == mark.number && $0.mark.size <= mark.size } ?? false
        let fresh = TranscriptImport(client, choices, name: name, path: path)
        var transcript = isGrown ? known?.transcript ?? fresh : fresh
        let before = transcript.added
        if try await transcript.follow(file) {
            files[path]?.transcript = transcript
            try tell(name, transcript.session, transcript.added - before)
        } else {
            var whole = fresh
            do throws(RemfsError) {
                let outcome = try await whole.importAll(file)
                try tell(name, outcome.sessionID, outcome.added)
            } catch {
                // It is being written: there will be more.
                guard whole.faults.allSatisfy(\.isFatal), !whole.faults.isEmpty else { throw error }
            }
        }
    }

    private func tell(_ name: String, _ session: String?, _ added: Int) throws(RemfsError) {
        guard added > 0, let session else { return }
        try Output.line("\(session)  \(added)  \(Output.printable(name))")
    }
}
