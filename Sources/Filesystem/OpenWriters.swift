import Fuse
import Threads

/// Who has which file open for writing, in a mount where opens are answered: when a save ends.
///
/// RELEASE comes some time after `close` has returned, so the next save may begin before it. FLUSH comes before `close` returns, but
/// also whenever a child that inherited the descriptor ends. So a save ends with the RELEASE of the last writer, or when somebody
/// opens the file for writing and the last that was heard of it is a FLUSH.
///
/// `endSave` is called with this table's lock held, so that no open gets between a release and the end of its save. Lock order: this one,
/// then the store's.
final class OpenWriters: Sendable {
    private struct Use {
        var writers = 0
        var isFlushed = false
    }
    private let uses = Mutex<[NodeID: Use]>([:])

    func open<Failure: Error>(_ node: NodeID, endSave: () throws(Failure) -> Void) throws(Failure) {
        try uses.withLock { (uses) throws(Failure) in
            if uses[node]?.isFlushed ?? false { try endSave() }
            uses[node, default: Use()].writers += 1
            uses[node]!.isFlushed = false
        }
    }

    func changed(_ node: NodeID) { uses.withLock { $0[node]?.isFlushed = false } }

    func flush(_ node: NodeID) { uses.withLock { $0[node]?.isFlushed = true } }

    /// Also for one that was opened before we were started.
    func release(_ node: NodeID, endSave: () -> Void) {
        uses.withLock { uses in
            guard let use = uses[node], use.writers > 1 else {
                uses[node] = nil
                return endSave()
            }
            uses[node]!.writers -= 1
        }
    }
}
