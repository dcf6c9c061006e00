import Control
import Storage

/// One parser, or a few that are kin, fed with whatever bytes: none may trap, and what is promised of an answer must hold.
///
/// `FuzzTests` runs each over its corpus and mutations of it; libFuzzer links the same bodies (`Operations.md`).
package enum FuzzBody: String, CaseIterable, Sendable {
    /// Tar archives.
    case archive
    /// JSON bodies of requests.
    case bodies
    /// Two texts, compared line by line.
    case lines
    /// Paths of memories, names, patterns.
    case paths
    /// Query strings, and what stands in them: cursors, times, IDs, ranges.
    case queries
    /// Any text, looked through for secrets.
    case secrets
    /// Transcripts of agents.
    case transcripts

    package func run(_ bytes: [UInt8]) {
        switch self {
        case .archive: Self.archive(bytes)
        case .bodies: Self.bodies(bytes)
        case .lines: Self.lines(bytes)
        case .paths: Self.paths(bytes)
        case .queries: Self.queries(bytes)
        case .secrets: Self.secrets(bytes)
        case .transcripts: Self.transcripts(bytes)
        }
    }

    private static func require(_ holds: Bool, _ promise: @autoclosure () -> String) { precondition(holds, promise()) }

    // MARK: Bodies

    private static func secrets(_ bytes: [UInt8]) {
        let matches = SecretScanner.matches(in: bytes[...])
        var end = 0
        for match in matches {
            require(match.range.lowerBound >= end && !match.range.isEmpty, "matches are in order, and none overlaps another")
            end = match.range.upperBound
        }
        require(end <= bytes.count, "matches are within the bytes")
        require(SecretScanner.firstMatch(in: bytes[...]) == matches.first, "the first is the first of all")
        for match in matches {
            require(SecretScanner.firstMatch(in: bytes[...], touching: match.range) != nil, "what is found is found where it is")
        }
    }

    private static func transcripts(_ bytes: [UInt8]) {
        func drafts(_ piece: Int) -> ([TranscriptDraft], Int) {
            var (reader, drafts) = (TranscriptReader(), [TranscriptDraft]())
            while true {
                func take(_ items: [TranscriptItem]) { for case .draft(let draft) in items { drafts.append(draft) } }
                for start in stride(from: 0, to: bytes.count, by: piece) {
                    take(reader.read(bytes[start..<min(start + piece, bytes.count)]))
                }
                take(reader.finish())
                guard let again = reader.again else { return (drafts, reader.consumed) }
                reader = again
            }
        }
        let (whole, consumed) = drafts(max(1, bytes.count))
        require(consumed <= bytes.count, "no more is read than there is")
        require(drafts(7) == (whole, consumed), "pieces of any size make the same drafts")
        var requests = TranscriptRequests()
        var bodies = whole.compactMap { requests.add($0) }
        if let last = requests.take() { bodies.append(last) }
        for body in bodies {
            // The route takes them all.
            do throws(RemfsError) { _ = try SessionEvent.Draft.all(in: Body(parsing: body.utf8)) } catch {
                require(false, "\(error.message): \(body)")
            }
        }
    }

    private static func archive(_ bytes: [UInt8]) {
        // The first byte says in what pieces the rest arrives.
        let piece = Int(bytes.first ?? 0) * 7 + 1
        var rest = bytes.dropFirst()
        let reader = ArchiveReader { count in
            let more = rest.prefix(min(count, piece))
            rest = rest.dropFirst(more.count)
            return Array(more)
        }
        var entries: [(entry: ArchiveEntry, content: [UInt8])] = []
        do throws(RemfsError) {
            while let entry = try reader.next() {
                // 64 KiB: of a sparse file, which may be longer than anybody would wait for, the beginning.
                let longest = 64 << 10
                var content: [UInt8] = []
                var data = 0
                while content.count < longest, case let more = try reader.read(1_000), !more.isEmpty {
                    content += more
                    data += more.count { $0 != 0 }
                }
                require(data <= bytes.count, "no byte but zeros comes from nowhere")
                var entry = entry
                if case .file(let size) = entry.kind {
                    require(size == Int64(content.count) || content.count >= longest, "a file is as long as it says")
                    require(entry.holes >= 0 && entry.holes <= size, "holes are within the file")
                    entry.kind = .file(sizeInBytes: Int64(content.count))
                }
                entry.holes = 0
                requireInside(entry.path)
                if case .hardLink(let path) = entry.kind { requireInside(path) }
                entries.append((entry, content))
            }
        } catch {
            require(error.code == .invalidArgument, "\(error.code) is no fault of an archive")
            return
        }
        // What was understood can be written, and is understood again.
        var written: [UInt8] = []
        let writer = ArchiveWriter { written += $0 }
        do throws(RemfsError) {
            for (entry, content) in entries where !entry.path.isEmpty {
                try writer.begin(entry)
                if case .file = entry.kind { try writer.write(content) }
            }
            try writer.finish()
            var unread = written[...]
            let again = ArchiveReader { count in
                let more = unread.prefix(count)
                unread = unread.dropFirst(more.count)
                return Array(more)
            }
            for (entry, _) in entries where !entry.path.isEmpty {
                let found = try again.next()
                require(found == entry, "\(String(describing: found)) was written as \(entry)")
            }
            require(try again.next() == nil, "nothing is added")
        } catch {
            preconditionFailure("what was read cannot be written and read again: \(error)")
        }
    }

    private static func requireInside(_ path: [UInt8]) {
        guard !path.isEmpty else { return }
        for segment in path.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            require(!segment.isEmpty && !segment.elementsEqual(".".utf8) && !segment.elementsEqual("..".utf8), "a path is made of names")
        }
    }

    private static func bodies(_ bytes: [UInt8]) {
        guard let body = attempt({ () throws(RemfsError) in try Body(parsing: bytes) }) else { return }
        var policy = Policy()
        _ = attempt { () throws(RemfsError) in try policy.apply(body) }
        require(policy.maxMemories > 0 && policy.maxBytesPerMemory > 0, "a policy lets something be written")
        for key in ["name", "content", "metadata", "precondition", "path"] {
            _ = attempt { () throws(RemfsError) in try body.string(key) }
            _ = attempt { () throws(RemfsError) in try body.metadata(key, removing: true) }
            _ = attempt { () throws(RemfsError) in try body.strings(key) }
            _ = attempt { () throws(RemfsError) in try body.integer(key, in: 0...5) }
            _ = attempt { () throws(RemfsError) in try body.boolean(key) }
        }
        _ = attempt { () throws(RemfsError) in try Precondition(body) }
        _ = attempt { () throws(RemfsError) in try body.allow("name") }
    }

    private static func lines(_ bytes: [UInt8]) {
        let half = bytes.firstIndex(of: 0) ?? bytes.count / 2
        let old = Array(bytes[..<half])
        let new = Array(bytes[half...].drop { $0 == 0 })
        let oldLines = old.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        // Whoever applies the hunks to the old text has the new one.
        var result: [UInt8] = []
        var place = 0
        func line(_ number: Int) -> [UInt8] { oldLines[number] + (number < oldLines.count - 1 ? [UInt8(ascii: "\n")] : []) }
        for hunk in LineDiff.hunks(old, new) {
            while place < hunk.old.lowerBound {
                result += line(place)
                place += 1
            }
            for line in hunk.lines where line.kind != .removed { result += line.bytes }
            place = hunk.old.upperBound
        }
        while place < oldLines.count {
            result += line(place)
            place += 1
        }
        require(result == new, "hunks lead from one text to the other")
    }

    private static func paths(_ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        if let path = attempt({ () throws(RemfsError) in try MemoryPath(text) }) {
            require(path.text.utf8.elementsEqual(text.utf8), "a path is kept as it was sent")
            require((1...20).contains(path.segments.count) && text.utf8.count <= 1_024, "a path keeps its limits")
            requireInside(Array(text.utf8.dropFirst()))
        }
        // A pattern and a name, as they come.
        let halves = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false).map { Array($0) }
        let names = UnversionedNames([String(decoding: halves[0], as: UTF8.self)])
        _ = names.covers(halves.count > 1 ? halves[1] : bytes) { bytes }
        _ = names.coversDirectory(bytes)
    }

    private static func queries(_ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        if let cursor = Cursor(text) { require(Cursor(cursor.text) == cursor, "a cursor is read as it was written") }
        if let time = Timestamp(rfc3339: text) {
            require(Timestamp(rfc3339: time.rfc3339) == time, "\(text): a time is read as it was written")
        }
        if let id = VersionID(text) { require(id.description == text, "an ID is read as it was written") }
        _ = StorePoint(text) { Timestamp(rfc3339: $0) }
        for count in [0, 1, 1_000] {
            if case .part(let range) = ByteRange(text, of: count) {
                require(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= count, "a range lies within")
            }
        }
        guard let query = attempt({ () throws(RemfsError) in try Query(parsing: text) }) else { return }
        _ = attempt { () throws(RemfsError) in try PageRequest(query) }
        for name in ["created_at[gte]", "at", "from"] { _ = attempt { () throws(RemfsError) in try query.time(name) } }
        _ = attempt { () throws(RemfsError) in try query.integer("wait", in: 0...60) }
        _ = attempt { () throws(RemfsError) in try query.boolean("stale") }
        if let text = query.string("page"), let cursor = Cursor(text) {
            require(Cursor(cursor.text) == cursor, "a cursor is read as it was written")
        }
    }

    /// nil where it was refused, and then by the client's fault.
    private static func attempt<Answer>(_ body: () throws(RemfsError) -> Answer) -> Answer? {
        do throws(RemfsError) {
            return try body()
        } catch {
            require(error.code.seenAs.status < 500, "\(error) is no fault of a client")
            return nil
        }
    }
}
