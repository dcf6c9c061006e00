/// An ID as the contract writes it: a prefix, `01`, and 22 base-58 characters that hold 128 bits.
package protocol Identifier: Hashable, Sendable, CustomStringConvertible, Codable {
    static var prefix: String { get }
    var bits: UInt128 { get }
    init(bits: UInt128)
}

extension Identifier {
    package var description: String { Self.prefix + "01" + Base58.encode(bits) }

    /// Reads an ID that one of ours could be; nil for anything else, which then names nothing.
    package init?(_ text: String) {
        let head = Self.prefix + "01"
        guard text.hasPrefix(head), let bits = Base58.decode(text.dropFirst(head.count)) else { return nil }
        self.init(bits: bits)
    }

    package static func random() -> Self { Self(bits: UInt128.random(in: 0...UInt128.max)) }

    package init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = Self(text) else {
            throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "not a \(Self.prefix) ID"))
        }
        self = value
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

package struct StoreID: Identifier {
    package static let prefix = "memstore_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
    /// What the IDs of this store's memories and versions carry, so that they resolve without an index and in no other store.
    package var tag: UInt64 { UInt64(truncatingIfNeeded: bits >> 64) }
}

package struct SessionID: Identifier {
    package static let prefix = "sesn_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

package struct DreamID: Identifier {
    package static let prefix = "drm_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

package struct MountID: Identifier {
    package static let prefix = "mnt_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

package struct RequestID: Identifier {
    package static let prefix = "req_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

/// An ID that is a row number of one store: the store's tag and the number, mixed so that neighbours look different.
package protocol RowIdentifier: Identifier {}

extension RowIdentifier {
    package init(store: StoreID, number: Int64) {
        let (high, low) = Mixing.forward(UInt64(bitPattern: number), store.tag)
        self.init(bits: UInt128(high) << 64 | UInt128(low))
    }

    /// The row number, if this ID belongs to `store`.
    package func number(in store: StoreID) -> Int64? {
        let (number, tag) = Mixing.backward(UInt64(truncatingIfNeeded: bits >> 64), UInt64(truncatingIfNeeded: bits))
        guard tag == store.tag, number > 0, number <= UInt64(Int64.max) else { return nil }
        return Int64(number)
    }
}

package struct MemoryID: RowIdentifier {
    package static let prefix = "mem_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

package struct VersionID: RowIdentifier {
    package static let prefix = "memver_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

/// A three-round Feistel network over two 64-bit halves: a bijection, no secret.
private enum Mixing {
    /// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    static func round(_ value: UInt64) -> UInt64 {
        var mixed = value &+ 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    static func forward(_ number: UInt64, _ tag: UInt64) -> (UInt64, UInt64) {
        let a = tag ^ round(number)
        let b = number ^ round(a)
        return (b, a ^ round(b))
    }

    static func backward(_ high: UInt64, _ low: UInt64) -> (number: UInt64, tag: UInt64) {
        let a = low ^ round(high)
        let number = high ^ round(a)
        return (number, a ^ round(number))
    }
}

/// Bitcoin's alphabet: no 0, O, I, l.
enum Base58 {
    private static let alphabet = Array("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".utf8)
    private static let values: [UInt8: UInt128] = .init(
        uniqueKeysWithValues: alphabet.enumerated().map { ($0.element, UInt128($0.offset)) })

    /// 22 characters: 58^22 is just above 2^128.
    static func encode(_ bits: UInt128) -> String {
        var rest = bits
        var digits = [UInt8](repeating: alphabet[0], count: 22)
        for place in stride(from: 21, through: 0, by: -1) {
            let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: 58)
            digits[place] = alphabet[Int(remainder)]
            rest = quotient
        }
        return String(decoding: digits, as: UTF8.self)
    }

    static func decode(_ text: some StringProtocol) -> UInt128? {
        guard text.utf8.count == 22 else { return nil }
        var bits: UInt128 = 0
        for byte in text.utf8 {
            guard let value = values[byte] else { return nil }
            let (product, over) = bits.multipliedReportingOverflow(by: 58)
            let (sum, overSum) = product.addingReportingOverflow(value)
            guard !over, !overSum else { return nil }
            bits = sum
        }
        return bits
    }
}
