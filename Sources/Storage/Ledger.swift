import SQLite

/// A request of a kernel, as the ledger knows it. A process that is killed between its commit and its reply leaves a caller who waits:
/// the kernel sends the request again to whoever takes over, who must not carry it out twice.
package struct LedgerRequest: Sendable, Hashable {
    /// `Origin.number`.
    let mount: Int
    /// The kernel's number; never repeated while the mount lives.
    let unique: UInt64
    /// Which of the threads that answer asks; each has a row of its own, written over only once what stands there was answered.
    let slot: Int

    /// The row of a thread that answers what is left of a predecessor: none that the predecessor has written, since those may still be
    /// asked for, also by the successor of a successor.
    package static let anyFreeSlot = -1

    package init(mount: Int, unique: UInt64, slot: Int) {
        self.mount = mount
        self.unique = unique
        self.slot = slot
    }

    fileprivate struct Key: Hashable {
        let mount: Int
        let unique: UInt64
    }
    fileprivate var key: Key { Key(mount: mount, unique: unique) }
}

/// What predecessors have committed and perhaps not answered.
struct Ledger {
    private var answers: [LedgerRequest.Key: Int64] = [:]
    /// Above those of all threads there will be, and of what a predecessor left.
    fileprivate private(set) var freeSlot: Int64 = 64

    fileprivate subscript(_ request: LedgerRequest) -> Int64? { answers[request.key] }

    fileprivate init() {}
    static let empty = Ledger()

    fileprivate init(_ writer: Connection) throws(SQLiteError) {
        let row = try writer.prepare("SELECT slot, mount, request, answer FROM ledger ORDER BY slot")
        while try row.step() {
            answers[.init(mount: Int(row.integer(1)), unique: UInt64(bitPattern: row.integer(2)))] = row.integer(3)
            freeSlot = max(freeSlot, row.integer(0) + 1)
        }
    }

    fileprivate var isEmpty: Bool { answers.isEmpty }
}

extension StoreState {
    /// As `commit`, and the ledger says in the same transaction that `caller`'s request is done.
    ///
    /// - Parameter answer: what its caller is to hear besides success: the number of an inode that was made, or bytes written.
    func commit(answering caller: Caller?, _ answer: Int64 = 0, _ body: () throws(SQLiteError) -> Void) throws(RemfsError) {
        guard let request = caller?.request else { return try commit(body) }
        try commit { () throws(SQLiteError) in
            try body()
            let row = statements.noteAnswer
            row.bind(request.slot == LedgerRequest.anyFreeSlot ? ledger.freeSlot : Int64(request.slot), at: 1)
            row.bind(Int64(request.mount), at: 2)
            row.bind(Int64(bitPattern: request.unique), at: 3)
            row.bind(answer, at: 4)
            try row.run()
        }
    }

    /// Reads what a predecessor left. Before the first change.
    func loadLedger() throws(RemfsError) { ledger = try query { () throws(SQLiteError) in try Ledger(writer) } }

    /// Nothing will be asked again: all that a predecessor left has been answered.
    func clearLedger() throws(RemfsError) {
        guard !ledger.isEmpty else { return }
        try commit { () throws(SQLiteError) in try writer.execute("DELETE FROM ledger") }
        ledger = .empty
    }
}

extension MemoryStore {
    /// What a predecessor committed for a request that the kernel sends again: the answer it noted. nil: nothing, so it is to be done now.
    package func answer(to request: LedgerRequest) throws(RemfsError) -> Int64? {
        try look { (state) throws(RemfsError) in state.ledger[request] }
    }

    /// Ends the time after a take-over in which requests may come a second time.
    package func forgetAnswers() throws(RemfsError) {
        try look { (state) throws(RemfsError) in try state.clearLedger() }
        // Unlinked files that nobody has open may go now.
        environment.schedule(id, false)
    }
}
