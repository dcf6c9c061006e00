import Testing

@testable import Storage

/// Writes over what their author never saw.
@Suite struct StaleWriteTests {
    @Test func aReplacementOverAnUnseenVersionIsStale() throws {
        for way in 0..<2 {
            try TestStore.with { test in
                let one = try test.mount(uid: 1)
                let other = try test.mount(uid: 2)
                try one.save("/f", "base")
                _ = try test.log()
                let seen = try other.seen("/f")
                let base = try test.versions()[0].id
                try one.save("/f", "newer")
                _ = try test.log()
                if way == 0 {
                    try other.save("/f", "stale", seen: seen)
                } else {
                    try other.save("/f.tmp", "stale")
                    try other.rename("/f.tmp", "/f", seen: seen)
                }
                try test.settleAll()
                let last = try #require(test.versions().last)
                #expect(last.isStale && last.base == base && last.operation == .modified)
                #expect(try one.read("/f") == "stale")
                // The next save of it is not.
                try other.save("/f", "again", seen: .version(last.number))
                try test.settleAll()
                #expect(try test.versions().last?.isStale == false)
                Invariants.expect(test.store)
            }
        }
    }

    @Test func whoSawTheHeadOrNothingIsNotStale() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2)
            try one.save("/f", "one")
            _ = try test.log()
            try other.save("/f", "two", seen: .version(nil))
            _ = try test.log()
            try one.save("/f", "three", seen: one.seen("/f"))
            _ = try test.log()
            try other.append("/f", " and four")
            _ = try test.log()
            #expect(try test.versions().allSatisfy { !$0.isStale })
        }
    }

    @Test func aMountMayRefuseStaleWrites() throws {
        try TestStore.with { test in
            let one = try test.mount(uid: 1)
            let other = try test.mount(uid: 2, refusesStaleWrites: true)
            try one.save("/f", "base")
            _ = try test.log()
            let seen = try other.seen("/f")
            try one.save("/f", "newer")
            try test.settleAll()
            let before = try test.tree()
            #expect(RemfsError.code { try other.truncate(other.number("/f"), to: 0, seen: seen) } == .stale)
            #expect(try test.tree() == before)
            try other.save("/f.tmp", "stale")
            #expect(RemfsError.code { try other.rename("/f.tmp", "/f", seen: seen) } == .stale)
            #expect(RemfsError.code { try other.truncate(other.number("/f"), to: 0, seen: .version(nil)) } == .stale)
            #expect(try one.read("/f") == "newer")
            #expect(try one.read("/f.tmp") == "stale")
            try other.rename("/f.tmp", "/f", seen: other.seen("/f"))
            try test.settleAll()
            #expect(try one.read("/f") == "stale")
            #expect(try test.versions().allSatisfy { !$0.isStale })
            Invariants.expect(test.store)
        }
    }
}
