/// What the tree of a store should be: names, bytes, and which directories a path only implied.
enum Model {
    static func write(_ piece: [UInt8], at offset: Int, to content: [UInt8]) -> [UInt8] {
        var content = content
        if content.count < offset + piece.count { content += [UInt8](repeating: 0, count: offset + piece.count - content.count) }
        content.replaceSubrange(offset..<(offset + piece.count), with: piece)
        return content
    }
}
