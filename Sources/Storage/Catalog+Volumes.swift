import Foundation
import SQLite

/// What a container engine calls a session's stores.
package struct Volume: Sendable {
    package let name: String
    package let session: Session
    /// The session was made for it, and ends with it.
    package let ownsSession: Bool
    /// As they were given when it was made.
    package let options: Metadata
    package let created: Timestamp
    /// How many containers have it.
    package let uses: Int

    /// As messages name it.
    package var label: String { "volume \(name)" }
}

/// What a volume is made of.
package enum VolumeSource: Sendable {
    /// A session that ends with it.
    case new(SessionRequest)
    /// One that is there, and stays.
    case existing(SessionID)
}

/// Volumes and the containers that have them, as rows.
extension Catalog {
    /// Names this run of the machine. A container that had a volume in another one has it no more, whether or not anybody said so.
    private static let boot: String = {
        // `try?`: where the kernel does not say it, all runs are one.
        let text = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        return text?.trimmingCharacters(in: .whitespacesAndNewlines) ?? ""
    }()

    // MARK: Making and removing

    /// Makes a volume, with its session where it is to have one of its own: both or none. Again with the same options: unchanged.
    package func createVolume(_ name: String, _ source: VolumeSource, options: Metadata) throws(RemfsError) -> Volume {
        if let existing = try volumeIfAny(name) { return try Self.same(existing, options) }
        let checked: CheckedRequest? =
            if case .new(let request) = source { try self.checked(request) } else { nil }
        return try transaction { (connection) throws(RemfsError) in
            // Whoever asks again while the first answer is on its way may have been as quick.
            if let existing = try Self.volumes(connection, "WHERE volume.name = ?1", { $0.bind(name, at: 1) }).first {
                return try Self.same(existing, options)
            }
            let session: Session
            switch source {
            case .new:
                guard let checked else { throw RemfsError(.internal, "a volume's session was not checked") }
                session = try createSession(checked, connection)
            case .existing(let id):
                session = try Self.session(id, connection)
                guard session.archived == nil else { throw RemfsError(.readOnly, "\(session.label) is archived: it has no mounts") }
                guard !session.attachments.isEmpty else { throw RemfsError(.invalidArgument, "\(session.label) has no stores") }
            }
            let time = now().microseconds
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare(
                    "INSERT INTO volume (name, session, owner, options, created) VALUES (?1, ?2, ?3, ?4, ?5)")
                row.bind(name, at: 1)
                row.bind(session.sequence, at: 2)
                row.bind(checked == nil ? 0 : 1 as Int64, at: 3)
                row.bind(Self.text(of: options), at: 4)
                row.bind(time, at: 5)
                try row.run()
            }
            return try Self.volume(name, connection)
        }
    }

    private static func same(_ existing: Volume, _ options: Metadata) throws(RemfsError) -> Volume {
        guard existing.options == options, existing.options.allSatisfy({ options[$0]?.utf8.elementsEqual($1.utf8) == true }) else {
            throw RemfsError(.busy, "\(existing.label) exists with other options")
        }
        guard existing.session.archived == nil else {
            throw RemfsError(.busy, "\(existing.label) exists, and its \(existing.session.label) is archived: remove the volume first")
        }
        return existing
    }

    /// Removes a volume, and archives the session that was made for it. Refused while containers have it.
    ///
    /// - Returns: what it was.
    package func removeVolume(_ name: String) throws(RemfsError) -> Volume {
        try transaction { (connection) throws(RemfsError) in
            let volume = try Self.volume(name, connection)
            // Of a session that is archived nobody has anything any more.
            if volume.session.archived == nil, volume.uses > 0 {
                throw RemfsError(.busy, "\(volume.label) is in use by \(volume.uses == 1 ? "a container" : "\(volume.uses) containers")")
            }
            if volume.ownsSession {
                let others = try Self.volumes(connection, "WHERE volume.session = ?1 AND volume.name <> ?2") {
                    $0.bind(volume.session.sequence, at: 1)
                    $0.bind(name, at: 2)
                }
                if let other = others.first {
                    throw RemfsError(.busy, "\(volume.label) has the session that \(other.label) shows: remove that first")
                }
                _ = try archiveSession(volume.session.id, connection)
            }
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare("DELETE FROM volume WHERE name = ?1")
                row.bind(name, at: 1)
                try row.run()
            }
            return volume
        }
    }

    // MARK: Containers

    /// Notes that a container has the volume. Again: unchanged.
    package func addUse(of name: String, by container: String) throws(RemfsError) {
        try transaction { (connection) throws(RemfsError) in
            let volume = try Self.volume(name, connection)
            guard volume.session.archived == nil else { throw RemfsError(.readOnly, "\(volume.session.label) is archived") }
            try Self.sql { () throws(SQLiteError) in
                let past = try connection.prepare("DELETE FROM volume_use WHERE boot <> ?1")
                past.bind(Self.boot, at: 1)
                try past.run()
                let row = try connection.prepare(
                    """
                    INSERT INTO volume_use (volume, container, boot) SELECT sequence, ?2, ?3 FROM volume WHERE name = ?1
                    ON CONFLICT (volume, container) DO UPDATE SET boot = ?3
                    """)
                row.bind(name, at: 1)
                row.bind(container, at: 2)
                row.bind(Self.boot, at: 3)
                try row.run()
            }
        }
    }

    /// Notes that a container has it no more. One that did not have it, or a volume that is gone: nothing to do.
    package func endUse(of name: String, by container: String) throws(RemfsError) {
        try transaction { (connection) throws(RemfsError) in
            try Self.sql { () throws(SQLiteError) in
                let row = try connection.prepare(
                    "DELETE FROM volume_use WHERE volume = (SELECT sequence FROM volume WHERE name = ?1) AND container = ?2")
                row.bind(name, at: 1)
                row.bind(container, at: 2)
                try row.run()
            }
        }
    }

    /// Whether a container has a volume of this session.
    package func isInContainers(_ session: SessionID) throws(RemfsError) -> Bool {
        try read { (connection) throws(RemfsError) in
            try Self.volumes(connection, "WHERE session.id = ?1") { $0.bind(session.description, at: 1) }.contains { $0.uses > 0 }
        }
    }

    // MARK: Reading

    package func volume(_ name: String) throws(RemfsError) -> Volume {
        try read { (connection) throws(RemfsError) in try Self.volume(name, connection) }
    }

    /// By name.
    package func volumes() throws(RemfsError) -> [Volume] {
        try read { (connection) throws(RemfsError) in try Self.volumes(connection, "ORDER BY volume.name") { _ in } }
    }

    private func volumeIfAny(_ name: String) throws(RemfsError) -> Volume? {
        try read { (connection) throws(RemfsError) in
            try Self.volumes(connection, "WHERE volume.name = ?1") { $0.bind(name, at: 1) }.first
        }
    }

    private static func volume(_ name: String, _ connection: Connection) throws(RemfsError) -> Volume {
        guard let volume = try volumes(connection, "WHERE volume.name = ?1", { $0.bind(name, at: 1) }).first else {
            throw RemfsError(.notFound, "volume \(name.shortened) not found")
        }
        return volume
    }

    private static func volumes(
        _ connection: Connection, _ condition: String, _ bind: (Statement) -> Void
    ) throws(RemfsError) -> [Volume] {
        struct Row {
            let name: String, session: String, owner: Int64, options: String, created: Int64, uses: Int64
        }
        let rows = try sql { () throws(SQLiteError) in
            let row = try connection.prepare(
                """
                SELECT volume.name, session.id, volume.owner, volume.options, volume.created,
                    (SELECT count(*) FROM volume_use WHERE volume_use.volume = volume.sequence AND boot = ?9)
                FROM volume JOIN session ON session.sequence = volume.session \(condition)
                """)
            defer { row.reset() }
            row.bind(boot, at: 9)
            bind(row)
            var rows: [Row] = []
            while try row.step() {
                rows.append(
                    Row(
                        name: row.text(0) ?? "", session: row.text(1) ?? "", owner: row.integer(2), options: row.text(3) ?? "",
                        created: row.integer(4), uses: row.integer(5)))
            }
            return rows
        }
        var volumes: [Volume] = []
        for row in rows {
            guard let id = SessionID(row.session) else { throw RemfsError(.corrupted, "the catalog has a session \(row.session)") }
            volumes.append(
                Volume(
                    name: row.name, session: try session(id, connection), ownsSession: row.owner == 1, options: try metadata(row.options),
                    created: Timestamp(microseconds: row.created), uses: Int(row.uses)))
        }
        return volumes
    }
}
