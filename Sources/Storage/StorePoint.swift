import SQLite

/// A moment in a store's history.
package enum StorePoint: Sendable, Hashable {
    /// As of the last sealed versions.
    case now
    case time(Timestamp)
    /// When this version, of whichever memory, had just become the newest.
    case version(VersionID)

    /// A version's ID, an RFC 3339 time as `time` reads it, or `now`; nil for what is none of these.
    package init?(_ text: String, time: (String) -> Timestamp?) {
        if text == "now" {
            self = .now
        } else if let version = VersionID(text) {
            self = .version(version)
        } else if let time = time(text) {
            self = .time(time)
        } else {
            return nil
        }
    }
}

/// A moment as the rows know it: versions up to this number, which are those up to this time, since both rise together.
struct Moment: Sendable, Hashable {
    /// 0: before the first version.
    let number: Int64
    /// us. At this time a version that began at it was the head already.
    let time: Int64

    static let start = Moment(number: 0, time: -1)
}

extension MemoryStore {
    /// Throws `notFound` for a version that is not this store's, `invalidArgument` for a time that is still to come. Whether the history of
    /// then is whole is not asked (`requireHistory`).
    func moment(_ point: StorePoint, _ reader: Reader) throws(RemfsError) -> Moment {
        let label = "store \(id)"
        switch point {
        case .now:
            let newest = try RemfsError.mapping(label) { () throws(SQLiteError) in
                try reader.connection.integer("SELECT max(number) FROM version")
            }
            return try newest.map { (newest) throws(RemfsError) in try began(newest, reader) } ?? .start
        case .version(let version):
            let missing = RemfsError(.notFound, "version \(version) not found")
            guard let number = version.number(in: id) else { throw missing }
            let moment = try began(number, reader)
            guard moment.number == number else { throw missing }
            return moment
        case .time(let time):
            // Versions may be ahead of a clock that was set back.
            let latest = max(now().microseconds, try moment(.now, reader).time)
            guard time.microseconds <= latest else { throw RemfsError(.invalidArgument, "the time is still to come") }
            return Moment(number: try newest(atOrBefore: time.microseconds, reader), time: time.microseconds)
        }
    }

    /// The version of this number, or the next one after it.
    private func began(_ number: Int64, _ reader: Reader) throws(RemfsError) -> Moment {
        try RemfsError.mapping("store \(id)") { () throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT number, began FROM version WHERE number >= ?1 ORDER BY number LIMIT 1")
            row.bind(number, at: 1)
            return try row.step() ? Moment(number: row.integer(0), time: row.integer(1)) : .start
        }
    }

    /// Numbers rise with time, so a few dozen looks find it among millions.
    func newest(atOrBefore time: Int64, _ reader: Reader) throws(RemfsError) -> Int64 {
        try RemfsError.mapping("store \(id)") { () throws(SQLiteError) in
            let row = try reader.connection.prepare("SELECT number, began FROM version WHERE number >= ?1 ORDER BY number LIMIT 1")
            var found: Int64 = 0
            var low: Int64 = 0
            var high = (try reader.connection.integer("SELECT max(number) FROM version") ?? 0) + 1
            while low < high {
                let middle = low + (high - low) / 2
                row.bind(middle, at: 1)
                let isThere = try row.step()
                if isThere, row.integer(1) <= time {
                    found = row.integer(0)
                    low = found + 1
                } else {
                    high = middle
                }
                row.reset()
            }
            return found
        }
    }
}
