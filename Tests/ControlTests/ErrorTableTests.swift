import Foundation
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdTesting
import Logging
import NIOCore
import Storage
import Testing

@testable import Control

/// The table of errors, row by row, as each audience sees it.
@Suite struct ErrorTableTests {
    struct Row: Sendable, CustomTestStringConvertible {
        let code: RemfsError.Code
        let errno: Int32
        let status: Int
        let type: String
        let exit: Int32
        var testDescription: String { code.rawValue }
    }

    static let table = [
        Row(code: .invalidArgument, errno: EINVAL, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .nameNotUTF8, errno: EILSEQ, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .nameTooLong, errno: ENAMETOOLONG, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .notFound, errno: ENOENT, status: 404, type: "not_found_error", exit: 66),
        Row(code: .pathConflict, errno: EEXIST, status: 409, type: "memory_path_conflict_error", exit: 73),
        Row(code: .notADirectory, errno: ENOTDIR, status: 409, type: "memory_path_conflict_error", exit: 65),
        Row(code: .isADirectory, errno: EISDIR, status: 409, type: "memory_path_conflict_error", exit: 65),
        Row(code: .notEmpty, errno: ENOTEMPTY, status: 409, type: "memory_path_conflict_error", exit: 65),
        Row(code: .preconditionFailed, errno: ESTALE, status: 409, type: "memory_precondition_failed_error", exit: 75),
        Row(code: .stale, errno: ESTALE, status: 409, type: "memory_precondition_failed_error", exit: 75),
        Row(code: .gone, errno: ESTALE, status: 404, type: "not_found_error", exit: 66),
        Row(code: .busy, errno: EBUSY, status: 409, type: "conflict_error", exit: 75),
        Row(code: .readOnly, errno: EROFS, status: 400, type: "invalid_request_error", exit: 77),
        Row(code: .notPermitted, errno: EPERM, status: 403, type: "permission_error", exit: 77),
        Row(code: .unauthenticated, errno: EACCES, status: 401, type: "authentication_error", exit: 77),
        Row(code: .tooLarge, errno: EFBIG, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .holdsSecret, errno: EPERM, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .bodyTooLarge, errno: EFBIG, status: 413, type: "request_too_large", exit: 65),
        Row(code: .storeFull, errno: ENOSPC, status: 400, type: "invalid_request_error", exit: 74),
        Row(code: .quota, errno: EDQUOT, status: 400, type: "invalid_request_error", exit: 74),
        Row(code: .noSpace, errno: ENOSPC, status: 500, type: "api_error", exit: 74),
        Row(code: .tooManyLinks, errno: EMLINK, status: 400, type: "invalid_request_error", exit: 65),
        Row(code: .unsupported, errno: EOPNOTSUPP, status: 400, type: "invalid_request_error", exit: 69),
        Row(code: .unavailable, errno: EAGAIN, status: 503, type: "overloaded_error", exit: 69),
        Row(code: .corrupted, errno: EIO, status: 500, type: "api_error", exit: 74),
        Row(code: .internal, errno: EIO, status: 500, type: "api_error", exit: 70),
    ]

    @Test func hasARowForEachCode() {
        #expect(Set(Self.table.map(\.code)) == Set(RemfsError.Code.allCases))
        #expect(Self.table.count == RemfsError.Code.allCases.count)
    }

    @Test(arguments: table) func theKernelAndAShellSee(_ row: Row) {
        #expect(row.code.seenAs.errno == row.errno)
        #expect(row.code.seenAs.exit == row.exit)
    }

    @Test(arguments: table) func aClientSees(_ row: Row) async throws {
        try await Self.ask("/fail/\(row.code.rawValue)") { response in
            #expect(response.status.code == row.status)
            #expect(response.headers[HTTPField.Name("remfs-error")!] == row.code.rawValue)
            #expect((response.headers[HTTPField.Name("x-should-retry")!] == "false") == (row.status == 409))
            #expect((response.headers[.retryAfter] != nil) == (row.status == 503))
            let envelope = try JSONDecoder().decode(Wire.Failure.self, from: Data(response.body.readableBytesView))
            #expect(envelope.type == "error")
            #expect(envelope.error.type == row.type)
            #expect(envelope.error.message == "the \(row.code.rawValue) case")
            #expect(envelope.requestID == response.headers[HTTPField.Name("request-id")!])
            #expect(envelope.requestID.hasPrefix("req_01"))
            #expect(!String(buffer: response.body).contains("secret cause"))
        }
    }

    @Test func aPathConflictNamesWhatIsInTheWay() async throws {
        try await Self.ask("/conflict") { response in
            let envelope = try JSONDecoder().decode(Wire.Failure.self, from: Data(response.body.readableBytesView))
            #expect(response.status.code == 409)
            #expect(envelope.error.conflictingPath == "/a")
            #expect(envelope.error.conflictingMemoryID?.hasPrefix("mem_01") == true)
        }
    }

    @Test func whatIsNoErrorOfOursIsInternalAndSaysNothing() async throws {
        try await Self.ask("/surprise") { response in
            #expect(response.status.code == 500)
            let envelope = try JSONDecoder().decode(Wire.Failure.self, from: Data(response.body.readableBytesView))
            #expect(envelope.error.type == "api_error" && envelope.error.message == "internal error")
        }
    }

    @Test func anUnknownRouteIs404AndAnUnknownMethod405() async throws {
        try await Self.ask("/nowhere") { response in
            #expect(response.status.code == 404)
            #expect(String(buffer: response.body).contains(#""type":"not_found_error""#))
            #expect(response.headers[HTTPField.Name("request-id")!] != nil)
        }
        for method in [HTTPRequest.Method.post, .put, .patch, .delete, .options, .trace, .connect, .init("PROPFIND")!] {
            try await Self.ask("/conflict", method) { response in
                #expect(response.status.code == 405)
                #expect(response.headers[.allow] == "GET, HEAD")
                #expect(response.headers[HTTPField.Name("remfs-error")!] == "unsupported")
                #expect(String(buffer: response.body).contains(#""type":"invalid_request_error""#))
                #expect(response.headers[HTTPField.Name("request-id")!] != nil)
            }
        }
    }

    @Test func aMethodIsAskedOfOnePath() async throws {
        try await Self.ask("/fail/x", .post) { #expect($0.status.code == 405) }
        try await Self.ask("/body", .head) { #expect($0.status.code == 405 && $0.headers[.allow] == "POST") }
        for path in ["/fail", "/fail/x/y", "/body/x", "/"] { try await Self.ask(path, .post) { #expect($0.status.code == 404, "\(path)") } }
    }

    @Test func aBodyOverTheCapIs413() async throws {
        try await Self.ask("/body", .post, body: ByteBuffer(repeating: 0x20, count: ControlContext.maximumBody + 1)) { response in
            #expect(response.status.code == 413)
            #expect(String(buffer: response.body).contains(#""type":"request_too_large""#))
        }
        // At the cap it is read, and found to be no JSON.
        try await Self.ask("/body", .post, body: ByteBuffer(repeating: 0x20, count: ControlContext.maximumBody)) { response in
            #expect(response.status.code == 400)
        }
    }

    private struct Surprise: Error {}

    /// Asks a router that has our middleware and routes that fail.
    private static func ask(
        _ path: String, _ method: HTTPRequest.Method = .get, body: ByteBuffer? = nil,
        _ check: @escaping @Sendable (TestResponse) throws -> Void
    ) async throws {
        var routes = Routes([ErrorMiddleware()])
        routes.on(.get, "/fail/:code", needs: .entry) { _, context -> Response in
            let code = try #require(RemfsError.Code(rawValue: context.parameters.get("code") ?? ""))
            throw RemfsError(code, "the \(code.rawValue) case", cause: "secret cause")
        }
        routes.on(.get, "/conflict", needs: .entry) { _, _ -> Response in
            let memory = MemoryID(store: StoreID.random(), number: 7)
            throw RemfsError(.pathConflict, "/a is occupied", conflict: .init(memory: memory, path: "/a"))
        }
        routes.on(.get, "/surprise", needs: .entry) { _, _ -> Response in throw Surprise() }
        routes.on(.post, "/body", needs: .entry) { request, _ -> Response in
            _ = try await request.collectFields().get()
            return Response(status: .ok)
        }
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let application = Application(responder: routes.responder(), logger: logger)
        try await application.test(.router) { client in
            try await client.execute(uri: path, method: method, body: body, testCallback: check)
        }
    }
}
