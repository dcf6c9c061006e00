import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// What `Semantics.md` promises of a store's past, with real files on real mounts.
@Suite(.needsFuse)
struct PastSemanticsTests {
    // MARK: Time travel

    /// A moment after all that was saved so far, as a name below `.remfs/at`.
    private static func now(_ mount: MountedStore) throws -> String {
        try mount.store.settle()
        return mount.store.now().rfc3339
    }

    @Test func theTreeIsAsItWasThen() async throws {
        let deep = (1...40).map { "d\($0)" }.joined(separator: "/")
        try await MountedStore.with { mount in
            try mount.run(
                """
                mkdir -p notes/old empty \(deep); echo one > notes/a.md; echo b > notes/old/b.md; echo deep > \(deep)/f
                echo space > 'sp ace.md'; echo accent > $'e\\u0301 \\u65e5\\u672c.md'; ln -s notes link; ln notes/a.md other
                echo draft > f~; chmod 600 notes/a.md; echo gone > gone
                """)
            let then = try Self.now(mount)
            try mount.run("echo two > notes/a.md; mv notes/old new; rm gone; mv 'sp ace.md' moved; chmod 644 notes/a.md; sleep 2.2")
            let between = try Self.now(mount)
            // A directory where a memory was, and a memory where a directory was.
            try mount.run("mkdir gone; echo again > gone/x; mv new/b.md b; rmdir new; echo file > new")
            let paths = [".", "./\(deep)/f", "./e\u{301} \u{65e5}\u{672c}.md", "./gone", "./notes", "./notes/a.md", "./notes/old/b.md"]
            let listed = Set(try mount.run("cd .remfs/at/\(then); find").split(separator: "\n").map(String.init))
            #expect(listed.isSuperset(of: paths) && listed.contains("./sp ace.md"))
            #expect(listed.isDisjoint(with: ["./empty", "./link", "./f~", "./moved", "./new", "./b"]))
            expect(
                try mount.run("cat .remfs/at/\(then)/{notes/a.md,notes/old/b.md,\(deep)/f,gone,'sp ace.md',e*}"),
                is: "one\nb\ndeep\ngone\nspace\naccent\n")
            expect(
                try mount.run("cat .remfs/at/\(between)/{notes/a.md,new/b.md,moved}; ls .remfs/at/\(between)/notes"),
                is: "two\nb\nspace\na.md\n")
            #expect(throws: Errno.noSuchFile) { try mount.read("/.remfs/at/\(between)/gone") }
            let now = try Self.now(mount)
            expect(
                try mount.run("cat .remfs/at/\(now)/{gone/x,b,new,notes/a.md}; test ! -e .remfs/at/\(now)/notes/old"),
                is: "again\nb\nfile\ntwo\n")
            // What was read first goes on being what it was.
            expect(
                try mount.run("grep -r . .remfs/at/\(then)/notes | sort; stat -c '%a %A %s' .remfs/at/\(then)/notes/a.md"),
                is: """
                    .remfs/at/\(then)/notes/a.md:one
                    .remfs/at/\(then)/notes/old/b.md:b
                    444 -r--r--r-- 4

                    """)
            expect(try mount.run("stat -c %a .remfs/at/\(then)/notes .remfs .remfs/at .remfs/versions"), is: "555\n555\n555\n555\n")
            // The API's way of telling the same.
            let exported = try mount.store.withSnapshot(at: .time(try #require(Timestamp(rfc3339: then)))) {
                (snapshot) throws(RemfsError) in
                var paths: [String] = []
                while let entry = snapshot.next() { paths.append(String(decoding: entry.path, as: UTF8.self)) }
                return paths.sorted()
            }
            let found = try mount.run("cd .remfs/at/\(then); find -type f | cut -c3-").split(separator: "\n").map(String.init)
            expect(found.sorted(), is: exported)
            expect(
                try mount.run("ls -A; find . | grep remfs | wc -l; grep -rl one . | wc -l").split(separator: "\n").suffix(2),
                is: ["0", "0"])
            #expect(try !mount.names().contains(".remfs"))
        }
    }

    @Test func momentsHaveNames() async throws {
        try await MountedStore.with { mount in
            try mount.write("/f", "1")
            let time = try Self.now(mount)
            try mount.write("/f", "2")
            try mount.store.settle()
            let versions = try mount.versions("/f")
            let seconds = try #require(Timestamp(rfc3339: time))
            let east = Timestamp(microseconds: seconds.microseconds + 5_400_000_000).rfc3339.dropLast() + "+01:30"
            for name in [time, String(time.dropLast()), String(east), versions[0].id.description] {
                expect(try mount.read("/.remfs/at/\(name)/f"), is: "1")
            }
            expect(try mount.read("/.remfs/at/\(versions[1].id)/f"), is: "2")
            expect(try mount.names("/.remfs/at"), is: [])
            expect(try mount.names("/.remfs"), is: ["at", "status", "versions"])
            let store = try mount.daemon.pool.catalog.store(mount.store.id)
            let other = StoreID(bits: 1)
            let later = Timestamp(microseconds: mount.store.now().microseconds + 60_000_000).rfc3339
            let names = [
                later, "2001-01-01T00:00:00Z", Timestamp(microseconds: store.created.microseconds - 1).rfc3339, "now", "yesterday", "2026",
                "2026-02-30T00:00:00Z", "f", "x\n", String(repeating: "9", count: 255), VersionID(store: other, number: 1).description,
                VersionID(store: mount.store.id, number: 1 << 40).description, "memver_0", "\u{e9}",
            ]
            for name in names { #expect(throws: Errno.noSuchFile, "\(name)") { try mount.status("/.remfs/at/\(name)") } }
            // Made, and nothing in it yet.
            expect(try mount.names("/.remfs/at/\(store.created.rfc3339)"), is: [])
            // What is to come is there once it has come.
            let soon = Timestamp(microseconds: mount.store.now().microseconds + 300_000).rfc3339
            #expect(throws: Errno.noSuchFile) { try mount.status("/.remfs/at/\(soon)") }
            usleep(310_000)
            expect(try mount.read("/.remfs/at/\(soon)/f"), is: "2")
        }
    }

    @Test func thePastCannotBeChanged() async throws {
        try await MountedStore.with(memories: ["/d/f": "1", "/f": "1"]) { mount in
            let then = "/.remfs/at/\(try Self.now(mount))"
            let version = "/.remfs/versions/f/" + (try #require(try mount.names("/.remfs/versions/f").first))
            for directory in [then, "\(then)/d", "/.remfs/at", "/.remfs/versions", "/.remfs/versions/d", "/.remfs/versions/f"] {
                let changes: [(what: String, change: () throws -> Void)] = [
                    ("create", { try mount.write("\(directory)/new", "1") }), ("mkdir", { try mount.makeDirectory("\(directory)/new") }),
                    ("symlink", { try mount.symbolicLink("x", "\(directory)/new") }),
                    ("link", { try mount.link("/f", "\(directory)/new") }),
                    ("rename into it", { try mount.rename("/f", "\(directory)/new") }),
                    ("chmod", { try mount.change(mode: 0o700, of: directory) }),
                ]
                for (what, change) in changes { #expect(throws: Errno.readOnlyFileSystem, "\(what) \(directory)", performing: change) }
            }
            for file in ["\(then)/f", "\(then)/d/f", version] {
                let changes: [(what: String, change: () throws -> Void)] = [
                    ("truncating open", { try mount.write(file, "1") }), ("write", { try mount.write(file, [1], O_WRONLY) }),
                    ("append", { try mount.append(file, "1") }), ("unlink", { try mount.remove(file) }),
                    ("rename", { try mount.rename(file, "/new") }), ("rename over", { try mount.rename("/f", file) }),
                    ("link", { try mount.link(file, "/new") }), ("chmod", { try mount.change(mode: 0o600, of: file) }),
                    ("truncate", { try mount.truncate(file, 0) }),
                ]
                for (what, change) in changes { #expect(throws: Errno.readOnlyFileSystem, "\(what) \(file)", performing: change) }
                expect(try mount.read(file), is: "1")
            }
            #expect(throws: Errno.readOnlyFileSystem) { try mount.removeDirectory("\(then)/d") }
            expect(try mount.run("cp -a .\(then)/d copy; cat copy/f; diff -r .\(then)/d copy && echo same"), is: "1same\n")
        }
    }

    @Test func aMemorysVersionsAreFiles() async throws {
        try await MountedStore.with { mount in
            try mount.run("mkdir notes; echo one > notes/a.md")
            try mount.store.settle()
            try mount.run("echo two > notes/a.md")
            try mount.store.settle()
            try mount.store.update("/notes/a.md", "three\n")
            try mount.run("mv notes/a.md notes/b.md")
            try mount.store.settle()
            let versions = try mount.versions()
            let names = versions.map { version in
                let time = version.created.rfc3339.filter { $0 != "-" && $0 != ":" }
                return "\(time)-\(version.id)-\(version.author.actor.id)"
            }
            #expect(
                names.count == 4 && names[0].contains("-memver_") && names[0].hasSuffix("-user_0") && names[2].hasSuffix("-apikey_local"))
            // Those of the memory that was there last, wherever it was.
            for path in ["a.md", "b.md"] {
                expect(try mount.names("/.remfs/versions/notes/\(path)"), is: names)
                expect(try mount.run("cat .remfs/versions/notes/\(path)/*"), is: "one\ntwo\nthree\nthree\n")
            }
            expect(try mount.names("/.remfs/versions"), is: ["notes"])
            expect(try mount.names("/.remfs/versions/notes"), is: ["a.md", "b.md"])
            // It grows, also for somebody who has listed it before.
            try mount.write("/notes/b.md", "four\n")
            expect(try mount.names("/.remfs/versions/notes/b.md").count, is: 5)
            try mount.run("sleep 2.1; rm notes/b.md; echo plain > notes/n; sleep 2.2")
            let all = try mount.names("/.remfs/versions/notes/b.md")
            #expect(all.count == 6 && all[5].hasSuffix("-user_0-deleted"))
            expect(try mount.run("cat .remfs/versions/notes/b.md/*-deleted"), is: "")
            // Another memory at the same path has its own, beside those that were there.
            try mount.write("/notes/b.md", "new\n")
            expect(try mount.run("cat .remfs/versions/notes/b.md/*"), is: "three\nfour\nnew\n")
            // A path that is a memory and then a directory is both.
            try mount.run("sleep 2.1; rm notes/n; sleep 2.1; mkdir notes/n; echo in > notes/n/x")
            let both = try mount.names("/.remfs/versions/notes/n")
            #expect(both.count == 3 && both[2] == "x")
            expect(try mount.run("cat .remfs/versions/notes/n/x/* .remfs/versions/notes/n/*-user_0"), is: "in\nplain\n")
            for name in ["/none", "/notes/none", "/notes/b.md/x", "/notes/b.md/\(names[0].dropLast())", "/notes/n/\(names[0])"] {
                #expect(throws: Errno.noSuchFile, "\(name)") { try mount.status("/.remfs/versions\(name)") }
            }
            expect(try mount.run("stat -c '%a %F' .remfs/versions/notes/b.md/*-deleted"), is: "444 regular empty file\n")
        }
    }

    @Test func historyCanBeSwitchedOff() async throws {
        var options = MountOptions()
        options.history = false
        try await MountedStore.with(memories: ["/f": "1"], options) { mount in
            let then = try Self.now(mount)
            for name in ["", "/at", "/at/\(then)", "/at/\(then)/f", "/versions", "/versions/f", "/status"] {
                #expect(throws: Errno.noSuchFile) { try mount.status("/.remfs\(name)") }
            }
        }
    }

    /// What kernels keep of the past is right for ever, so they ask for it once.
    @Test func thePastIsReadOnce() async throws {
        let memories = Dictionary(uniqueKeysWithValues: (0..<60).map { ("/d\($0 % 3)/\($0)", "text \($0)\n") })
        try await MountedStore.with(memories: memories) { mount in
            for round in 0..<3 { for path in memories.keys.sorted() { try mount.store.update(path, "round \(round)\n") } }
            let then = try Self.now(mount)
            for path in memories.keys { try mount.store.update(path, "later\n") }
            try mount.run("cat .remfs/at/\(then)/d0/0")
            let shell = "cd .remfs/at/\(then); grep -rc 'round 2' . | grep -c ':1$'"
            let cold = try mount.requests { expect(try mount.run(shell), is: "60\n") }
            // For the root and each directory one that brings all of it and one that says that this was all; and each file but one is read.
            #expect(cold["readdirplus", default: 0] <= 8 && cold["read"] == 59, "\(cold)")
            #expect(cold["lookup", default: 0] <= 3 && cold["readdir", default: 0] == 0, "\(cold)")
            _ = try mount.run(shell)
            let third = try mount.requests { expect(try mount.run(shell), is: "60\n") }
            #expect(third["read"] == nil && third["readdirplus"] == nil && third["lookup", default: 0] <= 2, "\(third)")
        }
    }

    @Test func aRedactedVersionIsInNoMoment() async throws {
        let secret = "qzxjvkwpfq-zzyyxxwwqq"
        var past = MountOptions()
        past.access = .readOnly
        try await MountedStore.with { live in
            try live.run("mkdir -p deep/er; echo \(secret) > deep/er/f; echo plain > g")
            let then = try Self.now(live)
            let version = try #require(try live.versions("/deep/er/f").last)
            try live.run("echo clean > g; sleep 0.1; rm -r deep; sleep 2.2")
            past.at = Timestamp(rfc3339: then)?.microseconds
            let other = try live.daemon.mount(live.store, past)
            let file = try live.open("/.remfs/at/\(then)/deep/er/f", O_RDONLY)
            defer { close(file) }
            let name = try #require(try live.names("/.remfs/versions/deep/er/f").first)
            let shell = "cat .remfs/at/\(then)/deep/er/f .remfs/versions/deep/er/f/\(name) .remfs/at/\(version.id)/deep/er/f"
            expect(try live.run(shell), is: "\(secret)\n\(secret)\n\(secret)\n")
            expect(try live.run("grep -rl \(secret) .remfs/at/\(then) .remfs/versions | wc -l"), is: "2\n")
            expect(try other.run("grep -r \(secret) . | wc -l; ls -R | grep -c deep"), is: "1\n3\n")
            _ = try live.store.redact(version.id, by: Author(.local))
            for path in ["at/\(then)/deep/er/f", "at/\(version.id)/deep/er/f", "at/\(then)/deep", "versions/deep/er/f/\(name)"] {
                #expect(throws: Errno.noSuchFile, "\(path)") { try live.read("/.remfs/\(path)") }
            }
            // Its pages are gone as well.
            #expect(throws: Errno.stale) { try TestSupport.read(file, 10, at: 0) }
            for mount in [live, other] {
                expect(try mount.run("grep -r \(secret) . || [ $? = 1 ]; find | grep deep || [ $? = 1 ]"), is: "")
            }
            expect(
                try live.run(
                    "ls .remfs/at/\(then); cat .remfs/at/\(then)/g; grep -r \(secret) .remfs/at/\(then) .remfs/versions || [ $? = 1 ]"),
                is: "g\nplain\n")
            expect(try other.run("ls; cat g"), is: "g\nplain\n")
        }
    }

    @Test func aMountCanShowAMoment() async throws {
        try await MountedStore.with(memories: ["/d/f": "one", "/g": "g"]) { live in
            let then = try Self.now(live)
            try live.run("echo two > d/f; rm g; echo new > new")
            var options = MountOptions()
            options.access = .readOnly
            options.at = Timestamp(rfc3339: then)?.microseconds
            let past = try live.daemon.mount(live.store, options)
            expect(try past.run("find | sort; cat d/f g"), is: ".\n./d\n./d/f\n./g\noneg")
            expect(try past.run("cat .remfs/at/\(then)/d/f; ls .remfs/versions"), is: "oned\ng\nnew\n")
            options.history = false
            let hidden = try live.daemon.mount(live.store, options)
            expect(try hidden.run("cat d/f; [ ! -e .remfs ]"), is: "one")
            for mount in [past, hidden] {
                #expect(throws: Errno.readOnlyFileSystem) { try mount.write("/d/f", "x") }
                #expect(throws: Errno.readOnlyFileSystem) { try mount.rename("/d/f", "/x") }
                #expect(throws: RemfsError.self) { try live.daemon.table.setAccess(mount.mount, .readWrite) }
            }
            // What happens to the store is no business of theirs.
            try live.run("rm -r d; echo other > g")
            live.store.drainInvalidations()
            expect(try past.run("cat d/f g"), is: "oneg")
        }
    }

    /// As a container sees it: the mount is bound into a mount namespace of its own.
    @Test func thePastGoesThroughABindMount() async throws {
        try await MountedStore.with(memories: ["/d/f": "one"]) { mount in
            let then = try Self.now(mount)
            try mount.write("/d/f", "two")
            let shell = """
                mkdir "$SCRATCH/inside"; unshare -m bash -ec '
                mount --bind . "$SCRATCH/inside"; cd "$SCRATCH/inside"
                cat .remfs/at/\(then)/d/f d/f; ls .remfs/versions/d/f | wc -l
                cd .remfs/at/\(then)/d; cat f; pwd; echo x > new || echo refused' 2> /dev/null
                """
            expect(try mount.run(shell), is: "onetwo2\none\(mount.daemon.scratch)/inside/.remfs/at/\(then)/d\nrefused\n")
        }
    }

    /// What nobody uses any more the kernel is told to forget, and who stands somewhere stays there.
    @Test func momentsAreForgotten() async throws {
        try await MountedStore.with(memories: ["/d/f": "one"]) { mount in
            let first = Timestamp(rfc3339: try Self.now(mount))!.microseconds
            let then = "/.remfs/at/\(Timestamp(microseconds: first).rfc3339)"
            let inside = try mount.open(then + "/d", O_RDONLY | O_DIRECTORY)
            defer { close(inside) }
            for step in 1...900 {
                while mount.store.now().microseconds < first + Int64(step) { sched_yield() }
                let name = Timestamp(microseconds: first + Int64(step)).rfc3339
                expect(try mount.exists("/.remfs/at/\(name)/d/f"), is: true)
            }
            expect(try mount.run("s=$(grep inodes_known .remfs/status | cut -d' ' -f2); [ $s -lt 450 ] || echo $s"), is: "")
            let file = try check(openat(inside, "f", O_RDONLY | O_CLOEXEC))
            defer { close(file) }
            #expect(try TestSupport.read(file, 10, at: 0) == Array("one".utf8))
            expect(try mount.read(then + "/d/f"), is: "one")
        }
    }
}
