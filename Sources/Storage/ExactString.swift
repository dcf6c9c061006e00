/// A string that equals another one if both have the same bytes.
///
/// Swift's own are equal where Unicode holds them equal: `é` as one scalar and as two. To the contract, as to a file system, those are two
/// keys.
package struct ExactString: Hashable, Comparable, Sendable, ExpressibleByStringInterpolation {
    package let text: String

    package init(_ text: String) { self.text = text }

    package init(stringLiteral text: String) { self.init(text) }

    package static func == (one: Self, other: Self) -> Bool { one.text.utf8.elementsEqual(other.text.utf8) }

    /// In byte order.
    package static func < (one: Self, other: Self) -> Bool { one.text.utf8.lexicographicallyPrecedes(other.text.utf8) }

    package func hash(into hasher: inout Hasher) {
        for byte in text.utf8 { hasher.combine(byte) }
        // So that no string is the beginning of another's.
        hasher.combine(UInt8(0xff))
    }
}

/// What a client keeps with a store or a session.
package typealias Metadata = [ExactString: String]
