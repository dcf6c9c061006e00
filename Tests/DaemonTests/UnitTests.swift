import Foundation
import Glibc
import TestSupport
import Testing

/// The units in `systemd/`, as systemd itself reads them.
extension ServeTests {
    static let hasSystemdAnalyze = access("/usr/bin/systemd-analyze", X_OK) == 0

    @Suite(.enabled(if: ServeTests.hasSystemdAnalyze, "needs systemd-analyze (package systemd)")) struct UnitTests {
        private static let units = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("systemd")

        /// Runs `body` with a copy of the directory in which the program is the built one: where units say that it is, there need be none.
        private static func copied(_ body: (_ directory: String, _ units: [String]) throws -> Void) throws {
            try TemporaryDirectory.with { scratch in
                let copy = scratch + "/systemd"
                try FileManager.default.copyItem(at: units, to: URL(fileURLWithPath: copy))
                let found = try FileManager.default.subpathsOfDirectory(atPath: copy).filter { !$0.hasSuffix("user") }.sorted()
                for name in found {
                    let text = try String(contentsOfFile: "\(copy)/\(name)", encoding: .utf8)
                    if name.hasSuffix(".service") { #expect(text.contains("\nExecStart=/usr/bin/remfs serve\n"), "\(name)") }
                    try text.replacing("/usr/bin/remfs ", with: Binary.path + " ")
                        .write(toFile: "\(copy)/\(name)", atomically: false, encoding: .utf8)
                }
                try body(copy, found)
            }
        }

        private static func analyze(_ arguments: [String], in directory: String) throws -> Program.Outcome {
            let runtime = directory + "/runtime"
            if access(runtime, F_OK) != 0 { try check(mkdir(runtime, 0o700)) }
            return try Program.start(
                ["systemd-analyze"] + arguments, in: "/", scratch: runtime, environment: ["XDG_RUNTIME_DIR": runtime, "SYSTEMD_PAGER": ""]
            ).wait()
        }

        /// Unknown settings are words on standard error, and no failure.
        @Test func verifyHasNothingToSay() throws {
            try Self.copied { directory, units in
                #expect(units == ["remfs.service", "remfs.socket", "user/remfs.service", "user/remfs.socket"])
                for unit in units {
                    let manager = unit.hasPrefix("user/") ? "--user" : "--system"
                    let outcome = try Self.analyze([manager, "verify", "\(directory)/\(unit)"], in: directory)
                    #expect(outcome.status == 0 && outcome.output + outcome.errors == "", "\(unit): \(outcome.errors)\(outcome.output)")
                }
            }
        }

        /// Otherwise silence would say nothing.
        @Test func verifySpeaksOfAMistake() throws {
            try Self.copied { directory, units in
                for unit in units {
                    let path = "\(directory)/\(unit)"
                    let text = try String(contentsOfFile: path, encoding: .utf8)
                    try text.replacing("Description=", with: "Descripton=").write(toFile: path, atomically: false, encoding: .utf8)
                    let manager = unit.hasPrefix("user/") ? "--user" : "--system"
                    #expect(try Self.analyze([manager, "verify", path], in: directory).errors.contains("Descripton"), "\(unit)")
                }
            }
        }

        /// 4.0, of 10: what mounts for others cannot be shut in further, and the unit says at each point why.
        @Test func theServiceIsExposedByFourAtMost() throws {
            try Self.copied { directory, _ in
                func security(_ threshold: Int) throws -> Program.Outcome {
                    try Self.analyze(
                        ["security", "--offline=true", "--threshold=\(threshold)", "\(directory)/remfs.service"], in: directory)
                }
                let outcome = try security(40)
                #expect(outcome.status == 0, "\(outcome.output)\(outcome.errors)")
                let level = try #require(outcome.output.firstMatch(of: /Overall exposure level for remfs.service: ([0-9.]+)/))
                #expect(try #require(Double(level.1)) <= 4.0)
                #expect(try security(10).status != 0, "a threshold that it is above is said to be passed")
            }
        }
    }
}
