import Filesystem
import Glibc
import Storage
import TestSupport
import Testing

/// The promises of `Semantics.md` on secrets in what is written, kept with real programs on real mounts.
@Suite(.needsFuse)
struct SecretSemanticsTests {
    // MARK: Secrets

    private static let token = SampleSecret.githubToken

    private static func policy(_ secrets: Policy.Secrets) -> Policy {
        var policy = Policy()
        policy.secrets = secrets
        return policy
    }

    /// Programs that put a secret into `f`, which held `key`, in every way there is.
    private static let writers = [
        "echo \"$T\" >> f", "echo \"$T\" > f", "sed -i \"s/key/$T/\" f", "cp $SCRATCH/x f", "tee -a f < $SCRATCH/x > $SCRATCH/out",
        "cp $SCRATCH/x t; mv t f", "cp $SCRATCH/x f~; mv f~ f", "dd if=$SCRATCH/x of=f bs=7 status=none",
        "python3 -c 'import os,sys; f = os.open(\"f\", os.O_RDWR); os.pwrite(f, sys.argv[1].encode(), 4)' \"$T\"",
        "python3 -c 'import os, sys; t = os.open(\"t\", os.O_RDWR | os.O_CREAT); os.write(t, sys.argv[1].encode()); os.replace(\"t\", \"f\")' \"$T\"",
        """
        truncate -s 4096 f; python3 -c '
        import mmap, os, sys
        f = os.open("f", os.O_RDWR); m = mmap.mmap(f, 4096)
        m[100:100+len(sys.argv[1])] = sys.argv[1].encode(); m.flush()' "$T"
        """,
    ]

    private static func script(_ writer: String) -> String { "T='\(token)'; echo \"key $T\" > $SCRATCH/x; \(writer)" }

    @Test(arguments: writers) func aVersionSaysThatASecretIsInIt(_ writer: String) async throws {
        try await MountedStore.with(memories: ["/f": "key\n"]) { mount in
            try mount.run(Self.script(writer))
            let found = try mount.daemon.afterwards(mount.store.id) { store in
                try store.versions(VersionFilter(), before: nil, limit: 1).map { ($0.path, $0.secrets) }
            }
            #expect(found.first?.0 == "/f" && found.first?.1 == ["github_token"], "\(found)")
        }
    }

    @Test(arguments: writers) func aStoreThatRefusesSecretsTakesNone(_ writer: String) async throws {
        try await MountedStore.with(memories: ["/f": "key\n"], policy: Self.policy(.refuse)) { mount in
            #expect(try mount.read("/f") == "key\n")
            let outcome = try mount.start(Self.script(writer)).wait()
            #expect(outcome.status != 0, "\(outcome.output)")
            // Nor is there anything of it to be read, in this mount's kernel or in the store.
            let grep = try mount.start("grep -r --exclude='*~' '\(Self.token)' . && exit 0; [ $? = 1 ] && exit 9").wait()
            #expect(grep.status == 9, "\(grep.output)\(grep.errors)")
            let versions = try mount.daemon.afterwards(mount.store.id) { store in
                try store.versions(VersionFilter(), before: nil, limit: 10).map { try store.content(of: $0) ?? [] }
            }
            for content in versions { #expect(!String(decoding: content, as: UTF8.self).contains(Self.token)) }
        }
    }

    @Test func theRefusalIsEPERM() async throws {
        try await MountedStore.with(memories: ["/f": "notes\n"], policy: Self.policy(.refuse)) { mount in
            #expect(throws: Errno.notPermitted) { try mount.append("/f", Self.token) }
            #expect(throws: Errno.notPermitted) { try mount.write("/new", Self.token) }
            // A working file may hold it, and not become a memory.
            try mount.write("/f~", Self.token)
            #expect(throws: Errno.notPermitted) { try mount.rename("/f~", "/f") }
            #expect(throws: Errno.notPermitted) { try mount.rename("/f~", "/other") }
            #expect(try mount.read("/f") == "notes\n" && mount.read("/new").isEmpty && mount.read("/f~") == Self.token)
            // What is written next is as if nothing had been tried.
            try mount.append("/f", "more\n")
            #expect(try mount.read("/f") == "notes\nmore\n")
            let status = try mount.run("stat -c %s f")
            #expect(status == "11\n")
        }
    }

    /// Other programs see the bytes that are stored, and not what a mapping was to become.
    @Test func aMappingThatIsRefusedIsTakenBack() async throws {
        let text = String(repeating: "plain text\n", count: 700)
        try await MountedStore.with(mounts: 2, memories: ["/f": text], policy: Self.policy(.refuse)) { mounts in
            let outcome = try mounts[0].start(
                """
                python3 -c '
                import mmap, os
                f = os.open("f", os.O_RDWR); m = mmap.mmap(f, 0)
                m[5000:5040] = b"\(Self.token)"
                try: m.flush()
                except OSError as error: print("refused")
                '
                """
            ).wait()
            #expect(outcome.output == "refused\n", "\(outcome.errors)")
            for mount in mounts { #expect(try mount.run("cat f") == text) }
            expect(try mounts[0].history(), is: [])
        }
    }

    @Test func whatWasThereStaysEditable() async throws {
        let old = "one\nkey \(Self.token)\ntwo\n"
        try await MountedStore.with(memories: ["/f": old], policy: Self.policy(.warn)) { mount in
            _ = try mount.daemon.pool.setPolicy(mount.store.id, Self.policy(.refuse))
            try mount.run("echo three >> f; printf ONE | dd of=f conv=notrunc status=none; ex -s -c '%s/two/TWO/' -c x f")
            try mount.run("python3 -c 'text = open(\"f\").read(); open(\"f\", \"w\").write(text + \"four\\n\")'")
            #expect(try mount.read("/f") == "ONE\nkey \(Self.token)\nTWO\nthree\nfour\n")
            // A new file knows nothing of the one whose place it is to take.
            #expect(try mount.start("sed -i s/three/3/ f").wait().status != 0)
            try mount.run("sed -i /key/d f")
            #expect(try mount.read("/f") == "ONE\nTWO\nthree\nfour\n")
            // Once that is its last version.
            #expect(try mount.versions().last?.secrets == [])
            #expect(throws: Errno.notPermitted) { try mount.append("/f", "key \(Self.token)\n") }
        }
    }

    /// The policy acts on live mounts at once, in both directions.
    @Test func aSwitchActsAtOnce() async throws {
        try await MountedStore.with(memories: ["/f": "notes\n"], policy: Self.policy(.allow)) { mount in
            try mount.append("/f", "\(Self.token)\n")
            _ = try mount.versions()
            _ = try mount.daemon.pool.setPolicy(mount.store.id, Self.policy(.refuse))
            #expect(throws: Errno.notPermitted) { try mount.append("/f", "\(SampleSecret.awsKey)\n") }
            _ = try mount.daemon.pool.setPolicy(mount.store.id, Self.policy(.warn))
            try mount.append("/f", "\(SampleSecret.awsKey)\n")
            #expect(try mount.versions().map(\.secrets) == [nil, ["aws_access_key", "github_token"]])
        }
    }

    /// What people write about secrets is none.
    @Test(arguments: [Policy.Secrets.warn, .refuse]) func whatOnlySpeaksOfSecretsIsTaken(_ secrets: Policy.Secrets) async throws {
        try await MountedStore.with(memories: ["/f": "notes\n"], policy: Self.policy(secrets)) { mount in
            try mount.run(
                """
                echo 'The token is in the vault, and the password as well.' > a
                echo 'password: <your password>' > b; echo 'api_key = os.environ["API_KEY"]' > c
                echo 'export TOKEN=$(pass show github)' > d; echo 'AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE' > e
                echo 'commit 9c1f7ab3e05d4826f1c8037be94a62d54b8e2fd6' > g
                echo 'sha256:9c1f7ab3e05d4826f1c8037be94a62d54b8e2fd61a97c30582e6fb1d70394ac8' > h
                echo 'token: 550e8400-e29b-41d4-a716-446655440000' > i
                sed -i s/notes/tokens/ f; cp a j; mv j f; seq 1 20000 > k; head -c 300000 /dev/urandom > l
                """)
            #expect(try mount.versions().count >= 12)
            #expect(try mount.versions().allSatisfy { $0.secrets?.isEmpty == true })
        }
    }
}
