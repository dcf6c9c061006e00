package import Storage

/// A JSON object that a client sent, read field by field; what does not fit is `invalidArgument` and names the field.
///
/// `null` reads as "not given", as the contract has it in create and update bodies.
package struct Body: Sendable {
    private let fields: [ExactString: JSONValue]
    /// What stands before a field's name in messages: empty, or the field that holds this object, and a dot.
    private let prefix: String

    /// Parses a whole request body.
    package init(parsing bytes: some Collection<UInt8>) throws(RemfsError) {
        guard case .object(let fields) = try JSONValue(parsing: bytes) else {
            throw RemfsError(.invalidArgument, "request body must be a JSON object")
        }
        self.fields = fields
        self.prefix = ""
    }

    private init(fields: [ExactString: JSONValue], prefix: String) {
        self.fields = fields
        self.prefix = prefix
    }

    /// Refuses every key that is not one of `known`.
    package func allow(_ known: String...) throws(RemfsError) { try allow(Set(known)) }

    package func allow(_ known: Set<String>) throws(RemfsError) {
        if let unknown = fields.keys.filter({ !known.contains($0.text) }).min() {
            throw RemfsError(.invalidArgument, "\(prefix)\(Body.quoted(unknown.text)) is not a known field")
        }
    }

    package func string(_ key: String) throws(RemfsError) -> String? {
        switch value(key) {
        case .null: return nil
        case .string(let value): return value
        default: throw wrong(key, "a string")
        }
    }

    package func requiredString(_ key: String) throws(RemfsError) -> String {
        guard let value = try string(key) else { throw RemfsError(.invalidArgument, "\(prefix)\(key) is required") }
        return value
    }

    package func boolean(_ key: String) throws(RemfsError) -> Bool? {
        switch value(key) {
        case .null: return nil
        case .boolean(let value): return value
        default: throw wrong(key, "true or false")
        }
    }

    package func integer(_ key: String, in range: ClosedRange<Int64>) throws(RemfsError) -> Int64? {
        switch value(key) {
        case .null: return nil
        case .integer(let value) where range.contains(value): return value
        default: throw wrong(key, "an integer from \(range.lowerBound) to \(range.upperBound)")
        }
    }

    package func choice<Choice: RawRepresentable>(_ key: String, of choices: [Choice]) throws(RemfsError) -> Choice?
    where Choice.RawValue == String {
        guard let text = try string(key) else { return nil }
        guard let value = choices.first(where: { $0.rawValue == text }) else {
            throw wrong(key, choices.map { "\"\($0.rawValue)\"" }.joined(separator: " or "))
        }
        return value
    }

    package func strings(_ key: String) throws(RemfsError) -> [String]? {
        switch value(key) {
        case .null: return nil
        case .array(let values):
            var strings: [String] = []
            for value in values {
                guard case .string(let text) = value else { throw wrong(key, "an array of strings") }
                strings.append(text)
            }
            return strings
        default: throw wrong(key, "an array of strings")
        }
    }

    package func object(_ key: String) throws(RemfsError) -> Body? {
        switch value(key) {
        case .null: return nil
        case .object(let fields): return Body(fields: fields, prefix: "\(prefix)\(key).")
        default: throw wrong(key, "an object")
        }
    }

    /// Whether the key is there with a value other than `null`.
    package func has(_ key: String) -> Bool { value(key) != .null }

    package func value(_ key: String) -> JSONValue { fields[ExactString(key)] ?? .null }

    /// An array of objects.
    package func objects(_ key: String) throws(RemfsError) -> [Body]? {
        switch value(key) {
        case .null: return nil
        case .array(let values):
            var objects: [Body] = []
            for (place, value) in values.enumerated() {
                guard case .object(let fields) = value else { throw wrong("\(key)[\(place)]", "an object") }
                objects.append(Body(fields: fields, prefix: "\(prefix)\(key)[\(place)]."))
            }
            return objects
        default: throw wrong(key, "an array of objects")
        }
    }

    /// The object as JSON, without these keys.
    package func json(without keys: Set<String>) -> String { JSONValue.object(fields.filter { !keys.contains($0.key.text) }).text }

    /// A refusal of what stands under a key.
    package func refusal(_ key: String, _ reason: String) -> RemfsError { RemfsError(.invalidArgument, "\(prefix)\(key) \(reason)") }

    /// An object of strings; where `null` may stand for a key to remove, such a key's value is nil.
    package func metadata(_ key: String, removing: Bool) throws(RemfsError) -> [ExactString: String?]? {
        guard let body = try object(key) else { return nil }
        var patch: [ExactString: String?] = [:]
        for (name, value) in body.fields {
            switch value {
            case .string(let text): patch.updateValue(text, forKey: name)
            case .null where removing: patch.updateValue(nil, forKey: name)
            default: throw wrong("\(key).\(Body.quoted(name.text))", removing ? "a string or null" : "a string")
            }
        }
        return patch
    }

    private func wrong(_ key: String, _ expected: String) -> RemfsError {
        RemfsError(.invalidArgument, "\(prefix)\(key) must be \(expected)")
    }

    /// A client's key in a message: cut, since it may be as long as the body.
    static func quoted(_ text: String) -> String {
        let head = text.unicodeScalars.prefix(64)
        return head.endIndex == text.unicodeScalars.endIndex ? text : String(String.UnicodeScalarView(head)) + "..."
    }
}
