import Foundation
import Fuse
import Storage
import Threads

/// What a successor has to know of a mount in order to go on with it. It stands, as JSON, in memory that the holder keeps.
struct KeptMount: Codable {
    /// Rises with each change that an older or newer remfs would not understand.
    static let newestFormat = 1
    var format = KeptMount.newestFormat
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
    /// By memory, the newest version that this mount has shown or written. Only from a daemon that handed over: after a crash it is as if
    /// the mount had shown nothing.
    var seen: [Int64: Int64]

    struct Handshake: Codable {
        var request: [UInt8]
        var reply: [UInt8]
        var wanted: UInt32
    }

    init(_ entry: MountTable.Entry, seen: [Int64: Int64] = [:]) {
        self.seen = seen
        id = entry.id
        store = entry.store
        directory = entry.directory
        created = entry.created.microseconds
        options = entry.mount.options
        origin = entry.origin.number
        device = entry.mountpoint.number
        usesHelper = entry.mountpoint.usesHelper
        mountFlags = entry.mountpoint.flags
        handshake = entry.state.withLock { $0.handshake }.map { Handshake(request: $0.request, reply: $0.reply, wanted: $0.wanted) }
    }

    /// nil: nothing, or nothing that this remfs understands.
    init?(_ memory: FuseHoldMemory) {
        struct Format: Codable { var format: Int }
        let decoder = JSONDecoder()
        // What is not understood is as good as nothing, and said to be so by whoever asks.
        guard let bytes = memory.read(), let format = try? decoder.decode(Format.self, from: Data(bytes)).format,
            format <= Self.newestFormat, let kept = try? decoder.decode(KeptMount.self, from: Data(bytes))  // as above
        else { return nil }
        self = kept
    }

    var bytes: [UInt8] {
        get throws(RemfsError) {
            do { return Array(try JSONEncoder().encode(self)) } catch {
                throw RemfsError(.internal, "cannot say what a mount is", cause: "\(error)")
            }
        }
    }

    var mountpoint: FuseMountpoint {
        FuseMountpoint(path: Array(directory.utf8), number: device, usesHelper: usesHelper, flags: mountFlags)
    }

    var fuseHandshake: FuseConnection.Handshake? {
        handshake.map { FuseConnection.Handshake(request: $0.request, reply: $0.reply, wanted: $0.wanted) }
    }
}
