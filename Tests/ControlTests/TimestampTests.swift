import Storage
import Testing

@testable import Control

@Suite struct TimestampTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_364_668_193_888, "2026-11-22T16:24:28.193888Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00.000000Z"),
        ] as [(Int64, String)])
    func isWrittenAndReadBack(_ microseconds: Int64, _ text: String) {
        let time = Timestamp(microseconds: microseconds)
        #expect(time.rfc3339 == text)
        #expect(Timestamp(rfc3339: text) == time)
    }

    @Test(arguments: [
        "2026-11-22T16:24:28.193888+00:00", "2026-11-22T17:24:28.193888+01:00", "2026-11-22T10:54:28.193888-05:30",
        "2026-11-22T16:24:28.193888 00:00", "2026-11-22t16:24:28.193888z", "2026-11-22 16:24:28.193888Z", "2026-11-22T16:24:28.1938889Z",
    ])
    func takesEverySpellingOfOneTime(_ text: String) {
        #expect(Timestamp(rfc3339: text)?.rfc3339 == "2026-11-22T16:24:28.193888Z")
    }

    @Test func padsAShortFraction() {
        #expect(Timestamp(rfc3339: "2026-11-22T16:24:28.5Z")?.rfc3339 == "2026-11-22T16:24:28.500000Z")
    }

    @Test(arguments: [
        "", "2026-11-22", "2026-11-22T16:24:28", "2026-11-22T16:24Z", "2026-13-22T16:24:28Z", "2026-02-29T00:00:00Z",
        "2026-11-00T16:24:28Z", "2026-11-22T24:00:00Z", "2026-11-22T16:60:00Z", "2026-11-22T16:24:28.Z", "2026-11-22T16:24:28Zx",
        "2026-11-22T16:24:28+1:00", "yesterday", "1795364668", "２０２６-11-22T16:24:28Z",
        "0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z",
    ])
    func refusesWhatIsNoTime(_ text: String) {
        #expect(Timestamp(rfc3339: text) == nil)
    }

    @Test func everyDayOfFourHundredYearsIsReadBack() {
        for day in stride(from: Int64(-73_000), to: 73_100, by: 1) {
            let time = Timestamp(microseconds: day * 86_400_000_000 + 43_200_123_456)
            #expect(Timestamp(rfc3339: time.rfc3339) == time)
        }
    }
}
