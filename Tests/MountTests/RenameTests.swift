import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// rename(2) and its flags, and a tree that is moved about at random.
@Suite(.needsFuse)
struct RenameTests {
    @Test func noReplaceLeavesWhatIsThere() async throws {
        try await MountedStore.with(memories: ["/a": "1", "/b": "2"]) { mount in
            #expect(throws: Errno.fileExists) { try mount.rename("/a", "/b", Linux.noReplace) }
            try mount.rename("/a", "/c", Linux.noReplace)
            expect(try mount.read("/b"), is: "2")
            expect(try mount.read("/c"), is: "1")
        }
    }

    @Test func exchangeSwapsFilesAndDirectories() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "1", "/d/g": "2", "/e/s/h": "3"]) { mounts in
            let mount = mounts[0]
            expect(try mounts[1].read("/d/g"), is: "2")
            try mount.rename("/f", "/d", Linux.exchange)
            expect(try mount.read("/d"), is: "1")
            expect(try mount.read("/f/g"), is: "2")
            try mount.rename("/f", "/e/s", Linux.exchange)
            expect(try mount.read("/f/h"), is: "3")
            expect(try mount.status("/").st_nlink, is: 4)
            #expect(throws: Errno.noSuchFile) { try mount.rename("/f", "/missing", Linux.exchange) }
            #expect(throws: Errno.invalidArgument) { try mount.rename("/e", "/e/s", Linux.exchange) }
            #expect(throws: Errno.invalidArgument) { try mount.rename("/f", "/d", Linux.exchange | Linux.noReplace) }
            try mount.run("sync .")
            expect(try mounts[1].read("/e/s/g"), is: "2")
            expect(try mounts[1].read("/d"), is: "1")
        }
    }

    @Test func theKindsMustFit() async throws {
        try await MountedStore.with(memories: ["/f": "1", "/d/g": "2"]) { mount in
            try mount.makeDirectory("/e")
            #expect(throws: Errno.isADirectory) { try mount.rename("/f", "/e") }
            #expect(throws: Errno.notADirectory) { try mount.rename("/e", "/f") }
            #expect(throws: Errno.notEmpty) { try mount.rename("/e", "/d") }
            #expect(throws: Errno.invalidArgument) { try mount.rename("/d", "/d/h") }
            try mount.rename("/d", "/e")
            expect(try mount.read("/e/g"), is: "2")
            try mount.rename("/f", "/f")
            expect(try mount.read("/f"), is: "1")
        }
    }

    @Test func twoNamesOfOneFileAreNotRenamedOverEachOther() async throws {
        try await MountedStore.with(memories: ["/a": "1"]) { mount in
            try mount.link("/a", "/b")
            try mount.rename("/a", "/b")
            expect(try mount.names(), is: ["a", "b"])
            expect(try mount.history(), is: [])
        }
    }

    @Test func whoHasTheOldFileOpenKeepsIt() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": "old"]) { mounts in
            try mounts[1].withOpen("/f", O_RDONLY) { file in
                try mounts[0].write("/t", "new")
                try mounts[0].rename("/t", "/f")
                try mounts[0].run("sync f")
                expect(try TestSupport.read(file, 10, at: 0), is: Array("old".utf8))
                expect(try mounts[1].read("/f"), is: "new")
            }
        }
    }

    /// Whoever looks while a file is replaced again and again finds a whole one, each time.
    @Test func aReplacementIsNeverSeenHalfDone() async throws {
        try await MountedStore.with(mounts: 2, memories: ["/f": String(repeating: "0", count: 5_000)]) { mounts in
            let done = Event<Void>()
            let torn = try concurrently([
                { @Sendable () throws -> [String] in
                    defer { done.post() }
                    for number in 1...150 {
                        try mounts[0].write("/t", String(repeating: "\(number % 10)", count: 5_000))
                        try mounts[0].rename("/t", "/f")
                    }
                    return []
                },
                { @Sendable () throws -> [String] in try Self.look(mounts[0], until: done) },
                { @Sendable () throws -> [String] in try Self.look(mounts[1], until: done) },
            ])
            #expect(torn == [[], [], []])
        }
    }

    private static func look(_ mount: MountedStore, until done: Event<Void>) throws -> [String] {
        var torn: [String] = []
        while !done.isPosted {
            let text = try mount.read("/f")
            if text.utf8.count != 5_000 || Set(text).count != 1 { torn.append("\(text.utf8.count) \(Set(text))") }
        }
        return torn
    }

    /// Seeded moves, links and removals in a small tree, compared with a dictionary of paths, on two mounts and after a restart.
    @Test(arguments: [0, 1, 2]) func aTreeIsWhatADictionaryIs(_ round: UInt64) async throws {
        try await MountedStore.with(mounts: 2) { mounts in
            var random = SeededRandom(seed: SeededRandom.fresh().seed &+ round)
            var model: [String: String] = [:]
            let places = ["", "/d", "/d/e", "/g"]
            try mounts[0].run("mkdir -p d/e g")
            for step in 0..<200 {
                let mount = mounts[Int.random(in: 0..<2, using: &random)]
                let path = places.randomElement(using: &random)! + "/f\(Int.random(in: 0..<4, using: &random))"
                switch Int.random(in: 0..<5, using: &random) {
                case 0, 1:
                    try mount.write(path, "\(step)")
                    model[path] = "\(step)"
                case 2 where model[path] != nil:
                    try mount.remove(path)
                    model[path] = nil
                case 3 where model[path] != nil:
                    let other = places.randomElement(using: &random)! + "/f\(Int.random(in: 0..<4, using: &random))"
                    try mount.rename(path, other)
                    let content = model.removeValue(forKey: path)
                    model[other] = content
                case 4 where model[path] != nil:
                    try mount.append(path, "+")
                    model[path]! += "+"
                default: break
                }
                // From here on the other mount sees it.
                try mount.withOpen("/", O_RDONLY | O_DIRECTORY) { _ = try check(fsync($0)) }
            }
            for mount in mounts {
                for (path, content) in model { expect(try mount.read(path), is: content) }
                let files = try mount.run("find . -type f").split(separator: "\n").map { String($0.dropFirst()) }
                #expect(Set(files) == Set(model.keys), "\(random)")
            }
            let id = mounts[0].store.id
            let paths = Array(model.keys)
            let kept = try mounts[0].daemon.afterwards(id) { store in try paths.map { try store.text($0) } }
            #expect(kept == paths.map { model[$0]! }, "\(random)")
        }
    }
}
