import Foundation
import Logging
import SQLite
import Testing
import Threads

@testable import Storage

/// Sessions, attachments, threads and events as rows of the catalog.
@Suite struct SessionTests {
    private func withPool(_ body: (StorePool) throws -> Void) throws {
        try TemporaryDirectory.with { directory in
            let pool = try StorePool(stateDirectory: directory + "/state", logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            defer { pool.close() }
            try body(pool)
        }
    }

    private func request(_ stores: [Store] = []) -> SessionRequest {
        var request = SessionRequest(agent: Session.Agent(id: "agent"), environment: "env")
        request.resources = stores.map { .init(store: $0.id.description) }
        return request
    }

    private func code<Value>(_ body: () throws(RemfsError) -> Value) -> RemfsError.Code? {
        do throws(RemfsError) {
            _ = try body()
            return nil
        } catch {
            return error.code
        }
    }

    private func message(_ text: String) -> SessionEvent.Draft {
        SessionEvent.Draft(type: "user.message", body: #"{"content":[{"text":"\#(text)","type":"text"}]}"#)
    }

    @Test(arguments: [
        ("Team handbook", "team-handbook"), ("  a  b ", "a-b"), ("Ünïcödé", "n-c-d"), ("---", "memstore_x"), ("日本", "memstore_x"),
        ("A_b.C", "a-b-c"), ("x", "x"), ("\u{212A}elvin", "kelvin"), ("../..", "memstore_x"), ("a/b", "a-b"),
    ])
    func aSlugIsMadeOfTheName(_ name: String, _ slug: String) {
        #expect(Slug.of(name, "memstore_x") == slug)
    }

    @Test func aSlugFitsIntoADirectory() {
        #expect(Slug.of(String(repeating: "ab ", count: 85), "memstore_x").utf8.count <= 250)
        #expect(Slug.of(String(repeating: "\u{130}", count: 255), "memstore_x").utf8.count <= 250)
    }

    @Test func storesOfOneNameHavePlacesOfTheirOwn() throws {
        try withPool { pool in
            let names = ["Notes", "notes!", "notes-2", "NOTES"]
            let stores = try names.map { try pool.createStore(name: $0, description: "d \($0)", metadata: [:]) }
            let session = try pool.catalog.createSession(request(stores))
            #expect(session.attachments.map(\.slug) == ["notes", "notes-2", "notes-2-2", "notes-3"])
            #expect(session.attachments.map(\.mountPath).first == "/mnt/memory/notes")
            #expect(session.attachments.map(\.place) == [1, 2, 3, 4])
            #expect(session.attachments.map(\.name) == names)
            #expect(session.attachments.map(\.description) == names.map { "d \($0)" })
        }
    }

    @Test func aSessionKeepsWhatItHadOfAStoreThatIsGone() throws {
        try withPool { pool in
            let store = try pool.createStore(name: "notes", description: "", metadata: [:])
            let session = try pool.catalog.createSession(request([store]))
            _ = try pool.catalog.updateStore(store.id, name: "renamed", description: "new", metadata: nil)
            try pool.deleteStore(store.id)
            let kept = try pool.catalog.session(session.id)
            #expect(kept.attachments.map(\.name) == ["notes"] && kept.attachments.map(\.store) == [store.id.description])
            #expect(try pool.catalog.setAccess(.readOnly, of: store.id.description, in: session.id).access == .readOnly)
        }
    }

    @Test func whatASessionCannotHaveIsRefusedAndLeavesNothing() throws {
        try withPool { pool in
            let store = try pool.createStore(name: "notes", description: "", metadata: [:])
            let archived = try pool.createStore(name: "old", description: "", metadata: [:])
            _ = try pool.archiveStore(archived.id)
            let many = try (0..<9).map { try pool.createStore(name: "s\($0)", description: "", metadata: [:]) }
            var cases: [(SessionRequest, RemfsError.Code)] = [
                (request([store, store]), .invalidArgument), (request([archived]), .readOnly), (request(many), .invalidArgument),
            ]
            func add(_ code: RemfsError.Code, _ change: (inout SessionRequest) -> Void) {
                var wrong = request([store])
                change(&wrong)
                cases.append((wrong, code))
            }
            add(.notFound) { $0.resources.append(.init(store: StoreID.random().description)) }
            add(.notFound) { $0.resources.append(.init(store: "memstore_nope")) }
            add(.invalidArgument) { $0.resources[0].instructions = String(repeating: "x", count: 4_097) }
            add(.invalidArgument) { $0.agent.id = "" }
            add(.invalidArgument) { $0.environment = "" }
            add(.invalidArgument) {
                $0.metadata = Dictionary(uniqueKeysWithValues: (0..<17).map { ("k\($0)", "v") })
            }
            add(.invalidArgument) { $0.metadata = ["k": String(repeating: "x", count: 513)] }
            add(.invalidArgument) { $0.events = Array(repeating: message("x"), count: 51) }
            // The last of its events is what is wrong.
            add(.notFound) {
                var draft = SessionEvent.Draft(type: "agent.tool_result", body: "{}")
                draft.reference = .init(field: "tool_use_id", event: "sevt_nope", isRequired: true)
                $0.events = [message("x"), draft]
            }
            for (wrong, expected) in cases {
                #expect(code { () throws(RemfsError) in try pool.catalog.createSession(wrong) } == expected, "\(wrong)")
            }
            #expect(try pool.catalog.sessions(SessionFilter(), .descending, after: nil, limit: 10).isEmpty)
            var whole = request(Array(many.prefix(8)))
            whole.resources[0].instructions = String(repeating: "x", count: 4_096)
            whole.events = Array(repeating: message("x"), count: 50)
            let session = try pool.catalog.createSession(whole)
            #expect(try pool.catalog.events(.session(session.id), EventFilter(), .ascending, after: nil, limit: 100).events.count == 50)
        }
    }

    @Test func sessionsAreFoundByWhatTheyAre() throws {
        try withPool { pool in
            let catalog = pool.catalog
            let (one, two) = (
                try pool.createStore(name: "one", description: "", metadata: [:]),
                try pool.createStore(name: "two", description: "", metadata: [:])
            )
            var made: [Session] = []
            for (place, stores) in [[one], [two], [one, two], []].enumerated() {
                var wanted = request(stores)
                wanted.agent = Session.Agent(id: place < 2 ? "a" : "b", version: Int64(place + 1))
                made.append(try catalog.createSession(wanted))
            }
            func found(_ change: (inout SessionFilter) -> Void) throws -> [Int] {
                var filter = SessionFilter()
                change(&filter)
                return try catalog.sessions(filter, .ascending, after: nil, limit: 10).map { session in
                    try #require(made.firstIndex { $0.id == session.id })
                }
            }
            #expect(try found { _ in } == [0, 1, 2, 3])
            #expect(try found { $0.store = one.id.description } == [0, 2])
            #expect(try found { $0.store = "memstore_nope" } == [])
            #expect(try found { $0.agent = "b" } == [2, 3])
            #expect(try found { ($0.agent, $0.agentVersion) = ("b", 4) } == [3])
            // By the SDK's word a version alone says nothing.
            #expect(try found { $0.agentVersion = 4 } == [0, 1, 2, 3])
            #expect(try found { ($0.from, $0.to) = (made[1].created, made[2].created) } == [1, 2])
            _ = try catalog.archiveSession(made[1].id)
            #expect(try found { _ in } == [0, 2, 3])
            #expect(try found { ($0.includeArchived, $0.statuses) = (true, [.terminated]) } == [1])
            #expect(try found { ($0.includeArchived, $0.statuses) = (true, [.terminated, .idle]) } == [0, 1, 2, 3])
            let page = try catalog.sessions(SessionFilter(), .descending, after: (made[3].created, made[3].sequence), limit: 1)
            #expect(page.map(\.id) == [made[2].id])
        }
    }

    @Test func timesRiseWhateverTheClockDoes() throws {
        try TemporaryDirectory.with { directory in
            let path = directory + "/catalog.sqlite"
            let future = Int64(4_000_000_000) * 1_000_000
            var catalog = try Catalog(path: path, isNew: true)
            let first = try catalog.createSession(request())
            let events = try catalog.send([message("a"), message("b"), message("c")], to: first.id)
            #expect(zip(events, events.dropFirst()).allSatisfy { $0.processed < $1.processed && $0.sequence < $1.sequence })
            // As if the clock had been ahead, and was set back while no daemon ran.
            try catalog.with { (connection) throws(SQLiteError) in try connection.execute("UPDATE event SET processed = \(future)") }
            try catalog.close()
            catalog = try Catalog(path: path, isNew: false)
            #expect(try catalog.send([message("d")], to: first.id)[0].processed.microseconds > future)
            #expect(try catalog.createSession(request()).created.microseconds > future)
        }
    }

    @Test func aCatalogOfTheFirstSchemaIsBroughtUpToDate() throws {
        try TemporaryDirectory.with { directory in
            let path = directory + "/catalog.sqlite"
            let old = try Connection(path: path, mode: .create)
            try Schema.migrate(
                old, named: "old", application: Schema.catalogApplicationID, migrations: Array(Schema.catalog.prefix(1)), isNew: true)
            try old.execute(
                "INSERT INTO store (id, name, description, metadata, policy, created, updated) VALUES ('x', 'n', '', '{}', '{}', 1, 1)")
            let catalog = try Catalog(path: path, isNew: false)
            #expect(try catalog.count() == 1)
            #expect(try catalog.createSession(request()).status == .idle)
            #expect(FileManager.default.fileExists(atPath: path + ".schema-1"))
        }
    }

    @Test func aToolResultNamesAToolUse() throws {
        try withPool { pool in
            let session = try pool.catalog.createSession(request()).id
            let other = try pool.catalog.createSession(request()).id
            func use(_ name: String?) -> SessionEvent.Draft {
                var draft = SessionEvent.Draft(type: "agent.tool_use", body: #"{"input":{},"name":"bash"}"#)
                draft.name = name
                return draft
            }
            func result(_ event: String, isRequired: Bool = true) -> SessionEvent.Draft {
                var draft = SessionEvent.Draft(type: "agent.tool_result", body: #"{"is_error":false}"#)
                draft.reference = .init(field: "tool_use_id", event: event, isRequired: isRequired)
                return draft
            }
            let sent = try pool.catalog.send([use("toolu_1"), use("toolu_2"), result("toolu_2"), result("toolu_1")], to: session)
            #expect(sent[2].body == #"{"tool_use_id":"\#(sent[1].id)","is_error":false}"#)
            #expect(sent[3].body == #"{"tool_use_id":"\#(sent[0].id)","is_error":false}"#)
            let later = try pool.catalog.send([result(sent[0].id.description)], to: session)
            #expect(later[0].body.contains(sent[0].id.description))
            // The client's own names are of one request, an event of another session is none of this one, a message is no tool use.
            let said = try pool.catalog.send([message("x")], to: session)[0].id.description
            for (name, expected) in [
                ("toolu_1", RemfsError.Code.notFound), (sent[0].id.description, .notFound), (said, .notFound), ("", .notFound),
            ] {
                #expect(code { () throws(RemfsError) in try pool.catalog.send([result(name)], to: other) } == expected)
            }
            #expect(code { () throws(RemfsError) in try pool.catalog.send([result(said)], to: session) } == .invalidArgument)
            #expect(try pool.catalog.send([result("anything", isRequired: false)], to: other)[0].body.contains(#""anything""#))
            var interrupt = SessionEvent.Draft(type: "user.interrupt", body: "{}")
            interrupt.thread = ThreadID.random().description
            #expect(code { () throws(RemfsError) in try pool.catalog.send([message("y"), interrupt], to: other) } == .notFound)
            #expect(try pool.catalog.events(.session(other), EventFilter(), .ascending, after: nil, limit: 10).events.count == 1)
        }
    }

    @Test func eventsAreListedInBothOrdersPageByPage() throws {
        try withPool { pool in
            let session = try pool.catalog.createSession(request()).id
            let sent = try pool.catalog.send((0..<7).map { message("\($0)") }, to: session)
            for order in Catalog.Order.allCases {
                var (seen, after, pages): ([SessionEvent], Int64?, Int) = ([], nil, 0)
                var hasMore = true
                while hasMore {
                    let page = try pool.catalog.events(.session(session), EventFilter(), order, after: after, limit: 3)
                    seen += page.events
                    (after, hasMore, pages) = (page.events.last?.sequence, page.hasMore, pages + 1)
                }
                #expect(seen.map(\.id) == (order == .ascending ? sent : sent.reversed()).map(\.id) && pages == 3)
            }
            var filter = EventFilter()
            (filter.from, filter.to) = (sent[2].processed, sent[4].processed)
            #expect(
                try pool.catalog.events(.session(session), filter, .ascending, after: nil, limit: 10).events.map(\.id)
                    == sent[2...4].map(\.id))
            filter = EventFilter()
            filter.types = ["agent.message"]
            #expect(try pool.catalog.events(.session(session), filter, .ascending, after: nil, limit: 10).events.isEmpty)
        }
    }

    @Test func aPageOfLargeEventsEndsEarlyAndLosesNone() throws {
        try withPool { pool in
            let session = try pool.catalog.createSession(request()).id
            let large = String(repeating: "x", count: 9 << 20)
            let sent = try pool.catalog.send((0..<5).map { _ in message(large) }, to: session)
            let first = try pool.catalog.events(.session(session), EventFilter(), .ascending, after: nil, limit: 100)
            #expect(first.events.count == 3 && first.hasMore)
            let rest = try pool.catalog.events(.session(session), EventFilter(), .ascending, after: first.events.last?.sequence, limit: 100)
            #expect((first.events + rest.events).map(\.id) == sent.map(\.id) && !rest.hasMore)
        }
    }

    @Test func anArchivedSessionTakesNothingAndADeletedOneLeavesNothing() throws {
        try withPool { pool in
            let catalog = pool.catalog
            let store = try pool.createStore(name: "notes", description: "", metadata: [:])
            let session = try catalog.createSession(request([store]))
            _ = try catalog.send([message("x")], to: session.id)
            let archived = try catalog.archiveSession(session.id)
            #expect(archived.status == .terminated && archived.archived != nil)
            #expect(try catalog.archiveSession(session.id).updated == archived.updated)
            #expect(code { () throws(RemfsError) in try catalog.send([message("y")], to: session.id) } == .readOnly)
            #expect(
                code { () throws(RemfsError) in try catalog.setAccess(.readOnly, of: store.id.description, in: session.id) } == .readOnly)
            #expect(try catalog.threads(of: session.id, statuses: [], after: 0, limit: 10).map(\.status) == [.terminated])
            #expect(try catalog.events(.session(session.id), EventFilter(), .ascending, after: nil, limit: 10).events.count == 1)
            try catalog.deleteSession(session.id)
            #expect(code { () throws(RemfsError) in try catalog.deleteSession(session.id) } == .notFound)
            for table in ["session", "attachment", "thread", "event"] {
                let rows = try catalog.with { (connection) throws(SQLiteError) in try connection.integer("SELECT count(*) FROM \(table)") }
                #expect(rows == 0, "\(table)")
            }
            #expect(try catalog.count() == 1)
        }
    }

    @Test func aRunningSessionIsNeitherArchivedNorDeleted() throws {
        try withPool { pool in
            let session = try pool.catalog.createSession(request())
            try pool.catalog.with { (connection) throws(SQLiteError) in try connection.execute("UPDATE session SET status = 'running'") }
            #expect(code { () throws(RemfsError) in try pool.catalog.archiveSession(session.id) } == .invalidArgument)
            #expect(code { () throws(RemfsError) in try pool.catalog.deleteSession(session.id) } == .invalidArgument)
            #expect(try pool.catalog.session(session.id).status == .running)
        }
    }

    @Test func theFirstThreadIsThereFromTheStart() throws {
        try withPool { pool in
            let catalog = pool.catalog
            let session = try catalog.createSession(request())
            let other = try catalog.createSession(request())
            let threads = try catalog.threads(of: session.id, statuses: [], after: 0, limit: 10)
            let thread = try #require(threads.first)
            #expect(threads.count == 1 && thread.parent == nil && thread.status == .idle && thread.created == session.created)
            #expect(try catalog.threads(of: session.id, statuses: [.running], after: 0, limit: 10).isEmpty)
            #expect(code { () throws(RemfsError) in try catalog.thread(thread.id, of: other.id) } == .notFound)
            _ = try catalog.send([message("x")], to: session.id)
            #expect(
                try catalog.events(.thread(thread.id, of: session.id), EventFilter(), .ascending, after: nil, limit: 10).events.count == 1)
            let archived = try catalog.archiveThread(thread.id, of: session.id)
            #expect(archived.archived != nil && archived.status == .terminated)
            #expect(try catalog.archiveThread(thread.id, of: session.id).updated == archived.updated)
            try catalog.with { (connection) throws(SQLiteError) in
                try connection.execute("UPDATE thread SET status = 'running', archived = NULL")
            }
            #expect(code { () throws(RemfsError) in try catalog.archiveThread(thread.id, of: session.id) } == .invalidArgument)
        }
    }

    /// What is told is told in the order in which it was committed, whoever sends.
    @Test func changesAreToldInTheOrderOfTheCommits() throws {
        try withPool { pool in
            let session = try pool.catalog.createSession(request()).id
            let told = Mutex<[Int64]>([])
            pool.catalog.observeSessions { change in
                if case .events(let events, _, _, true) = change { told.withLock { $0 += events.map(\.sequence) } }
            }
            concurrentlySend(4, 25, to: session, pool.catalog)
            let sequences = told.withLock { $0 }
            let listed = try pool.catalog.events(.session(session), EventFilter(), .ascending, after: nil, limit: 1_000).events.map(
                \.sequence)
            #expect(sequences == listed && listed.count == 100)
        }
    }

    private func concurrentlySend(_ threads: Int, _ times: Int, to session: SessionID, _ catalog: Catalog) {
        let failures = Mutex(0)
        Thread.forEach(Array(0..<threads), threads: threads, named: "sender") { number in
            for _ in 0..<times {
                let draft = SessionEvent.Draft(type: "user.message", body: #"{"content":[{"text":"\#(number)","type":"text"}]}"#)
                do { _ = try catalog.send([draft], to: session) } catch { failures.withLock { $0 += 1 } }
            }
        }
        #expect(failures.withLock { $0 } == 0)
    }

    /// Each statement of making a session, sending and deleting fails once: nothing half is ever left, and the catalog goes on.
    @Test func aFailureLeavesNothingHalf() throws {
        try withPool { pool in
            let catalog = pool.catalog
            let store = try pool.createStore(name: "notes", description: "", metadata: [:])
            var wanted = request([store])
            wanted.events = [message("a"), message("b")]
            func counts() throws -> [Int64?] {
                try ["session", "attachment", "thread", "event"].map { table in
                    try catalog.with { (connection) throws(SQLiteError) in try connection.integer("SELECT count(*) FROM \(table)") }
                }
            }
            /// False once there are fewer statements than this.
            func fails(at statement: Int, _ body: () throws -> Void) throws -> Bool {
                var left = statement
                try catalog.with { (connection) throws(SQLiteError) in
                    connection.fault = {
                        left -= 1
                        return left == 0 ? 10 : nil
                    }
                }
                let outcome = Result { try body() }
                try catalog.with { (connection) throws(SQLiteError) in connection.fault = nil }
                guard case .success = outcome else { return true }
                #expect(left > 0, "a failure went unnoticed")
                return false
            }
            let before = try counts()
            var statement = 1
            while try fails(at: statement, { _ = try catalog.createSession(wanted) }) {
                #expect(try counts() == before, "statement \(statement)")
                statement += 1
            }
            #expect(statement > 8)
            let session = try #require(try catalog.sessions(SessionFilter(), .descending, after: nil, limit: 1).first)
            let full = try counts()
            statement = 1
            while try fails(at: statement, { try catalog.deleteSession(session.id) }) {
                #expect(try counts() == full, "statement \(statement)")
                statement += 1
            }
            #expect(try counts() == before && statement > 3)
        }
    }
}
