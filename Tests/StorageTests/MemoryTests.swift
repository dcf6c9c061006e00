import Testing

@testable import Storage

/// What the API does with memories: `api.md` 4.
@Suite struct MemoryTests {
    private let author = Author(.local, writer: Writer(uid: 0, pid: 1, command: "remfs"))

    private func update(_ test: TestStore, _ id: MemoryID, _ content: String?, path: String? = nil, if precondition: String? = nil) throws
        -> Memory
    {
        let path = try path.map { try MemoryPath($0) }
        return try test.store.commit(
            .update(id, content: content.map(bytes), path: path), by: author, if: precondition.map { .contentSHA256($0) })!
    }

    private func hash(_ text: String) -> String { Digest(of: bytes(text)).hex }

    @Test func aMemoryIsCreatedUpdatedRenamedAndDeleted() throws {
        try TestStore.with { test in
            let one = try test.create("/notes/deep/a.md", "one", by: author)
            #expect(one.path == "/notes/deep/a.md" && one.sizeInBytes == 3 && one.contentSHA256 == hash("one"))
            #expect(one.created == one.updated)
            let two = try update(test, one.id, "two")
            #expect(two.id == one.id && two.version != one.version && two.created == one.created && two.updated > one.updated)
            let moved = try update(test, one.id, nil, path: "/b.md")
            #expect(moved.id == one.id && moved.path == "/b.md" && moved.contentSHA256 == hash("two"))
            let both = try update(test, one.id, "three", path: "/c.md")
            #expect(both.path == "/c.md" && both.contentSHA256 == hash("three"))
            try test.store.commit(.delete(one.id), by: author)
            #expect(RemfsError.code { _ = try test.store.memory(one.id) } == .notFound)
            #expect(RemfsError.code { try test.store.commit(.delete(one.id), by: author) } == .notFound)
            #expect(
                try test.log() == [
                    "created /notes/deep/a.md", "modified /notes/deep/a.md", "modified /b.md", "modified /c.md", "deleted /c.md",
                ])
            #expect(try test.versions().allSatisfy { $0.author == author && $0.memory == one.id })
            let deleted = try test.store.version(test.versions().last!.id)
            #expect(deleted.contentSHA256 == nil && deleted.sizeInBytes == nil && deleted.path == "/c.md")
            #expect(try test.store.content(of: deleted) == nil)
            #expect(try test.create("/c.md", "again").id != one.id)
            Invariants.expect(test.store)
        }
    }

    @Test func whatChangesNothingIsNoVersion() throws {
        try TestStore.with { test in
            let memory = try test.create("/a", "one")
            #expect(try update(test, memory.id, "one").version == memory.version)
            #expect(try update(test, memory.id, "one", path: "/a").updated == memory.updated)
            #expect(try update(test, memory.id, nil, path: "/a").version == memory.version)
            // A retry of a write that landed succeeds.
            #expect(try update(test, memory.id, "one", if: hash("zero")).version == memory.version)
            #expect(try test.log() == ["created /a"])
        }
    }

    @Test func aPreconditionSpeaksOfTheMemory() throws {
        try TestStore.with { test in
            let memory = try test.create("/a", "one")
            #expect(RemfsError.code { _ = try update(test, memory.id, "two", if: hash("other")) } == .preconditionFailed)
            #expect(RemfsError.code { _ = try update(test, memory.id, nil, path: "/b", if: hash("other")) } == .preconditionFailed)
            #expect(
                RemfsError.code { try test.store.commit(.delete(memory.id), by: author, if: .contentSHA256(hash("other"))) }
                    == .preconditionFailed)
            #expect(try test.log() == ["created /a"])
            _ = try update(test, memory.id, "two", path: "/b", if: hash("one"))
            try test.store.commit(.delete(memory.id), by: author, if: .contentSHA256(hash("two")))
            #expect(try test.log() == ["created /a", "modified /b", "deleted /b"])
        }
    }

    @Test func aPreconditionOfALargeMemoryIsChecked() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var random = SeededRandom(seed: 1)
            let content = random.text(1_500_000)
            try mount.save("/large", content)
            let memory = try test.memory("/large")
            #expect(memory.contentSHA256 == Digest(of: content).hex)
            #expect(RemfsError.code { _ = try update(test, memory.id, "x", if: hash("other")) } == .preconditionFailed)
            _ = try update(test, memory.id, "x", if: Digest(of: content).hex)
            #expect(try test.versions().count == 2)
            #expect(try test.store.content(of: test.versions()[0]) == content)
        }
    }

    @Test(arguments: [
        // What is there, what is created, what is in the way.
        ("/a", "/a", "/a"), ("/a", "/a/b", "/a"), ("/a", "/a/b/c", "/a"), ("/d/e", "/d", "/d/e"), ("/d/e/f", "/d", "/d/e/f"),
        ("/d/e", "/d/e/f", "/d/e"),
    ])
    func aPathIsTakenAtItAboveItAndBelowIt(_ taken: String, _ wanted: String, _ conflict: String) throws {
        try TestStore.with { test in
            let memory = try test.create(taken, "one")
            let other = try test.create("/other", "two")
            for attempt in [
                { _ = try test.create(wanted, "one") }, { _ = try self.update(test, other.id, nil, path: wanted) },
            ] as [() throws -> Void] {
                do {
                    try attempt()
                    Issue.record("\(wanted) was free")
                } catch let error as RemfsError {
                    #expect(error.code == .pathConflict)
                    #expect(error.conflict == RemfsError.Conflict(memory: memory.id, path: conflict))
                    #expect(error.message.contains(conflict) && error.message.contains(memory.id.description))
                }
            }
            #expect(try test.log() == ["created \(taken)", "created /other"])
            Invariants.expect(test.store)
        }
    }

    @Test func neighboursAreNotInTheWay() throws {
        try TestStore.with { test in
            for path in ["/a", "/ab", "/a%", "/a_", "/A", "/a.b/c", "/d/e", "/de", "/d-e/f"] { _ = try test.create(path, path) }
            #expect(try test.log().count == 9)
        }
    }

    @Test func aMovingMemoryIsNotInItsOwnWay() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            var memory = try test.create("/x", "one")
            for path in ["/x/y", "/x/y/z", "/x", "/x/a/b/c", "/x/a", "/q"] {
                memory = try update(test, memory.id, nil, path: path)
                #expect(memory.path == path)
                #expect(try mount.read(path) == "one")
                Invariants.expect(test.store, path)
            }
            #expect(try mount.names("/") == ["q"])
            try test.reopen()
            #expect(try mount.names("/") == ["q"])
            Invariants.expect(test.store)
        }
    }

    @Test func aMadeDirectoryGivesWayToItsOwnMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/d")
            try mount.mkdir("/d/e")
            try mount.save("/d/e/f", "one")
            let memory = try test.memory("/d/e/f")
            #expect(try update(test, memory.id, "two", path: "/d").path == "/d")
            #expect(try mount.names("/") == ["d"])
            #expect(try mount.read("/d") == "two")
            Invariants.expect(test.store)
            try test.reopen()
            #expect(try mount.read("/d") == "two")
            Invariants.expect(test.store)
        }
    }

    @Test func emptyDirectoriesGiveWayAndOtherFilesDoNot() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            for path in ["/d", "/d/e", "/f", "/g"] { try mount.mkdir(path) }
            try mount.symlink("nowhere", "/f/link")
            try mount.save("/g/x~", "working")
            _ = try test.create("/d", "one")
            #expect(RemfsError.code { _ = try test.create("/f", "one") } == .pathConflict)
            #expect(RemfsError.code { _ = try test.create("/g", "one") } == .pathConflict)
            #expect(RemfsError.code { _ = try test.create("/f/link/x", "one") } == .pathConflict)
            #expect(try mount.read("/d") == "one")
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func impliedDirectoriesGoWithTheirLastMemory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let one = try test.create("/a/b/one", "1")
            let two = try test.create("/a/b/two", "2")
            try test.store.commit(.delete(one.id), by: author)
            #expect(try mount.names("/a/b") == ["two"])
            _ = try update(test, two.id, nil, path: "/c/two")
            #expect(try mount.names("/") == ["c"])
            try mount.unlink("/c/two")
            #expect(try mount.names("/") == ["c"])
            try test.passTwoSeconds()
            #expect(try mount.names("/") == [])
            // One that was made stays.
            try mount.mkdir("/made")
            let three = try test.create("/made/deep/three", "3")
            try test.store.commit(.delete(three.id), by: author)
            #expect(try mount.names("/") == ["made"])
            #expect(try mount.names("/made") == [])
            try test.settleAll()
            Invariants.expect(test.store)
        }
    }

    @Test func anEditorThatWritesAnewKeepsAnImpliedDirectory() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            _ = try test.create("/a/one", "1")
            try mount.unlink("/a/one")
            try mount.save("/a/one", "2")
            try test.settleAll()
            #expect(try mount.read("/a/one") == "2")
            #expect(try test.log() == ["created /a/one", "modified /a/one"])
        }
    }

    @Test func limitsOfTheContract() throws {
        var policy = Policy()
        policy.maxMemories = 2
        policy.maxBytes = 150_000
        try TestStore.with(policy: policy) { test in
            #expect(RemfsError.code { _ = try test.create("/a", String(repeating: "x", count: 102_401)) } == .tooLarge)
            let memory = try test.create("/a", String(repeating: "x", count: 102_400))
            #expect(RemfsError.code { _ = try update(test, memory.id, String(repeating: "y", count: 102_401)) } == .tooLarge)
            #expect(RemfsError.code { _ = try test.create("/b", String(repeating: "x", count: 60_000)) } == .quota)
            _ = try test.create("/b", "x")
            #expect(RemfsError.code { _ = try test.create("/c", "x") } == .storeFull)
            _ = try update(test, memory.id, "small")
            Invariants.expect(test.store)
        }
    }

    @Test func idsOfOtherStoresNameNothing() throws {
        try TestStore.with { test in
            let memory = try test.create("/a", "one")
            let other = MemoryID(store: StoreID.random(), number: try #require(memory.id.number(in: test.id)))
            #expect(RemfsError.code { _ = try test.store.memory(other) } == .notFound)
            #expect(RemfsError.code { try test.store.commit(.delete(other), by: author) } == .notFound)
            #expect(RemfsError.code { _ = try test.store.version(VersionID(store: StoreID.random(), number: 1)) } == .notFound)
            var filter = VersionFilter()
            filter.memory = other
            #expect(try test.store.versions(filter, before: nil, limit: 10).isEmpty)
        }
    }

    // MARK: Lists

    @Test func aListIsInByteOrderAndGoesOnAfterItsCursor() throws {
        try TestStore.with { test in
            let paths = [
                "/notes-archive/x", "/notes/a", "/notes/deep/b", "/notes/deep/c", "/notes.md", "/z", "/a", "/B", "/\u{E9}",
                "/notes/deep-er",
            ]
            for path in paths { _ = try test.create(path, path) }
            func list(_ prefix: String, _ depth: Int, limit: Int) throws -> [String] {
                var found: [String] = []
                var after: String?
                while true {
                    let page = try test.store.memories(under: prefix, depth: depth, after: after, limit: limit)
                    if page.isEmpty { return found }
                    #expect(page.count <= limit)
                    for item in page {
                        switch item {
                        case .memory(let memory): found.append(memory.path)
                        case .prefix(let prefix): found.append(prefix)
                        }
                    }
                    after = found.last
                }
            }
            let sorted = paths.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
            let top = ["/B", "/a", "/notes-archive/", "/notes.md", "/notes/", "/z", "/\u{E9}"]
            for limit in [1, 2, 3, 100] {
                #expect(try list("/", 0, limit: limit) == sorted)
                #expect(try list("/", 1, limit: limit) == top)
                #expect(try list("/notes/", 0, limit: limit) == sorted.filter { $0.hasPrefix("/notes/") })
                #expect(try list("/notes/", 1, limit: limit) == ["/notes/a", "/notes/deep-er", "/notes/deep/"])
                #expect(try list("/nowhere/", 0, limit: limit) == [])
                #expect(try list("/not/", 0, limit: limit) == [])
                #expect(try list("/notes.md/", 0, limit: limit) == [])
            }
        }
    }

    @Test func versionsAreFilteredAndPaged() throws {
        try TestStore.with { test in
            let mount = try test.mount(uid: 7)
            let a = try test.create("/a", "1")
            for content in ["2", "3", "4"] { _ = try update(test, a.id, content) }
            try mount.save("/b", "x")
            try test.settleAll()
            try test.store.commit(.delete(a.id), by: author)
            func list(_ change: (inout VersionFilter) -> Void) throws -> [String] {
                var filter = VersionFilter()
                change(&filter)
                return try test.store.versions(filter, before: nil, limit: 100).map { "\($0.operation) \($0.path ?? "-")" }
            }
            #expect(try list { _ in }.count == 6)
            #expect(try list { $0.memory = a.id } == ["deleted /a", "modified /a", "modified /a", "modified /a", "created /a"])
            #expect(try list { $0.operation = .created } == ["created /b", "created /a"])
            #expect(try list { $0.actor = "user_7" } == ["created /b"])
            #expect(try list { $0.path = "/b" } == ["created /b"])
            let times = try test.versions().map(\.created)
            #expect(try list { $0.from = times[4] }.count == 2)
            #expect(try list { $0.to = times[1] }.count == 2)
            #expect(try list { $0.staleOnly = true } == [])
            var found: [Int64] = []
            while true {
                let page = try test.store.versions(VersionFilter(), before: found.last, limit: 2)
                if page.isEmpty { break }
                found += page.map(\.number)
            }
            #expect(found == found.sorted(by: >) && found.count == 6)
            #expect(try test.store.versions(VersionFilter(), after: found[3], limit: 10).map(\.number) == found[..<3].reversed())
            #expect(test.store.waitForVersion(after: found[1], timeout: .zero))
            #expect(!test.store.waitForVersion(after: found[0], timeout: .zero))
        }
    }

    @Test func whatMayBeTemporaryIsNotFollowedYet() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.save("/f.tmp", "x")
            try test.store.settle()
            #expect(try test.store.versions(VersionFilter(), after: 0, limit: 10).isEmpty)
            test.state { $0.inodes.values.forEach { $0.born -= 1_100_000_000 } }
            #expect(try test.store.versions(VersionFilter(), after: 0, limit: 10).count == 1)
        }
    }

    // MARK: Restoring

    @Test func aVersionComesBackAsANewOne() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            let memory = try test.create("/a/b", "one")
            _ = try update(test, memory.id, "two")
            let first = try test.versions()[0]
            #expect(try test.store.restore(memory.id, to: first.id, by: author).contentSHA256 == hash("one"))
            #expect(try test.store.restore(memory.id, to: first.id, by: author).contentSHA256 == hash("one"))
            #expect(try test.log().count == 3)
            for way in 0..<2 {
                if way == 0 { try test.store.commit(.delete(memory.id), by: author) } else { try mount.unlink("/a/b") }
                let restored = try test.store.restore(memory.id, to: first.id, by: author)
                #expect(restored.id == memory.id && restored.path == "/a/b")
                #expect(try mount.read("/a/b") == "one")
                Invariants.expect(test.store)
            }
            #expect(try test.log().suffix(4) == ["deleted /a/b", "modified /a/b", "deleted /a/b", "modified /a/b"])
            let deleted = try test.versions()[3]
            #expect(RemfsError.code { _ = try test.store.restore(memory.id, to: deleted.id, by: author) } == .invalidArgument)
            let other = try test.create("/other", "x")
            #expect(RemfsError.code { _ = try test.store.restore(other.id, to: first.id, by: author) } == .notFound)
        }
    }

    // MARK: Numbers

    @Test func statisticsCountWhatIsThere() throws {
        try TestStore.with { test in
            let mount = try test.mount()
            try mount.mkdir("/d")
            try mount.save("/d/a", "12345")
            try mount.save("/b~", "123")
            _ = try test.create("/c", "1")
            let numbers = try test.store.statistics()
            #expect(numbers.memories == 2 && numbers.versions == 2 && numbers.files == 5 && numbers.bytes == 9)
            #expect(numbers.fileBytes > 4_096)
            #expect(test.store.space().usedBytes == 9)
        }
    }
}
