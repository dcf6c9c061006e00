import FuzzBodies
import Glibc

/// What libFuzzer, which brings the main function, calls for each input. `REMFS_FUZZ_BODY` names the body.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    body.run(Array(UnsafeBufferPointer(start: start, count: count)))
    return 0
}

private let body: FuzzBody = {
    guard let name = getenv("REMFS_FUZZ_BODY").map({ String(cString: $0) }), let body = FuzzBody(rawValue: name) else {
        let names = FuzzBody.allCases.map(\.rawValue).joined(separator: ", ")
        print("REMFS_FUZZ_BODY must be one of \(names)")
        exit(64)
    }
    return body
}()
