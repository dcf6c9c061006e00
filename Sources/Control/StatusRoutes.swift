import Filesystem
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore
import Storage

/// `GET /v1/status` for people and start-up scripts, `GET /metrics` for Prometheus.
struct StatusRoutes: Sendable {
    let stores: StorePool
    let mounts: MountTable
    let metrics: PrometheusMetrics
    let configuration: ControlServer.Configuration
    let started = Timestamp.now()

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/status", needs: .entry, use: status)
        routes.on(.get, "/metrics", needs: .all(.read), use: exposition)
    }

    func status(_ request: Request, _ context: ControlContext) async throws -> Wire.Status {
        let among = context.scopes.stores
        let numbers = try await stores.run { () throws(RemfsError) in try stores.statistics(among: among) }
        return Wire.Status(
            version: configuration.version, pid: getpid(), startedAt: started.rfc3339, stateDirectory: configuration.stateDirectory,
            stores: numbers.stores, openStores: numbers.open,
            mounts: mounts.mounts().count { among?.contains($0.store) ?? true })
    }

    func exposition(_ request: Request, _ context: ControlContext) async throws -> Response {
        let numbers = try await stores.run { () throws(RemfsError) in try stores.statistics() }
        var text = PrometheusText()
        text.add("remfs_stores", .gauge, [([], Double(numbers.stores))])
        text.add("remfs_stores_open", .gauge, [([], Double(numbers.open))])
        text.add("remfs_mounts", .gauge, [([], Double(mounts.mounts().count))])
        let operations = mounts.operationCounts()
        text.add(
            "remfs_fuse_requests_total", .counter, operations.map { ([("op", $0.operation), ("errno", "\($0.errno)")], Double($0.count)) })
        text.add(
            "remfs_fuse_request_seconds", .summary,
            Dictionary(grouping: operations, by: \.operation).sorted { $0.key < $1.key }.map { operation, rows in
                (
                    [("op", operation)],
                    PrometheusText.Summary(count: rows.reduce(0) { $0 + $1.count }, sum: rows.reduce(0) { $0 + $1.seconds })
                )
            })
        metrics.write(to: &text)
        return Response(
            status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
            body: .init(byteBuffer: ByteBuffer(string: text.text)))
    }
}
