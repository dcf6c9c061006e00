// The target StyleTests.
