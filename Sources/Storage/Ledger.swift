import SQLite
import Threads

/// A request of a kernel, as the ledger knows it. A process that is killed between its commit and its reply leaves a caller who waits:
/// the kernel sends the request again to whoever takes over, who must not carry it out twice.
package struct LedgerRequest: Sendable, Hashable {
    /// `Origin.number`.
    let mount: Int
    /// The kernel's number; never repeated while the mount lives.
    let unique: UInt64
    /// Which of the threads that answer asks, below 64; each has a row of its own, written over only once what stands there was answered.
    let slot: Int

    /// The row of a thread that answers what is left of a predecessor: none that the predecessor has written, since those may still be
    /// asked for, also by the successor of a successor.
    package static let anyFreeSlot = -1
    fileprivate static let slots = 64

    package init(mount: Int, unique: UInt64, slot: Int) {
        self.mount = mount
        self.unique = unique
        self.slot = slot
    }

    fileprivate struct Key: Hashable {
        let mount: Int64
        let unique: UInt64
    }
    fileprivate var key: Key { Key(mount: Int64(mount), unique: unique) }
}

/// What stands in the ledger: that a request was carried out, and what its caller is to hear.
struct LedgerEntry {
    let mount: Int64
    let unique: UInt64
    /// The number of the inode that was made or moved, the bytes that were written, or 0.
    let answer: Int64

    init(mount: Int64, unique: UInt64, answer: Int64) {
        self.mount = mount
        self.unique = unique
        self.answer = answer
    }

    /// Two columns of a row that is itself the change, if a request made it.
    init?(_ row: Statement, column: Int32, answer: Int64) {
        guard let mount = row.integerOrNil(column) else { return nil }
        self.init(mount: mount, unique: UInt64(bitPattern: row.integer(column + 1)), answer: answer)
    }
}

/// What predecessors have committed and perhaps not answered. Empty but after a take-over.
struct Ledger {
    private var entries: [LedgerEntry] = []
    /// Made of them when the first is asked for: most requests of a tree were answered long ago.
    private var answers: [LedgerRequest.Key: Int64]?
    /// Above those of all threads there will be, and of what a predecessor left.
    fileprivate private(set) var freeSlot = Int64(LedgerRequest.slots)

    mutating func add(_ entry: LedgerEntry) {
        entries.append(entry)
        answers = nil
    }

    fileprivate mutating func add(_ entry: LedgerEntry, slot: Int64) {
        add(entry)
        freeSlot = max(freeSlot, slot + 1)
    }

    fileprivate mutating func answer(to request: LedgerRequest) -> Int64? {
        if answers == nil {
            answers = Dictionary(
                entries.lazy.map { (LedgerRequest.Key(mount: $0.mount, unique: $0.unique), $0.answer) }, uniquingKeysWith: { $1 })
        }
        return answers?[request.key]
    }
}

/// The last requests that were noted in the rows they changed, one for each thread that answers. Such a row may go or be written over by
/// another thread before the request is answered: then the request moves to the ledger's own table, in the same transaction.
struct NotedRequests {
    fileprivate struct Note {
        let request: LedgerRequest
        let answer: Int64
        let inode: InodeNumber
        let isInDraft: Bool
    }
    fileprivate var notes = [Note?](repeating: nil, count: LedgerRequest.slots)
}

extension StoreState {
    // MARK: Noting

    /// As `commit`, and the ledger says in the same transaction that `caller`'s request is done.
    ///
    /// - Parameter answer: what its caller is to hear besides success: the number of an inode that was made, or bytes written.
    func commit(answering caller: Caller?, _ answer: Int64 = 0, _ body: () throws(SQLiteError) -> Void) throws(RemfsError) {
        guard let request = caller?.request else { return try commit(body) }
        try commit { () throws(SQLiteError) in
            try body()
            try note(request, answer, at: request.slot == LedgerRequest.anyFreeSlot ? ledger.freeSlot : Int64(request.slot))
            FaultPoint.pass(.beforeCommit)
        }
        FaultPoint.pass(.afterCommit)
        if request.slot != LedgerRequest.anyFreeSlot { noted.notes[request.slot] = nil }
    }

    /// As `commit(answering:)`, for a change that writes a row with room for the request: `body` puts what it is given there, by
    /// `bind(_:to:at:)`, or nil. What is left of a predecessor goes into the table, since its row may be asked for once more, and so does
    /// a change that writes no such row (`inode` is nil).
    func commit(
        answering caller: Caller?, _ answer: Int64, inRowOf inode: InodeNumber?, isDraft: Bool = false,
        _ body: (LedgerRequest?) throws(SQLiteError) -> Void
    ) throws(RemfsError) {
        guard let inode, let request = caller?.request, request.slot != LedgerRequest.anyFreeSlot else {
            return try commit(answering: caller, answer) { () throws(SQLiteError) in try body(nil) }
        }
        try commit { () throws(SQLiteError) in
            try body(request)
            FaultPoint.pass(.beforeCommit)
        }
        FaultPoint.pass(.afterCommit)
        noted.notes[request.slot] = .init(request: request, answer: answer, inode: inode, isInDraft: isDraft)
    }

    /// Two columns: the mount and the request.
    func bind(_ request: LedgerRequest?, to row: Statement, at place: Int32) {
        row.bind(request.map { Int64($0.mount) }, at: place)
        row.bind(request.map { Int64(bitPattern: $0.unique) }, at: place + 1)
    }

    private func note(_ request: LedgerRequest, _ answer: Int64, at slot: Int64) throws(SQLiteError) {
        try note(.init(mount: Int64(request.mount), unique: request.unique, answer: answer), at: slot)
    }

    private func note(_ entry: LedgerEntry, at slot: Int64) throws(SQLiteError) {
        let row = statements.noteAnswer
        row.bind(slot, at: 1)
        row.bind(entry.mount, at: 2)
        row.bind(Int64(bitPattern: entry.unique), at: 3)
        row.bind(entry.answer, at: 4)
        try row.run()
    }

    /// Within a transaction that deletes an inode's row, or writes another request into it: what other threads noted there and may not
    /// have answered yet goes into the table. `request` is the one that is being carried out: its thread has answered all before.
    func keepNotes(
        inRowsOf inode: InodeNumber, onlyDrafts: Bool = false, for request: LedgerRequest? = nil
    ) throws(SQLiteError) {
        for (slot, note) in noted.notes.enumerated() where slot != request?.slot {
            guard let note, note.inode == inode, note.isInDraft || !onlyDrafts else { continue }
            try self.note(note.request, note.answer, at: Int64(slot))
        }
    }

    // MARK: After a take-over

    /// Reads what a predecessor left in the ledger's own table. Before the first change.
    func loadLedger() throws(RemfsError) {
        ledger = try query { () throws(SQLiteError) in
            var ledger = Ledger()
            let row = try writer.prepare("SELECT slot, answer, mount, request FROM ledger ORDER BY slot")
            while try row.step() {
                if let entry = LedgerEntry(row, column: 2, answer: row.integer(1)) { ledger.add(entry, slot: row.integer(0)) }
            }
            return ledger
        }
    }

    /// Takes over what a predecessor noted with drafts: they are about to be sealed, and the next successor may have to know as well.
    func keepInLedger(_ entries: [LedgerEntry]) throws(RemfsError) {
        guard !entries.isEmpty else { return }
        let first = ledger.freeSlot
        // Known from here on, also where they cannot be written.
        for (place, entry) in entries.enumerated() { ledger.add(entry, slot: first + Int64(place)) }
        try commit { () throws(SQLiteError) in
            for (place, entry) in entries.enumerated() { try note(entry, at: first + Int64(place)) }
        }
    }

    /// Nothing will be asked again: all that a predecessor left has been answered, or nobody is left who would ask.
    func clearLedger() throws(RemfsError) {
        ledger = Ledger()
        guard try query({ () throws(SQLiteError) in try writer.integer("SELECT 1 FROM ledger LIMIT 1") }) != nil else { return }
        try commit { () throws(SQLiteError) in try writer.execute("DELETE FROM ledger") }
    }
}

extension MemoryStore {
    /// What a predecessor committed for a request that the kernel sends again: the answer it noted. nil: nothing, so it is to be done now.
    package func answer(to request: LedgerRequest) throws(RemfsError) -> Int64? {
        try look { (state) throws(RemfsError) in state.ledger.answer(to: request) }
    }

    /// Has all mounts but `origin` forget something once more: a predecessor made the change, and perhaps told nobody.
    package func tellOthers(_ invalidations: [Invalidation], than origin: Origin) throws(RemfsError) {
        try change(by: origin.number) { (state) throws(RemfsError) in
            for invalidation in invalidations { state.invalidate(invalidation) }
        }
    }

    /// Ends the time after a take-over in which requests may come a second time.
    package func forgetAnswers() throws(RemfsError) {
        try look { (state) throws(RemfsError) in try state.clearLedger() }
    }
}
