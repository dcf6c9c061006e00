import Filesystem
import Foundation
import Glibc
import Logging
import ServiceLifecycle
import Storage
import TestSupport
import Testing

@testable import Control

/// A server in this process, on a socket and on a port, with a real store below and no kernel.
struct ServedControl: Sendable {
    let socket: String
    let volumes: String
    let port: UInt16
    let directory: String
    let stores: StorePool
    let routes: [Routes.Route]

    /// Runs `body` on a thread that may wait.
    static func with(
        limits: ConnectionLimits = ConnectionLimits(), host: String = "127.0.0.1",
        _ body: @escaping @Sendable (ServedControl) throws -> Void
    ) async throws {
        let directory = "/tmp/rk-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try! FileManager.default.removeItem(atPath: directory) }
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let stores = try StorePool(stateDirectory: "\(directory)/state", logger: logger)
        defer { stores.close() }
        let mounts = try MountTable(stores: stores, logger: logger)
        defer { mounts.stop() }
        let (ready, isReady) = AsyncStream<Void>.makeStream()
        let port = try Port.free()
        let server = try ControlServer(
            .init(
                socket: ControlSocket(path: "\(directory)/s"), stateDirectory: "\(directory)/state", version: "0.0.0", limits: limits,
                network: (try ListenAddress("\(host):\(port)"), HostNames(others: ["Memory.example"])),
                volumes: ControlSocket(path: "\(directory)/v", mode: 0o600)),
            stores: stores, mounts: mounts,
            sessions: SessionMounts(stores: stores, mounts: mounts, directory: nil, logger: logger), metrics: PrometheusMetrics(),
            logger: logger, onReady: { isReady.finish() })
        let group = ServiceGroup(services: [server], logger: logger)
        let control = ServedControl(
            socket: "\(directory)/s", volumes: "\(directory)/v", port: port, directory: directory, stores: stores, routes: server.routes)
        async let running: Void = group.run()
        for await _ in ready {}
        let outcome: Result<Void, any Error>
        do {
            outcome = .success(try await blocking { try body(control) })
        } catch {
            outcome = .failure(error)
        }
        await group.triggerGracefulShutdown()
        try await running
        try outcome.get()
    }

    /// Over the socket, as this process.
    @discardableResult
    func local(_ method: String, _ target: String, _ body: String? = nil, headers: [String] = []) throws -> RawResponse {
        try DaemonProcess.http(over: socket, method, target, body, headers: headers)
    }

    /// Over TCP.
    @discardableResult
    func remote(
        _ method: String, _ target: String, _ body: String? = nil, key: String? = nil, host: String? = "127.0.0.1", headers: [String] = []
    ) throws -> RawResponse {
        try Port.http(port, method, target, body, key: key, host: host, headers: headers)
    }

    func makeKey(_ permission: String, stores: [String]? = nil) throws -> (id: String, secret: String) {
        let named = stores.map { #", "memory_store_ids": [\#($0.map { "\"\($0)\"" }.joined(separator: ", "))]"# } ?? ""
        let answer = try local("POST", "/v1/keys", #"{"name": "k", "permission": "\#(permission)"\#(named)}"#)
        try #require(answer.status == 200, "\(String(decoding: answer.body, as: UTF8.self))")
        let key = try answer.json()
        return (try #require(key["id"] as? String), try #require(key["secret"] as? String))
    }

    func makeStore(_ name: String) throws -> String {
        try #require(try local("POST", "/v1/memory_stores", #"{"name": "\#(name)"}"#).json()["id"] as? String)
    }
}
