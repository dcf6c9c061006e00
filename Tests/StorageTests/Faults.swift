import Glibc
import SQLite
import Testing

@testable import Storage

/// What SQLite may answer, and what the caller must hear.
enum Fault: Int32, CaseIterable, CustomStringConvertible {
    case full = 13
    case io = 10
    case memory = 7

    var code: RemfsError.Code {
        switch self {
        case .full: .noSpace
        case .io: .corrupted
        case .memory: .unavailable
        }
    }
    var errno: Int32 {
        switch self {
        case .full: ENOSPC
        case .io: EIO
        case .memory: EAGAIN
        }
    }
    var description: String {
        switch self {
        case .full: "full"
        case .io: "io"
        case .memory: "memory"
        }
    }
}

/// The Nth statement of a change fails, for N = 1, 2, 3 ... until one passes untouched. After each failure the error is the right
/// one, the tree is as it was, in memory, in the file and after a restart, and what was acknowledged is there.
///
/// - Parameters:
///   - prepare: makes what the change needs. It is settled before the change, unless `settles` is false.
///   - change: must leave the tree as it was when it throws.
///   - expectedFailures: how many statements it has at least, so that a test that fails nothing is noticed.
func playFaults(
    _ name: String, atLeast expectedFailures: Int = 3, settles: Bool = true, prepare: (TestStore, TestMount) throws -> Void,
    change: (TestStore, TestMount) throws -> Void, after: (TestStore, TestMount) throws -> Void = { _, _ in },
    sourceLocation: SourceLocation = #_sourceLocation
) throws {
    for fault in Fault.allCases {
        try TestStore.with { test in
            let mount = try test.mount()
            try prepare(test, mount)
            if settles { try test.settleAll() }
            // Room for numbers is made beforehand, so that each case counts its own statements only.
            try test.state { try $0.reserveNumbers(2_000) }
            let before = try test.tree()
            var count = 0
            while true {
                count += 1
                guard count < 500 else { throw Failure("\(name): statement \(count) still fails") }
                let counter = FaultCounter(failing: count, with: fault.rawValue)
                test.state { $0.writer.fault = counter.next }
                let code = RemfsError.code { try change(test, mount) }
                test.state { $0.writer.fault = nil }
                let label = "\(name), \(fault) at statement \(count)"
                guard counter.hasFailed else {
                    #expect(code == nil, "\(label)", sourceLocation: sourceLocation)
                    break
                }
                guard code == fault.code, code?.seenAs.errno == fault.errno else {
                    Issue.record("\(label): answered \(code.map { "\($0)" } ?? "success")", sourceLocation: sourceLocation)
                    if code == nil { break }
                    continue
                }
                let now = try test.tree()
                #expect(now == before, "\(label)", sourceLocation: sourceLocation)
                Invariants.expect(test.store, hashes: false, label, sourceLocation: sourceLocation)
                // What is in the file does not hang on the kind of the error.
                if fault == .io {
                    try test.withCopyAfterKill { copy in
                        let there = try test.tree(of: copy)
                        #expect(there == before, "\(label), restarted", sourceLocation: sourceLocation)
                        Invariants.expect(copy, hashes: false, "\(label), restarted", sourceLocation: sourceLocation)
                    }
                }
                if now != before { break }
            }
            #expect(count > expectedFailures, "\(name) has \(count - 1) statements", sourceLocation: sourceLocation)
            try test.settleAll()
            Invariants.expect(test.store, name, sourceLocation: sourceLocation)
            try after(test, mount)
            try test.reopen()
            try after(test, mount)
            Invariants.expect(test.store, name, sourceLocation: sourceLocation)
        }
    }
}

/// Fails one statement, by its place.
final class FaultCounter {
    private var left: Int
    private let code: Int32
    private(set) var hasFailed = false

    init(failing place: Int, with code: Int32) {
        left = place
        self.code = code
    }

    func next() -> Int32? {
        left -= 1
        guard left == 0 else { return nil }
        hasFailed = true
        return code
    }
}
