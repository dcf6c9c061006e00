import Foundation
import Glibc
import TestSupport
import Testing

/// The examples of the documentation, run as they stand there.
extension ServeTests {
    @Suite(.serialized) struct ExampleTests {
        private static func text(of page: String) throws -> String {
            let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            return try String(contentsOf: root.appendingPathComponent("Sources/remfs/Documentation.docc/\(page).md"), encoding: .utf8)
        }

        /// The blocks of a language in a page, in order.
        private static func blocks(_ language: String, of page: String) throws -> [String] {
            try text(of: page).components(separatedBy: "```\(language)\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
        }

        /// What the daemon has answered so far, as often as it did, by status.
        private static func answers(_ daemon: DaemonProcess) throws -> [String: Int] {
            let text = String(decoding: try daemon.http("GET", "/metrics").body, as: UTF8.self)
            var counts: [String: Int] = [:]
            for match in text.matches(of: /remfs_http_requests_total\{[^}]*status="([0-9]+)"[^}]*\} ([0-9]+)/) {
                counts[String(match.1), default: 0] += try #require(Int(match.2))
            }
            return counts
        }

        /// One shell runs them all. That none was left out or refused is what the daemon says, not the shell: a function hides what
        /// failed in it.
        @Test func theCommandsOfTheAPIPageAreAllAnswered() throws {
            let script = try Self.blocks("sh", of: "HTTPAPI").joined()
            let calls = script.matches(of: #/(?:^|[\s(])api /#).count
            try #require(calls >= 9, "HTTPAPI.md has no examples, or others than this test knows")
            try DaemonProcess.with { daemon in
                let outcome = try Program.start(
                    ["bash", "-euo", "pipefail", "-c", "remfs() { '\(Binary.path)' \"$@\"; }\n\(script)"], in: daemon.directory,
                    scratch: daemon.directory, environment: daemon.environment.merging(["REMFS_SOCKET": daemon.socket]) { $1 }
                ).wait()
                #expect(outcome.status == 0, "\(outcome.errors)\(outcome.output)")
                let answers = try Self.answers(daemon)
                #expect(
                    answers.keys.sorted() == ["200"] && answers["200"] == calls, "\(calls) commands, answered \(answers): \(outcome.output)"
                )
            }
        }

        @Test func theMetricsAreThereForTheCommandOfOperations() throws {
            let command = try #require(
                try Self.text(of: "Operations").firstMatch(of: /curl -s --unix-socket [^`\n]*/), "Operations.md has no such command")
            try DaemonProcess.with { daemon in
                let text = String(command.0).replacing("/run/remfs/control.sock", with: daemon.socket)
                let program = try Program.start(
                    ["bash", "-euc", text], in: daemon.directory, scratch: daemon.directory, environment: daemon.environment)
                #expect(try program.success().contains("# TYPE remfs_stores gauge\n"))
            }
        }

        @Test(.enabled(if: SDK.isThere, SDK.needed)) func theClientOfTheAPIPageIsOne() throws {
            let python = try SDK.python.get()
            let block = try #require(try Self.blocks("python", of: "HTTPAPI").first { $0.contains("Anthropic(") })
            try DaemonProcess.with { daemon in
                let code = block.replacing("/run/remfs/control.sock", with: daemon.socket)
                try #require(code != block)
                let program = try Program.start(
                    [python, "-c", "\(code)\nprint(client.beta.memory_stores.create(name='notes').name)"], in: daemon.directory,
                    scratch: daemon.directory)
                #expect(try program.success() == "notes\n")
            }
        }
    }
}
