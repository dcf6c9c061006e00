internal import CFuse
internal import Glibc

/// Starting a daemon, or another holder.
extension FuseHolder {
    /// How a daemon is started.
    package struct Program: Sendable {
        /// Absolute. Found anew at each start, so that it may have been replaced by a newer one.
        package let path: String
        package let arguments: [String]
        package let environment: [String]

        package init(path: String, arguments: [String], environment: [String]) {
            self.path = path
            self.arguments = arguments
            self.environment = environment
        }
    }

    static func start(_ program: Program) -> Daemon? {
        guard let (ours, theirs) = FuseHoldSocket.pair() else { return nil }
        defer { theirs.close() }
        guard let process = spawn(program, ["\(socketVariable)=\(spawnedDescriptor)"], inheriting: theirs.descriptor) else {
            ours.close()
            return nil
        }
        let watch = cfuse_watch_process(process)
        guard watch >= 0 else {
            ours.close()
            return nil
        }
        return Daemon(process: process, watch: watch, isChild: true, socket: ours)
    }

    /// What a spawned program finds at its one inherited descriptor's place.
    package static let spawnedDescriptor = FuseSpawn.descriptor

    /// Starts a program with one descriptor of ours besides 0 to 2, and with signals as a program expects them. nil: `errno` says why not.
    package static func spawn(_ program: Program, _ environment: [String], inheriting descriptor: Int32) -> Int32? {
        let started = FuseSpawn.start(
            program.path, program.arguments.map { Array($0.utf8) }, environment: (program.environment + environment).map { Array($0.utf8) },
            inheriting: descriptor)
        switch started {
        case .success(let process): return process
        case .failure(let failure):
            errno = failure.errno
            return nil
        }
    }
}
