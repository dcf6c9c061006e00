import Foundation
import FuzzBodies
import TestSupport
import Testing

/// Each parser over its corpus, and over mutations of it that are the same at each run.
@Suite struct FuzzTests {
    private static func corpus(_ body: FuzzBody) throws -> [(name: String, bytes: [UInt8])] {
        let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Corpus/\(body.rawValue)")
        let names = try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted()
        return try names.map { ($0, Array(try Data(contentsOf: directory.appendingPathComponent($0)))) }
    }

    /// How many mutations of each file. `REMFS_TEST_MUTATIONS` has more of them made.
    private static let mutations = ProcessInfo.processInfo.environment["REMFS_TEST_MUTATIONS"].flatMap { Int($0) } ?? 150

    @Test(arguments: FuzzBody.allCases) func aParserStandsWhateverComes(_ body: FuzzBody) throws {
        let corpus = try Self.corpus(body)
        #expect(corpus.count >= 5, "\(body) has a corpus")
        var random = SeededRandom(seed: 20_261_123)
        for (_, bytes) in corpus {
            body.run(bytes)
            for _ in 0..<Self.mutations {
                var mutant = bytes
                for _ in 0...random.below(4) { Self.mutate(&mutant, corpus.map(\.bytes), &random) }
                body.run(mutant)
            }
        }
    }

    /// What fuzzers do: bits and bytes changed, taken out, doubled, taken from another.
    private static func mutate(_ bytes: inout [UInt8], _ corpus: [[UInt8]], _ random: inout SeededRandom) {
        let place = random.below(bytes.count + 1)
        let length = random.below(min(64, bytes.count - place) + 1)
        switch random.below(6) {
        case 0 where place < bytes.count: bytes[place] ^= 1 << UInt8(random.below(8))
        case 1 where place < bytes.count: bytes[place] = [0, 0xff, 0x80, 0x2f, 0x2e, 0x0a, 0x22, 0x39][random.below(8)]
        case 2: bytes.removeSubrange(place..<(place + length))
        case 3: bytes.insert(contentsOf: Array(bytes[place..<(place + length)]), at: place)
        case 4:
            let other = corpus[random.below(corpus.count)]
            let from = random.below(other.count + 1)
            bytes.insert(contentsOf: other[from..<min(from + 40, other.count)], at: place)
        default: bytes.removeSubrange(place...)
        }
    }
}

extension SeededRandom {
    fileprivate mutating func below(_ limit: Int) -> Int { Int.random(in: 0..<limit, using: &self) }
}
