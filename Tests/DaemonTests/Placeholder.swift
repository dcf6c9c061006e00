// The target DaemonTests.
