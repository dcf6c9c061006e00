import Configuration
import Control
import Foundation
import Glibc
import Logging
import Storage
import Threads

/// Where things are and who may use them: command line over `REMFS_*` over the configuration file over defaults.
struct Settings: Sendable, Codable {
    /// The keys of the file; `REMFS_` and upper case in the environment.
    enum Key: String, CaseIterable {
        case stateDirectory = "state_dir"
        case runtimeDirectory = "runtime_dir"
        case socket
        case socketOwner = "socket_owner"
        case socketGroup = "socket_group"
        case socketGroupPermission = "socket_group_permission"
        case socketGroupStores = "socket_group_stores"
        case listen
        case listenHosts = "listen_hosts"
        case volumeSocket = "volume_socket"
        case logLevel = "log_level"
        case sessionIdleDays = "session_idle_days"
    }

    let stateDirectory: String
    let runtimeDirectory: String
    let socket: String
    let socketOwner: UInt32?
    let socketGroup: UInt32?
    /// What members of that group may do.
    let groupScopes: Scopes
    /// Where requests come in over TCP as well.
    let listen: ListenAddress?
    /// By which names they may call this machine, besides those of the loopback interface.
    let listenHosts: [String]
    /// Where container engines ask for volumes; nil: nowhere.
    let volumeSocket: String?
    let logLevel: Logger.Level
    /// How many days nothing may be heard of a session until its stores are unmounted; nil: they stay.
    let sessionIdleDays: Double?

    /// - Parameters:
    ///   - commandLine: what flags said.
    ///   - file: `--config`. Without it `REMFS_CONFIG`, then the usual place, where it may be missing.
    static func load(
        _ commandLine: [Key: String] = [:], file: String? = nil, environment: [String: String] = ProcessInfo.processInfo.environment
    ) async throws(RemfsError) -> Settings {
        let places = Places(environment)
        var providers: [any ConfigProvider] = [
            InMemoryProvider(
                name: "command line",
                values: Dictionary(
                    uniqueKeysWithValues: commandLine.map {
                        (AbsoluteConfigKey([$0.key.rawValue]), ConfigValue(.string($0.value), isSecret: false))
                    })),
            // Prefixed by ourselves, since an empty variable counts as none.
            EnvironmentVariablesProvider(environmentVariables: environment.filter { $0.key.hasPrefix("REMFS_") && !$0.value.isEmpty })
                .prefixKeys(with: "remfs"),
        ]
        let named = file ?? environment["REMFS_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        if let provider = try await fileProvider(named ?? places.configuration, mayBeMissing: named == nil) { providers.append(provider) }
        let reader = ConfigReader(providers: providers)

        func value(_ key: Key) async throws(RemfsError) -> String? {
            do {
                return try await reader.fetchString(forKey: ConfigKey([key.rawValue]))
            } catch {
                throw RemfsError(.invalidArgument, "\(key.rawValue) must be a string", cause: String(describing: error))
            }
        }
        let runtime = Self.absolute(try await value(.runtimeDirectory) ?? places.runtime)
        let (owner, group) = (try await value(.socketOwner), try await value(.socketGroup))
        let level = try await value(.logLevel) ?? Logger.Level.notice.rawValue
        guard let logLevel = Logger.Level(rawValue: level) else {
            throw RemfsError(.invalidArgument, "log_level must be one of \(Logger.Level.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        let wanted = try await value(.socketGroupPermission) ?? Scopes.Permission.admin.rawValue
        guard let permission = Scopes.Permission(rawValue: wanted) else {
            throw RemfsError(.invalidArgument, "socket_group_permission must be one of read, write and admin")
        }
        var stores: Set<StoreID>?
        if let text = try await value(.socketGroupStores) {
            let ids = Self.words(text)
            stores = Set(ids.compactMap { StoreID($0) })
            guard ids.allSatisfy({ StoreID($0) != nil }) else {
                throw RemfsError(.invalidArgument, "socket_group_stores must be IDs of stores, with commas, not \(text.prefix(100))")
            }
        }
        let listen = try await value(.listen).map { (text) throws(RemfsError) in try ListenAddress(text) }
        let hosts = try await value(.listenHosts).map(Self.words) ?? []
        if let listen, !listen.isLoopback, hosts.isEmpty {
            throw RemfsError(
                .invalidArgument,
                "listen: \(listen) can be reached from other machines; say by which names they call this one in listen_hosts")
        }
        let idle = try await value(.sessionIdleDays).map { (text) throws(RemfsError) in
            guard let days = Double(text), days > 0, days.isFinite else {
                throw RemfsError(.invalidArgument, "session_idle_days must be a number above 0, not \(text.prefix(100))")
            }
            return days
        }
        let socket = try await value(.socket).map(Self.absolute) ?? "\(runtime)/control.sock"
        let volumes = try await value(.volumeSocket).map(Self.absolute)
        if let volumes, Self.plain(volumes) == Self.plain(socket) {
            throw RemfsError(.invalidArgument, "volume_socket: \(volumes) is the control socket")
        }
        return Settings(
            stateDirectory: Self.absolute(try await value(.stateDirectory) ?? places.state), runtimeDirectory: runtime,
            socket: socket,
            socketOwner: try owner.map { (name) throws(RemfsError) in try found(UserDatabase.user(name), "user \(name)") },
            socketGroup: try group.map { (name) throws(RemfsError) in try found(UserDatabase.group(name), "group \(name)") },
            groupScopes: Scopes(permission, stores: stores), listen: listen, listenHosts: hosts, volumeSocket: volumes,
            logLevel: logLevel, sessionIdleDays: idle)
    }

    /// What commas or blanks part.
    private static func words(_ text: String) -> [String] { text.split(whereSeparator: { $0 == "," || $0 == " " }).map(String.init) }

    private static func found(_ number: UInt32?, _ what: String) throws(RemfsError) -> UInt32 {
        guard let number else { throw RemfsError(.notFound, "\(what) does not exist") }
        return number
    }

    /// The file as a provider, after a look at its keys: one that we don't know is a mistake that would otherwise go unseen.
    private static func fileProvider(_ path: String, mayBeMissing: Bool) async throws(RemfsError) -> (any ConfigProvider)? {
        guard let text = try contents(path, mayBeMissing: mayBeMissing) else { return nil }
        // YAML without any value is no mapping to the parser.
        let lines = text.split(whereSeparator: \.isNewline).map { $0.drop(while: \.isWhitespace) }
        if lines.allSatisfy({ $0.isEmpty || $0.hasPrefix("#") || $0 == "---" }) { return nil }

        // The parser shows each key it finds to whoever decides what is secret; nothing else in its interface lists them.
        let keys = Mutex<Set<String>>([])
        let provider: FileProvider<YAMLSnapshot>
        do {
            provider = try await FileProvider<YAMLSnapshot>(
                parsingOptions: .init(
                    secretsSpecifier: .dynamic { key, _ in
                        keys.withLock { _ = $0.insert(key) }
                        return false
                    }),
                config: ConfigReader(provider: InMemoryProvider(values: ["filePath": ConfigValue(.string(path), isSecret: false)])))
        } catch {
            throw RemfsError(.invalidArgument, "configuration file \(path) is not valid YAML: \(error)")
        }
        let known = Set(Key.allCases.map(\.rawValue))
        if let unknown = keys.withLock({ $0.subtracting(known).min() }) {
            throw RemfsError(
                .invalidArgument,
                "configuration file \(path): unknown key \"\(unknown)\", known are \(known.sorted().joined(separator: ", "))")
        }
        return try await strings(ConfigReader(provider: provider), path)
    }

    /// nil: there is none, and need not be.
    private static func contents(_ path: String, mayBeMissing: Bool) throws(RemfsError) -> String? {
        // Not only a regular file: /dev/null is a good one to name where there is nothing to configure.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let code = errno
            if mayBeMissing, !FileManager.default.fileExists(atPath: path) { return nil }
            throw RemfsError.ofSystem("configuration file \(path) cannot be read", code)
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 4_096)
        while true {
            let count = unsafe read(descriptor, &piece, piece.count)
            guard count >= 0 else { throw RemfsError.ofSystem("configuration file \(path) cannot be read") }
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += piece.prefix(count)
        }
    }

    /// The file's values as strings, without those that say "none". The parser would give also a number or a truth value as a string, and
    /// a directory of that name is not what anybody means.
    private static func strings(_ file: ConfigReader, _ path: String) async throws(RemfsError) -> InMemoryProvider {
        func holds(_ value: () async throws -> Any?) async -> Bool {
            do { return try await value() != nil } catch { return false }
        }
        var values: [AbsoluteConfigKey: ConfigValue] = [:]
        for key in Key.allCases {
            let name = ConfigKey([key.rawValue])
            let text: String?
            do {
                text = try await file.fetchString(forKey: name)
            } catch {
                throw RemfsError(
                    .invalidArgument, "configuration file \(path): \(key.rawValue) must be a string", cause: String(describing: error))
            }
            guard let text, !["", "~", "null", "Null", "NULL"].contains(text) else { continue }
            // Users and groups have numbers, too.
            let mayBeNumber = [.socketOwner, .socketGroup, .sessionIdleDays].contains(key)
            let isNumber = mayBeNumber ? false : await holds { try await file.fetchDouble(forKey: name) }
            guard !isNumber, await !holds({ try await file.fetchBool(forKey: name) }) else {
                throw RemfsError(.invalidArgument, "configuration file \(path): \(key.rawValue) must be a string, not \(text)")
            }
            values[AbsoluteConfigKey([key.rawValue])] = ConfigValue(.string(text), isSecret: false)
        }
        return InMemoryProvider(name: path, values: values)
    }

    /// Against the working directory, as a shell's user means it.
    static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    }

    /// An absolute path without `.`, `..`, doubled and trailing slashes. Nothing is asked of the file system: what is there may not answer.
    static func plain(_ path: String) -> String {
        var segments: [Substring] = []
        for segment in path.split(separator: "/") where segment != "." {
            if segment == ".." { _ = segments.popLast() } else { segments.append(segment) }
        }
        return "/" + segments.joined(separator: "/")
    }
}

/// For those that are started by this process.
extension Settings {
    /// As one line of JSON.
    var text: String {
        get throws(RemfsError) {
            do { return String(decoding: try JSONEncoder().encode(self), as: UTF8.self) } catch {
                throw RemfsError(.internal, "settings cannot be passed on", cause: "\(error)")
            }
        }
    }

    /// nil: written by a remfs that knew other settings.
    init?(text: String) {
        // As said: there is then nothing to go back to, and the configuration's own error is reported.
        guard let settings = try? JSONDecoder().decode(Settings.self, from: Data(text.utf8)) else { return nil }
        self = settings
    }
}

/// The usual places (`design.md` 2), by who we are.
private struct Places {
    let state: String
    let runtime: String
    let configuration: String

    init(_ environment: [String: String]) {
        func variable(_ name: String) -> String? {
            // systemd may list several directories.
            environment[name].flatMap { $0.split(separator: ":").first }.map(String.init)
        }
        if geteuid() == 0 || environment["STATE_DIRECTORY"] != nil {
            state = variable("STATE_DIRECTORY") ?? "/var/lib/remfs"
            runtime = variable("RUNTIME_DIRECTORY") ?? "/run/remfs"
            configuration = "/etc/remfs/remfs.yaml"
        } else {
            let home = variable("HOME") ?? "/"
            state = (variable("XDG_STATE_HOME") ?? "\(home)/.local/state") + "/remfs"
            // Without a session's runtime directory the socket lives beside the state: nobody else can put one there.
            runtime = variable("XDG_RUNTIME_DIR").map { "\($0)/remfs" } ?? "\(state)/run"
            configuration = (variable("XDG_CONFIG_HOME") ?? "\(home)/.config") + "/remfs/remfs.yaml"
        }
    }
}
