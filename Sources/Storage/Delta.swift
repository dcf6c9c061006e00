/// A content as instructions against a similar one: copy a range of it, or insert bytes.
///
/// Numbers are LEB128. An instruction is a number whose lowest bit tells copy (1) from insert (0) and whose rest is a length; a
/// copy is followed by the place to copy from, an insert by its bytes.
enum Delta {
    /// Common prefix and suffix are copied; between them, matches of 16 bytes and more found through an index of the base.
    static func encode(_ target: [UInt8], against base: [UInt8]) -> [UInt8] {
        var output: [UInt8] = []
        let most = min(target.count, base.count)
        var prefix = 0
        while prefix < most, target[prefix] == base[prefix] { prefix += 1 }
        var suffix = 0
        while suffix < most - prefix, target[target.count - 1 - suffix] == base[base.count - 1 - suffix] { suffix += 1 }
        copy(0, prefix, to: &output)
        encodeMiddle(target, prefix..<(target.count - suffix), base, from: prefix, to: base.count - suffix, &output)
        copy(base.count - suffix, suffix, to: &output)
        return output
    }

    private static let window = 16

    private static func encodeMiddle(
        _ target: [UInt8], _ middle: Range<Int>, _ base: [UInt8], from: Int, to: Int, _ output: inout [UInt8]
    ) {
        var pending = middle.lowerBound
        defer { insert(target[pending..<middle.upperBound], to: &output) }
        guard middle.count >= window, to - from >= window else { return }
        // Every 16th window of the base, by its hash.
        var index: [UInt64: Int] = [:]
        for place in stride(from: from, through: to - window, by: window) { index[hash(base, place)] = place }
        var place = middle.lowerBound
        while place + window <= middle.upperBound {
            guard let found = index[hash(target, place)], matches(target, place, base, found, window) else {
                place += 1
                continue
            }
            var start = place
            var source = found
            while start > pending, source > 0, target[start - 1] == base[source - 1] {
                start -= 1
                source -= 1
            }
            var length = place - start + window
            while start + length < middle.upperBound, source + length < base.count, target[start + length] == base[source + length] {
                length += 1
            }
            insert(target[pending..<start], to: &output)
            copy(source, length, to: &output)
            place = start + length
            pending = place
        }
    }

    private static func hash(_ bytes: [UInt8], _ place: Int) -> UInt64 {
        var value: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in bytes[place..<(place + window)] { value = (value ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return value
    }

    private static func matches(_ one: [UInt8], _ place: Int, _ other: [UInt8], _ otherPlace: Int, _ count: Int) -> Bool {
        for step in 0..<count where one[place + step] != other[otherPlace + step] { return false }
        return true
    }

    private static func copy(_ place: Int, _ length: Int, to output: inout [UInt8]) {
        guard length > 0 else { return }
        number(UInt64(length) << 1 | 1, to: &output)
        number(UInt64(place), to: &output)
    }

    private static func insert(_ bytes: ArraySlice<UInt8>, to output: inout [UInt8]) {
        guard !bytes.isEmpty else { return }
        number(UInt64(bytes.count) << 1, to: &output)
        output.append(contentsOf: bytes)
    }

    private static func number(_ value: UInt64, to output: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            output.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        output.append(UInt8(rest))
    }

    /// nil: not a program that fits this base.
    static func decode(_ program: [UInt8], against base: [UInt8]) -> [UInt8]? {
        var output: [UInt8] = []
        var place = 0
        func number() -> Int? {
            var value: UInt64 = 0
            var shift: UInt64 = 0
            while place < program.count, shift < 63 {
                let byte = program[place]
                place += 1
                value |= UInt64(byte & 0x7f) << shift
                if byte < 0x80 { return Int(exactly: value) }
                shift += 7
            }
            return nil
        }
        while place < program.count {
            guard let head = number() else { return nil }
            let length = head >> 1
            if head & 1 == 1 {
                guard let source = number(), source <= base.count, length <= base.count - source else { return nil }
                output.append(contentsOf: base[source..<(source + length)])
            } else {
                guard length <= program.count - place else { return nil }
                output.append(contentsOf: program[place..<(place + length)])
                place += length
            }
            // No content is larger than a chunk: a damaged program must not fill the memory.
            guard output.count <= Int(Content.chunkSize) else { return nil }
        }
        return output
    }
}
