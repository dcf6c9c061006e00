import Glibc
import TestSupport
import Testing

/// Waits until something holds that another thread, process or kernel brings about; at most 20 s.
func wait(_ condition: () throws -> Bool, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let deadline = ContinuousClock.now + .seconds(20)
    while try !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("what was waited for did not happen", sourceLocation: sourceLocation)
            throw TimedOut()
        }
        sched_yield()
    }
}
