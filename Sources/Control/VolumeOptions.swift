import Glibc
import Storage

/// What a container engine's user said of a volume with `-o`.
struct VolumeOptions: Sendable {
    private struct Choice {
        let store: String
        let access: Access?
    }
    private enum Stores {
        case named([Choice])
        /// Those of a session that is there.
        case session(SessionID)
    }

    private static let shown = ["uid", "gid", "umask", "history", "on_stale_write", "coherence", "xattr", "exec"]
    private static let known = Set(["store", "session", "access", "title"] + shown)

    private let stores: Stores
    private let access: Access
    private let title: String?
    /// How the stores are shown: fields of the object `remfs` of a session's resource.
    private let view: [ExactString: JSONValue]

    /// - Parameter name: of the volume, which is that of its store where none is said.
    init(_ options: Metadata, of name: String) throws(RemfsError) {
        if let unknown = options.keys.filter({ !Self.known.contains($0.text) }).min() {
            throw RemfsError(
                .invalidArgument,
                "option \(Body.quoted(unknown.text)) is not known, known are \(Self.known.sorted().joined(separator: ", "))")
        }
        title = options["title"]
        switch options["access"] {
        case nil: access = .readWrite
        case let text?:
            guard let access = Access(rawValue: text) else { throw Self.wrong("access", "read_write or read_only") }
            self.access = access
        }
        var view: [ExactString: JSONValue] = [:]
        for key in Self.shown {
            let key = ExactString(key)
            if let text = options[key] { view[key] = try Self.value(text, of: key.text) }
        }
        self.view = view
        if let session = options["session"] {
            guard options.count == 1 else {
                throw RemfsError(.invalidArgument, "option session goes with no other: the session says which stores there are, and how")
            }
            guard let id = SessionID(session) else { throw RemfsError(.notFound, "session \(Body.quoted(session)) not found") }
            stores = .session(id)
            return
        }
        stores = .named(try Self.choices(options["store"] ?? name))
        _ = try checkedView()
    }

    private static func choices(_ text: String) throws(RemfsError) -> [Choice] {
        var choices: [Choice] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let suffixes: [(String, Access)] = [(":ro", .readOnly), (":rw", .readWrite)]
            let suffix = suffixes.first { part.hasSuffix($0.0) }
            let store = String(suffix == nil ? part : part.dropLast(3))
            guard !store.isEmpty else { throw wrong("store", "names or IDs of stores, with commas, each read-only with :ro") }
            choices.append(Choice(store: store, access: suffix?.1))
        }
        return choices
    }

    /// As JSON has it, of which `MountOptions` then says whether it can be.
    private static func value(_ text: String, of key: String) throws(RemfsError) -> JSONValue {
        switch key {
        case "uid", "gid":
            guard let number = UInt32(text) else { throw wrong(key, "a number") }
            return .integer(Int64(number))
        case "umask":
            guard let bits = UInt32(text, radix: 8), bits <= 0o777 else { throw wrong(key, "an octal mode up to 777") }
            return .integer(Int64(bits))
        case "history", "xattr", "exec":
            guard let value = Bool(text) else { throw wrong(key, "true or false") }
            return .boolean(value)
        default: return .string(text)
        }
    }

    private static func wrong(_ key: String, _ expected: String) -> RemfsError {
        RemfsError(.invalidArgument, "option \(key) must be \(expected)")
    }

    private func checkedView() throws(RemfsError) -> String? {
        var view = view
        // Whoever is not root works as who they are: what is stored as root's they could not write to.
        if geteuid() != 0 {
            if view["uid"] == nil { view["uid"] = .integer(Int64(geteuid())) }
            if view["gid"] == nil { view["gid"] = .integer(Int64(getegid())) }
        }
        guard !view.isEmpty else { return nil }
        let text = JSONValue.object(view).text
        do throws(RemfsError) { try Body(parsing: text.utf8).checkMountOptions() } catch {
            throw RemfsError(error.code, "option \(error.message)")
        }
        return text
    }

    /// What the volume is to be made of. Waits for the catalog.
    func source(_ catalog: Catalog, for name: String, owner: UInt32?) throws(RemfsError) -> VolumeSource {
        let choices: [Choice]
        switch stores {
        case .session(let id): return .existing(id)
        case .named(let named): choices = named
        }
        let options = try checkedView()
        var request = SessionRequest(agent: Session.Agent(id: "container"), environment: "volume")
        request.title = title ?? name
        request.metadata = ["volume": name]
        request.owner = owner
        for choice in choices {
            request.resources.append(
                .init(store: try Self.store(choice.store, catalog), access: choice.access ?? access, options: options))
        }
        return .new(request)
    }

    /// The store that an ID, or a name that only one store has, stands for.
    private static func store(_ reference: String, _ catalog: Catalog) throws(RemfsError) -> String {
        if StoreID(reference) != nil { return reference }
        var named = try catalog.stores(named: reference)
        if named.isEmpty { named = try catalog.stores(named: reference, includeArchived: true) }
        guard let store = named.first else {
            throw RemfsError(.notFound, "store \"\(Body.quoted(reference))\" not found: name one with the option store")
        }
        guard named.count == 1 else {
            let ids = named.prefix(8).map(\.id.description).joined(separator: ", ")
            throw RemfsError(.invalidArgument, "store \"\(Body.quoted(reference))\" is the name of \(named.count): \(ids)")
        }
        return store.id.description
    }
}
