import SQLite

/// Where the bytes of one version stand: enough to read any part of them later, whatever is written meanwhile.
///
/// What is held is a number for each 64 KiB.
package struct VersionContent: Sendable {
    let content: Content
    package let sizeInBytes: Int64
    let label: String
}

extension MemoryStore {
    /// Of the version that `memory` names as its head.
    package func versionContent(of memory: Memory) throws(RemfsError) -> VersionContent {
        let found = try versionContent(ofVersion: memory.version.number(in: id) ?? 0, memory.version)
        guard let found else { throw RemfsError(.notFound, "version \(memory.version) not found") }
        return found
    }

    /// nil for a deletion and what was redacted.
    package func versionContent(of version: MemoryVersion) throws(RemfsError) -> VersionContent? {
        try versionContent(ofVersion: version.number, version.id)
    }

    private func versionContent(ofVersion number: Int64, _ version: VersionID) throws(RemfsError) -> VersionContent? {
        try readers.snapshot { (reader) throws(SQLiteError) in
            let row = reader.versionContent
            defer { row.reset() }
            row.bind(number, at: 1)
            guard try row.step(), let size = row.integerOrNil(1) else { return nil }
            return VersionContent(content: Content(row, column: 0, size: size), sizeInBytes: size, label: "version \(version)")
        }
    }

    /// Some of the bytes, checked against their hashes; holes as zeros. They are that version's or none: a chunk's number is never given to
    /// other bytes.
    ///
    /// - Parameter range: within the content's size.
    /// - Throws: `gone` where the version was redacted or given up since; `corrupted`.
    package func bytes(of stored: VersionContent, in range: Range<Int64>) throws(RemfsError) -> [UInt8] {
        let chunks = stored.content.chunks
        let found = try readers.snapshot { (reader) throws(SQLiteError) -> [UInt8]? in
            var bytes: [UInt8] = []
            bytes.reserveCapacity(range.count)
            var place = range.lowerBound
            while place < range.upperBound {
                let (number, start) = (Int(place / Content.chunkSize), Int(place % Content.chunkSize))
                let length = Int(min(range.upperBound - place, Content.chunkSize - Int64(start)))
                let chunk = number < chunks.count ? chunks[number] : 0
                place += Int64(length)
                let end = bytes.count + length
                if chunk != 0 {
                    guard try reader.exists(chunk) else { return nil }
                    bytes += try reader.bytes(of: chunk).dropFirst(start).prefix(length)
                }
                bytes.append(contentsOf: repeatElement(0, count: end - bytes.count))
            }
            return bytes
        }
        guard let found else { throw RemfsError(.gone, "\(stored.label) was redacted or given up while it was read") }
        return found
    }
}
