import Glibc
import SQLite

/// What a daemon does while it waits to succeed another, so that it does none of it for the first time once clients wait: a program's pages
/// come in one by one, types are looked up when they are first used, and each new page of the heap is a fault.
package enum Rehearsal {
    /// Makes and opens a catalog and a store that are in memory only.
    package static func openStores() throws(RemfsError) {
        try Catalog.rehearse()
        let label = "rehearsal"
        let writer = try RemfsError.mapping(label) { () throws(SQLiteError) in try Connection(path: ":memory:", mode: .create) }
        try Schema.migrate(writer, named: label, application: Schema.storeApplicationID, migrations: Schema.store, isNew: true)
        func state() throws(RemfsError) -> StoreState {
            try StoreState(id: StoreID(bits: 1), label: label, policy: Policy(), isArchived: false, writer: writer)
        }
        let first = try state()
        try MemoryStore.makeRoot(first)
        for number in 0..<8 {
            _ = try first.create(try MemoryPath("/notes/\(number).md"), Array("\(number)".utf8), by: Author(.user(uid: 0)))
        }
        try state().load(keepingOrphans: true)
    }

    /// Bytes: what the tree of some 10,000 memories takes. It has to be less than the heap keeps of what is freed (`Holding.heap`).
    private static let heapSize = 10 << 20
    private static let pieceSize = 64 << 10

    /// Has the heap grow, so that a tree is loaded into pages that are there.
    package static func growHeap() {
        var pieces: [UnsafeMutableRawPointer] = unsafe []
        for _ in 0..<heapSize / pieceSize {
            guard let piece = unsafe malloc(pieceSize) else { break }
            unsafe memset(piece, 1, pieceSize)
            unsafe pieces.append(piece)
        }
        for place in unsafe pieces.indices { unsafe free(pieces[place]) }
    }
}
