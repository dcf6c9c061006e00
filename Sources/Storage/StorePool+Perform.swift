import Glibc

/// The doors from asynchronous code to stores: what may wait runs on threads of ours.
extension StorePool {
    struct Pools: Sendable {
        /// As many slow calls of the API as may run beside each other before the next waits: most of them wait for the disk, and share that.
        let workers = WorkerPool(count: 8)
        let readers = WorkerPool(count: 4, named: "remfs-read")
        let listers = WorkerPool(count: max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)) / 2), named: "remfs-list")

        /// Runs what was handed over, then ends them.
        func stop() { for pool in [workers, readers, listers] { pool.stop() } }
    }

    /// Runs blocking work on a store on the pool's own threads: the one door from asynchronous code.
    package func perform<Answer: Sendable>(
        _ id: StoreID, _ body: @escaping @Sendable (MemoryStore) throws(RemfsError) -> Answer
    ) async throws(RemfsError) -> Answer {
        try await run { () throws(RemfsError) in try self.withStore(id, body) }
    }

    /// As `perform`, for what reads more than one memory, and perhaps seals what it reads: on threads of its own, so that it does not wait
    /// behind those who wait for the disk.
    package func read<Answer: Sendable>(
        _ id: StoreID, _ body: @escaping @Sendable (MemoryStore) throws(RemfsError) -> Answer
    ) async throws(RemfsError) -> Answer {
        try await run(on: pools.readers) { () throws(RemfsError) in try self.withStore(id, body) }
    }

    /// As `perform`, for a page of a list. Making one takes a core for a millisecond or two, so at most half of the cores are at it: with more,
    /// who reads or writes one memory would wait several times as long whenever many clients list.
    package func list<Answer: Sendable>(
        _ id: StoreID, _ body: @escaping @Sendable (MemoryStore) throws(RemfsError) -> Answer
    ) async throws(RemfsError) -> Answer {
        try await run(on: pools.listers) { () throws(RemfsError) in try self.withStore(id, body) }
    }

    /// As `perform`, for what only reads and is soon done: where the store is open, on the calling thread. That may wait for a lock or a
    /// page for a moment, so it is one of ours (`ConnectionLoops`).
    package func look<Answer: Sendable>(
        at id: StoreID, _ body: @escaping @Sendable (MemoryStore) throws(RemfsError) -> Answer
    ) async throws(RemfsError) -> Answer {
        guard let store = retainIfOpen(id) else { return try await perform(id, body) }
        defer { release(id) }
        return try body(store)
    }

    /// Runs any blocking work on the pool's own threads.
    package func run<Answer: Sendable>(_ body: @escaping @Sendable () throws(RemfsError) -> Answer) async throws(RemfsError) -> Answer {
        try await run(on: pools.workers, body)
    }

    private func run<Answer: Sendable>(
        on workers: WorkerPool, _ body: @escaping @Sendable () throws(RemfsError) -> Answer
    ) async throws(RemfsError) -> Answer {
        let result: Result<Answer, RemfsError> = await withCheckedContinuation { continuation in
            workers.submit {
                do throws(RemfsError) {
                    continuation.resume(returning: .success(try body()))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
        }
        return try result.get()
    }
}
