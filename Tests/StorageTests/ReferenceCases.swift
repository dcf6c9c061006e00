import Foundation

/// Random texts and their changes, written to files so that one shell loop can ask the real tools about all of them.
struct ReferenceCases {
    struct Case {
        let base: [UInt8]
        let ours: [UInt8]
        let theirs: [UInt8]
    }

    let cases: [Case]

    /// The same seed makes the same cases. A failed run is repeated with its seed in `REMFS_TEST_SEED`; `REMFS_TEST_ROUNDS` asks for more cases.
    init(of test: String) {
        let environment = ProcessInfo.processInfo.environment
        let seed = environment["REMFS_TEST_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0..<1 << 32)
        let rounds = environment["REMFS_TEST_ROUNDS"].flatMap { Int($0) } ?? 120
        print("\(test): REMFS_TEST_SEED=\(seed) REMFS_TEST_ROUNDS=\(rounds)")
        var random = SeededRandom(seed: seed)
        cases = (0..<rounds).map { _ in Self.random(using: &random) }
    }

    /// Runs a script in a directory of its own for each case, with the files `base`, `ours` and `theirs`, and collects the files it leaves.
    func files(_ names: [String], after script: String) throws -> [[String: [UInt8]]] {
        let top = FileManager.default.temporaryDirectory.appendingPathComponent("remfs-reference-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: top, withIntermediateDirectories: true)
        // What cannot be removed is a temporary file, and no reason to fail the test that passed.
        defer { try? FileManager.default.removeItem(at: top) }
        for (number, texts) in cases.enumerated() {
            let directory = top.appendingPathComponent("\(number)")
            try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
            try Data(texts.base).write(to: directory.appendingPathComponent("base"))
            try Data(texts.ours).write(to: directory.appendingPathComponent("ours"))
            try Data(texts.theirs).write(to: directory.appendingPathComponent("theirs"))
        }
        try Self.shell("for number in *; do ( cd $number && { \(script)\n} ) || exit 1; done", in: top)
        return try cases.indices.map { number in
            let directory = top.appendingPathComponent("\(number)")
            return try Dictionary(
                uniqueKeysWithValues: names.map { ($0, try [UInt8](Data(contentsOf: directory.appendingPathComponent($0)))) })
        }
    }

    /// Applies a patch for each case to its `base` and gives what that made. The cases with an empty patch are left as they are.
    func patched(with patches: [[UInt8]]) throws -> [[UInt8]] {
        // The patches travel as the cases' third text, which a diff has no use for.
        let texts = zip(cases, patches).map { Case(base: $0.base, ours: $0.ours, theirs: $1) }
        return try ReferenceCases(cases: texts)
            .files(["result"], after: "cp base result; if [ -s theirs ]; then patch -s --binary result theirs; fi")
            .map { $0["result"] ?? [] }
    }

    private init(cases: [Case]) { self.cases = cases }

    struct ScriptFailed: Error, CustomStringConvertible {
        let description: String
    }

    private static func shell(_ script: String, in directory: URL) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", script]
        process.currentDirectoryURL = directory
        // Nobody's own settings (merge.conflictStyle, for one) are to decide what git answers.
        process.environment = ["PATH": path, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw ScriptFailed(description: "the script ended in \(process.terminationStatus): \(script)")
        }
    }

    private static var path: String { ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin" }

    /// For a test's `.enabled(if:)`.
    static func areInstalled(_ programs: String...) -> Bool {
        programs.allSatisfy { program in
            path.split(separator: ":").contains { FileManager.default.isExecutableFile(atPath: "\($0)/\(program)") }
        }
    }

    // MARK: Making texts

    /// What lines are made of decides how ambiguous their differences are.
    private enum Kind: CaseIterable {
        case letters, notes, items, unique, words

        func line(using random: inout SeededRandom) -> String {
            switch self {
            case .letters: ["a", "b", "c"].randomElement(using: &random)!
            case .notes: ["", "}", "- x", "line \(random.below(1_000_000))", "word \(random.below(1_000))"].randomElement(using: &random)!
            case .items: ["", "", "  ", "--", "item \(random.below(20))"].randomElement(using: &random)!
            case .unique: "unique \(random.next())"
            case .words: "w\(random.below(30))"
            }
        }

        func lines(_ count: Int, using random: inout SeededRandom) -> [String] { (0..<count).map { _ in line(using: &random) } }
    }

    private static func random(using random: inout SeededRandom) -> Case {
        let kind = Kind.allCases.randomElement(using: &random)!
        let base = kind.lines([0, 1, 2, 3, 5, 8, 13, 20, 40, 80, 200].randomElement(using: &random)!, using: &random)
        let newline = random.below(5) == 0 ? "\r\n" : "\n"
        func text(_ lines: [String], _ random: inout SeededRandom) -> [UInt8] {
            // Now and then another kind of line end, or none at the text's end.
            let newline = random.below(10) == 0 ? "\n" : newline
            let text = lines.joined(separator: newline) + (lines.isEmpty || random.below(7) == 0 ? "" : newline)
            // A byte that is nowhere in UTF-8.
            return text.utf8.map { $0 == UInt8(ascii: "x") ? 0xFF : $0 }
        }
        return Case(
            base: text(base, &random),
            ours: text(changed(base, kind, using: &random), &random),
            theirs: text(changed(base, kind, using: &random), &random))
    }

    private static func changed(_ base: [String], _ kind: Kind, using random: inout SeededRandom) -> [String] {
        var lines = base
        for _ in 0..<[0, 1, 1, 2, 3, 5, 8, 20].randomElement(using: &random)! {
            let place = random.below(lines.count + 1)
            let length = [0, 1, 2, 3, 4, 30].randomElement(using: &random)!
            let passage = place..<min(place + length, lines.count)
            switch random.below(5) {
            case 0: lines.removeSubrange(passage)
            case 1: lines.insert(contentsOf: kind.lines(passage.count, using: &random), at: place)
            case 2: lines.replaceSubrange(passage, with: kind.lines(random.below(length + 3), using: &random))
            case 3: lines.insert(contentsOf: lines[passage], at: place)
            default:
                let moved = lines[passage]
                lines.removeSubrange(passage)
                lines.insert(contentsOf: moved, at: random.below(lines.count + 1))
            }
        }
        return lines
    }
}
