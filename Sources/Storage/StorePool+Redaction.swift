import Glibc

/// Redaction beyond one store's file: what was made of it, and what is known to be left.
extension StorePool {
    /// Blanks a version (`MemoryStore.redact`) and looks for its bytes wherever they are known to be: in other versions, in stores that
    /// were made of this one, in exports and backups that somebody was given, in files of the state directory.
    ///
    /// Of a version that was redacted before only the copies are told: nothing is left to find its bytes by.
    ///
    /// - Parameters:
    ///   - takesDerived: redacts the versions that hold the same bytes too, here and in stores that were made of this one; what a memory
    ///     holds now is left, and listed.
    ///   - scopes: of the caller: a store that it may not read is counted only, one that it may not administer is left alone.
    package func redact(
        _ version: VersionID, in id: StoreID, derived takesDerived: Bool, scopes: Scopes, by author: Author
    ) throws(RemfsError) -> Redaction {
        let (found, redaction) = try withStore(id) { (store) throws(RemfsError) -> (Source, Redaction) in
            let trace = try store.trace(of: version)
            let same = try trace.map { (trace) throws(RemfsError) in try store.versions(holding: trace) } ?? []
            let others = same.filter { $0.id != version }
            let targets = takesDerived ? others.filter { !$0.isHead }.map(\.id) : []
            let done = try store.redact([version] + targets, by: author)
            var redaction = Redaction(version: try store.version(version))
            for target in targets { redaction.derived.append(try store.version(target)) }
            redaction.removed = done
            for copy in try store.keptCopies() where !done.contains(copy) { redaction.add(.file(copy)) }
            for one in others where !targets.contains(one.id) { redaction.add(.version(one)) }
            let number = redaction.version.number
            guard let interval = try store.interval(of: number) else { throw RemfsError(.notFound, "version \(version) not found") }
            return (Source(number: number, trace: trace, intervals: [interval] + same.map(\.interval)), redaction)
        }
        var search = CopySearch(pool: self, source: found, takesDerived: takesDerived, scopes: scopes, author: author, redaction: redaction)
        try search.run(from: id)
        return search.redaction
    }

    fileprivate struct Source {
        let number: Int64
        let trace: ContentTrace?
        /// Of all versions of the store that hold the bytes.
        let intervals: [Interval]
    }

    /// Walks through the stores that were made of a store.
    private struct CopySearch {
        let pool: StorePool
        let source: Source
        let takesDerived: Bool
        let scopes: Scopes
        let author: Author
        var redaction: Redaction
        private var seen: Set<StoreID> = []

        init(pool: StorePool, source: Source, takesDerived: Bool, scopes: Scopes, author: Author, redaction: Redaction) {
            self.pool = pool
            self.source = source
            self.takesDerived = takesDerived
            self.scopes = scopes
            self.author = author
            self.redaction = redaction
        }

        mutating func run(from id: StoreID) throws(RemfsError) {
            seen.insert(id)
            try listOrphan(of: id)
            var waiting = try follow(id, source.intervals)
            while let (copy, origin, next) = waiting.popLast() {
                guard seen.insert(next).inserted else { continue }
                if try pool.catalog.contains(next) {
                    waiting += try follow(next, try look(into: next, isWhole: copy.keepsHistory))
                } else if pool.isUnfinished(next) {
                    // It is being made: what it will hold is not known yet.
                    list(copy, of: origin)
                } else {
                    removeOrphan(of: next)
                }
            }
        }

        /// Lists what somebody was given of a store that may hold these versions; answers the stores that were made of it.
        private mutating func follow(
            _ id: StoreID, _ intervals: [Interval]
        ) throws(RemfsError) -> [(copy: StoreCopy, origin: StoreID, store: StoreID)] {
            var stores: [(StoreCopy, StoreID, StoreID)] = []
            for copy in try pool.withStore(id, { (store) throws(RemfsError) in try store.copies() }) {
                // A store can be looked into. What somebody was given cannot: there it counts when it was.
                if let store = copy.store {
                    stores.append((copy, id, store))
                } else if intervals.contains(where: { copy.mayHold($0) }) {
                    list(copy, of: id)
                }
            }
            return stores
        }

        private mutating func list(_ copy: StoreCopy, of id: StoreID) {
            if scopes.allows(.read, on: id) { redaction.add(.copy(copy, of: id)) } else { redaction.hidden += 1 }
        }

        /// Redacts or lists what a store holds of the bytes. Answers when it held them.
        private mutating func look(into id: StoreID, isWhole: Bool) throws(RemfsError) -> [Interval] {
            var held: [HeldVersion] = []
            let (mayRead, mayRedact) = (scopes.allows(.read, on: id), takesDerived && scopes.allows(.admin, on: id))
            let redacted = try pool.withStore(id) { (store) throws(RemfsError) -> [MemoryVersion] in
                held = try source.trace.map { (trace) throws(RemfsError) in try store.versions(holding: trace) } ?? []
                // A fork with the history has the version itself, whose path is to go as well.
                if isWhole, let same = try store.heldVersion(source.number), same.interval.began == source.intervals[0].began,
                    !held.contains(where: { $0.id == same.id })
                {
                    held.append(same)
                }
                let targets = mayRedact ? held.filter { !$0.isHead } : []
                guard !targets.isEmpty else { return [] }
                redaction.removed += try store.redact(targets.map(\.id), by: author)
                var redacted: [MemoryVersion] = []
                for target in targets { redacted.append(try store.version(target.id)) }
                return redacted
            }
            redaction.derived += redacted
            for one in held where !redacted.contains(where: { $0.id == one.id }) {
                if mayRead { redaction.add(.version(one)) } else { redaction.hidden += 1 }
            }
            return held.map(\.interval)
        }

        // MARK: Orphans

        private func orphan(of id: StoreID) -> String { "\(pool.directory)/orphans/\(id).sqlite" }

        /// A file of the store itself that is there was put there by a person, who may want to save something of it.
        private mutating func listOrphan(of id: StoreID) throws(RemfsError) {
            for path in [orphan(of: id), orphan(of: id) + "-wal"] where unsafe access(path, F_OK) == 0 { redaction.add(.file(path)) }
        }

        /// One of a store that was never made to its end, or was deleted.
        private mutating func removeOrphan(of id: StoreID) {
            for path in [orphan(of: id), orphan(of: id) + "-wal"] where unsafe access(path, F_OK) == 0 {
                if unsafe unlink(path) == 0 { redaction.removed.append(path) } else { redaction.add(.file(path)) }
            }
        }
    }
}
