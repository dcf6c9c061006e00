import ArgumentParser
import Control
import Foundation
import Storage

struct StoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Create, list and govern stores",
        subcommands: [
            CreateStore.self, ListStores.self, ShowStore.self, SetStore.self, ArchiveStore.self, DeleteStore.self, BackUpStore.self,
            ForkStore.self, WatchStore.self, CollectGarbage.self,
        ])
}

/// How help texts describe a store argument.
let storeHelp = ArgumentHelp("A store's ID, or a name that only one store has", valueName: "store")

private struct CreateStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Create a store and print its ID")

    @Argument(help: "Need not be unique") var name: String
    @Option(help: "What the store is for; agents read it") var description: String?
    @Option(help: ArgumentHelp("A pair of metadata; may be repeated", valueName: "key=value")) var metadata: [Pair] = []
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable {
        let name: String
        let description: String?
        let metadata: Wire.Metadata?
    }

    func run() async throws {
        let body = Request(name: name, description: description, metadata: metadata.isEmpty ? nil : Pair.metadata(metadata))
        let store: Wire.Store = try await daemon.client().call(.post, "/v1/memory_stores", body: body)
        if daemon.json { try Output.json(store) } else { try Output.line(store.id) }
    }
}

private struct ListStores: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List stores, newest first", aliases: ["ls"])

    @Flag(help: "Show archived stores too") var archived = false
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let stores: [Wire.Store] = try await daemon.client()
            .all("/v1/memory_stores", query: [("include_archived", archived ? "true" : nil)])
        if daemon.json { return try Output.json(Wire.Page(data: stores, nextPage: nil)) }
        try Output.table(
            ["ID", "CREATED", "STATE", "NAME"],
            stores.map { [$0.id, shortTime($0.createdAt), $0.archivedAt == nil ? "open" : "archived", $0.name] })
    }
}

/// Everything there is to say of a store, as one document.
private struct StoreReport: Encodable {
    let store: Wire.Store
    let policy: Wire.Policy
    let statistics: Wire.StoreStatistics

    private enum CodingKeys: String, CodingKey { case policy, statistics }

    func encode(to encoder: any Encoder) throws {
        try store.encode(to: encoder)
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(policy, forKey: .policy)
        try container.encode(statistics, forKey: .statistics)
    }
}

private struct ShowStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show a store, its policy and its size")

    @Argument(help: storeHelp) var store: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let store = try await client.store(store)
        let policy: Wire.Policy = try await client.call(.get, "/v1/memory_stores/\(store.id)/policy")
        let statistics: Wire.StoreStatistics = try await client.call(.get, "/v1/memory_stores/\(store.id)/statistics")
        if daemon.json { return try Output.json(StoreReport(store: store, policy: policy, statistics: statistics)) }
        var lines = [
            ("id", store.id), ("name", store.name), ("description", store.description), ("created", store.createdAt),
            ("updated", store.updatedAt), ("archived", store.archivedAt ?? "no"),
        ]
        lines += store.metadata.sorted.map { ("metadata \($0.key)", $0.value ?? "") }
        lines += [
            ("memories", "\(statistics.memories)"), ("versions", "\(statistics.versions)"), ("files", "\(statistics.files)"),
            ("content", "\(statistics.contentSizeBytes) bytes"), ("on disk", "\(statistics.diskSizeBytes) bytes"),
            ("access", policy.access.rawValue), ("contract", "\(policy.contract)"),
            ("max bytes per memory", "\(policy.maxBytesPerMemory)"), ("max memories", "\(policy.maxMemories)"),
            ("max bytes", policy.maxBytes.map { "\($0)" } ?? "none"), ("secrets", policy.secrets.rawValue),
            ("retention", policy.retentionDays.map { "\($0) days" } ?? "for ever"),
            ("unversioned", policy.unversioned.joined(separator: " ")),
        ]
        let width = lines.map(\.0.count).max() ?? 0
        for (name, value) in lines {
            try Output.line(Output.printable(name) + String(repeating: " ", count: width - name.count + 2) + Output.printable(value))
        }
    }
}

private struct SetStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a store's name, description, metadata or policy",
        discussion: "Only what is named changes. Policies act on live mounts at once.")

    @Argument(help: storeHelp) var store: String
    @Option var name: String?
    @Option(help: "Empty clears") var description: String?
    @Option(help: ArgumentHelp("Set a pair of metadata, or remove a key with an empty value; may be repeated", valueName: "key=value"))
    var metadata: [Pair] = []
    @Option(help: "read_write or read_only") var access: String?
    @Option(help: ArgumentHelp("Apply the API's limits to mounts as well", valueName: "true|false")) var contract: Bool?
    @Option(help: ArgumentHelp("How large a file of a mount may be, 1 to 17179869184 (16 GiB); a new store has 64 MiB", valueName: "bytes"))
    var maxBytesPerMemory: Int64?
    @Option(help: ArgumentHelp("How many memories there may be, at least 1; a new store has 10000", valueName: "count"))
    var maxMemories: Int64?
    @Option(help: ArgumentHelp("How large all memories may be together; 0 for no limit, as a new store has it", valueName: "bytes"))
    var maxBytes: Int64?
    @Option(help: ArgumentHelp("Names kept without versions; may be repeated, replaces all", valueName: "pattern")) var unversioned:
        [String] = []
    @Option(help: "allow, warn or refuse") var secrets: String?
    @Option(help: ArgumentHelp("How long to keep versions that are no head; 0 for ever, as a new store has it", valueName: "days"))
    var retentionDays: Int?
    @OptionGroup var daemon: DaemonOptions

    struct Update: Encodable {
        let name: String?
        let description: String?
        let metadata: Wire.Metadata?
        var isEmpty: Bool { name == nil && description == nil && metadata == nil }
    }

    struct PolicyUpdate: Encodable {
        let access: String?
        let contract: Bool?
        let maxBytesPerMemory: Int64?
        let maxMemories: Int64?
        let maxBytes: Int64?
        let unversioned: [String]?
        let secrets: String?
        let retentionDays: Int?

        var isEmpty: Bool {
            access == nil && contract == nil && maxBytesPerMemory == nil && maxMemories == nil && maxBytes == nil && unversioned == nil
                && secrets == nil && retentionDays == nil
        }

        private enum CodingKeys: String, CodingKey {
            case access, contract, unversioned, secrets
            case maxBytesPerMemory = "max_bytes_per_memory"
            case maxMemories = "max_memories"
            case maxBytes = "max_bytes"
            case retentionDays = "retention_days"
        }
    }

    private var update: Update {
        let patch = Dictionary(metadata.map { (ExactString($0.key), $0.value.isEmpty ? nil : $0.value) }) { $1 }
        return Update(name: name, description: description, metadata: patch.isEmpty ? nil : Wire.Metadata(patch))
    }

    private var policyUpdate: PolicyUpdate {
        PolicyUpdate(
            access: access, contract: contract, maxBytesPerMemory: maxBytesPerMemory, maxMemories: maxMemories, maxBytes: maxBytes,
            unversioned: unversioned.isEmpty ? nil : unversioned, secrets: secrets, retentionDays: retentionDays)
    }

    func validate() throws {
        if update.isEmpty && policyUpdate.isEmpty { throw ValidationError("Nothing to change: name at least one option.") }
    }

    func run() async throws {
        let client = try await daemon.client()
        let path = "/v1/memory_stores/\(try await client.store(store).id)"
        // The policy first: it is what is likelier to be refused.
        if !policyUpdate.isEmpty { _ = try await client.call(.post, "\(path)/policy", body: policyUpdate, as: Wire.Policy.self) }
        if !update.isEmpty { _ = try await client.call(.post, path, body: update, as: Wire.Store.self) }
        guard daemon.json else { return }
        try Output.json(
            StoreReport(
                store: try await client.call(.get, path), policy: try await client.call(.get, "\(path)/policy"),
                statistics: try await client.call(.get, "\(path)/statistics")))
    }
}

private struct ArchiveStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "archive", abstract: "Close a store to writing, for good")

    @Argument(help: storeHelp) var store: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let archived: Wire.Store = try await client.call(.post, "/v1/memory_stores/\(try await client.store(store).id)/archive")
        if daemon.json { try Output.json(archived) }
    }
}

private struct DeleteStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete a store with all its memories and versions", aliases: ["rm"])

    @Argument(help: storeHelp) var store: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let deleted: Wire.Deleted = try await client.call(.delete, "/v1/memory_stores/\(try await client.store(store).id)")
        if daemon.json { try Output.json(deleted) }
    }
}

private struct BackUpStore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup", abstract: "Copy a store with its history into one SQLite file, while it is in use")

    @Argument(help: storeHelp) var store: String
    @Argument(help: "Must not exist", completion: .file()) var file: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let id = try await client.store(store).id
        let file = try NewFile(Settings.absolute(file))
        try await client.stream(.get, "/v1/memory_stores/\(id)/backup") { (piece) throws(RemfsError) in try file.append(piece) }
        try file.finish()
        if daemon.json { try Output.json(NewFile.Report(memoryStoreID: id, file: file.path, sizeInBytes: file.size)) }
    }
}

/// `key=value` on the command line.
struct Pair: ExpressibleByArgument {
    let key: String
    let value: String

    init?(argument: String) {
        guard let equals = argument.firstIndex(of: "="), equals != argument.startIndex else { return nil }
        key = String(argument[..<equals])
        value = String(argument[argument.index(after: equals)...])
    }

    static func metadata(_ pairs: [Pair]) -> Wire.Metadata {
        Wire.Metadata(Dictionary(pairs.map { (ExactString($0.key), $0.value) }) { $1 } as Metadata)
    }
}
