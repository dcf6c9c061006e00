import Hummingbird
package import Storage

/// `/v1/memory_stores/{store}/search`: memories that hold words.
struct SearchRoutes: Sendable {
    let stores: StorePool

    func add(to routes: inout Routes) {
        routes.on(.get, "/v1/memory_stores/:store/search", use: search)
    }

    func search(_ request: Request, _ context: ControlContext) async throws -> Wire.Page<Wire.SearchResult> {
        let id = try context.storeID
        let asked = Result { () throws(RemfsError) in try Question(try request.query) }
        return try await stores.perform(id) { (store) throws(RemfsError) in
            let question = try asked.get()
            let (hits, hasMore) = try store.search(
                question.query, under: question.prefix, after: question.place, limit: question.limit)
            return Wire.Page(
                data: hits.map { Wire.SearchResult($0) },
                nextPage: hasMore ? Cursor.search(after: question.place + question.limit).text : nil)
        }
    }

    private struct Question: Sendable {
        let query: SearchQuery
        let prefix: String
        let limit: Int
        /// Hits on the pages before.
        let place: Int

        init(_ query: Query) throws(RemfsError) {
            guard let text = query.string("q") else { throw RemfsError(.invalidArgument, "query parameter q is required") }
            self.query = try SearchQuery(text)
            prefix = query.string("path_prefix") ?? "/"
            guard prefix.utf8.first == UInt8(ascii: "/"), prefix.utf8.last == UInt8(ascii: "/") else {
                throw RemfsError(.invalidArgument, "query parameter path_prefix must start and end with /")
            }
            let page = try PageRequest(query)
            limit = page.limit
            switch page.cursor {
            case nil: place = 0
            case .search(let after): place = after
            default: throw PageRequest.unreadable
            }
        }
    }
}

extension Wire {
    package struct SearchResult: Codable, Sendable {
        package var type = "memory_search_result"
        package var memory: Memory
        package var snippet: String
        /// Pairs of scalars from the snippet's beginning: where a match begins, and where it has ended.
        package var highlights: [[Int]]
        package var score: Double
    }
}

extension Wire.SearchResult {
    package init(_ hit: SearchHit) {
        self.init(
            memory: Wire.Memory(hit.memory, content: nil), snippet: hit.snippet,
            highlights: hit.highlights.map { [$0.lowerBound, $0.upperBound] }, score: hit.score)
    }
}
