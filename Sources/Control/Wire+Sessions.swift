package import Filesystem
package import Storage

extension Wire {
    package struct Session: Codable, Sendable {
        package var id: String
        package var type = "session"
        package var status: String
        package var agent: Agent
        package var environmentID: String
        package var vaultIDs: [String]
        @Nullable package var title: String?
        package var metadata: Metadata
        package var resources: [Resource]
        package var outcomeEvaluations: [String] = []
        @Nullable package var budget: String?
        @Nullable package var deploymentID: String?
        package var stats: Statistics
        package var usage = Usage()
        package var createdAt: String
        package var updatedAt: String
        @Nullable package var archivedAt: String?
        /// Only where the client sent it.
        package var remfs: Options?

        package struct Statistics: Codable, Sendable {
            package var activeSeconds: Double
            package var durationSeconds: Double

            private enum CodingKeys: String, CodingKey {
                case activeSeconds = "active_seconds"
                case durationSeconds = "duration_seconds"
            }
        }

        package struct Options: Codable, Sendable {
            package var trust: Storage.Session.Trust
        }

        private enum CodingKeys: String, CodingKey {
            case id, type, status, agent, title, metadata, resources, budget, stats, usage, remfs
            case environmentID = "environment_id"
            case vaultIDs = "vault_ids"
            case outcomeEvaluations = "outcome_evaluations"
            case deploymentID = "deployment_id"
            case createdAt = "created_at"
            case updatedAt = "updated_at"
            case archivedAt = "archived_at"
        }
    }

    /// The agent as it was when the session was made. Of what remfs does not know, the least that a client accepts.
    package struct Agent: Codable, Sendable {
        package var id: String
        package var type = "agent"
        package var version: Int64
        package var name: String
        @Nullable package var description: String?
        @Nullable package var system: String?
        package var model: Model
        package var tools: [String] = []
        package var skills: [String] = []
        package var mcpServers: [String] = []
        package var executionIdentity = Identity()
        /// In a session's agent null, in a thread's left out.
        package var multiagent: Nullable<String>?

        package struct Model: Codable, Sendable {
            package var id: String
            package var speed = "standard"
        }

        package struct Identity: Codable, Sendable {
            package var type = "service_account"
        }

        private enum CodingKeys: String, CodingKey {
            case id, type, version, name, description, system, model, tools, skills, multiagent
            case mcpServers = "mcp_servers"
            case executionIdentity = "execution_identity"
        }
    }

    /// Tokens: none in what clients run.
    package struct Usage: Codable, Sendable {
        package var inputTokens: Int64 = 0
        package var outputTokens: Int64 = 0
        package var cacheReadInputTokens: Int64 = 0
        package var cacheCreation = CacheCreation()

        package struct CacheCreation: Codable, Sendable {
            package var oneHour: Int64 = 0
            package var fiveMinutes: Int64 = 0

            private enum CodingKeys: String, CodingKey {
                case oneHour = "ephemeral_1h_input_tokens"
                case fiveMinutes = "ephemeral_5m_input_tokens"
            }
        }

        private enum CodingKeys: String, CodingKey {
            case inputTokens = "input_tokens"
            case outputTokens = "output_tokens"
            case cacheReadInputTokens = "cache_read_input_tokens"
            case cacheCreation = "cache_creation"
        }
    }

    /// A memory store as a session has it. It has no ID of its own.
    package struct Resource: Codable, Sendable {
        package var type = "memory_store"
        package var memoryStoreID: String
        package var access: Access
        @Nullable package var instructions: String?
        package var name: String
        package var description: String
        package var mountPath: String
        /// Only where the client sent it.
        package var remfs: JSONValue?

        private enum CodingKeys: String, CodingKey {
            case type, access, instructions, name, description, remfs
            case memoryStoreID = "memory_store_id"
            case mountPath = "mount_path"
        }
    }

    package struct Thread: Codable, Sendable {
        package var id: String
        package var type = "session_thread"
        package var sessionID: String
        @Nullable package var parentThreadID: String?
        package var agent: Agent
        package var status: String
        @Nullable package var stats: Session.Statistics?
        @Nullable package var usage: Usage?
        @Nullable package var workflowRunID: String?
        package var createdAt: String
        package var updatedAt: String
        @Nullable package var archivedAt: String?

        private enum CodingKeys: String, CodingKey {
            case id, type, agent, status, stats, usage
            case sessionID = "session_id"
            case parentThreadID = "parent_thread_id"
            case workflowRunID = "workflow_run_id"
            case createdAt = "created_at"
            case updatedAt = "updated_at"
            case archivedAt = "archived_at"
        }
    }

    /// The one list whose pages lead back as well.
    package struct SessionPage: Codable, Sendable {
        package var data: [Session]
        @Nullable package var nextPage: String?
        @Nullable package var previousPage: String?

        package init(data: [Session], nextPage: String?, previousPage: String?) {
            self.data = data
            self.nextPage = nextPage
            self.previousPage = previousPage
        }

        private enum CodingKeys: String, CodingKey {
            case data
            case nextPage = "next_page"
            case previousPage = "prev_page"
        }
    }

    /// Where a session's stores are mounted on this machine.
    package struct SessionMounts: Codable, Sendable {
        package var type = "session_mounts"
        package var sessionID: String
        /// What is bound to `/mnt/memory`: it holds a directory for each store.
        package var directory: String
        /// Those that are live, in the order of the session's resources.
        package var data: [Mount]

        private enum CodingKeys: String, CodingKey {
            case type, directory, data
            case sessionID = "session_id"
        }
    }

    /// What `remfs` reads of an event: all of it, since each type has its own fields.
    package typealias Event = JSONValue
}

// MARK: From the domain's values

extension Wire.Session {
    package init(_ session: Session) {
        // To the last thing that happened, so that a session which nothing happens to does not change.
        let latest = max(session.updated, session.lastEvent ?? session.updated)
        let duration = Double(latest.microseconds - session.created.microseconds) / 1_000_000
        self.init(
            id: session.id.description, status: session.status.rawValue, agent: Wire.Agent(session.agent, ofThread: false),
            environmentID: session.environment, vaultIDs: session.vaults, title: session.title, metadata: Wire.Metadata(session.metadata),
            resources: session.attachments.map { Wire.Resource($0) }, budget: nil, deploymentID: nil,
            stats: Statistics(activeSeconds: 0, durationSeconds: duration), createdAt: session.created.rfc3339,
            updatedAt: session.updated.rfc3339, archivedAt: session.archived?.rfc3339, remfs: session.trust.map { Options(trust: $0) })
    }
}

extension Wire.Agent {
    package init(_ agent: Session.Agent, ofThread: Bool) {
        self.init(
            id: agent.id, version: agent.version, name: agent.id, description: nil, system: agent.system,
            model: Model(id: agent.model ?? "unspecified"), multiagent: ofThread ? nil : Wire.Nullable(wrappedValue: nil))
    }
}

extension Wire.Resource {
    package init(_ attachment: Attachment) {
        self.init(
            memoryStoreID: attachment.store, access: attachment.access, instructions: attachment.instructions, name: attachment.name,
            description: attachment.description, mountPath: attachment.mountPath,
            // `try?`: it was parsed before it was stored.
            remfs: attachment.options.flatMap { try? JSONValue(parsing: $0.utf8) })
    }
}

extension Wire.SessionMounts {
    package init(_ session: SessionID, _ directory: String, _ mounts: [Mount]) {
        self.init(sessionID: session.description, directory: directory, data: mounts.map { Wire.Mount($0) })
    }
}

extension Wire.Thread {
    package init(_ thread: SessionThread) {
        self.init(
            id: thread.id.description, sessionID: thread.session.description, parentThreadID: thread.parent?.description,
            agent: Wire.Agent(thread.agent, ofThread: true), status: thread.status.rawValue, stats: nil, usage: nil, workflowRunID: nil,
            createdAt: thread.created.rfc3339, updatedAt: thread.updated.rfc3339, archivedAt: thread.archived?.rfc3339)
    }
}

extension SessionEvent {
    /// As lists and streams show it, on one line.
    package var json: String {
        let head = #"{"id":"\#(id)","processed_at":"\#(processed.rfc3339)","type":"\#(type)""#
        return body == "{}" ? head + "}" : head + "," + body.dropFirst()
    }

    package var frame: EventFrame { EventFrame(type: type, json: json.utf8) }
}
