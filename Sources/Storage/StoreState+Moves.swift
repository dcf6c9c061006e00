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
        try reserveNumbers(Int64(inode.isDirectory ? countMemories(below: inode) : 0) + 64)
        let time = now()
        let cookie = takeNumber()
        let oldPath = path(of: inode)
        let versions = inode.isDirectory ? moveVersions(of: inode, to: newName, newParent, by: plan.author) : []
        try commit { () throws(SQLiteError) in
            if let target {
                try dropName(newName, of: target, in: newParent, by: plan.isHeir ? nil : plan.author, keepsMemory: !plan.isHeir, at: time)
            }
            if let continued = plan.continued { try forgetRemoval(continued) }
            if let withdrawn = plan.withdrawn { try withdraw(withdrawn, of: inode) }
            if let given = plan.givenUp { try insertRemoval(given, path: oldPath, author: plan.author) }
            if plan.renamesBirth, let head = inode.head { try renameVersion(head.version, to: newName, newParent) }
            if plan.isOldestName {
                try place(inode, newName, newParent, cookie: cookie, plan.head, flags: plan.flags, author: plan.changedBy, at: time)
            } else {
                let row = try statements.cached("UPDATE dentry SET cookie = ?1, parent = ?2, name = ?3 WHERE cookie = ?4")
                row.bind(cookie, at: 1)
                row.bind(newParent.number, at: 2)
                row.bind(text: newName, at: 3)
                row.bind(inode.otherNames.first { $0.parent == parent.number && $0.name == name }!.cookie, at: 4)
                try row.run()
                try updateAttributes(of: inode, changed: time)
            }
            if plan.flags.contains(.unversioned), !inode.flags.contains(.unversioned), inode.isRegular { try keepContent(of: inode) }
            for version in versions { try insertMoved(version) }
        }

        if let target {
            didDropName(
                newName, of: target, in: newParent, by: plan.isHeir ? nil : plan.author, origin: caller.origin.number, at: time)
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
            inode.flags = plan.flags
            inode.head = plan.head
            inode.changedBy = plan.changedBy
            inode.movedIn = caller.origin.number
            if plan.isHeir { inode.staleBase = staleBase }
            if plan.withdrawn != nil || plan.flags.contains(.unversioned) { inode.ownsContent = true }
            if let head = plan.head { memoryInodes[head.memory] = inode.number }
            if plan.isHeir || plan.continued != nil { collapseSaves(of: inode) }
        } else {
            let place = inode.otherNames.firstIndex { $0.parent == parent.number && $0.name == name }!
            inode.otherNames[place] = Inode.Name(parent: newParent.number, name: newName, cookie: cookie)
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
        if inode.isDirectory { try reviseVersioning(below: inode, by: plan.author) }
        if inode.isMemory, inode.changedBy != nil || inode.drafts != nil { enqueueSeal(inode) }
    }

    private func plan(
        _ inode: Inode, _ name: [UInt8], _ parent: Inode, to newName: [UInt8], _ newParent: Inode, over target: Inode?, by caller: Caller
    ) throws(RemfsError) -> MovePlan {
        let isOldest = inode.isDirectory || inode.isOldestName(name, in: parent.number)
        var plan = MovePlan(
            author: caller.author(), isOldestName: isOldest, flags: inode.flags, head: inode.head, changedBy: inode.changedBy)
        if let target, target.isMemory, target.isOldestName(newName, in: newParent.number) {
            try sealBeforeNameGoes(target, includingOpen: true)
        }
        guard isOldest else { return plan }
        if isUnversioned(newName, in: newParent, isDirectory: inode.isDirectory) {
            plan.flags.insert(.unversioned)
        } else {
            plan.flags.remove(.unversioned)
        }
        guard inode.isRegular else { return plan }

        let wasMemory = inode.isMemory
        let isUnsettled =
            inode.unsettledIn == caller.origin.number && Self.monotonic() - inode.born < 60_000_000_000
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
        if isUnsettled, wasMemory, inode.bornBy == caller.pid {
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

    /// Takes back the versions of a memory that nobody was told of. Its present content stays with the inode.
    private func withdraw(_ head: MemoryHead, of inode: Inode) throws(SQLiteError) {
        let older = try writer.prepare("SELECT content, size FROM version WHERE memory = ?1 AND number <> ?2")
        older.bind(head.memory, at: 1)
        older.bind(head.version, at: 2)
        var contents: [Content] = []
        while try older.step() { contents.append(Content(older, column: 0, size: older.integer(1))) }
        older.reset()
        for content in contents { try release(content) }
        let row = try statements.cached("DELETE FROM version WHERE memory = ?1")
        row.bind(head.memory, at: 1)
        try row.run()
    }

    /// A memory's content is held by its head version; a file without versions holds it itself.
    private func keepContent(of inode: Inode) throws(SQLiteError) {
        guard inode.head != nil else { return }
        for chunk in inode.content.chunks where chunk != 0 {
            statements.addReference.bind(chunk, at: 1)
            try statements.addReference.run()
        }
    }

    /// The saves of a temporary file become one: what it was when it took its place is one version.
    private func collapseSaves(of inode: Inode) {
        guard let drafts = inode.drafts else { return }
        for save in drafts.saves.dropLast() { save.isSuperseded = true }
    }

    func exchange(
        _ one: Inode, _ oneName: [UInt8], _ oneParent: Inode, with other: Inode, _ otherName: [UInt8], _ otherParent: Inode,
        by caller: Caller
    ) throws(RemfsError) {
        let author = caller.author()
        let time = now()
        // A name that is not the oldest cannot change places without the memory of its oldest name being touched.
        guard one.isOldestName(oneName, in: oneParent.number), other.isOldestName(otherName, in: otherParent.number) else {
            throw RemfsError(.unsupported, "one of the two is a further name of a linked file")
        }
        for inode in [one, other] where inode.isMemory { try sealBeforeNameGoes(inode, includingOpen: false) }
        try reserveNumbers(Int64(countMemories(below: one) + countMemories(below: other)) + 64)
        let cookies = (takeNumber(), takeNumber())
        // Memory identity follows the path: two memories swap contents. Anything else just changes its name.
        let swaps = one.isMemory && other.isMemory
        let heads = swaps ? (other.head, one.head) : (one.head, other.head)
        let versions =
            (one.isDirectory ? moveVersions(of: one, to: otherName, otherParent, by: author) : [])
            + (other.isDirectory ? moveVersions(of: other, to: oneName, oneParent, by: author) : [])
        try commit { () throws(SQLiteError) in
            if swaps {
                try keepContent(of: one)
                try keepContent(of: other)
            }
            try place(
                one, otherName, otherParent, cookie: cookies.1, heads.0, flags: one.flags, author: one.isMemory ? author : nil, at: time)
            try place(
                other, oneName, oneParent, cookie: cookies.0, heads.1, flags: other.flags, author: other.isMemory ? author : nil, at: time)
            for version in versions { try insertMoved(version) }
        }
        oneParent.directory!.remove(oneName)
        otherParent.directory!.remove(otherName)
        (one.parent, one.name, one.cookie, one.head) = (otherParent.number, otherName, cookies.1, heads.0)
        (other.parent, other.name, other.cookie, other.head) = (oneParent.number, oneName, cookies.0, heads.1)
        // Cookies rise within a directory: the lower one first.
        oneParent.directory!.add(oneName, cookie: cookies.0, other)
        otherParent.directory!.add(otherName, cookie: cookies.1, one)
        if one.isDirectory != other.isDirectory, oneParent !== otherParent {
            let (gains, loses) = one.isDirectory ? (otherParent, oneParent) : (oneParent, otherParent)
            gains.links += 1
            loses.links -= 1
        }
        for inode in [one, other] {
            inode.changed = time
            inode.unsettledIn = 0
            if let head = inode.head { memoryInodes[head.memory] = inode.number }
            if swaps { inode.ownsContent = true }
            if inode.isMemory {
                inode.changedBy = author
                enqueueSeal(inode)
            }
            invalidate(.attributes(inode.number))
        }
        for version in versions { didInsert(version) }
        touch(oneParent, at: time)
        touch(otherParent, at: time)
        invalidate(.name(oneName, in: oneParent.number))
        invalidate(.name(otherName, in: otherParent.number))
    }

    private func place(
        _ inode: Inode, _ name: [UInt8], _ parent: Inode, cookie: Int64, _ head: MemoryHead?, flags: Inode.Flags, author: Author?,
        at time: Int64
    ) throws(SQLiteError) {
        let row = statements.moveInode
        row.bind(inode.number, at: 1)
        row.bind(parent.number, at: 2)
        row.bind(text: name, at: 3)
        row.bind(cookie, at: 4)
        row.bind(time, at: 5)
        row.bind(flags.rawValue, at: 6)
        row.bind(author?.row, at: 7)
        row.bind(head?.memory, at: 8)
        row.bind(head?.version, at: 9)
        row.bind(head?.created, at: 10)
        row.bind(head?.updated, at: 11)
        try row.run()
    }
}
