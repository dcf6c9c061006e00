/// Reads a transcript as it comes, in pieces of any size, and makes drafts of events of it.
///
/// The same bytes make the same drafts, however they are cut; and the drafts of a file are the beginning of those of the same file grown. Who
/// has imported so many of them leaves out as many the next time.
///
/// What is held is one line or one element of a list, the IDs of the tool uses, and what one piece leads to. Give pieces of 64 KiB to 1 MiB.
package struct TranscriptReader: Sendable {
    private enum Phase {
        /// Nothing has been read: it is not known yet whether these are lines.
        case shape(Shape)
        case lines(TranscriptLines)
        case document(TranscriptDocument)
        /// A fault came that nothing can be read behind.
        case stopped
    }

    private let limits: TranscriptLimits
    private var phase: Phase
    private var scribe: TranscriptScribe
    /// The list of a SWE-agent file to read: with `history`, all that the trajectory says is there too.
    private let list: String
    private var elements: [String: Int] = [:]
    /// Bad lines while no format is known: there is no end to those of a picture.
    private var strange = 0
    private static let mostStrange = 100

    package init(limits: TranscriptLimits = TranscriptLimits()) { self.init(list: "history", limits) }

    private init(list: String, _ limits: TranscriptLimits) {
        self.list = list
        self.limits = limits
        phase = .shape(Shape(limit: limits.element))
        scribe = TranscriptScribe(limits: limits)
    }

    // MARK: What is known

    package var source: TranscriptSource { scribe.source }

    /// What had no place in the drafts, by kind: so many blocks, lines or fields.
    package var leftOut: [String: Int] { scribe.leftOut }

    /// How many drafts there were so far.
    package var draftCount: Int { scribe.draftCount }

    /// The bytes that are done with: whoever follows the file goes on behind them, with this reader. 0 for a document, which its program writes
    /// as a whole each time, and which a new reader therefore reads from the start.
    package private(set) var consumed = 0

    /// Whether the file is one that grows at its end; nil: not known yet.
    package var isLines: Bool? {
        switch phase {
        case .shape: nil
        case .lines: true
        case .document: false
        case .stopped: consumed > 0
        }
    }

    /// After `finish`, a reader that has to be given the whole file again: it is a SWE-agent's, and has no history but a trajectory. nil: all
    /// has been read.
    package var again: TranscriptReader? { lacksHistory ? TranscriptReader(list: "trajectory", limits) : nil }

    private var lacksHistory = false

    // MARK: Reading

    /// What ends in this piece.
    package mutating func read(_ piece: ArraySlice<UInt8>) -> [TranscriptItem] {
        var rest = piece
        if case .shape(var shape) = phase {
            phase = .stopped  // so that there is one copy of the bytes
            switch shape.read(rest) {
            case nil:
                phase = .shape(shape)
                return []
            case .lines?: phase = .lines(TranscriptLines(limit: limits.element))
            case .document?: phase = .document(document)
            }
            skipped = shape.mark
            rest = shape.bytes[...]
        }
        advance(&rest)
        return take()
    }

    package mutating func read(_ piece: [UInt8]) -> [TranscriptItem] { read(piece[...]) }

    /// What is left, once the file has no more bytes: a last line may lack its end. Not for a follower, to whom that line is not there yet.
    package mutating func finish() -> [TranscriptItem] {
        if case .shape(let shape) = phase {
            // Nothing that speaks for a document.
            phase = .lines(TranscriptLines(limit: limits.element))
            skipped = shape.mark
            var rest = shape.bytes[...]
            advance(&rest)
        }
        switch phase {
        case .lines(var lines):
            if let last = lines.last() { read(last) }
            consumed = lines.consumed + skipped
            phase = .lines(lines)
        case .document(let document):
            if !document.isOutside, !document.isBroken {
                fault("is where the file ends, inside a document", line: document.line, isFatal: true)
            }
            if elements["trajectory", default: 0] > 0, elements["history", default: 0] == 0, list == "history" {
                lacksHistory = true
            }
        case .shape, .stopped: return take()
        }
        if scribe.source.format == nil, !lacksHistory, scribe.items.isEmpty, strange == 0 {
            fault("ends a file that has no messages", line: 1, isFatal: true)
        }
        return take()
    }

    /// Bytes before the first that count: those of a byte order mark.
    private var skipped = 0

    private var document: TranscriptDocument { TranscriptDocument(wanted: ["", "messages", "items", list], limit: limits.element) }

    private mutating func take() -> [TranscriptItem] {
        defer { scribe.items = [] }
        return scribe.items
    }

    private mutating func advance(_ rest: inout ArraySlice<UInt8>) {
        switch phase {
        case .lines(var lines):
            phase = .stopped
            while let part = lines.next(in: &rest) {
                read(part)
                if strange >= Self.mostStrange, scribe.source.format == nil {
                    return fault("is the \(strange)th in a row that is in no known format", line: lines.number - 1, isFatal: true)
                }
            }
            consumed = lines.consumed + skipped
            phase = .lines(lines)
        case .document(var document):
            phase = .stopped
            while let part = document.next(in: &rest) { read(part) }
            phase = .document(document)
        case .shape, .stopped: break
        }
    }

    private mutating func read(_ part: TranscriptLines.Part) {
        switch part {
        case .tooLarge(let number): fault("has more than \(limits.element) bytes", line: number)
        case .line(let bytes, let number):
            guard bytes.contains(where: { ![0x20, 0x09, 0x0d].contains($0) }) else { return }
            guard let value = parse(bytes, line: number) else { return }
            guard value.object != nil else { return fault("is no JSON object", line: number) }
            guard let format = scribe.source.format ?? TranscriptFormat(ofLine: value) else {
                return fault("is in no known format", line: number)
            }
            read(value, as: format, line: number)
        }
    }

    private mutating func read(_ part: TranscriptDocument.Part) {
        switch part {
        case .tooLarge(let line): fault("begins an element of more than \(limits.element) bytes", line: line)
        case .broken(let reason, let line): fault(reason, line: line, isFatal: true)
        case .passed(let name):
            elements[name, default: 0] += 1
            scribe.leave(name.isEmpty ? "element" : name.scalars(atMost: 64))
        case .member(let bytes, let name, let line):
            guard let value = parse(bytes, line: line) else { return }
            if !scribe.readMember(name, value) { scribe.leave("field \(name.scalars(atMost: 64))") }
        case .element(let bytes, let name, let line):
            elements[name, default: 0] += 1
            guard let value = parse(bytes, line: line) else { return }
            guard value.object != nil else { return fault("begins an element that is no JSON object", line: line) }
            let format: TranscriptFormat =
                switch name {
                case "history", "trajectory": .sweAgent
                case "items": .codex
                default: .chat
                }
            read(value, as: format, line: line)
        }
    }

    private mutating func read(_ value: JSONValue, as format: TranscriptFormat, line: Int) {
        scribe.source.format = format
        scribe.line = line
        scribe.time = nil
        let reason =
            switch format {
            case .claudeCode: scribe.readClaudeCode(value)
            case .codex: scribe.readCodex(value)
            case .sweAgent: scribe.readSWEAgent(value)
            case .chat: scribe.readChat(value)
            }
        if let reason { fault(reason, line: line) }
    }

    private mutating func parse(_ bytes: some Collection<UInt8>, line: Int) -> JSONValue? {
        do {
            return try JSONValue(parsing: bytes)
        } catch {
            // Half a surrogate pair, or bytes that are no UTF-8: what programs leave behind that cut texts where they should not. `try?`: if it
            // is still no JSON, the first error says why.
            if let mended = TranscriptMender.mended(bytes), let value = try? JSONValue(parsing: mended) {
                scribe.leave("unreadable characters")
                return value
            }
            fault(error.message.replacing("request body ", with: ""), line: line)
            return nil
        }
    }

    private mutating func fault(_ reason: String, line: Int, isFatal: Bool = false) {
        strange += 1
        scribe.items.append(.fault(TranscriptFault(line: line, reason: reason, isFatal: isFatal)))
        if isFatal { phase = .stopped }
    }
}

/// Finds out whether a file is lines or a document, from its beginning.
private struct Shape {
    enum Verdict { case lines, document }

    /// How far to look.
    let limit: Int
    private(set) var bytes: [UInt8] = []
    /// How many bytes were before these: those of a byte order mark.
    private(set) var mark = 0
    private var probe = TranscriptDocument.probe()
    private var probed = 0

    init(limit: Int) { self.limit = limit }

    /// nil: needs more.
    mutating func read(_ piece: ArraySlice<UInt8>) -> Verdict? {
        bytes += piece
        if probed == 0, mark == 0 {
            if bytes.count < 3, bytes.elementsEqual([0xef, 0xbb, 0xbf].prefix(bytes.count)) { return nil }
            if bytes.starts(with: [0xef, 0xbb, 0xbf]) {
                bytes.removeFirst(3)
                mark = 3
            }
        }
        let start = probed
        var rest = bytes[probed...]
        probed = bytes.count
        // A field at a time: a list may begin in the middle of a piece.
        repeat {
            let part = probe.next(in: &rest)
            if probe.hasList { return .document }
            if probe.isBroken { return .lines }
            if part == nil { break }
        } while true
        // Inside a document no line begins with a bracket that opens: programs indent what is inside.
        var place = max(start, 1)
        while place < bytes.count {
            if bytes[place - 1] == 0x0a, bytes[place] == UInt8(ascii: "{") || bytes[place] == UInt8(ascii: "[") { return .lines }
            place += 1
        }
        return bytes.count > limit ? .lines : nil
    }
}
