package import Filesystem
package import Storage

/// The shapes of the contract (`api.md`), as both the daemon and the command line read and write them.
package enum Wire {
    /// A field that is always present: `null` when there is nothing. (Synthesized `Codable` leaves a nil optional out.)
    @propertyWrapper
    package struct Nullable<Value: Codable & Sendable>: Codable, Sendable {
        package var wrappedValue: Value?
        package init(wrappedValue: Value?) { self.wrappedValue = wrappedValue }

        package init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            wrappedValue = container.decodeNil() ? nil : try container.decode(Value.self)
        }

        package func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            if let wrappedValue { try container.encode(wrappedValue) } else { try container.encodeNil() }
        }
    }

    package struct Page<Item: Codable & Sendable>: Codable, Sendable {
        package var data: [Item]
        @Nullable package var nextPage: String?

        package init(data: [Item], nextPage: String?) {
            self.data = data
            self.nextPage = nextPage
        }

        private enum CodingKeys: String, CodingKey {
            case data
            case nextPage = "next_page"
        }
    }

    package struct Failure: Codable, Sendable {
        package var type = "error"
        package var error: Reason
        package var requestID: String

        package struct Reason: Codable, Sendable {
            package var type: String
            package var message: String
            package var conflictingMemoryID: String?
            package var conflictingPath: String?

            private enum CodingKeys: String, CodingKey {
                case type, message
                case conflictingMemoryID = "conflicting_memory_id"
                case conflictingPath = "conflicting_path"
            }
        }

        private enum CodingKeys: String, CodingKey {
            case type, error
            case requestID = "request_id"
        }
    }

    /// What remains to say of a thing that was deleted.
    package struct Deleted: Codable, Sendable {
        package var id: String
        package var type: String
    }

    package struct Store: Codable, Sendable {
        package var id: String
        package var type = "memory_store"
        package var name: String
        package var description: String
        package var metadata: Metadata
        package var createdAt: String
        package var updatedAt: String
        @Nullable package var archivedAt: String?

        private enum CodingKeys: String, CodingKey {
            case id, type, name, description, metadata
            case createdAt = "created_at"
            case updatedAt = "updated_at"
            case archivedAt = "archived_at"
        }
    }

    package struct Policy: Codable, Sendable {
        package var type = "memory_store_policy"
        package var memoryStoreID: String
        package var access: Access
        package var contract: Bool
        package var maxBytesPerMemory: Int64
        package var maxMemories: Int64
        @Nullable package var maxBytes: Int64?
        package var unversioned: [String]
        package var secrets: Storage.Policy.Secrets
        @Nullable package var retentionDays: Int?

        private enum CodingKeys: String, CodingKey {
            case type, access, contract, unversioned, secrets
            case memoryStoreID = "memory_store_id"
            case maxBytesPerMemory = "max_bytes_per_memory"
            case maxMemories = "max_memories"
            case maxBytes = "max_bytes"
            case retentionDays = "retention_days"
        }
    }

    package struct StoreStatistics: Codable, Sendable {
        package var type = "memory_store_statistics"
        package var memoryStoreID: String
        package var memories: Int64
        package var versions: Int64
        package var files: Int64
        package var contentSizeBytes: Int64
        package var diskSizeBytes: Int64

        private enum CodingKeys: String, CodingKey {
            case type, memories, versions, files
            case memoryStoreID = "memory_store_id"
            case contentSizeBytes = "content_size_bytes"
            case diskSizeBytes = "disk_size_bytes"
        }
    }

    package struct Memory: Codable, Sendable {
        package var id: String
        package var type = "memory"
        package var memoryStoreID: String
        package var memoryVersionID: String
        package var path: String
        @Nullable package var content: String?
        package var contentSHA256: String
        package var contentSizeBytes: Int64
        package var createdAt: String
        package var updatedAt: String

        private enum CodingKeys: String, CodingKey {
            case id, type, path, content
            case memoryStoreID = "memory_store_id"
            case memoryVersionID = "memory_version_id"
            case contentSHA256 = "content_sha256"
            case contentSizeBytes = "content_size_bytes"
            case createdAt = "created_at"
            case updatedAt = "updated_at"
        }
    }

    /// An item of a listing with `depth=1`: a memory, or `{"type": "memory_prefix", "path"}`.
    package enum Listing: Codable, Sendable {
        case memory(Memory)
        case prefix(String)

        private enum CodingKeys: String, CodingKey { case type, path }

        package init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            if try container.decode(String.self, forKey: .type) == "memory_prefix" {
                self = .prefix(try container.decode(String.self, forKey: .path))
            } else {
                self = .memory(try Memory(from: decoder))
            }
        }

        package func encode(to encoder: any Encoder) throws {
            switch self {
            case .memory(let memory): try memory.encode(to: encoder)
            case .prefix(let path):
                var container = encoder.container(keyedBy: CodingKeys.self)
                try container.encode("memory_prefix", forKey: .type)
                try container.encode(path, forKey: .path)
            }
        }
    }

    /// Who made a version: a type, and one ID under the name that belongs to it.
    package struct Actor: Codable, Sendable {
        package var actor: MemoryActor

        private enum CodingKeys: String, CodingKey {
            case type
            case session = "session_id"
            case apiKey = "api_key_id"
            case user = "user_id"
            case serviceAccount = "service_account_id"
        }

        package init(_ actor: MemoryActor) { self.actor = actor }

        package init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            switch try container.decode(String.self, forKey: .type) {
            case "session_actor": actor = .session(try container.decode(String.self, forKey: .session))
            case "api_actor": actor = .api(keyID: try container.decode(String.self, forKey: .apiKey))
            case "user_actor": actor = .user(try container.decode(String.self, forKey: .user))
            case "service_account_actor": actor = .serviceAccount(try container.decode(String.self, forKey: .serviceAccount))
            default: throw DecodingError.dataCorruptedError(forKey: .type, in: container, debugDescription: "unknown actor")
            }
        }

        private var kind: (type: String, key: CodingKeys) {
            switch actor {
            case .session: ("session_actor", .session)
            case .api: ("api_actor", .apiKey)
            case .user: ("user_actor", .user)
            case .serviceAccount: ("service_account_actor", .serviceAccount)
            }
        }

        /// As it is encoded.
        var json: JSONValue { .object(["type": .string(kind.type), ExactString(kind.key.rawValue): .string(actor.id)]) }

        package func encode(to encoder: any Encoder) throws {
            let (type, key) = kind
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(type, forKey: .type)
            try container.encode(actor.id, forKey: key)
        }
    }

    package struct Writer: Codable, Sendable {
        @Nullable package var uid: UInt32?
        @Nullable package var pid: Int32?
        @Nullable package var command: String?
    }

    package struct Version: Codable, Sendable {
        package var id: String
        package var type = "memory_version"
        package var memoryID: String
        package var memoryStoreID: String
        package var operation: String
        @Nullable package var path: String?
        @Nullable package var content: String?
        @Nullable package var contentSHA256: String?
        @Nullable package var contentSizeBytes: Int64?
        package var createdAt: String
        @Nullable package var createdBy: Actor?
        @Nullable package var redactedAt: String?
        @Nullable package var redactedBy: Actor?
        @Nullable package var baseVersionID: String?
        package var stale: Bool
        package var pinned: Bool
        package var writer: Writer
        @Nullable package var trust: Storage.Session.Trust?
        /// Kinds of secrets that were found in it; left out where none were, or nobody looked.
        package var secrets: [String]?

        private enum CodingKeys: String, CodingKey {
            case id, type, operation, path, content, stale, pinned, writer, trust, secrets
            case memoryID = "memory_id"
            case memoryStoreID = "memory_store_id"
            case contentSHA256 = "content_sha256"
            case contentSizeBytes = "content_size_bytes"
            case createdAt = "created_at"
            case createdBy = "created_by"
            case redactedAt = "redacted_at"
            case redactedBy = "redacted_by"
            case baseVersionID = "base_version_id"
        }
    }

    package struct Merge: Codable, Sendable {
        package var type = "memory_merge"
        package var memory: Memory
        /// Places that both sides changed, left in the memory between conflict markers.
        package var conflicts: Int
    }

    package struct Mount: Codable, Sendable {
        package var id: String
        package var type = "mount"
        package var memoryStoreID: String
        @Nullable package var sessionID: String?
        package var directory: String
        package var access: Access
        @Nullable package var at: String?
        package var state: String
        package var createdAt: String
        package var remfs: MountOptions

        private enum CodingKeys: String, CodingKey {
            case id, type, directory, access, at, state, remfs
            case memoryStoreID = "memory_store_id"
            case sessionID = "session_id"
            case createdAt = "created_at"
        }
    }

    /// The object `remfs` of a mount and, later, of a session's resource.
    package struct MountOptions: Codable, Sendable {
        @Nullable package var uid: UInt32?
        @Nullable package var gid: UInt32?
        @Nullable package var umask: UInt32?
        package var history: Bool
        package var onStaleWrite: String
        package var coherence: String
        package var xattr: Bool
        package var exec: Bool
        package var allowOther: Bool

        private enum CodingKeys: String, CodingKey {
            case uid, gid, umask, history, coherence, xattr, exec
            case onStaleWrite = "on_stale_write"
            case allowOther = "allow_other"
        }
    }

    /// How many requests the kernel has sent a mount, by operation.
    package struct MountRequests: Codable, Sendable {
        package var type = "mount_requests"
        package var mountID: String
        package var requests: [String: UInt64]

        private enum CodingKeys: String, CodingKey {
            case type, requests
            case mountID = "mount_id"
        }
    }

    package struct Status: Codable, Sendable {
        package var type = "status"
        package var version: String
        package var pid: Int32
        package var startedAt: String
        package var stateDirectory: String
        package var stores: Int
        package var openStores: Int
        package var mounts: Int

        private enum CodingKeys: String, CodingKey {
            case type, version, pid, stores, mounts
            case startedAt = "started_at"
            case stateDirectory = "state_directory"
            case openStores = "open_stores"
        }
    }
}

// MARK: From the domain's values

extension Wire {
    /// What is longer has no JSON string: a reader takes it raw (`.../content`).
    static let maximumTextBytes: Int64 = 1 << 20

    /// Content as the contract shows it: nil above 1 MiB or when it is no UTF-8.
    static func text(_ content: [UInt8]) -> String? {
        content.count <= maximumTextBytes ? String(validating: content, as: UTF8.self) : nil
    }
}

extension Wire.Store {
    package init(_ store: Store) {
        self.init(
            id: store.id.description, name: store.name, description: store.description, metadata: Wire.Metadata(store.metadata),
            createdAt: store.created.rfc3339, updatedAt: store.updated.rfc3339, archivedAt: store.archived?.rfc3339)
    }
}

extension Wire.Policy {
    package init(_ policy: Policy, of store: StoreID) {
        self.init(
            memoryStoreID: store.description, access: policy.access, contract: policy.contract, maxBytesPerMemory: policy.maxBytesPerMemory,
            maxMemories: policy.maxMemories, maxBytes: policy.maxBytes, unversioned: policy.unversioned, secrets: policy.secrets,
            retentionDays: policy.retentionDays)
    }
}

extension Wire.Memory {
    package init(_ memory: Memory, content: [UInt8]?) {
        self.init(
            id: memory.id.description, memoryStoreID: memory.store.description, memoryVersionID: memory.version.description,
            path: memory.path, content: content.flatMap(Wire.text), contentSHA256: memory.contentSHA256,
            contentSizeBytes: memory.sizeInBytes, createdAt: memory.created.rfc3339, updatedAt: memory.updated.rfc3339)
    }

    /// Reads the content only where the view asks for it and JSON can hold it.
    package init(_ memory: Memory, in store: MemoryStore, _ view: View) throws(RemfsError) {
        let shown = view == .full && memory.sizeInBytes <= Wire.maximumTextBytes
        self.init(memory, content: shown ? try store.content(of: memory) : nil)
    }
}

extension Wire.Version {
    package init(_ version: MemoryVersion, in store: MemoryStore, _ view: View) throws(RemfsError) {
        let shown = view == .full && (version.sizeInBytes ?? 0) <= Wire.maximumTextBytes
        let content = shown ? try store.content(of: version) : nil
        let writer = version.author.writer
        self.init(
            id: version.id.description, memoryID: version.memory.description, memoryStoreID: version.store.description,
            operation: version.operation.rawValue, path: version.path, content: content.flatMap(Wire.text),
            contentSHA256: version.contentSHA256, contentSizeBytes: version.sizeInBytes, createdAt: version.created.rfc3339,
            createdBy: Wire.Actor(version.author.actor), redactedAt: version.redacted?.rfc3339,
            redactedBy: version.redactedBy.map { Wire.Actor($0) }, baseVersionID: version.base?.description, stale: version.isStale,
            pinned: version.isPinned, writer: Wire.Writer(uid: writer.uid, pid: writer.pid, command: writer.command),
            trust: version.author.trust, secrets: version.secrets.flatMap { $0.isEmpty ? nil : $0 })
    }
}

extension Wire.Mount {
    package init(_ mount: Mount) {
        let options = mount.options
        self.init(
            id: mount.id.description, memoryStoreID: mount.store.description, sessionID: mount.session?.description,
            directory: mount.directory, access: mount.access,
            at: options.at.map { Timestamp(microseconds: $0).rfc3339 }, state: mount.state.rawValue, createdAt: mount.created.rfc3339,
            remfs: Wire.MountOptions(
                uid: options.uid, gid: options.gid, umask: options.umask, history: options.history,
                onStaleWrite: options.onStaleWrite.rawValue, coherence: options.coherence.rawValue, xattr: options.xattr,
                exec: options.exec, allowOther: options.allowsOthers ?? false))
    }
}
