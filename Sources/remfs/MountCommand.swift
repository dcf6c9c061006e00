import ArgumentParser
import Control
import Glibc
import Storage

struct MountCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount", abstract: "Show a store as a directory; return when the mount is live",
        discussion: "The directory must be empty and yours. `remfs status` lists the mounts there are.")

    @Argument(help: storeHelp) var store: String
    @Argument(help: "Where", completion: .directory) var directory: String
    @Flag(help: "Refuse every change (EROFS)") var readOnly = false
    @Option(help: "Show the store as of an RFC 3339 time, or a version's ID; nothing can be changed there") var at: String?
    @Flag(help: "Refuse to run programs from the mount") var noexec = false
    @Flag(help: "Let other users in, as modes say: as root always so, for an ordinary user if /etc/fuse.conf has user_allow_other")
    var allowOther = false
    @OptionGroup var view: ViewOptions
    @OptionGroup var daemon: DaemonOptions

    struct Request: Encodable {
        let memoryStoreID: String
        let directory: String
        let access: Access
        let at: String?
        let remfs: ViewOptions.Request

        private enum CodingKeys: String, CodingKey {
            case directory, access, at, remfs
            case memoryStoreID = "memory_store_id"
        }
    }

    func run() async throws {
        let client = try await daemon.client()
        let request = Request(
            memoryStoreID: try await client.store(store).id, directory: try Self.target(directory),
            access: readOnly || at != nil ? .readOnly : .readWrite, at: at,
            remfs: view.request(exec: !noexec, allowOther: allowOther ? true : nil))
        let mount: Wire.Mount = try await client.call(.post, "/v1/mounts", body: request)
        if daemon.json { try Output.json(mount) }
    }

    /// The directory as the daemon wants it. `link/..` would be another place for it than for the kernel, so a link is found out here.
    private static func target(_ text: String) throws(RemfsError) -> String {
        let path = Settings.absolute(text)
        let plain = Settings.plain(path)
        guard path.split(separator: "/").contains(".."), let real = unsafe realpath(path, nil) else { return plain }
        defer { unsafe free(real) }
        guard unsafe ExactString(String(cString: real)) == ExactString(plain) else {
            throw RemfsError(.notADirectory, "\(text) leads through a symbolic link: name the directory itself")
        }
        return plain
    }
}

struct UnmountCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmount", abstract: "End a mount; return when it is gone", aliases: ["umount"])

    @Argument(help: "A mount's directory or ID", completion: .directory) var mount: String
    @Flag(name: .shortAndLong, help: "Also while it is in use: hide it now, end it when its last file is closed") var lazy = false
    @OptionGroup var daemon: DaemonOptions

    func run() async throws {
        let client = try await daemon.client()
        let mounts: [Wire.Mount] = try await client.call(.get, "/v1/mounts", as: Wire.Page<Wire.Mount>.self).data
        // By its bytes, as the kernel has it.
        let directory = ExactString(Settings.plain(Settings.absolute(mount)))
        // Of several on one directory the newest is on top.
        guard let found = mounts.last(where: { $0.id == mount || ExactString(Settings.plain($0.directory)) == directory }) else {
            throw RemfsError(.notFound, "mount \(mount)")
        }
        let deleted: Wire.Deleted = try await client.call(.delete, "/v1/mounts/\(found.id)", query: [("lazy", lazy ? "true" : nil)])
        if daemon.json { try Output.json(deleted) }
    }
}
