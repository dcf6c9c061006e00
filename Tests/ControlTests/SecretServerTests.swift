import Foundation
import Storage
import TestSupport
import Testing
import Threads

@testable import Control

/// What clients are told of secrets: marks, refusals, events, and never the secret.
@Suite struct SecretServerTests {
    private static func setPolicy(_ control: ServedControl, _ store: String, _ secrets: String) throws {
        let answer = try control.local("POST", "/v1/memory_stores/\(store)/policy", #"{"secrets": "\#(secrets)"}"#)
        try #require(answer.status == 200)
    }

    private static func expectNoSecret(_ answer: RawResponse, sourceLocation: SourceLocation = #_sourceLocation) {
        let text = String(decoding: answer.body, as: UTF8.self) + "\(answer.headers)"
        for part in SampleSecret.parts { #expect(!text.contains(part), sourceLocation: sourceLocation) }
    }

    @Test func versionsCarryTheirMarks() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("notes")
            let memories = "/v1/memory_stores/\(store)/memories"
            for (path, content) in [("/clean", "the token"), ("/key", "key \(SampleSecret.githubToken) \(SampleSecret.awsKey)")] {
                #expect(try control.local("POST", memories, #"{"path": "\#(path)", "content": "\#(content)"}"#).status == 200)
            }
            try Self.setPolicy(control, store, "allow")
            #expect(try control.local("POST", memories, #"{"path": "/seen", "content": "\#(SampleSecret.awsKey)"}"#).status == 200)
            let answer = try control.local("GET", "/v1/memory_stores/\(store)/memory_versions")
            Self.expectNoSecret(answer)
            let versions = try #require(try answer.json()["data"] as? [[String: Any]])
            #expect(versions.map { $0["secrets"] as? [String] } == [nil, ["aws_access_key", "github_token"], nil])
            #expect(versions.allSatisfy { $0["trust"] is NSNull })
            // A client of the contract alone finds nothing that it does not know where there is nothing to tell.
            #expect(versions[0].keys.contains("secrets") == false && versions[2].keys.contains("secrets") == false)
        }
    }

    @Test func aRefusalIsA400AndChangesNothing() async throws {
        try await ServedControl.with { control in
            let store = try control.makeStore("notes")
            let memories = "/v1/memory_stores/\(store)/memories"
            let id = try #require(try control.local("POST", memories, #"{"path": "/a", "content": "one"}"#).json()["id"] as? String)
            try Self.setPolicy(control, store, "refuse")
            for (target, body) in [
                (memories, #"{"path": "/b", "content": "key \#(SampleSecret.githubToken)"}"#),
                ("\(memories)/\(id)", #"{"content": "key \#(SampleSecret.githubToken)"}"#),
                ("\(memories)/\(id)", #"{"path": "/c", "content": "key \#(SampleSecret.githubToken)"}"#),
            ] {
                let answer = try control.local("POST", target, body)
                #expect(answer.status == 400)
                #expect(answer.headers["remfs-error"] == "holds_secret")
                Self.expectNoSecret(answer)
                let error = try #require(try answer.json()["error"] as? [String: Any])
                #expect(error["type"] as? String == "invalid_request_error")
                #expect((error["message"] as? String)?.contains("would hold a secret (github_token)") == true)
            }
            let page = try #require(try control.local("GET", memories + "?view=full").json()["data"] as? [[String: Any]])
            #expect(page.map { $0["path"] as? String } == ["/a"] && page.map { $0["content"] as? String } == ["one"])
            let versions = try control.local("GET", "/v1/memory_stores/\(store)/memory_versions").json()["data"] as? [[String: Any]]
            #expect(versions?.count == 1)
        }
    }

    @Test func theChangeStreamTellsOfBoth() async throws {
        try await ServerTests.servingSocket { socket, stores in
            func perform<Answer: Sendable>(_ body: @escaping @Sendable () throws(RemfsError) -> Answer) async throws -> Answer {
                try await stores.run(body)
            }
            let id = try await perform { () throws(RemfsError) in
                try stores.createStore(name: "notes", description: "", metadata: [:]).id
            }
            let author = Author(.local)
            try await stores.perform(id) { (store) throws(RemfsError) in
                let change = MemoryChange.create(path: try MemoryPath("/key"), content: Array("key \(SampleSecret.githubToken)".utf8))
                _ = try store.commit(change, by: author)
            }
            var policy = Policy()
            policy.secrets = .refuse
            _ = try await perform { [policy] () throws(RemfsError) in try stores.setPolicy(id, policy) }
            let attempts = Task {
                while !Task.isCancelled {
                    try? await stores.perform(id) { (store) throws(RemfsError) in  // it is refused: that is the test
                        let change = MemoryChange.create(path: try MemoryPath("/new"), content: Array("key \(SampleSecret.awsKey)".utf8))
                        _ = try store.commit(change, by: author)
                    }
                    try? await Task.sleep(for: .milliseconds(20))  // only cancellation ends it early
                }
            }
            defer { attempts.cancel() }
            var text = ""
            do {
                let route = "/v1/memory_stores/\(id)/events/stream"
                try await ControlClient(socket: socket).stream(.get, route, query: [("after", "start")]) { (piece) throws(RemfsError) in
                    text += String(decoding: piece, as: UTF8.self)
                    if text.contains("event: memory.refused\n"), text.contains("event: memory.secret_found\n") {
                        throw RemfsError(.unavailable, "enough")
                    }
                }
                Issue.record("the stream ended by itself: \(text)")
            } catch let error as RemfsError {
                #expect(error.message == "enough")
            }
            let created = try #require(text.firstRange(of: "event: memory.created\n"))
            let found = try #require(text.firstRange(of: "event: memory.secret_found\n"))
            #expect(created.lowerBound < found.lowerBound)
            #expect(text.contains(#""secrets":["github_token"]"#) && text.contains(#""code":"holds_secret""#))
            for part in SampleSecret.parts { #expect(!text.contains(part)) }
        }
    }
}
