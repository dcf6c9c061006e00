import Foundation
import Glibc

/// Writing to a pipe that nobody reads: an error for us, and the end, as usual, of what we start.
enum BrokenPipe {
    /// By a handler that does nothing: unlike an ignored signal, it is no more in a program that we start.
    static func survive() { _ = signal(SIGPIPE) { _ in } }
}

extension Process {
    /// `run`, with SIGPIPE as programs expect it: the HTTP client ignores it once it is used, and what is ignored is inherited.
    func start() throws {
        BrokenPipe.survive()
        try run()
    }
}
