/// A tar archive of text files, by hand, so that a test can have files longer than the API takes.
package enum TarArchive {
    /// - Parameter files: names of up to 99 bytes and contents, both ASCII.
    package static func of(_ files: [(name: String, content: String)]) -> String {
        var archive = ""
        for (name, content) in files {
            func octal(_ value: Int, _ digits: Int) -> String {
                let text = String(value, radix: 8)
                return String(repeating: "0", count: digits - text.count) + text + "\0"
            }
            let before = pad(name, 100) + octal(0o644, 7) + octal(0, 7) + octal(0, 7) + octal(content.utf8.count, 11) + octal(0, 11)
            let after = "0" + pad("", 100) + "ustar\0" + "00" + pad("", 247)
            // The sum counts its own place as blanks.
            let sum = (before + "        " + after).utf8.reduce(0) { $0 + Int($1) }
            archive += before + octal(sum, 6) + " " + after
            archive += pad(content, (content.utf8.count + 511) / 512 * 512)
        }
        return archive + pad("", 1024)
    }

    /// Numbered lines, so that no two places hold the same.
    package static func text(ofBytes count: Int) -> String {
        var text = ""
        text.reserveCapacity(count + 20)
        var line = 0
        while text.utf8.count < count {
            text += "\(line) is a line\n"
            line += 1
        }
        return String(text.prefix(count))
    }

    private static func pad(_ text: String, _ count: Int) -> String { text + String(repeating: "\0", count: count - text.utf8.count) }
}
