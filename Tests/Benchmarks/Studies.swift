import Glibc

/// Numbers of one study: a line each, and a JSON object.
struct Findings: Codable {
    var values: [String: Double] = [:]

    mutating func add(_ name: String, _ value: Double, _ shown: String) {
        values[name] = value
        print("\(name)\(String(repeating: " ", count: max(1, 48 - name.count)))\(shown)")
        // Also when it goes into a pipe: an interrupted run should have told what it had.
        fflush(nil)
    }
    mutating func time(_ name: String, _ seconds: Double) { add(name, seconds, Report.time(seconds)) }
    mutating func bytes(_ name: String, _ bytes: Double) { add(name, bytes, Report.bytes(bytes)) }
    mutating func count(_ name: String, _ count: Int) { add(name, Double(count), "\(count)") }
}

/// `--scale`: one large store, then many idle mounts.
struct ScaleStudy {
    let memories: Int
    let daemon: Daemon
    let scratch: Scratch
    private static let idleMounts = 50

    func run(json: String?) throws {
        var findings = Findings()
        let directory = try scratch.directory("large")
        let store = try daemon.createStore("large", memories: memories + 1000)
        try daemon.mount(store, at: directory)
        let cleanup = Cleanup.shared.add { Files.unmount(directory) }
        defer { Cleanup.shared.remove(cleanup) }
        let wide = min(10_000, memories / 2)
        try create(in: directory, wide: wide, &findings)

        daemon.settle()
        findings.time("stop", try daemon.stop())
        findings.bytes("state directory, stopped", Double(Files.allocatedBytes(below: daemon.stateDirectory)))
        Files.unmount(directory)
        try Machine.dropCaches()
        findings.time("start until the socket answers", try daemon.start())
        let mounting = Files.isMounted(directory) ? 0 : try daemon.mount(store, at: directory)
        findings.time("mount", mounting)
        daemon.settle(afterWriting: false)
        let fresh = daemon.residentBytes()
        findings.bytes("resident memory after the mount", Double(fresh.all))

        try Machine.dropCaches()
        try ChildProcess.run(["ls", "--version"])
        findings.time("ls of \(wide), cold", try lines(["ls", "\(directory)/wide"], wide))
        findings.time("ls of \(wide), warm", try lines(["ls", "\(directory)/wide"], wide))
        findings.time("ls -l of \(wide), cold", try lines(["ls", "-l", "\(directory)/wide"], wide + 1))
        findings.time("find of all, first", try lines(["find", directory, "-type", "f"], memories))
        findings.time("find of all, second", try lines(["find", directory, "-type", "f"], memories))
        daemon.settle(afterWriting: false)
        let cached = daemon.residentBytes()
        findings.bytes("resident memory with all inodes cached", Double(cached.all))
        findings.bytes("  of which not files", Double(cached.anonymous))
        findings.bytes("resident bytes per cached inode", Double(cached.anonymous - fresh.anonymous) / Double(memories))
        daemon.unmount(directory)

        try idleMounts(&findings)
        if let json { try Report.write(findings, to: json) }
    }

    /// `wide` memories in one directory, the others in directories of fifty.
    private func create(in directory: String, wide: Int, _ findings: inout Findings) throws {
        let before = Files.allocatedBytes(below: daemon.stateDirectory)
        let corpus = Corpus(count: min(memories, 2000))
        try Files.makeDirectory("\(directory)/wide")
        let tree = Tree(root: "\(directory)/deep", count: memories - wide)
        try tree.makeDirectories()
        let trees = [PathList((0..<wide).map { "\(directory)/wide/memory-\($0).md" }), tree.paths()]
        let unique = UniqueTexts(corpus)
        let start = nanoseconds()
        for (number, paths) in trees.enumerated() { try unique.save(paths, first: number * wide) }
        let seconds = Double(nanoseconds() - start) / 1e9
        findings.time("create \(memories) memories", seconds)
        findings.add("created per second", Double(memories) / seconds, Report.number(Double(memories) / seconds))
        daemon.settle()
        let growth = Files.allocatedBytes(below: daemon.stateDirectory) - before
        findings.bytes("content", Double(unique.bytes))
        findings.bytes("state directory, growth", Double(growth))
        findings.bytes("on disk per version, content included", Double(growth) / Double(memories))
        findings.bytes("on disk per version, above its content", Double(growth - unique.bytes) / Double(memories))
        let resident = daemon.residentBytes()
        findings.bytes("resident memory after creating", Double(resident.all))
    }

    private func idleMounts(_ findings: inout Findings) throws {
        daemon.settle(afterWriting: false)
        var steps: [Int] = []
        defer { for step in steps { Cleanup.shared.remove(step) } }
        var mounts: [(store: String, directory: String)] = []
        for number in 1...ScaleStudy.idleMounts {
            mounts.append((try daemon.createStore("idle-\(number)", memories: 1), try scratch.directory("idle-\(number)")))
        }
        daemon.settle()
        let before = daemon.residentBytes()
        var seconds = 0.0
        for mount in mounts {
            seconds += try daemon.mount(mount.store, at: mount.directory)
            steps.append(Cleanup.shared.add { Files.unmount(mount.directory) })
        }
        daemon.settle()
        let after = daemon.residentBytes()
        findings.time("remfs mount, mean of \(mounts.count)", seconds / Double(mounts.count))
        findings.bytes("resident bytes per idle mount", Double(after.all - before.all) / Double(mounts.count))
        findings.bytes("  of which not files, each", Double(after.anonymous - before.anonymous) / Double(mounts.count))
        let idle = daemon.processorTime()
        sleep(milliseconds: 5000)
        let spent = Double(daemon.processorTime(since: idle)) / 5e9
        findings.add("processor while idle, with all of them", spent, "\(Report.number(spent * 100)) %")
        for mount in mounts { daemon.unmount(mount.directory) }
    }

    private func lines(_ arguments: [String], _ expected: Int) throws -> Double {
        let path = "\(scratch.path)/output"
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let start = nanoseconds()
        try ChildProcess.run(arguments, output: file)
        let seconds = Double(nanoseconds() - start) / 1e9
        let found = (Files.read(path) ?? []).count { $0 == UInt8(ascii: "\n") }
        guard found == expected else { throw Failure("\(found) lines instead of \(expected) from \(arguments.joined(separator: " "))") }
        return seconds
    }
}

/// Texts that repeat after 2,000, each made unlike the others by its number, so that a store cannot keep two of them as one.
final class UniqueTexts {
    private let corpus: Corpus
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Corpus.longest, alignment: 16)
    private(set) var bytes = 0

    init(_ corpus: Corpus) { self.corpus = corpus }
    deinit { buffer.deallocate() }

    func save(_ paths: PathList, first: Int) throws {
        for index in 0..<paths.count {
            let text = corpus.text((first + index) % corpus.count)
            buffer.copyMemory(from: text)
            var number = first + index
            for position in stride(from: Corpus.draftOffset - 3, to: 8, by: -1) {
                buffer[position] = UInt8(ascii: "0") + UInt8(number % 10)
                number /= 10
            }
            let file = open(paths[index], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
            guard file >= 0 else { throw Failure.system(paths.string(index)) }
            guard write(file, buffer.baseAddress, text.count) == text.count else { throw Failure.system(paths.string(index)) }
            guard close(file) == 0 else { throw Failure.system(paths.string(index)) }
            bytes += text.count
        }
    }
}

/// `--appends`: one log that grows line by line, each line a version that is kept.
struct AppendStudy {
    let appends: Int
    let daemon: Daemon
    let scratch: Scratch
    private static let size = 50_000
    private static let line = Array("- 2026-01-05 the build is green again; nothing else to report\n".utf8)

    func run(json: String?) throws {
        var findings = Findings()
        let directory = try scratch.directory("log")
        let store = try daemon.createStore("log", memories: 100)
        try daemon.mount(store, at: directory)
        let cleanup = Cleanup.shared.add { Files.unmount(directory) }
        defer { Cleanup.shared.remove(cleanup) }

        let text = UnsafeMutableRawBufferPointer.allocate(byteCount: AppendStudy.size, alignment: 16)
        defer { text.deallocate() }
        Corpus.fill(text, index: 1)
        let path = "\(directory)/log.md"
        try Files.write(String(decoding: text, as: UTF8.self), to: path)
        daemon.settle()
        let before = Files.allocatedBytes(below: daemon.stateDirectory)
        let latencies = Latencies(capacity: appends)
        let idle = daemon.processorTime()
        let start = nanoseconds()
        try AppendStudy.line.withUnsafeBytes { try Loops.append($0, to: path, times: appends, latencies: latencies) }
        let seconds = Double(nanoseconds() - start) / 1e9
        findings.time("\(appends) appends", seconds)
        findings.add("append p50", latencies.percentile(50) ?? 0, "\(Report.number(latencies.percentile(50))) us")
        findings.add("append p99", latencies.percentile(99) ?? 0, "\(Report.number(latencies.percentile(99))) us")
        findings.bytes("growth at once", Double(Files.allocatedBytes(below: daemon.stateDirectory) - before))
        sleep(milliseconds: 10_000)
        let growth = Files.allocatedBytes(below: daemon.stateDirectory) - before
        findings.bytes("growth after 10 s", Double(growth))
        findings.add(
            "daemon per append, sealing included", Double(daemon.processorTime(since: idle)) / 1000 / Double(appends),
            "\(Report.number(Double(daemon.processorTime(since: idle)) / 1000 / Double(appends))) us")
        guard let size = Files.status(path)?.st_size, Int(size) == AppendStudy.size + appends * AppendStudy.line.count else {
            throw Failure("\(path) is not as long as what was written to it")
        }
        try readVersions(store, growth, &findings)
        daemon.unmount(directory)
        try daemon.stop()
        let stopped = Files.allocatedBytes(below: daemon.stateDirectory) - before
        findings.bytes("growth after a clean stop", Double(stopped))
        if let json { try Report.write(findings, to: json) }
    }

    private func readVersions(_ store: String, _ growth: Int, _ findings: inout Findings) throws {
        let base = "/v1/memory_stores/\(store)"
        let memories = try daemon.control.get("\(base)/memories?limit=100", as: Wire.Page<Wire.Memory>.self)
        guard let memory = memories.data.first(where: { $0.path == "/log.md" }) else { throw Failure("the store does not list /log.md") }
        var versions: [Wire.Version] = []
        var page: String?
        repeat {
            let next = page.map { "&page=\($0)" } ?? ""
            let answer = try daemon.control.get(
                "\(base)/memory_versions?memory_id=\(memory.id)&limit=100\(next)", as: Wire.Page<Wire.Version>.self)
            versions += answer.data
            page = answer.nextPage
        } while page != nil
        findings.count("versions kept (one more than appends is right)", versions.count)
        findings.bytes("on disk per version", Double(growth) / Double(max(1, versions.count - 1)))

        // Newest first, so the last is the file as it began; every tenth is read, and those at both ends.
        versions.reverse()
        let latencies = Latencies(capacity: versions.count)
        var wrong = 0
        for index in versions.indices where index % 10 == 0 || index == versions.count - 1 {
            let start = nanoseconds()
            let version = try daemon.control.get("\(base)/memory_versions/\(versions[index].id)", as: Wire.Version.self)
            latencies.add(nanoseconds() - start)
            let size = versions.count == appends + 1 ? AppendStudy.size + index * AppendStudy.line.count : version.contentSizeBytes
            if version.content?.utf8.count != size || version.content?.hasPrefix("# Memory 0000001\n") != true { wrong += 1 }
        }
        findings.count("versions read with the wrong content", wrong)
        findings.add("read a version, socket, p50", latencies.percentile(50) ?? 0, "\(Report.number(latencies.percentile(50))) us")
        findings.add("read a version, socket, slowest", latencies.percentile(100) ?? 0, "\(Report.number(latencies.percentile(100))) us")
        let middle = versions[versions.count / 2].id
        let start = nanoseconds()
        let text = try daemon.command(["memory", "cat", store, "/log.md", middle])
        findings.time("remfs memory cat of an old version", Double(nanoseconds() - start) / 1e9)
        if versions.count == appends + 1, text.utf8.count != AppendStudy.size + (versions.count / 2) * AppendStudy.line.count {
            // Told, not thrown: what was measured is still true.
            note("remfs memory cat printed \(text.utf8.count) bytes of version \(middle), which is not what it holds")
        }
    }
}
