internal import CFuse
internal import Glibc

/// What a holder keeps besides mounts: the control socket, on which connections wait while no daemon is there.
package struct FuseHeldListener: Sendable, Equatable {
    /// Bound and listening.
    package let descriptor: Int32
    /// Made by a service manager (`remfs.socket`), whose business its place is; otherwise by a daemon, which removes it when it stops.
    package let isGiven: Bool

    package init(descriptor: Int32, isGiven: Bool) {
        self.descriptor = descriptor
        self.isGiven = isGiven
    }
}

/// The service manager's store of descriptors (sd_notify(3), `FDSTORE=1`): what is in it is there again when the whole service is
/// started anew, holder included.
///
/// One thread at a time.
package struct FuseDescriptorStore: Sendable {
    /// What a service manager has passed at the start (sd_listen_fds(3)). The descriptors are close-on-exec and the receiver's.
    package struct Passed: Sendable {
        package var holds: [FuseHold] = []
        package var listener: FuseHeldListener?
        /// Of a `FuseInbox`.
        package var inbox: Int32?
        /// Names of what is nothing of ours, or half of something: closed already.
        package var strange: [String] = []

        package init() {}
    }

    /// What `FileDescriptorName=` of the socket unit says.
    package static let givenListener = "control"
    private static let ownListener = "listener"
    private static let inbox = "inbox"
    private static let devicePrefix = "device-"
    private static let memoryPrefix = "memory-"
    private static let firstPassed: Int32 = 3

    private let path: String
    /// How many descriptors it takes.
    package let room: Int

    /// nil: no service manager, or none that says with `FDSTORE` how much it keeps. (From systemd 254 on it says so itself, before that
    /// the unit has to.)
    package init?(_ environment: [String: String]) {
        guard let path = environment["NOTIFY_SOCKET"], !path.isEmpty, let room = environment["FDSTORE"].flatMap({ Int($0) }), room > 0
        else { return nil }
        self.path = path
        self.room = room
    }

    /// The variables that speak of descriptors of this very process, and are not for those that it starts.
    package static let variables: Set = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"]

    /// Takes what was passed to this process. Call it once, before anything else opens a descriptor that could be mistaken for one.
    package static func take(_ environment: [String: String]) -> Passed {
        var passed = Passed()
        guard let process = environment["LISTEN_PID"], Int32(process) == getpid(),
            let count = environment["LISTEN_FDS"].flatMap({ Int32($0) }), count > 0
        else { return passed }
        let names = (environment["LISTEN_FDNAMES"] ?? "").split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        var (devices, memories): ([String: Int32], [String: Int32]) = ([:], [:])
        var own: Int32?
        for place in 0..<count {
            let descriptor = firstPassed + place
            let name = Int(place) < names.count ? names[Int(place)] : ""
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else { continue }  // none there
            if name.hasPrefix(devicePrefix) {
                devices.updateValue(descriptor, forKey: String(name.dropFirst(devicePrefix.count))).map { _ = close($0) }
            } else if name.hasPrefix(memoryPrefix) {
                memories.updateValue(descriptor, forKey: String(name.dropFirst(memoryPrefix.count))).map { _ = close($0) }
            } else if name == givenListener, passed.listener == nil {
                passed.listener = FuseHeldListener(descriptor: descriptor, isGiven: true)
            } else if name == ownListener, own == nil {
                own = descriptor
            } else if name == inbox, passed.inbox == nil {
                passed.inbox = descriptor
            } else {
                close(descriptor)
                passed.strange.append(name)
            }
        }
        if let own {
            if passed.listener == nil {
                passed.listener = FuseHeldListener(descriptor: own, isGiven: false)
            } else {
                // A socket unit was added since.
                close(own)
                passed.strange.append(ownListener)
            }
        }
        for (name, device) in devices {
            if let memory = memories.removeValue(forKey: name) {
                passed.holds.append(FuseHold(name: name, device: device, memory: memory))
            } else {
                close(device)
                passed.strange.append(devicePrefix + name)
            }
        }
        for (name, memory) in memories {
            close(memory)
            passed.strange.append(memoryPrefix + name)
        }
        return passed
    }

    /// 0, or an errno. That it has arrived is no promise that it is kept: the manager says nothing.
    package func keep(_ hold: FuseHold) -> Int32 {
        // The device last: without what is known of it, it is of no use. Unpolled, since it shows an error before it is mounted, at which
        // the manager would drop it; a mount that ends is removed by us.
        let code = store(Self.memoryPrefix + hold.name, hold.memory)
        return code == 0 ? store(Self.devicePrefix + hold.name, hold.device) : code
    }

    package func keep(_ listener: FuseHeldListener) -> Int32 { listener.isGiven ? 0 : store(Self.ownListener, listener.descriptor) }

    package func keep(inbox: Int32) -> Int32 { store(Self.inbox, inbox) }

    package func drop(_ name: String) -> Int32 {
        let code = remove(Self.devicePrefix + name)
        return code == 0 ? remove(Self.memoryPrefix + name) : code
    }

    package func dropListener() -> Int32 { remove(Self.ownListener) }

    package func dropInbox() -> Int32 { remove(Self.inbox) }

    /// Removes something by the name that the manager knows it by.
    package func remove(_ name: String) -> Int32 { send("FDSTOREREMOVE=1\nFDNAME=\(name)", []) }

    private func store(_ name: String, _ descriptor: Int32) -> Int32 { send("FDSTORE=1\nFDPOLL=0\nFDNAME=\(name)", [descriptor]) }

    private func send(_ text: String, _ descriptors: [Int32]) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(path.utf8)
        guard name.count < MemoryLayout.size(ofValue: address.sun_path) else { return ENAMETOOLONG }
        // A leading @ stands for the abstract namespace.
        if name[0] == UInt8(ascii: "@") { name[0] = 0 }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
        let socket = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { return errno }
        defer { close(socket) }
        let length = socklen_t(2 + name.count)
        let isConnected = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe connect(socket, $0, length) == 0 }
        }
        guard isConnected else { return errno }
        let bytes = Array(text.utf8)
        return unsafe cfuse_send(socket, bytes, bytes.count, descriptors, Int32(descriptors.count))
    }
}
