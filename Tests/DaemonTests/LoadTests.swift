import Foundation
import Glibc
import TestSupport
import Testing

/// The control socket under load: nothing fails, nothing is lost, and nobody waits for long.
extension ServeTests {
    @Suite(.serialized, .enabled(if: ServeTests.hasFuse, "needs /dev/fuse"), .timeLimit(.minutes(10))) struct LoadTests {
        /// REMFS_LOAD_SECONDS asks for a longer run, of which also the speed is judged: that is for a release build on a machine with
        /// nothing else to do (`Operations.md`).
        private static let seconds = ProcessInfo.processInfo.environment["REMFS_LOAD_SECONDS"].flatMap { Double($0) }

        @Test func nothingFailsAndNothingIsLost() throws {
            try TemporaryDirectory.with { directory in
                let report = "\(directory)/load.json"
                let generator = URL(fileURLWithPath: Binary.path).deletingLastPathComponent().appendingPathComponent("benchmarks").path
                let (reading, mixed) = Self.seconds.map { ($0 / 3, $0) } ?? (1, 4)
                let result = try Binary.run(
                    [
                        "load", "--remfs", Binary.path, "--read-seconds", "\(reading)", "--seconds", "\(mixed)", "--memories",
                        Self.seconds == nil ? "100" : "500", "--json", report, "--scratch", directory,
                    ], environment: DaemonProcess.environment(directory), launcher: [generator])
                try #require(result.status == 0, "\(result.output) \(result.errors)")
                let json = try #require(
                    try JSONSerialization.jsonObject(with: try Data(contentsOf: URL(fileURLWithPath: report))) as? [String: Any])
                #expect(json["lost_updates"] as? Int == 0)
                #expect(json["lost_lines"] as? Int == 0)
                let phases = try ["alone", "reads", "mixed"].map { try #require(json[$0] as? [String: Any]) }
                for phase in phases { #expect(phase["errors"] as? Int == 0) }
                func number(_ phase: Int, _ request: String, _ name: String) throws -> Double {
                    let requests = try #require(phases[phase]["requests"] as? [String: [String: Any]])
                    return try #require(requests[request]?[name] as? Double, "no \(request)")
                }
                for request in ["list", "get", "update"] { #expect(try number(2, request, "count") > 0) }
                for mount in try #require(json["mounts"] as? [[String: Int]]) {
                    #expect(mount["greps"] ?? 0 > 0 && mount["lines"] ?? 0 > 0)
                }
                guard Self.seconds != nil else { return }
                print(result.output)
                #expect(try number(0, "get", "p99") < 3)
                #expect(try number(1, "get", "count") / reading > 5_000)
                #expect(try number(2, "get", "p99") < 20)
            }
        }
    }
}
