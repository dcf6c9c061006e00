/// Who made a version, by the kinds of the contract. Kept as its ID, whose prefix tells the kind.
package enum MemoryActor: Hashable, Sendable {
    case session(String)
    case api(keyID: String)
    case user(String)
    case serviceAccount(String)

    /// A process on this machine that belongs to no session.
    package static func user(uid: UInt32) -> MemoryActor { .user("user_\(uid)") }
    /// The control API without keys.
    package static let local = MemoryActor.api(keyID: "apikey_local")

    package var id: String {
        switch self {
        case .session(let id), .api(let id), .user(let id), .serviceAccount(let id): id
        }
    }

    package init?(id: String) {
        if id.hasPrefix("sesn_") {
            self = .session(id)
        } else if id.hasPrefix("apikey_") {
            self = .api(keyID: id)
        } else if id.hasPrefix("user_") {
            self = .user(id)
        } else if id.hasPrefix("svac_") {
            self = .serviceAccount(id)
        } else {
            return nil
        }
    }
}

/// The process behind a change, as far as the kernel names it. Write-back of a mapping has none.
package struct Writer: Hashable, Sendable {
    package var uid: UInt32?
    package var pid: Int32?
    /// The process's `comm`: at most 15 bytes.
    package var command: String?

    package init(uid: UInt32? = nil, pid: Int32? = nil, command: String? = nil) {
        self.uid = uid
        self.pid = pid
        self.command = command
    }
}

/// An actor and the process it acted through: what a version keeps of its origin.
package struct Author: Hashable, Sendable {
    package var actor: MemoryActor
    package var writer: Writer
    /// Of the session that acted, where that was said.
    package var trust: Session.Trust?

    package init(_ actor: MemoryActor, writer: Writer = Writer(), trust: Session.Trust? = nil) {
        self.actor = actor
        self.writer = writer
        self.trust = trust
    }
}
