import Filesystem
import Foundation
import Glibc
import Logging
import NIOCore
import ServiceLifecycle
import Storage
import Testing

@testable import Control

/// The server and the client in one process, with a real store below and no kernel.
@Suite struct ServerTests {
    private static func serving(_ body: (ControlClient, StorePool) async throws -> Void) async throws {
        try await servingSocket { socket, stores in try await body(ControlClient(socket: socket), stores) }
    }

    static func servingSocket(
        streams: EventReader.Limits = .init(), _ body: (_ socket: String, StorePool) async throws -> Void
    ) async throws {
        let directory = "/tmp/rc-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try! FileManager.default.removeItem(atPath: directory) }
        var logger = Logger(label: "test")
        logger.logLevel = .error
        let stores = try StorePool(stateDirectory: "\(directory)/state", logger: logger)
        defer { stores.close() }
        let mounts = try MountTable(stores: stores, logger: logger)
        defer { mounts.stop() }
        let (ready, isReady) = AsyncStream<Void>.makeStream()
        let server = try ControlServer(
            .init(
                socket: ControlSocket(path: "\(directory)/s"), stateDirectory: "\(directory)/state", version: "0.0.0", streams: streams),
            stores: stores, mounts: mounts,
            sessions: SessionMounts(stores: stores, mounts: mounts, directory: nil, logger: logger), metrics: PrometheusMetrics(),
            logger: logger, onReady: { isReady.finish() })
        let group = ServiceGroup(services: [server], logger: logger)
        async let running: Void = group.run()
        for await _ in ready {}
        let outcome: Result<Void, any Error>
        do {
            outcome = .success(try await body("\(directory)/s", stores))
        } catch {
            outcome = .failure(error)
        }
        await group.triggerGracefulShutdown()
        try await running
        try outcome.get()
    }

    private struct Create: Encodable {
        var name: String?
        var path: String?
        var content: String?
    }

    private static func store(_ client: ControlClient) async throws -> String {
        let store: Wire.Store = try await client.call(.post, "/v1/memory_stores", body: Create(name: "notes"))
        return "/v1/memory_stores/\(store.id)"
    }

    @Test func whatIsWrittenIsRead() async throws {
        try await Self.serving { client, _ in
            let store = try await Self.store(client)
            let text = "line\n\u{0}\u{1F600}\"\\ \u{2028}é"
            let made: Wire.Memory = try await client.call(.post, "\(store)/memories", body: Create(path: "/é 😀/#?%.md", content: text))
            let read: Wire.Memory = try await client.call(.get, "\(store)/memories/\(made.id)")
            #expect(read.content == text)
            #expect(try await client.bytes(.get, "\(store)/memories/\(made.id)/content") == Data(text.utf8))
            let page = try await client.call(
                .get, "\(store)/memories", query: [("path", "/é 😀/#?%.md"), ("view", "full")], as: Wire.Page<Wire.Listing>.self)
            guard case .memory(let found)? = page.data.first else {
                Issue.record("nothing found")
                return
            }
            #expect(found.id == made.id && found.content == text)
        }
    }

    @Test func contentAndHashBelongTogetherWhileOthersWrite() async throws {
        try await Self.serving { client, _ in
            let store = try await Self.store(client)
            let memory: Wire.Memory = try await client.call(.post, "\(store)/memories", body: Create(path: "/a", content: "x"))
            let path = "\(store)/memories/\(memory.id)"
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    // The length tells which content a hash was of.
                    for length in 2...300 {
                        let _: Wire.Memory = try await client.call(
                            .post, path, body: Create(content: String(repeating: "x", count: length)))
                    }
                }
                group.addTask {
                    for _ in 0..<300 {
                        let seen: Wire.Memory = try await client.call(.get, path)
                        #expect(seen.content?.utf8.count == Int(seen.contentSizeBytes))
                    }
                }
                try await group.waitForAll()
            }
        }
    }

    @Test func contentThatNoStringHoldsIsNull() async throws {
        try await Self.serving { client, stores in
            let store = try await Self.store(client)
            let id = try #require(StoreID(String(store.split(separator: "/").last ?? "")))
            // Below the API's limit of 102,400 bytes, and no UTF-8: as a mount would write it.
            let bytes: [UInt8] = [0x61, 0xff, 0x62]
            let memory = try await stores.perform(id) { (store) throws(RemfsError) in
                try store.commit(.create(path: try MemoryPath("/binary"), content: bytes), by: Author(.local))
            }
            let shown: Wire.Memory = try await client.call(.get, "\(store)/memories/\(try #require(memory).id)")
            #expect(shown.content == nil && shown.contentSizeBytes == 3)
            #expect(try await client.bytes(.get, "\(store)/memories/\(shown.id)/content") == Data(bytes))
            let version: Wire.Version = try await client.call(.get, "\(store)/memory_versions/\(shown.memoryVersionID)")
            #expect(version.content == nil)
            #expect(try await client.bytes(.get, "\(store)/memory_versions/\(version.id)/content") == Data(bytes))
        }
    }

    @Test func aFailureComesBackAsItWas() async throws {
        try await Self.serving { client, _ in
            let store = try await Self.store(client)
            let errors = await [
                Self.failure { () async throws(RemfsError) in try await client.call(.get, "\(store)x", as: Wire.Store.self) },
                Self.failure { () async throws(RemfsError) in
                    try await client.call(
                        .post, "\(store)/memories", body: Create(path: "/a", content: String(repeating: "x", count: 102_401)),
                        as: Wire.Memory.self)
                },
                Self.failure { () async throws(RemfsError) in
                    try await client.call(.post, "/v1/memory_stores", body: Create(name: ""), as: Wire.Store.self)
                },
                Self.failure { () async throws(RemfsError) in
                    try await ControlClient(socket: "/tmp/nobody-is-here").call(.get, "/v1/status", as: Wire.Status.self)
                },
            ]
            #expect(errors.map { $0?.code } == [.notFound, .tooLarge, .invalidArgument, .unavailable])
            #expect(errors[2]?.message == "name must have 1 to 255 characters")
        }
    }

    @Test func whyNobodyAnswersIsSaid() async throws {
        func unanswered(_ code: Int32) -> RemfsError { ControlClient.unanswered(IOError(errnoCode: code, reason: "connect"), "/s") }
        #expect(unanswered(EACCES).code == .notPermitted)
        #expect(
            unanswered(EACCES).message
                == "user \(geteuid()) may not use the socket /s, only root, the daemon's user and members of its socket_group")
        for code in [ENOENT, ECONNREFUSED] {
            #expect(unanswered(code).code == .unavailable)
            #expect(unanswered(code).message == "no daemon answers at /s; start one with `remfs serve`")
        }
        #expect(unanswered(EPROTO).message == "the daemon at /s cannot be reached: Protocol error")
        #expect(unanswered(ECONNRESET).message == "the daemon at /s broke off before it had answered")
        let long = await Self.failure { () async throws(RemfsError) in
            try await ControlClient(socket: "/" + String(repeating: "x", count: 103)).call(.get, "/v1/status", as: Wire.Status.self)
        }
        #expect(long?.code == .invalidArgument)
    }

    private static func failure<Value>(_ body: () async throws(RemfsError) -> Value) async -> RemfsError? {
        do throws(RemfsError) {
            _ = try await body()
            return nil
        } catch {
            return error
        }
    }

    @Test func limitsOfAStoreAreHeld() async throws {
        struct Metadata: Encodable {
            var name: String? = "notes"
            var description: String?
            var metadata: [String: String?]?
        }
        try await Self.serving { client, _ in
            func create(_ body: Metadata) async -> RemfsError.Code? {
                do throws(RemfsError) {
                    let _: Wire.Store = try await client.call(.post, "/v1/memory_stores", body: body)
                    return nil
                } catch {
                    return error.code
                }
            }
            let keys = { (count: Int) in Dictionary(uniqueKeysWithValues: (0..<count).map { ("k\($0)", Optional("v")) }) }
            #expect(await create(.init(name: String(repeating: "😀", count: 255))) == nil)
            #expect(await create(.init(name: String(repeating: "x", count: 256))) == .invalidArgument)
            #expect(await create(.init(name: "a\u{7}b")) == .invalidArgument)
            #expect(await create(.init(description: String(repeating: "x", count: 1_024))) == nil)
            #expect(await create(.init(description: String(repeating: "x", count: 1_025))) == .invalidArgument)
            #expect(await create(.init(metadata: keys(16))) == nil)
            #expect(await create(.init(metadata: keys(17))) == .invalidArgument)
            #expect(await create(.init(metadata: [String(repeating: "k", count: 65): "v"])) == .invalidArgument)
            #expect(await create(.init(metadata: ["": "v"])) == .invalidArgument)
            #expect(await create(.init(metadata: ["k": String(repeating: "v", count: 513)])) == .invalidArgument)

            // At the cap one call may take a key away and add another.
            let store: Wire.Store = try await client.call(.post, "/v1/memory_stores", body: Metadata(metadata: keys(16)))
            let path = "/v1/memory_stores/\(store.id)"
            let moved: Wire.Store = try await client.call(
                .post, path, body: Metadata(name: nil, metadata: ["k0": nil, "new": "v", "absent": nil]))
            #expect(moved.metadata.count == 16 && moved.metadata["new"] == "v" && moved.metadata["k0"] == nil)
            let over = await Self.failure { () async throws(RemfsError) in
                try await client.call(.post, path, body: Metadata(name: "renamed", metadata: ["more": "v"]), as: Wire.Store.self)
            }
            #expect(over?.code == .invalidArgument)
            let unchanged: Wire.Store = try await client.call(.get, path)
            #expect(unchanged.name == "notes", "all or nothing")
        }
    }

    @Test func manyFollowersCostOneThreadAndAllAreWoken() async throws {
        try await Self.servingSocket { socket, _ in
            let client = ControlClient(socket: socket)
            // For one path of a socket there are eight connections at most, which followers may hold all of: another spelling has its own.
            let writer = ControlClient(socket: "/." + socket)
            let store = try await Self.store(client)
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<50 {
                    group.addTask {
                        let page: Wire.Page<Wire.Version> = try await client.call(
                            .get, "\(store)/memory_versions", query: [("after", "start"), ("wait", "60")])
                        return page.data.count
                    }
                }
                // Whoever asks later than this finds the version at once, and whoever waits is woken: both count.
                let _: Wire.Memory = try await writer.call(.post, "\(store)/memories", body: Create(path: "/a", content: "x"))
                for try await count in group { #expect(count == 1) }
            }
        }
    }

    @Test func aFollowerSeesOnlyWhatItAskedFor() async throws {
        try await Self.serving { client, _ in
            let store = try await Self.store(client)
            async let deleted: Wire.Page<Wire.Version> = client.call(
                .get, "\(store)/memory_versions", query: [("after", "start"), ("wait", "60"), ("operation", "deleted")])
            let memory: Wire.Memory = try await client.call(.post, "\(store)/memories", body: Create(path: "/a", content: "x"))
            let _: Wire.Deleted = try await client.call(.delete, "\(store)/memories/\(memory.id)")
            #expect(try await deleted.data.map(\.operation) == ["deleted"])
        }
    }

    @Test func aWaitForADeletedStoreEnds() async throws {
        try await Self.serving { client, _ in
            let store = try await Self.store(client)
            async let waiting = Self.failure { () async throws(RemfsError) in
                try await client.call(
                    .get, "\(store)/memory_versions", query: [("after", "start"), ("wait", "60")], as: Wire.Page<Wire.Version>.self)
            }
            let _: Wire.Deleted = try await client.call(.delete, store)
            #expect(await waiting?.code == .notFound)
        }
    }
}
