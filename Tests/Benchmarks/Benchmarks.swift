import ArgumentParser
import Glibc

/// `swift run -c release benchmarks`: what a remfs mount costs beside the disk it stands on, measured with the programs that agents use.
/// Checks the machine, then hands over to the comparison or to one of the two studies of remfs alone.
@main
struct Benchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "benchmarks",
        abstract: "Measure a remfs mount beside ext4 and bindfs on the same disk",
        discussion: """
            Times are medians of rounds; ratios are against ext4 in the same run. A phase is run on all labels before the next begins, \
            and the order of labels changes each time. Needs root, /dev/fuse and a scratch directory on ext4.
            """,
        subcommands: [Load.self, Client.self])

    @Option(help: ArgumentHelp("How many memories each label holds", valueName: "n"))
    var files = 2000

    @Option(help: ArgumentHelp("How many times everything is repeated, each time in fresh directories", valueName: "n"))
    var rounds = 5

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Phases to report, all unless named: \(Phase.allNames)", valueName: "phase"))
    var phases: [Phase] = []

    @Option(help: ArgumentHelp("What to compare, with commas: \(Label.allNames)", valueName: "labels"))
    var labels: LabelList = LabelList(labels: Label.installed())

    @Option(help: ArgumentHelp("The remfs binary; built beside the benchmarks unless named", valueName: "path"))
    var remfs: String?

    @Option(
        name: .customLong("serve-argument"), parsing: .unconditionalSingleValue,
        help: ArgumentHelp("One more argument for `remfs serve`; may be repeated", valueName: "argument"))
    var serveArguments: [String] = []

    @Option(help: ArgumentHelp("Also write every round as JSON", valueName: "file"))
    var json: String?

    @Option(help: ArgumentHelp("Where to work, on ext4; a fresh directory below it is made and removed", valueName: "dir"))
    var scratch: String?

    @Flag(help: "Put the client and the daemon's dispatch threads on one core and the daemon's other threads on another")
    var pin = false

    @Option(help: ArgumentHelp("With --pin: how the names of the daemon's dispatch threads begin", valueName: "names"))
    var dispatchThreads = "fuse-worker"

    @Option(help: ArgumentHelp("Seconds without daemon activity that end a writing phase; a pending delete takes two", valueName: "s"))
    var settle = 2.5

    @Option(help: ArgumentHelp("Instead: a store of this many memories; restart, listing, resident memory, size on disk", valueName: "n"))
    var scale: Int?

    @Option(help: ArgumentHelp("Instead: this many appends to one 50 kB memory; versions kept, growth, reading them", valueName: "n"))
    var appends: Int?

    @Option(help: ArgumentHelp("Instead: --files with this many versions each; a cold grep of the past beside one of now", valueName: "n"))
    var past: Int?

    func validate() throws {
        guard files >= 40, rounds >= 1 else { throw ValidationError("at least 40 files and one round, or there is nothing to measure") }
        guard scale ?? 1000 >= 1000, appends ?? 1 >= 1, past ?? 1 >= 1 else {
            throw ValidationError("--scale starts at 1000, --appends and --past at 1")
        }
    }

    func run() throws {
        do {
            try measure()
            Cleanup.shared.run()
        } catch {
            Cleanup.shared.run()
            throw error
        }
    }

    private func measure() throws {
        let alone = scale != nil || appends != nil || past != nil
        let labels = alone ? [.remfs] : labels.labels
        try Machine.require(labels: labels)
        Cleanup.shared.catchSignals()
        Scratch.clearLeftovers(in: scratch)
        let scratch = try Scratch(in: scratch)
        let pinning = pin ? try Pinning(dispatchThreads: dispatchThreads.split(separator: ",").map(String.init)) : nil
        var daemon: Daemon?
        if labels.contains(.remfs) {
            let binary = try remfs ?? Machine.builtRemfs()
            daemon = try Daemon(binary: binary, scratch: scratch, arguments: serveArguments, settle: settle)
        }
        if let scale, let daemon {
            try ScaleStudy(memories: scale, daemon: daemon, scratch: scratch).run(json: json)
        }
        if let appends, let daemon {
            try AppendStudy(appends: appends, daemon: daemon, scratch: scratch).run(json: json)
        }
        if let past, let daemon {
            try PastStudy(versions: past, files: files, rounds: rounds, daemon: daemon, scratch: scratch).run(json: json)
        }
        guard !alone else { return }
        let contenders = try labels.map { label -> any Contender in
            switch label {
            case .ext4: Ext4(scratch: scratch)
            case .bindfs, .bindfsCached: Bindfs(label: label, scratch: scratch)
            case .remfs: try Remfs(daemon: daemon!, scratch: scratch, memories: files)
            }
        }
        let comparison = Comparison(
            contenders: contenders, corpus: Corpus(count: files), phases: phases.isEmpty ? Phase.allCases : phases, rounds: rounds,
            scratch: scratch, pinning: pinning)
        let report = try comparison.run()
        report.print()
        if let json { try report.write(to: json) }
    }
}

/// What is compared. `ext4` is a plain directory; the others stand on the same disk.
enum Label: String, CaseIterable, Codable {
    case ext4, remfs, bindfs
    /// bindfs with every cache that its options reach.
    case bindfsCached = "bindfs-cached"

    static var allNames: String { allCases.map(\.rawValue).joined(separator: ",") }

    static func installed() -> [Label] {
        Machine.program("bindfs") == nil ? [.ext4, .remfs] : [.ext4, .remfs, .bindfs]
    }
}

/// `ext4,bindfs` on the command line.
struct LabelList: ExpressibleByArgument, CustomStringConvertible {
    let labels: [Label]

    init(labels: [Label]) { self.labels = labels }

    init?(argument: String) {
        let names = argument.split(separator: ",").map(String.init)
        let labels = names.compactMap(Label.init(rawValue:))
        guard !labels.isEmpty, labels.count == names.count, Set(labels).count == labels.count else { return nil }
        self.labels = labels
    }

    var description: String { labels.map(\.rawValue).joined(separator: ",") }
    var defaultValueDescription: String { description }
}

extension Phase: ExpressibleByArgument {
    static var allNames: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
