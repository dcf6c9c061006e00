import ArgumentParser
import Glibc
import Storage

/// The command line. One binary: the daemon (`remfs serve`) and everything that talks to it.
@main
struct Remfs: AsyncParsableCommand {
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "remfs",
        abstract: "Keep agents' memories in versioned stores, shown as ordinary directories",
        version: version,
        groupedSubcommands: [
            CommandGroup(name: "Daemon", subcommands: [Serve.self, StatusCommand.self, KeyCommand.self, DoctorCommand.self, Demo.self]),
            CommandGroup(
                name: "Store",
                subcommands: [StoreCommand.self, MemoryCommand.self, SearchCommand.self, ExportCommand.self, ImportCommand.self]),
            CommandGroup(
                name: "History",
                subcommands: [
                    LogCommand.self, DiffCommand.self, RestoreCommand.self, RevertCommand.self, MergeCommand.self, RedactCommand.self,
                    PinCommand.self, UnpinCommand.self,
                ]),
            CommandGroup(name: "Mount", subcommands: [MountCommand.self, UnmountCommand.self]),
            CommandGroup(name: "Session", subcommands: [SessionCommand.self]),
        ])

    /// The one place where an error becomes an exit code: ours as `RemfsError.Code` says, bad usage as ArgumentParser does (64).
    static func main() async {
        Output.takePlaces()
        BrokenPipe.survive()
        let isHelper = CommandLine.arguments[0].split(separator: "/").last.map(String.init) == MountHelper.name
        do {
            var arguments: [String]?
            if isHelper {
                arguments = try MountHelper.arguments(CommandLine.arguments.dropFirst())
                if arguments == nil { return }
            }
            var command = try await asyncParseAsRoot(arguments)
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch  where Output.isCutOff {
            // What a shell shows for those that SIGPIPE ends.
            Glibc.exit(128 + SIGPIPE)
        } catch let error as RemfsError {
            Output.complain(error)
            Glibc.exit(isHelper ? MountHelper.failureExit : error.code.seenAs.exit)
        } catch {
            exit(withError: error)
        }
    }
}
