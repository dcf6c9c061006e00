import Testing

@testable import Storage

/// Changes through the API, failed at every statement.
@Suite struct APIFaultTests {
    @Test func creatingByAPI() throws {
        try playFaults("API create", atLeast: 7) { test, mount in
            // An empty tree gives way.
            for path in ["/a", "/a/b", "/a/b/c"] { try mount.mkdir(path) }
        } change: { test, _ in
            _ = try test.create("/a/b", "one")
        } after: { (test, mount) throws in
            #expect(try mount.read("/a/b") == "one")
            #expect(try test.log() == ["created /a/b"])
        }
        try playFaults("API create deep", atLeast: 7) { _, _ in
        } change: { test, _ in
            _ = try test.create("/a/b/c", "one")
        }
    }

    @Test func updatingByAPI() throws {
        try playFaults("API update", atLeast: 7) { test, _ in
            _ = try test.create("/a", "one")
        } change: { test, _ in
            try test.store.commit(.update(test.memory("/a").id, content: bytes("two"), path: nil), by: Author(.local))
        } after: { (test, mount) throws in
            #expect(try mount.read("/a") == "two")
            #expect(try test.log() == ["created /a", "modified /a"])
        }
    }

    @Test func renamingByAPI() throws {
        try playFaults("API rename", atLeast: 7) { test, _ in
            _ = try test.create("/a", "one")
        } change: { test, _ in
            try test.store.commit(.update(test.memory("/a").id, content: bytes("two"), path: MemoryPath("/b/c")), by: Author(.local))
        } after: { (test, mount) throws in
            #expect(try mount.read("/b/c") == "two")
            #expect(try test.log() == ["created /a", "modified /b/c"])
        }
    }

    @Test func deletingByAPI() throws {
        try playFaults("API delete", atLeast: 4) { test, mount in
            try mount.save("/a", "one")
        } change: { test, _ in
            try test.store.commit(.delete(test.memory("/a").id), by: Author(.local))
        } after: { (test, _) throws in
            #expect(try test.log() == ["created /a", "deleted /a"])
        }
    }
}
