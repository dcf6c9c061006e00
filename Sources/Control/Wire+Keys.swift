package import Storage

extension Wire {
    /// A key: an addition of ours. `secret` is there once, in the answer to the request that made it.
    package struct Key: Codable, Sendable {
        package var id: String
        package var type = "api_key"
        package var name: String
        package var permission: Scopes.Permission
        /// nil: all stores.
        @Nullable package var memoryStoreIDs: [String]?
        package var createdAt: String
        @Nullable package var revokedAt: String?
        package var secret: String?

        private enum CodingKeys: String, CodingKey {
            case id, type, name, permission, secret
            case memoryStoreIDs = "memory_store_ids"
            case createdAt = "created_at"
            case revokedAt = "revoked_at"
        }
    }

    package struct CreateKey: Encodable, Sendable {
        package var name: String
        package var permission: Scopes.Permission
        package var memoryStoreIDs: [String]?

        package init(name: String, permission: Scopes.Permission, memoryStoreIDs: [String]?) {
            self.name = name
            self.permission = permission
            self.memoryStoreIDs = memoryStoreIDs
        }

        private enum CodingKeys: String, CodingKey {
            case name, permission
            case memoryStoreIDs = "memory_store_ids"
        }
    }
}

extension Wire.Key {
    package init(_ key: APIKey, secret: String? = nil) {
        self.init(
            id: key.id.description, name: key.name, permission: key.scopes.permission,
            memoryStoreIDs: key.scopes.stores.map { $0.map(\.description).sorted() }, createdAt: key.created.rfc3339,
            revokedAt: key.revoked?.rfc3339, secret: secret)
    }
}
