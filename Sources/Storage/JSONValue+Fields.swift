/// Reading a value that some other program wrote: what is of another type than is asked for reads as not being there.
extension JSONValue {
    /// What an object has under a key; nil for `null`, and for what is no object.
    subscript(_ key: ExactString) -> JSONValue? {
        guard case .object(let fields) = self, let value = fields[key] else { return nil }
        if case .null = value { return nil }
        return value
    }

    var string: String? { if case .string(let text) = self { text } else { nil } }
    var array: [JSONValue]? { if case .array(let values) = self { values } else { nil } }
    var object: [ExactString: JSONValue]? { if case .object(let fields) = self { fields } else { nil } }
    var isTrue: Bool { self == .boolean(true) }

    var wholeNumber: Int64? { if case .integer(let value) = self { value } else { nil } }

    /// A block of text.
    static func text(_ text: String) -> JSONValue { .object(["type": .string("text"), "text": .string(text)]) }

    /// How many containers stand in one another.
    var depth: Int {
        switch self {
        case .array(let values): 1 + (values.lazy.map(\.depth).max() ?? 0)
        case .object(let fields): 1 + (fields.values.lazy.map(\.depth).max() ?? 0)
        default: 0
        }
    }

    /// How many bytes the value has once it is written, or a few more.
    var weight: Int {
        switch self {
        case .null, .boolean: 5
        case .integer, .number: 24
        case .string(let text): Self.weight(text)
        case .array(let values): values.reduce(2) { $0 + $1.weight + 1 }
        case .object(let fields): fields.reduce(2) { $0 + Self.weight($1.key.text) + $1.value.weight + 2 }
        }
    }

    private static func weight(_ text: String) -> Int {
        var weight = 2
        // A control character is written as six bytes.
        for byte in text.utf8 { weight += byte < 0x20 ? 6 : byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") ? 2 : 1 }
        return weight
    }

    /// With every string of more than `limit` bytes cut there, and a sentence in place of what was cut.
    func cut(stringsTo limit: Int) -> JSONValue {
        switch self {
        case .string(let text): .string(text.cut(to: limit))
        case .array(let values): .array(values.map { $0.cut(stringsTo: limit) })
        case .object(let fields): .object(fields.mapValues { $0.cut(stringsTo: limit) })
        default: self
        }
    }
}

extension String {
    func cut(to limit: Int) -> String {
        guard utf8.count > limit else { return self }
        let end = unicodeScalars.index(before: utf8.index(utf8.startIndex, offsetBy: limit + 1))
        let kept = self[..<end]
        return kept + " [remfs left out \(utf8.count - kept.utf8.count) bytes]"
    }

    /// At most so many Unicode scalars of it, which is what the contract counts.
    func scalars(atMost limit: Int) -> String {
        unicodeScalars.count > limit ? String(String.UnicodeScalarView(unicodeScalars.prefix(limit))) : self
    }
}
