import Hummingbird
package import Storage

/// `/v1/memory_stores/{store}/gc`: retention now, and room given back to the disk.
struct UpkeepRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.post, "/v1/memory_stores/:store/gc", use: collect)
    }

    func collect(_ request: Request, _ context: ControlContext) async throws -> Wire.GarbageCollection {
        let id = try context.storeID
        // Bodyless as well: the SDKs' POSTs that ask for nothing have no body.
        let parsed = try await request.collectOptionalFields()
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let body = try parsed.get()
            try body?.allow("dry_run")
            let isDryRun = try body?.boolean("dry_run") ?? false
            let days = try stores.catalog.store(id).policy.retentionDays
            return Wire.GarbageCollection(try store.collectGarbage(isDryRun: isDryRun), of: id, isDryRun: isDryRun, retentionDays: days)
        }
    }
}

extension Wire {
    package struct GarbageCollection: Codable, Sendable {
        package var type = "memory_store_gc"
        package var memoryStoreID: String
        package var dryRun: Bool
        @Nullable package var retentionDays: Int?
        package var versions: Int64
        package var memories: Int64
        package var contentBytes: Int64
        package var fileBytesBefore: Int64
        package var fileBytesAfter: Int64

        private enum CodingKeys: String, CodingKey {
            case type, versions, memories
            case memoryStoreID = "memory_store_id"
            case dryRun = "dry_run"
            case retentionDays = "retention_days"
            case contentBytes = "content_bytes"
            case fileBytesBefore = "file_bytes_before"
            case fileBytesAfter = "file_bytes_after"
        }
    }
}

extension Wire.GarbageCollection: ResponseEncodable {}

extension Wire.GarbageCollection {
    package init(_ result: GarbageCollection, of store: StoreID, isDryRun: Bool, retentionDays: Int?) {
        self.init(
            memoryStoreID: store.description, dryRun: isDryRun, retentionDays: retentionDays, versions: result.versions,
            memories: result.memories, contentBytes: result.bytes, fileBytesBefore: result.fileBytesBefore,
            fileBytesAfter: result.fileBytesAfter)
    }
}
