/// What the tree of a store should be: names, bytes, and which directories a path only implied. Plain and slow.
struct Model {
    final class Node {
        let isDirectory: Bool
        var content: [UInt8] = []
        /// A directory that an API path implied: it may go when nothing is left in it.
        var isImplied = false
        init(isDirectory: Bool) { self.isDirectory = isDirectory }
    }

    /// By path, without the root. Hard links are one node at several paths.
    var nodes: [String: Node] = [:]

    static func write(_ piece: [UInt8], at offset: Int, to content: [UInt8]) -> [UInt8] {
        var content = content
        if content.count < offset + piece.count { content += [UInt8](repeating: 0, count: offset + piece.count - content.count) }
        content.replaceSubrange(offset..<(offset + piece.count), with: piece)
        return content
    }

    static func parent(of path: String) -> String { String(path[..<path.lastIndex(of: "/")!]) }

    func isDirectory(_ path: String) -> Bool { path.isEmpty || nodes[path]?.isDirectory ?? false }
    func children(of path: String) -> [String] { nodes.keys.filter { $0.hasPrefix(path + "/") } }
    func files() -> [String] { nodes.keys.filter { !nodes[$0]!.isDirectory }.sorted() }
    func directories() -> [String] { [""] + nodes.keys.filter { nodes[$0]!.isDirectory }.sorted() }

    /// Moves a name and what is below it.
    mutating func move(_ from: String, to target: String) {
        var moved: [String: Node] = [target: nodes.removeValue(forKey: from)!]
        for path in children(of: from) { moved[target + path.dropFirst(from.count)] = nodes.removeValue(forKey: path) }
        nodes.merge(moved) { _, new in new }
    }

    /// Takes out implied directories that the store has let go.
    mutating func forgetImplied(missing: (String) -> Bool) {
        for path in directories().reversed() where !path.isEmpty {
            if nodes[path]!.isImplied, children(of: path).isEmpty, missing(path) { nodes[path] = nil }
        }
    }

    /// As `TestStore.tree` tells it, without numbers and modes.
    var lines: [String] {
        nodes.map { path, node in node.isDirectory ? "\(path)/" : "\(path) \(node.content.count)" }.sorted()
    }
}
