// The target SQLiteTests.
