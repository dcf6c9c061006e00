import Storage

/// What putting back a session's changes has come to, on the wire.
extension Wire {
    package struct Revert: Codable, Sendable {
        package var type = "memory_store_revert"
        package var memoryStoreID: String
        package var sessionID: String
        @Nullable package var since: String?
        package var dryRun: Bool
        package var restored: Int
        package var moved: Int
        package var recreated: Int
        package var deleted: Int
        package var unchanged: Int
        package var data: [Change]
        /// How many `data` has no room for.
        package var omitted: Int
        package var left: [Left]
        package var leftOmitted: Int
        @Nullable package var undoVersionID: String?

        package struct Change: Codable, Sendable {
            package var type = "memory_revert"
            package var change: String
            package var memoryID: String
            package var path: String
            @Nullable package var oldPath: String?
            package var fromVersionID: String
            @Nullable package var toVersionID: String?
            @Nullable package var memoryVersionID: String?

            private enum CodingKeys: String, CodingKey {
                case type, change, path
                case memoryID = "memory_id"
                case oldPath = "old_path"
                case fromVersionID = "from_version_id"
                case toVersionID = "to_version_id"
                case memoryVersionID = "memory_version_id"
            }
        }

        package struct Left: Codable, Sendable {
            package var type = "memory_left"
            package var reason: String
            package var memoryID: String
            @Nullable package var path: String?
            @Nullable package var memoryVersionID: String?
            @Nullable package var changedAt: String?
            @Nullable package var changedBy: Actor?
            @Nullable package var conflictingMemoryID: String?
            @Nullable package var conflictingPath: String?

            private enum CodingKeys: String, CodingKey {
                case type, reason, path
                case memoryID = "memory_id"
                case memoryVersionID = "memory_version_id"
                case changedAt = "changed_at"
                case changedBy = "changed_by"
                case conflictingMemoryID = "conflicting_memory_id"
                case conflictingPath = "conflicting_path"
            }
        }

        private enum CodingKeys: String, CodingKey {
            case type, since, restored, moved, recreated, deleted, unchanged, data, omitted, left
            case memoryStoreID = "memory_store_id"
            case sessionID = "session_id"
            case dryRun = "dry_run"
            case leftOmitted = "left_omitted"
            case undoVersionID = "undo_version_id"
        }
    }
}

extension Wire.Revert {
    init(_ outcome: RevertOutcome, of session: SessionID, since: Timestamp?, isDryRun: Bool, in store: StoreID) {
        let counts = outcome.counts
        self.init(
            memoryStoreID: store.description, sessionID: session.description, since: since?.rfc3339, dryRun: isDryRun,
            restored: counts[.restored] ?? 0, moved: counts[.moved] ?? 0, recreated: counts[.recreated] ?? 0,
            deleted: counts[.deleted] ?? 0, unchanged: outcome.unchanged,
            data: outcome.changes.map { change in
                Change(
                    change: change.kind.rawValue, memoryID: change.memory.description, path: change.path, oldPath: change.oldPath,
                    fromVersionID: change.from.description, toVersionID: change.to?.description, memoryVersionID: change.made?.description)
            },
            omitted: counts.values.reduce(0, +) - outcome.changes.count,
            left: outcome.left.map { left in
                Left(
                    reason: left.reason.rawValue, memoryID: left.memory.description, path: left.path,
                    memoryVersionID: left.version?.description, changedAt: left.time?.rfc3339,
                    changedBy: left.actor.map { Wire.Actor($0) }, conflictingMemoryID: left.conflict?.memory?.description,
                    conflictingPath: left.conflict?.path)
            },
            leftOmitted: outcome.leftCount - outcome.left.count, undoVersionID: outcome.undo?.description)
    }
}
