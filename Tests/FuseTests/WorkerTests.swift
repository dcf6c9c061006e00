import Fuse
import Glibc
import Testing
import Threads

extension FuseTests {
    @Suite struct Workers {
        @Test func aSlowRequestDelaysNoOther() throws {
            try MountedToy.with { mount throws in
                let slow = mount.toy.makeFile("slow", "slow")
                mount.toy.makeFile("fast", "fast")
                let entered = Event<Void>()
                let proceed = Event<Void>()
                mount.toy.hooks.withLock {
                    $0.read = { node in
                        guard node == slow else { return }
                        FuseWorkers.willBlock()
                        FuseWorkers.willBlock()
                        entered.post()
                        _ = proceed.wait()
                    }
                }
                let result = Event<String>()
                let client = Thread("client") { result.post((try? mount.read("slow")) ?? "failed") }
                #expect(entered.wait() != nil)
                #expect(try mount.read("fast") == "fast")
                #expect(!result.isPosted)
                proceed.post()
                client.join()
                #expect(result.wait() == "slow")
                // And the baton is back where it belongs.
                #expect(try mount.list().count == 2)
            }
        }

        @Test func sayingWillBlockElsewhereDoesNothing() {
            FuseWorkers.willBlock()
            Thread("other") { FuseWorkers.willBlock() }.join()
        }

        @Test func aBatonHeldTooLongIsReportedAndPassedOn() throws {
            let stalls = Mutex<[FuseWorkers.Stall]>([])
            let stalled = Condition()
            let workers = FuseWorkers(count: 2, stallLimit: .milliseconds(100), hangLimit: .milliseconds(300)) { stall in
                stalls.withLock { $0.append(stall) }
                stalled.broadcast()
            }
            defer { workers.stop() }
            try MountedToy.with(workers: workers) { mount throws in
                let slow = mount.toy.makeFile("slow", "slow")
                mount.toy.makeFile("fast", "fast")
                let proceed = Event<Void>()
                mount.toy.hooks.withLock { $0.read = { node in if node == slow { _ = proceed.wait() } } }
                let client = Thread("client") { _ = try? mount.read("slow") }
                let seen = stalls.wait(on: stalled, atMost: .seconds(10), until: { $0.count == 2 }) { stalls, _ in stalls }
                try #require(seen.count == 2)
                #expect(seen[0].kind == .baton(.read))
                #expect(seen[0].seconds >= 0.1)
                #expect(seen[0].connection === mount.connection)
                #expect(seen[1].kind == .request(.read))
                #expect(seen[1].seconds >= 0.3)
                // Another worker has the baton, and the connection lives.
                #expect(try mount.read("fast") == "fast")
                proceed.post()
                client.join()
                #expect(try mount.read("slow") == "slow")
                #expect(stalls.withLock { $0.count } == 2)
            }
        }

        @Test func aNotificationThatHangsIsFreedByAnAbort() throws {
            let reported = Event<FuseWorkers.Stall>()
            let workers = FuseWorkers(hangLimit: .milliseconds(200)) { stall in
                if case .notification = stall.kind { reported.post(stall) }
            }
            defer { workers.stop() }
            try MountedToy.with(workers: workers) { mount throws in
                let node = mount.toy.makeFile("f", "x")
                let kept = Event<FuseReply>()
                mount.toy.hooks.withLock {
                    $0.takesRead = { _, reply in
                        kept.post(reply)
                        return true
                    }
                }
                let client = Thread("client") { _ = try? mount.read("f") }
                let reply = try #require(kept.wait())
                // Waits for the page that the read holds.
                let result = Event<Int32>()
                let notifier = Thread("notifier") { result.post(mount.connection.invalidate(node)) }
                let stall = try #require(reported.wait())
                #expect(stall.kind == .notification(abort: 0))
                #expect(stall.seconds >= 0.2)
                #expect(stall.connection === mount.connection)
                #expect(result.wait() != nil)
                notifier.join()
                client.join()
                reply.error(FuseErrno(EIO))
                #expect(mount.toy.wait { $0.ends == 1 })
            }
        }

        @Test func anInterruptedCallerGetsItsAnswer() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                let waiting = Event<Void>()
                mount.toy.hooks.withLock {
                    $0.synchronize = { _, reply in
                        reply.onInterrupt { reply.error(FuseErrno(EINTR)) }
                        waiting.post()
                    }
                }
                #expect(Self.interrupted(after: waiting) { try mount.withOpen("f", O_RDONLY) { try check(fsync($0)) } } == EINTR)
                try mount.settle()
                #expect(mount.toy.count(.interrupt) == 1)
                #expect(mount.toy.state.withLock { $0.answers.contains { $0 == (.fsync, EINTR) } })
            }
        }

        @Test func anInterruptBeforeAnyoneListensIsNotLost() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                let waiting = Event<Void>()
                let interrupted = Event<Void>()
                let toy = mount.toy
                mount.toy.hooks.withLock {
                    $0.synchronize = { _, reply in
                        FuseWorkers.willBlock()
                        waiting.post()
                        _ = toy.wait { $0.counts[.interrupt] == 1 }
                        // Called at once, on this thread.
                        reply.onInterrupt {
                            interrupted.post()
                            reply.error(FuseErrno(EINTR))
                        }
                        #expect(interrupted.isPosted)
                    }
                }
                #expect(Self.interrupted(after: waiting) { try mount.withOpen("f", O_RDONLY) { try check(fsync($0)) } } == EINTR)
            }
        }

        @Test func locksWaitAndAreInterrupted() throws {
            var options = FuseConnectionOptions()
            options.answersOpen = true
            options.answersLocks = true
            try MountedToy.with(options) { mount throws in
                try mount.write("f", "x")
                let waiting = Event<Void>()
                try mount.withOpen("f", O_RDWR) { holder in
                    try check(flock(holder, LOCK_EX))
                    try mount.withOpen("f", O_RDWR) { other in
                        #expect(throws: Failed(EAGAIN)) { try check(flock(other, LOCK_SH | LOCK_NB)) }
                        let watcher = Thread("watcher") {
                            if mount.toy.wait(until: { $0.nodes[2]!.waiting.count == 1 }) { waiting.post() }
                        }
                        #expect(Self.interrupted(after: waiting) { try check(flock(other, LOCK_EX)) } == EINTR)
                        watcher.join()

                        let granted = Event<Int32>()
                        let client = Thread("client") { granted.post(flock(other, LOCK_EX)) }
                        #expect(mount.toy.wait { $0.nodes[2]!.waiting.count == 1 })
                        #expect(!granted.isPosted)
                        try check(flock(holder, LOCK_UN))
                        client.join()
                        #expect(granted.wait() == 0)
                    }
                    // Released with its last descriptor.
                    #expect(mount.toy.wait { $0.lastRelease?.flockOwner != nil })
                    try check(flock(holder, LOCK_EX))
                }
                try mount.withOpen("f", O_RDWR) { file in
                    var lock = RangeLock(type: Int16(F_WRLCK), start: 5, length: 10)
                    try check(fcntl(file, F_SETLK, &lock))
                    try mount.settle()
                    #expect(mount.toy.count(.setlk) == 1)
                    // Our own lock is no conflict.
                    try check(fcntl(file, F_GETLK, &lock))
                    #expect(lock.type == Int16(F_UNLCK))
                    mount.toy.state.withLock { $0.nodes[2]!.holders = [99: .write] }
                    lock.type = Int16(F_RDLCK)
                    try check(fcntl(file, F_GETLK, &lock))
                    #expect(lock.type == Int16(F_WRLCK) && lock.pid == getpid() && lock.length == 0)
                }
            }
        }

        @Test func aLockWaiterDoesNotKeepAConnectionFromEnding() throws {
            var options = FuseConnectionOptions()
            options.answersOpen = true
            options.answersLocks = true
            try MountedToy.with(options) { mount throws in
                try mount.write("f", "x")
                let holder = try mount.open("f", O_RDWR)
                let other = try mount.open("f", O_RDWR)
                try check(flock(holder, LOCK_EX))
                let client = Thread("client") { _ = flock(other, LOCK_EX) }
                #expect(mount.toy.wait { $0.nodes[2]!.waiting.count == 1 })
                #expect(mount.connection.abort() == 0)
                client.join()
                #expect(mount.toy.wait { $0.ends == 1 })
                close(holder)
                close(other)
            }
        }

        @Test func fiftyMountsShareTheWorkers() throws {
            let workers = MountedToy.quietWorkers()
            defer { workers.stop() }
            try Self.nested(50) { mounts in
                #expect(mounts.count == 50)
                let failures = Mutex(0)
                let clients = (0..<4).map { client in
                    Thread("client-\(client)") {
                        for (index, mount) in mounts.enumerated() where index % 4 == client {
                            do {
                                for round in 0..<20 {
                                    try mount.write("f\(round)", "\(index)/\(round)")
                                    guard try mount.read("f\(round)") == "\(index)/\(round)" else { throw Failed(EIO) }
                                }
                            } catch { failures.withLock { $0 += 1 } }
                        }
                    }
                }
                for client in clients { client.join() }
                #expect(failures.withLock { $0 } == 0)
            } mounting: { path in
                try MountedToy.mount(ToyFilesystem(), at: path, workers)
            }
        }

        /// In a process of its own: other suites have threads and descriptors too.
        @Test func stoppingLeavesNothingBehind() async {
            await #expect(processExitsWith: .success) {
                // Once before, for what is loaded with the first use.
                try MountedToy.with { try $0.write("f", "x") }
                // A thread that was joined is still in /proc for a moment.
                for _ in 0..<200 where Self.belongings().threads != [] { usleep(10_000) }
                let before = Self.belongings()
                for _ in 0..<3 {
                    try MountedToy.with { mount throws in
                        try mount.write("f", "x")
                        #expect(Self.belongings().threads.contains { $0.hasPrefix("fuse-worker") })
                    }
                }
                for _ in 0..<200 where Self.belongings() != before { usleep(10_000) }
                #expect(Self.belongings().threads == [])
                #expect(Self.belongings() == before)
            }
        }

        @Test func stoppingEndsWhatIsStillServed() throws {
            let workers = MountedToy.quietWorkers()
            try TemporaryDirectory.with { path in
                let mount = try MountedToy.mount(ToyFilesystem(), at: path, workers)
                defer { mount.unmountAnyway() }
                workers.stop()
                #expect(mount.toy.state.withLock { $0.ends } == 1)
                #expect(throws: Failed(ENOTCONN)) { try mount.list() }
                #expect(!workers.add(mount.connection))
            }
        }

        // MARK: - Helpers

        struct Belongings: Equatable {
            var threads: [String] = []
            var descriptors: [String] = []
            var mounts = 0
        }

        /// Our threads, our descriptors and our mounts.
        static func belongings() -> Belongings {
            var found = Belongings()
            for task in names(in: "/proc/self/task") {
                guard let file = fopen("/proc/self/task/\(task)/comm", "r") else { continue }
                defer { fclose(file) }
                var line = [CChar](repeating: 0, count: 64)
                guard fgets(&line, 64, file) != nil else { continue }
                let name = String(decoding: line.prefix { $0 > 32 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
                if name.hasPrefix("fuse-") { found.threads.append(name) }
            }
            for descriptor in names(in: "/proc/self/fd") {
                var target = [CChar](repeating: 0, count: 4096)
                let count = readlink("/proc/self/fd/\(descriptor)", &target, target.count)
                guard count > 0 else { continue }
                let text = String(decoding: target[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
                // Inherited ones, of tests that end meanwhile, stay the same when their files go.
                let name = text.hasSuffix(" (deleted)") ? String(text.dropLast(10)) : text
                if !name.hasPrefix("/proc/") { found.descriptors.append("\(descriptor) \(name)") }
            }
            found.mounts = (try? FuseMountpoint.existing().filter { $0.source == TemporaryDirectory.source }.count) ?? -1
            return found
        }

        private static func names(in directory: String) -> [String] {
            guard let list = opendir(directory) else { return [] }
            defer { closedir(list) }
            var names: [String] = []
            while let entry = readdir(list) {
                names.append(
                    withUnsafePointer(to: &entry.pointee.d_name) {
                        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                    })
            }
            return names.filter { $0.first != "." }
        }

        /// Mounts `count` toys, each in a directory of its own, and unmounts them after `body`.
        private static func nested(
            _ count: Int, _ mounted: [MountedToy] = [], _ body: ([MountedToy]) throws -> Void, mounting: (String) throws -> MountedToy
        ) throws {
            guard mounted.count < count else { return try body(mounted) }
            try TemporaryDirectory.with { path in
                let mount = try mounting(path)
                defer { mount.unmountAnyway() }
                try nested(count, mounted + [mount], body, mounting: mounting)
            }
        }

        /// Runs `call` on a thread and sends that thread a signal after `event`. Returns the errno of the call.
        private static func interrupted(after event: Event<Void>, _ call: @escaping @Sendable () throws -> Void) -> Int32? {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { _ in }
            // Without SA_RESTART.
            sigaction(SIGUSR1, &action, nil)
            let handle = Event<pthread_t>()
            let result = Event<Int32>()
            let client = Thread("client") {
                // Inherited from a thread of the Swift runtime, which blocks all of them.
                var set = sigset_t()
                sigemptyset(&set)
                sigaddset(&set, SIGUSR1)
                pthread_sigmask(SIG_UNBLOCK, &set, nil)
                handle.post(pthread_self())
                do {
                    try call()
                    result.post(0)
                } catch { result.post((error as? Failed)?.errno ?? -1) }
            }
            guard let thread = handle.wait(), event.wait() != nil else { return nil }
            pthread_kill(thread, SIGUSR1)
            let code = result.wait()
            client.join()
            return code
        }
    }
}
