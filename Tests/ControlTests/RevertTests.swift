import Foundation
import Storage
import TestSupport
import Testing

@testable import Control

/// Putting back a session's changes, on the wire.
@Suite struct RevertTests {
    private static let session = SessionID(bits: 7)

    /// A store in which a session has changed, made, moved and deleted something, and somebody else has changed something since.
    private static func prepare(_ control: ServedControl) throws -> String {
        let store = try control.makeStore("notes")
        let id = try #require(StoreID(store))
        let notes = try control.stores.retain(id)
        defer { control.stores.release(id) }
        func create(_ path: String, _ content: String, by author: Author) throws -> Memory {
            try #require(try notes.commit(.create(path: MemoryPath(path), content: Array(content.utf8)), by: author))
        }
        let theirs = Author(.session(session.description))
        let made = try ["/changed", "/moved", "/gone", "/contested"].map { try create($0, "one", by: Author(.user("user_1"))) }
        try notes.commit(.update(made[0].id, content: Array("two".utf8), path: nil), by: theirs)
        try notes.commit(.update(made[1].id, content: nil, path: MemoryPath("/away")), by: theirs)
        try notes.commit(.delete(made[2].id), by: theirs)
        try notes.commit(.update(made[3].id, content: Array("two".utf8), path: nil), by: theirs)
        try notes.commit(.update(made[3].id, content: Array("three".utf8), path: nil), by: Author(.user("user_2")))
        _ = try create("/new", "new", by: theirs)
        return store
    }

    private static func contents(_ control: ServedControl, _ store: String) throws -> [String: String] {
        let memories = try control.local("GET", "/v1/memory_stores/\(store)/memories?view=full").data()
        return Dictionary(uniqueKeysWithValues: memories.map { ($0["path"] as? String ?? "", $0["content"] as? String ?? "") })
    }

    @Test func whatASessionChangedIsPutBackAndWhatWasDoneIsTold() async throws {
        try await ServedControl.with { control in
            let store = try Self.prepare(control)
            let route = "/v1/memory_stores/\(store)"
            let writer = try control.makeKey("write", stores: [store])
            let before = try Self.contents(control, store)
            func revert(_ isDryRun: Bool) throws -> [String: Any] {
                let body = #"{"session_id": "\#(Self.session)", "dry_run": \#(isDryRun)}"#
                let answer = try control.remote("POST", "\(route)/revert", body, key: writer.secret)
                #expect(answer.status == 200, "\(String(decoding: answer.body, as: UTF8.self))")
                return try answer.json()
            }
            func changes(_ answer: [String: Any]) -> [[String: Any]] { answer["data"] as? [[String: Any]] ?? [] }
            let planned = try revert(true)
            #expect(try Self.contents(control, store) == before)
            let done = try revert(false)
            for answer in [planned, done] {
                #expect(
                    Set(answer.keys) == [
                        "type", "memory_store_id", "session_id", "since", "dry_run", "restored", "moved", "recreated", "deleted",
                        "unchanged",
                        "data", "omitted", "left", "left_omitted", "undo_version_id",
                    ])
                #expect(answer["type"] as? String == "memory_store_revert" && answer["memory_store_id"] as? String == store)
                #expect(answer["session_id"] as? String == Self.session.description && answer["since"] is NSNull)
                for kind in ["restored", "moved", "recreated", "deleted"] { #expect(answer[kind] as? Int == 1, "\(kind)") }
                for count in ["unchanged", "omitted", "left_omitted"] { #expect(answer[count] as? Int == 0, "\(count)") }
                let told = changes(answer).map { "\($0["change"] ?? "") \($0["path"] ?? "")" }
                #expect(told == ["restored /changed", "recreated /gone", "moved /moved", "deleted /new"])
                for change in changes(answer) {
                    #expect(
                        Set(change.keys) == [
                            "type", "change", "memory_id", "path", "old_path", "from_version_id", "to_version_id", "memory_version_id",
                        ])
                    #expect((change["to_version_id"] is NSNull) == (change["change"] as? String == "deleted"))
                    #expect((change["old_path"] as? String) == (change["change"] as? String == "moved" ? "/away" : nil))
                }
                let left = try #require(answer["left"] as? [[String: Any]])
                #expect(left.count == 1)
                #expect(
                    Set(left[0].keys) == [
                        "type", "reason", "memory_id", "path", "memory_version_id", "changed_at", "changed_by", "conflicting_memory_id",
                        "conflicting_path",
                    ])
                #expect(left[0]["reason"] as? String == "changed_since" && left[0]["path"] as? String == "/contested")
                #expect(left[0]["changed_by"] as? [String: String] == ["type": "user_actor", "user_id": "user_2"])
                #expect(left[0]["conflicting_path"] is NSNull)
            }
            #expect(planned["dry_run"] as? Bool == true && planned["undo_version_id"] is NSNull)
            #expect(changes(planned).allSatisfy { $0["memory_version_id"] is NSNull })
            #expect(
                try Self.contents(control, store) == ["/changed": "one", "/moved": "one", "/gone": "one", "/contested": "three"])
            // Whoever asked is who did it.
            for change in changes(done) {
                let version = try control.local("GET", "\(route)/memory_versions/\(change["memory_version_id"] ?? "")").json()
                #expect(version["created_by"] as? [String: String] == ["type": "api_actor", "api_key_id": writer.id])
            }
            let undo = try #require(done["undo_version_id"] as? String)
            #expect(try control.local("POST", "\(route)/restore", #"{"to": "\#(undo)"}"#).status == 200)
            #expect(try Self.contents(control, store) == before)
        }
    }

    @Test func whatIsAskedWronglyIsRefused() async throws {
        try await ServedControl.with { control in
            let store = try Self.prepare(control)
            let route = "/v1/memory_stores/\(store)/revert"
            let session = #""session_id": "\#(Self.session)""#
            let before = try Self.contents(control, store)
            for body in [
                "{}", "[]", "", #"{"session_id": null}"#, #"{"session_id": 7}"#, #"{"session_id": "sesn_x"}"#,
                #"{"session_id": "apikey_local"}"#, "{\(session), \"since\": \"yesterday\"}", "{\(session), \"since\": 5}",
                "{\(session), \"dry_run\": \"yes\"}", "{\(session), \"path\": \"/a\"}",
            ] {
                let answer = try control.local("POST", route, body)
                #expect(answer.status == 400, "\(body)")
                #expect(try answer.errorType() == "invalid_request_error", "\(body)")
            }
            #expect(try control.local("POST", "/v1/memory_stores/\(StoreID.random())/revert", "{}").status == 404)
            #expect(try control.local("POST", "/v1/memory_stores/x/revert", "{\(session)}").status == 404)
            #expect(try control.local("GET", route).status == 405)
            let reader = try control.makeKey("read", stores: [store]).secret
            #expect(try control.remote("POST", route, "{\(session)}", key: reader).status == 403)
            #expect(try control.local("POST", "/v1/memory_stores/\(store)/policy", #"{"access": "read_only"}"#).status == 200)
            let closed = try control.local("POST", route, "{\(session)}")
            #expect(closed.status == 400 && closed.headers["remfs-error"] == "read_only")
            #expect(try control.local("POST", route, "{\(session), \"dry_run\": true}").json()["restored"] as? Int == 1)
            #expect(try Self.contents(control, store) == before)
            #expect(try control.local("POST", "/v1/memory_stores/\(store)/policy", #"{"access": "read_write"}"#).status == 200)
            // From a time on at which all was done already, and of a session that nobody knows.
            let time = #""since": "2999-01-01T00:00:00Z""#
            let none = try control.local("POST", route, "{\(session), \(time)}").json()
            #expect((none["data"] as? [Any])?.isEmpty == true && none["since"] as? String != nil)
            let unknown = try control.local("POST", route, #"{"session_id": "\#(SessionID.random())"}"#)
            #expect(try unknown.status == 200 && (unknown.json()["data"] as? [Any])?.isEmpty == true)
            #expect(try Self.contents(control, store) == before)
        }
    }
}
