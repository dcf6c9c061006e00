package import Storage

/// A request's query: names and values after percent-decoding, so that `created_at[gte]` and `created_at%5Bgte%5D` are the same.
///
/// Unknown names are ignored: SDKs append some (`beta=true`), and older ones send more than is left of the contract.
package struct Query: Sendable {
    private var values: [String: String] = [:]
    /// Of names that may be repeated, without the `[]` that some clients put behind them.
    private var lists: [String: [String]] = [:]

    /// - Parameter text: what stands after the `?`, still encoded.
    package init(parsing text: String?) throws(RemfsError) {
        for pair in (text ?? "").utf8.split(separator: UInt8(ascii: "&")) {
            let halves = pair.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = Self.decode(halves[0]), let value = Self.decode(halves.count > 1 ? halves[1] : "".utf8[...]) else {
                throw RemfsError(.invalidArgument, "query is not percent-encoded UTF-8")
            }
            values[name] = value
            lists[name.hasSuffix("[]") ? String(name.dropLast(2)) : name, default: []].append(value)
        }
    }

    package func string(_ name: String) -> String? { values[name] }

    package func boolean(_ name: String) throws(RemfsError) -> Bool {
        switch values[name] {
        case nil, "false": return false
        case "true": return true
        default: throw wrong(name, "true or false")
        }
    }

    package func integer(_ name: String, in range: ClosedRange<Int>) throws(RemfsError) -> Int? {
        guard let text = values[name] else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw wrong(name, "an integer from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    package func time(_ name: String) throws(RemfsError) -> Timestamp? {
        guard let text = values[name] else { return nil }
        guard let time = Timestamp(rfc3339: text) else { throw wrong(name, "an RFC 3339 time") }
        return time
    }

    package func choice<Choice: RawRepresentable>(_ name: String, of choices: [Choice]) throws(RemfsError) -> Choice?
    where Choice.RawValue == String {
        guard let text = values[name] else { return nil }
        guard let value = choices.first(where: { $0.rawValue == text }) else {
            throw wrong(name, choices.map { "\"\($0.rawValue)\"" }.joined(separator: " or "))
        }
        return value
    }

    /// All values of `name` and `name[]`, in their order.
    package func strings(_ name: String) -> [String] { lists[name] ?? [] }

    /// All values of `name` and `name[]`, each one of `choices`.
    package func choices<Choice: RawRepresentable>(_ name: String, of choices: [Choice]) throws(RemfsError) -> [Choice]
    where Choice.RawValue == String {
        var found: [Choice] = []
        for text in strings(name) {
            guard let value = choices.first(where: { $0.rawValue == text }) else {
                throw wrong(name, "any of \(choices.map { "\"\($0.rawValue)\"" }.joined(separator: ", "))")
            }
            found.append(value)
        }
        return found
    }

    /// The bounds that `name[gt]`, `[gte]`, `[lt]` and `[lte]` set, as inclusive ones: times are whole microseconds.
    package func times(_ name: String) throws(RemfsError) -> (from: Timestamp?, to: Timestamp?) {
        let from = [try time("\(name)[gte]")?.microseconds, try time("\(name)[gt]").map { $0.microseconds + 1 }].compactMap { $0 }.max()
        let to = [try time("\(name)[lte]")?.microseconds, try time("\(name)[lt]").map { $0.microseconds - 1 }].compactMap { $0 }.min()
        return (from.map { Timestamp(microseconds: $0) }, to.map { Timestamp(microseconds: $0) })
    }

    private func wrong(_ name: String, _ expected: String) -> RemfsError {
        RemfsError(.invalidArgument, "query parameter \(name) must be \(expected)")
    }

    private static func decode(_ text: Substring.UTF8View) -> String? {
        var bytes: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "+"): bytes.append(UInt8(ascii: " "))
            case UInt8(ascii: "%"):
                guard let high = rest.popFirst().flatMap(hexDigit), let low = rest.popFirst().flatMap(hexDigit) else { return nil }
                bytes.append(high << 4 | low)
            default: bytes.append(byte)
            }
        }
        return String(validating: bytes, as: UTF8.self)
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

/// Whether content comes along.
package enum View: String, Sendable, CaseIterable { case basic, full }
