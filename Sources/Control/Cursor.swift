import Foundation
package import Storage

/// Where a page of a list ends: the sort key of its last item, so that rows made or deleted between pages are neither skipped nor repeated.
///
/// On the wire `page_` and base64url of a letter for the list, one for its order, and the key. Opaque to clients, no secret.
package enum Cursor: Sendable, Equatable {
    /// Newest first; the sequence breaks ties of the clock.
    case stores(created: Timestamp, sequence: Int64)
    /// By path, in byte order.
    case memories(after: String)
    /// Newest first.
    case versions(before: Int64)
    /// By path, and by memory where a path has changed hands.
    case differences(after: DifferenceKey)
    /// By time, in the order that the cursor was made with. `isBackward`: the page before this key, not the one after it.
    case sessions(Catalog.Order, created: Timestamp, sequence: Int64, isBackward: Bool)
    /// Of one session or thread, whose number is `of`, in the order that the cursor was made with.
    case events(Catalog.Order, of: Int64, after: Int64)
    /// Of one session, oldest first.
    case threads(of: Int64, after: Int64)
    /// Of one session, by place.
    case resources(of: Int64, after: Int64)
    /// The best first: how many were shown. Ranks change with what is written, so there is no key to go on from.
    case search(after: Int)

    private static let prefix = "page_"

    package var text: String {
        let plain =
            switch self {
            case .stores(let created, let sequence): "s-\(created.microseconds):\(sequence)"
            case .memories(let path): "m+\(path)"
            case .versions(let number): "v-\(number)"
            case .differences(let key): "d+\(key.memory):\(key.path)"
            case .sessions(let order, let created, let sequence, let isBackward):
                "x\(Self.sign(order))\(created.microseconds):\(sequence):\(isBackward ? 1 : 0)"
            case .events(let order, let owner, let sequence): "e\(Self.sign(order))\(owner):\(sequence)"
            case .threads(let session, let sequence): "t+\(session):\(sequence)"
            case .resources(let session, let place): "r+\(session):\(place)"
            case .search(let count): "q+\(count)"
            }
        let base64 = Data(plain.utf8).base64EncodedString()
        return Self.prefix + base64.map { $0 == "+" ? "-" : $0 == "/" ? "_" : $0 }.filter { $0 != "=" }
    }

    /// Nil for what none of ours could be.
    package init?(_ text: String) {
        guard text.hasPrefix(Self.prefix) else { return nil }
        let body = text.dropFirst(Self.prefix.count)
        let base64 = String(body.map { $0 == "-" ? "+" : $0 == "_" ? "/" : $0 })
        let padding = String(repeating: "=", count: (4 - base64.utf8.count % 4) % 4)
        guard let data = Data(base64Encoded: base64 + padding), let plain = String(validating: data, as: UTF8.self) else { return nil }
        let key = plain.dropFirst(2)
        /// The numbers of a key that has as many.
        func numbers(_ count: Int) -> [Int64]? {
            let parts = key.split(separator: ":", omittingEmptySubsequences: false)
            let numbers = parts.compactMap { Int64($0) }
            return parts.count == count && numbers.count == count ? numbers : nil
        }
        let order: Catalog.Order = plain.dropFirst().first == "+" ? .ascending : .descending
        switch plain.prefix(2) {
        case "s-":
            guard let parts = numbers(2) else { return nil }
            self = .stores(created: Timestamp(microseconds: parts[0]), sequence: parts[1])
        case "m+":
            guard key.utf8.first == UInt8(ascii: "/") else { return nil }
            self = .memories(after: String(key))
        case "v-":
            guard let number = Int64(key), number > 0 else { return nil }
            self = .versions(before: number)
        case "d+":
            guard let colon = key.utf8.firstIndex(of: UInt8(ascii: ":")), let memory = Int64(key[..<colon]), memory >= 0 else { return nil }
            let path = key[key.utf8.index(after: colon)...]
            guard path.utf8.first == UInt8(ascii: "/") else { return nil }
            self = .differences(after: DifferenceKey(path: String(path), memory: memory))
        case "x+", "x-":
            guard let parts = numbers(3), (0...1).contains(parts[2]) else { return nil }
            self = .sessions(order, created: Timestamp(microseconds: parts[0]), sequence: parts[1], isBackward: parts[2] == 1)
        case "e+", "e-":
            guard let parts = numbers(2) else { return nil }
            self = .events(order, of: parts[0], after: parts[1])
        case "t+":
            guard let parts = numbers(2) else { return nil }
            self = .threads(of: parts[0], after: parts[1])
        case "r+":
            guard let parts = numbers(2) else { return nil }
            self = .resources(of: parts[0], after: parts[1])
        case "q+":
            guard let count = Int(key), (1...1_000_000).contains(count) else { return nil }
            self = .search(after: count)
        default: return nil
        }
    }

    private static func sign(_ order: Catalog.Order) -> String { order == .ascending ? "+" : "-" }
}

/// `limit` and `page` of a list.
package struct PageRequest: Sendable {
    package let limit: Int
    package let cursor: Cursor?

    package init(_ query: Query, default standard: Int = 20, maximum: Int = 100) throws(RemfsError) {
        limit = try query.integer("limit", in: 1...maximum) ?? standard
        guard let text = query.string("page") else {
            cursor = nil
            return
        }
        guard let cursor = Cursor(text) else { throw Self.unreadable }
        self.cursor = cursor
    }

    /// For a cursor of another list, or of another order.
    package static var unreadable: RemfsError { RemfsError(.invalidArgument, "page is not a cursor of this list") }
}
