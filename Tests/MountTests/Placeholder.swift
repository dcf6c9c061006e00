// The target MountTests.
