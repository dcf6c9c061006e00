import SQLite

/// Overwrites with zeros all that is in a database's file and in no row: free pages, and in the others the room that rows have left, between
/// them and behind the end of long ones. In the file itself, past SQLite, which has no statement for it.
///
/// What holds while it works: no checkpoint runs, so that the file is whole as of one commit; no other process's either, as the lock of a
/// private connection keeps those out. Writers go on (into the journal), and so do readers: nobody's row is where it writes, so a page that
/// is read in the middle of that is right, the old or the new one. A page that is cut in two by a loss of power is right as well. What a
/// writer's cache and the journal hold of the same pages is for the caller.
///
/// The format: https://www.sqlite.org/fileformat2.html. `auto_vacuum` keeps for each page what it is and who refers to it (the pointer map).
/// What it does not expect it does not touch.
struct PageScrubber {
    enum Failure: Error {
        /// The file is not as this code knows it; what it is to be done with then is written anew.
        case unfit(String)
        case file(SQLiteError)
        case store(RemfsError)
    }

    private static let pageSize = 4_096
    /// Pages that are read at a time: 1 MiB.
    private static let run = 256
    /// What the pointer map says of a page.
    private enum Kind: UInt8 { case root = 1, free = 2, firstOverflow = 3, overflow = 4, branch = 5 }
    /// The page at 1 GiB is never used: SQLite's locks are there.
    private static let lockPage = 0x4000_0000 / pageSize + 1
    private static let pagesPerMap = pageSize / 5 + 1

    private let connection: Connection
    private var pages = 0
    private var freePages = 0
    private var firstTrunk = 0
    /// Pages of the list of free pages that say which are; they keep that.
    private var trunks: Set<Int> = []
    /// The page of the pointer map that was looked into last.
    private var mapNumber = 0
    private var map: [UInt8] = []
    /// How many pages were overwritten in part or whole.
    private(set) var written = 0

    init(_ connection: Connection) { self.connection = connection }

    /// Everything.
    mutating func scrubAll() throws(Failure) {
        try begin()
        var free = 0
        var first = 1
        while first <= pages {
            let count = min(Self.run, pages - first + 1)
            var bytes = [UInt8](repeating: 0, count: count * Self.pageSize)
            try read(&bytes, from: first)
            for place in 0..<count {
                let number = first + place
                if try kind(of: number) == .free { free += 1 }
                try scrub(number, Array(bytes[(place * Self.pageSize)..<((place + 1) * Self.pageSize)]))
            }
            first += count
        }
        guard free == freePages else { throw .unfit("\(free) pages are free, and the list has \(freePages)") }
    }

    /// These pages, and those that say how much of them is used.
    mutating func scrub(_ numbers: Set<Int>) throws(Failure) {
        try begin()
        var targets: Set<Int> = []
        for number in numbers where number <= pages { targets.insert(try owner(of: number)) }
        for number in targets.sorted() { try scrub(number, try page(number)) }
    }

    // MARK: The file

    /// The header, and the list of free pages.
    private mutating func begin() throws(Failure) {
        let header = try page(1)
        guard Self.word16(header, 16) == Self.pageSize, header[20] == 0, Self.word32(header, 52) != 0 else {
            throw .unfit("its pages are others than those of a store")
        }
        pages = Self.word32(header, 28)
        firstTrunk = Self.word32(header, 32)
        freePages = Self.word32(header, 36)
        mapNumber = 0
        trunks = []
        var next = firstTrunk
        while next != 0 {
            guard next <= pages, trunks.insert(next).inserted else { throw .unfit("the list of free pages leads astray") }
            next = Self.word32(try page(next), 0)
        }
    }

    private func read(_ bytes: inout [UInt8], from number: Int) throws(Failure) {
        do throws(SQLiteError) {
            try connection.readFile(&bytes, at: Int64(number - 1) * Int64(Self.pageSize))
        } catch {
            throw .file(error)
        }
    }

    private func page(_ number: Int) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.pageSize)
        try read(&bytes, from: number)
        return bytes
    }

    /// Writes a page back that is zeros but for these ranges, unless it is already.
    private mutating func keep(_ ranges: [Range<Int>], of number: Int, _ page: [UInt8]) throws(Failure) {
        var clean = page
        var place = 0
        for range in ranges + [Self.pageSize..<Self.pageSize] {
            for gap in place..<max(place, range.lowerBound) where clean[gap] != 0 { clean[gap] = 0 }
            place = max(place, range.upperBound)
        }
        guard clean != page else { return }
        written += 1
        do throws(SQLiteError) {
            try connection.writeFile(clean, at: Int64(number - 1) * Int64(Self.pageSize))
        } catch {
            throw .file(error)
        }
    }

    // MARK: The pointer map

    private static func mapPage(of number: Int) -> Int {
        let page = (number - 2) / pagesPerMap * pagesPerMap + 2
        return page == lockPage ? page + 1 : page
    }

    /// nil: the pointer map itself, or what has no use.
    private mutating func entry(of number: Int) throws(Failure) -> (kind: Kind, parent: Int)? {
        if number == 1 { return (.root, 0) }
        let map = Self.mapPage(of: number)
        if number == map || number == Self.lockPage { return nil }
        if map != mapNumber {
            self.map = try page(map)
            mapNumber = map
        }
        let place = 5 * (number - map - 1)
        guard place >= 0, place + 5 <= Self.pageSize, let kind = Kind(rawValue: self.map[place]) else {
            throw .unfit("the pointer map does not know page \(number)")
        }
        return (kind, Self.word32(self.map, place + 1))
    }

    private mutating func kind(of number: Int) throws(Failure) -> Kind? { try entry(of: number)?.kind }

    /// The page with the row that goes on in this one; any other is its own.
    private mutating func owner(of number: Int) throws(Failure) -> Int {
        var place = number
        for _ in 0...pages {
            guard let (kind, parent) = try entry(of: place) else { return place }
            switch kind {
            case .root, .free, .branch: return place
            case .firstOverflow, .overflow: place = parent
            }
            guard place > 0, place <= pages else { throw .unfit("the pointer map leads astray") }
        }
        throw .unfit("the pointer map leads in a circle")
    }

    // MARK: Pages

    private mutating func scrub(_ number: Int, _ page: [UInt8]) throws(Failure) {
        switch try kind(of: number) {
        // How much of it is used says the row that begins elsewhere.
        case nil, .firstOverflow, .overflow: return
        case .free:
            // A trunk: the next one, how many leaves it names, and these.
            let names = trunks.contains(number) ? 8 + 4 * Self.word32(page, 4) : 0
            guard names <= Self.pageSize else { throw .unfit("the list of free pages is damaged") }
            try keep(names > 0 ? [0..<names] : [], of: number, page)
        case .root, .branch: try scrubTree(number, page)
        }
    }

    /// A page of a table or an index: the header, the places of the cells, the cells, and what leads from free block to free block.
    private mutating func scrubTree(_ number: Int, _ page: [UInt8]) throws(Failure) {
        let start = number == 1 ? 100 : 0
        let kind = page[start]
        guard [2, 5, 10, 13].contains(kind) else { throw .unfit("page \(number) is of no kind that is known") }
        let isLeaf = kind >= 10
        let cells = Self.word16(page, start + 3)
        let pointers = start + (isLeaf ? 8 : 12)
        let content = pointers + 2 * cells
        guard content <= Self.pageSize else { throw .unfit("page \(number) has \(cells) cells") }
        var used: [Range<Int>] = [0..<content]
        used.reserveCapacity(cells + 4)
        for cell in 0..<cells {
            let place = Self.word16(page, pointers + 2 * cell)
            guard place >= content, place < Self.pageSize else { throw .unfit("a cell of page \(number) is nowhere") }
            used.append(place..<(place + (try cellSize(page, at: place, kind: kind))))
        }
        var block = Self.word16(page, start + 1)
        while block != 0 {
            guard block >= content, block + 4 <= Self.pageSize, used.count <= Self.pageSize else {
                throw .unfit("the free blocks of page \(number) lead astray")
            }
            used.append(block..<(block + 4))
            block = Self.word16(page, block)
        }
        used.sort { $0.lowerBound < $1.lowerBound }
        var end = 0
        for range in used {
            guard range.lowerBound >= end, range.upperBound <= Self.pageSize else { throw .unfit("cells of page \(number) overlap") }
            end = range.upperBound
        }
        try keep(used, of: number, page)
    }

    /// How long a cell is in its page. What is behind the end of a long one, on the last page that it goes on in, goes.
    private mutating func cellSize(_ page: [UInt8], at start: Int, kind: UInt8) throws(Failure) -> Int {
        var place = start
        func number() throws(Failure) -> Int {
            var value = 0
            for byte in 0..<9 {
                guard place < Self.pageSize else { throw .unfit("a cell is cut off") }
                let next = Int(page[place])
                place += 1
                // The ninth has eight bits; what is negative then is no length.
                if byte == 8 { return value << 8 | next }
                value = value << 7 | next & 0x7f
                if next < 0x80 { break }
            }
            return value
        }
        if kind == 2 || kind == 5 { place += 4 }
        if kind == 5 {
            _ = try number()
            return max(4, place - start)
        }
        let payload = try number()
        guard payload >= 0, payload <= pages * Self.pageSize else { throw .unfit("a cell is longer than the file") }
        if kind == 13 { _ = try number() }
        let usable = Self.pageSize
        let most = kind == 13 ? usable - 35 : (usable - 12) * 64 / 255 - 23
        guard payload > most else { return max(4, place - start + payload) }
        let least = (usable - 12) * 32 / 255 - 23
        let surplus = least + (payload - least) % (usable - 4)
        let local = surplus <= most ? surplus : least
        guard place + local + 4 <= Self.pageSize else { throw .unfit("a cell is cut off") }
        try scrubTail(from: Self.word32(page, place + local), holding: payload - local)
        return place - start + local + 4
    }

    /// The last page of those that a cell goes on in: each begins with the number of the next.
    private mutating func scrubTail(from first: Int, holding count: Int) throws(Failure) {
        let room = Self.pageSize - 4
        var left = count
        var next = first
        var link = [UInt8](repeating: 0, count: 4)
        while true {
            guard next > 1, next <= pages else { throw .unfit("a cell goes on nowhere") }
            if left <= room { break }
            do throws(SQLiteError) {
                try connection.readFile(&link, at: Int64(next - 1) * Int64(Self.pageSize))
            } catch {
                throw .file(error)
            }
            next = Self.word32(link, 0)
            left -= room
        }
        guard left < room else { return }
        let last = try page(next)
        guard Self.word32(last, 0) == 0, let kind = try kind(of: next), kind == .firstOverflow || kind == .overflow else {
            throw .unfit("a cell goes on behind its end")
        }
        try keep([0..<(4 + left)], of: next, last)
    }

    private static func word16(_ bytes: [UInt8], _ place: Int) -> Int {
        Int(bytes[place]) << 8 | Int(bytes[place + 1])
    }

    private static func word32(_ bytes: [UInt8], _ place: Int) -> Int {
        word16(bytes, place) << 16 | word16(bytes, place + 2)
    }
}
