import Hummingbird
package import Storage

extension Wire {
    /// What a check of one store, or of the state directory, came to.
    package struct Diagnosis: Codable, Sendable {
        package var type = "diagnosis"
        /// nil: the catalog and the files.
        package var memoryStoreID: String?
        package var name: String?
        package var file: String
        /// Nothing was found.
        package var sound: Bool
        /// Nothing is wrong any more.
        package var clean: Bool
        package var findings: [Finding]
        /// How many more there are, by outcome.
        package var omitted: [String: Int]
        /// The file as it was before the first repair.
        package var keptFile: String?
        package var notes: [String]

        private enum CodingKeys: String, CodingKey {
            case type, name, file, sound, clean, findings, omitted, notes
            case memoryStoreID = "memory_store_id"
            case keptFile = "kept_file"
        }

        package func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(type, forKey: .type)
            try container.encode(memoryStoreID, forKey: .memoryStoreID)
            try container.encode(name, forKey: .name)
            try container.encode(file, forKey: .file)
            try container.encode(sound, forKey: .sound)
            try container.encode(clean, forKey: .clean)
            try container.encode(findings, forKey: .findings)
            try container.encode(omitted, forKey: .omitted)
            try container.encode(keptFile, forKey: .keptFile)
            try container.encode(notes, forKey: .notes)
        }
    }

    package struct Finding: Codable, Sendable {
        package var kind: String
        package var message: String
        /// `repairable`, `repaired`, `unrepairable`.
        package var outcome: String
        package var repair: String?
        package var advice: String?

        private enum CodingKeys: String, CodingKey { case kind, message, outcome, repair, advice }

        package func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(kind, forKey: .kind)
            try container.encode(message, forKey: .message)
            try container.encode(outcome, forKey: .outcome)
            try container.encode(repair, forKey: .repair)
            try container.encode(advice, forKey: .advice)
        }
    }
}

extension Wire.Diagnosis: ResponseEncodable {
    package init(_ diagnosis: Diagnosis) {
        self.init(
            memoryStoreID: diagnosis.store?.description, name: diagnosis.name, file: diagnosis.file, sound: diagnosis.isSound,
            clean: diagnosis.isClean,
            findings: diagnosis.findings.map {
                Wire.Finding(
                    kind: $0.kind.rawValue, message: $0.message, outcome: $0.outcome.rawValue, repair: $0.repair, advice: $0.advice)
            },
            omitted: Dictionary(uniqueKeysWithValues: diagnosis.omitted.map { ($0.key.rawValue, $0.value) }), keptFile: diagnosis.kept,
            notes: diagnosis.notes)
    }
}
