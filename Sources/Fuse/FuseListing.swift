internal import CFuse
internal import Glibc

/// The listing of a directory that the kernel asked for: entries go into the reply buffer until it is full.
///
/// Valid during the call of `readDirectory` that received it only.
@safe package struct FuseListing: ~Copyable {
    /// Whether each entry is a lookup as well (READDIRPLUS): its attributes reach the kernel's cache, and it owes a forget.
    package let wantsAttributes: Bool
    private let request: fuse_req_t
    /// Where entries go: as many bytes as the kernel asked for, never more.
    private let buffer: UnsafeMutableRawBufferPointer
    /// Room for a name and its NUL, which libfuse wants and a stored name has not.
    private let name: UnsafeMutableRawBufferPointer
    private(set) var used = 0

    /// The longest name that the kernel accepts in a listing (FUSE_NAME_MAX is 1024, with the NUL).
    static let longestName = 1023

    init(
        _ request: fuse_req_t, wantsAttributes: Bool, buffer: UnsafeMutableRawBufferPointer, name: UnsafeMutableRawBufferPointer
    ) {
        unsafe self.request = unsafe request
        self.wantsAttributes = wantsAttributes
        unsafe self.buffer = unsafe buffer
        unsafe self.name = unsafe name
    }

    /// Adds one entry, unless it no longer fits: then false, and the listing is complete for now.
    ///
    /// - Parameters:
    ///   - name: without a NUL, 1 to 1023 bytes.
    ///   - entry: of a plain listing only the node and the type bits of the mode are used.
    ///   - cookie: what `readDirectory` is given to go on after this entry. Not 0.
    package mutating func add(_ name: UnsafeRawBufferPointer, _ entry: FuseEntry, cookie: UInt64) -> Bool {
        // Longer names cannot be made through the kernel, so a file system that has one broke its own rule.
        precondition(name.count > 0 && name.count <= Self.longestName, "a directory entry with a name of \(name.count) bytes")
        unsafe self.name.baseAddress!.copyMemory(from: name.baseAddress!, byteCount: name.count)
        unsafe self.name[name.count] = 0
        let text = unsafe self.name.baseAddress!.assumingMemoryBound(to: CChar.self)
        let place = unsafe buffer.baseAddress!.advanced(by: used).assumingMemoryBound(to: CChar.self)
        let room = unsafe buffer.count - used
        let size: Int
        if wantsAttributes {
            var parameters = fuse_entry_param(entry)
            size = unsafe fuse_add_direntry_plus(request, place, room, text, &parameters, off_t(truncatingIfNeeded: cookie))
        } else {
            var attributes = stat()
            attributes.st_ino = numericCast(entry.attributes.node)
            attributes.st_mode = entry.attributes.mode
            size = unsafe fuse_add_direntry(request, place, room, text, &attributes, off_t(truncatingIfNeeded: cookie))
        }
        guard size <= room else { return false }
        used += size
        return true
    }

    /// Sends what was added. An empty listing is the end of the directory.
    func send() {
        unsafe fuse_reply_buf(request, buffer.baseAddress!.assumingMemoryBound(to: CChar.self), used)
    }
}
