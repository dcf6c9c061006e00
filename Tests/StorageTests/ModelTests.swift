import Glibc
import Testing

@testable import Storage

/// Random operations on a store and on a dictionary; after each batch both must be the same, and the store sound.
///
/// `REMFS_TEST_SEED` replays a failure, `REMFS_TEST_CAREFUL=1` compares after each step, `REMFS_TEST_ROUNDS` plays more.
@Suite struct ModelTests {
    @Test(arguments: 1...6) func aStoreIsWhatItsOperationsMadeOfIt(_ number: Int) throws {
        let seed = SeededRandom.seed(UInt64(number) * 7_919)
        for round in 0..<SeededRandom.rounds(1) {
            let player = Player(seed: seed &+ UInt64(round) &* 1_000_003)
            do {
                try player.play(batches: 25)
            } catch {
                Issue.record("REMFS_TEST_SEED=\(player.seed): \(error)\n\(player.log.suffix(25).joined(separator: "\n"))")
                return
            }
        }
    }

    final class Player {
        let seed: UInt64
        var random: SeededRandom
        var model = Model()
        var log: [String] = []
        /// Content that versions were told to have, by their number.
        var history: [Int64: [UInt8]] = [:]

        init(seed: UInt64) {
            self.seed = seed
            random = SeededRandom(seed: seed)
        }

        /// Compares after each step: to find the one that breaks.
        static let isCareful = environment("REMFS_TEST_CAREFUL") != nil
        static let names = ["a", "b.md", "c", "d~", ".git", "e.txt", "4913", "sub", "notes"]
        static let sizes = [0, 1, 40, 100, 4_096, 30_000, 65_535, 65_536, 65_537, 131_072, 150_000]

        func play(batches: Int) throws {
            try TemporaryDirectory.with { directory in
                let test = try TestStore(in: directory)
                for _ in 0..<3 { _ = try test.mount() }
                for batch in 0..<batches {
                    for _ in 0..<8 {
                        try step(test)
                        if Self.isCareful { try compare(test, hashes: false) }
                    }
                    switch random.below(8) {
                    case 0, 1:
                        log.append("settle all")
                        try test.settleAll()
                        try checkMemories(test)
                        try checkHistory(test)
                    case 2:
                        log.append("reopen")
                        for mount in test.mounts { mount.closeAll() }
                        try test.reopen()
                    case 3:
                        log.append("crash")
                        try test.crash()
                    case 4:
                        log.append("tidy")
                        try test.tidyAll()
                    default: break
                    }
                    try compare(test, hashes: batch % 8 == 7)
                }
                try test.settleAll()
                try test.tidyAll()
                try test.reopen()
                try compare(test, hashes: true)
                try checkMemories(test)
                try checkHistory(test)
            }
        }

        // MARK: Comparing

        private func compare(_ test: TestStore, hashes: Bool) throws {
            let violations = try Invariants.violations(test.store, hashes: hashes)
            guard violations.isEmpty else { throw Failure(violations.joined(separator: "\n")) }
            let mount = test.mounts[0]
            // Looking is part of the game: a lookup settles a new file, so only now and then by a mount that knows it.
            let tree = try test.tree()
            var found: [String: String] = [:]
            for line in tree {
                let fields = line.split(separator: " ")
                found[String(fields[0])] = line
            }
            model.forgetImplied { found[$0] == nil }
            let missing = Set(model.nodes.keys).subtracting(found.keys)
            let extra = Set(found.keys).subtracting(model.nodes.keys)
            guard missing.isEmpty, extra.isEmpty else { throw Failure("missing \(missing.sorted()), not expected \(extra.sorted())") }
            for (path, node) in model.nodes where !node.isDirectory {
                let hash = Digest(of: node.content).hex.prefix(16)
                guard found[path]!.hasSuffix(" \(node.content.count) \(hash) \(node.content.count)") else {
                    throw Failure("\(path) should have \(node.content.count) bytes \(hash): \(found[path]!)")
                }
            }
            _ = mount
        }

        /// What is settled is shown by the API as the mounts show it.
        private func checkMemories(_ test: TestStore) throws {
            for path in model.files() {
                let content = model.nodes[path]!.content
                guard let memory = try? test.memory(path) else { continue }
                guard memory.sizeInBytes == content.count, memory.contentSHA256 == Digest(of: content).hex else {
                    throw Failure("memory \(path) has \(memory.sizeInBytes) bytes of \(content.count)")
                }
                guard try test.store.content(of: memory) == content else { throw Failure("the content of memory \(path) is another") }
            }
            // A memory at each path that is no working file's and not a further name.
            let listed = Set(
                try test.store.memories(under: "/", depth: 0, after: nil, limit: 10_000).compactMap { item -> String? in
                    if case .memory(let memory) = item { memory.path } else { nil }
                })
            for path in model.files() where !listed.contains(path) {
                let attributes = try test.mounts[0].attributes(path)
                let isWorking = path.contains("~") || path.contains("/.git/") || path.contains("4913")
                guard isWorking || attributes.links > 1 else { throw Failure("\(path) is no memory") }
            }
            for version in try test.versions() where version.operation != .deleted {
                let content = try test.store.content(of: version)!
                if let known = history[version.number], known != content { throw Failure("version \(version.number) has changed") }
                history[version.number] = content
            }
        }

        /// Every version that was ever shown is there and has its bytes still.
        private func checkHistory(_ test: TestStore) throws {
            let versions = try test.versions()
            let lost = Set(history.keys).subtracting(versions.map(\.number))
            guard lost.isEmpty else { throw Failure("versions \(lost.sorted()) are gone") }
            for version in versions where version.operation != .deleted {
                let content = try test.store.content(of: version)!
                guard version.sizeInBytes == Int64(content.count) else { throw Failure("version \(version.number) has another size") }
                if let digest = version.contentSHA256, digest != Digest(of: content).hex {
                    throw Failure("version \(version.number) has another hash")
                }
                if let known = history[version.number], known != content { throw Failure("version \(version.number) has changed") }
            }
        }

        // MARK: One step

        private func expect(_ expected: RemfsError.Code?, _ what: String, _ body: () throws -> Void) throws {
            log.append(what + (expected.map { " -> \($0)" } ?? ""))
            do {
                try body()
                if let expected { throw Failure("\(what) should fail with \(expected)") }
            } catch let error as RemfsError {
                guard error.code == expected else {
                    throw Failure("\(what) failed with \(error), expected \(expected.map { "\($0)" } ?? "nothing")")
                }
            }
        }

        private func newPath() -> String { random.pick(model.directories()) + "/" + random.pick(Self.names) }

        /// Like the file's own text with a small change, mostly.
        private func content(near old: [UInt8]) -> [UInt8] {
            if !old.isEmpty, random.chance(50) {
                var edited = old
                let place = random.below(edited.count)
                edited.insert(contentsOf: random.text(1 + random.below(60)), at: place)
                return edited
            }
            return random.text(random.pick(Self.sizes))
        }

        private func step(_ test: TestStore) throws {
            let mount = random.pick(test.mounts)
            model.forgetImplied { (try? mount.find($0)) == .some(nil) }
            let files = model.files()
            switch random.below(30) {
            case 0, 1, 2:
                let path = newPath()
                try expect(model.nodes[path] == nil ? nil : .pathConflict, "create \(path) in \(mount.origin.number)") {
                    try mount.create(path)
                }
                if model.nodes[path] == nil { model.nodes[path] = Model.Node(isDirectory: false) }
            case 3:
                let path = newPath()
                guard path.filter({ $0 == "/" }).count < 5 else { return }
                try expect(model.nodes[path] == nil ? nil : .pathConflict, "mkdir \(path)") { try mount.mkdir(path) }
                if model.nodes[path] == nil { model.nodes[path] = Model.Node(isDirectory: true) }
            case 4, 5, 6:
                guard !files.isEmpty else { return }
                let path = random.pick(files)
                let node = model.nodes[path]!
                let piece = random.text(1 + random.below(random.chance(20) ? 140_000 : 400))
                let isAppend = random.chance(50)
                let offset = isAppend ? node.content.count : random.below(node.content.count + 2)
                try expect(nil, "write \(path) \(piece.count) at \(offset)\(isAppend ? " (append)" : "") in \(mount.origin.number)") {
                    let place = try mount.pwrite(mount.number(path), piece, at: Int64(isAppend ? 0 : offset), append: isAppend)
                    guard place == offset else { throw Failure("wrote at \(place)") }
                }
                node.content = Model.write(piece, at: offset, to: node.content)
            case 7, 8:
                guard !files.isEmpty else { return }
                let path = random.pick(files)
                let node = model.nodes[path]!
                let size = random.chance(50) ? random.pick(Self.sizes) : random.below(node.content.count + 1)
                try expect(nil, "truncate \(path) to \(size) in \(mount.origin.number)") {
                    try mount.truncate(mount.number(path), to: Int64(size))
                }
                if size < node.content.count {
                    node.content.removeSubrange(size...)
                } else {
                    node.content += [UInt8](repeating: 0, count: size - node.content.count)
                }
            case 9:
                guard !files.isEmpty else { return }
                let path = random.pick(files)
                let node = model.nodes[path]!
                let offset = random.below(node.content.count + 10)
                let length = 1 + random.below(90_000)
                try expect(nil, "punch \(path) \(offset) \(length)") { try mount.punch(mount.number(path), Int64(offset), Int64(length)) }
                let end = min(offset + length, node.content.count)
                if offset < end { node.content.replaceSubrange(offset..<end, with: repeatElement(0, count: end - offset)) }
            case 10, 11, 12:
                guard !files.isEmpty else { return }
                // A whole save, through a temporary file or in place.
                let path = random.pick(files)
                let content = content(near: model.nodes[path]!.content)
                if random.chance(50) {
                    try expect(nil, "save \(path) \(content.count)") { try mount.save(path, content) }
                    model.nodes[path]!.content = content
                } else {
                    let temporary = Model.parent(of: path) + "/" + random.pick(["tmp1", "4913", "x~"])
                    guard model.nodes[temporary] == nil else { return }
                    try expect(nil, "save \(path) \(content.count) through \(temporary)") {
                        try mount.save(temporary, content)
                        if random.chance(30) { try test.store.settle() }
                        try mount.rename(temporary, path)
                    }
                    let node = Model.Node(isDirectory: false)
                    node.content = content
                    model.nodes[path] = node
                }
            case 13, 14, 15: try rename(test, mount)
            case 16, 17:
                guard !files.isEmpty else { return }
                let path = random.pick(files)
                try expect(nil, "unlink \(path) in \(mount.origin.number)") { try mount.unlink(path) }
                model.nodes[path] = nil
            case 18:
                guard !files.isEmpty else { return }
                let (from, path) = (random.pick(files), newPath())
                try expect(model.nodes[path] == nil ? nil : .pathConflict, "link \(from) \(path)") { try mount.link(from, path) }
                if model.nodes[path] == nil { model.nodes[path] = model.nodes[from] }
            case 19:
                let path = random.pick(model.directories())
                guard !path.isEmpty else { return }
                // An implied one may be gone already.
                guard !model.nodes[path]!.isImplied else { return }
                model.forgetImplied { (try? mount.find($0)) == .some(nil) }
                try expect(model.children(of: path).isEmpty ? nil : .notEmpty, "rmdir \(path)") { try mount.rmdir(path) }
                if model.children(of: path).isEmpty { model.nodes[path] = nil }
            case 20, 21, 22:
                log.append("close all of \(mount.origin.number)")
                mount.closeAll()
                if random.chance(50) { try test.store.settle() }
            case 23:
                log.append("two seconds")
                try test.passTwoSeconds()
                model.forgetImplied { (try? mount.find($0)) == .some(nil) }
            case 24:
                log.append("orphans")
                try test.removeOrphans()
            default: try changeByAPI(test)
            }
        }

        private func rename(_ test: TestStore, _ mount: TestMount) throws {
            let all = model.nodes.keys.sorted()
            guard !all.isEmpty else { return }
            let from = random.pick(all)
            let isExchange = random.chance(15)
            let to = isExchange || random.chance(40) ? random.pick(all) : newPath()
            let (source, target) = (model.nodes[from]!, model.nodes[to])
            var expected: RemfsError.Code?
            if source === target {
                expected = nil
            } else if source.isDirectory, to.hasPrefix(from + "/") {
                expected = .invalidArgument
            } else if isExchange {
                if let target, target.isDirectory, from.hasPrefix(to + "/") { expected = .invalidArgument }
            } else if let target {
                if source.isDirectory, !target.isDirectory { expected = .notADirectory }
                if source.isDirectory, target.isDirectory {
                    model.forgetImplied { (try? mount.find($0)) == .some(nil) }
                    guard model.nodes[from] != nil, model.nodes[to] != nil else { return }
                    if !model.children(of: to).isEmpty { expected = .notEmpty }
                }
                if !source.isDirectory, target.isDirectory { expected = .isADirectory }
            }
            let what = "rename \(from) \(to)\(isExchange ? " (exchange)" : "") in \(mount.origin.number)"
            if isExchange, expected == nil, source !== target {
                // Further names of a linked file do not take part.
                do {
                    try mount.rename(from, to, .exchange)
                    log.append(what)
                } catch let error as RemfsError where error.code == .unsupported {
                    log.append(what + " -> unsupported")
                    return
                }
                model.move(from, to: "//")
                model.move(to, to: from)
                model.move("//", to: to)
                return
            }
            try expect(expected, what) { try mount.rename(from, to, isExchange ? .exchange : .replace) }
            if expected == nil, source !== target { model.move(from, to: to) }
        }

        // MARK: The API

        private func changeByAPI(_ test: TestStore) throws {
            let memories = try test.state { state in
                try state.settle()
                return state.memoryInodes.compactMap { number, place -> (MemoryID, String)? in
                    guard let inode = state.inodes[place], inode.head != nil else { return nil }
                    return (MemoryID(store: state.id, number: number), state.path(of: inode))
                }.sorted { $0.1 < $1.1 }
            }
            model.forgetImplied { (try? test.mounts[0].find($0)) == .some(nil) }
            let kind = random.below(4)
            if kind == 0 || memories.isEmpty {
                let path = newPath() + (random.chance(30) ? "/deep/" + random.pick(Self.names) : "")
                guard (try? MemoryPath(path)) != nil else { return }
                let content = content(near: [])
                guard content.count <= 102_400 else { return }
                try expect(occupied(path, moving: nil) ? .pathConflict : nil, "API create \(path)") {
                    try test.store.commit(.create(path: MemoryPath(path), content: content), by: Author(.local))
                }
                if !occupied(path, moving: nil) { place(path, Model.Node(isDirectory: false), content) }
                return
            }
            let (id, path) = random.pick(memories)
            let node = model.nodes[path]!
            switch kind {
            case 1:
                let content = content(near: node.content)
                guard content.count <= 102_400 else { return }
                try expect(nil, "API update \(path) \(content.count)") {
                    try test.store.commit(.update(id, content: content, path: nil), by: Author(.local))
                }
                node.content = content
            case 2:
                let target = random.chance(20) ? path + "/" + random.pick(Self.names) : newPath()
                guard (try? MemoryPath(target)) != nil else { return }
                let isTaken = target != path && occupied(target, moving: path)
                let change = MemoryChange.update(id, content: random.chance(30) ? bytes("both") : nil, path: try MemoryPath(target))
                try expect(isTaken ? .pathConflict : nil, "API rename \(path) \(target)") {
                    try test.store.commit(change, by: Author(.local))
                }
                guard !isTaken else { return }
                if case .update(_, let content?, _) = change { node.content = content }
                if target != path {
                    model.nodes[path] = nil
                    place(target, node, node.content)
                    model.forgetImplied { (try? test.mounts[0].find($0)) == .some(nil) }
                }
            default:
                try expect(nil, "API delete \(path)") { try test.store.commit(.delete(id), by: Author(.local)) }
                model.nodes[path] = nil
                model.forgetImplied { (try? test.mounts[0].find($0)) == .some(nil) }
            }
        }

        /// A path is free when no file sits at it, above it or below it.
        private func occupied(_ path: String, moving: String?) -> Bool {
            var above = Model.parent(of: path)
            while !above.isEmpty {
                if let node = model.nodes[above], !node.isDirectory, above != moving { return true }
                above = Model.parent(of: above)
            }
            if let node = model.nodes[path], !node.isDirectory { return true }
            return model.children(of: path).contains { !model.nodes[$0]!.isDirectory && $0 != moving }
        }

        private func place(_ path: String, _ node: Model.Node, _ content: [UInt8]) {
            for below in model.children(of: path) { model.nodes[below] = nil }
            node.content = content
            var above = Model.parent(of: path)
            while !above.isEmpty {
                if model.nodes[above] == nil {
                    let directory = Model.Node(isDirectory: true)
                    directory.isImplied = true
                    model.nodes[above] = directory
                }
                above = Model.parent(of: above)
            }
            model.nodes[path] = node
        }
    }
}
