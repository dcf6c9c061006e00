import Filesystem
import TestSupport
import Testing

/// A script that runs in the root of a mount, and the versions that exist for it once nothing is pending any more.
struct SemanticsCase: Sendable, CustomTestStringConvertible {
    let script: String
    var memories: [String: String] = [:]
    let versions: [String]

    init(_ script: String, with memories: [String: String] = [:], makes versions: [String]) {
        self.script = script
        self.memories = memories
        self.versions = versions
    }

    var testDescription: String { script }

    func run(_ options: MountOptions = MountOptions()) async throws {
        try await MountedStore.with(memories: memories, options) { mount in
            try mount.run(script)
            expect(try mount.history(), is: versions)
        }
    }
}

/// As `#expect(value == expected)`, but shows both even where the value is of a call that throws.
func expect<Value: Equatable>(_ value: Value, is expected: Value, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(value == expected, sourceLocation: sourceLocation)
}
