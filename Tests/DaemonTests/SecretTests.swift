import Foundation
import TestSupport
import Testing

/// What the command line says of secrets, and that nobody else says them.
extension ServeTests {
    @Suite(.serialized) struct SecretTests {
        @Test func theyAreMarkedRefusedAndToldOfByKind() throws {
            try DaemonProcess.with { daemon in
                try daemon.output("store", "create", "notes")
                let watcher = try Binary.start(["store", "watch", "notes", "--after", "start"], environment: daemon.environment)
                try daemon.output("memory", "write", "notes", "clean", input: "the token is elsewhere\n")
                try daemon.output("memory", "write", "notes", "key", input: "key \(SampleSecret.githubToken)\n")
                let log = try daemon.output("log", "notes").split(separator: "\n").map(String.init)
                #expect(log.count == 3 && log[1].contains("created secret") && !log[2].contains("secret"), "\(log)")
                let versions = try #require(try daemon.remfs("log", "notes", "--json").json()["data"] as? [[String: Any]])
                #expect(versions.map { $0["secrets"] as? [String] } == [["github_token"], nil])
                #expect(versions.allSatisfy { $0["trust"] is NSNull })

                try daemon.output("store", "set", "notes", "--secrets", "refuse")
                let refused = try daemon.remfs("memory", "write", "notes", "new", input: "key \(SampleSecret.awsKey)\n")
                #expect(refused.status == 65 && refused.errors.contains("/new would hold a secret (aws_access_key)"), "\(refused.errors)")
                #expect(try daemon.remfs("memory", "cat", "notes", "new").status == 66)
                try daemon.output("memory", "write", "notes", "key", input: "again\nkey \(SampleSecret.githubToken)\n")

                var tries = 0
                while !(watcher.output.contains("  secret_found  ") && watcher.output.contains("  refused  holds_secret  ")) {
                    tries += 1
                    try #require(tries < 1_000, "\(watcher.output)\(watcher.errors)")
                    usleep(10_000)
                }
                watcher.signal(SIGINT)
                let told = try watcher.wait().output
                let daemonSaid = try daemon.stop()
                for part in SampleSecret.parts {
                    #expect(!told.contains(part) && !daemonSaid.output.contains(part) && !daemonSaid.errors.contains(part))
                }
            }
        }
    }
}
