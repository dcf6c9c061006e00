import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// Names, paths, links and directories.
@Suite(.needsFuse)
struct NamesTests {
    @Test func aNameHas255BytesAtMost() async throws {
        try await MountedStore.with { mount in
            let long = "/" + String(repeating: "a", count: 255)
            let wide = "/" + String(repeating: "é", count: 127) + "x"
            for name in [long, wide] {
                try mount.write(name, "1")
                expect(try mount.read(name), is: "1")
                #expect(throws: Errno.nameTooLong) { try mount.write(name + "b", "1") }
                #expect(throws: Errno.nameTooLong) { try mount.makeDirectory(name + "b") }
                #expect(throws: Errno.nameTooLong) { try mount.symbolicLink("x", name + "b") }
                #expect(throws: Errno.nameTooLong) { try mount.rename(name, name + "b") }
                #expect(throws: Errno.nameTooLong) { try mount.link(name, name + "b") }
            }
            expect(try mount.names().count, is: 2)
        }
    }

    @Test(arguments: [[0xff], [0xc3], [0xc3, 0x28], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xc0, 0xaf]] as [[UInt8]])
    func aNameIsUTF8(_ bytes: [UInt8]) async throws {
        try await MountedStore.with(memories: ["/f": "1"]) { mount in
            let path = Array(mount.path.utf8) + [0x2f] + bytes + [0]
            let made = path.withUnsafeBytes { open($0.bindMemory(to: CChar.self).baseAddress!, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644) }
            #expect(made == -1 && errno == EILSEQ)
            let directory = path.withUnsafeBytes { mkdir($0.bindMemory(to: CChar.self).baseAddress!, 0o755) }
            #expect(directory == -1 && errno == EILSEQ)
            let moved = path.withUnsafeBytes { rename(mount.path("/f"), $0.bindMemory(to: CChar.self).baseAddress!) }
            #expect(moved == -1 && errno == EILSEQ)
            expect(try mount.names(), is: ["f"])
        }
    }

    @Test(arguments: ["a\nb", "\t", "\u{1}", "\u{7f}", "\u{85}", "a\u{9f}"]) func aNameHasNoControlCharacters(_ name: String) async throws {
        try await MountedStore.with { mount in
            #expect(throws: Errno.invalidArgument) { try mount.write("/" + name, "1") }
            #expect(throws: Errno.invalidArgument) { try mount.makeDirectory("/" + name) }
            #expect(throws: Errno.invalidArgument) { try mount.symbolicLink("x", "/" + name) }
        }
    }

    @Test(arguments: ["-rf", " ", "...", "*", "a b", "日本語", "e\u{301}", "é", "👩‍👩‍👧", "\\", "'\"", "%00", "a:b"])
    func anythingElseIsAName(_ name: String) async throws {
        try await MountedStore.with { mount in
            try mount.write("/" + name, name)
            expect(try mount.read("/" + name), is: name)
            expect(try mount.names().map { Array($0.utf8) }, is: [Array(name.utf8)])
            expect(try mount.store.text("/" + name), is: name)
        }
    }

    @Test func twoSpellingsAreTwoNames() async throws {
        try await MountedStore.with { mount in
            try mount.write("/e\u{301}", "1")
            try mount.write("/\u{e9}", "2")
            expect(try mount.names().count, is: 2)
            expect(try mount.read("/e\u{301}"), is: "1")
        }
    }

    @Test func pathsAreAsDeepAsTheKernelTakesThem() async throws {
        try await MountedStore.with { mount in
            let segment = "/" + String(repeating: "d", count: 100)
            var path = ""
            while mount.path.utf8.count + path.utf8.count + segment.utf8.count + 2 < 4_095 {
                path += segment
                try mount.makeDirectory(path)
            }
            try mount.write(path + "/f", "deep")
            expect(try mount.store.text(path + "/f"), is: "deep")
            let tooLong = path + "/" + String(repeating: "x", count: 4_096 - mount.path.utf8.count - path.utf8.count)
            #expect(throws: Errno.nameTooLong) { try mount.write(tooLong, "1") }
            try mount.run("rm -r d*")
            expect(try mount.names(), is: [])
        }
    }

    @Test func theReservedNameIsHiddenAndTaken() async throws {
        try await MountedStore.with(memories: ["/f": "1"]) { mount in
            expect(try mount.names(), is: ["f"])
            expect(try mount.run("ls -A; find . -name '.remfs*'"), is: "f\n")
            #expect(throws: Errno.fileExists) { try mount.makeDirectory("/.remfs") }
            #expect(throws: Errno.isADirectory) { try mount.rename("/f", "/.remfs") }
            #expect(throws: Errno.fileExists) { try mount.symbolicLink("x", "/.remfs") }
            let status = try mount.read("/.remfs/status")
            #expect(status.contains("store_id: \(mount.store.id)\n"))
            #expect(status.contains("access: read_write\n"))
            expect(try mount.run("cp .remfs/status /dev/stdout | grep -c '^access: read_write$'"), is: "1\n")
            // What has changed is another file, so that no page of the old one is read.
            let before = try mount.read("/.remfs/status")
            try mount.write("/f", "longer")
            let now = try mount.read("/.remfs/status")
            #expect(before.contains("bytes: 1\n"))
            #expect(now.contains("bytes: 6\n"))
            // Below the root it is a name like any.
            try mount.makeDirectory("/d")
            try mount.write("/d/.remfs", "1")
        }
    }

    @Test func whatIsBelowTheReservedNameStaysAsItIs() async throws {
        try await MountedStore.with(memories: ["/d/f": "1", "/f": "1"]) { mount in
            let changes: [(what: String, change: () throws -> Void)] = [
                ("create", { try mount.write("/.remfs/new", "1") }), ("mkdir", { try mount.makeDirectory("/.remfs/new") }),
                ("symlink", { try mount.symbolicLink("x", "/.remfs/new") }), ("link into it", { try mount.link("/f", "/.remfs/new") }),
                ("mkfifo", { try check(mkfifo(mount.path("/.remfs/new"), 0o644)) }), ("unlink", { try mount.remove("/.remfs/status") }),
                ("link of what it holds", { try mount.link("/.remfs/status", "/new") }),
                ("rmdir", { try mount.removeDirectory("/.remfs") }),
                ("rename into it", { try mount.rename("/f", "/.remfs/new") }),
                ("rename over what it holds", { try mount.rename("/f", "/.remfs/status") }),
                ("rename of what it holds", { try mount.rename("/.remfs/status", "/new") }),
                ("rename of itself", { try mount.rename("/.remfs", "/new") }),
                ("exchange", { try mount.rename("/.remfs/status", "/f", Linux.exchange) }),
                ("truncating open", { try mount.write("/.remfs/status", "1") }),
                ("write", { try mount.write("/.remfs/status", [1], O_WRONLY) }),
                ("chmod", { try mount.change(mode: 0o600, of: "/.remfs/status") }),
            ]
            for (what, change) in changes { #expect(throws: Errno.readOnlyFileSystem, "\(what)", performing: change) }
            #expect(throws: Errno.fileExists) { try mount.rename("/d", "/.remfs", Linux.noReplace) }
            expect(try mount.names(), is: ["d", "f"])
            expect(try mount.run("cat .remfs/status > copy; grep -c '^access: read_write$' copy"), is: "1\n")
        }
    }

    @Test func whatTheAPIMadeCanBeOpened() async throws {
        let long = "/" + String(repeating: "n", count: 1_000)
        try await MountedStore.with(memories: [long: "long", "/a/b/c/d": "deep"]) { mount in
            expect(try mount.read("/a/b/c/d"), is: "deep")
            // The kernel's own limit is 255 for what it looks up; listing shows it.
            expect(try mount.names().count, is: 2)
        }
    }

    // MARK: Links

    @Test func symbolicLinksLeadAnywhere() async throws {
        try await MountedStore.with(memories: ["/d/f": "1"]) { mount in
            try mount.symbolicLink("d/f", "/l")
            try mount.symbolicLink("/nowhere", "/broken")
            try mount.symbolicLink("loop2", "/loop1")
            try mount.symbolicLink("loop1", "/loop2")
            expect(try mount.read("/l"), is: "1")
            #expect(throws: Errno.noSuchFile) { try mount.read("/broken") }
            #expect(throws: Errno.tooManySymbolicLinks) { try mount.read("/loop1") }
            #expect(throws: Errno.tooManySymbolicLinks) { try mount.withOpen("/l", O_RDONLY | O_NOFOLLOW) { _ in } }
            expect(try mount.run("readlink broken"), is: "/nowhere\n")
            expect(try mount.size("/broken"), is: 8)
            try mount.write("/l", "2")
            expect(try mount.store.text("/d/f"), is: "2")
        }
    }

    @Test func directoriesHaveOneName() async throws {
        try await MountedStore.with(memories: ["/d/f": "1"]) { mount in
            #expect(throws: Errno.notPermitted) { try mount.link("/d", "/e") }
            #expect(throws: Errno.fileExists) { try mount.link("/d/f", "/d") }
        }
    }

    // MARK: Directories

    @Test func linkCountsOfDirectoriesCountTheirDirectories() async throws {
        try await MountedStore.with { mount in
            expect(try mount.status("/").st_nlink, is: 2)
            try mount.run("mkdir a a/b a/c; mv a/b b")
            expect(try mount.status("/").st_nlink, is: 4)
            expect(try mount.status("/a").st_nlink, is: 3)
            try mount.removeDirectory("/a/c")
            expect(try mount.status("/a").st_nlink, is: 2)
        }
    }

    @Test func aDirectoryThatIsReadWhileItChangesShowsWhatStays() async throws {
        try await MountedStore.with { mount in
            for number in 0..<500 { try mount.write("/\(number)", "") }
            let directory = try #require(opendir(mount.path))
            defer { closedir(directory) }
            var seen: [String] = []
            while let entry = readdir(directory) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(cString: $0.bindMemory(to: CChar.self).baseAddress!) }
                guard let number = Int(name) else { continue }
                seen.append(name)
                if number % 2 == 1 { try mount.remove("/\(number)") }
                if number % 50 == 0 { try mount.write("/new\(number)", "") }
            }
            #expect(Set(seen).count == seen.count, "none twice")
            #expect(Set(seen).isSuperset(of: (0..<250).map { "\($0 * 2)" }))
        }
    }

    /// Programs that rename what they list, give it other content, or let it change places come to an end, and meet each file once.
    @Test(arguments: ["rename", "replace", "exchange"]) func aListingEndsThoughWhatItShowsIsRenamed(_ how: String) async throws {
        let count = how == "rename" ? 5_000 : 1_000
        try await MountedStore.with { mount in
            try mount.run("mkdir d; cd d; for ((i = 0; i < \(count); i++)); do : > $i; done; mkdir dir; ln 7 other; : > ../other")
            let directory = try #require(opendir(mount.path("/d")))
            defer { closedir(directory) }
            var seen: [String: Int] = [:]
            while let entry = readdir(directory), seen.count <= count * 2 {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(cString: $0.bindMemory(to: CChar.self).baseAddress!) }
                guard name.first != "." else { continue }
                seen[name, default: 0] += 1
                switch how {
                case "rename": try mount.rename("/d/\(name)", "/d/new-\(name)")
                case "replace" where name != "dir":
                    try mount.write("/d/.new", name)
                    try mount.rename("/d/.new", "/d/\(name)")
                case "exchange" where Int(name) != nil: try mount.rename("/d/\(name)", "/other", Linux.exchange)
                default: break
                }
            }
            #expect(seen.count == count + 2 && seen.values.allSatisfy { $0 == 1 }, "\(seen.count) names")
            expect(try mount.names("/d").count, is: count + 2)
            let kept = try mount.daemon.afterwards(mount.store.id) { store in
                try store.memories(under: "/d/", depth: 0, after: nil, limit: count * 2).count
            }
            // All but the directory and the second name, which is a memory of its own once the first one is another file.
            expect(kept, is: how == "replace" ? count + 1 : count)
        }
    }

    @Test func aDirectoryOfManyNamesIsWhole() async throws {
        var policy = Policy()
        policy.maxMemories = 20_000
        try await MountedStore.with(mounts: 2, policy: policy) { mounts in
            try mounts[0].run("for i in $(seq 3000); do : > file-with-a-longer-name-$i; done; sync .")
            expect(try mounts[1].names().count, is: 3_000)
            expect(try mounts[0].names().count, is: 3_000)
            try mounts[0].run("rm -r ./*; sync .")
            expect(try mounts[1].names(), is: [])
        }
    }

    @Test func aDirectoryThatIsGoneIsGone() async throws {
        try await MountedStore.with { mount in
            try mount.makeDirectory("/d")
            let directory = try mount.open("/d", O_RDONLY | O_DIRECTORY)
            defer { close(directory) }
            try mount.removeDirectory("/d")
            #expect(openat(directory, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0o644) == -1 && errno == ENOENT)
            #expect(mkdirat(directory, "e", 0o755) == -1 && errno == ENOENT)
        }
    }
}
