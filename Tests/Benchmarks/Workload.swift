import Glibc

/// The phases, in the order in which they run: each leaves behind what the next ones need.
enum Phase: String, CaseIterable, Codable {
    case create
    case createLatency = "create-latency"
    case createFsync = "create-fsync"
    case createFsync4 = "create-fsync-4"
    case overwrite, append
    case appendLatency = "append-latency"
    case grepCold = "grep-cold"
    case grepWarm = "grep-warm"
    case findCold = "find-cold"
    case findWarm = "find-warm"
    case listCold = "ls-cold"
    case listWarm = "ls-warm"
    case statHit = "stat-hit"
    case statMiss = "stat-miss"
    case statMissAgain = "stat-miss-again"
    case readWarm = "read-warm"
    case sed, rename, mix, unlink

    var isCold: Bool { [.grepCold, .findCold, .listCold].contains(self) }
    var changesSomething: Bool {
        switch self {
        case .create, .createLatency, .createFsync, .createFsync4, .overwrite, .append, .appendLatency, .sed, .rename, .mix, .unlink: true
        default: false
        }
    }
    /// Warm reads are short and change nothing: the median of several is steadier.
    var repeats: Int {
        switch self {
        case .grepWarm, .findWarm, .listWarm, .statHit, .statMissAgain, .readWarm: 5
        default: 1
        }
    }
    /// Without the corpus there is nothing to search, change or remove.
    static let needed: Phase = .create
}

/// One label's files in one round: what each phase does to them, and what must be true of them afterwards.
final class Workload {
    private let root: String
    private let scratch: Scratch
    private let corpus: Corpus
    private let data: Tree
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Corpus.longest + 1, alignment: 4096)

    // What has happened so far, for the checks.
    private var edition = 0
    private var appended = 0
    private var sedDone = 0
    private var renamed = 0
    private var output: [UInt8] = []
    private var counted = 0

    private let count: Int
    private var paths: PathList
    private var others: [PathList] = []

    static let clients = 4
    private var latencyFiles: Int { min(count, 1000) }
    private var fsyncFiles: Int { max(20, count / 10) }
    private var appends: Int { max(100, count / 2) }
    private var sedFiles: Int { min(200, count / 4) }
    private var renamedFiles: Int { min(500, count / 4) }
    private static let line = Array("- 2026-01-05 the build is green again; nothing else to report\n".utf8)

    init(root: String, scratch: Scratch, corpus: Corpus) {
        self.root = root
        self.scratch = scratch
        self.corpus = corpus
        count = corpus.count
        data = Tree(root: "\(root)/data", count: corpus.count)
        paths = data.paths()
    }

    deinit { buffer.deallocate() }

    struct Measurement {
        var seconds: Double
        var latencies: Latencies?
    }

    func operations(in phase: Phase) -> Int {
        switch phase {
        case .createLatency: latencyFiles
        case .createFsync: fsyncFiles
        case .createFsync4: fsyncFiles / 2 * Workload.clients
        case .append, .appendLatency: appends
        case .sed: sedFiles
        case .rename: renamedFiles
        case .mix: count / Workload.clients * Workload.clients
        default: count
        }
    }

    /// Everything that must not be timed: directories, names, and for warm phases a look at what will be read.
    func prepare(_ phase: Phase) throws {
        switch phase {
        case .create: try data.makeDirectories()
        case .createLatency: others = [try tree("latency", latencyFiles)]
        case .createFsync: others = [try tree("fsync", fsyncFiles)]
        case .createFsync4:
            for number in 0..<Workload.clients { _ = try tree("fsync-\(number)", fsyncFiles / 2) }
        case .mix:
            for number in 0..<Workload.clients {
                let own = try tree("mix-\(number)", Mix.ownFiles)
                try Loops.save(own, corpus, flags: O_WRONLY | O_CREAT | O_CLOEXEC)
            }
        case .grepCold, .findCold, .listCold:
            // The program itself is to be warm: we measure the file system it reads.
            try ChildProcess.run([tool(phase)[0], "--version"])
        case .grepWarm, .findWarm, .listWarm:
            // Twice: the first fills the kernel's caches, the second fetches the attributes which reading has made old.
            for _ in 0..<2 { try ChildProcess.run(tool(phase)) }
        case .statHit: _ = Loops.stat(paths)
        case .statMiss: others = [data.paths(name: "absent")]
        case .statMissAgain:
            others = [data.paths(name: "absent")]
            _ = Loops.stat(others[0])
        case .readWarm: for _ in 0..<2 { _ = try Loops.read(paths, into: buffer) }
        case .rename:
            let kept = count - renamedFiles
            others = [
                PathList((kept..<count).map { paths.string($0) }), PathList((kept..<count).map { data.path($0, name: "renamed") }),
            ]
        case .unlink: try verifyTexts()
        case .overwrite, .append, .appendLatency, .sed: break
        }
    }

    func measure(_ phase: Phase) throws -> Measurement {
        switch phase {
        case .create:
            return try timed { try Loops.save(paths, corpus, flags: O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC) }
        case .createLatency:
            return try timed(latencyFiles) {
                try Loops.save(others[0], corpus, flags: O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, length: 2000, latencies: $0)
            }
        case .createFsync:
            return try timed(fsyncFiles) {
                try Loops.save(others[0], corpus, flags: O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, sync: true, latencies: $0)
            }
        case .createFsync4: return try clients(.fsync, operations: fsyncFiles / 2)
        case .mix: return try clients(.mix, operations: count / Workload.clients)
        case .overwrite:
            edition = 1
            return try timed { try Loops.save(paths, corpus, edition: 1, flags: O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC) }
        case .append:
            appended += appends
            return try appendFromShell()
        case .appendLatency:
            appended += appends
            return try Workload.line.withUnsafeBytes { line in
                try timed(appends) { try Loops.append(line, to: "\(root)/log.md", times: appends, latencies: $0) }
            }
        case .grepCold, .grepWarm, .findCold, .findWarm, .listCold, .listWarm: return try search(phase)
        case .statHit: return timed { counted = Loops.stat(paths) }
        case .statMiss, .statMissAgain: return timed { counted = Loops.stat(others[0]) }
        case .readWarm: return try timed(count) { counted = try Loops.read(paths, into: buffer, latencies: $0) }
        case .sed:
            sedDone = sedFiles
            let arguments = ["sed", "-i", "s/^\(Corpus.draft)$/\(Corpus.final)/"] + (0..<sedFiles).map { paths.string($0) }
            return try timed { try ChildProcess.run(arguments) }
        case .rename:
            renamed = renamedFiles
            defer {
                paths = PathList((0..<(count - renamedFiles)).map { paths.string($0) } + (0..<renamedFiles).map { others[1].string($0) })
            }
            return try timed { try Loops.rename(others[0], to: others[1]) }
        case .unlink: return try timed { try Loops.unlink(paths) }
        }
    }

    /// Holds what the phase did, or what it found, against what is known.
    func check(_ phase: Phase) throws {
        switch phase {
        case .create, .overwrite, .rename: try expect(try countFiles(), count, "files after \(phase.rawValue)")
        case .createLatency: try expectSizes(others[0]) { min(2000, corpus.size($0)) }
        case .createFsync: try expectSizes(others[0]) { corpus.size($0) }
        case .createFsync4:
            for number in 0..<Workload.clients {
                try expectSizes(Tree(root: "\(root)/fsync-\(number)", count: fsyncFiles / 2).paths()) { _ in nil }
            }
        case .append, .appendLatency: try verifyLog()
        case .grepCold, .grepWarm: try expect(lines { _ in true }, corpus.needles, "lines that grep found")
        case .findCold, .findWarm: try expect(lines { _ in true }, count, "files that find found")
        case .listCold, .listWarm: try expect(lines { $0.first == UInt8(ascii: "-") }, count, "files that ls listed")
        case .statHit: try expect(counted, count, "files that stat found")
        case .statMiss, .statMissAgain: try expect(counted, 0, "files that stat should not have found")
        case .readWarm: try expect(counted, corpus.totalBytes, "bytes read")
        case .sed: try verifyTexts()
        case .unlink: try expect(try countFiles(), 0, "files after unlink")
        case .mix: break
        }
        others = []
    }

    // MARK: - Measuring

    private func timed(_ capacity: Int = 0, _ body: (Latencies?) throws -> Void) rethrows -> Measurement {
        let latencies = Latencies(capacity: capacity)
        let start = nanoseconds()
        try body(latencies)
        return Measurement(seconds: Double(nanoseconds() - start) / 1e9, latencies: latencies)
    }

    private func timed(_ body: () throws -> Void) rethrows -> Measurement {
        let start = nanoseconds()
        try body()
        return Measurement(seconds: Double(nanoseconds() - start) / 1e9)
    }

    private func tool(_ phase: Phase) -> [String] {
        switch phase {
        case .grepCold, .grepWarm: ["grep", "-rF", Corpus.needle, data.root]
        case .findCold, .findWarm: ["find", data.root, "-type", "f"]
        default: ["ls", "-lR", data.root]
        }
    }

    /// Runs a real program. It prints into a file on the disk, for a pipe would measure us reading it, and grep stops early for /dev/null.
    private func search(_ phase: Phase) throws -> Measurement {
        let path = "\(scratch.path)/output"
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let arguments = tool(phase)
        let measurement = try timed { try ChildProcess.run(arguments, output: file) }
        output = Files.read(path) ?? []
        return measurement
    }

    /// `echo line >> log.md` in a loop, as an agent's shell does it. The shell's own start is not counted.
    private func appendFromShell() throws -> Measurement {
        let path = "\(scratch.path)/output"
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let script = """
            began=$EPOCHREALTIME
            for ((n = 0; n < $2; n++)); do echo "$3" >> "$1"; done
            ended=$EPOCHREALTIME
            echo $((${ended/./} - ${began/./}))
            """
        let line = String(decoding: Workload.line.dropLast(), as: UTF8.self)
        try ChildProcess.run(["bash", "-c", script, "bash", "\(root)/log.md", "\(appends)", line], output: file)
        guard let text = Files.text(path), let microseconds = Double(text.dropLast()) else { throw Failure("the shell told no time") }
        return Measurement(seconds: microseconds / 1e6, latencies: nil)
    }

    private func clients(_ work: Client.Work, operations: Int) throws -> Measurement {
        Measurement(
            seconds: try Clients.run(
                work, root: root, count: Workload.clients, operations: operations, readable: count - max(renamed, renamedFiles)))
    }

    private func tree(_ name: String, _ count: Int) throws -> PathList {
        let tree = Tree(root: "\(root)/\(name)", count: count)
        try tree.makeDirectories()
        return tree.paths()
    }

    // MARK: - Checking

    private func expect(_ found: Int, _ expected: Int, _ what: String) throws {
        guard found == expected else { throw Failure("\(found) instead of \(expected) \(what) in \(root)") }
    }

    private func lines(where condition: (ArraySlice<UInt8>) -> Bool) -> Int {
        output.split(separator: UInt8(ascii: "\n")).count(where: condition)
    }

    private func countFiles() throws -> Int {
        Files.names(in: data.root).reduce(0) { $0 + Files.names(in: "\(data.root)/\($1)").count }
    }

    private func expectSizes(_ paths: PathList, _ size: (Int) -> Int?) throws {
        for index in 0..<paths.count {
            guard let status = Files.status(paths.string(index)) else { throw Failure.system(paths.string(index)) }
            if let size = size(index % count) { try expect(Int(status.st_size), size, "bytes in \(paths.string(index))") }
            guard status.st_size > 0 else { throw Failure("\(paths.string(index)) is empty") }
        }
    }

    private func verifyLog() throws {
        let expected = (0..<appended).flatMap { _ in Workload.line }
        guard Files.read("\(root)/log.md") == expected else { throw Failure("\(root)/log.md does not hold its \(appended) lines") }
    }

    /// Every byte of every memory.
    private func verifyTexts() throws {
        let expected = UnsafeMutableRawBufferPointer.allocate(byteCount: Corpus.longest, alignment: 16)
        defer { expected.deallocate() }
        for index in 0..<count {
            let file = open(paths[index], O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { throw Failure.system(paths.string(index)) }
            let found = read(file, buffer.baseAddress, buffer.count)
            close(file)
            let text = corpus.text(index, edition: edition)
            expected.copyMemory(from: text)
            if index < sedDone {
                for (offset, byte) in zip(Corpus.draftOffset..., Corpus.final.utf8) { expected[offset] = byte }
            }
            guard found == text.count, memcmp(buffer.baseAddress!, expected.baseAddress!, text.count) == 0 else {
                throw Failure("\(paths.string(index)) does not hold what was written to it")
            }
        }
    }
}
