// The target ControlTests.
