// The target Control.
