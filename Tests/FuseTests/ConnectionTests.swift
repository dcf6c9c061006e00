import Fuse
import Glibc
import Testing
import Threads

extension FuseTests {
    @Suite struct Connections {
        @Test func aSecondReadAsksNothing() throws {
            try MountedToy.with { mount throws in
                mount.toy.makeFile("f", "content")
                #expect(try mount.read("f") == "content")
                _ = try mount.status("f")
                let requests = try mount.settledRequests()
                let opens = mount.toy.count(.open)
                #expect(try mount.read("f") == "content")
                // After a READ the access time may have changed, so one fstat may ask; this opens, reads and closes only.
                #expect(try mount.settledRequests() == requests)
                #expect(opens == 1)
                #expect(mount.toy.count(.flush) <= 1)
            }
        }

        @Test func missingNamesAreRemembered() throws {
            try MountedToy.with { mount throws in
                #expect(throws: Failed(ENOENT)) { try mount.status("none") }
                try mount.settle()
                #expect(mount.toy.state.withLock { $0.answers.contains { $0 == (.lookup, ENOENT) } })
                let requests = try mount.settledRequests()
                #expect(throws: Failed(ENOENT)) { try mount.status("none") }
                #expect(try mount.settledRequests() == requests)
                mount.toy.makeFile("none", "after all")
                #expect(
                    "none".utf8.withContiguousStorageIfAvailable {
                        mount.connection.invalidateName(UnsafeRawBufferPointer($0), in: 1)
                    } == 0)
                #expect(try mount.read("none") == "after all")
            }
        }

        @Test func whatIsNotOfferedIsRefusedOnce() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                for _ in 0..<3 { #expect(throws: Failed(EOPNOTSUPP)) { try check(setxattr(mount.path("f"), "user.a", "x", 1, 0)) } }
                for _ in 0..<3 { #expect(throws: Failed(EOPNOTSUPP)) { try check(getxattr(mount.path("f"), "user.a", nil, 0)) } }
                for _ in 0..<3 { try mount.write("f", "y", O_WRONLY) }
                try mount.settle()
                for operation in [FuseOperation.setxattr, .open, .getxattr] { #expect(mount.toy.count(operation) == 1, "\(operation)") }
            }
        }

        @Test func openingIsAnsweredWhereWanted() throws {
            var options = FuseConnectionOptions()
            options.answersOpen = true
            try MountedToy.with(options) { mount throws in
                try mount.write("f", "x")
                #expect(try mount.read("f") == "x")
                #expect(try mount.read("f") == "x")
                try mount.settle()
                #expect(mount.toy.count(.open) == 2)
                #expect(mount.toy.count(.create) == 1)
                #expect(mount.toy.count(.flush) == 3)
                // The pages are kept over an open.
                #expect(mount.toy.count(.read) <= 1)
                #expect(mount.toy.wait { $0.counts[.release] == 3 })
                #expect(mount.toy.state.withLock { $0.lastRelease!.flags & O_ACCMODE } == O_RDONLY)
            }
        }

        @Test func changesFromElsewhereShowOnceToldOf() throws {
            try MountedToy.with { mount throws in
                let node = mount.toy.makeFile("f", "old!")
                #expect(try mount.read("f") == "old!")
                mount.toy.setContent(of: node, to: "newer")
                #expect(try mount.read("f") == "old!")
                #expect(mount.connection.invalidate(node) == 0)
                #expect(try mount.read("f") == "newer")
                // Attributes only: the pages stay.
                mount.toy.setContent(of: node, to: "NEWER")
                mount.toy.state.withLock { $0.nodes[node]!.attributes.mode = S_IFREG | 0o600 }
                #expect(mount.connection.invalidate(node, length: -1) == 0)
                #expect(try mount.status("f").st_mode == S_IFREG | 0o600)
                #expect(try mount.read("f") == "newer")
                #expect(mount.connection.invalidate(99) == ENOENT)
            }
        }

        @Test func aListingIsDroppedWithItsDirectory() throws {
            try MountedToy.with { mount throws in
                mount.toy.makeFile("a", "")
                #expect(try mount.list() == ["a"])
                mount.toy.makeFile("b", "")
                #expect(try mount.list() == ["a"])
                #expect(mount.connection.invalidate(1) == 0)
                #expect(try mount.list() == ["a", "b"])
            }
        }

        @Test func deletionsFromElsewhereShow() throws {
            try MountedToy.with { mount throws in
                let node = mount.toy.makeFile("f", "x")
                _ = try mount.status("f")
                let name = Array("f".utf8)
                #expect(name.withUnsafeBytes { mount.connection.notifyDelete($0, in: 1, child: node + 1) } == ENOENT)
                // The name was dropped all the same, and is asked for again.
                #expect(try mount.status("f").st_ino == node)
                mount.toy.state.withLock { state in
                    state.nodes[1]!.entries = []
                    state.nodes[node]!.attributes.links = 0
                }
                #expect(name.withUnsafeBytes { mount.connection.notifyDelete($0, in: 1, child: node) } == 0)
                #expect(throws: Failed(ENOENT)) { try mount.status("f") }
            }
        }

        @Test func storedPagesNeedNoRead() throws {
            try MountedToy.with { mount throws in
                let node = mount.toy.makeFile("f", "from the store")
                _ = try mount.status("f")
                let bytes = Array("from the store".utf8)
                #expect(bytes.withUnsafeBytes { mount.connection.store($0, in: node, offset: 0) } == 0)
                #expect(try mount.read("f") == "from the store")
                try mount.settle()
                #expect(mount.toy.count(.read) == 0)
            }
        }

        @Test func anUnmountFromOutsideEndsTheConnectionOnce() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "x")
                #expect(umount2(mount.path, 0) == 0)
                #expect(mount.toy.wait { $0.ends == 1 })
                #expect(mount.connection.cause == ENODEV)
                #expect(mount.connection.invalidate(1) == ENOTCONN)
                mount.connection.end()
                #expect(mount.toy.state.withLock { $0.ends } == 1)
                #expect(!mount.workers.add(mount.connection))
            }
        }

        @Test func aBusyMountGoesOnUntilItsLastFile() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "content")
                let file = try mount.open("f", O_RDONLY)
                #expect(throws: FuseMountpoint.Failure(call: "umount", errno: EBUSY)) { try mount.mountpoint.unmount() }
                try mount.mountpoint.unmount(lazily: true)
                #expect(try MountedToy.readAll(file) == Array("content".utf8))
                #expect(mount.toy.state.withLock { $0.ends } == 0)
                close(file)
                #expect(mount.toy.wait { $0.ends == 1 })
            }
        }

        @Test func anAbortFreesWhoeverWaits() throws {
            try MountedToy.with { mount throws in
                mount.toy.makeFile("f", "x")
                let kept = Event<FuseReply>()
                mount.toy.hooks.withLock {
                    $0.takesRead = { _, reply in
                        kept.post(reply)
                        return true
                    }
                }
                let result = Event<Int32>()
                let client = Thread("client") {
                    do {
                        _ = try mount.read("f")
                        result.post(0)
                    } catch {
                        result.post((error as? Failed)?.errno ?? -1)
                    }
                }
                let reply = try #require(kept.wait())
                #expect(!result.isPosted)
                #expect(mount.connection.abort() == 0)
                client.join()
                #expect(result.wait() != 0)
                // The connection waits for the answer, though nobody else does.
                #expect(mount.toy.state.withLock { $0.ends } == 0)
                reply.success()
                #expect(mount.toy.wait { $0.ends == 1 })
                #expect(throws: Failed(ENOTCONN)) { try mount.list() }
                let mine = try FuseMountpoint.existing().filter { $0.path == Array(mount.path.utf8) }
                #expect(mine.count == 1 && mine[0].isDead)
                #expect(mine.first?.number == mount.mountpoint.number)
            }
        }

        @Test func aReplyThatIsDroppedIsAnError() throws {
            try MountedToy.with { mount throws in
                mount.toy.makeFile("inline", "x")
                mount.toy.makeFile("later", "x")
                let failures = {
                    try mount.settle()
                    return mount.toy.state.withLock { state in state.answers.filter { $0 == (.read, EIO) }.count }
                }
                mount.toy.hooks.withLock { $0.takesRead = { _, _ in true } }
                #expect(throws: Failed(EIO)) { try mount.read("inline") }
                let before = try failures()
                #expect(before > 0)

                // Elsewhere and later. The kernel asks a second time after the first error.
                let kept = Mutex<[FuseReply]>([])
                let changed = Condition()
                let isDone = Event<Void>()
                mount.toy.hooks.withLock {
                    $0.takesRead = { _, reply in
                        kept.withLock { $0.append(reply) }
                        changed.broadcast()
                        return true
                    }
                }
                let dropper = Thread("dropper") {
                    while !isDone.isPosted {
                        let taken = kept.wait(on: changed, atMost: .milliseconds(20), until: { !$0.isEmpty }) { kept, _ in
                            defer { kept = [] }
                            return kept
                        }
                        for reply in taken { _ = reply }
                    }
                }
                #expect(throws: Failed(EIO)) { try mount.read("later") }
                isDone.post()
                dropper.join()
                #expect(try failures() > before)
            }
        }

        @Test func aSuccessorTakesTheConnectionOver() throws {
            try MountedToy.with { mount throws in
                try mount.write("f", "before")
                let file = try mount.open("f", O_RDWR)
                defer { close(file) }
                let handshake = try #require(mount.connection.handshake)
                #expect(handshake.request.count >= 40 && handshake.reply.count >= 24 && handshake.wanted != 0)
                // As a holder would keep it.
                let held = try check(fcntl(mount.connection.descriptor, F_DUPFD_CLOEXEC, 0))
                mount.connection.end()
                #expect(mount.toy.state.withLock { $0.ends } == 1)

                let successor = try FuseConnection(
                    filesystem: mount.toy, device: held, number: mount.mountpoint.number, adopting: handshake)
                #expect(successor.handshake == handshake)
                #expect(mount.workers.add(successor))
                defer { successor.end() }
                defer { mount.unmountAnyway() }
                #expect(mount.toy.wait { $0.starts == 2 })
                #expect(try check(Glibc.write(file, "AFTER!", 6)) == 6)
                #expect(try mount.read("f") == "AFTER!")
                try mount.write("g", "new")
                #expect(successor.invalidate(2) == 0)
                #expect(try mount.read("f") == "AFTER!")
            }
        }

        @Test func aForeignHandshakeIsRefused() throws {
            try MountedToy.with { mount throws in
                var handshake = try #require(mount.connection.handshake)
                handshake.reply[0] ^= 1
                // A number so high that no other test is given it, at once, when it is free again.
                let held = try check(fcntl(mount.connection.descriptor, F_DUPFD_CLOEXEC, 800))
                #expect(throws: FuseConnection.Failure.handshake) {
                    _ = try FuseConnection(filesystem: mount.toy, device: held, number: nil, adopting: handshake)
                }
                // It was closed.
                #expect(fcntl(held, F_GETFD) == -1)
            }
        }
    }
}
