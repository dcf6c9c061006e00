import Testing

@testable import Storage

/// The map of what the drafts of a file come to, against an array with the number of the extent for each byte.
@Suite struct ExtentMapTests {
    private struct Model {
        /// The extent of each byte; 0: none.
        var owners: [Int64] = []

        mutating func put(_ extent: Extent) {
            let end = Int(extent.offset + extent.length)
            if owners.count < end { owners += [Int64](repeating: 0, count: end - owners.count) }
            for place in Int(extent.offset)..<end { owners[place] = extent.id }
        }

        mutating func remove(upTo id: Int64) { for place in owners.indices where owners[place] <= id { owners[place] = 0 } }

        mutating func truncate(to size: Int) { owners.removeLast(max(0, owners.count - size)) }
    }

    private static func extent(_ id: Int64, _ offset: Int, _ length: Int) -> Extent {
        Extent(id: id, kind: id % 5 == 0 ? .hole : .bytes, offset: Int64(offset), length: Int64(length), bytes: nil)
    }

    private func expect(_ map: ExtentMap, is model: Model, _ comment: Comment) {
        var owners = [Int64](repeating: 0, count: model.owners.count)
        var end: Int64 = 0
        var isSound = true
        for segment in map.segments(from: 0, to: .max) {
            isSound = isSound && segment.offset >= end && segment.length > 0 && segment.end <= Int64(owners.count)
            isSound = isSound && segment.offset >= segment.extent.offset && segment.end <= segment.extent.offset + segment.extent.length
            guard isSound else { break }
            end = segment.end
            for place in segment.offset..<segment.end { owners[Int(place)] = segment.extent.id }
        }
        #expect(isSound && owners == model.owners, comment)
        #expect(map.storedBytes == Int64(model.owners.count { $0 % 5 != 0 }), comment)
        #expect(map.blocks.allSatisfy { !$0.isEmpty && $0.count <= ExtentMap.longestBlock }, comment)
    }

    /// Few long extents, or thousands of short ones, so that blocks are filled, halved and emptied.
    @Test(arguments: [(400, 120), (20_000, 40), (60_000, 9)]) func aMapIsWhatWasWrittenLast(_ size: Int, _ longest: Int) {
        let seed = SeededRandom.seed(11)
        var random = SeededRandom(seed: seed)
        for round in 0..<SeededRandom.rounds(3) {
            var map = ExtentMap()
            var model = Model()
            var extents: [Extent] = []
            var removed = 0
            for id in 1...Int64(12_000) {
                let isLong = random.chance(1) && random.chance(20)
                let length = 1 + random.below(isLong ? size / 3 : longest)
                let extent = Self.extent(id, random.below(size - length), length)
                map.put(extent)
                model.put(extent)
                extents.append(extent)
                if random.below(700) == 0 {
                    let next = min(extents.count, removed + random.below(1_500))
                    for extent in extents[removed..<next] { map.remove(extent) }
                    removed = next
                    model.remove(upTo: Int64(next))
                }
                if random.below(3_000) == 0 {
                    let limit = random.below(size)
                    map.truncate(to: Int64(limit))
                    model.truncate(to: limit)
                }
                if id % 1_500 == 0 { expect(map, is: model, "seed \(seed), round \(round), \(id) writes") }
                let start = random.below(size)
                let end = start + 1 + random.below(300)
                let found = map.segments(from: Int64(start), to: Int64(end))
                let expected = model.owners.dropFirst(start).prefix(end - start).reduce(into: Set<Int64>()) { $0.insert($1) }
                #expect(Set(found.map(\.extent.id)) == expected.subtracting([0]), "seed \(seed), round \(round), \(id) writes")
                let next = model.owners[min(start, model.owners.count)...].firstIndex { $0 != 0 }
                #expect(map.segment(endingAfter: Int64(start)).map { max($0.offset, Int64(start)) } == next.map { Int64($0) })
            }
        }
    }

    /// What one write moves is bounded by a block, and the blocks are few: nothing grows with the square of the writes.
    @Test func manySmallWritesStayInShortBlocks() {
        var random = SeededRandom(seed: 12)
        var map = ExtentMap()
        for id in 1...Int64(80_000) { map.put(Self.extent(id, random.below(60_000_000), 5)) }
        #expect(map.count > 75_000)
        #expect(map.blocks.count < 80_000 / (ExtentMap.longestBlock / 4))
        #expect(map.blocks.allSatisfy { $0.count <= ExtentMap.longestBlock })
        var appended = ExtentMap()
        for id in 1...Int64(80_000) { appended.put(Self.extent(id, Int(id) * 10, 5)) }
        #expect(appended.blocks.count == (80_000 + ExtentMap.longestBlock - 1) / ExtentMap.longestBlock)
        appended.put(Self.extent(1, 0, 1_000_000))
        #expect(appended.count == 1 && appended.storedBytes == 1_000_000)
        appended.truncate(to: 0)
        #expect(appended.isEmpty && appended.storedBytes == 0)
    }
}
