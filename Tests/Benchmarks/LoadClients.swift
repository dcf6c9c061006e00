import Glibc

/// Many clients of the control socket in one thread: a connection for each, kept alive, and one request after the other on it. As little
/// of the machine as can be, so that what is measured is the daemon.
final class LoadClients {
    struct Answer {
        let status: Int
        let body: ArraySlice<UInt8>
        /// From the first byte sent to the last one received, in nanoseconds.
        let nanoseconds: UInt64
    }

    private struct Connection {
        var descriptor: Int32
        var began: UInt64 = 0
        var received: [UInt8] = []
        /// Where the body begins and how long it is, once the head is there.
        var body: (start: Int, count: Int)?
        var isResting = true
    }

    private var connections: [Connection] = []
    private var buffer = [UInt8](repeating: 0, count: 256 << 10)

    init(socket path: String, count: Int) throws {
        for _ in 0..<count { connections.append(Connection(descriptor: try Self.connect(path))) }
    }

    deinit { for connection in connections { close(connection.descriptor) } }

    private static func connect(_ path: String) throws -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure.system("socket") }
        let code = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard code == 0 else { throw Failure.system(path) }
        return descriptor
    }

    /// As it stands on the wire.
    static func request(_ method: String, _ target: String, _ body: String? = nil) -> [UInt8] {
        var head = "\(method) \(target) HTTP/1.1\r\nHost: localhost\r\n"
        if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n" }
        return Array("\(head)\r\n\(body ?? "")".utf8)
    }

    /// Sends each client's first request, and with each answer its next, until `next` answers nil for all of them.
    ///
    /// - Parameter next: a client's number and the answer to its last request, nil at first; answers its next request.
    func run(_ next: (Int, Answer?) throws -> [UInt8]?) throws {
        var working = 0
        for number in connections.indices {
            if let request = try next(number, nil) {
                try begin(number, request)
                working += 1
            }
        }
        var waiting = connections.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
        while working > 0 {
            let count = poll(&waiting, nfds_t(waiting.count), 30_000)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Failure("no answer from the daemon within 30 s") }
            for number in waiting.indices where waiting[number].revents != 0 {
                guard let answer = try receive(number) else { continue }
                if let request = try next(number, answer) {
                    try begin(number, request)
                } else {
                    connections[number].isResting = true
                    working -= 1
                }
            }
        }
    }

    private func begin(_ number: Int, _ request: [UInt8]) throws {
        connections[number].isResting = false
        connections[number].body = nil
        connections[number].received.removeAll(keepingCapacity: true)
        connections[number].began = nanoseconds()
        let descriptor = connections[number].descriptor
        // Requests are shorter than what a socket takes at once.
        guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count else {
            throw Failure.system("client \(number) cannot send")
        }
    }

    /// What has come; the answer once it is whole.
    private func receive(_ number: Int) throws -> Answer? {
        let count = recv(connections[number].descriptor, &buffer, buffer.count, 0)
        guard count > 0 else { throw Failure("the daemon closed the connection of client \(number)") }
        guard !connections[number].isResting else { throw Failure("client \(number) was answered without a request") }
        connections[number].received.append(contentsOf: buffer[..<count])
        if connections[number].body == nil {
            guard let head = Self.place(of: Self.headEnd, in: connections[number].received[...]) else { return nil }
            let text = connections[number].received[..<head]
            guard let length = Self.number(after: "Content-Length: ", in: text) ?? Self.number(after: "content-length: ", in: text) else {
                throw Failure("an answer without a length: \(String(decoding: text, as: UTF8.self))")
            }
            connections[number].body = (head + 4, length)
        }
        let (start, length) = connections[number].body!
        guard connections[number].received.count >= start + length else { return nil }
        let took = nanoseconds() - connections[number].began
        let received = connections[number].received
        guard let status = Self.number(after: "HTTP/1.1 ", in: received[..<start]) else { throw Failure("an answer without a status") }
        return Answer(status: status, body: received[start..<(start + length)], nanoseconds: took)
    }

    private static let headEnd = Array("\r\n\r\n".utf8)

    /// Where a pattern begins, from the start of the slice.
    private static func place(of pattern: [UInt8], in text: ArraySlice<UInt8>) -> Int? {
        text.withUnsafeBytes { bytes in
            var from = 0
            while from + pattern.count <= bytes.count {
                guard let found = memchr(bytes.baseAddress! + from, Int32(pattern[0]), bytes.count - pattern.count + 1 - from) else {
                    return nil
                }
                let place = UnsafeRawPointer(found) - bytes.baseAddress!
                if memcmp(found, pattern, pattern.count) == 0 { return place }
                from = place + 1
            }
            return nil
        }
    }

    /// The digits behind a mark.
    private static func number(after mark: String, in text: ArraySlice<UInt8>) -> Int? {
        let mark = Array(mark.utf8)
        guard let found = place(of: mark, in: text) else { return nil }
        var number = 0
        for digit in text.dropFirst(found + mark.count) {
            guard (48...57).contains(digit) else { break }
            number = 10 * number + Int(digit - 48)
        }
        return number
    }

    /// The text behind `"field":"` in a JSON document whose strings hold no quotes.
    static func field(_ name: String, in body: ArraySlice<UInt8>) -> String? {
        let mark = Array("\"\(name)\":\"".utf8)
        guard let found = place(of: mark, in: body) else { return nil }
        return String(decoding: body.dropFirst(found + mark.count).prefix { $0 != UInt8(ascii: "\"") }, as: UTF8.self)
    }
}
