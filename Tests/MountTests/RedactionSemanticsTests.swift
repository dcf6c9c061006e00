import Filesystem
import Foundation
import Glibc
import Storage
import TestSupport
import Testing

/// What `Semantics.md` promises of content that is not to be there any more, with real files on real mounts.
@Suite(.needsFuse)
struct RedactionSemanticsTests {
    private static let secret = "qzxjvkwpfq-zzyyxxwwqq"

    // MARK: Redaction and retention

    /// Where the secret is in the daemon's files, as bytes.
    private static func traces(_ daemon: TestDaemon) throws -> [String] {
        let root = (daemon.scratch as NSString).deletingLastPathComponent + "/state"
        let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []
        return try names.filter { name in
            var isDirectory: ObjCBool = false
            guard FileManager.default.fileExists(atPath: "\(root)/\(name)", isDirectory: &isDirectory), !isDirectory.boolValue else {
                return false
            }
            return try Data(contentsOf: URL(fileURLWithPath: "\(root)/\(name)")).range(of: Data(secret.utf8)) != nil
        }
    }

    private static func read(_ file: Int32) throws -> String {
        try check(Int32(lseek(file, 0, SEEK_SET)))
        return String(decoding: try Files.readAll(file), as: UTF8.self)
    }

    @Test(arguments: [40, 5_000, 200_000]) func aRedactedVersionIsNowhere(_ size: Int) async throws {
        let before = String(repeating: "plain text of the notes\n", count: size / 24 + 1)
        try await MountedStore.with(mounts: 2) { mounts in
            let (mount, other) = (mounts[0], mounts[1])
            try mount.write("/f", before)
            // Written bit by bit, and read on both sides, so that both kernels hold it.
            try mount.run("for i in $(seq 1 20); do echo 'key \(Self.secret)'; done >> f")
            #expect(try mount.read("/f").contains(Self.secret) && other.read("/f").contains(Self.secret))
            #expect(try other.run("grep -c \(Self.secret) f") == "20\n")
            let version = try #require(try mount.versions("/f").last)
            #expect(try !Self.traces(mount.daemon).isEmpty)
            #expect(throws: RemfsError.self) { try mount.store.redact(version.id, by: Author(.local)) }
            try other.run("grep -v \(Self.secret) f > g; mv g f")
            // As its writer has it: the other side is told in a moment.
            let after = try other.read("/f")
            #expect(!after.contains(Self.secret))
            _ = try mount.store.redact(version.id, by: Author(.local))
            #expect(try Self.traces(mount.daemon) == [])
            for mount in mounts {
                #expect(try mount.read("/f") == after)
                // 1: grep found nothing; 2 would be an error.
                #expect(try mount.run("s=0; grep -r \(Self.secret) . .remfs/status || s=$?; echo $s") == "1\n")
            }
            #expect(try mount.store.version(version.id).redacted != nil)
            // Those who go on writing do not bring it back.
            try mount.run("echo more >> f")
            mount.store.drainInvalidations()
            #expect(try mount.read("/f") == after + "more\n" && other.read("/f") == after + "more\n")
            mount.daemon.end()
            #expect(try Self.traces(mount.daemon) == [])
        }
    }

    @Test func anOpenDeletedFileReadsAsZeros() async throws {
        try await MountedStore.with(mounts: 2) { mounts in
            let (mount, other) = (mounts[0], mounts[1])
            let content = "key \(Self.secret)\n"
            try mount.write("/f", content)
            #expect(try other.read("/f") == content)
            let version = try #require(try mount.versions("/f").last)
            try mount.withOpen("/f", O_RDWR) { file in
                let mapping = try #require(mmap(nil, content.utf8.count, PROT_READ, MAP_SHARED, file, 0))
                defer { munmap(mapping, content.utf8.count) }
                try other.withOpen("/f", O_RDONLY) { otherFile in
                    try mount.remove("/f")
                    #expect(try Self.read(file) == content && Self.read(otherFile) == content)
                    _ = try mount.store.redact(version.id, by: Author(.local))
                    let zeros = String(repeating: "\0", count: content.utf8.count)
                    #expect(try Self.read(file) == zeros && Self.read(otherFile) == zeros)
                    #expect(UnsafeRawBufferPointer(start: mapping, count: content.utf8.count).allSatisfy { $0 == 0 })
                    #expect(try Self.traces(mount.daemon) == [])
                }
            }
            let deletion = try #require(try mount.versions("/f").last)
            #expect(deletion.operation == .deleted)
            _ = try mount.store.redact(deletion.id, by: Author(.local))
            #expect(try mount.log().map { $0.prefix(9) } == ["created -", "deleted -"])
        }
    }

    /// A writer that goes on all the time, and readers of the file, hold nothing up for long and see nothing of it.
    @Test func redactionGoesOnBesideWriters() async throws {
        try await MountedStore.with(mounts: 2) { mounts in
            let mount = mounts[0]
            let writer = try mounts[1].start("for i in $(seq 1 400); do echo $i > busy; echo $i >> log; cat busy > /dev/null; done")
            for round in 0..<5 {
                try mount.write("/f", "\(round) \(Self.secret)\n")
                try mount.write("/f", "\(round) clean\n")
                let version = try #require(try mount.versions("/f").dropLast().last)
                _ = try mount.store.redact(version.id, by: Author(.local))
            }
            try writer.success()
            #expect(try mount.run("wc -l < log") == "400\n")
            #expect(try Self.traces(mount.daemon) == [])
        }
    }
}
