import HTTPTypes
import Hummingbird

/// What a request is for, as clients may spell it and as routes know it.
enum RequestTarget {
    /// With letters, digits, `-`, `.`, `_` and `~` of its path as they are: `%5F` and `_` are the same (RFC 3986, 6.2.2.2). All else that is
    /// percent-encoded stays so, since a `%2F` parts no segments; and the query, which is read for itself.
    static func normalized(_ target: String) -> String {
        let bytes = Array(target.utf8)
        let end = bytes.firstIndex(of: UInt8(ascii: "?")) ?? bytes.endIndex
        guard bytes[..<end].contains(UInt8(ascii: "%")) else { return target }
        var plain: [UInt8] = []
        plain.reserveCapacity(bytes.count)
        var place = 0
        while place < end {
            if bytes[place] == UInt8(ascii: "%"), place + 2 < end, let high = hexDigit(bytes[place + 1]),
                let low = hexDigit(bytes[place + 2]),
                isUnreserved(high << 4 | low)
            {
                plain.append(high << 4 | low)
                place += 3
            } else {
                plain.append(bytes[place])
                place += 1
            }
        }
        return String(decoding: plain + bytes[end...], as: UTF8.self)
    }

    private static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
        case UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"): true
        default: false
        }
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        Character(Unicode.Scalar(byte)).hexDigitValue.map { UInt8($0) }
    }
}

extension Request {
    /// The same, asked as routes know it.
    var normalized: Request {
        guard let path = head.path, case let plain = RequestTarget.normalized(path), plain != path else { return self }
        var head = head
        head.path = plain
        return Request(head: head, body: body)
    }
}
