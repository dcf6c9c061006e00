import ArgumentParser

/// How a mount shows its store: of `remfs mount` and of a session's stores.
struct ViewOptions: ParsableArguments {
    enum Coherence: String, ExpressibleByArgument, CaseIterable { case `default`, strict }
    enum StaleWrites: String, ExpressibleByArgument, CaseIterable { case record, refuse }

    @Flag(help: "Offer extended attributes; each write and `ls -l` then costs a request more") var xattr = false
    @Flag(help: "Hide the history below .remfs") var noHistory = false
    @Option(help: "strict: when close(2) has returned, every mount sees the bytes; reads are slower") var coherence: Coherence = .default
    @Option(help: "What becomes of a write over a version that this mount never saw") var onStaleWrite: StaleWrites = .record
    @Option(help: "Show every file as owned by this user") var uid: UInt32?
    @Option(help: "Show every file as owned by this group") var gid: UInt32?
    @Option(help: ArgumentHelp("Take these bits off every file's mode", valueName: "octal"), transform: ViewOptions.octal) var umask:
        UInt32?

    /// The object `remfs` of a mount or of a session's resource.
    struct Request: Encodable {
        var uid: UInt32?
        var gid: UInt32?
        let umask: UInt32?
        let history: Bool
        let onStaleWrite: String
        let coherence: String
        let xattr: Bool
        let exec: Bool
        /// nil: not asked for.
        let allowOther: Bool?

        private enum CodingKeys: String, CodingKey {
            case uid, gid, umask, history, coherence, xattr, exec
            case allowOther = "allow_other"
            case onStaleWrite = "on_stale_write"
        }
    }

    func request(exec: Bool, allowOther: Bool? = nil) -> Request {
        Request(
            uid: uid, gid: gid, umask: umask, history: !noHistory, onStaleWrite: onStaleWrite.rawValue, coherence: coherence.rawValue,
            xattr: xattr, exec: exec, allowOther: allowOther)
    }

    private static func octal(_ text: String) throws -> UInt32 {
        guard let value = UInt32(text, radix: 8), value <= 0o777 else { throw ValidationError("'\(text)' is not an octal mode up to 777.") }
        return value
    }
}
