/// What somebody looks for, as text for people: words and "phrases", all of which have to be there. A `*` behind one stands for any ending.
///
/// None of it is FTS5's own syntax: `AND`, `-`, `:` and parentheses are text as any other, and parts without a letter or digit are left out.
package struct SearchQuery: Sendable, Equatable {
    /// Scalars; a question is no document.
    package static let longest = 1_024
    package static let mostTerms = 32

    /// The same as an FTS5 expression.
    package let expression: String

    /// - Throws: `invalidArgument` with what is wrong with the text.
    package init(_ text: String) throws(RemfsError) {
        // Scalars, as FTS5 sees them: with an accent behind it a quote is another character, and still a quote.
        var rest = text.unicodeScalars[...]
        guard rest.count <= Self.longest else { throw RemfsError(.invalidArgument, "q is over \(Self.longest) characters") }
        guard !rest.contains("\0") else { throw RemfsError(.invalidArgument, "q has a NUL in it") }
        var terms: [String] = []
        while let first = rest.first {
            if first.properties.isWhitespace {
                rest = rest.dropFirst()
                continue
            }
            let term: Substring.UnicodeScalarView
            if first == "\"" {
                rest = rest.dropFirst()
                guard let end = rest.firstIndex(of: "\"") else {
                    throw RemfsError(.invalidArgument, "q has a phrase that does not end: a \" is missing")
                }
                term = rest[..<end]
                rest = rest[rest.index(after: end)...]
            } else {
                term = rest.prefix { !$0.properties.isWhitespace && $0 != "\"" && $0 != "*" }
                rest = rest[term.endIndex...]
            }
            let isPrefix = rest.first == "*"
            if isPrefix { rest = rest.drop { $0 == "*" } }
            guard term.contains(where: Self.isOfWord) else { continue }
            terms.append("\"\(Substring(term))\"" + (isPrefix ? "*" : ""))
        }
        guard !terms.isEmpty else { throw RemfsError(.invalidArgument, "q has no word to look for") }
        guard terms.count <= Self.mostTerms else { throw RemfsError(.invalidArgument, "q has over \(Self.mostTerms) words and phrases") }
        expression = terms.joined(separator: " ")
    }

    /// What the tokenizer takes for a part of a word (unicode61: letters, digits and private characters).
    private static func isOfWord(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter, .decimalNumber, .letterNumber,
            .otherNumber, .privateUse:
            true
        default: false
        }
    }
}

/// A memory that was found, and where in it.
package struct SearchHit: Sendable {
    package let memory: Memory
    /// A few words around what was found, on one line or several as the memory has them.
    package let snippet: String
    /// What was found in the snippet, in scalars from its beginning.
    package let highlights: [Range<Int>]
    /// The higher, the better it fits (BM25). Only for comparing the hits of one search.
    package let score: Double
}
