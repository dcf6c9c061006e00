import Foundation
import Testing

/// This checkout, as text.
enum Repository {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
    }

    static func lines(_ path: String) throws -> [Substring] { try text(path).split(separator: "\n", omittingEmptySubsequences: false) }

    static func page(_ name: String) throws -> String { try text("Sources/remfs/Documentation.docc/\(name).md") }

    /// What stands in a directory, sorted.
    static func names(_ path: String = "") throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: root.appendingPathComponent(path).path).sorted()
    }

    /// Paths of the files below a directory, sorted.
    static func files(below directory: String, ending suffix: String) throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: root.appendingPathComponent(directory).path)
            .filter { $0.hasSuffix(suffix) }.map { "\(directory)/\($0)" }.sorted()
    }

    /// The Swift files that this package is made of.
    static func sources() throws -> [String] { try files(below: "Sources", ending: ".swift") }
    static func tests() throws -> [String] { try files(below: "Tests", ending: ".swift") }
}

/// A page in Markdown, as far as tests read one.
struct Page {
    struct Section {
        let level: Int
        let heading: String
        /// Up to the next heading of any level.
        var text = ""
        /// The cells of its tables' rows, without header and rule.
        var rows: [[String]] = []
    }
    private(set) var sections: [Section] = []

    init(_ text: String) {
        var isCode = false
        var tableLine = 0
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("```") { isCode.toggle() }
            let level = line.prefix { $0 == "#" }.count
            if !isCode, (1...6).contains(level), line.dropFirst(level).first == " " {
                sections.append(Section(level: level, heading: String(line.dropFirst(level + 1))))
                continue
            }
            guard !sections.isEmpty else { continue }
            sections[sections.count - 1].text += line + "\n"
            tableLine = line.hasPrefix("|") && !isCode ? tableLine + 1 : 0
            if tableLine > 2 {
                let cells = line.dropFirst().split(separator: "|", omittingEmptySubsequences: false).dropLast()
                sections[sections.count - 1].rows.append(cells.map { $0.trimmingCharacters(in: .whitespaces) })
            }
        }
    }

    func headings(level: Int) -> [String] { sections.filter { $0.level == level }.map(\.heading) }

    func section(_ heading: String) throws -> Section {
        try #require(sections.first { $0.heading == heading }, "no heading \"\(heading)\"")
    }
}

/// What stands between backticks.
func codeSpans(_ text: some StringProtocol) -> Set<String> {
    Set(text.split(separator: "`", omittingEmptySubsequences: false).enumerated().filter { $0.offset % 2 == 1 }.map { String($0.element) })
}
