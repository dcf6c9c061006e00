import Hummingbird
import Storage

/// Answers of the volume plugin, in the words of its protocol.
enum PluginAnswer {
    static let contentType = "application/vnd.docker.plugins.v1.1+json"

    /// An empty message is success.
    struct Failure: Encodable, ResponseEncodable {
        let message: String

        init(_ message: String) { self.message = message }

        static let none = Failure("")

        private enum CodingKeys: String, CodingKey { case message = "Err" }
    }

    struct Implements: Encodable, ResponseEncodable {
        let subsystems = ["VolumeDriver"]

        private enum CodingKeys: String, CodingKey { case subsystems = "Implements" }
    }

    struct Capabilities: Encodable, ResponseEncodable {
        /// A volume is this machine's, and no other's.
        let capabilities = ["Scope": "local"]

        private enum CodingKeys: String, CodingKey { case capabilities = "Capabilities" }
    }

    struct Place: Encodable, ResponseEncodable {
        /// Empty: not mounted.
        let mountpoint: String
        var message = ""

        private enum CodingKeys: String, CodingKey {
            case mountpoint = "Mountpoint"
            case message = "Err"
        }
    }

    struct Volume: Encodable {
        struct Status: Encodable {
            let session: String
            let stores: [String]
            let containers: Int
        }

        let name: String
        let mountpoint: String
        let created: String
        let status: Status

        init(_ volume: Storage.Volume, _ places: [SessionID: String]) {
            name = volume.name
            mountpoint = places[volume.session.id] ?? ""
            created = volume.created.rfc3339
            status = Status(
                session: volume.session.id.description, stores: volume.session.attachments.map(\.store), containers: volume.uses)
        }

        private enum CodingKeys: String, CodingKey {
            case name = "Name"
            case mountpoint = "Mountpoint"
            case created = "CreatedAt"
            case status = "Status"
        }
    }

    struct Found: Encodable, ResponseEncodable {
        let volume: Volume
        var message = ""

        private enum CodingKeys: String, CodingKey {
            case volume = "Volume"
            case message = "Err"
        }
    }

    struct List: Encodable, ResponseEncodable {
        let volumes: [Volume]
        var message = ""

        private enum CodingKeys: String, CodingKey {
            case volumes = "Volumes"
            case message = "Err"
        }
    }
}
