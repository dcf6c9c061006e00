import Glibc

/// Whole runs of bytes at once. `replaceSubrange` goes byte by byte where nothing is optimized: a read of a large file then takes so long
/// under a sanitizer that the watchdog speaks up.
extension [UInt8] {
    /// Puts `source` over what is at `place`; it must fit.
    mutating func overwrite(at place: Int, with source: ArraySlice<UInt8>) {
        precondition(place >= 0 && place + source.count <= count)
        unsafe withUnsafeMutableBytes { target in
            unsafe source.withUnsafeBytes { unsafe UnsafeMutableRawBufferPointer(rebasing: target[place...]).copyMemory(from: $0) }
        }
    }

    mutating func zero(_ range: Range<Int>) {
        unsafe withUnsafeMutableBytes { target in
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: target[range])
            if !range.isEmpty { unsafe memset(target.baseAddress!, 0, range.count) }
        }
    }
}
