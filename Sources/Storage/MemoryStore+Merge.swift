/// What came of merging a stale write with what it overwrote.
package struct MergeResult: Sendable {
    package let memory: Memory
    /// Places where both sides changed the same lines: they stand in the memory between conflict markers.
    package let conflicts: Int

    package init(memory: Memory, conflicts: Int) {
        self.memory = memory
        self.conflicts = conflicts
    }
}

extension MemoryStore {
    /// Merges the newest stale write of a memory three ways: what its author had seen, what was overwritten, and what is there now.
    /// The result is a new version.
    ///
    /// Throws `invalidArgument` where no write of the memory was stale, and `preconditionFailed` where it changed meanwhile.
    package func merge(at path: String, by author: Author) throws(RemfsError) -> MergeResult {
        let memory = try memory(at: path)
        var filter = VersionFilter()
        filter.memory = memory.id
        filter.staleOnly = true
        guard let stale = try versions(filter, before: nil, limit: 1).first, let seen = stale.base else {
            throw RemfsError(.invalidArgument, "no write of \(path) was stale: there is nothing to merge")
        }
        filter.staleOnly = false
        let overwritten = try versions(filter, before: stale.number, limit: 1).first
        guard let overwritten, let lost = try content(of: overwritten), let base = try content(of: try version(seen)) else {
            throw RemfsError(.invalidArgument, "the versions to merge of \(path) hold no content: deleted or redacted")
        }
        let merged = ThreeWayMerge.merge(
            base: base, ours: try content(of: memory), theirs: lost, oursName: "now", theirsName: overwritten.id.description)
        let change = MemoryChange.update(memory.id, content: merged.bytes, path: nil)
        let result = try commit(change, by: author, if: .contentSHA256(memory.contentSHA256))
        guard let result else { throw RemfsError(.internal, "an update of \(path) answered no memory") }
        return MergeResult(memory: result, conflicts: merged.conflicts)
    }
}
