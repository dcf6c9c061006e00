import Foundation
import Glibc
import Testing

/// TCP on this machine.
package enum Port {
    /// One that nobody has, for as long as nobody takes it.
    package static func free() throws -> UInt16 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw UnixSocket.Failure(code: errno) }
        defer { close(descriptor) }
        guard withAddress(0, { bind(descriptor, $0, $1) }) == 0 else { throw UnixSocket.Failure(code: errno) }
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let code = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        guard code == 0 else { throw UnixSocket.Failure(code: errno) }
        return UInt16(bigEndian: address.sin_port)
    }

    package static func connect(_ port: UInt16, isIPv6: Bool = false) throws -> Int32 {
        let descriptor = socket(isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw UnixSocket.Failure(code: errno) }
        let code: Int32
        if isIPv6 {
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            inet_pton(AF_INET6, "::1", &address.sin6_addr)
            code = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
                }
            }
        } else {
            code = withAddress(port) { Glibc.connect(descriptor, $0, $1) }
        }
        guard code == 0 else {
            let code = errno
            close(descriptor)
            throw UnixSocket.Failure(code: code)
        }
        return descriptor
    }

    private static func withAddress(_ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
    }

    /// One request on a connection of its own.
    package static func http(
        _ port: UInt16, _ method: String, _ target: String, _ body: String? = nil, key: String? = nil, host: String? = "127.0.0.1",
        headers: [String] = [], isIPv6: Bool = false
    ) throws -> RawResponse {
        let descriptor = try connect(port, isIPv6: isIPv6)
        defer { close(descriptor) }
        var lines = ["\(method) \(target) HTTP/1.1", "Connection: close"] + headers
        if let host { lines.append("Host: \(host)") }
        if let key { lines.append("Authorization: Bearer \(key)") }
        if let body { lines.append("Content-Length: \(body.utf8.count)") }
        try UnixSocket.write(descriptor, lines.joined(separator: "\r\n") + "\r\n\r\n" + (body ?? ""))
        return try DaemonProcess.parse(try UnixSocket.readToEnd(descriptor))
    }
}
