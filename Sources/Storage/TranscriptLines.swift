/// Cuts bytes into lines, and holds no more than the one that has no end yet.
struct TranscriptLines: Sendable {
    enum Part: Sendable, Equatable {
        /// Without its end.
        case line(ArraySlice<UInt8>, number: Int)
        case tooLarge(number: Int)
    }

    /// What a line may weigh.
    let limit: Int
    private var held: [UInt8] = []
    private var isTooLarge = false
    /// Of the line that has no end yet.
    private(set) var number = 1
    /// The bytes of all lines that have ended.
    private(set) var consumed = 0

    init(limit: Int) { self.limit = limit }

    /// The next line that ends in `rest`, which is then what follows it; nil: `rest` is used up.
    mutating func next(in rest: inout ArraySlice<UInt8>) -> Part? {
        guard let end = rest.firstIndex(of: 0x0a) else {
            hold(rest)
            rest = []
            return nil
        }
        let head = rest[..<end]
        rest = rest[(end + 1)...]
        if held.isEmpty, !isTooLarge, head.count <= limit {
            consumed += head.count + 1
            return ended(head)
        }
        hold(head)
        consumed += 1
        return last()
    }

    /// The line that has no end, as if it had one; nil: there is nothing behind the last end.
    mutating func last() -> Part? {
        guard !held.isEmpty || isTooLarge else { return nil }
        let line = held[...]
        held = []
        consumed += line.count
        return ended(line)
    }

    private mutating func ended(_ line: ArraySlice<UInt8>) -> Part {
        defer {
            number += 1
            isTooLarge = false
        }
        return isTooLarge ? .tooLarge(number: number) : .line(line, number: number)
    }

    private mutating func hold(_ bytes: ArraySlice<UInt8>) {
        if !isTooLarge, held.count + bytes.count <= limit {
            held += bytes
        } else {
            isTooLarge = true
            consumed += held.count + bytes.count
            held = []
        }
    }
}
