// The target StorageTests.
