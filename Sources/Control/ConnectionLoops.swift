import NIOCore
import NIOPosix

/// The threads on which connections live, and with them the tasks of their requests: a request that only looks at what is in memory is read,
/// answered and sent by one thread, without a hop to another.
///
/// They are ours and may wait for a lock or a page of a store for a moment, as reads do (`StorePool.look`); what waits for the disk goes to
/// the threads of `StorePool`.
enum ConnectionLoops {
    /// More than cores, so that one that waits leaves others that do not.
    static let count = 4
    /// For the life of the process.
    static let group = MultiThreadedEventLoopGroup(numberOfThreads: count)
    private static let executors = Dictionary(
        uniqueKeysWithValues: group.makeIterator().map { (ObjectIdentifier($0), LoopExecutor($0)) })

    /// Runs tasks on the thread of a connection.
    static func executor(of loop: any EventLoop) -> any TaskExecutor { executors[ObjectIdentifier(loop)] ?? LoopExecutor(loop) }
}
