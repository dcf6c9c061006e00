import Foundation
import Testing

/// Pages that have to say what the sources do.
@Suite struct DocumentationTests {
    /// A promise without a test is not yet a promise, nor is a test without one.
    @Test func semanticsAndItsTestsHaveTheSameHeadings() throws {
        let promised = try Page(Repository.page("Semantics")).headings(level: 2)
        let files = try Repository.files(below: "Tests/MountTests", ending: "SemanticsTests.swift").map { file in
            try Repository.lines(file).compactMap { line -> String? in
                let text = line.trimmingCharacters(in: .whitespaces)
                guard text.hasPrefix("// MARK: ") else { return nil }
                return String(text.dropFirst(9).drop { $0 == "-" || $0 == " " })
            }
        }
        // The page says which file comes first; within one, and from one to the next, the order is the page's.
        let place = Dictionary(uniqueKeysWithValues: promised.enumerated().map { ($1, $0) })
        let tested = files.sorted { place[$0.first ?? "", default: 0] < place[$1.first ?? "", default: 0] }.flatMap(\.self)
        #expect(promised == tested)
    }

    @Test func schemaTellsOfEveryTableAndColumn() throws {
        let page = Page(try Repository.page("Schema"))
        // A later migration may make a table anew.
        let all = SchemaText.tables(in: try Repository.text("Sources/Storage/Schema.swift"))
        let tables = all.enumerated().filter { place, table in !all[(place + 1)...].contains { $0.name == table.name } }.map(\.element)
        #expect(tables.count > 10, "the schema is not read as it should be")
        for table in tables {
            let section = page.sections.first { $0.heading == "`\(table.name)`" }
            #expect(section != nil, "Schema.md has no heading for the table \(table.name)")
            let told = codeSpans(section?.text ?? "")
            for column in table.columns { #expect(told.contains(column), "Schema.md does not tell of \(table.name).\(column)") }
        }
    }

    @Test func theAPIPageTellsOfEveryRoute() throws {
        let page = try Repository.page("HTTPAPI")
        let route = /routes\.on\(\s*\.([a-z]+),\s*"([^"]+)"/
        var count = 0
        for file in try Repository.files(below: "Sources/Control", ending: ".swift") {
            for match in try Repository.text(file).matches(of: route) {
                count += 1
                let parts = match.2.split(separator: "/").map { part in part.hasPrefix(":") ? "{\(part.dropFirst())}" : String(part) }
                let told = "\(match.1.uppercased()) /\(parts.joined(separator: "/"))"
                // As a whole: another route may begin the same way.
                let whole = try Regex(NSRegularExpression.escapedPattern(for: told) + #"(?![\w/{])"#)
                #expect(page.firstMatch(of: whole) != nil, "HTTPAPI.md does not tell of \(told)")
            }
        }
        #expect(count > 20, "routes are registered in another way than this test knows")
    }

    @Test func linksLeadSomewhere() throws {
        let pages = try Repository.files(below: "Sources", ending: ".md") + ["README.md"]
        for page in pages {
            for link in try Repository.text(page).matches(of: /\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/) {
                let target = Repository.root.appendingPathComponent(page).deletingLastPathComponent().appendingPathComponent(String(link.1))
                #expect(FileManager.default.fileExists(atPath: target.path), "\(page) links to \(link.1)")
            }
            for link in try Repository.text(page).matches(of: /<doc:([A-Za-z]+)>/) {
                let names = try Repository.names("Sources/remfs/Documentation.docc")
                #expect(names.contains("\(link.1).md"), "\(page) links to \(link.1)")
            }
        }
    }

    /// What CI runs is what the README tells people to run.
    @Test func theReadmesTestCommandIsWhatCIRuns() throws {
        let blocks = try Repository.text("README.md").matches(of: /```sh\n([^`]*?)```/).map { String($0.1) }
        let command = try #require(blocks.first { $0.hasSuffix("\nswift test\n") }, "the README has no test command")
        #expect(try Repository.text(".ci/run").hasSuffix(command))
    }
}

/// `CREATE TABLE` and `CREATE VIEW` as text.
enum SchemaText {
    struct Table {
        let name: String
        let columns: [String]
    }

    static func tables(in source: String) -> [Table] {
        let sql = source.replacing(/--[^\n]*/, with: "")
        let tables = sql.matches(of: /CREATE TABLE ([a-z_]+) \(/).map { match in
            Table(name: String(match.1), columns: parts(sql[match.range.upperBound...], end: ")").compactMap(column))
        }
        let views = sql.matches(of: /CREATE VIEW ([a-z_]+) AS\s+SELECT\s/).map { match in
            let end = sql[match.range.upperBound...].firstRange(of: "FROM")?.lowerBound ?? sql.endIndex
            let columns = parts(sql[match.range.upperBound..<end], end: ";").compactMap { $0.split(separator: " ").last.map(String.init) }
            return Table(name: String(match.1), columns: columns)
        }
        return tables + views
    }

    /// What commas part, outside of parentheses, up to `end` or the end.
    private static func parts(_ text: Substring, end: Character) -> [String] {
        var parts = [""]
        var depth = 0
        for character in text {
            if depth == 0, character == end { break }
            if character == "(" { depth += 1 }
            if character == ")" { depth -= 1 }
            if depth == 0, character == "," { parts.append("") } else { parts[parts.count - 1].append(character) }
        }
        return parts.map { $0.split(whereSeparator: \.isWhitespace).joined(separator: " ") }
    }

    private static func column(_ definition: String) -> String? {
        guard let word = definition.split(whereSeparator: { $0 == " " || $0 == "(" }).first else { return nil }
        return ["CHECK", "PRIMARY", "FOREIGN", "UNIQUE", "CONSTRAINT"].contains(word) ? nil : String(word)
    }
}
