import Fuse
import Threads

/// Who has which file open for writing, in a mount where opens are answered: when a save ends.
///
/// RELEASE comes some time after `close` has returned, so the next save may begin before it. FLUSH comes before `close` returns, but
/// also whenever a child that inherited the descriptor ends. So a save ends with the RELEASE of the last writer, or when somebody
/// opens the file for writing and the last that was heard of it is a FLUSH.
///
/// `open` and `release` are asked with the store's lock held (`MemoryStore.closed`). Otherwise a RELEASE that is on its way to the store
/// could be overtaken by the next OPEN and its truncation, and would end the next save, empty, and lose its own.
/// Lock order: a store's lock, then this one.
final class OpenWriters: Sendable {
    private struct Use {
        var writers = 0
        var isFlushed = false
    }
    private let uses = Mutex<[NodeID: Use]>([:])

    /// Answers whether this ends the save of those who have it open already.
    func open(_ node: NodeID) -> Bool {
        uses.withLock { uses in
            defer {
                uses[node, default: Use()].writers += 1
                uses[node]!.isFlushed = false
            }
            return uses[node]?.isFlushed ?? false
        }
    }

    func changed(_ node: NodeID) { uses.withLock { $0[node]?.isFlushed = false } }

    func flush(_ node: NodeID) { uses.withLock { $0[node]?.isFlushed = true } }

    /// Answers whether this ends the save. Also for one that was opened before we were started.
    func release(_ node: NodeID) -> Bool {
        uses.withLock { uses in
            guard let use = uses[node], use.writers > 1 else {
                uses[node] = nil
                return true
            }
            uses[node]!.writers -= 1
            return false
        }
    }
}
