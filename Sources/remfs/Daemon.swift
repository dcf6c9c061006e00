import ArgumentParser
import Control
import Foundation
import Glibc
import Storage

/// How a command reaches the daemon, and how it answers.
struct DaemonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The daemon's socket (REMFS_SOCKET)", valueName: "path"), completion: .file())
    var socket: String?

    @Option(help: ArgumentHelp("The daemon's URL, in place of a socket (REMFS_URL)", valueName: "url"))
    var url: String?

    @Option(
        help: ArgumentHelp("The file that holds the key to send (or the key itself in REMFS_API_KEY)", valueName: "file"),
        completion: .file())
    var keyFile: String?

    @Flag(help: "Write one JSON document")
    var json = false

    func validate() throws {
        guard socket == nil || url == nil else { throw ValidationError("--socket and --url exclude each other.") }
    }

    func client() async throws(RemfsError) -> ControlClient {
        let key = try KeyFile.key(keyFile)
        if let address { return try ControlClient(url: address, key: key) }
        return ControlClient(socket: try await Settings.load(socket.map { [.socket: $0] } ?? [:]).socket, key: key)
    }

    /// The daemon's URL; nil: it is asked on its socket.
    var address: String? {
        if let url { return url }
        // A flag says more than a variable.
        guard socket == nil, let text = ProcessInfo.processInfo.environment["REMFS_URL"], !text.isEmpty else { return nil }
        return text
    }
}

/// Where the key comes from that commands send: never from their arguments, which all users can read.
enum KeyFile {
    static func key(_ path: String?) throws(RemfsError) -> String? {
        if let path { return try read(path) }
        guard let text = ProcessInfo.processInfo.environment["REMFS_API_KEY"], !text.isEmpty else { return nil }
        return try checked(text, "REMFS_API_KEY")
    }

    private static func read(_ path: String) throws(RemfsError) -> String {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("key file \(path) cannot be read") }
        defer { close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw RemfsError.ofSystem("key file \(path) cannot be read") }
        if status.st_mode & S_IFMT == S_IFREG, status.st_mode & 0o077 != 0 {
            Output.talk("key file \(path) is open to others than its owner: chmod 600 it")
        }
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = unsafe Glibc.read(descriptor, &bytes, bytes.count)
        guard count >= 0 else { throw RemfsError.ofSystem("key file \(path) cannot be read") }
        return try checked(String(decoding: bytes.prefix(count), as: UTF8.self), "key file \(path)")
    }

    /// A key as a header can carry it.
    private static func checked(_ text: String, _ place: String) throws(RemfsError) -> String {
        let key = text.trimmingCharacters(in: .whitespacesAndNewlines)
        guard (1...512).contains(key.utf8.count), key.utf8.allSatisfy({ (33...126).contains($0) }) else {
            throw RemfsError(.invalidArgument, "\(place) does not hold one key")
        }
        return key
    }
}

extension ControlClient {
    /// The store that an ID, or a name that only one store has, stands for. Archived stores have a name as long as no other store has it.
    func store(_ reference: String) async throws(RemfsError) -> Wire.Store {
        if StoreID(reference) != nil { return try await call(.get, "/v1/memory_stores/\(reference)") }
        func stores(archived: String?) async throws(RemfsError) -> [Wire.Store] {
            let query = [("name", reference), ("include_archived", archived)]
            return try await call(.get, "/v1/memory_stores", query: query, as: Wire.Page<Wire.Store>.self).data
        }
        var named = try await stores(archived: nil)
        if named.isEmpty { named = try await stores(archived: "true") }
        guard let store = named.first else { throw RemfsError(.notFound, "store \"\(reference)\"") }
        guard named.count == 1 else {
            throw RemfsError(
                .invalidArgument, "store \"\(reference)\" is the name of \(named.count): \(named.map(\.id).joined(separator: ", "))")
        }
        return store
    }

    /// The memory at a path; nil when there is none.
    func memory(at path: String, in store: String, view: View = .basic) async throws(RemfsError) -> Wire.Memory? {
        let page = try await call(
            .get, "/v1/memory_stores/\(store)/memories", query: [("path", path), ("view", view.rawValue)], as: Wire.Page<Wire.Listing>.self)
        for case .memory(let memory) in page.data { return memory }
        return nil
    }

    func existingMemory(at path: String, in store: String, view: View = .basic) async throws(RemfsError) -> Wire.Memory {
        guard let memory = try await memory(at: path, in: store, view: view) else { throw RemfsError(.notFound, "memory \(path)") }
        return memory
    }

    /// All items of a list, page after page, at most `limit`.
    func all<Item: Codable & Sendable>(
        _ path: String, query: [(String, String?)] = [], limit: Int = .max, of type: Item.Type = Item.self
    ) async throws(RemfsError) -> [Item] {
        var items: [Item] = []
        var next: String?
        repeat {
            let page = try await call(
                .get, path, query: query + [("limit", String(min(100, limit - items.count))), ("page", next)], as: Wire.Page<Item>.self)
            items += page.data
            next = page.nextPage
        } while next != nil && items.count < limit
        return items
    }
}

/// A path as people type it: the leading `/` may be left out.
func memoryPath(_ text: String) -> String {
    // In bytes: a slash with an accent behind it is another character.
    text.utf8.first == UInt8(ascii: "/") ? text : "/" + text
}

/// A time of the contract as people read it: whole seconds.
func shortTime(_ text: String) -> String { text.prefix(19).replacingOccurrences(of: "T", with: " ") }
