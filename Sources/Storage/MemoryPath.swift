import Foundation

/// A path that the API may create: absolute, 1 to 20 segments, at most 1,024 bytes, NFC, no control or format characters.
///
/// Rules and their sources: `api.md` 4.1. A mount may hold paths that are no `MemoryPath`; those are shown as they are.
package struct MemoryPath: Hashable, Sendable, CustomStringConvertible {
    package static let maximumBytes = 1_024
    package static let maximumSegments = 20

    package let text: String
    package var description: String { text }
    package var segments: [Substring] { text.utf8.split(separator: UInt8(ascii: "/")).map { Substring($0) } }

    /// Throws `invalidArgument` that says which rule was broken.
    package init(_ text: String) throws(RemfsError) {
        func refuse(_ why: String) -> RemfsError { RemfsError(.invalidArgument, "path \(MemoryPath.quoted(text)) \(why)") }
        guard text.utf8.first == UInt8(ascii: "/") else { throw refuse("does not start with /") }
        guard text.utf8.count <= Self.maximumBytes else { throw refuse("is over 1,024 bytes") }
        let segments = text.utf8.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard segments.allSatisfy({ !$0.isEmpty }) else { throw refuse("has an empty segment") }
        guard segments.count <= Self.maximumSegments else { throw refuse("has over 20 segments") }
        guard !segments.contains(where: { $0.elementsEqual(".".utf8) || $0.elementsEqual("..".utf8) }) else {
            throw refuse("has a . or .. segment")
        }
        for scalar in text.unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control: throw refuse("has a control character")
            case .format: throw refuse("has an invisible format character")
            case .lineSeparator, .paragraphSeparator: throw refuse("has a line or paragraph separator")
            default: break
            }
        }
        // Compared as bytes: Swift's == on strings holds canonically equivalent texts equal, which is the very difference.
        guard text.utf8.allSatisfy({ $0 < 0x80 }) || text.precomposedStringWithCanonicalMapping.utf8.elementsEqual(text.utf8) else {
            throw refuse("is not in Unicode NFC")
        }
        guard !segments[0].elementsEqual(".remfs".utf8) else { throw refuse("is reserved") }
        guard text != "/.anthropic-memory-store" else { throw refuse("is reserved for the SDK's marker file") }
        self.text = text
    }

    /// Whether a path that a store shows is this one: byte for byte, where `==` would hold `é` equal to `e` and its accent.
    func isSame(as path: String) -> Bool { text.utf8.elementsEqual(path.utf8) }

    private static func quoted(_ text: String) -> String {
        text.unicodeScalars.count > 80 ? String(String.UnicodeScalarView(text.unicodeScalars.prefix(80))) + "..." : text
    }
}
