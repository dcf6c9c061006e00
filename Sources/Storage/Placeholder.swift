// The target Storage.
