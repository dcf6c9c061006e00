import Glibc

/// `--past`: a search through the past beside the same search through what is there now, each by a kernel that knows nothing of the store.
struct PastStudy {
    let versions: Int
    let files: Int
    let rounds: Int
    let daemon: Daemon
    let scratch: Scratch

    func run(json: String?) throws {
        var findings = Findings()
        let directory = try scratch.directory("past")
        let store = try daemon.createStore("past", memories: files + 1000)
        try daemon.mount(store, at: directory)
        let cleanup = Cleanup.shared.add { Files.unmount(directory) }
        defer { Cleanup.shared.remove(cleanup) }
        let times = try write(below: directory)
        let moments = [("the first versions", 0), ("the middle", times.count / 2), ("the last versions", times.count - 1)]
        let places = [("now", "\(directory)/deep")] + moments.map { ($0.0, "\(directory)/.remfs/at/\(times[$0.1])/deep") }

        var seconds: [[Double]] = places.map { _ in [] }
        for round in 0..<rounds {
            // In another order each time.
            for number in places.indices.map({ ($0 + round) % places.count }) {
                daemon.unmount(directory)
                try daemon.mount(store, at: directory)
                daemon.settle(afterWriting: false)
                seconds[number].append(try search(places[number].1))
            }
        }
        let medians = seconds.map { $0.sorted()[$0.count / 2] }
        for (place, median) in zip(places, medians) { findings.time("cold grep -r, \(place.0)", median) }
        for (place, median) in zip(places, medians).dropFirst() {
            findings.add("ratio to now, \(place.0)", median / medians[0], Report.number(median / medians[0]))
        }
        daemon.unmount(directory)
        if let json { try Report.write(findings, to: json) }
    }

    /// Saves every file again and again. Answers a time after each round, once all of it is sealed.
    private func write(below directory: String) throws -> [String] {
        let tree = Tree(root: "\(directory)/deep", count: files)
        try tree.makeDirectories()
        let (paths, corpus) = (tree.paths(), Corpus(count: files))
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Corpus.longest, alignment: 16)
        defer { buffer.deallocate() }
        var times: [String] = []
        for round in 0..<versions {
            for index in 0..<paths.count {
                let text = corpus.text(index, edition: round % 2)
                buffer.copyMemory(from: text)
                // Otherwise every second one would be the same, and kept once.
                let mark = Array("round \(round) of \(index)".utf8)
                for (place, byte) in mark.enumerated() where text.count > mark.count + 40 { buffer[text.count - 40 + place] = byte }
                let file = open(paths[index], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
                guard file >= 0 else { throw Failure.system(paths.string(index)) }
                defer { close(file) }
                guard Glibc.write(file, buffer.baseAddress, text.count) == text.count else { throw Failure.system(paths.string(index)) }
            }
            daemon.settle()
            times.append(try now())
        }
        return times
    }

    private func now() throws -> String {
        let text = String(decoding: try ChildProcess.output(of: ["date", "-u", "+%FT%T.%NZ"]), as: UTF8.self)
        return String(text.prefix { $0 != "\n" })
    }

    private func search(_ directory: String) throws -> Double {
        let start = nanoseconds()
        let found = try ChildProcess.output(of: ["grep", "-rc", "round [0-9]* of", directory])
        let seconds = Double(nanoseconds() - start) / 1e9
        let lines = found.count { $0 == UInt8(ascii: "\n") }
        guard lines == files else { throw Failure("\(lines) files instead of \(files) below \(directory)") }
        return seconds
    }
}
