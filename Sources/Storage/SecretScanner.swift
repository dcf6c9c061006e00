/// Finds what looks like a secret in bytes: tokens and keys by the shape of their value, passwords by the name beside them.
///
/// One pass, without regular expressions. A table says of each byte whether a rule is to be asked about the place, and the rules look around
/// from there, each so that no byte is looked at more often than a fixed number of times, whatever the bytes are. They need not be text.
///
/// It is a net, no wall: what is split, encoded or plain words goes through. Rules and words are in `SecretRules.swift`.
@safe package struct SecretScanner {
    /// Where a secret is, and what it looks like. Never its bytes.
    package struct Match: Sendable, Hashable {
        package let rule: Rule
        /// From the name, where a name is what gave it away, to the end of the value; indices of the scanned bytes. A private key is matched
        /// up to its last line.
        package let range: Range<Int>
    }

    /// The first secret, or the first that has a byte in common with `touching`.
    package static func firstMatch(in bytes: ArraySlice<UInt8>, touching: Range<Int>? = nil) -> Match? {
        matches(in: bytes, touching: touching, atMost: 1).first
    }

    /// Secrets in the order of their places; no two overlap.
    package static func matches(in bytes: ArraySlice<UInt8>, touching: Range<Int>? = nil, atMost limit: Int = .max) -> [Match] {
        var matches: [Match] = []
        guard limit > 0, !bytes.isEmpty else { return matches }
        // The pointers live as long as the closures; `bytes[place]` looks at no byte beyond the slice.
        unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe anchors.withUnsafeBufferPointer { anchors in
                unsafe pairs.withUnsafeBufferPointer { pairs in
                    let scanner = unsafe SecretScanner(bytes: SecretText(buffer), anchors: anchors.baseAddress!, pairs: pairs.baseAddress!)
                    scanner.scan { match in
                        let range = (bytes.startIndex + match.range.lowerBound)..<(bytes.startIndex + match.range.upperBound)
                        if touching?.overlaps(range) ?? true { matches.append(Match(rule: match.rule, range: range)) }
                        return matches.count < limit
                    }
                }
            }
        }
        return matches
    }

    private let bytes: SecretText
    /// 256 bytes, and 65,536.
    private let anchors: UnsafePointer<UInt8>
    private let pairs: UnsafePointer<UInt8>

    // MARK: The pass

    private static let shapes = SecretShape.all.sorted { $0.pair < $1.pair }

    /// For each byte, whether a rule looks for it. Chosen to be rare in prose: this is what makes the pass fast.
    private static let anchors: [UInt8] = {
        var anchors = [UInt8](repeating: 0, count: 256)
        for byte in ":=.JB~".utf8 { anchors[Int(byte)] = 1 }
        for shape in shapes { anchors[shape.pair >> 8] = 1 }
        return anchors
    }()

    /// For an anchor and the byte before it, what to ask: the first of their shapes in `shapes`, counted from one, or `other`. Zero: nobody.
    private static let pairs: [UInt8] = {
        var pairs = [UInt8](repeating: 0, count: 1 << 16)
        for (number, shape) in shapes.enumerated().reversed() { pairs[shape.pair] = UInt8(number + 1) }
        for pair in ["yJ", "-B", "Q~"].map({ Array($0.utf8) }) { pairs[Int(pair[1]) << 8 | Int(pair[0])] = other }
        for before in 0...255 {
            pairs[Int(UInt8(ascii: ":")) << 8 | before] = other
            if SecretAssignment.mayEndName(UInt8(before)) { pairs[Int(UInt8(ascii: "=")) << 8 | before] = other }
            let dot = Int(UInt8(ascii: ".")) << 8 | before
            if pairs[dot] == 0, ByteSet.token.has(UInt8(before)) { pairs[dot] = other }
        }
        return pairs
    }()

    private static let other = UInt8.max

    /// The next place that a rule is to be asked about, and what its pair says, or the end and zero.
    private func candidate(from start: Int) -> (place: Int, pair: UInt8) {
        var place = start
        // Within bounds: `place` goes from a place in the text to its end, and has one before it unless it is zero.
        while place < bytes.count {
            let byte = unsafe bytes.base[place]
            if unsafe anchors[Int(byte)] != 0, place > 0 {
                let pair = unsafe pairs[Int(byte) << 8 | Int(bytes.base[place - 1])]
                if pair != 0 { return (place, pair) }
            }
            place += 1
        }
        return (place, 0)
    }

    /// - Parameter report: says whether to go on.
    private func scan(_ report: (Match) -> Bool) {
        var place = 0
        // How far matches have been told of. What is found later may begin before, and is cut.
        var told = 0
        // A name and a value: told once the pass has seen that the value has no shape of its own.
        var pending: Match?
        func tell(_ rule: Rule, from start: Int, to end: Int) -> Bool {
            pending = nil
            defer { told = end }
            return report(Match(rule: rule, range: max(start, told)..<end))
        }
        while true {
            let candidate = candidate(from: place)
            if let match = pending, candidate.place >= match.range.upperBound {
                if !tell(match.rule, from: match.range.lowerBound, to: match.range.upperBound) { return }
            }
            guard candidate.place < bytes.count else { return }
            place = candidate.place + 1
            guard let match = match(at: candidate.place, candidate.pair) else { continue }
            if match.rule.isGeneric {
                if pending == nil { pending = match }
            } else {
                // What changed may be the name alone: the match is both.
                let start = min(match.range.lowerBound, pending?.range.lowerBound ?? match.range.lowerBound)
                if !tell(match.rule, from: start, to: match.range.upperBound) { return }
                place = match.range.upperBound
            }
        }
    }

    private func match(at anchor: Int, _ pair: UInt8) -> Match? {
        switch bytes[anchor] {
        case UInt8(ascii: ":"): urlPassword(at: anchor) ?? telegramToken(at: anchor) ?? assignment(at: anchor)
        case UInt8(ascii: "="): assignment(at: anchor)
        case UInt8(ascii: "J"): jsonWebToken(at: anchor)
        case UInt8(ascii: "B"): privateKey(at: anchor)
        case UInt8(ascii: "~"): azureClientSecret(at: anchor)
        case UInt8(ascii: "."): (pair == Self.other ? nil : token(at: anchor, pair)) ?? discordToken(at: anchor)
        default: token(at: anchor, pair)
        }
    }

    /// Whether a token may begin here: after what is part of none, or after `%3D`.
    private func isStart(_ place: Int) -> Bool {
        !ByteSet.token.has(bytes[place - 1]) || unescaped(place - 1) == place || bytes[place - 3] == UInt8(ascii: "%")
    }

    /// The place itself, or the next one where it is the `n` of a newline that is escaped, as in JSON.
    private func unescaped(_ place: Int) -> Int {
        bytes[place - 1] == UInt8(ascii: "\\") && Self.escapes.has(bytes[place]) ? place + 1 : place
    }

    private static let escapes = ASCIISet("nrt")

    // MARK: Shapes

    private func token(at anchor: Int, _ first: UInt8) -> Match? {
        let pair = Int(bytes[anchor]) << 8 | Int(bytes[anchor - 1])
        var number = Int(first) - 1
        while number < Self.shapes.count, Self.shapes[number].pair == pair {
            let shape = Self.shapes[number]
            let start = anchor - shape.anchor
            number += 1
            guard bytes.has(shape.prefix, at: start), isStart(start) else { continue }
            let body = start + shape.prefix.count
            let end = bytes.end(of: shape.body, from: body, atMost: shape.length.upperBound + 1)
            guard end - body >= shape.length.lowerBound else { continue }
            if !shape.isOpen, end - body > shape.length.upperBound || ByteSet.alphanumeric.has(bytes[end]) { continue }
            let value = SecretValue(bytes, body..<end)
            if shape.isDoubtful ? value.isMachineMade : value.isVaried { return Match(rule: shape.rule, range: start..<end) }
        }
        return nil
    }

    /// A number in base64, six bytes of time, and a signature, between dots.
    private func discordToken(at dot: Int) -> Match? {
        let second = dot + 7
        guard bytes[second] == UInt8(ascii: "."), bytes.end(of: .token, from: dot + 1, atMost: 6) == second else { return nil }
        let start = unescaped(bytes.start(of: .token, before: dot, atMost: 29))
        let end = bytes.end(of: .token, from: second + 1, atMost: 41)
        guard (24...28).contains(dot - start), (27...40).contains(end - second - 1) else { return nil }
        guard let id = bytes.decodedBase64(start..<dot), id.allSatisfy(ByteSet.digit.has) else { return nil }
        return Match(rule: .discordToken, range: start..<end)
    }

    /// Eight to ten digits, a colon, and 35 bytes that begin with an `A`.
    private func telegramToken(at colon: Int) -> Match? {
        guard bytes[colon + 1] == UInt8(ascii: "A"), ByteSet.digit.has(bytes[colon - 1]) else { return nil }
        let start = bytes.start(of: .digit, before: colon, atMost: 11)
        let end = bytes.end(of: .token, from: colon + 1, atMost: 36)
        guard (8...10).contains(colon - start), end - colon == 36, SecretValue(bytes, (colon + 1)..<end).isMachineMade else { return nil }
        return Match(rule: .telegramToken, range: start..<end)
    }

    /// Three bytes, a digit, `Q~` and 31 to 34 bytes.
    private func azureClientSecret(at tilde: Int) -> Match? {
        guard bytes[tilde - 1] == UInt8(ascii: "Q"), ByteSet.digit.has(bytes[tilde - 2]) else { return nil }
        let set: ByteSet = [.token, .dot, .tilde]
        let start = unescaped(bytes.start(of: set, before: tilde, atMost: 7))
        let end = bytes.end(of: set, from: tilde + 1, atMost: 35)
        guard tilde - start == 5, (31...34).contains(end - tilde - 1) else { return nil }
        return SecretValue(bytes, start..<end).isVaried ? Match(rule: .azureClientSecret, range: start..<end) : nil
    }

    /// `eyJ` is `{"` in base64. What begins after a byte of the set is part of something longer, so that no byte is read twice.
    private func jsonWebToken(at anchor: Int) -> Match? {
        let start = anchor - 2
        guard bytes.has(Self.brace, at: start), isStart(start), bytes[start - 1] != UInt8(ascii: ".") else { return nil }
        let header = bytes.end(of: .token, from: start)
        guard bytes[header] == UInt8(ascii: "."), bytes.decodedBase64(start..<header)?.last == UInt8(ascii: "}") else { return nil }
        let payload = bytes.end(of: .token, from: header + 1)
        guard bytes[payload] == UInt8(ascii: "."), payload - header > 10 else { return nil }
        let end = bytes.end(of: [.token, .dot], from: payload + 1)
        // 32: a signature has 43 bytes or more. Without one nothing is signed, and jwt.io's example is everywhere.
        guard end - payload > 32, !bytes.has(Self.publishedSubject, at: header + 1) else { return nil }
        return Match(rule: .jwt, range: start..<end)
    }

    private static let brace = Array("eyJ".utf8)
    /// `{"sub":"1234567890"`.
    private static let publishedSubject = Array("eyJzdWIiOiIxMjM0NTY3ODkwI".utf8)

    /// From `-----BEGIN` to the next five dashes: PEM, OpenSSH and PGP, in lines or in one JSON string.
    private func privateKey(at anchor: Int) -> Match? {
        let start = anchor - Self.dashes.count
        guard bytes.has(Self.dashes, at: start), bytes.has(Self.begin, at: anchor) else { return nil }
        let label = anchor + Self.begin.count
        // 40: "ENCRYPTED PRIVATE KEY" and the like.
        var end = label
        while end < label + 40, bytes[end] == UInt8(ascii: " ") || ByteSet.upper.has(bytes[end]) { end += 1 }
        guard bytes.has(Self.dashes, at: end), bytes.has(Self.key, before: end) || bytes.has(Self.keyBlock, before: end) else { return nil }
        end += Self.dashes.count
        // 16 KiB: an RSA key of 16,384 bits has 12 KiB. The key is there if a line of it is: "..." is none.
        let limit = end + 16 << 10
        var run = 0
        var longestRun = 0..<0
        while end < min(limit, bytes.count), !bytes.has(Self.dashes, at: end) {
            run = ByteSet.base64.has(bytes[end]) ? run + 1 : 0
            end += 1
            if run > longestRun.count { longestRun = (end - run)..<end }
        }
        guard longestRun.count >= 32 else { return nil }
        let line = longestRun.prefix(512)
        return SecretValue(bytes, line.startIndex..<line.endIndex).isVaried ? Match(rule: .privateKey, range: start..<end) : nil
    }

    private static let dashes = Array("-----".utf8)
    private static let begin = Array("BEGIN ".utf8)
    private static let key = Array("PRIVATE KEY".utf8)
    private static let keyBlock = Array("PRIVATE KEY BLOCK".utf8)

    // MARK: URLs

    /// `scheme://user:password@host`, and URLs that are a secret as a whole.
    private func urlPassword(at colon: Int) -> Match? {
        guard bytes[colon + 1] == UInt8(ascii: "/"), bytes[colon + 2] == UInt8(ascii: "/") else { return nil }
        let authority = colon + 3
        if let webhook = webhook(at: authority, from: colon) { return webhook }
        var separator: Int?
        // 512: more than anybody's name and password.
        for place in authority..<min(authority + 512, bytes.count) {
            switch bytes[place] {
            case UInt8(ascii: ":"): separator = separator ?? place
            case UInt8(ascii: "@"):
                guard let separator else { return nil }
                let value = SecretValue(bytes, (separator + 1)..<place)
                return value.isHumanMade || value.isMachineMade ? Match(rule: .urlPassword, range: colon..<place) : nil
            case 0...32, 127: return nil
            case let byte where Self.endsAuthority.has(byte): return nil
            default: break
            }
        }
        return nil
    }

    private static let endsAuthority = ASCIISet("/?#<>\"'`\\")

    private func webhook(at host: Int, from colon: Int) -> Match? {
        for (prefix, rule, shortest) in Self.webhooks where bytes.has(prefix, at: host) {
            let path = host + prefix.count
            let end = bytes.end(of: [.token, .base64Only], from: path, atMost: 256)
            if end - path >= shortest, SecretValue(bytes, path..<end).isVaried { return Match(rule: rule, range: colon..<end) }
        }
        return nil
    }

    /// Workspace, hook and 24 bytes; a number and 68 bytes.
    private static let webhooks: [(prefix: [UInt8], rule: Rule, shortest: Int)] = [
        (Array("hooks.slack.com/services/T".utf8), .slackWebhook, 40), (Array("discord.com/api/webhooks/".utf8), .discordWebhook, 80),
        (Array("discordapp.com/api/webhooks/".utf8), .discordWebhook, 80),
    ]

    // MARK: Assignments

    /// A name that says secret, `:` or `=`, and a value that looks like one.
    private func assignment(at sign: Int) -> Match? {
        guard let name = SecretAssignment.name(in: bytes, before: sign), let value = SecretAssignment.value(in: bytes, after: sign) else {
            return nil
        }
        if name.kind == .authorization {
            return value.endOfCredentials.map { Match(rule: .authorization, range: name.start..<$0) }
        }
        let rule: Rule? =
            switch name.kind {
            case .harmless, .authorization: nil
            case .password: value.isPassword ? .passwordAssignment : nil
            case .machine: value.isToken && !value.isUUID ? .secretAssignment : nil
            case .key: value.isToken ? .secretAssignment : nil
            case .awsSecretKey: value.isToken ? value.text.range.count == 40 ? .awsSecretKey : .secretAssignment : nil
            case .azureSharedKey: value.isToken ? [88, 44].contains(value.text.range.count) ? .azureSharedKey : .secretAssignment : nil
            case .azureSignature: value.isSignature && Self.beforeField.has(bytes[name.start - 1]) ? .azureSignature : nil
            }
        return rule.map { Match(rule: $0, range: name.start..<value.text.range.upperBound) }
    }

    /// A field of a query, or of a connection string.
    private static let beforeField = ASCIISet("?&;")
}

extension SecretShape {
    /// The anchor and the byte before it: an index of 16 bits.
    fileprivate var pair: Int { Int(prefix[anchor]) << 8 | Int(prefix[anchor - 1]) }
}
