import Foundation
import Glibc
import TestSupport
import Testing

/// The daemon is killed before each statement of a change, while the one who asked for it waits: it is done, once, and its caller hears so.
extension FaultTests {
    @Suite struct KillTests {
        struct Change: Sendable, CustomTestStringConvertible {
            let name: String
            /// Each in a directory of its own.
            let prepare: @Sendable (String) throws -> Void
            let play: @Sendable (String) throws -> Void
            let check: @Sendable (String) throws -> Void

            var testDescription: String { name }
        }

        static let changes = [
            Change(
                name: "append", prepare: { try save("one\n", to: $0 + "/f") },
                play: { try withOpen($0 + "/f", O_WRONLY | O_APPEND) { try Files.write(Array("two\n".utf8), to: $0) } },
                check: { (directory) throws in #expect(try text(directory + "/f") == "one\ntwo\n") }),
            Change(
                name: "create", prepare: { _ in },
                play: { try withOpen($0 + "/f", O_WRONLY | O_CREAT | O_EXCL) { _ in } },
                check: { (directory) throws in #expect(try Files.names(in: directory) == ["f"]) }),
            Change(
                name: "mkdir", prepare: { _ in }, play: { try TestSupport.check(mkdir($0 + "/d", 0o755)) },
                check: { (directory) throws in #expect(try Files.names(in: directory) == ["d"]) }),
            Change(
                name: "rename", prepare: { try save("new", to: $0 + "/f") },
                play: { try TestSupport.check(rename($0 + "/f", $0 + "/g")) },
                check: { (directory) throws in
                    #expect(try Files.names(in: directory) == ["g"])
                    #expect(try text(directory + "/g") == "new")
                }),
            Change(
                name: "replace",
                prepare: {
                    try save("old", to: $0 + "/g")
                    try save("new", to: $0 + "/f")
                }, play: { try TestSupport.check(rename($0 + "/f", $0 + "/g")) },
                check: { (directory) throws in
                    #expect(try Files.names(in: directory) == ["g"])
                    #expect(try text(directory + "/g") == "new")
                }),
            Change(
                name: "unlink", prepare: { try save("old", to: $0 + "/f") }, play: { try TestSupport.check(unlink($0 + "/f")) },
                check: { (directory) throws in #expect(try Files.names(in: directory) == []) }),
            Change(
                name: "link", prepare: { try save("one", to: $0 + "/f") },
                play: { try TestSupport.check(link($0 + "/f", $0 + "/g")) },
                check: { (directory) throws in
                    #expect(try Files.names(in: directory).sorted() == ["f", "g"])
                    var status = stat()
                    try TestSupport.check(stat(directory + "/g", &status))
                    #expect(status.st_nlink == 2)
                }),
            Change(
                name: "truncate", prepare: { try save("one and two", to: $0 + "/f") },
                play: { try TestSupport.check(truncate($0 + "/f", 3)) },
                check: { (directory) throws in #expect(try text(directory + "/f") == "one") }),
        ]

        @Test(arguments: changes) func aChangeIsDoneOnce(_ change: Change) async throws {
            try await blocking {
                let scratch = "/tmp/remfs-kill-\(UInt32.random(in: 0 ... .max))"
                try check(mkdir(scratch, 0o700))
                defer { do { try FileManager.default.removeItem(atPath: scratch) } catch { Issue.record(error) } }
                let marker = scratch + "/marker"
                try mounted(["REMFS_DEBUG_KILL_AT_STATEMENT": marker]) { daemon, root in
                    var (kills, untouched, place) = (0, 0, 0)
                    // Upkeep's statements are counted as well, so that one round without a kill may be chance.
                    while untouched < 2 {
                        place += 1
                        try #require(place < 200, "statement \(place) is still killed")
                        let directory = "\(root)/\(place)"
                        try check(mkdir(directory, 0o755))
                        try change.prepare(directory)
                        // What is closed is sealed before the API answers.
                        #expect(try daemon.http("GET", "/v1/status").status == 200)
                        try daemon.output("log", "notes", "--limit", "1")
                        try save("\(place) \(change.name)", to: marker + ".new")
                        try check(rename(marker + ".new", marker))
                        try change.play(directory)
                        let wasKilled = unlink(marker) != 0
                        if wasKilled {
                            #expect(daemon.notification() == "READY=1", "\(change.name) \(place)")
                            kills += 1
                        }
                        untouched = wasKilled ? 0 : untouched + 1
                        try change.check(directory)
                    }
                    print("\(change.name): killed before each of \(kills) statements")
                    #expect(kills >= 3)
                    try takeOver(daemon)
                    for place in 1...place { try change.check("\(root)/\(place)") }
                    try expectSound(daemon, change.name)
                    #expect(try daemon.stop().status == 0)
                }
            }
        }
    }
}
