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
    package static let spawnedDescriptor: Int32 = 3

    /// Starts a program with one descriptor of ours besides 0 to 2, and with signals as a program expects them.
    package static func spawn(_ program: Program, _ environment: [String], inheriting descriptor: Int32) -> Int32? {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, spawnedDescriptor)
        // Also of what a library has opened without close-on-exec it is to keep nothing alive.
        unsafe cfuse_close_from(&actions, spawnedDescriptor + 1)
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        var all = sigset_t()
        unsafe sigfillset(&all)
        unsafe posix_spawnattr_setsigdefault(&attributes, &all)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var process = pid_t()
        let code = unsafe withCStrings(program.arguments) { arguments in
            unsafe withCStrings(program.environment + environment) { environment in
                unsafe posix_spawn(&process, program.path, &actions, &attributes, arguments, environment)
            }
        }
        guard code == 0 else {
            errno = code
            return nil
        }
        return process
    }

    static func withCStrings<Result>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        var pointers = unsafe strings.map { unsafe strdup($0) }
        unsafe pointers.append(nil)
        defer { for place in strings.indices { unsafe free(pointers[place]) } }
        return unsafe pointers.withUnsafeMutableBufferPointer { unsafe body($0.baseAddress!) }
    }
}
