package import Filesystem
import Glibc
package import Logging
package import Storage
import Threads

/// The mounts of sessions: each store that a session has at `<directory>/<session>/<slug>`, from when the session is made until it ends.
///
/// Safe from any thread. Its calls wait for the kernel and the disk; those of one session wait for each other.
package final class SessionMounts: Sendable {
    private let stores: StorePool
    private let mounts: MountTable
    private let logger: Logger
    /// nil: sessions get no mounts.
    private let root: String?
    private let busy = Mutex<Set<SessionID>>([])
    private let isFree = Condition()
    /// When a session was last seen to be used, by how many requests its mounts had had.
    private let uses = Mutex<[SessionID: (requests: UInt64, at: Timestamp)]>([:])

    /// - Parameter directory: where sessions' directories are made; nil: sessions get no mounts.
    package init(stores: StorePool, mounts: MountTable, directory: String?, logger: Logger) {
        self.stores = stores
        self.mounts = mounts
        self.logger = logger
        root = directory
    }

    // MARK: Looking

    package var isOffered: Bool { root != nil }

    /// What a container binds to `/mnt/memory`. Throws where sessions get no mounts.
    package func directory(of session: SessionID) throws(RemfsError) -> String {
        guard let root else { throw RemfsError(.unsupported, "this daemon mounts no sessions' stores") }
        return "\(root)/\(session)"
    }

    /// In the order of the session's stores: those that are live.
    package func live(_ session: Session) -> [Mount] {
        let found = mounts.mounts(of: session.id)
        return session.attachments.compactMap { attachment in found.first { $0.store.description == attachment.store } }
    }

    /// Where each session's stores are seen: one store in its own place, several in their session's directory. Sessions of which a store
    /// is not mounted are left out.
    package func places(of sessions: [Session]) throws(RemfsError) -> [SessionID: String] {
        let live = Dictionary(grouping: mounts.mounts(), by: \.session)
        var places: [SessionID: String] = [:]
        for session in sessions {
            let found = live[session.id] ?? []
            let directories = session.attachments.compactMap { attachment in
                found.first { $0.store.description == attachment.store }?.directory
            }
            guard !directories.isEmpty, try missing(of: session).isEmpty else { continue }
            places[session.id] = session.attachments.count == 1 ? directories[0] : try directory(of: session.id)
        }
        return places
    }

    // MARK: Making and ending

    /// Mounts what is not mounted of a session's stores. Answers the mounts, or throws why one could not be made; others remain.
    @discardableResult
    package func mount(_ id: SessionID) throws(RemfsError) -> [Mount] {
        let directory = try directory(of: id)
        return try alone(with: id) { () throws(RemfsError) in
            let session = try stores.catalog.session(id)
            guard session.archived == nil else { throw RemfsError(.readOnly, "\(session.label) is archived: it has no mounts") }
            let missing = try missing(of: session)
            let isThere = try SessionDirectory.isThere(directory)
            if !missing.isEmpty || !isThere {
                let user = try owner(of: session)
                let place = try SessionDirectory.make(directory)
                // Not before all is mounted: a name in it could be made to lead elsewhere meanwhile.
                defer { place.open(to: user, logger) }
                var first: RemfsError?
                for attachment in missing {
                    do throws(RemfsError) { try mount(attachment, of: session, in: directory) } catch { first = first ?? error }
                }
                if let first { throw first }
            }
            uses.withLock { $0[id] = (requests(of: id), stores.catalog.now()) }
            return self.live(session)
        }
    }

    /// The stores of a session that could be mounted and are not. One that was deleted is nobody's to mount.
    private func missing(of session: Session) throws(RemfsError) -> [Attachment] {
        let live = mounts.mounts(of: session.id)
        var missing: [Attachment] = []
        for attachment in session.attachments where !live.contains(where: { $0.store.description == attachment.store }) {
            guard let id = StoreID(attachment.store) else { continue }
            do throws(RemfsError) { _ = try stores.catalog.store(id) } catch {
                guard error.code == .notFound else { throw error }
                continue
            }
            missing.append(attachment)
        }
        return missing
    }

    private func mount(_ attachment: Attachment, of session: Session, in directory: String) throws(RemfsError) {
        guard let store = StoreID(attachment.store) else { throw RemfsError(.notFound, "memory store \(attachment.store) not found") }
        let place = "\(directory)/\(attachment.slug)"
        SessionDirectory.moveAside(place, logger)
        try SessionDirectory.makePlace(place)
        do throws(RemfsError) {
            _ = try mounts.mount(
                store, at: place, try MountOptions(attachment), requestedBy: 0, for: .init(session: session.id, trust: session.trust))
        } catch {
            // What is written there would be nobody's memory.
            unsafe rmdir(place)
            throw error
        }
    }

    /// Who comes into a session's directory: whom its stores belong to there, or else who made it.
    private func owner(of session: Session) throws(RemfsError) -> UInt32 {
        for attachment in session.attachments {
            if let uid = try MountOptions(attachment).uid { return uid }
        }
        return session.owner ?? geteuid()
    }

    /// Ends the mounts of a session, wherever they are bound: what was written in them is sealed.
    package func end(_ id: SessionID) throws(RemfsError) {
        guard root != nil else { return }
        let directory = try directory(of: id)
        try alone(with: id) { () throws(RemfsError) in
            var first: RemfsError?
            for mount in mounts.mounts(of: id) {
                do throws(RemfsError) {
                    try mounts.end(mount.id)
                    unsafe rmdir(mount.directory)
                } catch {
                    // The others are to end all the same.
                    first = first ?? error
                }
            }
            if let first { throw first }
            SessionDirectory.remove(directory, logger)
            uses.withLock { $0[id] = nil }
        }
    }

    /// Changes how a session may use a store, and its mount at once: when this returns no later write is acknowledged, or, the other way,
    /// any may be.
    package func setAccess(_ access: Access, of store: String, in id: SessionID) throws(RemfsError) -> Attachment {
        try alone(with: id) { () throws(RemfsError) in
            let attachment = try stores.catalog.setAccess(access, of: store, in: id)
            for mount in mounts.mounts(of: id) where mount.store.description == store { _ = try mounts.setAccess(mount.id, access) }
            return attachment
        }
    }

    /// Those of one session wait for each other.
    private func alone<Answer>(with id: SessionID, _ body: () throws(RemfsError) -> Answer) throws(RemfsError) -> Answer {
        busy.wait(on: isFree, until: { !$0.contains(id) }) { _ = $0.insert(id) }
        defer {
            busy.withLock { _ = $0.remove(id) }
            isFree.broadcast()
        }
        return try body()
    }

    // MARK: From one daemon to the next

    /// How many are mounted or ended at the same time: each waits for the kernel for some milliseconds.
    private static let together = 8

    /// What is to be true when a daemon begins: sessions that go on have their mounts, those that ended have none. What cannot be mounted
    /// is logged, and tried again when it is asked for.
    package func resume() throws(RemfsError) {
        guard let root else { return }
        try SessionDirectory.makeRoot(root)
        let sessions = try stores.catalog.liveSessions(atMost: MountTable.mostMounts)
        let live = Set(sessions.map(\.id))
        let ended = Set(mounts.mounts().compactMap(\.session)).subtracting(live).filter(isOver)
        Thread.forEach(Array(ended), threads: Self.together, named: "remfs-ended") { id in
            self.trying("cannot end a session's mounts", id) { () throws(RemfsError) in try self.end(id) }
        }
        SessionDirectory.sweep(root, unless: { live.contains($0) || !isOver($0) }, logger)
        let counts = Mutex((mounted: 0, failed: 0))
        Thread.forEach(sessions, threads: Self.together, named: "remfs-session") { session in
            self.trying("a session's store keeps an access that it had", session.id) { () throws(RemfsError) in
                try self.adjustAccess(session)
            }
            let before = self.mounts.mounts(of: session.id).count
            guard before < session.attachments.count else { return }
            let isMounted = self.trying("a session's store is not mounted", session.id) { () throws(RemfsError) in
                try self.mount(session.id)
            }
            let isMore = self.mounts.mounts(of: session.id).count > before
            counts.withLock { if !isMounted { $0.failed += 1 } else if isMore { $0.mounted += 1 } }
        }
        let (mounted, failed) = counts.withLock { $0 }
        if mounted + failed > 0 {
            logger.notice("sessions' stores mounted again", metadata: ["sessions": "\(mounted)", "failed": "\(failed)"])
        }
    }

    /// Beyond those sessions that were asked for there may be more.
    private func isOver(_ id: SessionID) -> Bool {
        do throws(RemfsError) { return try stores.catalog.session(id).archived != nil } catch { return error.code == .notFound }
    }

    /// Takes away the places of what is no longer mounted: an agent that goes on is not to write where nobody keeps it. Sessions'
    /// directories stay, since containers have them.
    package func close() {
        guard let root else { return }
        SessionDirectory.removePlaces(root, logger)
    }

    /// A daemon may have died after it had noted a change, and before it made it.
    private func adjustAccess(_ session: Session) throws(RemfsError) {
        for mount in mounts.mounts(of: session.id) {
            guard let attachment = session.attachments.first(where: { $0.store == mount.store.description }) else { continue }
            if attachment.access != mount.access { _ = try mounts.setAccess(mount.id, attachment.access) }
        }
    }

    @discardableResult
    private func trying(_ what: String, _ id: SessionID, _ body: () throws(RemfsError) -> some Any) -> Bool {
        do throws(RemfsError) {
            _ = try body()
            return true
        } catch {
            logger.error("\(what)", metadata: ["session": "\(id)", "error": "\(error)"])
            return false
        }
    }

    // MARK: Idle sessions

    private func requests(of id: SessionID) -> UInt64 {
        mounts.mounts(of: id).reduce(0) { sum, mount in
            // It may have ended meanwhile.
            let counts = (try? mounts.requestCounts(mount.id)) ?? [:]
            return sum + counts.values.reduce(0, +)
        }
    }

    /// Unmounts the stores of sessions of which nothing was heard for `idle`, and which nobody stands in, nor has as a volume. They are
    /// mounted again when somebody asks for them.
    package func unmountIdle(for idle: Duration) {
        let now = stores.catalog.now()
        for id in Set(mounts.mounts().compactMap(\.session)) {
            let requests = requests(of: id)
            let used = uses.withLock { uses in
                if let known = uses[id], known.requests == requests { return known.at }
                // A daemon that has just begun does not know since when it is so.
                uses[id] = (requests, now)
                return now
            }
            guard now.microseconds - used.microseconds > Int64(idle / .microseconds(1)) else { continue }
            trying("cannot unmount an idle session's stores", id) { () throws(RemfsError) in
                try alone(with: id) { () throws(RemfsError) in
                    guard try !stores.catalog.isInContainers(id) else { return }
                    guard let last = try stores.catalog.session(id).lastEvent, last > used else { return try unmountUnlessInUse(id) }
                }
            }
        }
    }

    private func unmountUnlessInUse(_ id: SessionID) throws(RemfsError) {
        for mount in mounts.mounts(of: id) {
            do throws(RemfsError) { try mounts.unmount(mount.id) } catch {
                guard error.code == .busy else { throw error }
                continue
            }
            unsafe rmdir(mount.directory)
            logger.notice("an idle session's store is unmounted", metadata: ["session": "\(id)", "store": "\(mount.store)"])
        }
    }
}

extension MountOptions {
    /// Those of a session's mount. What an agent writes is data: programs do not run from there unless it was asked for.
    package init(_ attachment: Attachment) throws(RemfsError) {
        let body = try attachment.options.map { (text) throws(RemfsError) in try Body(parsing: text.utf8) }
        try self.init(access: attachment.access, body)
        exec = try body?.boolean("exec") ?? false
    }
}
