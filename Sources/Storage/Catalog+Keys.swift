import SQLite

/// The table `key`.
extension Catalog {
    /// All of them, oldest first. What cannot be read of one makes it a revoked key: it must not become an unknown one.
    func keys() throws(RemfsError) -> [APIKey] {
        let rows = try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("SELECT id, digest, name, scopes, created, revoked FROM key ORDER BY sequence")
            defer { row.reset() }
            var rows: [(String, Digest?, String, String, Int64, Int64?)] = []
            while try row.step() {
                let digest = unsafe row.withBytes(1) { unsafe Digest(bytes: $0) }
                rows.append((row.text(0) ?? "", digest, row.text(2) ?? "", row.text(3) ?? "", row.integer(4), row.integerOrNil(5)))
            }
            return rows
        }
        return rows.compactMap { id, digest, name, scopes, created, revoked in
            // Without these two nobody could come with it.
            guard let id = APIKeyID(id), let digest else { return nil }
            let created = Timestamp(microseconds: created)
            do throws(RemfsError) {
                return APIKey(
                    id: id, name: name, scopes: try Self.decoded(scopes), created: created,
                    revoked: revoked.map { Timestamp(microseconds: $0) }, digest: digest)
            } catch {
                return APIKey(id: id, name: name, scopes: Scopes(.read, stores: []), created: created, revoked: created, digest: digest)
            }
        }
    }

    func add(_ key: APIKey) throws(RemfsError) {
        let scopes = try Self.json(key.scopes)
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("INSERT INTO key (id, digest, name, scopes, created) VALUES (?1, ?2, ?3, ?4, ?5)")
            row.bind(key.id.description, at: 1)
            row.bind(key.digest.bytes, at: 2)
            row.bind(key.name, at: 3)
            row.bind(scopes, at: 4)
            row.bind(key.created.microseconds, at: 5)
            try row.run()
        }
    }

    func revokeKey(_ id: APIKeyID, at time: Timestamp) throws(RemfsError) {
        try with { (connection) throws(SQLiteError) in
            let row = try connection.prepare("UPDATE key SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL")
            row.bind(id.description, at: 1)
            row.bind(time.microseconds, at: 2)
            try row.run()
        }
    }
}
