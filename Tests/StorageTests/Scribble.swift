@testable import Storage

extension TestMount {
    /// Writes all over a file, holes and truncations: what the file holds then.
    func scribble(_ count: Int, on number: InodeNumber, _ content: [UInt8], _ random: inout SeededRandom) throws -> [UInt8] {
        var content = content
        for step in 0..<count {
            let offset = random.below(content.count + 1)
            switch random.below(40) {
            case 0:
                let size = max(0, content.count - random.below(100_000) + random.below(100_000))
                try truncate(number, to: Int64(size))
                content = Array(content.prefix(size)) + [UInt8](repeating: 0, count: max(0, size - content.count))
            case 1:
                let length = min(1 + random.below(150_000), content.count - offset)
                guard length > 0 else { continue }
                try punch(number, Int64(offset), Int64(length))
                content.replaceSubrange(offset..<(offset + length), with: [UInt8](repeating: 0, count: length))
            case 2:
                let aligned = offset / 65_536 * 65_536
                let piece = random.text(131_072)
                try pwrite(number, piece, at: Int64(aligned))
                content = Model.write(piece, at: aligned, to: content)
            default:
                let piece = bytes("(\(step))")
                try pwrite(number, piece, at: Int64(offset))
                content = Model.write(piece, at: offset, to: content)
            }
        }
        return content
    }
}
