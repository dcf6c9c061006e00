// The target TestSupport.
