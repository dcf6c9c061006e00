import ArgumentParser
import Control
import Foundation
import Storage

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Check stores and the catalog from end to end, and repair what can be",
        discussion: """
            With a daemon it asks that, while everyone goes on; a repair makes who works in the store's mounts wait. Without one it looks \
            at the state directory itself. Ends with 0 where nothing is wrong any more, else with 1. Before the first repair of a store its \
            file is kept beside it.
            """)

    @Flag(help: "Repair what can be without loss") var repair = false
    @Option(
        help: ArgumentHelp("With --repair: give a store whose file has no row in the catalog one again, from orphans/ too", valueName: "id")
    )
    var adopt: String?
    @Option(help: ArgumentHelp("The state directory, where no daemon runs", valueName: "dir"), completion: .directory) var stateDir: String?
    @Argument(help: ArgumentHelp("Stores' IDs or names; all of them and the catalog where none is named", valueName: "store"))
    var stores: [String] = []
    @OptionGroup var daemon: DaemonOptions

    struct Report: Encodable {
        let stateDirectory: String
        /// Whether a daemon was asked.
        let daemon: Bool
        let clean: Bool
        let diagnoses: [Wire.Diagnosis]

        private enum CodingKeys: String, CodingKey {
            case daemon, clean, diagnoses
            case stateDirectory = "state_directory"
        }
    }

    func validate() throws {
        guard let adopt else { return }
        guard repair else { throw ValidationError("--adopt goes with --repair.") }
        guard stores.isEmpty else { throw ValidationError("--adopt goes with no other store.") }
        guard StoreID(adopt) != nil else { throw ValidationError("--adopt takes the ID of a store.") }
    }

    func run() async throws {
        var flags: [Settings.Key: String] = [:]
        flags[.socket] = daemon.socket
        flags[.stateDirectory] = stateDir
        let settings = try await Settings.load(flags)
        let client = try await daemon.client()
        let place: any Practice =
            if daemon.address != nil {
                DaemonPractice(client: client, directory: try await client.call(.get, "/v1/status", as: Wire.Status.self).stateDirectory)
            } else if let directory = try await directory(of: client, settings) {
                DaemonPractice(client: client, directory: directory)
            } else {
                try OfflinePractice(settings)
            }
        var diagnoses: [Wire.Diagnosis] = []
        func tell(_ diagnosis: Wire.Diagnosis) throws {
            diagnoses.append(diagnosis)
            if !daemon.json { try Self.show(diagnosis) }
        }
        if stores.isEmpty {
            try tell(repair ? try await place.repairState(adopting: adopt) : try await place.checkState())
            for store in try await place.allStores() { try tell(try await place.examine(store, repairs: repair)) }
        } else {
            var chosen: [Patient] = []
            for store in stores { chosen.append(try await place.find(store)) }
            for store in chosen { try tell(try await place.examine(store, repairs: repair)) }
        }
        let isClean = diagnoses.allSatisfy(\.clean)
        if daemon.json {
            try Output.json(
                Report(stateDirectory: place.directory, daemon: place is DaemonPractice, clean: isClean, diagnoses: diagnoses))
        }
        if !isClean { throw ExitCode(1) }
    }

    /// The state directory of the daemon that answers; nil: none does that has ours.
    private func directory(of client: ControlClient, _ settings: Settings) async throws(RemfsError) -> String? {
        do throws(RemfsError) {
            let status: Wire.Status = try await client.call(.get, "/v1/status")
            return stateDir == nil || status.stateDirectory == settings.stateDirectory ? status.stateDirectory : nil
        } catch {
            // Whoever has no daemon may have no right to its socket either, where another's is meant.
            guard error.code == .unavailable || stateDir != nil else { throw error }
            return nil
        }
    }

    // MARK: Showing

    private static func show(_ diagnosis: Wire.Diagnosis) throws(RemfsError) {
        let label = diagnosis.memoryStoreID.map { id in diagnosis.name.map { "store \"\($0)\" (\(id))" } ?? "store \(id)" }
        let count = diagnosis.findings.count + diagnosis.omitted.values.reduce(0, +)
        let verdict =
            diagnosis.sound
            ? "sound" : "\(count) finding\(count == 1 ? "" : "s")\(diagnosis.clean ? ", all repaired" : "")"
        try Output.line(Output.printable("\(label ?? "catalog and files (\(diagnosis.file))"): \(verdict)"))
        for finding in diagnosis.findings {
            try Output.line(Output.printable("  \(finding.outcome) \(finding.kind): \(finding.message)"))
            if let repair = finding.repair { try Output.line(Output.printable("    done: \(repair)")) }
            if finding.outcome == "repairable" { try Output.line("    to do: remfs doctor --repair") }
            if let advice = finding.advice { try Output.line(Output.printable("    to do: \(advice)")) }
        }
        for (outcome, more) in diagnosis.omitted.sorted(by: { $0.key < $1.key }) { try Output.line("  and \(more) more \(outcome)") }
        if let kept = diagnosis.keptFile { try Output.line(Output.printable("  as it was before: \(kept)")) }
        for note in diagnosis.notes { try Output.line(Output.printable("  note: \(note)")) }
    }
}

/// A store to be looked at.
private struct Patient {
    let id: String
    let name: String
}

/// Where stores are looked at: in a daemon, or in a state directory without one.
private protocol Practice {
    var directory: String { get }
    func allStores() async throws(RemfsError) -> [Patient]
    func find(_ reference: String) async throws(RemfsError) -> Patient
    func examine(_ store: Patient, repairs: Bool) async throws(RemfsError) -> Wire.Diagnosis
    func checkState() async throws(RemfsError) -> Wire.Diagnosis
    func repairState(adopting id: String?) async throws(RemfsError) -> Wire.Diagnosis
}

private struct DaemonPractice: Practice {
    let client: ControlClient
    let directory: String

    struct Request: Encodable { let adopt: String? }
    struct Nothing: Encodable {}

    func allStores() async throws(RemfsError) -> [Patient] {
        try await client.all("/v1/memory_stores", query: [("include_archived", "true")], of: Wire.Store.self)
            .map { Patient(id: $0.id, name: $0.name) }
    }

    func find(_ reference: String) async throws(RemfsError) -> Patient {
        let store = try await client.store(reference)
        return Patient(id: store.id, name: store.name)
    }

    func examine(_ store: Patient, repairs: Bool) async throws(RemfsError) -> Wire.Diagnosis {
        let path = "/v1/memory_stores/\(store.id)"
        return repairs ? try await client.call(.post, "\(path)/repair", body: Nothing()) : try await client.call(.get, "\(path)/check")
    }

    func checkState() async throws(RemfsError) -> Wire.Diagnosis { try await client.call(.get, "/v1/remfs/check") }

    func repairState(adopting id: String?) async throws(RemfsError) -> Wire.Diagnosis {
        try await client.call(.post, "/v1/remfs/repair", body: Request(adopt: id))
    }
}

private struct OfflinePractice: Practice {
    private let state: OfflineState
    var directory: String { state.directory }

    init(_ settings: Settings) throws(RemfsError) {
        do throws(RemfsError) {
            state = try OfflineState(settings.stateDirectory)
        } catch {
            guard error.code == .busy else { throw error }
            throw RemfsError(
                .busy, "a daemon has \(settings.stateDirectory), and none answers at \(settings.socket): name its --socket, or stop it")
        }
    }

    func allStores() throws(RemfsError) -> [Patient] { try state.stores().map { Patient(id: $0.id.description, name: $0.name) } }

    func find(_ reference: String) throws(RemfsError) -> Patient {
        let all = try allStores()
        if let store = all.first(where: { $0.id == reference }) { return store }
        let named = all.filter { ExactString($0.name) == ExactString(reference) }
        guard let store = named.first else { throw RemfsError(.notFound, "store \"\(reference)\"") }
        guard named.count == 1 else {
            throw RemfsError(
                .invalidArgument, "store \"\(reference)\" is the name of \(named.count): \(named.map(\.id).joined(separator: ", "))")
        }
        return store
    }

    func examine(_ store: Patient, repairs: Bool) throws(RemfsError) -> Wire.Diagnosis {
        guard let id = StoreID(store.id) else { throw RemfsError(.notFound, "store \(store.id)") }
        return Wire.Diagnosis(repairs ? try state.repair(id, name: store.name) : try state.check(id, name: store.name))
    }

    func checkState() throws(RemfsError) -> Wire.Diagnosis { Wire.Diagnosis(try state.checkState()) }

    func repairState(adopting id: String?) throws(RemfsError) -> Wire.Diagnosis {
        Wire.Diagnosis(try state.repairState(adopting: id.flatMap { StoreID($0) }))
    }
}
