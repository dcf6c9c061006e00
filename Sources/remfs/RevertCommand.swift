import ArgumentParser
import Control
import Storage

struct RevertCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revert", abstract: "Put back what a session changed, and list what others changed since",
        discussion: """
            Says what it would do, and with --yes does it: each memory that the session was the last to change becomes what it was before, \
            under its ID, as a new version. What somebody else has changed since stays as it is, and is listed with who and when. Of each \
            store all of it happens or nothing, and the version is told to which `remfs restore` takes it back. Without --store these are \
            the stores that the session has.
            """)

    @Option(help: sessionHelp) var session: String
    @Option(help: ArgumentHelp("Only this store", valueName: "store")) var store: String?
    @Option(help: ArgumentHelp("Only what the session changed from this time on (RFC 3339)", valueName: "time")) var since: String?
    @Flag(help: "Do it") var yes = false
    @OptionGroup var daemon: DaemonOptions

    private struct Request: Encodable {
        let sessionID: String
        let since: String?
        let dryRun: Bool

        private enum CodingKeys: String, CodingKey {
            case since
            case sessionID = "session_id"
            case dryRun = "dry_run"
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        var reverts: [Wire.Revert] = []
        var failure: RemfsError?
        for store in try await stores(client) {
            do throws(RemfsError) {
                reverts.append(try await revert(store.id, client))
            } catch {
                failure = error
                break
            }
            if !daemon.json { try show(reverts[reverts.count - 1], of: store) }
        }
        // What was done in other stores is told also where one of them fails.
        if daemon.json, failure == nil || !reverts.isEmpty { try Output.json(Wire.Page(data: reverts, nextPage: nil)) }
        if let failure { throw failure }
        if !yes, reverts.contains(where: { !$0.data.isEmpty }) { Output.talk("nothing was changed: --yes does it") }
    }

    private func stores(_ client: ControlClient) async throws -> [Wire.Store] {
        if let store { return [try await client.store(store)] }
        let session: Wire.Session
        do throws(RemfsError) {
            session = try await client.call(.get, sessionPath(self.session))
        } catch {
            guard error.code == .notFound else { throw error }
            throw RemfsError(.notFound, "session \(self.session) not found: where it is deleted, name the store with --store")
        }
        var stores: [Wire.Store] = []
        for resource in session.resources where !stores.contains(where: { $0.id == resource.memoryStoreID }) {
            do throws(RemfsError) {
                stores.append(try await client.store(resource.memoryStoreID))
            } catch {
                guard error.code == .notFound else { throw error }
                Output.talk("store \(resource.memoryStoreID) (\(Output.printable(resource.name))) was deleted")
            }
        }
        return stores
    }

    private func revert(_ store: String, _ client: ControlClient) async throws(RemfsError) -> Wire.Revert {
        func ask(isDryRun: Bool) async throws(RemfsError) -> Wire.Revert {
            try await client.call(
                .post, "/v1/memory_stores/\(store)/revert", body: Request(sessionID: session, since: since, dryRun: isDryRun))
        }
        guard yes else { return try await ask(isDryRun: true) }
        do throws(RemfsError) {
            return try await ask(isDryRun: false)
        } catch {
            // A store that is only read is no failure where nothing is to be done in it.
            guard error.code == .readOnly else { throw error }
            let plan = try await ask(isDryRun: true)
            guard plan.data.isEmpty else { throw error }
            return plan
        }
    }

    private func show(_ revert: Wire.Revert, of store: Wire.Store) throws {
        try Output.line(
            "\(Output.printable(store.name)) (\(store.id)): "
                + (revert.data.isEmpty
                    ? "nothing to put back"
                    : revert.dryRun
                        ? "\(revert.data.count + revert.omitted) to put back" : "\(revert.data.count + revert.omitted) put back"))
        try Output.table(
            ["WHAT", "PATH", "FROM", "TO"],
            revert.data.map { change in
                [
                    change.change, change.oldPath.map { "\($0) -> \(change.path)" } ?? change.path, change.fromVersionID,
                    change.toVersionID ?? "-",
                ]
            })
        if revert.omitted > 0 { Output.talk("and \(revert.omitted) more") }
        try Output.table(["LEFT ALONE", "WHY"], revert.left.map { [$0.path ?? $0.memoryID, $0.why] })
        if revert.leftOmitted > 0 { Output.talk("and \(revert.leftOmitted) more that are left alone") }
        if let version = revert.undoVersionID { Output.talk("remfs restore \(store.id) --to \(version) undoes it") }
    }
}

extension Wire.Revert.Left {
    /// One line for people.
    fileprivate var why: String {
        let who = [changedBy?.actor.id, changedAt.map(shortTime), memoryVersionID].compactMap { $0 }.joined(separator: ", ")
        return switch RevertOutcome.Left.Reason(rawValue: reason) {
        case .changedSince: "changed since: \(who)"
        case .changedBetween: "what the session changed before this one stays: \(who)"
        case .pathTaken: "\(conflictingPath ?? "-") is in the way" + (conflictingMemoryID.map { " (\($0))" } ?? "")
        case .redacted: "what it was is redacted: \(who)"
        case .pruned: "what it was is not kept any more (retention)"
        case nil: reason
        }
    }
}
