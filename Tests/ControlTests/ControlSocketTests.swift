import Foundation
import Glibc
import Storage
import Testing

@testable import Control

@Suite struct ControlSocketTests {
    /// A directory for sockets: short, since their paths may have 103 bytes only.
    private static func inScratch(_ body: (String) throws -> Void) throws {
        let directory = "/tmp/rc-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
        defer { try! FileManager.default.removeItem(atPath: directory) }
        try body(directory)
    }

    private static func bound(_ path: String, listening: Bool) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let code = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        #expect(code == 0)
        if listening { #expect(listen(descriptor, 1) == 0) }
        return descriptor
    }

    private static func mode(_ path: String) -> mode_t {
        var status = stat()
        #expect(stat(path, &status) == 0)
        return status.st_mode & 0o7777
    }

    @Test func makesItsDirectory() throws {
        try Self.inScratch { directory in
            let socket = ControlSocket(path: "\(directory)/a/b/control.sock")
            try socket.prepare()
            #expect(Self.mode("\(directory)/a/b") == 0o711)
            let descriptor = try socket.listen()
            #expect(Self.mode(socket.path) == 0o660)
            #expect(socket.isThere)
            #expect(ControlSocket.path(of: descriptor) == socket.path)
            #expect(refusal { () throws(RemfsError) in try socket.prepare() }?.code == .busy)
            close(descriptor)
        }
    }

    @Test func removesASocketThatNobodyAnswers() throws {
        try Self.inScratch { directory in
            close(Self.bound("\(directory)/s", listening: true))
            try ControlSocket(path: "\(directory)/s").prepare()
            #expect(access("\(directory)/s", F_OK) != 0)
        }
    }

    @Test func leavesASocketThatIsAnswered() throws {
        try Self.inScratch { directory in
            let descriptor = Self.bound("\(directory)/s", listening: true)
            defer { close(descriptor) }
            let error = refusal { () throws(RemfsError) in try ControlSocket(path: "\(directory)/s").prepare() }
            #expect(error?.code == .busy)
            #expect(error?.message.contains("\(directory)/s") == true)
            #expect(access("\(directory)/s", F_OK) == 0)
        }
    }

    @Test func leavesWhatIsNoSocket() throws {
        try Self.inScratch { directory in
            try Data("precious".utf8).write(to: URL(fileURLWithPath: "\(directory)/s"))
            #expect(refusal { () throws(RemfsError) in try ControlSocket(path: "\(directory)/s").prepare() }?.code == .busy)
            #expect(try String(contentsOfFile: "\(directory)/s", encoding: .utf8) == "precious")
        }
    }

    @Test func refusesAPathThatNoSocketCanHave() {
        #expect(refusal { () throws(RemfsError) in try ControlSocket(path: "control.sock").prepare() }?.code == .invalidArgument)
        for length in [104, 107, 108, 5_000] {
            let error = refusal { () throws(RemfsError) in
                try ControlSocket(path: "/tmp/" + String(repeating: "x", count: length - 5)).prepare()
            }
            #expect(error?.code == .invalidArgument)
            #expect(error?.message.hasSuffix("is over 103 bytes long") == true)
        }
    }

    @Test func saysWhyADirectoryCannotBeMade() throws {
        try Self.inScratch { directory in
            let name = String(repeating: "x", count: 256)
            try FileManager.default.createSymbolicLink(atPath: "\(directory)/loop", withDestinationPath: "\(directory)/loop")
            for (path, code, reason) in [
                (name, .nameTooLong, "File name too long"), ("loop/a", .invalidArgument, "Too many levels of symbolic links"),
            ] as [(String, RemfsError.Code, String)] {
                let error = refusal { () throws(RemfsError) in try Directory.make("\(directory)/\(path)", mode: 0o700) }
                #expect(error?.code == code)
                #expect(error?.message.hasSuffix(" cannot be made: \(reason)") == true)
            }
        }
    }
}
