/// What is below a directory, in the order of listings, each directory before what is in it.
///
/// Without recursion: a tree is as deep as somebody likes to make it, a thread's stack is not. The tree must stay as it is meanwhile.
struct TreeWalk: Sequence, IteratorProtocol {
    struct Step {
        let name: [UInt8]
        let inode: Inode
        let parent: Inode
    }

    private var levels: [(directory: Inode, next: Int)]
    /// The directory that came last, to be gone into.
    private var entered: Inode?
    /// Where the last step is, relative to the start: empty, or ending with `/`.
    private(set) var path: [UInt8] = []

    init(below directory: Inode) { levels = [(directory, 0)] }

    mutating func next() -> Step? {
        if let entered {
            levels.append((entered, 0))
            path += entered.name
            path.append(UInt8(ascii: "/"))
        }
        entered = nil
        while let (parent, place) = levels.last {
            let entries = parent.directory!.entries
            guard place < entries.count else {
                levels.removeLast()
                if !levels.isEmpty { path.removeLast(parent.name.count + 1) }
                continue
            }
            levels[levels.count - 1].next += 1
            guard let inode = entries[place].inode else { continue }
            if inode.isDirectory { entered = inode }
            return Step(name: entries[place].name, inode: inode, parent: parent)
        }
        return nil
    }

    /// Leaves out what is in the directory that came last.
    mutating func skip() { entered = nil }
}
