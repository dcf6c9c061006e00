/// A JSON value as a client sent it.
package enum JSONValue: Sendable, Equatable {
    case null
    case boolean(Bool)
    case integer(Int64)
    /// A number with a fraction or an exponent, or one that no `Int64` holds.
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([ExactString: JSONValue])

    /// Refuses what is not exactly one value of RFC 8259 in UTF-8, nests deeper than 64, or has a key twice in one object. Keys are what their bytes are.
    ///
    /// Ours, because Foundation's decoder takes commas at the end of objects and arrays, and a body that is wrong must be refused.
    package init(parsing bytes: some Collection<UInt8>) throws(RemfsError) {
        var parser = JSONParser(bytes: Array(bytes))
        guard let value = parser.document() else {
            let fault = parser.repeatedKey.map { "has the key \($0.shortened) twice" } ?? "is not valid JSON"
            throw RemfsError(.invalidArgument, "request body \(fault)")
        }
        self = value
    }
}

/// Each function reads one thing at `place`, moves past it, and answers nil if it is not there.
private struct JSONParser {
    let bytes: [UInt8]
    var place = 0
    /// Containers that may still be entered: our routes need four, and the stack is finite.
    var depth = 64
    /// What an object has twice, if that is why there is no value: who reads the one and who reads the other would disagree.
    var repeatedKey: String?

    mutating func document() -> JSONValue? {
        guard let value = value() else { return nil }
        skipBlanks()
        return place == bytes.count ? value : nil
    }

    private mutating func value() -> JSONValue? {
        skipBlanks()
        guard place < bytes.count else { return nil }
        switch bytes[place] {
        case UInt8(ascii: "{"): return object()
        case UInt8(ascii: "["): return array()
        case UInt8(ascii: "\""): return string().map { .string($0) }
        case UInt8(ascii: "t"): return word("true") ? .boolean(true) : nil
        case UInt8(ascii: "f"): return word("false") ? .boolean(false) : nil
        case UInt8(ascii: "n"): return word("null") ? .null : nil
        default: return number()
        }
    }

    private mutating func object() -> JSONValue? {
        guard enter("{") else { return nil }
        var fields: [ExactString: JSONValue] = [:]
        if !mark("}") {
            repeat {
                skipBlanks()
                guard let key = string(), mark(":"), let value = value() else { return nil }
                guard fields.updateValue(value, forKey: ExactString(key)) == nil else {
                    repeatedKey = key
                    return nil
                }
            } while mark(",")
            guard mark("}") else { return nil }
        }
        depth += 1
        return .object(fields)
    }

    private mutating func array() -> JSONValue? {
        guard enter("[") else { return nil }
        var values: [JSONValue] = []
        if !mark("]") {
            repeat {
                guard let value = value() else { return nil }
                values.append(value)
            } while mark(",")
            guard mark("]") else { return nil }
        }
        depth += 1
        return .array(values)
    }

    private mutating func enter(_ bracket: Unicode.Scalar) -> Bool {
        depth -= 1
        return depth >= 0 && mark(bracket)
    }

    private mutating func string() -> String? {
        guard take(UInt8(ascii: "\"")) else { return nil }
        var text: [UInt8] = []
        while place < bytes.count {
            let byte = bytes[place]
            place += 1
            switch byte {
            case UInt8(ascii: "\""): return String(validating: text, as: UTF8.self)
            case UInt8(ascii: "\\"):
                guard let scalar = escape() else { return nil }
                text.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            case 0..<0x20: return nil
            default: text.append(byte)
            }
        }
        return nil
    }

    /// What follows a backslash.
    private mutating func escape() -> Unicode.Scalar? {
        guard place < bytes.count else { return nil }
        let letter = bytes[place]
        place += 1
        switch letter {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(letter)
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            guard let unit = codeUnit() else { return nil }
            guard UTF16.isLeadSurrogate(unit) else { return Unicode.Scalar(unit) }  // nil for half of a pair
            guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")), let trail = codeUnit(), UTF16.isTrailSurrogate(trail) else {
                return nil
            }
            return Unicode.Scalar(0x1_0000 + (UInt32(unit) - 0xd800) << 10 + (UInt32(trail) - 0xdc00))
        default: return nil
        }
    }

    private mutating func codeUnit() -> UInt16? {
        guard place + 4 <= bytes.count else { return nil }
        var unit: UInt16 = 0
        for byte in bytes[place..<place + 4] {
            guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { return nil }
            unit = unit << 4 | UInt16(digit)
        }
        place += 4
        return unit
    }

    private mutating func number() -> JSONValue? {
        let start = place
        _ = take(UInt8(ascii: "-"))
        // No zero stands before another digit.
        if !take(UInt8(ascii: "0")) { guard digits() else { return nil } }
        var isWhole = true
        if take(UInt8(ascii: ".")) {
            guard digits() else { return nil }
            isWhole = false
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            guard digits() else { return nil }
            isWhole = false
        }
        let text = String(decoding: bytes[start..<place], as: UTF8.self)
        if isWhole, let value = Int64(text) { return .integer(value) }
        // What is over the largest there is could not be written again.
        return Double(text).flatMap { $0.isFinite ? .number($0) : nil }
    }

    /// At least one digit.
    private mutating func digits() -> Bool {
        let start = place
        while place < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[place]) { place += 1 }
        return place > start
    }

    private mutating func word(_ word: String) -> Bool {
        guard bytes[place...].starts(with: word.utf8) else { return false }
        place += word.utf8.count
        return true
    }

    /// A sign of punctuation, after blanks.
    private mutating func mark(_ sign: Unicode.Scalar) -> Bool {
        skipBlanks()
        return take(UInt8(ascii: sign))
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard place < bytes.count, bytes[place] == byte else { return false }
        place += 1
        return true
    }

    private mutating func skipBlanks() {
        while place < bytes.count, bytes[place] == 0x20 || (0x09...0x0a).contains(bytes[place]) || bytes[place] == 0x0d { place += 1 }
    }
}
