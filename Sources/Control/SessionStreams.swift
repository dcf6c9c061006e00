import Storage

/// Hands what happens in sessions to those who stream it: a session's own events, or one thread's.
struct SessionStreams: Sendable {
    enum Topic: Hashable, Sendable {
        case session(SessionID)
        case thread(ThreadID)
    }

    private let hub = EventHub<Topic>()
    private let limits: EventReader.Limits

    func subscribe(to topic: Topic, _ request: Storage.RequestID) -> EventReader { hub.subscribe(to: topic, request, limits: limits) }

    /// From now on the catalog tells of each commit here, under its lock.
    init(_ catalog: Catalog, _ limits: EventReader.Limits) {
        self.limits = limits
        catalog.observeSessions { [hub] change in
            switch change {
            case .events(let events, let session, let thread, let isShown):
                let topics: [Topic] = (isShown ? [.session(session)] : []) + [.thread(thread)]
                // Encoding is for readers.
                let read = topics.filter { hub.hasReaders(of: $0) }
                guard !read.isEmpty else { return }
                let frames = events.map(\.frame)
                for topic in read { hub.publish(frames, to: topic) }
            case .deleted(let session, let threads, let time):
                let event = SessionEvent(id: EventID.random(), sequence: 0, type: "session.deleted", processed: time, body: "{}")
                for topic in [.session(session)] + threads.map({ Topic.thread($0) }) {
                    hub.publish([event.frame], to: topic, ends: true)
                }
            }
        }
    }
}
