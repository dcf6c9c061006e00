import Foundation
import Testing

/// The table of targets in `Architecture.md`, held against what the targets import.
@Suite struct ImportTests {
    struct Row {
        let targets: [String]
        let ours: Set<String>
        let packages: Set<String>
    }

    /// Comes with the system or the toolchain: any target may use it.
    private static let system: Set<String> = ["Foundation", "Glibc", "Synchronization"]

    private static func table() throws -> [Row] {
        try Page(Repository.page("Architecture")).section("Targets").rows.map { cells in
            try #require(cells.count == 3, "\(cells)")
            let halves = cells[2].split(separator: ";").map { half in
                Set(half.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.filter { $0 != "none" })
            }
            return Row(targets: codeSpans(cells[0]).sorted(), ours: halves[0], packages: halves.count > 1 ? halves[1] : [])
        }
    }

    private static let levels: Set<Substring> = ["public", "package", "internal", "fileprivate", "private"]
    private static let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]

    /// `import A`, `package import struct A.B`, `@testable import A`: the modules, without the system's.
    private static func imports(of target: String) throws -> Set<String> {
        var found: Set<String> = []
        for file in try Repository.files(below: "Sources/\(target)", ending: ".swift") {
            for line in try Repository.lines(file) {
                let words = line.split(separator: " ")
                let isImport = { (word: Substring) in word.hasPrefix("@") || levels.contains(word) }
                guard let place = words.firstIndex(of: "import"), line.first != " ", words[..<place].allSatisfy(isImport) else { continue }
                guard let module = words[(place + 1)...].first(where: { !kinds.contains($0) }) else { continue }
                found.insert(String(module.prefix { $0 != "." && $0 != ";" }))
            }
        }
        return found.subtracting(system)
    }

    @Test func theTableNamesEveryTarget() throws {
        let targets = try Self.table().flatMap(\.targets)
        #expect(targets.sorted() == (try Repository.names("Sources")))
    }

    @Test func aTargetImportsWhatItsRowSays() throws {
        let rows = try Self.table()
        let own = Set(rows.flatMap(\.targets))
        for row in rows {
            for target in row.targets {
                let imports = try Self.imports(of: target)
                #expect(imports.intersection(own) == row.ours, "targets that \(target) imports")
                #expect(imports.subtracting(own) == row.packages, "modules of packages that \(target) imports")
            }
        }
    }

    @Test func importsGoDownOnly() throws {
        var below: Set<String> = []
        for row in try Self.table() {
            #expect(row.ours.isSubset(of: below), "\(row.targets) imports something that stands below it in the table")
            below.formUnion(row.targets)
        }
    }
}
