import Glibc

extension Timestamp {
    private static let perSecond: Int64 = 1_000_000

    /// The current time of the wall clock.
    package static func now() -> Timestamp {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(microseconds: Int64(time.tv_sec) * perSecond + Int64(time.tv_nsec) / 1_000)
    }

    /// As the contract writes it: UTC, always six digits of fraction, `Z`.
    package var rfc3339: String {
        let (days, inDay) = Self.floored(microseconds, by: 86_400 * Self.perSecond)
        let date = Self.date(days: days)
        let (seconds, fraction) = inDay.quotientAndRemainder(dividingBy: Self.perSecond)
        // Four digits are all that the format has.
        let year = min(max(date.year, 0), 9_999)
        return unsafe String(unsafeUninitializedCapacity: 27) { text in
            var place = 0
            func put(_ value: Int64, _ digits: Int, then mark: Unicode.Scalar) {
                var rest = value
                for digit in stride(from: place + digits - 1, through: place, by: -1) {
                    unsafe text[digit] = UInt8(ascii: "0") + UInt8(rest % 10)
                    rest /= 10
                }
                unsafe text[place + digits] = UInt8(ascii: mark)
                place += digits + 1
            }
            put(year, 4, then: "-")
            put(Int64(date.month), 2, then: "-")
            put(Int64(date.day), 2, then: "T")
            put(seconds / 3_600, 2, then: ":")
            put(seconds / 60 % 60, 2, then: ":")
            put(seconds % 60, 2, then: ".")
            put(fraction, 6, then: "Z")
            return place
        }
    }

    /// Reads RFC 3339 with any offset; digits beyond the microsecond are cut off. A blank stands for the `+` of an offset, since that is
    /// what a `+` sent unescaped in a query becomes.
    package init?(rfc3339 text: some StringProtocol) {
        var rest = Substring(text).utf8[...]
        func number(_ digits: Int) -> Int64? {
            let head = rest.prefix(digits)
            guard head.count == digits, head.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
            rest = rest.dropFirst(digits)
            return head.reduce(0) { $0 * 10 + Int64($1 - UInt8(ascii: "0")) }
        }
        func skip(_ allowed: String) -> Bool {
            guard let byte = rest.first, allowed.utf8.contains(byte) else { return false }
            rest = rest.dropFirst()
            return true
        }
        guard let year = number(4), skip("-"), let month = number(2), skip("-"), let day = number(2), skip("Tt "),
            let hour = number(2), skip(":"), let minute = number(2), skip(":"), let second = number(2),
            (1...12).contains(month), day >= 1, day <= Self.daysIn(month: month, of: year), hour < 24, minute < 60, second <= 60
        else { return nil }

        var fraction: Int64 = 0
        if skip(".") {
            let digits = rest.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
            guard !digits.isEmpty else { return nil }
            rest = rest.dropFirst(digits.count)
            let kept = digits.prefix(6)
            fraction = kept.reduce(0) { $0 * 10 + Int64($1 - UInt8(ascii: "0")) }
            for _ in kept.count..<6 { fraction *= 10 }
        }
        var offset: Int64 = 0
        if !skip("Zz") {
            let negative = rest.first == UInt8(ascii: "-")
            guard skip("+- "), let hours = number(2), skip(":"), let minutes = number(2), hours < 24, minutes < 60 else { return nil }
            offset = (hours * 60 + minutes) * (negative ? -60 : 60)
        }
        guard rest.isEmpty else { return nil }
        let seconds = Self.days(year: year, month: month, day: day) * 86_400 + hour * 3_600 + minute * 60 + second - offset
        // An offset, or a leap second, may lead out of the years that four digits can write.
        guard Self.writable.contains(seconds) else { return nil }
        self.init(microseconds: seconds * Self.perSecond + fraction)
    }

    private static let writable = days(year: 0, month: 1, day: 1) * 86_400..<days(year: 10_000, month: 1, day: 1) * 86_400

    private static func floored(_ number: Int64, by divisor: Int64) -> (quotient: Int64, remainder: Int64) {
        let (quotient, remainder) = number.quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
    }

    private static func daysIn(month: Int64, of year: Int64) -> Int64 {
        switch month {
        case 4, 6, 9, 11: 30
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        default: 31
        }
    }

    /// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
    private static func days(year: Int64, month: Int64, day: Int64) -> Int64 {
        let year = month <= 2 ? year - 1 : year
        let (era, yearOfEra) = floored(year, by: 400)
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    private static func date(days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let (era, dayOfEra) = floored(days + 719_468, by: 146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let month = shifted + (shifted < 10 ? 3 : -9)
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shifted + 2) / 5 + 1)
    }
}
