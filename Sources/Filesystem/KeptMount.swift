import Foundation
import Fuse
package import Storage
import Threads

/// What a successor has to know of a mount in order to go on with it. It stands, as JSON, in memory that the holder keeps.
struct KeptMount: Codable {
    /// Rises with each change that an older or newer remfs would not understand.
    static let newestFormat = 2
    /// 2 where there is an owner in it, or a moment (`options.at`), which format 1 has not.
    var format = 1
    var id: MountID
    var store: StoreID
    var directory: String
    /// In us.
    var created: Int64
    var options: MountOptions
    /// `Origin.number`: under which the ledger knows its requests.
    var origin: Int
    var device: UInt32?
    var usesHelper: Bool
    var mountFlags: UInt
    /// nil until the kernel has been greeted: before that nobody can have opened anything.
    var handshake: Handshake?
    /// How often predecessors have mounted it in place of one that was never greeted; nil or 0: not at all.
    var attempts: Int?
    /// By memory, the newest version that this mount has shown or written. Only from a daemon that handed over: after a crash it is as if
    /// the mount had shown nothing.
    var seen: [Int64: Int64]
    /// Whose changes are made in it. Since format 2: to be without it would say that they are another's.
    var owner: Mount.Owner?

    struct Handshake: Codable {
        var request: [UInt8]
        var reply: [UInt8]
        var wanted: UInt32
    }

    init(_ entry: MountTable.Entry, seen: [Int64: Int64] = [:]) {
        self.seen = seen
        owner = entry.owner
        id = entry.id
        store = entry.store
        directory = entry.directory
        created = entry.created.microseconds
        options = entry.mount.options
        // Otherwise a remfs that knows no other format may go on with it.
        if owner != nil || options.at != nil { format = 2 }
        origin = entry.origin.number
        device = entry.mountpoint.number
        usesHelper = entry.mountpoint.usesHelper
        mountFlags = entry.mountpoint.flags
        attempts = entry.attempts
        handshake = entry.state.withLock { $0.handshake }.map { Handshake(request: $0.request, reply: $0.reply, wanted: $0.wanted) }
    }

    /// Throws `unsupported` where there is nothing, or nothing that this remfs understands.
    init(_ memory: FuseHoldMemory) throws(RemfsError) {
        guard let bytes = memory.read() else { throw RemfsError(.unsupported, "nothing is known of it: its daemon died early") }
        try self.init(bytes: bytes)
    }

    fileprivate init(bytes: [UInt8]) throws(RemfsError) {
        struct Format: Codable { var format: Int }
        let decoder = JSONDecoder()
        do {
            let format = try decoder.decode(Format.self, from: Data(bytes)).format
            guard format <= Self.newestFormat else {
                throw RemfsError(.unsupported, "it was left in format \(format) by another remfs, and this one knows \(Self.newestFormat)")
            }
            self = try decoder.decode(KeptMount.self, from: Data(bytes))
        } catch let error as RemfsError {
            throw error
        } catch {
            throw RemfsError(.unsupported, "what is known of it is not understood", cause: "\(error)")
        }
    }

    var bytes: [UInt8] {
        get throws(RemfsError) {
            do { return Array(try JSONEncoder().encode(self)) } catch {
                throw RemfsError(.internal, "cannot say what a mount is", cause: "\(error)")
            }
        }
    }

    fileprivate init(store: StoreID, directory: String) {
        id = MountID(bits: 1)
        self.store = store
        self.directory = directory
        created = 0
        options = MountOptions()
        origin = 1
        usesHelper = false
        mountFlags = 0
        seen = [:]
    }

    var mountpoint: FuseMountpoint {
        FuseMountpoint(path: Array(directory.utf8), number: device, usesHelper: usesHelper, flags: mountFlags)
    }

    var fuseHandshake: FuseConnection.Handshake? {
        handshake.map { FuseConnection.Handshake(request: $0.request, reply: $0.reply, wanted: $0.wanted) }
    }
}

extension MountTable {
    /// Reads and writes a kept mount that is of no mount, and opens stores that are none (`Rehearsal`).
    ///
    /// The first value of a type that a process decodes takes it a millisecond or more, since the runtime then looks through all of the
    /// program for what the type conforms to.
    package static func rehearse() throws(RemfsError) {
        var mount = KeptMount(store: StoreID(bits: 1), directory: "/")
        mount.handshake = KeptMount.Handshake(request: [1], reply: [1], wanted: 1)
        mount.seen = [1: 1]
        mount.device = 1
        _ = try KeptMount(bytes: mount.bytes)
        try Rehearsal.openStores()
        Rehearsal.growHeap()
    }
}
