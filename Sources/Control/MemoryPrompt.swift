import Storage

/// The section of an agent's system prompt that tells it of its stores: of each its name, path, access, description and instructions.
struct MemoryPrompt {
    private let session: Session
    /// Of those of its stores that are still there.
    private let access: [StoreID: Access]

    init(_ session: Session, _ catalog: Catalog) throws(RemfsError) {
        self.session = session
        var access: [StoreID: Access] = [:]
        for id in session.attachments.compactMap({ StoreID($0.store) }) {
            do throws(RemfsError) {
                let store = try catalog.store(id)
                access[id] = store.archived == nil ? store.policy.access : .readOnly
            } catch  where error.code == .notFound {
                continue
            }
        }
        self.access = access
    }

    /// Markdown; empty for a session without stores.
    var text: String {
        guard !session.attachments.isEmpty else { return "" }
        var text = """
            # Memory

            You have memory that outlives this session. Each store below is an ordinary directory: read and write it with bash, cat, grep, sed or
            any other tool. Look into them before you begin, and write down what will be useful later.

            """
        for attachment in session.attachments { text += section(attachment) }
        return text
    }

    private func section(_ attachment: Attachment) -> String {
        var text = "\n## \(Self.line(attachment.name))\n\n- Path: \(attachment.mountPath)\n"
        switch StoreID(attachment.store).flatMap({ access[$0] }) {
        case nil: text += "- Access: none, the store was deleted\n"
        case .readWrite? where attachment.access == .readWrite: text += "- Access: read and write\n"
        default: text += "- Access: read only, every change is refused\n"
        }
        if !attachment.description.isEmpty { text += "- Description: \(Self.line(attachment.description))\n" }
        if let instructions = attachment.instructions, !instructions.isEmpty {
            // What follows belongs to the same item.
            text += "- Instructions: \(instructions.split(whereSeparator: \.isNewline).joined(separator: "\n  "))\n"
        }
        return text
    }

    /// Names and descriptions are one line, so that none of them begins a section of its own.
    private static func line(_ text: String) -> String { text.split(whereSeparator: \.isNewline).joined(separator: " ") }
}
