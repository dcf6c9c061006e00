import HTTPTypes
import Hummingbird
import ServiceLifecycle
import Storage

/// `GET /v1/memory_stores/{store}/events/stream`: what happens in a store, as it happens.
///
/// Versions are told of when they are sealed and no temporary file may be behind them, by the rule of the list that `after` has
/// (`VersionRoutes`); refusals at once.
struct ChangeRoutes: Sendable {
    private let stores: StorePool
    private let watch: VersionWatch
    private let refusals = EventHub<StoreID>()

    init(stores: StorePool, watch: VersionWatch) {
        self.stores = stores
        self.watch = watch
        stores.observeRefusals { [refusals] id, error in
            guard refusals.hasReaders(of: id) else { return }
            let event = Wire.Refusal(
                memoryStoreID: id.description, code: error.code.rawValue, message: error.message, createdAt: Timestamp.now().rfc3339)
            // `try?`: strings always make JSON.
            if let frame = try? EventFrame(type: event.type, event) { refusals.publish([frame], to: id) }
        }
    }

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/events/stream", needs: .store(.read), use: stream)
    }

    func stream(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.storeID
        // Before anything is looked up: what is refused from here on is told.
        let reader = refusals.subscribe(to: id, context.requestID)
        let query = Result { () throws(RemfsError) in try request.query }
        let first = try await stores.perform(id) { (store) throws(RemfsError) -> Int64 in
            switch try query.get().string("after") {
            case nil: return try store.statistics().newestVersion
            case "start": return 0
            case let text?:
                guard let number = VersionID(text)?.number(in: id) else {
                    throw RemfsError(.invalidArgument, "query parameter after must be \"start\" or a memory version of this store")
                }
                return number
            }
        }
        pump(id, after: first, into: reader)
        return EventStream.response(reader, context)
    }

    private struct Held: Sendable { weak let reader: EventReader? }

    /// Hands a store's versions to a reader until that goes, or the daemon stops.
    private func pump(_ id: StoreID, after first: Int64, into reader: EventReader) {
        // What ends it is that nobody holds the reader any more: it asks each time it wakes.
        let held = Held(reader: reader)
        Task { await follow(id, after: first, for: held) }
    }

    private func follow(_ id: StoreID, after first: Int64, for held: Held) async {
        do {
            try await cancelWhenGracefulShutdown { try await tell(held, of: id, after: first) }
        } catch let error as RemfsError {
            held.reader?.end(error)
        } catch {
            // Cancelled: the daemon stops, and ends all streams.
        }
    }

    /// Until the reader has gone.
    private func tell(_ held: Held, of id: StoreID, after first: Int64) async throws {
        var seen = first
        while !Task.isCancelled, held.reader != nil {
            let after = seen
            let (frames, last) = try await stores.perform(id) { (store) throws(RemfsError) -> ([EventFrame], Int64?) in
                let versions = try store.versions(VersionFilter(), after: after, limit: 100)
                var frames: [EventFrame] = []
                for version in versions { frames += try Wire.Change.frames(of: version, in: store) }
                return (frames, versions.last?.number)
            }
            if let last {
                seen = last
                held.reader?.post(frames)
            } else if await watch.wait(for: id, after: seen, until: .now + .seconds(5)) {
                // There may be one that is so young that it may be a temporary file: a second decides that.
                let isYoung = try await stores.perform(id) { (store) throws(RemfsError) in
                    try store.versions(VersionFilter(), after: after, limit: 1).isEmpty
                }
                if isYoung { try await Task.sleep(for: .milliseconds(200)) }
            }
        }
    }
}

extension Wire {
    /// One thing that happened in a store: `memory.created`, `memory.modified`, `memory.deleted`, `memory.stale_write` or
    /// `memory.secret_found`.
    package struct Change: Codable, Sendable {
        package var type: String
        package var version: Version

        /// A stale write, or one with a secret in it, is told twice: as what it did, and as what it is.
        static func frames(of version: MemoryVersion, in store: MemoryStore) throws(RemfsError) -> [EventFrame] {
            let shown = try Version(version, in: store, .basic)
            var types = ["memory.\(version.operation.rawValue)"]
            if version.isStale { types.append("memory.stale_write") }
            if version.secrets?.isEmpty == false { types.append("memory.secret_found") }
            var frames: [EventFrame] = []
            for type in types { frames.append(try EventFrame(type: type, Change(type: type, version: shown))) }
            return frames
        }
    }

    /// A change that the store's rules did not let happen.
    package struct Refusal: Codable, Sendable {
        package var type = "memory.refused"
        package var memoryStoreID: String
        /// `RemfsError.Code`.
        package var code: String
        package var message: String
        package var createdAt: String

        private enum CodingKeys: String, CodingKey {
            case type, code, message
            case memoryStoreID = "memory_store_id"
            case createdAt = "created_at"
        }
    }
}
