import ArgumentParser
import Control
import Foundation
import Storage

/// How a command reaches the daemon, and how it answers.
struct DaemonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The daemon's socket (REMFS_SOCKET)", valueName: "path"), completion: .file())
    var socket: String?

    @Flag(help: "Write one JSON document")
    var json = false

    func client() async throws(RemfsError) -> ControlClient {
        ControlClient(socket: try await Settings.load(socket.map { [.socket: $0] } ?? [:]).socket)
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
func memoryPath(_ text: String) -> String { text.hasPrefix("/") ? text : "/" + text }

/// A time of the contract as people read it: whole seconds.
func shortTime(_ text: String) -> String { text.prefix(19).replacingOccurrences(of: "T", with: " ") }
