import Testing

@testable import Storage

@Suite struct SecretScannerTests {
    typealias Rule = SecretScanner.Rule

    private func rules(_ text: String) -> [Rule] { SecretScanner.matches(in: Array(text.utf8)[...]).map(\.rule) }

    // MARK: What is found
    //
    // All values are made up. `|` parts a value, so that no service that scans repositories takes this file for a leak, and `{a:36}` stands
    // for 36 bytes: letters and digits (a), lower-case hexadecimal (h), base64url (m), base64 (b).

    private static func expanded(_ text: Substring) -> String {
        let alphanumeric = "Zk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoKvN6tBq0xXe2yPz8wAi7LhSj3RkUd5gC9oFm4sTb1YqVn7ZxKw2"
        let base64 = alphanumeric.replacing("Bq", with: "+q").replacing("W1", with: "/1")
        let sources: [Character: String] = [
            "a": alphanumeric, "h": "9c1f7ab3e05d4826f1c8037be94a62d54b8e2fd61a97c30582e6fb1d70394ac8",
            "m": alphanumeric.replacing("Bq", with: "-q").replacing("W1", with: "_1") + alphanumeric, "b": base64 + base64,
        ]
        var result = ""
        var rest = text.replacing("|", with: "")
        while let start = rest.firstRange(of: "{"), let end = rest[start.upperBound...].firstIndex(of: "}") {
            let inside = rest[start.upperBound..<end]
            result += rest[..<start.lowerBound]
            if let source = inside.first.flatMap({ sources[$0] }), inside.dropFirst().first == ":", let count = Int(inside.dropFirst(2)) {
                result += source.prefix(count)
            } else {
                result += "{\(inside)}"
            }
            rest = rest[rest.index(after: end)...]
        }
        return result + rest
    }

    /// A rule and a text by lines.
    private static func cases(_ lines: String) -> [Case] {
        lines.split(separator: "\n").map { line in
            let parts = line.split(separator: " ", maxSplits: 1)
            return Case(rule: Rule(rawValue: String(parts[0]))!, text: expanded(parts[1]).replacing("⏎", with: "\n"))
        }
    }

    struct Case: CustomTestStringConvertible, Sendable {
        let rule: Rule
        let text: String
        var testDescription: String { "\(rule.rawValue) \(text.prefix(12))" }
    }

    static let shapes = cases(
        """
        aws_access_key AK|IAQ3ZT7LM2XVBN6WPD
        artifactory_key AK|Cp{a:69}
        1password_token op|s_eyJ{b:160}{b:160}{b:160}{b:160}{b:160}
        square_token sq0|csp-{m:43}
        aws_access_key AS|IA5HR2KWY7GQTXM3CF
        google_api_key AI|zaSy{m:33}
        google_oauth_secret GOC|SPX-{m:28}
        google_oauth_secret ya|29.a0Af{m:120}
        github_token gh|p_{a:36}
        github_token gh|o_{a:36}
        github_token gh|u_{a:36}
        github_token gh|s_{a:36}
        github_token gh|r_{a:76}
        github_token github|_pat_11ABCQX2Y0d8vKfTnW1bYs_{a:59}
        gitlab_token glp|at-x7Kq-2mZvR_8nTfWbY3s
        gitlab_token gld|t-x7Kq-2mZvR_8nTfWbY3s
        slack_token xox|b-2847193650182-2847501938475-{a:24}
        slack_token xap|p-1-A04QX7Z2M-2847193650182-{h:64}
        stripe_key sk_|live_{a:24}
        stripe_key rk_|live_{a:90}
        stripe_key wh|sec_{b:32}
        openai_key s|k-{a:48}
        openai_key s|k-{h:32}
        openai_key sk-|proj-{m:74}T3BlbkFJ{m:74}
        openrouter_key sk-|or-v1-{h:64}
        anthropic_key sk-|ant-api03-{m:93}AA
        npm_token np|m_{a:36}
        pypi_token py|pi-AgEIcHlwaS5vcmcCJ{m:120}
        hugging_face_token h|f_qZkvQmXrTnWbYsLdHcJpGfRuEaMoKxNtBy
        digitalocean_token do|p_v1_{h:64}
        sendgrid_key S|G.{m:22}.{m:43}
        twilio_key S|K{h:32}
        telegram_token 7193|502846:AAH{m:32}
        discord_token MTE5Mjg0NzM2NTAx|ODI3MzY0NQ.GxK7vZ.{m:38}
        discord_webhook https://disc|ord.com/api/webhooks/1192847365018273645/{m:68}
        slack_webhook https://hoo|ks.slack.com/services/T04QX7Z2M/B05RW8K3N/{a:24}
        azure_client_secret x7K8|Q~{m:34}
        vault_token hv|s.CAESI{m:90}
        doppler_token dp|.pt.{a:43}
        terraform_token x7KqmZvR8nTfWb|.atlasv1.{m:67}
        atlassian_token ATA|TT3xFfGF0{m:171}=4A7C91E2
        docker_token dckr|_pat_{m:27}
        grafana_token gl|sa_{a:32}_9c1f7ab3
        groq_key gs|k_{a:52}
        xai_key xa|i-{a:80}
        perplexity_key pp|lx-{a:48}
        replicate_token r|8_{a:37}
        linear_key lin|_api_{a:40}
        notion_token nt|n_28471936501{a:35}
        new_relic_key NR|AK-X7KQMZVR8NTFWBY3SLDHC4JPGF9
        postman_key PM|AK-{h:24}-{h:34}
        pulumi_token pu|l-{h:40}
        rubygems_key ruby|gems_{h:48}
        sentry_token snt|ryu_{h:64}
        supabase_token sb|p_{h:40}
        shopify_token shp|at_{h:32}
        tailscale_key tskey|-auth-kX7Qm2ZvR8nT-{a:32}
        cloudflare_token cf|ut_{a:48}
        age_key AGE-SECRET|-KEY-1Q7XZ2MVR8KTFWLY3SDHC4JPGF9REUA5NK6T0XQ7XZ2MVR8KTFWLY3SDHC4
        json_web_token ey|JhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJhY2N0LTg4MjciLCJleHAiOjE5MjQ5MDU2MDB9.{m:86}
        url_password postgres://app:|kX7qm2Zv@db.internal:5432/app
        url_password https://deploy:|Tr0ub4dor!x@git.internal/x.git
        url_password redis://:|{a:36}@cache:6379/0
        azure_shared_key DefaultEndpointsProtocol=https;AccountName=x;Account|Key={b:86}==
        azure_sas_signature https://x.blob.core.windows.net/c?sv=2024-11-04&s|ig={a:41}%2BBq%3D
        """)

    @Test(arguments: shapes)
    func aTokenIsKnownByItsShape(known: Case) {
        let (rule, token) = (known.rule, known.text)
        for text in [
            token, "\(token)\n", "It is \(token), keep it", "`\(token)`", "<\(token)>", "- key: \(token)\n",
            "{\"text\":\"one\\n\(token)\\ntwo\"}",
            "[x](\(token))",
        ] {
            #expect(rules(text) == [rule], "\(text)")
        }
    }

    /// One that only the tables tell of.
    @Test func everyRuleHasACase() {
        let tested = Set((Self.shapes + Self.assignments).map(\.rule)).union([.privateKey])
        #expect(tested == Set(Rule.allCases))
    }

    @Test func aTokenIsFoundInAnyBytes() {
        let token = Array(("gh" + "p_" + Self.expanded("{a:36}"[...])).utf8)
        let bytes = [0xff, 0, 0x80, 0xfe] + token + [0xc3, 0xff, 0]
        #expect(SecretScanner.matches(in: bytes[...]) == [.init(rule: .githubToken, range: 4..<(4 + token.count))])
    }

    @Test(arguments: [
        "RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK",
    ])
    func aPrivateKeyIsFoundWhole(label: String) {
        let lines = (0..<20).map { Self.expanded("{b:80}").dropFirst($0) + "+/R\n" }
        let block = "-----BEG" + "IN \(label)-----\n" + lines.joined()
        let end = "-----END \(label)-----\n"
        let text = "before\n" + block + end + "after"
        #expect(SecretScanner.matches(in: Array(text.utf8)[...]) == [.init(rule: .privateKey, range: 7..<(7 + block.utf8.count))])
        // As a service account's file has it.
        #expect(rules("{\"private_key\": \"\((block + end).replacing("\n", with: "\\n"))\"}") == [.privateKey])
        #expect(rules("-----BEG" + "IN \(label)-----\n...\n" + end).isEmpty)
        #expect(rules("A key begins with `-----BEG" + "IN \(label)-----`.").isEmpty)
    }

    static let assignments = cases(
        #"""
        password_assignment password = "kX7qm2Zv"
        password_assignment DB_PASSWORD=Tr0ub4dor&3x
        password_assignment password: Tr0ub4dor!x⏎
        password_assignment Password: `kX7qm2Zv`
        password_assignment **Password:** kX7qm2Zv⏎
        password_assignment **Password**: kX7qm2Zv⏎
        password_assignment "password": "C0rrect-h0rse"
        password_assignment 'passwd' => 'kX7qm2Zv'
        password_assignment let password: String = "kX7qm2Zv!"
        password_assignment config['password'] = 'kX7qm2Zv'
        password_assignment --password=kX7qm2Zv9 x
        password_assignment export PGPASSWORD='we1rd&l0ng'
        password_assignment spring.datasource.password=kX7qm2Zv9⏎
        password_assignment smtp_pass: "kX7qm2Zv9"
        password_assignment the wifi password: Sommer!2031⏎
        password_assignment {\"password\": \"kX7qm2Zv9\"}
        password_assignment passphrase := "kX7qm2Zv9"
        password_assignment password   =   kX7qm2Zv9⏎
        password_assignment PASSWORD_1='Zwölf&12'
        password_assignment DB_PASSWORD ?= kX7qm2Zv9⏎
        secret_assignment api_key = "{h:32}"
        secret_assignment API_KEY: {a:36}
        secret_assignment export TOKEN={a:36}
        secret_assignment "secret": "{a:36}"
        secret_assignment clientSecret: '{a:36}',
        secret_assignment - API key: `{h:32}`
        secret_assignment X-Api-Key: {h:40}
        secret_assignment SECRET_KEY = b'{h:64}'
        secret_assignment //registry.npmjs.org/:_authToken={a:40}⏎
        secret_assignment //registry.npmjs.org/:_authToken=9c1f7ab3-e05d-4826-91c8-037be94a62d5⏎
        secret_assignment api_key: str = "{h:32}"
        secret_assignment HEROKU_API_KEY=9c1f7ab3-e05d-4826-91c8-037be94a62d5
        secret_assignment AWS_SESSION_TOKEN=IQoJb3JpZ2luX2Vj{b:170}==
        secret_assignment ?access_token={a:36}&x=1
        secret_assignment \"api_key\":\"{h:32}\"
        aws_secret_key aws_secret_access_key = {b:40}
        aws_secret_key "SecretAccessKey": "{b:40}"
        authorization_header Authorization: Bearer {a:36}
        authorization_header curl -H 'Authorization: Basic YXBwOmtY|N3FtMlp2IXo5Uw==' x
        authorization_header "Authorization": "Bearer {a:36}"
        authorization_header authorization: token {h:40}
        """#)

    @Test(arguments: assignments)
    func aSecretIsKnownByItsName(known: Case) { #expect(rules(known.text) == [known.rule], "\(known.text)") }

    // MARK: What is none

    /// By lines; ⏎ is a newline within one.
    static let harmless = #"""
        password = "changeme"
        password = "********"
        password=xxxxxxxxxxxx
        api_key = <your-key>
        api_key = "YOUR_API_KEY_1234567890"
        password: ${DB_PASSWORD}
        password: "${DB_PASSWORD2}"
        TOKEN=$(cat /run/secrets/token1)
        secret: {{ vault.secret_1 }}
        token = process.env.API_TOKEN_V2
        password = os.environ["DB_PASSWORD1"]
        token: $TOKEN_1
        password = "example123!"
        password: password123
        secret = "s3cr3t"
        password = "%(password)s"
        password=#{ENV['X1']}
        api_key="sk-your-key-goes-here-0123456789"
        TOKEN=abcdefghijklmnop1234567890
        password: ""
        gh|p_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        gh|p_1234567890abcdefghijklmnopqrstuvwxyz
        gh|p_0000000000000000000000000000000000aa
        AK|IAXXXXXXXXXXXXXXXX
        AK|IATESTTESTTESTTEST
        sk-|ant-api03-your-key-here-your-key-here-your-key-here-AA
        xox|b-not-a-real-token-this-will-not-work
        xox|b-1234567890-1234567890-abcdefghijklmnop
        Authorization: Bearer <token>
        Authorization: Bearer $GITHUB_TOKEN_2
        Authorization: Bearer {access_token_1}
        Authorization: `Bearer YOUR_ACCESS_TOKEN_1`
        AK|IAIOSFODNN7EXAMPLE
        aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfi|CYEXAMPLEKEY
        Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==
        ey|JhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c
        "access_token":"2YotnFZFEjr1zCsicMWpAA"
        The word token: it says nothing
        password: see 1Password
        Password: ask Ada
        let password: SecretString
        func login(password: Password2, token: Token2)
        password = user.password1
        password = getPassword1()
        token = tokens[0]
        self.secret = secret2
        pass = pass2;
        token == "abc123def456ghi7"
        if password != "kX7qm2Zv" {
        password_file = /run/secrets/db-password-1
        PWD=/home/ada/project-2
        password: /etc/remfs/password1
        token_type: bearer2bearer3bearer4
        "next_page_token": "CAEQAhoLZk8vQ2mXr5TnW1"
        public_key = "{a:36}"
        compass: N42E17x9Q8
        tokens: 128000
        "max_tokens": 4096
        key = "{h:32}"
        password = "The password has to have 8 letters"
        password: must-be-12-chars
        author: Ada9Lovelace1815x
        password: db-user-01⏎
        secret_name: prod/db-2/app-user-7
        passwordHash = "$2b$12${a:53}"
        token := lexer.next2()
        token: T_ENCAPSED_AND_WHITESPACE_2
        password => Hash::make($request2->password)
        auth: { user: 'x', pass }
        api_key::v2::SomeTypeName3
        credentials: include2
        token: 0x{h:40}
        let privateKey: ASN1.ASN1OctetString
        "sig" : "{h:64}"
        "hashed_secret": "{h:40}"
        password:⏎  kX7qm2Zv9
        secret: sha256:{h:64}
        commit {h:40}
        sha256: {h:64}
        {h:64}
        9c1f7ab3-e05d-4826-91c8-037be94a62d5
        token: 9c1f7ab3-e05d-4826-91c8-037be94a62d5
        "integrity": "sha512-{b:86}=="
        memstore_01{a:22}
        ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC{b:120} ada@host
        -----BEGIN PUBLIC KEY-----⏎MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A{b:32}⏎-----END PUBLIC KEY-----
        -----BEGIN CERTIFICATE-----⏎MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A{b:32}⏎-----END CERTIFICATE-----
        ![x](data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk{b:40}==)
        eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UifQ.
        {"eyJ": 1}
        https://host:8080/a@b
        http://user:password@host
        postgres://postgres:postgres@localhost:5432
        https://user:pass@host/
        mysql://${USER}:${PASSWORD1}@host
        https://<user>:<pass1234>@host
        ssh://git@github.com:22/x
        amqp://guest:guest@mq
        https://a.b/c?x=y:z1@w
        https://x:***********@host
        http://[::1]:8080/
        agh|p_{a:36}
        gh|p_{a:35}
        AK|IAQ3ZT7LM2XVBN6WPDQ
        xAK|IAQ3ZT7LM2XVBN6WPD
        sk-learn-pipeline-with-many-words-and-2-numbers-in-it-1
        scikit-sk-{a:48}
        npm_config_registry_of_our_company_1234
        hf_transfer_of_models_is_enabled_by_def
        SK{h:31}
        task-{a:36}
        hvs.somethingThatIsAMethodCall
        x.GxK7vZ.y
        10:30:45:AAAA
        """#.split(separator: "\n").map { expanded($0).replacing("⏎", with: "\n") }

    @Test(arguments: harmless)
    func whatIsNoSecretIsNotFound(text: String) { #expect(rules(text).isEmpty, "\(text)") }

    // MARK: Places

    @Test func aShapeOfItsOwnOutdoesAName() {
        let token = "gh" + "p_" + Self.expanded("{a:36}"[...])
        let text = "one two\nAPI_TOKEN = \"\(token)\"\n"
        #expect(SecretScanner.matches(in: Array(text.utf8)[...]) == [.init(rule: .githubToken, range: 12..<(21 + token.utf8.count))])
        #expect(rules("secret: postgres://app:kX7qm2Zv@db") == [.urlPassword])
    }

    @Test func matchesComeInOrderAndNeverOverlap() {
        let text = "password = \"kX7qm2Zv\"\nAK" + "IAQ3ZT7LM2XVBN6WPD\nhttps://a:kX7qm2Zv@b"
        #expect(rules(text) == [.passwordAssignment, .awsAccessKey, .urlPassword])
        #expect(SecretScanner.matches(in: Array(text.utf8)[...], atMost: 2).map(\.rule) == [.passwordAssignment, .awsAccessKey])
        #expect(SecretScanner.matches(in: Array(text.utf8)[...], atMost: 0).isEmpty)
        #expect(SecretScanner.firstMatch(in: Array(text.utf8)[...])?.rule == .passwordAssignment)
        #expect(SecretScanner.firstMatch(in: []) == nil)
    }

    @Test func aWriteAnswersForWhatItTouchesOnly() {
        let bytes = Array("password = \"kX7qm2Zv\" and \("gh" + "p_" + Self.expanded("{a:36}"[...])) end".utf8)
        let first = SecretScanner.matches(in: bytes[...])[0].range
        let second = SecretScanner.matches(in: bytes[...])[1].range
        #expect(first == 0..<20)
        // The name alone makes a secret of a value that was there, be it one with a shape or not.
        #expect(SecretScanner.firstMatch(in: bytes[...], touching: 0..<1)?.range == first)
        #expect(SecretScanner.firstMatch(in: bytes[...], touching: 20..<(second.lowerBound + 1))?.range == second)
        #expect(SecretScanner.firstMatch(in: bytes[...], touching: 20..<second.lowerBound) == nil)
        #expect(SecretScanner.firstMatch(in: bytes[...], touching: second.upperBound..<bytes.count) == nil)
        #expect(SecretScanner.firstMatch(in: bytes[...], touching: 5..<5) == nil)
        let named = Array("token: \("gh" + "p_" + Self.expanded("{a:36}"[...]))".utf8)
        #expect(SecretScanner.firstMatch(in: named[...], touching: 0..<2)?.rule == .githubToken)
    }

    @Test func aSliceKeepsItsIndices() {
        let bytes = Array("..... password = \"kX7qm2Zv\" .....".utf8)
        #expect(SecretScanner.firstMatch(in: bytes[6...])?.range == 6..<26)
        #expect(SecretScanner.firstMatch(in: bytes[6..<25]) == nil)
        #expect(SecretScanner.firstMatch(in: bytes[7...])?.range == nil)
    }

    // MARK: Whatever the bytes

    /// 128 KiB of each take a fraction of a second, unoptimized as well; what is quadratic would take minutes.
    @Test(arguments: [
        "password=", "password:", "password=\"", "password: \"a1", "token='token=\"token=`", "eyJ", ".eyJ", "\\neyJ",
        "eyJhbGciOiJub25lIn0.", "eyJ.eyJ.", "A", "://", "://a:a:a:a", "x://a:",
        "-----BEGIN PRIVATE KEY-----", "-----BEG" + "IN RSA PRIVATE KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A", "-", "=", ":", " ",
        "secret ", "key:\t", "gh" + "p_", "glpat-", "sk-sk-ant-",
        ".aaaaaa", "1:A", "12345678:A", "8Q~", "AKIA", "SK", "\\", "a=b", "authorization: bearer ", "\"", "p a s s w o r d : ",
        "password1234567890=", "xox" + "b-2847193650182-",
        "sig=Zk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoKvN6t", "api_key=Zk8vQ2mXr5TnW1bYs7LdHc4JpGf9RuEa3MoK", "https://discord.com/api/webhooks/",
    ])
    func timeGrowsWithTheLengthOnly(piece: String) {
        let piece = Array(piece.utf8)
        let bytes = Array(repeatElement(piece, count: (128 << 10) / piece.count).joined())
        let time = ContinuousClock().measure { _ = SecretScanner.matches(in: bytes[...]) }
        #expect(time < .seconds(10), "\(time)")
    }

    @Test func noBytesAreTooStrange() {
        var random = SystemRandomNumberGenerator()
        let seed = UInt64.random(in: 1 ... .max, using: &random)
        var state = seed
        func next(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((state >> 33) % UInt64(bound))
        }
        let pieces: [[UInt8]] =
            ((Self.shapes + Self.assignments).map(\.text) + Self.harmless + [
                "password", "=", ":", "\"", "\\", "-----", "BEGIN ", "eyJ", "://", "@", "~", "Q~", "\n",
            ])
            .map { Array($0.utf8) }
        for round in 0..<4_000 {
            var bytes: [UInt8] = []
            for _ in 0..<next(12) {
                let piece = pieces[next(pieces.count)]
                let start = next(piece.count)
                bytes += piece[start..<(start + next(piece.count - start + 1))]
                if next(3) == 0 { bytes.append(UInt8(next(256))) }
            }
            let matches = SecretScanner.matches(in: bytes[...])
            var end = 0
            for match in matches {
                #expect(
                    match.range.lowerBound >= end && match.range.upperBound <= bytes.count && !match.range.isEmpty,
                    "seed \(seed), round \(round)")
                end = match.range.upperBound
            }
            #expect(SecretScanner.firstMatch(in: bytes[...]) == matches.first)
        }
    }
}
