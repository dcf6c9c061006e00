package import Storage

/// How one mount shows its store.
package struct MountOptions: Sendable, Codable {
    /// What happens to a write over a version that its author never saw.
    package enum StaleWrites: String, Sendable, Codable {
        /// It wins; its version says so.
        case record
        /// It fails with ESTALE.
        case refuse
    }

    package enum Coherence: String, Sendable, Codable {
        /// Every commit of another side drops exactly what changed from this mount's caches, at once and without anyone waiting.
        case relaxed = "default"
        /// Close-to-open besides, and locks that hold between mounts: OPEN and FLUSH are answered, so reads are slower.
        case strict
    }

    package var access: Access = .readWrite
    /// Shows every file as owned by this user; `chown` is refused then.
    package var uid: UInt32?
    package var gid: UInt32?
    /// Bits that are taken from every mode shown.
    package var umask: UInt32?
    /// Whether `.remfs` at the root can be opened.
    package var history = true
    package var onStaleWrite = StaleWrites.record
    package var coherence = Coherence.relaxed
    /// Whether `user.*` attributes work. Off, the kernel never asks for any.
    package var xattr = false
    package var exec = true
    /// Whether users other than the daemon's come in, where modes let them. With a daemon that runs as root they always do; an ordinary user
    /// needs `user_allow_other` in /etc/fuse.conf for it. nil, in what an older remfs has left: false.
    package var allowsOthers: Bool?
    /// us; the mount shows the store as of then, and cannot be written to. nil: as it is.
    package var at: Int64?

    package init() {}
}

/// An attachment that the kernel is serving now.
package struct Mount: Sendable {
    package enum State: String, Sendable, Codable { case mounted, stopping, failed }

    /// The session that a mount belongs to: whoever changes something in it, the session has.
    package struct Owner: Sendable, Codable {
        package let session: SessionID
        package let trust: Session.Trust?

        package init(session: SessionID, trust: Session.Trust?) {
            self.session = session
            self.trust = trust
        }
    }

    package let id: MountID
    package let store: StoreID
    package let session: SessionID?
    /// Absolute, without symbolic links.
    package let directory: String
    /// What was asked for; the store's own access may be stricter.
    package let access: Access
    package let options: MountOptions
    package let state: State
    package let created: Timestamp
}
