import Glibc
import SQLite

/// What a rename means for the memory of the file that moves, decided before anything changes.
private struct MovePlan {
    let author: Author
    /// The name that moves is the one by which the memory is known.
    let isOldestName: Bool
    var flags: Inode.Flags
    /// The memory that the file is afterwards.
    var head: MemoryHead?
    /// Set where a version has to tell of the move.
    var changedBy: Author?
    /// The file takes over the memory of the one it replaces.
    var isHeir = false
    /// A memory whose path was given up a moment ago and that goes on with this file.
    var continued: Removal?
    /// Its own memory, which nobody was told of, is taken back: its versions go.
    var withdrawn: MemoryHead?
    /// Its own memory, which ends here.
    var givenUp: MemoryHead?
    /// Ends at once, not after two seconds.
    var endsAtOnce = false
    /// The version that told of its birth now tells the new path.
    var renamesBirth = false
}

/// Renames: one name moves, and memories follow the rules of `design.md` section 4.
extension StoreState {
    func move(
        _ inode: Inode, _ name: [UInt8], _ parent: Inode, to newName: [UInt8], _ newParent: Inode, over target: Inode?, staleBase: Int64?,
        by caller: Caller
    ) throws(RemfsError) {
        let plan = try plan(inode, name, parent, to: newName, newParent, over: target, by: caller)
        let changes =
            inode.isDirectory && plan.flags.contains(.unversioned) != inode.flags.contains(.unversioned)
            ? try versioningChanges(
                below: inode, isUnversioned: plan.flags.contains(.unversioned),
                at: directoryPath(newParent.number) + newName + [UInt8(ascii: "/")]) : []
        try checkRoom(for: changes)
        try reserveNumbers(Int64(inode.isDirectory ? countMemories(below: inode) : 0) + 64)
        let time = now()
        // A name that is taken keeps its place in the listing, and so does a file that gets another name in its directory: whoever renames
        // what it lists comes to an end, as nothing moves behind the place where it reads.
        let places = newParent.directory!
        let cookie = target != nil ? places.cookie(of: newName) : parent === newParent ? places.cookie(of: name) : takeNumber()
        let oldPath = path(of: inode)
        let isWorkingFile = plan.isOldestName && inode.isRegular && plan.flags.contains(.unversioned)
        let ownsContent = inode.ownsContent || isWorkingFile || plan.withdrawn != nil
        let versions = inode.isDirectory ? moveVersions(of: inode, to: newName, newParent, except: changes, by: plan.author) : []
        // A rename of a further name writes no row that has room for the request.
        let row = plan.isOldestName ? inode.number : nil
        try commit(answering: caller, inode.number, inRowOf: row) { (request) throws(SQLiteError) in
            if let target {
                try dropName(newName, of: target, in: newParent, by: plan.author, keepsMemory: !plan.isHeir, at: time)
            }
            if let continued = plan.continued { try forgetRemoval(continued) }
            if let withdrawn = plan.withdrawn { try withdraw(withdrawn, of: inode) }
            if let given = plan.givenUp { try insertRemoval(given, path: oldPath, author: plan.author) }
            if plan.renamesBirth, let head = inode.head { try renameVersion(head.version, to: newName, newParent) }
            if isWorkingFile, plan.withdrawn == nil { try keepContent(of: inode) }
            if plan.isOldestName {
                try place(
                    inode, newName, newParent, cookie: cookie, plan.head, flags: plan.flags, ownsContent: ownsContent,
                    author: plan.changedBy,
                    at: time, answering: request)
            } else {
                let row = try statements.cached("UPDATE dentry SET cookie = ?1, parent = ?2, name = ?3 WHERE cookie = ?4")
                row.bind(cookie, at: 1)
                row.bind(newParent.number, at: 2)
                row.bind(text: newName, at: 3)
                row.bind(inode.otherNames.first { $0.parent == parent.number && $0.name == name }!.cookie, at: 4)
                try row.run()
                try updateAttributes(of: inode, changed: time)
            }
            for version in versions { try insertMoved(version) }
            for change in changes { try write(change, by: plan.author) }
        }

        if let target {
            didDropName(
                newName, of: target, in: newParent, by: plan.author, keepsMemory: !plan.isHeir, origin: caller.origin.number, at: time)
        }
        if let continued = plan.continued { removeFromMemory(continued) }
        parent.directory!.remove(name)
        touch(parent, at: time)
        invalidate(.name(name, in: parent.number))
        if let withdrawn = plan.withdrawn { memoryInodes[withdrawn.memory] = nil }
        if let given = plan.givenUp {
            remember(
                Removal(
                    memory: given.memory, head: given, path: oldPath, parent: parent.number, name: name, author: plan.author,
                    origin: caller.origin.number, due: plan.endsAtOnce ? 0 : Self.monotonic() + Removal.patience, inode: 0))
        }
        if plan.isOldestName {
            inode.parent = newParent.number
            inode.name = newName
            inode.cookie = cookie
            if inode.isMemory { memoryFiles -= 1 }
            inode.flags = plan.flags
            if inode.isMemory { memoryFiles += 1 }
            inode.head = plan.head
            inode.changedBy = plan.changedBy
            inode.movedIn = caller.origin.number
            if plan.isHeir { inode.staleBase = staleBase }
            inode.ownsContent = ownsContent
            if let head = plan.head { memoryInodes[head.memory] = inode.number }
            if plan.isHeir || plan.continued != nil {
                collapseSaves(of: inode)
                // From now on it is an established memory, not a file that may yet turn out to be a temporary one.
                inode.unsettledIn = 0
                if inode.drafts != nil { noteSeen(inode, in: caller.origin.number) }
            }
        } else {
            let place = inode.otherNames.firstIndex { $0.parent == parent.number && $0.name == name }!
            inode.otherNames[place] = Inode.Name(parent: newParent.number, name: newName, cookie: cookie)
            // As they come out of the database.
            inode.otherNames.sort { $0.cookie < $1.cookie }
        }
        newParent.directory!.add(newName, cookie: cookie, inode)
        if inode.isDirectory, parent !== newParent {
            parent.links -= 1
            newParent.links += 1
        }
        inode.changed = time
        touch(newParent, at: time)
        invalidate(.name(newName, in: newParent.number))
        invalidate(.attributes(inode.number))
        for version in versions { didInsert(version) }
        for change in changes { apply(change, by: plan.author) }
        if inode.isMemory, inode.changedBy != nil || inode.drafts != nil { enqueueSeal(inode) }
    }

    private func plan(
        _ inode: Inode, _ name: [UInt8], _ parent: Inode, to newName: [UInt8], _ newParent: Inode, over target: Inode?, by caller: Caller
    ) throws(RemfsError) -> MovePlan {
        let isOldest = inode.isDirectory || inode.isOldestName(name, in: parent.number)
        let isUnsettled = isUnsettled(inode, in: caller.origin)
        // Somebody was told of it: what is closed is a version before the name changes hands.
        if isOldest, inode.isMemory, !isUnsettled { try sealBeforeNameGoes(inode, includingOpen: false) }
        var plan = MovePlan(
            author: caller.author(), isOldestName: isOldest, flags: inode.flags, head: inode.head, changedBy: inode.changedBy)
        guard isOldest else { return plan }
        if isUnversioned(newName, in: newParent, isDirectory: inode.isDirectory) {
            plan.flags.insert(.unversioned)
        } else {
            plan.flags.remove(.unversioned)
        }
        guard inode.isRegular else { return plan }

        let wasMemory = inode.isMemory
        let isEstablished = wasMemory && inode.head != nil && !isUnsettled

        if plan.flags.contains(.unversioned) {
            if wasMemory { try sealBeforeNameGoes(inode, includingOpen: false) }
            plan.givenUp = inode.head
            plan.head = nil
            plan.changedBy = nil
            return plan
        }
        if let target, target.isMemory, target.isOldestName(newName, in: newParent.number) {
            if isEstablished {
                try sealBeforeNameGoes(inode, includingOpen: false)
                plan.givenUp = inode.head
                plan.endsAtOnce = true
            } else {
                plan.withdrawn = inode.head
            }
            plan.head = target.head
            plan.isHeir = true
            plan.changedBy = plan.author
            return plan
        }
        if !wasMemory { try checkRoomForMemory() }
        if !isEstablished, let removal = removal(at: newParent.number, newName, by: caller) {
            plan.withdrawn = inode.head
            plan.head = removal.head
            plan.continued = removal
            plan.changedBy = plan.author
            return plan
        }
        if isUnsettled, wasMemory, inode.bornBy == plan.author.writer.pid {
            // A temporary file that its own maker moves to where it belongs: its birth is told with the last name.
            plan.renamesBirth = inode.head != nil
            return plan
        }
        if wasMemory { try sealBeforeNameGoes(inode, includingOpen: false) }
        plan.head = inode.head
        plan.changedBy = plan.author
        return plan
    }

    private func renameVersion(_ number: Int64, to name: [UInt8], _ parent: Inode) throws(SQLiteError) {
        let row = try statements.cached("UPDATE version SET directory = ?2, name = ?3 WHERE number = ?1")
        row.bind(number, at: 1)
        row.bind(text: directoryPath(parent.number), at: 2)
        row.bind(text: name, at: 3)
        try row.run()
    }

    /// A directory that leaves `.git` makes memories of what is in it.
    private func checkRoom(for changes: [VersioningChange]) throws(RemfsError) {
        let more = changes.reduce(0) { sum, change in
            guard change.inode.isRegular else { return sum }
            return sum + (change.flags.contains(.unversioned) ? -1 : 1)
        }
        if more > 0 { try checkRoomForMemory(more) }
    }

    /// Takes back the versions of a memory that nobody was told of. Its present content stays with the inode.
    private func withdraw(_ head: MemoryHead, of inode: Inode) throws(SQLiteError) {
        // What the head held is counted for the inode from now on, unless that has content of its own.
        let kept = inode.ownsContent ? 0 : head.version
        let older = try writer.prepare("SELECT content, size FROM version WHERE memory = ?1 AND number <> ?2")
        older.bind(head.memory, at: 1)
        older.bind(kept, at: 2)
        var contents: [Content] = []
        while try older.step() { contents.append(Content(older, column: 0, size: older.integer(1))) }
        older.reset()
        for content in contents { try release(content) }
        let row = try statements.cached("DELETE FROM version WHERE memory = ?1")
        row.bind(head.memory, at: 1)
        try row.run()
    }

    /// The saves of a temporary file become one: what it was when it took its place is one version.
    private func collapseSaves(of inode: Inode) {
        guard let drafts = inode.drafts else { return }
        for save in drafts.saves.dropLast() { save.isSuperseded = true }
    }

    /// What one of two that change places becomes.
    private struct Swapped {
        var flags: Inode.Flags
        var head: MemoryHead?
        var ownsContent: Bool
        var changedBy: Author?
        /// A memory that ends, since a working file or a directory took its path.
        var givenUp: MemoryHead?
    }

    func exchange(
        _ one: Inode, _ oneName: [UInt8], _ oneParent: Inode, with other: Inode, _ otherName: [UInt8], _ otherParent: Inode,
        by caller: Caller
    ) throws(RemfsError) {
        let author = caller.author()
        let time = now()
        // A name that is not the oldest cannot change places without the memory of its oldest name being touched.
        for (inode, name, parent) in [(one, oneName, oneParent), (other, otherName, otherParent)] {
            guard inode.isDirectory || inode.isOldestName(name, in: parent.number) else {
                throw RemfsError(.unsupported, "one of the two is a further name of a linked file")
            }
            if inode.isMemory { try sealBeforeNameGoes(inode, includingOpen: false) }
        }
        var first = swapped(one, to: otherName, otherParent, with: other, by: author)
        var second = swapped(other, to: oneName, oneParent, with: one, by: author)
        // Memory identity follows the path. A path whose new occupant is no memory gives its memory up, unless it moves on.
        if one.isMemory, other.isMemory || first.flags.contains(.unversioned) {
            if second.flags.contains(.unversioned) || !other.isRegular { first.givenUp = one.head } else { second.head = one.head }
        }
        if other.isMemory, one.isMemory || second.flags.contains(.unversioned) {
            if first.flags.contains(.unversioned) || !one.isRegular { second.givenUp = other.head } else { first.head = other.head }
        }
        let changes =
            try versioningChanges(of: one, first.flags, at: directoryPath(otherParent.number) + otherName)
            + versioningChanges(of: other, second.flags, at: directoryPath(oneParent.number) + oneName)
        try checkRoom(for: changes)
        try reserveNumbers(Int64(countMemories(below: one) + countMemories(below: other)) + 64)
        let cookies = (oneParent.directory!.cookie(of: oneName), otherParent.directory!.cookie(of: otherName))
        let paths = (path(of: one), path(of: other))
        let versions =
            (one.isDirectory ? moveVersions(of: one, to: otherName, otherParent, except: changes, by: author) : [])
            + (other.isDirectory ? moveVersions(of: other, to: oneName, oneParent, except: changes, by: author) : [])
        try commit(answering: caller) { () throws(SQLiteError) in
            if let given = first.givenUp { try insertRemoval(given, path: paths.0, author: author) }
            if let given = second.givenUp { try insertRemoval(given, path: paths.1, author: author) }
            for (inode, swap) in [(one, first), (other, second)] where swap.ownsContent { try keepContent(of: inode) }
            try place(
                one, otherName, otherParent, cookie: cookies.1, first.head, flags: first.flags, ownsContent: first.ownsContent,
                author: first.changedBy, at: time)
            try place(
                other, oneName, oneParent, cookie: cookies.0, second.head, flags: second.flags, ownsContent: second.ownsContent,
                author: second.changedBy, at: time)
            for version in versions { try insertMoved(version) }
            for change in changes { try write(change, by: author) }
        }
        for (inode, swap, path, name, parent) in [
            (one, first, paths.0, oneName, oneParent), (other, second, paths.1, otherName, otherParent),
        ] {
            guard let given = swap.givenUp else { continue }
            remember(
                Removal(
                    memory: given.memory, head: given, path: path, parent: parent.number, name: name, author: author,
                    origin: caller.origin.number, due: Self.monotonic() + Removal.patience, inode: 0))
            inode.head = nil
        }
        oneParent.directory!.remove(oneName)
        otherParent.directory!.remove(otherName)
        (one.parent, one.name, one.cookie) = (otherParent.number, otherName, cookies.1)
        (other.parent, other.name, other.cookie) = (oneParent.number, oneName, cookies.0)
        oneParent.directory!.add(oneName, cookie: cookies.0, other)
        otherParent.directory!.add(otherName, cookie: cookies.1, one)
        if one.isDirectory != other.isDirectory, oneParent !== otherParent {
            let (gains, loses) = one.isDirectory ? (otherParent, oneParent) : (oneParent, otherParent)
            gains.links += 1
            loses.links -= 1
        }
        for (inode, swap) in [(one, first), (other, second)] {
            if inode.isMemory { memoryFiles -= 1 }
            inode.flags = swap.flags
            if inode.isMemory { memoryFiles += 1 }
            inode.head = swap.head
            inode.ownsContent = swap.ownsContent
            inode.changedBy = swap.changedBy
            inode.changed = time
            inode.unsettledIn = 0
            inode.movedIn = caller.origin.number
            if let head = inode.head { memoryInodes[head.memory] = inode.number }
            if inode.isMemory { enqueueSeal(inode) }
            invalidate(.attributes(inode.number))
        }
        for version in versions { didInsert(version) }
        for change in changes { apply(change, by: author) }
        touch(oneParent, at: time)
        touch(otherParent, at: time)
        invalidate(.name(oneName, in: oneParent.number))
        invalidate(.name(otherName, in: otherParent.number))
    }

    private func swapped(_ inode: Inode, to name: [UInt8], _ parent: Inode, with other: Inode, by author: Author) -> Swapped {
        var flags = inode.flags
        if inode.isRegular || inode.isDirectory {
            if isUnversioned(name, in: parent, isDirectory: inode.isDirectory) {
                flags.insert(.unversioned)
            } else {
                flags.remove(.unversioned)
            }
        }
        let isMemory = inode.isRegular && !flags.contains(.unversioned)
        // Where two memories swap, each takes the other's place in history: bytes that no version at that place holds yet.
        let swapsContent = inode.isMemory && other.isMemory
        return Swapped(
            flags: flags, head: isMemory && inode.isMemory && !other.isMemory ? inode.head : nil,
            ownsContent: inode.isRegular && (inode.ownsContent || swapsContent || !isMemory || inode.isMemory != isMemory),
            changedBy: isMemory ? author : nil, givenUp: nil)
    }

    private func versioningChanges(of inode: Inode, _ flags: Inode.Flags, at path: [UInt8]) throws(RemfsError) -> [VersioningChange] {
        guard inode.isDirectory, flags.contains(.unversioned) != inode.flags.contains(.unversioned) else { return [] }
        return try versioningChanges(below: inode, isUnversioned: flags.contains(.unversioned), at: path + [UInt8(ascii: "/")])
    }

    private func place(
        _ inode: Inode, _ name: [UInt8], _ parent: Inode, cookie: Int64, _ head: MemoryHead?, flags: Inode.Flags, ownsContent: Bool,
        author: Author?, at time: Int64, answering request: LedgerRequest? = nil
    ) throws(SQLiteError) {
        if let request { try keepNotes(inRowsOf: inode.number, for: request) }
        let row = statements.moveInode
        row.bind(inode.number, at: 1)
        row.bind(parent.number, at: 2)
        row.bind(text: name, at: 3)
        row.bind(cookie, at: 4)
        row.bind(time, at: 5)
        row.bind((ownsContent ? flags.union(.ownsContent) : flags).rawValue, at: 6)
        row.bind(author?.row, at: 7)
        row.bind(head?.memory, at: 8)
        row.bind(head?.version, at: 9)
        row.bind(head?.created, at: 10)
        row.bind(head?.updated, at: 11)
        bind(request, to: row, at: 12)
        try row.run()
    }
}
