import Foundation
import Glibc
import SQLite
import Testing
import Threads

@testable import Storage

/// Search finds what is there now, by its words, and costs those who write nothing.
@Suite struct SearchTests {
    private static let author = Author(.local)

    // MARK: Questions

    @Test(arguments: [
        ("deploy", "\"deploy\""), ("  deploy   key ", "\"deploy\" \"key\""), ("\"deploy key\" now", "\"deploy key\" \"now\""),
        ("depl*", "\"depl\"*"), ("\"the depl\"*", "\"the depl\"*"), ("a AND b", "\"a\" \"AND\" \"b\""), ("-x", "\"-x\""),
        ("text:x", "\"text:x\""), ("(a", "\"(a\""), ("a - b", "\"a\" \"b\""), ("C++", "\"C++\""), ("naïve", "\"naïve\""),
        ("x\"y z\"", "\"x\" \"y z\""), ("a**", "\"a\"*"), ("'; DROP TABLE x; --", "\"DROP\" \"TABLE\" \"x;\""),
    ]) func textIsNoSyntax(_ text: String, _ expression: String) throws {
        #expect(try SearchQuery(text).expression == expression)
    }

    @Test(arguments: ["", "   ", "!!!", "\"", "\"open", "* -", "\"\"", "a\u{0}b", String(repeating: "x", count: 1_025)])
    func whatAsksForNothingIsRefused(_ text: String) {
        #expect(RemfsError.code { _ = try SearchQuery(text) } == .invalidArgument)
    }

    @Test func manyTermsAreRefused() {
        #expect(RemfsError.code { _ = try SearchQuery((0..<33).map { "w\($0)" }.joined(separator: " ")) } == .invalidArgument)
    }

    @Test func anyTextMakesAQueryOrAnError() throws {
        try TestStore.with { test in
            _ = try test.create("/a.md", "some words")
            var random = SeededRandom(seed: 8)
            let pieces = [
                "\"", "*", " ", "AND", "OR", "NOT", "NEAR(", ")", "^", ":", "-", "+", "a", "é", "\u{301}", "日本", "\n", "{", "}", "\\", ";",
            ]
            for _ in 0..<400 {
                let text = (0..<random.below(12)).map { _ in random.pick(pieces) }.joined()
                // What the parser lets through FTS5 takes.
                if let query = try? SearchQuery(text) { _ = try test.store.search(query, under: "/", after: 0, limit: 3) }
            }
        }
    }

    // MARK: Finding

    private func find(_ test: TestStore, _ text: String, under prefix: String = "/") throws -> [String] {
        try test.store.search(SearchQuery(text), under: prefix, after: 0, limit: 50).hits.map(\.memory.path)
    }

    @Test func headsAreFoundAndTheirPast() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            #expect(try find(test, "deploy") == [])
            let a = try test.create("/plans/a.md", "We deploy on Friday.\nNever ask.\n")
            try mount.mkdir("/notes")
            try mount.save("/notes/b.md", "The port is 8080, and the gate opens on friday.\n")
            #expect(try Set(find(test, "FRIDAY")) == ["/plans/a.md", "/notes/b.md"])
            #expect(try find(test, "friday", under: "/plans/") == ["/plans/a.md"])
            #expect(try find(test, "friday", under: "/pl/") == [])
            #expect(try find(test, "\"on friday\" gate") == ["/notes/b.md"])
            #expect(try find(test, "\"friday on\"") == [])
            #expect(try find(test, "depl*") == ["/plans/a.md"])
            // By its name as well.
            #expect(try find(test, "plans") == ["/plans/a.md"])

            _ = try test.store.commit(.update(a.id, content: bytes("We wait."), path: nil), by: Self.author)
            #expect(try find(test, "deploy") == [])
            #expect(try find(test, "wait") == ["/plans/a.md"])
            try mount.rename("/notes/b.md", "/plans/c.md")
            #expect(try find(test, "gate") == ["/plans/c.md"])
            // Not closed yet: no version tells of it.
            let number = try mount.create("/open.md")
            try mount.pwrite(number, bytes("unfinished"), at: 0)
            #expect(try find(test, "unfinished") == [])
            mount.close(number)
            #expect(try find(test, "unfinished") == ["/open.md"])
            try mount.unlink("/open.md")
            #expect(try find(test, "unfinished") == [])
            try test.settleAll()
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try find(test, "gate") == ["/plans/c.md"])
            #expect(try test.store.check().isSound)
        }
    }

    @Test func whatIsNoTextIsLeftOut() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/bytes", bytes("needle ") + [0xff, 0xfe])
            try mount.save("/large", bytes("needle ") + [UInt8](repeating: 97, count: 1 << 20))
            try mount.save("/working~", "needle")
            try mount.save("/large-enough", bytes("needle ") + [UInt8](repeating: 97, count: (1 << 20) - 7))
            #expect(try find(test, "needle") == ["/large-enough"])
        }
    }

    @Test func snippetsShowWhatWasFound() throws {
        try TestStore.with { test in
            var random = SeededRandom(seed: 6)
            let long = text(random.text(3_000)) + " the secret\u{2}word is Überraschung here " + text(random.text(3_000))
            _ = try test.create("/a.md", long)
            let result = try test.store.search(SearchQuery("uberraschung"), under: "/", after: 0, limit: 5)
            let hit = try #require(result.hits.first)
            let scalars = Array(hit.snippet.unicodeScalars)
            #expect(hit.highlights.count == 1 && !result.hasMore && scalars.count < 400)
            #expect(hit.highlights.map { String(String.UnicodeScalarView(scalars[$0])) } == ["Überraschung"])
            #expect(hit.score > 0)
        }
    }

    @Test func pagesFollowTheRank() throws {
        try TestStore.with { test in
            for place in 0..<25 {
                _ = try test.create("/\(place).md", String(repeating: "word ", count: place + 1) + String(repeating: "other ", count: 40))
            }
            var seen: [String] = []
            var scores: [Double] = []
            var place = 0
            while true {
                let page = try test.store.search(SearchQuery("word"), under: "/", after: place, limit: 10)
                seen += page.hits.map(\.memory.path)
                scores += page.hits.map(\.score)
                place += 10
                if !page.hasMore { break }
            }
            #expect(seen.count == 25 && Set(seen).count == 25 && seen.first == "/24.md")
            #expect(scores == scores.sorted(by: >))
        }
    }

    // MARK: The index

    private func documents(_ test: TestStore) throws -> Int64 {
        try test.state { try $0.writer.integer("SELECT value FROM property WHERE name = 'search_documents'") ?? 0 }
    }

    @Test func aStoreThatIsNeverSearchedHasNoIndex() throws {
        try TestStore.with { test in
            _ = try test.create("/a.md", "words")
            try test.tidyAll()
            #expect(try test.state { try $0.writer.integer("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'search%'") } == 0)
        }
    }

    @Test func quietTimesBringItUpToDate() throws {
        try TestStore.with { test in
            _ = try test.create("/a.md", "words")
            _ = try find(test, "words")
            #expect(try documents(test) == 1)
            _ = try test.create("/b.md", "words")
            #expect(try documents(test) == 1, "a write pays for the index")
            try test.tidyAll()
            #expect(try documents(test) == 2)
        }
    }

    @Test func whatIsMostlyPastIsMadeAnew() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/a.md", "word 0")
            for place in 1...1_200 {
                try mount.save("/a.md", "word \(place)")
                if place % 20 == 0 { _ = try find(test, "word") }
            }
            // Only heads are taken in, and those of a moment ago are passed over.
            #expect(try documents(test) <= 62)
            try test.state { state in
                try state.commit { () throws(SQLiteError) in
                    try state.writer.execute("UPDATE property SET value = 2000 WHERE name = 'search_documents'")
                }
            }
            try mount.save("/a.md", "word last")
            try test.settleAll()
            try test.tidyAll()
            #expect(try documents(test) == 1)
            #expect(try find(test, "last") == ["/a.md"])
        }
    }

    @Test func aKillWhileItIsMadeLosesNothing() throws {
        try TestStore.with { test in
            for place in 0..<100 { _ = try test.create("/\(place).md", "word number\(place)") }
            var left = 3
            test.state { $0.searchedUpTo = 0 }
            #expect(
                try !test.store.catchUpIndex {
                    left -= 1; return left > 0
                })
            try test.crash()
            #expect(try find(test, "word").count == 50)
            #expect(try find(test, "number99") == ["/99.md"])
            #expect(try documents(test) == 100)
        }
    }

    /// How large the index is and how fast it answers, for memories of 1 to 3 KB.
    @Test func manyMemoriesAreFoundQuickly() throws {
        let count = environment("REMFS_TEST_MEMORIES").flatMap { Int($0) } ?? 500
        try TestStore.with { test in
            var random = SeededRandom(seed: 12)
            let mount = try test.mount()
            var total = 0
            for place in 0..<count {
                if place % 100 == 0 { try mount.mkdir("/d\(place / 100)") }
                var content = random.text(1_000 + random.below(2_000))
                for _ in 0..<20 { content += bytes(" w\(random.below(20_000))") }
                total += content.count
                try mount.save("/d\(place / 100)/\(place).md", content)
            }
            try test.settleAll()
            try test.tidyAll()
            func size() -> Int64 {
                var status = stat()
                return stat(test.store.path, &status) == 0 ? Int64(status.st_size) : 0
            }
            let before = size()
            var start = StoreState.monotonic()
            _ = try find(test, "deploy")
            let first = StoreState.monotonic() - start
            try test.tidyAll()
            let after = size()
            func median(_ text: String) throws -> Int64 {
                var times: [Int64] = []
                for _ in 0..<9 {
                    let start = StoreState.monotonic()
                    _ = try test.store.search(SearchQuery(text), under: "/", after: 0, limit: 20)
                    times.append(StoreState.monotonic() - start)
                }
                return times.sorted()[4] / 1_000
            }
            let (common, rare, prefix) = (try median("deploy"), try median("w77"), try median("w1*"))
            start = StoreState.monotonic()
            try mount.save("/d0/new.md", "deploy")
            let write = (StoreState.monotonic() - start) / 1_000
            print(
                """
                search in \(count) memories of \(total) bytes: index \(after - before) bytes, made in \(first / 1_000_000) ms; a word that all \
                have \(common) us, a rare one \(rare) us, a prefix \(prefix) us; a write beside it \(write) us
                """)
            #if !DEBUG
                #expect(after - before < Int64(total) && common < 500_000 && rare < 50_000)
            #endif
            #expect(try test.store.check().isSound)
        }
    }
}
