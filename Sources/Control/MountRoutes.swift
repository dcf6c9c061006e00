package import Filesystem
import HTTPTypes
import Hummingbird
package import Storage

/// `/v1/mounts` (`api.md` 13). A mount belongs to the process that asks for it: its target must be that user's own directory.
struct MountRoutes: Sendable {
    let stores: StorePool
    let mounts: MountTable

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/mounts", needs: .some(.read), use: list)
        routes.on(.post, "/v1/mounts", needs: .some(.admin), use: create)
        routes.on(.get, "/v1/mounts/:mount", needs: .some(.read), use: get)
        routes.on(.post, "/v1/mounts/:mount", needs: .some(.admin), use: update)
        routes.on(.delete, "/v1/mounts/:mount", needs: .some(.admin), use: delete)
        routes.on(.get, "/v1/mounts/:mount/requests", needs: .some(.read), use: requests)
    }

    func list(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.Mount> {
        Wire.Page(data: mounts.mounts().filter { context.scopes.allows(.read, on: $0.store) }.map { Wire.Mount($0) }, nextPage: nil)
    }

    func create(_ request: Request, _ context: ControlContext) async throws -> Wire.Mount {
        let body = try await request.collectFields().get()
        try body.allow("memory_store_id", "directory", "access", "at", "remfs")
        let text = try body.requiredString("memory_store_id")
        guard let store = StoreID(text) else { throw RemfsError(.notFound, "memory store \(text.prefix(80)) not found") }
        try context.require(.admin, on: store)
        let directory = try body.requiredString("directory")
        guard directory.utf8.first == UInt8(ascii: "/"), !directory.utf8.contains(0) else {
            throw RemfsError(.invalidArgument, "directory must be an absolute path")
        }
        let access = try body.choice("access", of: [Access.readWrite, .readOnly])
        var options = try MountOptions(access: access, try body.object("remfs"))
        if let text = try body.string("at") {
            guard access != .readWrite else {
                throw RemfsError(.invalidArgument, "what was cannot be written to: access must be read_only")
            }
            options.access = .readOnly
            options.at = try await time(of: text, in: store)
        }
        guard let caller = context.caller else {
            throw RemfsError(.notPermitted, "a mount is asked for on the daemon's own socket: it belongs to a process on this machine")
        }
        let (mounts, agreed) = (mounts, options)
        return Wire.Mount(
            try await stores.run { () throws(RemfsError) in try mounts.mount(store, at: directory, agreed, requestedBy: caller.uid) })
    }

    /// The moment that a mount is asked for of, in us.
    private func time(of text: String, in store: StoreID) async throws -> Int64 {
        guard let point = StorePoint(text, time: { Timestamp(rfc3339: $0) ?? Timestamp(rfc3339: $0 + "Z") }) else {
            throw RemfsError(.invalidArgument, "at must be a time as RFC 3339 has it, or a version's ID")
        }
        let created = try stores.catalog.store(store).created
        return try await stores.read(store) { (store) throws(RemfsError) in try store.pastMoment(point, since: created).time }
    }

    /// The one that the path names, if its store is the caller's to use in that way.
    private func mount(_ context: ControlContext, _ permission: Scopes.Permission) throws(RemfsError) -> Mount {
        let mount = try mounts.mount(try context.mountID)
        try context.require(permission, on: mount.store)
        return mount
    }

    func get(_ request: Request, _ context: ControlContext) async throws -> Wire.Mount {
        Wire.Mount(try mount(context, .read))
    }

    func update(_ request: Request, _ context: ControlContext) async throws -> Wire.Mount {
        let mount = try mount(context, .admin)
        let id = mount.id
        let parsed = try await request.collectFields()
        let body = try parsed.get()
        try body.allow("access")
        guard let access = try body.choice("access", of: [Access.readWrite, .readOnly]) else {
            throw RemfsError(.invalidArgument, "access is required")
        }
        if let session = mount.session {
            throw RemfsError(.unsupported, "the mount belongs to session \(session): change the access of its resource \(mount.store)")
        }
        let mounts = mounts
        return Wire.Mount(try await stores.run { () throws(RemfsError) in try mounts.setAccess(id, access) })
    }

    /// With `lazy=true` also a mount that is in use: it goes away for new callers at once, and for good when its last file is closed.
    func delete(_ request: Request, _ context: ControlContext) async throws -> Wire.Deleted {
        let mount = try mount(context, .admin)
        let id = mount.id
        if let session = mount.session {
            throw RemfsError(.unsupported, "the mount belongs to session \(session): it ends when that is archived or deleted")
        }
        let lazily = try request.query.boolean("lazy")
        let mounts = mounts
        try await stores.run { () throws(RemfsError) in try mounts.unmount(id, lazily: lazily) }
        return Wire.Deleted(id: id.description, type: "mount_deleted")
    }

    func requests(_ request: Request, _ context: ControlContext) async throws -> Wire.MountRequests {
        let id = try mount(context, .read).id
        return Wire.MountRequests(mountID: id.description, requests: try mounts.requestCounts(id))
    }
}

extension Body {
    /// Refuses what no mount of a session could be made with: the object `remfs` of its resource.
    func checkMountOptions() throws(RemfsError) {
        try allow("uid", "gid", "umask", "history", "on_stale_write", "coherence", "xattr", "exec")
        _ = try MountOptions(access: nil, self)
    }
}

extension MountOptions {
    /// - Parameter body: the object `remfs` of a mount.
    package init(access: Access?, _ body: Body?) throws(RemfsError) {
        self.init()
        if let access { self.access = access }
        guard let body else { return }
        try body.allow("uid", "gid", "umask", "history", "on_stale_write", "coherence", "xattr", "exec", "allow_other")
        let number = 0...Int64(UInt32.max - 1)  // The largest value is "no ID" to the kernel.
        uid = try body.integer("uid", in: number).map { UInt32($0) }
        gid = try body.integer("gid", in: number).map { UInt32($0) }
        umask = try body.integer("umask", in: 0...0o777).map { UInt32($0) }
        if let value = try body.boolean("history") { history = value }
        if let value = try body.boolean("xattr") { xattr = value }
        if let value = try body.boolean("exec") { exec = value }
        if let value = try body.boolean("allow_other") { allowsOthers = value }
        if let value = try body.choice("on_stale_write", of: [StaleWrites.record, .refuse]) { onStaleWrite = value }
        if let value = try body.choice("coherence", of: [Coherence.relaxed, .strict]) { coherence = value }
    }
}
