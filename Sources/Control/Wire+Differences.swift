import Storage

extension Wire {
    /// A memory that is not the same at two moments or in two stores.
    package struct Difference: Codable, Sendable {
        package var type = "memory_difference"
        package var change: String
        package var path: String
        @Nullable package var old: Side?
        @Nullable package var new: Side?
        /// Null without content, and where one of the two is no text or over 1 MiB.
        @Nullable package var hunks: [Hunk]?

        package struct Side: Codable, Sendable {
            package var memoryStoreID: String
            package var memoryID: String
            package var memoryVersionID: String
            package var path: String
            package var contentSHA256: String
            package var contentSizeBytes: Int64
            package var createdAt: String

            private enum CodingKeys: String, CodingKey {
                case path
                case memoryStoreID = "memory_store_id"
                case memoryID = "memory_id"
                case memoryVersionID = "memory_version_id"
                case contentSHA256 = "content_sha256"
                case contentSizeBytes = "content_size_bytes"
                case createdAt = "created_at"
            }
        }

        /// As `diff -u` counts: from line 1; no lines are named by the line before them.
        package struct Hunk: Codable, Sendable {
            package var oldStart: Int
            package var oldLines: Int
            package var newStart: Int
            package var newLines: Int
            /// Each with its ` `, `-` or `+` and without its newline.
            package var lines: [String]

            private enum CodingKeys: String, CodingKey {
                case lines
                case oldStart = "old_start"
                case oldLines = "old_lines"
                case newStart = "new_start"
                case newLines = "new_lines"
            }
        }
    }

    package struct Restore: Codable, Sendable {
        package var type = "memory_store_restore"
        package var memoryStoreID: String
        package var dryRun: Bool
        package var created: Int
        package var modified: Int
        package var renamed: Int
        package var deleted: Int
        package var data: [Difference]
        /// How many `data` has no room for.
        package var omitted: Int

        private enum CodingKeys: String, CodingKey {
            case type, created, modified, renamed, deleted, data, omitted
            case memoryStoreID = "memory_store_id"
            case dryRun = "dry_run"
        }
    }

    package struct Import: Codable, Sendable {
        package var type = "memory_store_import"
        package var memoryStore: Store
        package var created: Int
        package var modified: Int
        package var unchanged: Int
        package var directories: Int
        package var others: Int
        package var secrets: Int
        package var contentSizeBytes: Int64

        private enum CodingKeys: String, CodingKey {
            case type, created, modified, unchanged, directories, others, secrets
            case memoryStore = "memory_store"
            case contentSizeBytes = "content_size_bytes"
        }
    }
}

extension Wire.Difference {
    init(_ difference: MemoryDifference, in comparison: StoreComparison, _ view: View) throws(RemfsError) {
        func side(_ state: MemoryState?) throws(RemfsError) -> Side? {
            guard let state else { return nil }
            return Side(state, contentSHA256: try comparison.contentSHA256(of: state))
        }
        self.init(
            change: difference.change.rawValue, path: difference.path, old: try side(difference.old), new: try side(difference.new),
            hunks: view == .full ? try comparison.hunks(of: difference)?.map { Hunk($0) } : nil)
    }
}

extension Wire.Difference.Side {
    init(_ state: MemoryState, contentSHA256: String) {
        self.init(
            memoryStoreID: state.store.description, memoryID: state.memory.description, memoryVersionID: state.version.description,
            path: state.path, contentSHA256: contentSHA256, contentSizeBytes: state.sizeInBytes, createdAt: state.created.rfc3339)
    }
}

extension Wire.Difference.Hunk {
    init(_ hunk: LineDiff.Hunk) {
        func start(_ range: Range<Int>) -> Int { range.isEmpty ? range.lowerBound : range.lowerBound + 1 }
        var lines: [String] = []
        for line in hunk.lines {
            let sign =
                switch line.kind {
                case .unchanged: " "
                case .removed: "-"
                case .added: "+"
                }
            lines.append(sign + String(decoding: line.endsInNewline ? line.bytes.dropLast() : line.bytes, as: UTF8.self))
            if !line.endsInNewline { lines.append("\\ No newline at end of file") }
        }
        self.init(
            oldStart: start(hunk.old), oldLines: hunk.old.count, newStart: start(hunk.new), newLines: hunk.new.count, lines: lines)
    }
}

extension Wire.Restore {
    init(_ outcome: RestoreOutcome, isDryRun: Bool, in store: StoreID, _ data: [Wire.Difference]) {
        let counts = outcome.counts
        self.init(
            memoryStoreID: store.description, dryRun: isDryRun, created: counts[.created] ?? 0, modified: counts[.modified] ?? 0,
            renamed: counts[.renamed] ?? 0, deleted: counts[.deleted] ?? 0, data: data,
            omitted: counts.values.reduce(0, +) - data.count)
    }
}
