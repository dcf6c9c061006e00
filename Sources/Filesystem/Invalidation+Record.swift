import Fuse
import Storage

/// As a record of a `FuseHoldLog`.
extension Invalidation {
    private static let nameAt = 28

    /// nil: the name is too long for one, and for most programs.
    var record: [UInt8]? {
        let (kind, numbers, name): (UInt8, [Int64], [UInt8]) =
            switch self {
            case .bytes(let inode, let offset, let length): (0, [inode, offset, length], [])
            case .attributes(let inode): (1, [inode, 0, 0], [])
            case .name(let name, let parent): (2, [parent, 0, 0], name)
            case .removal(let name, let parent, let inode): (3, [parent, inode, 0], name)
            }
        let size = FuseHoldLog.Kind.invalidations.recordSize
        guard name.count <= size - Self.nameAt else { return nil }
        var bytes = [kind, 0, UInt8(name.count & 0xff), UInt8(name.count >> 8)]
        for number in numbers { for place in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * place))) } }
        bytes += name
        return bytes + [UInt8](repeating: 0, count: size - bytes.count)
    }

    init?(record bytes: [UInt8]) {
        guard bytes.count == FuseHoldLog.Kind.invalidations.recordSize else { return nil }
        let numbers = (0..<3).map { number in
            var value: UInt64 = 0
            for place in 0..<8 { value |= UInt64(bytes[4 + 8 * number + place]) << UInt64(8 * place) }
            return Int64(bitPattern: value)
        }
        let count = Int(bytes[2]) | Int(bytes[3]) << 8
        guard count <= bytes.count - Self.nameAt else { return nil }
        let name = Array(bytes[Self.nameAt..<Self.nameAt + count])
        switch bytes[0] {
        case 0: self = .bytes(numbers[0], offset: numbers[1], length: numbers[2])
        case 1: self = .attributes(numbers[0])
        case 2: self = .name(name, in: numbers[0])
        case 3: self = .removal(name, in: numbers[0], of: numbers[1])
        default: return nil
        }
    }
}
