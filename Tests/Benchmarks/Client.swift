import ArgumentParser
import Glibc

/// One of several client processes, started by the benchmark itself: says `r` when ready, starts at a byte from its parent, and reports the
/// moments at which it started and finished, so that starting processes is not part of what is measured.
struct Client: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "client", shouldDisplay: false)

    enum Work: String, ExpressibleByArgument { case fsync, mix }

    @Option var work: Work
    @Option var root: String
    @Option var number: Int
    @Option var operations: Int
    /// How many memories of the corpus every client may read.
    @Option var readable: Int

    func run() throws {
        do {
            switch work {
            case .fsync:
                let corpus = Corpus(count: min(operations, 500))
                let paths = Tree(root: "\(root)/fsync-\(number)", count: operations).paths()
                try measured { try Loops.save(paths, corpus, flags: O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, sync: true) }
            case .mix:
                let mix = Mix(root: root, number: number, operations: operations, readable: readable)
                try measured { try mix.run() }
            }
        } catch {
            report("error \(error)\n")
            throw error
        }
    }

    private func measured(_ body: () throws -> Void) throws {
        report("r\n")
        var byte: UInt8 = 0
        guard read(STDIN_FILENO, &byte, 1) == 1 else { throw Failure("the benchmark has gone") }
        let start = nanoseconds()
        try body()
        report("\(start) \(nanoseconds())\n")
    }

    private func report(_ line: String) {
        let bytes = Array(line.utf8)
        _ = write(STDOUT_FILENO, bytes, bytes.count)
    }
}

/// What an agent does while others do the same: half reading shared memories, some looking, some saving and appending its own.
final class Mix {
    private let operations: [UInt8]
    private let shared: PathList
    private let own: PathList
    private let corpus: Corpus
    static let ownFiles = 50

    init(root: String, number: Int, operations: Int, readable: Int) {
        var random = SeededRandom(seed: UInt64(number) + 50)
        self.operations = (0..<operations).map { _ in UInt8(random.next() % 100) }
        var sharedRandom = SeededRandom(seed: UInt64(number) + 90)
        let data = Tree(root: "\(root)/data", count: readable)
        shared = PathList((0..<operations).map { _ in data.path(Int(sharedRandom.next() % UInt64(readable))) })
        own = Tree(root: "\(root)/mix-\(number)", count: Mix.ownFiles).paths()
        corpus = Corpus(count: Mix.ownFiles)
    }

    func run() throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Corpus.longest + 1, alignment: 4096)
        defer { buffer.deallocate() }
        var status = stat()
        for (step, operation) in operations.enumerated() {
            let mine = own[step % Mix.ownFiles]
            switch operation {
            case 0..<50:
                let file = open(shared[step], O_RDONLY | O_CLOEXEC)
                guard file >= 0, read(file, buffer.baseAddress, buffer.count) > 0 else { throw Failure.system(shared.string(step)) }
                close(file)
            case 50..<70:
                guard stat(shared[step], &status) == 0 else { throw Failure.system(shared.string(step)) }
            case 70..<90:
                try put(corpus.text(step % Mix.ownFiles, edition: step & 1), at: mine, O_CREAT | O_TRUNC)
            default:
                let text = corpus.text(step % Mix.ownFiles)
                try put(UnsafeRawBufferPointer(rebasing: text[..<60]), at: mine, O_CREAT | O_APPEND)
            }
        }
    }

    private func put(_ text: UnsafeRawBufferPointer, at path: UnsafePointer<CChar>, _ flags: Int32) throws {
        let file = open(path, O_WRONLY | O_CLOEXEC | flags, 0o644)
        guard file >= 0 else { throw Failure.system(String(cString: path)) }
        guard write(file, text.baseAddress, text.count) == text.count else { throw Failure.system(String(cString: path)) }
        guard close(file) == 0 else { throw Failure.system(String(cString: path)) }
    }
}

/// Several clients at once.
enum Clients {
    /// Seconds from the first client's start to the last one's end.
    static func run(_ work: Client.Work, root: String, count: Int, operations: Int, readable: Int) throws -> Double {
        Cleanup.shared.waitIfRunning()
        let own = try Machine.ownBinary()
        let go = try ChildProcess.pipe()
        let done = try ChildProcess.pipe()
        defer { for end in [go.read, go.write, done.read] { close(end) } }
        let children = try (0..<count).map { number in
            try ChildProcess.start(
                [
                    own, "client", "--work", work.rawValue, "--root", root, "--number", "\(number)", "--operations", "\(operations)",
                    "--readable", "\(readable)",
                ], input: go.read, output: done.write)
        }
        children.forEach { $0.killAtEnd() }
        close(done.write)
        var text = ""
        func lines(_ wanted: Int) -> [Substring] {
            var buffer = [UInt8](repeating: 0, count: 4096)
            while text.split(separator: "\n").count < wanted || !text.hasSuffix("\n") {
                let count = read(done.read, &buffer, buffer.count)
                if count <= 0 { break }
                text += String(decoding: buffer[..<count], as: UTF8.self)
            }
            return text.split(separator: "\n")
        }
        _ = lines(count)
        let start = [UInt8](repeating: UInt8(ascii: "g"), count: count)
        _ = write(go.write, start, count)
        let report = lines(2 * count)
        let codes = children.map { $0.wait() }
        let times = report.compactMap { line -> (UInt64, UInt64)? in
            let fields = line.split(separator: " ").compactMap { UInt64($0) }
            return fields.count == 2 ? (fields[0], fields[1]) : nil
        }
        guard times.count == count, codes.allSatisfy({ $0 == 0 }) else {
            throw Failure("a client failed: \(report.first { $0.hasPrefix("error") } ?? "without a word")")
        }
        return Double(times.map(\.1).max()! - times.map(\.0).min()!) / 1e9
    }
}
