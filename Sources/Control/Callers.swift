import Glibc
import HTTPTypes
import Hummingbird
import Storage

/// Where a connection came in, and with that what is asked of its requests.
enum Door: Sendable {
    /// The Unix socket. The kernel says who is there; nil: it cannot be told any more.
    case socket(Peer?)
    /// TCP, with the host names that requests may be for.
    case network(HostNames)
}

/// Says who the caller is and what it may do, or turns it away.
///
/// On the Unix socket the process decides: root and the daemon's own user may do everything, the members of one group what it was granted. A
/// key that they send narrows that, and is who acts; one that is not known is ignored, since SDKs must send something; one that is revoked is
/// refused, since ignoring it would give more than it ever did. Over TCP a good key is required, and the name of this machine.
struct CallerMiddleware: RouterMiddleware {
    typealias Context = ControlContext

    /// Whose members may use the socket, besides root and the daemon's user.
    let group: UInt32?
    /// What they may do.
    let groupScopes: Scopes
    let stores: StorePool
    let keys: KeyRing

    func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws -> Response {
        var context = context
        switch context.door {
        case .socket(let peer):
            guard let peer else { throw RemfsError(.unauthenticated, "the caller cannot be told") }
            guard let own = try await scopes(of: peer) else {
                throw RemfsError(.notPermitted, "user \(peer.uid) may not use this socket")
            }
            context.caller = peer
            context.key = try key(of: request)
            context.scopes = context.key.map { own.narrowed(to: $0.scopes) } ?? own
        case .network(let names):
            try names.check(request.head.authority)
            guard let key = try key(of: request) else {
                throw RemfsError(.unauthenticated, "a key is required: send it as `Authorization: Bearer` or `x-api-key`")
            }
            context.key = key
            context.scopes = key.scopes
        }
        return try await next(request, context)
    }

    /// The key that the request carries; nil: none of ours.
    private func key(of request: Request) throws(RemfsError) -> APIKey? {
        var found: APIKey?
        for secret in Self.secrets(of: request) {
            guard let key = keys.key(secret: secret) else { continue }
            guard key.revoked == nil else { throw RemfsError(.unauthenticated, "key \(key.id) is revoked") }
            guard found == nil || found?.id == key.id else { throw RemfsError(.unauthenticated, "the request carries two keys") }
            found = key
        }
        return found
    }

    private static func secrets(of request: Request) -> [String] {
        var secrets = request.headers[values: .apiKey]
        for value in request.headers[values: .authorization] {
            let words = value.split(separator: " ", maxSplits: 1)
            if words.count == 2, words[0].lowercased() == "bearer" {
                secrets.append(words[1].trimmingPrefix { $0 == " " }.description)
            }
        }
        return secrets
    }

    /// What a process may do; nil: not even come in.
    private func scopes(of peer: Peer) async throws -> Scopes? {
        if peer.uid == 0 || peer.uid == geteuid() { return .everything }
        guard let group else { return nil }
        if peer.gid == group { return groupScopes }
        // The user database may be on a network, so it is asked on a thread that may wait.
        let isMember = try await stores.run { () throws(RemfsError) in try UserDatabase.isMember(peer.uid, of: group) }
        return isMember ? groupScopes : nil
    }
}

extension HTTPField.Name {
    static let apiKey = Self("x-api-key")!
}

/// The names by which requests over TCP may call this machine: a page in somebody's browser whose own name was made to lead here sends
/// that name (DNS rebinding).
package struct HostNames: Sendable {
    private let names: Set<String>

    /// Names of the loopback interface, and `others`.
    package init(others: [String] = []) { names = Set(["localhost", "127.0.0.1", "[::1]"] + others.map { $0.lowercased() }) }

    /// - Parameter authority: of the request: a name or an address, and perhaps a port.
    func check(_ authority: String?) throws(RemfsError) {
        guard let authority, !authority.isEmpty else { throw RemfsError(.invalidArgument, "a Host header is required") }
        guard let name = Self.name(authority), names.contains(name) else {
            throw RemfsError(.notPermitted, "this daemon is not known as \(authority.prefix(100))")
        }
    }

    /// Without its port, in lower case; nil: it is no authority.
    static func name(_ authority: String) -> String? {
        let text = authority.lowercased()
        let end: String.Index
        if text.hasPrefix("[") {
            guard let bracket = text.firstIndex(of: "]") else { return nil }
            end = text.index(after: bracket)
        } else {
            end = text.firstIndex(of: ":") ?? text.endIndex
        }
        let port = text[end...]
        guard port.isEmpty || (port.first == ":" && port.dropFirst().utf8.allSatisfy { (48...57).contains($0) } && port.utf8.count <= 6)
        else {
            return nil
        }
        return String(text[..<end])
    }
}
