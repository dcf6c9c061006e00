import Logging
import Testing
import Threads

/// Keeps what is logged as an error: something was lost or refused that should not have been, so no test is to see any.
package final class ErrorLog: Sendable {
    private let lines = Mutex<[String]>([])

    package init() {}

    package var logger: Logger {
        var logger = Logger(label: "remfs-test") { _ in Handler(log: self) }
        logger.logLevel = .error
        return logger
    }

    /// What was logged since the last call.
    package func take() -> [String] {
        lines.withLock { lines in
            defer { lines = [] }
            return lines
        }
    }

    package func expectNone() {
        for line in take() { Issue.record("logged: \(line)") }
    }

    private struct Handler: LogHandler {
        let log: ErrorLog
        var metadata: Logger.Metadata = [:]
        var logLevel: Logger.Level = .error
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let values = (event.metadata ?? [:]).map { "\($0.key)=\($0.value)" }.sorted().joined(separator: " ")
            log.lines.withLock { $0.append("\(event.message) \(values)") }
        }
    }
}
