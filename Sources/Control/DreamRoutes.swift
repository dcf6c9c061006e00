import HTTPTypes
import Hummingbird
import Storage

/// `/v1/dreams` (`api.md` 6), as far as there are any: no model is configured, so each is refused, and there is none to show.
struct DreamRoutes: Sendable {
    let stores: StorePool
    /// What a dream's model may be.
    let models: [String]

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/dreams", use: list)
        routes.on(.post, "/v1/dreams", use: create)
        routes.on(.get, "/v1/dreams/:dream", use: get)
        routes.on(.post, "/v1/dreams/:dream/cancel", use: get)
        routes.on(.post, "/v1/dreams/:dream/archive", use: get)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Deleted> {
        let query = try request.query
        let page = try PageRequest(query)
        _ = try query.choices("statuses", of: DreamStatus.allCases)
        _ = try query.boolean("include_archived")
        for bound in ["gt", "lt"] { _ = try query.time("created_at[\(bound)]") }
        guard page.cursor == nil else { throw PageRequest.unreadable }
        return Wire.Page(data: [], nextPage: nil)
    }

    private enum DreamStatus: String, CaseIterable { case pending, running, completed, failed, canceled }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let id = try context.id("dream", of: "dream", as: DreamID.self)
        throw RemfsError(.notFound, "dream \(id) not found")
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let body = try await request.collectFields().get()
        return try await stores.run { [models] () throws(RemfsError) in
            _ = try DreamRequest(body, stores.catalog, models: models)
            throw RemfsError(.unsupported, "this remfs runs no dreams yet")
        }
    }
}

/// What a dream is made of, checked rule by rule in the order of the contract (6.1).
struct DreamRequest: Sendable {
    enum Output: Sendable, Equatable {
        case createNew
        /// The input store itself.
        case updateExisting
    }

    let store: Store
    /// Sorted, as the contract shows them.
    let sessions: [SessionID]
    let model: String
    let instructions: String?
    let output: Output

    init(_ body: Body, _ catalog: Catalog, models: [String]) throws(RemfsError) {
        try body.allow("inputs", "model", "instructions", "output_behavior")
        let (storeText, sessionTexts) = try Self.inputs(body)
        guard let id = StoreID(storeText) else { throw RemfsError(.notFound, "memory store \(Body.quoted(storeText)) not found") }
        store = try catalog.store(id)
        var sessions: [SessionID] = []
        for text in sessionTexts {
            guard let session = SessionID(text) else { throw RemfsError(.notFound, "session \(Body.quoted(text)) not found") }
            sessions.append(try catalog.session(session).id)
        }
        self.sessions = sessions.sorted { $0.description < $1.description }
        guard store.archived == nil else { throw RemfsError(.readOnly, "\(store.label) is archived") }
        model = try Self.model(body, models)
        instructions = try body.string("instructions")
        if let instructions, !(1...4_096).contains(instructions.unicodeScalars.count) {
            throw RemfsError(.invalidArgument, "instructions must have 1 to 4,096 characters")
        }
        output = try Self.output(body, storeText)
    }

    /// Exactly one store and one list of sessions.
    private static func inputs(_ body: Body) throws(RemfsError) -> (store: String, sessions: [String]) {
        guard let inputs = try body.objects("inputs") else { throw RemfsError(.invalidArgument, "inputs is required") }
        var store: String?
        var sessions: [String]?
        for input in inputs {
            switch try input.requiredString("type") {
            case "memory_store":
                try input.allow("type", "memory_store_id")
                guard store == nil else { throw input.refusal("type", "is \"memory_store\" again: there can be one") }
                store = try input.requiredString("memory_store_id")
            case "sessions":
                try input.allow("type", "session_ids")
                guard sessions == nil else { throw input.refusal("type", "is \"sessions\" again: there can be one") }
                let ids = try input.strings("session_ids") ?? []
                guard (1...100).contains(ids.count) else { throw input.refusal("session_ids", "must have 1 to 100 items") }
                guard Set(ids).count == ids.count else { throw input.refusal("session_ids", "must not have one twice") }
                sessions = ids
            default: throw input.refusal("type", "must be \"memory_store\" or \"sessions\"")
            }
        }
        guard let store, let sessions else {
            throw RemfsError(.invalidArgument, "inputs must have one entry of type \"memory_store\" and one of type \"sessions\"")
        }
        return (store, sessions)
    }

    private static func model(_ body: Body, _ models: [String]) throws(RemfsError) -> String {
        let name: String
        switch body.value("model") {
        case .null: throw RemfsError(.invalidArgument, "model is required")
        case .string(let text): name = text
        default:
            guard let model = try body.object("model") else { throw RemfsError(.invalidArgument, "model is required") }
            try model.allow("id", "speed")
            name = try model.requiredString("id")
            guard try model.string("speed") ?? "standard" == "standard" else { throw model.refusal("speed", "must be \"standard\"") }
        }
        guard (1...256).contains(name.unicodeScalars.count) else {
            throw RemfsError(.invalidArgument, "model must have 1 to 256 characters")
        }
        guard models.contains(name) else {
            let known = models.isEmpty ? "none is configured" : models.sorted().joined(separator: ", ")
            throw RemfsError(.invalidArgument, "model \"\(Body.quoted(name))\" is not known to this daemon; known models: \(known)")
        }
        return name
    }

    private static func output(_ body: Body, _ store: String) throws(RemfsError) -> Output {
        guard let behavior = try body.object("output_behavior") else { return .createNew }
        switch try behavior.requiredString("type") {
        case "create_new":
            try behavior.allow("type")
            return .createNew
        case "update_existing":
            try behavior.allow("type", "memory_store_id")
            guard try behavior.requiredString("memory_store_id") == store else {
                throw behavior.refusal("memory_store_id", "must be that of the input store")
            }
            return .updateExisting
        default: throw behavior.refusal("type", "must be \"create_new\" or \"update_existing\"")
        }
    }
}
