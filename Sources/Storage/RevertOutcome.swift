/// What putting back a session's changes has come to, or would.
package struct RevertOutcome: Sendable {
    /// By path, at most `RestoreOutcome.longestList` of them.
    package let changes: [Change]
    package let counts: [Change.Kind: Int]
    /// By path, at most as many.
    package let left: [Left]
    package let leftCount: Int
    /// Memories that are what they were before the session.
    package let unchanged: Int
    /// The newest version before: a restore of the store to it takes the revert back. nil: nothing was done.
    package let undo: VersionID?

    package struct Change: Sendable {
        package enum Kind: String, Sendable, CaseIterable { case restored, moved, recreated, deleted }

        package let kind: Kind
        package let memory: MemoryID
        /// Where it is afterwards; of a deletion where it was.
        package let path: String
        /// Of a move: where the session had put it.
        package let oldPath: String?
        /// The session's version that was the head.
        package let from: VersionID
        /// The version that is put back; nil: it was not there.
        package let to: VersionID?
        /// The version that says so; nil in a dry run.
        package let made: VersionID?
    }

    /// A memory of which something stays as the session, or another one since, has made it.
    package struct Left: Sendable {
        package enum Reason: String, Sendable, CaseIterable {
            /// By others.
            case changedSince = "changed_since"
            /// By others, between two changes of the session: the later ones are put back, the earlier ones stay.
            case changedBetween = "changed_between"
            case pathTaken = "path_taken"
            case redacted
            /// Retention gave up what it was.
            case pruned
        }

        package let reason: Reason
        package let memory: MemoryID
        /// nil: all that would tell it was redacted.
        package let path: String?
        /// The others' version, or the one that was redacted; with when and by whom.
        package var version: VersionID?
        package var time: Timestamp?
        package var actor: MemoryActor?
        /// What has its path.
        package var conflict: Conflict?
    }

    /// What is where a memory would have to be.
    package struct Conflict: Sendable {
        /// nil: it is no memory.
        package let memory: MemoryID?
        package let path: String
    }
}
