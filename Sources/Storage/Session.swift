/// One agent's run: the record that its attachments and its transcript belong to.
package struct Session: Sendable {
    package enum Status: String, Sendable, CaseIterable { case idle, running, rescheduling, terminated }

    /// Whether what the session writes is to be believed; its versions carry it.
    package enum Trust: String, Sendable, Codable, CaseIterable {
        case trusted, untrusted

        /// As versions have it.
        var row: Int64 { self == .trusted ? 1 : 0 }

        init(row: Int64) { self = row == 1 ? .trusted : .untrusted }
    }

    /// The agent as it was when the session was made. remfs knows no agents: what is not said has a default.
    package struct Agent: Sendable, Equatable, Codable {
        package var id: String
        package var version: Int64
        package var system: String?
        package var model: String?

        package init(id: String, version: Int64 = 1, system: String? = nil, model: String? = nil) {
            self.id = id
            self.version = version
            self.system = system
            self.model = model
        }
    }

    package let id: SessionID
    /// Rises with each session made: the tie-break of equal times.
    package let sequence: Int64
    package let status: Status
    package let title: String?
    package let metadata: Metadata
    package let agent: Agent
    package let environment: String
    package let vaults: [String]
    /// nil: was not said.
    package let trust: Trust?
    /// The user who made it, through the socket; nil: nobody's on this machine.
    package let owner: UInt32?
    /// In the order in which they were asked for.
    package let attachments: [Attachment]
    package let created: Timestamp
    package let updated: Timestamp
    package let archived: Timestamp?
    /// Of its newest event.
    package let lastEvent: Timestamp?

    /// As messages name it.
    package var label: String { "session \(id)" }

    package func attachment(of store: String) throws(RemfsError) -> Attachment {
        guard let found = attachments.first(where: { $0.store == store }) else {
            throw RemfsError(.notFound, "\(label) has no resource \(store.shortened)")
        }
        return found
    }
}

/// The durable fact that a session has a store, in its place, with its access. The store may be gone by now.
package struct Attachment: Sendable {
    /// Counted from 1 in the order of the request.
    package let place: Int64
    /// The store's ID.
    package let store: String
    package let access: Access
    /// The name of its directory.
    package let slug: String
    /// As they were when it was made.
    package let name: String
    package let description: String
    package let instructions: String?
    /// The client's object `remfs` as JSON, which the mount is made with; nil: it sent none.
    package let options: String?

    /// Below which an agent sees its stores.
    package static let root = "/mnt/memory"
    package var mountPath: String { "\(Self.root)/\(slug)" }
}

/// One agent's conversation in a session: the primary one, which is there from the start, or a child.
package struct SessionThread: Sendable {
    package let id: ThreadID
    package let sequence: Int64
    package let session: SessionID
    package let parent: ThreadID?
    package let status: Session.Status
    package let agent: Session.Agent
    package let created: Timestamp
    package let updated: Timestamp
    package let archived: Timestamp?
}

package struct ThreadID: Identifier {
    package static let prefix = "sthr_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

/// What a session is made of.
package struct SessionRequest: Sendable {
    package struct Resource: Sendable {
        package var store: String
        package var access: Access
        package var instructions: String?
        package var options: String?

        package init(store: String, access: Access = .readWrite, instructions: String? = nil, options: String? = nil) {
            self.store = store
            self.access = access
            self.instructions = instructions
            self.options = options
        }
    }

    package var agent: Session.Agent
    package var environment: String
    package var title: String?
    package var metadata: Metadata = [:]
    package var vaults: [String] = []
    package var trust: Session.Trust?
    package var owner: UInt32?
    package var resources: [Resource] = []
    package var events: [SessionEvent.Draft] = []

    package init(agent: Session.Agent, environment: String) {
        self.agent = agent
        self.environment = environment
    }

    /// What the contract limits, whoever asks (`api.md` 2 and 7.1). Lengths are in Unicode scalars.
    func check() throws(RemfsError) {
        try Self.check(agent.id, "agent", 1...Self.longestName)
        try Self.check(environment, "environment_id", 1...Self.longestName)
        guard agent.version > 0 else { throw RemfsError(.invalidArgument, "agent.version must be at least 1") }
        if let system = agent.system { try Self.check(system, "agent.system", 0...100_000) }
        if let model = agent.model { try Self.check(model, "agent.model", 1...256) }
        if let title { try Self.check(title: title) }
        try StoreLimits.check(name: nil, description: nil, metadata: metadata)
        try StoreLimits.check(pairsOf: metadata)
        guard vaults.count <= Self.mostVaults else {
            throw RemfsError(.invalidArgument, "vault_ids has \(vaults.count) items: at most \(Self.mostVaults)")
        }
        for vault in vaults { try Self.check(vault, "vault_ids", 1...Self.longestName) }
        guard resources.count <= Self.mostStores else {
            throw RemfsError(.invalidArgument, "resources has \(resources.count) memory stores: at most \(Self.mostStores)")
        }
        for (place, resource) in resources.enumerated() {
            if resources[..<place].contains(where: { $0.store == resource.store }) {
                throw RemfsError(.invalidArgument, "resources[\(place)] attaches memory store \(resource.store.shortened) again")
            }
            if let instructions = resource.instructions {
                try Self.check(instructions, "resources[\(place)].instructions", 0...4_096)
            }
        }
        guard events.count <= Self.mostInitialEvents else {
            throw RemfsError(.invalidArgument, "initial_events has \(events.count) items: at most \(Self.mostInitialEvents)")
        }
    }

    static func check(title: String) throws(RemfsError) { try check(title, "title", 0...4_096) }

    private static func check(_ text: String, _ name: String, _ range: ClosedRange<Int>) throws(RemfsError) {
        guard range.contains(text.unicodeScalars.count) else {
            throw RemfsError(.invalidArgument, "\(name) must have \(range.lowerBound) to \(range.upperBound) characters")
        }
    }

    private static let mostStores = 8
    private static let mostInitialEvents = 50
    /// The contract names none of these two; ours bound what a list of sessions may weigh.
    private static let mostVaults = 100
    private static let longestName = 1_024
}

extension String {
    /// What a client sent, as a message shows it: at most 80 scalars. (A character may be as long as the body.)
    var shortened: String { unicodeScalars.count > 80 ? String(String.UnicodeScalarView(unicodeScalars.prefix(80))) + "..." : self }
}

/// The name of an attachment's directory, made of the store's name.
enum Slug {
    /// Lower case, each run of what is no ASCII letter or digit as one `-`, none at the ends; the store's ID where nothing is left.
    static func of(_ name: String, _ store: String) -> String {
        var slug = ""
        for scalar in name.lowercased().unicodeScalars {
            if ("a"..."z").contains(scalar) || ("0"..."9").contains(scalar) {
                slug.unicodeScalars.append(scalar)
            } else if !slug.isEmpty, slug.last != "-" {
                slug += "-"
            }
        }
        // A name of 255 bytes is the longest that a file system takes; a number may follow.
        slug = String(slug.prefix(240))
        while slug.last == "-" { slug.removeLast() }
        return slug.isEmpty ? store : slug
    }

    /// `slug`, or with the first of `-2`, `-3`, ... that nobody has.
    static func unused(_ slug: String, among taken: Set<String>) -> String {
        guard taken.contains(slug) else { return slug }
        var number = 2
        while taken.contains("\(slug)-\(number)") { number += 1 }
        return "\(slug)-\(number)"
    }
}
