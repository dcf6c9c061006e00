// The target FilesystemTests.
