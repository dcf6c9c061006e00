import Foundation
import Threads

/// What a key, or a caller without one, may do: one permission, on some stores or on all.
package struct Scopes: Sendable, Equatable, Codable {
    /// Each includes those before it.
    package enum Permission: String, Sendable, Codable, CaseIterable, Comparable {
        /// Memories, versions and rules of a store can be seen.
        case read
        /// Memories can be changed.
        case write
        /// Stores themselves can be: made, closed, deleted, mounted, given rules.
        case admin

        package static func < (one: Permission, other: Permission) -> Bool {
            allCases.firstIndex(of: one)! < allCases.firstIndex(of: other)!
        }
    }

    package let permission: Permission
    /// nil: all, also those that are made later.
    package let stores: Set<StoreID>?

    package init(_ permission: Permission, stores: Set<StoreID>? = nil) {
        self.permission = permission
        self.stores = stores
    }

    package static let everything = Scopes(.admin)

    /// What both allow.
    package func narrowed(to other: Scopes) -> Scopes {
        let common = stores.map { own in other.stores.map { own.intersection($0) } ?? own } ?? other.stores
        return Scopes(min(permission, other.permission), stores: common)
    }

    package func allows(_ wanted: Permission, on store: StoreID) -> Bool {
        permission >= wanted && (stores?.contains(store) ?? true)
    }

    /// On every store, and on what belongs to none.
    package func allowsEverywhere(_ wanted: Permission) -> Bool { permission >= wanted && stores == nil }
}

/// A key of the HTTP API. Its secret is known to whom it was given, and to nobody here.
package struct APIKey: Sendable {
    package let id: APIKeyID
    package let name: String
    package let scopes: Scopes
    package let created: Timestamp
    /// When it stopped to be good.
    package let revoked: Timestamp?
    /// SHA-256 of the secret.
    let digest: Digest
}

package struct APIKeyID: Identifier {
    package static let prefix = "apikey_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }

    /// The same for the same secret, and none of it: a digest that is not the one that is kept.
    init(ofSecret secret: String) {
        let bytes = Digest(of: Array("remfs key id\0\(secret)".utf8)).words
        bits = UInt128(bytes.0) << 64 | UInt128(bytes.1)
    }
}

/// All keys, in memory: looked at with each request that carries one. Safe from any thread; making and revoking one waits for the disk.
package final class KeyRing: Sendable {
    private let catalog: Catalog
    private let keys: Mutex<[APIKeyID: APIKey]>

    package init(_ catalog: Catalog) throws(RemfsError) {
        self.catalog = catalog
        keys = Mutex(Dictionary(try catalog.keys().map { ($0.id, $0) }, uniquingKeysWith: { $1 }))
    }

    /// The key of which this is the secret, also one that is revoked; nil: it is none of ours.
    package func key(secret: String) -> APIKey? {
        guard let found = keys.withLock({ $0[APIKeyID(ofSecret: secret)] }) else { return nil }
        return found.digest.isSame(as: Digest(of: Array(secret.utf8))) ? found : nil
    }

    /// Newest first.
    package func all() -> [APIKey] { keys.withLock { Array($0.values) }.sorted { $0.created.microseconds > $1.created.microseconds } }

    package func key(_ id: APIKeyID) throws(RemfsError) -> APIKey {
        guard let key = keys.withLock({ $0[id] }) else { throw RemfsError(.notFound, "key \(id) not found") }
        return key
    }

    /// Makes a key. Nothing but the answer holds its secret.
    package func create(name: String, _ scopes: Scopes) throws(RemfsError) -> (key: APIKey, secret: String) {
        try StoreLimits.check(name: name, description: nil, metadata: [:])
        for store in scopes.stores ?? [] { _ = try catalog.store(store) }
        let secret = Self.newSecret()
        let key = APIKey(
            id: APIKeyID(ofSecret: secret), name: name, scopes: scopes, created: catalog.now(), revoked: nil,
            digest: Digest(of: Array(secret.utf8)))
        try catalog.add(key)
        keys.withLock { $0[key.id] = key }
        return (key, secret)
    }

    /// From when this returns no request with the key is let in. Again: unchanged.
    package func revoke(_ id: APIKeyID) throws(RemfsError) -> APIKey {
        let key = try key(id)
        guard key.revoked == nil else { return key }
        let time = catalog.now()
        let dead = APIKey(id: id, name: key.name, scopes: key.scopes, created: key.created, revoked: time, digest: key.digest)
        // Whatever becomes of the row, this process lets it in no more.
        keys.withLock { $0[id] = dead }
        try catalog.revokeKey(id, at: time)
        return dead
    }

    /// 256 bits of the system's generator (getrandom(2)), in base64url.
    private static func newSecret() -> String {
        var generator = SystemRandomNumberGenerator()
        let bytes = (0..<4).flatMap { _ in unsafe withUnsafeBytes(of: generator.next() as UInt64) { unsafe Array($0) } }
        let text = Data(bytes).base64EncodedString().map { $0 == "+" ? "-" : $0 == "/" ? "_" : $0 }.filter { $0 != "=" }
        return "remfs_\(String(text))"
    }
}

extension Digest {
    /// In a time that does not tell where they differ.
    func isSame(as other: Digest) -> Bool {
        (words.0 ^ other.words.0) | (words.1 ^ other.words.1) | (words.2 ^ other.words.2) | (words.3 ^ other.words.3) == 0
    }
}
