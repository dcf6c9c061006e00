import FoundationEssentials
import Glibc

/// The daemon's control socket, in as much HTTP/1.1 as the benchmark needs: one connection, kept alive, one request after the other.
final class ControlSocket {
    private let path: String
    private var connection: Int32 = -1
    private var received: [UInt8] = []

    init(path: String) { self.path = path }
    deinit { if connection >= 0 { close(connection) } }

    struct Response {
        let status: Int
        let body: [UInt8]
        var text: String { String(decoding: body, as: UTF8.self) }
    }

    func get<Answer: Decodable>(_ target: String, as type: Answer.Type) throws -> Answer {
        let response = try request("GET", target)
        guard response.status == 200 else { throw Failure("GET \(target): \(response.status) \(response.text.prefix(300))") }
        return try JSONDecoder().decode(type, from: Data(response.body))
    }

    func post(_ target: String, _ body: String) throws {
        let response = try request("POST", target, body: body)
        guard (200..<300).contains(response.status) else {
            throw Failure("POST \(target): \(response.status) \(response.text.prefix(300))")
        }
    }

    func request(_ method: String, _ target: String, body: String? = nil) throws -> Response {
        do {
            return try exchange(method, target, body)
        } catch  where connection < 0 {
            // The daemon may have closed a connection that was idle: a new one decides.
            return try exchange(method, target, body)
        }
    }

    func disconnect() {
        if connection >= 0 { close(connection) }
        connection = -1
        received = []
    }

    /// The process that listens, while there is a connection.
    var peer: pid_t? {
        // struct ucred, which glibc hides from Swift: pid, uid, gid.
        var credentials: [Int32] = [0, 0, 0]
        var size = socklen_t(12)
        guard connection >= 0, getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 else { return nil }
        return credentials[0] > 0 ? credentials[0] : nil
    }

    private func exchange(_ method: String, _ target: String, _ body: String?) throws -> Response {
        do {
            try connect()
            var head = "\(method) \(target) HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
            if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n" }
            let bytes = Array("\(head)\r\n\(body ?? "")".utf8)
            guard send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
                throw Failure.system("control socket")
            }
            return try receive()
        } catch {
            disconnect()
            throw error
        }
    }

    private func connect() throws {
        guard connection < 0 else { return }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = Array(path.utf8)
        guard name.count < MemoryLayout.size(ofValue: address.sun_path) else { throw Failure("socket path too long: \(path)") }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure.system("socket") }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            throw Failure.system(path)
        }
        connection = descriptor
    }

    private func receive() throws -> Response {
        let head = String(decoding: try take(through: Array("\r\n\r\n".utf8)), as: UTF8.self)
        let lines = head.split(separator: "\r\n")
        guard let status = lines.first?.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
            throw Failure("no HTTP from the control socket: \(head.prefix(100))")
        }
        var headers: [String: String] = [:]
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            headers[line[..<colon].lowercased()] = line[line.index(after: colon)...].filter { $0 != " " }.lowercased()
        }
        var body: [UInt8] = []
        if headers["transfer-encoding"] == "chunked" {
            while true {
                let line = String(decoding: try take(through: Array("\r\n".utf8)).dropLast(2), as: UTF8.self)
                guard let size = Int(line.prefix { $0 != ";" }, radix: 16) else { throw Failure("bad chunk: \(line)") }
                body += try take(size)
                _ = try take(2)
                if size == 0 { break }
            }
        } else {
            body = try take(headers["content-length"].flatMap { Int($0) } ?? 0)
        }
        if headers["connection"] == "close" { disconnect() }
        return Response(status: status, body: body)
    }

    private func take(through end: [UInt8]) throws -> [UInt8] {
        var searched = 0
        while true {
            if received.count >= end.count {
                for start in searched...(received.count - end.count) where received[start..<(start + end.count)].elementsEqual(end) {
                    return try take(start + end.count)
                }
                searched = received.count - end.count + 1
            }
            try more()
        }
    }

    private func take(_ count: Int) throws -> [UInt8] {
        while received.count < count { try more() }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    private func more() throws {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(connection, &buffer, buffer.count, 0)
        guard count > 0 else { throw Failure("the control socket was closed") }
        received.append(contentsOf: buffer[..<count])
    }
}

/// What the socket answers, as far as it is asked here.
enum Wire {
    struct Page<Item: Decodable>: Decodable {
        let data: [Item]
        let nextPage: String?

        private enum CodingKeys: String, CodingKey {
            case data
            case nextPage = "next_page"
        }
    }
    struct Memory: Decodable {
        let id: String
        let path: String
    }
    struct Version: Decodable {
        let id: String
        let content: String?
        let contentSizeBytes: Int?

        private enum CodingKeys: String, CodingKey {
            case id, content
            case contentSizeBytes = "content_size_bytes"
        }
    }
}
