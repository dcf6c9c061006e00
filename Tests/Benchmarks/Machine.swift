import Glibc

/// What the machine must offer, and where the programs are.
enum Machine {
    /// Refuses, with the reason, what could only give wrong numbers later.
    static func require(labels: [Label]) throws {
        guard geteuid() == 0 else {
            throw Failure("not root: dropping caches and mounting need it; run with sudo")
        }
        guard access("/proc/sys/vm/drop_caches", W_OK) == 0 else {
            throw Failure("/proc/sys/vm/drop_caches is not writable, so nothing can be measured cold (a container?)")
        }
        if labels != [.ext4] {
            let device = open("/dev/fuse", O_RDWR | O_CLOEXEC)
            guard device >= 0 else { throw Failure.system("/dev/fuse is not usable (--labels ext4 runs without it)") }
            close(device)
        }
        if labels.contains(where: { $0 == .bindfs || $0 == .bindfsCached }), program("bindfs") == nil {
            throw Failure("bindfs is not installed; leave it out with --labels ext4,remfs")
        }
        for name in ["grep", "find", "ls", "sed", "sync", "rm"] where program(name) == nil {
            throw Failure("\(name) is not in PATH")
        }
    }

    static func program(_ name: String) -> String? {
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(name)" }.first { access($0, X_OK) == 0 }
    }

    static func ownBinary() throws -> String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard count > 0 else { throw Failure.system("/proc/self/exe") }
        return String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// The daemon in the build directory these benchmarks run from. `swift run` builds only what it runs, so the daemon is built here:
    /// measuring yesterday's would be worse than measuring nothing.
    static func builtRemfs() throws -> String {
        let own = try ownBinary()
        let directory = own[..<(own.lastIndex(of: "/") ?? own.endIndex)]
        let binary = "\(directory)/remfs"
        if let package = own.ranges(of: "/.build/").last.map({ String(own[..<$0.lowerBound]) }), program("swift") != nil,
            access("\(package)/Package.swift", R_OK) == 0
        {
            note("building remfs")
            let configuration = directory.hasSuffix("/release") ? "release" : "debug"
            if configuration == "debug" { note("this is a debug build; the numbers mean nothing (use `swift run -c release`)") }
            let build = try ChildProcess.start(
                ["swift", "build", "--package-path", package, "-c", configuration, "--product", "remfs"], output: STDERR_FILENO,
                environment: ChildProcess.ownEnvironment())
            guard build.wait() == 0 else { throw Failure("remfs does not build") }
        }
        guard access(binary, X_OK) == 0 else {
            throw Failure("no remfs beside \(own): run `swift build -c release --product remfs`, or name one with --remfs")
        }
        return binary
    }

    static func dropCaches() throws {
        sync()
        try Files.write("3\n", to: "/proc/sys/vm/drop_caches")
    }

    static func loadAverage() -> String { String((Files.text("/proc/loadavg") ?? "?").prefix { $0 != " " }) }

    static func kernel() -> String {
        (Files.text("/proc/sys/kernel/osrelease") ?? "?").filter { $0 != "\n" }
    }

    static func cores() -> Int { sysconf(Int32(_SC_NPROCESSORS_ONLN)) }
}
