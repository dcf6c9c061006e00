internal import CFuse
internal import Glibc

/// Starting another program: a daemon, another holder, `fusermount3`, what a command was asked to run.
package enum FuseSpawn {
    /// What a program finds at its one inherited descriptor's place.
    static let descriptor: Int32 = 3

    /// Starts a program with signals as a program expects them, since our threads block some, and with no descriptor of ours but those
    /// named here: also of what a library has opened without close-on-exec it is to keep nothing alive.
    ///
    /// - Parameters:
    ///   - program: a path, or a name that is looked for in our PATH.
    ///   - arguments: with the program's own name first. Any bytes but NUL; so is `environment`.
    ///   - inherited: becomes `descriptor` there.
    ///   - standardOutput: becomes descriptor 1 there; nil: ours.
    ///   - standardError: becomes descriptor 2 there; nil: ours.
    /// - Returns: the process, which the caller waits for, or an errno. It is in our process group, so a terminal is its own as well.
    package static func start(
        _ program: String, _ arguments: [[UInt8]], environment: [[UInt8]], inheriting inherited: Int32? = nil,
        standardOutput: Int32? = nil, standardError: Int32? = nil
    ) -> Result<Int32, Failure> {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        if let standardOutput { unsafe posix_spawn_file_actions_adddup2(&actions, standardOutput, STDOUT_FILENO) }
        if let standardError { unsafe posix_spawn_file_actions_adddup2(&actions, standardError, STDERR_FILENO) }
        if let inherited { unsafe posix_spawn_file_actions_adddup2(&actions, inherited, descriptor) }
        unsafe cfuse_close_from(&actions, inherited == nil ? descriptor : descriptor + 1)
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
        let code = unsafe withCStrings(arguments) { arguments in
            unsafe withCStrings(environment) { environment in
                unsafe posix_spawnp(&process, program, &actions, &attributes, arguments, environment)
            }
        }
        return code == 0 ? .success(process) : .failure(Failure(errno: code))
    }

    package struct Failure: Error { package let errno: Int32 }

    /// Waits for the end of a process of ours.
    ///
    /// - Returns: what it exited with, or 128 and the signal that ended it, as a shell has it.
    package static func wait(for process: Int32) -> Int32 {
        var status: Int32 = 0
        while unsafe waitpid(process, &status, 0) < 0 {
            // ECHILD: nobody else waits for our processes, so it is none of ours.
            guard errno == EINTR else { return 127 }
        }
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    /// A NULL-terminated array of C strings, valid inside `body` only.
    static func withCStrings<Answer>(
        _ strings: [[UInt8]], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Answer
    ) -> Answer {
        var pointers: [UnsafeMutablePointer<CChar>?] = unsafe strings.map { string in
            let copy = UnsafeMutablePointer<CChar>.allocate(capacity: string.count + 1)
            for (index, byte) in string.enumerated() { unsafe copy[index] = CChar(bitPattern: byte) }
            unsafe copy[string.count] = 0
            return unsafe copy
        }
        unsafe pointers.append(nil)
        defer { for index in strings.indices { unsafe pointers[index]?.deallocate() } }
        return unsafe pointers.withUnsafeMutableBufferPointer { unsafe body($0.baseAddress!) }
    }
}
