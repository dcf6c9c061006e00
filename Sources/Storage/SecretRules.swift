/// What the scanner knows of secrets: prefixes and lengths of tokens, names whose values are secret, words that no secret has.
///
/// Prefixes and lengths are facts from the vendors' documentation and from what the common scanners (gitleaks, detect-secrets,
/// trufflehog) agree on. Adding a token of a fixed shape is a line in `SecretShape.all`.
extension SecretScanner {
    /// What a value was recognized as. The raw names appear in versions and events.
    package enum Rule: String, Sendable, Codable, CaseIterable {
        case ageKey = "age_key"
        case anthropicKey = "anthropic_key"
        case artifactoryKey = "artifactory_key"
        case atlassianToken = "atlassian_token"
        case authorization = "authorization_header"
        case awsAccessKey = "aws_access_key"
        case awsSecretKey = "aws_secret_key"
        case azureClientSecret = "azure_client_secret"
        case azureSharedKey = "azure_shared_key"
        case azureSignature = "azure_sas_signature"
        case cloudflareToken = "cloudflare_token"
        case digitalOceanToken = "digitalocean_token"
        case discordToken = "discord_token"
        case discordWebhook = "discord_webhook"
        case dockerToken = "docker_token"
        case dopplerToken = "doppler_token"
        case githubToken = "github_token"
        case gitlabToken = "gitlab_token"
        case googleKey = "google_api_key"
        case googleOAuth = "google_oauth_secret"
        case grafanaToken = "grafana_token"
        case groqKey = "groq_key"
        case huggingFaceToken = "hugging_face_token"
        case jwt = "json_web_token"
        case linearKey = "linear_key"
        case newRelicKey = "new_relic_key"
        case notionToken = "notion_token"
        case npmToken = "npm_token"
        case onePasswordToken = "1password_token"
        case openAIKey = "openai_key"
        case openRouterKey = "openrouter_key"
        case passwordAssignment = "password_assignment"
        case perplexityKey = "perplexity_key"
        case postmanKey = "postman_key"
        case privateKey = "private_key"
        case pulumiToken = "pulumi_token"
        case pypiToken = "pypi_token"
        case replicateToken = "replicate_token"
        case rubyGemsKey = "rubygems_key"
        case secretAssignment = "secret_assignment"
        case sendGridKey = "sendgrid_key"
        case sentryToken = "sentry_token"
        case shopifyToken = "shopify_token"
        case slackToken = "slack_token"
        case slackWebhook = "slack_webhook"
        case squareToken = "square_token"
        case stripeKey = "stripe_key"
        case supabaseToken = "supabase_token"
        case tailscaleKey = "tailscale_key"
        case telegramToken = "telegram_token"
        case terraformToken = "terraform_token"
        case twilioKey = "twilio_key"
        case urlPassword = "url_password"
        case vaultToken = "vault_token"
        case xaiKey = "xai_key"

        /// Found by a name beside it, not by its own shape: gives way to any other rule for the same bytes.
        var isGeneric: Bool { self == .secretAssignment || self == .passwordAssignment || self == .authorization }
    }
}

/// Which bytes may stand in a token. Every set is ASCII.
struct ByteSet: OptionSet {
    let rawValue: UInt8

    static let lowerHex = ByteSet(rawValue: 1)
    static let upper = ByteSet(rawValue: 2)
    static let lower = ByteSet(rawValue: 4)
    static let digit = ByteSet(rawValue: 8)
    /// `_` and `-`.
    static let joint = ByteSet(rawValue: 16)
    /// `+`, `/` and `=`.
    static let base64Only = ByteSet(rawValue: 32)
    static let dot = ByteSet(rawValue: 64)
    static let tilde = ByteSet(rawValue: 128)

    static let letter: ByteSet = [.upper, .lower]
    static let alphanumeric: ByteSet = [.upper, .lower, .digit]
    static let token: ByteSet = [.upper, .lower, .digit, .joint]
    static let base64: ByteSet = [.upper, .lower, .digit, .base64Only]

    /// For every byte, the sets that it is in.
    private static let ofBytes: [ByteSet] = (0...255).map { (byte: UInt8) in
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): [.digit, .lowerHex]
        case UInt8(ascii: "a")...UInt8(ascii: "f"): [.lower, .lowerHex]
        case UInt8(ascii: "g")...UInt8(ascii: "z"): .lower
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): .upper
        case UInt8(ascii: "_"), UInt8(ascii: "-"): .joint
        case UInt8(ascii: "+"), UInt8(ascii: "/"), UInt8(ascii: "="): .base64Only
        case UInt8(ascii: "."): .dot
        case UInt8(ascii: "~"): .tilde
        default: []
        }
    }

    func has(_ byte: UInt8) -> Bool { !isDisjoint(with: Self.ofBytes[Int(byte)]) }
}

/// A token known by its prefix.
struct SecretShape {
    let prefix: [UInt8]
    /// Where in the prefix its rarest byte is, the one that the scanner looks for.
    let anchor: Int
    let rule: SecretScanner.Rule
    let body: ByteSet
    /// Bytes of the body. Where more of the kind follow than the upper bound says, it is something else.
    let length: ClosedRange<Int>
    /// The prefix alone says little: the body has to look drawn by lot, not written.
    let isDoubtful: Bool

    /// - Parameter anchor: by default the last of `_`, `-` and `.` in the prefix.
    private init(
        _ prefix: String, _ rule: SecretScanner.Rule, _ body: ByteSet, _ length: ClosedRange<Int>, anchor: Int? = nil,
        isDoubtful: Bool = false
    ) {
        self.prefix = Array(prefix.utf8)
        self.anchor = anchor ?? self.prefix.lastIndex { ByteSet([.joint, .dot]).has($0) }!
        self.rule = rule
        self.body = body
        self.length = length
        self.isDoubtful = isDoubtful
    }

    /// Of what has no upper bound by its vendor's word this much is looked at. 512: more than the longest of the others.
    private static let long = 512

    var isOpen: Bool { length.upperBound == Self.long }

    static let all: [SecretShape] =
        [
            SecretShape("AKIA", .awsAccessKey, [.upper, .digit], 16...16, anchor: 2),
            SecretShape("ASIA", .awsAccessKey, [.upper, .digit], 16...16, anchor: 2),
            SecretShape("ABIA", .awsAccessKey, [.upper, .digit], 16...16, anchor: 2),
            SecretShape("AKCp", .artifactoryKey, .alphanumeric, 69...69, anchor: 1),
            SecretShape("ops_eyJ", .onePasswordToken, .base64, 200...long),
            SecretShape("sq0atp-", .squareToken, .token, 22...22),
            SecretShape("sq0csp-", .squareToken, .token, 43...43),
            SecretShape("AIza", .googleKey, .token, 35...35, anchor: 1),
            SecretShape("GOCSPX-", .googleOAuth, .token, 28...28),
            SecretShape("ya29.", .googleOAuth, .token, 40...long),
            SecretShape("github_pat_", .githubToken, .token, 82...82),
            SecretShape("xapp-", .slackToken, .token, 40...long),
            SecretShape("sk_live_", .stripeKey, .alphanumeric, 16...long),
            SecretShape("rk_live_", .stripeKey, .alphanumeric, 16...long),
            SecretShape("whsec_", .stripeKey, .base64, 32...64),
            SecretShape("sk-", .openAIKey, .alphanumeric, 32...64, isDoubtful: true),
            SecretShape("sk-ant-", .anthropicKey, .token, 40...long),
            SecretShape("sk-or-v1-", .openRouterKey, .lowerHex, 64...64),
            SecretShape("npm_", .npmToken, .alphanumeric, 36...36),
            SecretShape("pypi-AgE", .pypiToken, .token, 50...long),
            SecretShape("hf_", .huggingFaceToken, .alphanumeric, 34...34),
            SecretShape("SG.", .sendGridKey, [.token, .dot], 66...66, anchor: 1),
            SecretShape("SK", .twilioKey, .lowerHex, 32...32, anchor: 1, isDoubtful: true),
            SecretShape("ATATT3xFfGF0", .atlassianToken, [.token, .base64Only], 100...long, anchor: 9),
            SecretShape("AGE-SECRET-KEY-1", .ageKey, [.upper, .digit], 58...58),
            SecretShape("hvs.", .vaultToken, .token, 24...long, isDoubtful: true),
            SecretShape("dp.pt.", .dopplerToken, .alphanumeric, 40...44),
            SecretShape("atlasv1.", .terraformToken, [.token], 60...70),
            SecretShape("dckr_pat_", .dockerToken, .token, 27...27),
            SecretShape("dckr_oat_", .dockerToken, .token, 27...40),
            SecretShape("glsa_", .grafanaToken, .token, 41...41),
            SecretShape("glc_", .grafanaToken, .base64, 32...long, isDoubtful: true),
            SecretShape("gsk_", .groqKey, .alphanumeric, 52...52),
            SecretShape("xai-", .xaiKey, .alphanumeric, 70...90),
            SecretShape("pplx-", .perplexityKey, .alphanumeric, 48...48),
            SecretShape("r8_", .replicateToken, .alphanumeric, 37...37, isDoubtful: true),
            SecretShape("lin_api_", .linearKey, .alphanumeric, 40...40),
            SecretShape("ntn_", .notionToken, .alphanumeric, 46...46),
            SecretShape("NRAK-", .newRelicKey, .alphanumeric, 27...27),
            SecretShape("PMAK-", .postmanKey, .token, 59...59),
            SecretShape("pul-", .pulumiToken, .lowerHex, 40...40),
            SecretShape("rubygems_", .rubyGemsKey, .lowerHex, 48...48),
            SecretShape("sntryu_", .sentryToken, .lowerHex, 64...64),
            SecretShape("sntrys_eyJ", .sentryToken, [.token, .base64Only], 80...long),
            SecretShape("sbp_", .supabaseToken, .lowerHex, 40...40),
            SecretShape("tskey-auth-", .tailscaleKey, .token, 30...80),
            SecretShape("tskey-api-", .tailscaleKey, .token, 30...80),
        ]
        + ["p", "o", "u", "s", "r"].map { SecretShape("gh\($0)_", .githubToken, .alphanumeric, 36...251) }
        + ["pat", "dt", "rt", "ptt", "oas", "agent", "soat", "cbt", "ft", "imt"].map {
            SecretShape("gl\($0)-", .gitlabToken, .token, 20...300, isDoubtful: true)
        }
        + ["b", "p", "a", "r", "s", "e", "c", "d"].map { SecretShape("xox\($0)-", .slackToken, .token, 24...long, isDoubtful: true) }
        + ["proj", "svcacct", "admin"].map { SecretShape("sk-\($0)-", .openAIKey, .token, 40...long, isDoubtful: true) }
        + ["o", "p", "r"].map { SecretShape("do\($0)_v1_", .digitalOceanToken, .lowerHex, 64...64) }
        + ["at", "ca", "pa", "ss"].map { SecretShape("shp\($0)_", .shopifyToken, .lowerHex, 32...32) }
        + ["k", "ut", "at"].map { SecretShape("cf\($0)_", .cloudflareToken, .alphanumeric, 40...60) }
}

/// The end of a name whose value is a secret: `password` for `DB_PASSWORD`, `dbPassword` and "the password".
struct SecretName {
    enum Kind {
        /// Made up by a person, perhaps.
        case password
        /// Made by a program: long, drawn by lot.
        case machine
        /// Made by a program, and a UUID under this name is no identifier: Heroku's keys and npm's old tokens are such.
        case key
        case awsSecretKey
        /// 64 bytes in base64 or 32.
        case azureSharedKey
        case azureSignature
        /// A scheme comes before the value.
        case authorization
        /// Ends like a secret and is none.
        case harmless
    }

    /// Lower case, without the `_`, `-` and spaces that may stand between its words.
    let letters: [UInt8]
    let kind: Kind
    /// What comes before belongs to another word: "compass" is no "pass".
    let isWholeWord: Bool

    private init(_ letters: String, _ kind: Kind, isWholeWord: Bool = false) {
        self.letters = Array(letters.utf8)
        self.kind = kind
        self.isWholeWord = isWholeWord
    }

    /// By the last letter, 256 lists; in a list, the first that fits counts.
    static let byLastLetter: [[SecretName]] = (0...255).map { (letter: UInt8) in all.filter { $0.letters.last == letter } }

    /// By the last two letters, `ending` of them: whether a name ends so. Asked first, since nearly no word does.
    static let endings: [Bool] = {
        var endings = [Bool](repeating: false, count: 1 << 10)
        for name in all { endings[ending(name.letters[name.letters.count - 2], name.letters.last!)] = true }
        return endings
    }()

    /// Below 1,024, and the same for both cases of letters. Other bytes take the places of letters.
    static func ending(_ before: UInt8, _ last: UInt8) -> Int { Int(before & 31) << 5 | Int(last & 31) }

    private static let all =
        ["nextpagetoken", "pagetoken", "nexttoken", "continuationtoken", "synctoken", "resumetoken", "csrftoken", "cancellationtoken"]
        .map { SecretName($0, .harmless) }
        + ["publickey", "publicapikey", "publishablekey", "hashedsecret", "hashedpassword"].map { SecretName($0, .harmless) }
        + ["secretaccesskey", "awssecretkey"].map { SecretName($0, .awsSecretKey) }
        + ["accountkey", "sharedaccesskey"].map { SecretName($0, .azureSharedKey) }
        + [SecretName("sig", .azureSignature, isWholeWord: true), SecretName("authorization", .authorization)]
        + ["password", "passwd", "passphrase", "passwort", "passcode", "pwd"].map { SecretName($0, .password) }
        + ["pass", "pw"].map { SecretName($0, .password, isWholeWord: true) }
        + ["clientsecret", "appsecret", "apisecret", "authtoken"].map { SecretName($0, .key) }
        + ["secret", "token", "credential", "credentials"].map { SecretName($0, .machine) }
        + [SecretName("auth", .machine, isWholeWord: true)]
        + ["api", "secret", "private", "access", "auth", "encryption", "signing", "master", "admin", "service", "subscription", "storage"]
        .map { SecretName("\($0)key", .key) }
}

/// Words that people write where a secret would stand. Lower case.
enum SecretWords {
    /// Of a value that has one of these nothing is a secret, vendors' published examples (`AKIAIOSFODNN7EXAMPLE`) included. The last five are
    /// `user:pass` and RFC 7617's `Aladdin:open sesame` in base64, and the client and tokens of RFC 6749.
    static let spoilers = words([
        "example", "your", "changeme", "change-me", "change_me", "placeholder", "redacted", "dummy", "sample", "insert", "replace", "xxxx",
        "****",
        "....", "fake", "notreal", "not-a-real", "foobar", "foo-bar", "todo", "dxnlcjpwyxnz", "qwxhzgrpbjpvcgvuihnlc2ftzq",
        "czzcagrsa3f0mz", "2yotnfzfejr1zcsicmwpaa", "tgzv3jokf0xg5qx2tlkwia",
    ])

    /// These count for nothing: what is left beside them has to be a secret by itself.
    static let fillers = words([
        "password", "passw0rd", "p@ssw0rd", "passwd", "secret", "s3cr3t", "s3cret", "token", "apikey", "test", "admin", "user", "root",
        "guest",
        "default", "qwerty", "letmein", "welcome", "demo", "hunter2", "deadbeef", "cafebabe", "foo", "bar", "baz",
    ])

    /// By the first letter.
    private static func words(_ list: [String]) -> [[[UInt8]]] {
        let words = list.map { Array($0.utf8) }
        return (0...127).map { first in words.filter { Int($0[0]) == first } }
    }
}
