import ArgumentParser
import Control
import Storage

struct KeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Make, list and revoke keys of the HTTP API",
        subcommands: [CreateKey.self, ListKeys.self, RevokeKey.self])
}

private struct CreateKey: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Make a key and print its secret, this once",
        discussion: "Nobody can show the secret again: `remfs key create ci --read > ci.key` keeps it.")

    enum Permission: String, EnumerableFlag {
        case read, write, admin

        static func help(for value: Permission) -> ArgumentHelp? {
            switch value {
            case .read: "Read memories, versions and rules"
            case .write: "Also change memories"
            case .admin: "Also mount, close, delete and govern stores; without --store everything, other keys too"
            }
        }
    }

    @Argument(help: "What the key is for") var name: String
    @Flag(exclusivity: .exclusive) var permission: Permission
    @Option(help: ArgumentHelp("A store it is good for, by ID or name; may be repeated. Without: all, later ones too", valueName: "store"))
    var store: [String] = []
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        var stores: [String] = []
        for reference in store { stores.append(try await client.store(reference).id) }
        let permission = Scopes.Permission(rawValue: permission.rawValue) ?? .read
        let body = Wire.CreateKey(name: name, permission: permission, memoryStoreIDs: stores.isEmpty ? nil : stores)
        let key: Wire.Key = try await client.call(.post, "/v1/keys", body: body)
        if daemon.json { return try Output.json(key) }
        try Output.line(key.secret ?? "")
        Output.talk("key \(key.id) is made; its secret is not shown again")
    }
}

private struct ListKeys: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List keys, newest first", aliases: ["ls"])

    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let keys = try await daemon.client().call(.get, "/v1/keys", as: Wire.Page<Wire.Key>.self)
        if daemon.json { return try Output.json(keys) }
        try Output.table(
            ["ID", "CREATED", "STATE", "PERMISSION", "STORES", "NAME"],
            keys.data.map { key in
                [
                    key.id, shortTime(key.createdAt), key.revokedAt == nil ? "good" : "revoked", key.permission.rawValue,
                    key.memoryStoreIDs?.joined(separator: ",") ?? "all", key.name,
                ]
            })
    }
}

private struct RevokeKey: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "revoke", abstract: "Have a key be good no more, from now on")

    @Argument(help: ArgumentHelp("A key's ID", valueName: "key")) var key: String
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        guard key.hasPrefix(APIKeyID.prefix) else { throw RemfsError(.invalidArgument, "a key is named by its ID, apikey_...") }
        let revoked: Wire.Key = try await daemon.client().call(.post, "/v1/keys/\(key)/revoke")
        if daemon.json { try Output.json(revoked) }
    }
}
