import Foundation
import Glibc
import TestSupport
import Testing
import Threads

/// An ext4 on a file, whose power can be cut: what it has not been asked to sync is gone.
struct LoopDisk {
    static let isThere = access("/dev/loop-control", F_OK) == 0 && ["/sbin", "/usr/sbin"].contains { access($0 + "/mkfs.ext4", X_OK) == 0 }

    let image: String
    let path: String
    let scratch: String

    /// Makes it, and mounts it at `path`, which exists.
    init(image: String, path: String, scratch: String) throws {
        self.image = image
        self.path = path
        self.scratch = scratch
        let file = try check(open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600))
        defer { close(file) }
        try check(ftruncate(file, 128 << 20))
        try Program.start(["mkfs.ext4", "-q", "-F", image], in: "/", scratch: scratch).success()
        try mount()
    }

    func mount() throws { try Program.start(["mount", "-o", "loop", image, path], in: "/", scratch: scratch).success() }

    /// EXT4_IOC_SHUTDOWN without a flush of its journal.
    func cutPower() throws {
        let directory = try check(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        defer { close(directory) }
        var withoutFlush: UInt32 = 2
        try check(ioctl(directory, 0x8004_587d, &withoutFlush))
    }
}

/// The power is cut while clients write and sync. Everything whose `fsync` had returned, or whose API call had, is there afterwards.
extension FaultTests {
    @Suite(.enabled(if: LoopDisk.isThere, "needs loop devices and mkfs.ext4")) struct PowerCutTests {
        static let cuts = isLong ? 50 : 3

        /// What one client was told is on the disk: numbers.
        typealias Done = [Int]

        private static let kinds = ["append", "create", "replace"]

        /// Saves and syncs number after number, until the power is cut. What a machine says that has lost its power nobody hears: ext4 ends
        /// an fdatasync that it was in the middle of with success, now and then, and what that was for is not there.
        private static func work(
            _ kind: String, _ root: String, from first: Int, unless isCut: () -> Bool, _ goesOn: () -> Bool
        ) -> Done {
            var done: Done = []
            var number = first
            do {
                repeat {
                    switch kind {
                    case "append":
                        try withOpen(root + "/log", O_WRONLY | O_CREAT | O_APPEND) {
                            try Files.write(Array("\(number)\n".utf8), to: $0)
                            try check(fsync($0))
                        }
                    case "create":
                        try withOpen(root + "/new/f\(number)", O_WRONLY | O_CREAT | O_EXCL) {
                            try Files.write(Array(content(number).utf8), to: $0)
                            try check(fsync($0))
                        }
                    default:
                        try save(content(number), to: root + "/temporary")
                        try check(rename(root + "/temporary", root + "/replaced"))
                        // Whatever file is synced, all that was done before is.
                        try withOpen(root + "/replaced", O_RDONLY) { try check(fdatasync($0)) }
                    }
                    if isCut() { break }
                    done.append(number)
                    number += 1
                } while goesOn()
            } catch {
                // EIO, since the disk is gone. What was not acknowledged may be there or not.
            }
            return done
        }

        private static func content(_ number: Int) -> String { String(repeating: "\(number) ", count: 300) }

        @Test func whatWasSyncedIsThere() async throws {
            try await blocking {
                try DaemonProcess.prepared { daemon in
                    try check(mkdir(daemon.state, 0o700))
                    let root = daemon.directory + "/notes"
                    for directory in [root, daemon.directory + "/scratch"] { try check(mkdir(directory, 0o755)) }
                    let disk = try LoopDisk(image: daemon.directory + "/image", path: daemon.state, scratch: daemon.directory + "/scratch")
                    try daemon.start()
                    let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                    try daemon.output("mount", "notes", root)
                    try check(mkdir(root + "/new", 0o755))
                    // A daemon makes the catalog's copy in its first second, and doctor misses it until then.
                    try wait { access(daemon.state + "/catalog.sqlite.backup", F_OK) == 0 }

                    var done: [String: Done] = [:]
                    var random = SeededRandom.fresh()
                    for cut in 1...Self.cuts {
                        // The number that was under way at the last cut is not used again.
                        let first = cut * 1_000_000
                        let clients = Clients<Done>()
                        let isCut = Mutex(false)
                        for kind in Self.kinds {
                            clients.start(kind) { Self.work(kind, root, from: first, unless: { isCut.withLock { $0 } }, $0) }
                        }
                        // And one who writes through the API.
                        var number = first
                        let steps = Int.random(in: 5...60, using: &random)
                        while clients.fewestSteps < steps, !clients.haveEnded {
                            let body = #"{"path": "/api/\#(number)", "content": "\#(Self.content(number))"}"#
                            let response = try daemon.http("POST", "/v1/memory_stores/\(id)/memories", body)
                            #expect(response.status == 200, "\(String(decoding: response.body, as: UTF8.self))")
                            done["api", default: []].append(number)
                            number += 1
                        }
                        isCut.withLock { $0 = true }
                        try disk.cutPower()
                        // All of them fail at their next sync, if not before.
                        try wait { clients.haveEnded }
                        for (kind, numbers) in clients.stop() { done[kind, default: []] += numbers }

                        _ = try daemon.stop(SIGKILL)
                        try check(umount2(root, Int32(MNT_DETACH)))
                        try unmount(disk.path)
                        try disk.mount()
                        try expectSound(daemon, "cut \(cut) of \(random)")
                        try daemon.start()
                        try daemon.output("mount", "notes", root)
                        try Self.compare(root, done, cuts: cut, "cut \(cut) of \(random)")
                    }
                    print("\(Self.cuts) power cuts: \(done.mapValues(\.count)) acknowledged, all there")
                    #expect(try daemon.stop().status == 0)
                    try unmount(disk.path)
                }
            }
        }

        private static func compare(_ root: String, _ done: [String: Done], cuts: Int, _ when: String) throws {
            // The number that a cut met is there or is not.
            func judge(_ found: [Int], _ kind: String) {
                let done = done[kind] ?? []
                #expect(Set(found).count == found.count, "\(kind) twice, \(when)")
                let lost = Set(done).subtracting(found).sorted()
                #expect(lost.isEmpty, "\(kind) lost \(lost), \(when)")
                #expect(Set(found).subtracting(done).count <= cuts, "\(kind) has more than was done, \(when)")
            }
            func number(_ text: some StringProtocol) throws -> Int { try #require(Int(text), "torn: \(text), \(when)") }

            let log = try text(root + "/log")
            #expect(log.hasSuffix("\n"), "torn, \(when)")
            judge(try log.split(separator: "\n").map { try number($0) }, "append")

            var created: [Int] = []
            for name in try Files.names(in: root + "/new") {
                let held = try text("\(root)/new/\(name)")
                let value = try number(name.dropFirst())
                // One that was under way may be there without its bytes.
                if !(done["create"] ?? []).contains(value), held == "" { continue }
                #expect(held == content(value), "new/\(name), \(when)")
                created.append(value)
            }
            judge(created, "create")

            var sent: [Int] = []
            for name in try Files.names(in: root + "/api") {
                #expect(try text("\(root)/api/\(name)") == content(try number(name)), "api/\(name), \(when)")
                sent.append(try number(name))
            }
            judge(sent, "api")

            let last = try #require(done["replace"]?.last)
            let replaced = try text(root + "/replaced")
            #expect(replaced == content(last) || replaced == content(last + 1), "replaced: \(replaced.prefix(20)) for \(last), \(when)")
        }
    }
}
