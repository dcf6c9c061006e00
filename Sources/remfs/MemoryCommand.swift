import ArgumentParser
import Control
import Foundation
import Fuse
import Glibc
import Storage

struct MemoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "memory", abstract: "Read and change memories without a mount",
        subcommands: [
            ListMemories.self, PrintMemory.self, WriteMemory.self, EditMemory.self, RemoveMemory.self, MoveMemory.self,
        ])
}

/// How help texts describe a memory argument.
let pathHelp = ArgumentHelp("A memory's path", valueName: "path")

private struct ListMemories: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ls", abstract: "List memories", aliases: ["list"])

    @Argument(help: storeHelp) var store: String
    @Argument(help: "A directory") var prefix = "/"
    @Flag(name: .shortAndLong, help: "List the whole subtree") var recursive = false
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let directory = memoryPath(prefix)
        let items: [Wire.Listing] = try await client.all(
            "/v1/memory_stores/\(id)/memories",
            query: [("path_prefix", directory.hasSuffix("/") ? directory : directory + "/"), ("depth", recursive ? "0" : "1")])
        if daemon.json { return try Output.json(Wire.Page(data: items, nextPage: nil)) }
        try Output.table(
            ["SIZE", "UPDATED", "PATH"],
            items.map { item in
                switch item {
                case .memory(let memory): ["\(memory.contentSizeBytes)", shortTime(memory.updatedAt), memory.path]
                case .prefix(let path): ["-", "-", path]
                }
            })
    }
}

private struct PrintMemory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "cat", abstract: "Print a memory, as it is or as it was")

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @Argument(help: "Print this version of it") var version: String?
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let route: String
        if let version {
            route = "/v1/memory_stores/\(id)/memory_versions/\(version)"
            let found: Wire.Version = try await client.call(.get, route)
            guard found.path == nil || found.path.map({ ExactString($0) }) == ExactString(memoryPath(path)) else {
                throw RemfsError(.invalidArgument, "version \(version) is one of \(found.path ?? ""), not of \(memoryPath(path))")
            }
            if daemon.json { return try Output.json(found) }
        } else {
            let memory = try await client.existingMemory(at: memoryPath(path), in: id, view: daemon.json ? .full : .basic)
            if daemon.json { return try Output.json(memory) }
            route = "/v1/memory_stores/\(id)/memories/\(memory.id)"
        }
        try await client.stream(.get, "\(route)/content") { (piece) throws(RemfsError) in try Output.bytes(piece) }
    }
}

struct WriteRequest: Encodable {
    var path: String?
    var content: String?
    var precondition: Precondition?

    struct Precondition: Encodable {
        let type = "content_sha256"
        let contentSHA256: String

        private enum CodingKeys: String, CodingKey {
            case type
            case contentSHA256 = "content_sha256"
        }
    }
}

private struct WriteMemory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "write", abstract: "Create or replace a memory with what stands on stdin")

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @Option(help: "Read from a file and not from stdin", completion: .file()) var file: String?
    @Flag(help: "Fail if there is a memory already") var new = false
    @Option(help: ArgumentHelp("Write only over content with this SHA-256", valueName: "sha256")) var ifSHA256: String?
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if new && ifSHA256 != nil { throw ValidationError("--new and --if-sha256 exclude each other.") }
    }

    func run() async throws {
        let content = try text()
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/memories"
        let id = String(route.split(separator: "/")[2])
        let memory: Wire.Memory
        if !new, let found = try await client.memory(at: memoryPath(path), in: id) {
            memory = try await client.call(
                .post, "\(route)/\(found.id)",
                body: WriteRequest(content: content, precondition: ifSHA256.map { .init(contentSHA256: $0) }))
        } else if let ifSHA256 {
            throw RemfsError(.preconditionFailed, "\(memoryPath(path)) does not exist, so its content is not \(ifSHA256)")
        } else {
            memory = try await client.call(.post, route, body: WriteRequest(path: memoryPath(path), content: content))
        }
        if daemon.json { try Output.json(memory) }
    }

    private func text() throws(RemfsError) -> String {
        let data: Data
        do {
            data = try file.map { try Data(contentsOf: URL(fileURLWithPath: $0)) } ?? FileHandle.standardInput.readToEnd() ?? Data()
        } catch {
            throw RemfsError(.notFound, "\(file ?? "stdin") cannot be read", cause: String(describing: error))
        }
        guard let text = String(validating: data, as: UTF8.self) else {
            throw RemfsError(.invalidArgument, "\(file ?? "stdin") is not UTF-8: write it through a mount")
        }
        return text
    }
}

private struct EditMemory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "edit", abstract: "Edit a memory in an editor, or write a new one",
        discussion: """
            The editor is $VISUAL, or else $EDITOR, or else vi. Saves only what you changed, and only if nobody else has changed the \
            memory meanwhile; otherwise your text is kept in a file that is named.
            """)

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let path = memoryPath(path)
        let found = try await client.memory(at: path, in: id, view: .full)
        guard let before = found.map(\.content) ?? "" else {
            throw RemfsError(.invalidArgument, "\(path) is not text, or too long to edit this way: edit it through a mount")
        }
        let draft = try EditorDraft(named: String(path.split(separator: "/").last ?? "memory"), content: before)
        let route = "/v1/memory_stores/\(id)/memories"
        let memory: Wire.Memory
        do throws(RemfsError) {
            try draft.edit()
            let after = try draft.text()
            // In bytes: an editor may have changed nothing but the form of an accent.
            guard !after.utf8.elementsEqual(before.utf8) else {
                draft.discard()
                Output.talk(found == nil ? "\(path) does not exist, and nothing was written" : "\(path) is unchanged")
                return
            }
            if let found {
                memory = try await client.call(
                    .post, "\(route)/\(found.id)",
                    body: WriteRequest(content: after, precondition: .init(contentSHA256: found.contentSHA256)))
            } else {
                memory = try await client.call(.post, route, body: WriteRequest(path: path, content: after))
            }
        } catch {
            // Unless there is nothing of anybody's in it. (`try?`: what cannot be read any more may be worth keeping.)
            if (try? draft.text())?.utf8.elementsEqual(before.utf8) == true {
                draft.discard()
            } else {
                Output.talk("your text is kept in \(draft.file)")
            }
            throw error
        }
        draft.discard()
        if daemon.json { try Output.json(memory) }
    }
}

/// A file of our own that an editor works on. It stays until it is discarded: it may be the only copy of somebody's work.
private struct EditorDraft {
    private let directory: String
    let file: String

    init(named name: String, content: String) throws(RemfsError) {
        var template = Array("\(FileManager.default.temporaryDirectory.path)/remfs-edit-XXXXXX\0".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw RemfsError.ofSystem("a directory to edit in cannot be made") }
        directory = String(decoding: template.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        file = "\(directory)/\(name)"
        do {
            try content.write(toFile: file, atomically: false, encoding: .utf8)
        } catch {
            throw RemfsError(.noSpace, "\(file) cannot be written", cause: String(describing: error))
        }
    }

    /// Runs `$VISUAL`, `$EDITOR` or vi, and waits. The variables may carry arguments; an empty one counts as none.
    func edit() throws(RemfsError) {
        let environment = ProcessInfo.processInfo.environment
        let editor = ["VISUAL", "EDITOR"].compactMap { environment[$0] }.first { !$0.isEmpty } ?? "vi"
        let arguments = ["/bin/sh", "-c", "exec \(editor) \"$1\"", "sh", file]
        // Not Foundation's `Process`, which starts a process group: a terminal would stop the editor as soon as it reads.
        switch FuseSpawn.start(arguments[0], arguments.map { Array($0.utf8) }, environment: environment.map { Array("\($0)=\($1)".utf8) }) {
        case .failure(let failure): throw RemfsError.ofSystem("\(editor) cannot be started", failure.errno)
        case .success(let process):
            guard FuseSpawn.wait(for: process) == 0 else { throw RemfsError(.unavailable, "\(editor) failed") }
        }
    }

    func text() throws(RemfsError) -> String {
        do {
            return try String(contentsOfFile: file, encoding: .utf8)
        } catch {
            throw RemfsError(.invalidArgument, "\(file) is not UTF-8", cause: String(describing: error))
        }
    }

    func discard() {
        // What is left of a draft that was saved harms nobody.
        try? FileManager.default.removeItem(atPath: directory)
    }
}

private struct RemoveMemory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "rm", abstract: "Delete memories; their versions stay")

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var paths: [String]
    @Flag(name: .shortAndLong, help: "Delete all memories below a directory") var recursive = false
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let route = "/v1/memory_stores/\(try await client.store(store).id)/memories"
        let id = String(route.split(separator: "/")[2])
        var deleted: [Wire.Deleted] = []
        for path in paths.map(memoryPath) {
            if let memory = try await client.memory(at: path, in: id) {
                deleted.append(try await client.call(.delete, "\(route)/\(memory.id)"))
                continue
            }
            let below: [Wire.Listing] =
                recursive ? try await client.all(route, query: [("path_prefix", path.hasSuffix("/") ? path : path + "/")]) : []
            guard !below.isEmpty else { throw RemfsError(.notFound, "memory \(path)") }
            for case .memory(let memory) in below { deleted.append(try await client.call(.delete, "\(route)/\(memory.id)")) }
        }
        if daemon.json { try Output.json(Wire.Page(data: deleted, nextPage: nil)) }
    }
}

private struct MoveMemory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "mv", abstract: "Give a memory another path; its ID and history stay")

    @Argument(help: storeHelp) var store: String
    @Argument(help: pathHelp) var path: String
    @Argument(help: "Must be free") var newPath: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let memory = try await client.existingMemory(at: memoryPath(path), in: id)
        let moved: Wire.Memory = try await client.call(
            .post, "/v1/memory_stores/\(id)/memories/\(memory.id)", body: WriteRequest(path: memoryPath(newPath)))
        if daemon.json { try Output.json(moved) }
    }
}
