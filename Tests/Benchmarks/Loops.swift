import Glibc

/// How long each call took, kept in memory that is there before the clock starts.
final class Latencies {
    private var durations: [UInt64] = []
    init(capacity: Int) { durations.reserveCapacity(capacity) }

    @inline(__always) func add(_ duration: UInt64) { durations.append(duration) }

    /// In microseconds.
    func percentile(_ percent: Int) -> Double? {
        guard !durations.isEmpty else { return nil }
        let sorted = durations.sorted()
        return Double(sorted[min(sorted.count - 1, sorted.count * percent / 100)]) / 1000
    }
}

/// The timed loops: system calls one after the other, no allocation, no Foundation.
enum Loops {
    /// Opens with `flags`, writes the whole text in one call, closes: what `cp`, an editor or an agent's tool does.
    static func save(
        _ paths: PathList, _ corpus: Corpus, edition: Int = 0, flags: Int32, length: Int? = nil, sync: Bool = false,
        latencies: Latencies? = nil
    ) throws {
        for index in 0..<paths.count {
            let text = corpus.text(index % corpus.count, edition: edition)
            let length = min(length ?? text.count, text.count)
            let start = latencies == nil ? 0 : nanoseconds()
            let file = open(paths[index], flags, 0o644)
            guard file >= 0 else { throw Failure.system("open \(paths.string(index))") }
            guard write(file, text.baseAddress, length) == length else { throw Failure.system("write \(paths.string(index))") }
            if sync, fsync(file) != 0 { throw Failure.system("fsync \(paths.string(index))") }
            guard close(file) == 0 else { throw Failure.system("close \(paths.string(index))") }
            latencies?.add(nanoseconds() - start)
        }
    }

    /// open, write, close: so many times, by one process.
    static func append(_ line: UnsafeRawBufferPointer, to path: UnsafePointer<CChar>, times: Int, latencies: Latencies? = nil) throws {
        for _ in 0..<times {
            let start = latencies == nil ? 0 : nanoseconds()
            let file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o644)
            guard file >= 0 else { throw Failure.system("open for appending") }
            guard write(file, line.baseAddress, line.count) == line.count else { throw Failure.system("append") }
            guard close(file) == 0 else { throw Failure.system("close after appending") }
            latencies?.add(nanoseconds() - start)
        }
    }

    static func read(_ paths: PathList, into buffer: UnsafeMutableRawBufferPointer, latencies: Latencies? = nil) throws -> Int {
        var bytes = 0
        for index in 0..<paths.count {
            let start = latencies == nil ? 0 : nanoseconds()
            let file = open(paths[index], O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { throw Failure.system("open \(paths.string(index))") }
            // One byte more than any text is long: one call sees the end as well.
            let count = Glibc.read(file, buffer.baseAddress, buffer.count)
            close(file)
            latencies?.add(nanoseconds() - start)
            guard count >= 0 else { throw Failure.system("read \(paths.string(index))") }
            bytes += count
        }
        return bytes
    }

    /// How many of the names exist.
    static func stat(_ paths: PathList) -> Int {
        var status = Glibc.stat()
        var found = 0
        for index in 0..<paths.count where lstat(paths[index], &status) == 0 { found += 1 }
        return found
    }

    static func rename(_ old: PathList, to new: PathList) throws {
        for index in 0..<old.count where Glibc.rename(old[index], new[index]) != 0 {
            throw Failure.system("rename \(old.string(index))")
        }
    }

    static func unlink(_ paths: PathList) throws {
        for index in 0..<paths.count where Glibc.unlink(paths[index]) != 0 {
            throw Failure.system("unlink \(paths.string(index))")
        }
    }
}
