/// What a holder leaves for the newer program that it becomes: numbers of descriptors and processes, as lines of text.
package struct FuseHolderState: Equatable {
    package enum Failure: Error, Equatable {
        /// It was written by a program that knows more than this one.
        case format(Int)
        case malformed
    }

    package struct Daemon: Equatable {
        package var process: Int32
        package var socket: Int32
        package var isChild = false
        package var isReady = false
        package var handsOver = false

        package init(process: Int32, socket: Int32, isChild: Bool = false, isReady: Bool = false, handsOver: Bool = false) {
            self.process = process
            self.socket = socket
            self.isChild = isChild
            self.isReady = isReady
            self.handsOver = handsOver
        }
    }

    /// Rises with each change that an older remfs would not understand. 0: what is written had no format yet.
    package static let newestFormat = 1

    package var daemon: Daemon
    package var holds: [FuseHold] = []
    package var listener: FuseHeldListener?
    package var inbox: Int32?
    /// Predecessors that still have to be waited for.
    package var remains: [Int32] = []
    /// From which signals are read that came too late.
    package var signals: Int32?

    package init(daemon: Daemon) { self.daemon = daemon }

    package init(_ bytes: [UInt8]) throws(Failure) {
        var daemon: Daemon?
        let lines = bytes.split(separator: UInt8(ascii: "\n")).map {
            String(decoding: $0, as: UTF8.self).split(separator: " ", maxSplits: 3).map(String.init)
        }
        if let first = lines.first, first[0] == "format" {
            guard first.count > 1, let format = Int(first[1]) else { throw .malformed }
            guard format <= Self.newestFormat else { throw .format(format) }
        }
        self.daemon = Daemon(process: 0, socket: -1)
        for words in lines {
            let numbers = words.dropFirst().prefix(2).compactMap { Int32($0) }
            guard numbers.count == 2 else { throw .malformed }
            switch words[0] {
            case "format": continue
            case "daemon":
                guard words.count == 4 else { throw .malformed }
                let flags = words[3].split(separator: ",")
                daemon = Daemon(
                    process: numbers[0], socket: numbers[1], isChild: flags.contains("child"), isReady: flags.contains("ready"),
                    handsOver: flags.contains("over"))
            case "hold":
                guard words.count == 4 else { throw .malformed }
                holds.append(FuseHold(name: words[3], device: numbers[0], memory: numbers[1]))
            case "listener": listener = FuseHeldListener(descriptor: numbers[0], isGiven: numbers[1] != 0)
            case "inbox": inbox = numbers[0]
            case "remains": remains.append(numbers[0])
            case "signals": signals = numbers[0]
            default: throw .malformed
            }
        }
        guard let daemon else { throw .malformed }
        self.daemon = daemon
    }

    package var bytes: [UInt8] {
        let flags = [(daemon.isChild, "child"), (daemon.isReady, "ready"), (daemon.handsOver, "over"), (true, "-")]
        var lines = ["format \(Self.newestFormat) 0"]
        lines.append("daemon \(daemon.process) \(daemon.socket) \(flags.filter(\.0).map(\.1).joined(separator: ","))")
        lines += holds.map { "hold \($0.device) \($0.memory) \($0.name)" }
        if let listener { lines.append("listener \(listener.descriptor) \(listener.isGiven ? 1 : 0)") }
        if let inbox { lines.append("inbox \(inbox) 0") }
        lines += remains.map { "remains \($0) 0" }
        if let signals { lines.append("signals \(signals) 0") }
        return Array(lines.joined(separator: "\n").utf8)
    }

    /// All descriptors that the next program is to find, but those for signals and its state.
    var inherited: [Int32] {
        holds.flatMap { [$0.device, $0.memory] } + [daemon.socket] + (listener.map { [$0.descriptor] } ?? []) + (inbox.map { [$0] } ?? [])
    }
}
