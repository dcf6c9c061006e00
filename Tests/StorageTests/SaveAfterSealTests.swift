import Testing

@testable import Storage

/// A save that begins by sealing the one before it.
struct SaveAfterSealTests {
    /// The seal notes from which number on saves are open. The new save is one of them, though nobody has written to it yet: a daemon that
    /// dies right after its bytes were acknowledged left them where the next one did not look.
    @Test(arguments: [false, true]) func aReplacementSurvivesAKill(_ isTakingOver: Bool) throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for number in 1...3 {
                try mount.save("/f", "old \(number)", seen: .version(nil))
                // Closed and not sealed: emptying it again does that first.
                try mount.save("/f", "new \(number)", seen: .version(nil))
                try test.crash(isTakingOver: isTakingOver)
                #expect(try mount.read("/f") == "new \(number)")
                #expect(try test.store.check().isSound)
            }
        }
    }
}
