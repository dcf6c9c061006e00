internal import CFuse
internal import Glibc

/// A daemon that was started before it is needed: it has loaded its program and its configuration, and waits for what it is to go on with.
/// Starting a program is the longest part of a pause.
struct FuseStandby {
    let daemon: FuseHolder.Daemon
    private let installed: Installed?

    /// Which file a program was started from. One that was replaced since is not to be started any more, but the new one.
    private struct Installed: Equatable {
        let device: dev_t
        let inode: ino_t
        let changed: Int

        init?(_ path: String) {
            var status = stat()
            guard unsafe stat(path, &status) == 0 else { return nil }
            (device, inode) = (status.st_dev, status.st_ino)
            changed = status.st_ctim.tv_sec * 1_000_000_000 + status.st_ctim.tv_nsec
        }
    }

    /// nil with errno where no process can be started.
    init?(_ program: FuseHolder.Program) {
        // Before the start: of two files that are exchanged in between the older one is taken for gone.
        installed = Installed(program.path)
        guard let daemon = FuseHolder.start(program) else { return nil }
        self.daemon = daemon
    }

    /// Whether it waits still, and is what would be started now.
    func isGood(for program: FuseHolder.Program) -> Bool { !hasEnded && installed != nil && installed == Installed(program.path) }

    var hasEnded: Bool {
        var watch = pollfd(fd: daemon.watch, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&watch, 1, 0) != 0
    }

    /// It has nothing yet that could be lost.
    func end() {
        kill(daemon.process, SIGKILL)
        while waitpid(daemon.process, nil, 0) < 0, errno == EINTR {}
        daemon.socket.close()
        close(daemon.watch)
    }
}
