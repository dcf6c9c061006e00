import Glibc

// System calls that Swift's Glibc module hides, since they are GNU's. Looked up by name: each is in every glibc.

private func lookUp<Call>(_ name: String, as type: Call.Type) -> Call {
    unsafeBitCast(dlsym(nil, name)!, to: type)
}

let gettid = lookUp("gettid", as: (@convention(c) () -> pid_t).self)

let fallocate = lookUp("fallocate", as: (@convention(c) (Int32, Int32, Int, Int) -> Int32).self)

let copyFileRange = lookUp(
    "copy_file_range",
    as: (@convention(c) (Int32, UnsafeMutablePointer<Int>, Int32, UnsafeMutablePointer<Int>, Int, UInt32) -> Int).self)

let renameat2 = lookUp(
    "renameat2", as: (@convention(c) (Int32, UnsafePointer<CChar>, Int32, UnsafePointer<CChar>, UInt32) -> Int32).self)

let setxattr = lookUp(
    "setxattr", as: (@convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeRawPointer, Int, Int32) -> Int32).self)

let getxattr = lookUp(
    "getxattr", as: (@convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeMutableRawPointer?, Int) -> Int).self)

let listxattr = lookUp("listxattr", as: (@convention(c) (UnsafePointer<CChar>, UnsafeMutableRawPointer?, Int) -> Int).self)

let removexattr = lookUp("removexattr", as: (@convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>) -> Int32).self)

let seekData: Int32 = 3
let seekHole: Int32 = 4

/// `struct flock`, whose name in Swift is taken by the function.
struct RangeLock {
    var type: Int16
    var whence: Int16 = 0
    var start: Int64 = 0
    var length: Int64 = 0
    var pid: Int32 = 0
}
