/// One thing that happened in a session.
package struct SessionEvent: Sendable {
    package let id: EventID
    /// Rises with time: the order of lists and streams.
    package let sequence: Int64
    package let type: String
    package let processed: Timestamp
    /// A JSON object with all but the ID, the type and the time.
    package let body: String

    package init(id: EventID, sequence: Int64, type: String, processed: Timestamp, body: String) {
        self.id = id
        self.sequence = sequence
        self.type = type
        self.processed = processed
        self.body = body
    }

    /// An event that has no ID and no time yet.
    package struct Draft: Sendable {
        package let type: String
        /// A JSON object without the ID, the type, the time, and the reference.
        package let body: String
        /// What this event is called by others of the same request.
        package var name: String?
        package var reference: Reference?
        /// A thread that has to be there.
        package var thread: String?

        package init(type: String, body: String) {
            self.type = type
            self.body = body
        }
    }

    /// The field that names an earlier tool use.
    package struct Reference: Sendable {
        package let field: String
        /// The ID of an event, or the name of one of the same request, which the event's ID then takes the place of.
        package let event: String
        /// Whether the event has to be there; else what names none is kept as it is.
        package let isRequired: Bool

        package init(field: String, event: String, isRequired: Bool) {
            self.field = field
            self.event = event
            self.isRequired = isRequired
        }
    }

    /// Types of which an event is a tool use.
    static let toolUses: Set<String> = ["agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use"]
}

package struct EventID: Identifier {
    package static let prefix = "sevt_"
    package let bits: UInt128
    package init(bits: UInt128) { self.bits = bits }
}

/// What happened to a session, told once it is committed.
package enum SessionChange: Sendable {
    /// - Parameter isShown: the session's own list has them as well as the thread's.
    case events([SessionEvent], session: SessionID, thread: ThreadID, isShown: Bool)
    case deleted(SessionID, threads: [ThreadID], at: Timestamp)
}

/// Which sessions a listing shows. Times are inclusive.
package struct SessionFilter: Sendable {
    package var includeArchived = false
    package var from: Timestamp?
    package var to: Timestamp?
    package var store: String?
    package var agent: String?
    package var agentVersion: Int64?
    /// Empty: all.
    package var statuses: [Session.Status] = []

    package init() {}
}

/// Which events a listing shows. Times are inclusive.
package struct EventFilter: Sendable {
    package var from: Timestamp?
    package var to: Timestamp?
    /// Empty: all.
    package var types: [String] = []

    package init() {}
}
