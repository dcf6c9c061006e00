import SQLite

/// Which kinds of secrets a content holds: neither where nor what they are.
struct SecretKinds: Sendable, Hashable {
    /// By the places of the rules among all. Invariant: there are no more than 64 of them.
    private var bits: UInt64 = 0

    static let none = SecretKinds()

    init() {}

    init(in bytes: [UInt8]) {
        for match in SecretScanner.matches(in: bytes[...]) { insert(match.rule) }
    }

    var isEmpty: Bool { bits == 0 }

    var rules: [SecretScanner.Rule] {
        SecretScanner.Rule.allCases.enumerated().filter { bits & 1 << UInt64($0.offset) != 0 }.map(\.element)
    }

    mutating func insert(_ rule: SecretScanner.Rule) {
        // Every case is among all.
        bits |= 1 << UInt64(SecretScanner.Rule.allCases.firstIndex(of: rule)!)
    }
}

/// As the column `secrets` has them: names with a space between, empty where nothing was found.
extension SecretKinds {
    var row: String { isEmpty ? "" : rules.map(\.rawValue).joined(separator: " ") }

    /// nil where a name is not known: then it is to be looked for again.
    init?(row: String) {
        for name in row.split(separator: " ") {
            guard let rule = SecretScanner.Rule(rawValue: String(name)) else { return nil }
            insert(rule)
        }
    }
}

/// Scans a content that comes in pieces: all of it, or what changed of it and what is around that.
///
/// What is scanned at a time overlaps, and what is cut at an edge is not believed: a token that ends there may go on.
struct SecretScan {
    private var found = SecretKinds.none
    private var buffer: [UInt8] = []
    /// From where on in the buffer a match counts: what begins before was looked at already.
    private var start = 0
    /// The chunk before was looked at.
    private var goesOn = false

    /// More than any match with what is looked at behind it: a private key has up to 16 KiB.
    private static let reach = 20 << 10
    /// What a match is judged by before it: the name of an assignment, the beginning of a word.
    private static let context = 4 << 10
    /// 256 KiB at a time: a tenth of it is scanned twice.
    private static let most = 256 << 10

    mutating func take(_ bytes: some Collection<UInt8>) {
        buffer += bytes
        guard buffer.count >= Self.most else { return }
        let end = buffer.count - Self.reach
        look(upTo: end)
        buffer.removeFirst(end - Self.context)
        start = Self.context
    }

    /// - Parameter isCut: something follows that is not looked at.
    private mutating func end(isCut: Bool = false) {
        look(upTo: isCut ? buffer.count - Self.reach : buffer.count)
        buffer.removeAll(keepingCapacity: true)
        start = 0
    }

    private mutating func look(upTo end: Int) {
        guard start < end else { return }
        for match in SecretScanner.matches(in: buffer[...]) where (start..<end).contains(match.range.lowerBound) {
            found.insert(match.rule)
        }
    }

    /// Passes a chunk of a content, in the order of their places, and looks at it or does not.
    ///
    /// - Parameter bytes: of this chunk or the one before; nil: a hole, and what cannot be read.
    mutating func pass(_ place: Int, looks: Bool, _ bytes: (Int) throws(SQLiteError) -> [UInt8]?) throws(SQLiteError) {
        if looks {
            if !goesOn, place > 0, let before = try bytes(place - 1), before.count == Int(Content.chunkSize) {
                buffer = before.suffix(Self.reach + Self.context)
                start = Self.context
            }
            let chunk = try bytes(place)
            if let chunk { take(chunk) }
            // Zeros follow, or nothing.
            if chunk?.count != Int(Content.chunkSize) { end() }
        } else if goesOn {
            let after = try bytes(place) ?? []
            take(after.prefix(Self.reach))
            end(isCut: after.count > Self.reach)
        }
        goesOn = looks
    }

    mutating func finish() -> SecretKinds {
        end()
        return found
    }
}
