import Foundation
import Glibc
import TestSupport
import Testing

/// Unmounting right after a write: the kernel may not have told of the close yet.
extension FaultTests {
    @Suite struct UnmountTests {
        @Test func aMountEndsRightAfterAWrite() async throws {
            try await blocking {
                try mounted { daemon, root in
                    let rounds = isLong ? 200 : 20
                    for round in 1...rounds {
                        try withOpen(root + "/log", O_WRONLY | O_CREAT | O_APPEND) { try Files.write(Array("\(round)\n".utf8), to: $0) }
                        try save("\(round)", to: root + "/f\(round)")
                        let unmounted = try daemon.remfs("unmount", root)
                        #expect(unmounted.status == 0, "round \(round): \(unmounted.errors)")
                        #expect(try Files.names(in: root).isEmpty)
                        try daemon.output("mount", "notes", root)
                    }
                    #expect(try text(root + "/log") == (1...rounds).map { "\($0)\n" }.joined())
                    for round in 1...rounds { #expect(try text("\(root)/f\(round)") == "\(round)") }
                    // Each append was a save of its own.
                    let versions = try daemon.remfs("log", "notes", "/log", "--limit", "1000", "--json").json()["data"] as? [[String: Any]]
                    #expect(versions?.count == rounds)
                    try expectSound(daemon, "after \(rounds) unmounts")
                    #expect(try daemon.stop().status == 0)
                }
            }
        }
    }
}
