/// Makes JSON of what is nearly JSON.
enum TranscriptMender {
    /// With U+FFFD for each half of a surrogate pair and for bytes that are no UTF-8, and `null` for `NaN` and the infinities, which Python
    /// writes. nil: none of these was there.
    static func mended(_ bytes: some Collection<UInt8>) -> [UInt8]? {
        var text = Array(String(decoding: bytes, as: UTF8.self).utf8)
        var isMended = !text.elementsEqual(bytes)
        var result: [UInt8] = []
        result.reserveCapacity(text.count)
        var place = 0
        var inString = false
        while place < text.count {
            let byte = text[place]
            if byte == UInt8(ascii: "\"") {
                inString.toggle()
            } else if inString, byte == UInt8(ascii: "\\") {
                let (length, isHalf) = escape(text, at: place)
                result += isHalf ? Array("\\ufffd".utf8)[...] : text[place..<place + length]
                isMended = isMended || isHalf
                place += length
                continue
            } else if !inString, byte == UInt8(ascii: "N") || byte == UInt8(ascii: "I") {
                if let word = ["NaN", "Infinity"].first(where: { text[place...].starts(with: $0.utf8) }) {
                    if result.last == UInt8(ascii: "-") { result.removeLast() }
                    result += "null".utf8
                    isMended = true
                    place += word.utf8.count
                    continue
                }
            }
            result.append(byte)
            place += 1
        }
        text = []
        return isMended ? result : nil
    }

    /// How long the escape is that begins here, with the other half of its pair; whether it is half a pair.
    private static func escape(_ text: [UInt8], at place: Int) -> (length: Int, isHalf: Bool) {
        guard let unit = unit(text, at: place) else { return (min(2, text.count - place), false) }
        if UTF16.isLeadSurrogate(unit), let trail = self.unit(text, at: place + 6), UTF16.isTrailSurrogate(trail) { return (12, false) }
        return (6, UTF16.isLeadSurrogate(unit) || UTF16.isTrailSurrogate(unit))
    }

    private static func unit(_ text: [UInt8], at place: Int) -> UInt16? {
        guard place + 6 <= text.count, text[place] == UInt8(ascii: "\\"), text[place + 1] == UInt8(ascii: "u") else { return nil }
        var unit: UInt16 = 0
        for byte in text[place + 2..<place + 6] {
            guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { return nil }
            unit = unit << 4 | UInt16(digit)
        }
        return unit
    }
}
