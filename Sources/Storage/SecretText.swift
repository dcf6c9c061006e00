import Glibc

/// A few characters of ASCII to be told from the others.
struct ASCIISet {
    private var low: UInt64 = 0
    private var high: UInt64 = 0

    init(_ characters: String) {
        for byte in characters.utf8 {
            if byte < 64 { low |= 1 << byte } else { high |= 1 << (byte & 63) }
        }
    }

    func has(_ byte: UInt8) -> Bool { byte < 128 && (byte < 64 ? low : high) >> (byte & 63) & 1 == 1 }
}

/// Bytes that rules look around in. Beyond both ends there are zeros, so that none of them has to ask where it is.
@safe struct SecretText {
    /// Lives as long as the scanner.
    let base: UnsafePointer<UInt8>
    let count: Int

    init(_ buffer: UnsafeBufferPointer<UInt8>) {
        unsafe base = buffer.baseAddress!
        count = buffer.count
    }

    subscript(place: Int) -> UInt8 {
        // In bounds by the line itself.
        place >= 0 && place < count ? unsafe base[place] : 0
    }

    func has(_ word: [UInt8], at place: Int) -> Bool {
        for (offset, byte) in word.enumerated() where self[place + offset] != byte { return false }
        return true
    }

    func has(_ word: [UInt8], before end: Int) -> Bool { has(word, at: end - word.count) }

    /// Letters of ASCII in lower case, other bytes as they are.
    func lowercase(_ place: Int) -> UInt8 {
        let byte = self[place]
        return ByteSet.upper.has(byte) ? byte | 0x20 : byte
    }

    /// Where a run of such bytes ends.
    func end(of set: ByteSet, from place: Int, atMost limit: Int = .max) -> Int {
        var end = place
        while end < count, end - place < limit, set.has(self[end]) { end += 1 }
        return end
    }

    /// Where a run of such bytes begins.
    func start(of set: ByteSet, before end: Int, atMost limit: Int) -> Int {
        var start = end
        while start > 0, end - start < limit, set.has(self[start - 1]) { start -= 1 }
        return start
    }

    /// base64 or base64url without padding. nil: it is neither.
    func decodedBase64(_ range: Range<Int>) -> [UInt8]? {
        var decoded: [UInt8] = []
        var bits: UInt32 = 0
        for (number, place) in range.enumerated() {
            let value: UInt8
            switch self[place] {
            case let byte where ByteSet.upper.has(byte): value = byte - 65
            case let byte where ByteSet.lower.has(byte): value = byte - 71
            case let byte where ByteSet.digit.has(byte): value = byte + 4
            case UInt8(ascii: "-"), UInt8(ascii: "+"): value = 62
            case UInt8(ascii: "_"), UInt8(ascii: "/"): value = 63
            default: return nil
            }
            bits = bits << 6 | UInt32(value)
            // The first byte of four completes none; the others one each.
            if number % 4 != 0 { decoded.append(UInt8(truncatingIfNeeded: bits >> UInt32(6 - 2 * (number % 4)))) }
        }
        return decoded
    }
}

/// What may be a secret, and whether it looks like one: drawn by lot, or made up.
struct SecretValue {
    let bytes: SecretText
    let range: Range<Int>

    init(_ bytes: SecretText, _ range: Range<Int>) {
        self.bytes = bytes
        self.range = range
    }

    /// Not one letter over and over, an example or a counting up: what is asked of a value whose shape says the rest.
    var isVaried: Bool { entropy >= min(2.75, 0.7 * log2(Double(range.count))) && meaningful >= 12 }

    /// Long and drawn by lot from letters and digits: at least 16 bytes.
    ///
    /// Names change between lower case, upper case and digits where a word ends; what is drawn changes at every second byte or so.
    var isMachineMade: Bool {
        guard range.count >= 16, range.allSatisfy({ Self.drawn.has(bytes[$0]) }) else { return false }
        return changes * 5 >= range.count && entropy >= min(3, 0.7 * log2(Double(range.count))) && meaningful >= 12
    }

    private static let drawn: ByteSet = [.token, .base64Only, .dot, .tilde]

    var hasDot: Bool { range.contains { bytes[$0] == UInt8(ascii: ".") } }

    /// A password that somebody made up: 8 to 64 bytes, and no word, path, expression or name.
    var isHumanMade: Bool {
        guard (8...64).contains(range.count) else { return false }
        var (letters, digits, symbols, joints, glued) = (0, 0, 0, 0, 0)
        var cases: ByteSet = []
        for place in range {
            let byte = bytes[place]
            switch byte {
            case 0...32, 127: return false
            case let byte where Self.punctuation.has(byte): return false
            case let byte where ByteSet.letter.has(byte):
                letters += 1
                cases.insert(ByteSet.upper.has(byte) ? .upper : .lower)
                if place > range.lowerBound, ByteSet.digit.has(bytes[place - 1]) { glued += 1 }
            case let byte where ByteSet.digit.has(byte):
                digits += 1
                if place > range.lowerBound, ByteSet.letter.has(bytes[place - 1]) { glued += 1 }
            case UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: ":"): joints += 1
            default: symbols += 1
            }
        }
        guard letters > 0, digits > 0 || (symbols > 0 && cases == .letter) else { return false }
        // "db-user-01" and "node1-cluster2" are names.
        guard symbols > 0 || (glued > 0 && (joints == 0 || changes * 6 >= range.count)) else { return false }
        return !Self.expansions.has(bytes[range.lowerBound]) && meaningful >= 6
    }

    /// Of code, prose and paths.
    private static let punctuation = ASCIISet("()[]{}<>|\\\"'`,;/")
    private static let expansions = ASCIISet("$%")

    /// How often the kind of byte changes between lower case, upper case and digits. A capital before a small letter is a name's manner and
    /// does not count, nor does a change across anything else.
    private var changes: Int {
        var count = 0
        for place in range.dropFirst() {
            let (before, byte) = (bytes[place - 1], bytes[place])
            guard ByteSet.alphanumeric.has(before), ByteSet.alphanumeric.has(byte) else { continue }
            if ByteSet.digit.has(before) != ByteSet.digit.has(byte) || (ByteSet.lower.has(before) && ByteSet.upper.has(byte)) { count += 1 }
        }
        return count
    }

    /// Shannon's, of the bytes alone: bits per byte, 0 to 8.
    private var entropy: Double {
        var counts = [Int](repeating: 0, count: 256)
        for place in range { counts[Int(bytes[place])] += 1 }
        let total = Double(range.count)
        return counts.reduce(0) { $1 == 0 ? $0 : $0 - Double($1) / total * log2(Double($1) / total) }
    }

    /// How many bytes are left beside words, repetitions and countings such as `123` and `cba`; none where a word says that it is an example.
    private var meaningful: Int {
        var left = 0
        var place = range.lowerBound
        while place < range.upperBound {
            if word(of: SecretWords.spoilers, at: place) != nil { return 0 }
            let skipped = word(of: SecretWords.fillers, at: place) ?? counting(at: place)
            left += skipped == nil ? 1 : 0
            place += skipped ?? 1
        }
        return left
    }

    private func word(of words: [[[UInt8]]], at place: Int) -> Int? {
        let first = Int(bytes.lowercase(place))
        guard first < words.count else { return nil }
        for word in words[first] where place + word.count <= range.upperBound {
            if word.indices.allSatisfy({ bytes.lowercase(place + $0) == word[$0] }) { return word.count }
        }
        return nil
    }

    /// The length of a run of three bytes or more that are the same, or each one above or one below the last.
    private func counting(at place: Int) -> Int? {
        let step = Int(bytes[place + 1]) - Int(bytes[place])
        guard abs(step) <= 1 else { return nil }
        var end = place + 1
        while end < range.upperBound, Int(bytes[end]) - Int(bytes[end - 1]) == step { end += 1 }
        return end - place >= 3 ? end - place : nil
    }
}
