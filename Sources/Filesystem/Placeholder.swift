// The target Filesystem.
