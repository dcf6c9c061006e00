import HTTPTypes
import Hummingbird
import Storage

/// Stores as files: `GET .../export` and `POST /v1/memory_stores/import`.
struct ArchiveRoutes: Sendable {
    let stores: StorePool

    /// 256 MiB: an archive that goes into a store which others use is one transaction, and they wait for it.
    private static let largestAddition: Int64 = 256 << 20

    enum Format: String, CaseIterable { case tar, sqlite }
    enum Links: String, CaseIterable { case inside, any }

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/export", needs: .store(.read), use: export)
        routes.on(.post, "/v1/memory_stores/import", needs: .some(.write), bodyLimit: .max, use: take)
    }

    func export(_ request: Request, _ context: ControlContext) async throws -> Response {
        let id = try context.storeID
        let query = Result { () throws(RemfsError) -> (format: Format, at: StorePoint) in
            let query = try request.query
            let format = try query.choice("format", of: Format.allCases) ?? .tar
            guard let text = query.string("at") else { return (format, .now) }
            guard let at = StorePoint(text, time: { Timestamp(rfc3339: $0) }) else {
                throw RemfsError(.invalidArgument, "query parameter at must be an RFC 3339 time or a memory version")
            }
            guard format == .tar else { throw RemfsError(.invalidArgument, "a SQLite file holds all times: leave out the parameter at") }
            return (format, at)
        }
        let stores = stores
        // The store first: an unknown one is 404 whatever the query says.
        let (format, at) = try await stores.run { () throws(RemfsError) in
            _ = try stores.catalog.store(id)
            return try query.get()
        }
        if format == .sqlite { return try await SpoolFile.backup(of: id, stores, context) }
        let file = try await stores.perform(id) { (store) throws(RemfsError) in
            let file = try SpoolFile(in: stores, context.requestID, of: id)
            var waiting: [UInt8] = []
            try store.making(.export, of: at, by: context.author) { () throws(RemfsError) in
                _ = try store.export(at: at) { (bytes) throws(RemfsError) in
                    waiting += bytes
                    guard waiting.count >= 256 << 10 else { return }
                    try file.append(waiting)
                    waiting = []
                }
                try file.append(waiting)
            }
            return file
        }
        return try await file.response("application/x-tar", stores)
    }

    func take(_ request: Request, _ context: ControlContext) async throws -> Wire.Import {
        let stores = stores
        // Before anything is sent: what is wrong with the question costs no upload.
        let query = try ImportQuery(try request.query)
        if let id = query.store {
            try context.require(.write, on: id)
        } else {
            try context.requireEverywhere(.admin)
        }
        if let id = query.store { _ = try await stores.run { () throws(RemfsError) in try stores.catalog.store(id) } }
        let file = try await stores.run { () throws(RemfsError) in try SpoolFile(in: stores, context.requestID) }
        try await file.receive(request, stores)
        return try await stores.run { () throws(RemfsError) in
            let isDatabase = try file.read(at: 0, 16).elementsEqual("SQLite format 3\0".utf8)
            guard let new = query.new else {
                guard !isDatabase, let id = query.store else {
                    throw RemfsError(.invalidArgument, "a store's file becomes a new store: leave out memory_store_id")
                }
                let size = try file.size
                guard size <= Self.largestAddition else {
                    throw RemfsError(
                        .bodyTooLarge,
                        "the archive has \(size) bytes: into a store that is in use go \(Self.largestAddition). Make a new one of it")
                }
                let counts = try stores.withStore(id) { (store) throws(RemfsError) in
                    try store.take(EntrySource(file.archive), query.rules, by: context.author)
                }
                return Wire.Import(try stores.catalog.store(id), counts)
            }
            guard isDatabase else {
                let (store, counts) = try stores.importStore(new, from: file.archive, query.rules, by: context.author)
                return Wire.Import(store, counts)
            }
            let store = try stores.importStore(new, fromFile: file.path)
            let statistics = try stores.withStore(store.id) { (store) throws(RemfsError) in try store.statistics() }
            var counts = ImportCounts()
            counts.created = Int(statistics.memories)
            counts.bytes = statistics.bytes
            return Wire.Import(store, counts)
        }
    }
}

/// The query of an import.
private struct ImportQuery: Sendable {
    /// The store that is to be made; nil: one that is there.
    let new: StorePool.NewStore?
    let store: StoreID?
    var rules = ImportRules()

    init(_ query: Query) throws(RemfsError) {
        if let text = query.string("memory_store_id") {
            guard let id = StoreID(text) else { throw RemfsError(.notFound, "memory store \(text.prefix(80)) not found") }
            store = id
            new = nil
            guard query.string("name") == nil, query.string("description") == nil else {
                throw RemfsError(.invalidArgument, "query parameters name and memory_store_id exclude each other")
            }
        } else {
            guard let name = query.string("name") else {
                throw RemfsError(.invalidArgument, "one of the query parameters name and memory_store_id is required")
            }
            store = nil
            new = StorePool.NewStore(name: name, description: query.string("description") ?? "")
        }
        if let prefix = query.string("path_prefix") {
            guard prefix.utf8.last == UInt8(ascii: "/") else { throw RemfsError(.invalidArgument, "path_prefix must start and end with /") }
            if prefix != "/" { _ = try MemoryPath(String(prefix.dropLast())) }
            rules.prefix = prefix
        }
        rules.takesLinksOut = try query.choice("links", of: ArchiveRoutes.Links.allCases) == .any
    }
}

extension SpoolFile {
    /// What stands in it, as a tar archive. Read by one thread.
    fileprivate var archive: ArchiveReader {
        var offset: Int64 = 0
        return ArchiveReader { (count) throws(RemfsError) in
            let bytes = try self.read(at: offset, count)
            offset += Int64(bytes.count)
            return bytes
        }
    }
}

extension Wire.Import {
    init(_ store: Store, _ counts: ImportCounts) {
        self.init(
            memoryStore: Wire.Store(store), created: counts.created, modified: counts.modified, unchanged: counts.unchanged,
            directories: counts.directories, others: counts.others, secrets: counts.secrets,
            contentSizeBytes: counts.bytes)
    }
}
