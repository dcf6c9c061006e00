import Glibc
package import Storage

/// Where the daemon listens on TCP: an IP address and a port.
package struct ListenAddress: Sendable, Codable, Equatable, CustomStringConvertible {
    /// As inet_ntop(3) writes it.
    package let host: String
    package let port: UInt16
    private let isIPv6: Bool

    /// Reads `127.0.0.1:7447`, `[::1]:7447` or `localhost:7447`, which is the first of these.
    package init(_ text: String) throws(RemfsError) {
        let malformed = RemfsError(
            .invalidArgument, "listen must be an IP address and a port, such as 127.0.0.1:7447 or [::1]:7447, not \(text.prefix(100))")
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else { throw malformed }
        var host = String(text[..<colon])
        if host == "localhost" { host = "127.0.0.1" }
        let isIPv6 = host.hasPrefix("[") && host.hasSuffix("]")
        if isIPv6 { host = String(host.dropFirst().dropLast()) }
        guard let plain = Self.plain(host, isIPv6 ? AF_INET6 : AF_INET) else { throw malformed }
        (self.host, self.port, self.isIPv6) = (plain, port, isIPv6)
    }

    package var description: String { isIPv6 ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// Whether only this machine can reach it.
    package var isLoopback: Bool { isIPv6 ? host == "::1" : host.hasPrefix("127.") }

    private static func plain(_ host: String, _ family: Int32) -> String? {
        var bytes = [UInt8](repeating: 0, count: 16)
        guard unsafe inet_pton(family, host, &bytes) == 1 else { return nil }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard unsafe inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil else { return nil }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static let backlog: Int32 = 1_024

    /// Makes the socket. A predecessor's that has closed, or died, is no hindrance; one that still listens is (`busy`).
    ///
    /// - Returns: its descriptor, the caller's to close. Who connects waits from now on.
    package func listen() throws(RemfsError) -> Int32 {
        let descriptor = socket(
            isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw RemfsError.ofSystem("no socket can be made") }
        do throws(RemfsError) {
            // Connections of a predecessor may still linger.
            try set(descriptor, SOL_SOCKET, SO_REUSEADDR)
            if isIPv6 { try set(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY) }
            guard unsafe withAddress({ unsafe bind(descriptor, $0, $1) }) == 0 else {
                guard errno == EADDRINUSE else { throw RemfsError.ofSystem("\(self) cannot be listened on") }
                throw RemfsError(.busy, "\(self) is in use by another process")
            }
            guard Glibc.listen(descriptor, Self.backlog) == 0 else { throw RemfsError.ofSystem("\(self) cannot be listened on") }
        } catch {
            close(descriptor)
            throw error
        }
        return descriptor
    }

    private func set(_ descriptor: Int32, _ level: Int32, _ option: Int32) throws(RemfsError) {
        var on: Int32 = 1
        guard unsafe setsockopt(descriptor, level, option, &on, socklen_t(MemoryLayout<Int32>.size)) == 0 else {
            throw RemfsError.ofSystem("\(self) cannot be listened on")
        }
    }

    private func withAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        if isIPv6 {
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            unsafe inet_pton(AF_INET6, host, &address.sin6_addr)
            return unsafe withUnsafePointer(to: &address) {
                unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_in6>.size)) }
            }
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        unsafe inet_pton(AF_INET, host, &address.sin_addr)
        return unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
    }
}
