import Foundation
import Glibc
import TestSupport
import Testing

/// `remfs doctor`, backups and what is restored from them, with the built binary.
extension ServeTests {
    @Suite(.serialized) struct DoctorTests {
        private func sqlite(_ path: String, _ sql: String) throws {
            let outcome = try Program.start(["sqlite3", path, sql], in: "/", scratch: "/tmp", environment: ["PATH": "/usr/bin:/bin"]).wait()
            try #require(outcome.status == 0, "\(outcome.errors)")
        }

        private func kinds(_ result: Binary.Result) throws -> Set<String> {
            let diagnoses = try #require(try result.json()["diagnoses"] as? [[String: Any]])
            return Set(diagnoses.flatMap { ($0["findings"] as? [[String: Any]] ?? []).compactMap { $0["kind"] as? String } })
        }

        @Test func itFindsAndRepairsWithADaemonAndWithout() throws {
            try DaemonProcess.with { daemon in
                let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                try daemon.output("store", "create", "other")
                for name in ["/a.md", "/b.md"] { try daemon.output("memory", "write", "notes", name, input: "of \(name)") }
                let sound = try daemon.output("doctor")
                #expect(sound.split(separator: "\n").allSatisfy { $0.hasSuffix(": sound") || $0.contains("note: ") }, "\(sound)")
                #expect(sound.contains("store \"notes\" (\(id)): sound\n"))
                let json = try daemon.remfs("doctor", "--json").json()
                #expect(json["clean"] as? Bool == true && json["daemon"] as? Bool == true)
                #expect((json["diagnoses"] as? [Any])?.count == 3)

                // Offline, what is damaged offline.
                #expect(try daemon.stop().status == 0)
                let file = "\(daemon.state)/stores/\(id).sqlite"
                try sqlite(file, "UPDATE chunk SET refs = 5; UPDATE inode SET parent = 4711 WHERE name = 'a.md'")
                let found = try daemon.remfs("doctor")
                #expect(found.status == 1 && found.errors == "", "\(found.errors)")
                #expect(found.output.contains("  repairable directory_missing: "), "\(found.output)")
                #expect(found.output.contains("    to do: remfs doctor --repair\n"))
                #expect(try daemon.remfs("doctor", "other").output.hasSuffix(": sound\n"))
                #expect(try daemon.remfs("doctor", "nobody").status == 66)
                let dry = try daemon.remfs("doctor", "notes", "--json")
                #expect(try dry.status == 1 && kinds(dry) == ["directory_missing", "count_wrong"], "\(dry.output)")

                // With a daemon, which cannot even open the store.
                try daemon.start()
                #expect(try daemon.remfs("memory", "cat", "notes", "/b.md").errors.contains("run remfs doctor"))
                let repaired = try daemon.remfs("doctor", "--repair")
                #expect(repaired.status == 0, "\(repaired.output) \(repaired.errors)")
                #expect(repaired.output.contains("    done: moved it to /lost+found/a.md\n"), "\(repaired.output)")
                #expect(repaired.output.contains("  as it was before: \(file).before-repair-"))
                #expect(try daemon.remfs("doctor").status == 0)
                #expect(try daemon.output("memory", "cat", "notes", "/lost+found/a.md") == "of /a.md")

                // And offline again, of another kind.
                #expect(try daemon.stop().status == 0)
                try sqlite(file, "DELETE FROM inode WHERE name = 'b.md'")
                try sqlite("\(daemon.state)/catalog.sqlite", "DELETE FROM store WHERE name = 'other'")
                let last = try daemon.remfs("doctor", "--repair", "--json")
                #expect(last.status == 0, "\(last.output)")
                #expect(try kinds(last) == ["memory_lost", "row_missing"], "\(last.output)")
                #expect(try last.json()["daemon"] as? Bool == false)
                #expect(try daemon.remfs("doctor", "--state-dir", daemon.state).status == 0)
            }
        }

        @Test func whatIsBeyondRepairSaysWhatToDo() throws {
            try DaemonProcess.with { daemon in
                let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                try daemon.output("memory", "write", "notes", "/a.md", input: "content")
                #expect(try daemon.stop().status == 0)
                let file = "\(daemon.state)/stores/\(id).sqlite"
                try sqlite(file, "UPDATE extent SET bytes = CAST('damaged' AS BLOB)")
                for arguments in [["doctor"], ["doctor", "--repair"]] {
                    let result = try Binary.run(arguments, environment: daemon.environment)
                    #expect(result.status == 1)
                    #expect(
                        result.output.contains("  unrepairable hash_wrong: ") && result.output.contains("part of /a.md"), "\(result.output)"
                    )
                    #expect(result.output.contains("mv \(file)* \(daemon.state)/orphans/ && cp BACKUP \(file)"), "\(result.output)")
                }
                let unused = try daemon.remfs("doctor", "--state-dir", "\(daemon.directory)/none")
                #expect(unused.status == 66)
                for arguments in [
                    ["doctor", "--adopt", id], ["doctor", "--repair", "--adopt", "x"], ["doctor", "--repair", "--adopt", id, "notes"],
                ] {
                    #expect(try Binary.run(arguments, environment: daemon.environment).status == 64)
                }
            }
        }

        @Test(.enabled(if: access("/dev/fuse", R_OK | W_OK) == 0, "/dev/fuse is missing")) func aMountGoesOnAcrossARepair() throws {
            try DaemonProcess.with { daemon in
                let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                for name in ["/a.md", "/d/b.md"] { try daemon.output("memory", "write", "notes", name, input: "of \(name)") }
                #expect(try daemon.stop().status == 0)
                // What opens all the same.
                try sqlite(
                    "\(daemon.state)/stores/\(id).sqlite",
                    "UPDATE chunk SET refs = 7; UPDATE version SET name = 'elsewhere' WHERE name = 'b.md'; INSERT INTO xattr VALUES (99, 'user.x', x'00')"
                )
                try daemon.start()
                let directory = "\(daemon.directory)/mnt"
                try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
                try daemon.output("mount", "notes", directory)
                let file = try #require(FileHandle(forUpdatingAtPath: "\(directory)/a.md"))
                let unlinked = try #require(FileHandle(forUpdatingAtPath: "\(directory)/d/b.md"))
                try file.write(contentsOf: Data("OF".utf8))
                unlink("\(directory)/d/b.md")
                let repaired = try daemon.remfs("doctor", "--repair", "notes", "--json")
                #expect(repaired.status == 0, "\(repaired.output)")
                #expect(try kinds(repaired).isSuperset(of: ["count_wrong", "attribute_of_nothing"]), "\(repaired.output)")
                try file.write(contentsOf: Data(" all".utf8))
                try file.close()
                #expect(try String(contentsOfFile: "\(directory)/a.md", encoding: .utf8) == "OF allmd")
                #expect(try unlinked.readToEnd() == Data("of /d/b.md".utf8))
                try unlinked.close()
                #expect(try daemon.output("memory", "cat", "notes", "/a.md") == "OF allmd")
                #expect(try daemon.remfs("doctor").status == 0)
                try daemon.output("unmount", directory)
            }
        }

        /// The commands of `Operations.md`, as they stand there but for the place of the state directory.
        private func documented(_ daemon: DaemonProcess) throws -> (before: String, restore: String) {
            let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
                .appendingPathComponent("Sources/remfs/Documentation.docc/Operations.md")
            let text = try String(contentsOf: page, encoding: .utf8)
            let blocks = text.components(separatedBy: "```sh\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
            let block = try #require(blocks.first { $0.contains("sudo systemctl stop remfs") && $0.contains("notes-2026-11-22.sqlite") })
            let parts = block.replacingOccurrences(of: "/var/lib/remfs", with: daemon.state).components(
                separatedBy: "sudo systemctl stop remfs\n")
            let rest = try #require(parts.last).components(separatedBy: "sudo systemctl start remfs\n")
            try #require(parts.count == 2 && rest.count == 2)
            return (parts[0], rest[0])
        }

        private func shell(_ script: String, _ daemon: DaemonProcess) throws -> Program.Outcome {
            try Program.start(
                ["bash", "-euc", "remfs() { '\(Binary.path)' \"$@\"; }; sudo() { \"$@\"; }; \(script)"], in: daemon.directory,
                scratch: daemon.directory, environment: daemon.environment
            ).wait()
        }

        @Test(.enabled(if: access("/dev/fuse", R_OK | W_OK) == 0, "/dev/fuse is missing")) func aStoreComesBackFromABackupTakenUnderLoad()
            throws
        {
            try DaemonProcess.with { daemon in
                let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                let directory = "\(daemon.directory)/mnt"
                try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
                try daemon.output("mount", "notes", directory)
                // Writes as fast as it can, and says what it has written.
                let writer = try Program.start(
                    [
                        "bash", "-c",
                        "i=0; while [ ! -e stop ]; do i=$((i + 1)); echo \"content of $i\" > mnt/$i && echo one more >> mnt/log && echo $i; done",
                    ], in: daemon.directory, scratch: daemon.directory, environment: daemon.environment)
                func written() -> Int { Int(writer.output.split(separator: "\n").dropLast().last ?? "0") ?? 0 }
                while written() < 50 { usleep(10_000) }
                let acknowledged = written()
                let file = "\(daemon.directory)/notes-2026-11-22.sqlite"
                try daemon.output("store", "backup", "notes", file)
                while written() < acknowledged + 50 { usleep(10_000) }
                try Data().write(to: URL(fileURLWithPath: "\(daemon.directory)/stop"))
                #expect(try writer.wait().status == 0)
                try daemon.output("unmount", directory)

                let (before, restore) = try documented(daemon)
                let asked = try shell("\(before) echo \"id=$id\"", daemon)
                try #require(asked.status == 0 && asked.output == "id=\(id)\n", "\(asked.output) \(asked.errors)")
                #expect(try daemon.stop().status == 0)
                // The store is destroyed.
                try Data(repeating: 0x2a, count: 100_000).write(to: URL(fileURLWithPath: "\(daemon.state)/stores/\(id).sqlite"))
                let damaged = try daemon.remfs("doctor", "notes")
                #expect(damaged.status == 1 && damaged.output.contains("file_unreadable"), "\(damaged.output)")
                let restored = try shell("id=\(id); \(restore)", daemon)
                #expect(restored.status == 0 && restored.output.contains(": sound\n"), "\(restored.output) \(restored.errors)")

                try daemon.start()
                #expect(try daemon.remfs("doctor").status == 0)
                let count = try daemon.output("memory", "cat", "notes", "/log").split(separator: "\n").count
                #expect(count >= acknowledged)
                for number in 1...acknowledged {
                    #expect(
                        try daemon.http("GET", "/v1/memory_stores/\(id)/memories?path=/\(number)&view=full").data().first?["content"]
                            as? String
                            == "content of \(number)\n")
                }
                try daemon.output("mount", "notes", directory)
                #expect(try String(contentsOfFile: "\(directory)/1", encoding: .utf8) == "content of 1\n")
                try daemon.output("unmount", directory)
            }
        }

        @Test(.enabled(if: geteuid() == 0, "only root can mount a small disk")) func aBackupThatFindsNoRoomSaysSo() throws {
            try DaemonProcess.prepared { daemon in
                for name in ["state", "small"] {
                    try FileManager.default.createDirectory(atPath: "\(daemon.directory)/\(name)", withIntermediateDirectories: false)
                }
                try #require(mount("tmpfs", daemon.state, "tmpfs", 0, "size=4m") == 0)
                try daemon.start()
                defer {
                    do { _ = try daemon.stop() } catch { Issue.record("the daemon does not stop: \(error)") }
                    umount2(daemon.state, Int32(MNT_DETACH))
                }
                let id = try daemon.output("store", "create", "notes").trimmingCharacters(in: .newlines)
                for number in 0..<18 {
                    let text = (0..<2_500).map { _ in String(UInt64.random(in: 0 ... .max), radix: 36) }.joined(separator: "\n")
                    try daemon.output("memory", "write", "notes", "/\(number)", input: text)
                }
                // All but 200 KB of what is left is taken, and the store has three times that.
                var disk = statvfs()
                try #require(statvfs(daemon.state, &disk) == 0)
                let filler = Data(count: Int(disk.f_bavail * disk.f_bsize) - 200_000)
                try filler.write(to: URL(fileURLWithPath: "\(daemon.state)/filler"))
                let file = "\(daemon.directory)/backup.sqlite"
                let result = try daemon.remfs("store", "backup", "notes", file)
                #expect(result.status == 74)
                #expect(result.errors.hasPrefix("remfs: no_space: the disk of \(daemon.state)/spool-"), "\(result.errors)")
                #expect(result.errors.contains("has no room for a backup of store \"notes\""), "\(result.errors)")
                #expect(!FileManager.default.fileExists(atPath: file))
                // Nothing of it takes the room that is left.
                let left = try FileManager.default.contentsOfDirectory(atPath: daemon.state).filter { $0.hasPrefix("backup-") }
                #expect(left.isEmpty)
                let response = try daemon.http("GET", "/v1/memory_stores/\(id)/backup")
                #expect(try response.status == 500 && response.errorType() == "api_error" && response.headers["remfs-error"] == "no_space")
                #expect(try daemon.output("memory", "ls", "notes").split(separator: "\n").count == 19)
            }
        }

        @Test(.enabled(if: geteuid() == 0, "only root can mount a small disk")) func aFileThatFindsNoRoomSaysSo() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                try daemon.output("memory", "write", "notes", "/a", input: String(repeating: "x", count: 100_000))
                let small = "\(daemon.directory)/small"
                try FileManager.default.createDirectory(atPath: small, withIntermediateDirectories: false)
                try #require(mount("tmpfs", small, "tmpfs", 0, "size=64k") == 0)
                defer { umount2(small, Int32(MNT_DETACH)) }
                let result = try daemon.remfs("store", "backup", "notes", "\(small)/notes.sqlite")
                #expect(result.status == 74)
                #expect(result.errors == "remfs: no_space: \(small)/notes.sqlite cannot be written: No space left on device\n")
                #expect(try FileManager.default.contentsOfDirectory(atPath: small).isEmpty)
            }
        }
    }
}
