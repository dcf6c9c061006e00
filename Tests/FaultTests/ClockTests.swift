import Foundation
import Glibc
import TestSupport
import Testing

/// The machine's clock is set, forward and back, while a daemon serves: history stays in order, and each save is sealed once.
extension FaultTests {
    @Suite struct ClockTests {
        private static func versions(_ daemon: DaemonProcess, _ path: String) throws -> [[String: Any]] {
            let list = try daemon.remfs("log", "notes", path, "--limit", "1000", "--json").json()["data"] as? [[String: Any]]
            // The oldest first.
            return try #require(list).reversed()
        }

        /// s: a leap second, an hour of summer time, days, a machine without a battery, and a year to come.
        private static let jumps = [0, 1, -1, 3_600, 0, -3_600, 86_400, -86_400, 0, -1_500_000_000, 31_536_000, -60, 0]

        @Test func historyStaysInOrderWhateverTheClockDoes() async throws {
            try await blocking {
                let clock = "/tmp/remfs-clock-\(UInt32.random(in: 0 ... .max))"
                func set(_ seconds: Int) throws {
                    try save("\(seconds)\n", to: clock + ".new")
                    try check(rename(clock + ".new", clock))
                }
                try set(0)
                defer { unlink(clock) }
                try mounted(["REMFS_DEBUG_CLOCK": clock]) { daemon, root in
                    var texts: [String] = []
                    var deletions = 0
                    for round in 0..<(isLong ? 10 : 1) {
                        for (place, jump) in Self.jumps.enumerated() {
                            let name = "\(round)-\(place)"
                            try set(jump)
                            texts.append("\(name) by a save")
                            try save(texts.last!, to: root + "/f")
                            // A save that the clock jumps within is one.
                            texts.append("\(name) before, and after")
                            try withOpen(root + "/f", O_WRONLY | O_TRUNC) { file in
                                try Files.write(Array("\(name) before,".utf8), to: file)
                                try set(jump - 7_200)
                                try Files.write(Array(" and".utf8), to: file)
                                try set(jump + 7_200)
                                try Files.write(Array(" after".utf8), to: file)
                            }
                            // A removal waits for two seconds of ours, not of the clock's.
                            let gone = "\(root)/gone-\(name)"
                            try save("x", to: gone)
                            try check(unlink(gone))
                            try save("y", to: gone)
                            try set(jump)
                            try check(unlink(gone))
                            try set(jump - 86_400)
                            deletions += 1
                            // And the process forgets what time it was.
                            if place % 4 == 3 { try takeOver(daemon) }
                        }
                    }
                    let found = try Self.versions(daemon, "/f")
                    var seen: [String] = []
                    for version in found {
                        seen.append(try daemon.output("memory", "cat", "notes", "/f", try #require(version["id"] as? String)))
                    }
                    #expect(seen == texts)
                    let times = try found.map { try #require($0["created_at"] as? String) }
                    for (earlier, later) in zip(times, times.dropFirst()) { #expect(earlier < later) }

                    var deleted = 0
                    try wait(.seconds(20)) {
                        let all = try #require(
                            try daemon.remfs("log", "notes", "--limit", "10000", "--json").json()["data"] as? [[String: Any]])
                        deleted = all.count { $0["operation"] as? String == "deleted" }
                        return deleted >= deletions
                    }
                    #expect(deleted == deletions)
                    // Of the whole store, the one order.
                    let all = try #require(
                        try daemon.remfs("log", "notes", "--limit", "10000", "--json").json()["data"] as? [[String: Any]])
                    let order = try all.map { try #require($0["created_at"] as? String) }
                    #expect(order == order.sorted(by: >))
                    try takeOver(daemon)
                    #expect(try text(root + "/f") == texts.last)
                    try expectSound(daemon, "after \(texts.count / 2) jumps")
                    print("\(texts.count) saves and \(deletions) removals over \(texts.count / 2) settings of the clock")
                    #expect(try daemon.stop().status == 0)
                }
            }
        }
    }
}
