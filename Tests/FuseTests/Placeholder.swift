// The target FuseTests.
