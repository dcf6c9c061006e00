import Foundation
import Glibc
import HTTPTypes
import Storage
import TestSupport
import Testing

@testable import Control

/// Who comes in, and what a key lets its bearer do.
@Suite struct KeyTests {
    /// A target of a route, with IDs in place of names.
    private static func target(_ route: Routes.Route, store: String) -> String {
        let ids = ["store": store]
        return "/"
            + route.path.split(separator: "/").map { part in
                part.first == ":" ? ids[String(part.dropFirst())] ?? "x" : String(part)
            }.joined(separator: "/")
    }

    /// Whoever adds a route says who may use it.
    @Test func everyRouteSaysWhatItsCallerMustBeAllowed() async throws {
        try await ServedControl.with { control in
            #expect(control.routes.count > 20)
            for route in control.routes { #expect(route.need != nil, "\(route.method) \(route.path) has no `needs`") }
        }
    }

    @Test func everyRouteIsClosedToThoseWhoMayNotUseIt() async throws {
        try await ServedControl.with { control in
            let (mine, other) = (try control.makeStore("mine"), try control.makeStore("other"))
            let reader = try control.makeKey("read", stores: [mine]).secret
            let writer = try control.makeKey("write", stores: [mine]).secret
            let admin = try control.makeKey("admin", stores: [mine]).secret
            for route in control.routes {
                let method = route.method.rawValue
                let name = "\(method) \(route.path)"
                #expect(try control.remote(method, Self.target(route, store: mine)).status == 401, "\(name) without a key")
                func isRefused(_ key: String, _ store: String) throws -> Bool {
                    let answer = try control.remote(method, Self.target(route, store: store), key: key)
                    if answer.status == 403 { #expect(try answer.errorType() == "permission_error") }
                    return answer.status == 403
                }
                switch route.need {
                case nil: break  // for the test above
                case .entry?: #expect(try !isRefused(reader, other), "\(name)")
                case .all?:
                    for key in [reader, writer, admin] { #expect(try isRefused(key, mine), "\(name)") }
                case .some(let permission)?:
                    #expect(try isRefused(reader, mine) == (permission > .read), "\(name)")
                    #expect(try isRefused(writer, mine) == (permission > .write), "\(name)")
                case .store(let permission)?:
                    for key in [reader, writer, admin] { #expect(try isRefused(key, other), "\(name) of another store") }
                    // One that is not there is none of the key's, and is not told from one that is.
                    #expect(try isRefused(reader, StoreID.random().description), "\(name) of no store")
                    #expect(try isRefused(reader, "x"), "\(name) of no store")
                    if permission > .read { #expect(try isRefused(reader, mine), "\(name)") }
                    if permission > .write { #expect(try isRefused(writer, mine), "\(name)") }
                }
            }
            // None of it has changed anything.
            #expect(try control.local("GET", "/v1/memory_stores").data().count == 2)
        }
    }

    @Test func aKeyMayDoWhatItsScopesSay() async throws {
        try await ServedControl.with { control in
            let (mine, other) = (try control.makeStore("mine"), try control.makeStore("other"))
            let route = "/v1/memory_stores/\(mine)/memories"
            let body = #"{"path": "/a", "content": "x"}"#
            let reader = try control.makeKey("read", stores: [mine]).secret
            let writer = try control.makeKey("write", stores: [mine])
            let admin = try control.makeKey("admin", stores: [mine]).secret
            let all = try control.makeKey("admin").secret
            #expect(try control.remote("POST", route, body, key: reader).status == 403)
            let made = try control.remote("POST", route, body, key: writer.secret)
            #expect(made.status == 200)
            let memory = try #require(made.json()["id"] as? String)
            #expect(try control.remote("GET", "\(route)/\(memory)", key: reader).status == 200)
            #expect(try control.remote("GET", "\(route)/\(memory)", headers: ["x-api-key: \(reader)"]).status == 200)
            #expect(try control.remote("POST", "/v1/memory_stores/\(mine)/policy", "{}", key: writer.secret).status == 403)
            #expect(try control.remote("POST", "/v1/memory_stores/\(mine)/policy", "{}", key: admin).status == 200)
            #expect(try control.remote("POST", "/v1/memory_stores", #"{"name": "third"}"#, key: admin).status == 403)
            #expect(try control.remote("POST", "/v1/memory_stores", #"{"name": "third"}"#, key: all).status == 200)
            #expect(try control.remote("GET", "/v1/memory_stores/\(other)", key: all).status == 200)

            // The key is who did it.
            let versions = try control.local("GET", "/v1/memory_stores/\(mine)/memory_versions?api_key_id=\(writer.id)").data()
            #expect(versions.count == 1)
            let actor = try #require(versions[0]["created_by"] as? [String: String])
            #expect(actor == ["type": "api_actor", "api_key_id": writer.id])
        }
    }

    @Test func listsShowOnlyWhatTheKeyMaySee() async throws {
        try await ServedControl.with { control in
            let mine = try (0..<3).map { _ in try control.makeStore("same") }
            for _ in 0..<3 { _ = try control.makeStore("same") }
            let key = try control.makeKey("read", stores: Array(mine.prefix(2))).secret
            func ids(_ target: String, _ key: String?) throws -> [String] {
                let answer = try key.map { try control.remote("GET", target, key: $0) } ?? control.local("GET", target)
                return try answer.data().compactMap { $0["id"] as? String }
            }
            #expect(try ids("/v1/memory_stores", key) == mine.prefix(2).reversed())
            #expect(try ids("/v1/memory_stores?name=same", key) == Array(mine.prefix(2)))
            #expect(try ids("/v1/memory_stores", nil).count == 6)
            // Pages are of what is shown.
            let page = try control.remote("GET", "/v1/memory_stores?limit=1", key: key).json()
            let next = try #require(page["next_page"] as? String)
            #expect(try ids("/v1/memory_stores?limit=1&page=\(next)", key) == [mine[0]])
            #expect(try control.remote("GET", "/v1/memory_stores?limit=1&page=\(next)", key: key).json()["next_page"] is NSNull)
            let status = try control.remote("GET", "/v1/status", key: key).json()
            #expect(status["stores"] as? Int == 2)
        }
    }

    @Test func onTheSocketAKeyNarrowsAndNothingWidens() async throws {
        try await ServedControl.with { control in
            let (mine, other) = (try control.makeStore("mine"), try control.makeStore("other"))
            let key = try control.makeKey("read", stores: [mine])
            let (here, there) = ("/v1/memory_stores/\(mine)", "/v1/memory_stores/\(other)")
            for header in ["Authorization: Bearer \(key.secret)", "authorization: bearer \(key.secret)", "X-API-Key: \(key.secret)"] {
                #expect(try control.local("GET", here, headers: [header]).status == 200)
                #expect(try control.local("GET", there, headers: [header]).status == 403)
                #expect(try control.local("POST", "\(here)/memories", "{}", headers: [header]).status == 403)
            }
            // SDKs must send something.
            for header in ["Authorization: Bearer none", "x-api-key: \(key.id)", "Authorization: Basic eDp5", "x-api-key: "] {
                #expect(try control.local("GET", there, headers: [header]).status == 200, "\(header)")
            }
            #expect(try control.local("POST", "/v1/keys/\(key.id)/revoke").status == 200)
            for target in [here, there] {
                let refused = try control.local("GET", target, headers: ["x-api-key: \(key.secret)", "Authorization: Bearer none"])
                #expect(refused.status == 401)
                #expect(try refused.errorType() == "authentication_error")
            }
            let second = try control.makeKey("read").secret
            let third = try control.makeKey("read").secret
            #expect(try control.local("GET", here, headers: ["x-api-key: \(second)", "Authorization: Bearer \(third)"]).status == 401)
            #expect(try control.local("GET", here, headers: ["x-api-key: \(second)", "Authorization: Bearer \(second)"]).status == 200)
        }
    }

    @Test func aRevokedKeyIsGoodForNothing() async throws {
        try await ServedControl.with { control in
            let key = try control.makeKey("admin")
            #expect(try control.remote("GET", "/v1/keys", key: key.secret).status == 200)
            let revoked = try control.remote("POST", "/v1/keys/\(key.id)/revoke", key: key.secret)
            #expect(revoked.status == 200)
            let time = try #require(revoked.json()["revoked_at"] as? String)
            #expect(try control.remote("GET", "/v1/status", key: key.secret).status == 401)
            // Again: unchanged.
            #expect(try control.local("POST", "/v1/keys/\(key.id)/revoke").json()["revoked_at"] as? String == time)
            // And so it is for the next daemon.
            let ring = try KeyRing(control.stores.catalog)
            #expect(ring.key(secret: key.secret)?.revoked != nil)
            #expect(try control.local("POST", "/v1/keys/apikey_01abc/revoke").status == 404)
        }
    }

    @Test func aSecretIsShownOnceAndKeptNowhere() async throws {
        try await ServedControl.with { control in
            var seen: Set<String> = []
            for _ in 0..<20 {
                let key = try control.makeKey("read")
                // 256 bits in base64 without padding.
                #expect(key.secret.hasPrefix("remfs_") && key.secret.utf8.count == 6 + 43)
                #expect(seen.insert(key.secret).inserted && seen.insert(key.id).inserted)
                let body = key.secret.dropFirst(6)
                #expect(!key.id.contains(body.prefix(6)) && !key.id.contains(body.suffix(6)))
                #expect(try KeyRing(control.stores.catalog).key(secret: key.secret)?.id.description == key.id)
                for answer in [try control.local("GET", "/v1/keys"), try control.local("GET", "/v1/keys/\(key.id)")] {
                    #expect(answer.status == 200)
                    #expect(!String(decoding: answer.body, as: UTF8.self).contains(body))
                }
                for file in try FileManager.default.subpathsOfDirectory(atPath: "\(control.directory)/state") {
                    guard let bytes = FileManager.default.contents(atPath: "\(control.directory)/state/\(file)") else { continue }
                    #expect(bytes.range(of: Data(body.utf8)) == nil, "\(file)")
                }
            }
        }
    }

    @Test func whatIsNoKeyIsRefused() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("mine")
            for (body, status) in [
                ("{}", 400), (#"{"name": "", "permission": "read"}"#, 400), (#"{"name": "a"}"#, 400),
                (#"{"name": "a", "permission": "root"}"#, 400), (#"{"name": "a", "permission": "read", "memory_store_ids": []}"#, 400),
                (#"{"name": "a", "permission": "read", "memory_store_ids": "\#(store)"}"#, 400),
                (#"{"name": "a", "permission": "read", "memory_store_ids": ["x"]}"#, 404),
                (#"{"name": "a", "permission": "read", "memory_store_ids": ["\#(StoreID.random())"]}"#, 404),
                (#"{"name": "a", "permission": "read", "scopes": 1}"#, 400),
            ] {
                #expect(try control.local("POST", "/v1/keys", body).status == status, "\(body)")
            }
            #expect(try control.local("GET", "/v1/keys").data().isEmpty)
        }
    }

    @Test func overTCPOnlyNamesOfThisMachineAreTaken() async throws {
        try await ServedControl.with { control in
            let key = try control.makeKey("read").secret
            for host in ["127.0.0.1", "localhost", "LOCALHOST:7447", "127.0.0.1:1", "[::1]", "[::1]:7447", "memory.example:80"] {
                #expect(try control.remote("GET", "/v1/status", key: key, host: host).status == 200, "\(host)")
            }
            for host in [
                "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:7447", "[::1].evil.example", "[::1",
                "localhost:7447:1", "user@localhost", "::1", "0.0.0.0", "10.0.0.1", "localhost:x",
            ] {
                let answer = try control.remote("GET", "/v1/status", key: key, host: host)
                #expect([400, 403].contains(answer.status), "\(host)")
                #expect(try ["permission_error", "invalid_request_error"].contains(answer.errorType()), "\(host)")
            }
            #expect(try control.remote("GET", "/v1/status", key: key, host: nil).status == 400)
            // Nor does a page learn what a key would open.
            #expect(try control.remote("GET", "/v1/status", host: "evil.example").status == 403)
            // The socket is nobody's by name.
            #expect(try control.local("GET", "/v1/status", headers: ["X-Test: 1"]).status == 200)
        }
    }

    @Test func listensOnIPv6AsWell() async throws {
        try await ServedControl.with(host: "[::1]") { control in
            let key = try control.makeKey("read").secret
            #expect(try Port.http(control.port, "GET", "/v1/status", key: key, host: "[::1]:\(control.port)", isIPv6: true).status == 200)
            #expect(try Port.http(control.port, "GET", "/v1/status", key: key, host: "evil.example", isIPv6: true).status == 403)
        }
    }

    @Test func anAddressIsAnAddressAndAPort() throws {
        for (text, shown, isLoopback) in [
            ("127.0.0.1:7447", "127.0.0.1:7447", true), ("localhost:1", "127.0.0.1:1", true), ("[::1]:7447", "[::1]:7447", true),
            ("127.3.2.1:65535", "127.3.2.1:65535", true), ("0.0.0.0:80", "0.0.0.0:80", false), ("[::]:80", "[::]:80", false),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80", true), ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", false),
            ("10.0.0.1:80", "10.0.0.1:80", false),
        ] {
            let address = try ListenAddress(text)
            #expect(address.description == shown && address.isLoopback == isLoopback, "\(text)")
        }
        for text in [
            "", "7447", ":7447", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "example.org:80", "127.1:80",
        ] {
            #expect(throws: RemfsError.self, "\(text)") { try ListenAddress(text) }
        }
    }
}
