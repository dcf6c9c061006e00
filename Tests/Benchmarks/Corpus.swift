import Glibc

/// Numbers that look random and are the same in every run, on every label and in every client process.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 0x1234_5678 }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func unit() -> Double { (Double(next() >> 11) + 0.5) / Double(1 << 53) }
}

/// The texts: markdown-like, their lengths log-normal with a median of 2 kB and at most 100 kB, which is what agents' memories look like.
/// There are two editions of each text, of equal length; the second is the first with one line in eight changed, as after an agent's edit.
final class Corpus {
    let count: Int
    private let texts: [UnsafeMutableRawPointer]
    private let offsets: [Int]

    /// The word that `grep` looks for: in the last line of one text in twenty.
    static let needle = "kookaburra"
    static let needleEvery = 20
    /// What `sed -i` replaces; the replacement is as long.
    static let draft = "status: draft"
    static let final = "status: final"
    /// Where `draft` stands in each text.
    static let draftOffset = 18
    static let longest = 100_000
    private static let shortest = 120

    init(count: Int) {
        self.count = count
        var random = SeededRandom(seed: 7)
        var offsets = [0]
        for _ in 0..<count {
            // Box and Muller: sigma 1 makes the mean 1.65 times the median.
            let normal = (-2 * log(random.unit())).squareRoot() * cos(2 * .pi * random.unit())
            let size = min(max(Int(2000 * exp(normal)), Corpus.shortest), Corpus.longest)
            offsets.append(offsets.last! + size)
        }
        self.offsets = offsets
        let total = offsets.last!
        let first = UnsafeMutableRawPointer.allocate(byteCount: total, alignment: 16)
        let second = UnsafeMutableRawPointer.allocate(byteCount: total, alignment: 16)
        for index in 0..<count {
            let buffer = UnsafeMutableRawBufferPointer(start: first + offsets[index], count: offsets[index + 1] - offsets[index])
            Corpus.fill(buffer, index: index)
        }
        second.copyMemory(from: first, byteCount: total)
        for index in 0..<count {
            let buffer = UnsafeMutableRawBufferPointer(start: second + offsets[index], count: offsets[index + 1] - offsets[index])
            Corpus.edit(buffer)
        }
        texts = [first, second]
    }

    deinit { for text in texts { text.deallocate() } }

    func size(_ index: Int) -> Int { offsets[index + 1] - offsets[index] }

    func text(_ index: Int, edition: Int = 0) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: texts[edition] + offsets[index], count: size(index))
    }

    /// How many of the texts hold the needle.
    var needles: Int { (count + Corpus.needleEvery - 1) / Corpus.needleEvery }

    var totalBytes: Int { offsets.last! }

    /// Writes one text into a buffer, which is how large its text is to be.
    static func fill(_ buffer: UnsafeMutableRawBufferPointer, index: Int) {
        var random = SeededRandom(seed: UInt64(index) &+ 1000)
        var position = 0
        func put(_ text: some Collection<UInt8>) {
            for byte in text where position < buffer.count {
                buffer[position] = byte
                position += 1
            }
        }
        let number = String(index)
        put("# Memory \(String(repeating: "0", count: 7 - min(7, number.count)))\(number)\n\n".utf8.prefix(draftOffset))
        put("\(draft)\n".utf8)
        var column = 0
        while position < buffer.count {
            if column == 0 { put(random.next() % 6 == 0 ? "\n## ".utf8 : "- ".utf8) }
            let word = words[Int(random.next() % UInt64(words.count))]
            put(word)
            column += word.count + 1
            if column > 72 {
                put("\n".utf8)
                column = 0
            } else {
                put(" ".utf8)
            }
        }
        let end = index % needleEvery == 0 ? "\n\(needle) \(number)\n" : "\n"
        for (offset, byte) in zip((buffer.count - end.utf8.count)..., end.utf8) { buffer[offset] = byte }
    }

    private static func edit(_ buffer: UnsafeMutableRawBufferPointer) {
        var line = 0
        let body = (draftOffset + draft.utf8.count)..<(buffer.count - needle.utf8.count - 10)
        for position in body {
            if buffer[position] == UInt8(ascii: "\n") { line += 1 }
            if line % 8 == 3, (UInt8(ascii: "a")...UInt8(ascii: "y")).contains(buffer[position]) { buffer[position] += 1 }
        }
    }

    private static let words: [[UInt8]] = {
        var random = SeededRandom(seed: 3)
        return (0..<2000).map { _ in (0..<(2 + random.next() % 9)).map { _ in UInt8(ascii: "a") + UInt8(random.next() % 26) } }
    }()
}

/// Names as the kernel wants them, made before any clock runs.
final class PathList {
    let pointers: [UnsafeMutablePointer<CChar>]
    init(_ paths: [String]) { pointers = paths.map { strdup($0) } }
    deinit { for pointer in pointers { free(pointer) } }

    var count: Int { pointers.count }
    subscript(index: Int) -> UnsafePointer<CChar> { UnsafePointer(pointers[index]) }
    func string(_ index: Int) -> String { String(cString: pointers[index]) }
}

/// Memories in directories of fifty.
struct Tree {
    let root: String
    let count: Int
    static let perDirectory = 50

    func path(_ index: Int, name: String = "memory", suffix: String = ".md") -> String {
        "\(root)/d\(Tree.padded(index / Tree.perDirectory, to: 4))/\(name)-\(Tree.padded(index, to: 6))\(suffix)"
    }

    func paths(name: String = "memory") -> PathList { PathList((0..<count).map { path($0, name: name) }) }

    func makeDirectories() throws {
        try Files.makeDirectory(root)
        for number in 0..<((count + Tree.perDirectory - 1) / Tree.perDirectory) {
            try Files.makeDirectory("\(root)/d\(Tree.padded(number, to: 4))")
        }
    }

    private static func padded(_ number: Int, to width: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
}
