import Glibc

/// Random numbers that come again with their seed (SplitMix64). Print the seed where a test may fail.
package struct SeededRandom: RandomNumberGenerator, CustomStringConvertible {
    package let seed: UInt64
    private var state: UInt64

    package init(seed: UInt64) {
        self.seed = seed
        state = seed
    }

    /// A new seed, or that of the environment's REMFS_TEST_SEED.
    package static func fresh() -> SeededRandom {
        let given = getenv("REMFS_TEST_SEED").flatMap { UInt64(String(cString: $0)) }
        return SeededRandom(seed: given ?? UInt64.random(in: 1...UInt64(UInt32.max)))
    }

    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    package mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }

    package var description: String { "REMFS_TEST_SEED=\(seed)" }
}
