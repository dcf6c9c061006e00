import Storage

/// A store in a directory of its own, without any mount.
package struct TemporaryStore: Sendable {
    package let pool: StorePool
    package let store: MemoryStore
    package var id: StoreID { store.id }

    package static func with<Result>(
        memories: [String: String] = [:], policy: Policy? = nil, _ body: (TemporaryStore) throws -> Result
    ) async throws -> Result {
        try await blocking {
            try TemporaryDirectory.with { directory in
                let log = ErrorLog()
                let pool = try StorePool(stateDirectory: directory + "/state", logger: log.logger)
                defer { pool.close() }
                let id = try pool.createStore(name: "test", description: "", metadata: [:]).id
                if let policy { _ = try pool.setPolicy(id, policy) }
                let store = try pool.retain(id)
                defer { pool.release(id) }
                try store.add(memories)
                let result = try body(TemporaryStore(pool: pool, store: store))
                log.expectNone()
                return result
            }
        }
    }
}

extension MemoryStore {
    /// Creates memories through the API, in the order of their paths.
    package func add(_ memories: [String: String]) throws {
        for (path, content) in memories.sorted(by: { $0.key < $1.key }) {
            _ = try commit(.create(path: MemoryPath(path), content: Array(content.utf8)), by: Author(.local))
        }
    }

    /// What the API says a memory holds now.
    package func text(_ path: String) throws -> String {
        String(decoding: try content(of: try memory(at: path)), as: UTF8.self)
    }

    /// Changes a memory's content through the API.
    package func update(_ path: String, _ content: String) throws {
        _ = try commit(.update(try memory(at: path).id, content: Array(content.utf8), path: nil), by: Author(.local))
    }
}
