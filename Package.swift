// swift-tools-version:6.2
import PackageDescription

/// What every Swift target is built with; `StyleTests` holds the table of `Architecture.md` against this file.
let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
]

/// Tests are held to the same language rules, without the memory-safety markers: they call system calls all day.
let tests: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let deques: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let heaps: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let metrics: Target.Dependency = .product(name: "Metrics", package: "swift-metrics")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let signals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
let httpClient: Target.Dependency = .product(name: "AsyncHTTPClient", package: "async-http-client")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let configuration: Target.Dependency = .product(name: "Configuration", package: "swift-configuration")

let package = Package(
    name: "remfs",
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", exact: "1.6.0"),
        .package(url: "https://github.com/apple/swift-configuration", exact: "1.4.0", traits: ["YAML", "CommandLineArguments"]),
        .package(url: "https://github.com/apple/swift-crypto", exact: "4.5.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", exact: "2.13.0"),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/apple/swift-http-types", exact: "1.8.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", exact: "2.28.1"),
        .package(url: "https://github.com/swift-server/async-http-client", exact: "1.37.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", exact: "2.13.0"),
    ],
    targets: [
        // The ground: C headers, and the threads that both faces block on.
        .target(name: "CFuse", linkerSettings: [.linkedLibrary("fuse3")]),
        .target(name: "CSQLite", linkerSettings: [.linkedLibrary("sqlite3")]),
        .target(name: "Threads", swiftSettings: strict),
        .target(name: "SQLite", dependencies: ["CSQLite"], swiftSettings: strict),
        .target(name: "Fuse", dependencies: ["CFuse", "Threads"], swiftSettings: strict),

        // What is stored, and how the kernel sees it.
        .target(name: "Storage", dependencies: ["SQLite", "Threads", crypto, deques, heaps, logging], swiftSettings: strict),
        .target(
            name: "Filesystem", dependencies: ["Fuse", "Storage", "Threads", logging], swiftSettings: strict),

        // What people and programs talk to.
        .target(
            name: "Control",
            dependencies: [
                "Filesystem", "Storage", "Threads", httpClient, lifecycle, logging, metrics,
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "remfs",
            dependencies: ["Control", "Filesystem", "Storage", "Threads", arguments, configuration, lifecycle, signals, logging, metrics],
            swiftSettings: strict),

        // Tests: no kernel, no network, milliseconds; then real mounts; then the built binary.
        .target(
            name: "TestSupport", dependencies: ["Filesystem", "Storage", "Threads", logging], path: "Tests/TestSupport", swiftSettings: tests),
        .testTarget(name: "SQLiteTests", dependencies: ["SQLite", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "FuseTests", dependencies: ["Fuse", "Threads"], swiftSettings: tests),
        .testTarget(name: "StorageTests", dependencies: ["SQLite", "Storage", "TestSupport", "Threads", logging], swiftSettings: tests),
        .testTarget(name: "FilesystemTests", dependencies: ["Filesystem", "Fuse", "Threads"], swiftSettings: tests),
        .testTarget(
            name: "ControlTests",
            dependencies: [
                "Control", "Filesystem", "Storage", "TestSupport", lifecycle, logging,
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdTesting", package: "hummingbird"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOCore", package: "swift-nio"),
            ],
            swiftSettings: tests),
        .testTarget(name: "MountTests", dependencies: ["Filesystem", "Storage", "TestSupport", "Threads"], swiftSettings: tests),
        .testTarget(name: "DaemonTests", dependencies: ["Filesystem", "Fuse", "Storage", "TestSupport", "Threads", "benchmarks", "remfs"], swiftSettings: tests),
        .testTarget(name: "FaultTests", dependencies: ["TestSupport", "Threads", "remfs"], swiftSettings: tests),
        .testTarget(name: "StyleTests", swiftSettings: tests),
        // Parsers fed with whatever: the bodies are a target of their own, since libFuzzer links them too (`Operations.md`).
        .target(name: "FuzzBodies", dependencies: ["Control", "Storage"], path: "Tests/FuzzBodies", swiftSettings: tests),
        .testTarget(name: "FuzzTests", dependencies: ["FuzzBodies", "TestSupport"], exclude: ["Corpus"], swiftSettings: tests),
        .executableTarget(name: "benchmarks", dependencies: [arguments], path: "Tests/Benchmarks", swiftSettings: tests),
    ],
    swiftLanguageModes: [.v6]
)

// Links with libFuzzer alone, which brings the main function: not to be built with the rest.
if Context.environment["REMFS_FUZZ"] != nil {
    package.targets.append(.executableTarget(name: "fuzz", dependencies: ["FuzzBodies"], path: "Tests/Fuzz", swiftSettings: tests))
}
