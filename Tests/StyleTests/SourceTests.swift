import Foundation
import Testing

/// How sources are written.
@Suite struct SourceTests {
    @Test(.enabled(if: Formatter.isThere, "the toolchain has no `swift format`")) func theFormatterHasNothingToSay() throws {
        let complaints = try Formatter.lint()
        // `swift format -i -r Sources Tests` puts them right.
        #expect(complaints.isEmpty, "\(complaints.joined(separator: "\n"))")
    }

    /// The comment says why the loss is harmless.
    @Test func aSwallowedErrorHasItsReasonBesideIt() throws {
        for file in try Repository.sources() {
            let lines = try Repository.lines(file)
            for (place, line) in lines.enumerated() where line.contains("try?") && !isComment(line) {
                guard line.contains(/\btry\?/) else { continue }  // no `entry?.`
                #expect(line.contains("//") || (place > 0 && isComment(lines[place - 1])), "\(file):\(place + 1)")
            }
        }
    }

    @Test func nothingIsLeftForLater() throws {
        // In two parts, since this file is read as well.
        let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X:"]
        for file in try Repository.sources() + Repository.tests() {
            for (place, line) in try Repository.lines(file).enumerated() {
                #expect(!marks.contains { line.contains($0) }, "\(file):\(place + 1)")
            }
        }
    }

    /// A trap is for a broken invariant of ours, and says which: `precondition`.
    @Test func nothingTrapsWithoutAnInvariant() throws {
        for file in try Repository.sources() {
            for (place, line) in try Repository.lines(file).enumerated() where !isComment(line) {
                #expect(!["fatalError", "assertionFailure", "try!"].contains { line.contains($0) }, "\(file):\(place + 1)")
            }
        }
    }

    @Test func noCommandHidesItsFailure() throws {
        for file in [".ci/run", "README.md"] + (try Repository.files(below: "Sources", ending: ".md")) {
            #expect(!(try Repository.text(file)).contains("|| " + "true"), "\(file)")
        }
    }

    /// Files that are longer than 500 lines, and why they may be.
    private static let long: [String: String] = [
        "Sources/Fuse/FuseTrampolines.swift": "as long as the protocol: a callback for each operation",
        "Tests/FilesystemTests/LockTableTests.swift": "a case for each rule of three kinds of locks",
        "Tests/StorageTests/Support.swift": "a store driven without a kernel: mount, caller, clock and log in one place",
        "Tests/FuseTests/ToyFilesystem.swift": "a whole file system, in memory, to be read in one place",
    ]

    @Test func aLongFileHasAReason() throws {
        var found: Set<String> = []
        for file in try Repository.sources() + Repository.tests() where try Repository.lines(file).count - 1 > 500 {
            found.insert(file)
            #expect(Self.long[file] != nil, "\(file) is over 500 lines: which second job has it taken on?")
        }
        #expect(Set(Self.long.keys).subtracting(found).isEmpty, "no longer long")
    }

    /// What git keeps at the top, and what building puts beside it (`.gitignore`).
    @Test func theTopLevelHoldsWhatIsExpected() throws {
        let kept: Set<String> = [
            ".ci", ".gitignore", ".swift-format", "LICENSE", "Package.swift", "README.md", "Sources", "Tests", "systemd",
        ]
        let names = Set(try Repository.names().filter { $0 != ".git" && !isBuilt($0) })
        #expect(names == kept)
    }

    private func isBuilt(_ name: String) -> Bool {
        name.hasPrefix(".build") || [".swiftpm", "Package.resolved"].contains(name) || name.hasSuffix(".xcodeproj")
    }

    private func isComment(_ line: Substring) -> Bool { line.trimmingCharacters(in: .whitespaces).hasPrefix("//") }
}

/// `swift format` of the toolchain that runs the tests.
private enum Formatter {
    static let isThere = FileManager.default.isExecutableFile(atPath: "/usr/bin/env") && ((try? run(["--version"]))?.status == 0)

    /// Its complaints, one a line, with paths from the repository's root.
    static func lint() throws -> [String] {
        let (status, errors) = try run(["lint", "--strict", "--recursive", "Sources", "Tests"])
        let lines = errors.split(separator: "\n").map(String.init)
        return status == 0 ? [] : lines.isEmpty ? ["swift format ended with \(status)"] : lines
    }

    private static func run(_ arguments: [String]) throws -> (status: Int32, errors: String) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["swift", "format"] + arguments
        process.currentDirectoryURL = Repository.root
        let errors = Pipe()
        process.standardError = errors
        process.standardOutput = FileHandle.nullDevice
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }
}
