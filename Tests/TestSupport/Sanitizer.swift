import Glibc

/// Whether the tests were built with `--sanitize=thread` or `--sanitize=address`, and with them the binary that they start.
package enum Sanitizer {
    /// The runtime of either is linked into the test program, and exports the function that sets it up.
    package static let isActive = ["__tsan_init", "__asan_init"].contains { (name: String) in dlsym(nil, name) != nil }

    /// How many times longer something may take than it may without a sanitizer; 1 where there is none. 15: what ThreadSanitizer itself says
    /// it costs at most. Only for a deadline that measures our own speed; a test that only waits for an event waits long anyway.
    package static let slowdown = isActive ? 15 : 1
}
