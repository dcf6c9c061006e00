/// A name and the value that it is given: in code, configuration, JSON, headers, or a line of notes.
struct SecretAssignment {
    /// The value, without quotes.
    let text: SecretValue
    private let isQuoted: Bool
    /// What comes after an unquoted value is the end of the line, a space or the end.
    private let endsWord: Bool

    // MARK: The name

    /// What may stand before a sign: the end of a name, its closing quote and the like, a space, a digit.
    static func mayEndName(_ byte: UInt8) -> Bool {
        let letter = ByteSet.upper.has(byte) ? byte | 0x20 : byte
        return between.has(byte) || ByteSet.digit.has(byte) || !SecretName.byLastLetter[Int(letter)].isEmpty
    }

    /// `"password"`, `['password']`, `**Password**`, `\"password\"`, `password ?=`.
    private static let between = ASCIISet(" \t\"'`*]\\?")

    /// The secret name that ends before a sign, and where it begins.
    static func name(in bytes: SecretText, before sign: Int) -> (kind: SecretName.Kind, start: Int)? {
        var end = sign
        // 24: names in columns.
        while sign - end < 24, between.has(bytes[end - 1]) { end -= 1 }
        if ByteSet.digit.has(bytes[end - 1]) {
            // `password1`, `API_KEY_2`.
            end = bytes.start(of: .digit, before: end, atMost: 3)
            if bytes[end - 1] == UInt8(ascii: "_") { end -= 1 }
        }
        guard SecretName.endings[SecretName.ending(bytes[end - 2], bytes[end - 1])] else { return nil }
        let names = SecretName.byLastLetter[Int(bytes.lowercase(end - 1))]
        for number in names.indices {
            guard let start = start(of: names[number].letters, in: bytes, before: end) else { continue }
            if !names[number].isWholeWord || isWordStart(start, in: bytes) { return (names[number].kind, start) }
        }
        return nil
    }

    /// Compares backwards, passing over one `_`, `-` or space at a time.
    private static func start(of letters: [UInt8], in bytes: SecretText, before end: Int) -> Int? {
        var place = end
        var left = letters.count
        while left > 0 {
            left -= 1
            place -= 1
            var byte = bytes.lowercase(place)
            if left < letters.count - 1, byte == UInt8(ascii: "_") || byte == UInt8(ascii: "-") || byte == UInt8(ascii: " ") {
                place -= 1
                byte = bytes.lowercase(place)
            }
            if byte != letters[left] { return nil }
        }
        return place
    }

    private static func isWordStart(_ place: Int, in bytes: SecretText) -> Bool {
        !ByteSet.alphanumeric.has(bytes[place - 1]) || (ByteSet.upper.has(bytes[place]) && ByteSet.lower.has(bytes[place - 1]))
    }

    // MARK: The value

    /// What a sign gives to the name before it. nil: a comparison, an expression, nothing.
    static func value(in bytes: SecretText, after sign: Int) -> SecretAssignment? {
        let (before, after) = (bytes[sign - 1], bytes[sign + 1])
        var place = sign + 1
        if bytes[sign] == UInt8(ascii: "=") {
            // Of `:=`, `==` and their like the first byte has been asked already, or nobody is to be asked.
            if comparing.has(before) || after == UInt8(ascii: "=") { return nil }
            if after == UInt8(ascii: ">") { place += 1 }
        } else {
            if before == UInt8(ascii: ":") || after == UInt8(ascii: ":") { return nil }
            if after == UInt8(ascii: "=") { place += 1 }
        }
        guard let value = value(in: bytes, at: place) else { return nil }
        // `let password: String = "..."`: a type comes first.
        if bytes[sign] == UInt8(ascii: ":"), !value.isQuoted {
            var next = value.text.range.upperBound
            while next - value.text.range.upperBound < 8, afterType.has(bytes[next]) { next += 1 }
            if bytes[next] == UInt8(ascii: "="), bytes[next + 1] == UInt8(ascii: " ") { return self.value(in: bytes, at: next + 1) }
        }
        return value
    }

    private static func value(in bytes: SecretText, at place: Int) -> SecretAssignment? {
        var start = place
        while start - place < 24, blank.has(bytes[start]) { start += 1 }
        // Of a literal: `b"..."`, `@"..."`; and `\"` in a string that holds code.
        if literalPrefix.has(bytes[start]), quotes.has(bytes[start + 1]) { start += 1 }
        let quote = bytes[start]
        if quotes.has(quote) { return quoted(in: bytes, from: start + 1, by: quote) }
        var end = start
        while end - start < longest, isBare(bytes[end]) { end += 1 }
        if bytes[end] == UInt8(ascii: "="), let next = (start..<end).first(where: { bytes[$0] == UInt8(ascii: "&") }) {
            // In a query another name and its sign follow.
            end = next
        } else if end - start >= 16 {
            // Padding.
            end = bytes.end(of: .base64Only, from: end, atMost: 2)
        }
        // An expression goes on; so does a path, unless the backslash is an escape's.
        guard end > start, !expression.has(bytes[end]) else { return nil }
        if bytes[end] == UInt8(ascii: "\\"), !escaped.has(bytes[end + 1]) { return nil }
        // A sentence ends, the value does not.
        if bytes[end - 1] == UInt8(ascii: "."), end - start > 1 { end -= 1 }
        return SecretAssignment(text: SecretValue(bytes, start..<end), isQuoted: false, endsWord: bytes[end] <= 32)
    }

    /// Bytes of a value, at most; of a longer one the beginning is judged. 512: a session token of AWS has about 400.
    private static let longest = 512

    private static func quoted(in bytes: SecretText, from start: Int, by quote: UInt8) -> SecretAssignment? {
        var end = start
        while end - start < longest, bytes[end] != quote {
            if bytes[end] < 32 { return nil }
            end += 1
        }
        // The quote may itself be quoted.
        if bytes[end - 1] == UInt8(ascii: "\\"), end > start { end -= 1 }
        return end > start ? SecretAssignment(text: SecretValue(bytes, start..<end), isQuoted: true, endsWord: false) : nil
    }

    /// Whether a value without quotes goes on with this byte.
    private static func isBare(_ byte: UInt8) -> Bool { byte > 32 && byte < 127 && !bareEnd.has(byte) }

    private static let comparing = ASCIISet(":=!<>")
    private static let afterType = ASCIISet(" ?!")
    private static let blank = ASCIISet(" \t*")
    private static let literalPrefix = ASCIISet("bBrRuU@\\")
    private static let quotes = ASCIISet("\"'`")
    private static let expression = ASCIISet("([{<|$")
    private static let escaped = ASCIISet("nrt\"'")
    private static let bareEnd = ASCIISet("\"'`,;<>()[]{}|\\=:")

    // MARK: Judging

    /// A dot between bare words is code's: `key: ASN1.ASN1OctetString`.
    var isToken: Bool { text.isMachineMade && !isAddress && !isDigest && (isQuoted || !text.hasDot) }

    var isPassword: Bool {
        if isToken { return true }
        // `password: Passw1)` in code is a type or a variable; before a space or at the end of a line it is what it says.
        return text.isHumanMade && !isDigest && (isQuoted || endsWord)
    }

    /// base64, perhaps with `%2B` and its like; at least the 43 bytes of 32.
    var isSignature: Bool {
        let end = text.bytes.end(of: .base64, from: text.range.lowerBound, atMost: 128)
        return text.range.count >= 43 && (end == text.range.upperBound || text.bytes[end] == UInt8(ascii: "%")) && text.isVaried
    }

    /// Where the credentials end: `Bearer` and a token, `Basic` and base64, or a token alone. nil: there are none.
    var endOfCredentials: Int? {
        let bytes = text.bytes
        var start = text.range.lowerBound
        for scheme in Self.schemes where scheme.indices.allSatisfy({ bytes.lowercase(start + $0) == scheme[$0] }) {
            start += scheme.count
            break
        }
        let end = bytes.end(of: [.token, .base64Only, .dot, .tilde], from: start, atMost: Self.longest)
        return SecretValue(bytes, start..<end).isMachineMade && !Self.expression.has(bytes[end]) ? end : nil
    }

    private static let schemes = ["bearer ", "basic ", "token ", "apikey "].map { Array($0.utf8) }

    /// Groups of 8, 4, 4, 4 and 12 hexadecimal digits.
    var isUUID: Bool {
        let range = text.range
        return range.count == 36
            && range.enumerated().allSatisfy { [8, 13, 18, 23].contains($0) == (text.bytes[$1] == UInt8(ascii: "-")) }
    }

    /// `0x` and 40 digits: on a block chain, and public.
    private var isAddress: Bool { text.range.count == 42 && text.bytes.has(Self.hexadecimal, at: text.range.lowerBound) }

    private static let hexadecimal = Array("0x".utf8)

    /// `sha256-...`, `md5:...`.
    private var isDigest: Bool { Self.digests.contains { text.bytes.has($0, at: text.range.lowerBound) } }

    private static let digests = ["sha1-", "sha1:", "sha256-", "sha256:", "sha384-", "sha512-", "sha512:", "md5:"].map { Array($0.utf8) }
}
