/// Whether a store, an attachment or a mount may be written to. The stricter of several holds.
package enum Access: String, Sendable, Codable, Hashable {
    case readWrite = "read_write"
    case readOnly = "read_only"
}

/// A store's rules, enforced in one place below every front end: `MemoryStore`'s commits.
package struct Policy: Sendable, Equatable, Codable {
    package enum Secrets: String, Sendable, Codable { case allow, warn, refuse }

    package var access: Access = .readWrite
    /// Applies the API's rules (paths, 102,400 bytes, UTF-8) to the mounts as well.
    package var contract = false
    /// Through a mount; the API's own cap is 102,400. 64 MiB.
    package var maxBytesPerMemory: Int64 = 64 << 20
    /// 10,000 by the contract (`api.md` 2).
    package var maxMemories: Int64 = 10_000
    /// Content bytes of all live memories; nil is no limit but the disk's.
    package var maxBytes: Int64?
    /// Names of files that are kept without versions when they are born in a mount. See `UnversionedNames`.
    package var unversioned: [String] = UnversionedNames.standard
    package var secrets: Secrets = .warn
    /// nil keeps versions for ever.
    package var retentionDays: Int?

    package init() {}

    private enum CodingKeys: String, CodingKey {
        case access, contract, unversioned, secrets
        case maxBytesPerMemory = "max_bytes_per_memory"
        case maxMemories = "max_memories"
        case maxBytes = "max_bytes"
        case retentionDays = "retention_days"
    }
}

/// Which files are working files of editors and tools, not memories.
///
/// A pattern is a glob of one name (`*`, `?`, `[...]`), a directory (`.git/`: everything below a directory of that name), or an
/// absolute path (`/.anthropic-memory-store`).
package struct UnversionedNames: Sendable {
    package static let standard = ["*~", ".*.sw?", ".*.sw?x", "4913", ".#*", ".nfs*", "/.anthropic-memory-store", ".git/"]

    private let names: [[UInt8]]
    private let directories: Set<[UInt8]>
    private let paths: Set<[UInt8]>
    /// The last names of `paths`: what is asked first, since building a path costs more.
    private let lastNames: Set<[UInt8]>

    package init(_ patterns: [String]) {
        var names: [[UInt8]] = []
        var directories: Set<[UInt8]> = []
        var paths: Set<[UInt8]> = []
        for pattern in patterns {
            let bytes = Array(pattern.utf8)
            if bytes.first == UInt8(ascii: "/") {
                paths.insert(bytes)
            } else if bytes.last == UInt8(ascii: "/") {
                directories.insert(Array(bytes.dropLast()))
            } else if !bytes.isEmpty {
                names.append(bytes)
            }
        }
        self.names = names
        self.directories = directories
        self.paths = paths
        lastNames = Set(paths.map { Array($0[($0.lastIndex(of: UInt8(ascii: "/"))! + 1)...]) })
    }

    /// Whether everything below a directory of this name is unversioned.
    package func coversDirectory(_ name: [UInt8]) -> Bool { directories.contains(name) }

    /// Whether a file of this name is unversioned. `path` is asked only when the pattern list holds absolute paths.
    package func covers(_ name: [UInt8], path: () -> [UInt8]) -> Bool {
        if names.contains(where: { Glob.matches(name[...], $0[...]) }) { return true }
        return lastNames.contains(name) && paths.contains(path())
    }
}

/// fnmatch(3) without flags, over bytes. Linear: one backtrack point, the last `*`.
enum Glob {
    static func matches(_ name: ArraySlice<UInt8>, _ pattern: ArraySlice<UInt8>) -> Bool {
        var at = name.startIndex
        var next = pattern.startIndex
        var star: (pattern: Int, name: Int)?
        while at < name.endIndex {
            if next < pattern.endIndex, pattern[next] == UInt8(ascii: "*") {
                star = (next + 1, at)
                next += 1
            } else if next < pattern.endIndex, let after = one(name[at], pattern, next) {
                at += 1
                next = after
            } else if let (restart, from) = star {
                star = (restart, from + 1)
                next = restart
                at = from + 1
            } else {
                return false
            }
        }
        return pattern[next...].allSatisfy { $0 == UInt8(ascii: "*") }
    }

    /// The place after the pattern element at `place` if it takes `byte`.
    private static func one(_ byte: UInt8, _ pattern: ArraySlice<UInt8>, _ place: Int) -> Int? {
        switch pattern[place] {
        case UInt8(ascii: "?"): return place + 1
        case UInt8(ascii: "["):
            guard let close = pattern[(place + 1)...].dropFirst().firstIndex(of: UInt8(ascii: "]")) else {
                return byte == UInt8(ascii: "[") ? place + 1 : nil
            }
            var set = pattern[(place + 1)..<close]
            let negated = set.first == UInt8(ascii: "!")
            if negated { set = set.dropFirst() }
            var found = false
            var index = set.startIndex
            while index < set.endIndex {
                if index + 2 < set.endIndex, set[index + 1] == UInt8(ascii: "-") {
                    if set[index] <= byte, byte <= set[index + 2] { found = true }
                    index += 3
                } else {
                    if set[index] == byte { found = true }
                    index += 1
                }
            }
            return found != negated ? close + 1 : nil
        default: return pattern[place] == byte ? place + 1 : nil
        }
    }
}
