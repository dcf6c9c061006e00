import Foundation
import Glibc
import TestSupport
import Testing

/// Differences, restores, forks, archives and the change stream: as commands, and on the wire.
extension ServeTests {
    @Suite(.serialized) struct HistoryTests {
        private static func id(_ daemon: DaemonProcess, _ name: String = "notes") throws -> String {
            try daemon.output("store", "create", name).trimmingCharacters(in: .newlines)
        }

        @discardableResult
        private static func shell(_ daemon: DaemonProcess, _ script: String) throws -> String {
            let outcome = try Program.start(
                ["bash", "-c", "set -euo pipefail; remfs() { '\(Binary.path)' \"$@\"; }; \(script)"], in: daemon.directory,
                scratch: daemon.directory, environment: daemon.environment
            ).wait()
            try #require(outcome.status == 0, "\(script): \(outcome.errors)")
            return outcome.output
        }

        private static func spooled(_ daemon: DaemonProcess) throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: daemon.state).filter { $0.hasPrefix("spool-") }
        }

        // MARK: Archives

        @Test func aStoreGoesOutAndComesIn() throws {
            try DaemonProcess.with { daemon in
                _ = try Self.id(daemon)
                let long = (1...15).map { "a directory \($0)" }.joined(separator: "/")
                for (path, content) in ["a.md": "one\n", "d/é.md": "two\n", "\(long)/deep.md": "deep\n"] {
                    try daemon.output("memory", "write", "notes", path, input: content)
                }
                try Self.shell(
                    daemon, "remfs export notes -o notes.tar && mkdir out && tar -C out -xf notes.tar && cat 'out/\(long)/deep.md'")
                #expect(try Self.shell(daemon, "tar -tf notes.tar | sort").contains("a.md\n"))
                let copy = try Self.shell(daemon, "remfs export notes | remfs import - --name copy").trimmingCharacters(in: .newlines)
                #expect(copy.hasPrefix("memstore_01"))
                #expect(try daemon.output("diff", "notes", "--with", "copy") == "")

                // What the program tar makes, changed and taken in again.
                try Self.shell(daemon, "echo three >> out/a.md; echo new > out/new; tar -C out -cf changed.tar . && gzip -k changed.tar")
                let report = try daemon.remfs("import", "\(daemon.directory)/changed.tar", "--into", "copy", "--json").json()
                #expect(report["created"] as? Int == 1 && report["modified"] as? Int == 1 && report["unchanged"] as? Int == 2)
                #expect(try daemon.output("memory", "cat", "copy", "a.md") == "one\nthree\n")
                #expect(try daemon.output("diff", "notes", "--with", "copy", "--names").contains("created   /new"))
                try daemon.output("import", "\(daemon.directory)/changed.tar", "--into", "copy", "--prefix", "again")
                #expect(try daemon.output("memory", "cat", "copy", "again/new") == "new\n")
                let compressed = try daemon.remfs("import", "\(daemon.directory)/changed.tar.gz", "--name", "x")
                #expect(compressed.status == 65 && compressed.errors.contains("gzip"), "\(compressed.errors)")
                #expect(try Self.shell(daemon, "zcat changed.tar.gz | remfs import - --name x").hasPrefix("memstore_01"))

                // With all of its history.
                try daemon.output("memory", "write", "notes", "a.md", input: "changed\n")
                try daemon.output("export", "notes", "--format", "sqlite", "-o", "\(daemon.directory)/notes.sqlite")
                try daemon.output("import", "\(daemon.directory)/notes.sqlite", "--name", "with history")
                let log = { try daemon.output("log", $0).split(separator: "\n").count }
                #expect(try log("with history") == log("notes"))
                #expect(try daemon.remfs("doctor", "with history").status == 0)
                try daemon.output("memory", "write", "with history", "a.md", input: "its own\n")
                #expect(try daemon.output("memory", "cat", "notes", "a.md") == "changed\n")

                #expect(try daemon.remfs("export", "notes", "-o", "\(daemon.directory)/notes.tar").status == 73)
                #expect(try daemon.remfs("import", "/nowhere", "--name", "x").status == 66)
                #expect(try daemon.remfs("import", "\(daemon.directory)/notes.tar").status == 64)
                #expect(try daemon.remfs("import", "\(daemon.directory)/notes.sqlite", "--into", "notes").status == 65)
                #expect(try Self.spooled(daemon).isEmpty)
            }
        }

        @Test func whatArrivesInPartIsNoStore() throws {
            try DaemonProcess.with { daemon in
                let id = try Self.id(daemon)
                try daemon.output("memory", "write", "notes", "a.md", input: String(repeating: "x", count: 50_000))
                try Self.shell(daemon, "remfs export notes -o notes.tar && head -c 30000 notes.tar > half.tar")
                let cut = try daemon.remfs("import", "\(daemon.directory)/half.tar", "--name", "half")
                #expect(cut.status == 65 && cut.errors.contains("cut off"), "\(cut.errors)")
                // A client that goes away within the body.
                let descriptor = try UnixSocket.connect(daemon.socket)
                try UnixSocket.write(
                    descriptor, "POST /v1/memory_stores/import?name=half HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
                try UnixSocket.write(descriptor, String(repeating: "y", count: 20_000))
                close(descriptor)
                var tries = 0
                while try !Self.spooled(daemon).isEmpty || tries == 0 {
                    tries += 1
                    try #require(tries < 500, "the upload's file stays")
                    usleep(10_000)
                }
                for (target, status) in [
                    ("import", 400), ("import?name=", 400), ("import?name=x&memory_store_id=\(id)", 400), ("import?name=x&links=out", 400),
                    ("import?memory_store_id=memstore_none", 404), ("import?name=x&path_prefix=/a", 400),
                    ("import?name=x&path_prefix=/../", 400),
                ] {
                    #expect(try daemon.http("POST", "/v1/memory_stores/\(target)", "").status == status, "\(target)")
                }
                let empty = try daemon.http("POST", "/v1/memory_stores/import?name=x", "")
                #expect(empty.status == 400)
                #expect(try empty.errorType() == "invalid_request_error")
                #expect(try daemon.http("GET", "/v1/memory_stores").data().count == 1)
                #expect(try daemon.http("GET", "/v1/memory_stores/memstore_none/export").status == 404)
                #expect(try daemon.http("GET", "/v1/memory_stores/\(id)/export?at=then").status == 400)
                #expect(try daemon.http("GET", "/v1/memory_stores/\(id)/export?format=zip").status == 400)
                let archive = try daemon.http("GET", "/v1/memory_stores/\(id)/export")
                #expect(archive.headers["content-type"] == "application/x-tar" && archive.body.count % 512 == 0)
            }
        }

        // MARK: Going back

        @Test func aStoreIsComparedAndGoesBack() throws {
            try DaemonProcess.with { daemon in
                let id = try Self.id(daemon)
                for path in ["a.md", "d/b.md", "d/c.md"] { try daemon.output("memory", "write", "notes", path, input: "one\n") }
                let store = "/v1/memory_stores/\(id)"
                let then = try #require(try daemon.http("GET", "\(store)/memory_versions?limit=1").data()[0]["id"] as? String)
                try daemon.output("memory", "write", "notes", "a.md", input: "two\n")
                try daemon.output("memory", "mv", "notes", "d/b.md", "moved.md")
                try daemon.output("memory", "rm", "notes", "d/c.md")
                try daemon.output("memory", "write", "notes", "new.md", input: "new\n")

                let names = try daemon.output("diff", "notes", "--from", then, "--names")
                #expect(
                    names.split(separator: "\n").dropFirst().map { $0.split(separator: " ").joined(separator: " ") } == [
                        "modified /a.md", "deleted /d/c.md", "renamed /d/b.md -> /moved.md", "created /new.md",
                    ])
                let patch = try daemon.output("diff", "notes", "--from", then)
                #expect(patch.contains("\n@@ -1 +1 @@\n-one\n+two\n") && patch.contains("rename from /d/b.md\nrename to /moved.md\n"))
                #expect(try daemon.http("GET", "\(store)/diff?from=\(then)", headers: ["Accept: text/x-diff"]).body == Array(patch.utf8))

                var page = try daemon.http("GET", "\(store)/diff?from=\(then)&view=full&limit=2").json()
                let first = try #require((page["data"] as? [[String: Any]])?.first)
                #expect(Set(first.keys) == ["type", "change", "path", "old", "new", "hunks"])
                #expect(
                    Set((first["old"] as? [String: Any] ?? [:]).keys) == [
                        "memory_store_id", "memory_id", "memory_version_id", "path", "content_sha256", "content_size_bytes", "created_at",
                    ])
                let hunk = try #require((first["hunks"] as? [[String: Any]])?.first)
                #expect(hunk["lines"] as? [String] == ["-one", "+two"] && hunk["old_start"] as? Int == 1 && hunk["new_lines"] as? Int == 1)
                let next = try #require(page["next_page"] as? String)
                page = try daemon.http("GET", "\(store)/diff?from=\(then)&limit=2&page=\(next)").json()
                #expect((page["data"] as? [[String: Any]])?.count == 2 && page["next_page"] is NSNull)
                #expect(try daemon.http("GET", "\(store)/memories?page=\(next)").status == 400)

                for (query, status) in [
                    ("", 400), ("from=yesterday", 400), ("from=\(then)&path=/a.md&memory_id=mem_1", 400), ("from=\(then)&path=a", 400),
                    ("from=\(then)&format=html", 400), ("from=\(then)&page=page_x", 400), ("from=2999-01-01T00:00:00Z", 400),
                    ("path=/none", 404), ("from=\(then)&other=memstore_none", 404), ("from=\(then)&memory_id=mem_none", 404),
                    ("from=memver_0111111111111111111111", 400),
                ] {
                    #expect(try daemon.http("GET", "\(store)/diff?\(query)").status == status, "\(query)")
                }

                let planned = try daemon.remfs("restore", "notes", "--to", then, "--dry-run", "--json").json()
                #expect(planned["created"] as? Int == 1 && planned["renamed"] as? Int == 1 && planned["deleted"] as? Int == 1)
                #expect(planned["dry_run"] as? Bool == true && planned["modified"] as? Int == 1 && planned["omitted"] as? Int == 0)
                #expect(try daemon.output("memory", "cat", "notes", "a.md") == "two\n")
                try daemon.output("restore", "notes", "--to", then, "--prefix", "d")
                #expect(try daemon.output("memory", "cat", "notes", "d/b.md") == "one\n")
                #expect(try daemon.output("memory", "cat", "notes", "a.md") == "two\n")
                #expect(try daemon.output("restore", "notes", "--to", then).contains("deleted"))
                #expect(try daemon.output("diff", "notes", "--from", then) == "")
                for (body, status) in [
                    ("{}", 400), (#"{"to": "never"}"#, 400), (#"{"to": "1990-01-01T00:00:00Z"}"#, 400),
                    (#"{"to": "\#(then)", "at": 1}"#, 400),
                    (#"{"to": "\#(then)", "path": "/a", "path_prefix": "/"}"#, 400), (#"{"to": "\#(then)", "dry_run": "yes"}"#, 400),
                ] {
                    #expect(try daemon.http("POST", "\(store)/restore", body).status == status, "\(body)")
                }
                #expect(try daemon.http("POST", "/v1/memory_stores/memstore_none/restore", "{}").status == 404)
                #expect(try daemon.remfs("restore", "notes").status == 64)
            }
        }

        @Test func aForkGoesItsOwnWay() throws {
            try DaemonProcess.with { daemon in
                let id = try Self.id(daemon)
                try daemon.output("memory", "write", "notes", "a.md", input: "one\n")
                let then = try #require(try daemon.http("GET", "/v1/memory_stores/\(id)/memory_versions").data()[0]["id"] as? String)
                try daemon.output("memory", "write", "notes", "a.md", input: "two\n")
                let fork = try daemon.output("store", "fork", "notes", "fork").trimmingCharacters(in: .newlines)
                let old = try daemon.remfs("store", "fork", "notes", "old", "--at", then, "--json").json()
                try daemon.output("store", "fork", "notes", "whole", "--history")
                #expect(old["type"] as? String == "memory_store" && fork != id)
                #expect(try daemon.output("memory", "cat", "old", "a.md") == "one\n")
                #expect(try daemon.output("log", "fork").split(separator: "\n").count == 2)
                #expect(try daemon.output("log", "whole").split(separator: "\n").count == 3)
                try daemon.output("memory", "write", "fork", "a.md", input: "three\n")
                #expect(try daemon.output("diff", "notes", "--with", "fork").contains("-two\n+three\n"))
                #expect(try daemon.http("POST", "/v1/memory_stores/\(id)/fork", "{}").status == 400)
                #expect(try daemon.http("POST", "/v1/memory_stores/\(id)/fork", #"{"name": "x", "at": "then"}"#).status == 400)
                #expect(
                    try daemon.http("POST", "/v1/memory_stores/\(id)/fork", #"{"name": "x", "at": "\#(then)", "history": true}"#).status
                        == 400)
                #expect(try daemon.remfs("store", "fork", "notes", "x", "--at", then, "--history").status == 64)
            }
        }

        // MARK: The change stream

        @Test func whatHappensIsToldAsItHappens() throws {
            try DaemonProcess.with { daemon in
                let id = try Self.id(daemon)
                try daemon.output("memory", "write", "notes", "before", input: "x")
                let watcher = try Binary.start(["store", "watch", "notes", "--json"], environment: daemon.environment)
                var written = 0
                while watcher.output.split(separator: "\n").isEmpty {
                    written += 1
                    try daemon.output("memory", "write", "notes", "a", input: "\(written)")
                    try #require(written < 300, "nothing is told: \(watcher.errors)")
                }
                try daemon.output("memory", "mv", "notes", "a", "b")
                try daemon.output("memory", "rm", "notes", "b")
                try daemon.output("store", "set", "notes", "--max-memories", "1")
                #expect(try daemon.remfs("memory", "write", "notes", "too-many", input: "x").status == 74)
                func types() throws -> [String] {
                    try watcher.output.split(separator: "\n").compactMap {
                        (try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])?["type"] as? String
                    }
                }
                var tries = 0
                while try !Set(types()).isSuperset(of: ["memory.modified", "memory.deleted", "memory.refused"]) {
                    tries += 1
                    try #require(tries < 1_000, "\(watcher.output)")
                    usleep(10_000)
                }
                watcher.signal(SIGINT)
                let result = try watcher.wait()
                #expect(
                    result.status == 0 && !result.output.contains("\"/before\"") && result.output.contains("store_full"), "\(result.errors)"
                )

                // From the start, as text; and the end with the store.
                let second = try Binary.start(["store", "watch", "notes", "--after", "start"], environment: daemon.environment)
                tries = 0
                while !second.output.contains("deleted") {
                    tries += 1
                    try #require(tries < 1_000, "\(second.output)\(second.errors)")
                    usleep(10_000)
                }
                #expect(second.output.contains("created") && second.output.contains("/before"))
                try daemon.output("store", "delete", "notes")
                let ended = try second.wait()
                #expect(ended.status == 69 && ended.errors.contains("not found"), "\(ended.errors)")
                #expect(try daemon.http("GET", "/v1/memory_stores/\(id)/events/stream").status == 404)
            }
        }
    }
}
