/// Cuts a JSON document into the elements of its lists, so that no more than one of them is held.
///
/// A list is the document itself, where that is an array, or a member of the outermost object with one of the names in `lists`. Documents may
/// follow one another. Only brackets, strings and commas are looked at; whether an element is JSON is for its reader to find out.
struct TranscriptDocument: Sendable {
    enum Part: Sendable, Equatable {
        /// The document itself has an empty name.
        case element([UInt8], of: String, line: Int)
        /// Another member of the outermost object.
        case member([UInt8], name: String, line: Int)
        /// A member that is too large to be of interest, or an element that nobody wants.
        case passed(name: String)
        case tooLarge(line: Int)
        case broken(String, line: Int)
    }

    static let lists: Set<String> = ["messages", "history", "trajectory", "items"]

    private enum State {
        /// Outside of all documents.
        case outside
        case key, keyText, colon, value
        case member
        /// Behind a member.
        case members
        case element, elementText
        /// Behind an element.
        case elements
        case broken
    }

    /// What an element may weigh.
    private let largest: Int
    /// What another member may: those that say something are short.
    private static let largestMember = 1 << 20
    private static let largestKey = 1 << 10

    /// The lists whose elements are wanted.
    private let wanted: Set<String>
    private var state = State.outside
    private var isObject = false
    private(set) var line = 1
    /// The name of the member that is being read.
    private var name = ""

    // The value that is being read.
    private var held: [UInt8] = []
    private var size = 0
    private var limit = 0
    private var begin = 1
    private var depth = 0
    private var inString = false
    private var isEscaped = false

    /// Whether only the first list is looked for.
    private let isProbe: Bool
    /// Whether there was a list.
    private(set) var hasList = false

    init(wanted: Set<String>, limit: Int) {
        self.wanted = wanted
        largest = limit
        isProbe = false
    }

    /// One that is broken as soon as the first document has a list or ends.
    static func probe() -> TranscriptDocument { TranscriptDocument() }

    private init() {
        wanted = []
        largest = 0
        isProbe = true
    }

    var isBroken: Bool { if case .broken = state { true } else { false } }
    var isOutside: Bool { if case .outside = state { true } else { false } }

    /// The next part that ends in `rest`, which is then what follows it; nil: `rest` is used up.
    mutating func next(in rest: inout ArraySlice<UInt8>) -> Part? {
        while let byte = rest.first {
            switch state {
            case .broken:
                rest = []
            case .keyText, .member, .elementText:
                if scan(&rest), let part = ended() { return part }
            case _ where [0x20, 0x09, 0x0a, 0x0d].contains(byte):
                if byte == 0x0a { line += 1 }
                rest.removeFirst()
            case .outside:
                guard byte == UInt8(ascii: "{") || byte == UInt8(ascii: "[") else { return broken("is no JSON object or array") }
                rest.removeFirst()
                isObject = byte == UInt8(ascii: "{")
                if isObject { state = .key } else { enterList("") }
            case .key:
                if byte == UInt8(ascii: "}") {
                    close(&rest)
                    continue
                }
                guard byte == UInt8(ascii: "\"") else { return broken("has no name for a field where one is due") }
                start(.keyText, limit: Self.largestKey)
            case .colon:
                guard byte == UInt8(ascii: ":") else { return broken("has no colon behind the name of a field") }
                rest.removeFirst()
                state = .value
            case .value:
                if byte == UInt8(ascii: "["), Self.lists.contains(name) {
                    rest.removeFirst()
                    enterList(name)
                } else {
                    start(.member, limit: isProbe ? 0 : Self.largestMember)
                }
            case .members:
                if byte == UInt8(ascii: "}") {
                    close(&rest)
                    continue
                }
                guard byte == UInt8(ascii: ",") else { return broken("has no comma between two fields") }
                rest.removeFirst()
                state = .key
            case .element:
                if byte == UInt8(ascii: "]") {
                    close(&rest)
                    continue
                }
                start(.elementText, limit: wanted.contains(name) ? largest : 0)
            case .elements:
                if byte == UInt8(ascii: "]") {
                    close(&rest)
                    continue
                }
                guard byte == UInt8(ascii: ",") else { return broken("has no comma between two elements") }
                rest.removeFirst()
                state = .element
            }
        }
        return nil
    }

    private mutating func enterList(_ name: String) {
        self.name = name
        state = isProbe ? .broken : .element
        hasList = true
    }

    /// Moves past a closing bracket.
    private mutating func close(_ rest: inout ArraySlice<UInt8>) {
        let isList = rest.removeFirst() == UInt8(ascii: "]")
        if isList, isObject {
            state = .members
        } else {
            state = isProbe ? .broken : .outside
        }
    }

    private mutating func broken(_ reason: String) -> Part? {
        state = .broken
        held = []
        return .broken(reason, line: line)
    }

    // MARK: Values

    private mutating func start(_ state: State, limit: Int) {
        self.state = state
        self.limit = limit
        held.removeAll(keepingCapacity: held.capacity < 1 << 16)
        size = 0
        begin = line
        depth = 0
        inString = false
        isEscaped = false
    }

    /// Moves on to where the value ends, and answers whether it does.
    private mutating func scan(_ rest: inout ArraySlice<UInt8>) -> Bool {
        let start = rest.startIndex
        var place = start
        var hasEnded = false
        loop: while place < rest.endIndex {
            let byte = rest[place]
            if inString {
                place += 1
                if isEscaped {
                    isEscaped = false
                } else if byte == UInt8(ascii: "\\") {
                    isEscaped = true
                } else if byte == UInt8(ascii: "\"") {
                    inString = false
                    hasEnded = depth == 0
                    if hasEnded { break loop }
                }
                continue
            }
            switch byte {
            case UInt8(ascii: "\""): inString = true
            case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
            case UInt8(ascii: "}"), UInt8(ascii: "]"):
                hasEnded = depth <= 1
                // Behind a number, it is not the value's.
                if depth == 0 { break loop }
                depth -= 1
            case 0x0a:
                hasEnded = depth == 0
                if hasEnded { break loop }
                line += 1
            case UInt8(ascii: ","), UInt8(ascii: ":"), 0x20, 0x09, 0x0d:
                hasEnded = depth == 0
                if hasEnded { break loop }
            default: break
            }
            place += 1
            if hasEnded { break }
        }
        size += place - start
        if size <= limit { held += rest[start..<place] } else if !held.isEmpty { held = [] }
        rest = rest[place...]
        return hasEnded
    }

    /// What has been scanned.
    private mutating func ended() -> Part? {
        switch state {
        case .keyText:
            // `try?`: what is no string is no name that means something.
            name = size > limit ? "" : (try? JSONValue(parsing: held))?.string ?? ""
            state = .colon
            return nil
        case .member:
            state = .members
            return size > limit ? .passed(name: name) : .member(held, name: name, line: begin)
        default:
            state = .elements
            guard limit > 0 else { return .passed(name: name) }
            return size > limit ? .tooLarge(line: begin) : .element(held, of: name, line: begin)
        }
    }
}
