/// A text cut into lines, each known by a number: equal lines have equal numbers within one `LineNumbering`.
///
/// A line includes its newline, so a last line without one differs from the same line with one, and lines joined again are the text.
struct NumberedLines {
    let bytes: [UInt8]
    /// Where each line ends in `bytes`; it starts where the one before it ends.
    private let ends: [Int]
    let numbers: [Int32]

    fileprivate init(bytes: [UInt8], ends: [Int], numbers: [Int32]) {
        self.bytes = bytes
        self.ends = ends
        self.numbers = numbers
    }

    var count: Int { ends.count }

    subscript(line: Int) -> ArraySlice<UInt8> { bytes[start(of: line)..<ends[line]] }

    /// The bytes of several lines, which lie together.
    subscript(lines: Range<Int>) -> ArraySlice<UInt8> { bytes[start(of: lines.lowerBound)..<start(of: lines.upperBound)] }

    private func start(of line: Int) -> Int { line == 0 ? 0 : ends[line - 1] }
}

/// Gives lines their numbers, so that everything after it compares integers.
struct LineNumbering {
    /// A line as a key. Hashes eight bytes at a time: `ArraySlice` would feed the hasher byte by byte.
    private struct Key: Hashable {
        let line: ArraySlice<UInt8>

        func hash(into hasher: inout Hasher) {
            var word: UInt64 = 0
            var bits: UInt64 = 0
            for byte in line {
                word |= UInt64(byte) &<< bits
                bits += 8
                if bits == 64 {
                    hasher.combine(word)
                    word = 0
                    bits = 0
                }
            }
            hasher.combine(word)
            hasher.combine(line.count)
        }
    }

    private var known: [Key: Int32] = [:]

    /// How many numbers were given: they are `0..<distinct`.
    var distinct: Int { known.count }

    mutating func lines(of bytes: [UInt8]) -> NumberedLines {
        var ends: [Int] = []
        var numbers: [Int32] = []
        var start = 0
        func lineEnd() -> Int {
            var end = start
            while end < bytes.count {
                end += 1
                if bytes[end - 1] == UInt8(ascii: "\n") { break }
            }
            return end
        }
        while start < bytes.count {
            let end = lineEnd()
            let next = Int32(known.count)
            let key = Key(line: bytes[start..<end])
            if let number = known[key] {
                numbers.append(number)
            } else {
                known[key] = next
                numbers.append(next)
            }
            ends.append(end)
            start = end
        }
        return NumberedLines(bytes: bytes, ends: ends, numbers: numbers)
    }
}
